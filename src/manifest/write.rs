//! Writing a manifest as its entries come, with one block of each kind in memory.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::codec;
use super::directories::{Address, DirectoryWriter};
use super::entry::{Entry, Kind, path_order};
use super::format::{
    AROUND, BLOCK_TARGET, DIRECTORIES_FRAME, ENTRIES_FRAME, FOOTER_FRAME, FormatError, HEADER_FRAME, Header,
    INDEX_FRAME, KEYED, MAGIC, MAX_PAYLOAD, PREAMBLE, Summary, TRAILER_FRAME, Trailer, VERSION,
};
use super::hashing::{Domain, Hashing};
use super::root::{ManifestId, RootBuilder};

/// Writes a manifest to anything that takes bytes; judges that its entries follow each other as they must.
#[derive(Debug)]
pub struct ManifestWriter<W> {
    out: Out<W>,
    hashing: Hashing,
    block: Vec<u8>,
    blocks: u32,
    directories: DirectoryWriter,
    root: RootBuilder,
    last: Option<Vec<u8>>,
    entries: u64,
    bytes: u64,
}

impl<W: Write> ManifestWriter<W> {
    /// Writes the header; `path` is named in errors. A key in `hashing` makes a keyed manifest, whatever the header says.
    ///
    /// # Errors
    /// When it cannot be written, or the header is too large.
    pub fn begin(to: W, path: &Path, header: &Header, hashing: &Hashing) -> Result<Self, FormatError> {
        let key_check = hashing.is_keyed().then(|| hashing.key_check());
        let header = Header { key_check, ..header.clone() };
        Self::begin_in(Out::begin(to, path, hashing)?, &header, hashing)
    }

    fn begin_in(mut out: Out<W>, header: &Header, hashing: &Hashing) -> Result<Self, FormatError> {
        let header = codec::encode_header(header).map_err(|source| FormatError::Codec { at: 0, source })?;
        out.frame(HEADER_FRAME, &header)?;
        Ok(Self {
            out,
            hashing: hashing.clone(),
            block: Vec::with_capacity(2 * BLOCK_TARGET),
            blocks: 0,
            directories: DirectoryWriter::default(),
            root: RootBuilder::new(hashing),
            last: None,
            entries: 0,
            bytes: 0,
        })
    }

