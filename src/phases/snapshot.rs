//! The snapshot: read-only, of the root that the plan names, under the run's name.

use std::path::Path;

use super::boot::volume;
use super::{Machine, Result, trouble};
use crate::evidence::{Plan, SnapshotFacts};
use crate::snapshot::TopLevel;

/// Takes the snapshot, or finds it. Probes first; durable when it returns.
pub(super) fn take(machine: &Machine, plan: &Plan) -> Result<SnapshotFacts> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    top.snapshot_read_only(&plan.root.name, &machine.names.before()).map_err(trouble)?;
    facts(machine, plan)
}

/// Looks at the snapshot.
pub(super) fn facts(machine: &Machine, _: &Plan) -> Result<SnapshotFacts> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let name = machine.names.before();
    let found = top.find(&name).map_err(trouble)?;
    Ok(SnapshotFacts {
        read_only: found.as_ref().is_some_and(|subvolume| subvolume.read_only),
        volume: found.as_ref().map(volume).transpose()?,
        name,
    })
}

/// Deletes the snapshot of a refused run. Probes first.
pub(super) fn release(machine: &Machine) -> Result<()> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let name = machine.names.before();
    if let Some(found) = top.find(&name).map_err(trouble)? {
        top.delete(&name, found.uuid).map_err(trouble)?;
    }
    Ok(())
}
