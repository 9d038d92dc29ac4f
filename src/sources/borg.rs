//! borg repositories, as borg 1.1 to 1.4 make them.
//!
//! `borg export-tar` streams the whole content past us without a byte on disk, in a format that loses much: attributes, ACLs,
//! flags, fractions of a second, hard links of devices. `borg debug dump-archive` tells all of that, item by item, to the nanosecond and
//! with names as bytes. Together they are everything that an archive holds.

mod item;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Deserialize;

use super::engine::{
    self, Confined, EngineError, Findings, Pair, Pairs, Restored, Streamed, Target, answer, bare, how,
    read_list, read_stream, words,
};
use super::{Gathered, Reading};
use crate::manifest::collect::Sorted;
use crate::manifest::verdict::Difference;
use crate::manifest::{Class, Collector, Entry, Facts, Found, Kind};
use crate::system::sandbox::{Outcome, Powers, SECRET, Sandbox};
use crate::system::show;
use item::{Item, Listing};

const ENGINE: &str = "borg";

/// What borg keeps: no sockets, and where holes were is not recorded. Of the flags of `chattr` it keeps four.
pub(super) const KEEPS: Facts = Facts::ALL.without(Facts::SOCKETS).without(Facts::HOLES);

/// How many damaged files are stepped over: each makes borg give up, so that everything is read once more.
const MOST_STEPS: usize = 8;

/// How many archives are looked into for the tree, from the newest on: each takes a moment.
const MOST_TRIED: &str = "20";

/// What borg says when an archive holds nothing of what is to be restored.
const NOTHING_MATCHED: &str = "never matched";

/// An archive in a borg repository.
#[derive(Debug, Clone)]
pub struct Borg {
    /// As borg names it: a path, or `ssh://...`.
    pub repository: OsString,
    /// Its name; by default the latest that holds the tree.
    pub archive: Option<OsString>,
    /// The tree within the archive; by default all of it.
    pub path: Option<PathBuf>,
    /// How borg is confined. A repository whose key lies in a file needs the directory of the keys among `read`, and
    /// `BORG_KEYS_DIR` in the environment.
    pub confined: Confined,
}

impl Borg {
    /// Takes `REPOSITORY` or `REPOSITORY::ARCHIVE`; the archive `latest` is the latest.
    #[must_use]
    pub fn named(name: &OsStr, confined: Confined) -> Self {
        let bytes = name.as_bytes();
        let (repository, archive) = match bytes.windows(2).position(|two| two == b"::") {
            Some(at) => (&bytes[..at], Some(&bytes[at + 2..])),
            None => (bytes, None),
        };
        let archive = archive.filter(|archive| !archive.is_empty() && *archive != b"latest");
        Self {
            repository: OsStr::from_bytes(repository).to_owned(),
            archive: archive.map(|archive| OsStr::from_bytes(archive).to_owned()),
            path: None,
            confined,
        }
    }

    /// Reads the archive as a stream and hands its entries to `into`.
    ///
    /// # Errors
    /// When it could not be found out what the archive holds; never because of what it holds.
    pub fn read(&self, reading: &Reading<'_>, into: &mut Collector) -> Result<Gathered, EngineError> {
        self.newest(
            reading.scratch,
            |archive| self.read_archive(archive, reading, into),
            |gathered| &mut gathered.remarks,
        )
    }

    fn read_archive(
        &self,
        archive: &OsStr,
        reading: &Reading<'_>,
        into: &mut Collector,
    ) -> Result<Gathered, EngineError> {
        let tree = self.tree();
        let mut findings = Findings::default();
        let mut stream = Collector::new(reading.scratch);
        let mut gathered = Gathered { carries: KEEPS, ..Gathered::plain() };
        gathered.remarks.push(format!("archive {}", show::bytes(archive.as_bytes())));
        let (listed, last) = engine::both(
            || self.list(archive, &tree, reading, &mut findings),
            || self.stream(archive, &tree, reading, &mut stream, &mut gathered),
        )?;
        gathered.remarks.push(format!("the engine ran behind: {}", last.outcome.barriers.words()));
        let undelivered = put_together(stream.finish()?, listed, &mut findings, into)?;
        if !last.outcome.well() && undelivered == 0 {
            let (how, words) = (how(&last.outcome), words(&last.outcome.stderr));
            return Err(EngineError::Failed { engine: ENGINE, how, words });
        }
        findings.into(&mut gathered);
        Ok(gathered)
    }

