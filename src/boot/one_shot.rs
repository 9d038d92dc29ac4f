//! A trial that the boot loader boots once: whatever ends it without a verdict, the next boot is the old system again.
//!
//! ```text
//!   arm             installers held off, old kernel kept, menu block with the old system alone
//!   prepare_trial   menu block with both; what it boots can be proven now
//!   choose_trial    the env file (or trial.json) says which run to try
//!   (reset)         GRUB clears the env file, saves, reads back, and only then boots the trial
//!   commit_menu     the new system's own menu takes the place of the frozen one
//!   clean_up        nothing of ours is left
//! ```
//!
//! Each step looks first, does what is missing, and is on disk when it returns.

pub(super) mod arguments;
mod error;
pub(super) mod files;
pub(super) mod record;
mod way_back;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::OneShotError;

use crate::boot::block::{self, Block, EnvPlace};
use crate::boot::for_grub::{self, seen_by_grub, strip_menu, write_menu};
use crate::boot::frozen::Frozen;
use crate::boot::menu::{self, Boots};
use crate::boot::{deadman, grub, kexec};
use crate::system::durable::{remove_file, replace_file};
use crate::system::exec::Exec;
use files::{create_directory, has_content, read, remove_directory};
use record::{Kept, Record};

/// Below `/boot`: kept copies and the dead man. No script of GRUB's takes a kernel from a directory there.
const OURS: &str = "boot/safe-upgrade";
/// The dead man's file.
const DEADMAN: &str = "deadman.cpio";
/// os-prober looks into every disk; ten minutes are generous for that.
const MKCONFIG_LIMIT: Duration = Duration::from_secs(600);

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

impl OneShot {
    /// Holds the boot loader's installers off, keeps copies of the old kernel and initrd (with a separate `/boot`), writes
    /// an env file that chooses nothing, and a menu block that boots the old system by its subvolume id. To be called
    /// when the clone has the root's name, before packages change.
    ///
    /// # Errors
    /// When anything of it cannot be done or found out; call [`OneShot::clean_up`] then.
    pub fn arm(&self, old: &OldSystem) -> Result<(), OneShotError> {
        self.frozen().freeze()?;
        let record = match Record::read(&self.run_directory)? {
            Some(record) => {
                record.verify_kept()?;
                record
            }
            None => self.keep_old(old)?,
        };
        if let Method::EnvFile { file, .. } = &self.method {
            create_directory(file.parent().unwrap_or(Path::new("/")))?;
            for_grub::choose(file, "")?;
        }
        self.write_block(&record.old, None)
    }

    /// What of [`OneShot::arm`] is not in force; `None` when all of it is. Changes nothing.
    ///
    /// # Errors
    /// When it cannot be found out.
    pub fn fault(&self) -> Result<Option<String>, OneShotError> {
        if !self.frozen().is_frozen()? {
            return Ok(Some("the boot loader's installers are not held off".into()));
        }
        let Some(record) = Record::read(&self.run_directory)? else {
            return Ok(Some("the boot loader was not told to boot the old system by default".into()));
        };
        record.verify_kept()?;
        let menu = self.menu();
        if !block::ends_with(&read(&menu)?, &self.block(&record.old, None))? {
            return Ok(Some(format!("{} does not boot the old system by default", menu.display())));
        }
        Ok(None)
    }

