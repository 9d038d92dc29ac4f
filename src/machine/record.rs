//! What the journal can say, and the permission to say it.

use serde::{Deserialize, Serialize};

use super::state::Undo;
use super::why::Why;
use crate::evidence::{
    BackupEvidence, BackupProof, BootId, FallbackEvidence, FallbackProof, Gate, HealthEvidence, HealthFacts,
    Plan, PreflightEvidence, PreflightProof, RehearsalEvidence, RehearsalProof, RestoredEvidence,
    RolledBackEvidence, RunId, SnapshotEvidence, SnapshotSet, SwitchEvidence, TrialEvidence, UpgradeEvidence,
    UpgradeProof, VolumeId,
};

/// A fact in the journal: plain data, from decoding or from an [`Entry`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record")]
#[expect(
    missing_docs,
    reason = "the fields are what their types say; docs/journal-format.md has each record"
)]
pub enum Record {
    /// A run was planned.
    Planned { plan: Plan },
    /// Preflight found nothing that stops the run.
    Checked { proof: PreflightProof },
    /// The backup was restored and equal.
    BackupVerified { proof: BackupProof },
    /// A clone was upgraded first, or that was left out.
    Rehearsed { passage: Passage },
    /// The load balancer sends nothing here any more, or there is none.
    Drained { passage: Passage },
    /// The snapshot set is complete and read-only.
    SnapshotSealed { set: SnapshotSet },
    /// The next boot is the old system.
    FallbackArmed { proof: FallbackProof },
    /// The gate opened; the upgrade begins now. Intent: without an outcome it is never run again.
    UpgradeStarted { boot: BootId },
    /// The upgrade is complete.
    UpgradeFinished { proof: UpgradeProof },
    /// The next boot is the upgraded root, and this boot is about to end.
    RebootStarted { from: BootId },
    /// The upgraded root runs.
    TrialBooted { boot: BootId },
    /// The trial is healthy, `uptime` seconds after its boot.
    HealthPassed {
        facts: HealthFacts,
        #[serde(default)]
        uptime: u64,
    },
    /// The trial's boot is about to end in an orderly way, and not by the run: the next boot is the trial again.
    TrialLeft { boot: BootId },
    /// The new release stays.
    Committed { by: CommittedBy, facts: HealthFacts },
    /// The run turns back before anything was changed.
    RefusalStarted { why: Why },
    /// One preparation was taken back.
    Undone { what: Undo },
    /// Everything that was prepared is taken back.
    Refused,
    /// The old system shall come back.
    RollbackStarted { why: Why },
    /// The next boot is the restored root; `from` is the boot that must end first.
    RollbackPrepared { volume: VolumeId, from: Option<BootId> },
    /// The restored root runs and will run again.
    RolledBack { boot: BootId, health: HealthFacts },
    /// A human is needed.
    Stuck { why: Why },
    /// The snapshots of an ended run were deleted; it can't be rolled back any more.
    Pruned { run: RunId },
}

/// How a step was passed that a plan may leave out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "passed", rename_all = "kebab-case")]
pub enum Passage {
    /// Left out, for a reason.
    Waived {
        /// The reason.
        reason: String,
    },
    /// A rehearsal has passed.
    Rehearsed {
        /// Which, and what it says.
        proof: RehearsalProof,
    },
    /// Done.
    Done {
        /// What was done, in one sentence.
        what: String,
    },
}

/// Who committed a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommittedBy {
    /// The rule in the plan.
    Rule,
    /// A person.
    Operator,
}

/// A record that may be appended. Each constructor asks for the evidence that earns it.
///
/// ```compile_fail,E0423
/// use safe_upgrade::machine::{Entry, Record};
/// let forged = Entry(Record::Refused);
/// ```
/// ```compile_fail,E0277
/// fn stored<T: serde::de::DeserializeOwned>() {}
/// stored::<safe_upgrade::machine::Entry>();
/// ```
#[must_use]
#[derive(Debug)]
pub struct Entry(Record);

