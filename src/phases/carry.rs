//! What a rollback leaves as it is: files below the configured directories that are new or changed in the failed root are copied
//! into the restored one. Nothing is deleted, and nothing that the restored system has written meanwhile is lost.
//!
//! | in the restored root | what happens |
//! |---|---|
//! | not there, or as in the snapshot | the failed root's file takes its place (the snapshot still has the old one) |
//! | written to since | the restored one is kept beside it as `NAME.before-rollback`; a daemon that holds it open goes on there, as with a rotated log, until it opens its log again |
//! | systemd's journal, always written to | the failed root's file gets a name of its own beside it, which `journalctl` reads too |

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Machine, Result, trouble};
use crate::backup::rsync;
use crate::driver::Trouble;
use crate::evidence::Plan;
use crate::snapshot::TopLevel;
use crate::snapshot::divergence::{self, Difference};
use crate::system::{durable, mounts, show};

/// The file's name in the run's directory: what was carried, with its hashes, and what came of it.
pub const FILE: &str = "carried.json";

const SUFFIX: &str = ".before-rollback";

/// Where files wait in the restored root that get another name.
const STAGE: &str = ".safe-upgrade-carried";

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

/// The three trees, each by a path for this process and for programs that it starts.
struct Roots {
    /// Holds the paths below it; tests have none.
    _top: Option<TopLevel>,
    snapshot: PathBuf,
    failed: PathBuf,
    failed_for_rsync: PathBuf,
    running: PathBuf,
}

/// What is to be carried: paths from `/`, without it.
#[derive(Default)]
struct Lists {
    /// Take the place of what is there.
    plain: Vec<PathBuf>,
    /// Take its place too; what is there is kept beside.
    both: Vec<PathBuf>,
    /// Go beside, under another name.
    renamed: Vec<(PathBuf, PathBuf)>,
}

impl Roots {
    fn open(machine: &Machine) -> Result<Self> {
        let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
        let (before, other) = (machine.names.before(), machine.names.other_root());
        top.get(&other).map_err(trouble)?;
        Ok(Self {
            snapshot: top.path(Path::new(&before)),
            failed: top.path(Path::new(&other)),
            failed_for_rsync: top.path_for_children(Path::new(&other)),
            running: PathBuf::from("/"),
            _top: Some(top),
        })
    }

    fn carry(&self, directory: &Path, run: &str, report: &mut CarryReport) -> Result<()> {
        let table = mounts::read().map_err(trouble)?;
        if mounts::holding(&table, directory).map_err(trouble)?.point != Path::new("/") {
            return Err(Trouble::new("it is mounted by itself, and no rollback takes it back"));
        }
        self.carry_below(directory.strip_prefix("/").unwrap_or(directory), run, report)
    }

    fn carry_below(&self, below: &Path, run: &str, report: &mut CarryReport) -> Result<()> {
        let lists = self.lists(below, run, report)?;
        self.copy(&lists.plain, &self.running, &[])?;
        self.copy(&lists.both, &self.running, &["--backup".into(), format!("--suffix={SUFFIX}").into()])?;
        self.put_beside(&self.running.join(below), &lists.renamed)?;
        let same = lists.plain.iter().map(|path| (path, path, false));
        let both = lists.both.iter().map(|path| (path, path, true));
        let renamed = lists.renamed.iter().map(|(path, to)| (path, to, true));
        for (path, to, both) in same.chain(both).chain(renamed) {
            match self.proven(path, to, both) {
                Ok(Some(carried)) => report.files.push(carried),
                Ok(None) => report.troubles.push(format!("/{} is not as in the failed root", show::path(to))),
                Err(error) => report.troubles.push(format!("/{}: {error}", show::path(to))),
            }
        }
        Ok(())
    }

    fn lists(&self, below: &Path, run: &str, report: &mut CarryReport) -> Result<Lists> {
        let mut lists = Lists::default();
        if !self.failed.join(below).is_dir() {
            return Err(Trouble::new("it is not a directory in the failed root"));
        }
        let mut place = |path: &Path, difference, _| {
            let path = below.join(path);
            if difference == Difference::Removed || is_ours(&path) {
                return;
            }
            match self.place(&path, run, &mut lists) {
                Ok(()) => {}
                Err(error) => report.troubles.push(format!("/{}: {error}", show::path(&path))),
            }
        };
        divergence::walk(&self.snapshot.join(below), &self.failed.join(below), &mut place)
            .map_err(trouble)?;
        Ok(lists)
    }

