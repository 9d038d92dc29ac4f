//! restic repositories.
//!
//! `restic dump --archive tar` streams the whole content past us without a byte on disk. It leaves out much: hard links, fractions
//! of a second, devices and pipes (those at the top of the tree come as empty files, seen with 0.14.0). `restic find --json`
//! lists every node with times to the nanosecond and link counts; what neither tells, which names are one inode and what
//! number a device has, is learned by really restoring just those entries.

mod latest;
mod node;
mod parts;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::engine::{
    self, Confined, EngineError, Findings, Restored, Streamed, Target, answer, bare, how, read_list,
    read_stream, words,
};
use super::{Gathered, Reading};
use crate::manifest::{Collector, Facts};
use crate::system::sandbox::{Outcome, Powers, SECRET, Sandbox};
use crate::system::show;
use latest::{Snapshot, latest};
use node::Node;

const ENGINE: &str = "restic";

/// What restic keeps: no flags of `chattr`, no sockets; holes are found anew when it restores, if at all.
pub(super) const KEEPS: Facts =
    Facts::ALL.without(Facts::FLAGS).without(Facts::SOCKETS).without(Facts::HOLES);

/// Repositories that only the network reaches.
const REMOTE: [&str; 9] = ["sftp:", "s3:", "rest:", "b2:", "azure:", "gs:", "swift:", "rclone:", "opendal:"];

/// A snapshot in a restic repository.
#[derive(Debug, Clone)]
pub struct Restic {
    /// As restic names it: a path, or `sftp:...`, `s3:...`.
    pub repository: OsString,
    /// Its id, or `latest`: the newest that was made of the tree.
    pub snapshot: String,
    /// The tree within the snapshot; when there is none, the snapshot must be of one tree.
    pub path: Option<PathBuf>,
    /// How restic is confined.
    pub confined: Confined,
}

impl Restic {
    /// Reads the snapshot as a stream and hands its entries to `into`.
    ///
    /// # Errors
    /// When it could not be found out what the snapshot holds; never because of what it holds.
    pub fn read(&self, reading: &Reading<'_>, into: &mut Collector) -> Result<Gathered, EngineError> {
        let snapshot = self.find_snapshot(reading.scratch)?;
        let tree = self.tree(&snapshot)?;
        match self.read_tree(&snapshot, tree, reading, into) {
            Err(EngineError::Relative { inside }) => self.read_tree(&snapshot, inside, reading, into),
            read => read,
        }
    }

    fn read_tree(
        &self,
        snapshot: &Snapshot,
        tree: Vec<u8>,
        reading: &Reading<'_>,
        into: &mut Collector,
    ) -> Result<Gathered, EngineError> {
        let mut findings = Findings::default();
        let mut stream = Collector::new(reading.scratch);
        let (listed, streamed) = engine::both(
            || self.list(snapshot, &tree, reading, &mut findings),
            || self.stream(snapshot, &tree, reading, &mut stream),
        )?;
        let mut gathered = Gathered {
            carries: engine::streamed_facts(KEEPS),
            findings: streamed.gathered.findings,
            remarks: streamed.gathered.remarks,
            ..Gathered::plain()
        };
        gathered.remarks.splice(..0, snapshot.remarks());
        gathered.remarks.push(format!("the engine ran behind: {}", streamed.outcome.barriers.words()));
        let parts = parts::put_together(stream.finish()?, listed, reading, &mut findings, into)?;
        let mut damaged = None;
        if !streamed.outcome.well() {
            let words = words(&streamed.outcome.stderr);
            gathered.remarks.push(format!("restic gave up: {}", show::line(&words)));
            if parts.undelivered.count == 0 {
                return Err(EngineError::Failed { engine: ENGINE, how: how(&streamed.outcome), words });
            }
            let path = streamed.broke_at.as_deref().and_then(|path| engine::within(bare(path), &tree));
            damaged = path.filter(|_| is_damage(&words)).map(|path| (path.to_vec(), show::line(&words)));
        }
        let mut rest = parts::Rest {
            tree: &tree,
            reading,
            findings: &mut findings,
            into,
            gathered: &mut gathered,
            damaged,
        };
        rest.restore(parts, &|include, target| self.run_restore(snapshot, target, include, reading.scratch))?;
        findings.into(&mut gathered);
        Ok(gathered)
    }

    /// Really restores the snapshot into a fresh private directory below `below`.
    ///
    /// # Errors
    /// When restic did not get to restoring. Files that it could not restore are no error: they will be found to differ.
    pub fn restore(&self, below: &Path) -> Result<Restored, EngineError> {
        let snapshot = self.find_snapshot(below)?;
        let tree = self.tree(&snapshot)?;
        let target = Target::create(below)?;
        let include = [pattern(&tree)];
        let started = Instant::now();
        let outcome =
            self.run_restore(&snapshot, &target, if tree.is_empty() { &[] } else { &include }, below)?;
        let seconds = started.elapsed().as_secs_f64();
        let restored = target.path().join(OsStr::from_bytes(&tree));
        if !restored.is_dir() && outcome.well() {
            let wanted = absolute(&tree).to_string_lossy().into_owned();
            return Err(EngineError::NoPath { holds: "another tree".to_owned(), wanted });
        }
        if !restored.is_dir() {
            return Err(explain(&self.repository, &snapshot.id, &outcome));
        }
        Ok(Restored {
            bytes: engine::bytes_of(&restored),
            tree: restored,
            seconds,
            words: complaint(&outcome).into_iter().collect(),
            remarks: snapshot.remarks(),
            barriers: outcome.barriers,
            carries: engine::restored_facts(KEEPS),
            target,
        })
    }

