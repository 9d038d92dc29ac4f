//! What Ubuntu's upgrader writes into `main.log`, understood line by line as it comes. Pure: bytes in, the story out.
//!
//! A line is `2026-04-23 10:15:30,123 LEVEL message`; a message may go on in following lines that have no time. Nothing else tells how
//! far the upgrader is, and nothing else tells why it gave up: its errors are printed nowhere.

use std::path::PathBuf;

use super::phase::{POINT_OF_NO_RETURN, Phase};

/// The levels of Python's logging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// `DEBUG`
    Debug,
    /// `INFO`
    Info,
    /// `WARNING`
    Warning,
    /// `ERROR`
    Error,
    /// `CRITICAL`
    Critical,
}

/// A failure that the log names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marker {
    /// `abort called`: it gave up before packages changed and put the sources back.
    Abort,
    /// `got an error from dpkg for pkg`.
    Dpkg {
        /// Which package.
        package: String,
        /// dpkg's words.
        words: String,
    },
    /// `SystemError from cache.commit()`: apt gave up while it changed packages.
    Commit(String),
    /// An exception that nobody caught.
    Uncaught(String),
    /// It gave up downloading.
    Download(String),
    /// The resolver found no way.
    Resolver(String),
    /// There is not enough room.
    Space(String),
    /// An essential package was not to be had from the new sources.
    Unavailable(String),
}

impl Marker {
    /// What it means, as part of a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Abort => "the upgrader gave up".into(),
            Self::Dpkg { package, words } => format!("dpkg failed for {package}: {words}"),
            Self::Commit(words) => format!("apt gave up while it changed packages: {words}"),
            Self::Uncaught(words) => format!("the upgrader crashed: {words}"),
            Self::Download(words) => format!("the download failed: {words}"),
            Self::Resolver(words) => format!("apt found no way to upgrade: {words}"),
            Self::Space(words) => format!("there is not enough room: {words}"),
            Self::Unavailable(words) => format!("the new sources lack an essential package: {words}"),
        }
    }
}

/// All that the log has told so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Story {
    /// The furthest phase that was reached; `None` while nothing was logged.
    pub phase: Option<Phase>,
    /// The upgrader's version, of the new release.
    pub version: Option<String>,
    /// From which release to which, in the log's words.
    pub hop: Option<(String, String)>,
    /// Named failures, in order.
    pub markers: Vec<Marker>,
    /// First lines of all ERROR messages with their continuation, in order. Some of them are harmless.
    pub errors: Vec<String>,
    /// Configuration files that dpkg asked about.
    pub conffiles: Vec<PathBuf>,
    /// Packages that stay at the old version although there is a new one.
    pub kept_back: Vec<String>,
    /// Packages that it installs anew.
    pub install: Vec<String>,
    /// Packages that it upgrades.
    pub upgrade: Vec<String>,
    /// Packages that it removes.
    pub remove: Vec<String>,
    /// How often it began to change packages, the simulation included. Commits before the changes were calculated do not count:
    /// the upgrader repairs broken packages with them, or keeps flatpak.
    pub commits: u32,
    /// An error that the next commit only tries again.
    retrying: bool,
    /// Whether the last entry was an error, and whether it also was a marker.
    open: Open,
}

/// Where a continuation line belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Open {
    #[default]
    Nothing,
    Error,
    Marker,
}

impl Story {
    /// Whether packages have been changed; the upgrader puts nothing back from then on.
    #[must_use]
    pub fn past_no_return(&self) -> bool {
        self.phase.is_some_and(|phase| phase >= POINT_OF_NO_RETURN)
    }

