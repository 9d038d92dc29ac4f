//! Locks as types: who holds the value holds the lock, and the kernel releases it with the process.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// Why a lock was not obtained.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} is locked by another program: wait for it, and begin again", .0.display())]
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

/// The only holder of a lock file, until dropped.
#[derive(Debug)]
pub struct ExclusiveLock {
    _file: File,
}

impl ExclusiveLock {
    /// Takes the lock, or says at once that somebody else has it.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process holds it.
    pub fn try_acquire(path: &Path) -> Result<Self, LockError> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(LockError::Io { path: path.to_owned(), source }),
        }
    }
}

/// The only holder of a POSIX record lock on a file, until dropped: the kind that dpkg and apt use.
#[derive(Debug)]
pub struct RecordLock {
    _file: File,
}

impl RecordLock {
    /// Takes the lock, or says at once that somebody else has it.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process holds it.
    pub fn try_acquire(path: &Path) -> Result<Self, LockError> {
        let file = open(path)?;
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(Errno::AGAIN | Errno::ACCESS) => Err(LockError::Held(path.to_owned())),
            Err(errno) => Err(LockError::Io { path: path.to_owned(), source: errno.into() }),
        }
    }

    /// Takes the lock as soon as nobody else has it.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process still holds it after `limit`.
    pub fn acquire_within(path: &Path, limit: Duration) -> Result<Self, LockError> {
        match Self::try_acquire(path) {
            Err(LockError::Held(_)) => {}
            taken => return taken,
        }
        let file = open(path)?;
        let (sender, receiver) = mpsc::channel();
        // The kernel knows no limit here. A thread that waits longer than anybody wants it to gives the lock back when it comes.
        std::thread::spawn(move || {
            let locked = loop {
                match rustix::fs::fcntl_lock(&file, FlockOperation::LockExclusive) {
                    Err(Errno::INTR) => {}
                    ended => break ended,
                }
            };
            drop(sender.send(locked.map(|()| file)));
        });
        match receiver.recv_timeout(limit) {
            Ok(Ok(file)) => Ok(Self { _file: file }),
            Ok(Err(errno)) => Err(LockError::Io { path: path.to_owned(), source: errno.into() }),
            Err(_) => Err(LockError::Held(path.to_owned())),
        }
    }
}

fn open(path: &Path) -> Result<File, LockError> {
    OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| LockError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_holder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = ExclusiveLock::try_acquire(&path).unwrap();
        assert!(matches!(ExclusiveLock::try_acquire(&path), Err(LockError::Held(_))));
        drop(first);
        ExclusiveLock::try_acquire(&path).unwrap();
    }

    /// A record lock belongs to the process, so only another process can be refused.
    #[test]
    fn another_holder_of_a_record_lock_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let Ok(python) = crate::system::exec::Exec::new("python3") else {
            eprintln!("skipped: needs python3");
            return;
        };
        let _ours = RecordLock::try_acquire(&path).unwrap();
        let script = "import fcntl, sys\ntry:\n fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept OSError:\n sys.exit(7)\n";
        let output = python.args(["-c", script]).arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(7));
    }

    #[test]
    fn a_record_lock_is_waited_for_and_not_for_ever() {
        use std::io::{BufRead, BufReader};
        use std::process::Stdio;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let Ok(python) = crate::system::exec::Exec::new("python3") else {
            eprintln!("skipped: needs python3");
            return;
        };
        let script = "import fcntl, sys\nlock = open(sys.argv[1], 'w')\nfcntl.lockf(lock, fcntl.LOCK_EX)\nprint('held', flush=True)\nsys.stdin.read()\n";
        let (_, mut command) = python.args(["-c", script]).arg(&path).into_command();
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "held\n");
        let limit = Duration::from_millis(50);
        assert!(matches!(RecordLock::acquire_within(&path, limit), Err(LockError::Held(_))));
        drop(holder.stdin.take());
        RecordLock::acquire_within(&path, Duration::from_secs(60)).unwrap();
        assert!(holder.wait().unwrap().success());
    }
}
