//! The release upgrade: the one irreversible step. It takes the gate.

pub mod configuration;

use std::path::Path;

use self::configuration::Prepared;
use super::boot::running_release;
use super::packages::{LOCK_WAIT, archives, shown};
use super::{Machine, Result, foretold, trouble};
use crate::conffiles::left::ConffileDecision;
use crate::driver::Trouble;
use crate::evidence::{Gate, Plan, UpgradeFacts};
use crate::release::apt::{self, AptSettings};
use crate::release::completion;
use crate::release::hop::Hop;
use crate::release::simulation;
use crate::release::upgrade::{self, UpgradeError, UpgradeReport, UpgradeSettings};
use crate::system::room;
use crate::system::told_to_stop::ToldToStop;

/// Upgrades, and says what is there afterwards. Once.
pub(super) fn upgrade(machine: &mut Machine, plan: &Plan, gate: Gate) -> Result<UpgradeFacts> {
    if *gate.run() != plan.run {
        return Err(Trouble::new("the gate was opened for another run"));
    }
    let hop = Hop::between(&plan.from.codename, &plan.to.codename).map_err(trouble)?;
    // Held off since the snapshot; after a restart in between, from here.
    machine.hold_off()?;
    let rescue = super::ubuntu::rescue(machine);
    let ended = Prepared::look(machine).map(|prepared| (run_stages(machine, &hop, &prepared), prepared));
    drop(rescue);
    // Whatever became of the stages, the timers come back; a failure to release them is told after theirs.
    let released = machine.let_go();
    let facts = match ended? {
        (Ok(report), prepared) => {
            take_down(machine, &prepared);
            facts(machine, &report, &prepared)
        }
        // A stage that ran and failed is an answer, not trouble.
        (Err(UpgradeError::Failed { stage, reason, report }), prepared) => {
            take_down(machine, &prepared);
            Ok(failed(machine, plan, format!("{stage} failed: {reason}{}", room_left()), &report))
        }
        (Err(error), _) => Err(trouble(error)),
    }?;
    released.map(|()| facts)
}

/// What became of the packages, against what was foretold, and what was asked that nobody had decided. Both are told and kept;
/// neither decides anything.
fn take_down(machine: &Machine, prepared: &Prepared) {
    let verdict = foretold::compare(&machine.directory, Path::new("/"));
    machine.progress.line(&verdict.sentence());
    foretold::keep_verdict(&machine.directory, &verdict);
    configuration::keep_asked(&machine.directory, &prepared.asked_meanwhile());
}

fn run_stages(
    machine: &Machine,
    hop: &Hop,
    prepared: &Prepared,
) -> std::result::Result<UpgradeReport, UpgradeError> {
    let log = machine.directory.join("apt.log");
    let archives = archives(&machine.places);
    let kept_sources = machine.directory.join("sources");
    // Without it SIGTERM would end this process and leave the package tools alone with the system.
    let stop = ToldToStop::by_signals().ok();
    let settings = UpgradeSettings {
        apt: AptSettings {
            log: &log,
            archives: &archives,
            silence: machine.config.upgrade.silence,
            lock_wait: LOCK_WAIT,
            stop: stop.as_ref(),
            user: None,
        }
        .patient_for(machine.config.upgrade.silence),
        kept_sources: &kept_sources,
        decisions: prepared.decisions(),
    };
    let told = |state: apt::Progress| machine.progress.percent(overall(&state), &shown(&state));
    upgrade::upgrade(hop, &settings, &told)
}

/// Of the whole phase the full upgrade takes by far the longest part.
fn overall(state: &apt::Progress) -> f64 {
    let (from, share) = match state.stage {
        apt::Stage::MinimalUpgrade => (5.0, 35.0),
        apt::Stage::FullUpgrade => (40.0, 55.0),
        apt::Stage::ReleaseUpgrader => (5.0, 90.0),
        _ => (0.0, 5.0),
    };
    from + share * f64::from(state.percent) / 100.0
}

fn facts(machine: &Machine, report: &UpgradeReport, prepared: &Prepared) -> Result<UpgradeFacts> {
    let seen = completion::completion_facts(Path::new("/")).map_err(trouble)?;
    Ok(UpgradeFacts {
        failures: Vec::new(),
        reached_end: report
            .stages
            .last()
            .is_some_and(|stage| stage.stage == apt::Stage::Check && stage.well()),
        release: running_release()?,
        audit: seen.audit.lines().map(str::to_owned).collect(),
        apt_check: seen.check,
        unfinished: seen.unfinished,
        pending: seen.pending.into_iter().chain(seen.kept_back).collect(),
        prompts: prompts(machine, report),
        refused_configurations: prepared.refused_now()?,
        packages: packages(report),
    })
}

/// On a full disk the tools cannot even write down why they gave up; then this says it. Less than this is full for dpkg.
const FULL: u64 = 64 << 20;

fn room_left() -> String {
    match room::free(Path::new("/")) {
        Ok(free) if free < FULL => format!("; the disk is full (only {} MiB are free on /)", free >> 20),
        _ => String::new(),
    }
}

/// Nothing else is asked of a system that is about to be given up.
fn failed(machine: &Machine, plan: &Plan, failure: String, report: &UpgradeReport) -> UpgradeFacts {
    UpgradeFacts {
        failures: vec![failure],
        reached_end: false,
        release: plan.from.clone(),
        audit: vec![],
        apt_check: None,
        unfinished: vec![],
        pending: vec![],
        prompts: prompts(machine, report),
        refused_configurations: vec![],
        packages: packages(report),
    }
}

/// As the stages announced it before they began.
fn packages(report: &UpgradeReport) -> u64 {
    let announced = report.stages.iter().filter_map(|stage| simulation::parse_summary(&stage.output));
    announced.map(|summary| (summary.upgraded + summary.new + summary.removed) as u64).sum()
}

fn prompts(machine: &Machine, report: &UpgradeReport) -> Vec<String> {
    let lines: Vec<String> = report.conffiles.iter().map(ConffileDecision::line).collect();
    lines.iter().for_each(|line| machine.progress.line(line));
    configuration::keep(&machine.directory, &lines, &report.conffiles);
    lines
}
