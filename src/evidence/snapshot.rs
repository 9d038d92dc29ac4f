//! The snapshot set: read-only, complete, and of the root that the plan names.

use serde::{Deserialize, Serialize};

use super::refusal::{Missing, Refusal};
use super::subject::{ManifestId, Plan, RunId, Volume, VolumeId};

/// What was seen of the snapshot of the root.
#[derive(Debug, Clone)]
pub struct SnapshotFacts {
    /// The name that derives from the run.
    pub name: String,
    /// The subvolume under that name, when there is one.
    pub volume: Option<Volume>,
    /// Whether it is read-only.
    pub read_only: bool,
    /// What was copied of the boot loader's own places, each copy read back and found equal.
    pub boot: Vec<BootMember>,
    /// Copies of them that are not whole, one sentence each.
    pub boot_faults: Vec<String>,
}

/// A place of the boot loader outside the root: `/boot`, the EFI system partition, the boot code of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootMember {
    /// Its name in the set.
    pub name: String,
    /// The id of its manifest, or BLAKE3 of its bytes.
    pub manifest: ManifestId,
}

/// The snapshots of a run, as the journal keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSet {
    /// The name of the root's snapshot.
    pub name: String,
    /// Its UUID.
    pub uuid: VolumeId,
    /// The boot loader's places, copied beside the journal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boot: Vec<BootMember>,
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
    /// Refuses a snapshot that is missing, writable, or of another root, and a boot loader whose places were not copied whole.
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
        if let Some(fault) = facts.boot_faults.first() {
            return Err(no(format!("the copy of the boot loader's places is not whole: {fault}"))
                .with(facts.boot_faults.clone()));
        }
        let set = SnapshotSet { name: facts.name, uuid: volume.uuid, boot: facts.boot };
        Ok(Self { run: plan.run.clone(), set })
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
