//! What this program does inside the clone, started there by the one outside. It answers on a pipe, one JSON object a line.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{RehearsalError, Result};
use crate::boot::frozen::Frozen;
use crate::compat;
use crate::conffiles::answers::Answers;
use crate::conffiles::debconf::{self, Question};
use crate::conffiles::left::ConffileDecision;
use crate::conffiles::policy::{Decisions, Policy};
use crate::conffiles::syntax::{self, Refused};
use crate::health::HealthError;
use crate::health::baseline::{self, Baseline};
use crate::health::checks::{self, CheckConfig, CheckResult, Phase};
use crate::health::clock::{Cancel, Clock, RealClock};
use crate::health::report::HealthReport;
use crate::health::settle::{self, Settled};
use crate::release::apt::{self, AptSettings};
use crate::release::completion;
use crate::release::hop::Hop;
use crate::release::prediction::{Foretold, Verdict};
use crate::release::simulation;
use crate::release::upgrade::{self, UpgradeError, UpgradeReport, UpgradeSettings};
use crate::system::enter;
use crate::system::host_calls::{self, HostCallsError};
use crate::system::span::Span;

/// Where everything of the rehearsal lies inside the clone: below the place of the real state, which is not in it.
pub const HOME: &str = "/var/lib/safe-upgrade/rehearsal";

/// This program, in [`HOME`].
pub const PROGRAM: &str = "safe-upgrade";

/// The packages of the new release, in [`HOME`].
pub const ARCHIVES: &str = "archives";

/// What is to be done, in [`HOME`].
pub const TASK: &str = "task.json";

/// The log of the packages, in [`HOME`].
pub const APT_LOG: &str = "apt.log";

/// The first word of this program inside the clone. No command: no help and no completion offers it.
pub const WORD: &str = "rehearsal-stage";

/// The first word of this program on its way into the clone.
pub const ENTER: &str = "rehearsal-enter";

/// How long another apt may hold its lock: none should be there.
const LOCK_WAIT: Span = Span::seconds(60);

/// Where systemd listens for root, once it listens.
const SYSTEMD: &str = "/run/systemd/private";

/// Between two looks whether it does.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What the stages need to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// The codename of the old release.
    pub from: String,
    /// The codename of the new one.
    pub to: String,
    /// How long services may take to start after a boot.
    pub settle: Span,
    /// How long the package tools may be silent.
    pub silence: Span,
    /// Units that go by another name on the new release.
    pub renames: BTreeMap<String, String>,
    /// What is done about configuration files.
    pub policy: Policy,
    /// What that comes to, when it was decided outside.
    #[serde(default)]
    pub decided: Option<(Decisions, Vec<PathBuf>)>,
    /// The recorded answers of the machine: those in a restored backup may be older.
    pub answers: Answers,
    /// The checks of the operator that take part.
    pub checks: Vec<CheckConfig>,
    /// What was foretold of the packages.
    pub foretold: Option<Foretold>,
    /// The clone before its upgrade; none before it was looked at.
    pub before: Option<Baseline>,
}

/// What a stage says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "kebab-case")]
pub enum Said {
    /// How far it is.
    Progress {
        /// Of the stage, 0 to 100.
        percent: f32,
        /// At what.
        text: String,
    },
    /// The clone before its upgrade.
    Looked {
        /// What it does.
        baseline: Box<Baseline>,
        /// The operator's checks.
        checks: Vec<CheckResult>,
        /// How its boot ended.
        boot: Settled,
    },
    /// The upgrade ended.
    Upgraded(Upgraded),
    /// The clone after its upgrade, compared with before.
    Compared {
        /// What differs, and the operator's checks.
        report: Box<HealthReport>,
    },
}

