//! Ubuntu's upgrader at work: started in a session of its own with nobody to ask, watched by its logs, ended when they fall silent.
//!
//! Its own watch over hanging scripts crashes it (on Python 3 it writes a text where bytes are wanted), and leaves dpkg behind. Ours looks
//! at everything that grows while it lives: its logs, dpkg's log and status, the downloads.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::follow::{Fresh, Tail};
use super::log::{LogReader, Story, last_traceback};
use super::phase::Phase;
use super::terminal::{Terminal, progress_line};
use crate::system::marked;
use crate::system::span::Span;
use crate::system::told_to_stop::ToldToStop;
use crate::system::watched::{self, Ended, Watch, WatchError};

/// Where it logs, below the root.
pub const LOG_DIRECTORY: &str = "var/log/dist-upgrade";
/// The variable by which everything that it started is known.
const MARK: &str = "SAFE_UPGRADE_DRIVES";
/// How long what it left running may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// The watch below ours never ends anything by itself: it sees only what is printed, which may be nothing for an hour.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What is started, and how it is watched.
#[derive(Debug, Clone, Copy)]
pub struct Upgrader<'u> {
    /// The program: a name, or an absolute path.
    pub program: &'u str,
    /// Its arguments.
    pub arguments: &'u [&'u str],
    /// Its environment, on top of `PATH`, `HOME` and `LC_ALL`.
    pub environment: &'u [(&'u str, &'u str)],
    /// The root below which it logs.
    pub root: &'u Path,
    /// Where downloads arrive.
    pub archives: &'u Path,
    /// Where what it prints goes; appended to.
    pub output: &'u Path,
    /// How long nothing may grow.
    pub silence: Span,
    /// How often is looked.
    pub interval: Duration,
    /// Ends it when told.
    pub stop: Option<&'u ToldToStop>,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// In which phase; `None` before its log begins.
    pub phase: Option<Phase>,
    /// Of the whole, 0 to 100, never going back.
    pub percent: f32,
    /// The package that dpkg works on.
    pub package: Option<String>,
}

/// What came of it. Judged elsewhere.
#[derive(Debug, Clone)]
pub struct Drive {
    /// How the program ended.
    pub ended: Ended,
    /// How long it took.
    pub duration: Duration,
    /// What its log told.
    pub story: Story,
    /// What it printed.
    pub output: String,
    /// What dpkg printed.
    pub terminal: String,
    /// The exception at the end of the last traceback, if there is one.
    pub traceback: Option<String>,
    /// How many programs it had left running and that were ended.
    pub left_running: usize,
}

