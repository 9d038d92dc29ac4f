//! Which boot is this, and of which tree: state is a claim about the machine, and the machine may disagree.

use serde::{Deserialize, Serialize};

use super::refusal::{Missing, Refusal};
use super::snapshot::SnapshotSet;
use super::subject::{BootId, Plan, Release, RunId, Volume, VolumeId};

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
    /// The run whose trial this boot was started as, by the kernel's command line.
    pub token: Option<RunId>,
    /// Whether the next boot is, once, the trial of this run; `None` when that could not be found out.
    pub one_shot: Option<bool>,
    /// For how long this boot has been running, in seconds.
    pub uptime: u64,
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

/// What is wrong with a boot loader that should not know of a trial any more.
fn still_armed(facts: &BootFacts) -> Option<String> {
    match facts.one_shot {
        Some(false) => None,
        Some(true) => Some("the next boot would be the trial once more".into()),
        None => Some("whether the trial would boot once more could not be found out".into()),
    }
}

/// The next boot will be the upgraded root.
#[must_use]
#[derive(Debug)]
pub struct SwitchEvidence(());

impl SwitchEvidence {
    /// Judges what boots next.
    ///
    /// # Errors
    /// Refuses when it is not the upgraded root; for a method with a one-shot boot also when the root's name does not lead to the
    /// old system, where a dead trial must land.
    pub fn judge(plan: &Plan, snapshot: &SnapshotSet, facts: &BootFacts) -> Result<Self, Refusal> {
        let name = &plan.root.name;
        let no = |why: String| Err(Refusal::new(Missing::Switch, why));
        if !plan.promise.method.is_one_shot() {
            return match facts.named.uuid == plan.root.uuid {
                true => Ok(Self(())),
                false => no(format!("{name} does not name the upgraded root")),
            };
        }
        if !is_clone(&facts.named, Some(snapshot)) {
            return no(format!("{name} does not name the old system, so a dead trial would not come back"));
        }
        if facts.one_shot != Some(true) {
            return no("nothing is known to boot the trial once".into());
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
    /// Refuses a boot of another tree or of another release, and one that was not started as the trial where a trial can be told.
    pub fn judge(plan: &Plan, facts: &BootFacts) -> Result<Self, Refusal> {
        let no = |why: String| Err(Refusal::new(Missing::Trial, why));
        if facts.running.uuid != plan.root.uuid {
            return no("the machine did not boot the upgraded root".into());
        }
        if facts.release != plan.to {
            return no(format!("the booted system is {}, not {}", facts.release, plan.to));
        }
        if plan.promise.method.is_one_shot() && facts.token.as_ref() != Some(&plan.run) {
            return no("the upgraded root was booted, but not as the trial of this run: its fallback is not in force".into());
        }
        Ok(Self { boot: facts.boot.clone() })
    }

    /// The boot.
    #[must_use]
    pub fn boot(&self) -> &BootId {
        &self.boot
    }
}

/// What a rollback left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredFacts {
    /// The boot, and the next one.
    pub boot: BootFacts,
    /// The boot loader's places, each compared with its copy after it was brought back.
    pub members: Vec<RestoredMember>,
}

/// One of the boot loader's places after it was brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredMember {
    /// Its name in the set.
    pub name: String,
    /// Where it still differs from what was copied, one line each.
    pub differences: Vec<String>,
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
    /// Refuses when the root's name does not lead to a clone of the snapshot, when the trial could still boot, and when a place
    /// of the boot loader that is in the set is not as it was.
    pub fn judge(plan: &Plan, snapshot: &SnapshotSet, facts: &RestoredFacts) -> Result<Self, Refusal> {
        let no = |why: String| Refusal::new(Missing::Restored, why);
        let boot = &facts.boot;
        if !is_clone(&boot.named, Some(snapshot)) {
            let why = format!("{} does not name a clone of the snapshot {}", plan.root.name, snapshot.name);
            return Err(no(why));
        }
        if let Some(fault) = still_armed(boot) {
            return Err(no(fault));
        }
        for wanted in &snapshot.boot {
            match facts.members.iter().find(|member| member.name == wanted.name) {
                None => return Err(no(format!("{} was not brought back", wanted.name))),
                Some(member) if !member.differences.is_empty() => {
                    return Err(
                        no(format!("{} is not as it was", wanted.name)).with(member.differences.clone())
                    );
                }
                Some(_) => {}
            }
        }
        let reboot_from = (boot.running.uuid != boot.named.uuid).then(|| boot.boot.clone());
        Ok(Self { volume: boot.named.uuid.clone(), reboot_from })
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
        if let Some(fault) = still_armed(facts) {
            return no(fault);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::{BootMember, FallbackMethod, GuaranteeLevel, Promise};
    use crate::sim::{manifest_id, plan, volume_id};

    fn one_shot() -> Plan {
        let promise =
            Promise { method: FallbackMethod::EnvFileEsp, level: GuaranteeLevel::A, reason: String::new() };
        Plan { promise, ..plan(crate::evidence::CommitRule::Automatic) }
    }

    fn snapshot() -> SnapshotSet {
        let boot = vec![BootMember { name: "esp".into(), manifest: manifest_id(3) }];
        SnapshotSet { name: "before".into(), uuid: volume_id(2), boot }
    }

    /// The upgraded root runs as the trial, and the clone has the root's name.
    fn facts(plan: &Plan) -> BootFacts {
        BootFacts {
            boot: BootId::new("2"),
            running: Volume { uuid: plan.root.uuid.clone(), parent: None },
            named: Volume { uuid: volume_id(3), parent: Some(volume_id(2)) },
            release: plan.to.clone(),
            token: Some(plan.run.clone()),
            one_shot: Some(true),
            uptime: 60,
        }
    }

    #[test]
    fn a_trial_is_prepared_only_when_a_dead_one_comes_back() {
        let (plan, snapshot) = (one_shot(), snapshot());
        let judged = |facts: BootFacts| SwitchEvidence::judge(&plan, &snapshot, &facts).map(drop);
        judged(facts(&plan)).unwrap();
        let by_name = Volume { uuid: plan.root.uuid.clone(), parent: None };
        judged(BootFacts { named: by_name, ..facts(&plan) }).unwrap_err();
        judged(BootFacts { one_shot: None, ..facts(&plan) }).unwrap_err();
        judged(BootFacts { one_shot: Some(false), ..facts(&plan) }).unwrap_err();
    }

    #[test]
    fn a_boot_of_the_upgraded_root_by_hand_is_no_trial() {
        let plan = one_shot();
        assert_eq!(TrialEvidence::judge(&plan, &facts(&plan)).unwrap().boot(), &BootId::new("2"));
        TrialEvidence::judge(&plan, &BootFacts { token: None, ..facts(&plan) }).unwrap_err();
        let other = "20261126T163000Z-ffff".parse().unwrap();
        TrialEvidence::judge(&plan, &BootFacts { token: Some(other), ..facts(&plan) }).unwrap_err();
        TrialEvidence::judge(&plan, &BootFacts { release: plan.from.clone(), ..facts(&plan) }).unwrap_err();
    }

    #[test]
    fn nothing_is_restored_while_a_place_of_the_boot_loader_differs() {
        let (plan, snapshot) = (one_shot(), snapshot());
        let member = |differences: &[&str]| RestoredMember {
            name: "esp".into(),
            differences: differences.iter().map(|line| (*line).to_owned()).collect(),
        };
        let judged = |members: Vec<RestoredMember>, one_shot: Option<bool>| {
            let boot = BootFacts { one_shot, ..facts(&plan) };
            RestoredEvidence::judge(&plan, &snapshot, &RestoredFacts { boot, members })
        };
        let evidence = judged(vec![member(&[])], Some(false)).unwrap();
        assert_eq!(evidence.reboot_from(), Some(&BootId::new("2")));
        judged(vec![], Some(false)).unwrap_err();
        let refusal = judged(vec![member(&["content: EFI/debian/grubx64.efi"])], Some(false)).unwrap_err();
        assert_eq!(refusal.details, ["content: EFI/debian/grubx64.efi"]);
        judged(vec![member(&[])], Some(true)).unwrap_err();
        judged(vec![member(&[])], None).unwrap_err();
    }

    #[test]
    fn a_rollback_is_not_proven_while_the_trial_could_boot() {
        let plan = one_shot();
        let clone = Volume { uuid: volume_id(3), parent: Some(volume_id(2)) };
        let back = BootFacts {
            running: clone,
            release: plan.from.clone(),
            token: None,
            one_shot: Some(false),
            ..facts(&plan)
        };
        assert_eq!(RolledBackEvidence::judge(&plan, &volume_id(3), &back).unwrap().boot(), &BootId::new("2"));
        for one_shot in [Some(true), None] {
            RolledBackEvidence::judge(&plan, &volume_id(3), &BootFacts { one_shot, ..back.clone() })
                .unwrap_err();
        }
    }
}
