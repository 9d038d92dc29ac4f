//! One file of a tree, read on its own, for whoever knows which files it wants.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::content::{self, How, Use};
use super::hashing::{Content, Hashing};

pub(crate) use super::opening::{descend, open_quietly, open_regular, open_top};

/// A file that was read to its end, from the disk as far as the kernel lets us.
#[derive(Debug)]
pub(crate) struct Single {
    pub(crate) content: Content,
    /// Nothing changed from before the first byte to after the last.
    pub(crate) stable: bool,
}

/// Reads a regular file; once more when it changed meanwhile. No link is followed; `ESTALE` when it is something else.
pub(crate) fn read(dir: BorrowedFd<'_>, name: &CStr, hashing: &Hashing) -> Result<Single, Errno> {
    let how = How { content: Use::Hash(hashing.clone()), evict: true, tidy: true };
    let read = content::read_file(dir, name, &how)?;
    // Content was asked for, so it is there.
    let content = read.content.ok_or(Errno::STALE)?;
    Ok(Single { content, stable: read.stable })
}
