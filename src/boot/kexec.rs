//! Starting another kernel from the running one (kexec_file_load(2)): loading, unloading, asking. The jump itself is
//! `systemctl kexec`, after everything has been stopped and unmounted.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};

/// Whether something is loaded: a file of the kernel, `1` or `0`.
const LOADED: &str = "/sys/kernel/kexec_loaded";

/// `KEXEC_FILE_UNLOAD` and `KEXEC_FILE_NO_INITRAMFS` of linux/kexec.h.
const UNLOAD: libc::c_ulong = 1;
const NO_INITRAMFS: libc::c_ulong = 4;
/// No flag of any kernel: the call is refused after all questions of permission, and before it does anything.
const NONSENSE: libc::c_ulong = 1 << 30;

/// What the kernel accepts for x86 (`COMMAND_LINE_SIZE`), its ending NUL included.
const LONGEST_COMMAND_LINE: usize = 2048;

/// One initial RAM disk, or a piece of one: the kernel unpacks them one after the other.
#[derive(Debug, Clone, Copy)]
pub enum Initrd<'i> {
    /// A file.
    File(&'i Path),
    /// A cpio archive in memory.
    Bytes(&'i [u8]),
}

/// A kernel was not loaded; what was loaded before is still loaded.
#[derive(Debug, thiserror::Error)]
pub enum KexecError {
    /// A kernel or an initial RAM disk could not be read.
    #[error("failed to read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The initial RAM disks could not be put together in memory.
    #[error("failed to put the initial RAM disks together in memory")]
    Memory(#[source] io::Error),
    /// The command line is too long or has a NUL in it.
    #[error("the kernel command line cannot be passed on ({} bytes; at most {}, and no NUL)", .0, LONGEST_COMMAND_LINE - 1)]
    CommandLine(usize),
    /// The running kernel was built without it.
    #[error("the running kernel was built without kexec_file_load, so it cannot start {}", .kernel.display())]
    Missing {
        /// The kernel that should have been loaded.
        kernel: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Not allowed.
    #[error(
        "the running kernel does not permit to load {}: kernel.kexec_load_disabled is set, the kernel is locked down, or this is a container",
        .kernel.display()
    )]
    NotPermitted {
        /// The kernel that should have been loaded.
        kernel: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Not a kernel that this one can start.
    #[error("{} is no kernel that the running one can start", .kernel.display())]
    NoKernel {
        /// The file.
        kernel: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Its signature is missing, or made with a key that the running kernel does not trust.
    #[error("the running kernel does not accept the signature of {}", .kernel.display())]
    Signature {
        /// The file.
        kernel: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another load or a crash dump is under way.
    #[error("the running kernel is busy with another kexec, so {} was not loaded", .kernel.display())]
    Busy {
        /// The file.
        kernel: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Anything else.
    #[error("failed to load the kernel {}", .kernel.display())]
    Failed {
        /// The file.
        kernel: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// What was loaded could not be taken back.
    #[error("failed to unload the kernel that was loaded for kexec")]
    Unload(#[source] io::Error),
}

/// Loads a kernel for the next `systemctl kexec`, with its initial RAM disks one after the other, and its command line. Replaces what
/// was loaded before. Nothing of it outlives a reset.
///
/// # Errors
/// Tells apart what an operator can do something about: see [`KexecError`].
pub fn load(kernel: &Path, initrds: &[Initrd<'_>], command_line: &str) -> Result<(), KexecError> {
    let line = CString::new(command_line).map_err(|_| KexecError::CommandLine(command_line.len()))?;
    if line.as_bytes_with_nul().len() > LONGEST_COMMAND_LINE {
        return Err(KexecError::CommandLine(command_line.len()));
    }
    let file = File::open(kernel).map_err(unreadable(kernel))?;
    let joined = join(initrds)?;
    let (initrd, flags) = match &joined {
        Some(initrd) => (initrd.as_raw_fd(), 0),
        None => (-1, NO_INITRAMFS),
    };
    call(file.as_raw_fd(), initrd, &line, flags).map_err(|source| explain(kernel, source))
}

/// Whether a kernel is loaded.
///
/// # Errors
/// When the kernel cannot be asked. One that was built without kexec has nothing loaded.
pub fn loaded() -> io::Result<bool> {
    match fs::read_to_string(LOADED) {
        Ok(text) => Ok(text.trim() != "0"),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes back what was loaded. Repeatable; fine when nothing is loaded.
///
/// # Errors
/// [`KexecError::Unload`].
pub fn unload() -> Result<(), KexecError> {
    if !loaded().map_err(KexecError::Unload)? {
        return Ok(());
    }
    call(-1, -1, c"", UNLOAD).map_err(KexecError::Unload)
}

/// Asks the running kernel whether it would load another one, without loading any.
///
/// # Errors
/// `ENOSYS`: built without; `EPERM`: not permitted.
pub(super) fn probe() -> io::Result<()> {
    match call(-1, -1, c"", NONSENSE) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other,
    }
}

/// One file in memory; each piece begins at a multiple of four, where the kernel looks for the next archive.
fn join(initrds: &[Initrd<'_>]) -> Result<Option<File>, KexecError> {
    if initrds.is_empty() {
        return Ok(None);
    }
    let memory = memfd_create("initrd", MemfdFlags::CLOEXEC);
    let mut joined = File::from(memory.map_err(|errno| KexecError::Memory(errno.into()))?);
    for initrd in initrds {
        let length = match initrd {
            Initrd::Bytes(bytes) => {
                joined.write_all(bytes).map_err(KexecError::Memory)?;
                bytes.len() as u64
            }
            Initrd::File(path) => {
                let mut file = File::open(path).map_err(unreadable(path))?;
                io::copy(&mut file, &mut joined).map_err(unreadable(path))?
            }
        };
        let padding = length.next_multiple_of(4) - length;
        joined.write_all(&[0; 4][..padding as usize]).map_err(KexecError::Memory)?;
    }
    Ok(Some(joined))
}

fn unreadable<'p>(path: &'p Path) -> impl FnOnce(io::Error) -> KexecError + use<'p> {
    move |source| KexecError::Read { path: path.to_owned(), source }
}

/// What the errors of kexec_file_load(2) mean.
fn explain(kernel: &Path, source: io::Error) -> KexecError {
    let kernel = kernel.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOSYS) => KexecError::Missing { kernel, source },
        Some(libc::EPERM | libc::EACCES) => KexecError::NotPermitted { kernel, source },
        Some(libc::ENOEXEC | libc::EINVAL) => KexecError::NoKernel { kernel, source },
        // ENODATA and EBADMSG: no signature, or a broken one.
        Some(
            libc::EKEYREJECTED
            | libc::ENOKEY
            | libc::EKEYEXPIRED
            | libc::EKEYREVOKED
            | libc::ENODATA
            | libc::EBADMSG,
        ) => KexecError::Signature { kernel, source },
        Some(libc::EBUSY) => KexecError::Busy { kernel, source },
        _ => KexecError::Failed { kernel, source },
    }
}

fn call(kernel: RawFd, initrd: RawFd, line: &std::ffi::CStr, flags: libc::c_ulong) -> io::Result<()> {
    let length = line.to_bytes_with_nul().len();
    #[expect(unsafe_code, reason = "neither rustix nor the standard library has this call")]
    // SAFETY: the kernel reads `length` bytes, NUL included, from a C string that outlives the call, and the two files through their
    // descriptors; it writes nothing into this program.
    let answer =
        unsafe { libc::syscall(libc::SYS_kexec_file_load, kernel, initrd, length, line.as_ptr(), flags) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn what_is_no_kernel_is_told_and_not_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinuz");
        fs::write(&path, "no kernel").unwrap();
        let before = loaded().unwrap();
        let error = load(&path, &[Initrd::Bytes(b"x")], "quiet").unwrap_err();
        assert!(
            matches!(
                error,
                KexecError::Missing { .. } | KexecError::NotPermitted { .. } | KexecError::NoKernel { .. }
            ),
            "{error:?}"
        );
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert_eq!(loaded().unwrap(), before);
        unload().unwrap();
    }

    #[test]
    fn each_refusal_has_its_own_words() {
        let words = |code| explain(Path::new("/k"), io::Error::from_raw_os_error(code)).to_string();
        assert!(words(libc::ENOSYS).contains("built without"));
        assert!(words(libc::EPERM).contains("locked down"));
        assert!(words(libc::ENOEXEC).contains("no kernel"));
        assert!(words(libc::EKEYREJECTED).contains("signature"));
        assert!(words(libc::EBUSY).contains("busy"));
        assert_eq!(words(libc::ENOMEM), "failed to load the kernel /k");
    }

    #[test]
    fn missing_files_and_long_lines_are_refused_first() {
        let gone = Path::new("/no/such/vmlinuz");
        assert!(matches!(load(gone, &[], "").unwrap_err(), KexecError::Read { .. }));
        for line in ["a\0b".to_owned(), "a".repeat(LONGEST_COMMAND_LINE)] {
            assert!(matches!(load(gone, &[], &line).unwrap_err(), KexecError::CommandLine(_)));
        }
    }

    #[test]
    fn pieces_begin_at_multiples_of_four() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initrd");
        fs::write(&path, b"12345").unwrap();
        let mut joined =
            join(&[Initrd::File(&path), Initrd::Bytes(b"67"), Initrd::Bytes(b"")]).unwrap().unwrap();
        let mut bytes = Vec::new();
        joined.rewind().unwrap();
        joined.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"12345\0\0\x0067\0\0");
        assert!(join(&[]).unwrap().is_none());
    }
}
