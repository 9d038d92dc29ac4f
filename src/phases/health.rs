//! Health: the machine against its baseline, the named checks, and for how long it lasts.

use std::path::Path;
use std::time::Duration;

use super::preflight::BASELINE_NAME;
use super::{Machine, Result, plan::digest, trouble};
use crate::driver::Trouble;
use crate::evidence::HealthFacts;
use crate::health::baseline::Baseline;
use crate::health::checks::{self, Phase};
use crate::health::clock::{Cancel, RealClock};
use crate::health::report::HealthReport;
use crate::health::settle;
use crate::health::soak::{self, Sample, SoakConfig};
use crate::machine::Record;
use crate::system::span::Span;

/// Between two looks while the machine soaks.
const SOAK_INTERVAL: Span = Span::seconds(5);

/// A service that systemd restarts more often than this while the machine soaks is not well.
const RESTARTS_ALLOWED: u32 = 0;

/// What one comparison saw.
struct Compared {
    report: HealthReport,
    sample: Sample,
}

/// Compares, runs the checks, and keeps watching for the soak time. Repeatable.
pub(super) fn of_trial(machine: &Machine) -> Result<HealthFacts> {
    let cancel = Cancel::new();
    let mut clock = RealClock::new(cancel.clone());
    let Compared { mut report, sample } = compare(machine, Phase::Trial, &cancel, &mut clock)?;
    if report.is_healthy() {
        let config = &machine.config.health;
        machine.progress.percent(60.0, &format!("healthy; watching for {}", config.soak));
        let settings =
            SoakConfig { time: config.soak, interval: SOAK_INTERVAL, restarts_allowed: RESTARTS_ALLOWED };
        let mut look = || Sample::take(checks::run_all(&config.checks, Phase::Soak, &cancel));
        let watched = soak::watch(settings, &sample, &mut clock, &mut look).map_err(trouble)?;
        report = report.with_soak(&watched);
    }
    Ok(facts(machine, report))
}

/// Compares the restored system with the baseline. What could not be found out is reported, not guessed.
pub(super) fn of_restored(machine: &Machine) -> HealthFacts {
    let cancel = Cancel::new();
    let mut clock = RealClock::new(cancel.clone());
    match compare(machine, Phase::Rollback, &cancel, &mut clock) {
        Ok(compared) => facts(machine, compared.report),
        Err(trouble) => {
            let failed = vec![format!("could not find out: {trouble}")];
            HealthFacts { checked: 0, failed, noted: vec![], soaked: 0 }
        }
    }
}

fn compare(machine: &Machine, phase: Phase, cancel: &Cancel, clock: &mut RealClock) -> Result<Compared> {
    let config = &machine.config.health;
    let before = baseline(machine)?;
    machine.progress.percent(5.0, "waiting for the boot to end");
    let settled = settle::wait_until_settled(config.settle.duration()).map_err(trouble)?;
    machine.progress.percent(20.0, &format!("the boot has ended ({settled:?}); comparing with the baseline"));
    // What was not started for an emergency or rescue shell is not going to be.
    let in_emergency = settled.is_emergency();
    let limit = if in_emergency { Duration::ZERO } else { config.settle.duration() };
    let converged =
        settle::converge(Path::new("/"), &before, &config.renames, limit, clock).map_err(trouble)?;
    machine.progress.percent(40.0, "running the checks");
    let results = checks::run_all(&config.checks, phase, cancel);
    let sample = Sample::new(results.clone(), &converged.after.units);
    let mut report = HealthReport::new(results, converged.changes, &before);
    if in_emergency {
        report.required_failed.insert(0, "the boot ended in emergency or rescue mode".into());
    }
    Ok(Compared { report, sample })
}

/// The baseline of this run, if it is still the one that the journal names.
fn baseline(machine: &Machine) -> Result<Baseline> {
    let path = machine.directory.join(BASELINE_NAME);
    let unreadable = |error| Trouble::new(format!("failed to read {}: {error}", path.display()));
    let bytes = std::fs::read(&path).map_err(unreadable)?;
    let named = machine.journal.frames().iter().rev().find_map(|frame| match &frame.entry {
        Record::Checked { proof } => Some(&proof.baseline),
        _ => None,
    });
    if named != Some(&digest(&bytes)) {
        return Err(Trouble::new(format!("{} is not the baseline that the journal names", path.display())));
    }
    Baseline::decode(&bytes).map_err(trouble)
}

fn facts(machine: &Machine, report: HealthReport) -> HealthFacts {
    for sentence in report.required_failed.iter().chain(&report.wanted_failed) {
        machine.progress.line(sentence);
    }
    let noted =
        report.changes.iter().filter(|change| !change.is_required()).map(|change| change.sentence.clone());
    HealthFacts {
        checked: report.checked as u64,
        noted: report.wanted_failed.iter().cloned().chain(noted).collect(),
        failed: report.required_failed,
        soaked: report.soak_seconds,
    }
}
