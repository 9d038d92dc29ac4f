//! Ubuntu by its own upgrader, `do-release-upgrade`: prepared, driven, watched and judged.
//!
//! In the order of the story: [`findings`] look before anything begins · [`prepare`] brings the old release up to date · [`sources`] keeps
//! the apt sources · [`settings`] are put in place, with the [`environment`] in which nothing is asked · [`drive`] starts the program and
//! watches it · [`judge`] says whether it did its work · [`scripts`] does what it left out. What they share: [`log`] and [`terminal`]
//! understand what it writes, [`follow`] reads it while it grows, [`phase`] says how far it is. [`rescue_sshd`] is a second way in.

pub mod drive;
pub mod environment;
pub mod findings;
pub mod follow;
pub mod judge;
pub mod log;
pub mod phase;
pub mod prepare;
pub mod rescue_sshd;
pub mod scripts;
pub mod settings;
pub mod sources;
pub mod terminal;

use std::path::Path;
use std::time::Duration;

use crate::conffiles::left;
use crate::release::apt::{self, Progress, Stage, StageError, StageOutcome};
use crate::release::completion::{self, CompletionError};
use crate::release::hop::Hop;
use crate::release::upgrade::{self, UpgradeError, UpgradeReport, UpgradeSettings};
use drive::{Drive, DriveError, Seen, Upgrader};
use judge::{Measured, Told, Verdict};

/// How often the logs are looked at.
const INTERVAL: Duration = Duration::from_millis(500);

