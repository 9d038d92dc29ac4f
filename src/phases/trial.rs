//! The trial: the upgraded root becomes the next boot; there its health is judged; then it stays.

use std::path::Path;
use std::time::Duration;

use super::preflight::BASELINE_NAME;
use super::{Machine, Result, boot, plan::digest, trouble};
use crate::boot::{grub, named_root::NamedRoot};
use crate::driver::Trouble;
use crate::evidence::{BootFacts, HealthFacts, Plan};
use crate::health::baseline::Baseline;
use crate::health::checks::{self, Phase};
use crate::health::clock::{Cancel, RealClock};
use crate::health::report::HealthReport;
use crate::health::{settle, soak};
use crate::machine::{Record, State};
use crate::snapshot::TopLevel;
use crate::system::span::Span;

/// Between two looks while the machine soaks.
const SOAK_INTERVAL: Span = Span::seconds(5);

/// A service that systemd has restarted more often than this while the machine soaked is not well.
const RESTARTS_ALLOWED: u32 = 0;

/// Makes the upgraded root the next boot, with a boot menu that says so. Probes first.
pub(super) fn prepare(machine: &Machine, plan: &Plan) -> Result<BootFacts> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    NamedRoot::new(&top, &plan.root.name, &machine.names).prepare_trial().map_err(trouble)?;
    // While packages changed the root had another name, and their scripts have written that one into the menu.
    grub::regenerate_menu(&machine.names.other_root()).map_err(trouble)?;
    boot::facts(Some(plan))
}

/// Compares the machine with its baseline, runs the named checks, and keeps watching for the soak time. Repeatable.
pub(super) fn health(machine: &Machine, plan: &Plan) -> Result<HealthFacts> {
    let config = &machine.config.health;
    let before = baseline(machine)?;
    let cancel = Cancel::new();
    let mut clock = RealClock::new(cancel.clone());
    machine.progress.percent(5.0, "waiting for the boot to end");
    let settled = settle::wait_until_settled(config.settle.duration()).map_err(trouble)?;
    machine.progress.percent(20.0, &format!("the boot has ended ({settled:?}); comparing with the baseline"));
    let limit: Duration = config.settle.duration();
    let converged =
        settle::converge(Path::new("/"), &before, &config.renames, limit, &mut clock).map_err(trouble)?;
    machine.progress.percent(40.0, "running the checks");
    let results = checks::run_all(&config.checks, phase(machine), &cancel);
    let first = soak::Sample::new(results.clone(), &converged.after.units);
    let mut report = HealthReport::new(results, converged.changes, &before);
    if report.required_failed.is_empty() {
        machine.progress.percent(60.0, &format!("healthy; watching for {}", config.soak));
        let settings = soak::SoakConfig {
            time: config.soak,
            interval: SOAK_INTERVAL,
            restarts_allowed: RESTARTS_ALLOWED,
        };
        let mut look = || soak::Sample::take(checks::run_all(&config.checks, phase(machine), &cancel));
        let watched = soak::watch(settings, &first, &mut clock, &mut look).map_err(trouble)?;
        report = report.with_soak(&watched);
    }
    for sentence in report.required_failed.iter().chain(&report.wanted_failed) {
        machine.progress.line(sentence);
    }
    let _ = plan;
    Ok(facts(report))
}

pub(super) fn facts(report: HealthReport) -> HealthFacts {
    let noted =
        report.changes.iter().filter(|change| !change.is_required()).map(|change| change.sentence.clone());
    let noted = report.wanted_failed.iter().cloned().chain(noted).collect();
    HealthFacts {
        checked: report.checked as u64,
        failed: report.required_failed,
        noted,
        soaked: report.soak_seconds,
    }
}

fn phase(machine: &Machine) -> Phase {
    match machine.journal.state() {
        State::RollbackRebooting { .. } | State::RolledBack { .. } => Phase::Rollback,
        _ => Phase::Trial,
    }
}

/// The baseline of this run, if it is still the one that the journal names.
pub(super) fn baseline(machine: &Machine) -> Result<Baseline> {
    let path = machine.directory.join(BASELINE_NAME);
    let bytes = std::fs::read(&path)
        .map_err(|error| Trouble::new(format!("failed to read {}: {error}", path.display())))?;
    let named = machine.journal.frames().iter().rev().find_map(|frame| match &frame.entry {
        Record::Checked { proof } => Some(&proof.baseline),
        _ => None,
    });
    if named != Some(&digest(&bytes)) {
        return Err(Trouble::new(format!("{} is not the baseline that the journal names", path.display())));
    }
    Baseline::decode(&bytes).map_err(trouble)
}

/// The upgraded root boots by its name; the armed clone is not needed any more, the snapshot is kept. Probes first.
pub(super) fn settle(machine: &Machine, plan: &Plan) -> Result<()> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    NamedRoot::new(&top, &plan.root.name, &machine.names).disarm().map_err(trouble)?;
    Ok(())
}
