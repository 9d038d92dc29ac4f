//! Commands inside: the host's end of `guest/agent.sh`.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use super::wire::{Wire, whole_lines};
use crate::lab::{Result, tool_with_input};

/// What a command inside left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code, as a shell tells it: 128 and more is a signal.
    pub code: i32,
    /// All that it wrote to stdout.
    pub stdout: String,
    /// All that it wrote to stderr.
    pub stderr: String,
}

/// The agent of a machine that is on.
#[derive(Debug)]
pub struct Agent {
    wire: Wire,
    next: Cell<u32>,
}

/// A command that runs inside.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    number: u32,
    ups: usize,
}

impl Agent {
    /// Speaks over this wire.
    pub fn new(wire: Wire) -> Self {
        Self { wire, next: Cell::new(1) }
    }

    /// Returns when the agent has come up for the n-th time since the machine was switched on.
    pub fn wait_up(&self, number: usize, limit: Duration) -> Result<()> {
        self.wire.wait(limit, |text| (ups(text) >= number).then_some(()))
    }

    /// How often the agent has come up since the machine was switched on.
    pub fn ups(&self) -> usize {
        ups(&self.wire.text())
    }

    /// Starts a shell script.
    pub fn start(&self, script: &str) -> Result<Job> {
        let number = self.next.replace(self.next.get() + 1);
        let coded = tool_with_input("base64", &["-w", "0"], script.as_bytes())?;
        let job = Job { number, ups: self.ups() };
        self.wire.send(&format!("{number} {}", String::from_utf8_lossy(&coded)))?;
        Ok(job)
    }

    /// Waits until a script has ended. A boot in between ends it without an answer: an error of the kind `ConnectionReset`.
    pub fn wait(&self, job: Job, limit: Duration) -> Result<Output> {
        let found = self.wire.wait(limit, |text| {
            let answer = whole_lines(text).find_map(|line| answer(line, job.number));
            answer.map(Some).or_else(|| (ups(text) > job.ups).then_some(None))
        })?;
        let Some((code, stdout, stderr)) = found else {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the machine has booted meanwhile"));
        };
        let plain = |coded: &str| -> Result<String> {
            let bytes = tool_with_input("base64", &["-d"], coded.as_bytes())?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Output { code, stdout: plain(&stdout)?, stderr: plain(&stderr)? })
    }
}

/// The line that the agent begins each boot with.
pub fn is_up(line: &str) -> bool {
    line.strip_prefix("up ").is_some_and(|boot| boot.len() == 36)
}

/// An agent that was started again in the same boot says the same boot id.
fn ups(text: &str) -> usize {
    let mut boots: Vec<&str> = whole_lines(text).filter(|line| is_up(line)).collect();
    boots.dedup();
    boots.len()
}

fn answer(line: &str, number: u32) -> Option<(i32, String, String)> {
    let mut words = line.split(' ');
    if words.next()?.parse() != Ok(number) {
        return None;
    }
    let code = words.next()?.parse().ok()?;
    let mut coded = || Some(words.next()?.strip_prefix(':')?.to_owned());
    Some((code, coded()?, coded()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_boots_are_told_apart() {
        assert_eq!(answer("7 0 :b2s= :", 7), Some((0, "b2s=".into(), String::new())));
        assert_eq!(answer("7 0 :b2s= :", 8), None);
        assert_eq!(answer("7 0 :b2s", 7), None);
        let boot = "up 0b2c6e1e-8f5c-4b7e-9d1c-0d6a4c5b7a11";
        let next = "up 1b2c6e1e-8f5c-4b7e-9d1c-0d6a4c5b7a11";
        assert_eq!(ups(&format!("\n{boot}\n1 0 : :\n\n{boot}\n\n{next}\nup 0b2c")), 2);
    }
}
