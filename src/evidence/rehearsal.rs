//! The rehearsal: a clone of this machine, with the packages that it has now, was upgraded to the same release and was healthy.

use serde::{Deserialize, Serialize};

use super::refusal::{Missing, Refusal};
use super::subject::{Plan, RunId};

/// Whether a run wants a rehearsal, and how old it may be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RehearsalRule {
    /// Without one that counts the run is refused; otherwise it is left out with the reason.
    pub required: bool,
    /// It may be at most so many seconds old.
    pub max_age_seconds: u64,
}

impl RehearsalRule {
    /// Whether it says nothing, as in plans from before there were rehearsals.
    pub(super) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What the journal keeps of a rehearsal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RehearsalProof {
    /// Its id.
    pub id: String,
    /// The codename of the release that the clone was upgraded to.
    pub to: String,
    /// The packages that it was done with, as one number.
    pub package_state: String,
    /// When it ended, in seconds since 1970 UTC.
    pub ended: u64,
    /// The outage that it predicts, in seconds.
    pub outage: u64,
}

/// What is known about the last rehearsal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRehearsal {
    /// What it claims.
    pub proof: RehearsalProof,
    /// The codename of the release that the clone was upgraded from.
    pub from: String,
    /// Why it failed; nothing when it passed.
    pub failed: Vec<String>,
    /// The rules and answers about configuration files that it was done with, as one number, where that was kept.
    pub decided_by: Option<String>,
}

/// What a look at the last rehearsal and at the machine showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RehearsalFacts {
    /// Now, in seconds since 1970 UTC.
    pub now: u64,
    /// The packages of the machine now, as one number.
    pub package_state: String,
    /// The rules and answers about configuration files now, as one number. What may differ from the last rehearsal is not in it.
    pub decided_by: String,
    /// The last rehearsal.
    pub last: Option<LastRehearsal>,
}

/// A rehearsal passed, and it was about this machine as it is.
///
/// ```compile_fail,E0451
/// use safe_upgrade::evidence::{RehearsalEvidence, RehearsalProof, RunId};
/// fn forge(run: RunId, proof: RehearsalProof) -> RehearsalEvidence {
///     RehearsalEvidence { run, proof }
/// }
/// ```
#[must_use]
#[derive(Debug)]
pub struct RehearsalEvidence {
    run: RunId,
    proof: RehearsalProof,
}

impl RehearsalEvidence {
    /// Judges the last rehearsal.
    ///
    /// # Errors
    /// Refuses when there is none, it failed, it led elsewhere, it is too old, or packages or the decisions about configuration files
    /// have changed since.
    pub fn judge(plan: &Plan, facts: &RehearsalFacts) -> Result<Self, Refusal> {
        let no = |why: String| Refusal::new(Missing::Rehearsal, why);
        let Some(last) = &facts.last else {
            return Err(no("no rehearsal was done (`safe-upgrade rehearse` does one)".into()));
        };
        let LastRehearsal { proof, from, failed, decided_by } = last;
        if (from, &proof.to) != (&plan.from.codename, &plan.to.codename) {
            return Err(no(format!("the last rehearsal led from {from} to {}", proof.to)));
        }
        if let Some(first) = failed.first() {
            return Err(no(format!("the last rehearsal failed: {first}")).with(failed.clone()));
        }
        match facts.now.checked_sub(proof.ended) {
            None => return Err(no("the last rehearsal claims to have ended in the future".into())),
            Some(age) if age > plan.rehearsal.max_age_seconds => {
                return Err(no(format!(
                    "the last rehearsal ended {age} s ago; the rule allows {} s",
                    plan.rehearsal.max_age_seconds
                )));
            }
            Some(_) => {}
        }
        if proof.package_state != facts.package_state {
            return Err(no("packages were installed, removed or updated since the last rehearsal".into()));
        }
        match decided_by {
            Some(then) if *then == facts.decided_by => {}
            Some(_) => {
                return Err(no(
                    "the rules or answers about configuration files have changed since the last rehearsal"
                        .into(),
                ));
            }
            None => {
                return Err(no(
                    "the last rehearsal does not say by which rules and answers it decided about configuration files"
                        .into(),
                ));
            }
        }
        Ok(Self { run: plan.run.clone(), proof: proof.clone() })
    }

    /// What the journal keeps.
    #[must_use]
    pub fn proof(&self) -> &RehearsalProof {
        &self.proof
    }

    /// The run that it was judged for.
    #[must_use]
    pub fn run(&self) -> &RunId {
        &self.run
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::CommitRule;

    fn plan() -> Plan {
        let rehearsal = RehearsalRule { required: true, max_age_seconds: 100 };
        Plan { rehearsal, ..crate::sim::plan(CommitRule::Automatic) }
    }

    fn facts() -> RehearsalFacts {
        let proof = RehearsalProof {
            id: "20261127T034800Z-4f2a".into(),
            to: "trixie".into(),
            package_state: "a".into(),
            ended: 1000,
            outage: 60,
        };
        let (from, decided_by) = ("bookworm".into(), Some("rules".into()));
        let last = LastRehearsal { proof, from, failed: vec![], decided_by };
        RehearsalFacts { now: 1100, package_state: "a".into(), decided_by: "rules".into(), last: Some(last) }
    }

    fn refused(change: impl FnOnce(&mut RehearsalFacts, &mut LastRehearsal)) -> String {
        let mut facts = facts();
        let mut last = facts.last.take().unwrap();
        change(&mut facts, &mut last);
        facts.last = Some(last);
        RehearsalEvidence::judge(&plan(), &facts).unwrap_err().why
    }

    #[test]
    fn only_a_young_one_of_the_same_packages_that_passed_counts() {
        assert_eq!(RehearsalEvidence::judge(&plan(), &facts()).unwrap().proof().outage, 60);
        assert!(refused(|facts, _| facts.now = 1101).contains("101 s ago"));
        assert!(refused(|facts, _| facts.now = 999).contains("in the future"));
        assert!(refused(|facts, _| facts.package_state = "b".into()).contains("packages were"));
        assert!(refused(|facts, _| facts.decided_by = "others".into()).contains("rules or answers"));
        assert!(refused(|_, last| last.decided_by = None).contains("does not say by which rules"));
        assert!(refused(|_, last| last.failed = vec!["php".into()]).contains("failed: php"));
        assert!(refused(|_, last| last.from = "bullseye".into()).contains("from bullseye"));
        assert!(refused(|_, last| last.proof.to = "forky".into()).contains("to forky"));
        let none = RehearsalFacts { last: None, ..facts() };
        assert!(RehearsalEvidence::judge(&plan(), &none).unwrap_err().why.contains("no rehearsal"));
    }
}
