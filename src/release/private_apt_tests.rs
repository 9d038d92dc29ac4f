use super::*;
use crate::release::sources::entries;

#[test]
fn finds_the_user() {
    let text = "root:x:0:0:root:/root:/bin/bash\n_apt2:x:9:9::/:/x\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n";
    assert_eq!(parse_user(text, "_apt"), Some(User { uid: 42, gid: 65_534 }));
    assert_eq!(parse_user("root:x:0:0\n", "_apt"), None);
}

#[test]
fn a_group_that_nobody_has() {
    let texts = ["x:x:9:65533::/:/x\n", "a:x:65532:\nb:x:65000:65531\n"];
    assert_eq!(free_group(&texts), Some(65_530));
    let all: String = FREE_GROUPS.map(|gid| format!("g:x:{gid}:\n")).collect();
    assert_eq!(free_group(&[&all]), None);
}

/// What apt's user can do here: none of it may come to be root's.
#[test]
fn apts_user_writes_to_nothing_that_root_reads() {
    if !rustix::process::geteuid().is_root() || !Path::new("/var/lib/dpkg/status").exists() {
        println!("skipped: needs root and dpkg");
        return;
    }
    let private = PrivateApt::open(None).unwrap();
    let repository =
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    fs::write(repository.path().join("Packages"), "").unwrap();
    private.configure("test", "# a secret\n").unwrap();
    let line = format!("deb [trusted=yes] file:{} ./\n", repository.path().display());
    let entries = entries::entries(Path::new("/etc/apt/sources.list"), &line);
    private.set_sources(&entries).unwrap();
    let user = private.user.unwrap();
    let sh = |user: User, script: String| {
        let ran =
            Exec::new("sh").unwrap().user(user).directory(private.path()).args(["-c", &script]).output();
        ran.unwrap().status.success()
    };
    let evil = "echo 'APT::Update::Pre-Invoke {\"touch /run/safe-upgrade-evil\";};'";
    for place in
        ["apt.conf", "new.conf", "etc/new", "etc/parts/zzzz", "etc/parts/zzz-safe-upgrade.conf", "log/new"]
    {
        assert!(!sh(user, format!("{evil} >> {place}")), "{place}");
    }
    for place in ["state/lists/x", "root/x", "status", "etc/sources.list.d/000.list", "etc/sources.list.d/x"]
    {
        assert!(!sh(user, format!("echo x >> {place}")), "{place}");
    }
    assert!(!sh(user, "mv etc mine".into()) && !sh(user, "rm -r log".into()));
    let usual = apt_user_of("/etc/passwd");
    for read in ["etc/parts/zzy-test", "etc/sources.list.d/000.list", "apt.conf"] {
        assert!(sh(user, format!("cat {read}")) && !sh(usual, format!("cat {read}")), "{read}");
    }
    // What it can write to is not believed by root: a cache that is none, and links at whose ends it would like to see root write.
    assert!(sh(user, "echo x > cache/pkgcache.bin && rmdir cache/log && ln -s /run cache/log".into()));
    let outcome = private.update(&private.log("test.log"), &|_| {}).unwrap();
    assert!(outcome.well(), "{}", outcome.output);
    assert!(fs::read_dir(private.lists()).unwrap().count() >= 2, "{}", outcome.output);
    let archives = tempfile::tempdir().unwrap();
    let log = archives.path().join("log");
    let settings = AptSettings {
        log: &log,
        archives: archives.path(),
        silence: SILENCE,
        lock_wait: Span::seconds(1),
        stop: None,
        user: None,
    };
    let cache = private.path().join("cache/pkgcache.bin");
    assert_eq!(fs::read(&cache).unwrap(), b"x\n");
    fs::create_dir(archives.path().join("partial")).unwrap();
    let words = ["-y", "--download-only", "full-upgrade"];
    let (outcome, missing) = private.stage_as_root(Stage::Download, &words, &settings, &|_| {}).unwrap();
    assert!(outcome.well() && missing.is_empty(), "{} {missing}", outcome.output);
    assert!(!Path::new("/run/safe-upgrade-evil").exists());
}

fn apt_user_of(passwd: &str) -> User {
    parse_user(&fs::read_to_string(passwd).unwrap(), APT_USER).unwrap()
}

#[test]
fn nothing_is_left_behind() {
    if !Path::new("/var/lib/dpkg/status").exists() {
        println!("skipped: needs dpkg");
        return;
    }
    let kept = tempfile::tempdir().unwrap();
    let private = PrivateApt::open(Some(kept.path())).unwrap();
    let path = private.path().to_owned();
    fs::write(path.join("state/lists/x_InRelease"), "x").unwrap();
    std::os::unix::fs::symlink("/etc/shadow", path.join("state/lists/y_InRelease")).unwrap();
    private.keep_lists().unwrap();
    drop(private);
    assert!(!path.exists());
    let names: Vec<_> = fs::read_dir(kept.path().join("lists")).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let again = PrivateApt::open(Some(kept.path())).unwrap();
    assert_eq!(fs::read(again.path().join("state/lists/x_InRelease")).unwrap(), b"x");
}
