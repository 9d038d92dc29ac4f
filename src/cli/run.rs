//! `run`: plans a run, writes the plan down, and lets the unit drive it.

use std::io::Write;

use super::args::RunArgs;
use super::confirm::confirm;
use super::{check, drive, journal_failure, needs_root, outage, rehearse, written};
use crate::config::rehearsal::Mode;
use crate::config::{self, Config};
use crate::error::{Exit, Failure};
use crate::evidence::{CommitRule, Plan};
use crate::journal::Journal;
use crate::machine::{Entry, State};
use crate::phases::{ground, let_go_of_stuck, plan, rehearsal};
use crate::places::StateDirectory;
use crate::release::hop::Hop;
use crate::system::show;

/// Plans, asks, writes the plan down and drives it.
///
/// # Errors
/// Before the plan is written nothing is changed; afterwards the journal says where the run stands.
pub(super) fn run(args: &RunArgs, places: &StateDirectory, out: &mut dyn Write) -> Result<Exit, Failure> {
    needs_root("a run")?;
    let (mut config, bytes) = config::load(&args.common.config)?;
    ground::prepare(places)?;
    let mut journal = Journal::open(places.path()).map_err(journal_failure)?;
    may_begin(journal.state(), args.leave_stuck)?;
    let hop = plan::hop(args.to.as_deref())?;
    sweep(places);
    if args.rehearse {
        // The unit removes at the next boot what a power cut leaves of a rehearsal.
        ground::install(places)?;
        rehearse_first(&config, places, &hop)?;
        config.rehearsal.mode = Mode::Required;
    }
    let plan = plan::make(&config, &bytes, &hop)?;
    let soak = config.health.soak.duration().as_secs();
    let predicted = outage::predict(places, &plan, journal.frames(), soak);
    if args.common.json {
        written(writeln!(out, "{}", predicted.event()))?;
    } else {
        written(writeln!(out, "{}", check::promise_line(&plan.promise)))?;
        written(writeln!(out, "{}", show::line(&predicted.line())))?;
    }
    confirm(&question(&plan), args.yes)?;
    if let State::Stuck { plan: stuck, .. } = journal.state() {
        let_go_of_stuck(places, stuck)
            .map_err(|error| Failure::failed("failed to take back what the stuck run has armed", error))?;
    }
    ground::install(places)?;
    plan::keep(places, &plan, &bytes)?;
    let run = plan.run.clone();
    journal
        .append(&Entry::planned(plan))
        .map_err(|error| Failure::failed("failed to write the plan down", error))?;
    if args.foreground {
        return drive::here(places, journal, args.common.json, out);
    }
    // The unit takes the lock from here; a run that is planned belongs to it.
    drop(journal);
    drive::by_unit(places, &run, args.common.json, out)
}

/// What a rehearsal has left behind goes. It hinders no run.
fn sweep(places: &StateDirectory) {
    if let Err(error) = rehearsal::sweep(places, false) {
        tracing::warn!(%error, "what a rehearsal has left behind could not be removed");
    }
}

fn rehearse_first(config: &Config, places: &StateDirectory, hop: &Hop) -> Result<(), Failure> {
    let record = rehearse::rehearse(config, places, hop, false)?;
    match record.failed.first() {
        None => Ok(()),
        Some(first) => Err(Failure::new(Exit::Refused, format!("the rehearsal failed: {first}"))
            .hint(format!("its logs are in {}; mend it, and rehearse again", show::path(&record.logs)))),
    }
}

fn may_begin(state: &State, leave_stuck: bool) -> Result<(), Failure> {
    match state {
        State::Stuck { .. } if !leave_stuck => {
            let why = state.why().map(ToString::to_string).unwrap_or_default();
            Err(Failure::new(Exit::Refused, format!("the last run is stuck: {why}"))
                .hint("mend it, then `safe-upgrade rollback`; or begin anew with --leave-stuck"))
        }
        state if state.is_final() => Ok(()),
        state => Err(Failure::new(
            Exit::Refused,
            format!("the last run has not ended: it is in the state {}", state.name()),
        )
        .hint("`safe-upgrade status` tells what it waits for; `safe-upgrade resume` goes on with it")),
    }
}

fn question(plan: &Plan) -> String {
    let commit = match plan.commit {
        CommitRule::Automatic => "a healthy trial is committed by itself",
        CommitRule::Manual => "a healthy trial waits for `safe-upgrade commit`",
        CommitRule::Confirm => {
            "a healthy trial goes back unless somebody types `safe-upgrade commit` in time"
        }
    };
    format!(
        "{}: {} -> {}. The machine reboots; {commit}; anything else brings {} back.",
        plan.host, plan.from, plan.to, plan.from.codename
    )
}
