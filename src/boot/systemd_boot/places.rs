//! Where systemd-boot reads: the ESP, a boot partition beside it, and the firmware's variables.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::entry::{Entry, OURS, settings};
use super::error::{SystemdBootError, at};
use super::order::{self, Pins};
use super::variables::{self, Variables};
use crate::boot::kernels::{self, Unproven};
use crate::boot::layout::{BootLayout, BootPlace, Partition};
use crate::boot::space::Pair;
use crate::system::durable::{remove_file, replace_file};
use crate::system::exec::Exec;
use crate::system::mounts;

/// Our directory at the top of a volume: kept copies and the dead man.
pub const DIRECTORY: &str = "safe-upgrade";
/// The boot loader's settings, on the ESP.
pub const LOADER_CONF: &str = "loader/loader.conf";
/// Entries, on the ESP and on the boot partition.
pub const ENTRIES: &str = "loader/entries";
/// Where entries are whose command line is inside of them, in every version of their form.
const UNIFIED: &str = "EFI/Linux";
/// A remount writes out what waits in memory: some kernels at most.
const REMOUNT_LIMIT: Duration = Duration::from_secs(300);
/// The type of what is mounted where something is mounted on demand: autofs(5).
const AUTOMOUNT: &str = "autofs";
/// What stands around the setting of ours in [`LOADER_CONF`].
const BEGIN: &str = "# safe-upgrade: begin";
const END: &str = "# safe-upgrade: end";

/// The places of one machine. Plain values: make them anew in each phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Where the ESP is mounted.
    pub esp: PathBuf,
    /// Where the boot partition of the Boot Loader Specification is mounted, when there is one beside the ESP.
    pub extended: Option<PathBuf>,
    /// The firmware's variables.
    pub variables: Variables,
}

impl Places {
    /// Those of the running system; `None` when no ESP is mounted.
    #[must_use]
    pub fn of(layout: &BootLayout) -> Option<Self> {
        let extended = match &layout.boot {
            BootPlace::Separate(partition) => Some(partition),
            BootPlace::Inside => None,
        };
        Some(Self::below(Path::new("/"), layout.esp.as_ref()?, extended))
    }

    /// Those of the system below a root.
    #[must_use]
    pub(in crate::boot) fn below(root: &Path, esp: &Partition, boot: Option<&Partition>) -> Self {
        let inside = |point: &Path| root.join(point.strip_prefix("/").unwrap_or(point));
        let beside = boot.filter(|boot| boot.fs_type == "vfat" && boot.point != esp.point);
        Self {
            esp: inside(&esp.point),
            extended: beside.map(|boot| inside(&boot.point)),
            variables: Variables::below(root),
        }
    }

    /// The filesystems that may hold entries.
    pub fn volumes(&self) -> impl Iterator<Item = &Path> {
        [Some(&self.esp), self.extended.as_ref()].into_iter().flatten().map(PathBuf::as_path)
    }

