//! Three small trees stand in for the roots.

use super::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::{Duration, SystemTime};

const MACHINE: &str = "0123456789abcdef0123456789abcdef";

struct Trees {
    directory: tempfile::TempDir,
    roots: Roots,
}

impl Trees {
    /// `None` for whoever may not give files away.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["snapshot", "failed", "running"] {
            fs::create_dir_all(path(name).join("var/log")).unwrap();
        }
        let roots = Roots::at(&path("snapshot"), &path("failed"), &path("running")).unwrap();
        Some(Self { directory, roots })
    }

    fn at(&self, tree: &str) -> PathBuf {
        self.directory.path().join(tree)
    }

    fn carry(&self, room: u64) -> CarryReport {
        let mut report = CarryReport::default();
        let mut stage = Stage::make(&self.roots.running).unwrap();
        stage.limit(room);
        self.roots.carry_below(Path::new("var/log"), "R", &mut stage, &mut report).unwrap();
        drop(stage);
        assert!(!self.at("running").join(stage::NAME).exists());
        report
    }
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
    let Some(trees) = Trees::new() else { return };
    let (snapshot, failed, running) = (trees.at("snapshot"), trees.at("failed"), trees.at("running"));
    let journal = format!("var/log/journal/{MACHINE}/system.journal");
    for tree in [&snapshot, &failed, &running] {
        put(tree, "var/log/untouched", "old", 1);
        put(tree, "var/log/grown", "old", 1);
        put(tree, "var/log/both", "old", 1);
        put(tree, "var/log/deleted", "old", 1);
        put(tree, &journal, "old", 1);
    }
    put(&failed, "var/log/grown", "old and more", 2);
    put(&failed, "var/log/new/dir/#file", "new", 2);
    put(&failed, "var/log/both", "failed", 2);
    put(&failed, &journal, "failed journal", 2);
    fs::remove_file(failed.join("var/log/deleted")).unwrap();
    put(&running, "var/log/both", "running", 3);
    put(&running, "var/log/only-here", "running", 3);
    put(&running, &journal, "running journal", 3);
    symlink("grown", failed.join("var/log/link")).unwrap();
    std::os::unix::fs::chown(failed.join("var/log/new/dir"), Some(33), Some(4)).unwrap();

    let report = trees.carry(u64::MAX);
    assert_eq!(report.troubles, Vec::<String>::new());
    let read = |path: &str| fs::read_to_string(running.join(path)).unwrap();
    assert_eq!(read("var/log/grown"), "old and more");
    assert_eq!(read("var/log/new/dir/#file"), "new");
    assert_eq!(fs::metadata(running.join("var/log/new/dir")).unwrap().uid(), 33);
    assert_eq!(
        (read("var/log/both").as_str(), read("var/log/both.before-rollback").as_str()),
        ("failed", "running")
    );
    assert_eq!((read("var/log/deleted").as_str(), read("var/log/only-here").as_str()), ("old", "running"));
    assert_eq!(read(&journal), "running journal");
    assert_eq!(read(&journal.replace("system", "system@safe-upgrade-R")), "failed journal");
    assert_eq!(fs::read_link(running.join("var/log/link")).unwrap(), Path::new("grown"));
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

    // Once more after a crash: nothing changes, and what was carried before is told again.
    let mut again = trees.carry(0);
    again.files.sort_by(|one, other| one.path.cmp(&other.path));
    let mut files = report.files;
    files.sort_by(|one, other| one.path.cmp(&other.path));
    assert_eq!((again.files, again.troubles), (files, vec![]));
    assert!(!running.join("var/log/both.before-rollback.1").exists());
}

