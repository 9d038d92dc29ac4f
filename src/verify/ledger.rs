//! What was proven when: one file for each copy and tree, in the order of a manifest.
//!
//! ```text
//! preamble  magic 8 · version u16 · min reader u16
//! frame     kind u8 · length u32 · payload · digest 32       (all integers little-endian)
//! frames    header, proofs.., footer
//! ```
//!
//! Every digest is over all bytes before it, so a file that was cut, spliced or flipped anywhere is found out. Whoever reads one
//! must read it to its end before believing any of it. `docs/coverage.md` describes it byte by byte.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::pinned::Pinned;
use crate::manifest::entry::{ContentHash, MAX_PATH, path_order};
use crate::manifest::format::Header;
use crate::system::durable::{DurableError, Replacement};

/// The first bytes of every ledger; see the manifest's for why these.
const MAGIC: [u8; 8] = *b"\x89SUL\r\n\x1a\n";

/// The version that is written, and the oldest whose readers understand it.
const VERSION: u16 = 1;

const PREAMBLE: usize = 12;
const CONTEXT: &str = "safe-upgrade 2026 ledger v1";
const SUBJECT_CONTEXT: &str = "safe-upgrade 2026 ledger v1 subject";

const HEADER_FRAME: u8 = 1;
const PROOFS_FRAME: u8 = 2;
const FOOTER_FRAME: u8 = 3;

/// A frame is closed when it has grown to this, in bytes.
const BLOCK: usize = 64 << 10;

/// The largest payload, in bytes: a block, and one record with the longest path.
const MAX_PAYLOAD: usize = BLOCK + MAX_PATH + 64;

/// Only its owner may read it: it names every file.
const FILE_MODE: u32 = 0o600;

/// How much of a content hash is kept: enough that no other content has the same by chance or by work.
pub const MARK: usize = 16;

/// Which copy of which tree a ledger is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject([u8; 32]);

/// A file of the copy was read, and was what the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The file.
    pub path: Vec<u8>,
    /// The beginning of its content hash.
    pub mark: [u8; MARK],
    /// When it was read, in seconds since 1970.
    pub proven: i64,
}

/// A verification that was begun and not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenRun {
    /// Tells what it was asked, the seed aside.
    pub asked: [u8; MARK],
    /// The seed of its sample.
    pub seed: u64,
    /// When it began, in seconds since 1970.
    pub began: i64,
}

/// What stands at the beginning of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Whose it is.
    pub subject: Subject,
    /// When it was written, in seconds since 1970; no proof in it is later.
    pub saved: i64,
    /// What had not ended then.
    pub open_run: Option<OpenRun>,
}

/// A ledger that cannot be used. Nothing that it holds is believed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It could not be read or written.
    #[error("failed to {action} the ledger {}", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be made durable.
    #[error("failed to save the ledger")]
    Durable(#[from] DurableError),
    /// It is another kind of file.
    #[error("{} is not a ledger", .0.display())]
    NotALedger(PathBuf),
    /// It needs a newer program.
    #[error("the ledger {} needs a newer safe-upgrade: format version {version}", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// What it says of itself.
        version: u16,
    },
    /// It is about another copy or tree.
    #[error("the ledger {} belongs to another copy or another tree", .0.display())]
    Foreign(PathBuf),
    /// It is not what was written.
    #[error("the ledger {} is damaged at byte {at}: {what}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the frame begins.
        at: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Subject {
    /// The copy at `copy` of the tree that a manifest's header names. Later manifests of the same tree have the same subject.
    #[must_use]
    pub fn new(copy: &Path, header: &Header) -> Self {
        // Without a machine id the name has to do.
        let machine = if header.machine.is_empty() { &header.host } else { &header.machine };
        let mut hasher = blake3::Hasher::new_derive_key(SUBJECT_CONTEXT);
        for part in [copy.as_os_str().as_bytes(), machine.as_bytes(), &header.tree] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// A name for the file, the same for the same subject.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}.ledger", &blake3::Hash::from_bytes(self.0).to_hex()[..16])
    }
}

/// The part of a content hash that a ledger keeps.
#[must_use]
pub fn mark_of(content: &ContentHash) -> [u8; MARK] {
    let mut mark = [0; MARK];
    mark.copy_from_slice(&content[..MARK]);
    mark
}

/// Writes a ledger; nothing of it is seen before [`LedgerWriter::commit`].
#[derive(Debug)]
pub struct LedgerWriter {
    out: BufWriter<File>,
    place: Replacement,
    path: PathBuf,
    digest: [u8; 32],
    block: Vec<u8>,
    last: Vec<u8>,
    saved: i64,
    count: u64,
}

