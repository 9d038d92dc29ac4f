//! `prune`: deletes the way back of runs whose retention is over.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::args::PruneArgs;
use super::{SCHEMA, journal_if_any, needs_root, print_json, written};
use crate::config;
use crate::error::{Exit, Failure};
use crate::journal::Journal;
use crate::phases::prune::{self, Leftover};
use crate::phases::{announce, rehearsal};
use crate::places::StateDirectory;

/// Deletes, or says what would be deleted.
///
/// # Errors
/// While a run is under way, or when something cannot be deleted.
pub(super) fn run(args: &PruneArgs, places: &StateDirectory, out: &mut dyn Write) -> Result<Exit, Failure> {
    needs_root("prune")?;
    let (config, _) = config::load(&args.common.config)?;
    // Where no run is possible, rehearsals are, and leave something too.
    let mut journal = journal_if_any(places)?;
    if journal.as_ref().is_some_and(|journal| !journal.state().is_final()) {
        return Err(Failure::new(Exit::Refused, "a run is under way; nothing is deleted meanwhile"));
    }
    let keep = config.retention.keep;
    if !args.dry_run {
        of_rehearsals(places, journal.as_ref(), keep.duration())?;
    }
    let found = journal.as_ref().map_or_else(|| Ok(Vec::new()), |it| prune::leftovers(it, keep.duration()));
    let found = found.map_err(|error| Failure::failed("failed to find what runs have left behind", error))?;
    let mut failures = Vec::new();
    if let Some(journal) = &mut journal {
        for leftover in found.iter().filter(|leftover| leftover.due && !args.dry_run) {
            if let Err(trouble) = prune::prune(places, journal, leftover) {
                failures.push(format!("{}: {trouble}", leftover.run));
            }
        }
        announce::tell(places, journal.state(), journal.frames());
    }
    if args.common.json {
        let runs: Vec<Value> = found.iter().map(|leftover| as_json(leftover, args.dry_run)).collect();
        print_json(
            out,
            &json!({"schema": SCHEMA, "command": "prune", "keep": keep.to_string(), "runs": runs}),
        )?;
    } else {
        for leftover in &found {
            written(writeln!(out, "{}", as_text(leftover, args.dry_run)))?;
        }
        if found.is_empty() {
            written(writeln!(out, "No run has left anything behind."))?;
        }
    }
    if failures.is_empty() {
        return Ok(Exit::Done);
    }
    Err(Failure::new(
        Exit::Failed,
        format!("failed to delete what some runs have left behind: {}", failures.join("; ")),
    ))
}

/// What rehearsals have left behind, and packages that nobody has needed for long. While one is at work its packages stay.
fn of_rehearsals(places: &StateDirectory, journal: Option<&Journal>, keep: Duration) -> Result<(), Failure> {
    let swept = rehearsal::sweep(places, false)
        .map_err(|error| Failure::failed("failed to remove what a rehearsal has left behind", error))?;
    if swept.is_none() {
        return Ok(());
    }
    prune::packages(places, journal.map_or(&[], Journal::frames), keep)
        .map_err(|error| Failure::failed("failed to look at the downloaded packages", error))
}

fn verdict(leftover: &Leftover, dry_run: bool) -> &'static str {
    match (leftover.due, dry_run) {
        (false, _) => "kept",
        (true, true) => "would be deleted",
        (true, false) => "deleted",
    }
}

fn names(leftover: &Leftover) -> Vec<&str> {
    leftover.volumes.iter().map(|volume| volume.name.as_str()).collect()
}

fn as_json(leftover: &Leftover, dry_run: bool) -> Value {
    json!({
        "id": leftover.run,
        "ended": leftover.ended,
        "volumes": names(leftover),
        "verdict": verdict(leftover, dry_run),
    })
}

fn as_text(leftover: &Leftover, dry_run: bool) -> String {
    format!("{}  {}: {}", leftover.run, verdict(leftover, dry_run), names(leftover).join(", "))
}