/// Ubuntu's upgrader could not be prepared, driven or judged: nobody knows what became of it.
#[derive(Debug, thiserror::Error)]
pub enum UbuntuError {
    /// What comes before it.
    #[error("failed to prepare the old release")]
    Prepare(#[from] prepare::PrepareError),
    /// The sources could not be kept or put back.
    #[error("failed to keep the apt sources safe")]
    Sources(#[from] sources::OriginalsError),
    /// Its settings.
    #[error("failed to set up the upgrader")]
    Settings(#[from] settings::SettingsError),
    /// The overrides of others.
    #[error("failed to read the overrides in {}", settings::OVERRIDES)]
    Overrides(#[source] std::io::Error),
    /// The program.
    #[error("failed to watch the upgrader")]
    Drive(#[from] DriveError),
    /// What is there afterwards.
    #[error("failed to find out what the upgrader has done")]
    Completion(#[from] CompletionError),
    /// The last look at the packages.
    #[error("failed to look at the packages afterwards")]
    Check(#[from] StageError),
}

/// Upgrades the running system by its distribution's upgrader; [`crate::release::upgrade::upgrade`] comes here by itself.
///
/// The report's last stage is `apt-get check`, and only where everything else was judged complete.
///
/// # Errors
/// [`UpgradeError::Failed`] says why, and whether packages had been changed: if not, the sources have been put back.
pub fn upgrade(
    hop: &Hop,
    settings: &UpgradeSettings<'_>,
    progress: &dyn Fn(Progress),
) -> Result<UpgradeReport, UpgradeError> {
    let root = Path::new("/");
    let before = left::leftovers(root)?;
    let mut report = UpgradeReport {
        hop: *hop,
        rewritten: Vec::new(),
        findings: Vec::new(),
        stages: Vec::new(),
        conffiles: Vec::new(),
    };
    let ended = all_steps(&mut report, root, settings, progress);
    let taken = upgrade::take_conffiles(&mut report, root, &before, settings.decisions);
    match ended {
        Ok(None) => upgrade::carried_out(taken?, report),
        Ok(Some((stage, reason))) => Err(UpgradeError::Failed { stage, reason, report: Box::new(report) }),
        Err(source) => Err(UpgradeError::Ubuntu { source: Box::new(source), report: Box::new(report) }),
    }
}

/// Takes away what a process that died during an upgrade left in the system: its settings. Repeatable.
///
/// # Errors
/// Names the file.
pub fn sweep(root: &Path, kept_sources: &Path) -> Result<bool, settings::SettingsError> {
    settings::sweep(root, kept_sources)
}

type FailedStage = Option<(Stage, String)>;

fn all_steps(
    report: &mut UpgradeReport,
    root: &Path,
    settings: &UpgradeSettings<'_>,
    progress: &dyn Fn(Progress),
) -> Result<FailedStage, UbuntuError> {
    // Before apt is asked to do anything: options of a dead process would still count.
    settings::sweep(root, settings.kept_sources)?;
    if let Some(not) = prepare::prepare(&mut report.stages, &settings.apt, progress)? {
        return Ok(Some((not.stage, not.reason)));
    }
    let scripts = scripts::named(root).map_err(UbuntuError::Overrides)?;
    sources::keep(root, settings.kept_sources)?;
    let in_place = settings::Settings::put(root, settings.kept_sources, settings.apt.archives)?;
    let driven = drive_it(root, settings, progress);
    let upgraders_sshd = rescue_sshd::end_upgraders_own();
    let taken_away = in_place.take_away();
    let driven = driven?;
    if upgraders_sshd {
        tracing::warn!("the upgrader ran below an ssh login and had started a second sshd, which was ended");
    }
    let verdict = judge_it(report, root, settings.kept_sources, &driven)?;
    report.stages.push(outcome(&driven));
    if let (Verdict::Failed { .. }, Err(error)) = (&verdict, &taken_away) {
        // Why it failed is worth more, and what a dead process leaves behind is taken away at the next start.
        tracing::warn!("the upgrader's settings were not taken away: {}", crate::error::chain(error));
    } else {
        taken_away?;
    }
    if let Verdict::Failed { past_no_return, why } = verdict {
        let consequence =
            if past_no_return { "packages had been changed" } else { "no package was changed by it" };
        return Ok(Some((Stage::ReleaseUpgrader, format!("{why} ({consequence})"))));
    }
    for trouble in scripts::finish(root, &scripts) {
        tracing::warn!("after the upgrade: {trouble}");
    }
    let check = apt::apt_get(Stage::Check, &["check"], &[], &settings.apt, progress)?;
    let failed = (!check.well()).then(|| (Stage::Check, check.reason()));
    report.stages.push(check);
    Ok(failed)
}

fn drive_it(
    root: &Path,
    settings: &UpgradeSettings<'_>,
    progress: &dyn Fn(Progress),
) -> Result<Drive, DriveError> {
    let upgrader = Upgrader {
        program: environment::PROGRAM,
        arguments: &environment::ARGUMENTS,
        environment: &environment::VARIABLES,
        root,
        archives: settings.apt.archives,
        output: settings.apt.log,
        silence: settings.apt.silence,
        interval: INTERVAL,
        stop: settings.apt.stop,
    };
    drive::drive(&upgrader, &|seen| progress(shown(seen)))
}

fn shown(seen: Seen) -> Progress {
    Progress {
        stage: Stage::ReleaseUpgrader,
        percent: seen.percent,
        package: seen.package,
        detail: seen.phase.map_or("fetching the upgrade tool", |phase| phase.name()).to_owned(),
    }
}

/// When it failed before packages were changed, the sources are put back before anything else: nothing that could fail comes first.
fn judge_it(
    report: &mut UpgradeReport,
    root: &Path,
    kept_sources: &Path,
    driven: &Drive,
) -> Result<Verdict, UbuntuError> {
    let story = &driven.story;
    let traceback = driven.traceback.clone();
    let mut verdict = judge::judge(&Told { ended: driven.ended, story, output: &driven.output, traceback });
    if verdict == Verdict::Complete {
        let facts = completion::completion_facts(root)?;
        verdict = judge::judge_machine(
            story,
            &Measured {
                version: &facts.os_release.version_id,
                target: report.hop.to().version,
                audit: &facts.audit,
                check: facts.check.as_deref(),
                held: &facts.held,
            },
        );
    }
    if let Verdict::Failed { past_no_return: false, why } = &mut verdict {
        match sources::put_back(root, kept_sources) {
            Ok(touched) => report.rewritten = touched,
            Err(error) => {
                why.push_str("; and its apt sources could not be put back: ");
                why.push_str(&crate::error::chain(&error));
            }
        }
    }
    Ok(verdict)
}

/// In the form of a stage of apt. The sum at the end of its output is ours, in apt-get's words: the upgrader prints none.
fn outcome(driven: &Drive) -> StageOutcome {
    let story = &driven.story;
    let package_errors = story.markers.iter().filter_map(|marker| match marker {
        log::Marker::Dpkg { package, words } => Some((package.clone(), words.clone())),
        _ => None,
    });
    StageOutcome {
        stage: Stage::ReleaseUpgrader,
        ended: driven.ended,
        duration: driven.duration,
        errors: story.markers.iter().map(log::Marker::sentence).collect(),
        package_errors: package_errors.collect(),
        conffile_prompts: story.conffiles.clone(),
        last_heard: story.phase.map(|phase| phase.name().to_owned()),
        output: format!(
            "{}\n{}\n{} upgraded, {} newly installed, {} to remove and {} not upgraded.\n",
            driven.output,
            driven.terminal,
            story.upgrade.len(),
            story.install.len(),
            story.remove.len(),
            story.kept_back.len()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::simulation;
    use crate::system::watched::Ended;

    #[test]
    fn as_a_stage_it_says_what_changed() {
        let mut reader = log::LogReader::default();
        reader.push(include_bytes!("../../../tests/fixtures/ubuntu/success.log"));
        let driven = Drive {
            ended: Ended::Exit(0),
            duration: Duration::from_secs(500),
            story: reader.story().clone(),
            output: "Checking for a new Ubuntu release\n".into(),
            terminal: "Configuration file '/etc/login.defs'\r\n ==> Keeping old config file as default.\r\n"
                .into(),
            traceback: None,
            left_running: 0,
        };
        let outcome = outcome(&driven);
        assert!(outcome.well() && outcome.errors.is_empty());
        let sum = simulation::parse_summary(&outcome.output).unwrap();
        assert_eq!((sum.upgraded, sum.new, sum.removed, sum.left), (4, 2, 1, 0));
        assert_eq!(outcome.conffile_prompts.len(), 1);
        let shown = shown(Seen { phase: None, percent: 0.0, package: None });
        assert_eq!(shown.detail, "fetching the upgrade tool");
    }

    /// The machine of this test has no os-release and no packages: after a crash nothing of it may be asked first.
    #[test]
    fn a_crash_before_packages_puts_the_sources_back_and_keeps_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let (root, kept) = (dir.path().join("root"), dir.path().join("kept"));
        let file = root.join("etc/apt/sources.list.d/ubuntu.sources");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "Suites: noble\n").unwrap();
        sources::keep(&root, &kept).unwrap();
        std::fs::write(&file, "Suites: resolute\n").unwrap();
        let crash = |log: &[u8]| {
            let mut reader = log::LogReader::default();
            reader.push(log);
            Drive {
                ended: Ended::Exit(1),
                duration: Duration::from_secs(50),
                story: reader.story().clone(),
                output: String::new(),
                terminal: String::new(),
                traceback: Some("AttributeError: made up".into()),
                left_running: 0,
            }
        };
        let mut report = UpgradeReport {
            hop: Hop::between("noble", "resolute").unwrap(),
            rewritten: Vec::new(),
            findings: Vec::new(),
            stages: Vec::new(),
            conffiles: Vec::new(),
        };
        let after = crash(include_bytes!("../../../tests/fixtures/ubuntu/failure-after.log"));
        let verdict = judge_it(&mut report, &root, &kept, &after).unwrap();
        assert!(matches!(verdict, Verdict::Failed { past_no_return: true, .. }), "{verdict:?}");
        assert!(report.rewritten.is_empty(), "packages are of the new release, and so stay the sources");

        let before = crash(include_bytes!("../../../tests/fixtures/ubuntu/uncaught.main.log"));
        let Verdict::Failed { past_no_return: false, why } =
            judge_it(&mut report, &root, &kept, &before).unwrap()
        else {
            panic!("judged otherwise")
        };
        assert!(why.contains("AttributeError: made up"), "{why}");
        assert_eq!(report.rewritten, [Path::new("/etc/apt/sources.list.d/ubuntu.sources")]);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "Suites: noble\n");

        let nothing_kept = dir.path().join("none");
        let verdict = judge_it(&mut report, &root, &nothing_kept, &before).unwrap();
        assert!(
            matches!(verdict, Verdict::Failed { why, .. } if why.contains("AttributeError") && why.contains("put back"))
        );
    }
}
