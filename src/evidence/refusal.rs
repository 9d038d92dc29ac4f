//! "We found out, and the answer is no."

use std::fmt;

use serde::{Deserialize, Serialize};

/// What was missing for a yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// Preflight found inhibitors that no waiver covers.
    Preflight,
    /// The journal would be taken back by a rollback.
    JournalOutsideRollback,
    /// The backup was not restored whole and equal.
    Backup,
    /// No rehearsal that counts has passed.
    Rehearsal,
    /// The snapshot set is not complete, read-only and of the right root.
    Snapshot,
    /// The fallback is not armed.
    Fallback,
    /// Two proofs are not about the same run.
    SameSubject,
    /// The upgrade did not end complete.
    UpgradeComplete,
    /// The next boot would not be the one that is wanted.
    Switch,
    /// The boot is not the trial of this run.
    Trial,
    /// The machine is not healthy.
    Health,
    /// The old system is not back.
    Restored,
}

/// A judged no, with its reason in one sentence and the details below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What was missing.
    pub missing: Missing,
    /// One sentence for a person.
    pub why: String,
    /// Every single thing that was found, one line each, as far as it was kept.
    #[serde(default)]
    pub details: Vec<String>,
}

impl Refusal {
    pub(super) fn new(missing: Missing, why: impl Into<String>) -> Self {
        Self { missing, why: why.into(), details: Vec::new() }
    }

    pub(super) fn with(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}
