//! The ground that a run stands on, made once: the state volume, the copy of the program, and the unit that goes on after a
//! reboot.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::boot::volume_id;
use super::{Result, trouble};
use crate::driver::Trouble;
use crate::error::{Exit, Failure};
use crate::evidence::{JournalFacts, Plan};
use crate::places::{EMERGENCY_UNIT, LEAVE_UNIT, RESUME_UNIT, StateDirectory};
use crate::snapshot::state_volume::{self, Places};
use crate::snapshot::{Change, TopLevel};
use crate::system::durable;
use crate::system::exec::Exec;
use crate::system::mounts;

const DROP_IN: &str = include_str!("../../packaging/safe-upgrade-emergency.conf");
pub(super) const UNIT_DIRECTORY: &str = "etc/systemd/system";

/// The unit files and drop-ins, below [`UNIT_DIRECTORY`].
const FILES: [(&str, &str); 5] = [
    (RESUME_UNIT, include_str!("../../packaging/safe-upgrade-resume.service")),
    (LEAVE_UNIT, include_str!("../../packaging/safe-upgrade-leave.service")),
    (EMERGENCY_UNIT, include_str!("../../packaging/safe-upgrade-emergency.service")),
    ("emergency.target.d/safe-upgrade.conf", DROP_IN),
    ("rescue.target.d/safe-upgrade.conf", DROP_IN),
];

/// The units that an ordinary boot starts.
const ENABLED: [&str; 2] = [RESUME_UNIT, LEAVE_UNIT];

/// systemd's name for the mount unit of [`crate::places::STATE_DIRECTORY`] (systemd-escape(1)).
const STATE_MOUNT_UNIT: &str = "var-lib-safe\\x2dupgrade.mount";
const WANTED_BY: &str = "multi-user.target.wants";

/// What was made or found.
#[derive(Debug, Clone, Serialize)]
pub struct Ground {
    /// Where the state volume is mounted.
    pub mount_point: PathBuf,
    /// The subvolume.
    pub volume: String,
    /// Whether it was made just now.
    pub made: bool,
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.made { "made" } else { "found" };
        write!(
            f,
            "The journal's own subvolume {} is {verb}, mounted at {}.",
            self.volume,
            self.mount_point.display()
        )
    }
}

/// Sees to it that the state volume is there, mounted now and at every boot. Probes first.
///
/// # Errors
/// When the root is not on btrfs, or the volume cannot be made or mounted.
pub fn prepare(places: &StateDirectory) -> std::result::Result<Ground, Failure> {
    let failed = |error| Failure::failed("failed to give the journal a subvolume of its own", error);
    let top = TopLevel::open(Path::new("/")).map_err(|error| {
        failed(trouble(error)).hint(
            "safe-upgrade runs need a btrfs root for now; `rehearse`, `verify` and `manifest` work anywhere",
        )
    })?;
    let volume_places = Places { mount_point: places.path().to_owned(), ..Places::default() };
    let (change, subvolume) =
        state_volume::ensure(&top, &volume_places).map_err(|error| failed(trouble(error)))?;
    Ok(Ground {
        mount_point: places.path().to_owned(),
        volume: subvolume.name,
        made: change == Change::Changed,
    })
}

/// The same for what changes nothing of this machine: where the root is not on btrfs, the state directory is an ordinary one, and no
/// run ever begins; then there is no ground. Probes first.
///
/// # Errors
/// As [`prepare`], and when the directory cannot be made.
pub fn prepare_without_runs(places: &StateDirectory) -> std::result::Result<Option<Ground>, Failure> {
    let failed = |trouble| Failure::failed("failed to make the state directory", trouble);
    let table = mounts::read().map_err(|error| failed(trouble(error)))?;
    let root = mounts::holding(&table, Path::new("/")).map_err(|error| failed(trouble(error)))?;
    if root.fs_type == "btrfs" {
        return prepare(places).map(Some);
    }
    durable::private_directory(places.path()).map_err(|error| failed(trouble(error)))?;
    Ok(None)
}

/// Whether the state volume is mounted. Without it the journal can't be seen, which is not the same as "there is none".
///
/// # Errors
/// When it should be mounted and is not, with what to type; or when it can't be found out.
pub fn is_there(places: &StateDirectory) -> std::result::Result<bool, Failure> {
    let table =
        mounts::read().map_err(|error| Failure::failed("failed to look for the state volume", error))?;
    if table.iter().any(|mount| mount.point == places.path()) {
        return Ok(true);
    }
    if Path::new("/").join(UNIT_DIRECTORY).join(STATE_MOUNT_UNIT).exists() {
        let message = format!("the journal can't be seen: {} is not mounted", places.path().display());
        return Err(Failure::new(Exit::Failed, message)
            .hint(format!("systemctl start '{STATE_MOUNT_UNIT}', then again")));
    }
    Ok(false)
}

/// Installs the units and the copy of this program that they run. To be called by whoever holds the journal. Repeatable; durable
/// when it returns.
///
/// # Errors
/// Names what could not be written.
pub fn install(places: &StateDirectory) -> std::result::Result<(), Failure> {
    install_files(places)
        .map_err(|trouble| Failure::failed("failed to install the units that go on with a run", trouble))
}

/// Installs what removes at the next boot what a rehearsal leaves when the power goes, where no run ever begins. Repeatable; durable
/// when it returns.
///
/// # Errors
/// Names what could not be written.
pub fn install_sweeper(places: &StateDirectory) -> std::result::Result<(), Failure> {
    let only = |(name, _): &&(&str, &str)| *name == RESUME_UNIT;
    install_some(places, FILES.iter().filter(only), &[RESUME_UNIT])
        .map_err(|trouble| Failure::failed("failed to install the unit that removes leftovers", trouble))
}

