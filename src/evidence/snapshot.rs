//! The snapshot set: read-only, complete, and of the root that the plan names.

use serde::{Deserialize, Serialize};

use super::refusal::{Missing, Refusal};
use super::subject::{Plan, RunId, Volume, VolumeId};

/// What was seen of the snapshot of the root.
#[derive(Debug, Clone)]
pub struct SnapshotFacts {
    /// The name that derives from the run.
    pub name: String,
    /// The subvolume under that name, when there is one.
    pub volume: Option<Volume>,
    /// Whether it is read-only.
    pub read_only: bool,
}

/// The snapshots of a run, as the journal keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSet {
    /// The name of the root's snapshot.
    pub name: String,
    /// Its UUID.
    pub uuid: VolumeId,
}

/// The snapshot set is good.
#[must_use]
#[derive(Debug)]
pub struct SnapshotEvidence {
    run: RunId,
    set: SnapshotSet,
}

impl SnapshotEvidence {
    /// Judges what was seen.
    ///
    /// # Errors
    /// Refuses a snapshot that is missing, writable, or of another root.
    pub fn judge(plan: &Plan, facts: SnapshotFacts) -> Result<Self, Refusal> {
        let name = &facts.name;
        let no = |why: String| Refusal::new(Missing::Snapshot, why);
        let volume = facts.volume.ok_or_else(|| no(format!("there is no snapshot {name}")))?;
        if !facts.read_only {
            return Err(no(format!("the snapshot {name} is writable")));
        }
        if volume.parent.as_ref() != Some(&plan.root.uuid) {
            return Err(no(format!("the snapshot {name} was not taken of the root {}", plan.root.name)));
        }
        Ok(Self { run: plan.run.clone(), set: SnapshotSet { name: facts.name, uuid: volume.uuid } })
    }

    /// The set.
    #[must_use]
    pub fn set(&self) -> &SnapshotSet {
        &self.set
    }

    pub(super) fn run(&self) -> &RunId {
        &self.run
    }
}
