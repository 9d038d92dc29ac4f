//! `history`: every run that this machine has seen.

use std::io::Write;

use serde_json::{Value, json};

use super::args::ShowArgs;
use super::outage::{self, Measured};
use super::{SCHEMA, print_json, written};
use crate::error::{Exit, Failure};
use crate::journal::Frame;
use crate::machine::{Record, State};
use crate::places::StateDirectory;
use crate::system::show;

/// Lists the runs, oldest first.
///
/// # Errors
/// When the journal cannot be read or is not trusted.
pub(super) fn run(args: &ShowArgs, places: &StateDirectory, out: &mut dyn Write) -> Result<Exit, Failure> {
    let (reading, _) = super::read_journal(places)?;
    let runs = runs(&reading.frames);
    if args.json {
        let runs: Vec<Value> = runs.iter().map(Past::as_json).collect();
        print_json(out, &json!({"schema": SCHEMA, "command": "history", "runs": runs}))?;
    } else if runs.is_empty() {
        written(writeln!(out, "No runs yet."))?;
    } else {
        for run in &runs {
            written(writeln!(out, "{}", run.as_text()))?;
        }
    }
    Ok(Exit::Done)
}

/// One run, as far as the journal tells it.
struct Past {
    state: State,
    outage: Option<Measured>,
    began: jiff::Timestamp,
    ended: jiff::Timestamp,
}

fn runs(frames: &[Frame]) -> Vec<Past> {
    let mut runs: Vec<Past> = Vec::new();
    let mut outages = outage::runs(frames).map(outage::measure);
    let mut state = State::New;
    for frame in frames {
        // The journal was replayed when it was read: each of its records follows.
        let Ok(next) = state.apply(&frame.entry) else { return runs };
        state = next;
        match (&frame.entry, runs.last_mut()) {
            (Record::Planned { .. }, _) | (_, None) => {
                runs.push(Past {
                    state: state.clone(),
                    outage: outages.next().flatten(),
                    began: frame.time,
                    ended: frame.time,
                });
            }
            // Pruning comes long after the end.
            (Record::Pruned { .. }, Some(run)) => run.state = state.clone(),
            (_, Some(run)) => {
                run.state = state.clone();
                run.ended = frame.time;
            }
        }
    }
    runs
}

impl Past {
    fn seconds(&self) -> i64 {
        self.ended.duration_since(self.began).as_secs()
    }

    fn as_json(&self) -> Value {
        json!({
            "id": self.state.plan().map(|plan| &plan.run),
            "from": self.state.plan().map(|plan| &plan.from),
            "to": self.state.plan().map(|plan| &plan.to),
            "state": self.state.name(),
            "began": self.began,
            "last": self.ended,
            "seconds": self.seconds(),
            "outage": self.outage,
            "why": self.state.why().map(ToString::to_string),
        })
    }

    fn as_text(&self) -> String {
        let Some(plan) = self.state.plan() else { return String::new() };
        let why =
            self.state.why().map(|why| format!(": {}", show::line(&why.to_string()))).unwrap_or_default();
        let outage = self.outage.map(|outage| format!("; outage {}", outage.text())).unwrap_or_default();
        format!(
            "{}  {} -> {}  {} after {} s{outage}{why}",
            plan.run,
            plan.from.codename,
            plan.to.codename,
            self.state.name(),
            self.seconds()
        )
    }
}