    /// Whether only the network reaches it.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        let name = self.repository.to_string_lossy();
        REMOTE.into_iter().any(|scheme| name.starts_with(scheme))
    }

    fn find_snapshot(&self, private: &Path) -> Result<Snapshot, EngineError> {
        let wrong = |outcome: &Outcome| explain(&self.repository, &self.snapshot, outcome);
        let wanted = Some(&self.snapshot).filter(|wanted| *wanted != "latest");
        let sandbox = self.sandbox(private)?.args(["snapshots", "--json"]).args(wanted);
        let (listed, _) = answer(ENGINE, sandbox, wrong)?;
        let snapshots: Vec<Snapshot> = serde_json::from_slice(&listed)
            .map_err(|source| EngineError::Answer { engine: ENGINE, source })?;
        let tree = self.path.as_ref().map(|path| bare(path.as_os_str().as_bytes()));
        latest(snapshots, tree).ok_or_else(|| EngineError::NoSnapshot {
            repository: self.repository.to_string_lossy().into_owned(),
            snapshot: self.snapshot.clone(),
        })
    }

    /// The tree within the snapshot, without slashes around it.
    fn tree(&self, snapshot: &Snapshot) -> Result<Vec<u8>, EngineError> {
        match (&self.path, snapshot.paths.as_slice()) {
            (Some(path), _) => Ok(bare(path.as_os_str().as_bytes()).to_vec()),
            (None, [only]) => Ok(bare(only.as_bytes()).to_vec()),
            (None, paths) => {
                let wanted = "one tree".to_owned();
                Err(EngineError::NoPath { holds: paths.join(", "), wanted })
            }
        }
    }

    /// The content of the tree.
    fn stream(
        &self,
        snapshot: &Snapshot,
        tree: &[u8],
        reading: &Reading<'_>,
        into: &mut Collector,
    ) -> Result<Streamed, EngineError> {
        // The whole tree from its top when that is all there is: then the tree's own attributes are in it.
        let from = match snapshot.paths.as_slice() {
            [only] if absolute(bare(only.as_bytes())).as_bytes().ends_with(absolute(tree).as_bytes()) => {
                OsStr::new("/").to_owned()
            }
            _ => absolute(tree),
        };
        let running = self
            .sandbox(reading.scratch)?
            .args(["dump", "--archive", "tar"])
            .args([OsStr::new(&snapshot.id), &from])
            .start()?;
        read_stream(ENGINE, running, tree, reading, into)
    }

    /// Every node of the tree, in order, without content and attributes.
    fn list(
        &self,
        snapshot: &Snapshot,
        tree: &[u8],
        reading: &Reading<'_>,
        findings: &mut Findings,
    ) -> Result<node::Listed, EngineError> {
        let mut listing = node::Listing::new(tree, reading);
        let running =
            self.sandbox(reading.scratch)?.args(["find", "--json", "-s", &snapshot.id, "*"]).start()?;
        let wrong = |outcome: &Outcome| explain(&self.repository, &snapshot.id, outcome);
        read_list(ENGINE, running, "matches", &mut |node: Node| listing.add(node, findings), wrong)?;
        if !listing.has_tree() {
            let wanted = absolute(tree).to_string_lossy().into_owned();
            // restic notes the whole path and stores the tree under the one that it was given.
            if let Some(inside) = listing.relative().filter(|_| snapshot.paths.contains(&wanted)) {
                return Err(EngineError::Relative { inside: inside.to_vec() });
            }
            return Err(EngineError::NoPath { holds: snapshot.paths.join(", "), wanted });
        }
        Ok(listing.finish()?)
    }

    /// restic in the sandbox, about this repository.
    fn sandbox(&self, private: &Path) -> Result<Sandbox, EngineError> {
        let mut sandbox = self.confined.sandbox(ENGINE, private)?;
        let name = self.repository.to_string_lossy();
        let repository = if let Some(scheme) = REMOTE.into_iter().find(|scheme| name.starts_with(scheme)) {
            sandbox =
                sandbox.network(&format!("the repository is reached by {}", scheme.trim_end_matches(':')));
            let keys = Path::new("/root/.ssh");
            if scheme == "sftp:" && keys.is_dir() {
                sandbox = sandbox.read(keys)?;
            }
            self.repository.clone()
        } else {
            let bytes = self.repository.as_bytes();
            let path = Path::new(OsStr::from_bytes(bytes.strip_prefix(b"local:").unwrap_or(bytes)));
            let path = path.canonicalize().map_err(|_| self.no_repository())?;
            sandbox = sandbox.read(&path)?;
            path.into()
        };
        sandbox = sandbox.args([OsStr::new("-r"), &repository]).args(["--no-lock", "--no-cache"]);
        Ok(match self.confined.secret {
            Some(_) => sandbox.arg("--password-file").arg(format!("/dev/fd/{SECRET}")),
            None => sandbox,
        })
    }

    fn no_repository(&self) -> EngineError {
        let repository = self.repository.to_string_lossy().into_owned();
        EngineError::NoRepository { engine: ENGINE, repository }
    }

    fn run_restore(
        &self,
        snapshot: &Snapshot,
        target: &Target,
        include: &[OsString],
        private: &Path,
    ) -> Result<Outcome, EngineError> {
        let mut sandbox = self
            .sandbox(private)?
            .silence(self.confined.longest)
            .powers(Powers::Restore)
            .write(&target.path())?
            .args([OsStr::new("restore"), OsStr::new(&snapshot.id), OsStr::new("--target")])
            .arg(target.path());
        for pattern in include {
            sandbox = sandbox.arg("--include").arg(pattern);
        }
        let (_, outcome) = sandbox.answer(64 << 20)?;
        Ok(outcome)
    }
}

