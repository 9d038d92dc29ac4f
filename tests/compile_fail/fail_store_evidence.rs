use safe_upgrade::evidence::SnapshotEvidence;

fn store(evidence: &SnapshotEvidence) -> String {
    serde_json::to_string(evidence).unwrap()
}

fn main() {
    let _ = store;
}
