//! Threads that read chosen files of a copy, and what they note: what was proven, what was not, and why.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::beneath::Beneath;
use super::book::{no_proof, proof};
use super::budget::Clock;
use super::reread::{self, Second};
use crate::manifest::coverage::{Amount, Ended};
use crate::manifest::entry::path_order;
use crate::manifest::scan::{ScanError, is_shortage};
use crate::manifest::sorter::{SortError, Sorter};
use crate::manifest::verdict::{Class, Difference, Meaning};
use crate::manifest::{Entry, Hashing, Kind, Progress, Report, Status, single};
use crate::system::show;

/// Files that a thread gets at once.
const BATCH_FILES: usize = 64;

/// Bytes after which a batch is not filled further, so that large files are shared out.
const BATCH_BYTES: u64 = 8 << 20;

/// Bytes of records that are held before they go to a temporary file.
const NOTES: usize = 4 << 20;

/// What all threads share.
pub(super) struct Crew<'c> {
    pub(super) copy: Beneath,
    pub(super) live: Option<Beneath>,
    pub(super) hashing: &'c Hashing,
    pub(super) clock: &'c Clock<'c>,
    /// When no more files are begun, counted by the clock.
    pub(super) deadline: Option<Duration>,
    pub(super) stop: &'c (dyn Fn() -> bool + Sync),
    pub(super) progress: &'c (dyn Fn(Progress) + Sync),
    pub(super) told: Told,
    pub(super) ended: AtomicU8,
    pub(super) notes: Mutex<Notes>,
}

/// What was found out so far.
#[derive(Debug)]
pub(super) struct Notes {
    /// Records for the ledger, since it was saved last.
    news: Sorter,
    /// What was read, whatever came of it.
    pub(super) read: Amount,
    /// Findings, and bytes that were compared.
    pub(super) findings: Report,
    failed: Option<CrewError>,
}

/// The reading itself failed; it says nothing about the copy.
#[derive(Debug, thiserror::Error)]
pub enum CrewError {
    /// The machine ran out of something.
    #[error("failed to read the copy")]
    Resources(#[source] ScanError),
    /// What was found out could not be noted.
    #[error("failed to note what was read")]
    Sort(#[from] SortError),
}

enum Outcome {
    Proven(i64),
    Not(Option<Difference>),
}

const RUNNING: u8 = 0;
const DEADLINE: u8 = 1;
const STOPPED: u8 = 2;

impl Notes {
    pub(super) fn new(scratch: &Path, kept: usize) -> Self {
        let (news, findings) = (Self::empty(scratch), Report::keeping(kept));
        Self { news, read: Amount::default(), findings, failed: None }
    }

    /// Hands out the records since the last time.
    pub(super) fn take_news(&mut self, scratch: &Path) -> Sorter {
        std::mem::replace(&mut self.news, Self::empty(scratch))
    }

    fn empty(scratch: &Path) -> Sorter {
        Sorter::with_buffer(path_order, scratch, NOTES)
    }
}

impl Crew<'_> {
    /// Reads the files that `feed` gives to its argument, with so many threads. `feed` ends early when the argument says so.
    ///
    /// # Errors
    /// Those of `feed`, and when the machine runs out of something.
    pub(super) fn read<E: From<CrewError>>(
        &self,
        threads: usize,
        feed: impl FnOnce(&mut dyn FnMut(Entry) -> bool) -> Result<(), E>,
    ) -> Result<(), E> {
        let (give, take) = sync_channel::<Vec<Entry>>(2 * threads);
        let take = Mutex::new(take);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| self.work(&take));
            }
            // Moved in here, so that the threads end when the feeding does, however it ends.
            let mut batch = Batch { files: Vec::new(), bytes: 0, give };
            let fed = feed(&mut |entry| {
                batch.push(entry);
                !self.is_over()
            });
            batch.send();
            fed
        })?;
        match self.notes().failed.take() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Whether no more files are begun.
    pub(super) fn is_over(&self) -> bool {
        if self.ended.load(Relaxed) != RUNNING {
            return true;
        }
        let ended = if self.deadline.is_some_and(|deadline| self.clock.elapsed() >= deadline) {
            DEADLINE
        } else if (self.stop)() {
            STOPPED
        } else {
            return false;
        };
        self.ended.store(ended, Relaxed);
        true
    }

    /// Why it is over, if it is before its time.
    pub(super) fn ended(&self) -> Ended {
        match self.ended.load(Relaxed) {
            DEADLINE => Ended::Deadline,
            STOPPED => Ended::Stopped,
            _ => Ended::Complete,
        }
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, batches: &Mutex<Receiver<Vec<Entry>>>) {
        let (mut copy, mut live) = (self.copy.again(), self.live.as_ref().map(Beneath::again));
        loop {
            let batch = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(batch) = batch else { return };
            let mut outcomes = Vec::with_capacity(batch.len());
            for entry in batch {
                // Batches that were given out are taken all the same, so that the feeding does not wait for ever.
                if self.is_over() || self.notes().failed.is_some() {
                    break;
                }
                match self.file(&mut copy, live.as_mut(), &entry) {
                    Ok(outcome) => outcomes.push((entry, outcome)),
                    Err(error) => {
                        self.fail(error);
                        break;
                    }
                }
            }
            if let Err(error) = self.note(outcomes) {
                self.fail(error.into());
            }
        }
    }

    /// Reads one file, and decides about it.
    fn file(
        &self,
        copy: &mut Beneath,
        live: Option<&mut Beneath>,
        expected: &Entry,
    ) -> Result<Outcome, CrewError> {
        let began = self.clock.now();
        let (dir, name) = match copy.parent_and_name(&expected.path) {
            Ok(found) => found,
            Err(errno) => return self.unread(expected, errno, None),
        };
        let read = match single::read(dir, &name, self.hashing) {
            Ok(read) => read,
            Err(errno) => return self.unread(expected, errno, Some((dir, name))),
        };
        let Kind::File { size, content, .. } = &expected.kind else { return Ok(Outcome::Not(None)) };
        if !read.stable {
            let found = "it is being written to while it is verified".to_owned();
            return Ok(Outcome::Not(Some(not_checked(expected, found))));
        }
        if read.content.size != *size {
            return Ok(Outcome::Not(self.told.unless_told(expected, "it has another size than a while ago")));
        }
        if Some(read.content.hash) == *content {
            return Ok(Outcome::Proven(began));
        }
        let second = reread::read_again(dir, &name, self.hashing);
        let mut finding = reread::judge(expected, Some(&read.content), &second);
        if finding.class == Class::Content
            && let Some(live) = live
            && let Some(place) = reread::against_live(live, (dir, &name), expected, self.hashing)
        {
            finding.found = format!("{}; {place}", finding.found);
        }
        Ok(Outcome::Not(Some(finding)))
    }

    /// A file that could not be opened or read.
    fn unread(
        &self,
        expected: &Entry,
        errno: Errno,
        at: Option<(BorrowedFd<'_>, CString)>,
    ) -> Result<Outcome, CrewError> {
        if is_shortage(errno) {
            let path = expected.as_path().to_owned();
            return Err(CrewError::Resources(ScanError::Resources { path, source: errno.into() }));
        }
        let gone = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::XDEV, Errno::STALE, Errno::NXIO];
        if gone.contains(&errno) {
            return Ok(Outcome::Not(self.told.unless_told(expected, "it is not there any more")));
        }
        let second = match at {
            Some((dir, name)) if reread::is_of_the_disk(errno) => {
                reread::read_again(dir, &name, self.hashing)
            }
            _ => Second::Failed(errno),
        };
        Ok(Outcome::Not(Some(reread::judge(expected, None, &second))))
    }

    fn note(&self, outcomes: Vec<(Entry, Outcome)>) -> Result<(), SortError> {
        let mut notes = self.notes();
        for (entry, outcome) in outcomes {
            notes.read.add(entry.bytes());
            notes.findings.bytes += entry.bytes();
            match outcome {
                Outcome::Proven(at) => proof(&mut notes.news, &entry.path, at)?,
                Outcome::Not(finding) => {
                    no_proof(&mut notes.news, &entry.path)?;
                    if let Some(finding) = finding {
                        notes.findings.add(finding);
                    }
                }
            }
        }
        let progress = Progress { entries: notes.read.files, bytes: notes.read.bytes };
        drop(notes);
        (self.progress)(progress);
        Ok(())
    }

    fn fail(&self, error: CrewError) {
        self.notes().failed.get_or_insert(error);
        self.ended.store(STOPPED, Relaxed);
    }
}

