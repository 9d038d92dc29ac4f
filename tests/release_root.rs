//! The release upgrade on a real, small Debian root: this test starts itself again inside a container, one time per scenario.
//!
//! It needs root, mmdebstrap, systemd-nspawn, a package mirror, and `SAFE_UPGRADE_RELEASE_LAB` naming a directory for the root, which
//! is made there once. `SAFE_UPGRADE_RELEASE_SCENARIO=name` runs only that one.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test says what it does, and fails by panicking"
)]

mod throw_away;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use safe_upgrade::compat::{self, origins::Target};
use safe_upgrade::conffiles::left::Decision;
use safe_upgrade::conffiles::policy::Decisions;
use safe_upgrade::error::chain;
use safe_upgrade::release::apt::{AptSettings, Stage};
use safe_upgrade::release::completion::completion_facts;
use safe_upgrade::release::holdoff::{HoldOff, UNITS, release_all};
use safe_upgrade::release::hop::Hop;
use safe_upgrade::release::prediction::{Foretold, Prediction};
use safe_upgrade::release::preview::{self, PreviewError};
use safe_upgrade::release::sources::{SourcesPlan, plan_sources, restore};
use safe_upgrade::release::upgrade::{UpgradeError, UpgradeReport, UpgradeSettings, upgrade};
use safe_upgrade::system::identity::os_release;
use safe_upgrade::system::span::Span;
use safe_upgrade::system::told_to_stop::ToldToStop;
use safe_upgrade::system::watched::Ended;
use throw_away::INSIDE;

static MIRROR_LIST: std::sync::OnceLock<String> = std::sync::OnceLock::new();

const SCENARIOS: [(&str, fn()); 9] = [
    ("mirror-unreachable", mirror_unreachable),
    ("suite-missing", suite_missing),
    ("failing-postinst", failing_postinst),
    ("silent-dpkg", silent_dpkg),
    ("told-to-stop", told_to_stop),
    ("lock-held", lock_held),
    ("full-disk", full_disk),
    ("interrupted-dpkg-repaired", interrupted_dpkg_repaired),
    ("real-upgrade", real_upgrade),
];

#[test]
fn every_scenario_in_a_container() {
    let Some(root) = lab_root() else { return };
    let only = std::env::var("SAFE_UPGRADE_RELEASE_SCENARIO").ok();
    let other_root = completion_facts(&root).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!((other_root.os_release.version_id.as_str(), other_root.audit.as_str()), ("12", ""));
    assert_eq!((&other_root.check, other_root.unfinished.len()), (&None, 0), "{other_root:?}");
    let names = SCENARIOS.map(|(name, _)| name);
    let wanted = names.into_iter().filter(|name| only.as_deref().is_none_or(|only| only == *name));
    throw_away::run_each(&root, &["--tmpfs=/opt:size=1m"], wanted);
}

#[test]
#[ignore = "started in a container by every_scenario_in_a_container"]
fn inside() {
    let Ok(name) = std::env::var(INSIDE) else {
        println!("skipped: only useful inside a throw-away container");
        return;
    };
    // `deb http://mirror/debian`, as the root was made.
    let list = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    MIRROR_LIST.set(list.split(" bookworm").next().unwrap_or_default().to_owned()).unwrap();
    let booted = [("hold-off", hold_off as fn())];
    let (_, scenario) =
        SCENARIOS.iter().chain(&booted).find(|(known, _)| *known == name).expect("a known scenario");
    scenario();
}

