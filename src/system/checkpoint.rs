//! Making what was written visible to a boot loader.
//!
//! After `fsync` a file survives a power cut, but part of it may be in the filesystem's journal only. The kernel replays that journal; GRUB
//! does not, and reads the old directory. Freezing a filesystem empties its journal into its final places.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::ioctl::{NoArg, Opcode, ioctl, opcode};

use super::mounts::{self, MountsError};

/// `FIFREEZE` and `FITHAW` of linux/fs.h: `_IOWR('X', 119, int)` and 120; the argument is not looked at.
const FREEZE: Opcode = opcode::read_write::<core::ffi::c_int>(b'X', 119);
const THAW: Opcode = opcode::read_write::<core::ffi::c_int>(b'X', 120);

/// Filesystems with a journal that freezing empties.
const JOURNALS: [&str; 4] = ["ext2", "ext3", "ext4", "xfs"];

/// Where a frozen filesystem would stop this program and all others with it.
const NEVER_FROZEN: [&str; 4] = ["/", "/var", "/tmp", "/var/lib/safe-upgrade"];

/// What was written may not be visible to a boot loader.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A path could not be looked at.
    #[error("failed to look at {}", .path.display())]
    Look {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The mount table could not be used.
    #[error(transparent)]
    Mounts(#[from] MountsError),
    /// Freezing it would stop the machine.
    #[error("the filesystem of {} is also that of {in_use}, which must never be frozen", .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// What else it holds.
        in_use: &'static str,
    },
    /// It could not be synced, frozen or thawed.
    #[error("failed to {action} the filesystem of {}", .path.display())]
    Filesystem {
        /// `sync`, `freeze`, `thaw`.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Makes everything that was written to the filesystem of a directory durable, and visible to a reader that replays no
/// journal. Takes moments; writers wait as long. Repeatable; a filesystem that a call before left frozen is thawed.
///
/// Filesystems without a journal (vfat) are synced. So is btrfs: its `syncfs` commits, and GRUB reads what was committed.
///
/// # Errors
/// When it could not be done, and for a filesystem with a journal that the running system itself lives on.
pub fn checkpoint(directory: &Path) -> Result<(), CheckpointError> {
    let look = |source| CheckpointError::Look { path: directory.to_owned(), source };
    let real = fs::canonicalize(directory).map_err(look)?;
    let table = mounts::read()?;
    let mount = mounts::holding(&table, &real)?;
    let open = File::open(&real).map_err(look)?;
    let failed = |action| {
        move |errno: Errno| CheckpointError::Filesystem {
            action,
            path: directory.to_owned(),
            source: errno.into(),
        }
    };
    if !JOURNALS.contains(&mount.fs_type.as_str()) {
        return rustix::fs::syncfs(&open).map_err(failed("sync"));
    }
    refuse_in_use(directory, open.metadata().map_err(look)?.dev())?;
    // First of all: whoever froze it before us and died would make the sync wait for ever.
    match thaw(&open) {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => return Err(failed("thaw")(errno)),
    }
    rustix::fs::syncfs(&open).map_err(failed("sync"))?;
    match freeze(&open) {
        // Somebody else froze it in the meantime, which empties the journal just as well; it is theirs to thaw.
        Err(Errno::BUSY) => return Ok(()),
        other => other.map_err(failed("freeze"))?,
    }
    // From here to the thaw nothing may be written, not even a log line.
    match thaw(&open) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(_) => thaw(&open).map_err(failed("thaw")),
    }
}

fn refuse_in_use(directory: &Path, device: u64) -> Result<(), CheckpointError> {
    for in_use in NEVER_FROZEN {
        match fs::metadata(in_use) {
            Ok(other) if other.dev() == device => {
                return Err(CheckpointError::InUse { path: directory.to_owned(), in_use });
            }
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(CheckpointError::Look { path: in_use.into(), source });
            }
            _ => {}
        }
    }
    Ok(())
}

