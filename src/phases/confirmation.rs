//! Waiting for a word from outside: the machine looks healthy from inside, but can anybody still reach it?
//!
//! Whoever confirms (`safe-upgrade commit`, typed by an operator or run by a controller or a probe over the network) leaves a file
//! in the run's directory, because the journal belongs to the run that waits.

use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use super::{Machine, Result, boot, trouble};
use crate::evidence::{BootId, CommitRule, Confirmation, Plan};
use crate::journal::Frame;
use crate::machine::{Record, State};
use crate::system::{durable, identity};

/// The file's name in the run's directory.
pub const CONFIRMED: &str = "confirmed";

/// Leaves the word for the trial that runs in this boot; a trial of another boot does not take it. Repeatable; durable when it
/// returns.
///
/// # Errors
/// When it can't be written.
pub fn give(run_directory: &Path, boot: &BootId) -> std::result::Result<(), durable::DurableError> {
    durable::replace_file(&run_directory.join(CONFIRMED), format!("{boot}\n").as_bytes(), 0o600)
}

/// Until when a healthy trial waits for the word; nothing when it does not wait for one.
#[must_use]
pub fn until(state: &State, frames: &[Frame]) -> Option<jiff::Timestamp> {
    let State::Trial { plan, health: Some(_), .. } = state else { return None };
    if plan.commit != CommitRule::Confirm {
        return None;
    }
    let healthy = frames.iter().rev().find(|frame| matches!(frame.entry, Record::HealthPassed { .. }))?;
    let seconds = i64::try_from(plan.confirm_seconds).ok()?;
    healthy.time.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()
}

/// Waits until the word is there or the uptime is reached. Repeatable.
pub(super) fn wait(machine: &Machine, _: &Plan, until: u64) -> Result<Confirmation> {
    let word = machine.directory.join(CONFIRMED);
    let now = BootId::new(identity::boot_id().map_err(trouble)?);
    let watch =
        inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).map_err(trouble)?;
    let events = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, &machine.directory, events).map_err(trouble)?;
    machine.progress.line(&format!(
        "the trial is healthy; it goes back in {} seconds unless `safe-upgrade commit` is typed",
        until.saturating_sub(boot::uptime())
    ));
    loop {
        // Looked for after the watch was set: what came before it is seen here, what comes after it ends the wait.
        if is_for(&word, &now)? {
            return Ok(Confirmation::Given);
        }
        let left = Duration::from_secs(until.saturating_sub(boot::uptime()));
        if left.is_zero() {
            return Ok(Confirmation::Missed);
        }
        let limit = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: 0 };
        match poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => drain(&watch),
            Err(errno) => return Err(trouble(errno)),
        }
    }
}

/// Whether the word is there, and was left in this boot: one that was given to an earlier trial says nothing about this one.
fn is_for(word: &Path, now: &BootId) -> Result<bool> {
    match std::fs::read(word) {
        Ok(bytes) => Ok(bytes.trim_ascii_end() == now.to_string().as_bytes()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(trouble(error)),
    }
}

/// What the events say does not matter: the file is looked for.
fn drain(watch: &impl std::os::fd::AsFd) {
    let mut buffer = [0_u8; 4096];
    while matches!(rustix::io::read(watch, &mut buffer), Ok(1..)) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_counts_in_the_boot_it_was_given_in() {
        let directory = tempfile::tempdir().unwrap();
        let word = directory.path().join(CONFIRMED);
        let (first, second) = (BootId::new("one-1"), BootId::new("one-12"));
        assert!(!is_for(&word, &first).unwrap());
        give(directory.path(), &first).unwrap();
        give(directory.path(), &first).unwrap();
        assert!(is_for(&word, &first).unwrap());
        assert!(!is_for(&word, &second).unwrap());
        std::fs::create_dir(directory.path().join("x")).unwrap();
        assert!(is_for(&directory.path().join("x"), &first).is_err());
    }
}