fn real_upgrade() {
    edit("/etc/nginx/nginx.conf", "worker_connections 768", "worker_connections 700");
    edit("/etc/ssh/sshd_config", "#PermitRootLogin", "PermitRootLogin no\n#PermitRootLogin");
    fs::write("/etc/sysctl.conf", "vm.swappiness = 10\n").unwrap();
    sh("apt-mark hold logrotate");

    let before = stock();
    let plan = plan_sources(Path::new("/"), &hop()).unwrap();
    let installed = compat::installed(Path::new("/")).unwrap();
    let facts = fetched(&plan);
    let foretold = Foretold { prediction: facts.clone(), before: installed };
    assert_eq!(stock(), before, "the preview touched the system");
    assert!(facts.upgraded.len() > 100 && facts.download_bytes > 10_000_000, "{facts:?}");
    assert!(facts.removed.iter().any(|change| change.package == "libssl3") && facts.reaches(&hop()));
    assert_eq!(
        (facts.held.as_slice(), facts.kept_back.as_slice()),
        (&["logrotate".into()][..], &["logrotate".into()][..])
    );
    assert!(facts.disk_bytes.is_some(), "{facts:?}");

    let seen = std::cell::RefCell::new(BTreeMap::new());
    let report = run_upgrade(600, &|stage, percent| {
        let last = seen.borrow_mut().insert(stage, percent).unwrap_or(0.0);
        assert!(percent >= last, "{stage} went back from {last} to {percent}");
    })
    .unwrap_or_else(|error| panic!("{}", chain(&error)));
    for outcome in &report.stages {
        println!("{}: {:?} {:?} {:?}", outcome.stage, outcome.ended, outcome.duration, outcome.errors);
        assert!(outcome.well());
    }
    let fetched = |outcome: &&safe_upgrade::release::apt::StageOutcome| {
        outcome.stage != Stage::Update && outcome.output.lines().any(|line| line.starts_with("Get:"))
    };
    assert!(
        !report.stages.iter().any(|outcome| fetched(&outcome)),
        "something was downloaded after the preview"
    );
    assert!(seen.borrow()[&Stage::FullUpgrade] > 99.0, "{seen:?}");
    assert!(!report.repaired());

    for conffile in &report.conffiles {
        println!("{conffile:?}");
    }
    let decision =
        |path: &str| report.conffiles.iter().find(|one| one.path == Path::new(path)).map(|one| one.decision);
    assert_eq!(decision("/etc/nginx/nginx.conf"), Some(Decision::Kept));
    assert_eq!(decision("/etc/ssh/sshd_config"), Some(Decision::Kept));
    assert_eq!(decision("/etc/sysctl.conf"), Some(Decision::MovedAside));
    assert!(fs::read_to_string("/etc/nginx/nginx.conf").unwrap().contains("worker_connections 700"));

    let facts = completion_facts(Path::new("/")).unwrap();
    println!("{facts:?}");
    assert_eq!(facts.os_release.version_id, "13");
    assert_eq!((facts.audit.as_str(), &facts.check), ("", &None));
    assert!(facts.unfinished.is_empty() && facts.pending.is_empty() && facts.kept_back.is_empty());
    assert_eq!(facts.held, ["logrotate"]);
    let compared = foretold.compare(compat::installed(Path::new("/")).unwrap());
    println!("{}", compared.sentence());
    assert_eq!((compared.deviations, compared.came_true), (vec![], compared.foretold));
}

/// Looks ahead and downloads, as a run does.
fn fetched(plan: &SourcesPlan) -> Prediction {
    let ahead = look(plan).unwrap_or_else(|error| panic!("{}", chain(&error)));
    preview::download(ahead.private, &settings(600), &|_| {})
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    ahead.facts.prediction
}

fn look(plan: &SourcesPlan) -> Result<compat::Ahead, compat::Error> {
    compat::look(&hop(), plan, Some(&work("apt")), &|_| {})
}

fn mirror_unreachable() {
    fs::write("/etc/apt/sources.list", "deb http://127.0.0.1:9/debian bookworm main\n").unwrap();
    let before = stock();
    let plan = plan_sources(Path::new("/"), &hop()).unwrap();
    let error = look(&plan).unwrap_err();
    let said = chain(&error);
    assert!(
        matches!(error, compat::Error::Ahead(PreviewError::Failed { stage: Stage::PreviewUpdate, .. })),
        "{said}"
    );
    assert!(said.contains("the package mirror 127.0.0.1:9 could not be reached"), "{said}");
    assert_eq!(stock(), before, "the preview touched the system");

    let (stage, reason) = failed(run_upgrade(60, &|_, _| {}));
    assert_eq!(stage, Stage::Update);
    assert!(reason.contains("127.0.0.1:9 could not be reached"), "{reason}");
    restore(Path::new("/"), &work("kept")).unwrap();
    assert!(fs::read_to_string("/etc/apt/sources.list").unwrap().contains(" bookworm "));

    fs::write("/etc/apt/sources.list", "deb http://no-such-host.invalid/debian bookworm main\n").unwrap();
    let plan = plan_sources(Path::new("/"), &hop()).unwrap();
    let said = chain(&look(&plan).unwrap_err());
    assert!(said.contains("the package mirror no-such-host.invalid could not be reached"), "{said}");
}

