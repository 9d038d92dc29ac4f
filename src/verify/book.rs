//! The manifest and the ledger of a copy, read side by side: which files hold something, and when each was last proven.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::ledger::{LedgerError, LedgerReader, LedgerWriter, OpenRun, Opening, Proof, Subject, mark_of};
use super::pinned::Pinned;
use crate::manifest::coverage::Amount;
use crate::manifest::entry::{ContentHash, path_order};
use crate::manifest::format::{FormatError, Header, Summary};
use crate::manifest::sorter::{Merged, Record, SortError, Sorter};
use crate::manifest::{Entry, Hashing, Kind, Reader};
use crate::system::lock::{ExclusiveLock, LockError};

/// The manifest or the ledger cannot be used, or the ledger not be saved.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The manifest.
    #[error("failed to read the manifest {}", .path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        source: FormatError,
    },
    /// The ledger.
    #[error("failed to use the ledger of what was proven")]
    Ledger(#[from] LedgerError),
    /// Another verification uses the ledger.
    #[error("failed to get the ledger for this run alone")]
    Lock(#[from] LockError),
    /// What was proven could not be put in order.
    #[error("failed to put in order what was proven")]
    Sort(#[from] SortError),
}

/// Both, held open: whatever is renamed over them, all readings of a run see the same.
#[derive(Debug)]
pub(super) struct Book {
    manifest: Pinned,
    manifest_path: PathBuf,
    hashing: Hashing,
    header: Header,
    subject: Subject,
    ledger: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    path: PathBuf,
    /// As it was when the run began; `None`: there was none yet.
    before: Option<Pinned>,
    _lock: ExclusiveLock,
}

/// What a ledger amounts to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) total: Amount,
    pub(super) proven: Amount,
    pub(super) overdue: Amount,
    /// When the oldest proof was made.
    pub(super) oldest: Option<i64>,
}

impl Book {
    /// Opens the manifest, and the ledger if one is kept. Until it is dropped no other run gets the same ledger.
    pub(super) fn open(
        copy: &Path,
        manifest_path: &Path,
        hashing: &Hashing,
        ledger: Option<&Path>,
    ) -> Result<Self, BookError> {
        let trouble = |source| BookError::Manifest { path: manifest_path.to_owned(), source };
        let manifest = Pinned::open(manifest_path).map_err(|source| {
            trouble(FormatError::Io { action: "open", path: manifest_path.to_owned(), source })
        })?;
        let header = open(&manifest, manifest_path, hashing).map_err(trouble)?.header().clone();
        let copy = std::fs::canonicalize(copy).unwrap_or_else(|_| copy.to_owned());
        let subject = Subject::new(&copy, &header);
        let (manifest_path, hashing) = (manifest_path.to_owned(), hashing.clone());
        let ledger = ledger.map(Kept::open).transpose()?;
        Ok(Self { manifest, manifest_path, hashing, header, subject, ledger })
    }

    /// The manifest's.
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Whether proofs outlive the run.
    pub(super) fn is_kept(&self) -> bool {
        self.ledger.is_some()
    }

    /// The whole manifest, from its beginning.
    pub(super) fn manifest(&self) -> Result<Reader<BufReader<Pinned>>, BookError> {
        open(&self.manifest, &self.manifest_path, &self.hashing).map_err(|source| self.unusable(source))
    }

    /// An error of the manifest.
    pub(super) fn unusable(&self, source: FormatError) -> BookError {
        BookError::Manifest { path: self.manifest_path.clone(), source }
    }

    /// When the ledger was saved before this run began, and what was not ended then.
    pub(super) fn before(&self) -> Result<Option<Opening>, BookError> {
        let Some(Kept { path, before: Some(before), .. }) = &self.ledger else { return Ok(None) };
        Ok(Some(*LedgerReader::of(before, path, &self.subject)?.opening()))
    }

    /// The files that hold something, with their proofs as they were when the run began.
    pub(super) fn candidates(&self, now: i64) -> Result<Candidates<'_>, BookError> {
        let proofs = match &self.ledger {
            Some(Kept { path, before: Some(before), .. }) => {
                Some(LedgerReader::of(before, path, &self.subject)?)
            }
            _ => None,
        };
        self.side_by_side(proofs, now)
    }

    /// Adds what was proven, and what could not be any more, to the ledger as it is now, durably.
    ///
    /// `news` are records of [`proof`] and [`no_proof`]. Proofs of files that the manifest does not have, or has with other
    /// content, are dropped. What was proven before `since` is overdue.
    pub(super) fn save(
        &self,
        news: Sorter,
        now: i64,
        since: i64,
        open_run: Option<OpenRun>,
    ) -> Result<Tally, BookError> {
        let (mut writer, mut current) = (None, None);
        if let Some(Kept { path, .. }) = &self.ledger {
            current = LedgerReader::open(path, &self.subject)?;
            let opening = Opening { subject: self.subject, saved: now, open_run };
            writer = Some(LedgerWriter::begin(path, &opening)?);
        }
        let mut files = self.side_by_side(current, now)?;
        let mut news = News::begin(news)?;
        let mut tally = Tally::default();
        while let Some((entry, content, before)) = files.next()? {
            let proven = news.about(&entry.path)?.unwrap_or(before);
            tally.count(entry.bytes(), proven, since);
            if let (Some(writer), Some(proven)) = (&mut writer, proven) {
                writer.push(&Proof { path: entry.path, mark: mark_of(&content), proven })?;
            }
        }
        if let Some(writer) = writer {
            writer.commit()?;
        }
        Ok(tally)
    }

    fn side_by_side(&self, proofs: Option<LedgerReader>, now: i64) -> Result<Candidates<'_>, BookError> {
        // A clock that was put back must not make proofs younger: each keeps the age that it had when the ledger was saved.
        let put_back = proofs.as_ref().map_or(0, |proofs| proofs.opening().saved.saturating_sub(now).max(0));
        Ok(Candidates {
            book: self,
            manifest: self.manifest()?,
            proofs,
            proof: None,
            put_back,
            summary: None,
        })
    }
}

