//! Reading parts of a manifest: by the index at its end, any block is found, read and checked without the others.
//!
//! What is read is covered by the digests of its frame, which the index lists and the footer's digest covers. That the records of
//! directories say the truth about the entries is known only to who reads all of it: [`super::Reader`].

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::codec;
use super::directories::{Address, DirectoryRecord};
use super::entry::Entry;
use super::format::{
    AROUND, DIRECTORIES_FRAME, ENTRIES_FRAME, FOOTER_FRAME, FormatError, HEADER_FRAME, Header, INDEX_FRAME,
    MAX_PAYLOAD, PREAMBLE, Reader, Summary,
};
use super::hashing::Hashing;
use super::write::{Footer, INDEX_ITEM, frame_digest};

/// A manifest whose parts can be read in any order.
#[derive(Debug)]
pub struct Indexed {
    file: File,
    path: PathBuf,
    hashing: Hashing,
    header: Header,
    footer: Footer,
    entries: Vec<Place>,
    directories: Vec<Place>,
    /// The block of directory records that was read last: neighbours are asked for one after another.
    last: RefCell<Option<(u32, Vec<u8>)>>,
}

/// Where a frame is.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: u64,
    /// The digest of the frame before it.
    before: [u8; 32],
    digest: [u8; 32],
}

impl Indexed {
    /// Opens a manifest and reads its header, footer and index.
    ///
    /// # Errors
    /// When it cannot be read, is no manifest, these parts of it are damaged, or the key is not its own.
    pub fn open(path: &Path, hashing: &Hashing) -> Result<Self, FormatError> {
        let open = |source| FormatError::Io { action: "open", path: path.to_owned(), source };
        let file = File::open(path).map_err(open)?;
        let reader = Reader::new(file.try_clone().map_err(open)?, path, hashing)?;
        let (header, header_digest) = (reader.header().clone(), reader.digest());
        let length = file.metadata().map_err(open)?.len();
        let mut indexed = Self {
            file,
            path: path.to_owned(),
            hashing: hashing.clone(),
            header,
            footer: Footer::decode(&[0; Footer::LENGTH]),
            entries: Vec::new(),
            directories: Vec::new(),
            last: RefCell::default(),
        };
        indexed.read_footer(length)?;
        indexed.read_index(length, &header_digest)?;
        Ok(indexed)
    }