#[test]
fn nothing_is_carried_through_a_link_and_nothing_blocks() {
    let Some(trees) = Trees::new() else { return };
    let (failed, running) = (trees.at("failed"), trees.at("running"));
    put(&failed, "var/log/app/cron", "mine", 2);
    fs::create_dir(running.join("etc")).unwrap();
    symlink("../../etc", running.join("var/log/app")).unwrap();
    // A pipe in the place of what is compared, and one that is new.
    let fifo = |path: PathBuf| {
        rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    };
    fifo(failed.join("var/log/pipe"));
    put(&failed, "var/log/was-a-file", "file", 2);
    fifo(running.join("var/log/was-a-file"));
    let report = trees.carry(u64::MAX);
    assert_eq!(report.troubles.len(), 1, "{report:?}");
    assert!(report.troubles[0].contains("symbolic link"), "{report:?}");
    assert!(!running.join("etc/cron").exists() && !running.join("var/log/pipe").exists());
    assert_eq!(fs::read(running.join("var/log/was-a-file")).unwrap(), b"file");
}

#[test]
fn a_failed_root_whose_directory_leads_elsewhere_is_not_followed() {
    let Some(trees) = Trees::new() else { return };
    put(trees.directory.path(), "elsewhere/file", "of the running root", 2);
    fs::remove_dir(trees.at("failed/var/log")).unwrap();
    symlink(trees.at("elsewhere"), trees.at("failed/var/log")).unwrap();
    let trouble = trees.roots.differing(Path::new("var/log")).unwrap_err();
    assert!(trouble.to_string().contains("not a directory in the failed root"), "{trouble}");
}

#[test]
fn what_an_earlier_rollback_kept_beside_stays() {
    let Some(trees) = Trees::new() else { return };
    put(&trees.at("snapshot"), "var/log/both", "old", 1);
    put(&trees.at("failed"), "var/log/both", "failed", 2);
    put(&trees.at("running"), "var/log/both", "running", 3);
    put(&trees.at("running"), "var/log/both.before-rollback", "earlier", 1);
    assert_eq!(trees.carry(u64::MAX).troubles, Vec::<String>::new());
    let read = |name: &str| fs::read_to_string(trees.at("running/var/log").join(name)).unwrap();
    assert_eq!(
        (read("both"), read("both.before-rollback"), read("both.before-rollback.1")),
        ("failed".into(), "earlier".into(), "running".into())
    );
    assert!(is_ours(Path::new("var/log/both.before-rollback.1")));
    assert!(!is_ours(Path::new("var/log/before-rollback.1")));
}

#[test]
fn what_does_not_fit_is_told_and_not_copied() {
    let Some(trees) = Trees::new() else { return };
    put(&trees.at("failed"), "var/log/large", &"x".repeat(100_000), 2);
    let report = trees.carry(0);
    assert!(report.troubles[0].contains("too little free space"), "{report:?}");
    assert_eq!((report.files.len(), trees.at("running/var/log/large").exists()), (0, false));
}

#[test]
fn owners_modes_and_attributes_come_along() {
    let Some(trees) = Trees::new() else { return };
    put(&trees.at("failed"), "var/log/app/file", "1", 2);
    let (from, to) = (trees.at("failed/var/log/app/file"), trees.at("running/var/log/app/file"));
    std::os::unix::fs::chown(&from, Some(33), Some(4)).unwrap();
    rustix::fs::chmod(&from, rustix::fs::Mode::from_raw_mode(0o4640)).unwrap();
    let tagged = rustix::fs::setxattr(&from, "user.tag", b"value", rustix::fs::XattrFlags::empty()).is_ok();
    assert_eq!(trees.carry(u64::MAX).troubles, Vec::<String>::new());
    let stat = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        (found.uid(), found.gid(), found.mode(), found.mtime(), found.mtime_nsec())
    };
    assert_eq!((stat(&to), stat(&to).2 & 0o7777), (stat(&from), 0o4640));
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(&to, "user.tag", &mut value[..]);
    assert_eq!(
        length.map(|length| &value[..length]),
        if tagged { Ok(&b"value"[..]) } else { length.map(|_| &b""[..]) }
    );
}
