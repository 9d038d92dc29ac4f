//! Where things lie: the state directory and what is in it.

use std::path::{Path, PathBuf};

use crate::evidence::RunId;

/// On a subvolume of its own, so that no rollback takes it back.
pub const STATE_DIRECTORY: &str = "/var/lib/safe-upgrade";

/// The unit that drives a run, also after a reboot.
pub const RESUME_UNIT: &str = "safe-upgrade-resume.service";

/// The unit that drives a run in emergency and rescue mode, where the other one is not started.
pub const EMERGENCY_UNIT: &str = "safe-upgrade-emergency.service";

/// The unit that is stopped when the machine goes down in an orderly way.
pub const LEAVE_UNIT: &str = "safe-upgrade-leave.service";

/// The timer that ends a trial without a verdict.
pub const DEADLINE_TIMER: &str = "safe-upgrade-deadline.timer";

/// What that timer starts.
pub const DEADLINE_UNIT: &str = "safe-upgrade-deadline.service";

/// The state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDirectory(PathBuf);

impl Default for StateDirectory {
    fn default() -> Self {
        Self(PathBuf::from(STATE_DIRECTORY))
    }
}

impl StateDirectory {
    /// Another one, for tests and for looking at a copy.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself: the journal and its lock lie here.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The copy of this program that drives the run to its end, whatever the upgrade does to the installed one.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.0.join("bin/safe-upgrade")
    }

    /// What belongs to one run: its configuration, baseline, logs and progress.
    #[must_use]
    pub fn run(&self, run: &RunId) -> PathBuf {
        self.0.join("runs").join(run.as_str())
    }

    /// Package lists and packages of the target release, fetched before anything is changed.
    #[must_use]
    pub fn apt(&self) -> PathBuf {
        self.0.join("apt")
    }

    /// The last results of configured verifications, and what was proven when.
    #[must_use]
    pub fn verifications(&self) -> PathBuf {
        self.0.join("verify")
    }

    /// What rehearsals have made, and their logs.
    #[must_use]
    pub fn rehearsals(&self) -> PathBuf {
        self.0.join("rehearsals")
    }

    /// Where backups are restored to while they are compared.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.0.join("scratch")
    }
}
