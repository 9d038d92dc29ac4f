//! The way to a clone without snapshots: the backup, restored into a directory of its own and compared with its manifest. What is not
//! the same is no machine to rehearse on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use super::clone;
use super::made;
use super::names::Names;
use super::{RehearsalError, Result};
use crate::backup::{self, Place, VerifyError, VerifyOptions, VerifyProgress};
use crate::manifest::format::{FormatError, Header};
use crate::manifest::{self, Facts, Report, Verdict};
use crate::release::package_state::package_state;
use crate::system::disks::{self, Below};
use crate::system::span::Span;
use crate::system::{durable, mounts, show};

/// What the clone may need besides what the packages grow by, in bytes: unpacking, logs, and the databases' own.
const SPARE: u64 = 1 << 30;

/// How many differences a refusal names.
const NAMED: usize = 3;

/// The tree without which there is no clone.
const ROOT: &str = "/";

/// The backup of this machine, as the configuration has it.
#[derive(Debug, Clone)]
pub struct Backup {
    /// The store.
    pub store: PathBuf,
    /// The trees that it holds.
    pub trees: Vec<PathBuf>,
    /// How old a copy may be.
    pub max_age: Span,
    /// Below this it is restored.
    pub scratch: PathBuf,
    /// Whether somebody chose that place.
    pub scratch_is_chosen: bool,
    /// Bytes that must be there besides: what the upgrade adds, and what stays free.
    pub growth: u64,
}

impl Backup {
    /// Whether it can become a clone, as far as that is seen without reading it: it has the root, is finished and young enough, and
    /// is not restored into memory.
    ///
    /// # Errors
    /// [`RehearsalError::Impossible`] says what to configure, or to do.
    pub fn ready(&self) -> Result<()> {
        if !self.holds(Path::new(ROOT)) {
            return Err(impossible(
                "this machine's root is no subvolume that could be cloned by a snapshot, so the clone is restored from the backup, and that \
                 does not have the root: name \"/\" in backup.trees, and every other filesystem that the clone shall have; \
                 then `safe-upgrade backup`"
                    .into(),
            ));
        }
        let table = mounts::read()?;
        let restored = |tree: &&PathBuf| {
            table.iter().any(|mount| mount.point == **tree)
                && !clone::BOOT.contains(&&*tree.to_string_lossy())
        };
        for tree in self.trees.iter().filter(restored) {
            self.young(tree)?;
        }
        durable::private_directory(&self.scratch)?;
        let below = disks::below(&self.scratch)
            .map_err(|error| RehearsalError::path("look below", &self.scratch)(io::Error::other(error)))?;
        if below == Below::Memory && !self.scratch_is_chosen {
            return Err(impossible(format!(
                "the backup would be restored into memory ({}): set backup.scratch to a directory on a disk",
                show::path(&self.scratch)
            )));
        }
        Ok(())
    }

    /// Whether a tree is one of it.
    #[must_use]
    pub fn holds(&self, tree: &Path) -> bool {
        self.trees.iter().any(|one| one == tree)
    }

    /// Where a rehearsal restores it.
    ///
    /// # Errors
    /// When the place cannot be found out.
    pub fn place(&self, names: &Names) -> Result<made::Place> {
        let scratch =
            self.scratch.canonicalize().map_err(RehearsalError::path("look at", self.scratch.as_path()))?;
        let table = mounts::read()?;
        let filesystem = mounts::holding(&table, &scratch)?.point.clone();
        Ok(made::Place { directory: scratch.join(names.restored()), filesystem })
    }

    /// Restores a tree into a directory that is not there yet, compares it, and says what it is.
    ///
    /// # Errors
    /// [`RehearsalError::Impossible`] when there is no room, or it is not the same.
    pub fn restore(&self, tree: &Path, to: &Path, told: &dyn Fn(&str)) -> Result<String> {
        let header = self.young(tree)?;
        let place = self.place_of(tree)?;
        let report = restored(tree, &place, (to, self.growth.saturating_add(SPARE)), told)?;
        let time = time(&header);
        match report.verdict() {
            Verdict::Same => Ok(sentence(&header, &time, report.entries)),
            _ => Err(impossible(not_the_same(tree, &time, &report))),
        }
    }

    /// What is rehearsed says something about this machine only while both have the same packages. `admin` is the clone's `/var/lib/dpkg`.
    ///
    /// # Errors
    /// [`RehearsalError::Impossible`] when they have not.
    pub fn has_the_packages_of(&self, machine: &str, admin: &Path) -> Result<()> {
        let restored = package_state(admin).map_err(RehearsalError::Packages)?;
        if restored == machine {
            return Ok(());
        }
        Err(impossible(
            "packages were installed, removed, updated or held since the backup was made: make it again (`safe-upgrade backup`)"
                .into(),
        ))
    }

