//! The one table of what comes next, from the state and the boot alone.

use super::ROLLBACK_TRIES;
use super::state::{State, Undo};
use super::why::Why;
use crate::evidence::{BackupProof, Boot, BootId, CommitRule, Place, Plan, SnapshotSet, VolumeId};

/// What a reboot is meant to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The upgraded root, on trial.
    Trial,
    /// The old system.
    OldSystem,
}

/// What must be done next, with everything that doing it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the facts that the step is about")]
pub enum Step {
    /// Nothing, until somebody asks.
    Stop,
    /// Look at the machine: findings, baseline, download. Repeatable.
    Preflight { plan: Plan },
    /// Make the backup and restore it. Repeatable.
    BackUp { plan: Plan },
    /// Look for a rehearsal that counts, or pass with a reason. Repeatable.
    Rehearse { plan: Plan },
    /// Take this machine out of the load balancer, or pass with a reason. Repeatable.
    Drain { plan: Plan },
    /// Probe first: the name derives from the run.
    TakeSnapshots { plan: Plan },
    /// Probe first.
    Arm { plan: Plan, snapshot: SnapshotSet },
    /// Earn every proof in this process, then upgrade. Once.
    Upgrade { plan: Plan, backup: BackupProof, snapshot: SnapshotSet },
    /// Make the upgraded root the next boot. Probe first.
    PrepareTrial { plan: Plan, snapshot: SnapshotSet, boot: BootId },
    /// Repeatable.
    Reboot { plan: Plan, into: Destination },
    /// Look whether this boot is the trial. Repeatable.
    EnterTrial { plan: Plan },
    /// Judge health, and soak. Repeatable.
    CheckHealth { plan: Plan },
    /// The trial is healthy; an operator has the word.
    AwaitCommit { plan: Plan },
    /// The trial is healthy; it goes back unless somebody outside confirms before this uptime, in seconds. Repeatable.
    AwaitConfirmation { plan: Plan, until: u64 },
    /// Take one preparation of a refused run back. Probe first.
    TakeBack { plan: Plan, what: Undo },
    /// Say that a refused run is over.
    Refuse { plan: Plan },
    /// Say that the run turns back before it has changed anything.
    StartRefusal { why: Why },
    /// Say that the old system shall come back.
    StartRollback { why: Why },
    /// Make the snapshot's clone the next boot. Probe first.
    RollBack { plan: Plan, snapshot: SnapshotSet },
    /// Prove that the restored root runs. Repeatable.
    ProveRollback { plan: Plan, volume: VolumeId },
    /// Say that a human is needed.
    GiveUp { why: Why },
}

impl State {
    /// What comes next in this boot.
    #[must_use]
    pub fn next_step(&self, boot: &Boot) -> Step {
        if self.is_final() {
            return Step::Stop;
        }
        match boot.place {
            Place::Unknown => self.on_an_unknown_root(),
            Place::OldSystem => self.on_the_old_system(boot),
            Place::PlannedRoot => self.on_the_planned_root(boot),
        }
    }

    /// Somebody or something booted a tree that this run has never heard of: nothing is touched.
    fn on_an_unknown_root(&self) -> Step {
        match self {
            Self::Planned { .. }
            | Self::Checked { .. }
            | Self::BackupVerified { .. }
            | Self::Rehearsed { .. }
            | Self::Drained { .. } => Step::StartRefusal { why: Why::UnknownRoot },
            _ => Step::GiveUp { why: Why::UnknownRoot },
        }
    }

    /// The snapshot's clone runs: either a rollback brought it back, or the machine fell back by itself.
    fn on_the_old_system(&self, boot: &Boot) -> Step {
        match self {
            Self::RollingBack { plan, snapshot, .. } => {
                Step::RollBack { plan: plan.clone(), snapshot: snapshot.clone() }
            }
            Self::RollbackRebooting { plan, from, .. } if from.as_ref() == Some(&boot.id) => {
                Step::Reboot { plan: plan.clone(), into: Destination::OldSystem }
            }
            Self::RollbackRebooting { plan, volume, .. } => {
                Step::ProveRollback { plan: plan.clone(), volume: volume.clone() }
            }
            // Without a snapshot no clone is known.
            Self::Planned { .. }
            | Self::Checked { .. }
            | Self::BackupVerified { .. }
            | Self::Rehearsed { .. }
            | Self::Drained { .. } => self.on_an_unknown_root(),
            // Only the undrain can be left: the snapshot that this clone is judged by is already released.
            Self::Refusing { left, .. } if *left != Undo::Disarm => Step::GiveUp { why: Why::UnknownRoot },
            _ => Step::StartRollback { why: Why::FellBack },
        }
    }

