//! The one table of order: which record may follow in which state, live and in replay.

use super::ROLLBACK_TRIES;
use super::record::Record;
use super::state::{State, Undo};
use super::why::Why;
use crate::evidence::{BootId, Plan, SnapshotSet};

/// A record that may not follow in a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record {record} may not follow in the state {from}")]
pub struct IllegalTransition {
    /// The state.
    pub from: &'static str,
    /// The record.
    pub record: &'static str,
}

impl State {
    /// Where a record leads from here.
    ///
    /// # Errors
    /// [`IllegalTransition`] when it may not follow.
    pub fn apply(self, record: &Record) -> Result<Self, IllegalTransition> {
        let illegal = IllegalTransition { from: self.name(), record: record.name() };
        match record {
            Record::RefusalStarted { why } => self.refuse(why),
            Record::Undone { .. } | Record::Refused => self.take_back(record),
            Record::RollbackStarted { why } => self.roll_back(why),
            Record::RollbackPrepared { .. } | Record::RolledBack { .. } | Record::Stuck { .. } => {
                self.end_badly(record)
            }
            Record::Pruned { run } => self.prune(run),
            _ => self.advance(record),
        }
        .ok_or(illegal)
    }

    /// The main line.
    fn advance(self, record: &Record) -> Option<Self> {
        use Record as R;
        Some(match (self, record) {
            (state, R::Planned { plan }) if state.is_final() => Self::Planned { plan: plan.clone() },
            (Self::Planned { plan }, R::Checked { proof }) => Self::Checked { plan, checked: proof.clone() },
            (Self::Checked { plan, .. }, R::BackupVerified { proof }) => {
                Self::BackupVerified { plan, backup: proof.clone() }
            }
            (Self::BackupVerified { plan, backup }, R::Rehearsed { .. }) => Self::Rehearsed { plan, backup },
            (Self::Rehearsed { plan, backup }, R::Drained { .. }) => Self::Drained { plan, backup },
            (Self::Drained { plan, backup }, R::SnapshotSealed { set }) => {
                Self::Snapshotted { plan, backup, snapshot: set.clone() }
            }
            (Self::Snapshotted { plan, backup, snapshot }, R::FallbackArmed { proof }) => {
                Self::Armed { plan, backup, snapshot, fallback: proof.clone() }
            }
            (Self::Armed { plan, snapshot, .. }, R::UpgradeStarted { boot }) => {
                Self::Upgrading { plan, snapshot, boot: boot.clone() }
            }
            (Self::Upgrading { plan, snapshot, boot }, R::UpgradeFinished { .. }) => {
                Self::Upgraded { plan, snapshot, boot }
            }
            (state, record) => return state.advance_changed(record),
        })
    }

    /// The main line once the system is being changed.
    fn advance_changed(self, record: &Record) -> Option<Self> {
        use Record as R;
        Some(match (self, record) {
            (Self::Upgraded { plan, snapshot, boot }, R::RebootStarted { from }) if boot == *from => {
                Self::Rebooting { plan, snapshot, from: from.clone() }
            }
            (Self::Rebooting { plan, snapshot, from }, R::TrialBooted { boot }) if from != *boot => {
                Self::on_trial(plan, snapshot, boot, 1)
            }
            (
                Self::Trial { plan, snapshot, boot: last, boots, health, left, .. },
                R::TrialBooted { boot },
            ) if last != *boot && (left || health.is_some()) && boots < plan.trial_boots => {
                Self::on_trial(plan, snapshot, boot, boots + 1)
            }
            (Self::Trial { plan, snapshot, boot, boots, left, .. }, R::HealthPassed { facts, uptime }) => {
                Self::Trial {
                    plan,
                    snapshot,
                    boot,
                    boots,
                    health: Some(facts.clone()),
                    healthy_at: *uptime,
                    left,
                }
            }
            (
                Self::Trial { plan, snapshot, boot, boots, health, healthy_at, .. },
                R::TrialLeft { boot: left },
            ) if boot == *left => Self::Trial { plan, snapshot, boot, boots, health, healthy_at, left: true },
            (Self::Trial { plan, snapshot, .. }, R::Committed { .. }) => {
                Self::Committed { plan, snapshot: Some(snapshot) }
            }
            _ => return None,
        })
    }

    fn on_trial(plan: Plan, snapshot: SnapshotSet, boot: &BootId, boots: u8) -> Self {
        Self::Trial { plan, snapshot, boot: boot.clone(), boots, health: None, healthy_at: 0, left: false }
    }

