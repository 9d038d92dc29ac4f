//! The fallback: whatever happens from now on, the next boot is the old system, and it will go on with the run.

use serde::{Deserialize, Serialize};

use super::refusal::{Missing, Refusal};
use super::snapshot::SnapshotSet;
use super::subject::{Plan, RunId, Volume, VolumeId};

/// How much comes back by itself. Source: docs/guarantees.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GuaranteeLevel {
    /// A dead kernel comes back by itself.
    A,
    /// Only a living userspace does.
    B,
    /// A human must.
    C,
}

/// What was seen of the fallback.
#[derive(Debug, Clone)]
pub struct FallbackFacts {
    /// How it works, in a few words.
    pub method: String,
    /// The subvolume that boots by the root's name.
    pub named: Volume,
    /// The subvolume that runs.
    pub running: VolumeId,
    /// Whether the unit that continues the run at the next boot is enabled in the tree that boots.
    pub resume_enabled: bool,
    /// How much comes back by itself.
    pub level: GuaranteeLevel,
    /// The least that the configuration wants.
    pub least: GuaranteeLevel,
}

/// What the journal keeps of an armed fallback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackProof {
    /// How it works.
    pub method: String,
    /// The subvolume that boots: a writable clone of the snapshot.
    pub clone: VolumeId,
    /// How much comes back by itself.
    pub level: GuaranteeLevel,
}

/// The fallback is armed.
#[must_use]
#[derive(Debug)]
pub struct FallbackEvidence {
    run: RunId,
    snapshot: VolumeId,
    proof: FallbackProof,
}

impl FallbackEvidence {
    /// Judges what was seen.
    ///
    /// # Errors
    /// Refuses when the next boot would not be a clone of the snapshot, when something else than the planned root runs, when
    /// nobody would go on after that boot, or when less comes back by itself than the configuration wants.
    pub fn judge(plan: &Plan, snapshot: &SnapshotSet, facts: FallbackFacts) -> Result<Self, Refusal> {
        let no = |why: String| Err(Refusal::new(Missing::Fallback, why));
        if facts.named.parent.as_ref() != Some(&snapshot.uuid) {
            return no(format!("{} does not name a clone of the snapshot {}", plan.root.name, snapshot.name));
        }
        if facts.running != plan.root.uuid {
            return no("the running root is not the one that the plan names".into());
        }
        if !facts.resume_enabled {
            return no("safe-upgrade-resume.service is not enabled in the old system, so it would not go on by itself".into());
        }
        if facts.level > facts.least {
            return no(format!(
                "the guarantee level is {:?}; the configuration wants at least {:?}",
                facts.level, facts.least
            ));
        }
        let proof = FallbackProof { method: facts.method, clone: facts.named.uuid, level: facts.level };
        Ok(Self { run: plan.run.clone(), snapshot: snapshot.uuid.clone(), proof })
    }

    /// What the journal keeps.
    #[must_use]
    pub fn proof(&self) -> &FallbackProof {
        &self.proof
    }

    pub(super) fn run(&self) -> &RunId {
        &self.run
    }

    pub(super) fn snapshot(&self) -> &VolumeId {
        &self.snapshot
    }
}
