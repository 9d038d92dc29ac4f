//! What a rollback leaves as it is: files below the configured directories that are new or changed in the failed root are copied
//! into the restored one. Nothing is deleted, and nothing that the restored system has written meanwhile is lost.
//!
//! | in the restored root | what happens |
//! |---|---|
//! | not there, or as in the snapshot | the failed root's file takes its place (the snapshot still has the old one) |
//! | written to since | the restored one is kept beside it as `NAME.before-rollback`; a daemon that holds it open goes on there, as with a rotated log, until it opens its log again |
//! | systemd's journal, always written to | the failed root's file gets a name of its own beside it, which `journalctl` reads too |

mod stage;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, RenameFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use self::stage::Stage;
use super::{Machine, Result, trouble};
use crate::driver::Trouble;
use crate::evidence::Plan;
use crate::snapshot::TopLevel;
use crate::snapshot::divergence::{self, Difference};
use crate::system::{beneath, durable, mounts, show};

/// The file's name in the run's directory: what was carried, with its hashes, and what came of it.
pub const FILE: &str = "carried.json";

const SUFFIX: &str = ".before-rollback";

/// How many files of one name are kept beside.
const MOST_BESIDE: usize = 100;

/// How many sentences are told one by one.
const MOST_TROUBLES: usize = 100;

/// What was carried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarryReport {
    /// The configured directories.
    pub below: Vec<String>,
    /// Each file that was carried and is there, by its hash.
    pub files: Vec<Carried>,
    /// What could not be carried, or is not there as it should be; one sentence each.
    pub troubles: Vec<String>,
}

/// One file that was carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Where it is now; bytes that are not UTF-8 and control characters are escaped.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// BLAKE3 of its content in the failed root, and of as many bytes of the copy.
    pub blake3: String,
    /// Whether the restored system had written to it: its own file is kept beside.
    pub both: bool,
}

/// Copies and compares. Never fails: a rollback that is proven stays proven. Repeatable.
pub(super) fn carry(machine: &Machine, plan: &Plan) -> CarryReport {
    let configured = &machine.config.rollback.carry;
    let mut report =
        CarryReport { below: configured.iter().map(ToString::to_string).collect(), ..CarryReport::default() };
    let roots = match Roots::open(machine) {
        Ok(roots) => roots,
        Err(trouble) => {
            report.troubles.push(format!("the failed root could not be read: {trouble}"));
            return report;
        }
    };
    for directory in configured {
        machine.progress.line(&format!("carrying what is new in {directory}"));
        if let Err(trouble) = roots.carry(directory.as_path(), plan.run.as_str(), &mut report) {
            report.troubles.push(format!("{directory}: {trouble}"));
        }
    }
    for sentence in &report.troubles {
        machine.progress.line(&format!("not carried: {sentence}"));
    }
    report
}

/// Writes the report. Repeatable; durable when it returns.
pub(super) fn keep(machine: &Machine, report: &CarryReport) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(report).map_err(trouble)?;
    durable::replace_file(&machine.directory.join(FILE), &bytes, 0o600).map_err(trouble)
}

/// The three trees.
struct Roots {
    /// Holds the mount in which the first two lie; tests have none.
    _top: Option<TopLevel>,
    snapshot: OwnedFd,
    failed: OwnedFd,
    running: OwnedFd,
}

impl Roots {
    fn open(machine: &Machine) -> Result<Self> {
        let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
        let (before, other) = (machine.names.before(), machine.names.other_root());
        top.get(&other).map_err(trouble)?;
        let roots = Self::at(&top.path(Path::new(&before)), &top.path(Path::new(&other)), Path::new("/"));
        Ok(Self { _top: Some(top), ..roots.map_err(trouble)? })
    }

    fn at(snapshot: &Path, failed: &Path, running: &Path) -> io::Result<Self> {
        let open = |path: &Path| File::open(path).map(OwnedFd::from);
        Ok(Self { _top: None, snapshot: open(snapshot)?, failed: open(failed)?, running: open(running)? })
    }

    fn carry(&self, directory: &Path, run: &str, report: &mut CarryReport) -> Result<()> {
        let table = mounts::read().map_err(trouble)?;
        if mounts::holding(&table, directory).map_err(trouble)?.point != Path::new("/") {
            return Err(Trouble::new("it is mounted by itself, and no rollback takes it back"));
        }
        let mut stage = Stage::make(&self.running).map_err(trouble)?;
        self.carry_below(directory.strip_prefix("/").unwrap_or(directory), run, &mut stage, report)
    }