fn freeze(open: &File) -> rustix::io::Result<()> {
    #[expect(unsafe_code, reason = "rustix has no call for it")]
    // SAFETY: the kernel neither reads nor writes through the argument of this request.
    unsafe {
        ioctl(open, NoArg::<FREEZE>::new())
    }
}

fn thaw(open: &File) -> rustix::io::Result<()> {
    #[expect(unsafe_code, reason = "rustix has no call for it")]
    // SAFETY: as for freezing.
    unsafe {
        ioctl(open, NoArg::<THAW>::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::exec::Exec;

    fn run(tool: &str, args: &[&str]) -> String {
        Exec::new(tool).unwrap().args(args).text().unwrap()
    }

    /// A loop-mounted ext4 that is gone when the test ends, however it ends.
    struct Disk(tempfile::TempDir);

    impl Disk {
        fn mounted() -> Option<Self> {
            let tools = ["mkfs.ext4", "mount", "umount", "debugfs"];
            let missing = tools.iter().find(|tool| Exec::new(tool).is_err());
            if missing.is_some()
                || !rustix::process::geteuid().is_root()
                || !Path::new("/dev/loop-control").exists()
            {
                println!("skipped: needs root, loop devices and {}", tools.join(", "));
                return None;
            }
            let disk = Self(tempfile::tempdir().unwrap());
            let image = disk.image();
            File::create(&image).unwrap().set_len(32 << 20).unwrap();
            run("mkfs.ext4", &["-q", image.to_str().unwrap()]);
            fs::create_dir(disk.point()).unwrap();
            run("mount", &["-o", "loop", image.to_str().unwrap(), disk.point().to_str().unwrap()]);
            Some(disk)
        }

        fn image(&self) -> PathBuf {
            self.0.path().join("image")
        }

        fn point(&self) -> PathBuf {
            self.0.path().join("mnt")
        }

        /// Writes a file as `system::durable` does, and no more.
        fn write(&self, name: &str) {
            crate::system::durable::replace_file(&self.point().join(name), b"armed", 0o644).unwrap();
        }

        /// Reads a file of a raw copy of the disk without its journal, as a boot loader does.
        fn as_a_boot_loader_sees(&self, name: &str) -> String {
            let copy = self.0.path().join("copy");
            fs::copy(self.image(), &copy).unwrap();
            run("debugfs", &["-R", &format!("cat /{name}"), copy.to_str().unwrap()])
        }
    }

    impl Drop for Disk {
        fn drop(&mut self) {
            if let Ok(open) = File::open(self.point()) {
                let _ = thaw(&open);
            }
            run("umount", &[self.point().to_str().unwrap()]);
        }
    }

    #[test]
    fn a_boot_loader_sees_a_file_after_a_checkpoint_and_not_before() {
        let Some(disk) = Disk::mounted() else { return };
        disk.write("env");
        assert_eq!(disk.as_a_boot_loader_sees("env"), "", "fsync alone: only the journal knows it");
        checkpoint(&disk.point()).unwrap();
        assert_eq!(disk.as_a_boot_loader_sees("env"), "armed");
        disk.write("again");
        checkpoint(&disk.point()).unwrap();
        assert_eq!(disk.as_a_boot_loader_sees("again"), "armed");
    }

    #[test]
    fn what_was_left_frozen_is_thawed() {
        let Some(disk) = Disk::mounted() else { return };
        disk.write("env");
        freeze(&File::open(disk.point()).unwrap()).unwrap();
        checkpoint(&disk.point()).unwrap();
        disk.write("after");
        assert_eq!(disk.as_a_boot_loader_sees("env"), "armed");
    }

    #[test]
    fn what_the_machine_lives_on_is_never_frozen() {
        let mount = mounts::read().unwrap();
        let root = mounts::holding(&mount, Path::new("/")).unwrap();
        match checkpoint(Path::new("/")) {
            Err(error) => assert!(error.to_string().contains("must never be frozen"), "{error}"),
            Ok(()) => assert!(!JOURNALS.contains(&root.fs_type.as_str()), "{root:?}"),
        }
    }
}
