//! The trial: the upgraded root boots, once where the machine can do that; when it has proven healthy, it stays.

use std::path::Path;

use super::loader::Loader;
use super::{Machine, Result, boot, deadline, packages, trouble};
use crate::boot::deadman;
use crate::boot::named_root::NamedRoot;
use crate::evidence::{BootFacts, CommitRule, Plan};
use crate::snapshot::TopLevel;

/// The dead man comes after systemd's timer: where a userspace lives, that one turns back in good order.
const LATER: u64 = 60;

/// Makes the upgraded root the next boot. Probes first.
pub(super) fn prepare(machine: &Machine, plan: &Plan) -> Result<BootFacts> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let root = NamedRoot::new(&top, &plan.root.name, &machine.names);
    match Loader::of(plan, &machine.names, &machine.directory, &top)? {
        Some(loader) => loader.prepare_trial(&root, dead_man_after(machine, plan))?,
        None => drop(root.prepare_trial().map_err(trouble)?),
    }
    boot::facts(machine, plan)
}

/// Seconds from the start of the trial's initial RAM disk until it resets the machine.
fn dead_man_after(machine: &Machine, plan: &Plan) -> u32 {
    let confirm = if plan.commit == CommitRule::Confirm { plan.confirm_seconds } else { 0 };
    let seconds = machine.config.health.deadline.duration().as_secs() + confirm + LATER;
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// The boot after this one is the trial again. Probes first.
pub(super) fn again(machine: &Machine, plan: &Plan) -> Result<()> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let loader = Loader::of(plan, &machine.names, &machine.directory, &top)?;
    loader.map_or(Ok(()), |loader| loader.trial_again())
}

/// The trial has its verdict: nothing resets the machine any more. Repeatable.
pub(super) fn stand_down() -> Result<()> {
    deadman::stand_down().map(drop).map_err(trouble)
}

/// A human is at work: nothing resets the machine under their hands. What can't be ended is told.
pub(super) fn leave_to_a_human() {
    for ended in [stand_down(), deadline::lift()] {
        if let Err(trouble) = ended {
            tracing::warn!(%trouble, "something may still reset this machine");
        }
    }
}

/// The upgraded root boots by default; the armed clone is not needed any more, the snapshot is kept. Probes first.
pub(super) fn settle(machine: &Machine, plan: &Plan) -> Result<()> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let root = NamedRoot::new(&top, &plan.root.name, &machine.names);
    if let Some(loader) = Loader::of(plan, &machine.names, &machine.directory, &top)? {
        loader.disarm()?;
        loader.settle(&root)?;
    }
    root.disarm().map_err(trouble)?;
    packages::drop_archives(&machine.places);
    stand_down()
}