    fn on_the_planned_root(&self, boot: &Boot) -> Step {
        let now = &boot.id;
        match self {
            Self::Planned { plan } => Step::Preflight { plan: plan.clone() },
            Self::Checked { plan, .. } => Step::BackUp { plan: plan.clone() },
            Self::BackupVerified { plan, .. } => Step::Rehearse { plan: plan.clone() },
            Self::Rehearsed { plan, .. } => Step::Drain { plan: plan.clone() },
            Self::Drained { plan, .. } => Step::TakeSnapshots { plan: plan.clone() },
            Self::Snapshotted { plan, snapshot, .. } => {
                Step::Arm { plan: plan.clone(), snapshot: snapshot.clone() }
            }
            Self::Armed { plan, backup, snapshot, .. } => {
                Step::Upgrade { plan: plan.clone(), backup: backup.clone(), snapshot: snapshot.clone() }
            }
            // It was running when we died: never run it twice.
            Self::Upgrading { .. } => interrupted("upgrading"),
            Self::Upgraded { plan, snapshot, boot } if boot == now => {
                Step::PrepareTrial { plan: plan.clone(), snapshot: snapshot.clone(), boot: boot.clone() }
            }
            Self::Upgraded { .. } => interrupted("preparing the trial"),
            Self::Rebooting { plan, from, .. } if from == now => {
                Step::Reboot { plan: plan.clone(), into: Destination::Trial }
            }
            Self::Rebooting { plan, .. } => Step::EnterTrial { plan: plan.clone() },
            Self::Trial { .. } => self.in_trial(now),
            Self::Refusing { plan, left: Undo::Nothing, .. } => Step::Refuse { plan: plan.clone() },
            Self::Refusing { plan, left, .. } => Step::TakeBack { plan: plan.clone(), what: *left },
            Self::RollingBack { plan, snapshot, .. } => {
                Step::RollBack { plan: plan.clone(), snapshot: snapshot.clone() }
            }
            Self::RollbackRebooting { plan, from, .. } if from.as_ref() == Some(now) => {
                Step::Reboot { plan: plan.clone(), into: Destination::OldSystem }
            }
            // Another boot, and still not the restored root.
            Self::RollbackRebooting { tries, .. } if tries + 1 < ROLLBACK_TRIES => {
                Step::StartRollback { why: Why::NotRestored }
            }
            Self::RollbackRebooting { .. } => Step::GiveUp { why: Why::NotRestored },
            Self::New
            | Self::Committed { .. }
            | Self::Refused { .. }
            | Self::RolledBack { .. }
            | Self::Stuck { .. } => Step::Stop,
        }
    }

    /// A trial that finds itself in another boot was interrupted, unless its boot was left in an orderly way, or it was healthy
    /// and waits. Either may be booted again, so often as the plan allows. (Where the trial is a one-shot boot, a healthy one that loses
    /// power does not come here: the old system boots.)
    fn in_trial(&self, now: &BootId) -> Step {
        let Self::Trial { plan, boot, boots, health, healthy_at, left, .. } = self else {
            return Step::Stop;
        };
        if boot == now {
            return match (health, plan.commit) {
                (Some(_), CommitRule::Manual) => Step::AwaitCommit { plan: plan.clone() },
                (Some(_), CommitRule::Confirm) => {
                    let until = healthy_at.saturating_add(plan.confirm_seconds);
                    Step::AwaitConfirmation { plan: plan.clone(), until }
                }
                _ => Step::CheckHealth { plan: plan.clone() },
            };
        }
        if (*left || health.is_some()) && *boots < plan.trial_boots {
            return Step::EnterTrial { plan: plan.clone() };
        }
        interrupted("on trial")
    }
}

fn interrupted(during: &str) -> Step {
    Step::StartRollback { why: Why::Interrupted { during: during.to_owned() } }
}
