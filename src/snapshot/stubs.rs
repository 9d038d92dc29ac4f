//! What a nested subvolume leaves behind in a clone of the subvolume that held it: a directory that nothing can be put into.
//!
//! For the two that systemd makes, an ordinary directory in its place is as good; without it `machinectl` fails on the
//! rolled-back system and `systemd-tmpfiles` complains at each boot.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::subvolume::{OF_SYSTEMD, STUB_INODE};
use super::{SnapshotError, TopLevel};

/// The mode that systemd's tmpfiles.d gives both of [`OF_SYSTEMD`].
const MODE: Mode = Mode::RWXU;

/// The paths of systemd's nested subvolumes of which `snapshot` has a stub and `clone` no ordinary directory yet.
///
/// # Errors
/// When one of the two subvolumes cannot be looked into.
pub fn unmended(top: &TopLevel, snapshot: &str, clone: &str) -> Result<Vec<String>, SnapshotError> {
    let mut found = Vec::new();
    for path in OF_SYSTEMD {
        if inode(top, snapshot, path)? == Some(STUB_INODE)
            && matches!(inode(top, clone, path)?, None | Some(STUB_INODE))
        {
            found.push(path.to_owned());
        }
    }
    Ok(found)
}

/// Puts an ordinary empty directory in the place of a stub. Repeatable. On disk when it returns.
///
/// # Errors
/// When the clone's directory cannot be changed.
pub fn mend(top: &TopLevel, clone: &str, path: &str) -> Result<(), SnapshotError> {
    let failed = || SnapshotError::subvolume("replace the empty subvolumes of systemd in", clone);
    let Some((parent, name)) = parent(top, clone, path)? else { return Ok(()) };
    match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(failed()(errno)),
    }
    rustix::fs::mkdirat(&parent, name, MODE).map_err(failed())?;
    rustix::fs::syncfs(&parent).map_err(failed())
}

fn inode(top: &TopLevel, subvolume: &str, path: &str) -> Result<Option<u64>, SnapshotError> {
    let Some((parent, name)) = parent(top, subvolume, path)? else { return Ok(None) };
    match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found.st_ino)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(SnapshotError::subvolume("look into", subvolume)(errno)),
    }
}

/// Opens the directory that holds `path`, without following links: a link inside the tree could lead to the running system.
/// `None` when there is no such directory.
fn parent<'p>(
    top: &TopLevel,
    subvolume: &str,
    path: &'p str,
) -> Result<Option<(OwnedFd, &'p str)>, SnapshotError> {
    let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
    let below = Path::new(subvolume).join(directory);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(top.directory(), &below, flags, Mode::empty(), resolve) {
        Ok(fd) => Ok(Some((fd, name))),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(SnapshotError::subvolume("look into", subvolume)(errno)),
    }
}