    /// Really restores the archive into a fresh private directory below `below`.
    ///
    /// # Errors
    /// When borg did not get to restoring. What it could not restore is no error: it will be found to differ.
    pub fn restore(&self, below: &Path) -> Result<Restored, EngineError> {
        self.newest(below, |archive| self.restore_archive(archive, below), |restored| &mut restored.remarks)
    }

    fn restore_archive(&self, archive: &OsStr, below: &Path) -> Result<Restored, EngineError> {
        let tree = self.tree();
        let target = Target::create(below)?;
        let (sandbox, repository) = self.sandbox(below)?;
        let sandbox = sandbox
            .silence(self.confined.longest)
            .powers(Powers::Restore)
            .write(&target.path())?
            .directory(&target.path())?
            .args(["extract", "--numeric-ids", "--sparse"])
            .arg(location(repository, archive))
            .args(selection(&tree));
        let started = Instant::now();
        let (_, outcome) = sandbox.answer(64 << 20)?;
        let seconds = started.elapsed().as_secs_f64();
        let restored = target.path().join(OsStr::from_bytes(&tree));
        if !restored.is_dir() && outcome.stderr.contains(NOTHING_MATCHED) {
            return Err(self.no_path("other trees".to_owned(), &tree));
        }
        if !restored.is_dir() || (!outcome.well() && engine::bytes_of(&restored) == 0) {
            return Err(explain(&self.repository, archive, &outcome));
        }
        let complaint = (!outcome.well())
            .then(|| format!("borg ended with {}: {}", how(&outcome), show::line(&words(&outcome.stderr))));
        Ok(Restored {
            bytes: engine::bytes_of(&restored),
            tree: restored,
            seconds,
            words: complaint.into_iter().collect(),
            remarks: vec![format!("archive {}", show::bytes(archive.as_bytes()))],
            barriers: outcome.barriers,
            carries: engine::restored_facts(KEEPS.with(Facts::HOLES)),
            target,
        })
    }

    fn tree(&self) -> Vec<u8> {
        let path = self.path.as_ref().map(|path| bare(path.as_os_str().as_bytes()).to_vec());
        path.filter(|path| path != b".").unwrap_or_default()
    }

    fn no_path(&self, holds: String, tree: &[u8]) -> EngineError {
        EngineError::NoPath { holds, wanted: String::from_utf8_lossy(tree).into_owned() }
    }

    /// Tries archives from the newest on until one holds the tree, and remarks which. When none does, the answer is that of the
    /// newest.
    fn newest<T>(
        &self,
        private: &Path,
        mut attempt: impl FnMut(&OsStr) -> Result<T, EngineError>,
        remarks: impl FnOnce(&mut T) -> &mut Vec<String>,
    ) -> Result<T, EngineError> {
        let mut first = None;
        for (older, archive) in self.find_archives(private)?.iter().enumerate() {
            match attempt(archive) {
                Err(error @ EngineError::NoPath { .. }) => {
                    first.get_or_insert(error);
                }
                Ok(mut answer) if older > 0 => {
                    let what = "newer archives do not hold the tree: this is the newest that does";
                    remarks(&mut answer).push(format!("{older} {what}"));
                    return Ok(answer);
                }
                answer => return answer,
            }
        }
        Err(first.unwrap_or_else(|| EngineError::NoSnapshot {
            repository: self.repository.to_string_lossy().into_owned(),
            snapshot: "latest".to_owned(),
        }))
    }