/// A program that could not be driven.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// It could not be started or waited for.
    #[error("failed to run the upgrader")]
    Watch(#[from] WatchError),
    /// A log could not be read: nobody would know how far it is.
    #[error("failed to follow {}", .path.display())]
    Log {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What it left running could not be found or ended.
    #[error("failed to end what the upgrader left running")]
    LeftRunning(#[source] io::Error),
    /// Nothing could be set up to watch it.
    #[error("failed to prepare the watch over the upgrader")]
    Prepare(#[source] io::Error),
}

/// Starts it and watches it to its end.
///
/// # Errors
/// When it could not be started or watched; it has been ended then. However it ended by itself is no error.
pub fn drive(upgrader: &Upgrader<'_>, progress: &dyn Fn(Seen)) -> Result<Drive, DriveError> {
    let began = Instant::now();
    let mark = format!("{}-{:?}", std::process::id(), began);
    let mut logs = Logs::open(upgrader)?;
    let printed = fs::metadata(upgrader.output).map_or(0, |facts| facts.len());
    let ended = watch(upgrader, &mark, &mut logs, progress);
    // A crash leaves dpkg behind, in a session of its own; nothing may change packages while we judge.
    let left = match &ended {
        Ok(Ended::Exit(0)) => marked::bearing(MARK, &mark).map(|_| 0),
        _ => marked::end(MARK, &mark, GRACE),
    };
    let ended = ended?;
    let left_running = left.map_err(DriveError::LeftRunning)?;
    logs.read()?;
    logs.main_reader.close();
    logs.tell(progress);
    let output = read_from(upgrader.output, printed)?;
    Ok(Drive {
        ended,
        duration: began.elapsed(),
        traceback: last_traceback(&logs.resolver_text).or_else(|| last_traceback(&output)),
        story: logs.main_reader.story().clone(),
        terminal: logs.terminal_text,
        output,
        left_running,
    })
}

fn watch(
    upgrader: &Upgrader<'_>,
    mark: &str,
    logs: &mut Logs,
    progress: &dyn Fn(Seen),
) -> Result<Ended, DriveError> {
    let inner = ToldToStop::new().map_err(DriveError::Prepare)?;
    let mut environment = upgrader.environment.to_vec();
    environment.push((MARK, mark));
    let arguments: Vec<String> = upgrader.arguments.iter().map(|word| (*word).to_owned()).collect();
    let (sender, ended) = channel();
    thread::scope(|scope| {
        let (inner, environment) = (&inner, &environment);
        scope.spawn(move || {
            let watch =
                Watch { log: upgrader.output, silence: NEVER, stop: Some(inner), input: None, room: None };
            let ended = watched::run(upgrader.program, |_| arguments, environment, &watch, &mut |_| {});
            // Nobody listens any more only when the watch below failed, and then it has told us to stop.
            drop(sender.send(ended));
        });
        let mut life = Life::begin(upgrader);
        let (mut silent, mut failed) = (false, None);
        loop {
            match ended.recv_timeout(upgrader.interval) {
                Ok(ended) => {
                    let ended = ended?;
                    return match failed {
                        Some(error) => Err(error),
                        None if silent => Ok(Ended::Silent(upgrader.silence.duration())),
                        None => Ok(ended),
                    };
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(DriveError::Prepare(io::Error::other(
                        "the thread that waited for it is gone",
                    )));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Err(error) = logs.read() {
                failed = Some(error);
                inner.tell();
            }
            logs.tell(progress);
            silent = silent || life.quiet_for(upgrader) >= upgrader.silence.duration();
            if silent || upgrader.stop.is_some_and(ToldToStop::is_told) {
                inner.tell();
            }
        }
    })
}

/// The logs that are followed, and what they have told.
struct Logs {
    directory: PathBuf,
    main: Tail,
    main_reader: LogReader,
    resolver: Tail,
    resolver_text: String,
    terminal: Tail,
    terminal_reader: Terminal,
    terminal_text: String,
    dpkg_percent: Option<f32>,
    highest: f32,
    told: Option<Seen>,
}

impl Logs {
    fn open(upgrader: &Upgrader<'_>) -> Result<Self, DriveError> {
        let directory = upgrader.root.join(LOG_DIRECTORY);
        let tail = |name: &str| {
            let path = directory.join(name);
            Tail::from_end(&path).map_err(|source| DriveError::Log { path, source })
        };
        Ok(Self {
            main: tail("main.log")?,
            resolver: tail("apt.log")?,
            terminal: tail("apt-term.log")?,
            main_reader: LogReader::default(),
            resolver_text: String::new(),
            terminal_reader: Terminal::default(),
            terminal_text: String::new(),
            dpkg_percent: None,
            highest: 0.0,
            told: None,
            directory,
        })
    }

    fn read(&mut self) -> Result<(), DriveError> {
        let failed = |name: &str, source| DriveError::Log { path: self.directory.join(name), source };
        for fresh in self.main.read().map_err(|source| failed("main.log", source))? {
            match fresh {
                Fresh::More(bytes) => {
                    let before = self.main_reader.story().past_no_return();
                    self.main_reader.push(&bytes);
                    if !before && self.main_reader.story().past_no_return() {
                        self.terminal_reader.renew();
                    }
                }
                Fresh::Renewed => self.main_reader.renew(),
            }
        }
        for fresh in self.resolver.read().map_err(|source| failed("apt.log", source))? {
            match fresh {
                Fresh::More(bytes) => self.resolver_text.push_str(&String::from_utf8_lossy(&bytes)),
                Fresh::Renewed => self.resolver_text.clear(),
            }
        }
        for fresh in self.terminal.read().map_err(|source| failed("apt-term.log", source))? {
            if let Fresh::More(bytes) = fresh {
                self.terminal_reader.push(&bytes);
                self.terminal_text.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
        self.dpkg_percent = dpkg_percent(&self.directory);
        Ok(())
    }

    fn tell(&mut self, progress: &dyn Fn(Seen)) {
        let story = self.main_reader.story();
        let counted =
            self.terminal_reader.percent(story.install.len() + story.upgrade.len(), story.remove.len());
        let within = match story.phase {
            Some(Phase::Install) => counted.unwrap_or(0.0).max(self.dpkg_percent.unwrap_or(0.0)),
            _ => 0.0,
        };
        let percent = story.phase.map_or(0.0, |phase| phase.percent(within));
        self.highest = self.highest.max(percent);
        let package = (story.phase == Some(Phase::Install)).then(|| self.terminal_reader.package()).flatten();
        let seen = Seen { phase: story.phase, percent: self.highest, package: package.map(str::to_owned) };
        if self.told.as_ref() != Some(&seen) {
            self.told = Some(seen.clone());
            progress(seen);
        }
    }
}

/// What the upgrader's own progress log says, of the real transaction: number 0 is the simulation. It is written in large pieces, so it may
/// lag behind what dpkg prints.
fn dpkg_percent(directory: &Path) -> Option<f32> {
    let text = fs::read_to_string(directory.join("dpkg-progress.1.log")).ok()?;
    text.lines().rev().find_map(progress_line).map(|(percent, _)| percent)
}

/// When something last grew.
struct Life {
    signs: Vec<Sign>,
    last: Instant,
}

/// Size, time and identity of one file.
type Sign = Option<(u64, i64, i64, u64)>;

/// Directories of which every file counts, and files; below the root.
const GROWING: [&str; 4] =
    [LOG_DIRECTORY, "var/lib/dpkg/updates", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"];
const FILES: [&str; 2] = ["var/log/dpkg.log", "var/lib/dpkg/status"];

impl Life {
    fn begin(upgrader: &Upgrader<'_>) -> Self {
        Self { signs: signs(upgrader), last: Instant::now() }
    }

    fn quiet_for(&mut self, upgrader: &Upgrader<'_>) -> Duration {
        let now = signs(upgrader);
        if now != self.signs {
            self.signs = now;
            self.last = Instant::now();
        }
        self.last.elapsed()
    }
}

fn signs(upgrader: &Upgrader<'_>) -> Vec<Sign> {
    use std::os::unix::fs::MetadataExt;
    let sign = |path: &Path| {
        let facts = fs::symlink_metadata(path).ok()?;
        Some((facts.len(), facts.mtime(), facts.mtime_nsec(), facts.ino()))
    };
    let directories = GROWING.iter().map(|below| upgrader.root.join(below));
    let mut signs = vec![sign(upgrader.output), sign(upgrader.archives)];
    signs.extend(FILES.iter().map(|below| sign(&upgrader.root.join(below))));
    for directory in directories.chain([upgrader.archives.join("partial")]) {
        // Not there, or just moved away: then it says nothing this time.
        let mut found: Vec<Sign> = fs::read_dir(&directory)
            .map(|entries| entries.flatten().map(|entry| sign(&entry.path())).collect())
            .unwrap_or_default();
        found.sort();
        signs.extend(found);
    }
    signs
}

fn read_from(path: &Path, start: u64) -> Result<String, DriveError> {
    let bytes = fs::read(path).map_err(|source| DriveError::Log { path: path.to_owned(), source })?;
    let start = usize::try_from(start).unwrap_or(usize::MAX).min(bytes.len());
    Ok(String::from_utf8_lossy(&bytes[start..]).into_owned())
}

#[cfg(test)]
#[path = "drive_tests.rs"]
mod tests;
