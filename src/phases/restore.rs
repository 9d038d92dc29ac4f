//! The way back: the snapshot's clone takes the root's name, and after the reboot the old system is looked at.

use std::path::Path;

use super::loader::Loader;
use super::{Machine, Result, boot, boot_set, divergence, health, packages, trouble};
use crate::boot::named_root::NamedRoot;
use crate::evidence::{HealthFacts, Plan, RestoredFacts};
use crate::machine::Destination;
use crate::release::holdoff;
use crate::snapshot::TopLevel;
use crate::system::durable;

/// The name of the file that remembers that the way back was handed over to the old system.
const HANDED_OVER: &str = "rollback-handed-over";

/// Makes the old system the next boot; the failed root is kept under the run's name. Probes first; durable when it returns.
///
/// A trial that can't do it (its `/boot` does not mount, say) hands over: by default the old system boots, and goes on from there.
pub(super) fn restore(machine: &Machine, plan: &Plan) -> Result<RestoredFacts> {
    let failed = match bring_back(machine, plan) {
        Ok(facts) => return Ok(facts),
        Err(trouble) => trouble,
    };
    if !may_hand_over(machine, plan)? {
        return Err(failed);
    }
    machine
        .progress
        .line(&format!("the trial can't bring the old system back ({failed}): a reboot into it goes on"));
    boot::reboot(machine, plan, Destination::OldSystem).map(|never| match never {})
}

fn bring_back(machine: &Machine, plan: &Plan) -> Result<RestoredFacts> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    packages::make_room(&machine.places);
    let loader = Loader::of(plan, &machine.names, &machine.directory, &top)?;
    if let Some(loader) = &loader {
        loader.disarm()?;
    }
    let root = NamedRoot::new(&top, &plan.root.name, &machine.names);
    let clone = root.before_restore().map_err(trouble)?;
    // What can't be brought back must be known while the names still fit what is there.
    let set = boot_set::ready(machine)?;
    let copies = set.as_ref().map(|set| boot_set::copies(machine, set));
    if let (Some(loader), Some(copies)) = (&loader, &copies) {
        loader.arm_way_back(copies, clone.id)?;
    }
    if let Err(trouble) = divergence::keep_boot(machine) {
        machine.progress.line(&format!("what goes back of /boot could not be counted: {trouble}"));
    }
    root.restore().map_err(trouble)?;
    if let Some(loader) = &loader {
        loader.write_through()?;
    }
    let members = set.map_or_else(|| Ok(Vec::new()), |set| boot_set::restore(machine, plan, &set))?;
    if let Some(loader) = &loader {
        loader.clean_up()?;
    }
    Ok(RestoredFacts { boot: boot::facts(machine, plan)?, members })
}

/// Only from the trial, only where the root's name leads to the old system, and once: otherwise a human is needed.
fn may_hand_over(machine: &Machine, plan: &Plan) -> Result<bool> {
    let facts = boot::facts(machine, plan)?;
    // Only a boot that was started as the trial has used its choice up.
    let on_trial = facts.token.as_ref() == Some(&plan.run) && facts.named.uuid != plan.root.uuid;
    let note = machine.directory.join(HANDED_OVER);
    if !plan.promise.method.is_one_shot() || !on_trial || note.try_exists().map_err(trouble)? {
        return Ok(false);
    }
    durable::replace_file(&note, b"", 0o600).map_err(trouble)?;
    Ok(true)
}

/// Ends the rollback: looks whether the old system is as it was, and lets everything run again that was held off.
pub(super) fn settle(machine: &Machine) -> HealthFacts {
    // Runtime masks end with the boot; this covers a rollback that needed none.
    if let Err(error) = holdoff::release_all() {
        tracing::warn!(error = %crate::error::chain(&error), "timers may still be held off");
    }
    health::of_restored(machine)
}
