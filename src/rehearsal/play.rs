//! The whole rehearsal: clone, boot, look, upgrade, boot, compare; then everything is taken away again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::clone::{self, Clone, Origin, Parts};
use super::container::{self, Running};
use super::inside::{self, Said, Task, Upgraded};
use super::made::{self, Made};
use super::names::Names;
use super::network::{self, Network};
use super::record::{Kept, Outcome, RehearsalRecord, Timings, VERSION};
use super::sweep::{self, Claim};
use super::{RehearsalError, Result};
use crate::conffiles::answers::Answers;
use crate::conffiles::policy::{Decisions, Policy};
use crate::health::baseline::Baseline;
use crate::health::checks::{CheckConfig, CheckResult};
use crate::health::diff::ChangeKind;
use crate::health::known;
use crate::health::report::HealthReport;
use crate::health::settle::Settled;
use crate::release::package_state::ADMIN;
use crate::release::prediction::Foretold;
use crate::system::beneath;
use crate::system::durable;
use crate::system::identity;
use crate::system::room::Room;
use crate::system::show;
use crate::system::span::Span;
use crate::system::told_to_stop::ToldToStop;
use crate::system::watched::Watch;

/// More than the stages' own patience, so that they can say themselves that something fell silent.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the stages write, in the rehearsal's directory.
const LOG: &str = "stages.log";

/// How many services a note names.
const NAMED: usize = 20;

/// A functional test: a program of the host that is told where the clone is.
#[derive(Debug, PartialEq, Eq)]
pub struct FunctionalTest {
    /// Its name in reports.
    pub name: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// How long it may take.
    pub timeout: Span,
}

/// What is to be rehearsed, and how.
#[derive(Debug)]
pub struct Script<'s> {
    /// The id.
    pub names: Names,
    /// What the clone is made from.
    pub origin: &'s Origin,
    /// The directory of rehearsals.
    pub rehearsals: &'s Path,
    /// The packages of the new release.
    pub archives: &'s Path,
    /// The package lists of the new release.
    pub lists: &'s Path,
    /// The packages of this machine ([`crate::release::package_state`]).
    pub package_state: String,
    /// From codename to codename.
    pub hop: (String, String),
    /// The checks of the operator that take part.
    pub checks: Vec<CheckConfig>,
    /// What was foretold of the packages.
    pub foretold: Option<Foretold>,
    /// Units that go by another name on the new release.
    pub renames: BTreeMap<String, String>,
    /// What is done about configuration files.
    pub policy: Policy,
    /// What that comes to, where the clone has the machine's own files; without it that is found out inside.
    pub decided: Option<(Decisions, Vec<PathBuf>)>,
    /// The recorded answers.
    pub answers: &'s Answers,
    /// How long services may take to start.
    pub settle: Span,
    /// How long the package tools may be silent.
    pub silence: Span,
    /// How long a run would soak.
    pub soak: Span,
    /// Mount points of filesystems that the clone sees as they are, read-only.
    pub show: &'s [PathBuf],
    /// What this machine does now.
    pub host: Baseline,
    /// What is asked of the clone from outside.
    pub tests: &'s [FunctionalTest],
    /// Whether the upgraded clone is left running.
    pub keep: bool,
    /// Ends it when told.
    pub stop: Option<&'s ToldToStop>,
    /// What the machine keeps of the disks that the clone writes to; with less the rehearsal ends.
    pub room: &'s Room,
}

impl Script<'_> {
    fn watch<'w>(&'w self, log: &'w Path, silence: Duration) -> Watch<'w> {
        Watch { log, silence, stop: self.stop, input: None, room: Some(self.room) }
    }
}

/// Rehearses, lets somebody keep what came of it, and takes everything away again unless it shall stay. What cannot be taken away is
/// left for [`sweep::sweep`]; the record says so.
///
/// # Errors
/// When something could not be done or found out, or kept. Everything is taken away then too.
pub fn play(
    script: &Script<'_>,
    _: &Claim,
    told: &dyn Fn(f32, &str),
    keep: &dyn Fn(&RehearsalRecord) -> Result<()>,
) -> Result<RehearsalRecord> {
    container::needed()?;
    let directory = made::directory(script.rehearsals, &script.names);
    let boot = identity::boot_id()
        .map_err(|error| RehearsalError::Silent { stage: "begin", why: crate::error::chain(&error) })?;
    let restored = match script.origin {
        Origin::Subvolume(_) => None,
        Origin::Backup(backup) => Some(backup.place(&script.names)?),
    };
    let made = Made { id: script.names.id().to_owned(), keep: false, boot, restored };
    made::write(&directory, &made)?;
    let restored = made.restored.as_ref().map(|place| place.directory.as_path());
    let played = perform(script, (&directory, restored), told);
    let played = played.and_then(|record| keep(&record).map(|()| record));
    keep_console(&directory, &script.names);
    let stays = script.keep && played.as_ref().is_ok_and(|record| record.kept.is_some());
    if stays {
        made::write(&directory, &Made { keep: true, ..made })?;
        return played;
    }
    told(98.0, "taking the clone away");
    let removed = sweep::remove(script.rehearsals, &script.names);
    let mut record = played?;
    if let Err(error) = removed {
        let why = crate::error::chain(&error);
        tracing::warn!(%why, "the clone could not be taken away");
        record.noted.push(format!(
            "not everything of the clone could be taken away: {why}; `safe-upgrade rehearse --end` tries again"
        ));
    }
    Ok(record)
}