    /// The archive that was asked for, or the newest ones, newest first.
    fn find_archives(&self, private: &Path) -> Result<Vec<OsString>, EngineError> {
        if let Some(archive) = &self.archive {
            return Ok(vec![archive.clone()]);
        }
        let wrong = |outcome: &Outcome| explain(&self.repository, OsStr::new("latest"), outcome);
        let (sandbox, repository) = self.sandbox(private)?;
        let sandbox = sandbox.args(["list", "--json", "--last", MOST_TRIED]).arg(repository);
        let (listed, _) = answer(ENGINE, sandbox, wrong)?;
        let archives: Archives = serde_json::from_slice(&listed)
            .map_err(|source| EngineError::Answer { engine: ENGINE, source })?;
        Ok(archives.archives.into_iter().rev().map(|archive| archive.name.into()).collect())
    }

    fn list(
        &self,
        archive: &OsStr,
        tree: &[u8],
        reading: &Reading<'_>,
        findings: &mut Findings,
    ) -> Result<Sorted, EngineError> {
        let mut listing = Listing::new(tree, reading);
        let (sandbox, repository) = self.sandbox(reading.scratch)?;
        let sandbox = sandbox.args(["debug", "dump-archive"]).arg(location(repository, archive)).arg("-");
        let running = sandbox.start()?;
        let wrong = |outcome: &Outcome| explain(&self.repository, archive, outcome);
        read_list(ENGINE, running, "_items", &mut |item: Item| listing.add(item, findings), wrong)?;
        if listing.is_empty() {
            let holds = listing.tops().join(", ");
            return Err(self.no_path(holds, tree));
        }
        Ok(listing.finish()?)
    }

    /// The content. Where borg gives up at a damaged file, that file is left out and everything else read once more.
    fn stream(
        &self,
        archive: &OsStr,
        tree: &[u8],
        reading: &Reading<'_>,
        into: &mut Collector,
        gathered: &mut Gathered,
    ) -> Result<Streamed, EngineError> {
        let mut left_out: Vec<OsString> = Vec::new();
        loop {
            let (mut sandbox, repository) = self.sandbox(reading.scratch)?;
            sandbox = sandbox.arg("export-tar");
            for pattern in &left_out {
                sandbox = sandbox.arg("--exclude").arg(pattern);
            }
            let running =
                sandbox.arg(location(repository, archive)).arg("-").args(selection(tree)).start()?;
            let streamed = read_stream(ENGINE, running, tree, reading, into)?;
            gathered.findings.extend(streamed.gathered.findings.iter().cloned());
            if streamed.outcome.well() {
                return Ok(streamed);
            }
            let words = words(&streamed.outcome.stderr);
            gathered.remarks.push(format!("borg gave up: {}", show::line(&words)));
            let at = streamed.broke_at.as_deref().map(bare).unwrap_or_default();
            if let Some(path) = engine::within(at, tree).filter(|path| !path.is_empty() && is_damage(&words))
            {
                gathered.findings.push(Difference {
                    class: Class::Content,
                    path: path.to_vec(),
                    expected: "content that borg can read".to_owned(),
                    found: show::line(&words),
                });
            }
            let pattern = OsString::from_vec([b"pf:", at].concat());
            if at.is_empty() || left_out.contains(&pattern) || left_out.len() >= MOST_STEPS {
                return Ok(streamed);
            }
            left_out.push(pattern);
        }
    }