    /// Whether it reached its last line.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.phase == Some(Phase::Finished)
    }

    /// How many packages it changes.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.install.len() + self.upgrade.len() + self.remove.len()
    }

    /// Takes one line of the log, without its end.
    fn line(&mut self, line: &str) {
        match split(line) {
            Some((level, message)) => self.entry(level, message),
            None => self.continued(line),
        }
    }

    fn entry(&mut self, level: Level, message: &str) {
        self.open = Open::Nothing;
        if matches!(level, Level::Error | Level::Critical) {
            self.errors.push(message.to_owned());
            self.open = Open::Error;
        }
        if let Some(marker) = marker(level, message) {
            // Both halves of giving up say the same.
            if self.markers.last() != Some(&marker) {
                self.markers.push(marker);
            }
            self.open = Open::Marker;
        }
        if message.starts_with("IOError in cache.commit()") {
            self.retrying = true;
        }
        if let Some(path) = quoted_after(message, "got a conffile-prompt from dpkg for file: ") {
            self.conffiles.push(path.into());
        }
        self.lists(message);
        self.advance(level, message);
    }

    fn continued(&mut self, line: &str) {
        if self.open == Open::Nothing || line.trim().is_empty() {
            return;
        }
        if let Some(last) = self.errors.last_mut() {
            last.push('\n');
            last.push_str(line);
        }
        // The last line of a traceback is the exception itself.
        if self.open == Open::Marker
            && let Some(Marker::Uncaught(words)) = self.markers.last_mut()
            && !line.starts_with([' ', '\t'])
            && !line.starts_with("Traceback")
        {
            line.trim().clone_into(words);
        }
        if self.open == Open::Marker
            && let Some(Marker::Commit(words) | Marker::Resolver(words)) = self.markers.last_mut()
            && words.is_empty()
        {
            line.trim().clone_into(words);
        }
    }

    /// The last calculation counts: there is one before the simulation and one after it.
    fn lists(&mut self, message: &str) {
        let names = |prefix: &str| -> Option<Vec<String>> {
            Some(message.strip_prefix(prefix)?.split_whitespace().map(str::to_owned).collect())
        };
        if self.past_no_return() {
            return;
        }
        if let Some(found) = names("Upgradable, but held- back:") {
            self.kept_back = found;
        } else if let Some(found) = names("Remove:") {
            self.remove = found;
        } else if let Some(found) = names("Install:") {
            self.install = found;
        } else if let Some(found) = names("Upgrade:") {
            self.upgrade = found;
        }
    }

    fn advance(&mut self, level: Level, message: &str) {
        if let Some(rest) = message.strip_prefix("release-upgrader version '") {
            self.start_again();
            self.version = rest.split('\'').next().map(str::to_owned);
            return self.reach(Phase::Started);
        }
        if let Some(rest) = message.strip_prefix("Upgrading from ") {
            let clean = |text: &str| text.trim_matches(['\'', '"', ' ']).to_owned();
            self.hop = rest.split_once(" to ").map(|(from, to)| (clean(from), clean(to)));
            return self.reach(Phase::Planned);
        }
        if level == Level::Info && message == "cache.commit()" {
            return self.commit();
        }
        let known = STEPS.iter().find(|(start, _)| message.starts_with(start));
        if let Some((_, phase)) = known {
            self.reach(*phase);
        }
    }

    /// Counted only once the changes are known, and not when it tries again what failed.
    fn commit(&mut self) {
        if self.phase.is_none_or(|phase| phase < Phase::Calculated) {
            return;
        }
        if std::mem::take(&mut self.retrying) {
            return;
        }
        self.commits += 1;
        self.reach(if self.commits == 1 { Phase::Simulation } else { Phase::Install });
    }

    /// The upgrader begins anew with a log of its own after it has fetched what it needs itself. What was changed stays changed.
    fn start_again(&mut self) {
        if !self.past_no_return() {
            *self = Self::default();
        }
    }

    fn reach(&mut self, phase: Phase) {
        self.phase = self.phase.max(Some(phase));
    }
}

/// How a message begins, and the phase that it means.
const STEPS: [(&str, Phase); 20] = [
    ("running doUpdate() (showErrors=False)", Phase::OldLists),
    ("doPostInitialUpdate", Phase::BlockingChecks),
    ("running Quirks.PostInitialUpdate", Phase::BlockingChecks),
    ("migrateToDeb822Sources()", Phase::Sources),
    ("updateDeb822Sources()", Phase::Sources),
    ("updateSourcesList()", Phase::Sources),
    ("rewriteSourcesList", Phase::Sources),
    ("rewriteDeb822Sources", Phase::Sources),
    ("running doUpdate() (showErrors=True)", Phase::NewLists),
    ("Foreign (after rewriting sources):", Phase::Foreign),
    ("About to apply the following changes", Phase::Calculated),
    ("Keep at same version:", Phase::Calculated),
    ("dir '", Phase::Space),
    ("toinstall:", Phase::Confirmed),
    ("toupgrade:", Phase::Confirmed),
    // Nothing announces the download: it follows the last of the three lists.
    ("toremove:", Phase::Download),
    ("running Quirks.PostUpgrade", Phase::PostUpgrade),
    ("running Quirks.PostCleanup", Phase::Cleanup),
    ("Running PostInstallScript", Phase::Cleanup),
    ("confirmRestart() called", Phase::Finished),
];

