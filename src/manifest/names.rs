//! The names in a directory, listed at once and kept in pieces: when many directories or a huge one are open, on the disk.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

use super::sorter::SortError;

/// Bytes of names that are handed out at once: about a thousand names.
const PIECE: usize = 32 << 10;

/// Bytes of names that all directories together keep in memory before more are written out.
const HELD: usize = 4 << 20;

/// Bytes for one system call that lists.
const LISTING: usize = 32 << 10;

/// A number and the type before each name; a NUL behind it.
const HEAD: usize = 9;

/// One name in a directory, as the directory itself has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) name: CString,
    pub(super) inode: u64,
    /// Unknown where the filesystem does not say.
    pub(super) file_type: FileType,
}

/// Where names go when they are many.
pub(super) struct Spill {
    /// `None`: everything stays in memory.
    scratch: Option<PathBuf>,
    file: OnceLock<File>,
    end: AtomicU64,
    held: Arc<AtomicUsize>,
    limit: usize,
}

/// The names of one directory, not yet handed out.
#[derive(Default)]
pub(super) struct Names {
    /// The last is the first to be handed out.
    pieces: Vec<Piece>,
}

enum Piece {
    Held(Held),
    Spilled { at: u64, length: usize, digest: [u8; 16] },
}

/// Bytes that count.
struct Held {
    bytes: Vec<u8>,
    total: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes.len(), Relaxed);
    }
}

/// A listing that did not come to its end.
#[derive(Debug)]
pub(super) enum ListError {
    /// The directory could not be read.
    Directory(Errno),
    /// The temporary file failed.
    Spill(SortError),
}

impl Spill {
    pub(super) fn new(scratch: Option<&Path>) -> Self {
        Self {
            scratch: scratch.map(Path::to_owned),
            file: OnceLock::new(),
            end: AtomicU64::new(0),
            held: Arc::default(),
            limit: HELD,
        }
    }

    fn keep(&self, bytes: Vec<u8>) -> Result<Piece, SortError> {
        let before = self.held.fetch_add(bytes.len(), Relaxed);
        let held = Held { bytes, total: Arc::clone(&self.held) };
        let Some(scratch) = self.scratch.as_ref().filter(|_| before >= self.limit) else {
            return Ok(Piece::Held(held));
        };
        let length = held.bytes.len();
        let at = self.end.fetch_add(length as u64, Relaxed);
        let digest = digest(&held.bytes);
        self.file(scratch)?
            .write_all_at(&held.bytes, at)
            .map_err(|source| trouble("write", scratch, source))?;
        Ok(Piece::Spilled { at, length, digest })
    }

    fn fetch(&self, piece: Piece) -> Result<Vec<u8>, SortError> {
        let (at, length, wanted) = match piece {
            Piece::Held(mut held) => {
                held.total.fetch_sub(held.bytes.len(), Relaxed);
                return Ok(std::mem::take(&mut held.bytes));
            }
            Piece::Spilled { at, length, digest } => (at, length, digest),
        };
        let scratch = self.scratch.as_deref().unwrap_or(Path::new(""));
        let mut bytes = vec![0; length];
        self.file(scratch)?
            .read_exact_at(&mut bytes, at)
            .map_err(|source| trouble("read", scratch, source))?;
        if digest(&bytes) == wanted { Ok(bytes) } else { Err(SortError::Damaged(scratch.to_owned())) }
    }

    fn file(&self, scratch: &Path) -> Result<&File, SortError> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = tempfile::tempfile_in(scratch).map_err(|source| trouble("create", scratch, source))?;
        // Another thread may have been faster; its file is then taken.
        Ok(self.file.get_or_init(|| file))
    }
}