    fn place(&self, path: &Path, run: &str, lists: &mut Lists) -> io::Result<()> {
        let failed = std::fs::symlink_metadata(self.failed.join(path))?;
        if !failed.is_file() && !failed.is_symlink() {
            return Ok(());
        }
        if let Some(link) = self.link_on_the_way(path)? {
            let message = format!("the way there leads through the symbolic link /{}", show::path(&link));
            return Err(io::Error::other(message));
        }
        let here = metadata_if_any(&self.running.join(path))?;
        let old = metadata_if_any(&self.snapshot.join(path))?;
        match (&here, journal_name(path, run)) {
            (Some(here), _) if same(here, &failed) => {}
            (Some(_), Some(other)) => {
                let done =
                    metadata_if_any(&self.running.join(&other))?.is_some_and(|there| same(&there, &failed));
                if !done {
                    lists.renamed.push((path.to_owned(), other));
                }
            }
            (Some(here), None) if !old.as_ref().is_some_and(|old| same(here, old)) => {
                lists.both.push(path.to_owned());
            }
            _ => lists.plain.push(path.to_owned()),
        }
        Ok(())
    }

    /// A directory on the way that became a link, perhaps by somebody who may write there and would like root to write elsewhere.
    fn link_on_the_way(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let Some(parent) = path.parent() else { return Ok(None) };
        let mut so_far = PathBuf::new();
        for part in parent.components() {
            so_far.push(part);
            if metadata_if_any(&self.running.join(&so_far))?.is_some_and(|there| !there.is_dir()) {
                return Ok(Some(so_far));
            }
        }
        Ok(None)
    }

    fn copy(&self, paths: &[PathBuf], to: &Path, arguments: &[OsString]) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        // New directories come with their owner and mode; those that are there stay as they are.
        let missing = |path: &&Path| !path.as_os_str().is_empty() && !to.join(path).exists();
        let directories: BTreeSet<&Path> =
            paths.iter().flat_map(|path| path.ancestors().skip(1)).filter(missing).collect();
        let mut list = Vec::new();
        for path in directories.into_iter().chain(paths.iter().map(PathBuf::as_path)) {
            // `./` keeps rsync from taking `#name` for a comment.
            list.extend_from_slice(b"./");
            list.extend_from_slice(path.as_os_str().as_bytes());
            list.push(0);
        }
        let arguments: Vec<OsString> = ["--no-implied-dirs".into(), "--no-recursive".into(), "--dirs".into()]
            .into_iter()
            .chain(arguments.iter().cloned())
            .collect();
        match rsync::run(&self.failed_for_rsync, to, &arguments, Some(&list), &|_| {}).map_err(trouble)? {
            rsync::Ended::Complete => Ok(()),
            rsync::Ended::Vanished => Err(Trouble::new("a file vanished from the failed root")),
            rsync::Ended::Partial(words) => Err(Trouble::new(words)),
        }
    }

    /// Copies to a directory of our own first, and gives each its new name from there.
    fn put_beside(&self, directory: &Path, renamed: &[(PathBuf, PathBuf)]) -> Result<()> {
        if renamed.is_empty() {
            return Ok(());
        }
        let stage = directory.join(STAGE);
        durable::private_directory(&stage).map_err(trouble)?;
        let paths: Vec<PathBuf> = renamed.iter().map(|(path, _)| path.clone()).collect();
        self.copy(&paths, &stage, &[])?;
        for (path, to) in renamed {
            std::fs::rename(stage.join(path), self.running.join(to)).map_err(trouble)?;
        }
        std::fs::remove_dir_all(&stage).map_err(trouble)
    }

    /// Reads both: what was carried must be there, though somebody may have appended to it since.
    fn proven(&self, path: &Path, to: &Path, both: bool) -> io::Result<Option<Carried>> {
        let (from, there) = (self.failed.join(path), self.running.join(to));
        let (content, found) = if std::fs::symlink_metadata(&from)?.is_symlink() {
            let target = |link: &Path| {
                std::fs::read_link(link).map(|target| blake3::hash(target.as_os_str().as_bytes()))
            };
            ((target(&from)?, 0), (target(&there)?, 0))
        } else {
            let content = hash(&from, u64::MAX)?;
            (content, hash(&there, content.1)?)
        };
        Ok((content == found).then(|| Carried {
            path: format!("/{}", show::path(to)),
            bytes: content.1,
            blake3: content.0.to_hex().to_string(),
            both,
        }))
    }
}

/// BLAKE3 of a file's first bytes, and how many there were.
fn hash(path: &Path, most: u64) -> io::Result<(blake3::Hash, u64)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?.take(most))?;
    Ok((hasher.finalize(), hasher.count()))
}

fn metadata_if_any(path: &Path) -> io::Result<Option<Metadata>> {
    match std::fs::symlink_metadata(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        found => found.map(Some),
    }
}

fn same(one: &Metadata, other: &Metadata) -> bool {
    let state = |metadata: &Metadata| {
        (metadata.mode() & 0o170_000, metadata.len(), metadata.mtime(), metadata.mtime_nsec())
    };
    state(one) == state(other)
}

