//! What lies below a directory that somebody else may write to: reached through no symbolic link, and never outside of it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Opens the directory at `path`, which may be empty for the top itself. Another filesystem that is mounted on the way ends it.
///
/// # Errors
/// `ELOOP` or `ENOTDIR` when something on the way is no directory, a link to one included; `EXDEV` when something is mounted on
/// the way, or the path leads out of the tree.
pub fn directory(top: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(top, path, flags, Mode::empty(), resolve)
}

/// Whether an error of [`directory`] says that there is no such directory, and that something else is in its place at most.
#[must_use]
pub fn is_none(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

/// Opens a regular file by its name in a directory, to be read. Nothing else is waited for: not for the writer of a pipe.
///
/// # Errors
/// Also when it is no regular file.
pub fn regular(directory: impl AsFd, name: &OsStr) -> io::Result<(File, Stat)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok((File::from(file), stat))
}

/// What has this name in a directory, if anything; a link is looked at itself.
///
/// # Errors
/// When that cannot be found out.
pub fn look(directory: impl AsFd, name: &OsStr) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT) {
        Err(Errno::NOENT) => Ok(None),
        found => found.map(Some),
    }
}

/// A path to what is open, for this process and the programs that it starts, while it is open.
#[must_use]
pub fn path_of(open: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_leads_out_and_nothing_blocks() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("tree/d")).unwrap();
        fs::write(dir.path().join("tree/d/file"), "1").unwrap();
        symlink("/etc", dir.path().join("tree/link")).unwrap();
        symlink("d", dir.path().join("tree/inner")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("tree/d/pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let top = File::open(dir.path().join("tree")).unwrap();
        let d = directory(&top, Path::new("d")).unwrap();
        assert!(directory(&top, Path::new("")).is_ok());
        for path in ["link", "inner", "none", "d/file"] {
            assert!(is_none(directory(&top, Path::new(path)).unwrap_err()), "{path}");
        }
        assert_eq!(directory(&top, Path::new("../tree")).unwrap_err(), Errno::XDEV);
        assert_eq!(regular(&d, OsStr::new("file")).unwrap().1.st_size, 1);
        assert!(regular(&d, OsStr::new("pipe")).is_err());
        assert!(regular(&top, OsStr::new("link")).is_err());
        assert!(look(&d, OsStr::new("none")).unwrap().is_none());
        assert_eq!(fs::read(path_of(&d).join("file")).unwrap(), b"1");
    }
}
