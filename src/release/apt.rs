//! One stage of apt or dpkg, run under watch, never asking anything, and what came of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::conffiles::policy::Choice;
use crate::release::apt_log;
use crate::release::status_fd::{StatusEvent, StatusLines};
use crate::system::answered::Input;
use crate::system::exec::User;
use crate::system::span::Span;
use crate::system::told_to_stop::ToldToStop;
use crate::system::watched::{self, Ended, Watch, WatchError};

/// The steps in which packages are looked up, fetched and changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The target's package lists are fetched into the private apt directory.
    PreviewUpdate,
    /// All packages are downloaded.
    Download,
    /// The package lists are fetched.
    Update,
    /// What can be upgraded without new packages.
    MinimalUpgrade,
    /// Everything.
    FullUpgrade,
    /// `dpkg --configure -a`.
    Repair,
    /// `apt-get check`.
    Check,
    /// Ubuntu: the updates of the old release, and its upgrader.
    OldUpdates,
    /// Ubuntu: the distribution's own upgrader.
    ReleaseUpgrader,
}

impl Stage {
    /// The stage as a person would name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PreviewUpdate => "update for the preview",
            Self::Download => "download",
            Self::Update => "update",
            Self::MinimalUpgrade => "minimal upgrade",
            Self::FullUpgrade => "full-upgrade",
            Self::Repair => "dpkg --configure -a",
            Self::Check => "apt-get check",
            Self::OldUpdates => "updates of the old release",
            Self::ReleaseUpgrader => "do-release-upgrade",
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How far a stage is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Which.
    pub stage: Stage,
    /// 0 to 100 within the stage, never going back; a stage that downloads first counts twice.
    pub percent: f32,
    /// The package that is worked on.
    pub package: Option<String>,
    /// apt's words.
    pub detail: String,
}

/// What all stages of a run share.
#[derive(Debug, Clone, Copy)]
pub struct AptSettings<'s> {
    /// The log of the run; appended to.
    pub log: &'s Path,
    /// Where downloaded packages are. On a filesystem that a rollback does not touch.
    pub archives: &'s Path,
    /// How long apt and dpkg may be silent before they are ended; at least a second more than `lock_wait`.
    pub silence: Span,
    /// How long to wait for somebody else's dpkg lock.
    pub lock_wait: Span,
    /// Ends the stage when told.
    pub stop: Option<&'s ToldToStop>,
    /// Who runs it, in directories that belong to them; `None` for root.
    pub user: Option<User>,
}

impl AptSettings<'_> {
    /// The same with less patience. Waiting for a lock is silent too, so it gets half of it at most.
    #[must_use]
    pub fn patient_for(self, silence: Span) -> Self {
        let half = Span::seconds(silence.duration().as_secs() / 2);
        Self { silence, lock_wait: self.lock_wait.min(half), ..self }
    }
}

/// How one stage went.
#[derive(Debug, Clone, PartialEq)]
pub struct StageOutcome {
    /// Which.
    pub stage: Stage,
    /// How its program ended. The exit code alone proves nothing.
    pub ended: Ended,
    /// How long it took.
    pub duration: Duration,
    /// The lines of its output that speak of errors.
    pub errors: Vec<String>,
    /// Packages that dpkg gave up on, with its words, in that order.
    pub package_errors: Vec<(String, String)>,
    /// Configuration files that dpkg had to decide about.
    pub conffile_prompts: Vec<PathBuf>,
    /// The last that was heard of its progress.
    pub last_heard: Option<String>,
    /// Its whole output.
    pub output: String,
}

impl StageOutcome {
    /// Ended by itself with 0, and no package was given up.
    #[must_use]
    pub fn well(&self) -> bool {
        self.ended.well() && self.package_errors.is_empty()
    }

    /// Why it failed, as part of a sentence; only of use when it did.
    #[must_use]
    pub fn reason(&self) -> String {
        apt_log::reason(self)
    }
}

/// A stage that could not be run, or whose output could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// It could not be run.
    #[error("failed to run the stage \"{stage}\"")]
    Run {
        /// Which.
        stage: Stage,
        /// Why.
        source: WatchError,
    },
    /// Its questions could not be answered.
    #[error("failed to make a way to answer the stage \"{stage}\"")]
    Input {
        /// Which.
        stage: Stage,
        /// Why.
        source: io::Error,
    },
    /// Its part of the log could not be read.
    #[error("failed to read the log {}", .path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The environment in which neither apt nor dpkg nor a maintainer script asks anything.
