//! What a rollback takes back: counted since the snapshot, for whoever is about to ask for one, and for the report.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::boot::volume_id;
use super::{Machine, Result, trouble};
use crate::driver::Trouble;
use crate::evidence::{Plan, SnapshotSet};
use crate::snapshot::TopLevel;
use crate::snapshot::divergence::{Divergence, between};
use crate::system::durable;

/// The file's name in the run's directory.
pub const FILE: &str = "divergence.json";

/// What was written below one mount point that goes back with the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountDivergence {
    /// Where it is mounted.
    pub mount: String,
    /// What was written.
    pub since_snapshot: Divergence,
}

/// Compares the planned root, whatever its name is now, with the snapshot. Repeatable; reads metadata only.
///
/// # Errors
/// When one of the two is not there, or cannot be read.
pub fn since_snapshot(plan: &Plan, snapshot: &SnapshotSet) -> Result<Vec<MountDivergence>> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let mut name = None;
    for volume in top.list().map_err(trouble)? {
        if volume_id(volume.uuid)? == plan.root.uuid {
            name = Some(volume.name);
        }
    }
    let name = name.ok_or_else(|| Trouble::new("the root that was upgraded is not there any more"))?;
    let (before, now) = (top.path(Path::new(&snapshot.name)), top.path(Path::new(&name)));
    let since_snapshot = between(&before, &now).map_err(trouble)?;
    Ok(vec![MountDivergence { mount: "/".into(), since_snapshot }])
}

/// Writes down what a rollback has taken back. Repeatable.
pub(super) fn keep(machine: &Machine, plan: &Plan, snapshot: &SnapshotSet) -> Result<()> {
    let found = since_snapshot(plan, snapshot)?;
    let bytes = serde_json::to_vec_pretty(&found).map_err(trouble)?;
    durable::replace_file(&machine.directory.join(FILE), &bytes, 0o600).map_err(trouble)
}
