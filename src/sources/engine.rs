//! What restic and borg have in common: they run confined, stream an archive of the content, and tell the rest about each entry
//! in JSON. Both are put together here, and restored trees are read back.

mod json;
mod restored;

use std::cmp::Ordering;
use std::ffi::OsString;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::tar::{self, TarError, Whole};
use super::{Gathered, Reading};
use crate::manifest::collect::Sorted;
use crate::manifest::entry::{is_at_or_below, path_order};
use crate::manifest::scan::ScanError;
use crate::manifest::sorter::SortError;
use crate::manifest::verdict::Difference;
use crate::manifest::{Class, Collector, Entry, Facts, Found, Status};
use crate::system::durable::DurableError;
use crate::system::exec::ExecError;
use crate::system::sandbox::{
    Barrier, Barriers, Ceilings, Outcome, Running, Sandbox, SandboxError, Secret, own_program,
};
use crate::system::show;

pub(super) use json::each_in;
pub use restored::{Restored, read_restored};
pub(super) use restored::{Target, bytes_of, restored_facts};

/// How many findings are kept.
const MOST_FINDINGS: usize = 10_000;

/// How an engine is confined, and what it is given.
#[derive(Debug, Clone)]
pub struct Confined {
    /// Our own program, to set the sandbox up.
    pub trampoline: PathBuf,
    /// The repository's password.
    pub secret: Option<Secret>,
    /// Variables for the engine: the credentials of a repository on the network, and nothing else.
    pub environment: Vec<(OsString, OsString)>,
    /// What the engine must read besides the repository: its keys, or the directory that it is installed in.
    pub read: Vec<PathBuf>,
    /// Limits.
    pub ceilings: Ceilings,
    /// Barriers that may be missing.
    pub spared: Vec<Barrier>,
    /// How long the engine may be silent while it streams; large repositories take a while to begin.
    pub silence: Duration,
    /// How long a real restore may take: nothing is heard of it until its end.
    pub longest: Duration,
}

impl Confined {
    /// With every barrier, no password, half an hour of silence and two days for a restore.
    #[must_use]
    pub fn new() -> Self {
        Self {
            trampoline: own_program().to_owned(),
            secret: None,
            environment: Vec::new(),
            read: Vec::new(),
            ceilings: Ceilings { files: Some(4096), ..Ceilings::default() },
            spared: Vec::new(),
            silence: Duration::from_secs(1800),
            longest: Duration::from_secs(48 * 3600),
        }
    }

    pub(super) fn sandbox(&self, engine: &str, private: &Path) -> Result<Sandbox, EngineError> {
        let mut sandbox =
            Sandbox::new(&self.trampoline, engine, private)?.ceilings(self.ceilings).silence(self.silence);
        for barrier in &self.spared {
            sandbox = sandbox.spare(*barrier);
        }
        for (name, value) in &self.environment {
            sandbox = sandbox.env(name, value);
        }
        for path in &self.read {
            sandbox = sandbox.read(path)?;
        }
        if let Some(secret) = &self.secret {
            sandbox = sandbox.secret(secret.clone());
        }
        Ok(sandbox)
    }
}

impl Default for Confined {
    fn default() -> Self {
        Self::new()
    }
}

