//! A `/run` of one's own: what a program makes at its top is seen by nobody else, and gone with it.
//!
//! Some programs want a directory below `/run` that only their service makes, others make one when they are merely asked about their
//! configuration. Whoever promises to change nothing asks them in here.

use std::fs::{self, File, FileType};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

const RUN: &str = "/run";

/// It is memory, and holds what a few programs make in a moment.
const OPTIONS: &std::ffi::CStr = c"size=16m,mode=0755";

/// The private `/run` could not be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to make a private /run, at {}", .path.display())]
pub struct OwnRunError {
    /// What could not be made, or mounted.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Does something where `/run` has everything that it has, and these directories (names below `/run`, mode 0755) besides. What is there
/// already is the machine's own; what is made at its top is not.
///
/// # Errors
/// When the kernel refuses a namespace for mounts (it wants root) or a mount in it; nothing was done then.
pub fn with_own_run<T: Send>(directories: &[&str], act: impl FnOnce() -> T + Send) -> Result<T, OwnRunError> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| enter(directories).map(|()| act()));
        // A panic in there is one out here.
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// For this thread, and for what it starts.
fn enter(directories: &[&str]) -> Result<(), OwnRunError> {
    let (root, run) = (Path::new("/"), Path::new(RUN));
    leave().map_err(at(root))?;
    mount_change(root, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(at(root))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let held = rustix::fs::open(run, flags, Mode::empty()).map_err(at(run))?;
    // What is about to be covered stays within reach by its descriptor.
    let before = PathBuf::from(format!("/proc/thread-self/fd/{}", held.as_raw_fd()));
    mount("tmpfs", run, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, OPTIONS).map_err(at(run))?;
    for entry in fs::read_dir(&before).map_err(at(run))? {
        let entry = entry.map_err(at(run))?;
        let to = run.join(entry.file_name());
        match entry.file_type().and_then(|kind| show(kind, &before.join(entry.file_name()), &to)) {
            // Gone since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            shown => shown.map_err(at(&to))?,
        }
    }
    for name in directories {
        let directory = run.join(name);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made
                .and_then(|()| fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)))
                .map_err(at(&directory))?,
        }
    }
    Ok(())
}

/// The very directory or file, sockets among them; of a symbolic link another one.
fn show(kind: FileType, from: &Path, to: &Path) -> io::Result<()> {
    if kind.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if kind.is_dir() {
        fs::create_dir(to)?;
    } else {
        drop(File::create_new(to)?);
    }
    Ok(mount_bind_recursive(from, to)?)
}

fn leave() -> Result<(), Errno> {
    #[allow(unsafe_code)]
    // SAFETY: unshare is unsafe because of CLONE_FILES, which makes descriptors of other threads invalid. It is not passed here.
    unsafe {
        unshare_unsafe(UnshareFlags::NEWNS)
    }
}

fn at<E: Into<io::Error>>(path: &Path) -> impl FnOnce(E) -> OwnRunError {
    let path = path.to_owned();
    move |source| OwnRunError { path, source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::exec::Exec;

    #[test]
    fn everything_is_there_and_nothing_gets_out() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: a namespace for mounts needs root");
            return;
        }
        let names = || {
            let entries = fs::read_dir(RUN).unwrap().map(|entry| entry.unwrap().file_name());
            entries.collect::<std::collections::BTreeSet<_>>()
        };
        let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = tempfile::tempdir_in(RUN).unwrap();
        fs::write(here.path().join("x"), "seen").unwrap();
        let own = format!("own-{}", here.path().file_name().unwrap().to_str().unwrap());
        let (before, mounted) = (names(), mounts());
        let (inside, read) = with_own_run(&[&own], || {
            fs::write(Path::new(RUN).join(&own).join("y"), "").unwrap();
            let read = Exec::new("cat").unwrap().arg(here.path().join("x")).success().unwrap();
            Exec::new("mkdir").unwrap().arg(Path::new(RUN).join(format!("{own}-2"))).success().unwrap();
            (names(), read.stdout)
        })
        .unwrap();
        assert_eq!(read, b"seen", "what a program sees in there");
        assert!(inside.contains(std::ffi::OsStr::new(&own)) && inside.is_superset(&before));
        assert_eq!(inside.len(), before.len() + 2);
        assert_eq!((names(), mounts()), (before, mounted), "what is left of it");
    }
}
