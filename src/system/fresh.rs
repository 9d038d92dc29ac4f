//! Fresh private directories that remove themselves, and the removal of those whose process was killed.
//!
//! Who lives holds a lock on its directory, and the kernel lets go of it with the process: what is not locked is left over.

use std::fs::{self, File, Metadata, Permissions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, OFlags, ioctl_getflags, ioctl_setflags};

/// What the name of a directory begins with that a tree is restored to.
pub const RESTORED: &str = "safe-upgrade-restore-";

/// What the name of a directory for temporary files begins with.
pub const TEMPORARY: &str = ".safe-upgrade-verify-";

/// How often one is made anew that another process took for left over before it was locked, and how often one is emptied that another
/// process still writes to.
const ATTEMPTS: usize = 16;

/// A directory that only we can enter. Removed when dropped, with all that is in it.
#[derive(Debug)]
pub struct FreshDirectory {
    path: PathBuf,
    /// Held for as long as the directory is used.
    _lock: File,
    removed: bool,
}

impl FreshDirectory {
    /// Makes one below a directory that is there, with a name that begins with [`RESTORED`] or [`TEMPORARY`].
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(below: &Path, prefix: &str) -> io::Result<Self> {
        let below = below.canonicalize()?;
        for _ in 0..ATTEMPTS {
            let made = tempfile::Builder::new()
                .prefix(prefix)
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(&below)?;
            if let Some(lock) = lock(made.path())? {
                return Ok(Self { path: made.keep(), _lock: lock, removed: false });
            }
        }
        Err(io::Error::other("each new directory was removed by another process"))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it now. Repeatable.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn remove(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.removed, true) { Ok(()) } else { remove_tree(&self.path) }
    }
}

impl Drop for FreshDirectory {
    fn drop(&mut self) {
        // On the way out with an error already; the next one removes what stays.
        drop(self.remove());
    }
}

/// Holds a new directory; `None` when another process removes it, or has done so.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let directory = match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        directory => directory?,
    };
    // Where directories cannot be locked, as on NFS, nobody takes one for left over either.
    if matches!(directory.try_lock(), Err(TryLockError::WouldBlock)) {
        return Ok(None);
    }
    let identity = |found: Metadata| (found.dev(), found.ino());
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        there => Ok((identity(there?) == identity(directory.metadata()?)).then_some(directory)),
    }
}

/// Removes what processes that were killed have left below a directory: for each, where it was and how that went. Others' and
/// those that are in use are left alone. A directory that is not there holds nothing.
///
/// # Errors
/// When the directory cannot be listed.
pub fn remove_dead(below: &Path) -> io::Result<Vec<(PathBuf, io::Result<()>)>> {
    let listing = match fs::read_dir(below) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing?,
    };
    let mut dead = Vec::new();
    for item in listing {
        let item = item?;
        let name = item.file_name();
        if ![RESTORED, TEMPORARY].iter().any(|prefix| name.as_bytes().starts_with(prefix.as_bytes())) {
            continue;
        }
        // What cannot be opened is no directory, not ours, or gone.
        let Ok(directory) = open(&item.path()) else { continue };
        if is_ours(&directory)? && directory.try_lock().is_ok() {
            dead.push((item.path(), remove_tree(&item.path())));
        }
    }
    Ok(dead)
}

fn open(directory: &Path) -> io::Result<File> {
    let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(directory)
}

/// Whether nobody else could have put something in it: where all may write, a name alone proves nothing.
fn is_ours(directory: &File) -> io::Result<bool> {
    let found = directory.metadata()?;
    Ok(found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0)
}

/// Removes a tree that only we can enter, also what was restored read-only or immutable. Nothing must be mounted in it.
///
/// # Errors
/// When something of it stays, or it is not there.
pub fn remove_tree(directory: &Path) -> io::Result<()> {
    if fs::remove_dir_all(directory).is_ok() {
        return Ok(());
    }
    let mut stack = vec![directory.to_owned()];
    while let Some(directory) = stack.pop() {
        // What this cannot change is told by the removing.
        drop(fs::set_permissions(&directory, Permissions::from_mode(0o700)));
        soften(&directory);
        let Ok(listing) = fs::read_dir(&directory) else { continue };
        for item in listing.flatten() {
            match item.file_type() {
                Ok(kind) if kind.is_dir() => stack.push(item.path()),
                Ok(kind) if kind.is_file() => soften(&item.path()),
                _ => {}
            }
        }
    }
    // A program that restored and whose master was killed may write for a moment; what is gone once it does not make anew.
    for _ in 1..ATTEMPTS {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => return removed,
        }
    }
    fs::remove_dir_all(directory)
}

/// Takes away the flags that forbid a removal; only root can have set them.
fn soften(path: &Path) {
    let stubborn = IFlags::IMMUTABLE | IFlags::APPEND;
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let Ok(file) = File::options().read(true).custom_flags(flags).open(path) else { return };
    if let Ok(set) = ioctl_getflags(&file)
        && set.intersects(stubborn)
    {
        let _ = ioctl_setflags(&file, set - stubborn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As after a crash: the directory stays, the lock does not.
    fn killed(below: &Path, prefix: &str) -> PathBuf {
        let mut fresh = FreshDirectory::create(below, prefix).unwrap();
        fs::write(fresh.path().join("f"), "x").unwrap();
        fresh.removed = true;
        fresh.path().to_owned()
    }

    fn dead(below: &Path) -> Vec<PathBuf> {
        let dead = remove_dead(below).unwrap().into_iter();
        dead.map(|(path, removed)| removed.map(|()| path).unwrap()).collect()
    }

    #[test]
    fn the_dead_are_removed_and_the_living_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().canonicalize().unwrap();
        let mut living = FreshDirectory::create(&below, RESTORED).unwrap();
        let mut left = vec![killed(&below, RESTORED), killed(&below, TEMPORARY)];
        left.sort();
        fs::create_dir(below.join("ours")).unwrap();
        fs::write(below.join(format!("{RESTORED}file")), "x").unwrap();
        std::os::unix::fs::symlink("ours", below.join(format!("{RESTORED}link"))).unwrap();
        // Open to all: who knows whose it is.
        fs::create_dir(below.join(format!("{RESTORED}open"))).unwrap();
        let mut found = dead(&below);
        found.sort();
        assert_eq!(found, left);
        assert_eq!(dead(&below), Vec::<PathBuf>::new());
        assert!(living.path().is_dir());
        assert_eq!(fs::read_dir(&below).unwrap().count(), 5);
        living.remove().unwrap();
        living.remove().unwrap();
        drop(living);
        assert_eq!(fs::read_dir(&below).unwrap().count(), 4);
        assert_eq!(dead(&below.join("none")), Vec::<PathBuf>::new());
    }

    #[test]
    fn one_that_was_removed_before_it_was_locked_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        assert!(lock(&path).unwrap().is_none());
        fs::create_dir(&path).unwrap();
        let held = lock(&path).unwrap();
        assert!(held.is_some());
        assert!(lock(&path).unwrap().is_none());
    }

    #[test]
    fn closed_directories_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut fresh = FreshDirectory::create(dir.path(), RESTORED).unwrap();
        for (name, mode) in [("read-only", 0o555), ("closed", 0o000)] {
            let path = fresh.path().join(name);
            fs::create_dir_all(path.join("deep")).unwrap();
            fs::write(path.join("deep/f"), "x").unwrap();
            fs::set_permissions(path.join("deep"), Permissions::from_mode(mode)).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
        fresh.remove().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
