//! Where a copy is made whole before anybody else sees it: a directory that only root can enter, on the same filesystem.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, IFlags, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;

use crate::system::beneath;

/// Its name at the top of the restored root, where only root can write.
pub(super) const NAME: &str = ".safe-upgrade-carried";

/// The name of the one thing that waits in it.
const WAITING: &str = "1";

/// What is left free at least, in bytes, or a tenth of the filesystem where that is less.
const RESERVE: u64 = 1 << 30;

/// The directory. Removed when dropped.
#[derive(Debug)]
pub(super) struct Stage<'r> {
    root: &'r OwnedFd,
    directory: OwnedFd,
    /// Bytes that may still be taken.
    room: u64,
}

impl<'r> Stage<'r> {
    /// Makes it anew: what a try that was cut off has left goes away.
    pub(super) fn make(root: &'r OwnedFd) -> io::Result<Self> {
        remove(root)?;
        rustix::fs::mkdirat(root, NAME, Mode::RWXU)?;
        let directory = beneath::directory(root, NAME.as_ref())?;
        let space = rustix::fs::fstatvfs(root)?;
        let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
        Ok(Self { root, directory, room: room(bytes(space.f_bavail), bytes(space.f_blocks)) })
    }

    #[cfg(test)]
    pub(super) fn limit(&mut self, room: u64) {
        self.room = room;
    }