/// What restic complained about while it restored.
fn complaint(outcome: &Outcome) -> Option<String> {
    (!outcome.well())
        .then(|| format!("restic ended with {}: {}", how(outcome), show::line(&words(&outcome.stderr))))
}

/// Whether restic says that the repository holds other bytes than it wrote, or none where it wrote some.
fn is_damage(words: &str) -> bool {
    let told = [
        "verification failed",
        "invalid data returned",
        "does not match",
        "not found in index",
        "not found in repository",
    ];
    told.iter().any(|text| words.contains(text))
}

/// The path as restic names it.
fn absolute(tree: &[u8]) -> OsString {
    OsStr::from_bytes(&[b"/", tree].concat()).to_owned()
}

/// A pattern that matches this path and nothing else; where the list replaced bytes that are no text, one character each.
fn pattern(path: &[u8]) -> OsString {
    let mut pattern = vec![b'/'];
    for byte in path {
        if matches!(byte, b'*' | b'?' | b'[' | b'\\') {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    let replaced = "\u{fffd}".as_bytes();
    let mut text = Vec::with_capacity(pattern.len());
    let mut rest = pattern.as_slice();
    while let Some(at) = rest.windows(replaced.len()).position(|window| window == replaced) {
        text.extend_from_slice(&rest[..at]);
        text.push(b'?');
        rest = &rest[at + replaced.len()..];
    }
    text.extend_from_slice(rest);
    OsStr::from_bytes(&text).to_owned()
}

/// Why restic gave up, by its words: older versions end with 1 whatever happened.
fn explain(repository: &OsStr, snapshot: &str, outcome: &Outcome) -> EngineError {
    let repository = repository.to_string_lossy().into_owned();
    let said = |text: &str| outcome.stderr.contains(text);
    if said("wrong password") || said("empty password") || outcome.code == Some(12) {
        return EngineError::Password { engine: ENGINE, repository };
    }
    if said("Is there a repository at the following location") || outcome.code == Some(10) {
        return EngineError::NoRepository { engine: ENGINE, repository };
    }
    if said("no matching ID found") || said("no snapshot found") {
        return EngineError::NoSnapshot { repository, snapshot: snapshot.to_owned() };
    }
    let words = words(&outcome.stderr);
    if said("already locked") || outcome.code == Some(11) {
        return EngineError::Locked { words };
    }
    EngineError::Failed { engine: ENGINE, how: how(outcome), words }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::sandbox::Barriers;

    #[test]
    fn a_pattern_matches_only_its_path() {
        assert_eq!(pattern(b"srv/a*b[1]"), r"/srv/a\*b\[1]");
        assert_eq!(pattern("na\u{fffd}me\u{fffd}".as_bytes()), "/na?me?");
        assert_eq!(pattern(b"q?"), r"/q\?");
    }

    #[test]
    fn the_words_of_restic_are_understood() {
        let error = |stderr: &str| {
            let outcome =
                Outcome { code: Some(1), signal: None, stderr: stderr.into(), barriers: Barriers::default() };
            explain(OsStr::new("/srv/repo"), "latest", &outcome)
        };
        assert!(matches!(error("Fatal: wrong password or no key found\n"), EngineError::Password { .. }));
        let none = "Fatal: unable to open config file: stat /nope/config: no such file or directory\n\
            Is there a repository at the following location?\n/nope\n";
        assert!(matches!(error(none), EngineError::NoRepository { .. }));
        let none = "invalid id \"deadbeef\": no matching ID found for prefix \"deadbeef\"\n";
        assert!(matches!(error(none), EngineError::NoSnapshot { .. }));
        assert!(matches!(error("Fatal: out of luck"), EngineError::Failed { .. }));
    }
}
