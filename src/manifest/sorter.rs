//! Sorts more records than fit into memory: full buffers are sorted and written to unlinked temporary files, and merged in the end.
//!
//! A record is a key and a value, both bytes. Records with equal keys keep the order in which they came. The temporary files are
//! checked when they are read back: a verifier must not take its own disk's faults for those of a copy.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Bytes of records that are held before they are written out. A quarter of what the whole program may use.
pub const BUFFER: usize = 16 << 20;

/// The most files that are merged at once; more are merged into one first.
const FAN_IN: usize = 64;

/// Bytes of each file that are read or written at once.
const BLOCK: usize = 64 << 10;

/// How keys stand to each other.
pub type Order = fn(&[u8], &[u8]) -> Ordering;

/// A temporary file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SortError {
    /// The directory or the disk.
    #[error("failed to {action} a temporary file in {}", .scratch.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The directory.
        scratch: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bytes that came back are not those that were written.
    #[error("a temporary file in {} was damaged: is the disk failing?", .0.display())]
    Damaged(PathBuf),
    /// A record that this program wrote does not decode.
    #[error("a record could not be sorted: {0}")]
    Record(&'static str),
    /// An alias of something that was not there before it.
    #[error("{} is a hard link to {}, which does not come before it", crate::system::show::bytes(.path), crate::system::show::bytes(.target))]
    Dangling {
        /// The alias.
        path: Vec<u8>,
        /// What it should be another name of.
        target: Vec<u8>,
    },
}

/// Takes records in any order.
#[derive(Debug)]
pub struct Sorter {
    order: Order,
    scratch: PathBuf,
    limit: usize,
    records: Vec<u8>,
    index: Vec<u32>,
    runs: Vec<File>,
}

impl Sorter {
    /// Sorts by `order`; files go to the directory `scratch`, and only when there is more than the buffer holds.
    #[must_use]
    pub fn new(order: Order, scratch: &Path) -> Self {
        Self::with_buffer(order, scratch, BUFFER)
    }

    /// As [`Sorter::new`], with another buffer, in bytes.
    #[must_use]
    pub fn with_buffer(order: Order, scratch: &Path, limit: usize) -> Self {
        let scratch = scratch.to_owned();
        Self { order, scratch, limit, records: Vec::new(), index: Vec::new(), runs: Vec::new() }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// When a temporary file cannot be written, or the record is larger than 1 GiB.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), SortError> {
        let need = 8 + key.len() + value.len();
        if need > 1 << 30 {
            return Err(SortError::Record("it is too large"));
        }
        let held = self.records.len() + self.index.len() * size_of::<u32>();
        if !self.index.is_empty() && held + need > self.limit {
            self.spill()?;
        }
        // The limit keeps offsets and lengths below 4 GiB.
        self.index.push(self.records.len() as u32);
        self.records.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.records.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.records.extend_from_slice(key);
        self.records.extend_from_slice(value);
        Ok(())
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty() && self.runs.is_empty()
    }

    /// All records in order.
    ///
    /// # Errors
    /// When a temporary file cannot be written or read.
    pub fn finish(mut self) -> Result<Merged, SortError> {
        if self.runs.is_empty() {
            self.sort();
            let Self { order, scratch, records, index, .. } = self;
            return Ok(Merged {
                order,
                heads: Vec::new(),
                held: Some(Held { records, index, next: 0 }),
                scratch,
            });
        }
        self.spill()?;
        self.records = Vec::new();
        self.index = Vec::new();
        let files = std::mem::take(&mut self.runs);
        Merged::new(self.order, files, self.scratch)
    }

    fn sort(&mut self) {
        let (records, order) = (&self.records, self.order);
        // Offsets grow in the order of arrival, so they keep equal keys in it.
        self.index.sort_unstable_by(|&l, &r| order(at(records, l).0, at(records, r).0).then(l.cmp(&r)));
    }

    fn spill(&mut self) -> Result<(), SortError> {
        if self.index.is_empty() {
            return Ok(());
        }
        self.sort();
        let mut run = RunWriter::create(&self.scratch)?;
        for &offset in &self.index {
            let (key, value) = at(&self.records, offset);
            run.push(key, value)?;
        }
        self.runs.push(run.finish()?);
        self.records.clear();
        self.index.clear();
        if self.runs.len() == FAN_IN {
            let mut merged = Merged::new(self.order, std::mem::take(&mut self.runs), self.scratch.clone())?;
            let mut run = RunWriter::create(&self.scratch)?;
            while let Some((key, value)) = merged.next_record()? {
                run.push(&key, &value)?;
            }
            self.runs.push(run.finish()?);
        }
        Ok(())
    }
}

/// The record at an offset of the buffer.
fn at(records: &[u8], offset: u32) -> (&[u8], &[u8]) {
    let record = &records[offset as usize..];
    let length =
        |at: usize| u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]) as usize;
    let (key, value) = (length(0), length(4));
    (&record[8..8 + key], &record[8 + key..8 + key + value])
}

/// A key and its value.
pub type Record = (Vec<u8>, Vec<u8>);

/// The sorted records.
#[derive(Debug)]
pub struct Merged {
    order: Order,
    /// One for each file that is not at its end; the order of the files is that of arrival.
    heads: Vec<Head>,
    held: Option<Held>,
    scratch: PathBuf,
}

#[derive(Debug)]
struct Held {
    records: Vec<u8>,
    index: Vec<u32>,
    next: usize,
}

#[derive(Debug)]
struct Head {
    record: Record,
    run: RunReader,
}