    fn place_of(&self, tree: &Path) -> Result<Place> {
        Place::of(&self.store, tree).map_err(|error| impossible(error.to_string()))
    }

    /// The header of a tree's manifest, when the copy is finished and not too old.
    fn young(&self, tree: &Path) -> Result<Header> {
        let path = self.place_of(tree)?.manifest();
        let (shown, store) = (show::path(tree), show::path(&self.store));
        let header = match manifest::open_file(&path) {
            Ok(reader) => reader.header().clone(),
            Err(FormatError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let why =
                    format!("the store {store} has no finished backup of {shown}: `safe-upgrade backup`");
                return Err(impossible(why));
            }
            Err(source) => {
                let source = Box::new(VerifyError::Manifest { path, source });
                return Err(RehearsalError::Restore { tree: tree.to_owned(), source });
            }
        };
        let most = i64::try_from(self.max_age.duration().as_secs()).unwrap_or(i64::MAX);
        if header.ended.seconds < jiff::Timestamp::now().as_second().saturating_sub(most) {
            return Err(impossible(format!(
                "the backup of {shown} is of {} and older than {}: make it again (`safe-upgrade backup`), or raise backup.max_age",
                time(&header),
                self.max_age
            )));
        }
        Ok(header)
    }
}

/// Restores in another thread: whoever is told lives in this one.
fn restored(tree: &Path, place: &Place, (to, spare): (&Path, u64), told: &dyn Fn(&str)) -> Result<Report> {
    // rsync cannot restore the flags of chattr, and the upgrade does not look at them.
    let options = VerifyOptions { kept: NAMED, accept_lost: Facts::FLAGS, ..VerifyOptions::default() };
    let shown = show::path(tree);
    let (sender, heard) = mpsc::channel();
    let report = std::thread::scope(|scope| {
        let restoring = scope.spawn(move || {
            backup::restore_to_stay(&place.copy(), &place.manifest(), (to, spare), &options, &|state| {
                // Whoever listens may have given up; the restore ends all the same.
                let _ = sender.send(state);
            })
        });
        for state in heard {
            told(&words(&shown, state));
        }
        restoring.join()
    });
    match report {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(VerifyError::TooSmall { scratch, needed, free })) => Err(impossible(format!(
            "restoring the backup of {shown} and upgrading it needs {}, and {} has {}: make room, or set backup.scratch",
            mebibytes(needed),
            show::path(&scratch),
            mebibytes(free)
        ))),
        Ok(Err(source)) => Err(RehearsalError::Restore { tree: tree.to_owned(), source: Box::new(source) }),
        Err(_) => Err(RehearsalError::Silent { stage: "restore", why: "its thread panicked".into() }),
    }
}

fn words(tree: &str, state: VerifyProgress) -> String {
    match state {
        VerifyProgress::Listing => format!("restoring the backup of {tree}: listing it"),
        VerifyProgress::Restoring { done, total } => {
            format!("restoring the backup of {tree}: {} %", done.saturating_mul(100) / total.max(1))
        }
        VerifyProgress::Reading(_) => format!("comparing what was restored of {tree} with its manifest"),
    }
}

fn sentence(header: &Header, time: &str, entries: u64) -> String {
    let without: Vec<String> = header.excludes.iter().map(|pattern| show::bytes(pattern)).collect();
    let without = match without.is_empty() {
        true => String::new(),
        false => format!(", without {}", without.join(", ")),
    };
    format!("restored from the backup of {time}, {entries} entries verified{without}")
}

fn not_the_same(tree: &Path, time: &str, report: &Report) -> String {
    let named = report.differences().iter().map(|one| format!("{}: {}", one.class, show::bytes(&one.path)));
    let named: Vec<String> = named.collect();
    let remedy = match report.verdict() {
        Verdict::Unknown => {
            "leave out what is written all the time (backup.exclude), or stop who writes it, and make the backup again"
        }
        _ => "make it again (`safe-upgrade backup`)",
    };
    format!(
        "the backup of {} of {time} was restored and is {} ({}): {remedy}",
        show::path(tree),
        report.sentence(),
        named.join("; ")
    )
}