fn suite_missing() {
    local_repository(&[("foo", "1", "true")]);
    fs::create_dir_all("/srv/empty").unwrap();
    fs::write("/etc/apt/sources.list", "deb [trusted=yes] file:/srv/empty bookworm main\n").unwrap();
    let ahead = look(&plan_sources(Path::new("/"), &hop()).unwrap()).unwrap();
    let [only] = &ahead.facts.repositories[..] else { panic!("{:?}", ahead.facts.repositories) };
    assert!(matches!(&only.target, Target::Missing(suites, _) if suites[..] == ["trixie"]), "{only:?}");
    let findings = compat::findings(&ahead.facts, &hop());
    for id in ["repository-without-target", "target-not-reached"] {
        assert!(findings.iter().any(|one| one.id == id), "{id} is not in {findings:#?}");
    }

    // A mirror that answers, and knows no such path. Whether it counts as Debian's own is for its host's name to say.
    let list = format!("{}-no-such/ bookworm main\n", MIRROR_LIST.get().unwrap().trim_end_matches('/'));
    fs::write("/etc/apt/sources.list", list).unwrap();
    let said = match look(&plan_sources(Path::new("/"), &hop()).unwrap()) {
        Err(error) => chain(&error),
        Ok(ahead) => format!("{:?}", compat::findings(&ahead.facts, &hop())),
    };
    assert!(said.contains("debian-no-such"), "{said}");
}

fn failing_postinst() {
    local_repository(&[("foo", "2", "echo about to fail; exit 7")]);
    let (stage, reason) = failed(run_upgrade(60, &|_, _| {}));
    assert_eq!(stage, Stage::MinimalUpgrade);
    assert_eq!(reason, "package foo: its postinst ended with 7");
    let facts = completion_facts(Path::new("/")).unwrap();
    assert_eq!(facts.unfinished, ["foo: half-configured"]);
    assert!(facts.audit.contains("foo"), "{}", facts.audit);
}

fn silent_dpkg() {
    local_repository(&[("foo", "2", "sleep 987")]);
    let error = run_upgrade(3, &|_, _| {}).unwrap_err();
    println!("{}", chain(&error));
    let UpgradeError::Failed { reason, report, .. } = error else { panic!("{error}") };
    assert!(matches!(report.stages.last().unwrap().ended, Ended::Silent(_)));
    assert!(reason.starts_with("it was silent for 3 s and was ended; the last that was heard: "), "{reason}");
    nothing_runs_on();
    let facts = completion_facts(Path::new("/")).unwrap();
    assert_eq!(facts.unfinished, ["foo: half-configured"]);
}

fn told_to_stop() {
    let stop = ToldToStop::by_signals().unwrap();
    local_repository(&[("foo", "2", &format!("kill -TERM {}; sleep 987", std::process::id()))]);
    let apt = AptSettings { stop: Some(&stop), ..settings(60) };
    let settings = UpgradeSettings { apt, kept_sources: &work("kept"), decisions: &Decisions::default() };
    let (_, reason) = failed(upgrade(&hop(), &settings, &|_| {}));
    assert_eq!(reason, "it was ended because the run was told to stop");
    nothing_runs_on();
}

fn nothing_runs_on() {
    for entry in fs::read_dir("/proc").unwrap() {
        let command = fs::read_to_string(entry.unwrap().path().join("cmdline")).unwrap_or_default();
        assert!(!command.contains("987") && !command.contains("dpkg"), "{command:?} still runs");
    }
}