/// What came of the upgrade in the clone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// One sentence for each reason why it is not complete; none is good.
    pub failures: Vec<String>,
    /// Packages that were left at an old version and are not held: a run would go back for them, and the clone boots all the same.
    pub left: Vec<String>,
    /// What programs say of their configuration since, and what decides nothing: one sentence each.
    pub noted: Vec<String>,
    /// What was decided about configuration files, one line each.
    pub prompts: Vec<String>,
    /// Packages that were upgraded, installed or removed.
    pub packages: u64,
    /// What scripts of packages asked anew, with what they took for an answer.
    pub questions: Vec<Question>,
    /// Configuration files that were kept because nobody has answered yet.
    pub unanswered: Vec<PathBuf>,
    /// How much of what was foretold of the packages came true.
    pub compared: Option<Verdict>,
}

/// Runs the stage that the outside asked for.
///
/// # Errors
/// When it cannot find out what it should, or say it.
pub fn run(stage: &str, pipe: &str) -> Result<()> {
    let path = Path::new("/proc/self/fd").join(pipe);
    let mut out = File::options().write(true).open(&path).map_err(RehearsalError::path("open", &path))?;
    enter::bind_like_first().map_err(RehearsalError::path("bind to the powers of", "/proc/1/status"))?;
    let task = task()?;
    let said = match stage {
        LOOK => look(&task),
        UPGRADE => upgrade(&task, &out),
        COMPARE => compare(&task),
        _ => return Err(RehearsalError::Impossible(format!("there is no stage {stage:?}"))),
    }?;
    say(&mut out, &said).map_err(RehearsalError::path("write to", path))
}

/// Looks at the clone before its upgrade.
pub const LOOK: &str = "look";

/// Upgrades it.
pub const UPGRADE: &str = "upgrade";

/// Looks at it afterwards.
pub const COMPARE: &str = "compare";

fn task() -> Result<Task> {
    let path = Path::new(HOME).join(TASK);
    let bytes = std::fs::read(&path).map_err(RehearsalError::path("read", &path))?;
    serde_json::from_slice(&bytes).map_err(|error| RehearsalError::path("understand", path)(error.into()))
}

fn say(out: &mut impl Write, said: &Said) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    out.write_all(&line)
}

fn silent(stage: &'static str) -> impl FnOnce(HealthError) -> RehearsalError {
    move |error| RehearsalError::Silent { stage, why: crate::error::chain(&error) }
}

/// Waits for the end of the boot. Whoever comes in right after the first process was started finds nobody to ask.
fn settled(task: &Task, stage: &'static str) -> Result<Settled> {
    let mut clock = RealClock::new(Cancel::new());
    while !Path::new(SYSTEMD).exists() {
        if clock.elapsed() > task.settle.duration() {
            return Err(RehearsalError::Silent { stage, why: format!("systemd has not made {SYSTEMD}") });
        }
        let _not_cancelled = clock.wait(LOOK_AGAIN);
    }
    settle::wait_until_settled(task.settle.duration()).map_err(silent(stage))
}

fn look(task: &Task) -> Result<Said> {
    let settled = settled(task, LOOK)?;
    let checks = checks::run_all(&task.checks, Phase::Before, &Cancel::new());
    let baseline = Box::new(baseline::capture(Path::new("/")).map_err(silent(LOOK))?);
    Ok(Said::Looked { baseline, checks, boot: settled })
}

fn compare(task: &Task) -> Result<Said> {
    let before = task
        .before
        .as_ref()
        .ok_or(RehearsalError::Silent { stage: COMPARE, why: "there is nothing to compare with".into() })?;
    let settled = settled(task, COMPARE)?;
    let limit = if settled.is_emergency() { Duration::ZERO } else { task.settle.duration() };
    let cancel = Cancel::new();
    let mut clock = RealClock::new(cancel.clone());
    let converged = settle::converge(Path::new("/"), before, &task.renames, limit, &mut clock)
        .map_err(silent(COMPARE))?;
    let results = checks::run_all(&task.checks, Phase::Trial, &cancel);
    let mut report = HealthReport::new(results, converged.changes, before);
    if settled.is_emergency() {
        report.required_failed.insert(0, "the boot ended in emergency or rescue mode".into());
    }
    Ok(Said::Compared { report: Box::new(report) })
}