fn install_files(places: &StateDirectory) -> Result<()> {
    install_some(places, FILES.iter(), &ENABLED)
}

fn install_some<'f>(
    places: &StateDirectory,
    files: impl Iterator<Item = &'f (&'f str, &'f str)>,
    enabled: &[&str],
) -> Result<()> {
    let program = std::fs::read("/proc/self/exe").map_err(trouble)?;
    let copy = places.program();
    if let Some(directory) = copy.parent() {
        durable::private_directory(directory).map_err(trouble)?;
    }
    // The unit starts this very file; when it is already the same, replacing it would only cost time.
    if std::fs::read(&copy).ok().as_deref() != Some(&program) {
        durable::replace_file(&copy, &program, 0o755).map_err(trouble)?;
    }
    let units = Path::new("/").join(UNIT_DIRECTORY);
    for (name, text) in files {
        install_file(&units, name, text)?;
    }
    let enable = [&["enable"][..], enabled].concat();
    for arguments in [&["daemon-reload"][..], &enable] {
        Exec::new("systemctl").and_then(|exec| exec.args(arguments).success()).map_err(trouble)?;
    }
    durable::sync_directory(&units).map_err(trouble)?;
    durable::sync_directory(&units.join(WANTED_BY)).map_err(trouble)
}

/// One unit file or drop-in; a directory of drop-ins is for all to read.
pub(super) fn install_file(units: &Path, name: &str, text: &str) -> Result<()> {
    let path = units.join(name);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(trouble)?;
        durable::sync_directory(units).map_err(trouble)?;
    }
    durable::replace_file(&path, text.as_bytes(), 0o644).map_err(trouble)
}

/// Whether the run would be gone on with at any boot of a tree, also at one that ends in emergency or rescue mode, and whether
/// an orderly reboot would be told.
pub(super) fn is_resume_enabled(root: &Path) -> bool {
    let units = root.join(UNIT_DIRECTORY);
    let is_ours = |(name, text): &(&str, &str)| {
        std::fs::read(units.join(name)).is_ok_and(|bytes| bytes == text.as_bytes())
    };
    // The links are absolute: below another root they lead elsewhere, so the files are looked at by themselves.
    FILES.iter().all(is_ours)
        && ENABLED.iter().all(|unit| units.join(WANTED_BY).join(unit).is_symlink())
        && units.join(STATE_MOUNT_UNIT).is_file()
}

/// Where the journal lies, for the proof that a rollback leaves it alone.
pub(super) fn journal_facts(places: &StateDirectory, plan: &Plan) -> Result<JournalFacts> {
    let facts = state_volume::location_facts(places.path(), Path::new("/")).map_err(trouble)?;
    let volume =
        facts.subvolume.filter(|_| facts.own_top_level).map(|found| volume_id(found.uuid)).transpose()?;
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let running = volume_id(top.running_root().map_err(trouble)?.uuid)?;
    let named = top.find(&plan.root.name).map_err(trouble)?;
    let named = named.ok_or_else(|| Trouble::new(format!("no subvolume is named {}", plan.root.name)))?;
    Ok(JournalFacts { volume, scope: vec![plan.root.uuid.clone(), running, volume_id(named.uuid)?] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_part_of_the_proof() {
        let root = tempfile::tempdir().unwrap();
        let units = root.path().join(UNIT_DIRECTORY);
        for (name, text) in FILES {
            install_file(&units, name, text).unwrap();
        }
        std::fs::write(units.join(STATE_MOUNT_UNIT), "").unwrap();
        std::fs::create_dir_all(units.join(WANTED_BY)).unwrap();
        for unit in ENABLED {
            assert!(!is_resume_enabled(root.path()), "without {unit}");
            std::os::unix::fs::symlink(Path::new("/nowhere").join(unit), units.join(WANTED_BY).join(unit))
                .unwrap();
        }
        assert!(is_resume_enabled(root.path()));
        for (name, text) in FILES {
            std::fs::write(units.join(name), "[Unit]\n").unwrap();
            assert!(!is_resume_enabled(root.path()), "without {name}");
            std::fs::write(units.join(name), text).unwrap();
        }
        assert!(is_resume_enabled(root.path()));
    }

    /// What systemd itself says about the units, where it is installed.
    #[test]
    fn systemd_takes_the_units() {
        let Ok(_) = Exec::new("systemd-analyze") else {
            eprintln!("skipped: needs systemd-analyze");
            return;
        };
        let root = tempfile::tempdir().unwrap();
        let deadline = super::super::deadline::files(crate::system::span::Span::seconds(1800));
        let files: Vec<(&str, String)> =
            FILES.iter().map(|(name, text)| (*name, (*text).to_owned())).chain(deadline).collect();
        let mut paths = Vec::new();
        for (name, text) in files.iter().filter(|(name, _)| !name.contains('/')) {
            // The program is not installed here.
            let text = text.replace("/var/lib/safe-upgrade/bin/safe-upgrade", "/bin/true");
            let path = root.path().join(name);
            std::fs::write(&path, text).unwrap();
            paths.push(path);
        }
        let output =
            Exec::new("systemd-analyze").unwrap().args(["verify", "--man=no"]).args(&paths).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let ours: Vec<&str> = said.lines().filter(|line| line.contains("safe-upgrade")).collect();
        assert!(ours.is_empty(), "{ours:#?}");
    }
}
