use safe_upgrade::evidence::{HealthEvidence, HealthFacts};

fn main() {
    let facts = HealthFacts { checked: 1, failed: vec![], noted: vec![], soaked: 0 };
    let _ = HealthEvidence { facts };
}