/// What is known as the rehearsal goes on.
struct Seen {
    timings: Timings,
    failed: Vec<String>,
    noted: Vec<String>,
}

fn perform(
    script: &Script<'_>,
    (directory, restored): (&Path, Option<&Path>),
    told: &dyn Fn(f32, &str),
) -> Result<RehearsalRecord> {
    let whole = Instant::now();
    let limits = container::limits()?;
    let mut seen = Seen { timings: Timings::default(), failed: Vec::new(), noted: Vec::new() };
    seen.timings.soak = script.soak.duration().as_secs();
    told(1.0, "cloning the root");
    let started = Instant::now();
    let forward = |text: &str| told(2.0, text);
    let (clone, network, program) = set_the_stage(script, (directory, restored), &forward)?;
    let boot = |before| enter(script, &clone, &network, (&program, &limits), before);
    seen.timings.clone = seconds(started);

    told(5.0, "booting the clone as it is");
    let started = Instant::now();
    let running = boot(None)?;
    let (before, checks, tests) = look(script, directory, &running, &network, &mut seen)?;
    seen.timings.first_boot = seconds(started);

    told(15.0, "upgrading the clone");
    let started = Instant::now();
    let upgraded = upgrade(script, directory, &running, told)?;
    seen.timings.upgrade = seconds(started);
    drop(clone::take_out(&clone, inside::APT_LOG, &directory.join("apt.log")));
    seen.noted.extend(upgraded.noted.iter().cloned());
    seen.noted.extend(upgraded.unanswered.iter().map(|path| not_answered(path)));
    let left = (!upgraded.left.is_empty())
        .then(|| format!("left at an old version, and not held: {}", upgraded.left.join(" ")));
    let incomplete = upgraded.failures.iter().chain(&left);
    seen.failed.extend(incomplete.map(|why| format!("the upgrade is not complete: {why}")));

    told(80.0, "rebooting the clone");
    let started = Instant::now();
    container::stop(&script.names)?;
    seen.timings.shutdown = seconds(started);
    let mut lost = Vec::new();
    if upgraded.failures.is_empty() {
        told(85.0, "comparing the upgraded clone with what it was");
        let started = Instant::now();
        let running = boot(Some(before))?;
        let report = compare(script, directory, &running)?;
        lost = services_lost(&report);
        judge(&report, &checks, &mut seen);
        judge_tests(&tests, &functional(script, &network)?, &mut seen);
        seen.timings.second_boot = seconds(started);
    }
    seen.timings.whole = seconds(whole);
    let keeps = script.keep && container::runs(&script.names)?;
    let kept = keeps.then(|| Kept {
        unit: script.names.unit(),
        address: network.address.clone(),
        network: network.tests.clone(),
    });
    Ok(record(script, directory, (seen, upgraded, lost, clone), (limits, kept)))
}

fn set_the_stage(
    script: &Script<'_>,
    (directory, restored): (&Path, Option<&Path>),
    told: &dyn Fn(&str),
) -> Result<(Clone, Network, PathBuf)> {
    let program = directory.join(inside::PROGRAM);
    let own = std::fs::read("/proc/self/exe").map_err(RehearsalError::path("read", "/proc/self/exe"))?;
    durable::replace_file(&program, &own, 0o755)?;
    let parts = Parts {
        origin: script.origin,
        restored,
        program: &program,
        archives: script.archives,
        lists: script.lists,
        directory,
        show: script.show,
        told,
    };
    let clone = clone::make(&script.names, &parts)?;
    if let Origin::Backup(backup) = script.origin {
        let admin = clone::directory(&clone, Path::new(ADMIN))?;
        backup.has_the_packages_of(&script.package_state, &beneath::path_of(&admin))?;
    }
    // Restoring takes its time, and nobody listens to signals meanwhile.
    if script.stop.is_some_and(ToldToStop::is_told) {
        return Err(RehearsalError::Silent { stage: "clone", why: "it was told to stop".into() });
    }
    let network = network::make(&script.names)?;
    Ok((clone, network, program))
}

