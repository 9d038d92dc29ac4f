//! ucf was told to keep every file; where the decision is to take the new one, it is put in place afterwards.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};

use crate::system::beneath;

/// A file that could not be put in place.
#[derive(Debug, thiserror::Error)]
#[error("failed to put {} in place", .path.display())]
pub struct PlaceError {
    path: PathBuf,
    source: io::Error,
}

/// Puts `PATH.ucf-dist` below a root in the place of `PATH`, with the owner and the mode of `PATH`, which is kept as
/// `PATH.ucf-old`. Repeatable: where there is no `.ucf-dist` any more, nothing is done, and the answer is no.
///
/// # Errors
/// When the file or its directory is reached through a link, is no plain file, or cannot be replaced.
pub fn take_new(root: &Path, path: &Path) -> Result<bool, PlaceError> {
    let failed = |source: io::Error| PlaceError { path: path.to_owned(), source };
    let relative = path.strip_prefix("/").unwrap_or(path);
    let (Some(parent), Some(name)) = (relative.parent(), relative.file_name()) else {
        return Err(failed(io::Error::other("it is no path of a file")));
    };
    let top = File::open(root).map_err(failed)?;
    let directory = beneath::directory(&top, parent).map_err(|errno| failed(errno.into()))?;
    take(&directory, name).map_err(failed)
}

fn take(directory: &rustix::fd::OwnedFd, name: &OsStr) -> io::Result<bool> {
    let (new, old) = (with(name, ".ucf-dist"), with(name, ".ucf-old"));
    if beneath::look(directory, &new)?.is_none() {
        return Ok(false);
    }
    let (new_file, _) = beneath::regular(directory, &new)?;
    let (_, mine) = beneath::regular(directory, name)?;
    let owner = (Uid::from_raw(mine.st_uid), Gid::from_raw(mine.st_gid));
    rustix::fs::fchown(&new_file, Some(owner.0), Some(owner.1))?;
    rustix::fs::fchmod(&new_file, Mode::from_raw_mode(mine.st_mode & 0o7777))?;
    new_file.sync_all()?;
    // A hard link first: at no moment is there no file by this name.
    match rustix::fs::unlinkat(directory, &old, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    rustix::fs::linkat(directory, name, directory, &old, AtFlags::empty())?;
    rustix::fs::renameat(directory, &new, directory, name)?;
    // What was opened to look below it cannot be synced on every filesystem; opened as itself it can.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let itself = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    rustix::fs::fsync(itself)?;
    Ok(true)
}

fn with(name: &OsStr, ending: &str) -> OsString {
    let mut whole = name.to_owned();
    whole.push(ending);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_new_one_takes_the_place_of_the_old() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir(at("etc")).unwrap();
        fs::write(at("etc/x"), "mine").unwrap();
        fs::set_permissions(at("etc/x"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(at("etc/x.ucf-dist"), "new").unwrap();
        assert!(take_new(root.path(), Path::new("/etc/x")).unwrap());
        assert_eq!(fs::read(at("etc/x")).unwrap(), b"new");
        assert_eq!(fs::read(at("etc/x.ucf-old")).unwrap(), b"mine");
        assert_eq!(fs::metadata(at("etc/x")).unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(!take_new(root.path(), Path::new("/etc/x")).unwrap());
        assert_eq!(fs::read_dir(at("etc")).unwrap().count(), 2);
    }

    #[test]
    fn a_link_is_not_replaced() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir(at("etc")).unwrap();
        symlink("/elsewhere", at("etc/x")).unwrap();
        fs::write(at("etc/x.ucf-dist"), "new").unwrap();
        assert!(take_new(root.path(), Path::new("/etc/x")).is_err());
        assert!(at("etc/x.ucf-dist").exists());
        symlink("etc", at("link")).unwrap();
        assert!(take_new(root.path(), Path::new("/link/x")).is_err());
        assert!(take_new(root.path(), Path::new("/")).is_err());
    }
}
