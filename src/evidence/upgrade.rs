//! The upgrade is complete: an upgrader's exit code proves nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::refusal::{Missing, Refusal};
use super::subject::{Plan, Release};

/// What was seen after the upgrader had ended.
#[derive(Debug, Clone)]
pub struct UpgradeFacts {
    /// Why a stage ended early, in one sentence each.
    pub failures: Vec<String>,
    /// Whether the last stage was reached and ended.
    pub reached_end: bool,
    /// What os-release says now.
    pub release: Release,
    /// Every line of `dpkg --audit`.
    pub audit: Vec<String>,
    /// What `apt-get check` complained about, if it did.
    pub apt_check: Option<String>,
    /// Packages that are not fully installed.
    pub unfinished: Vec<String>,
    /// Packages that could still be upgraded and are not held.
    pub pending: Vec<String>,
    /// What was decided for configuration files that both sides had changed, one line each.
    pub prompts: Vec<String>,
    /// Configurations that their programs refuse now and did not before.
    pub refused_configurations: Vec<RefusedConfiguration>,
    /// How many packages were upgraded, installed or removed.
    pub packages: u64,
}

/// A configuration that its program refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedConfiguration {
    /// Whose, as a person would name it.
    pub what: String,
    /// The program's own words.
    pub line: String,
    /// Without it nobody comes in to mend anything. For the others the health of the trial decides.
    pub stops: bool,
    /// It gave no answer in time, so whether it refuses is not known.
    pub unknown: bool,
}

impl fmt::Display for RefusedConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let does = if self.unknown { "does not say whether it takes" } else { "refuses" };
        write!(f, "{} {does} its configuration: {}", self.what, self.line)
    }
}

/// What the journal keeps of a complete upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeProof {
    /// What os-release says.
    pub release: Release,
    /// How many packages were upgraded, installed or removed.
    pub packages: u64,
    /// What was decided for configuration files, and which of them a program refuses.
    pub prompts: Vec<String>,
}

/// The upgrade is complete.
#[must_use]
#[derive(Debug)]
pub struct UpgradeEvidence {
    proof: UpgradeProof,
}

impl UpgradeEvidence {
    /// Judges what was seen.
    ///
    /// # Errors
    /// Refuses everything that is not a complete upgrade to the planned release.
    pub fn judge(plan: &Plan, facts: UpgradeFacts) -> Result<Self, Refusal> {
        let no = |why: String, details: Vec<String>| {
            Err(Refusal::new(Missing::UpgradeComplete, why).with(details))
        };
        if let Some(first) = facts.failures.first() {
            return no(first.clone(), facts.failures.clone());
        }
        if !facts.reached_end {
            return no("the upgrade did not reach its last stage".into(), Vec::new());
        }
        if facts.release != plan.to {
            return no(
                format!("os-release says {} after the upgrade, not {}", facts.release, plan.to),
                Vec::new(),
            );
        }
        if let Some(first) = facts.audit.first() {
            return no(format!("dpkg --audit is not empty: {first}"), facts.audit.clone());
        }
        if let Some(complaint) = facts.apt_check {
            return no(format!("apt-get check complains: {complaint}"), Vec::new());
        }
        for (packages, what) in
            [(facts.unfinished, "not fully installed"), (facts.pending, "still of the old release")]
        {
            if !packages.is_empty() {
                return no(
                    format!("{} packages are {what}: {}", packages.len(), packages.join(" ")),
                    packages,
                );
            }
        }
        let (stop, warn): (Vec<_>, Vec<_>) = facts.refused_configurations.iter().partition(|one| one.stops);
        if let Some(first) = stop.first() {
            return no(first.to_string(), stop.iter().map(ToString::to_string).collect());
        }
        let prompts = facts.prompts.into_iter().chain(warn.iter().map(ToString::to_string)).collect();
        let proof = UpgradeProof { release: facts.release, packages: facts.packages, prompts };
        Ok(Self { proof })
    }

    /// What the journal keeps.
    #[must_use]
    pub fn proof(&self) -> &UpgradeProof {
        &self.proof
    }
}
