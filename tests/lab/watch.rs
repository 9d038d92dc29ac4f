//! Watching the machine's files from the host: a line that appears in a log, a record that appears in the product's journal.
//!
//! The host has the same file system mounted, so it sees a write at the moment in which it happens, before it is on the disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use serde_json::Value;

use super::machine::Machine;
use super::{Result, context};

/// Where the product keeps its journal, below the top level of the machine's file system.
const JOURNAL: &str = "@safe-upgrade/journal.jsonl";

impl Machine {
    /// How long a file of the running system is now, for [`Machine::wait_for_text`].
    pub fn length(&self, path: &str) -> Result<usize> {
        let path = self.seen_from_host(path)?;
        Ok(fs::metadata(path).map_or(0, |file| usize::try_from(file.len()).unwrap_or(usize::MAX)))
    }

    /// Returns as soon as a file of the running system holds this text behind its first `skip` bytes.
    pub fn wait_for_text(&self, path: &str, skip: usize, text: &str, limit: Duration) -> Result<()> {
        let path = self.seen_from_host(path)?;
        let look = || {
            let content = fs::read(&path).unwrap_or_default();
            let new = content.get(skip..).unwrap_or_default();
            Ok(String::from_utf8_lossy(new).contains(text).then_some(()))
        };
        wait_for(&path, limit, look).map_err(|error| told(&error, &format!("{text:?} in {}", path.display())))
    }

    /// The names of all records in the product's journal so far; none when there is no journal yet.
    pub fn records(&self) -> Result<Vec<String>> {
        let path = self.journal();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(names(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => context(Err(error), format_args!("read {}", path.display())),
        }
    }

    /// Returns the first record of one of these names that the journal holds after its first `skip` records.
    pub fn wait_for_record(&self, skip: usize, wanted: &[&str], limit: Duration) -> Result<String> {
        let look = || {
            let found = self.records()?.into_iter().skip(skip).find(|name| wanted.contains(&name.as_str()));
            Ok(found)
        };
        wait_for(&self.journal(), limit, look).map_err(|error| {
            let have = self.records().map(|all| all[skip.min(all.len())..].join(" ")).unwrap_or_default();
            told(&error, &format!("one of {wanted:?} in the journal, which holds: {have}"))
        })
    }

    /// Waits until all that follows a rollback has come to its end, for the last run: its directories are named by time.
    pub fn wait_looked_back(&self, limit: Duration) -> Result<()> {
        let runs = self.journal().with_file_name("runs");
        let last = std::fs::read_dir(&runs)?.map(|entry| entry.map(|entry| entry.path()));
        let last = last.collect::<Result<Vec<_>>>()?.into_iter().max();
        let marker = last.unwrap_or(runs).join("aftermath-done");
        wait_for(&marker, limit, || Ok(marker.exists().then_some(())))
            .map_err(|error| told(&error, &marker.display().to_string()))
    }

    /// The product's journal, as the host sees it.
    pub fn journal(&self) -> PathBuf {
        self.top().join(JOURNAL)
    }
}

/// Looks again whenever something happens in the file's directory, until there is an answer.
fn wait_for<T>(file: &Path, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    loop {
        // Before each look, because the directory may be new: what happens after the look wakes the poll below.
        let there = file.ancestors().skip(1).find(|directory| directory.exists()).unwrap_or(Path::new("/"));
        inotify::add_watch(&watch, there, events)?;
        if let Some(found) = look()? {
            return Ok(found);
        }
        let left = deadline.saturating_duration_since(Instant::now()).min(Duration::from_secs(1));
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("waited {limit:?}")));
        }
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&left))?;
        let mut buffer = [0; 4096];
        // Only that something happened matters; the events themselves are thrown away.
        let _events = rustix::io::read(&watch, &mut buffer);
    }
}

fn told(error: &io::Error, wanted: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{error} for {wanted}"))
}

/// A line that is not complete yet holds no record yet.
fn names(journal: &str) -> Vec<String> {
    journal
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter_map(|line: Value| name(&line))
        .collect()
}

/// docs/journal-format.md: the record is the line's `entry`, and its field `record` names it.
fn name(line: &Value) -> Option<String> {
    line.get("entry")?.get("record")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_named_and_a_torn_line_is_not() {
        let journal = "{\"seq\":0,\"entry\":{\"record\":\"Planned\",\"plan\":{}}}\n\
                       {\"seq\":1,\"entry\":{\"record\":\"Refused\"}}\n{\"seq\":2,\"entry\":{\"record\":\"Rolled";
        assert_eq!(names(journal), ["Planned", "Refused"]);
    }
}
