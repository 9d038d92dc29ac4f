//! The release upgrade itself: sources, update, minimal upgrade, full upgrade, check. It is done *once*: an upgrade that began
//! and did not end is rolled back, never begun again.

use std::path::{Path, PathBuf};

use crate::release::apt::{self, AptSettings, Progress, Stage, StageError, StageOutcome};
use crate::release::apt_log;
use crate::release::conffiles::{self, ConffileDecision, Leftovers, LeftoversError};
use crate::release::hop::{Distribution, Hop};
use crate::release::sources::{self, Finding, SourcesError};
use crate::release::ubuntu::{self, UbuntuError};
use crate::system::span::Span;

/// What the upgrade needs.
#[derive(Debug, Clone, Copy)]
pub struct UpgradeSettings<'s> {
    /// For every stage.
    pub apt: AptSettings<'s>,
    /// Where the original apt sources are kept. On a filesystem that a rollback does not touch.
    pub kept_sources: &'s Path,
}

/// What the upgrade did, as far as it came. That it was complete is for [`crate::release::completion`] to say.
#[derive(Debug, Clone, PartialEq)]
pub struct UpgradeReport {
    /// From where to where.
    pub hop: Hop,
    /// The sources files that were rewritten.
    pub rewritten: Vec<PathBuf>,
    /// What was found in the sources.
    pub findings: Vec<Finding>,
    /// Every stage that was run, in order.
    pub stages: Vec<StageOutcome>,
    /// What was decided about configuration files.
    pub conffiles: Vec<ConffileDecision>,
}

impl UpgradeReport {
    /// Whether an interrupted configuration had to be finished along the way.
    #[must_use]
    pub fn repaired(&self) -> bool {
        self.stages.iter().any(|outcome| outcome.stage == Stage::Repair)
    }
}

/// An upgrade that did not get to its end. The system is somewhere between two releases unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The apt sources could not be rewritten; no package was touched.
    #[error("failed to rewrite the apt sources")]
    Sources(#[from] SourcesError),
    /// `/etc` could not be looked through; nothing was touched when this comes first.
    #[error("failed to take stock of the configuration files")]
    Leftovers(#[from] LeftoversError),
    /// Ubuntu's upgrader could not be prepared or watched.
    #[error("failed to drive Ubuntu's upgrader")]
    Ubuntu {
        /// Why.
        source: Box<UbuntuError>,
        /// What was done until then.
        report: Box<UpgradeReport>,
    },
    /// A stage could not be run.
    #[error("failed to go on with the upgrade")]
    Stage {
        /// Why.
        source: StageError,
        /// What was done until then.
        report: Box<UpgradeReport>,
    },
    /// A stage ran and failed.
    #[error("{stage} failed: {reason}")]
    Failed {
        /// Which.
        stage: Stage,
        /// Why, in one sentence.
        reason: String,
        /// What was done until then; its last stages say more.
        report: Box<UpgradeReport>,
    },
}

/// Upgrades the running system. Nothing is asked; configuration files that both sides changed stay as the administrator left them.
///
/// # Errors
/// [`UpgradeError`], with what was done until then. An `Ok` means that apt said so, not that the upgrade is complete.
pub fn upgrade(
    hop: &Hop,
    settings: &UpgradeSettings<'_>,
    progress: &dyn Fn(Progress),
) -> Result<UpgradeReport, UpgradeError> {
    if hop.distribution() == Distribution::Ubuntu {
        return ubuntu::upgrade(hop, settings, progress);
    }
    let root = Path::new("/");
    let before = conffiles::leftovers(root)?;
    let plan = sources::plan_sources(root, hop)?;
    sources::apply(&plan, root, settings.kept_sources)?;
    let mut report = UpgradeReport {
        hop: *hop,
        rewritten: plan.files.iter().filter(|file| file.changes()).map(|file| file.path.clone()).collect(),
        findings: plan.findings,
        stages: Vec::new(),
        conffiles: Vec::new(),
    };
    let result = stages(&mut report.stages, &settings.apt, progress);
    let taken = take_conffiles(&mut report, root, &before);
    match result {
        Ok(None) => taken.map(|()| report).map_err(UpgradeError::from),
        Ok(Some((stage, reason))) => Err(UpgradeError::Failed { stage, reason, report: Box::new(report) }),
        Err(source) => Err(UpgradeError::Stage { source, report: Box::new(report) }),
    }
}

/// apt-get's words for each stage, in order.
const STAGES: [(Stage, &[&str]); 4] = [
    (Stage::Update, &["update"]),
    (Stage::MinimalUpgrade, &["-y", "upgrade", "--without-new-pkgs"]),
    (Stage::FullUpgrade, &["-y", "full-upgrade"]),
    (Stage::Check, &["check"]),
];

/// The stage that failed and why; `None` when all went well.
type FailedStage = Option<(Stage, String)>;

/// Maintainer scripts may be silent for long; reading lists from a mirror may not. apt has been seen to wait for ever there, on
/// a full disk.
const UPDATE_SILENCE: Span = Span::seconds(120);

fn patient<'s>(stage: Stage, settings: &AptSettings<'s>) -> AptSettings<'s> {
    match stage {
        Stage::Update => settings.patient_for(settings.silence.min(UPDATE_SILENCE)),
        _ => *settings,
    }
}

fn stages(
    done: &mut Vec<StageOutcome>,
    settings: &AptSettings<'_>,
    progress: &dyn Fn(Progress),
) -> Result<FailedStage, StageError> {
    for (stage, words) in STAGES {
        let settings = &patient(stage, settings);
        let mut outcome = apt::apt_get(stage, words, &[], settings, progress)?;
        if apt_log::repairable(&outcome) {
            done.push(outcome);
            let repair = apt::configure_all(settings, progress)?;
            let repaired = repair.well();
            let reason = repair.reason();
            done.push(repair);
            if !repaired {
                return Ok(Some((Stage::Repair, reason)));
            }
            // What failed half-way left the rest undone; a second failure is final.
            outcome = apt::apt_get(stage, words, &[], settings, progress)?;
        }
        let failed = (!outcome.well()).then(|| (stage, outcome.reason()));
        done.push(outcome);
        if failed.is_some() {
            return Ok(failed);
        }
    }
    Ok(None)
}

fn take_conffiles(report: &mut UpgradeReport, root: &Path, before: &Leftovers) -> Result<(), LeftoversError> {
    let log: String = report.stages.iter().map(|outcome| outcome.output.as_str()).collect();
    let after = conffiles::leftovers(root)?;
    report.conffiles = conffiles::decisions(&log, before, &after);
    Ok(())
}
