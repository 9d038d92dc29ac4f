//! Ubuntu's *real* upgrader, driven by the product from noble to resolute: this test starts itself again in a private process and mount
//! namespace below a root of noble.
//!
//! It needs root, mmdebstrap, overlayfs, and `UBUNTU_MIRROR` naming a mirror (`http://.../ubuntu`). `SAFE_UPGRADE_UBUNTU_LAB` may name a directory
//! where the root is kept for the next time.
//!
//! The only thing that is not as on a real machine: the tool is not fetched as a signed archive but taken out of resolute's package
//! `python3-distupgrade`, which has the same content, and a script in the place of `do-release-upgrade` starts it.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it does, and fails by panicking"
)]

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use safe_upgrade::compat;
use safe_upgrade::conffiles::left::Decision;
use safe_upgrade::conffiles::policy::Decisions;
use safe_upgrade::error::chain;
use safe_upgrade::release::apt::{AptSettings, Progress, Stage};
use safe_upgrade::release::completion::completion_facts;
use safe_upgrade::release::hop::Hop;
use safe_upgrade::release::preview;
use safe_upgrade::release::sources::plan_sources;
use safe_upgrade::release::ubuntu::settings;
use safe_upgrade::release::upgrade::{UpgradeError, UpgradeReport, UpgradeSettings, upgrade};
use safe_upgrade::system::span::Span;

const INSIDE: &str = "SAFE_UPGRADE_INSIDE";
const SOURCES: &str = "/etc/apt/sources.list.d/ubuntu.sources";

#[test]
fn ubuntu_real_upgrader_gives_up_without_cgroup2_and_changes_nothing() {
    scenario("no-cgroup2");
}

#[test]
fn ubuntu_real_upgrader_takes_noble_to_resolute() {
    scenario("whole");
}

#[test]
#[ignore = "started in a namespace by the tests above"]
fn inside() {
    match std::env::var(INSIDE).as_deref() {
        Ok("no-cgroup2") => gives_up(),
        Ok("whole") => whole(),
        _ => println!("skipped: only useful below a throw-away root"),
    }
}

fn gives_up() {
    let before = fs::read(SOURCES).unwrap();
    let (ended, _) = run();
    let Err(UpgradeError::Failed { stage, reason, report }) = ended else { panic!("{ended:?}") };
    println!("{reason}");
    assert_eq!(stage, Stage::ReleaseUpgrader);
    assert!(reason.contains("no package was changed by it"), "{reason}");
    assert!(reason.to_lowercase().contains("cgroup"), "{reason}");
    assert_eq!(fs::read(SOURCES).unwrap(), before);
    assert!(report.stages.iter().all(|outcome| outcome.stage != Stage::Check));
    settings_are_gone();
    assert_eq!(completion_facts(Path::new("/")).unwrap().os_release.version_id, "24.04");
}

fn whole() {
    let hop = Hop::between("noble", "resolute").unwrap();
    let login = fs::read_to_string("/etc/login.defs").unwrap();
    fs::write("/etc/login.defs", format!("{login}# changed by the administrator\n")).unwrap();
    let plan = plan_sources(Path::new("/"), &hop).unwrap();
    let lab = Lab::new();
    let ahead = compat::look(&hop, &plan, Some(Path::new("/root/run/apt")), &|_| ()).unwrap();
    preview::download(ahead.private, &lab.apt(), &|_| ()).unwrap();
    let facts = ahead.facts.prediction;
    assert!(facts.reaches(&hop), "{:?}", facts.upgraded.iter().find(|change| change.package == "base-files"));
    println!("{} upgraded, {} new, {} removed", facts.upgraded.len(), facts.new.len(), facts.removed.len());

    let (ended, percents) = run();
    let report = ended.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let upgrader = report.stages.iter().find(|one| one.stage == Stage::ReleaseUpgrader).unwrap();
    println!("the upgrader took {:?}; {:?}", upgrader.duration, upgrader.errors);
    let fetched =
        upgrader.output.lines().filter(|line| line.starts_with("fetched ") && line.contains(".deb"));
    // The upgrader calculates a little differently: it may want some that the preview did not.
    let late = fetched.count();
    println!("{late} packages were downloaded after the preview");
    assert!(late * 10 < facts.upgraded.len(), "the preview's downloads were not used");
    assert!(
        percents.windows(2).all(|pair| pair[0] <= pair[1]) && percents.last() == Some(&100.0),
        "{percents:?}"
    );
    let during = percents.iter().filter(|percent| (22.0..94.0).contains(*percent)).count();
    assert!(during > 10, "{percents:?}");

    for conffile in &report.conffiles {
        println!("{conffile:?}");
    }
    let decision = report.conffiles.iter().find(|one| one.path == Path::new("/etc/login.defs"));
    assert_eq!(decision.map(|one| one.decision), Some(Decision::Kept));
    // dpkg announces each decision as a question, and under the policy answers it itself: nobody is asked.
    assert_eq!(upgrader.conffile_prompts, [PathBuf::from("/etc/login.defs")]);
    assert!(upgrader.output.contains("==> Keeping old config file as default."));
    assert!(!upgrader.output.contains("(Y/I/N/O/D/Z)"), "dpkg waited for an answer");
    assert!(fs::read_to_string("/etc/login.defs").unwrap().ends_with("administrator\n"));

    let last = report.stages.last().unwrap();
    assert!(last.stage == Stage::Check && last.well(), "{last:?}");
    let facts = completion_facts(Path::new("/")).unwrap();
    assert_eq!(
        (facts.os_release.version_id.as_str(), facts.os_release.codename.as_str()),
        ("26.04", "resolute")
    );
    assert_eq!((facts.audit.as_str(), &facts.check, facts.unfinished.len()), ("", &None, 0), "{facts:?}");
    assert!(facts.pending.is_empty() && facts.kept_back.is_empty(), "{facts:?}");
    settings_are_gone();
    assert!(fs::read_to_string(SOURCES).unwrap().contains("resolute"));
    assert!(!Path::new("/etc/apport/blacklist.d/upgrade-quirks-ignore-list").exists());
}

