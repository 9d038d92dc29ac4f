//! One run's trial with systemd-boot. Each step looks first, does what is missing, and is on disk when it returns.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::entry::Entry;
use super::error::{SystemdBootError, at};
use super::places::{self, DIRECTORY, Places};
use super::record::Record;
use super::{file, old_entry, order, variables};
use crate::boot::frozen::Frozen;
use crate::boot::one_shot::files::has_content;
use crate::boot::one_shot::record::{self, Kept};
use crate::boot::one_shot::{Trial, arguments};
use crate::boot::{deadman, kernels};
use crate::system::durable::{remove_file, replace_file, sync_filesystem};

/// The dead man's file, in our directory on the volume of the trial.
const DEADMAN: &str = "deadman.cpio";

/// Where kernel-install takes the command line of new entries from; without one it takes the running system's, a trial's too.
const COMMAND_LINES: [&str; 2] = ["etc/kernel/cmdline", "usr/lib/kernel/cmdline"];

/// On the ESP; 32 bytes with newer versions of systemd, 512 with older ones.
const SEED: &str = "loader/random-seed";
/// getrandom(2) gives up to 256 bytes at once without an interruption; more than the boot loader's hash takes in.
const LONGEST_SEED: u64 = 256;

type Result<T> = std::result::Result<T, SystemdBootError>;

/// The trial of one run. Plain values: make it anew in each phase.
#[derive(Debug, Clone)]
pub struct LoaderOneShot {
    /// The run id.
    pub run: String,
    /// Where the boot loader reads.
    pub places: Places,
    /// The root's name, which the old system has until commit: `@`.
    pub root_name: String,
    /// The name of the upgraded root until commit: `@safe-upgrade-RUN-root`.
    pub other_name: String,
    /// The top of the running root: `/`; another one in tests only.
    pub running: PathBuf,
    /// The run's directory on the state volume; it exists.
    pub run_directory: PathBuf,
}

impl LoaderOneShot {
    /// Keeps copies of the kernel and the initial RAM disks that run, and makes an entry with them the default that boots the old system by
    /// its subvolume id. Proves that the firmware lets go of a variable. To be called when the clone has the root's name,
    /// before packages change; `kernel` is `uname -r`.
    ///
    /// # Errors
    /// When anything of it can't be done or found out; call [`LoaderOneShot::clean_up`] then.
    pub fn arm(&self, kernel: &str, subvolume: u64) -> Result<()> {
        self.frozen().freeze()?;
        let record = match Record::read(&self.run_directory)? {
            Some(record) => {
                record.verify_kept()?;
                self.write_through(record)?
            }
            None => {
                let made_sync = self.places.write_through()?;
                let running = self.places.running(kernel)?;
                self.mounts(&running, &self.root_name)?;
                let record = Record { made_sync, ..self.keep(&running, subvolume)? };
                record.write(&self.run_directory)?;
                record
            }
        };
        self.pin(&record)?;
        // Whatever happens in between: the entry that is named here is the old system's.
        self.places.variables.set(variables::ONE_SHOT, &record.old.id())?;
        Ok(self.places.variables.unset(variables::ONE_SHOT)?)
    }

    /// What of [`LoaderOneShot::arm`] is not in force; `None` when all of it is. Changes nothing.
    ///
    /// # Errors
    /// When it can't be found out.
    pub fn fault(&self) -> Result<Option<String>> {
        let Some(record) = Record::read(&self.run_directory)? else {
            return Ok(Some("systemd-boot was not told to boot the old system by default".into()));
        };
        record.verify_kept()?;
        if let Some(chosen) = self.places.variables.get(variables::ONE_SHOT)? {
            return Ok(Some(format!("systemd-boot was told to boot {chosen} next, and not by this step")));
        }
        let frozen = self.frozen();
        if frozen.mkconfig().is_some() && !frozen.is_frozen()? {
            return Ok(Some("GRUB is installed too, and its installer is not held off".into()));
        }
        if !self.is_pinned(&record)? {
            return Ok(Some("systemd-boot does not boot the old system by default".into()));
        }
        // Last: looking at the entries has mounted what is mounted on demand.
        let behind = self.places.written_behind()?;
        Ok(behind.first().map(|volume| {
            format!(
                "{} was mounted anew without the option sync: a power cut could damage it",
                volume.display()
            )
        }))
    }