fn enter(
    script: &Script<'_>,
    clone: &Clone,
    network: &Network,
    (program, limits): (&Path, &[String]),
    before: Option<Baseline>,
) -> Result<Running> {
    let task = Task {
        from: script.hop.0.clone(),
        to: script.hop.1.clone(),
        settle: script.settle,
        silence: script.silence,
        renames: script.renames.clone(),
        checks: script.checks.clone(),
        policy: script.policy.clone(),
        decided: script.decided.clone(),
        answers: script.answers.clone(),
        foretold: script.foretold.clone(),
        before,
    };
    let text = serde_json::to_vec(&task)
        .map_err(|error| RehearsalError::path("write", inside::TASK)(error.into()))?;
    clone::put(clone, inside::TASK, &text)?;
    container::boot(&script.names, clone, network, (&clone::masked(clone)?, limits), program)
}

type Tested = Vec<(String, std::result::Result<(), String>)>;

fn look(
    script: &Script<'_>,
    directory: &Path,
    running: &Running,
    network: &Network,
    seen: &mut Seen,
) -> Result<(Baseline, Vec<CheckResult>, Tested)> {
    let silence = looks(script.settle.duration(), &script.checks);
    let log = directory.join(LOG);
    let said = running.stage(inside::LOOK, &script.watch(&log, silence), &|_, _| {})?;
    let Said::Looked { baseline, checks, boot } = said else { return Err(unexpected(inside::LOOK)) };
    match boot {
        boot if boot.is_emergency() => {
            let why = "its first boot, before any upgrade, ended in emergency or rescue mode".to_owned();
            return Err(RehearsalError::Silent { stage: inside::LOOK, why });
        }
        Settled::Timeout => seen.noted.push(format!(
            "the first boot of the clone was not over after {} s: some of its services were still starting when they were looked at",
            script.settle.duration().as_secs()
        )),
        boot => tracing::info!(?boot, "the clone has booted"),
    }
    seen.noted.extend(not_running(&script.host, &baseline));
    if let Ok(bytes) = baseline.encode() {
        durable::replace_file(&directory.join("baseline.json"), &bytes, 0o600)?;
    }
    Ok((*baseline, checks, functional(script, network)?))
}

/// How long a look may take without a word: services start, then all checks are tried side by side; of those that need a network some
/// never pass.
fn looks(settle: Duration, checks: &[CheckConfig]) -> Duration {
    let longest = checks.iter().map(CheckConfig::longest).max().unwrap_or_default();
    settle.saturating_add(PATIENCE).saturating_add(longest)
}

fn upgrade(
    script: &Script<'_>,
    directory: &Path,
    running: &Running,
    told: &dyn Fn(f32, &str),
) -> Result<Upgraded> {
    let silence = script.silence.duration() + PATIENCE;
    let forward = |percent: f32, text: &str| told(15.0 + percent * 0.6, text);
    let log = directory.join(LOG);
    match running.stage(inside::UPGRADE, &script.watch(&log, silence), &forward)? {
        Said::Upgraded(upgraded) => Ok(upgraded),
        _ => Err(unexpected(inside::UPGRADE)),
    }
}

fn compare(script: &Script<'_>, directory: &Path, running: &Running) -> Result<HealthReport> {
    let silence = looks(script.settle.duration() * 2, &script.checks);
    let log = directory.join(LOG);
    match running.stage(inside::COMPARE, &script.watch(&log, silence), &|_, _| {})? {
        Said::Compared { report } => Ok(*report),
        _ => Err(unexpected(inside::COMPARE)),
    }
}

fn functional(script: &Script<'_>, network: &Network) -> Result<Tested> {
    let tests = script.tests.iter();
    tests
        .map(|test| Ok((test.name.clone(), network::test(network, &test.argv, test.timeout.duration())?)))
        .collect()
}

/// Services of this machine that the clone does not have running: nothing is rehearsed about them.
fn not_running(host: &Baseline, clone: &Baseline) -> Option<String> {
    let runs = |name: &str| clone.units.iter().any(|unit| unit.name == name && unit.is_active());
    let missing: Vec<&str> = host
        .units
        .iter()
        .filter(|unit| unit.name.ends_with(".service") && unit.is_active() && !known::comes_and_goes(unit))
        .map(|unit| unit.name.as_str())
        .filter(|name| !runs(name))
        .collect();
    let named = missing.iter().take(NAMED).copied().collect::<Vec<_>>().join(" ");
    let more = match missing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!missing.is_empty()).then(|| {
        format!(
            "active on this machine and not in the clone, so nothing was rehearsed about them: {named}{more}"
        )
    })
}

