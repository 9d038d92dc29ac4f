use super::facts::Asked;
use super::meta_release::Stanza;
use super::sources::Source;
use super::*;
use crate::finding::Severity;

fn hop(from: &str, to: &str) -> Hop {
    Hop::between(from, to).unwrap()
}

fn source(uri: &str, known: bool) -> Source {
    Source {
        file: "/etc/apt/sources.list.d/ubuntu.sources".into(),
        uri: uri.into(),
        suites: vec!["noble".into()],
        known,
        of_release: true,
    }
}

fn plain() -> Facts {
    let offer = |codename: &str| Stanza {
        codename: codename.into(),
        version: String::new(),
        supported: true,
        tool: Some("http://mirror.invalid/tool".into()),
        broken: None,
    };
    Facts {
        prompt: Some("lts".into()),
        offer: Asked::Answer(vec![offer("noble"), offer("resolute")]),
        reboot_packages: vec![],
        lists_age: Some(std::time::Duration::from_secs(3600)),
        pending: vec![],
        kept_back: vec![],
        held_with_updates: vec![],
        tmp_noexec: false,
        esp: Esp::Writable,
        sources: vec![source("http://mirror.ubuntu.com/ubuntu", true)],
        merged_usr: true,
        cgroup2: true,
        rabbitmq: false,
        rabbitmq_flags: Asked::NotAsked,
        native_accounts: Asked::Answer(vec![]),
        ros: vec![],
        snap_store: Asked::Answer(true),
        lxd_package: false,
        pro_pockets: None,
        needrestart: true,
        upgrader_installed: true,
    }
}

/// Ids of what is more than a note.
fn ids(facts: &Facts, to: &Hop) -> Vec<(String, Severity)> {
    let findings = judge(facts, to).into_iter().filter(|finding| finding.severity != Severity::Note);
    findings.map(|finding| (finding.id, finding.severity)).collect()
}

#[test]
fn a_plain_healthy_server_gives_no_warning() {
    for to in [hop("jammy", "noble"), hop("noble", "resolute")] {
        assert_eq!(ids(&plain(), &to), []);
    }
}

type Damage = fn(&mut Facts);

#[test]
fn each_trouble_is_named_alone() {
    let cases: [(&str, Damage); 20] = [
        ("ubuntu-prompt-never", |facts| facts.prompt = Some("never".into())),
        ("ubuntu-meta-release-unreachable", |facts| facts.offer = Asked::Unknown("timed out".into())),
        ("ubuntu-target-not-offered", |facts| facts.offer = Asked::Answer(vec![])),
        ("ubuntu-reboot-pending", |facts| facts.reboot_packages = vec!["libc6".into()]),
        ("ubuntu-lists-old", |facts| facts.lists_age = Some(facts::FRESH * 2)),
        ("ubuntu-lists-old", |facts| facts.lists_age = None),
        ("ubuntu-updates-want-reboot", |facts| facts.pending = vec!["linux-generic".into(), "vim".into()]),
        ("ubuntu-updates-kept-back", |facts| facts.kept_back = vec!["nginx".into()]),
        ("ubuntu-held-with-updates", |facts| facts.held_with_updates = vec!["nginx".into()]),
        ("ubuntu-tmp-noexec", |facts| facts.tmp_noexec = true),
        ("ubuntu-esp-not-mounted", |facts| facts.esp = Esp::NotMounted),
        ("ubuntu-esp-read-only", |facts| facts.esp = Esp::ReadOnly),
        ("ubuntu-no-known-mirror", |facts| facts.sources[0].known = false),
        ("ubuntu-usr-not-merged", |facts| facts.merged_usr = false),
        ("ubuntu-no-cgroup2", |facts| facts.cgroup2 = false),
        ("ubuntu-rabbitmq-feature-flags", |facts| facts.rabbitmq_flags = Asked::Answer(vec!["x".into()])),
        ("ubuntu-mysql-native-password", |facts| facts.native_accounts = Asked::Answer(vec!["a@%".into()])),
        ("could-not-find-out", |facts| facts.native_accounts = Asked::Unknown("no socket".into())),
        ("ubuntu-ros", |facts| facts.ros = vec!["ros-noetic-catkin".into()]),
        ("ubuntu-snap-store-unreachable", |facts| {
            facts.snap_store = Asked::Answer(false);
            facts.lxd_package = true;
        }),
    ];
    for (id, damage) in cases {
        let mut facts = plain();
        damage(&mut facts);
        assert_eq!(ids(&facts, &hop("noble", "resolute")), [(id.to_owned(), Severity::Inhibitor)]);
    }
}

