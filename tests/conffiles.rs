//! Configuration files with the real dpkg, apt and ucf: this test starts itself again inside a container, one time per scenario.
//!
//! It needs root, systemd-nspawn, and `SAFE_UPGRADE_RELEASE_LAB` naming the directory in which `release_root` has made its Debian root.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it does, and fails by panicking"
)]

mod throw_away;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use safe_upgrade::conffiles::answers::{Answer, Answers, FileAnswer};
use safe_upgrade::conffiles::left::Decision;
use safe_upgrade::conffiles::policy::{Action, Choice, Decisions, Policy, Rule};
use safe_upgrade::conffiles::predict::Outcome;
use safe_upgrade::conffiles::{Facts, debconf, findings, look};
use safe_upgrade::error::chain;
use safe_upgrade::release::apt::{AptSettings, Stage, apt_get_answering, configure_all};
use safe_upgrade::release::apt_log;
use safe_upgrade::release::hop::Hop;
use safe_upgrade::release::upgrade::{UpgradeError, UpgradeReport, UpgradeSettings, upgrade};
use safe_upgrade::system::identity::os_release;
use safe_upgrade::system::span::Span;
use throw_away::INSIDE;

const SCENARIOS: [(&str, fn()); 4] = [
    ("file-by-file", file_by_file),
    ("all-kept", all_kept),
    ("fail-rule", fail_rule),
    ("our-death", our_death),
];

#[test]
fn every_scenario_in_a_container() {
    let Some(root) = lab_root() else { return };
    throw_away::run_each(&root, &[], SCENARIOS.map(|(name, _)| name));
}

#[test]
#[ignore = "started in a container by every_scenario_in_a_container"]
fn inside() {
    let Ok(name) = std::env::var(INSIDE) else {
        println!("skipped: only useful inside a throw-away container");
        return;
    };
    if name == "dies" {
        return die_at_the_prompt();
    }
    let (_, scenario) = SCENARIOS.iter().find(|(known, _)| *known == name).expect("a known scenario");
    scenario();
}

/// The second reads its standard input, which is nobody's to answer.
const PACKAGES: [(&str, &str); 5] = [
    ("a-take", "exit 0"),
    ("b-reads", "if read x; then echo \"got $x\" >/reads; else echo end >/reads; fi"),
    ("c-deleted", "exit 0"),
    ("d-keep", "exit 0"),
    (
        "u-ucf",
        "ucf /usr/share/u-ucf/ucf.conf /etc/u-ucf/ucf.conf </dev/null >&2; ucfr u-ucf /etc/u-ucf/ucf.conf",
    ),
];

fn file_by_file() {
    prepare();
    let rule = |pattern: &str, action| Rule::new(pattern, action).unwrap();
    let policy = Policy {
        otherwise: Action::Keep,
        rules: vec![
            rule("/etc/a-take", Action::Take),
            rule("/etc/c-deleted", Action::Ask),
            rule("/etc/u-ucf/ucf.conf", Action::Take),
        ],
    };
    let facts = predicted();
    let unanswered = findings(&facts, &policy, &Answers::default());
    assert_eq!(unanswered[0].id, "conffile-unanswered");
    assert!(unanswered[0].evidence[0].starts_with("/etc/c-deleted/main.conf (c-deleted)"), "{unanswered:?}");
    // As a person would complete the draft, through the file.
    let mut answers = Answers::draft(&facts, &policy, &Answers::default());
    let [answer] = &mut answers.files[..] else { panic!("{answers:?}") };
    assert_eq!(answer.answer, Answer::Undecided);
    *answer = FileAnswer { answer: Answer::Take, ..answer.clone() };
    let file = Path::new("/root/answers.toml");
    answers.write(file, &facts).unwrap();
    println!("{}", fs::read_to_string(file).unwrap());
    let answers = Answers::read(file).unwrap();
    assert!(!findings(&facts, &policy, &answers).iter().any(|one| one.id == "conffile-unanswered"));

    let report =
        run(&Decisions::new(&facts, &policy, &answers)).unwrap_or_else(|error| panic!("{}", told(&error)));
    for outcome in &report.stages {
        println!(
            "{}: {:?} {:?} {:?}",
            outcome.stage, outcome.ended, outcome.duration, outcome.conffile_prompts
        );
    }
    println!("{:#?}", report.conffiles);
    assert_eq!(read("/etc/a-take/main.conf"), "new\n");
    assert_eq!(read("/etc/a-take/main.conf.dpkg-old"), "mine\n");
    assert_eq!(read("/etc/b-reads/main.conf"), "mine\n");
    assert_eq!(read("/etc/c-deleted/main.conf"), "new\n");
    assert_eq!(read("/etc/d-keep/main.conf"), "mine\n");
    assert_eq!(read("/etc/d-keep/main.conf.dpkg-dist"), "new\n");
    assert_eq!(read("/etc/u-ucf/ucf.conf"), "ucf new\n");
    assert_eq!(read("/etc/u-ucf/ucf.conf.ucf-old"), "mine\n");
    assert_eq!(read("/reads"), "end\n");
    // A question in the very moment in which the reader gets the end is answered in the repair.
    println!("repaired: {}", report.repaired());
    let decision = |path: &str| {
        let found = report.conffiles.iter().find(|one| one.path == Path::new(path));
        found.map(|one| (one.decision, one.leftover.is_some()))
    };
    assert_eq!(decision("/etc/a-take/main.conf"), Some((Decision::Replaced, true)));
    assert_eq!(decision("/etc/b-reads/main.conf"), Some((Decision::Kept, true)));
    assert_eq!(decision("/etc/u-ucf/ucf.conf"), Some((Decision::Replaced, true)));
    let audit = Command::new("dpkg").arg("--audit").output().unwrap();
    assert!(audit.stdout.is_empty(), "{audit:?}");
}

