//! The facts about the machine's health, for a judgement elsewhere.

use serde::{Deserialize, Serialize};

use super::baseline::Baseline;
use super::checks::CheckResult;
use super::diff::Change;

/// What was looked at, and what of it is not as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// The operator's checks.
    pub checks: Vec<CheckResult>,
    /// What changed since before.
    pub changes: Vec<Change>,
    /// One sentence for each thing that makes the machine unhealthy.
    pub required_failed: Vec<String>,
    /// One sentence for each wanted check that did not pass.
    pub wanted_failed: Vec<String>,
    /// How many things were looked at: checks, and what the baseline watches.
    pub checked: usize,
    /// How many seconds the machine was watched after everything was green.
    pub soak_seconds: u64,
}

impl HealthReport {
    /// Puts the facts together. Zero checks and an empty baseline are no pass: nothing was looked at.
    #[must_use]
    pub fn new(checks: Vec<CheckResult>, changes: Vec<Change>, before: &Baseline) -> Self {
        let mut report = Self { checked: checks.len() + before.watched(), ..Self::default() };
        for check in checks.iter().filter(|check| !check.passed) {
            let list = if check.required { &mut report.required_failed } else { &mut report.wanted_failed };
            list.push(sentence(check));
        }
        let required = changes.iter().filter(|change| change.is_required());
        report.required_failed.extend(required.map(|change| change.sentence.clone()));
        if report.checked == 0 {
            report
                .required_failed
                .push("nothing was looked at, so nothing is known to be healthy".to_owned());
        }
        report.checks = checks;
        report.changes = changes;
        report
    }

    /// Adds what a soak saw.
    #[must_use]
    pub fn with_soak(mut self, soak: &super::soak::Soak) -> Self {
        self.soak_seconds = soak.watched.as_secs();
        self.required_failed.extend(soak.required_failed.iter().cloned());
        for sentence in &soak.wanted_failed {
            if !self.wanted_failed.contains(sentence) {
                self.wanted_failed.push(sentence.clone());
            }
        }
        self
    }

    /// Whether nothing that is required failed.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.checked > 0 && self.required_failed.is_empty()
    }
}

/// A check that did not pass, for a person.
#[must_use]
pub fn sentence(check: &CheckResult) -> String {
    let tries = if check.tries == 1 { "1 try".to_owned() } else { format!("{} tries", check.tries) };
    format!("check {} did not pass after {tries}: {}", check.name, check.detail)
}
