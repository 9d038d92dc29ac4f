//! The journal as a file: locked by type, appended and synced, never rewritten.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::ballast;
use super::frame::{self, Chain, Damage, FORMAT, Frame, Reading};
use crate::machine::{Entry, IllegalTransition, State};
use crate::system::durable;
use crate::system::identity;
use crate::system::lock::{ExclusiveLock, LockError};

/// The journal's name in the state directory.
pub const FILE_NAME: &str = "journal.jsonl";
const LOCK_NAME: &str = "lock";

/// A journal that could not be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process drives a run.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// It could not be read or written.
    #[error("failed to {action} {}", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory could not be made durable.
    #[error(transparent)]
    Durable(#[from] durable::DurableError),
    /// It is not what was written.
    #[error("the journal {} can't be trusted: {damage}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A newer version of the program has written to it.
    #[error("the journal {} was written by a newer safe-upgrade (format {format}; this one writes {FORMAT}): it can only be read", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// Its records do not follow one another.
    #[error("the journal {} does not replay at line {line}", .path.display())]
    Replay {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// Which record may not follow where.
        source: IllegalTransition,
    },
    /// The record may not follow in the present state.
    #[error("refused to write to the journal")]
    Illegal(#[from] IllegalTransition),
    /// A write failed before: what is on disk is not known any more.
    #[error("a write to the journal failed before; it must be opened again")]
    Poisoned,
    /// Which boot this is could not be found out.
    #[error(transparent)]
    Boot(#[from] identity::IdentityError),
    /// A record could not be written as JSON.
    #[error("failed to write a record as JSON")]
    Json(#[from] serde_json::Error),
}

/// A journal that this process alone may append to, until it is dropped.
#[derive(Debug)]
pub struct Journal {
    _lock: ExclusiveLock,
    file: File,
    path: PathBuf,
    directory: PathBuf,
    boot: String,
    reading: Reading,
    state: State,
    poisoned: bool,
}

impl Journal {
    /// Takes the lock and opens the journal of a state directory; makes an empty one if there is none. A torn tail is cut off.
    /// When this returns, the file's name is durable.
    ///
    /// # Errors
    /// [`JournalError::Lock`] when another process has it; damage, a newer format and records that do not follow one another
    /// are refused, and the file is left as it is.
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        durable::private_directory(directory)?;
        let lock = ExclusiveLock::try_acquire(&directory.join(LOCK_NAME))?;
        let path = directory.join(FILE_NAME);
        let io = |action| at(action, &path);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io("open"))?;
        durable::sync_directory(directory)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io("read"))?;
        let reading = trusted(&bytes, &path)?;
        if let Some(format) = reading.newer {
            return Err(JournalError::Newer { path, format });
        }
        let state = replay(&reading.frames, &path)?;
        mend_tail(&mut file, &reading).map_err(io("mend the torn tail of"))?;
        ballast::keep(directory);
        let boot = identity::boot_id()?;
        Ok(Self {
            _lock: lock,
            file,
            directory: directory.to_owned(),
            boot,
            reading,
            state,
            poisoned: false,
            path,
        })
    }

    /// Where the last record leads.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Every line.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.reading.frames
    }

    /// How many bytes of a torn last line were dropped when it was opened.
    #[must_use]
    pub fn torn_bytes(&self) -> usize {
        self.reading.torn_bytes
    }

    /// Appends a record. When this returns, the record is durable.
    ///
    /// # Errors
    /// A record that may not follow is refused before anything is written. After a failed write nothing more can be appended.
    pub fn append(&mut self, entry: &Entry) -> Result<(), JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned);
        }
        let state = self.state.clone().apply(entry.record())?;
        let frame = Frame {
            v: FORMAT,
            seq: self.reading.frames.len() as u64,
            time: jiff::Timestamp::now(),
            boot: self.boot.clone(),
            tool: env!("CARGO_PKG_VERSION").to_owned(),
            entry: entry.record().clone(),
        };
        let (line, chain) = frame::encode(&frame, self.reading.chain)?;
        self.poisoned = true;
        self.write(&line).map_err(at("append to", &self.path))?;
        self.poisoned = false;
        self.accept(frame, chain, line.len());
        self.state = state;
        Ok(())
    }

    /// Writes and syncs a line. On a full disk the ballast goes, and the line is written anew.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let write = |file: &mut File| file.write_all(line).and_then(|()| file.sync_all());
        match write(&mut self.file) {
            Err(error) if is_full(&error) && ballast::release(&self.directory) => {
                let end = self.reading.valid_bytes as u64;
                self.file.set_len(end)?;
                self.file.seek(SeekFrom::Start(end))?;
                write(&mut self.file)
            }
            written => written,
        }
    }

    fn accept(&mut self, frame: Frame, chain: Chain, bytes: usize) {
        self.reading.frames.push(frame);
        self.reading.chain = chain;
        self.reading.valid_bytes += bytes;
    }
}

/// Reads a state directory's journal without a lock, for showing. The state is as far as this version understands it; no file
/// is an empty journal.
///
/// # Errors
/// Damage and records that do not follow one another are refused.
pub fn read_file(directory: &Path) -> Result<(Reading, State), JournalError> {
    let path = directory.join(FILE_NAME);
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read.map_err(at("read", &path))?,
    };
    let reading = trusted(&bytes, &path)?;
    let state = replay(&reading.frames, &path)?;
    Ok((reading, state))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn at<'p>(action: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> JournalError + use<'p> {
    move |source| JournalError::Io { action, path: path.to_owned(), source }
}

