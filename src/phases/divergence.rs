//! What a rollback takes back: counted since the snapshot, for whoever is about to ask for one, and for the report.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::boot::volume_id;
use super::{Machine, Result, boot_set, trouble};
use crate::boot::set;
use crate::driver::Trouble;
use crate::evidence::{Plan, SnapshotSet};
use crate::snapshot::TopLevel;
use crate::snapshot::divergence::{Divergence, between};
use crate::system::durable;

/// The file's name in the run's directory.
pub const FILE: &str = "divergence.json";

/// What was counted of `/boot` and the ESP before they were brought back: afterwards nothing of it can be seen any more.
const BOOT_FILE: &str = "divergence-boot.json";

/// What was written below one mount point that goes back with the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountDivergence {
    /// Where it is mounted.
    pub mount: String,
    /// What was written; paths are from the mount point.
    pub since_snapshot: Divergence,
}

/// Compares the planned root, whatever its name is now, with the snapshot, and `/boot` and the ESP, where they are filesystems of
/// their own, with their copies in the directory of the run. Repeatable; of the living trees it reads metadata only.
///
/// # Errors
/// When one of them is not there, or cannot be read.
pub fn since_snapshot(plan: &Plan, snapshot: &SnapshotSet, run: &Path) -> Result<Vec<MountDivergence>> {
    let mut all = vec![of_root(plan, snapshot)?];
    all.extend(of_boot(run)?);
    Ok(all)
}

/// Counts what is about to be taken back of `/boot` and the ESP, and writes it down. Cut off and repeated, the first count stays.
pub(super) fn keep_boot(machine: &Machine) -> Result<()> {
    let file = machine.directory.join(BOOT_FILE);
    if file.try_exists().map_err(trouble)? {
        return Ok(());
    }
    write(&file, &of_boot(&machine.directory)?)
}

/// Writes down what a rollback has taken back. Repeatable.
pub(super) fn keep(machine: &Machine, plan: &Plan, snapshot: &SnapshotSet) -> Result<()> {
    let mut all = vec![of_root(plan, snapshot)?];
    match std::fs::read(machine.directory.join(BOOT_FILE)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        read => {
            let counted: Vec<MountDivergence> =
                serde_json::from_slice(&read.map_err(trouble)?).map_err(trouble)?;
            all.extend(counted);
        }
    }
    write(&machine.directory.join(FILE), &all)
}

fn of_root(plan: &Plan, snapshot: &SnapshotSet) -> Result<MountDivergence> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let mut name = None;
    for volume in top.list().map_err(trouble)? {
        if volume_id(volume.uuid)? == plan.root.uuid {
            name = Some(volume.name);
        }
    }
    let name = name.ok_or_else(|| Trouble::new("the root that was upgraded is not there any more"))?;
    let (before, now) = (top.path(Path::new(&snapshot.name)), top.path(Path::new(&name)));
    Ok(MountDivergence { mount: "/".into(), since_snapshot: between(&before, &now).map_err(trouble)? })
}

fn of_boot(run: &Path) -> Result<Vec<MountDivergence>> {
    let set = run.join(boot_set::DIRECTORY);
    if !set.try_exists().map_err(trouble)? {
        return Ok(Vec::new());
    }
    let captured = set::ready(&set).map_err(trouble)?;
    let counted = captured.members.iter().map(|member| {
        let since_snapshot = between(&member.tree(&set), &member.point).map_err(trouble)?;
        Ok(MountDivergence { mount: member.point.to_string_lossy().into_owned(), since_snapshot })
    });
    counted.collect()
}

fn write(file: &Path, all: &[MountDivergence]) -> Result<()> {
    durable::replace_file(file, &serde_json::to_vec_pretty(all).map_err(trouble)?, 0o600).map_err(trouble)
}