struct Batch {
    files: Vec<Entry>,
    bytes: u64,
    give: SyncSender<Vec<Entry>>,
}

impl Batch {
    fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.files.push(entry);
        if self.files.len() >= BATCH_FILES || self.bytes >= BATCH_BYTES {
            self.send();
        }
    }

    fn send(&mut self) {
        self.bytes = 0;
        let files = std::mem::take(&mut self.files);
        if !files.is_empty() {
            // The threads take batches until this end is dropped; without any there is nobody to be told.
            let _ = self.give.send(files);
        }
    }
}

/// Which files the comparison of the metadata has already found to be damaged, or not known.
#[derive(Debug)]
pub(super) struct Told {
    paths: HashSet<Vec<u8>>,
}

impl Told {
    /// What was found but not kept is not among them: such a file is rather named twice than not at all.
    pub(super) fn of(report: &Report) -> Self {
        let tells = |class: Class| matches!(class.meaning(), Meaning::Damage | Meaning::Unknown);
        let found = report.differences().iter().filter(|found| tells(found.class));
        Self { paths: found.map(|found| found.path.clone()).collect() }
    }

    /// A finding about a file that has changed since its metadata were looked at; nothing when it is one that was named.
    fn unless_told(&self, expected: &Entry, found: &str) -> Option<Difference> {
        (!self.paths.contains(&expected.path)).then(|| not_checked(expected, found.to_owned()))
    }
}

fn not_checked(expected: &Entry, found: String) -> Difference {
    let class = if expected.status == Status::Unstable { Class::UnstableSource } else { Class::NotChecked };
    let expected_text = format!("a file of {} bytes", expected.bytes());
    Difference { class, path: expected.path.clone(), expected: expected_text, found: show::line(&found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kept: usize, findings: &[(Class, &[u8])]) -> Told {
        let mut report = Report::keeping(kept);
        for (class, path) in findings {
            let (expected, found) = (String::new(), String::new());
            report.add(Difference { class: *class, path: path.to_vec(), expected, found });
        }
        Told::of(&report)
    }

    #[test]
    fn only_what_was_named_as_damaged_or_unknown_is_not_named_again() {
        let file = Entry::new(*b"f", Kind::Fifo);
        for class in Class::ALL {
            let silent = told(10, &[(class, b"f")]).unless_told(&file, "gone").is_none();
            assert_eq!(silent, matches!(class.meaning(), Meaning::Damage | Meaning::Unknown), "{class}");
        }
        let more = told(1, &[(Class::Extra, b"a"), (Class::Extra, b"b")]);
        assert_eq!(more.unless_told(&file, "gone").unwrap().class, Class::NotChecked);
    }
}