fn lock_held() {
    local_repository(&[("foo", "2", "true")]);
    let lock = fs::File::options().write(true).open("/var/lib/dpkg/lock-frontend").unwrap();
    rustix::fs::fcntl_lock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let (stage, reason) = failed(run_upgrade(60, &|_, _| {}));
    assert_eq!(stage, Stage::MinimalUpgrade);
    assert!(reason.starts_with("Unable to acquire the dpkg frontend lock"), "{reason}");
    assert!(completion_facts(Path::new("/")).unwrap().unfinished.is_empty());
}

/// For a container that was booted by systemd; started there by hand or by a unit.
fn hold_off() {
    let state = |unit: &str| {
        let output = Command::new("systemctl")
            .args(["show", "-p", "ActiveState,UnitFileState", unit])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().replace('\n', " ")
    };
    let all = || UNITS.map(|unit| format!("{unit} {}", state(unit)));
    let before = all();
    println!("{before:#?}");
    let hold = HoldOff::begin().unwrap();
    println!("masked {:?}\n{:#?}", hold.masked(), all());
    assert!(hold.masked().contains(&"apt-daily.timer"));
    assert!(state("apt-daily.timer").contains("ActiveState=inactive UnitFileState=masked-runtime"));
    hold.release().unwrap();
    assert_eq!(all(), before);
    drop(HoldOff::begin().unwrap());
    assert_eq!(all(), before, "dropping releases as well");
    // A process that died.
    std::mem::forget(HoldOff::begin().unwrap());
    release_all().unwrap();
    release_all().unwrap();
    assert_eq!(all(), before, "what a dead process held is released");
    std::mem::forget(HoldOff::begin().unwrap());
    HoldOff::begin().unwrap().release().unwrap();
    assert_eq!(all(), before, "what a dead process held is taken over and released");
}

fn full_disk() {
    local_repository(&[("big", "2", "true")]);
    let (_, reason) = failed(run_upgrade(60, &|_, _| {}));
    assert_eq!(reason, "no space left on device while unpacking big");
}

fn interrupted_dpkg_repaired() {
    local_repository(&[("foo", "2", "test -e /root/asked || { touch /root/asked; kill -9 $PPID; }")]);
    // dpkg dies by SIGKILL in the first configuration: the next apt says that dpkg was interrupted.
    let dead = Command::new("dpkg").args(["-i", "/srv/local/pool/foo_2_all.deb"]).status().unwrap();
    assert!(!dead.success());
    let report = run_upgrade(60, &|_, _| {}).unwrap_or_else(|error| panic!("{}", chain(&error)));
    let stages: Vec<Stage> = report.stages.iter().map(|outcome| outcome.stage).collect();
    assert!(report.repaired(), "{stages:?}");
    let facts = completion_facts(Path::new("/")).unwrap();
    assert!(facts.unfinished.is_empty() && facts.audit.is_empty(), "{facts:?}");
}

fn failed(result: Result<UpgradeReport, UpgradeError>) -> (Stage, String) {
    let error = result.unwrap_err();
    println!("{}", chain(&error));
    match error {
        UpgradeError::Failed { stage, reason, .. } => (stage, reason),
        other => panic!("{}", chain(&other)),
    }
}

fn run_upgrade(silence: u64, progress: &dyn Fn(Stage, f32)) -> Result<UpgradeReport, UpgradeError> {
    let decisions = Decisions::default();
    let settings =
        UpgradeSettings { apt: settings(silence), kept_sources: &work("kept"), decisions: &decisions };
    upgrade(&hop(), &settings, &|step| progress(step.stage, step.percent))
}

fn settings(silence: u64) -> AptSettings<'static> {
    let archives: &'static Path = Box::leak(work("archives").into_boxed_path());
    let log: &'static Path = Box::leak(work("log").into_boxed_path());
    AptSettings {
        log,
        archives,
        silence: Span::seconds(silence),
        lock_wait: Span::seconds(1),
        stop: None,
        user: None,
    }
}

fn work(name: &str) -> PathBuf {
    fs::create_dir_all("/srv/work").unwrap();
    if name == "archives" {
        fs::create_dir_all("/srv/work/archives/partial").unwrap();
    }
    Path::new("/srv/work").join(name)
}

fn hop() -> Hop {
    Hop::plan(&os_release(Path::new("/")).unwrap(), "trixie").unwrap()
}