    /// Writes the next entry.
    ///
    /// # Errors
    /// When it breaks a rule, does not come after the one before, is in no directory, or cannot be written.
    pub fn push(&mut self, entry: &Entry) -> Result<(), FormatError> {
        entry.check()?;
        if self.last.as_ref().is_some_and(|last| path_order(last, &entry.path).is_ge()) {
            return Err(FormatError::Order(entry.path.clone()));
        }
        self.check_blocks(entry)?;
        self.close_until(entry.parent())?;
        let at = self.here();
        self.root.add(entry)?;
        if matches!(entry.kind, Kind::Directory { .. }) {
            self.directories.opened(at);
        }
        let offset = self.out.at;
        codec::put_entry(entry, &mut self.block)
            .map_err(|source| FormatError::Codec { at: offset, source })?;
        self.last.get_or_insert_default().clone_from(&entry.path);
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.bytes());
        if self.block.len() >= BLOCK_TARGET {
            self.write_block()?;
        }
        self.write_directories(false)
    }

    /// Writes the rest; returns what the footer says, and what was written to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self, trailer: &Trailer) -> Result<(Summary, W), FormatError> {
        let summary = self.end(trailer)?;
        Ok((summary, self.out.into_inner()))
    }

    /// As [`ManifestWriter::finish`]; nothing may be pushed afterwards.
    pub(super) fn end(&mut self, trailer: &Trailer) -> Result<Summary, FormatError> {
        self.close_until(None)?;
        if !self.block.is_empty() {
            self.write_block()?;
        }
        self.write_directories(true)?;
        let at = self.out.at;
        let trailer = codec::encode_trailer(trailer).map_err(|source| FormatError::Codec { at, source })?;
        self.out.frame(TRAILER_FRAME, &trailer)?;
        let footer = Footer {
            summary: Summary { entries: self.entries, bytes: self.bytes, id: self.root.id() },
            top: self.directories.root(),
            index: self.out.at,
        };
        self.out.write_index()?;
        self.out.frame(FOOTER_FRAME, &footer.encode())?;
        self.out.flush()?;
        Ok(footer.summary)
    }

    /// The digest of the oldest frame that was written and not asked for yet; the header's is the first.
    pub(super) fn next_digest(&mut self) -> Option<[u8; 32]> {
        self.out.recent.as_mut()?.pop_front()
    }

    /// The hash of a large file is made of those of its blocks.
    fn check_blocks(&self, entry: &Entry) -> Result<(), FormatError> {
        match &entry.kind {
            Kind::File { size, content, blocks, .. }
                if !blocks.is_empty() && self.hashing.join(*size, blocks) != *content =>
            {
                let what = "a file's hash is not that of its blocks";
                Err(FormatError::Malformed { at: self.out.at, what })
            }
            _ => Ok(()),
        }
    }

    fn here(&self) -> Address {
        Address { block: self.blocks, offset: self.block.len() as u32 }
    }

    /// Closes the directories that end before an entry whose directory is `parent`; all for `None`.
    fn close_until(&mut self, parent: Option<&[u8]>) -> Result<(), FormatError> {
        let (end, at) = (self.here(), self.out.at);
        let (mut failed, directories) = (None, &mut self.directories);
        self.root.close_until(parent, |closed| {
            if let Err(source) = directories.closed(&closed, end) {
                failed = Some(FormatError::Codec { at, source });
            }
        });
        failed.map_or(Ok(()), Err)
    }

    fn write_block(&mut self) -> Result<(), FormatError> {
        self.out.frame(ENTRIES_FRAME, &self.block)?;
        self.block.clear();
        self.blocks += 1;
        Ok(())
    }

    fn write_directories(&mut self, at_end: bool) -> Result<(), FormatError> {
        match self.directories.full_block(at_end) {
            Some(block) => self.out.frame(DIRECTORIES_FRAME, &block),
            None => Ok(()),
        }
    }
}

impl ManifestWriter<io::Sink> {
    /// A writer that writes nothing, and whose frames have the digests that they should have in a file with this preamble.
    pub(super) fn along(
        preamble: &[u8; PREAMBLE],
        path: &Path,
        header: &Header,
        hashing: &Hashing,
    ) -> Result<Self, FormatError> {
        let mut out = Out::begin(io::sink(), path, hashing)?;
        out.digest = preamble_digest(hashing, preamble);
        out.recent = Some(VecDeque::new());
        Self::begin_in(out, header, hashing)
    }
}

/// What the last frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) summary: Summary,
    /// The record of the tree itself; there is none in an empty manifest.
    pub(super) top: Option<Address>,
    /// Where in the file the index begins.
    pub(super) index: u64,
}

impl Footer {
    pub(super) const LENGTH: usize = 64;

    pub(super) fn encode(&self) -> [u8; Self::LENGTH] {
        // No block has so many bytes.
        let top = self.top.unwrap_or(Address { block: u32::MAX, offset: u32::MAX });
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(&self.summary.entries.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.summary.bytes.to_le_bytes());
        bytes[16..48].copy_from_slice(self.summary.id.as_bytes());
        bytes[48..52].copy_from_slice(&top.block.to_le_bytes());
        bytes[52..56].copy_from_slice(&top.offset.to_le_bytes());
        bytes[56..].copy_from_slice(&self.index.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; Self::LENGTH]) -> Self {
        let number = |at: usize, length: usize| {
            bytes[at..at + length].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
        };
        let mut id = [0; 32];
        id.copy_from_slice(&bytes[16..48]);
        // Four bytes fit.
        let (block, offset) = (number(48, 4) as u32, number(52, 4) as u32);
        let top = (offset != u32::MAX).then_some(Address { block, offset });
        let summary = Summary { entries: number(0, 8), bytes: number(8, 8), id: ManifestId::from_bytes(id) };
        Self { summary, top, index: number(56, 8) }
    }
}