/// Without a rule that takes, dpkg does not ask, and nothing waits for anything.
fn all_kept() {
    prepare();
    let decisions = Decisions::new(&predicted(), &Policy::default(), &Answers::default());
    let report = run(&decisions).unwrap_or_else(|error| panic!("{}", told(&error)));
    assert!(!report.repaired());
    for name in ["a-take", "b-reads", "d-keep"] {
        assert_eq!(read(&format!("/etc/{name}/main.conf")), "mine\n");
    }
    assert!(!Path::new("/etc/c-deleted/main.conf").exists());
    assert_eq!(read("/etc/u-ucf/ucf.conf"), "mine\n");
    assert_eq!(read("/reads"), "end\n");
}

fn fail_rule() {
    prepare();
    for (file, prompted) in [("/etc/u-ucf/ucf.conf", false), ("/etc/d-keep/main.conf", true)] {
        let policy = Policy { otherwise: Action::Keep, rules: vec![Rule::new(file, Action::Fail).unwrap()] };
        let facts = predicted();
        assert_eq!(findings(&facts, &policy, &Answers::default())[0].id == "conffile-fail-rule", prompted);
        let error = run(&Decisions::new(&facts, &policy, &Answers::default())).unwrap_err();
        println!("{}", told(&error));
        assert!(error.to_string().contains(file), "{error}");
        assert_eq!(read(file), "mine\n");
        if !prompted {
            reset();
        }
    }
}

/// Whoever holds the other end of dpkg's input dies while it asks: dpkg gives up by itself, and can be finished.
fn our_death() {
    prepare();
    let given = debconf::Question {
        package: "d-keep".into(),
        question: "d-keep/question".into(),
        kind: "string".into(),
        value: "an answer".into(),
        seen: true,
    };
    debconf::give(std::slice::from_ref(&given)).unwrap();
    assert!(read("/var/cache/debconf/config.dat").contains("Value: an answer"));
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--ignored", "--nocapture"])
        .env(INSIDE, "dies")
        .status()
        .unwrap();
    assert!(!status.success());
    let lives = |name: &str| {
        let processes =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        processes
            .filter_map(|pid| pid.parse::<i32>().ok())
            .find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name))
    };
    while let Some(pid) = lives("apt-get") {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        // Gone between the look and here: then the next look says so.
        let Ok(watch) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
            continue;
        };
        let mut poll = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 120, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut poll, Some(&limit)).unwrap(), 1, "apt-get hangs after our death");
        // A zombie of a parent that has died is collected by the container's first process.
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
        if fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
            .is_ok_and(|stat| stat.contains(") Z "))
        {
            break;
        }
    }
    let log = read("/srv/work/log");
    assert!(log.contains("end of file on stdin at conffile prompt"), "{log}");
    let repaired = configure_all(&settings(), Some(&|_| Choice::Take), &|_| {}).unwrap();
    println!("{:?} {:?}", repaired.ended, repaired.conffile_prompts);
    assert!(repaired.well(), "{}", repaired.reason());
    assert_eq!(read("/etc/a-take/main.conf"), "new\n");
    assert_eq!(read("/reads"), "end\n");
}

fn die_at_the_prompt() {
    sh("apt-get update");
    let die = |_: &Path| std::process::abort();
    let outcome =
        apt_get_answering(Stage::FullUpgrade, &["-y", "full-upgrade"], &[], &settings(), Some(&die), &|_| {});
    panic!("nothing was asked: {:?}", outcome.map(|outcome| apt_log::repairable(&outcome)));
}

fn predicted() -> Facts {
    let facts = look(Path::new("/"), Path::new("/srv/local/pool"))
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    let asked: Vec<(&str, &Outcome)> =
        facts.predictions.iter().map(|one| (one.path.to_str().unwrap(), &one.outcome)).collect();
    println!("{asked:?}");
    assert_eq!(
        asked,
        [
            ("/etc/a-take/main.conf", &Outcome::Asked),
            ("/etc/b-reads/main.conf", &Outcome::Asked),
            ("/etc/c-deleted/main.conf", &Outcome::Asked),
            ("/etc/d-keep/main.conf", &Outcome::Asked),
            ("/etc/u-ucf/ucf.conf", &Outcome::PerhapsAsked),
        ]
    );
    assert!(facts.diffs[Path::new("/etc/a-take/main.conf")].contains("\n-mine\n+new\n"));
    facts
}

