//! Driving a run: in this process, or handed to the unit that also drives it after a reboot.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::follow::{self, Followed, Screen};
use super::written;
use crate::driver::{self, Stop};
use crate::error::{Exit, Failure};
use crate::evidence::RunId;
use crate::journal::{Journal, JournalError};
use crate::machine::State;
use crate::phases::Machine;
use crate::places::{RESUME_UNIT, StateDirectory};
use crate::progress;
use crate::system::exec::Exec;
use crate::system::lock::LockError;

/// Drives in this process and shows progress meanwhile.
///
/// # Errors
/// When the run cannot go on; its state is in the journal.
pub(super) fn here(
    places: &StateDirectory,
    journal: Journal,
    json: bool,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    here_with(Machine::open(places.clone(), journal)?, json, out)
}

/// [`here`] with a machine that is open already.
///
/// # Errors
/// As [`here`].
pub(super) fn here_with(mut machine: Machine, json: bool, out: &mut dyn Write) -> Result<Exit, Failure> {
    let directory = machine.run_directory().to_owned();
    let from = progress_length(&directory);
    let (alive, held) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| Failure::failed("failed to make a pipe", std::io::Error::from(errno)))?;
    let ended = std::thread::scope(|scope| {
        let driver = scope.spawn(move || {
            let ended = drive(&mut machine);
            drop(held);
            ended
        });
        let shown = follow::follow(&directory, from, alive.as_fd(), &mut Screen::new(out, json));
        let ended = driver.join().map_err(|_| Failure::new(Exit::Failed, "the driver panicked"))?;
        shown?;
        ended
    })?;
    conclude(&ended.1, ended.0, json, out)
}

fn drive(machine: &mut Machine) -> Result<(Exit, String), Failure> {
    let ended = match driver::run(machine) {
        Ok(stop) => {
            // Only now: whatever becomes of it, the journal knows how the run has ended.
            machine.look_back();
            Ok(outcome(&stop))
        }
        Err(trouble) => Err(trouble),
    };
    match ended {
        Ok((exit, text)) => {
            machine.progress().ended(exit.code(), &text);
            Ok((exit, text))
        }
        Err(trouble) => {
            machine.progress().ended(Exit::Failed.code(), &trouble.to_string());
            Err(Failure::failed("the run can't go on now", trouble).hint(
                "`safe-upgrade status` shows where it stands; `safe-upgrade resume` goes on from there",
            ))
        }
    }
}

/// What became of a run, for the exit code and for a person.
fn outcome(stop: &Stop) -> (Exit, String) {
    let state = match stop {
        Stop::AwaitsCommit(_) => {
            let text = "the trial is healthy and waits for `safe-upgrade commit` or `safe-upgrade rollback`";
            return (Exit::Done, text.into());
        }
        Stop::Final(state) => state,
    };
    let why = state.why().map(ToString::to_string).unwrap_or_default();
    match state {
        State::Committed { plan, .. } => {
            (Exit::Done, format!("{} runs {}, healthy and committed", plan.host, plan.to))
        }
        State::Refused { .. } => (Exit::Refused, format!("refused, nothing was changed: {why}")),
        State::RolledBack { plan, .. } => (Exit::RolledBack, format!("rolled back to {}: {why}", plan.from)),
        State::Stuck { .. } => (Exit::Stuck, format!("stuck, a human is needed: {why}")),
        _ => (Exit::Done, "there is nothing to do".into()),
    }
}

/// Hands the run to its unit, so that it survives the login it was started from, and shows progress meanwhile.
///
/// # Errors
/// When the unit cannot be started or the run cannot be followed.
pub(super) fn by_unit(
    places: &StateDirectory,
    run: &RunId,
    json: bool,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let directory = places.run(run);
    let from = progress_length(&directory);
    let failed = |error| {
        Failure::failed(format!("failed to start {RESUME_UNIT}"), error)
            .hint("the run is written down: `safe-upgrade resume` drives it here, `safe-upgrade rollback` calls it off")
    };
    // Its limit is for crashes, not for operators; a unit that never ran has nothing to reset.
    let _ = Exec::new("systemctl").and_then(|exec| exec.args(["reset-failed", RESUME_UNIT]).output());
    Exec::new("systemctl").and_then(|exec| exec.args(["start", RESUME_UNIT]).success()).map_err(failed)?;
    follow_unit(&directory, from, json, out)
}

/// Follows a run that its unit drives already, from an offset of its progress on; where nobody drives it, the unit is started.
///
/// # Errors
/// As [`by_unit`].
pub(super) fn watch(
    places: &StateDirectory,
    run: &RunId,
    from: u64,
    json: bool,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    if main_pid()? != 0 {
        return follow_unit(&places.run(run), from, json, out);
    }
    match Journal::open(places.path()) {
        // Somebody drives it in a terminal of their own, and sees its end there.
        Err(JournalError::Lock(LockError::Held(_))) => Ok(Exit::Done),
        _ => by_unit(places, run, json, out),
    }
}

fn follow_unit(directory: &Path, from: u64, json: bool, out: &mut dyn Write) -> Result<Exit, Failure> {
    let driver = open_pid(main_pid()?)?;
    match follow::follow(directory, from, driver.as_fd(), &mut Screen::new(out, json))? {
        Followed::Ended { exit, text } => conclude(&text, exit_of(exit), json, out),
        Followed::Reboots => Ok(Exit::Done),
        Followed::Gone => Err(Failure::new(Exit::Failed, format!("{RESUME_UNIT} ended without a word; systemd starts it again"))
            .hint("`safe-upgrade status` shows where the run stands, `journalctl -u safe-upgrade-resume` what happened")),
    }
}

/// The process that the unit runs; 0 when there is none.
fn main_pid() -> Result<i32, Failure> {
    let text = Exec::new("systemctl")
        .and_then(|exec| exec.args(["show", "--property=MainPID", "--value", RESUME_UNIT]).text())
        .map_err(|error| Failure::failed(format!("failed to ask for {RESUME_UNIT}"), error))?;
    text.trim().parse().map_err(|error| Failure::failed(format!("{text:?} is no process id"), error))
}

/// A unit that is already over is as good as a pipe without a writer.
fn open_pid(raw: i32) -> Result<OwnedFd, Failure> {
    let failed =
        |errno: rustix::io::Errno| Failure::failed("failed to watch the unit", std::io::Error::from(errno));
    if let Some(pid) = Pid::from_raw(raw) {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => {}
            opened => return opened.map_err(failed),
        }
    }
    rustix::pipe::pipe().map(|(read, _write)| read).map_err(failed)
}

fn exit_of(code: u8) -> Exit {
    [Exit::Done, Exit::Refused, Exit::RolledBack, Exit::Stuck]
        .into_iter()
        .find(|exit| exit.code() == code)
        .unwrap_or(Exit::Failed)
}

/// How much of a run's progress is written so far, in bytes.
pub(super) fn progress_length(directory: &Path) -> u64 {
    std::fs::metadata(directory.join(progress::FILE_NAME)).map_or(0, |metadata| metadata.len())
}

fn conclude(text: &str, exit: Exit, json: bool, out: &mut dyn Write) -> Result<Exit, Failure> {
    if !json {
        let line = crate::system::show::line(text);
        written(writeln!(out, "{line}"))?;
    }
    Ok(exit)
}