    /// Turning back before anything was changed. The undo starts with what may have begun, recorded or not.
    fn refuse(self, why: &Why) -> Option<Self> {
        let (plan, left, snapshot) = match self {
            Self::Planned { plan } | Self::Checked { plan, .. } | Self::BackupVerified { plan, .. } => {
                (plan, Undo::Nothing, None)
            }
            Self::Rehearsed { plan, .. } => (plan, Undo::Undrain, None),
            Self::Drained { plan, .. } => (plan, Undo::ReleaseSnapshots, None),
            Self::Snapshotted { plan, snapshot, .. } | Self::Armed { plan, snapshot, .. } => {
                (plan, Undo::Disarm, Some(snapshot))
            }
            _ => return None,
        };
        Some(Self::Refusing { plan, why: why.clone(), left, snapshot })
    }

    fn take_back(self, record: &Record) -> Option<Self> {
        match (self, record) {
            (Self::Refusing { plan, why, left, snapshot }, Record::Undone { what })
                if left == *what && left != Undo::Nothing =>
            {
                let snapshot = snapshot.filter(|_| left == Undo::Disarm);
                Some(Self::Refusing { plan, why, left: left.after(), snapshot })
            }
            (Self::Refusing { plan, why, left: Undo::Nothing, .. }, Record::Refused) => {
                Some(Self::Refused { plan, why })
            }
            _ => None,
        }
    }

    fn roll_back(self, why: &Why) -> Option<Self> {
        let (plan, snapshot, tries) = match self {
            // Before the upgrade only when the machine has left the planned root by itself: then there is nothing to disarm.
            Self::Snapshotted { plan, snapshot, .. }
            | Self::Armed { plan, snapshot, .. }
            | Self::Refusing { plan, left: Undo::Disarm, snapshot: Some(snapshot), .. }
                if *why == Why::FellBack =>
            {
                (plan, snapshot, 0)
            }
            Self::Upgrading { plan, snapshot, .. }
            | Self::Upgraded { plan, snapshot, .. }
            | Self::Rebooting { plan, snapshot, .. }
            | Self::Trial { plan, snapshot, .. } => (plan, snapshot, 0),
            Self::Committed { plan, snapshot: Some(snapshot) }
            | Self::Stuck { plan, snapshot: Some(snapshot), .. }
                if *why == Why::Operator =>
            {
                (plan, snapshot, 0)
            }
            Self::RollbackRebooting { plan, snapshot, tries, .. }
                if *why == Why::NotRestored && tries + 1 < ROLLBACK_TRIES =>
            {
                (plan, snapshot, tries + 1)
            }
            _ => return None,
        };
        Some(Self::RollingBack { plan, why: why.clone(), snapshot, tries })
    }

    fn end_badly(self, record: &Record) -> Option<Self> {
        Some(match (self, record) {
            (Self::RollingBack { plan, why, snapshot, tries }, Record::RollbackPrepared { volume, from }) => {
                Self::RollbackRebooting {
                    plan,
                    why,
                    snapshot,
                    tries,
                    volume: volume.clone(),
                    from: from.clone(),
                }
            }
            (Self::RollbackRebooting { plan, why, snapshot, from, .. }, Record::RolledBack { boot, .. })
                if from.as_ref() != Some(boot) =>
            {
                Self::RolledBack { plan, why, snapshot: Some(snapshot) }
            }
            (state, Record::Stuck { why }) if !state.is_final() => {
                let snapshot = state.snapshot().cloned();
                Self::Stuck { plan: state.plan()?.clone(), why: why.clone(), snapshot }
            }
            _ => return None,
        })
    }

    /// A state keeps its name: only the way back is gone. Pruning an older run changes nothing here.
    fn prune(self, run: &crate::evidence::RunId) -> Option<Self> {
        if !self.is_final() || matches!(self, Self::New) {
            return None;
        }
        let keeps = |plan: &Plan, snapshot: Option<SnapshotSet>| snapshot.filter(|_| plan.run != *run);
        Some(match self {
            Self::Committed { plan, snapshot } => Self::Committed { snapshot: keeps(&plan, snapshot), plan },
            Self::RolledBack { plan, why, snapshot } => {
                Self::RolledBack { snapshot: keeps(&plan, snapshot), plan, why }
            }
            Self::Stuck { ref plan, .. } if plan.run == *run => return None,
            state => state,
        })
    }
}
