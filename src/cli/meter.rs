//! What a reading is doing, on a terminal; nothing where nobody looks.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::backup::VerifyProgress;
use crate::manifest::Progress;

/// A line on stderr that says how far it is.
pub(super) struct Meter(ProgressBar);

impl Meter {
    /// Shown only when stderr is a terminal.
    pub(super) fn new() -> Self {
        let shown = std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        if shown {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self(bar)
    }

    /// How much was read.
    pub(super) fn read(&self, state: Progress) {
        self.0.set_message(format!(
            "{} entries, {} read",
            HumanCount(state.entries),
            HumanBytes(state.bytes)
        ));
    }

    /// What a verification is doing.
    pub(super) fn verifying(&self, state: VerifyProgress) {
        match state {
            VerifyProgress::Listing => self.0.set_message("listing the copy"),
            VerifyProgress::Restoring { done, total } => {
                self.0.set_message(format!("{} of {} restored", HumanBytes(done), HumanBytes(total)));
            }
            VerifyProgress::Reading(state) => self.read(state),
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
