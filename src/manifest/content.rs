//! Reading one file: opened without following anything, hashed by a read loop, and known not to have changed meanwhile.
//!
//! No mmap: a file that shrinks, or a disk that fails, would end the program with SIGBUS just when there is something to tell.

use std::cell::RefCell;
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Advice, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::hashing::{Content, ContentHasher, Hashing};
use super::walk::{NO_MODE, Stamp};

/// Per thread, in bytes: stays in the second-level cache, and was the fastest of 16 KiB to 1 MiB when measured.
const BUFFER: usize = 64 << 10;

thread_local! {
    static BUFFER_OF_THREAD: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// A file that was read to its end.
#[derive(Debug)]
pub(crate) struct ReadFile {
    /// After the reading.
    pub(crate) stat: Stat,
    pub(crate) content: Content,
    /// Nothing changed from before the first byte to after the last.
    pub(crate) stable: bool,
}

/// Reads a regular file; once more when it changed meanwhile.
///
/// The caller has seen by stat that it is one. Should somebody have put a pipe or a device in its place since, then
/// `O_NONBLOCK` keeps the open from waiting, and what was opened is looked at before it is read.
pub(crate) fn read_file(
    dir: BorrowedFd<'_>,
    name: &CStr,
    evict: bool,
    hashing: &Hashing,
) -> Result<ReadFile, Errno> {
    let first = read_once(dir, name, evict, hashing)?;
    if first.stable { Ok(first) } else { read_once(dir, name, evict, hashing) }
}

/// Asks the kernel to forget the cached pages of a file. Pages that are not yet written stay.
pub(crate) fn evict(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let file = open_quietly(dir, name, OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)
}

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

fn read_once(dir: BorrowedFd<'_>, name: &CStr, evict: bool, hashing: &Hashing) -> Result<ReadFile, Errno> {
    let file = open_quietly(dir, name, OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
    let before = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
        // It was one a moment ago.
        return Err(Errno::STALE);
    }
    if evict {
        // Advice: a filesystem that cannot is read all the same.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
    }
    let content = hash(&file, hashing)?;
    let after = rustix::fs::fstat(&file)?;
    let stable = Stamp::of(&before) == Stamp::of(&after) && content.size == after.st_size.cast_unsigned();
    Ok(ReadFile { stat: after, content, stable })
}

fn hash(file: &OwnedFd, hashing: &Hashing) -> Result<Content, Errno> {
    BUFFER_OF_THREAD.with_borrow_mut(|buffer| {
        let mut hasher = ContentHasher::new(hashing);
        loop {
            match rustix::io::read(file, &mut buffer[..]) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(n) => hasher.update(&buffer[..n]),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    })
}
