//! The way that is meant compiles: without it every failure below could have another reason.

use safe_upgrade::evidence::{HealthEvidence, HealthFacts};
use safe_upgrade::machine::{CommittedBy, Entry};

fn main() {
    let facts = HealthFacts { checked: 1, failed: vec![], noted: vec![], soaked: 0 };
    let evidence = HealthEvidence::judge(facts).expect("healthy");
    let entry = Entry::committed(&evidence, CommittedBy::Rule);
    assert_eq!(entry.record().name(), "Committed");
}