impl LedgerWriter {
    /// Begins one that will replace `path`.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn begin(path: &Path, opening: &Opening) -> Result<Self, LedgerError> {
        let mut place = Replacement::begin(path, FILE_MODE)?;
        let file = place.file().try_clone().map_err(|source| trouble("write", path, source))?;
        let mut preamble = MAGIC.to_vec();
        preamble.extend_from_slice(&VERSION.to_le_bytes());
        preamble.extend_from_slice(&VERSION.to_le_bytes());
        let mut out = BufWriter::with_capacity(BLOCK, file);
        out.write_all(&preamble).map_err(|source| trouble("write", path, source))?;
        let mut writer = Self {
            out,
            place,
            path: path.to_owned(),
            digest: chain(&[0; 32], &[&preamble]),
            block: Vec::with_capacity(MAX_PAYLOAD),
            last: Vec::new(),
            saved: opening.saved,
            count: 0,
        };
        opening.put(&mut writer.block);
        writer.frame(HEADER_FRAME)?;
        Ok(writer)
    }

    /// Adds a proof; they come in the order of a manifest. A time after that of the opening is brought down to it.
    ///
    /// # Errors
    /// When the disk is full, and the like.
    pub fn push(&mut self, proof: &Proof) -> Result<(), LedgerError> {
        // Each block can be read without the one before it.
        let last = if self.block.is_empty() { &[][..] } else { &self.last };
        let shared = last.iter().zip(&proof.path).take_while(|(l, r)| l == r).count();
        let rest = &proof.path[shared..];
        // Both are at most MAX_PATH, which fits.
        self.block.extend_from_slice(&(shared as u16).to_le_bytes());
        self.block.extend_from_slice(&(rest.len() as u16).to_le_bytes());
        self.block.extend_from_slice(rest);
        self.block.extend_from_slice(&proof.mark);
        self.block.extend_from_slice(&proof.proven.min(self.saved).to_le_bytes());
        self.last.clear();
        self.last.extend_from_slice(&proof.path);
        self.count += 1;
        if self.block.len() >= BLOCK { self.frame(PROOFS_FRAME) } else { Ok(()) }
    }

    /// Puts it in place, durably.
    ///
    /// # Errors
    /// The old ledger, if any, is then still whole.
    pub fn commit(mut self) -> Result<(), LedgerError> {
        if !self.block.is_empty() {
            self.frame(PROOFS_FRAME)?;
        }
        self.block.extend_from_slice(&self.count.to_le_bytes());
        self.frame(FOOTER_FRAME)?;
        self.out.flush().map_err(|source| trouble("write", &self.path, source))?;
        Ok(self.place.commit()?)
    }

    fn frame(&mut self, kind: u8) -> Result<(), LedgerError> {
        // MAX_PAYLOAD fits.
        let length = (self.block.len() as u32).to_le_bytes();
        self.digest = chain(&self.digest, &[&[kind], &length, &self.block]);
        let parts: [&[u8]; 4] = [&[kind], &length, &self.block, &self.digest];
        let written = parts.iter().try_for_each(|part| self.out.write_all(part));
        self.block.clear();
        written.map_err(|source| trouble("write", &self.path, source))
    }
}

/// Yields the proofs of a ledger in order, and holds one frame of it at a time.
#[derive(Debug)]
pub struct LedgerReader {
    from: BufReader<Pinned>,
    path: PathBuf,
    at: u64,
    digest: [u8; 32],
    opening: Opening,
    block: Vec<u8>,
    used: usize,
    last: Vec<u8>,
    count: u64,
    ended: bool,
}

