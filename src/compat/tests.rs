//! The judges on what a real apt foretold: a small plain server, and one with services on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::origins::{self, Local, Repository, Target};
use super::removals::{self, Relations};
use super::services::{Cluster, Environment, MysqlDirectory, Services};
use super::status::Package;
use super::{Facts, Prediction, findings, holds, stacks};
use crate::finding::{Finding, Severity};
use crate::release::hop::{Distribution, Hop};
use crate::release::simulation;
use crate::release::sources::entries::{Entry, entries};
use crate::release::sources::{Finding as PlanFinding, Note, SourcesPlan};

const PLAIN: &str = include_str!("../../tests/fixtures/release/simulate.txt");
const SERVICES: &str = include_str!("../../tests/fixtures/release/simulate-services.txt");

fn hop() -> Hop {
    Hop::between("bookworm", "trixie").unwrap()
}

fn foretold(text: &str) -> Prediction {
    let found = simulation::parse_simulation(text).unwrap();
    Prediction {
        upgraded: found.upgraded,
        new: found.new,
        removed: found.removed,
        kept_back: found.kept_back,
        ..Prediction::default()
    }
}

/// The facts of a machine on which only `by_name` was installed by name.
fn facts(text: &str, by_name: &[&str]) -> Facts {
    let prediction = foretold(text);
    let automatic: BTreeSet<String> = prediction
        .removed
        .iter()
        .map(|change| change.package.clone())
        .filter(|package| !by_name.contains(&package.as_str()))
        .collect();
    let relations: BTreeMap<String, Relations> = BTreeMap::new();
    Facts {
        removals: removals::known(&prediction, &[], &automatic, &relations),
        prediction,
        no_lists: false,
        packages: Vec::new(),
        services: Services::default(),
        repositories: Vec::new(),
        local: Vec::new(),
        pins: Vec::new(),
        plan: SourcesPlan { files: Vec::new(), findings: Vec::new() },
        unknown: Vec::new(),
    }
}

fn ids(findings: &[Finding], severity: Severity) -> Vec<&str> {
    findings.iter().filter(|one| one.severity == severity).map(|one| one.id.as_str()).collect()
}

#[test]
fn a_plain_server_gets_no_warning() {
    let found = findings(&facts(PLAIN, &[]), &hop());
    assert!(ids(&found, Severity::Inhibitor).is_empty(), "{found:#?}");
    assert!(ids(&found, Severity::Warning).is_empty(), "{found:#?}");
    let removed = found.iter().find(|one| one.id == "packages-removed").unwrap();
    assert_eq!(removed.evidence.len(), 9);
    assert!(removed.evidence.iter().any(|line| line.ends_with("libssl3t64 takes its place")));
}

#[test]
fn a_server_with_services_gets_each_of_them() {
    let mut facts = facts(SERVICES, &["php8.2-fpm", "nginx"]);
    facts.services.clusters =
        vec![Cluster { version: "15".into(), name: "main".into(), path: "/etc/postgresql/15/main".into() }];
    let found = findings(&facts, &hop());
    assert_eq!(
        ids(&found, Severity::Inhibitor),
        ["package-removed-in-use", "rabbitmq-no-direct-upgrade"],
        "{found:#?}"
    );
    assert_eq!(
        ids(&found, Severity::Warning),
        ["dovecot-configuration", "mariadb-one-way", "postgresql-cluster-stays", "postgresql-collation"]
    );
    assert_eq!(
        ids(&found, Severity::Note),
        ["packages-removed", "redis-one-way", "nginx-major", "openssh-major", "python-major"]
    );
    assert!(found[0].what.contains("php8.2-fpm"), "{}", found[0].what);
    let mariadb = found.iter().find(|one| one.id == "mariadb-one-way").unwrap();
    assert!(
        mariadb.what.contains("from 10.11 to 11.8") && mariadb.evidence[0].starts_with("mariadb-server: ")
    );
    // The auto-installed environment moves on with its metapackage.
    let venv = facts.removals.iter().find(|one| one.package == "python3.11-venv").unwrap();
    assert_eq!(venv.replaced_by.as_deref(), Some("python3.13-venv"));
}

#[test]
fn mariadb_would_begin_with_nothing() {
    let prediction = foretold(SERVICES);
    let with = |flags: &[&str], of_mysql| {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mysql = Some(MysqlDirectory { path: "/var/lib/mysql".into(), flags, of_mysql });
        let services = Services { mysql, ..Services::default() };
        let found = stacks::findings(&prediction, &services, &hop());
        found.into_iter().find(|one| one.severity == Severity::Inhibitor)
    };
    assert_eq!(with(&["10.11"], false), None);
    assert_eq!(with(&["10.11", "11.8"], false), None);
    let newer = with(&["10.11", "12.1"], false).unwrap();
    assert_eq!(
        (newer.id.as_str(), newer.evidence[0].as_str()),
        ("mariadb-newer-on-disk", "/var/lib/mysql/debian-12.1.flag")
    );
    assert_eq!(with(&["10.11"], true).unwrap().id, "mysql-under-mariadb");
}