fn open(file: &Pinned, path: &Path, hashing: &Hashing) -> Result<Reader<BufReader<Pinned>>, FormatError> {
    Reader::new(BufReader::with_capacity(128 << 10, file.again()), path, hashing)
}

impl Kept {
    fn open(path: &Path) -> Result<Self, BookError> {
        let lock = ExclusiveLock::try_acquire(&lock_of(path))?;
        let before = match Pinned::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => {
                return Err(LedgerError::Io { action: "open", path: path.to_owned(), source }.into());
            }
            Ok(file) => Some(file),
        };
        Ok(Self { path: path.to_owned(), before, _lock: lock })
    }
}

fn lock_of(ledger: &Path) -> PathBuf {
    let mut name = ledger.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Drops a ledger, whatever is in it; one that is not there is fine.
///
/// # Errors
/// When it is in use or cannot be removed.
pub fn forget(ledger: &Path) -> Result<(), BookError> {
    let _lock = ExclusiveLock::try_acquire(&lock_of(ledger))?;
    crate::system::durable::remove_file(ledger).map_err(LedgerError::from)?;
    Ok(())
}

/// Yields the files of a manifest whose content can be proven, in its order.
#[derive(Debug)]
pub(super) struct Candidates<'b> {
    book: &'b Book,
    manifest: Reader<BufReader<Pinned>>,
    proofs: Option<LedgerReader>,
    proof: Option<Proof>,
    /// Seconds.
    put_back: i64,
    summary: Option<Summary>,
}

impl Candidates<'_> {
    /// The next file of at least one byte whose content is known, its content hash, and when it was last proven.
    pub(super) fn next(&mut self) -> Result<Option<(Entry, ContentHash, Option<i64>)>, BookError> {
        loop {
            let Some(entry) =
                self.manifest.next().transpose().map_err(|source| self.book.unusable(source))?
            else {
                // The rest of the ledger is looked at too: only as a whole can it be believed.
                while self.next_proof()?.is_some() {}
                self.summary = self.manifest.summary();
                return Ok(None);
            };
            if let Kind::File { size: 1.., content: Some(content), .. } = entry.kind {
                let proven = self.proven(&entry.path, &content)?;
                return Ok(Some((entry, content, proven)));
            }
        }
    }

    /// Counts and id of the manifest, once its end was reached.
    pub(super) fn summary(&self) -> Option<Summary> {
        self.summary
    }

    fn proven(&mut self, path: &[u8], content: &ContentHash) -> Result<Option<i64>, BookError> {
        loop {
            if self.proof.is_none() && self.next_proof()?.is_none() {
                return Ok(None);
            }
            let order = self.proof.as_ref().map(|proof| path_order(&proof.path, path));
            match order {
                Some(std::cmp::Ordering::Less) => self.proof = None,
                Some(std::cmp::Ordering::Equal) => {
                    let proof = self.proof.take().filter(|proof| proof.mark == mark_of(content));
                    return Ok(proof.map(|proof| proof.proven.saturating_sub(self.put_back)));
                }
                _ => return Ok(None),
            }
        }
    }

    fn next_proof(&mut self) -> Result<Option<&Proof>, BookError> {
        self.proof = match &mut self.proofs {
            Some(proofs) => proofs.next_proof()?,
            None => None,
        };
        Ok(self.proof.as_ref())
    }
}

/// The record of a file that was proven at this time.
pub(super) fn proof(news: &mut Sorter, path: &[u8], at: i64) -> Result<(), SortError> {
    news.push(path, &at.to_le_bytes())
}

/// The record of a file that is not what it should be: an older proof is void.
pub(super) fn no_proof(news: &mut Sorter, path: &[u8]) -> Result<(), SortError> {
    news.push(path, &[])
}

struct News {
    records: Merged,
    next: Option<Record>,
}

impl News {
    fn begin(news: Sorter) -> Result<Self, SortError> {
        let mut records = news.finish()?;
        Ok(Self { next: records.next_record()?, records })
    }

    /// The last that was said of a file: when it was proven, or that it no longer is. Files are asked for in order.
    fn about(&mut self, path: &[u8]) -> Result<Option<Option<i64>>, SortError> {
        let mut last = None;
        while let Some((about, value)) = &self.next {
            match path_order(about, path) {
                std::cmp::Ordering::Greater => break,
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => {
                    last = Some(value.as_slice().try_into().ok().map(i64::from_le_bytes));
                }
            }
            self.next = self.records.next_record()?;
        }
        Ok(last)
    }
}

impl Tally {
    fn count(&mut self, bytes: u64, proven: Option<i64>, since: i64) {
        self.total.add(bytes);
        if let Some(at) = proven {
            self.proven.add(bytes);
            self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at)));
        }
        if proven.is_none_or(|at| at < since) {
            self.overdue.add(bytes);
        }
    }
}
