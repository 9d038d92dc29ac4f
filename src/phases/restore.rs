//! The way back: the snapshot's clone takes the root's name, and after the reboot the old system is looked at.

use std::path::Path;

use super::loader::Loader;
use super::{Machine, Result, boot, boot_set, health, packages, trouble};
use crate::boot::named_root::NamedRoot;
use crate::evidence::{HealthFacts, Plan, RestoredFacts};
use crate::release::holdoff;
use crate::snapshot::TopLevel;

/// Makes the old system the next boot; the failed root is kept under the run's name. Probes first; durable when it returns.
pub(super) fn restore(machine: &Machine, plan: &Plan) -> Result<RestoredFacts> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    packages::make_room(&machine.places);
    let loader = Loader::of(plan, &machine.names, &machine.directory, &top)?;
    if let Some(loader) = &loader {
        loader.disarm()?;
    }
    NamedRoot::new(&top, &plan.root.name, &machine.names).restore().map_err(trouble)?;
    let members = boot_set::restore(machine)?;
    if let Some(loader) = &loader {
        loader.clean_up()?;
    }
    Ok(RestoredFacts { boot: boot::facts(machine, plan)?, members })
}

/// Ends the rollback: looks whether the old system is as it was, and lets everything run again that was held off.
pub(super) fn settle(machine: &Machine) -> HealthFacts {
    // Runtime masks end with the boot; this covers a rollback that needed none.
    if let Err(error) = holdoff::release_all() {
        tracing::warn!(error = %crate::error::chain(&error), "timers may still be held off");
    }
    health::of_restored(machine)
}
