//! The release upgrade itself: sources, update, minimal upgrade, full upgrade, check. It is done *once*: an upgrade that began
//! and did not end is rolled back, never begun again.

use std::path::{Path, PathBuf};

use crate::conffiles::left::{self, ConffileDecision, Leftovers, LeftoversError};
use crate::conffiles::place::{self, PlaceError};
use crate::conffiles::policy::{Choice, Decisions};
use crate::release::apt::{self, AptSettings, Progress, Stage, StageError, StageOutcome};
use crate::release::apt_log;
use crate::release::hop::{Distribution, Hop};
use crate::release::sources::{self, Finding, SourcesError};
use crate::release::ubuntu::{self, UbuntuError};
use crate::system::show;
use crate::system::span::Span;

/// What the upgrade needs.
#[derive(Debug, Clone, Copy)]
pub struct UpgradeSettings<'s> {
    /// For every stage.
    pub apt: AptSettings<'s>,
    /// Where the original apt sources are kept. On a filesystem that a rollback does not touch.
    pub kept_sources: &'s Path,
    /// What is done about configuration files that both sides changed.
    pub decisions: &'s Decisions,
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
    /// The new configuration file of a script, which was to be taken.
    #[error("failed to put a new configuration file in place")]
    Place(#[from] PlaceError),
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

/// Upgrades the running system. Nobody is asked: about configuration files that both sides changed the decisions are carried out, and
/// one that is not wanted makes the upgrade fail.
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
    let before = left::leftovers(root)?;
    let plan = sources::plan_sources(root, hop)?;
    sources::apply(&plan, root, settings.kept_sources)?;
    let mut report = UpgradeReport {
        hop: *hop,
        rewritten: plan.files.iter().filter(|file| file.changes()).map(|file| file.path.clone()).collect(),
        findings: plan.findings,
        stages: Vec::new(),
        conffiles: Vec::new(),
    };
    let result = stages(&mut report.stages, settings, progress);
    let taken = take_conffiles(&mut report, root, &before, settings.decisions);
    match result {
        Ok(None) => carried_out(taken?, report),
        Ok(Some((stage, reason))) => Err(UpgradeError::Failed { stage, reason, report: Box::new(report) }),
        Err(source) => Err(UpgradeError::Stage { source, report: Box::new(report) }),
    }
}

/// An upgrade that met a file about which nobody had decided is no good one.
pub(super) fn carried_out(
    unwanted: Option<PathBuf>,
    report: UpgradeReport,
) -> Result<UpgradeReport, UpgradeError> {
    let Some(path) = unwanted else { return Ok(report) };
    let stage = report.stages.iter().map(|outcome| outcome.stage).rfind(|stage| *stage != Stage::Check);
    let stage = stage.unwrap_or(Stage::FullUpgrade);
    Err(UpgradeError::Failed { stage, reason: unwanted_reason(&path), report: Box::new(report) })
}

fn unwanted_reason(path: &Path) -> String {
    format!(
        "the new package has another {}, which was changed here, and nobody decided which of them is to be in force",
        show::path(path)
    )
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
    settings: &UpgradeSettings<'_>,
    progress: &dyn Fn(Progress),
) -> Result<FailedStage, StageError> {
    let decisions = settings.decisions;
    let choice = |path: &Path| decisions.choice(path);
    // Without need, dpkg is not allowed to ask: keeping all is then decided before it starts, and no pipe can break.
    let answering = decisions.answers_prompts().then_some(&choice as apt::Answering<'_>);
    for (stage, words) in STAGES {
        let settings = &patient(stage, &settings.apt);
        let run = || apt::apt_get_answering(stage, words, &[], settings, answering, progress);
        let mut outcome = run()?;
        if apt_log::repairable(&outcome) {
            done.push(outcome);
            let repair = apt::configure_all(settings, answering, progress)?;
            let repaired = repair.well();
            let reason = repair.reason();
            done.push(repair);
            if !repaired {
                return Ok(Some((Stage::Repair, reason)));
            }
            // What failed half-way left the rest undone; a second failure is final.
            outcome = run()?;
        }
        let mut failed = (!outcome.well()).then(|| (stage, outcome.reason()));
        done.push(outcome);
        let mut asked = done.iter().flat_map(|outcome| &outcome.conffile_prompts);
        if failed.is_none()
            && let Some(path) = asked.find(|path| decisions.choice(path) == Choice::Fail)
        {
            failed = Some((stage, unwanted_reason(path)));
        }
        if failed.is_some() {
            return Ok(failed);
        }
    }
    Ok(None)
}

/// Takes down what became of every file, and carries out what the tools were kept from. Returns a file about which nobody decided.
pub(super) fn take_conffiles(
    report: &mut UpgradeReport,
    root: &Path,
    before: &Leftovers,
    decisions: &Decisions,
) -> Result<Option<PathBuf>, UpgradeError> {
    // A terminal ends its lines with \r\n.
    let log: String = report.stages.iter().map(|outcome| outcome.output.replace("\r\n", "\n")).collect();
    report.conffiles = left::decisions(&log, before, &left::leftovers(root)?);
    Ok(place::carry_out(root, decisions, &mut report.conffiles)?)
}