    fn carry_below(
        &self,
        below: &Path,
        run: &str,
        stage: &mut Stage<'_>,
        report: &mut CarryReport,
    ) -> Result<()> {
        let mut untold = 0;
        for path in self.differing(below)? {
            match self.carry_one(&path, run, stage) {
                Ok(Some(carried)) => report.files.push(carried),
                Ok(None) => {}
                Err(_) if report.troubles.len() >= MOST_TROUBLES => untold += 1,
                Err(error) => report.troubles.push(format!("/{}: {error}", show::path(&path))),
            }
        }
        if untold > 0 {
            report.troubles.push(format!("and {untold} more below /{}", show::path(below)));
        }
        // The word that it is done must not outlive it in a power cut.
        durable::sync_filesystem(&beneath::path_of(&self.running)).map_err(trouble)
    }

    /// What is new or changed in the failed root below a directory: paths from `/`, without it.
    fn differing(&self, below: &Path) -> Result<Vec<PathBuf>> {
        let failed = beneath::directory(&self.failed, below).map_err(|errno| match errno {
            errno if beneath::is_none(errno) => Trouble::new("it is not a directory in the failed root"),
            errno => trouble(io::Error::from(errno)),
        })?;
        let snapshot = directory_if_any(&self.snapshot, below).map_err(trouble)?;
        let mut paths = Vec::new();
        let mut tell = |path: &Path, difference, _| {
            let path = below.join(path);
            if difference != Difference::Removed && !is_ours(&path) {
                paths.push(path);
            }
        };
        divergence::walk_opened(snapshot, failed, &mut tell).map_err(trouble)?;
        Ok(paths)
    }

    /// Brings one file or link over and proves that it is there; nothing for what is neither.
    fn carry_one(&self, path: &Path, run: &str, stage: &mut Stage<'_>) -> io::Result<Option<Carried>> {
        let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        let from = beneath::directory(&self.failed, parent)?;
        let Some(source) = beneath::look(&from, name)? else { return Ok(None) };
        if !matches!(kind(&source), FileType::RegularFile | FileType::Symlink) {
            return Ok(None);
        }
        let to = self.target(parent, stage)?;
        let here = beneath::look(&to, name)?;
        let beside = journal_name(path, run).filter(|_| here.is_some_and(|here| !same(&here, &source)));
        let (there, both) = match (&beside, here) {
            (Some(beside), _) => {
                let beside = beside.file_name().unwrap_or_default();
                // An earlier try may have come so far.
                if !beneath::look(&to, beside)?.is_some_and(|there| same(&there, &source)) {
                    stage.copy(&from, name, &source)?;
                    stage.put(&to, beside, RenameFlags::NOREPLACE)?;
                }
                (beside, true)
            }
            (None, Some(here)) if same(&here, &source) => {
                (name, beneath::look(&to, &beside_name(name, 0))?.is_some())
            }
            (None, Some(here)) => {
                let both = !self.as_in_snapshot(parent, name, &here)?;
                stage.copy(&from, name, &source)?;
                if both {
                    keep_beside(&to, name)?;
                }
                stage.put(&to, name, RenameFlags::empty())?;
                (name, both)
            }
            (None, None) => {
                stage.copy(&from, name, &source)?;
                stage.put(&to, name, RenameFlags::NOREPLACE)?;
                (name, false)
            }
        };
        let (hash, bytes) = proven((&from, name), (&to, there), &source)?;
        Ok(Some(Carried {
            path: format!("/{}", show::path(&parent.join(there))),
            bytes,
            blake3: hash.to_hex().to_string(),
            both,
        }))
    }