fn settings_are_gone() {
    for path in [settings::OVERRIDES, settings::APT_OPTIONS] {
        assert!(!Path::new("/").join(path).exists(), "{path} is still there");
    }
}

struct Lab {
    log: PathBuf,
    archives: PathBuf,
}

impl Lab {
    fn new() -> Self {
        let archives = PathBuf::from("/root/run/archives");
        fs::create_dir_all(archives.join("partial")).unwrap();
        Self { log: "/root/run/apt.log".into(), archives }
    }

    fn apt(&self) -> AptSettings<'_> {
        AptSettings {
            log: &self.log,
            archives: &self.archives,
            silence: Span::seconds(900),
            lock_wait: Span::seconds(60),
            stop: None,
            user: None,
        }
    }
}

/// The product's whole upgrade, as a run calls it; with every percent that was told of the upgrader itself.
fn run() -> (Result<UpgradeReport, UpgradeError>, Vec<f32>) {
    let lab = Lab::new();
    let hop = Hop::between("noble", "resolute").unwrap();
    let settings = UpgradeSettings {
        apt: lab.apt(),
        kept_sources: Path::new("/root/run/sources"),
        decisions: &Decisions::default(),
    };
    let percents = RefCell::new(Vec::new());
    let last = RefCell::new(String::new());
    let begun = Instant::now();
    let told = |state: Progress| {
        if state.stage == Stage::ReleaseUpgrader {
            percents.borrow_mut().push(state.percent);
        }
        if *last.borrow() != state.detail && state.stage == Stage::ReleaseUpgrader {
            println!("{:6.1?} {:5.1} % {}", begun.elapsed().as_secs_f32(), state.percent, state.detail);
            last.replace(state.detail);
        }
    };
    let ended = upgrade(&hop, &settings, &told);
    (ended, percents.into_inner())
}

