//! Reading one file: hashed by a read loop, with what else it has, and known not to have changed meanwhile.
//!
//! No mmap: a file that shrinks, or a disk that fails, would end the program with SIGBUS just when there is something to tell.

use std::cell::RefCell;
use std::ffi::CStr;
use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Advice, OFlags, Stat};
use rustix::io::{Errno, ReadWriteFlags};

use super::attributes::{self, Of};
use super::entry::{Extent, Kind};
use super::hashing::{Content, ContentHasher, Hashing};
use super::node::Stamp;
use super::opening::{open_quietly, open_regular};
use super::xattr::Xattr;

/// Per thread, in bytes: stays in the second-level cache, and was the fastest of 16 KiB to 1 MiB when measured.
pub(super) const BUFFER: usize = 64 << 10;

/// How much of a large file is read before what was read is dropped from the cache again, in bytes.
pub(super) const STRIDE: u64 = 8 << 20;

thread_local! {
    static BUFFER_OF_THREAD: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// How files are read.
#[derive(Debug, Clone)]
pub(super) struct How {
    /// What becomes of the content.
    pub(super) content: Use,
    /// Drop what is cached before reading, so that the disk is read.
    pub(super) evict: bool,
    /// Leave the cache as it was found: what only this reading brought there is dropped.
    pub(super) tidy: bool,
}

/// What becomes of content.
#[derive(Debug, Clone)]
pub(super) enum Use {
    Hash(Hashing),
    /// Read and thrown away: for measuring.
    Count,
    /// Not even read.
    Nothing,
}

/// A file that was read to its end.
#[derive(Debug)]
pub(super) struct ReadFile {
    /// Of when the reading ended, with the access time of when it began.
    pub(super) stat: Stat,
    /// `None` when it was not to be hashed.
    pub(super) content: Option<Content>,
    pub(super) more: More,
    /// Nothing changed from before the first byte to after the last.
    pub(super) stable: bool,
}

/// What an open file has besides its content.
#[derive(Debug, Default)]
pub(super) struct More {
    pub(super) xattrs: Vec<Xattr>,
    pub(super) flags: Option<u32>,
    pub(super) extents: Option<Vec<Extent>>,
}

impl ReadFile {
    pub(super) fn kind(content: Option<Content>, size: u64, extents: Option<Vec<Extent>>) -> Kind {
        let mut kind = content.map_or_else(|| Kind::unread_file(size), Kind::file);
        if let Kind::File { extents: all, .. } = &mut kind {
            *all = extents;
        }
        kind
    }
}

/// Reads a regular file; once more when it changed meanwhile.
pub(super) fn read_file(dir: BorrowedFd<'_>, name: &CStr, how: &How) -> Result<ReadFile, Errno> {
    let (file, before) = open_regular(dir, name)?;
    let first = read_open(&file, &before, how)?;
    if first.stable { Ok(first) } else { read_again(dir, name, how) }
}

/// Opens and reads, once.
pub(super) fn read_again(dir: BorrowedFd<'_>, name: &CStr, how: &How) -> Result<ReadFile, Errno> {
    let (file, before) = open_regular(dir, name)?;
    read_open(&file, &before, how)
}

/// Reads an open file to its end.
pub(super) fn read_open(file: &OwnedFd, before: &Stat, how: &How) -> Result<ReadFile, Errno> {
    let size = before.st_size.cast_unsigned();
    if how.evict && !matches!(how.content, Use::Nothing) {
        drop_cached(file, 0, size);
    }
    let (content, length) = match &how.content {
        Use::Nothing => (None, size),
        Use::Count => (None, read_all(file, size, how, |_| {})?),
        Use::Hash(hashing) => {
            let mut hasher = ContentHasher::new(hashing);
            let length = read_all(file, size, how, |bytes| hasher.update(bytes))?;
            (Some(hasher.finish()), length)
        }
    };
    let more = more(file, before)?;
    let after = rustix::fs::fstat(file)?;
    let stable = Stamp::of(before) == Stamp::of(&after) && length == after.st_size.cast_unsigned();
    Ok(ReadFile { stat: with_atime_of(after, before), content, more, stable })
}

/// What an open file has besides its content.
pub(super) fn more(file: &OwnedFd, stat: &Stat) -> Result<More, Errno> {
    let xattrs = attributes::xattrs(Of::Open(file.as_fd()))?;
    let flags = attributes::flags_of(file.as_fd())?;
    let size = stat.st_size.cast_unsigned();
    let sparse = stat.st_blocks.cast_unsigned() * 512 < size;
    let extents = if sparse { attributes::extents(file.as_fd(), size) } else { None };
    Ok(More { xattrs, flags, extents })
}

/// Reading may have moved the access time.
pub(super) fn with_atime_of(mut stat: Stat, before: &Stat) -> Stat {
    (stat.st_atime, stat.st_atime_nsec) = (before.st_atime, before.st_atime_nsec);
    stat
}

/// Asks the kernel to forget the cached pages of a file. Pages that are not yet written stay.
pub(super) fn evict(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let file = open_quietly(dir, name, OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)
}

/// Whether most of a file would have to come from the disk: eight single bytes are asked for, on condition that they are cached.
pub(super) fn is_cold(file: &OwnedFd, size: u64) -> bool {
    let absent = |part: u64| {
        let mut byte = [0];
        let at = size / 16 * (2 * part + 1);
        let mut buffers = [IoSliceMut::new(&mut byte)];
        let read = rustix::io::preadv2(file, &mut buffers, at, ReadWriteFlags::NOWAIT);
        read == Err(Errno::AGAIN)
    };
    (0..8).filter(|&part| absent(part)).count() > 4
}

/// Drops clean pages from the cache. Advice: a filesystem that cannot is read all the same.
pub(super) fn drop_cached(file: &OwnedFd, from: u64, length: u64) {
    if let Some(length) = NonZeroU64::new(length) {
        let _ = rustix::fs::fadvise(file, from, Some(length), Advice::DontNeed);
    }
}

/// Calls `use_bytes` with all bytes in order; says how many there were. A file that has the size that stat said ends there: that
/// it did not grow is seen by the stat afterwards.
fn read_all(file: &OwnedFd, size: u64, how: &How, mut use_bytes: impl FnMut(&[u8])) -> Result<u64, Errno> {
    BUFFER_OF_THREAD.with_borrow_mut(|buffer| {
        let mut cold = how.evict || (how.tidy && size >= STRIDE && is_cold(file, size));
        let ask = how.tidy && !how.evict && size < STRIDE;
        let (mut at, mut dropped) = (0, 0);
        loop {
            let read = match if ask && !cold { read_cached(file, buffer, at) } else { Err(Errno::AGAIN) } {
                Err(Errno::AGAIN) => {
                    cold |= ask;
                    rustix::io::pread(file, &mut buffer[..], at)
                }
                read => read,
            };
            match read {
                Ok(0) => break,
                Ok(n) => {
                    use_bytes(&buffer[..n]);
                    at += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            if cold && at - dropped >= STRIDE {
                drop_cached(file, dropped, at - dropped);
                dropped = at;
            }
            // Files of `/proc` say zero and have content.
            if at == size && size > 0 {
                break;
            }
        }
        if cold {
            drop_cached(file, dropped, at - dropped);
        }
        Ok(at)
    })
}

/// Reads only what is cached; `EAGAIN` when it is not.
fn read_cached(file: &OwnedFd, buffer: &mut [u8], at: u64) -> Result<usize, Errno> {
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], at, ReadWriteFlags::NOWAIT) {
        Err(Errno::NOTSUP | Errno::INVAL | Errno::NOSYS) => rustix::io::pread(file, buffer, at),
        read => read,
    }
}

/// Calls `use_bytes` with the bytes of a part; an end of the file before the end of the part is `ESTALE`.
pub(super) fn read_part(
    file: &OwnedFd,
    from: u64,
    length: u64,
    mut use_bytes: impl FnMut(&[u8]),
) -> Result<(), Errno> {
    BUFFER_OF_THREAD.with_borrow_mut(|buffer| {
        let mut at = from;
        while at < from + length {
            let want = usize::try_from(from + length - at).unwrap_or(BUFFER).min(BUFFER);
            match rustix::io::pread(file, &mut buffer[..want], at) {
                Ok(0) => return Err(Errno::STALE),
                Ok(n) => {
                    use_bytes(&buffer[..n]);
                    at += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::super::opening::open_top;
    use super::*;

    fn how(tidy: bool) -> How {
        How { content: Use::Hash(Hashing::plain()), evict: false, tidy }
    }

    #[test]
    fn any_size_reads_whole_and_an_empty_one_too() {
        let dir = tempfile::tempdir().unwrap();
        let top = open_top(dir.path()).unwrap();
        for size in [0, 1, BUFFER - 1, BUFFER, BUFFER + 1, 3 << 20, (STRIDE + 5) as usize] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            std::fs::write(dir.path().join("f"), &bytes).unwrap();
            for tidy in [false, true] {
                let read = read_file(top.as_fd(), c"f", &how(tidy)).unwrap();
                assert_eq!(read.content, Some(Content::of(&bytes)), "{size}");
                assert!(read.stable);
            }
        }
        let only = How { content: Use::Nothing, ..how(false) };
        let read = read_file(top.as_fd(), c"f", &only).unwrap();
        assert_eq!((read.content, read.stable), (None, true));
    }

    #[test]
    fn files_that_say_they_are_empty_are_read_all_the_same() {
        let top = open_top(std::path::Path::new("/proc/self")).unwrap();
        let read = read_file(top.as_fd(), c"limits", &how(false)).unwrap();
        assert!(read.content.is_some_and(|content| content.size > 0));
        // Its size is said to be another than was read.
        assert!(!read.stable);
    }

    #[test]
    fn what_was_not_cached_is_not_cached_afterwards() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("f");
        let size = 32 << 20;
        std::fs::write(&path, vec![1; size]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        file.sync_all().unwrap();
        let file = OwnedFd::from(file);
        drop_cached(&file, 0, size as u64);
        if !is_cold(&file, size as u64) {
            return println!("skipped: this filesystem cannot drop what is cached, or cannot tell");
        }
        let top = open_top(dir.path()).unwrap();
        // The kernel keeps pages that another processor has not yet put on its lists: advice, not an order.
        let cold_again = || {
            read_file(top.as_fd(), c"f", &how(true)).unwrap();
            let cold = is_cold(&file, size as u64);
            drop_cached(&file, 0, size as u64);
            cold
        };
        assert!((0..10).any(|_| cold_again()));
        read_file(top.as_fd(), c"f", &how(false)).unwrap();
        assert!(!is_cold(&file, size as u64));
        read_file(top.as_fd(), c"f", &how(true)).unwrap();
        assert!(!is_cold(&file, size as u64), "what was there before stays");
    }
}
