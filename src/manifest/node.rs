//! What stat says of one name, as the beginning of an entry.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::attributes;
use super::entry::{Device, Edge, Entry, Kind, MODE_BITS, Mtime, Noted, Status};

/// What identifies an inode and shows that it changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) links: u64,
    pub(super) size: u64,
    /// Bytes on disk: less than the size where there are holes.
    pub(crate) allocated: u64,
    mtime: Mtime,
    /// Moves with every change of content or metadata, and cannot be set.
    pub(super) ctime: Mtime,
}

impl PartialEq for Stamp {
    /// The same inode in the same state. The allocated bytes do not count: a filesystem may place them long after the write.
    fn eq(&self, other: &Self) -> bool {
        let state =
            |stamp: &Self| (stamp.device, stamp.inode, stamp.links, stamp.size, stamp.mtime, stamp.ctime);
        state(self) == state(other)
    }
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        // The types of these fields differ between architectures; the conversions widen.
        #[allow(clippy::unnecessary_cast, reason = "u32 on some architectures")]
        let time = |seconds, nanoseconds| time(seconds, nanoseconds as u64);
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            links: stat.st_nlink,
            size: stat.st_size.cast_unsigned(),
            allocated: stat.st_blocks.cast_unsigned() * 512,
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Names the inode while the tree is walked.
    pub(super) fn key(&self) -> [u8; 16] {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.device.to_le_bytes());
        key[8..].copy_from_slice(&self.inode.to_le_bytes());
        key
    }
}

/// The kernel keeps nanoseconds below 1 000 000 000; a filesystem that does not is refused by the manifest's own check.
fn time(seconds: i64, nanoseconds: u64) -> Mtime {
    Mtime { seconds, nanoseconds: u32::try_from(nanoseconds).unwrap_or(u32::MAX) }
}

/// An entry as the walk found it, not yet in order.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) entry: Entry,
    pub(crate) stamp: Stamp,
}

impl Node {
    pub(super) fn new(path: Vec<u8>, kind: Kind, stat: &Stat, status: Status) -> Self {
        let stamp = Stamp::of(stat);
        #[allow(clippy::unnecessary_cast, reason = "u32 on some architectures")]
        let atime = time(stat.st_atime, stat.st_atime_nsec as u64);
        let noted = Noted { ctime: stamp.ctime, atime, inode: stamp.inode, links: stamp.links };
        let entry = Entry {
            // Twelve bits fit.
            mode: (stat.st_mode & MODE_BITS) as u16,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stamp.mtime,
            status,
            noted: Some(noted),
            ..Entry::new(path, kind)
        };
        Self { entry, stamp }
    }

    /// A name that stands for an inode with other names.
    pub(super) fn is_linked(&self) -> bool {
        self.stamp.links > 1 && !matches!(self.entry.kind, Kind::Directory { .. })
    }
}

/// Looks at a name without following or opening it.
pub(super) fn stat_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Stat, Errno> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
}

/// One name in a directory, without reading any content; also says whether it is a regular file.
pub(super) fn node_at(dir: BorrowedFd<'_>, name: &CStr, path: Vec<u8>) -> Result<(Node, bool), Errno> {
    let stat = stat_at(dir, name)?;
    let plain = |kind, path| Node::new(path, kind, &stat, Status::Stable);
    match file_type(&stat) {
        FileType::RegularFile => Ok((plain(Kind::unread_file(stat.st_size.cast_unsigned()), path), true)),
        FileType::Directory => Ok((plain(Kind::Directory { edge: Edge::Inside }, path), false)),
        _ => Ok((special(dir, name, path, stat)?, false)),
    }
}

/// Everything that is neither a directory nor a regular file: looked at, never opened. Once more when it changed meanwhile.
///
/// # Errors
/// `ENOENT` when it is gone, and what speaks of the machine and not of the entry.
pub(super) fn special(dir: BorrowedFd<'_>, name: &CStr, path: Vec<u8>, before: Stat) -> Result<Node, Errno> {
    let first = special_once(dir, name, path, before)?;
    if first.entry.status != Status::Unstable {
        return Ok(first);
    }
    let stat = stat_at(dir, name)?;
    if matches!(file_type(&stat), FileType::RegularFile | FileType::Directory) {
        // Something else by now: the entry stays as unstable as it was found.
        return Ok(first);
    }
    special_once(dir, name, first.entry.path, stat)
}

fn special_once(dir: BorrowedFd<'_>, name: &CStr, path: Vec<u8>, before: Stat) -> Result<Node, Errno> {
    let mut node = special_without_attributes(dir, name, path, before)?;
    match attributes::xattrs_at(dir, name) {
        Ok(xattrs) => node.entry.xattrs = xattrs,
        Err(errno @ (Errno::NOENT | Errno::NOSYS)) => return Err(errno),
        Err(errno) => node.entry.status = unreadable(errno),
    }
    let after = stat_at(dir, name)?;
    if node.entry.status == Status::Stable && node.stamp != Stamp::of(&after) {
        node.entry.status = Status::Unstable;
    }
    Ok(node)
}

/// As [`special`], as far as stat and readlink say.
pub(super) fn special_without_attributes(
    dir: BorrowedFd<'_>,
    name: &CStr,
    path: Vec<u8>,
    before: Stat,
) -> Result<Node, Errno> {
    let device =
        || Device { major: rustix::fs::major(before.st_rdev), minor: rustix::fs::minor(before.st_rdev) };
    let mut status = Status::Stable;
    let kind = match file_type(&before) {
        FileType::Symlink => match rustix::fs::readlinkat(dir, name, Vec::new()) {
            Ok(target) => Kind::Symlink { target: target.into_bytes() },
            Err(Errno::NOENT) => return Err(Errno::NOENT),
            Err(errno) => {
                status = unreadable(errno);
                Kind::Symlink { target: Vec::new() }
            }
        },
        FileType::CharacterDevice => Kind::CharDevice(device()),
        FileType::BlockDevice => Kind::BlockDevice(device()),
        FileType::Socket => Kind::Socket,
        _ => Kind::Fifo,
    };
    Ok(Node::new(path, kind, &before, status))
}

pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(super) fn unreadable(errno: Errno) -> Status {
    Status::Unreadable(errno.raw_os_error().unsigned_abs())
}