/// The same code that upgrades the machine itself.
fn upgrade(task: &Task, out: &File) -> Result<Said> {
    let wrong = |why: String| RehearsalError::Silent { stage: UPGRADE, why };
    let not_refused = refuse_host_calls().map_err(|error| wrong(crate::error::chain(&error)))?;
    let hop = Hop::between(&task.from, &task.to).map_err(|error| wrong(error.to_string()))?;
    let home = Path::new(HOME);
    let (log, archives, kept) = (home.join(APT_LOG), home.join(ARCHIVES), home.join("sources"));
    let Decided { decisions, unanswered, questions: before } = decide(task, &archives).map_err(&wrong)?;
    // A run holds them off until commit; here there is no disk either that they could write to.
    let installers =
        Frozen { root: "/".into(), run: "rehearsal".into(), calls: home.join("grub-install.calls") };
    installers.freeze().map_err(|error| wrong(crate::error::chain(&error)))?;
    let settings = UpgradeSettings {
        apt: AptSettings {
            log: &log,
            archives: &archives,
            silence: task.silence,
            lock_wait: LOCK_WAIT,
            stop: None,
            user: None,
        }
        .patient_for(task.silence),
        kept_sources: &kept,
        decisions: &decisions,
    };
    let told = |state: apt::Progress| {
        let text = format!("{}: {}", state.stage.name(), state.detail);
        // Whoever listens may be gone; then this process is about to be ended too.
        let _ = say(&mut &*out, &Said::Progress { percent: state.percent, text });
    };
    let refused_before = refused()?;
    let said = match upgrade::upgrade(&hop, &settings, &told) {
        Ok(report) => {
            let (failures, left) = incomplete(&hop, &report)?;
            let (stops, noted) = judged(syntax::news(&refused_before, refused()?));
            Upgraded { failures: [failures, stops].concat(), left, noted, ..upgraded(&report) }
        }
        Err(UpgradeError::Failed { stage, reason, report }) => {
            Upgraded { failures: vec![format!("{stage} failed: {reason}")], ..upgraded(&report) }
        }
        Err(error) => return Err(wrong(crate::error::chain(&error))),
    };
    let after = debconf::questions(Path::new("/")).map_err(|error| wrong(crate::error::chain(&error)))?;
    Ok(Said::Upgraded(Upgraded {
        questions: debconf::answered(&before, &after),
        unanswered,
        compared: task.foretold.clone().map(compared),
        noted: not_refused.into_iter().chain(said.noted.iter().cloned()).collect(),
        ..said
    }))
}

/// The scripts of packages run as root, and whoever came in by `nsenter` has no filter of system calls. Before and after the upgrade only
/// this program and the operator's checks come in, which need their setuid programs. Says what to note where it cannot be done.
fn refuse_host_calls() -> std::result::Result<Option<String>, HostCallsError> {
    match host_calls::refuse() {
        Err(error @ HostCallsError::Processor(_)) => Ok(Some(format!(
            "{error}: the scripts of packages in the clone were kept from none of those that reach the machine itself"
        ))),
        refused => refused.map(|()| None),
    }
}

fn refused() -> Result<Vec<Refused>> {
    syntax::look()
        .map_err(|error| RehearsalError::Silent { stage: UPGRADE, why: crate::error::chain(&error) })
}

/// As a run judges what programs refuse now and did not before: what stops it, and what the health of the services decides about.
fn judged(news: Vec<Refused>) -> (Vec<String>, Vec<String>) {
    let (stops, noted): (Vec<Refused>, Vec<Refused>) = news.into_iter().partition(|one| one.stops);
    let told = |all: Vec<Refused>| all.iter().map(ToString::to_string).collect();
    (told(stops), told(noted))
}

