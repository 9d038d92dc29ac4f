//! Preflight: nothing inhibits the run, and the journal lies outside what a rollback takes back.

use serde::{Deserialize, Serialize};

use super::refusal::{Missing, Refusal};
use super::subject::{ManifestId, Plan, RunId, VolumeId};
use crate::finding::{COULD_NOT_FIND_OUT, Finding, Severity};

/// An operator's written decision that a named finding shall not stop a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiver {
    /// The finding's id.
    pub id: String,
    /// Why it may pass.
    pub reason: String,
    /// The last day on which it counts (`YYYY-MM-DD`); without one it always counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

impl Waiver {
    /// Whether it counts for a finding on a day (both days as `YYYY-MM-DD`, which sort as text).
    #[must_use]
    pub fn covers(&self, finding: &Finding, today: &str) -> bool {
        finding.id != COULD_NOT_FIND_OUT
            && self.id == finding.id
            && self.expires.as_deref().is_none_or(|last| today <= last)
    }
}

/// What preflight saw.
#[derive(Debug, Clone)]
pub struct PreflightFacts {
    /// Everything that it found.
    pub findings: Vec<Finding>,
    /// The day, as `YYYY-MM-DD` in UTC.
    pub today: String,
    /// BLAKE3 of the baseline that was taken of the healthy machine.
    pub baseline: ManifestId,
    /// How many things the baseline holds.
    pub baseline_items: u64,
    /// Where the journal lies.
    pub journal: JournalFacts,
}

/// What the journal keeps of a passed preflight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreflightProof {
    /// BLAKE3 of the baseline.
    pub baseline: ManifestId,
    /// Findings that did not stop the run.
    pub findings: Vec<Finding>,
    /// Waivers that were needed.
    pub waived: Vec<Waiver>,
}

/// Nothing inhibits the run.
///
/// ```compile_fail,E0451
/// use safe_upgrade::evidence::{PreflightEvidence, PreflightProof};
/// fn forge(proof: PreflightProof) -> PreflightEvidence {
///     PreflightEvidence { proof }
/// }
/// ```
#[must_use]
#[derive(Debug)]
pub struct PreflightEvidence {
    proof: PreflightProof,
}

impl PreflightEvidence {
    /// Judges what preflight saw.
    ///
    /// # Errors
    /// Refuses on inhibitors without a waiver, an empty baseline, and a journal inside the rollback; the last can't be waived.
    pub fn judge(plan: &Plan, facts: PreflightFacts) -> Result<Self, Refusal> {
        let _outside = JournalEvidence::judge(plan, &facts.journal)?;
        if facts.baseline_items == 0 {
            return Err(Refusal::new(
                Missing::Preflight,
                "the baseline of the machine is empty, so nothing could be compared",
            ));
        }
        let waiver =
            |finding: &Finding| plan.waivers.iter().find(|waiver| waiver.covers(finding, &facts.today));
        let inhibitors = facts.findings.iter().filter(|finding| finding.severity == Severity::Inhibitor);
        let (waived, stopping): (Vec<_>, Vec<_>) = inhibitors.partition(|finding| waiver(finding).is_some());
        if let Some(first) = stopping.first() {
            let more = match stopping.len() {
                1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            };
            let lines =
                stopping.iter().map(|f| format!("{}: {} Remedy: {}", f.id, f.what, f.remedy)).collect();
            return Err(
                Refusal::new(Missing::Preflight, format!("{}: {}{more}", first.id, first.what)).with(lines)
            );
        }
        let waived = waived.into_iter().filter_map(waiver).cloned().collect();
        Ok(Self { proof: PreflightProof { baseline: facts.baseline, findings: facts.findings, waived } })
    }

    /// What the journal keeps.
    #[must_use]
    pub fn proof(&self) -> &PreflightProof {
        &self.proof
    }
}

/// Where the journal lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalFacts {
    /// The subvolume that holds it; `None` when it is not on a subvolume of its own.
    pub volume: Option<VolumeId>,
    /// The subvolumes that a rollback takes back.
    pub scope: Vec<VolumeId>,
}

/// A rollback leaves the journal alone.
#[must_use]
#[derive(Debug)]
pub struct JournalEvidence {
    run: RunId,
}

impl JournalEvidence {
    /// Judges where the journal lies.
    ///
    /// # Errors
    /// Refuses when it has no subvolume of its own, or one that a rollback takes back.
    pub fn judge(plan: &Plan, facts: &JournalFacts) -> Result<Self, Refusal> {
        let no = |why: &str| Err(Refusal::new(Missing::JournalOutsideRollback, why));
        match &facts.volume {
            None => {
                no("the journal has no subvolume of its own: a rollback would erase the memory of itself")
            }
            Some(volume) if facts.scope.contains(volume) || *volume == plan.root.uuid => {
                no("the journal lies inside what a rollback takes back")
            }
            Some(_) if facts.scope.is_empty() => no("what a rollback takes back is not known"),
            Some(_) => Ok(Self { run: plan.run.clone() }),
        }
    }

    pub(super) fn run(&self) -> &RunId {
        &self.run
    }
}