    /// The trial that [`OneShot::choose_trial`] was given.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn trial(&self) -> Result<Trial, OneShotError> {
        record::read_trial(&self.run_directory)?
            .ok_or_else(|| OneShotError::NotArmed { path: record::trial_path(&self.run_directory) })
    }

    /// Describes the trial; nothing boots it until [`OneShot::choose_trial`]. `reset_after` is when the dead man resets
    /// a trial that nobody ended, in seconds from the start of its initial RAM disk.
    ///
    /// # Errors
    /// As [`OneShot::arm`]. The next boot is the old system then.
    pub fn prepare_trial(&self, reset_after: u32) -> Result<Trial, OneShotError> {
        if let Method::EnvFile { file, .. } = &self.method {
            self.armed()?;
            // An earlier try may have come to its choice.
            for_grub::choose(file, "")?;
        }
        remove_file(&record::trial_path(&self.run_directory))?;
        let boots = self.new_entry()?;
        let trial = Trial {
            run: self.run.clone(),
            kernel: self.local(&boots.kernel)?,
            initrds: boots
                .initrds
                .iter()
                .map(|path| self.local(path))
                .chain([Ok(self.ours().join(DEADMAN))])
                .collect::<Result<_, _>>()?,
            command_line: arguments::command_line(&arguments::for_trial(&boots.arguments, &self.run)),
        };
        create_directory(&self.ours())?;
        replace_file(&self.ours().join(DEADMAN), &deadman::cpio(reset_after), 0o600)?;
        for path in [&trial.kernel].into_iter().chain(&trial.initrds) {
            has_content(path)?;
        }
        seen_by_grub(&self.ours())?;
        if let Method::EnvFile { .. } = &self.method {
            let mut record = self.armed()?;
            record.verify_kept()?;
            let target = self.trial_target(boots)?;
            self.write_block(&record.old, Some(&target))?;
            record.trial = Some(target);
            record.write(&self.run_directory)?;
        }
        Ok(trial)
    }

    /// Makes the upgraded root the one that is tried at the next reset, once. To be called when [`OneShot::prepare_trial`]'s kernel has
    /// been proven. With [`Method::Kexec`] it only writes `trial.json`: loading and starting the kernel is the caller's.
    ///
    /// # Errors
    /// As [`OneShot::prepare_trial`].
    pub fn choose_trial(&self, trial: &Trial) -> Result<(), OneShotError> {
        if let Method::EnvFile { .. } = &self.method {
            self.choose_again()?;
        }
        record::write_trial(&self.run_directory, trial)
    }

    /// The same once more, of a trial that was prepared before: only the choice is made again.
    ///
    /// # Errors
    /// As [`OneShot::prepare_trial`]; also when nothing was prepared that a boot loader could choose, as with [`Method::Kexec`].
    pub fn choose_again(&self) -> Result<(), OneShotError> {
        let record = self.armed()?;
        let (Method::EnvFile { file, .. }, Some(trial)) = (&self.method, &record.trial) else {
            return Err(OneShotError::NotArmed { path: Record::path(&self.run_directory) });
        };
        record.verify_kept()?;
        self.write_block(&record.old, Some(trial))?;
        Ok(for_grub::choose(file, &self.run)?)
    }

    /// The next boot is the old system again. The first act of every way back.
    ///
    /// # Errors
    /// When the env file cannot be written and read back, or a loaded kernel not be unloaded.
    pub fn disarm_trial(&self) -> Result<(), OneShotError> {
        match &self.method {
            Method::EnvFile { file, .. } => {
                if file.is_file() {
                    for_grub::choose(file, "")?;
                } else if Record::read(&self.run_directory)?.is_some() {
                    return Err(OneShotError::EnvFileGone { path: file.clone() });
                }
            }
            Method::Kexec => kexec::unload()?,
        }
        Ok(remove_file(&record::trial_path(&self.run_directory))?)
    }

    /// Whether the next reset (or kexec) tries this run. Reads back what GRUB would read.
    ///
    /// # Errors
    /// When it cannot be found out.
    pub fn is_ready(&self) -> Result<bool, OneShotError> {
        match &self.method {
            Method::EnvFile { file, .. } => {
                let Some(record) = Record::read(&self.run_directory)? else { return Ok(false) };
                let Some(trial) = &record.trial else { return Ok(false) };
                let menu = read(&self.menu())?;
                let block = self.block(&record.old, Some(trial));
                Ok(block::ends_with(&menu, &block)? && for_grub::is_chosen(file, &self.run)?)
            }
            Method::Kexec => {
                let Some(trial) = record::read_trial(&self.run_directory)? else { return Ok(false) };
                for path in [&trial.kernel].into_iter().chain(&trial.initrds) {
                    has_content(path)?;
                }
                Ok(trial.run == self.run)
            }
        }
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
        let text = self.make_menu("grub.cfg.commit")?.replace(&self.other_name, &self.root_name);
        if let Some(line) = grub::line_with(text.as_bytes(), &self.other_name) {
            return Err(OneShotError::StillNamed { line, name: self.other_name.clone() });
        }
        self.entry_of(&text, &self.run_directory.join("grub.cfg.commit"), &self.root_name)?;
        Ok(write_menu(&self.running.join(grub::MENU), text.as_bytes())?)
    }

    /// Runs the `grub-install` calls that were held off, after [`OneShot::clean_up`] and the exchange. Returns how many ran.
    ///
    /// # Errors
    /// The first one that failed.
    pub fn run_held_off(&self) -> Result<usize, OneShotError> {
        Ok(self.frozen().run_recorded()?)
    }

    /// Takes everything of ours away: the choice, the block in any menu that is there, env file, kept copies, dead man,
    /// and the diversions of the running root. With a separate `/boot`, restore it first on a rollback.
    ///
    /// # Errors
    /// The first thing that could not be taken away; the rest was tried.
    pub fn clean_up(&self) -> Result<(), OneShotError> {
        let mut first = None;
        let mut note = |result: Result<(), OneShotError>| {
            if let Err(error) = result {
                first.get_or_insert(error);
            }
        };
        match self.disarm_trial() {
            // A clean-up that was cut off has removed it already; without a block nothing reads it.
            Err(OneShotError::EnvFileGone { .. }) => {}
            result => note(result),
        }
        note(self.frozen().thaw().map_err(OneShotError::from));
        match first.map_or_else(|| self.clear_places(), Err) {
            Ok(()) => Record::remove(&self.run_directory),
            Err(error) => Err(error),
        }
    }

    /// First the menus: as long as one names what we keep, it stays.
    fn clear_places(&self) -> Result<(), OneShotError> {
        for menu in [self.menu(), self.running.join(grub::MENU)] {
            strip_menu(&menu)?;
        }
        if let Method::EnvFile { file, .. } = &self.method {
            for_grub::forget(file)?;
        }
        remove_directory(&self.ours())
    }

    fn frozen(&self) -> Frozen {
        Frozen {
            root: self.running.clone(),
            run: self.run.clone(),
            calls: self.run_directory.join("grub-install.calls"),
        }
    }

    /// The menu that GRUB reads until commit.
    fn menu(&self) -> PathBuf {
        match self.boot {
            BootPlace::InRoot => self.old_tree.join(grub::MENU),
            BootPlace::Separate => self.running.join(grub::MENU),
        }
    }

    fn ours(&self) -> PathBuf {
        self.running.join(OURS)
    }

    fn armed(&self) -> Result<Record, OneShotError> {
        Record::read(&self.run_directory)?
            .ok_or_else(|| OneShotError::NotArmed { path: Record::path(&self.run_directory) })
    }

    fn block(&self, old: &Boots, trial: Option<&Boots>) -> Block {
        let env = match &self.method {
            Method::EnvFile { place, .. } => Some(place.clone()),
            Method::Kexec => None,
        };
        Block { run: self.run.clone(), env, old: old.clone(), trial: trial.cloned() }
    }

    /// Finds what boots the old system, and makes sure that it stays.
    fn keep_old(&self, old: &OldSystem) -> Result<Record, OneShotError> {
        let menu = self.menu();
        let text = String::from_utf8_lossy(&block::strip(&read(&menu)?)).into_owned();
        let (_, boots) = menu::entry_for(&old.kernel, &menu::parse(&text)?)?
            .ok_or(OneShotError::NoEntry { menu, kernel: old.kernel.clone() })?;
        let mut boots =
            Boots { arguments: arguments::by_subvolume_id(&boots.arguments, old.subvolume), ..boots };
        let kept = match self.boot {
            BootPlace::InRoot => {
                for path in [&boots.kernel].into_iter().chain(&boots.initrds) {
                    has_content(&self.in_tree(&self.old_tree, &self.root_name, path)?)?;
                }
                Vec::new()
            }
            BootPlace::Separate => self.keep_copies(&mut boots, &self.running.join("boot"))?,
        };
        let record = Record { old: boots, kept, trial: None };
        record.write(&self.run_directory)?;
        Ok(record)
    }

    /// Copies what an entry boots out of the upgrade's way, from a directory that is `/boot` or a copy of it, and lets the entry boot
    /// the copies.
    fn keep_copies(&self, boots: &mut Boots, from: &Path) -> Result<Vec<Kept>, OneShotError> {
        create_directory(&self.ours())?;
        let mut kept = Vec::new();
        for path in [&mut boots.kernel].into_iter().chain(&mut boots.initrds) {
            let (directory, name) = split(path)?;
            kept.push(Kept::copy(&from.join(name), &self.ours().join(name))?);
            *path = format!("{directory}/safe-upgrade/{name}");
        }
        Ok(kept)
    }

    /// The entry that a menu which is made now has for the root that runs, and that the same menu will have after the commit.
    fn new_entry(&self) -> Result<Boots, OneShotError> {
        let text = self.make_menu("grub.cfg.trial")?;
        let file = self.run_directory.join("grub.cfg.trial");
        let boots = self.entry_of(&text, &file, &self.other_name)?;
        // As the commit asks, which must not be the first to learn that there is none.
        let renamed = text.replace(&self.other_name, &self.root_name);
        self.entry_of(&renamed, &file, &self.root_name)?;
        Ok(boots)
    }

    /// The first entry of a menu that boots the whole system from the subvolume of this name.
    fn entry_of(&self, text: &str, file: &Path, name: &str) -> Result<Boots, OneShotError> {
        let none = || OneShotError::NoEntry { menu: file.to_owned(), kernel: "a whole system".into() };
        let entries = menu::parse(text)?;
        // An operator's own entries may come before the distribution's.
        for entry in &entries {
            if let Ok(Some(boots)) = entry.boots()
                && boots.is_whole()
                && arguments::boots_subvolume(&boots.arguments, name)
            {
                return Ok(boots);
            }
        }
        let (_, boots) = menu::first(&entries)?.ok_or_else(none)?;
        self.mounts(&boots, name)?;
        Ok(boots)
    }

    fn mounts(&self, boots: &Boots, name: &str) -> Result<(), OneShotError> {
        match arguments::boots_subvolume(&boots.arguments, name) {
            true => Ok(()),
            false => {
                Err(OneShotError::WrongRoot { wanted: name.to_owned(), arguments: boots.arguments.join(" ") })
            }
        }
    }

    fn trial_target(&self, boots: Boots) -> Result<Boots, OneShotError> {
        let (directory, _) = split(&boots.kernel)?;
        let deadman = format!("{directory}/safe-upgrade/{DEADMAN}");
        let arguments = arguments::for_trial(&boots.arguments, &self.run);
        let initrds = boots.initrds.into_iter().chain([deadman]).collect();
        Ok(Boots { arguments, initrds, ..boots })
    }

    /// Lets the real grub-mkconfig write a menu into the run's directory.
    fn make_menu(&self, name: &str) -> Result<String, OneShotError> {
        let program = self.frozen().mkconfig().ok_or(OneShotError::NoGrub)?;
        let path = self.run_directory.join(name);
        let tool = program.to_string_lossy();
        Exec::new(&tool)?.arg("-o").arg(&path).limit(MKCONFIG_LIMIT).success()?;
        Ok(String::from_utf8_lossy(&read(&path)?).into_owned())
    }

    /// Where a file of the running system's `/boot` is, by GRUB's path.
    fn local(&self, grub: &str) -> Result<PathBuf, OneShotError> {
        match self.boot {
            BootPlace::InRoot => self.in_tree(&self.running, &self.other_name, grub),
            BootPlace::Separate => Ok(self.running.join("boot").join(split(grub)?.1)),
        }
    }

    fn in_tree(&self, tree: &Path, name: &str, grub: &str) -> Result<PathBuf, OneShotError> {
        let expected = format!("/{name}/boot/");
        match grub.strip_prefix(&expected) {
            Some(rest) if !rest.split('/').any(|part| part == "..") => Ok(tree.join("boot").join(rest)),
            _ => Err(OneShotError::Elsewhere { grub: grub.to_owned(), expected }),
        }
    }

    fn write_block(&self, old: &Boots, trial: Option<&Boots>) -> Result<(), OneShotError> {
        let menu = self.menu();
        Ok(write_menu(&menu, &block::append(&read(&menu)?, &self.block(old, trial))?)?)
    }
}

/// GRUB's path in two: the directory (empty at the top) and the name.
fn split(grub: &str) -> Result<(&str, &str), OneShotError> {
    match grub.rsplit_once('/') {
        Some((directory, name)) if !matches!(name, "" | "." | "..") => Ok((directory, name)),
        _ => Err(OneShotError::Elsewhere { grub: grub.to_owned(), expected: "/".into() }),
    }
}

#[cfg(test)]
#[path = "one_shot_tests.rs"]
mod tests;
