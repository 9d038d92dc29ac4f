//! `rollback`: an operator wants the old system back.

use std::io::Write;

use super::args::{DecideArgs, RollbackArgs};
use super::confirm::confirm;
use super::{drive, needs_root, open_journal, story};
use crate::error::{Exit, Failure};
use crate::evidence::RunId;
use crate::machine::{Entry, State, Why};
use crate::phases::divergence;
use crate::places::StateDirectory;

/// Writes the decision down and drives the rollback.
///
/// # Errors
/// Refused when there is nothing to roll back to.
pub(super) fn run(
    args: &RollbackArgs,
    places: &StateDirectory,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    needs_root("a rollback")?;
    let mut journal = open_journal(places)?;
    let run = last_run(journal.state(), &args.decide)?;
    // Before anything was changed there is nothing to roll back: the run is called off, and its preparations are taken back.
    let entries = [Entry::rollback_started(Why::Operator), Entry::refusal_started(Why::Operator)];
    let may_follow = |entry: &Entry| journal.state().clone().apply(entry.record()).is_ok();
    let Some(entry) = entries.into_iter().find(may_follow) else {
        let state = journal.state();
        return Err(Failure::new(
            Exit::Refused,
            format!("run {run} is in the state {} and can't be rolled back", state.name()),
        )
        .hint(story::tell(state).back));
    };
    // Counting walks both trees: only for somebody who is going to read it.
    let lost = if args.decide.yes { String::new() } else { taken_back(places, journal.state()) };
    confirm(&question(journal.state(), &lost), args.decide.yes)?;
    journal.append(&entry).map_err(|error| Failure::failed("failed to write the decision down", error))?;
    if args.foreground {
        return drive::here(places, journal, args.decide.json, out);
    }
    drop(journal);
    drive::by_unit(places, &run, args.decide.json, out)
}

/// The last run; the one that was named must be it.
pub(super) fn last_run(state: &State, args: &DecideArgs) -> Result<RunId, Failure> {
    let Some(plan) = state.plan() else {
        return Err(Failure::new(Exit::Refused, "this machine has never seen a run"));
    };
    match &args.run {
        Some(named) if *named != plan.run.as_str() => {
            Err(Failure::usage(format!("{named} is not the last run; that is {}", plan.run))
                .hint("only the last run can be decided about"))
        }
        _ => Ok(plan.run.clone()),
    }
}

fn question(state: &State, lost: &str) -> String {
    if is_unchanged(state) {
        return "The run is called off; nothing was changed yet.".into();
    }
    let (from, snapshot) = (
        state.plan().map(|plan| plan.from.to_string()).unwrap_or_default(),
        state.snapshot().map(|set| set.name.clone()).unwrap_or_default(),
    );
    format!(
        "{lost}The root goes back to {from} as it was in {snapshot}: everything written to the root since then stays only in the failed \
         root, which is kept. The machine reboots."
    )
}

fn is_unchanged(state: &State) -> bool {
    state.snapshot().is_none() || matches!(state, State::Snapshotted { .. } | State::Armed { .. })
}

/// What the rollback takes back, in lines.
fn taken_back(places: &StateDirectory, state: &State) -> String {
    let (Some(plan), Some(snapshot)) = (state.plan(), state.snapshot()) else { return String::new() };
    if is_unchanged(state) {
        return String::new();
    }
    match divergence::since_snapshot(plan, snapshot, &places.run(&plan.run)) {
        Ok(found) => story::divergence(&found).join("\n") + "\n",
        Err(trouble) => format!("What was written since the snapshot could not be counted: {trouble}\n"),
    }
}
