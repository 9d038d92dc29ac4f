//! The way back: the snapshot's clone takes the root's name, and after the reboot the old system is looked at.

use std::path::Path;

use super::{Machine, Result, boot, trial, trouble};
use crate::boot::named_root::NamedRoot;
use crate::driver::Trouble;
use crate::evidence::{BootFacts, HealthFacts, Plan};
use crate::health::checks::{self, Phase};
use crate::health::clock::{Cancel, RealClock};
use crate::health::report::HealthReport;
use crate::health::settle;
use crate::release::holdoff;
use crate::snapshot::TopLevel;

/// Makes the old system the next boot; the failed root is kept under the run's name. Probes first; durable when it returns.
pub(super) fn restore(machine: &Machine, plan: &Plan) -> Result<BootFacts> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    NamedRoot::new(&top, &plan.root.name, &machine.names).restore().map_err(trouble)?;
    boot::facts(Some(plan))
}

/// Looks whether the old system is as it was. It is reported; what could not be found out is reported too.
pub(super) fn look(machine: &Machine, _: &Plan) -> HealthFacts {
    // Runtime masks end with the boot; this covers a rollback that needed none.
    if let Err(error) = holdoff::release_all() {
        tracing::warn!(error = %crate::error::chain(&error), "timers may still be held off");
    }
    compare(machine).unwrap_or_else(|trouble| HealthFacts {
        checked: 0,
        failed: vec![format!("could not find out: {trouble}")],
        noted: vec![],
        soaked: 0,
    })
}

fn compare(machine: &Machine) -> std::result::Result<HealthFacts, Trouble> {
    let config = &machine.config.health;
    let before = trial::baseline(machine)?;
    let cancel = Cancel::new();
    let mut clock = RealClock::new(cancel.clone());
    settle::wait_until_settled(config.settle.duration()).map_err(trouble)?;
    let limit = config.settle.duration();
    let converged =
        settle::converge(Path::new("/"), &before, &config.renames, limit, &mut clock).map_err(trouble)?;
    let results = checks::run_all(&config.checks, Phase::Rollback, &cancel);
    Ok(trial::facts(HealthReport::new(results, converged.changes, &before)))
}