impl LedgerReader {
    /// Opens a ledger; `None` when there is none yet.
    ///
    /// # Errors
    /// When it is damaged so far, newer, or about something else.
    pub fn open(path: &Path, subject: &Subject) -> Result<Option<Self>, LedgerError> {
        match Pinned::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(trouble("open", path, source)),
            Ok(file) => Self::of(&file, path, subject).map(Some),
        }
    }

    /// Reads one that is held open, from its beginning; `path` is named in errors.
    pub(super) fn of(file: &Pinned, path: &Path, subject: &Subject) -> Result<Self, LedgerError> {
        let mut reader = Self {
            from: BufReader::with_capacity(BLOCK, file.again()),
            path: path.to_owned(),
            at: 0,
            digest: [0; 32],
            opening: Opening { subject: *subject, saved: 0, open_run: None },
            block: Vec::new(),
            used: 0,
            last: Vec::new(),
            count: 0,
            ended: false,
        };
        reader.preamble()?;
        if reader.frame()? != HEADER_FRAME {
            return Err(reader.damaged("it has no header"));
        }
        let opening =
            Opening::take(&reader.block).ok_or_else(|| reader.damaged("the header is malformed"))?;
        reader.used = reader.block.len();
        reader.opening = opening;
        if opening.subject != *subject {
            return Err(LedgerError::Foreign(path.to_owned()));
        }
        Ok(reader)
    }

    /// What stands at its beginning.
    #[must_use]
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// The next proof; `None` when the end was found whole.
    ///
    /// # Errors
    /// When anything is not as it was written.
    pub fn next_proof(&mut self) -> Result<Option<Proof>, LedgerError> {
        while self.used == self.block.len() {
            if self.ended {
                return Ok(None);
            }
            match self.frame()? {
                PROOFS_FRAME => self.used = 0,
                FOOTER_FRAME => self.end()?,
                _ => return Err(self.damaged("a frame of unknown kind")),
            }
        }
        let proof = self.take().ok_or_else(|| self.damaged("a proof is malformed"))?;
        if self.count > 0 && path_order(&self.last, &proof.path).is_ge() {
            return Err(self.damaged("the proofs are out of order"));
        }
        self.last.clone_from(&proof.path);
        self.count += 1;
        Ok(Some(proof))
    }

    fn take(&mut self) -> Option<Proof> {
        let rest = &self.block[self.used..];
        let (lengths, rest) = rest.split_at_checked(4)?;
        let shared = usize::from(u16::from_le_bytes([lengths[0], lengths[1]]));
        let (tail, rest) =
            rest.split_at_checked(usize::from(u16::from_le_bytes([lengths[2], lengths[3]])))?;
        let (mark, rest) = rest.split_first_chunk::<MARK>()?;
        let (proven, rest) = rest.split_first_chunk::<8>()?;
        let known = if self.used == 0 { 0 } else { self.last.len() };
        let proven = i64::from_le_bytes(*proven);
        if shared > known || shared + tail.len() > MAX_PATH || proven > self.opening.saved {
            return None;
        }
        let path = [&self.last[..shared], tail].concat();
        self.used = self.block.len() - rest.len();
        Some(Proof { path, mark: *mark, proven })
    }

    fn end(&mut self) -> Result<(), LedgerError> {
        if self.block != self.count.to_le_bytes() {
            return Err(self.damaged("the number of proofs is not that of the footer"));
        }
        let mut beyond = [0];
        match self.from.read(&mut beyond) {
            Ok(0) => {}
            Ok(_) => return Err(self.damaged("bytes follow the footer")),
            Err(source) => return Err(trouble("read", &self.path, source)),
        }
        self.used = self.block.len();
        self.ended = true;
        Ok(())
    }

    fn preamble(&mut self) -> Result<(), LedgerError> {
        let mut bytes = [0; PREAMBLE];
        match self.from.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(LedgerError::NotALedger(self.path.clone()));
            }
            read => read.map_err(|source| trouble("read", &self.path, source))?,
        }
        if bytes[..MAGIC.len()] != MAGIC {
            return Err(LedgerError::NotALedger(self.path.clone()));
        }
        let (version, min_reader) =
            (u16::from_le_bytes([bytes[8], bytes[9]]), u16::from_le_bytes([bytes[10], bytes[11]]));
        if min_reader > VERSION {
            return Err(LedgerError::Newer { path: self.path.clone(), version });
        }
        self.at = PREAMBLE as u64;
        self.digest = chain(&[0; 32], &[&bytes]);
        Ok(())
    }

    /// Reads the next frame into `block`, checks its digest, and says its kind.
    fn frame(&mut self) -> Result<u8, LedgerError> {
        let mut head = [0; 5];
        self.exactly(&mut head)?;
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > MAX_PAYLOAD {
            return Err(self.damaged("a frame is larger than allowed"));
        }
        let mut block = std::mem::take(&mut self.block);
        block.resize(length, 0);
        let mut digest = [0; 32];
        self.exactly(&mut block)?;
        self.exactly(&mut digest)?;
        self.block = block;
        self.digest = chain(&self.digest, &[&head, &self.block]);
        if self.digest != digest {
            return Err(self.damaged("the digest does not match"));
        }
        self.at += (head.len() + length + digest.len()) as u64;
        Ok(head[0])
    }

    fn exactly(&mut self, into: &mut [u8]) -> Result<(), LedgerError> {
        self.from.read_exact(into).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("it is cut short"),
            _ => trouble("read", &self.path, source),
        })
    }

    fn damaged(&self, what: &'static str) -> LedgerError {
        LedgerError::Damaged { path: self.path.clone(), at: self.at, what }
    }
}

impl Opening {
    fn put(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.subject.0);
        into.extend_from_slice(&self.saved.to_le_bytes());
        if let Some(run) = &self.open_run {
            into.extend_from_slice(&run.asked);
            into.extend_from_slice(&run.seed.to_le_bytes());
            into.extend_from_slice(&run.began.to_le_bytes());
        }
    }

    fn take(bytes: &[u8]) -> Option<Self> {
        let (subject, rest) = bytes.split_first_chunk::<32>()?;
        let (saved, rest) = rest.split_first_chunk::<8>()?;
        let open_run = match rest {
            [] => None,
            rest => {
                let (asked, rest) = rest.split_first_chunk::<MARK>()?;
                let (seed, rest) = rest.split_first_chunk::<8>()?;
                let (began, rest) = rest.split_first_chunk::<8>()?;
                let (seed, began) = (u64::from_le_bytes(*seed), i64::from_le_bytes(*began));
                rest.is_empty().then_some(Some(OpenRun { asked: *asked, seed, began }))?
            }
        };
        Some(Self { subject: Subject(*subject), saved: i64::from_le_bytes(*saved), open_run })
    }
}

fn chain(before: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(before);
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

fn trouble(action: &'static str, path: &Path, source: io::Error) -> LedgerError {
    LedgerError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