/// Starts [`inside`] below a throw-away layer over the root.
fn scenario(name: &str) {
    let Ok(mirror) = std::env::var("UBUNTU_MIRROR") else {
        println!("skipped: UBUNTU_MIRROR is not set: Ubuntu's real upgrader is not run");
        return;
    };
    let tools = ["mmdebstrap", "unshare", "chroot", "dpkg-deb"];
    let found = |tool: &&str| safe_upgrade::system::exec::find_tool(tool).is_ok();
    if !rustix::process::geteuid().is_root() || !tools.iter().all(found) {
        println!("skipped: it needs root and {}", tools.join(", "));
        return;
    }
    let own = tempfile::tempdir().unwrap();
    let lab = std::env::var_os("SAFE_UPGRADE_UBUNTU_LAB").map_or(own.path().to_owned(), PathBuf::from);
    let root = noble(&lab, &mirror);
    let layer = tempfile::Builder::new().prefix(name).tempdir_in(&lab).unwrap();
    let at = |part: &str| layer.path().join(part);
    for part in ["upper", "work", "merged"] {
        fs::create_dir(at(part)).unwrap();
    }
    let cgroups = if name == "no-cgroup2" { "tmpfs" } else { "cgroup2" };
    let script = format!(
        "set -e; M={merged}; mount -t overlay overlay -o lowerdir={root},upperdir={upper},workdir={work} $M
         mount -t proc proc $M/proc; mount -t sysfs sysfs $M/sys; mount -t {cgroups} none $M/sys/fs/cgroup
         mount --rbind /dev $M/dev; mount -t tmpfs tmpfs $M/run; mount -t tmpfs tmpfs $M/tmp; chmod 1777 $M/tmp
         rm -f $M/etc/resolv.conf; cp -L /etc/resolv.conf $M/etc/resolv.conf; cp -L /etc/hosts $M/etc/hosts; cp {binary} $M/root/scenario
         exec chroot $M /bin/sh -c '/root/scenario --exact inside --ignored --nocapture; exit $?'",
        merged = at("merged").display(),
        upper = at("upper").display(),
        work = at("work").display(),
        root = root.display(),
        binary = std::env::current_exe().unwrap().display(),
    );
    let status = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--propagation=private", "sh", "-c", &script])
        .env(INSIDE, name)
        .status()
        .unwrap();
    if !status.success() {
        for log in ["main.log", "apt.log", "apt-term.log"] {
            let path = at("upper").join("var/log/dist-upgrade").join(log);
            let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            println!("== {log}\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
    assert!(status.success(), "{name}: {status}");
}

/// Builds the root once: noble with its updates, and resolute's upgrader ready to be started.
fn noble(lab: &Path, mirror: &str) -> PathBuf {
    let root = lab.join("noble");
    if root.join("root/ready").exists() {
        return root;
    }
    let sh = |script: &str| {
        let status =
            Command::new("sh").args(["-ec", script]).env("R", &root).env("MIRROR", mirror).status().unwrap();
        assert!(status.success(), "{script}");
    };
    if !root.join("usr/bin/do-release-upgrade").exists() {
        sh(
            "mmdebstrap --variant=apt --components=main,universe --include=ubuntu-minimal,ubuntu-release-upgrader-core \
            --aptopt='APT::Install-Recommends \"false\"' noble $R \"deb [trusted=yes] $MIRROR noble main universe\" \
            \"deb [trusted=yes] $MIRROR noble-updates main universe\"",
        );
    }
    sh("rm -f $R/etc/apt/sources.list $R/etc/apt/sources.list.d/*; cp -L /etc/resolv.conf $R/etc/resolv.conf; cp -L /etc/hosts $R/etc/hosts
        printf 'Types: deb\\nURIs: %s\\nSuites: noble noble-updates\\nComponents: main universe\\nSigned-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\\n' $MIRROR > $R/etc/apt/sources.list.d/ubuntu.sources
        printf '#!/bin/sh\\nexit 101\\n' > $R/usr/sbin/policy-rc.d; chmod 755 $R/usr/sbin/policy-rc.d
        printf '[DEFAULT]\\nPrompt=lts\\n' > $R/etc/update-manager/release-upgrades
        mkdir -p $R/root/u/lists/partial
        echo \"deb [signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] $MIRROR resolute main\" > $R/root/u/list
        O='-o Dir::Etc::sourcelist=/root/u/list -o Dir::Etc::sourceparts=- -o Dir::State::lists=/root/u/lists -o APT::Sandbox::User=root'
        chroot $R apt-get $O update; chroot $R sh -c \"cd /root/u && apt-get $O download python3-distupgrade ubuntu-release-upgrader-core\"
        for deb in $R/root/u/*.deb; do dpkg-deb -x $deb $R/root/u/x; done
        mkdir $R/root/uru; cp -r $R/root/u/x/usr/lib/python3/dist-packages/DistUpgrade $R/root/uru/
        cp -r $R/root/u/x/usr/share/ubuntu-release-upgrader/* $R/root/uru/
        cp $R/root/u/x/usr/lib/python3/dist-packages/DistUpgrade/dist-upgrade.py $R/root/uru/resolute
        rm -rf $R/root/u; chroot $R apt-get clean");
    let starter = root.join("usr/sbin/do-release-upgrade");
    // A mirror that is not on Ubuntu's list is a third party to the upgrader.
    let text = "#!/bin/sh\nexport RELEASE_UPGRADER_ALLOW_THIRD_PARTY=1\ncd /root/uru && exec python3 ./resolute \"$@\"\n";
    fs::write(&starter, text).unwrap();
    fs::set_permissions(&starter, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(root.join("root/ready"), "").unwrap();
    root
}