pub const QUIET: [(&str, &str); 7] = [
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
    ("APT_LISTCHANGES_FRONTEND", "none"),
    ("NEEDRESTART_SUSPEND", "1"),
    ("UCF_FORCE_CONFFOLD", "1"),
    ("PAGER", "cat"),
    ("TERM", "dumb"),
];

/// Keep the administrator's configuration file where both sides changed it; where only the package did, take the new one.
pub const CONFFILE_POLICY: [&str; 2] = ["--force-confdef", "--force-confold"];

/// Answers dpkg's question about a configuration file.
pub type Answering<'a> = &'a dyn Fn(&Path) -> Choice;

/// apt-get's options for every stage, before its command.
#[must_use]
pub fn options(settings: &AptSettings<'_>) -> Vec<String> {
    let mut options: Vec<String> = Vec::new();
    let mut set = |option: String| options.extend(["-o".to_owned(), option]);
    for policy in CONFFILE_POLICY {
        set(format!("Dpkg::Options::={policy}"));
    }
    options.extend(options_that_ask(settings));
    options
}

/// The same where dpkg asks about each configuration file, and is answered.
fn options_that_ask(settings: &AptSettings<'_>) -> Vec<String> {
    let mut options: Vec<String> = Vec::new();
    let mut set = |option: String| options.extend(["-o".to_owned(), option]);
    set("Dpkg::Use-Pty=0".into());
    set(format!("DPkg::Lock::Timeout={}", settings.lock_wait.duration().as_secs()));
    set(format!("Dir::Cache::archives={}", settings.archives.display()));
    set("APT::Keep-Downloaded-Packages=true".into());
    // Without this, an unreachable repository is a warning and exit code 0.
    set("APT::Update::Error-Mode=any".into());
    set("Acquire::Retries=3".into());
    // A pinned default release would hold everything on the old one.
    set("APT::Default-Release=".into());
    set("APT::Get::Show-User-Simulation-Note=false".into());
    set("quiet::NoProgress=true".into());
    options
}

/// Runs apt-get with [`options`] and these words. `extra` variables come on top of [`QUIET`].
///
/// # Errors
/// When it could not be run; a bad end is an outcome.
pub fn apt_get(
    stage: Stage,
    words: &[&str],
    extra: &[(&str, &str)],
    settings: &AptSettings<'_>,
    progress: &dyn Fn(Progress),
) -> Result<StageOutcome, StageError> {
    apt_get_answering(stage, words, extra, settings, None, progress)
}

/// The same, but dpkg asks about every configuration file that both sides changed, and gets these answers. Without them it keeps all.
///
/// # Errors
/// As [`apt_get`].
pub fn apt_get_answering(
    stage: Stage,
    words: &[&str],
    extra: &[(&str, &str)],
    settings: &AptSettings<'_>,
    answering: Option<Answering<'_>>,
    progress: &dyn Fn(Progress),
) -> Result<StageOutcome, StageError> {
    let arguments = |fd: i32| {
        let mut all = match answering {
            Some(_) => options_that_ask(settings),
            None => options(settings),
        };
        all.extend(["-o".to_owned(), format!("APT::Status-Fd={fd}")]);
        all.extend(words.iter().map(|word| (*word).to_owned()));
        all
    };
    run_stage(stage, "apt-get", arguments, extra, settings, answering, progress)
}

/// Finishes what an interrupted dpkg left, under the same policy or with the same answers.
///
/// # Errors
/// As [`apt_get`].
pub fn configure_all(
    settings: &AptSettings<'_>,
    answering: Option<Answering<'_>>,
    progress: &dyn Fn(Progress),
) -> Result<StageOutcome, StageError> {
    let arguments = |fd: i32| {
        let policy: Vec<String> = match answering {
            Some(_) => vec![format!("--status-fd={fd}")],
            None => CONFFILE_POLICY.map(str::to_owned).into(),
        };
        policy.into_iter().chain(["--configure", "-a"].map(str::to_owned)).collect()
    };
    run_stage(Stage::Repair, "dpkg", arguments, &[], settings, answering, progress)
}