#[test]
fn python_and_what_was_made_for_it() {
    let environment = |path: &str, version: &str| Environment { path: path.into(), version: version.into() };
    let services = Services {
        environments: vec![environment("/opt/a", "3.11.2"), environment("/srv/b", "3.9.2")],
        python_modules: vec![PathBuf::from("/usr/local/lib/python3.11/dist-packages")],
        ..Services::default()
    };
    let found = stacks::findings(&foretold(PLAIN), &services, &hop());
    assert!(found.is_empty(), "python3 is not installed there: {found:#?}");
    let found = stacks::findings(&foretold(SERVICES), &services, &hop());
    let warned: Vec<_> = found.iter().filter(|one| one.severity == Severity::Warning).collect();
    assert_eq!(ids(&found, Severity::Warning), ["python-environments", "python-local-modules"]);
    assert_eq!(warned[0].evidence, ["/opt/a: Python 3.11.2"]);
}

#[test]
fn php_with_its_metapackage_is_a_warning_only() {
    let text = "Inst php8.4-fpm (8.4.1 Debian:13.8/stable [amd64])\nInst php-fpm [2:8.2] (2:8.4 Debian:13.8/stable [all])\n\
        Inst base-files [12.4] (13.8 Debian:13.8/stable [amd64])\nRemv php8.2-fpm [8.2.36]\n\
        2 upgraded, 1 newly installed, 1 to remove and 0 not upgraded.\n";
    let found = findings(&facts(text, &["php8.2-fpm"]), &hop());
    assert_eq!(ids(&found, Severity::Warning), ["php-major"]);
    assert!(ids(&found, Severity::Inhibitor).is_empty(), "{found:#?}");
    let php = found.iter().find(|one| one.id == "php-major").unwrap();
    assert!(php.what.contains("/run/php/php8.2-fpm.sock") && php.evidence.len() == 2, "{php:#?}");
}

#[test]
fn every_id_is_documented() {
    let docs = include_str!("../../docs/findings.md");
    let sources = [
        include_str!("holds.rs"),
        include_str!("origins.rs"),
        include_str!("removals.rs"),
        include_str!("stacks.rs"),
    ];
    let mut seen = 0;
    for literal in sources.iter().flat_map(|text| text.split('"').skip(1).step_by(2)) {
        let starts =
            ["package-", "packages-", "repository-", "postgresql-", "mariadb-", "python-", "apt-", "php-"];
        let is_id = starts.iter().any(|start| literal.starts_with(start))
            && literal.chars().all(|one| one.is_ascii_lowercase() || one == '-');
        // Names of packages that are looked up.
        if is_id && !["mariadb-server", "postgresql-", "apt-get", "apt-cache"].contains(&literal) {
            seen += 1;
            assert!(docs.contains(&format!("`{literal}`")), "docs/findings.md lacks {literal}");
        }
    }
    assert!(seen > 12, "{seen}");
}

const SOURCES: &str = "deb http://mirror.invalid/debian trixie main\ndeb https://user:word@repo.invalid/apt trixie-pgdg main\n\
    deb http://gone.invalid/apt trixie main\ndeb http://flat.invalid/x ./\ndeb http://keyless.invalid/debian trixie main\n";

fn listed() -> Vec<Entry> {
    entries(Path::new("/etc/apt/sources.list"), SOURCES)
}

/// Lines of apt 2.6, with other hosts.
#[test]
fn what_apt_says_of_repositories() {
    let output = "Reading package lists...\n\
        E: The repository 'https://repo.invalid/apt trixie-pgdg Release' does not have a Release file.\n\
        E: Failed to fetch http://gone.invalid/apt/dists/trixie/InRelease  Could not resolve 'gone.invalid'\n\
        E: The repository 'http://flat.invalid/x ./ Release' does not have a Release file.\n\
        W: GPG error: http://keyless.invalid/debian trixie InRelease: The following signatures couldn't be verified because the public key is not available: NO_PUBKEY BDE6D2B9216EC7A8\n\
        E: The repository 'http://keyless.invalid/debian trixie InRelease' is not signed.\n\
        E: Some index files failed to download. They have been ignored, or old ones used instead.\n";
    let found: Vec<_> = listed().iter().map(|entry| origins::failure(entry, output)).collect();
    assert_eq!(found[0], None);
    let Some(Target::Missing(suites, why)) = &found[1] else { panic!("{found:?}") };
    assert_eq!(suites, &["trixie-pgdg"]);
    assert!(why.starts_with("The repository 'https://repo.invalid/apt") && !why.contains("word"), "{why}");
    assert!(
        matches!(&found[2], Some(Target::Unreachable(_, why)) if why.contains("Could not resolve")),
        "{found:?}"
    );
    assert!(matches!(&found[3], Some(Target::Missing(..))), "{found:?}");
    assert!(matches!(&found[4], Some(Target::Distrusted(..))), "{found:?}");
}

