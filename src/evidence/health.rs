//! Health: a difference to the baseline, plus the checks that the operator names.

use serde::{Deserialize, Serialize};

use super::refusal::{Missing, Refusal};

/// What was seen of the machine's health, soak included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthFacts {
    /// How many things were compared or checked.
    pub checked: u64,
    /// Required things that failed, one sentence each.
    pub failed: Vec<String>,
    /// Other things worth knowing, one sentence each.
    pub noted: Vec<String>,
    /// For how long it stayed healthy, in seconds.
    pub soaked: u64,
}

/// The machine is healthy.
#[must_use]
#[derive(Debug)]
pub struct HealthEvidence {
    facts: HealthFacts,
}

impl HealthEvidence {
    /// Judges what was seen.
    ///
    /// # Errors
    /// Refuses when something required failed, or when nothing was checked.
    pub fn judge(facts: HealthFacts) -> Result<Self, Refusal> {
        let no = |why: String| Refusal::new(Missing::Health, why);
        if facts.checked == 0 {
            return Err(no("nothing was checked, so nothing is known about the machine's health".into()));
        }
        if let Some(first) = facts.failed.first() {
            let more = match facts.failed.len() {
                1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            };
            return Err(no(format!("{first}{more}")).with(facts.failed.clone()));
        }
        Ok(Self { facts })
    }

    /// What was seen.
    #[must_use]
    pub fn facts(&self) -> &HealthFacts {
        &self.facts
    }
}

/// What came of waiting for a word from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// Somebody confirmed in time.
    Given,
    /// Nobody did.
    Missed,
}