/// A repository about which it could not be found out what it holds.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The sandbox, or the engine in it.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// There is no repository.
    #[error("there is no {engine} repository at {}", show::line(.repository))]
    NoRepository {
        /// The engine.
        engine: &'static str,
        /// Where.
        repository: String,
    },
    /// The password is wrong, or missing.
    #[error("the password does not open the {engine} repository {}", show::line(.repository))]
    Password {
        /// The engine.
        engine: &'static str,
        /// Where.
        repository: String,
    },
    /// The repository has no such snapshot or archive.
    #[error("the repository {} has no snapshot {}", show::line(.repository), show::line(.snapshot))]
    NoSnapshot {
        /// Where.
        repository: String,
        /// What was asked for.
        snapshot: String,
    },
    /// The snapshot does not hold the tree.
    #[error("the snapshot holds {}, not {}: say which with --inside", show::line(.holds), show::line(.wanted))]
    NoPath {
        /// What it holds.
        holds: String,
        /// What was wanted.
        wanted: String,
    },
    /// The snapshot was made of a relative path.
    #[error("the snapshot was made of a relative path: the tree is at {} in it, say so with --inside", show::bytes(.inside))]
    Relative {
        /// Where the tree is.
        inside: Vec<u8>,
    },
    /// Somebody else works on the repository.
    #[error("the repository is locked: {}", show::line(.words))]
    Locked {
        /// The engine's words.
        words: String,
    },
    /// The command that prints the password does not run.
    #[error("failed to get the password")]
    Secret(#[from] ExecError),
    /// It is meant for a shell.
    #[error("BORG_PASSCOMMAND is not run by a shell here, so it can't be {}: use a password file", show::line(.0))]
    PassCommand(String),
    /// The engine gave up.
    #[error("{engine} gave up ({how}): {}", show::line(.words))]
    Failed {
        /// The engine.
        engine: &'static str,
        /// Exit code or signal.
        how: String,
        /// Its words.
        words: String,
    },
    /// What it answered was not understood.
    #[error("the answer of {engine} was not understood")]
    Answer {
        /// The engine.
        engine: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// The stream of content.
    #[error("failed to read what {engine} streams")]
    Stream {
        /// The engine.
        engine: &'static str,
        /// Why.
        source: TarError,
    },
    /// The machine's own disk.
    #[error("failed to sort what the repository holds")]
    Sort(#[from] SortError),
    /// What was restored could not be read.
    #[error("failed to read what was restored")]
    Scan(#[from] ScanError),
    /// A directory of ours.
    #[error("failed to use the directory {}", .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was restored could not be made durable, so it cannot be read back from the disk.
    #[error("failed to sync what was restored")]
    Sync(#[from] DurableError),
}

/// The words of an engine's stderr that say why it gave up: its last lines, without a traceback.
pub(super) fn words(stderr: &str) -> String {
    let telling = |line: &&str| {
        let known = ["Traceback", " ", "Platform:", "Linux:", "Borg:", "PID:", "sys.argv:", "SSH_ORIGINAL"];
        !line.trim().is_empty() && !known.iter().any(|start| line.starts_with(start))
    };
    let lines: Vec<&str> = stderr.lines().filter(telling).collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}

/// How an engine ended, for a sentence.
pub(super) fn how(outcome: &Outcome) -> String {
    match (outcome.code, outcome.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    }
}

/// A file that is listed and whose content has not come.
pub(super) const UNDELIVERED: Status =
    Status::Unreadable(rustix::io::Errno::NODATA.raw_os_error().cast_unsigned());

/// What this process can bring back or learn, of what an engine keeps: only root can make devices to look at.
pub(super) fn streamed_facts(keeps: Facts) -> Facts {
    if rustix::process::geteuid().is_root() { keeps } else { keeps.without(Facts::DEVICES) }
}

/// Runs the two sides of an engine's answer at once: each waits for the disk or the network most of the time. The error of the
/// list comes first, because it says more.
pub(super) fn both<L: Send, S>(
    list: impl FnOnce() -> Result<L, EngineError> + Send,
    stream: impl FnOnce() -> Result<S, EngineError>,
) -> Result<(L, S), EngineError> {
    let (listed, streamed) = std::thread::scope(|scope| {
        let list = scope.spawn(list);
        let streamed = stream();
        (list.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), streamed)
    });
    Ok((listed?, streamed?))
}

/// What an engine streamed.
pub(super) struct Streamed {
    /// What the archive is about.
    pub gathered: Gathered,
    /// How the engine ended.
    pub outcome: Outcome,
    /// The member, as the archive names it, inside which the stream broke off; empty between members.
    pub broke_at: Option<Vec<u8>>,
}

/// Reads the archive that a running engine streams.
pub(super) fn read_stream(
    engine: &'static str,
    mut running: Running,
    strip: &[u8],
    reading: &Reading<'_>,
    into: &mut Collector,
) -> Result<Streamed, EngineError> {
    let read = tar::read_streamed(BufReader::with_capacity(1 << 18, running.stdout()), strip, reading, into);
    let outcome = running.finish()?;
    match read {
        // An engine that gave up makes no broken archive: what it did not deliver is named entry by entry.
        Ok(Whole { gathered, cut }) => {
            Ok(Streamed { gathered, outcome, broke_at: cut.map(|finding| finding.path) })
        }
        // The list tells what the tree holds, if anything.
        Err(TarError::NothingInside { .. }) => {
            Ok(Streamed { gathered: Gathered::plain(), outcome, broke_at: None })
        }
        Err(TarError::NotAnArchive) if !outcome.well() => {
            let gathered = Gathered::plain();
            Ok(Streamed { gathered, outcome, broke_at: Some(Vec::new()) })
        }
        Err(source) => Err(EngineError::Stream { engine, source }),
    }
}

/// One path, as it came in the stream and as the engine's list tells it.
#[derive(Debug)]
pub(super) enum Pair {
    /// In both.
    Both(Found, Found),
    /// Only in the stream.
    Streamed(Found),
    /// Only in the list.
    Listed(Found),
}

/// Two sorted streams, path by path.
pub(super) struct Pairs {
    stream: Sorted,
    list: Sorted,
    next: (Option<Found>, Option<Found>),
}

impl Pairs {
    pub(super) fn new(mut stream: Sorted, mut list: Sorted) -> Result<Self, SortError> {
        let next = (stream.next().transpose()?, list.next().transpose()?);
        Ok(Self { stream, list, next })
    }

    pub(super) fn pair(&mut self) -> Result<Option<Pair>, SortError> {
        let order = match &self.next {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(streamed), Some(listed)) => path_order(&streamed.entry.path, &listed.entry.path),
        };
        let streamed = if order.is_le() { self.next.0.take() } else { None };
        let listed = if order.is_ge() { self.next.1.take() } else { None };
        if streamed.is_some() {
            self.next.0 = self.stream.next().transpose()?;
        }
        if listed.is_some() {
            self.next.1 = self.list.next().transpose()?;
        }
        Ok(match (streamed, listed) {
            (Some(streamed), Some(listed)) => Some(Pair::Both(streamed, listed)),
            (Some(streamed), None) => Some(Pair::Streamed(streamed)),
            (None, Some(listed)) => Some(Pair::Listed(listed)),
            (None, None) => None,
        })
    }
}

/// The streamed entry with the metadata of the list, which is finer: content, targets and attributes stay.
pub(super) fn with_listed(mut streamed: Entry, listed: &Entry) -> Entry {
    streamed.mode = listed.mode;
    (streamed.uid, streamed.gid) = (listed.uid, listed.gid);
    streamed.mtime = listed.mtime;
    streamed.link_group = None;
    streamed
}

/// A key for hard links that are known by a number.
pub(super) fn numbered_key(kind: u8, number: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[0] = kind;
    key[8..].copy_from_slice(&number.to_le_bytes());
    key
}

/// Findings, of which only so many are kept.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub kept: Vec<Difference>,
    dropped: u64,
}

impl Findings {
    pub(super) fn add(&mut self, class: Class, path: &[u8], expected: &str, found: String) {
        if self.kept.len() >= MOST_FINDINGS {
            self.dropped += 1;
            return;
        }
        self.kept.push(Difference { class, path: path.to_vec(), expected: expected.to_owned(), found });
    }

    /// Adds them to what was gathered.
    pub(super) fn into(self, gathered: &mut Gathered) {
        gathered.findings.extend(self.kept);
        if self.dropped > 0 {
            gathered.remarks.push(format!("{} more findings were not kept", self.dropped));
        }
    }
}

/// The path of an entry within the tree: `None` when it lies elsewhere. Both without a leading slash.
pub(super) fn within<'p>(path: &'p [u8], tree: &[u8]) -> Option<&'p [u8]> {
    if tree.is_empty() {
        return Some(path);
    }
    is_at_or_below(path, tree).then(|| path.get(tree.len() + 1..).unwrap_or_default())
}