    /// Copies a file or a symbolic link with all that belongs to it.
    pub(super) fn copy(&mut self, from: &OwnedFd, name: &OsStr, source: &Stat) -> io::Result<()> {
        self.clear()?;
        if self.room == 0 {
            return Err(does_not_fit());
        }
        if FileType::from_raw_mode(source.st_mode) != FileType::Symlink {
            return self.copy_file(from, name);
        }
        let target = rustix::fs::readlinkat(from, name, Vec::new())?;
        rustix::fs::symlinkat(target, &self.directory, WAITING)?;
        let (owner, group) = owners(source);
        rustix::fs::chownat(&self.directory, WAITING, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::utimensat(&self.directory, WAITING, &times(source), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Makes an empty directory with all that belongs to this one.
    pub(super) fn copy_directory(&mut self, like: &OwnedFd) -> io::Result<()> {
        self.clear()?;
        rustix::fs::mkdirat(&self.directory, WAITING, Mode::RWXU)?;
        let made = beneath::directory(&self.directory, WAITING.as_ref())?;
        dress(like, &rustix::fs::fstat(like)?, &made)
    }

    /// Gives what waits its place; with `NOREPLACE` nothing may have that name yet.
    pub(super) fn put(&self, to: &OwnedFd, name: &OsStr, flags: RenameFlags) -> Result<(), Errno> {
        rustix::fs::renameat_with(&self.directory, WAITING, to, name, flags)
    }

    fn copy_file(&mut self, from: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let (source, stat) = beneath::regular(from, name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, WAITING, flags, Mode::RUSR | Mode::WUSR)?;
        let file = File::from(file);
        same_kind_of_data(&source, &file);
        // On one btrfs both can share their bytes: nothing is moved, and no room is taken.
        if rustix::fs::ioctl_ficlone(&file, &source).is_err() {
            let bytes = stat.st_blocks.cast_unsigned().saturating_mul(512);
            self.room = self.room.checked_sub(bytes).ok_or_else(does_not_fit)?;
            copy_bytes(&source, &file, stat.st_size.cast_unsigned())?;
        }
        dress(&source, &stat, &file)
    }

    fn clear(&self) -> io::Result<()> {
        for flags in [AtFlags::empty(), AtFlags::REMOVEDIR] {
            match rustix::fs::unlinkat(&self.directory, WAITING, flags) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::ISDIR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if let Err(error) = remove(self.root) {
            tracing::warn!(%error, "/{NAME} could not be removed");
        }
    }
}

fn remove(root: &OwnedFd) -> io::Result<()> {
    match std::fs::remove_dir_all(beneath::path_of(root).join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// How much of what is free may be taken.
fn room(free: u64, size: u64) -> u64 {
    free.saturating_sub(RESERVE.min(size / 10))
}

fn does_not_fit() -> io::Error {
    let words = "there is too little free space: 1 GiB, or a tenth of the filesystem, is left alone";
    io::Error::new(io::ErrorKind::StorageFull, words)
}

/// btrfs shares no bytes between a file whose data it copies on write and one whose data it does not.
fn same_kind_of_data(source: &File, copy: &File) {
    let no_cow =
        |file: &File| rustix::fs::ioctl_getflags(file).is_ok_and(|flags| flags.contains(IFlags::NOCOW));
    if no_cow(source)
        && let Ok(flags) = rustix::fs::ioctl_getflags(copy)
        && let Err(errno) = rustix::fs::ioctl_setflags(copy, flags | IFlags::NOCOW)
    {
        tracing::debug!(%errno, "the copy is written in another way than its source");
    }
}

/// Copies what is data, and leaves holes.
fn copy_bytes(mut source: &File, mut copy: &File, size: u64) -> io::Result<()> {
    copy.set_len(size)?;
    let mut at = 0;
    while at < size {
        let begin = match rustix::fs::seek(source, rustix::fs::SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            found => found?,
        };
        let end = rustix::fs::seek(source, rustix::fs::SeekFrom::Hole(begin))?;
        source.seek(SeekFrom::Start(begin))?;
        copy.seek(SeekFrom::Start(begin))?;
        io::copy(&mut source.take(end - begin), &mut copy)?;
        at = end;
    }
    Ok(())
}

/// Owner, mode, attributes and times, in this order: a new owner takes away what a mode or an attribute allows.
fn dress(source: &impl AsFd, stat: &Stat, copy: &impl AsFd) -> io::Result<()> {
    let (owner, group) = owners(stat);
    rustix::fs::fchown(copy, owner, group)?;
    rustix::fs::fchmod(copy, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_attributes(source, copy)?;
    rustix::fs::futimens(copy, &times(stat))?;
    Ok(())
}

/// ACLs are attributes too.
fn copy_attributes(source: &impl AsFd, copy: &impl AsFd) -> io::Result<()> {
    // The most that Linux has of each (linux/limits.h).
    let (mut names, mut value) = (vec![0_u8; 65_536], vec![0_u8; 65_536]);
    let length = match rustix::fs::flistxattr(source, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        listed => listed?,
    };
    for name in names[..length].split(|byte| *byte == 0) {
        // What btrfs shows in this way is how it stores a file, not what belongs to it.
        if name.is_empty() || name.starts_with(b"btrfs.") {
            continue;
        }
        let length = rustix::fs::fgetxattr(source, name, &mut value[..])?;
        rustix::fs::fsetxattr(copy, name, &value[..length], rustix::fs::XattrFlags::empty())?;
    }
    Ok(())
}

fn owners(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

#[allow(clippy::unnecessary_cast, reason = "the types differ between architectures")]
fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps {
        last_access: time(stat.st_atime as i64, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime as i64, stat.st_mtime_nsec as _),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_always_left_free() {
        const GIB: u64 = 1 << 30;
        assert_eq!(room(30 * GIB, 100 * GIB), 29 * GIB);
        assert_eq!(room(GIB, 100 * GIB), 0);
        assert_eq!(room(GIB / 2, GIB), GIB / 2 - GIB / 10);
    }

    #[test]
    fn holes_stay_holes() {
        use std::os::unix::fs::{FileExt, MetadataExt};
        let (source, copy) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        source.set_len(64 << 20).unwrap();
        source.write_all_at(b"in the middle", 32 << 20).unwrap();
        copy_bytes(&source, &copy, 64 << 20).unwrap();
        let mut found = [0; 13];
        copy.read_exact_at(&mut found, 32 << 20).unwrap();
        let stat = copy.metadata().unwrap();
        assert_eq!((&found, stat.len()), (b"in the middle", 64 << 20));
        assert!(stat.blocks() * 512 < 8 << 20, "{}", stat.blocks());
    }
}