#[test]
fn whose_repository_it_is() {
    let origins = origins::parse_origins(
        "http://mirror.invalid/debian/\ttrixie\tDebian\nhttps://repo.invalid/apt/\ttrixie-pgdg\tapt.postgresql.org\n",
    );
    let own: Vec<bool> =
        listed().iter().map(|entry| origins::is_own(entry, Distribution::Debian, &origins)).collect();
    assert_eq!(own, [true, false, false, false, true]);
}

#[test]
fn what_is_ubuntus() {
    let lines = "deb http://mirror.invalid/ubuntu noble main\n\
        deb http://elsewhere.invalid/archive noble-backports main\n\
        deb https://packages.ubuntu.com:443/pro/ubuntu noble-infra-security main\n\
        deb http://cache.invalid:3142/mirror.ubuntu.com/ubuntu noble main\n\
        deb http://ports.invalid/ubuntu-ports/ noble main\n\
        deb https://ppa.invalid/owner/name/ubuntu noble main\n\
        deb http://ppa.ubuntu.com/owner noble main\n\
        deb http://notubuntu.com/x noble main\n\
        deb http://mirror.invalid/debian trixie main\n";
    let origins = origins::parse_origins(
        "http://elsewhere.invalid/archive/\tnoble-backports\tUbuntu\nhttps://ppa.invalid/owner/name/ubuntu/\tnoble\tLP-PPA-x\n",
    );
    let listed = entries(Path::new("/etc/apt/sources.list"), lines);
    let own: Vec<bool> =
        listed.iter().map(|entry| origins::is_own(entry, Distribution::Ubuntu, &origins)).collect();
    assert_eq!(own, [true, true, true, true, true, false, false, false, false]);
    let esm = origins::parse_origins("http://notubuntu.com/x/\tnoble\tUbuntuESMApps\n");
    assert!(origins::is_own(&listed[7], Distribution::Ubuntu, &esm));
    assert!(!origins::is_own(&listed[7], Distribution::Debian, &esm));
}

#[test]
fn whose_left_over_packages_they_are() {
    let of = |maintainer: &str, distribution| {
        let package = Package {
            name: "x".into(),
            state: "installed".into(),
            maintainer: maintainer.into(),
            ..Package::default()
        };
        origins::local(&[package], &BTreeMap::new(), distribution)[0].of_distribution
    };
    for maintainer in ["K <k@lists.ubuntu.com>", "U <u@ubuntu.com>", "C <c@canonical.com>"] {
        assert!(of(maintainer, Distribution::Ubuntu) && !of(maintainer, Distribution::Debian));
    }
    // As libssl1.1 and nginx of bullseye, and libc6.
    for maintainer in [
        "Debian OpenSSL Team <pkg-openssl-devel@alioth-lists.debian.net>",
        "GNU Libc Maintainers <debian-glibc@lists.debian.org>",
    ] {
        assert!(of(maintainer, Distribution::Debian) && of(maintainer, Distribution::Ubuntu));
    }
    assert!(!of("X <x@notdebian.net>", Distribution::Debian));
    assert!(!of("X <x@notubuntu.com>", Distribution::Ubuntu) && !of("", Distribution::Ubuntu));
}

/// `stable` of a browser's vendor moves as its vendor likes; Debian's would jump over releases.
#[test]
fn whose_stable_it_is() {
    let found = |place: &str, uri: &str| PlanFinding {
        file: place.into(),
        line: 3,
        uri: uri.into(),
        what: Note::AliasLeft { suite: "stable".into() },
    };
    let plan = SourcesPlan {
        files: Vec::new(),
        findings: vec![
            found("/etc/apt/sources.list.d/chrome.list", "https://repo.invalid/chrome"),
            found("/etc/apt/sources.list", "http://mirror.invalid/debian"),
        ],
    };
    let chrome = Repository {
        place: "/etc/apt/sources.list.d/chrome.list:1".into(),
        uris: vec!["https://repo.invalid/chrome".into()],
        suites: vec!["stable".into()],
        origin: None,
        packages: Vec::new(),
        target: Target::Same,
        in_plan: true,
    };
    let found = origins::findings(&[chrome], &[], &plan, &hop());
    assert_eq!(ids(&found, Severity::Warning), ["apt-source"], "{found:#?}");
    assert!(found[1].evidence[0].contains("mirror.invalid/debian"));
}