/// Every file that apt and dpkg keep, with size, time and inode.
fn stock() -> BTreeMap<PathBuf, (u64, i64, i64)> {
    ["/var/lib/apt", "/var/lib/dpkg", "/var/cache/apt", "/etc/apt"]
        .iter()
        .flat_map(walkdir::WalkDir::new)
        .map(|entry| {
            let entry = entry.unwrap();
            let facts = entry.metadata().unwrap();
            (entry.into_path(), (facts.size(), facts.mtime(), facts.mtime_nsec()))
        })
        .collect()
}

fn edit(path: &str, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{path} has no {from}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn sh(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A repository of our own with the target's suite, and version 1 of each package installed. `big` does not fit into /opt.
fn local_repository(packages: &[(&str, &str, &str)]) {
    let mut index = String::new();
    fs::create_dir_all("/srv/local/pool").unwrap();
    for (name, version, postinst) in packages {
        build(name, "1", "true");
        sh(&format!("dpkg -i /srv/local/pool/{name}_1_all.deb"));
        build(name, version, postinst);
        let file = format!("pool/{name}_{version}_all.deb");
        let bytes = fs::metadata(Path::new("/srv/local").join(&file)).unwrap().len();
        let sum = Command::new("sha256sum").arg(format!("/srv/local/{file}")).output().unwrap().stdout;
        let sum = String::from_utf8(sum).unwrap();
        let control = control(name, version);
        index.push_str(&format!(
            "{control}Filename: {file}\nSize: {bytes}\nSHA256: {}\n\n",
            sum.split(' ').next().unwrap()
        ));
    }
    let suite = Path::new("/srv/local/dists/trixie/main/binary-amd64");
    fs::create_dir_all(suite).unwrap();
    fs::write(suite.join("Packages"), index).unwrap();
    sh("cd /srv/local/dists/trixie; f=main/binary-amd64/Packages; set -- $(sha256sum $f); s=$(stat -c %s $f);
        printf 'Origin: local\\nSuite: trixie\\nCodename: trixie\\nArchitectures: amd64\\nComponents: main\\nSHA256:\\n %s %s %s\\n' $1 $s $f > Release");
    fs::write("/etc/apt/sources.list", "deb [trusted=yes] file:/srv/local bookworm main\n").unwrap();
}

fn control(name: &str, version: &str) -> String {
    format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: test\n"
    )
}

fn build(name: &str, version: &str, postinst: &str) {
    let tree = Path::new("/srv/build").join(format!("{name}-{version}"));
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    fs::write(tree.join("DEBIAN/control"), control(name, version)).unwrap();
    let script = tree.join("DEBIAN/postinst");
    fs::write(&script, format!("#!/bin/sh\n{postinst}\n")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    if name == "big" && version != "1" {
        fs::create_dir_all(tree.join("opt")).unwrap();
        fs::write(tree.join("opt/big"), vec![b'x'; 3 << 20]).unwrap();
    }
    sh(&format!("dpkg-deb -b {} /srv/local/pool/{name}_{version}_all.deb", tree.display()));
}

fn lab_root() -> Option<PathBuf> {
    let lab = throw_away::lab()?;
    if !throw_away::has(&[Path::new("/usr/bin/mmdebstrap"), Path::new("/usr/bin/systemd-nspawn")]) {
        return None;
    }
    let root = lab.join("root");
    if !root.join("etc/os-release").exists() {
        let making = lab.join("root.new");
        let status = Command::new("mmdebstrap")
            .args(["--variant=minbase", "--include=nginx-light,ca-certificates,openssh-server,ucf,procps,logrotate,debian-archive-keyring,apt-utils", "bookworm"])
            .arg(&making)
            .arg(own_mirror())
            .status()
            .unwrap();
        assert!(status.success(), "mmdebstrap: {status}");
        fs::rename(making, &root).unwrap();
    }
    Some(root)
}

/// The first Debian mirror of this machine's own apt sources.
fn own_mirror() -> String {
    let files = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
    let text: String = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    let mut words = text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_ascii_whitespace);
    let mirror = words.find(|word| word.contains("://") && word.trim_end_matches('/').ends_with("/debian"));
    mirror.expect("this machine's apt sources name a Debian mirror").to_owned()
}
