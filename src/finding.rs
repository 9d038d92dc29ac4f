//! What a look at the machine can say: a finding, in the same words for everybody who looks.

use serde::{Deserialize, Serialize};

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Stops a run unless a waiver names it.
    Inhibitor,
    /// Worth reading before a run.
    Warning,
    /// Good to know.
    Note,
}

/// The id of a finding that says "could not find out". No waiver covers it: it would pass for a yes.
pub const COULD_NOT_FIND_OUT: &str = "could-not-find-out";

/// Something that was found before an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable name, such as `store-on-same-device`.
    pub id: String,
    /// How much it weighs.
    pub severity: Severity,
    /// What was found and why it matters, in a sentence or two.
    pub what: String,
    /// What it was seen by, one line each: files, values, packages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// What to do about it; a command where there is one.
    pub remedy: String,
}

impl Finding {
    /// A finding that stops a run.
    #[must_use]
    pub fn inhibitor(id: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(id, Severity::Inhibitor, what, remedy)
    }

    /// A finding that is worth reading before a run.
    #[must_use]
    pub fn warning(id: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(id, Severity::Warning, what, remedy)
    }

    /// A finding that is good to know.
    #[must_use]
    pub fn note(id: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(id, Severity::Note, what, remedy)
    }

    /// A finding of any weight.
    #[must_use]
    pub fn new(id: &str, severity: Severity, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { id: id.to_owned(), severity, what: what.into(), evidence: Vec::new(), remedy: remedy.into() }
    }

    /// "Could not find out" is never a yes. `why` is the error with its causes.
    #[must_use]
    pub fn unknown(what: &str, why: impl std::fmt::Display) -> Self {
        Self::inhibitor(
            COULD_NOT_FIND_OUT,
            format!("could not find out {what}: {why}."),
            "mend what the message names, then check again",
        )
    }

    /// The same finding with the lines that it was seen by.
    #[must_use]
    pub fn with_evidence(mut self, lines: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.evidence.extend(lines.into_iter().map(Into::into));
        self
    }
}