/// Version 1 of every package installed and its configuration changed, version 2 in a repository of our own.
fn prepare() {
    fs::create_dir_all("/srv/local/pool").unwrap();
    fs::create_dir_all("/srv/work/archives/partial").unwrap();
    let mut index = String::new();
    for (name, postinst) in PACKAGES {
        build(name, "1", "old", postinst);
        build(name, "2", "new", postinst);
        let file = format!("pool/{name}_2_all.deb");
        let bytes = fs::metadata(Path::new("/srv/local").join(&file)).unwrap().len();
        let sum = Command::new("sha256sum").arg(format!("/srv/local/{file}")).output().unwrap().stdout;
        let sum = String::from_utf8(sum).unwrap();
        let (control, sum) = (control(name, "2"), sum.split(' ').next().unwrap());
        index.push_str(&format!("{control}Filename: {file}\nSize: {bytes}\nSHA256: {sum}\n\n"));
    }
    let suite = Path::new("/srv/local/dists/trixie/main/binary-amd64");
    fs::create_dir_all(suite).unwrap();
    fs::write(suite.join("Packages"), index).unwrap();
    sh("cd /srv/local/dists/trixie; f=main/binary-amd64/Packages; set -- $(sha256sum $f); s=$(stat -c %s $f);
        printf 'Origin: local\\nSuite: trixie\\nCodename: trixie\\nArchitectures: amd64\\nComponents: main\\nSHA256:\\n %s %s %s\\n' $1 $s $f > Release");
    reset();
    fs::write("/etc/apt/sources.list", "deb [trusted=yes] file:/srv/local trixie main\n").unwrap();
}

fn reset() {
    sh(
        "rm -rf /etc/u-ucf; ucf --purge /etc/u-ucf/ucf.conf || true; rm -f /etc/*/*.ucf-dist /etc/*/*.dpkg-dist",
    );
    fs::write("/etc/apt/sources.list", "deb [trusted=yes] file:/srv/local bookworm main\n").unwrap();
    for (name, _) in PACKAGES {
        sh(&format!("dpkg --force-all --force-confnew -i /srv/local/pool/{name}_1_all.deb </dev/null"));
        let file = if name == "u-ucf" { "ucf.conf" } else { "main.conf" };
        fs::write(format!("/etc/{name}/{file}"), "mine\n").unwrap();
    }
    fs::remove_file("/etc/c-deleted/main.conf").unwrap();
}

fn run(decisions: &Decisions) -> Result<UpgradeReport, UpgradeError> {
    fs::write("/etc/apt/sources.list", "deb [trusted=yes] file:/srv/local bookworm main\n").unwrap();
    let hop = Hop::plan(&os_release(Path::new("/")).unwrap(), "trixie").unwrap();
    let kept = PathBuf::from(format!("/srv/work/kept-{:?}", std::time::Instant::now()));
    upgrade(&hop, &UpgradeSettings { apt: settings(), kept_sources: &kept, decisions }, &|_| {})
}

fn settings() -> AptSettings<'static> {
    AptSettings {
        log: Path::new("/srv/work/log"),
        archives: Path::new("/srv/work/archives"),
        silence: Span::seconds(120),
        lock_wait: Span::seconds(1),
        stop: None,
        user: None,
    }
}

fn told(error: &UpgradeError) -> String {
    format!("{}\n{}", chain(error), fs::read_to_string("/srv/work/log").unwrap_or_default())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn sh(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

fn control(name: &str, version: &str) -> String {
    format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: test\n"
    )
}

fn build(name: &str, version: &str, content: &str, postinst: &str) {
    let tree = Path::new("/srv/build").join(format!("{name}-{version}"));
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    fs::write(tree.join("DEBIAN/control"), control(name, version)).unwrap();
    if name == "u-ucf" {
        fs::create_dir_all(tree.join("usr/share/u-ucf")).unwrap();
        fs::create_dir_all(tree.join("etc/u-ucf")).unwrap();
        fs::write(tree.join("usr/share/u-ucf/ucf.conf"), format!("ucf {content}\n")).unwrap();
    } else {
        fs::create_dir_all(tree.join("etc").join(name)).unwrap();
        fs::write(tree.join("etc").join(name).join("main.conf"), format!("{content}\n")).unwrap();
        fs::write(tree.join("DEBIAN/conffiles"), format!("/etc/{name}/main.conf\n")).unwrap();
    }
    let script = tree.join("DEBIAN/postinst");
    fs::write(&script, format!("#!/bin/sh\n{postinst}\n")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    sh(&format!("dpkg-deb -b {} /srv/local/pool/{name}_{version}_all.deb", tree.display()));
}

fn lab_root() -> Option<PathBuf> {
    let root = throw_away::lab()?.join("root");
    throw_away::has(&[Path::new("/usr/bin/systemd-nspawn"), &root.join("usr/bin/ucf")]).then_some(root)
}
