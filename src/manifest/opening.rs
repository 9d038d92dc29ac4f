//! Opening what a walk meets: from directory descriptors, following nothing, touching no access time where that can be had.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// No mode is needed to open what exists.
pub(super) const NO_MODE: Mode = Mode::empty();

/// Opens to read without touching the access time, where we may: only an owner can ask for that.
pub(crate) fn open_quietly(
    dir: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, NO_MODE) {
        Err(Errno::PERM) => rustix::fs::openat(dir, name, flags, NO_MODE),
        opened => opened,
    }
}

/// Opens a directory in another.
pub(super) fn open_directory(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    open_quietly(dir, name, OFlags::DIRECTORY | OFlags::NOFOLLOW)
}

/// Opens the top of a tree. The path itself is the caller's own words, so links in it are followed.
pub(crate) fn open_top(tree: &Path) -> Result<OwnedFd, Errno> {
    open_quietly(CWD, tree, OFlags::DIRECTORY)
}

/// Opens a regular file, and says what it is at this moment.
///
/// The caller has seen that it is one. Should somebody have put a pipe or a device in its place since, then `O_NONBLOCK` keeps
/// the open from waiting, and what was opened is looked at before it is read.
pub(crate) fn open_regular(dir: BorrowedFd<'_>, name: &CStr) -> Result<(OwnedFd, Stat), Errno> {
    let file = open_quietly(dir, name, OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        // It was one a moment ago.
        return Err(Errno::STALE);
    }
    Ok((file, stat))
}

/// Opens the directory at `path` below `top`, component by component: no link is followed, and a path may be longer than one
/// system call takes. An empty path is the top.
pub(crate) fn descend(top: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let pass = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut components = path.split(|&byte| byte == b'/').filter(|component| !component.is_empty());
    let Some(last) = components.next_back() else { return open_quietly(top, c".", OFlags::DIRECTORY) };
    let mut held: Option<OwnedFd> = None;
    for component in components.chain([last]) {
        if matches!(component, b"." | b"..") {
            return Err(Errno::INVAL);
        }
        let at = held.as_ref().map_or(top, AsFd::as_fd);
        held = Some(rustix::fs::openat(at, component, pass, NO_MODE)?);
    }
    let at = held.as_ref().map_or(top, AsFd::as_fd);
    // The same directory, now to be read.
    open_quietly(at, c".", OFlags::DIRECTORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descending_follows_no_link_and_never_goes_up() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let top = open_top(dir.path()).unwrap();
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        let b = descend(top.as_fd(), b"a/b").unwrap();
        assert_eq!(inode(&b), inode(&open_top(&dir.path().join("a/b")).unwrap()));
        assert_eq!(inode(&descend(top.as_fd(), b"").unwrap()), inode(&top));
        assert!(matches!(descend(top.as_fd(), b"link/b"), Err(Errno::NOTDIR | Errno::LOOP)));
        assert_eq!(descend(top.as_fd(), b"a/../a").unwrap_err(), Errno::INVAL);
        assert_eq!(open_regular(top.as_fd(), c"a").unwrap_err(), Errno::STALE);
    }
}