    /// Describes the trial, with the kernel and the initial RAM disks of the entry that would be the default without us; nothing
    /// boots it until [`LoaderOneShot::choose_trial`]. `reset_after` is when the dead man resets a trial that nobody ended, in
    /// seconds from the start of its initial RAM disk.
    ///
    /// # Errors
    /// As [`LoaderOneShot::arm`]. The next boot is the old system then.
    pub fn prepare_trial(&self, reset_after: u32) -> Result<Trial> {
        let record = self.armed()?;
        // An earlier try may have come to its choice.
        self.disarm_trial()?;
        record.verify_kept()?;
        let mut record = self.write_through(record)?;
        let next = self.next_default(&record)?;
        self.keep_command_line(&next)?;
        let (kernel, initrds) = next.files().map_err(|why| wrong(&next, why))?;
        let ours = next.volume.join(DIRECTORY);
        std::fs::create_dir_all(&ours).map_err(at("create", &ours))?;
        replace_file(&ours.join(DEADMAN), &deadman::cpio(reset_after), 0o600)?;
        let named = arguments::by_subvolume_name(&next.arguments, &self.other_name);
        // First, because the kernel wants an archive that is not compressed at a multiple of four, and not every version of the boot loader
        // fills up what comes before. Early microcode is found behind it too.
        let dead_man = [format!("/{DIRECTORY}/{DEADMAN}")];
        let entry = Entry {
            file: file(&self.run, "new"),
            title: Some("safe-upgrade: the trial of the new system".into()),
            sort_key: None,
            initrds: dead_man.into_iter().chain(next.initrds.iter().cloned()).collect(),
            arguments: arguments::for_trial(&named, &self.run),
            ..next
        };
        let trial = Trial {
            run: self.run.clone(),
            kernel,
            initrds: initrds.into_iter().chain([ours.join(DEADMAN)]).collect(),
            command_line: entry.arguments.join(" "),
        };
        for path in [&trial.kernel].into_iter().chain(&trial.initrds) {
            has_content(path)?;
        }
        record.trial = Some(entry);
        record.write(&self.run_directory)?;
        Ok(trial)
    }

    /// Makes the upgraded root the one that is tried at the next reset, once. To be called when [`LoaderOneShot::prepare_trial`]'s
    /// kernel has been proven.
    ///
    /// # Errors
    /// As [`LoaderOneShot::prepare_trial`].
    pub fn choose_trial(&self, trial: &Trial) -> Result<()> {
        self.choose(&self.armed()?)?;
        Ok(record::write_trial(&self.run_directory, trial)?)
    }

    /// The same once more, of a trial that was prepared before: only the choice is made again.
    ///
    /// # Errors
    /// As [`LoaderOneShot::prepare_trial`]; also when nothing was prepared.
    pub fn choose_again(&self) -> Result<()> {
        let record = self.armed()?;
        record.verify_kept()?;
        self.choose(&record)
    }

    /// The next boot is the old system again. The first act of every way back.
    ///
    /// # Errors
    /// When the variable can't be deleted.
    pub fn disarm_trial(&self) -> Result<()> {
        self.places.variables.unset(variables::ONE_SHOT)?;
        Ok(remove_file(&record::trial_path(&self.run_directory))?)
    }

    /// Whether the next reset tries this run, and the one after it the old system. Reads back what the boot loader would read.
    ///
    /// # Errors
    /// When it can't be found out.
    pub fn is_ready(&self) -> Result<bool> {
        let Some(record) = Record::read(&self.run_directory)? else { return Ok(false) };
        let Some(trial) = &record.trial else { return Ok(false) };
        let chosen = self.places.variables.get(variables::ONE_SHOT)?;
        Ok(chosen.is_some_and(|id| trial.is_called(&id)) && is_written(trial)? && self.is_pinned(&record)?)
    }

    /// Proves that without us systemd-boot would boot the root by its name, with a kernel and initial RAM disks that are there. To be called
    /// before the root's name is given to the new system.
    ///
    /// # Errors
    /// When it would not.
    pub fn prove_commit(&self) -> Result<()> {
        // A clean-up that was cut off: nothing of ours is the default any more.
        let Some(record) = Record::read(&self.run_directory)? else { return Ok(()) };
        let next = self.next_default(&record)?;
        let (kernel, initrds) = next.files().map_err(|why| wrong(&next, why))?;
        kernels::image(&kernel)?;
        initrds.iter().try_for_each(|path| Ok(has_content(path)?))
    }

