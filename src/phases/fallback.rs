//! The fallback: from here on any boot is the old system, until the trial is prepared.

use std::path::Path;

use super::boot::{volume, volume_id};
use super::{Machine, Result, ground, trouble};
use crate::boot::named_root::NamedRoot;
use crate::driver::Trouble;
use crate::evidence::{FallbackFacts, Plan, Promise};
use crate::snapshot::TopLevel;

/// Arms it. Probes first; durable when it returns.
pub(super) fn arm(machine: &Machine, plan: &Plan) -> Result<FallbackFacts> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    NamedRoot::new(&top, &plan.root.name, &machine.names).arm().map_err(trouble)?;
    facts(machine, plan)
}

/// Looks at what boots next.
pub(super) fn facts(machine: &Machine, plan: &Plan) -> Result<FallbackFacts> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let name = &plan.root.name;
    let found = top.find(name).map_err(trouble)?;
    let named = found.ok_or_else(|| Trouble::new(format!("no subvolume is named {name}")))?;
    Ok(FallbackFacts {
        promise: Promise::default(),
        loader_fault: None,
        named: volume(&named)?,
        running: volume_id(top.running_root().map_err(trouble)?.uuid)?,
        resume_enabled: ground::is_resume_enabled(&top.path(Path::new(name))),
        least: machine.config.upgrade.minimum_level,
    })
}

/// Takes it back. Probes first; durable when it returns.
pub(super) fn disarm(machine: &Machine, plan: &Plan) -> Result<()> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    NamedRoot::new(&top, &plan.root.name, &machine.names).disarm().map_err(trouble)?;
    Ok(())
}