#[test]
fn only_kernels_and_the_c_library_want_a_reboot() {
    let of = |pending: &str| {
        let mut facts = plain();
        facts.pending = vec![pending.into()];
        !ids(&facts, &hop("noble", "resolute")).is_empty()
    };
    for name in [
        "linux-image-generic",
        "linux-image-6.8.0-60-generic",
        "linux-generic-hwe-24.04",
        "linux-aws",
        "libc6:amd64",
    ] {
        assert!(of(name), "{name}");
    }
    for name in [
        "linux-libc-dev",
        "linux-firmware",
        "linux-tools-common",
        "linux-headers-generic",
        "linux-aws-headers-6.8.0-1",
        "libc6-dev",
    ] {
        assert!(!of(name), "{name}");
    }
}

#[test]
fn who_does_not_answer_can_be_made_to() {
    let mut facts = plain();
    facts.native_accounts = Asked::Unknown("access denied".into());
    let found = judge(&facts, &hop("noble", "resolute"));
    let unknown = found.iter().find(|one| one.id == crate::finding::COULD_NOT_FIND_OUT).unwrap();
    assert!(unknown.remedy.contains("/root/.my.cnf"), "{unknown:?}");
}

#[test]
fn what_stops_only_one_of_the_hops() {
    let mut facts = plain();
    facts.rabbitmq = true;
    facts.cgroup2 = false;
    let found = ids(&facts, &hop("jammy", "noble"));
    assert_eq!(found, [("ubuntu-rabbitmq".to_owned(), Severity::Inhibitor)]);
    let found = ids(&facts, &hop("noble", "resolute"));
    assert_eq!(found, [("ubuntu-no-cgroup2".to_owned(), Severity::Inhibitor)]);
}

#[test]
fn what_is_only_worth_reading() {
    let mut facts = plain();
    facts.sources.push(source("https://vendor.invalid/apt", false));
    facts.snap_store = Asked::Unknown("timed out".into());
    facts.pending = vec!["vim".into()];
    let found = ids(&facts, &hop("noble", "resolute"));
    let names: Vec<&str> = found.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(names, ["ubuntu-third-party-disabled", "ubuntu-snap-store-unreachable"]);
    assert!(found.iter().all(|(_, severity)| *severity == Severity::Warning));
    facts.prompt = Some("normal".into());
    facts.pro_pockets = Some("updates,security".into());
    facts.upgrader_installed = false;
    let notes = judge(&facts, &hop("noble", "resolute"));
    let notes: Vec<&str> =
        notes.iter().filter(|one| one.severity == Severity::Note).map(|one| one.id.as_str()).collect();
    assert_eq!(
        notes,
        ["ubuntu-prompt-normal", "ubuntu-pro-overrides", "ubuntu-needrestart", "ubuntu-upgrader-missing"]
    );
}

#[test]
fn removals_that_make_the_upgrader_give_up() {
    let removal = |name: &str| Change {
        package: name.into(),
        old: Some("1".into()),
        new: String::new(),
        origin: String::new(),
    };
    assert!(
        denied_removals(&[removal("libssl3"), removal("postgresql-common"), removal("php8.3-fpm")])
            .is_empty()
    );
    let found = denied_removals(&[removal("postgresql-14"), removal("openssh-server"), removal("vim")]);
    assert_eq!(found[0].evidence, ["postgresql-14", "openssh-server"]);
}