impl Merged {
    fn new(order: Order, files: Vec<File>, scratch: PathBuf) -> Result<Self, SortError> {
        let mut heads = Vec::with_capacity(files.len());
        for file in files {
            let mut run = RunReader::open(file, &scratch)?;
            if let Some(record) = run.next()? {
                heads.push(Head { record, run });
            }
        }
        Ok(Self { order, heads, held: None, scratch })
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// When a temporary file cannot be read or was damaged.
    pub fn next_record(&mut self) -> Result<Option<Record>, SortError> {
        if let Some(held) = &mut self.held {
            let Some(&offset) = held.index.get(held.next) else { return Ok(None) };
            held.next += 1;
            let (key, value) = at(&held.records, offset);
            return Ok(Some((key.to_vec(), value.to_vec())));
        }
        // At most 64 heads: looking at each is as fast as a heap, and keeps equal keys in the order of the files.
        let mut least: Option<usize> = None;
        for (number, head) in self.heads.iter().enumerate() {
            let before = |at: usize| (self.order)(&head.record.0, &self.heads[at].record.0).is_lt();
            if least.is_none_or(before) {
                least = Some(number);
            }
        }
        let Some(least) = least else { return Ok(None) };
        match self.heads[least].run.next()? {
            Some(record) => Ok(Some(std::mem::replace(&mut self.heads[least].record, record))),
            None => Ok(Some(self.heads.remove(least).record)),
        }
    }

    /// Where the temporary files are.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }
}

/// A run is blocks of length u32, BLAKE3 (first 16 bytes), records; it ends with a block of length zero.
struct RunWriter {
    file: BufWriter<File>,
    block: Vec<u8>,
    scratch: PathBuf,
}

impl RunWriter {
    fn create(scratch: &Path) -> Result<Self, SortError> {
        let file = tempfile::tempfile_in(scratch).map_err(|source| trouble("create", scratch, source))?;
        let scratch = scratch.to_owned();
        Ok(Self { file: BufWriter::with_capacity(BLOCK, file), block: Vec::with_capacity(BLOCK), scratch })
    }

    fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), SortError> {
        self.block.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.block.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        if self.block.len() >= BLOCK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), SortError> {
        let length = (self.block.len() as u32).to_le_bytes();
        let digest = blake3::hash(&self.block);
        let written = self
            .file
            .write_all(&length)
            .and_then(|()| self.file.write_all(&digest.as_bytes()[..16]))
            .and_then(|()| self.file.write_all(&self.block));
        self.block.clear();
        written.map_err(|source| trouble("write", &self.scratch, source))
    }

    fn finish(mut self) -> Result<File, SortError> {
        if !self.block.is_empty() {
            self.flush()?;
        }
        // The empty block that says: this is the end.
        self.flush()?;
        self.file.into_inner().map_err(|error| trouble("write", &self.scratch, error.into_error()))
    }
}

#[derive(Debug)]
struct RunReader {
    file: BufReader<File>,
    block: Vec<u8>,
    used: usize,
    scratch: PathBuf,
}

impl RunReader {
    fn open(mut file: File, scratch: &Path) -> Result<Self, SortError> {
        file.rewind().map_err(|source| trouble("read", scratch, source))?;
        let (file, scratch) = (BufReader::with_capacity(8 << 10, file), scratch.to_owned());
        Ok(Self { file, block: Vec::new(), used: 0, scratch })
    }

    fn next(&mut self) -> Result<Option<Record>, SortError> {
        if self.used == self.block.len() && !self.next_block()? {
            return Ok(None);
        }
        // The digest was right, so the lengths are those that were written.
        let (key, value) = at(&self.block, self.used as u32);
        self.used += 8 + key.len() + value.len();
        Ok(Some((key.to_vec(), value.to_vec())))
    }

    fn next_block(&mut self) -> Result<bool, SortError> {
        let mut head = [0; 20];
        self.file.read_exact(&mut head).map_err(|source| trouble("read", &self.scratch, source))?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        self.block.clear();
        let mut limited = (&mut self.file).take(length as u64);
        limited.read_to_end(&mut self.block).map_err(|source| trouble("read", &self.scratch, source))?;
        if self.block.len() != length || blake3::hash(&self.block).as_bytes()[..16] != head[4..] {
            return Err(SortError::Damaged(self.scratch.clone()));
        }
        self.used = 0;
        Ok(length > 0)
    }
}

fn trouble(action: &'static str, scratch: &Path, source: io::Error) -> SortError {
    SortError::Io { action, scratch: scratch.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted(records: &[(Vec<u8>, Vec<u8>)], buffer: usize) -> Vec<Record> {
        let dir = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::with_buffer(Ord::cmp, dir.path(), buffer);
        for (key, value) in records {
            sorter.push(key, value).unwrap();
        }
        let mut merged = sorter.finish().unwrap();
        std::iter::from_fn(|| merged.next_record().unwrap()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_buffer_gives_the_stable_order(
            records in prop::collection::vec((prop::collection::vec(0_u8..3, 0..4), prop::collection::vec(any::<u8>(), 0..6)), 0..300),
            buffer in 1_usize..2000,
        ) {
            let mut expected = records.clone();
            expected.sort_by(|l, r| l.0.cmp(&r.0));
            prop_assert_eq!(sorted(&records, buffer), expected);
        }
    }

    #[test]
    fn a_damaged_temporary_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = RunWriter::create(dir.path()).unwrap();
        run.push(b"key", b"value").unwrap();
        let mut file = run.finish().unwrap();
        file.seek(io::SeekFrom::Start(30)).unwrap();
        file.write_all(b"X").unwrap();
        assert!(matches!(RunReader::open(file, dir.path()).unwrap().next(), Err(SortError::Damaged(_))));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let mut sorter = Sorter::with_buffer(Ord::cmp, Path::new("/no/such"), 1);
        sorter.push(b"a", b"").unwrap();
        assert!(sorter.push(b"b", b"").unwrap_err().to_string().contains("/no/such"));
    }
}
