//! `commit`: an operator, a controller or a probe accepts a healthy trial.

use std::io::Write;

use serde_json::json;

use super::args::DecideArgs;
use super::confirm::confirm;
use super::rollback::last_run;
use super::{SCHEMA, drive, journal_failure, needs_root, open_journal, print_json, status, written};
use crate::driver;
use crate::error::{Exit, Failure};
use crate::evidence::{BootId, CommitRule, Plan, RunId};
use crate::machine::State;
use crate::phases::{Machine, confirmation};
use crate::places::StateDirectory;
use crate::system::identity;

/// Commits, or gives the word to the run that waits for it.
///
/// # Errors
/// Refused when there is no healthy trial, or when it is not healthy any more.
pub(super) fn run(args: &DecideArgs, places: &StateDirectory, out: &mut dyn Write) -> Result<Exit, Failure> {
    needs_root("a commit")?;
    // Without its lock: that belongs to the run that waits.
    let (_, state) = super::read_journal(places)?;
    let run = last_run(&state, args)?;
    match &state {
        State::Trial { plan, health: Some(_), boot, .. } if plan.commit == CommitRule::Confirm => {
            give_the_word(args, places, plan, boot, out)
        }
        State::Committed { plan, .. } => {
            say(args, &run, &format!("Committed already: {} runs {}.", plan.host, plan.to), out)?;
            Ok(Exit::Done)
        }
        State::Trial { health: None, .. } => Err(Failure::new(
            Exit::Refused,
            format!("the health of run {run} is still being checked; only a healthy trial can be committed"),
        )
        .hint("`safe-upgrade status` shows how far it is")),
        _ => by_hand(args, places, out),
    }
}

/// The run waits for a word: leaves it, and follows the run to its end.
fn give_the_word(
    args: &DecideArgs,
    places: &StateDirectory,
    plan: &Plan,
    trial: &BootId,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let now = identity::boot_id().map_err(|error| Failure::failed("failed to find out the boot", error))?;
    if BootId::new(now) != *trial {
        let message =
            format!("the trial of run {} ended with its boot; there is nothing to confirm", plan.run);
        return Err(
            Failure::new(Exit::Refused, message).hint("`safe-upgrade status` tells what happens next")
        );
    }
    confirm(&format!("{} stays on {}.", plan.host, plan.to), args.yes)?;
    let from = drive::progress_length(&places.run(&plan.run));
    confirmation::give(&places.run(&plan.run), trial)
        .map_err(|error| Failure::failed("failed to leave the word for the run", error))?;
    let followed = drive::watch(places, &plan.run, from, args.json, out);
    // What counts is what the run wrote down, however much of it could be watched.
    let (_, state) = status::read(places).map_err(journal_failure)?;
    match (&state, followed) {
        (State::Committed { plan: last, .. }, _) if last.run == plan.run => Ok(Exit::Done),
        (State::Trial { plan: last, .. }, Ok(_)) if last.run == plan.run => {
            say(args, &plan.run, "The word is given; `safe-upgrade status` shows what comes of it.", out)?;
            Ok(Exit::Done)
        }
        (_, Err(failure)) => Err(failure),
        (state, Ok(_)) => {
            let message = format!("the word came too late: the run is in the state {}", state.name());
            Err(Failure::new(Exit::Refused, message).hint("`safe-upgrade status` tells why"))
        }
    }
}

/// Nobody drives the run: judges health once more in this very process, and commits.
fn by_hand(args: &DecideArgs, places: &StateDirectory, out: &mut dyn Write) -> Result<Exit, Failure> {
    let journal = open_journal(places)?;
    let run = last_run(journal.state(), args)?;
    let State::Trial { plan, health: Some(_), .. } = journal.state().clone() else {
        let state = journal.state().name();
        return Err(Failure::new(
            Exit::Refused,
            format!("run {run} is in the state {state}; only a healthy trial can be committed"),
        ));
    };
    confirm(&format!("{} stays on {}.", plan.host, plan.to), args.yes)?;
    let mut machine = Machine::open(places.clone(), journal)?;
    match driver::commit(&mut machine, &plan).map_err(|error| Failure::failed("failed to commit", error))? {
        Ok(()) => say(args, &run, &format!("Committed: {} runs {}.", plan.host, plan.to), out)?,
        Err(refusal) => {
            return Err(Failure::new(Exit::Refused, format!("not committed: {refusal}"))
                .hint("mend it and commit again, or `safe-upgrade rollback`"));
        }
    }
    Ok(Exit::Done)
}

fn say(args: &DecideArgs, run: &RunId, text: &str, out: &mut dyn Write) -> Result<(), Failure> {
    if args.json {
        return print_json(out, &json!({"schema": SCHEMA, "command": "commit", "id": run}));
    }
    written(writeln!(out, "{text}"))
}