    /// All entries whose kernel is there, as the boot loader shows and sorts them. It says itself which it has found: a `/boot` of which
    /// it knows none is no place of its own.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn entries(&self) -> Result<Vec<Entry>, SystemdBootError> {
        let mut entries = entries_on(&self.esp)?;
        if let Some(extended) = &self.extended {
            let known = self.variables.list(variables::ENTRIES)?;
            let beside = entries_on(extended)?;
            if beside.iter().any(|entry| known.iter().any(|id| entry.is_called(id))) {
                entries.extend(beside);
            }
        }
        order::sort(&mut entries);
        Ok(entries)
    }

    /// The unified kernel images, which are entries too.
    ///
    /// # Errors
    /// When their directory can't be read.
    pub fn unified(&self) -> Result<Vec<PathBuf>, SystemdBootError> {
        let mut found = Vec::new();
        for volume in self.volumes() {
            let directory = volume.join(UNIFIED);
            found.extend(
                names_in(&directory)?
                    .into_iter()
                    .filter(|name| name.to_lowercase().ends_with(".efi"))
                    .map(|name| directory.join(name)),
            );
        }
        Ok(found)
    }

    /// What names the default entry now.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn pins(&self) -> Result<Pins, SystemdBootError> {
        Ok(Pins {
            variable: self.variables.get(variables::DEFAULT)?,
            file: default_in(&self.conf()?),
            last_booted: self.variables.get(variables::LAST_BOOTED)?,
        })
    }

    /// `loader.conf`; empty when there is none.
    pub(super) fn conf(&self) -> Result<String, SystemdBootError> {
        let path = self.conf_path();
        match std::fs::read(&path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(at("read", &path)(error)),
        }
    }

    /// Writes `loader.conf`, or takes it away when it would be empty: one that is empty says as much as none.
    pub(super) fn write_conf(&self, text: &str) -> Result<(), SystemdBootError> {
        let path = self.conf_path();
        if self.conf()? == text {
            return Ok(());
        }
        if text.is_empty() {
            return Ok(remove_file(&path)?);
        }
        std::fs::create_dir_all(self.esp.join("loader")).map_err(at("create", &self.esp.join("loader")))?;
        Ok(replace_file(&path, text.as_bytes(), 0o600)?)
    }

    fn conf_path(&self) -> PathBuf {
        self.esp.join(LOADER_CONF)
    }

    /// The entry that boots the running system: the one that the boot loader says it has booted, if it is still there; otherwise the
    /// first with the running kernel. Never one of ours.
    ///
    /// # Errors
    /// When it can't be found out, or there is none that could be copied.
    pub fn running(&self, kernel: &str) -> Result<Entry, SystemdBootError> {
        let selected = self.variables.get(variables::SELECTED)?.unwrap_or_default();
        let entries = self.entries()?;
        let (chosen, others): (Vec<&Entry>, Vec<&Entry>) =
            entries.iter().filter(|entry| !entry.is_ours()).partition(|entry| entry.is_called(&selected));
        let mut why = None;
        for entry in chosen.into_iter().chain(others) {
            match boots_kernel(entry, kernel) {
                Ok(true) => return Ok(entry.clone()),
                Ok(false) => {}
                Err(error) => why = why.or(Some(format!("{}: {error}", entry.file))),
            }
        }
        Err(SystemdBootError::NoEntry { kernel: kernel.to_owned(), why: why.unwrap_or_default() })
    }

    /// From here on what is written to the volumes reaches them in the order in which it is written, without waiting in memory: FAT has no
    /// journal, and a name that outlives a power cut without its clusters makes the kernel refuse all writing. Returns
    /// the volumes that were mounted otherwise. Repeatable.
    pub(super) fn write_through(&self) -> Result<Vec<PathBuf>, SystemdBootError> {
        let otherwise = self.mounted(false)?;
        otherwise.iter().try_for_each(|volume| remount(volume, "remount,sync"))?;
        Ok(otherwise)
    }

    /// Takes [`Places::write_through`] back for these volumes. Repeatable.
    pub(super) fn write_behind(&self, volumes: &[PathBuf]) -> Result<(), SystemdBootError> {
        let through = self.mounted(true)?;
        through
            .iter()
            .filter(|volume| volumes.contains(volume))
            .try_for_each(|volume| remount(volume, "remount,async"))
    }

    /// The volumes that are not mounted as [`Places::write_through`] leaves them. One that is mounted on demand is unmounted and mounted anew
    /// as its automount wants, and nobody has done anything wrong: it is none of them.
    pub(super) fn written_behind(&self) -> Result<Vec<PathBuf>, SystemdBootError> {
        let table = mounts::read()?;
        let on_demand =
            |volume: &Path| table.iter().any(|mount| mount.point == volume && mount.fs_type == AUTOMOUNT);
        Ok(self.mounted(false)?.into_iter().filter(|volume| !on_demand(volume)).collect())
    }

    /// The volumes that are mounted, with the option `sync` or without it.
    fn mounted(&self, sync: bool) -> Result<Vec<PathBuf>, SystemdBootError> {
        // Looking into one mounts it when it is mounted on demand.
        for volume in self.volumes() {
            drop(std::fs::read_dir(volume).map(Iterator::count));
        }
        let table = mounts::read()?;
        let is_it = |volume: &&Path| {
            let mount = table.iter().rfind(|mount| mount.point == **volume);
            mount.is_some_and(|mount| mount.options.iter().any(|option| option == "sync") == sync)
        };
        Ok(self.volumes().filter(is_it).map(Path::to_owned).collect())
    }

    /// The sizes of the kernels and initial RAM disks that entries name, on each volume.
    ///
    /// # Errors
    /// When one can't be read.
    pub fn stock(&self) -> Result<Vec<(PathBuf, Vec<Pair>)>, SystemdBootError> {
        let entries = self.entries()?;
        let of = |volume: &Path| -> Result<Vec<Pair>, SystemdBootError> {
            entries.iter().filter(|entry| entry.volume == volume).map(pair).collect()
        };
        self.volumes().map(|volume| Ok((volume.to_owned(), of(volume)?))).collect()
    }
}

fn remount(volume: &Path, options: &str) -> Result<(), SystemdBootError> {
    Exec::new("mount")?.args(["-o", options]).arg(volume).limit(REMOUNT_LIMIT).success()?;
    Ok(())
}