    /// The directory in the restored root. One that is missing comes with its owner and mode; those that are there stay as they are.
    fn target(&self, path: &Path, stage: &mut Stage<'_>) -> io::Result<OwnedFd> {
        let open = || beneath::directory(&self.running, path);
        match open() {
            Err(Errno::NOENT) => {}
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let words = "the way there leads through a symbolic link, or what is no directory";
                return Err(io::Error::other(words));
            }
            Err(Errno::XDEV) => return Err(io::Error::other("something else is mounted on the way there")),
            opened => return Ok(opened?),
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::NOENT.into());
        };
        let parent = self.target(parent, stage)?;
        stage.copy_directory(&beneath::directory(&self.failed, path)?)?;
        stage.put(&parent, name, RenameFlags::NOREPLACE)?;
        Ok(open()?)
    }

    fn as_in_snapshot(&self, parent: &Path, name: &OsStr, here: &Stat) -> io::Result<bool> {
        let Some(directory) = directory_if_any(&self.snapshot, parent)? else { return Ok(false) };
        Ok(beneath::look(&directory, name)?.is_some_and(|old| same(&old, here)))
    }
}

fn directory_if_any(top: &OwnedFd, path: &Path) -> io::Result<Option<OwnedFd>> {
    match beneath::directory(top, path) {
        Err(errno) if beneath::is_none(errno) => Ok(None),
        opened => Ok(Some(opened?)),
    }
}

/// Gives what is there a second name, under which it stays when the first one is taken. A name that is taken already is left alone,
/// unless it is this very file's: an earlier try came so far.
fn keep_beside(directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    for number in 0..MOST_BESIDE {
        let beside = beside_name(name, number);
        match rustix::fs::linkat(directory, name, directory, &beside, AtFlags::empty()) {
            Err(Errno::EXIST) => {
                let inode = |name| beneath::look(directory, name).map(|stat| stat.map(|stat| stat.st_ino));
                if inode(name)? == inode(&beside)? {
                    return Ok(());
                }
            }
            linked => return Ok(linked?),
        }
    }
    Err(io::Error::other(format!(
        "there is no free name like {} any more",
        show::path(Path::new(&beside_name(name, 0)))
    )))
}

/// `NAME.before-rollback`, then `NAME.before-rollback.1`, ...
fn beside_name(name: &OsStr, number: usize) -> OsString {
    let mut beside = name.to_owned();
    beside.push(SUFFIX);
    if number > 0 {
        beside.push(format!(".{number}"));
    }
    beside
}

/// Reads both: what was carried must be there, though somebody may have appended to it since.
fn proven(
    (from, name): (&OwnedFd, &OsStr),
    (to, there): (&OwnedFd, &OsStr),
    source: &Stat,
) -> io::Result<(blake3::Hash, u64)> {
    let (content, found) = if kind(source) == FileType::Symlink {
        let target = |directory, name| -> io::Result<_> {
            let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
            Ok((blake3::hash(target.as_bytes()), 0))
        };
        (target(from, name)?, target(to, there)?)
    } else {
        let content = hash(beneath::regular(from, name)?.0, u64::MAX)?;
        (content, hash(beneath::regular(to, there)?.0, content.1)?)
    };
    if content == found { Ok(content) } else { Err(io::Error::other("it is not as in the failed root")) }
}

/// BLAKE3 of a file's first bytes, and how many there were.
fn hash(file: File, most: u64) -> io::Result<(blake3::Hash, u64)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file.take(most))?;
    Ok((hasher.finalize(), hasher.count()))
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn same(one: &Stat, other: &Stat) -> bool {
    let state = |stat: &Stat| (kind(stat), stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    state(one) == state(other)
}

/// What an earlier rollback has kept beside.
fn is_ours(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let plain = name.rsplitn(2, |byte| *byte == b'.').collect::<Vec<_>>();
    let numbered = matches!(plain[..], [number, rest] if number.iter().all(u8::is_ascii_digit) && rest.ends_with(SUFFIX.as_bytes()));
    numbered || name.ends_with(SUFFIX.as_bytes())
}

/// The other name of a journal that journald writes to in both roots: `system.journal`, `user-1000.journal` in the directory of a
/// machine. journalctl reads every `*.journal` there.
fn journal_name(path: &Path, run: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(".journal")?;
    let machine = path.parent()?.file_name()?.to_str()?;
    let is_machine = machine.len() == 32 && machine.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_journal = path.parent()?.parent()?.file_name()? == OsStr::new("journal");
    (is_machine && is_journal && !stem.contains('@'))
        .then(|| path.with_file_name(format!("{stem}@safe-upgrade-{run}.journal")))
}

#[cfg(test)]
#[path = "carry/carry_tests.rs"]
mod tests;
