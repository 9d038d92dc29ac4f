//! The fallback: from here on any boot is the old system, until the trial is prepared.

use std::path::Path;

use super::boot::{volume, volume_id};
use super::{Machine, Result, ground, trouble};
use crate::boot::named_root::NamedRoot;
use crate::driver::Trouble;
use crate::evidence::{FallbackFacts, GuaranteeLevel, Plan};
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
        method: "the root's name leads to a clone of the snapshot".into(),
        named: volume(&named)?,
        running: volume_id(top.running_root().map_err(trouble)?.uuid)?,
        resume_enabled: ground::is_resume_enabled(&top.path(Path::new(name))),
        level: level(),
        least: machine.config.upgrade.minimum_level,
    })
}

/// A boot while packages change lands on the old system whatever happens. A trial whose kernel dies is booted again by name, so
/// the machine comes back by itself only while a userspace lives.
fn level() -> GuaranteeLevel {
    GuaranteeLevel::B
}

/// Takes it back. Probes first; durable when it returns.
pub(super) fn disarm(machine: &Machine, plan: &Plan) -> Result<()> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    NamedRoot::new(&top, &plan.root.name, &machine.names).disarm().map_err(trouble)?;
    Ok(())
}
