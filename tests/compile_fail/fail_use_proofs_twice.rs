use safe_upgrade::evidence::gate::Proofs;
use safe_upgrade::evidence::{BackupProof, Gate, Plan, SnapshotSet};

fn twice(plan: &Plan, backup: &BackupProof, snapshot: &SnapshotSet, proofs: Proofs) {
    let _ = Gate::open(plan, backup, snapshot, proofs);
    let _ = Gate::open(plan, backup, snapshot, proofs);
}

fn main() {
    let _ = twice;
}
