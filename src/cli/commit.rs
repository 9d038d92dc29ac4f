//! `commit`: an operator accepts a healthy trial.

use std::io::Write;

use serde_json::json;

use super::args::DecideArgs;
use super::confirm::confirm;
use super::rollback::last_run;
use super::{SCHEMA, needs_root, open_journal, print_json, written};
use crate::driver;
use crate::error::{Exit, Failure};
use crate::machine::State;
use crate::phases::Machine;
use crate::places::StateDirectory;

/// Judges health once more and commits.
///
/// # Errors
/// Refused when there is no healthy trial, or when it is not healthy any more.
pub(super) fn run(args: &DecideArgs, places: &StateDirectory, out: &mut dyn Write) -> Result<Exit, Failure> {
    needs_root("a commit")?;
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
        Ok(()) if args.json => print_json(out, &json!({"schema": SCHEMA, "command": "commit", "id": run}))?,
        Ok(()) => written(writeln!(out, "Committed: {} runs {}.", plan.host, plan.to))?,
        Err(refusal) => {
            return Err(Failure::new(Exit::Refused, format!("not committed: {refusal}"))
                .hint("mend it and commit again, or `safe-upgrade rollback`"));
        }
    }
    Ok(Exit::Done)
}