#[expect(missing_docs, reason = "each makes the record of its name; the argument is what earns it")]
impl Entry {
    pub fn planned(plan: Plan) -> Self {
        Self(Record::Planned { plan })
    }
    pub fn checked(evidence: &PreflightEvidence) -> Self {
        Self(Record::Checked { proof: evidence.proof().clone() })
    }
    pub fn backup_verified(evidence: &BackupEvidence) -> Self {
        Self(Record::BackupVerified { proof: evidence.proof().clone() })
    }
    pub fn rehearsed(evidence: &RehearsalEvidence) -> Self {
        Self(Record::Rehearsed { passage: Passage::Rehearsed { proof: evidence.proof().clone() } })
    }
    pub fn rehearsal_left_out(reason: String) -> Self {
        Self(Record::Rehearsed { passage: Passage::Waived { reason } })
    }
    pub fn drained(passage: Passage) -> Self {
        Self(Record::Drained { passage })
    }
    pub fn snapshot_sealed(evidence: &SnapshotEvidence) -> Self {
        Self(Record::SnapshotSealed { set: evidence.set().clone() })
    }
    pub fn fallback_armed(evidence: &FallbackEvidence) -> Self {
        Self(Record::FallbackArmed { proof: evidence.proof().clone() })
    }
    pub fn upgrade_started(_: &Gate, boot: BootId) -> Self {
        Self(Record::UpgradeStarted { boot })
    }
    pub fn upgrade_finished(evidence: &UpgradeEvidence) -> Self {
        Self(Record::UpgradeFinished { proof: evidence.proof().clone() })
    }
    pub fn reboot_started(_: &SwitchEvidence, from: BootId) -> Self {
        Self(Record::RebootStarted { from })
    }
    pub fn trial_booted(evidence: &TrialEvidence) -> Self {
        Self(Record::TrialBooted { boot: evidence.boot().clone() })
    }
    pub fn health_passed(evidence: &HealthEvidence, uptime: u64) -> Self {
        Self(Record::HealthPassed { facts: evidence.facts().clone(), uptime })
    }
    pub fn trial_left(boot: BootId) -> Self {
        Self(Record::TrialLeft { boot })
    }
    pub fn committed(evidence: &HealthEvidence, by: CommittedBy) -> Self {
        Self(Record::Committed { by, facts: evidence.facts().clone() })
    }
    pub fn refusal_started(why: Why) -> Self {
        Self(Record::RefusalStarted { why })
    }
    pub fn undone(what: Undo) -> Self {
        Self(Record::Undone { what })
    }
    pub fn refused() -> Self {
        Self(Record::Refused)
    }
    pub fn rollback_started(why: Why) -> Self {
        Self(Record::RollbackStarted { why })
    }
    pub fn rollback_prepared(evidence: &RestoredEvidence) -> Self {
        Self(Record::RollbackPrepared {
            volume: evidence.volume().clone(),
            from: evidence.reboot_from().cloned(),
        })
    }
    pub fn rolled_back(evidence: &RolledBackEvidence, health: HealthFacts) -> Self {
        Self(Record::RolledBack { boot: evidence.boot().clone(), health })
    }
    pub fn stuck(why: Why) -> Self {
        Self(Record::Stuck { why })
    }
    pub fn pruned(run: RunId) -> Self {
        Self(Record::Pruned { run })
    }

    /// The record, about to be appended.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.0
    }
}

impl Record {
    /// The record's name, as the journal writes it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Planned { .. } => "Planned",
            Self::Checked { .. } => "Checked",
            Self::BackupVerified { .. } => "BackupVerified",
            Self::Rehearsed { .. } => "Rehearsed",
            Self::Drained { .. } => "Drained",
            Self::SnapshotSealed { .. } => "SnapshotSealed",
            Self::FallbackArmed { .. } => "FallbackArmed",
            Self::UpgradeStarted { .. } => "UpgradeStarted",
            Self::UpgradeFinished { .. } => "UpgradeFinished",
            Self::RebootStarted { .. } => "RebootStarted",
            Self::TrialBooted { .. } => "TrialBooted",
            Self::HealthPassed { .. } => "HealthPassed",
            Self::TrialLeft { .. } => "TrialLeft",
            Self::Committed { .. } => "Committed",
            Self::RefusalStarted { .. } => "RefusalStarted",
            Self::Undone { .. } => "Undone",
            Self::Refused => "Refused",
            Self::RollbackStarted { .. } => "RollbackStarted",
            Self::RollbackPrepared { .. } => "RollbackPrepared",
            Self::RolledBack { .. } => "RolledBack",
            Self::Stuck { .. } => "Stuck",
            Self::Pruned { .. } => "Pruned",
        }
    }
}
