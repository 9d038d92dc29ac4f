//! Asking a person before something that cannot be taken back by pressing a key.

use std::io::{IsTerminal, Write};

use super::written;
use crate::error::{Exit, Failure};

/// Asks, and goes on only after `yes`. With `--yes` nothing is asked; without a terminal nobody could answer.
///
/// # Errors
/// Refused when the answer is anything else; usage when there is nobody to ask.
pub(super) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("nobody is there to ask").hint("add --yes to go on without a question"));
    }
    // On stderr: stdout may be somebody's JSON.
    let mut screen = std::io::stderr();
    written(write!(screen, "{question} Type yes to go on: ").and_then(|()| screen.flush()))?;
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::failed("failed to read the answer", error))?;
    if answer.trim() == "yes" {
        return Ok(());
    }
    Err(Failure::new(Exit::Refused, "not confirmed; no run was begun or changed"))
}
