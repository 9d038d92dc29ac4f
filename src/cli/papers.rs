//! Completion scripts and man pages, made from the arguments themselves.

use std::io::Write;

use clap::CommandFactory;

use super::args::{Cli, CompletionsArgs, ManArgs};
use super::written;
use crate::error::{Exit, Failure};

/// Prints a completion script.
///
/// # Errors
/// When it cannot be written.
pub(super) fn completions(args: &CompletionsArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "safe-upgrade", &mut script);
    written(out.write_all(&script))?;
    Ok(Exit::Done)
}

/// Writes the man pages.
///
/// # Errors
/// Names the directory.
pub(super) fn man(args: &ManArgs) -> Result<Exit, Failure> {
    clap_mangen::generate_to(Cli::command(), &args.directory).map_err(|error| {
        Failure::failed(format!("failed to write man pages into {}", args.directory.display()), error)
    })?;
    Ok(Exit::Done)
}