fn run_stage(
    stage: Stage,
    tool: &str,
    arguments: impl FnOnce(i32) -> Vec<String>,
    extra: &[(&str, &str)],
    settings: &AptSettings<'_>,
    answering: Option<Answering<'_>>,
    progress: &dyn Fn(Progress),
) -> Result<StageOutcome, StageError> {
    let environment: Vec<(&str, &str)> = QUIET.iter().chain(extra).copied().collect();
    // apt is silent while it waits for a lock.
    let silence = settings.silence.duration().max(settings.lock_wait.duration() + Duration::from_secs(1));
    let input =
        answering.map(|_| Input::new()).transpose().map_err(|source| StageError::Input { stage, source })?;
    let watch = Watch { log: settings.log, silence, stop: settings.stop, input: input.as_ref(), room: None };
    let log_failed = |source| StageError::Log { path: settings.log.to_owned(), source };
    let (mut log, start) = open_at_end(settings.log).map_err(log_failed)?;
    let began = Instant::now();
    let mut heard = Heard::new(stage, answering.zip(input.as_ref()), progress);
    let ended =
        watched::run_as(settings.user, tool, arguments, &environment, &watch, &mut |bytes| heard.take(bytes))
            .map_err(|source| StageError::Run { stage, source })?;
    let output = read_from(&mut log, start).map_err(log_failed)?;
    Ok(StageOutcome {
        stage,
        ended,
        duration: began.elapsed(),
        errors: apt_log::error_lines(&output),
        package_errors: heard.package_errors,
        conffile_prompts: heard.conffile_prompts,
        last_heard: heard.last,
        output,
    })
}

fn open_at_end(path: &Path) -> io::Result<(File, u64)> {
    let mut log = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let end = log.seek(SeekFrom::End(0))?;
    Ok((log, end))
}

fn read_from(log: &mut File, start: u64) -> io::Result<String> {
    log.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What came through the progress pipe.
struct Heard<'p> {
    stage: Stage,
    /// What answers dpkg, and where it reads.
    answering: Option<(Answering<'p>, &'p Input)>,
    progress: &'p dyn Fn(Progress),
    lines: StatusLines,
    package_errors: Vec<(String, String)>,
    conffile_prompts: Vec<PathBuf>,
    last: Option<String>,
    /// The highest percent so far; apt's own goes back a little when dpkg meets work that was not planned.
    highest: f32,
    unpacking: bool,
}

impl<'p> Heard<'p> {
    fn new(
        stage: Stage,
        answering: Option<(Answering<'p>, &'p Input)>,
        progress: &'p dyn Fn(Progress),
    ) -> Self {
        Self {
            stage,
            answering,
            progress,
            lines: StatusLines::default(),
            package_errors: Vec::new(),
            conffile_prompts: Vec::new(),
            last: None,
            highest: 0.0,
            unpacking: false,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for event in self.lines.push(bytes) {
            match event {
                StatusEvent::Download { percent, text } => self.tell(percent, None, text),
                StatusEvent::Package { package, percent, text } => self.tell(percent, Some(package), text),
                StatusEvent::PackageError { package, text } => self.package_errors.push((package, text)),
                StatusEvent::ConffilePrompt { path } => self.answer(path.into()),
                StatusEvent::MediaChange { .. } | StatusEvent::Unknown(_) => {}
            }
        }
    }

    fn answer(&mut self, path: PathBuf) {
        if let Some((answering, input)) = self.answering {
            // dpkg reads a line, and its first letter counts.
            let answer: &[u8] = if answering(&path) == Choice::Take { b"y\n" } else { b"n\n" };
            input.answer(answer);
        }
        self.conffile_prompts.push(path);
    }

    fn tell(&mut self, percent: f32, package: Option<String>, detail: String) {
        // Downloads repeat the same line many times a second.
        if self.last.as_deref() == Some(&detail) {
            return;
        }
        self.last = Some(detail.clone());
        // Downloading counts to 100, and then dpkg does so again.
        if package.is_some() && !self.unpacking {
            self.unpacking = true;
            self.highest = 0.0;
        }
        self.highest = self.highest.max(percent);
        let package = package.filter(|package| package != "dpkg-exec");
        (self.progress)(Progress { stage: self.stage, percent: self.highest, package, detail });
    }
}