/// `2026-11-27T07:18:13Z`.
fn time(header: &Header) -> String {
    jiff::Timestamp::from_second(header.ended.seconds)
        .map_or_else(|_| header.ended.seconds.to_string(), |time| time.to_string())
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn impossible(why: String) -> RehearsalError {
    RehearsalError::Impossible(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::{BackupOptions, back_up};
    use crate::manifest::exclude::Excludes;

    struct Lab {
        dir: tempfile::TempDir,
    }

    impl Lab {
        /// A tree with a backup that leaves something out; `None` without rsync.
        fn new() -> Option<Self> {
            if crate::system::exec::find_tool("rsync").is_err() {
                println!("skipped: rsync is not installed");
                return None;
            }
            let lab = Self { dir: tempfile::tempdir().unwrap() };
            std::fs::create_dir_all(lab.tree().join("cache")).unwrap();
            std::fs::write(lab.tree().join("cache/big"), "cached").unwrap();
            std::fs::write(lab.tree().join("kept"), "kept").unwrap();
            let excludes = Excludes::parse(&["cache"]).unwrap();
            let options = BackupOptions { excludes, ..BackupOptions::default() };
            back_up(&lab.tree(), &lab.dir.path().join("store"), &options, &|_| {}).unwrap();
            Some(lab)
        }

        fn tree(&self) -> PathBuf {
            self.dir.path().join("tree")
        }

        fn backup(&self) -> Backup {
            Backup {
                store: self.dir.path().join("store"),
                trees: vec![self.tree()],
                max_age: Span::seconds(3600),
                scratch: self.dir.path().join("scratch"),
                scratch_is_chosen: true,
                growth: 0,
            }
        }

        fn restore(&self, backup: &Backup, name: &str) -> Result<String> {
            backup.restore(&self.tree(), &self.dir.path().join(name), &|_| {})
        }
    }

    fn refusal(result: Result<String>) -> String {
        match result {
            Err(RehearsalError::Impossible(why)) => why,
            other => panic!("no refusal: {other:?}"),
        }
    }

    #[test]
    fn what_was_restored_stays_and_is_told() {
        let Some(lab) = Lab::new() else { return };
        let told = lab.restore(&lab.backup(), "clone").unwrap();
        assert!(told.starts_with("restored from the backup of 20"), "{told}");
        assert!(told.ends_with("Z, 2 entries verified, without cache"), "{told}");
        assert_eq!(std::fs::read(lab.dir.path().join("clone/kept")).unwrap(), b"kept");
        assert!(!lab.dir.path().join("clone/cache").exists());
    }

    #[test]
    fn a_backup_that_is_damaged_old_or_too_large_is_refused_with_a_reason() {
        let Some(lab) = Lab::new() else { return };
        let large = Backup { growth: 1 << 60, ..lab.backup() };
        let why = refusal(lab.restore(&large, "large"));
        assert!(why.contains("needs 109951162880") && why.contains(" MiB: make room"), "{why}");
        let place = Place::of(&lab.backup().store, &lab.tree()).unwrap();
        std::fs::write(place.copy().join("kept"), "kepp").unwrap();
        let why = refusal(lab.restore(&lab.backup(), "damaged"));
        assert!(why.contains("not the same") && why.contains("content: kept"), "{why}");
        let mut old = manifest::read_file(&place.manifest()).unwrap();
        old.header.ended.seconds -= 3601;
        manifest::write_file(&old, &place.manifest()).unwrap();
        let why = refusal(lab.restore(&lab.backup(), "old"));
        assert!(why.contains("and older than 1h: "), "{why}");
        std::fs::remove_file(place.manifest()).unwrap();
        assert!(refusal(lab.restore(&lab.backup(), "none")).contains("no finished backup"));
    }

    #[test]
    fn memory_is_for_those_who_choose_it() {
        let Some(lab) = Lab::new() else { return };
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        // A backup of this very machine would take its time.
        let (there, root) =
            (Place::of(&lab.backup().store, &lab.tree()), Place::of(&lab.backup().store, Path::new("/")));
        std::fs::rename(there.unwrap().directory(), root.unwrap().directory()).unwrap();
        let scratch = memory.path().join("scratch");
        let chosen = Backup { trees: vec!["/".into()], scratch, ..lab.backup() };
        chosen.ready().unwrap();
        let default = Backup { scratch_is_chosen: false, ..chosen };
        assert!(refusal(default.ready().map(|()| String::new())).contains("restored into memory"));
    }

    #[test]
    fn other_packages_are_another_machine() {
        let Some(lab) = Lab::new() else { return };
        if crate::system::exec::find_tool("dpkg-query").is_err() {
            println!("skipped: dpkg is not installed");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let dpkg = root.path().join("var/lib/dpkg");
        std::fs::create_dir_all(&dpkg).unwrap();
        let status = "Package: one\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n";
        std::fs::write(dpkg.join("status"), status).unwrap();
        let same = package_state(&dpkg).unwrap();
        lab.backup().has_the_packages_of(&same, &dpkg).unwrap();
        let other = lab.backup().has_the_packages_of("another", &dpkg).map(|()| String::new());
        assert!(refusal(other).contains("since the backup was made"));
    }

    #[test]
    fn a_backup_without_the_root_says_what_to_configure() {
        let Some(lab) = Lab::new() else { return };
        let why = refusal(lab.backup().ready().map(|()| String::new()));
        assert!(why.contains("name \"/\" in backup.trees"), "{why}");
    }
}