    /// Takes everything of ours away: the choice, the pins (from here on the machine's own entries count), entries, kept copies and
    /// the dead man. On a rollback, bring the ESP back first. Repeatable.
    ///
    /// # Errors
    /// The first thing that could not be taken away.
    pub fn clean_up(&self) -> Result<()> {
        self.disarm_trial()?;
        self.unpin()?;
        self.renew_seed()?;
        for volume in self.places.volumes() {
            for path in places::ours_on(volume)? {
                remove_file(&path)?;
            }
            let ours = volume.join(DIRECTORY);
            match std::fs::remove_dir_all(&ours) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(at("remove", &ours)(error)),
                _ => sync_filesystem(volume)?,
            }
        }
        self.frozen().thaw()?;
        let made_sync = Record::read(&self.run_directory)?.map(|record| record.made_sync).unwrap_or_default();
        self.places.write_behind(&made_sync)?;
        Record::remove(&self.run_directory)
    }

    /// Describes an entry that boots the old system with copies of what another entry boots, which may lie in a copy of its volume.
    pub(super) fn keep(&self, from: &Entry, subvolume: u64) -> Result<Record> {
        self.keep_on(from, &from.volume, subvolume)
    }

    pub(super) fn keep_on(&self, from: &Entry, volume: &Path, subvolume: u64) -> Result<Record> {
        let (kernel, initrds) = from.files().map_err(|why| wrong(from, why))?;
        let ours = volume.join(DIRECTORY);
        std::fs::create_dir_all(&ours).map_err(at("create", &ours))?;
        let mut kept = Vec::new();
        let mut names = Vec::new();
        for (number, path) in [&kernel].into_iter().chain(&initrds).enumerate() {
            let name = match number {
                0 => "old-linux".to_owned(),
                _ => format!("old-initrd-{number}"),
            };
            kept.push(Kept::copy(path, &ours.join(&name))?);
            names.push(format!("/{DIRECTORY}/{name}"));
        }
        let linux = names.remove(0);
        let old = Entry {
            volume: volume.to_owned(),
            file: old_entry(&self.run),
            title: Some("safe-upgrade: the old system".into()),
            sort_key: None,
            linux: Some(linux),
            initrds: names,
            arguments: arguments::by_subvolume_id(&from.arguments, subvolume),
            ..from.clone()
        };
        let default = match self.places.variables.get(variables::DEFAULT)? {
            // A try before this one has pinned it already, and remembers what it was.
            Some(id) if is_ours(&id) => Record::read(&self.run_directory)?.and_then(|record| record.default),
            other => other,
        };
        let record = Record { old, kept, default, made_sync: Vec::new(), trial: None };
        record.write(&self.run_directory)?;
        Ok(record)
    }

    /// The entry first, then what names it.
    pub(super) fn pin(&self, record: &Record) -> Result<()> {
        write(&record.old)?;
        self.places.write_conf(&places::pinned(&self.places.conf()?, &record.old.id()))?;
        if record.default.is_some() {
            self.places.variables.set(variables::DEFAULT, &record.old.id())?;
        }
        Ok(())
    }

    /// Mounts written behind since the volumes were made to be written through are again, and remembered for the clean-up.
    pub(super) fn write_through(&self, record: Record) -> Result<Record> {
        let anew = self.places.write_through()?;
        self.made_sync(record, anew)
    }

    /// Remembers volumes for the clean-up.
    pub(super) fn made_sync(&self, record: Record, anew: Vec<PathBuf>) -> Result<Record> {
        let fresh: Vec<PathBuf> =
            anew.into_iter().filter(|volume| !record.made_sync.contains(volume)).collect();
        if fresh.is_empty() {
            return Ok(record);
        }
        let made_sync = [record.made_sync.clone(), fresh].concat();
        let record = Record { made_sync, ..record };
        record.write(&self.run_directory)?;
        Ok(record)
    }

    fn unpin(&self) -> Result<()> {
        self.places.write_conf(&places::unpinned(&self.places.conf()?))?;
        sync_filesystem(&self.places.esp)?;
        let now = self.places.variables.get(variables::DEFAULT)?;
        if !now.is_some_and(|id| is_ours(&id)) {
            return Ok(());
        }
        match Record::read(&self.run_directory)?.and_then(|record| record.default) {
            Some(before) => Ok(self.places.variables.set(variables::DEFAULT, &before)?),
            None => Ok(self.places.variables.unset(variables::DEFAULT)?),
        }
    }

    /// The boot loader hands a seed for random numbers on, and makes the next one of it: one that a rollback has brought back would
    /// be used twice.
    fn renew_seed(&self) -> Result<()> {
        let path = self.places.esp.join(SEED);
        let length = match std::fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other.map_err(at("look at", &path))?.len(),
        };
        let mut seed = vec![0; usize::try_from(length.min(LONGEST_SEED)).unwrap_or_default()];
        rustix::rand::getrandom(&mut seed[..], rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| at("make anew", &path)(errno.into()))?;
        Ok(replace_file(&path, &seed, 0o600)?)
    }

    fn is_pinned(&self, record: &Record) -> Result<bool> {
        let entries = self.places.entries()?;
        let default = order::default(&entries, &self.places.pins()?);
        Ok(default == Some(&record.old) && is_written(&record.old)?)
    }

    fn choose(&self, record: &Record) -> Result<()> {
        let path = Record::path(&self.run_directory);
        let trial = record.trial.as_ref().ok_or(SystemdBootError::NotArmed { path })?;
        self.pin(record)?;
        write(trial)?;
        Ok(self.places.variables.set(variables::ONE_SHOT, &trial.id())?)
    }

    /// What boots by default when everything of ours is gone.
    fn next_default(&self, record: &Record) -> Result<Entry> {
        if let Some(image) = self.places.unified()?.first() {
            // The upgrade may have brought it. Its place among the entries, and what it boots, is written inside of it.
            let entry = image.display().to_string();
            let why =
                "it is a unified kernel image, which safe-upgrade does not understand, and may come first"
                    .into();
            return Err(SystemdBootError::WrongDefault { entry, why });
        }
        let entries: Vec<Entry> =
            self.places.entries()?.into_iter().filter(|entry| !entry.is_ours()).collect();
        let mut pins = self.places.pins()?;
        pins.file = places::default_in(&places::unpinned(&self.places.conf()?));
        pins.variable = match pins.variable {
            Some(id) if is_ours(&id) => record.default.clone(),
            other => other,
        };
        pins.last_booted = pins.last_booted.filter(|id| !is_ours(id));
        let next = order::default(&entries, &pins).ok_or(SystemdBootError::NoDefault)?.clone();
        self.mounts(&next, &self.root_name)?;
        match next.arguments.iter().find(|word| word.starts_with(arguments::TOKEN)) {
            Some(word) => Err(wrong(&next, format!("it carries {word}"))),
            None => Ok(next),
        }
    }

    fn keep_command_line(&self, entry: &Entry) -> Result<()> {
        if COMMAND_LINES.iter().any(|path| self.running.join(path).exists()) {
            return Ok(());
        }
        let path = self.running.join(COMMAND_LINES[0]);
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(at("create", directory))?;
        }
        Ok(replace_file(&path, format!("{}\n", entry.arguments.join(" ")).as_bytes(), 0o644)?)
    }

    fn mounts(&self, entry: &Entry, name: &str) -> Result<()> {
        match arguments::boots_subvolume(&entry.arguments, name) {
            true => Ok(()),
            false => Err(SystemdBootError::WrongRoot {
                entry: entry.file.clone(),
                wanted: name.to_owned(),
                arguments: entry.arguments.join(" "),
            }),
        }
    }

    fn armed(&self) -> Result<Record> {
        let path = Record::path(&self.run_directory);
        Record::read(&self.run_directory)?.ok_or(SystemdBootError::NotArmed { path })
    }

    /// A GRUB that is installed beside would make itself the firmware's first choice. What it was asked for is not done later.
    fn frozen(&self) -> Frozen {
        Frozen {
            root: self.running.clone(),
            run: self.run.clone(),
            calls: self.run_directory.join("grub-install.calls"),
        }
    }
}

pub(super) fn is_ours(id: &str) -> bool {
    id.to_lowercase().starts_with(super::entry::OURS)
}

pub(super) fn wrong(entry: &Entry, why: String) -> SystemdBootError {
    SystemdBootError::WrongDefault { entry: entry.file.clone(), why }
}

/// Puts an entry in place. Its kernel and initial RAM disks are there already.
pub(super) fn write(entry: &Entry) -> Result<()> {
    if is_written(entry)? {
        return Ok(());
    }
    let path = entry.path();
    let directory = entry.volume.join(places::ENTRIES);
    std::fs::create_dir_all(&directory).map_err(at("create", &directory))?;
    replace_file(&path, entry.text().as_bytes(), 0o600)?;
    Ok(sync_filesystem(&entry.volume)?)
}

fn is_written(entry: &Entry) -> Result<bool> {
    let path = entry.path();
    match std::fs::read(&path) {
        Ok(bytes) => Ok(bytes == entry.text().as_bytes()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(at("read", &path)(error)),
    }
}

#[cfg(test)]
#[path = "one_shot_tests.rs"]
mod tests;
