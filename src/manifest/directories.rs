//! A record for each directory of a manifest: its hash, and where its entries stand. With them two manifests are compared
//! without reading what is equal in both.
//!
//! The records stand in the order in which directories end, so a directory's record comes after those of all below it. Each
//! names its last subdirectory and the one before itself in the same directory: from the top's record all others are reached,
//! and a writer keeps only what is open.

use super::codec::{self, CodecError};
use super::entry::file_name;
use super::format::BLOCK_TARGET;
use super::root::Closed;

/// A place in the blocks of entries, or in those of directory records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    /// Number of the block among its kind, from 0.
    pub(super) block: u32,
    /// Bytes into it. A place at the end of a block is the beginning of the next.
    pub(super) offset: u32,
}

/// What a manifest says of a directory as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DirectoryRecord {
    /// The last component of its path; empty for the tree itself.
    pub(super) name: Vec<u8>,
    /// Covers its own metadata and all below it.
    pub(super) hash: [u8; 32],
    /// Entries in it, itself included.
    pub(super) entries: u64,
    /// Bytes of content.
    pub(super) bytes: u64,
    /// Entries that were not read well.
    pub(super) doubtful: u64,
    /// Entries with another name somewhere in the tree.
    pub(super) linked: u64,
    /// Where its own entry stands.
    pub(super) first: Address,
    /// Behind the last entry in it.
    pub(super) end: Address,
    /// The record of its last subdirectory.
    pub(super) last_child: Option<Address>,
    /// The record of the directory before it in the same directory.
    pub(super) before: Option<Address>,
}

/// Makes the records while the entries are written.
#[derive(Debug, Default)]
pub(super) struct DirectoryWriter {
    /// For each open directory: where its entry stands, and its last child so far.
    open: Vec<(Address, Option<Address>)>,
    block: Vec<u8>,
    blocks: u32,
    root: Option<Address>,
}

impl DirectoryWriter {
    /// A directory's entry was written at `first`.
    pub(super) fn opened(&mut self, first: Address) {
        self.open.push((first, None));
    }

    /// The innermost open directory ended before `end`.
    pub(super) fn closed(&mut self, closed: &Closed, end: Address) -> Result<(), CodecError> {
        let Some((first, last_child)) = self.open.pop() else { return Ok(()) };
        let at = Address { block: self.blocks, offset: self.block.len() as u32 };
        let before = match self.open.last_mut() {
            Some((_, last)) => last.replace(at),
            None => self.root.replace(at),
        };
        let totals = closed.totals;
        let record = DirectoryRecord {
            name: file_name(&closed.path).to_vec(),
            hash: closed.hash,
            entries: totals.entries,
            bytes: totals.bytes,
            doubtful: totals.doubtful,
            linked: totals.linked,
            first,
            end,
            last_child,
            before,
        };
        codec::put_directory(&record, &mut self.block)
    }

    /// The block, when it is large enough to be written, or at the end.
    pub(super) fn full_block(&mut self, at_end: bool) -> Option<Vec<u8>> {
        if self.block.is_empty() || (self.block.len() < BLOCK_TARGET && !at_end) {
            return None;
        }
        self.blocks += 1;
        Some(std::mem::take(&mut self.block))
    }

    /// Where the record of the tree itself is.
    pub(super) fn root(&self) -> Option<Address> {
        self.root
    }
}