fn not_answered(path: &Path) -> String {
    format!("nobody has answered about {} yet: the clone kept it as it is", show::path(path))
}

fn unexpected(stage: &'static str) -> RehearsalError {
    RehearsalError::Silent { stage, why: "it answered something else".into() }
}

/// A check that did not pass before the upgrade either says nothing about it.
fn judge(report: &HealthReport, before: &[CheckResult], seen: &mut Seen) {
    let failed_before = |name: &str| before.iter().any(|check| check.name == name && !check.passed);
    for check in before.iter().filter(|check| !check.passed) {
        seen.noted.push(format!(
            "the check {} does not pass in the clone before the upgrade: {}",
            check.name, check.detail
        ));
    }
    for check in report.checks.iter().filter(|check| !check.passed && !failed_before(&check.name)) {
        let sentence = crate::health::report::sentence(check);
        if check.required { seen.failed.push(sentence) } else { seen.noted.push(sentence) }
    }
    for change in &report.changes {
        let list = if change.is_required() { &mut seen.failed } else { &mut seen.noted };
        list.push(change.sentence.clone());
    }
    // What is in neither list: the boot itself, or that nothing was looked at.
    let known: Vec<String> = report.checks.iter().map(crate::health::report::sentence).collect();
    for sentence in &report.required_failed {
        if !known.contains(sentence) && !seen.failed.contains(sentence) {
            seen.failed.push(sentence.clone());
        }
    }
}

fn judge_tests(before: &Tested, after: &Tested, seen: &mut Seen) {
    for ((name, then), (_, now)) in before.iter().zip(after) {
        match (then, now) {
            (Err(why), _) => seen
                .noted
                .push(format!("the test {name} does not pass in the clone before the upgrade: {why}")),
            (Ok(()), Err(why)) => seen.failed.push(format!("the test {name} does not pass any more: {why}")),
            (Ok(()), Ok(())) => {}
        }
    }
}

fn services_lost(report: &HealthReport) -> Vec<String> {
    let units = [ChangeKind::Unit, ChangeKind::FailedUnit, ChangeKind::Enablement];
    let lost = report.changes.iter().filter(|change| change.is_required() && units.contains(&change.kind));
    let mut names: Vec<String> = lost.map(|change| change.name.clone()).collect();
    names.sort();
    names.dedup();
    names
}

fn record(
    script: &Script<'_>,
    directory: &Path,
    (seen, upgraded, services_lost, clone): (Seen, Upgraded, Vec<String>, Clone),
    (limits, kept): (Vec<String>, Option<Kept>),
) -> RehearsalRecord {
    RehearsalRecord {
        version: VERSION,
        id: script.names.id().to_owned(),
        from: script.hop.0.clone(),
        to: script.hop.1.clone(),
        outcome: if seen.failed.is_empty() { Outcome::Passed } else { Outcome::Failed },
        ended: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs(),
        package_state: script.package_state.clone(),
        timings: seen.timings,
        predicted_outage: seen.timings.outage(),
        overhead: seen.timings.overhead(),
        failed: seen.failed,
        noted: seen.noted,
        services_lost,
        prompts: upgraded.prompts,
        questions: upgraded.questions,
        decided_by: None,
        unanswered: upgraded.unanswered,
        foretold: upgraded.compared,
        packages: upgraded.packages,
        clone: clone.made,
        volumes: clone.volumes,
        held: clone.held,
        limits,
        logs: directory.to_owned(),
        answers: None,
        kept,
    }
}

fn seconds(since: Instant) -> u64 {
    since.elapsed().as_secs()
}

/// For whoever asks why; without it the answer is shorter, not wrong.
fn keep_console(directory: &Path, names: &Names) {
    drop(std::fs::write(directory.join("console.log"), container::console(names)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::checks::CheckKind;

    #[test]
    fn a_check_that_never_passes_is_waited_for() {
        let check = |retries| CheckConfig {
            name: "api".into(),
            required: true,
            timeout: Span::seconds(10),
            retries,
            interval: Span::seconds(5),
            kind: CheckKind::Tcp { address: "192.0.2.1:443".into() },
        };
        let (settle, own) = (Duration::from_secs(300), looks(Duration::from_secs(300), &[]));
        assert_eq!(own, settle + PATIENCE);
        // 61 tries of 10 s, 60 times 5 s between them; the others run meanwhile.
        assert_eq!(looks(settle, &[check(0), check(60), check(3)]), own + Duration::from_secs(910));
    }
}
