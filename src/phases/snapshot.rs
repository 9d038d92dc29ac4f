//! The snapshot: read-only, of the root that the plan names, under the run's name.

use std::path::Path;

use super::boot::volume;
use super::packages::LOCK_WAIT;
use super::{Machine, Result, boot_set, trouble};
use crate::driver::Trouble;
use crate::evidence::{Plan, SnapshotFacts};
use crate::release::completion;
use crate::snapshot::TopLevel;
use crate::system::lock::RecordLock;

/// The lock that apt and dpkg frontends take before they do anything (apt.conf(5), dpkg's frontend lock).
const PACKAGES_LOCK: &str = "/var/lib/dpkg/lock-frontend";

/// Takes the snapshot, or finds it, while nobody changes packages: it is the way back, so it must be whole. From here on other
/// package tools are held off. Probes first; durable when it returns.
pub(super) fn take(machine: &mut Machine, plan: &Plan) -> Result<SnapshotFacts> {
    machine.hold_off()?;
    // What is held off begins no more; what was under way may come to its end.
    let _nobody_else =
        RecordLock::acquire_within(Path::new(PACKAGES_LOCK), LOCK_WAIT.duration()).map_err(trouble)?;
    let packages = completion::completion_facts(Path::new("/")).map_err(trouble)?;
    if let Some(complaint) =
        packages.audit.lines().chain(packages.unfinished.iter().map(String::as_str)).next()
    {
        return Err(Trouble::new(format!(
            "the packages have changed since preflight, and are not whole now: {complaint}"
        )));
    }
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    if top.find(&machine.names.before()).map_err(trouble)?.is_none() {
        boot_set::forget(machine)?;
    }
    boot_set::capture(machine)?;
    top.snapshot_read_only(&plan.root.name, &machine.names.before()).map_err(trouble)?;
    facts(machine, plan)
}

/// Looks at the snapshot.
pub(super) fn facts(machine: &Machine, _: &Plan) -> Result<SnapshotFacts> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let name = machine.names.before();
    let found = top.find(&name).map_err(trouble)?;
    let (boot, boot_faults) = boot_set::facts(machine)?;
    Ok(SnapshotFacts {
        read_only: found.as_ref().is_some_and(|subvolume| subvolume.read_only),
        volume: found.as_ref().map(volume).transpose()?,
        name,
        boot,
        boot_faults,
    })
}

/// Deletes the snapshot of a refused run, and lets other package tools work again. Probes first.
pub(super) fn release(machine: &mut Machine) -> Result<()> {
    machine.let_go()?;
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let name = machine.names.before();
    if let Some(found) = top.find(&name).map_err(trouble)? {
        top.delete(&name, found.uuid).map_err(trouble)?;
    }
    boot_set::forget(machine)
}
