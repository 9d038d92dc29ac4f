//! Which boot is this, and of which tree: state is a claim about the machine, and the machine may disagree.

use serde::{Deserialize, Serialize};

use super::refusal::{Missing, Refusal};
use super::snapshot::SnapshotSet;
use super::subject::{BootId, Plan, Release, Volume, VolumeId};

/// What was seen of the running system and of the next boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFacts {
    /// This boot.
    pub boot: BootId,
    /// The subvolume that runs as `/`.
    pub running: Volume,
    /// The subvolume that boots next: the one that holds the root's name.
    pub named: Volume,
    /// The release that runs.
    pub release: Release,
}

/// Which tree runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The root that the plan names: the one that is, will be, or was upgraded.
    PlannedRoot,
    /// A clone of the run's snapshot: the old system.
    OldSystem,
    /// Neither.
    Unknown,
}

/// This boot, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Its id.
    pub id: BootId,
    /// Which tree runs.
    pub place: Place,
}

impl Boot {
    /// Judges which tree runs. Before there is a snapshot only the planned root is known.
    #[must_use]
    pub fn judge(plan: &Plan, snapshot: Option<&SnapshotSet>, facts: &BootFacts) -> Self {
        let place = if facts.running.uuid == plan.root.uuid {
            Place::PlannedRoot
        } else if is_clone(&facts.running, snapshot) {
            Place::OldSystem
        } else {
            Place::Unknown
        };
        Self { id: facts.boot.clone(), place }
    }
}

fn is_clone(volume: &Volume, snapshot: Option<&SnapshotSet>) -> bool {
    snapshot.is_some_and(|snapshot| volume.parent.as_ref() == Some(&snapshot.uuid))
}

/// The next boot will be the upgraded root.
#[must_use]
#[derive(Debug)]
pub struct SwitchEvidence(());

impl SwitchEvidence {
    /// Judges what boots next.
    ///
    /// # Errors
    /// Refuses when the root's name does not lead to the upgraded root.
    pub fn judge(plan: &Plan, facts: &BootFacts) -> Result<Self, Refusal> {
        if facts.named.uuid != plan.root.uuid {
            return Err(Refusal::new(
                Missing::Switch,
                format!("{} does not name the upgraded root", plan.root.name),
            ));
        }
        Ok(Self(()))
    }
}

/// This boot is the trial of the upgraded root.
#[must_use]
#[derive(Debug)]
pub struct TrialEvidence {
    boot: BootId,
}

impl TrialEvidence {
    /// Judges the first look at a new boot.
    ///
    /// # Errors
    /// Refuses a boot of another tree, or of another release.
    pub fn judge(plan: &Plan, facts: &BootFacts) -> Result<Self, Refusal> {
        let no = |why: String| Err(Refusal::new(Missing::Trial, why));
        if facts.running.uuid != plan.root.uuid {
            return no("the machine did not boot the upgraded root".into());
        }
        if facts.release != plan.to {
            return no(format!("the booted system is {}, not {}", facts.release, plan.to));
        }
        Ok(Self { boot: facts.boot.clone() })
    }

    /// The boot.
    #[must_use]
    pub fn boot(&self) -> &BootId {
        &self.boot
    }
}

/// The old system will boot next: the first proof of a rollback.
#[must_use]
#[derive(Debug)]
pub struct RestoredEvidence {
    volume: VolumeId,
    reboot_from: Option<BootId>,
}

impl RestoredEvidence {
    /// Judges what a rollback left behind.
    ///
    /// # Errors
    /// Refuses when the root's name does not lead to a clone of the snapshot.
    pub fn judge(plan: &Plan, snapshot: &SnapshotSet, facts: &BootFacts) -> Result<Self, Refusal> {
        if !is_clone(&facts.named, Some(snapshot)) {
            let why = format!("{} does not name a clone of the snapshot {}", plan.root.name, snapshot.name);
            return Err(Refusal::new(Missing::Restored, why));
        }
        let reboot_from = (facts.running.uuid != facts.named.uuid).then(|| facts.boot.clone());
        Ok(Self { volume: facts.named.uuid.clone(), reboot_from })
    }

    /// The clone that boots next.
    #[must_use]
    pub fn volume(&self) -> &VolumeId {
        &self.volume
    }

    /// The boot that must end first; `None` when the clone already runs.
    #[must_use]
    pub fn reboot_from(&self) -> Option<&BootId> {
        self.reboot_from.as_ref()
    }
}

/// The old system runs and will run again: the second proof of a rollback.
#[must_use]
#[derive(Debug)]
pub struct RolledBackEvidence {
    boot: BootId,
}

impl RolledBackEvidence {
    /// Judges the boot after a rollback.
    ///
    /// # Errors
    /// Refuses when another tree than the restored one runs or would boot next, or when it is not the old release.
    pub fn judge(plan: &Plan, restored: &VolumeId, facts: &BootFacts) -> Result<Self, Refusal> {
        let no = |why: String| Err(Refusal::new(Missing::Restored, why));
        if facts.running.uuid != *restored {
            return no("the restored root does not run".into());
        }
        if facts.named.uuid != *restored {
            return no("the restored root runs, but another one would boot next".into());
        }
        if facts.release != plan.from {
            return no(format!("the restored root is {}, not {}", facts.release, plan.from));
        }
        Ok(Self { boot: facts.boot.clone() })
    }

    /// The boot that proved it.
    #[must_use]
    pub fn boot(&self) -> &BootId {
        &self.boot
    }
}
