//! Know before you jump: what `check` says of a server that has everything in an upgrade's way, and of one that has nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::lab::found::{self, words};
use super::lab::product::{Difference, differences};
use super::lab::{Machine, repo};
use super::{WRITTEN_BY_ANY_BOOT, is_below, lab, machine, repo::Package};

/// A check whose lists are already there; the issue's own number.
const WARM: Duration = Duration::from_secs(60);

/// What makes the server hard: a versioned stack without its metapackage, a cluster, and something to hold.
const PACKAGES: &str = "php8.2-fpm postgresql-15 redis-server";

const AGENT: Package = Package { name: "lab-agent", version: "1", depends: "", postinst: "exit 0" };

const PHP_SITE: &str = "server {
    listen 127.0.0.1:8082;
    root /srv/www;
    location ~ \\.php$ {
        include fastcgi.conf;
        fastcgi_pass unix:/run/php/php8.2-fpm.sock;
    }
}
";

/// The library that the program in /opt needs: bookworm has it (with PostgreSQL), trixie another one.
const GONE_LIBRARY: &str = "libicuuc.so.72";

/// A server with PHP, two databases, a held package, a stranger's repository, and a program of its own.
pub(super) fn loaded(name: &str, config: &str) -> Machine {
    let machine = machine(name, config);
    let strangers = machine.repo_directory().join("thirdparty");
    repo::publish_foreign(&strangers, "bookworm", "Example Corp", &[AGENT]).unwrap();
    let source = format!("deb [trusted=yes] http://{}/thirdparty bookworm main\n", lab::mirror::LOCAL_HOST);
    machine.write("/etc/apt/sources.list.d/example.list", 0o644, source.as_bytes()).unwrap();
    machine
        .sh(&format!(
            "apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy install {PACKAGES} lab-agent"
        ))
        .unwrap();
    machine.write("/etc/nginx/sites-enabled/php", 0o644, PHP_SITE.as_bytes()).unwrap();
    machine.write("/srv/www/index.php", 0o644, b"<?php echo 'it works, says PHP';\n").unwrap();
    machine.sh("systemctl reload nginx && apt-mark hold redis-server").unwrap();
    machine.sh("printf '\\n# ours\\n' >>/etc/mysql/mariadb.conf.d/50-server.cnf").unwrap();
    let program = program_that_needs(GONE_LIBRARY);
    machine.copy_in(&program.path().join("report"), "/opt/report/bin/report", 0o755).unwrap();
    machine
}

/// An ELF program with this library in its list of needed ones.
pub(super) fn program_that_needs(soname: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    std::fs::write(at("library.c"), "int answer(void) { return 42; }\n").unwrap();
    std::fs::write(at("report.c"), "int answer(void);\nint main(void) { return answer(); }\n").unwrap();
    let gcc = |arguments: &[&str]| {
        let done = Command::new("gcc").args(arguments).current_dir(place.path()).status().unwrap();
        assert!(done.success(), "gcc {arguments:?}");
    };
    gcc(&["-shared", "-fPIC", &format!("-Wl,-soname,{soname}"), "-o", "library.so", "library.c"]);
    gcc(&["-o", "report", "report.c", "library.so"]);
    place
}

/// What `check --json` found, as pairs of severity and id, and the whole report.
pub(super) fn checked(machine: &Machine) -> (Vec<(String, String)>, Value) {
    let output = machine.product(&["check", "--to", "trixie", "--json"]).unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let refused = report["refused"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(if refused { 3 } else { 0 }), "{report:#}");
    (found::pairs(&report), report)
}

#[test]
fn container_check_names_everything_on_a_loaded_server() {
    if lab::skipped("container_check_names_everything_on_a_loaded_server") {
        return;
    }
    let machine = loaded("loaded", "");
    let _cold = checked(&machine);
    let started = Instant::now();
    let (_, report) = checked(&machine);
    let warm = started.elapsed();
    eprintln!("lab: a warm check took {:.1} s", warm.as_secs_f64());
    for (ids, named) in EXPECTED {
        let said: String = ids.split(' ').map(|id| words(&report, id)).collect();
        assert!(
            named.iter().all(|word| said.contains(word)),
            "{ids}: {named:?} is not named: {said}\n{report:#}"
        );
    }
    assert!(warm < WARM, "a warm check took {warm:?}");
}

/// What must be found, by one of these ids, and what its words must name.
const EXPECTED: [(&str, &[&str]); 8] = [
    ("package-removed-in-use", &["php8.2-fpm", "php-fpm"]),
    ("postgresql-cluster-stays", &["15"]),
    ("mariadb-one-way", &["mariadb"]),
    ("packages-held", &["redis-server"]),
    ("packages-kept-back", &["redis-tools: something that it needs", "apt-mark hold redis-tools"]),
    ("repository-without-target", &["lab-agent", "thirdparty"]),
    // By the release's index of files, or, where a mirror has none that its Release file vouches for, by packages only.
    (
        "library-gone library-left-behind libraries-by-packages-only",
        &["/opt/report/bin/report", GONE_LIBRARY],
    ),
    ("conffile-kept", &["/etc/mysql/mariadb.conf.d/50-server.cnf"]),
];

#[test]
fn container_check_has_nothing_against_a_plain_server_and_changes_nothing() {
    if lab::skipped("container_check_has_nothing_against_a_plain_server_and_changes_nothing") {
        return;
    }
    let machine = machine("plain", "");
    machine.sh("apt-get -q update && systemctl stop mariadb nginx && sync").unwrap();
    let before = frozen(&machine, "lab-before");
    let (found, report) = checked(&machine);
    let after = frozen(&machine, "lab-after");
    let loud: Vec<_> = found
        .iter()
        .filter(|(severity, id)| severity != "note" && !EXPECTED_PLAIN.contains(&id.as_str()))
        .collect();
    assert!(loud.is_empty(), "{loud:?}\n{report:#}");

    let scratch = tempfile::tempdir().unwrap();
    let changed: Vec<Difference> = differences(&before, &after, scratch.path())
        .unwrap()
        .into_iter()
        .filter(|one| !WRITTEN_BY_ANY_BOOT.iter().any(|place| is_below(&one.path, place)))
        .collect();
    assert_eq!(changed, []);
    // The comparison can fail: one new file is found.
    machine.sh("touch /etc/planted").unwrap();
    let planted = differences(&before, &frozen(&machine, "lab-planted"), scratch.path()).unwrap();
    assert!(planted.iter().any(|one| one.path == "etc/planted"), "{planted:?}");
}

/// What a plain server of the lab is told all the same: its database is converted, and this test has stopped two services that its
/// configuration checks.
const EXPECTED_PLAIN: [&str; 3] = ["check-fails-now:site", "check-fails-now:database", "mariadb-one-way"];

/// A read-only snapshot of the running root, seen from the host.
fn frozen(machine: &Machine, name: &str) -> PathBuf {
    let at: PathBuf = machine.top().join(name);
    let root: &Path = &machine.top().join("@");
    lab::tool("btrfs", &["subvolume", "snapshot", "-r", &root.to_string_lossy(), &at.to_string_lossy()])
        .unwrap();
    at
}
