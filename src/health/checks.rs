//! The checks that the operator named, run side by side, each with its own tries and its own end.

mod command;
mod config;
mod http;
mod resolve;
mod tcp;
mod unit;

pub use config::{CheckConfig, CheckError, CheckKind, Phase, validate};
pub use http::HttpCheck;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::clock::Cancel;
use crate::system::show;

/// How much of an answer a result shows.
const SHOWN_CHARACTERS: usize = 200;

/// What a check found, in the words of nagios.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// Works, but somebody should look.
    Warning,
    /// Not as it should be.
    Critical,
    /// Could not be found out.
    Unknown,
}

/// How one check ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// The check's name.
    pub name: String,
    /// `command`, `tcp`, `http`, `unit`.
    pub kind: String,
    /// Whether the machine is unhealthy when it does not pass.
    pub required: bool,
    /// What the last try found.
    pub state: CheckState,
    /// Whether that counts as passed.
    pub passed: bool,
    /// How often it was tried.
    pub tries: u32,
    /// How long all tries took together, in milliseconds.
    pub took_ms: u64,
    /// What was seen, in one line.
    pub detail: String,
}

/// What one try saw.
#[derive(Debug)]
struct Seen {
    state: CheckState,
    detail: String,
}

impl Seen {
    fn new(state: CheckState, detail: impl Into<String>) -> Self {
        Self { state, detail: detail.into() }
    }
}

/// Runs all checks side by side and returns their results in the order of the config. A check that does not pass is tried
/// again as its config says. Cancelling ends the waiting; a try under way still ends by its own timeout.
#[must_use]
pub fn run_all(checks: &[CheckConfig], phase: Phase, cancel: &Cancel) -> Vec<CheckResult> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            checks.iter().map(|check| scope.spawn(move || run_one(check, phase, cancel))).collect();
        checks
            .iter()
            .zip(threads)
            .map(|(check, thread)| {
                // A check that panicked found nothing out.
                thread.join().unwrap_or_else(|_| {
                    result(check, 1, Duration::ZERO, Seen::new(CheckState::Unknown, "the check itself broke"))
                })
            })
            .collect()
    })
}

fn run_one(check: &CheckConfig, phase: Phase, cancel: &Cancel) -> CheckResult {
    let start = Instant::now();
    let mut tries = 0;
    loop {
        if cancel.is_cancelled() {
            let seen = Seen::new(CheckState::Unknown, "the check was interrupted");
            return result(check, tries, start.elapsed(), seen);
        }
        tries += 1;
        let seen = try_once(check, phase);
        let passed = passes(check, seen.state);
        if passed || tries > check.retries || cancel.wait(check.interval.duration()) {
            return result(check, tries, start.elapsed(), seen);
        }
    }
}

fn try_once(check: &CheckConfig, phase: Phase) -> Seen {
    let deadline = Instant::now() + check.timeout.duration();
    match &check.kind {
        CheckKind::Command { argv, .. } => command::try_once(argv, phase, check.timeout.duration()),
        CheckKind::Tcp { address } => tcp::try_once(address, deadline),
        CheckKind::Http(http) => http::try_once(http, check.timeout.duration()),
        CheckKind::Unit { unit } => unit::try_once(unit, check.timeout.duration()),
    }
}

fn passes(check: &CheckConfig, state: CheckState) -> bool {
    let warning_passes = matches!(check.kind, CheckKind::Command { warning_passes: true, .. });
    state == CheckState::Ok || (state == CheckState::Warning && warning_passes)
}

fn result(check: &CheckConfig, tries: u32, took: Duration, seen: Seen) -> CheckResult {
    CheckResult {
        name: check.name.clone(),
        kind: check.kind.name().to_owned(),
        required: check.required,
        state: seen.state,
        passed: passes(check, seen.state),
        tries,
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        detail: show::line(&seen.detail).chars().take(SHOWN_CHARACTERS).collect(),
    }
}
