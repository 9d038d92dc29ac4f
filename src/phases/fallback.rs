//! The fallback: from here on any boot is the old system, until the trial is prepared.

use std::path::Path;

use super::boot::{volume, volume_id};
use super::loader::{self, Loader};
use super::{Machine, Result, ground, trouble};
use crate::boot::named_root::NamedRoot;
use crate::driver::Trouble;
use crate::evidence::{FallbackFacts, Plan};
use crate::places::StateDirectory;
use crate::snapshot::TopLevel;
use crate::snapshot::names::RunNames;

/// Arms it: first the root's name, then the boot loader. Probes first; durable when it returns.
pub(super) fn arm(machine: &Machine, plan: &Plan) -> Result<FallbackFacts> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    NamedRoot::new(&top, &plan.root.name, &machine.names).arm().map_err(trouble)?;
    if let Some(loader) = Loader::of(plan, &machine.names, &machine.directory, &top)? {
        loader.arm(named(&top, plan)?.id)?;
    }
    facts(machine, plan)
}

/// Looks at what boots next.
pub(super) fn facts(machine: &Machine, plan: &Plan) -> Result<FallbackFacts> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let loader_fault = match Loader::of(plan, &machine.names, &machine.directory, &top)? {
        Some(loader) => loader.fault()?,
        None => None,
    };
    let (_, verdict) = loader::verdict()?;
    Ok(FallbackFacts {
        promise: loader::promise(&verdict),
        loader_fault,
        named: volume(&named(&top, plan)?)?,
        running: volume_id(top.running_root().map_err(trouble)?.uuid)?,
        resume_enabled: ground::is_resume_enabled(&top.path(Path::new(&plan.root.name))),
        least: machine.config.upgrade.minimum_level,
    })
}

fn named(top: &TopLevel, plan: &Plan) -> Result<crate::snapshot::Subvolume> {
    let name = &plan.root.name;
    let found = top.find(name).map_err(trouble)?;
    found.ok_or_else(|| Trouble::new(format!("no subvolume is named {name}")))
}

/// Takes it back: first the boot loader's part. Probes first; durable when it returns.
pub(super) fn disarm(machine: &Machine, plan: &Plan) -> Result<()> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let loader = Loader::of(plan, &machine.names, &machine.directory, &top);
    if let Ok(Some(loader)) = &loader {
        loader.take_back()?;
    }
    // Also without its loader: by its name the running system must boot again, not the clone.
    NamedRoot::new(&top, &plan.root.name, &machine.names).disarm().map_err(trouble)?;
    loader.map(drop)
}

/// Before a run begins in place of one that is stuck: nothing of the old one may hold the boot loader's installers off, or be in the
/// snapshot of the new one. Repeatable.
///
/// # Errors
/// When it can't be taken back, or not be found out.
pub fn let_go_of_stuck(places: &StateDirectory, plan: &Plan) -> Result<()> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let names = RunNames::new(plan.run.as_str()).map_err(trouble)?;
    if let Some(loader) = Loader::of(plan, &names, &places.run(&plan.run), &top)? {
        loader.take_back()?;
    }
    Ok(())
}
