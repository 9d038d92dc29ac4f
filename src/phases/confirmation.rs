//! Waiting for a word from outside: the machine looks healthy from inside, but can anybody still reach it?
//!
//! Whoever confirms (`safe-upgrade commit`, typed by an operator or run by a controller or a probe over the network) leaves a file
//! in the run's directory, because the journal belongs to the run that waits.

use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use super::{Machine, Result, boot, trouble};
use crate::evidence::{Confirmation, Plan};
use crate::system::durable;

/// The file's name in the run's directory.
pub const CONFIRMED: &str = "confirmed";

/// Leaves the word. Repeatable; durable when it returns.
///
/// # Errors
/// When it can't be written.
pub fn give(run_directory: &Path, by: &str) -> std::result::Result<(), durable::DurableError> {
    durable::replace_file(&run_directory.join(CONFIRMED), by.as_bytes(), 0o600)
}

/// Waits until the word is there or the uptime is reached. Repeatable.
pub(super) fn wait(machine: &Machine, _: &Plan, until: u64) -> Result<Confirmation> {
    let word = machine.directory.join(CONFIRMED);
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
        if word.try_exists().map_err(trouble)? {
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

/// What the events say does not matter: the file is looked for.
fn drain(watch: &impl std::os::fd::AsFd) {
    let mut buffer = [0_u8; 4096];
    while matches!(rustix::io::read(watch, &mut buffer), Ok(1..)) {}
}