fn compared(foretold: Foretold) -> Verdict {
    let now = compat::installed(Path::new("/")).map_err(|error| crate::error::chain(&error));
    now.map(|now| foretold.compare(now)).into()
}

/// What is decided before the first package changes.
struct Decided {
    decisions: Decisions,
    /// Files that a run would not decide about: nobody has answered.
    unanswered: Vec<PathBuf>,
    /// What debconf knows.
    questions: Vec<Question>,
}

/// As a run decides: by the rules and the recorded answers, which debconf gets too. What a run would refuse for want of an answer is
/// kept here. The archives are looked through only when nobody has done that for these very files.
fn decide(task: &Task, archives: &Path) -> std::result::Result<Decided, String> {
    let root = Path::new("/");
    let (decisions, unanswered) = match &task.decided {
        Some(decided) => decided.clone(),
        None => {
            let facts =
                crate::conffiles::look(root, archives).map_err(|error| crate::error::chain(&error))?;
            Decisions::rehearsed(&facts, &task.policy, &task.answers)
        }
    };
    debconf::give(&task.answers.debconf).map_err(|error| crate::error::chain(&error))?;
    let questions = debconf::questions(root).map_err(|error| crate::error::chain(&error))?;
    Ok(Decided { decisions, unanswered, questions })
}

fn upgraded(report: &UpgradeReport) -> Upgraded {
    let announced = report.stages.iter().filter_map(|stage| simulation::parse_summary(&stage.output));
    Upgraded {
        failures: Vec::new(),
        left: Vec::new(),
        noted: Vec::new(),
        prompts: report.conffiles.iter().map(prompt).collect(),
        packages: announced.map(|sum| (sum.upgraded + sum.new + sum.removed) as u64).sum(),
        questions: Vec::new(),
        unanswered: Vec::new(),
        compared: None,
    }
}

fn prompt(decision: &ConffileDecision) -> String {
    let leftover: Option<&PathBuf> = decision.leftover.as_ref();
    let leftover = leftover.map(|path| format!("; the other version is {}", path.display()));
    format!("{}: {:?}{}", decision.path.display(), decision.decision, leftover.unwrap_or_default())
}

/// An exit code proves nothing: what is there does. With it the packages that were left behind.
fn incomplete(hop: &Hop, report: &UpgradeReport) -> Result<(Vec<String>, Vec<String>)> {
    let seen = completion::completion_facts(Path::new("/"))
        .map_err(|error| RehearsalError::Silent { stage: UPGRADE, why: crate::error::chain(&error) })?;
    let mut failures = Vec::new();
    let mut unless = |good: bool, sentence: String| {
        if !good {
            failures.push(sentence);
        }
    };
    let reached = report.stages.last().is_some_and(|stage| stage.stage == apt::Stage::Check && stage.well());
    unless(reached, "the upgrade did not come to its last stage".into());
    let release = &seen.os_release;
    unless(
        release.version_id == hop.to().version,
        format!("os-release says {}, not {}", release.version_id, hop.to().version),
    );
    unless(seen.audit.is_empty(), format!("dpkg --audit complains: {}", seen.audit.trim()));
    unless(
        seen.check.is_none(),
        format!("apt-get check complains: {}", seen.check.as_deref().unwrap_or_default()),
    );
    unless(seen.unfinished.is_empty(), format!("not fully installed: {}", seen.unfinished.join(" ")));
    Ok((failures, seen.pending.into_iter().chain(seen.kept_back).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_people_out_stops_it() {
        let one = |what: &str, stops| Refused {
            what: what.into(),
            line: "line 3: no".into(),
            stops,
            unknown: false,
        };
        let (stops, noted) = judged(vec![one("nginx", false), one("sshd", true)]);
        assert_eq!(stops, ["sshd refuses its configuration: line 3: no"]);
        assert_eq!(noted, ["nginx refuses its configuration: line 3: no"]);
    }
}