/// What an earlier try has left.
fn is_ours(path: &Path) -> bool {
    path.components().any(|part| part == Component::Normal(OsStr::new(STAGE)))
        || path.as_os_str().as_bytes().ends_with(SUFFIX.as_bytes())
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
mod tests {
    use super::*;
    use crate::system::exec::Exec;
    use std::fs;
    use std::time::{Duration, SystemTime};

    const MACHINE: &str = "0123456789abcdef0123456789abcdef";

    struct Trees {
        _directory: tempfile::TempDir,
        roots: Roots,
    }

    fn trees() -> Option<Trees> {
        if Exec::new("rsync").is_err() || !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs rsync and root");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["snapshot", "failed", "running"] {
            fs::create_dir_all(path(name).join("var/log")).unwrap();
        }
        let (failed, running) = (path("failed"), path("running"));
        let roots = Roots {
            _top: None,
            snapshot: path("snapshot"),
            failed_for_rsync: failed.clone(),
            failed,
            running,
        };
        Some(Trees { _directory: directory, roots })
    }

    fn put(tree: &Path, path: &str, content: &str, seconds: u64) {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn journals_get_a_name_of_their_own() {
        let path = |name: &str| PathBuf::from(format!("var/log/journal/{MACHINE}/{name}"));
        assert_eq!(journal_name(&path("system.journal"), "R"), Some(path("system@safe-upgrade-R.journal")));
        assert_eq!(journal_name(&path("user-7.journal"), "R"), Some(path("user-7@safe-upgrade-R.journal")));
        assert_eq!(journal_name(&path("system@12-34.journal"), "R"), None);
        assert_eq!(journal_name(Path::new("var/log/system.journal"), "R"), None);
    }

    #[test]
    fn new_and_changed_files_are_carried_and_nothing_is_lost() {
        let Some(Trees { roots, _directory }) = trees() else { return };
        let journal = format!("var/log/journal/{MACHINE}/system.journal");
        for tree in [&roots.snapshot, &roots.failed, &roots.running] {
            put(tree, "var/log/untouched", "old", 1);
            put(tree, "var/log/grown", "old", 1);
            put(tree, "var/log/both", "old", 1);
            put(tree, "var/log/deleted", "old", 1);
            put(tree, &journal, "old", 1);
        }
        put(&roots.failed, "var/log/grown", "old and more", 2);
        put(&roots.failed, "var/log/new/dir/#file", "new", 2);
        put(&roots.failed, "var/log/both", "failed", 2);
        put(&roots.failed, &journal, "failed journal", 2);
        fs::remove_file(roots.failed.join("var/log/deleted")).unwrap();
        put(&roots.running, "var/log/both", "running", 3);
        put(&roots.running, "var/log/only-here", "running", 3);
        put(&roots.running, &journal, "running journal", 3);
        std::os::unix::fs::symlink("grown", roots.failed.join("var/log/link")).unwrap();
        std::os::unix::fs::chown(roots.failed.join("var/log/new/dir"), Some(33), Some(4)).unwrap();

        let mut report = CarryReport::default();
        roots.carry_below(Path::new("var/log"), "R", &mut report).unwrap();
        assert_eq!(report.troubles, Vec::<String>::new());
        let read = |path: &str| fs::read_to_string(roots.running.join(path)).unwrap();
        assert_eq!(read("var/log/grown"), "old and more");
        assert_eq!(read("var/log/new/dir/#file"), "new");
        assert_eq!(fs::metadata(roots.running.join("var/log/new/dir")).unwrap().uid(), 33);
        assert_eq!(
            (read("var/log/both").as_str(), read("var/log/both.before-rollback").as_str()),
            ("failed", "running")
        );
        assert_eq!(
            (read("var/log/deleted").as_str(), read("var/log/only-here").as_str()),
            ("old", "running")
        );
        assert_eq!(read(&journal), "running journal");
        assert_eq!(read(&journal.replace("system", "system@safe-upgrade-R")), "failed journal");
        assert_eq!(fs::read_link(roots.running.join("var/log/link")).unwrap(), Path::new("grown"));
        assert!(!roots.running.join("var/log").join(STAGE).exists());
        let mut carried: Vec<(&str, bool)> =
            report.files.iter().map(|file| (file.path.rsplit('/').next().unwrap(), file.both)).collect();
        carried.sort_unstable();
        let expected = [
            ("#file", false),
            ("both", true),
            ("grown", false),
            ("link", false),
            ("system@safe-upgrade-R.journal", true),
        ];
        assert_eq!(carried, expected);

        // Once more after a crash: there is nothing left to do.
        let mut again = CarryReport::default();
        roots.carry_below(Path::new("var/log"), "R", &mut again).unwrap();
        assert_eq!(again, CarryReport::default());
    }

    #[test]
    fn nothing_is_carried_through_a_link() {
        let Some(Trees { roots, _directory }) = trees() else { return };
        put(&roots.failed, "var/log/app/cron", "mine", 2);
        fs::create_dir(roots.running.join("etc")).unwrap();
        std::os::unix::fs::symlink("../../etc", roots.running.join("var/log/app")).unwrap();
        let mut report = CarryReport::default();
        roots.carry_below(Path::new("var/log"), "R", &mut report).unwrap();
        assert!(report.troubles[0].contains("symbolic link"), "{report:?}");
        assert!(!roots.running.join("etc/cron").exists());
    }
}
