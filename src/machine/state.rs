//! Where a run can be, with the facts that each place has earned.
//!
//! ```text
//! Planned → Checked → BackupVerified → Rehearsed → Drained → Snapshotted → Armed → Upgrading → Upgraded → Rebooting → Trial → Committed
//!    └─────────┴────────────┴─────────────┴──────────┴───────────┴──────────┤          └──────────┴──────────┴─────────┴─────────┤
//!                                                    Refusing → Refused ────┘                     RollingBack → RollbackRebooting → RolledBack
//!                                                                                                       └──────────────┴──→ Stuck
//! ```

use serde::{Deserialize, Serialize};

use super::why::Why;
use crate::evidence::{
    BackupProof, BootId, FallbackProof, HealthFacts, Plan, PreflightProof, SnapshotSet, VolumeId,
};

/// What is left to take back of a refused run, in the order in which it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undo {
    /// Disarm the fallback, then the rest.
    Disarm,
    /// Release the snapshots, then the rest.
    ReleaseSnapshots,
    /// Let the load balancer send traffic again.
    Undrain,
    /// Nothing is left.
    Nothing,
}

impl Undo {
    /// What follows when this one is done.
    #[must_use]
    pub fn after(self) -> Self {
        match self {
            Self::Disarm => Self::ReleaseSnapshots,
            Self::ReleaseSnapshots => Self::Undrain,
            Self::Undrain | Self::Nothing => Self::Nothing,
        }
    }
}

/// Where a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the facts that the records before have earned")]
pub enum State {
    /// There was never a run.
    New,
    Planned {
        plan: Plan,
    },
    Checked {
        plan: Plan,
        checked: PreflightProof,
    },
    BackupVerified {
        plan: Plan,
        backup: BackupProof,
    },
    Rehearsed {
        plan: Plan,
        backup: BackupProof,
    },
    Drained {
        plan: Plan,
        backup: BackupProof,
    },
    Snapshotted {
        plan: Plan,
        backup: BackupProof,
        snapshot: SnapshotSet,
    },
    Armed {
        plan: Plan,
        backup: BackupProof,
        snapshot: SnapshotSet,
        fallback: FallbackProof,
    },
    Upgrading {
        plan: Plan,
        snapshot: SnapshotSet,
        boot: BootId,
    },
    Upgraded {
        plan: Plan,
        snapshot: SnapshotSet,
        boot: BootId,
    },
    Rebooting {
        plan: Plan,
        snapshot: SnapshotSet,
        from: BootId,
    },
    Trial {
        plan: Plan,
        snapshot: SnapshotSet,
        boot: BootId,
        boots: u8,
        health: Option<HealthFacts>,
        /// The uptime at which health passed, in seconds of this boot.
        healthy_at: u64,
        /// An operator or a program rebooted this boot in an orderly way: the next one may be the trial again.
        left: bool,
    },
    Committed {
        plan: Plan,
        snapshot: Option<SnapshotSet>,
    },
    Refusing {
        plan: Plan,
        why: Why,
        left: Undo,
        snapshot: Option<SnapshotSet>,
    },
    Refused {
        plan: Plan,
        why: Why,
    },
    RollingBack {
        plan: Plan,
        why: Why,
        snapshot: SnapshotSet,
        tries: u8,
    },
    RollbackRebooting {
        plan: Plan,
        why: Why,
        snapshot: SnapshotSet,
        tries: u8,
        volume: VolumeId,
        from: Option<BootId>,
    },
    RolledBack {
        plan: Plan,
        why: Why,
        snapshot: Option<SnapshotSet>,
    },
    /// A human is needed. With a snapshot, a rollback may be tried again.
    Stuck {
        plan: Plan,
        why: Why,
        snapshot: Option<SnapshotSet>,
    },
}

impl State {
    /// The state's name, as `status` and the docs write it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::New => "New",
            Self::Planned { .. } => "Planned",
            Self::Checked { .. } => "Checked",
            Self::BackupVerified { .. } => "BackupVerified",
            Self::Rehearsed { .. } => "Rehearsed",
            Self::Drained { .. } => "Drained",
            Self::Snapshotted { .. } => "Snapshotted",
            Self::Armed { .. } => "Armed",
            Self::Upgrading { .. } => "Upgrading",
            Self::Upgraded { .. } => "Upgraded",
            Self::Rebooting { .. } => "Rebooting",
            Self::Trial { .. } => "Trial",
            Self::Committed { .. } => "Committed",
            Self::Refusing { .. } => "Refusing",
            Self::Refused { .. } => "Refused",
            Self::RollingBack { .. } => "RollingBack",
            Self::RollbackRebooting { .. } => "RollbackRebooting",
            Self::RolledBack { .. } => "RolledBack",
            Self::Stuck { .. } => "Stuck",
        }
    }

    /// The plan of the run; there is none before the first.
    #[must_use]
    pub fn plan(&self) -> Option<&Plan> {
        match self {
            Self::New => None,
            Self::Planned { plan }
            | Self::Checked { plan, .. }
            | Self::BackupVerified { plan, .. }
            | Self::Rehearsed { plan, .. }
            | Self::Drained { plan, .. }
            | Self::Snapshotted { plan, .. }
            | Self::Armed { plan, .. }
            | Self::Upgrading { plan, .. }
            | Self::Upgraded { plan, .. }
            | Self::Rebooting { plan, .. }
            | Self::Trial { plan, .. }
            | Self::Committed { plan, .. }
            | Self::Refusing { plan, .. }
            | Self::Refused { plan, .. }
            | Self::RollingBack { plan, .. }
            | Self::RollbackRebooting { plan, .. }
            | Self::RolledBack { plan, .. }
            | Self::Stuck { plan, .. } => Some(plan),
        }
    }

    /// The sealed snapshots of the run that are still kept.
    #[must_use]
    pub fn snapshot(&self) -> Option<&SnapshotSet> {
        match self {
            Self::New
            | Self::Planned { .. }
            | Self::Checked { .. }
            | Self::BackupVerified { .. }
            | Self::Rehearsed { .. }
            | Self::Drained { .. }
            | Self::Refused { .. } => None,
            Self::Snapshotted { snapshot, .. }
            | Self::Armed { snapshot, .. }
            | Self::Upgrading { snapshot, .. }
            | Self::Upgraded { snapshot, .. }
            | Self::Rebooting { snapshot, .. }
            | Self::Trial { snapshot, .. }
            | Self::RollingBack { snapshot, .. }
            | Self::RollbackRebooting { snapshot, .. } => Some(snapshot),
            Self::Committed { snapshot, .. }
            | Self::Refusing { snapshot, .. }
            | Self::RolledBack { snapshot, .. }
            | Self::Stuck { snapshot, .. } => snapshot.as_ref(),
        }
    }

    /// Why the run turned back, if it did.
    #[must_use]
    pub fn why(&self) -> Option<&Why> {
        match self {
            Self::Refusing { why, .. }
            | Self::Refused { why, .. }
            | Self::RollingBack { why, .. }
            | Self::RollbackRebooting { why, .. }
            | Self::RolledBack { why, .. }
            | Self::Stuck { why, .. } => Some(why),
            _ => None,
        }
    }

    /// Whether the run has ended (or there was none), so that nothing happens by itself any more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::New
                | Self::Committed { .. }
                | Self::Refused { .. }
                | Self::RolledBack { .. }
                | Self::Stuck { .. }
        )
    }
}