    /// Where, when and how it was taken.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Counts and id, as the footer says.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.footer.summary
    }

    /// The record of the tree itself; `None` for a manifest without entries.
    pub(super) fn top(&self) -> Result<Option<DirectoryRecord>, FormatError> {
        self.footer.top.map(|at| self.directory(at)).transpose()
    }

    /// The record at an address.
    pub(super) fn directory(&self, at: Address) -> Result<DirectoryRecord, FormatError> {
        let place = self.directories.get(at.block as usize).ok_or_else(|| self.lost("a directory record"))?;
        let mut last = self.last.borrow_mut();
        if last.as_ref().is_none_or(|(held, _)| *held != at.block) {
            *last = Some((at.block, self.frame(*place, DIRECTORIES_FRAME)?));
        }
        let block = last.as_ref().map_or(&[][..], |(_, block)| block);
        let bytes = block.get(at.offset as usize..).ok_or_else(|| self.lost("a directory record"))?;
        let record =
            codec::take_directory(bytes).map_err(|source| FormatError::Codec { at: place.at, source })?;
        // A directory ends after all in it and all before it: who follows the records comes to an end.
        if [record.last_child, record.before].into_iter().flatten().any(|other| other >= at) {
            return Err(self.lost("a directory record"));
        }
        Ok(record)
    }

    /// The entries from one address to another, without those in `leave_out`, which are in order and do not overlap.
    pub(super) fn entries(
        &self,
        from: Address,
        to: Address,
        leave_out: Vec<(Address, Address)>,
    ) -> Entries<'_> {
        Entries { of: self, at: from, to, leave_out: leave_out.into_iter(), next_gap: None, block: None }
    }

    fn read_footer(&mut self, length: u64) -> Result<(), FormatError> {
        let truncated = FormatError::Truncated(length);
        let around = (AROUND + Footer::LENGTH) as u64;
        let Some(at) = length.checked_sub(around).filter(|at| *at >= 32) else { return Err(truncated) };
        let before = self.read_array(at - 32)?;
        let digest = self.read_array(length - 32)?;
        let payload = self.frame(Place { at, before, digest }, FOOTER_FRAME)?;
        let footer: &[u8; Footer::LENGTH] = payload.as_slice().try_into().map_err(|_| truncated)?;
        self.footer = Footer::decode(footer);
        Ok(())
    }

    fn read_index(&mut self, length: u64, header: &[u8; 32]) -> Result<(), FormatError> {
        let end = length - (AROUND + Footer::LENGTH) as u64;
        let mut at = self.footer.index;
        if at < 32 || at > end {
            return Err(self.lost("the index"));
        }
        let mut before = self.read_array(at - 32)?;
        let mut last = None;
        while at < end {
            let head: [u8; 5] = self.read_array(at)?;
            let size = u64::from(u32::from_le_bytes([head[1], head[2], head[3], head[4]]));
            if size as usize > MAX_PAYLOAD || at + size + AROUND as u64 > end {
                return Err(self.lost("the index"));
            }
            let digest = self.read_array(at + 5 + size)?;
            let payload = self.frame(Place { at, before, digest }, INDEX_FRAME)?;
            for item in payload.chunks_exact(INDEX_ITEM) {
                self.add_place(item, header, &mut last)?;
            }
            (before, at) = (digest, at + size + AROUND as u64);
        }
        Ok(())
    }

    fn add_place(
        &mut self,
        item: &[u8],
        header: &[u8; 32],
        last: &mut Option<[u8; 32]>,
    ) -> Result<(), FormatError> {
        let at = item[1..9].iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte));
        let mut digest = [0; 32];
        digest.copy_from_slice(&item[9..]);
        // Only the header has none before it, and it is read otherwise.
        let place = Place { at, before: last.unwrap_or_default(), digest };
        match (item[0], last.is_some()) {
            // The header that was read is the one that belongs to the rest.
            (HEADER_FRAME, false) if digest == *header && at == PREAMBLE as u64 => {}
            (ENTRIES_FRAME, true) => self.entries.push(place),
            (DIRECTORIES_FRAME, true) => self.directories.push(place),
            (_, true) => {}
            (_, false) => return Err(self.lost("the header")),
        }
        *last = Some(digest);
        Ok(())
    }

    /// The payload of a frame, when it is what the index says.
    fn frame(&self, place: Place, kind: u8) -> Result<Vec<u8>, FormatError> {
        let head: [u8; 5] = self.read_array(place.at)?;
        let size = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if size > MAX_PAYLOAD {
            return Err(FormatError::Malformed { at: place.at, what: "a frame is larger than allowed" });
        }
        let mut payload = vec![0; size];
        self.read_at(&mut payload, place.at + 5)?;
        let digest = frame_digest(&self.hashing, &place.before, head[0], &payload);
        if digest != place.digest || head[0] != kind {
            return Err(FormatError::Digest(place.at));
        }
        Ok(payload)
    }

    fn read_array<const N: usize>(&self, at: u64) -> Result<[u8; N], FormatError> {
        let mut bytes = [0; N];
        self.read_at(&mut bytes, at)?;
        Ok(bytes)
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> Result<(), FormatError> {
        self.file.read_exact_at(into, at).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => FormatError::Truncated(at),
            _ => FormatError::Io { action: "read", path: self.path.clone(), source },
        })
    }

    fn lost(&self, what: &'static str) -> FormatError {
        FormatError::Malformed { at: self.footer.index, what }
    }
}

/// Some of the entries of a manifest, in order.
#[derive(Debug)]
pub(super) struct Entries<'m> {
    of: &'m Indexed,
    at: Address,
    to: Address,
    leave_out: std::vec::IntoIter<(Address, Address)>,
    next_gap: Option<(Address, Address)>,
    block: Option<(u32, Vec<u8>)>,
}

impl Entries<'_> {
    fn advance(&mut self) -> Result<Option<Entry>, FormatError> {
        loop {
            if self.next_gap.is_none() {
                self.next_gap = self.leave_out.next();
            }
            match self.next_gap {
                Some((from, to)) if from == self.at => {
                    (self.at, self.next_gap) = (to, None);
                    continue;
                }
                _ => {}
            }
            if self.at >= self.to {
                return Ok(None);
            }
            let number = self.at.block;
            if self.block.as_ref().is_none_or(|(held, _)| *held != number) {
                let Some(place) = self.of.entries.get(number as usize) else {
                    return Err(self.of.lost("a block of entries"));
                };
                self.block = Some((number, self.of.frame(*place, ENTRIES_FRAME)?));
            }
            let Some((_, block)) = &self.block else { return Ok(None) };
            if self.at.offset as usize >= block.len() {
                self.at = Address { block: number + 1, offset: 0 };
                continue;
            }
            let (entry, used) = codec::take_entry(&block[self.at.offset as usize..])
                .map_err(|source| FormatError::Codec { at: 0, source })?;
            self.at.offset += used as u32;
            // The next entry's place is the beginning of the next block, not the end of this one.
            if self.at.offset as usize == block.len() {
                self.at = Address { block: number + 1, offset: 0 };
            }
            return Ok(Some(entry));
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.at = self.to;
            self.leave_out = Vec::new().into_iter();
            self.next_gap = None;
        }
        next.transpose()
    }
}
