//! A trial that the boot loader boots once: whatever ends it without a verdict, the next boot is the old system again.
//!
//! ```text
//!   arm             installers held off, old kernel kept, menu block with the old system alone
//!   prepare_trial   menu block with both, the env file (or trial.json) says which run to try
//!   (reset)         GRUB clears the env file, saves, reads back, and only then boots the trial
//!   commit_menu     the new system's own menu takes the place of the frozen one
//!   clean_up        nothing of ours is left
//! ```
//!
//! Each step looks first, does what is missing, and is on disk when it returns.

use std::path::PathBuf;

use crate::boot::block::EnvPlace;

/// How the trial is chosen once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// GRUB reads, clears and saves an environment block on a filesystem that it can write.
    EnvFile {
        /// The file as this system sees it, such as `/boot/efi/EFI/safe-upgrade/env` or `/boot/safe-upgrade/env`.
        file: PathBuf,
        /// The same file as GRUB finds it.
        place: EnvPlace,
    },
    /// The running system starts the trial's kernel itself; the boot loader always boots the old system.
    Kexec,
}

/// Where kernels and the menu lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootPlace {
    /// `/boot` is a directory of the root: old and new system have one each.
    InRoot,
    /// `/boot` is a filesystem of its own that both systems share.
    Separate,
}

/// What [`OneShot::arm`] must know of the old system; all of it is only known once the clone has the root's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldSystem {
    /// `uname -r` of the kernel that runs.
    pub kernel: String,
    /// The clone's subvolume id.
    pub subvolume: u64,
}

/// The trial of one run. Plain values: make it anew in each phase.
#[derive(Debug, Clone)]
pub struct OneShot {
    /// The run id.
    pub run: String,
    /// How the trial is chosen.
    pub method: Method,
    /// Where kernels and the menu lie.
    pub boot: BootPlace,
    /// The root's name, which the old system has until commit: `@`.
    pub root_name: String,
    /// The name of the upgraded root until commit: `@safe-upgrade-RUN-root`.
    pub other_name: String,
    /// The top of the running root: `/`; another one in tests only.
    pub running: PathBuf,
    /// The top of the old system's tree as this process sees it: `TopLevel::path(root_name)`. Not looked at when `boot` is
    /// [`BootPlace::Separate`].
    pub old_tree: PathBuf,
    /// The run's directory on the state volume; it exists.
    pub run_directory: PathBuf,
}

/// What [`OneShot::prepare_trial`] found out, for the report and for kexec; also `trial.json`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Trial {
    /// The run id.
    pub run: String,
    /// The kernel, as an absolute path on the running root.
    pub kernel: PathBuf,
    /// The initial RAM disks in their order, as absolute paths on the running root; the dead man is the last. Who joins
    /// them into one file fills each up to a multiple of 4 bytes with zeros.
    pub initrds: Vec<PathBuf>,
    /// The kernel's command line, as GRUB would hand it over.
    pub command_line: String,
}

/// A step that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum OneShotError {
    /// Not written yet.
    #[error("not there yet")]
    Unfinished,
}

impl OneShot {
    /// Holds the boot loader's installers off, keeps copies of the old kernel and initrd (with a separate `/boot`), writes
    /// an env file that chooses nothing, and a menu block that boots the old system by its subvolume id. To be called
    /// when the clone has the root's name, before packages change.
    ///
    /// # Errors
    /// When anything of it cannot be done or found out; call [`OneShot::clean_up`] then.
    pub fn arm(&self, _old: &OldSystem) -> Result<(), OneShotError> {
        Err(OneShotError::Unfinished)
    }

    /// Makes the upgraded root the one that is tried at the next reset, once. `reset_after` is when the dead man resets
    /// a trial that nobody ended, in seconds from the start of its initial RAM disk. With [`Method::Kexec`] it only
    /// writes `trial.json`: loading and starting the kernel is the caller's.
    ///
    /// # Errors
    /// As [`OneShot::arm`]. The next boot is the old system then.
    pub fn prepare_trial(&self, _reset_after: u32) -> Result<Trial, OneShotError> {
        Err(OneShotError::Unfinished)
    }

    /// The next boot is the old system again. The first act of every way back.
    ///
    /// # Errors
    /// When the env file cannot be written and read back, or a loaded kernel not be unloaded.
    pub fn disarm_trial(&self) -> Result<(), OneShotError> {
        Err(OneShotError::Unfinished)
    }

    /// Whether the next reset (or kexec) tries this run. Reads back what GRUB would read.
    ///
    /// # Errors
    /// When it cannot be found out.
    pub fn is_ready(&self) -> Result<bool, OneShotError> {
        Err(OneShotError::Unfinished)
    }

    /// Whether [`OneShot::commit_menu`] must come before the exchange of names (the menu lies in the tree that gets the
    /// name), or after it (the menu is shared, and would boot the old tree by name until then).
    #[must_use]
    pub fn menu_comes_before_exchange(&self) -> bool {
        self.boot == BootPlace::InRoot
    }

    /// Writes the running system's own menu, as if it had the root's name already. Called in the committed trial, at the
    /// moment that [`OneShot::menu_comes_before_exchange`] says.
    ///
    /// # Errors
    /// The menu is the one from before then.
    pub fn commit_menu(&self) -> Result<(), OneShotError> {
        Err(OneShotError::Unfinished)
    }

    /// Runs the `grub-install` calls that were held off, after [`OneShot::clean_up`] and the exchange. Returns how many ran.
    ///
    /// # Errors
    /// The first one that failed.
    pub fn run_held_off(&self) -> Result<usize, OneShotError> {
        Err(OneShotError::Unfinished)
    }

    /// Takes everything of ours away: the choice, the block in any menu that is there, env file, kept copies, dead man,
    /// and the diversions of the running root. With a separate `/boot`, restore it first on a rollback.
    ///
    /// # Errors
    /// The first thing that could not be taken away; the rest was tried.
    pub fn clean_up(&self) -> Result<(), OneShotError> {
        Err(OneShotError::Unfinished)
    }
}
