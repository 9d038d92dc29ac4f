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

/// How the trial is booted, and what brings the old system back when it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FallbackMethod {
    /// GRUB boots the trial once, by a variable in an environment file on the EFI system partition.
    EnvFileEsp,
    /// GRUB boots the trial once, by a variable in an environment file on a plain `/boot` partition.
    EnvFileBoot,
    /// systemd-boot boots the trial once, by its variable `LoaderEntryOneShot` in the firmware.
    LoaderOneShot,
    /// The running kernel starts the trial's kernel; nothing on disk ever leads to the trial.
    Kexec,
    /// The root's name leads to the trial until somebody gives it back: only a living userspace can.
    ByName,
}

impl FallbackMethod {
    /// Whether any reset ends the trial: its boot is never the default.
    #[must_use]
    pub fn is_one_shot(self) -> bool {
        self != Self::ByName
    }

    /// Whether a trial that somebody reboots in an orderly way can be the next boot again. What kexec has started, no boot loader knows.
    #[must_use]
    pub fn survives_a_reboot(self) -> bool {
        self != Self::Kexec
    }

    /// The method in a few words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::EnvFileEsp => "GRUB boots the trial once, by an environment file on the ESP",
            Self::EnvFileBoot => "GRUB boots the trial once, by an environment file on /boot",
            Self::LoaderOneShot => "systemd-boot boots the trial once, by its variable LoaderEntryOneShot",
            Self::Kexec => "the trial is started by kexec; the boot loader knows only the old system",
            Self::ByName => "the root's name leads to a clone of the snapshot",
        }
    }
}

/// What the machine can promise, judged when the run was planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// How the trial is booted.
    pub method: FallbackMethod,
    /// How much comes back by itself.
    pub level: GuaranteeLevel,
    /// Why not more, or why so much, in one sentence.
    pub reason: String,
}

impl Default for Promise {
    /// What runs promised whose journal does not say it.
    fn default() -> Self {
        Self {
            method: FallbackMethod::ByName,
            level: GuaranteeLevel::B,
            reason: "the version of safe-upgrade that planned the run knew no other method".into(),
        }
    }
}

/// What was seen of the fallback.
#[derive(Debug, Clone)]
pub struct FallbackFacts {
    /// What the machine promises now.
    pub promise: Promise,
    /// What is wrong with the boot loader, if anything: it would not boot the old system by default.
    pub loader_fault: Option<String>,
    /// The subvolume that boots by the root's name.
    pub named: Volume,
    /// The subvolume that runs.
    pub running: VolumeId,
    /// Whether the unit that continues the run at the next boot is enabled in the tree that boots.
    pub resume_enabled: bool,
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
        if let Some(fault) = facts.loader_fault {
            return no(fault);
        }
        let Promise { method, level, .. } = facts.promise;
        if (method, level) != (plan.promise.method, plan.promise.level) {
            return no(format!(
                "the run was planned for level {:?} ({}); the machine now offers level {level:?} ({})",
                plan.promise.level,
                plan.promise.method.words(),
                method.words()
            ));
        }
        if level > facts.least {
            return no(format!(
                "the guarantee level is {level:?}; the configuration wants at least {:?}",
                facts.least
            ));
        }
        let proof = FallbackProof { method: method.words().into(), clone: facts.named.uuid, level };
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