    /// borg in the sandbox, with a cache and a memory of repositories that nobody else has: so its questions about unknown
    /// and moved repositories mean nothing and are answered beforehand.
    fn sandbox(&self, private: &Path) -> Result<(Sandbox, OsString), EngineError> {
        let mut sandbox = self
            .confined
            .sandbox(ENGINE, private)?
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
            .env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes");
        sandbox = match self.confined.secret {
            Some(_) => sandbox.env("BORG_PASSPHRASE_FD", SECRET),
            // Otherwise borg asks on a terminal that is not there, and complains about that.
            None => sandbox.env("BORG_PASSPHRASE", ""),
        };
        if is_remote(&self.repository) {
            sandbox = sandbox.network("the repository is reached by ssh");
            let keys = Path::new("/root/.ssh");
            let sandbox = if keys.is_dir() { sandbox.read(keys)? } else { sandbox };
            return Ok((sandbox, self.repository.clone()));
        }
        let bytes = self.repository.as_bytes();
        let path = Path::new(OsStr::from_bytes(bytes.strip_prefix(b"file://").unwrap_or(bytes)));
        let none = || EngineError::NoRepository {
            engine: ENGINE,
            repository: self.repository.to_string_lossy().into_owned(),
        };
        let path = path.canonicalize().map_err(|_| none())?;
        if !path.join("config").is_file() || !path.join("data").is_dir() {
            return Err(none());
        }
        let stand_in = sandbox.home().join("repository");
        stand_in_for(&path, &stand_in)
            .map_err(|source| EngineError::Directory { path: stand_in.clone(), source })?;
        Ok((sandbox.read(&path)?, stand_in.into()))
    }
}

/// A directory that borg takes for the repository: what it writes (locks, a new index) goes there, what it reads is the
/// repository's own. Without it borg could not read at all where it may not write.
fn stand_in_for(repository: &Path, stand_in: &Path) -> std::io::Result<()> {
    std::fs::create_dir(stand_in)?;
    for item in std::fs::read_dir(repository)? {
        let item = item?;
        let name = item.file_name();
        if name == "config" {
            std::fs::copy(item.path(), stand_in.join(name))?;
        } else if !name.as_bytes().starts_with(b"lock.") {
            std::os::unix::fs::symlink(item.path(), stand_in.join(name))?;
        }
    }
    Ok(())
}

/// `REPOSITORY::ARCHIVE`.
fn location(mut repository: OsString, archive: &OsStr) -> OsString {
    repository.push("::");
    repository.push(archive);
    repository
}

/// The answer of `borg list --json`.
#[derive(Debug, Deserialize)]
struct Archives {
    archives: Vec<ArchiveName>,
}

#[derive(Debug, Deserialize)]
struct ArchiveName {
    name: String,
}

/// Whether borg says that the repository holds other bytes than it wrote, or none where it wrote some.
fn is_damage(words: &str) -> bool {
    ["ntegrity error", "IntegrityError", "Object with key"].iter().any(|text| words.contains(text))
}

/// The argument that selects the tree.
fn selection(tree: &[u8]) -> Option<OsString> {
    (!tree.is_empty()).then(|| OsString::from_vec([b"pp:", tree].concat()))
}

/// `ssh://...`, or `host:path` as scp writes it.
fn is_remote(repository: &OsStr) -> bool {
    let bytes = repository.as_bytes();
    let scp = || {
        let colon = bytes.iter().position(|byte| *byte == b':');
        let slash = bytes.iter().position(|byte| *byte == b'/').unwrap_or(bytes.len());
        colon.is_some_and(|colon| colon < slash)
    };
    bytes.starts_with(b"ssh://") || (!bytes.starts_with(b"file://") && scp())
}

