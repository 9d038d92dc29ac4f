//! dpkg's own lock: who holds it knows that nobody changes packages meanwhile.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// The lock that apt and dpkg frontends take before they do anything. Source: apt's `DPkg::Lock` and dpkg's frontend lock.
const LOCK: &str = "/var/lib/dpkg/lock-frontend";

/// The lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DpkgLockError {
    /// Somebody installs or removes packages right now.
    #[error("another package tool is at work (it holds {}); wait for it and begin again", .0.display())]
    Held(PathBuf),
    /// It could not be found out.
    #[error("failed to lock {}", .path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Held until dropped; the kernel gives it back with the process.
#[derive(Debug)]
pub struct DpkgLock {
    _file: File,
}

impl DpkgLock {
    /// Takes it, or says at once that somebody else has it.
    ///
    /// # Errors
    /// [`DpkgLockError::Held`] while packages are being changed.
    pub fn try_acquire() -> Result<Self, DpkgLockError> {
        Self::at(Path::new(LOCK))
    }

    fn at(path: &Path) -> Result<Self, DpkgLockError> {
        let io = |source| DpkgLockError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(io)?;
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(Errno::AGAIN | Errno::ACCESS) => Err(DpkgLockError::Held(path.to_owned())),
            Err(errno) => Err(io(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::exec::Exec;

    /// A record lock belongs to the process, so only another process can be refused.
    #[test]
    fn another_holder_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let Ok(python) = Exec::new("python3") else {
            eprintln!("skipped: needs python3");
            return;
        };
        let _ours = DpkgLock::at(&path).unwrap();
        let script = "import fcntl, sys\ntry:\n fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept OSError:\n sys.exit(7)\n";
        let output = python.args(["-c", script]).arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(7));
    }
}