/// Lines as they come, in pieces of any size.
#[derive(Debug, Clone, Default)]
pub struct LogReader {
    partial: Vec<u8>,
    story: Story,
}

impl LogReader {
    /// Takes the next bytes of the log.
    pub fn push(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.story.line(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        }
    }

    /// The log was moved away or emptied: what comes next begins with a line of its own.
    pub fn renew(&mut self) {
        self.close();
    }

    /// The end of the log: its last line counts also without a line end.
    pub fn close(&mut self) {
        if !self.partial.is_empty() {
            let line = std::mem::take(&mut self.partial);
            self.story.line(String::from_utf8_lossy(&line).trim_end_matches('\r'));
        }
    }

    /// What the log has told so far.
    #[must_use]
    pub fn story(&self) -> &Story {
        &self.story
    }
}

/// Splits a line that begins with a time.
fn split(line: &str) -> Option<(Level, &str)> {
    const SHAPE: &[u8] = b"0000-00-00 00:00:00,000 ";
    let stamp = line.as_bytes().get(..SHAPE.len())?;
    let fits = stamp.iter().zip(SHAPE).all(|(byte, shape)| match shape {
        b'0' => byte.is_ascii_digit(),
        other => byte == other,
    });
    // Only ASCII up to there, so this is a boundary.
    let (level, message) = line.get(SHAPE.len()..).filter(|_| fits)?.split_once(' ')?;
    let level = match level {
        "DEBUG" => Level::Debug,
        "INFO" => Level::Info,
        "WARNING" => Level::Warning,
        "ERROR" => Level::Error,
        "CRITICAL" => Level::Critical,
        _ => return None,
    };
    Some((level, message))
}

/// The named failures. The upgrader writes "got a error" in one place and "got an error" in others.
fn marker(level: Level, message: &str) -> Option<Marker> {
    let after = |start: &str| message.strip_prefix(start).map(|rest| rest.trim().to_owned());
    if matches!(message, "abort called" | "view.abort called") {
        return Some(Marker::Abort);
    }
    for start in ["got an error from dpkg for pkg: ", "got a error from dpkg for pkg: "] {
        if let Some(rest) = message.strip_prefix(start) {
            let (package, words) = rest.split_once("': '").unwrap_or((rest, ""));
            let clean = |text: &str| text.trim().trim_matches('\'').trim().to_owned();
            return Some(Marker::Dpkg { package: clean(package), words: clean(words) });
        }
    }
    if level != Level::Error && level != Level::Critical {
        return None;
    }
    if let Some(words) = after("SystemError from cache.commit():") {
        return Some(Marker::Commit(words));
    }
    if let Some(words) = after("not handled exception:") {
        return Some(Marker::Uncaught(words));
    }
    if let Some(words) = after("Dist-upgrade failed:") {
        return Some(Marker::Resolver(words));
    }
    if message.starts_with("giving up on fetching") {
        return Some(Marker::Download(message.to_owned()));
    }
    if message.starts_with("Not enough free space:") || message.starts_with("Not enough free disk space") {
        return Some(Marker::Space(message.to_owned()));
    }
    message
        .contains("available/downloadable after sources.list rewrite")
        .then(|| Marker::Unavailable(message.to_owned()))
}

fn quoted_after<'m>(message: &'m str, start: &str) -> Option<&'m str> {
    message.strip_prefix(start)?.strip_prefix('\'')?.strip_suffix('\'')
}

/// The exception at the end of the last traceback in any text, with the place that raised it; the resolver's go into `apt.log`, because
/// the upgrader's output is sent there meanwhile, and `main.log` just stops.
#[must_use]
pub fn last_traceback(text: &str) -> Option<String> {
    let (_, rest) = text.rsplit_once("Traceback (most recent call last):")?;
    let mut place = None;
    for line in rest.lines().skip(1) {
        if line.trim_start().starts_with("File ") {
            place = Some(line.trim());
        } else if !line.starts_with([' ', '\t']) && !line.trim().is_empty() {
            let exception = line.trim();
            return Some(place.map_or(exception.to_owned(), |place| format!("{exception} ({place})")));
        }
    }
    None
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