/// Hands every entry to `into`: content from the stream, everything else from the list. Returns how many files did not come.
fn put_together(
    stream: Sorted,
    listed: Sorted,
    findings: &mut Findings,
    into: &mut Collector,
) -> Result<u64, EngineError> {
    let mut pairs = Pairs::new(stream, listed)?;
    let mut undelivered = 0;
    while let Some(pair) = pairs.pair()? {
        let (mut entry, carries) = match pair {
            Pair::Both(streamed, known) => {
                let (came, told) = (streamed.entry.kind.name(), known.entry.kind.name());
                if came != told {
                    let expected = format!("a {told}, as listed");
                    findings.add(Class::Hostile, &known.entry.path, &expected, format!("a {came}"));
                    (streamed.entry, streamed.carries)
                } else if matches!(streamed.entry.kind, Kind::File { .. }) {
                    undelivered += u64::from(matches!(streamed.entry.kind, Kind::File { content: None, .. }));
                    let (kind, status) = (streamed.entry.kind, streamed.entry.status);
                    (Entry { kind, status, ..known.entry }, known.carries)
                } else {
                    (known.entry, known.carries)
                }
            }
            Pair::Streamed(streamed) => (streamed.entry, streamed.carries),
            Pair::Listed(known) => {
                undelivered += u64::from(matches!(known.entry.kind, Kind::File { .. }));
                (known.entry, known.carries)
            }
        };
        if let Some(group) = entry.link_group.take() {
            into.same_inode(engine::numbered_key(b'b', group), &entry.path)?;
        }
        into.push(&Found { entry, carries })?;
    }
    Ok(undelivered)
}

/// Why borg gave up, by its words: its exit code is 2 whatever happened.
fn explain(repository: &OsStr, archive: &OsStr, outcome: &Outcome) -> EngineError {
    let repository = repository.to_string_lossy().into_owned();
    let said = |text: &str| outcome.stderr.contains(text);
    if said("passphrase supplied in") || said("can not acquire a passphrase") || said("assphrase required") {
        return EngineError::Password { engine: ENGINE, repository };
    }
    if outcome.stderr.lines().any(|line| line.starts_with("Archive ") && line.ends_with(" does not exist")) {
        return EngineError::NoSnapshot { repository, snapshot: archive.to_string_lossy().into_owned() };
    }
    let no_repository = |line: &str| {
        line.starts_with("Repository ")
            && (line.contains(" does not exist") || line.contains("not a valid repository"))
    };
    if outcome.stderr.lines().any(no_repository) || said("is not a valid repository") {
        return EngineError::NoRepository { engine: ENGINE, repository };
    }
    let words = words(&outcome.stderr);
    if said("Failed to create/acquire the lock") {
        return EngineError::Locked { words };
    }
    EngineError::Failed { engine: ENGINE, how: how(outcome), words }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::sandbox::Barriers;

    #[test]
    fn names_are_split_at_the_double_colon() {
        let named = |name: &str| {
            let borg = Borg::named(OsStr::new(name), Confined::new());
            (borg.repository.into_string().unwrap(), borg.archive.map(|name| name.into_string().unwrap()))
        };
        assert_eq!(named("/srv/b::one"), ("/srv/b".into(), Some("one".into())));
        assert_eq!(named("/srv/b"), ("/srv/b".into(), None));
        assert_eq!(named("ssh://h/b::latest"), ("ssh://h/b".into(), None));
    }

    #[test]
    fn what_needs_the_network_is_known() {
        for (name, remote) in
            [("/srv/b", false), ("file:///b", false), ("ssh://h/b", true), ("me@h:b", true), ("./a:b", false)]
        {
            assert_eq!(is_remote(OsStr::new(name)), remote, "{name}");
        }
    }

    #[test]
    fn the_words_of_borg_are_understood() {
        let error = |stderr: &str| {
            let outcome =
                Outcome { code: Some(2), signal: None, stderr: stderr.into(), barriers: Barriers::default() };
            explain(OsStr::new("/srv/b"), OsStr::new("one"), &outcome)
        };
        let wrong = "passphrase supplied in BORG_PASSPHRASE, by BORG_PASSCOMMAND or via BORG_PASSPHRASE_FD is incorrect.\n";
        assert!(matches!(error(wrong), EngineError::Password { .. }));
        assert!(matches!(error("Repository /nope does not exist.\n"), EngineError::NoRepository { .. }));
        assert!(matches!(error("Archive nope does not exist\n"), EngineError::NoSnapshot { .. }));
        assert!(matches!(error("Data integrity error: x"), EngineError::Failed { .. }));
    }
}
