//! One subvolume's facts, read from an open directory, so that no rename in between can make them another's.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{SnapshotError, Uuid, ioctl};
use crate::system::show;

/// The id of the top level, which every btrfs filesystem has.
pub const TOP_LEVEL_ID: u64 = 5;

/// The inode of every subvolume's root directory (`BTRFS_FIRST_FREE_OBJECTID`).
pub(crate) const ROOT_INODE: u64 = 256;

/// The inode that stands where a nested subvolume was, in a snapshot of what held it
/// (`BTRFS_EMPTY_SUBVOL_DIR_OBJECTID`).
pub(crate) const STUB_INODE: u64 = 2;

/// `BTRFS_ROOT_SUBVOL_RDONLY`, as it is on disk.
const READ_ONLY: u64 = 1;

/// Subvolumes that systemd makes inside the root of a machine when that root is a subvolume itself (tmpfiles.d's
/// `systemd-nspawn.conf` and `portables.conf`, mode 0700). A server that runs no machines has them empty.
pub const OF_SYSTEMD: [&str; 2] = ["var/lib/machines", "var/lib/portables"];

/// A subvolume as the kernel described it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subvolume {
    /// Its name in the directory that holds it, at the time of asking; empty for the top level. An exchange changes it: never
    /// derive a root's name from this. A name that is not UTF-8 is escaped and cannot be found by this text.
    pub name: String,
    /// Its id, unique in the filesystem and never used again.
    pub id: u64,
    /// Its UUID. (The top level of an old filesystem has all zeros.)
    pub uuid: Uuid,
    /// The UUID of the subvolume of which it is a snapshot or clone.
    pub parent_uuid: Option<Uuid>,
    /// Set when it was made by `btrfs receive`.
    pub received_uuid: Option<Uuid>,
    /// The id of the subvolume that holds its name; [`TOP_LEVEL_ID`] for those on the top level, 0 for the top level.
    pub held_by: u64,
    /// Whether it can be changed.
    pub read_only: bool,
    /// The transaction that changed it last.
    pub generation: u64,
    /// The transaction that made it. Equal to `generation` as long as nothing was written to it.
    pub created_generation: u64,
    /// When it was made, in seconds since 1970.
    pub created: u64,
}

impl Subvolume {
    /// Whether its name is on the top level (there, or in a directory there).
    #[must_use]
    pub fn on_top_level(&self) -> bool {
        self.held_by == TOP_LEVEL_ID
    }
}

/// A subvolume inside another one: a snapshot of the other does not contain it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nested {
    /// Its path below the other one's root.
    pub path: PathBuf,
    /// Its facts.
    pub subvolume: Subvolume,
    /// Whether its directory is empty.
    pub empty: bool,
}

impl Nested {
    /// One of systemd's that nobody has used: nothing is lost when it stays behind.
    #[must_use]
    pub fn is_unused_of_systemd(&self) -> bool {
        self.empty && OF_SYSTEMD.iter().any(|path| self.path == Path::new(path))
    }
}

/// Reads the facts of the subvolume that holds a path.
///
/// # Errors
/// When the path cannot be opened, or is not on btrfs.
pub fn holding(path: &Path) -> Result<Subvolume, SnapshotError> {
    let file = open(path)?;
    read(&file).map_err(SnapshotError::path("ask btrfs about", path))
}

/// The UUID of the filesystem that holds a path.
///
/// # Errors
/// As [`holding`].
pub fn filesystem_of(path: &Path) -> Result<Uuid, SnapshotError> {
    let found = ioctl::filesystem_info(open(path)?).map_err(SnapshotError::path("ask btrfs about", path))?;
    Ok(Uuid::from_bytes(found.uuid))
}

/// The paths of all devices of the filesystem that holds a path, as the kernel knows them.
///
/// # Errors
/// As [`holding`].
pub fn devices(path: &Path) -> Result<Vec<PathBuf>, SnapshotError> {
    let failed = || SnapshotError::path("ask btrfs for the devices of", path);
    let fd = open(path)?;
    let mut devices = Vec::new();
    for id in 1..=ioctl::filesystem_info(&fd).map_err(failed())?.max_device {
        if let Some(device) = ioctl::device_info(&fd, id).map_err(failed())? {
            devices.push(PathBuf::from(OsStr::from_bytes(ioctl::until_nul(&device.path))));
        }
    }
    Ok(devices)
}

pub(super) fn open(path: &Path) -> Result<OwnedFd, SnapshotError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(SnapshotError::path("open", path))
}

pub(super) fn read(fd: impl AsFd) -> rustix::io::Result<Subvolume> {
    let found = ioctl::subvolume_info(fd)?;
    let name = ioctl::until_nul(&found.name);
    Ok(Subvolume {
        name: std::str::from_utf8(name).map_or_else(|_| show::bytes(name), str::to_owned),
        id: found.id,
        uuid: Uuid::from_bytes(found.uuid),
        parent_uuid: Uuid::from_nullable(found.parent_uuid),
        received_uuid: Uuid::from_nullable(found.received_uuid),
        held_by: found.parent_id,
        read_only: found.flags & READ_ONLY != 0,
        generation: found.generation,
        created_generation: found.created_generation,
        created: found.created.seconds,
    })
}

/// All subvolumes below an open subvolume, at any depth, in the order of their paths.
pub(super) fn nested(root: &OwnedFd) -> rustix::io::Result<Vec<Nested>> {
    let mut found = Vec::new();
    collect(root, Path::new(""), &mut found)?;
    found.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(found)
}

/// Opens the root directory of a subvolume below an open directory; `None` when there is nothing of that name. Anything
/// else that is there (a file, a link, a plain directory) is `NOTDIR`.
pub(super) fn open_below(upper: impl AsFd, path: &Path) -> rustix::io::Result<Option<OwnedFd>> {
    use rustix::io::Errno;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(upper, path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(Errno::NOTDIR),
        Err(errno) => return Err(errno),
    };
    if rustix::fs::fstat(&fd)?.st_ino == ROOT_INODE { Ok(Some(fd)) } else { Err(Errno::NOTDIR) }
}

fn collect(upper: &OwnedFd, above: &Path, found: &mut Vec<Nested>) -> rustix::io::Result<()> {
    for (id, directory) in ioctl::subvolumes_below(upper)? {
        let relative = ioctl::path_below(upper, id, directory)?;
        let relative = Path::new(OsStr::from_bytes(&relative));
        // Deleted since it was listed: then it is not there any more.
        let Some(fd) = open_below(upper, relative)? else { continue };
        let path = above.join(relative);
        collect(&fd, &path, found)?;
        found.push(Nested { path, subvolume: read(&fd)?, empty: is_empty(&fd)? });
    }
    Ok(())
}

fn is_empty(directory: &OwnedFd) -> rustix::io::Result<bool> {
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