fn trusted(bytes: &[u8], path: &Path) -> Result<Reading, JournalError> {
    frame::read(bytes).map_err(|damage| JournalError::Damaged { path: path.to_owned(), damage })
}

fn replay(frames: &[Frame], path: &Path) -> Result<State, JournalError> {
    frames.iter().enumerate().try_fold(State::New, |state, (index, frame)| {
        state.apply(&frame.entry).map_err(|source| JournalError::Replay {
            path: path.to_owned(),
            line: index + 1,
            source,
        })
    })
}

/// Leaves the file ending with a whole line, and the cursor behind it.
fn mend_tail(file: &mut File, reading: &Reading) -> io::Result<()> {
    if reading.torn_bytes > 0 {
        file.set_len(reading.valid_bytes as u64)?;
    }
    file.seek(SeekFrom::Start(reading.valid_bytes as u64))?;
    if !reading.ended {
        file.write_all(b"\n")?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::CommitRule;
    use crate::machine::Why;

    /// A child that another test is just starting shares our descriptors until it execs, and so the lock for a moment.
    fn open(directory: &Path) -> Result<Journal, JournalError> {
        loop {
            match Journal::open(directory) {
                Err(JournalError::Lock(LockError::Held(_))) => std::thread::yield_now(),
                opened => return opened,
            }
        }
    }

    fn planned() -> Entry {
        Entry::planned(crate::sim::plan(CommitRule::Automatic))
    }

    #[test]
    fn what_was_appended_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(dir.path()).unwrap();
        journal.append(&planned()).unwrap();
        journal.append(&Entry::refusal_started(Why::Operator)).unwrap();
        drop(journal);
        let journal = open(dir.path()).unwrap();
        assert_eq!((journal.frames().len(), journal.state().name()), (2, "Refusing"));
    }

    #[test]
    fn an_illegal_record_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(dir.path()).unwrap();
        let error = journal.append(&Entry::refused()).unwrap_err();
        assert!(matches!(error, JournalError::Illegal(_)), "{error}");
        assert_eq!(std::fs::metadata(dir.path().join(FILE_NAME)).unwrap().len(), 0);
    }

    #[test]
    fn torn_at_every_byte_it_opens_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(dir.path()).unwrap();
        journal.append(&planned()).unwrap();
        journal.append(&Entry::refusal_started(Why::Operator)).unwrap();
        drop(journal);
        let path = dir.path().join(FILE_NAME);
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let mut journal = open(dir.path()).unwrap();
            let entry = match journal.state() {
                State::New => planned(),
                _ => Entry::stuck(Why::Operator),
            };
            journal.append(&entry).unwrap();
            drop(journal);
            open(dir.path()).unwrap();
        }
    }

    /// `/dev/full` is always full; a file on a tiny filesystem is full until the ballast goes (tests/loop_journal.rs).
    #[test]
    fn a_full_disk_without_ballast_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(dir.path()).unwrap();
        assert!(ballast::release(dir.path()), "opening sets space aside");
        journal.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert!(matches!(journal.append(&planned()), Err(JournalError::Io { .. })));
        assert!(matches!(journal.append(&planned()), Err(JournalError::Poisoned)));
    }

    /// A short line over a long tail would leave the end of the tail behind it.
    #[test]
    fn a_torn_tail_is_gone_before_something_shorter_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let mut journal = open(dir.path()).unwrap();
        journal.append(&planned()).unwrap();
        journal.append(&Entry::refusal_started(Why::Operator)).unwrap();
        journal.append(&Entry::refused()).unwrap();
        drop(journal);
        let first_line = std::fs::read_to_string(&path).unwrap().lines().next().unwrap().to_owned();
        let whole = std::fs::metadata(&path).unwrap().len();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&first_line.as_bytes()[..first_line.len() - 1]).unwrap();
        let mut journal = open(dir.path()).unwrap();
        assert_eq!(journal.torn_bytes(), first_line.len() - 1);
        assert_eq!(
            std::fs::metadata(&path).unwrap().len(),
            whole,
            "the tail is cut off when the journal is opened"
        );
        journal.append(&Entry::pruned(crate::sim::plan(CommitRule::Automatic).run)).unwrap();
        drop(journal);
        assert_eq!(open(dir.path()).unwrap().frames().len(), 4);
    }

    #[test]
    fn only_one_process_writes() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(dir.path()).unwrap();
        assert!(matches!(Journal::open(dir.path()), Err(JournalError::Lock(LockError::Held(_)))));
    }

    #[test]
    fn a_newer_journal_is_read_and_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(dir.path()).unwrap();
        journal.append(&planned()).unwrap();
        drop(journal);
        let path = dir.path().join(FILE_NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        let chain = frame::read(&bytes).unwrap().chain;
        bytes.extend(frame::newer_line(9, chain));
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(open(dir.path()), Err(JournalError::Newer { format: 9, .. })));
        assert_eq!(read_file(dir.path()).unwrap().0.newer, Some(9));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}
