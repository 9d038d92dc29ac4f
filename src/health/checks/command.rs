//! A program with the exit codes of nagios: 0 ok, 1 warning, 2 critical, 3 unknown.

use std::time::Duration;

use super::{CheckState, Phase, Seen};
use crate::error;
use crate::system::exec::{Exec, Output};

/// Runs the program once, without a shell, in a clean environment.
pub(super) fn try_once(argv: &[String], phase: Phase, limit: Duration) -> Seen {
    let Some((program, arguments)) = argv.split_first() else {
        return Seen::new(CheckState::Unknown, "no program is named");
    };
    let ran = Exec::new(program)
        .and_then(|exec| exec.args(arguments).env("SAFE_UPGRADE_PHASE", phase.name()).limit(limit).output());
    match ran {
        Ok(output) => judge(&output),
        Err(error) => Seen::new(CheckState::Unknown, error::chain(&error)),
    }
}

fn judge(output: &Output) -> Seen {
    let (state, word) = match output.status.code() {
        Some(0) => (CheckState::Ok, "ok".to_owned()),
        Some(1) => (CheckState::Warning, "warning".to_owned()),
        Some(2) => (CheckState::Critical, "critical".to_owned()),
        Some(3) => (CheckState::Unknown, "unknown".to_owned()),
        // Not a code of nagios: a program that cannot say what it found.
        _ => (CheckState::Unknown, format!("ended with {}", output.status)),
    };
    let line = first_line(&output.stdout).or_else(|| first_line(&output.stderr));
    Seen::new(state, line.unwrap_or(word))
}

fn first_line(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}
