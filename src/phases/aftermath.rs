//! What is done once the old system is proven to be back and the journal says so: what was lost is counted, what was configured is
//! carried forward, and the failed root is read for what went wrong. None of it changes how the run has ended.

use std::io;
use std::path::Path;

use super::{Machine, Result, carry, divergence, post_mortem, trouble};
use crate::evidence::{Plan, SnapshotSet};
use crate::machine::State;
use crate::system::durable;

/// The file's name in the run's directory: there once all of it has ended, whatever came of it. A JSON list of sentences, one
/// for each part that did not work.
pub const FILE: &str = "aftermath-done";

/// Whether a run was rolled back, and this has not come to its end yet. A run whose volumes were pruned has nothing left to look at.
///
/// # Errors
/// When the run's directory cannot be looked at.
pub fn is_due(state: &State, directory: &Path) -> io::Result<bool> {
    let State::RolledBack { snapshot: Some(_), .. } = state else { return Ok(false) };
    Ok(!directory.join(FILE).try_exists()?)
}

/// All of it, where it is due; what did not work is told. Repeatable: cut off, it begins anew.
pub(super) fn of_rollback(machine: &Machine) {
    let state = machine.journal.state();
    let (Some(plan), Some(snapshot)) = (state.plan(), state.snapshot()) else { return };
    match is_due(state, &machine.directory) {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => tracing::warn!(%error, "cannot tell whether this was done already: it is done again"),
    }
    machine.progress.phase("what the failed system leaves");
    let troubles = all(machine, plan, snapshot);
    for sentence in &troubles {
        machine.progress.line(sentence);
    }
    if let Err(trouble) = end(machine, &troubles) {
        // The old system runs all the same; the next boot, or `resume`, does it again.
        machine.progress.line(&format!("that this is done could not be written down: {trouble}"));
    }
}

fn all(machine: &Machine, plan: &Plan, snapshot: &SnapshotSet) -> Vec<String> {
    let mut troubles = Vec::new();
    let mut told = |what: &str, result: Result<()>| {
        troubles.extend(result.err().map(|trouble| format!("{what}: {trouble}")));
    };
    told("what the rollback takes back could not be counted", divergence::keep(machine, plan, snapshot));
    told("there is no post-mortem", post_mortem::write(machine, plan));
    let report = carry::carry(machine, plan);
    machine.progress.line(&format!("carried {} files from the failed root", report.files.len()));
    told("the list of what was carried could not be written", carry::keep(machine, &report));
    troubles
}

fn end(machine: &Machine, troubles: &[String]) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(troubles).map_err(trouble)?;
    durable::replace_file(&machine.directory.join(FILE), &bytes, 0o600).map_err(trouble)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::CommitRule;
    use crate::machine::Why;
    use crate::sim;

    #[test]
    fn it_is_due_once_after_a_rollback_whose_volumes_are_there() {
        let directory = tempfile::tempdir().unwrap();
        let rolled_back = |snapshot| State::RolledBack {
            plan: sim::plan(CommitRule::Automatic),
            why: Why::NotConfirmed,
            snapshot,
        };
        let uuid = "00000000-0000-4000-8000-000000000001".parse().unwrap();
        let there = rolled_back(Some(SnapshotSet { name: "s".into(), uuid, boot: vec![] }));
        assert!(is_due(&there, directory.path()).unwrap());
        assert!(!is_due(&rolled_back(None), directory.path()).unwrap());
        assert!(!is_due(&State::New, directory.path()).unwrap());
        std::fs::write(directory.path().join(FILE), "[]").unwrap();
        assert!(!is_due(&there, directory.path()).unwrap());
    }
}
