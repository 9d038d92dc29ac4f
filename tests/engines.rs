//! The real restic and borg on repositories made for the test.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on has failed")]
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use safe_upgrade::manifest::collect::Sorted;
use safe_upgrade::manifest::compare::{Rules, compare};
use safe_upgrade::manifest::exclude::Excludes;
use safe_upgrade::manifest::verdict::Difference;
use safe_upgrade::manifest::xattr::Xattr;
use safe_upgrade::manifest::{Collector, Facts, Hashing, Manifest, Report, ScanOptions, scan};
use safe_upgrade::sources::borg::Borg;
use safe_upgrade::sources::engine::{Confined, EngineError, read_restored};
use safe_upgrade::sources::restic::Restic;
use safe_upgrade::sources::{Gathered, Limits, Reading};
use safe_upgrade::system::sandbox::Secret;

const PASSWORD: &str = "correct horse";

struct Ground {
    dir: tempfile::TempDir,
}

fn run(program: &str, args: &[&OsStr], env: &[(&str, &OsStr)]) {
    let out = Command::new(program).args(args).envs(env.iter().copied()).output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn has(tools: &[&str]) -> bool {
    let missing: Vec<&&str> =
        tools.iter().filter(|tool| !Path::new("/usr/bin").join(tool).exists()).collect();
    if !missing.is_empty() || !rustix::process::geteuid().is_root() {
        println!("skipped: needs root and {tools:?}");
        return false;
    }
    true
}

impl Ground {
    /// A tree with everything that a filesystem can hold.
    fn new() -> Self {
        let dir = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let ground = Self { dir };
        let tree = ground.tree();
        for name in ["d/empty", "d/sub", "odd", "lots"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        fs::write(tree.join("d/file"), "hello").unwrap();
        fs::hard_link(tree.join("d/file"), tree.join("d/hard1")).unwrap();
        fs::hard_link(tree.join("d/file"), tree.join("odd/hard2")).unwrap();
        // Two inodes that look alike in everything.
        for name in ["twin1", "twin2"] {
            fs::write(tree.join("odd").join(name), "same").unwrap();
        }
        symlink("../file", tree.join("d/sub/link")).unwrap();
        fs::write(tree.join("odd").join(OsStr::from_bytes(b"na\xffme\n\"x*[y]")), "odd").unwrap();
        fs::write(tree.join("odd/caf\u{e9}"), "u").unwrap();
        fs::set_permissions(tree.join("odd/caf\u{e9}"), fs::Permissions::from_mode(0o4755)).unwrap();
        chown(tree.join("d/file"), Some(1001), Some(1002)).unwrap();
        let mut random = vec![0; 3_000_000];
        blake3::Hasher::new().finalize_xof().fill(&mut random);
        fs::write(tree.join("big"), random).unwrap();
        for number in 0..200 {
            fs::write(tree.join(format!("lots/{number}")), format!("file {number}")).unwrap();
        }
        let path = |name: &str| tree.join(name);
        for (name, args) in
            [("fifo", vec!["p"]), ("odd/char", vec!["c", "5", "1"]), ("block", vec!["b", "7", "200"])]
        {
            let path = path(name);
            let mut all = vec![path.as_os_str()];
            all.extend(args.iter().map(OsStr::new));
            run("mknod", &all, &[]);
        }
        let sparse = fs::File::create(path("sparse")).unwrap();
        sparse.set_len(2 << 20).unwrap();
        sparse.write_all_at(b"end", 1 << 20).unwrap();
        let set = |name: &str, value: &str, at: &str| {
            run("setfattr", &["-n", name, "-v", value, path(at).to_str().unwrap()].map(OsStr::new), &[]);
        };
        set("user.one", "value", "d/file");
        set("trusted.top", "1", "");
        set("user.dir", "x", "d");
        run("setfacl", &["-m", "u:1234:rw", path("d/file").to_str().unwrap()].map(OsStr::new), &[]);
        run("setfacl", &["-d", "-m", "g:55:rx", path("d").to_str().unwrap()].map(OsStr::new), &[]);
        run("setcap", &["cap_net_raw+ep", path("odd/caf\u{e9}").to_str().unwrap()].map(OsStr::new), &[]);
        for (at, time) in [("d/file", "2020-01-01 00:00:00.987654321Z"), ("odd", "2001-09-09 01:46:40.5Z")] {
            run("touch", &["-d", time, path(at).to_str().unwrap()].map(OsStr::new), &[]);
        }
        fs::write(ground.dir.path().join("password"), PASSWORD).unwrap();
        fs::create_dir(ground.dir.path().join("scratch")).unwrap();
        ground
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn manifest(&self) -> Manifest {
        let mut manifest = scan(&self.tree(), &ScanOptions::default(), &|_| {}).unwrap();
        for entry in &mut manifest.entries {
            entry.xattrs = attributes(&self.tree().join(entry.as_path()));
        }
        manifest
    }

    fn restic_init(&self) -> Restic {
        self.restic_run(&["init", "-q"]);
        self.restic_run(&["backup", "-q", self.tree().to_str().unwrap()]);
        Restic {
            repository: self.at("restic").into(),
            snapshot: "latest".into(),
            path: None,
            confined: confined(PASSWORD),
        }
    }

    fn borg_init(&self) -> Borg {
        self.borg_run(&["init", "-e", "repokey", "borg"]);
        // The paths in the archive have nothing in front of them.
        self.borg_run(&["create", "../borg::one", "."]);
        Borg::named(self.at("borg").as_os_str(), confined(PASSWORD))
    }

    fn borg_run(&self, args: &[&str]) {
        let inside = args.contains(&".");
        let out = Command::new("borg")
            .args(args)
            .current_dir(if inside { self.tree() } else { self.dir.path().to_owned() })
            .env("BORG_PASSPHRASE", PASSWORD)
            .env("BORG_BASE_DIR", self.at("borg-base"))
            .output()
            .unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn restic_run(&self, args: &[&str]) {
        let (repository, password) = (self.at("restic"), self.at("password"));
        let mut all = vec![OsStr::new("-r"), repository.as_os_str(), OsStr::new("-p"), password.as_os_str()];
        all.push(OsStr::new("--no-cache"));
        all.extend(args.iter().map(OsStr::new));
        run("restic", &all, &[]);
    }

    fn judge(
        &self,
        manifest: &Manifest,
        read: impl FnOnce(&Reading<'_>) -> Result<(Sorted, Gathered), EngineError>,
    ) -> Result<(Report, Gathered), EngineError> {
        let scratch = self.at("scratch");
        let excludes = Excludes::default();
        let reading = Reading {
            hashing: Hashing::plain(),
            scratch: &scratch,
            excludes: &excludes,
            limits: Limits::default(),
            progress: &|_| {},
        };
        let (sorted, gathered) = read(&reading)?;
        let mut report = Report::keeping(1000);
        let found = sorted.map(|found| Ok(found.unwrap()));
        let expected = manifest.entries.iter().map(Ok);
        let rules = Rules { accept_lost: Facts::HOLES, carries: gathered.carries, ..Rules::default() };
        compare(expected, found, &rules, &mut report).unwrap();
        for finding in &gathered.findings {
            report.add(finding.clone());
        }
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "nothing is left in the scratch directory");
        Ok((report, gathered))
    }
}

fn collected(
    reading: &Reading<'_>,
    read: impl FnOnce(&mut Collector) -> Result<Gathered, EngineError>,
) -> Result<(Sorted, Gathered), EngineError> {
    let mut into = Collector::new(reading.scratch);
    let gathered = read(&mut into)?;
    Ok((into.finish()?, gathered))
}

fn confined(password: &str) -> Confined {
    Confined {
        trampoline: env!("CARGO_BIN_EXE_safe-upgrade").into(),
        secret: Some(Secret::new(password.as_bytes().to_vec())),
        ..Confined::new()
    }
}

/// The differences, one word each, in order.
fn told(report: &Report) -> Vec<String> {
    let word = |difference: &Difference| {
        format!("{} {}", difference.class, String::from_utf8_lossy(&difference.path))
    };
    let mut told: Vec<String> = report.differences().iter().map(word).collect();
    told.sort();
    told
}

/// What llistxattr(2) tells: an oracle of its own.
fn attributes(path: &Path) -> Vec<Xattr> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let mut all: Vec<Xattr> = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
            Xattr::new(name, &value[..length])
        })
        .collect();
    all.sort_by(|left, right| left.name.cmp(&right.name));
    all
}

/// One change of each kind to the tree, and what must be named when the backup is older.
fn change(tree: &Path) -> Vec<String> {
    let keep_time = |path: &Path, change: &dyn Fn()| {
        let time = fs::metadata(path).unwrap().modified().unwrap();
        change();
        fs::File::open(path).unwrap().set_modified(time).unwrap();
    };
    let at = |name: &str| tree.join(name);
    let root = |change: &dyn Fn()| keep_time(tree, change);
    let lots = |change: &dyn Fn()| keep_time(&at("lots"), change);
    keep_time(&at("lots/5"), &|| fs::write(at("lots/5"), "elif 5").unwrap());
    keep_time(&at("lots/6"), &|| fs::write(at("lots/6"), "longer than before").unwrap());
    fs::set_permissions(at("lots/7"), fs::Permissions::from_mode(0o600)).unwrap();
    chown(at("lots/8"), Some(7), None).unwrap();
    let time = fs::metadata(at("lots/9")).unwrap().modified().unwrap();
    fs::File::open(at("lots/9")).unwrap().set_modified(time + std::time::Duration::from_nanos(1)).unwrap();
    lots(&|| fs::remove_file(at("lots/10")).unwrap());
    lots(&|| fs::write(at("lots/new"), "").unwrap());
    keep_time(&at("d/sub"), &|| {
        fs::remove_file(at("d/sub/link")).unwrap();
        symlink("../elif", at("d/sub/link")).unwrap();
    });
    root(&|| {
        fs::remove_file(at("block")).unwrap();
        run("mknod", &[at("block").as_os_str(), OsStr::new("b"), OsStr::new("7"), OsStr::new("201")], &[]);
    });
    run("setfattr", &["-n", "user.one", "-v", "other", at("d/file").to_str().unwrap()].map(OsStr::new), &[]);
    keep_time(&at("odd"), &|| {
        // A copy instead of a link: the content is the same.
        run("cp", &[OsStr::new("-a"), at("d/file").as_os_str(), at("odd/new").as_os_str()], &[]);
        fs::rename(at("odd/new"), at("odd/hard2")).unwrap();
    });
    let mut wanted: Vec<String> = [
        "content lots/5",
        "size lots/6",
        "mode lots/7",
        "owner lots/8",
        "mtime lots/9",
        "extra lots/10",
        "missing lots/new",
        "link-target d/sub/link",
        "mtime d/sub/link",
        "device block",
        "mtime block",
        "xattrs d/file",
        "xattrs d/hard1",
        "xattrs odd/hard2",
        "hard-links odd/hard2",
    ]
    .map(str::to_owned)
    .to_vec();
    wanted.sort();
    wanted
}

/// Flips one bit in the middle of the largest file of a repository.
fn damage(repository: &Path) {
    let files = walkdir::WalkDir::new(repository).into_iter().map(Result::unwrap);
    let largest = files
        .filter(|entry| entry.file_type().is_file())
        .max_by_key(|entry| entry.metadata().unwrap().size());
    let path = largest.unwrap().into_path();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let middle = file.metadata().unwrap().size() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
}

#[test]
fn restic_streams_the_same_tree_and_names_every_change() {
    if !has(&["restic", "setfacl"]) {
        return;
    }
    let ground = Ground::new();
    let restic = ground.restic_init();
    let read = |reading: &Reading<'_>| collected(reading, |into| restic.read(reading, into));
    let (report, gathered) = ground.judge(&ground.manifest(), read).unwrap();
    println!("{}", gathered.remarks.join("\n"));
    assert_eq!(told(&report), [""; 0], "{:?} {gathered:?}", report.differences());
    assert!(report.entries > 210 && report.is_same() && !gathered.restored, "{report:?}");
    let lacks = Facts::FLAGS.with(Facts::SOCKETS).with(Facts::HOLES);
    assert_eq!(gathered.carries, Facts::ALL.without(lacks));
    // Saved by a relative path: restic notes the whole path and stores the tree under the short one.
    let out = Command::new("restic")
        .args(["-r", "restic", "-p", "password", "--no-cache", "backup", "-q", "tree"])
        .current_dir(ground.dir.path())
        .output()
        .unwrap();
    assert!(out.status.success());
    let (report, _) = ground.judge(&ground.manifest(), read).unwrap();
    assert_eq!(told(&report), [""; 0], "{:?}", report.differences());
    // Of a part of a snapshot the stream does not tell the attributes of the part's own directory.
    let manifest = scan(&ground.tree().join("d"), &ScanOptions::default(), &|_| {}).unwrap();
    let part =
        Restic { path: Some(ground.tree().join("d")), snapshot: first_snapshot(&ground), ..restic.clone() };
    let (report, _) =
        ground.judge(&manifest, |reading| collected(reading, |into| part.read(reading, into))).unwrap();
    assert_eq!(told(&report), ["lost-by-format ", "lost-by-format "], "{:?}", report.differences());
    let wanted = change(&ground.tree());
    let first = Restic { snapshot: first_snapshot(&ground), ..restic.clone() };
    let (report, _) = ground
        .judge(&ground.manifest(), |reading| collected(reading, |into| first.read(reading, into)))
        .unwrap();
    assert_eq!(told(&report), wanted, "{:?}", report.differences());
}

fn first_snapshot(ground: &Ground) -> String {
    let out = Command::new("restic")
        .args(["-r", "restic", "-p", "password", "--no-cache", "snapshots", "--json"])
        .current_dir(ground.dir.path())
        .output()
        .unwrap();
    let all: Vec<serde_json::Value> = serde_json::from_slice(&out.stdout).unwrap();
    all[0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn borg_streams_the_same_tree_and_names_every_change() {
    if !has(&["borg", "setfacl"]) {
        return;
    }
    let ground = Ground::new();
    let borg = ground.borg_init();
    let read = |reading: &Reading<'_>| collected(reading, |into| borg.read(reading, into));
    let (report, gathered) = ground.judge(&ground.manifest(), read).unwrap();
    println!("{}", gathered.remarks.join("\n"));
    assert_eq!(told(&report), [""; 0], "{:?} {gathered:?}", report.differences());
    assert!(report.entries > 210 && report.is_same() && !gathered.restored, "{report:?}");
    let wanted = change(&ground.tree());
    let (report, _) = ground.judge(&ground.manifest(), read).unwrap();
    assert_eq!(told(&report), wanted, "{:?}", report.differences());
}

#[test]
fn one_bit_in_a_repository_is_found_and_nothing_else_is_accused() {
    if !has(&["restic", "borg", "setfacl"]) {
        return;
    }
    let ground = Ground::new();
    let (restic, borg) = (ground.restic_init(), ground.borg_init());
    let manifest = ground.manifest();
    damage(&ground.at("restic"));
    damage(&ground.at("borg"));
    let (report, gathered) =
        ground.judge(&manifest, |reading| collected(reading, |into| restic.read(reading, into))).unwrap();
    println!("{:?}\n{}", report.differences(), gathered.remarks.join("\n"));
    // Where restic gives up depends on which part of the file the bit was in.
    let both = ["content big", "unreadable big"];
    let said = told(&report);
    assert!(said == both[..1] || said == both, "{:?}", report.differences());
    assert!(gathered.remarks.iter().any(|line| line.contains("verification failed")));
    let (report, gathered) =
        ground.judge(&manifest, |reading| collected(reading, |into| borg.read(reading, into))).unwrap();
    println!("{:?}\n{}", report.differences(), gathered.remarks.join("\n"));
    assert_eq!(told(&report), ["content big", "unreadable big"], "{:?}", report.differences());
    assert!(gathered.remarks.iter().any(|line| line.contains("integrity error")));
}

#[test]
fn real_restores_bring_the_same_tree() {
    if !has(&["restic", "borg", "setfacl"]) {
        return;
    }
    let ground = Ground::new();
    // Needs CAP_SYS_ADMIN, which no engine has; see below.
    run("setfattr", &["-x", "trusted.top", ground.tree().to_str().unwrap()].map(OsStr::new), &[]);
    let restic = ground.restic_init();
    ground.borg_run(&["init", "-e", "repokey", "borg"]);
    // Of "." borg 1.2 restores the time of the directory itself before it writes into it.
    ground.borg_run(&["create", "borg::two", "tree"]);
    let named = ground.at("borg").into_os_string();
    let borg = Borg { path: Some("tree".into()), ..Borg::named(&named, confined(PASSWORD)) };
    let manifest = scan(&ground.tree(), &ScanOptions::default(), &|_| {}).unwrap();
    let below = ground.at("restored");
    fs::create_dir(&below).unwrap();
    for restored in [restic.restore(&below).unwrap(), borg.restore(&below).unwrap()] {
        let around = restored.tree.ancestors().find(|path| path.parent() == Some(&below)).unwrap();
        assert_eq!(fs::metadata(around).unwrap().mode() & 0o777, 0o700);
        let read = |reading: &Reading<'_>| read_restored(&restored, reading);
        let (report, gathered) = ground.judge(&manifest, read).unwrap();
        println!("{}", gathered.remarks.join("\n"));
        assert_eq!(
            told(&report).iter().filter(|told| !told.starts_with("holes")).count(),
            0,
            "{:?}",
            report.differences()
        );
        assert!(gathered.restored && restored.words.is_empty() && restored.bytes > 3_000_000, "{restored:?}");
        restored.remove().unwrap();
    }
    assert_eq!(fs::read_dir(&below).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_found_out_is_an_error_that_says_why() {
    if !has(&["restic", "borg", "setfacl"]) {
        return;
    }
    let ground = Ground::new();
    let (restic, borg) = (ground.restic_init(), ground.borg_init());
    let manifest = ground.manifest();
    let ask_restic = |restic: &Restic| {
        ground.judge(&manifest, |reading| collected(reading, |into| restic.read(reading, into))).unwrap_err()
    };
    let ask_borg = |borg: &Borg| {
        ground.judge(&manifest, |reading| collected(reading, |into| borg.read(reading, into))).unwrap_err()
    };
    let wrong = ask_restic(&Restic { confined: confined("wrong"), ..restic.clone() });
    assert!(matches!(wrong, EngineError::Password { .. }), "{wrong:?}");
    let none = Restic { confined: Confined { secret: None, ..confined("") }, ..restic.clone() };
    let wrong = ask_restic(&none);
    assert!(matches!(wrong, EngineError::Password { .. }), "{wrong:?}");
    let wrong = ask_restic(&Restic { repository: "/no/such/repository".into(), ..restic.clone() });
    assert!(matches!(wrong, EngineError::NoRepository { .. }), "{wrong:?}");
    let wrong = ask_restic(&Restic { repository: ground.tree().into(), ..restic.clone() });
    assert!(matches!(wrong, EngineError::NoRepository { .. }), "{wrong:?}");
    let wrong = ask_restic(&Restic { snapshot: "deadbeef".into(), ..restic.clone() });
    assert!(matches!(wrong, EngineError::NoSnapshot { .. }), "{wrong:?}");
    let wrong = ask_restic(&Restic { path: Some("/srv".into()), ..restic.clone() });
    assert!(matches!(&wrong, EngineError::NoPath { holds, .. } if holds.ends_with("/tree")), "{wrong:?}");
    let wrong = ask_borg(&Borg { confined: confined("wrong"), ..borg.clone() });
    assert!(matches!(wrong, EngineError::Password { .. }), "{wrong:?}");
    let wrong = ask_borg(&Borg { repository: "/no/such/repository".into(), ..borg.clone() });
    assert!(matches!(wrong, EngineError::NoRepository { .. }), "{wrong:?}");
    let wrong = ask_borg(&Borg { repository: ground.tree().into(), ..borg.clone() });
    assert!(matches!(wrong, EngineError::NoRepository { .. }), "{wrong:?}");
    let wrong = ask_borg(&Borg { archive: Some("two".into()), ..borg.clone() });
    assert!(matches!(wrong, EngineError::NoSnapshot { .. }), "{wrong:?}");
    let wrong = ask_borg(&Borg { path: Some("srv".into()), ..borg.clone() });
    assert!(matches!(wrong, EngineError::NoPath { .. }), "{wrong:?}");
}

#[test]
fn the_latest_is_the_latest_that_holds_the_tree() {
    if !has(&["restic", "borg", "setfacl"]) {
        return;
    }
    let ground = Ground::new();
    let restic = Restic { path: Some(ground.tree()), ..ground.restic_init() };
    ground.restic_run(&["backup", "-q", "--host", "elsewhere", ground.at("password").to_str().unwrap()]);
    ground.borg_run(&["init", "-e", "repokey", "borg"]);
    ground.borg_run(&["create", "borg::one", "tree"]);
    ground.borg_run(&["create", "borg::two", "password"]);
    let named = ground.at("borg").into_os_string();
    let borg = Borg { path: Some("tree".into()), ..Borg::named(&named, confined(PASSWORD)) };
    let manifest = ground.manifest();
    let (_, by_restic) =
        ground.judge(&manifest, |reading| collected(reading, |into| restic.read(reading, into))).unwrap();
    assert!(!by_restic.remarks.concat().contains("elsewhere"), "{:?}", by_restic.remarks);
    let (report, by_borg) =
        ground.judge(&manifest, |reading| collected(reading, |into| borg.read(reading, into))).unwrap();
    assert!(report.is_same(), "{:?}", report.differences());
    let below = ground.at("restored");
    fs::create_dir(&below).unwrap();
    let restored = borg.restore(&below).unwrap();
    for remarks in [&by_borg.remarks, &restored.remarks] {
        assert!(remarks.iter().any(|line| line == "archive one"), "{remarks:?}");
        assert!(remarks.iter().any(|line| line.starts_with("1 newer archives")), "{remarks:?}");
    }
    restored.remove().unwrap();
    assert_eq!(fs::read_dir(&below).unwrap().count(), 0);
}
