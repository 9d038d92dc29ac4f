//! What is done once the old system is proven to be back: what was lost is counted, what was configured is carried forward, and the
//! failed root is read for what went wrong. None of it changes how the run has ended.

use super::{Machine, carry, divergence, post_mortem};
use crate::evidence::Plan;

/// All of it; what did not work is told. Repeatable.
pub(super) fn of_rollback(machine: &Machine, plan: &Plan) {
    machine.progress.phase("what the failed system leaves");
    let told = |what: &str, result: super::Result<()>| {
        if let Err(trouble) = result {
            machine.progress.line(&format!("{what}: {trouble}"));
        }
    };
    if let Some(snapshot) = machine.journal.state().snapshot() {
        told("what the rollback takes back could not be counted", divergence::keep(machine, plan, snapshot));
    }
    told("there is no post-mortem", post_mortem::write(machine, plan));
    let report = carry::carry(machine, plan);
    machine.progress.line(&format!("carried {} files from the failed root", report.files.len()));
}
