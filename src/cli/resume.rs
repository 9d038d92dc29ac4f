//! `resume`: goes on with a run that was interrupted. The units call it at boot, at the start of a run, and at the end of a boot.

use std::io::Write;

use super::args::ResumeArgs;
use super::drive;
use super::{needs_root, open_journal, written};
use crate::driver;
use crate::error::{Exit, Failure};
use crate::health::units;
use crate::journal::Journal;
use crate::machine::State;
use crate::phases::{Machine, aftermath, announce, boot_proof, deadline, rehearsal};
use crate::places::{RESUME_UNIT, StateDirectory};
use crate::system::exec::Exec;
use crate::system::show;

/// Drives the last run to its end, to a reboot, or to an operator's word.
///
/// # Errors
/// When the journal cannot be used or the run cannot go on.
pub(super) fn run(args: &ResumeArgs, places: &StateDirectory, out: &mut dyn Write) -> Result<Exit, Failure> {
    needs_root("going on with a run")?;
    if args.leaving {
        return leave(places);
    }
    // Also on a machine that has seen rehearsals only.
    sweep(args, places);
    let journal = open_journal(places)?;
    if journal.torn_bytes() > 0 {
        tracing::warn!(
            bytes = journal.torn_bytes(),
            "dropped a last line of the journal whose writing was cut off"
        );
    }
    if journal.state().is_final() {
        if boot_proof::go_on(places)
            .map_err(|error| Failure::failed("failed to go on with the proof of the boot chain", error))?
        {
            return Ok(Exit::Done);
        }
        return nothing_to_do(args, places, journal, out);
    }
    let going_back = matches!(journal.state(), State::RollingBack { .. } | State::RollbackRebooting { .. });
    let mut machine = Machine::open(places.clone(), journal)?;
    if args.emergency {
        give_up(&mut machine, "its boot ended in emergency or rescue mode", true)?;
    }
    if args.overdue {
        let turned_back = give_up(&mut machine, "it came to no verdict in the time that it had", false)?;
        // A way back that is begun goes on here: what began it was ended for this process.
        if !turned_back && !going_back {
            return go_on_elsewhere();
        }
    }
    drive::here_with(machine, args.json, out)
}

/// What a rehearsal has left behind before this boot, or before this process, goes. It hinders no run, and an emergency has other worries.
fn sweep(args: &ResumeArgs, places: &StateDirectory) {
    if args.emergency || args.overdue {
        return;
    }
    if let Err(error) = rehearsal::sweep(places, false) {
        tracing::warn!(%error, "what a rehearsal has left behind could not be removed");
    }
}

fn nothing_to_do(
    args: &ResumeArgs,
    places: &StateDirectory,
    journal: Journal,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    announce::tell(places, journal.state(), journal.frames());
    // A deadline without a trial would reset a machine for nothing.
    deadline::lift().map_err(|trouble| Failure::failed("failed to lift the deadline of a trial", trouble))?;
    // A boot in emergency mode has other worries.
    if !args.emergency && !args.overdue && looks_back(places, &journal)? {
        return drive::here(places, journal, args.json, out);
    }
    if !args.json {
        written(writeln!(out, "There is no run to go on with ({}).", journal.state().name()))?;
    }
    Ok(Exit::Done)
}

/// Whether a rollback was recorded, and what follows it was cut off.
fn looks_back(places: &StateDirectory, journal: &Journal) -> Result<bool, Failure> {
    let Some(plan) = journal.state().plan() else { return Ok(false) };
    let directory = places.run(&plan.run);
    aftermath::is_due(journal.state(), &directory)
        .map_err(|error| Failure::failed(format!("failed to look into {}", show::path(&directory)), error))
}

fn give_up(machine: &mut Machine, cause: &str, healthy: bool) -> Result<bool, Failure> {
    driver::give_up_trial(machine, cause, healthy)
        .map_err(|trouble| Failure::failed("failed to turn the trial back", trouble))
}

/// There was a verdict: whoever had it was ended for this process, and goes on in its own unit.
fn go_on_elsewhere() -> Result<Exit, Failure> {
    Exec::new("systemctl")
        .and_then(|exec| exec.args(["start", "--no-block", RESUME_UNIT]).success())
        .map_err(|error| Failure::failed(format!("failed to start {RESUME_UNIT}"), error))?;
    Ok(Exit::Done)
}

/// Called when its unit is stopped, which is not only when the machine goes down.
fn leave(places: &StateDirectory) -> Result<Exit, Failure> {
    let failed = |trouble| Failure::failed("failed to say that the boot of the trial ends", trouble);
    let state = units::read_system_state()
        .map_err(|error| Failure::failed("failed to find out whether the machine goes down", error))?;
    if state != "stopping" {
        return Ok(Exit::Done);
    }
    let journal = open_journal(places)?;
    if journal.state().is_final() {
        return Ok(Exit::Done);
    }
    driver::leave(&mut Machine::open(places.clone(), journal)?).map_err(failed)?;
    Ok(Exit::Done)
}
