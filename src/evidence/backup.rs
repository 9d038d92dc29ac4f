//! The backup: every tree was really restored, and every entry was equal to its manifest.

use serde::{Deserialize, Serialize};

use super::refusal::{Missing, Refusal};
use super::subject::{ManifestId, Plan, RunId};

/// What the restore verification of one tree saw.
#[derive(Debug, Clone)]
pub struct TreeReport {
    /// The tree, as the plan names it.
    pub tree: String,
    /// The manifest that it was compared with.
    pub manifest: ManifestId,
    /// Entries that were restored and compared.
    pub entries: u64,
    /// Bytes of content that were restored and compared.
    pub bytes: u64,
    /// Entries that were not equal, missing, extra or unreadable.
    pub differences: u64,
    /// The first of them, one line each.
    pub lines: Vec<String>,
}

/// What the restore verification of the whole backup saw.
#[derive(Debug, Clone)]
pub struct RestoreReport {
    /// One report for each tree.
    pub trees: Vec<TreeReport>,
    /// When it ended, in seconds since 1970 UTC.
    pub ended: u64,
}

/// A tree and the manifest that it was proven against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeProof {
    /// The tree.
    pub tree: String,
    /// Its manifest.
    pub manifest: ManifestId,
}

/// What the journal keeps of a verified backup: a claim, once the process that wrote it is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupProof {
    /// Every tree.
    pub trees: Vec<TreeProof>,
    /// Entries restored and compared.
    pub entries: u64,
    /// Bytes restored and compared.
    pub bytes: u64,
    /// When the verification ended, in seconds since 1970 UTC.
    pub verified: u64,
}

/// When a claim about the backup from before a restart may become evidence again without a full restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReattestRule {
    /// The claim may be at most so many seconds old.
    pub max_age_seconds: u64,
    /// So many entries must be read again from the store and be equal (all of them, when there are fewer).
    pub sample: u64,
}

/// What a look at the store showed after a restart.
#[derive(Debug, Clone)]
pub struct SampleFacts {
    /// Now, in seconds since 1970 UTC.
    pub now: u64,
    /// The manifests that lie in the store now.
    pub trees: Vec<TreeProof>,
    /// Entries that were read again and compared.
    pub read: u64,
    /// Those that were not equal.
    pub differing: u64,
}

/// The whole backup was restored and was equal.
///
/// ```compile_fail,E0451
/// use safe_upgrade::evidence::{BackupEvidence, BackupProof, RunId};
/// fn forge(run: RunId, proof: BackupProof) -> BackupEvidence {
///     BackupEvidence { run, proof }
/// }
/// ```
#[must_use]
#[derive(Debug)]
pub struct BackupEvidence {
    run: RunId,
    proof: BackupProof,
}

impl BackupEvidence {
    /// Judges a full restore verification.
    ///
    /// # Errors
    /// Refuses when a planned tree was not verified, nothing was checked in one, or anything was not equal.
    pub fn judge(plan: &Plan, report: &RestoreReport) -> Result<Self, Refusal> {
        let no = |why: String| Refusal::new(Missing::Backup, why);
        if plan.trees.is_empty() {
            return Err(no("no tree is configured to be backed up".into()));
        }
        for tree in &plan.trees {
            match report.trees.iter().filter(|report| report.tree == *tree).count() {
                1 => {}
                count => {
                    return Err(no(format!(
                        "the backup of {tree} was verified {count} times instead of once"
                    )));
                }
            }
        }
        let lines: Vec<String> = report.trees.iter().flat_map(|tree| tree.lines.iter().cloned()).collect();
        let differences: u64 = report.trees.iter().map(|tree| tree.differences).sum();
        if differences > 0 {
            let first = lines.first().map(|line| format!(": {line}")).unwrap_or_default();
            return Err(no(format!(
                "the restored backup differs from its source in {differences} places{first}"
            ))
            .with(lines));
        }
        if let Some(empty) = report.trees.iter().find(|tree| tree.entries == 0) {
            return Err(no(format!("nothing was checked in the backup of {}", empty.tree)));
        }
        Ok(Self { run: plan.run.clone(), proof: proof_of(report) })
    }

    /// Judges a look at the store after a restart: the claim is young, the store still holds the same manifests, and a sample
    /// that was read again is equal.
    ///
    /// # Errors
    /// The refusal says why the claim does not suffice; a full verification is then needed.
    pub fn judge_again(plan: &Plan, claim: &BackupProof, facts: &SampleFacts) -> Result<Self, Refusal> {
        let no = |why: String| Err(Refusal::new(Missing::Backup, why));
        let rule = &plan.reattest;
        match facts.now.checked_sub(claim.verified) {
            None => return no("the backup claims to have been verified in the future".into()),
            Some(age) if age > rule.max_age_seconds => {
                return no(format!(
                    "the backup was verified {age} s ago; the rule allows {} s",
                    rule.max_age_seconds
                ));
            }
            Some(_) => {}
        }
        if facts.trees != claim.trees {
            return no("the store no longer holds the manifests that were verified".into());
        }
        if facts.differing > 0 {
            return no(format!(
                "{} of {} entries that were read again are not equal",
                facts.differing, facts.read
            ));
        }
        if facts.read == 0 || facts.read < rule.sample.min(claim.entries) {
            return no(format!(
                "only {} entries could be read again; the rule wants {}",
                facts.read, rule.sample
            ));
        }
        Ok(Self { run: plan.run.clone(), proof: claim.clone() })
    }

    /// What the journal keeps.
    #[must_use]
    pub fn proof(&self) -> &BackupProof {
        &self.proof
    }

    pub(super) fn run(&self) -> &RunId {
        &self.run
    }
}

fn proof_of(report: &RestoreReport) -> BackupProof {
    let tree =
        |report: &TreeReport| TreeProof { tree: report.tree.clone(), manifest: report.manifest.clone() };
    BackupProof {
        trees: report.trees.iter().map(tree).collect(),
        entries: report.trees.iter().map(|tree| tree.entries).sum(),
        bytes: report.trees.iter().map(|tree| tree.bytes).sum(),
        verified: report.ended,
    }
}