/// A path without the slashes around it.
pub(super) fn bare(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(start, |last| last + 1);
    &path[start..end]
}

/// A short answer: what an engine wrote, when it ended well.
pub(super) fn answer(
    engine: &'static str,
    sandbox: Sandbox,
    explain: impl FnOnce(&Outcome) -> EngineError,
) -> Result<(Vec<u8>, Barriers), EngineError> {
    tracing::debug!(engine, "asks the repository");
    let (answer, outcome) = sandbox.answer(64 << 20)?;
    if outcome.well() { Ok((answer, outcome.barriers)) } else { Err(explain(&outcome)) }
}

/// What a list of entries is read from: the engine's stdout, to the end.
pub(super) fn read_list<T: serde::de::DeserializeOwned>(
    engine: &'static str,
    mut running: Running,
    key: &str,
    each: &mut dyn FnMut(T) -> Result<(), SortError>,
    explain: impl FnOnce(&Outcome) -> EngineError,
) -> Result<(), EngineError> {
    let read = each_in(&mut BufReader::with_capacity(1 << 18, running.stdout() as &mut dyn Read), key, each);
    let outcome = running.finish()?;
    match read {
        Err(json::EachError::Each(error)) => Err(error.into()),
        // Why it gave up says more than where its answer ends.
        _ if !outcome.well() => Err(explain(&outcome)),
        Err(json::EachError::Json(source)) => Err(EngineError::Answer { engine, source }),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_telling_lines_of_a_traceback_are_kept() {
        let stderr = "Data integrity error: Segment entry checksum mismatch\nTraceback (most recent call last):\n  File \"x\"\n\
            borg.helpers.errors.IntegrityError: mismatch\n\nPlatform: Linux vm\nsys.argv: ['/usr/bin/borg']\n";
        let expected = "Data integrity error: Segment entry checksum mismatch; borg.helpers.errors.IntegrityError: mismatch";
        assert_eq!(words(stderr), expected);
    }

    #[test]
    fn a_path_is_within_its_tree_only() {
        assert_eq!(within(b"srv/www/a", b"srv/www"), Some(&b"a"[..]));
        assert_eq!(within(b"srv/www", b"srv/www"), Some(&b""[..]));
        assert_eq!(within(b"srv/www2", b"srv/www"), None);
        assert_eq!(within(b"a", b""), Some(&b"a"[..]));
        assert_eq!((bare(b"/srv/www/"), bare(b"/"), bare(b"a")), (&b"srv/www"[..], &b""[..], &b"a"[..]));
    }
}
