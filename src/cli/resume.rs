//! `resume`: goes on with a run that was interrupted. The unit calls it at boot and at the start of a run.

use std::io::Write;

use super::args::ResumeArgs;
use super::drive;
use super::{needs_root, open_journal, written};
use crate::error::{Exit, Failure};
use crate::places::StateDirectory;

/// Drives the last run to its end, to a reboot, or to an operator's word.
///
/// # Errors
/// When the journal cannot be used or the run cannot go on.
pub(super) fn run(args: &ResumeArgs, places: &StateDirectory, out: &mut dyn Write) -> Result<Exit, Failure> {
    needs_root("going on with a run")?;
    let journal = open_journal(places)?;
    if journal.torn_bytes() > 0 {
        tracing::warn!(
            bytes = journal.torn_bytes(),
            "dropped a last line of the journal whose writing was cut off"
        );
    }
    if journal.state().is_final() {
        if !args.json {
            written(writeln!(out, "There is no run to go on with ({}).", journal.state().name()))?;
        }
        return Ok(Exit::Done);
    }
    drive::here(places, journal, args.json, out)
}