/// The digest of a frame, chained to the one before it.
pub(super) fn frame_digest(hashing: &Hashing, previous: &[u8; 32], kind: u8, payload: &[u8]) -> [u8; 32] {
    let mut hasher = hashing.hasher(Domain::Frame);
    hasher.update(previous).update(&[kind]).update(&(payload.len() as u64).to_le_bytes()).update(payload);
    *hasher.finalize().as_bytes()
}

/// The first link of the chain of digests.
pub(super) fn preamble_digest(hashing: &Hashing, preamble: &[u8; PREAMBLE]) -> [u8; 32] {
    *hashing.hasher(Domain::Frame).update(preamble).finalize().as_bytes()
}

/// One line of the index: kind, offset in the file, digest.
pub(super) const INDEX_ITEM: usize = 1 + 8 + 32;

/// Lines of one index frame.
pub(super) const INDEX_ITEMS: usize = MAX_PAYLOAD / INDEX_ITEM;

/// Writes frames and remembers where they are.
#[derive(Debug)]
pub(super) struct Out<W> {
    to: W,
    path: PathBuf,
    hashing: Hashing,
    digest: [u8; 32],
    at: u64,
    index: Vec<u8>,
    /// Digests for a reader that writes along.
    recent: Option<VecDeque<[u8; 32]>>,
}

impl<W: Write> Out<W> {
    pub(super) fn begin(to: W, path: &Path, hashing: &Hashing) -> Result<Self, FormatError> {
        let mut preamble = [0; PREAMBLE];
        preamble[..8].copy_from_slice(&MAGIC);
        preamble[8..10].copy_from_slice(&VERSION.to_le_bytes());
        preamble[10..12].copy_from_slice(&VERSION.to_le_bytes());
        let features = if hashing.is_keyed() { KEYED } else { 0 };
        preamble[12..20].copy_from_slice(&features.to_le_bytes());
        // Bytes 20..28 are the optional feature bits: none.
        let digest = preamble_digest(hashing, &preamble);
        let (path, hashing) = (path.to_owned(), hashing.clone());
        let mut out = Self { to, path, hashing, digest, at: 0, index: Vec::new(), recent: None };
        out.write(&preamble)?;
        Ok(out)
    }

    pub(super) fn frame(&mut self, kind: u8, payload: &[u8]) -> Result<(), FormatError> {
        let at = self.at;
        let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_PAYLOAD);
        let length = length.ok_or(FormatError::Malformed { at, what: "the frame is too large" })?;
        self.digest = frame_digest(&self.hashing, &self.digest, kind, payload);
        if let Some(recent) = &mut self.recent {
            recent.push_back(self.digest);
        }
        self.index.push(kind);
        self.index.extend_from_slice(&at.to_le_bytes());
        self.index.extend_from_slice(&self.digest);
        let mut head = [kind, 0, 0, 0, 0];
        head[1..].copy_from_slice(&length.to_le_bytes());
        self.write(&head)?;
        self.write(payload)?;
        let digest = self.digest;
        self.write(&digest)?;
        debug_assert_eq!(self.at, at + (AROUND + payload.len()) as u64);
        Ok(())
    }

    /// Where all frames so far are, and their digests.
    fn write_index(&mut self) -> Result<(), FormatError> {
        let index = std::mem::take(&mut self.index);
        for part in index.chunks(INDEX_ITEMS * INDEX_ITEM) {
            self.frame(INDEX_FRAME, part)?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        self.at += bytes.len() as u64;
        let path = &self.path;
        self.to.write_all(bytes).map_err(|source| FormatError::Io {
            action: "write",
            path: path.clone(),
            source,
        })
    }

    fn flush(&mut self) -> Result<(), FormatError> {
        let path = &self.path;
        self.to.flush().map_err(|source| FormatError::Io { action: "write", path: path.clone(), source })
    }

    pub(super) fn into_inner(self) -> W {
        self.to
    }
}
