//! The one door in front of the irreversible step: every proof at once, each about this run.

use super::backup::{BackupEvidence, BackupProof};
use super::fallback::FallbackEvidence;
use super::preflight::JournalEvidence;
use super::refusal::{Missing, Refusal};
use super::snapshot::{SnapshotEvidence, SnapshotSet};
use super::subject::{Plan, RunId};

/// Permission to upgrade, once.
///
/// It cannot be forged, cloned, stored or used twice:
///
/// ```compile_fail,E0451
/// use safe_upgrade::evidence::{Gate, RunId};
/// fn forge(run: RunId) -> Gate {
///     Gate { run }
/// }
/// ```
/// ```compile_fail,E0277
/// fn cloned<T: Clone>() {}
/// cloned::<safe_upgrade::evidence::Gate>();
/// ```
/// ```compile_fail,E0277
/// fn stored<T: serde::Serialize>() {}
/// stored::<safe_upgrade::evidence::Gate>();
/// ```
/// ```compile_fail,E0382
/// fn upgrade(_: safe_upgrade::evidence::Gate) {}
/// fn twice(gate: safe_upgrade::evidence::Gate) {
///     upgrade(gate);
///     upgrade(gate);
/// }
/// ```
#[must_use]
#[derive(Debug)]
pub struct Gate {
    run: RunId,
}

/// Every proof that the gate asks for.
#[derive(Debug)]
pub struct Proofs {
    /// The backup was restored and equal.
    pub backup: BackupEvidence,
    /// The snapshot set is good.
    pub snapshot: SnapshotEvidence,
    /// The fallback is armed.
    pub fallback: FallbackEvidence,
    /// A rollback leaves the journal alone.
    pub journal: JournalEvidence,
}

impl Gate {
    /// Opens when every proof is about this plan and about the very backup and snapshot that the journal names.
    ///
    /// # Errors
    /// Refuses when two proofs are about different things.
    pub fn open(
        plan: &Plan,
        backup: &BackupProof,
        snapshot: &SnapshotSet,
        proofs: Proofs,
    ) -> Result<Self, Refusal> {
        let runs = [proofs.backup.run(), proofs.snapshot.run(), proofs.fallback.run(), proofs.journal.run()];
        let no = |what: &str| {
            Err(Refusal::new(Missing::SameSubject, format!("the proofs do not agree on {what}")))
        };
        if runs.iter().any(|run| **run != plan.run) {
            return no("the run");
        }
        if proofs.backup.proof().trees != backup.trees {
            return no("the backup");
        }
        if proofs.snapshot.set() != snapshot || *proofs.fallback.snapshot() != snapshot.uuid {
            return no("the snapshot");
        }
        Ok(Self { run: plan.run.clone() })
    }

    /// The run that it was opened for.
    #[must_use]
    pub fn run(&self) -> &RunId {
        &self.run
    }
}
