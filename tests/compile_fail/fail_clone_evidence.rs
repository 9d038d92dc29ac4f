use safe_upgrade::evidence::BackupEvidence;

fn twice(evidence: &BackupEvidence) -> BackupEvidence {
    BackupEvidence::clone(evidence)
}

fn main() {
    let _ = twice;
}
