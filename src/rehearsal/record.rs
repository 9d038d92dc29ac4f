//! What is kept of the last rehearsal: `rehearsal.json` in the state directory.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{RehearsalError, Result};
use crate::conffiles::debconf::Question;
use crate::release::prediction::Verdict;
use crate::system::durable;

/// The newest format. A field that is added with a default does not change it.
pub const VERSION: u32 = 1;

/// The name of the file.
pub const FILE: &str = "rehearsal.json";

/// How it came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The upgraded clone does what it did before.
    Passed,
    /// It does not, or the upgrade is not complete.
    Failed,
}

/// How long each part took, in whole seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Making the clone and its network.
    pub clone: u64,
    /// The first boot, until everything was started and looked at.
    pub first_boot: u64,
    /// The upgrade.
    pub upgrade: u64,
    /// Shutting down.
    pub shutdown: u64,
    /// The boot of the upgraded clone, until it did what it did before, or had had its time.
    pub second_boot: u64,
    /// The soak time of a run. It is not waited for in a rehearsal.
    pub soak: u64,
    /// The whole rehearsal.
    pub whole: u64,
}

impl Timings {
    /// How long the services of the machine will not be what they should, in seconds: from the first changed package until the new
    /// release is accepted.
    #[must_use]
    pub fn outage(&self) -> u64 {
        self.upgrade + self.shutdown + self.second_boot + self.soak
    }

    /// What the rehearsal took beyond the upgrade in it, in seconds.
    #[must_use]
    pub fn overhead(&self) -> u64 {
        self.whole.saturating_sub(self.upgrade)
    }
}

/// A clone that was left running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its unit.
    pub unit: String,
    /// Its address, in the network namespace `network`.
    pub address: String,
    /// The network namespace from which it is reached.
    pub network: String,
}

/// The last rehearsal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RehearsalRecord {
    /// The format: [`VERSION`].
    pub version: u32,
    /// Its id.
    pub id: String,
    /// The codename of the old release.
    pub from: String,
    /// The codename of the new one.
    pub to: String,
    /// How it came out.
    pub outcome: Outcome,
    /// When it ended, in seconds since 1970 UTC.
    pub ended: u64,
    /// The packages that it was done with ([`crate::release::package_state`]).
    pub package_state: String,
    /// How long each part took.
    pub timings: Timings,
    /// [`Timings::outage`].
    pub predicted_outage: u64,
    /// [`Timings::overhead`].
    #[serde(default)]
    pub overhead: u64,
    /// One sentence for each reason why it failed.
    pub failed: Vec<String>,
    /// What else was seen, one sentence each.
    pub noted: Vec<String>,
    /// Units that were active before, and are not.
    pub services_lost: Vec<String>,
    /// Questions about configuration files, and what was decided.
    pub prompts: Vec<String>,
    /// What scripts of packages asked anew, and what they took for an answer; never a password.
    #[serde(default)]
    pub questions: Vec<Question>,
    /// The rules and answers about configuration files that it was done with, as one number; none from before that was kept.
    #[serde(default)]
    pub decided_by: Option<String>,
    /// Configuration files with the rule "ask" that the clone kept because nobody had answered.
    #[serde(default)]
    pub unanswered: Vec<PathBuf>,
    /// How much of what was foretold of the packages came true in the clone.
    #[serde(default)]
    pub foretold: Option<Verdict>,
    /// Packages that were upgraded, installed or removed.
    pub packages: u64,
    /// How the root of the clone was made.
    #[serde(default)]
    pub clone: String,
    /// How each other filesystem was given to the clone.
    pub volumes: Vec<String>,
    /// What was taken from the clone so that it kept quiet.
    pub held: Vec<String>,
    /// The limits that it ran under.
    pub limits: Vec<String>,
    /// Where its logs are.
    pub logs: PathBuf,
    /// The answers to the upgrade's questions, for a person to look through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<PathBuf>,
    /// The clone, when it was left running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
}

/// Writes it down; durable and whole, or not at all.
///
/// # Errors
/// Names what could not be written.
pub fn write(state: &Path, record: &RehearsalRecord) -> Result<()> {
    let path = state.join(FILE);
    let mut text = serde_json::to_vec_pretty(record)
        .map_err(|error| RehearsalError::path("write", &path)(error.into()))?;
    text.push(b'\n');
    Ok(durable::replace_file(&path, &text, 0o600)?)
}

/// Takes it away: a rehearsal that begins is the last one, and what the one before said counts no more. Durable.
///
/// # Errors
/// When it cannot be removed.
pub fn forget(state: &Path) -> Result<()> {
    Ok(durable::remove_file(&state.join(FILE))?)
}

/// Reads it; `None` when no rehearsal has ended here.
///
/// # Errors
/// When it is there and is not understood, also because a newer version wrote it.
pub fn read(state: &Path) -> Result<Option<RehearsalRecord>> {
    let path = state.join(FILE);
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(RehearsalError::path("read", &path))?,
    };
    let record: RehearsalRecord = serde_json::from_slice(&bytes)
        .map_err(|error| RehearsalError::path("understand", &path)(error.into()))?;
    if record.version > VERSION {
        let newer = std::io::Error::other(format!("a newer version wrote it (format {})", record.version));
        return Err(RehearsalError::path("understand", path)(newer));
    }
    Ok(Some(record))
}