fn boots_kernel(entry: &Entry, kernel: &str) -> Result<bool, String> {
    let (path, _) = entry.files()?;
    match kernels::image(&path) {
        Ok(image) => Ok(image.version == kernel),
        Err(Unproven::No(reason)) => Err(reason.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn pair(entry: &Entry) -> Result<Pair, SystemdBootError> {
    let size = |path: &str| match entry.local(path) {
        Some(path) => match std::fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            other => other.map(|found| found.len()).map_err(at("look at", &path)),
        },
        None => Ok(0),
    };
    let kernel = entry.linux.as_deref().map_or(Ok(0), size)?;
    let initrds = entry.initrds.iter().map(|path| size(path)).sum::<Result<u64, _>>()?;
    Ok(Pair { kernel, initrd: initrds })
}

/// The entries of one volume whose kernel is there: the boot loader leaves the others out.
fn entries_on(volume: &Path) -> Result<Vec<Entry>, SystemdBootError> {
    let directory = volume.join(ENTRIES);
    let mut entries = Vec::new();
    for name in names_in(&directory)? {
        // Hidden ones are files that were being written; the other ones the boot loader keeps for what it finds by itself.
        if name.starts_with('.') || name.starts_with("auto-") || !name.to_lowercase().ends_with(".conf") {
            continue;
        }
        let path = directory.join(&name);
        let bytes = std::fs::read(&path).map_err(at("read", &path))?;
        let entry = Entry::parse(volume, &name, &String::from_utf8_lossy(&bytes));
        if is_shown(&entry) {
            entries.push(entry);
        }
    }
    Ok(entries)
}

/// The files of ours among the entries of a volume, whether they boot or not; half-written ones too.
pub(super) fn ours_on(volume: &Path) -> Result<Vec<PathBuf>, SystemdBootError> {
    let directory = volume.join(ENTRIES);
    let ours = |name: &String| name.trim_start_matches('.').to_lowercase().starts_with(OURS);
    Ok(names_in(&directory)?.into_iter().filter(ours).map(|name| directory.join(name)).collect())
}

/// What names neither a kernel nor a program is no entry, and one whose kernel is not there is none.
fn is_shown(entry: &Entry) -> bool {
    match entry.linux.as_deref() {
        Some(linux) => entry.local(linux).is_some_and(|kernel| kernel.is_file()),
        None => !entry.foreign.is_empty(),
    }
}

fn names_in(directory: &Path) -> Result<Vec<String>, SystemdBootError> {
    let read = || -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(directory)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<String>>>()?;
        Ok(names)
    };
    match read() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(at("read", directory)),
    }
}

/// The last `default` counts.
pub(super) fn default_in(conf: &str) -> Option<String> {
    settings(conf).filter(|(key, _)| *key == "default").last().map(|(_, value)| value.to_owned())
}

/// Settings with an entry of ours as the default, behind everything else.
pub(super) fn pinned(conf: &str, id: &str) -> String {
    let bare = unpinned(conf);
    let line_end = if bare.is_empty() || bare.ends_with('\n') { "" } else { "\n" };
    // The line end belongs to the block, so that it goes away with it.
    let mark =
        if line_end.is_empty() { BEGIN.to_owned() } else { format!("{BEGIN}, with the line end before it") };
    format!("{bare}{line_end}{mark}\ndefault {id}\n{END}\n")
}

/// The settings as they were before [`pinned`], byte by byte.
pub(super) fn unpinned(conf: &str) -> String {
    let Some((before, rest)) = conf.split_once(BEGIN) else { return conf.to_owned() };
    let Some((block, after)) = rest.split_once(&format!("{END}\n")) else { return before.to_owned() };
    let added = block.starts_with(',');
    let before = if added { before.strip_suffix('\n').unwrap_or(before) } else { before };
    format!("{before}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_comes_last_and_goes_without_a_trace() {
        for conf in ["", "timeout 0\n", "timeout 3\ndefault debian-*", "default a\n\n# x\n"] {
            let once = pinned(conf, "safe-upgrade-r1-old.conf");
            assert_eq!(default_in(&once).as_deref(), Some("safe-upgrade-r1-old.conf"), "{conf:?}");
            assert_eq!(unpinned(&once), conf);
            let again = pinned(&once, "safe-upgrade-r2-old.conf");
            assert_eq!(default_in(&again).as_deref(), Some("safe-upgrade-r2-old.conf"));
            assert_eq!(unpinned(&again), conf);
            assert_eq!(unpinned(conf), conf);
        }
        assert_eq!(default_in("default a\ndefault b\n").as_deref(), Some("b"));
    }
}
