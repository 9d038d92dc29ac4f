//! One way to end badly: a kind with its exit code, what happened, why, and what to do.

use std::error::Error;
use std::fmt;

/// How a command ended; the number is the exit code of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// What was asked for is done.
    Done = 0,
    /// It failed, or could not be found out.
    Failed = 1,
    /// What was typed or configured is wrong.
    Usage = 2,
    /// Refused; nothing was changed.
    Refused = 3,
    /// The old system is back.
    RolledBack = 4,
    /// A human is needed.
    Stuck = 5,
    /// Another run holds the lock; nothing was touched.
    Locked = 6,
    /// Verified, and not the same.
    NotSame = 7,
    /// Verified, and the same but for what the format of the copy cannot carry.
    Lost = 8,
}

impl Exit {
    /// The exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// A command that did not do what was asked: printed once, at the top, with its whole chain of causes.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    hint: Option<String>,
}

impl Failure {
    /// `message` says what was attempted, for a person; it does not repeat its cause.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), source: None, hint: None }
    }

    /// The same with another exit code: what else happened weighs more.
    #[must_use]
    pub fn ending_with(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// Could not do it, or could not find out.
    pub fn failed(message: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..Self::new(Exit::Failed, message) }
    }

    /// What was typed or configured is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The exit code that it ends with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What to do about it.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// An error and all its causes in one line, outermost first.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_names_every_cause_once() {
        let failure = Failure::failed("failed to read the plan", std::io::Error::other("disk on fire"));
        assert_eq!(chain(&failure), "failed to read the plan: disk on fire");
        assert_eq!(failure.exit().code(), 1);
    }
}