impl Names {
    /// Lists an open directory from its beginning, without `.` and `..` and what `left_out` says.
    pub(super) fn list(
        directory: &OwnedFd,
        spill: &Spill,
        mut left_out: impl FnMut(&CStr) -> bool,
    ) -> Result<Self, ListError> {
        rustix::fs::seek(directory, rustix::fs::SeekFrom::Start(0)).map_err(ListError::Directory)?;
        let mut names = Self::default();
        let mut piece = Vec::new();
        let mut buffer = [MaybeUninit::<u8>::uninit(); LISTING];
        let mut listing = RawDir::new(directory, &mut buffer);
        while let Some(item) = listing.next() {
            let item = item.map_err(ListError::Directory)?;
            let name = item.file_name();
            if matches!(name.to_bytes(), b"." | b"..") || left_out(name) {
                continue;
            }
            piece.extend_from_slice(&item.ino().to_le_bytes());
            piece.push(code(item.file_type()));
            piece.extend_from_slice(name.to_bytes_with_nul());
            if piece.len() >= PIECE {
                names.pieces.push(spill.keep(std::mem::take(&mut piece)).map_err(ListError::Spill)?);
            }
        }
        if !piece.is_empty() {
            names.pieces.push(spill.keep(piece).map_err(ListError::Spill)?);
        }
        names.pieces.reverse();
        Ok(names)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The next of them; nothing when there are no more.
    pub(super) fn next_piece(&mut self, spill: &Spill) -> Result<Vec<Name>, SortError> {
        let Some(piece) = self.pieces.pop() else { return Ok(Vec::new()) };
        Ok(parse(&spill.fetch(piece)?))
    }
}

fn parse(mut bytes: &[u8]) -> Vec<Name> {
    let mut names = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() {
        let Ok(name) = CStr::from_bytes_until_nul(rest) else { break };
        let mut inode = [0; 8];
        inode.copy_from_slice(&head[..8]);
        bytes = &rest[name.to_bytes_with_nul().len()..];
        let (name, inode) = (name.to_owned(), u64::from_le_bytes(inode));
        names.push(Name { name, inode, file_type: decoded(head[8]) });
    }
    names
}

/// Only what makes a difference for what is done next.
fn code(file_type: FileType) -> u8 {
    match file_type {
        FileType::RegularFile => 1,
        FileType::Directory => 2,
        _ => 0,
    }
}

fn decoded(code: u8) -> FileType {
    match code {
        1 => FileType::RegularFile,
        2 => FileType::Directory,
        _ => FileType::Unknown,
    }
}

fn digest(bytes: &[u8]) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    digest
}

fn trouble(action: &'static str, scratch: &Path, source: std::io::Error) -> SortError {
    SortError::Io { action, scratch: scratch.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::super::opening::open_top;
    use super::*;

    fn all(names: &mut Names, spill: &Spill) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let piece = names.next_piece(spill).unwrap();
            if piece.is_empty() {
                break;
            }
            all.extend(piece.into_iter().map(|name| name.name.into_string().unwrap()));
        }
        all.sort();
        all
    }

    #[test]
    fn names_come_back_whether_held_or_spilled() {
        let dir = tempfile::tempdir().unwrap();
        let mut expected = Vec::new();
        for n in 0..3000 {
            expected.push(format!("{n:0>40}"));
            std::fs::write(dir.path().join(&expected[n]), b"").unwrap();
        }
        std::fs::write(dir.path().join("left-out"), b"").unwrap();
        let top = open_top(dir.path()).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        for limit in [0, 50_000, usize::MAX] {
            let spill = Spill { limit, ..Spill::new(Some(scratch.path())) };
            let mut names = Names::list(&top, &spill, |name| name == c"left-out").unwrap();
            let spilled = names.pieces.iter().filter(|piece| matches!(piece, Piece::Spilled { .. })).count();
            assert_eq!((spilled > 0, spilled < names.pieces.len()), (limit < usize::MAX, limit > 0));
            assert_eq!(all(&mut names, &spill), expected);
            assert_eq!(spill.held.load(Relaxed), 0);
        }
    }

    #[test]
    fn a_damaged_temporary_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("name"), b"").unwrap();
        let top = open_top(dir.path()).unwrap();
        let spill = Spill { limit: 0, ..Spill::new(Some(dir.path())) };
        let mut names = Names::list(&top, &spill, |_| false).unwrap();
        spill.file.get().unwrap().write_all_at(b"X", 10).unwrap();
        assert!(matches!(names.next_piece(&spill), Err(SortError::Damaged(_))));
    }
}