const POLICY: &str = "nginx:\n  Installed: 1.22.1-9+deb12u11\n  Candidate: 1.22.1-9+deb12u11\n  Version table:\n *** 1.22.1-9+deb12u11 500\n        500 http://mirror.invalid/debian-security bookworm-security/main amd64 Packages\n        100 /var/lib/dpkg/status\n     1.22.1-9+deb12u9 500\n        500 http://mirror.invalid/debian bookworm/main amd64 Packages\n\
    behind:\n  Installed: 1\n  Candidate: 2\n  Version table:\n     2 500\n        500 http://mirror.invalid/debian bookworm/main amd64 Packages\n *** 1 100\n        100 /var/lib/dpkg/status\n\
    own:\n  Installed: 3\n  Candidate: 3\n  Version table:\n *** 3 100\n        100 /var/lib/dpkg/status\n\
    rebuilt:\n  Installed: 2+own\n  Candidate: 2+own\n  Version table:\n *** 2+own 100\n        100 /var/lib/dpkg/status\n     2 500\n        500 http://mirror.invalid/debian bookworm/main amd64 Packages\n\
    thing:\n  Installed: 5\n  Candidate: 5\n  Version table:\n *** 5 500\n        500 https://repo.invalid/apt bookworm-pgdg/main amd64 Packages\n        100 /var/lib/dpkg/status\n\
    virtual:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n";

#[test]
fn where_packages_come_from() {
    let policies = origins::parse_policy(POLICY);
    let of = |line: &str| origins::packages_of(&entries(Path::new("/x.list"), line)[0], &policies);
    assert_eq!(of("deb https://u:p@repo.invalid/apt/ bookworm-pgdg main\n"), ["thing"]);
    assert_eq!(of("deb http://mirror.invalid/debian-security bookworm-security main\n"), ["nginx"]);
    assert_eq!(of("deb http://mirror.invalid/debian bookworm main\n"), ["behind", "rebuilt"]);
    let package = |name: &str, maintainer: &str| Package {
        name: name.into(),
        version: "1".into(),
        state: "installed".into(),
        maintainer: maintainer.into(),
        ..Package::default()
    };
    let names = ["nginx", "behind", "own", "rebuilt", "thing"];
    let mut packages: Vec<Package> = names.iter().map(|name| package(name, "x@own.invalid")).collect();
    packages.push(package("linux-image-6.1.0-1-amd64", "kernel <k@lists.debian.org>"));
    let local = origins::local(&packages, &policies, Distribution::Debian);
    let found: Vec<_> = local.iter().map(|one| (one.name.as_str(), one.of_distribution)).collect();
    assert_eq!(found, [("own", false), ("rebuilt", false), ("linux-image-6.1.0-1-amd64", true)]);
    assert!(
        origins::parse_candidates(POLICY).contains("nginx")
            && !origins::parse_candidates(POLICY).contains("virtual")
    );
}

#[test]
fn a_repository_that_would_end_the_run_stops_it_before() {
    let one = |target, in_plan| Repository {
        place: "/etc/apt/sources.list.d/x.list:1".into(),
        uris: vec!["https://repo.invalid/apt".into()],
        suites: vec!["bookworm".into()],
        origin: Some("X".into()),
        packages: vec!["thing".into()],
        target,
        in_plan,
    };
    let suites = || vec!["trixie".to_owned()];
    let all = [
        one(Target::Exists(suites()), true),
        one(Target::Same, true),
        one(Target::Missing(suites(), "no".into()), true),
        one(Target::Missing(suites(), "no".into()), false),
        one(Target::Unreachable(suites(), "no".into()), false),
    ];
    let local = [Local { name: "own".into(), version: "1".into(), of_distribution: false }];
    let plan = SourcesPlan { files: Vec::new(), findings: Vec::new() };
    let found = origins::findings(&all, &local, &plan, &hop());
    let severities: Vec<_> = found.iter().map(|one| one.severity).collect();
    use Severity::{Inhibitor, Note, Warning};
    assert_eq!(severities, [Note, Note, Inhibitor, Warning, Warning, Warning]);
    assert!(found[2].evidence.contains(&"package: thing".to_owned()));
    assert!(holds::findings(&foretold(PLAIN), &[], &hop()).is_empty());
}
