//! What a run is doing right now, as lines in a file: whoever wants to watch reads it, and nobody has to.
//!
//! The run itself may be driven by a unit that no terminal belongs to; the command that a person typed only follows this file.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The file's name in the directory of a run.
pub const FILE_NAME: &str = "progress.jsonl";

/// More often than this nobody can read percentages.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(200);

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A phase begins.
    Phase {
        /// When.
        time: jiff::Timestamp,
        /// Its name, a noun.
        name: String,
    },
    /// How far it is.
    Percent {
        /// 0 to 100.
        percent: f64,
        /// At what it is.
        text: String,
    },
    /// Something worth a line.
    Line {
        /// When.
        time: jiff::Timestamp,
        /// The line.
        text: String,
    },
    /// The machine is about to reboot; the run goes on by itself.
    Reboot {
        /// When.
        time: jiff::Timestamp,
    },
    /// The run stops here.
    Ended {
        /// When.
        time: jiff::Timestamp,
        /// The exit code that the command ends with.
        exit: u8,
        /// What became of it, in one sentence.
        text: String,
    },
}

/// Where progress is written. A line that cannot be written is given up: progress must never stop a run.
#[derive(Debug)]
pub struct Progress {
    file: Option<File>,
    last_percent: Mutex<Option<Instant>>,
    torn: AtomicBool,
}

impl Progress {
    /// Appends to the file in the directory of a run.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        let path = directory.join(FILE_NAME);
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        if let Err(error) = &file {
            tracing::warn!(path = %path.display(), %error, "progress can't be written");
        }
        Self { file: file.ok(), last_percent: Mutex::new(None), torn: AtomicBool::new(false) }
    }

    /// Tells nobody.
    #[must_use]
    pub fn nowhere() -> Self {
        Self { file: None, last_percent: Mutex::new(None), torn: AtomicBool::new(false) }
    }

    /// A phase begins.
    pub fn phase(&self, name: &str) {
        self.write(&Event::Phase { time: jiff::Timestamp::now(), name: name.to_owned() });
    }

    /// How far it is, 0 to 100; written a few times a second at most.
    pub fn percent(&self, percent: f64, text: &str) {
        let mut last = self.last_percent.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < SHORTEST_INTERVAL) {
            return;
        }
        *last = Some(Instant::now());
        self.write(&Event::Percent { percent, text: text.to_owned() });
    }

    /// Something worth a line.
    pub fn line(&self, text: &str) {
        self.write(&Event::Line { time: jiff::Timestamp::now(), text: text.to_owned() });
    }

    /// The machine is about to reboot.
    pub fn reboot(&self) {
        self.write(&Event::Reboot { time: jiff::Timestamp::now() });
    }

    /// The run stops here.
    pub fn ended(&self, exit: u8, text: &str) {
        self.write(&Event::Ended { time: jiff::Timestamp::now(), exit, text: text.to_owned() });
    }

    fn write(&self, event: &Event) {
        tracing::debug!(?event);
        let Some(mut file) = self.file.as_ref() else { return };
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        // After a line that was cut off, the next one must not become part of it; an empty line says nothing.
        if self.torn.swap(false, Ordering::Relaxed) {
            line.insert(0, b'\n');
        }
        if let Err(error) = file.write_all(&line) {
            self.torn.store(true, Ordering::Relaxed);
            tracing::debug!(%error, "a line of progress is lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let progress = Progress::in_directory(dir.path());
        progress.phase("backup");
        progress.percent(10.0, "/etc");
        progress.percent(11.0, "too soon");
        progress.ended(0, "done");
        let text = std::fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
        let events: Vec<Event> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(events.len(), 3);
        assert!(matches!(&events[2], Event::Ended { exit: 0, .. }));
    }
}
