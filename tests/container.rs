//! The product on a real Debian bookworm: each way in which a run can end, and each way in which it can be hindered.
//!
//! Two machines at a time: the lab sees to it. `docs/testing.md` has the list with how long each takes.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests, their common parts too")]

#[path = "container/after.rs"]
mod after;
#[path = "container/ground.rs"]
mod ground;
#[path = "container/knows.rs"]
mod knows;
mod lab;
#[path = "container/mysql.rs"]
mod mysql;
#[path = "container/rehearsal.rs"]
mod rehearsal;
#[path = "container/restored.rs"]
mod restored;
#[path = "container/troubled.rs"]
mod troubled;

use std::time::Duration;

use lab::product::{Difference, Ended, OLD_PYTHON, Run, SERVER, UNIT, differences};
use lab::{Machine, Timer, repo};

/// Longer than any step of an upgrade takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// The upgrade is in its middle: the new libc is in place, a good part of the packages is not.
fn wait_for_the_middle(machine: &Machine, run: &mut Run) {
    let log = "/var/log/dpkg.log";
    let old = machine.length(log).unwrap();
    machine.wait_in_run(run, &["UpgradeStarted"]).unwrap();
    machine.wait_for_text(log, old, "status installed libc6:", PATIENCE).unwrap();
}

/// A booted bookworm with the product, configured, and with whatever checks a test adds.
fn machine(name: &str, checks: &str) -> Machine {
    let machine = Machine::new(name).unwrap();
    machine.boot().unwrap();
    machine.install_product(&format!("{SERVER}{checks}")).unwrap();
    machine
}

fn release(machine: &Machine) -> String {
    machine.sh(". /etc/os-release && echo $VERSION_CODENAME").unwrap().trim().to_owned()
}

fn serves_the_site(machine: &Machine) -> bool {
    machine.get("/").is_ok_and(|answer| answer.contains("it works")) && machine.sh("site-check").is_ok()
}

/// The old system is back, serves the site, and nothing of the run is left to do.
fn assert_back_on_bookworm(machine: &Machine, ended: &Ended) {
    assert_eq!(ended.state, "RolledBack", "{ended:?}");
    assert_eq!(release(machine), "bookworm");
    assert_eq!(machine.sh("dpkg --audit").unwrap(), "");
    machine.sh("systemctl is-system-running --wait").unwrap();
    assert!(serves_the_site(machine));
}

/// Nothing was changed: still bookworm, the sources too, and no second root.
fn assert_untouched(machine: &Machine) {
    assert_eq!(release(machine), "bookworm");
    assert_eq!(machine.sh("grep -rl trixie /etc/apt || true").unwrap(), "");
    assert_eq!(machine.boots(), 1);
    assert!(serves_the_site(machine));
}

fn settled(machine: &Machine, run: &mut Run) -> Ended {
    let ended = machine.settle(run).unwrap();
    eprintln!("lab: {ended:?} after {} boots", machine.boots());
    ended
}

#[test]
fn container_healthy_upgrade_is_committed_and_can_still_be_rolled_back() {
    if lab::skipped("container_healthy_upgrade_is_committed_and_can_still_be_rolled_back") {
        return;
    }
    let timer = Timer::start();
    let machine = machine("healthy", "");
    timer.lap("machine");
    let mut run = machine.start_run().unwrap();
    machine.wait_in_run(&mut run, &["UpgradeStarted", "Refused"]).unwrap();
    timer.lap("preflight, backup, snapshot");
    let second = machine.product(&["run", "--to", "trixie", "--yes"]).unwrap();
    assert_eq!(second.status.code(), Some(6), "{}", String::from_utf8_lossy(&second.stderr));
    let ended = settled(&machine, &mut run);
    timer.lap("upgrade, trial");
    assert_eq!(ended.state, "Committed", "{ended:?}");
    assert_eq!(release(&machine), "trixie");
    assert_eq!(machine.sh("systemctl is-system-running --wait").unwrap(), "running\n");
    assert!(serves_the_site(&machine));

    let mut back = machine.start_rollback().unwrap();
    let ended = settled(&machine, &mut back);
    timer.lap("rollback by hand");
    assert_back_on_bookworm(&machine, &ended);
}

#[test]
fn container_unhealthy_upgrade_is_rolled_back_to_what_was() {
    if lab::skipped("container_unhealthy_upgrade_is_rolled_back_to_what_was") {
        return;
    }
    // Nothing is carried forward here: what comes back is compared with what was.
    let machine = machine("unhealthy", &format!("{OLD_PYTHON}\n[rollback]\ncarry = []\n"));
    machine.sh("setcap -q cap_net_raw+ep /usr/bin/nstat 2>/dev/null; ln -sf nowhere /etc/dangling").unwrap();
    let mut run = machine.start_run().unwrap();
    let ended = settled(&machine, &mut run);
    assert!(ended.why.contains("report"), "{ended:?}");
    assert_back_on_bookworm(&machine, &ended);

    machine.power_off().unwrap();
    let before = only_snapshot(&machine);
    let scratch = tempfile::tempdir().unwrap();
    let root = machine.top().join("@");
    let compare = || differences(&machine.top().join(&before), &root, scratch.path()).unwrap();
    let unexpected = |found: Vec<Difference>| -> Vec<Difference> {
        let expected = |one: &Difference| WRITTEN_BY_ANY_BOOT.iter().any(|place| is_below(&one.path, place));
        found.into_iter().filter(|one| !expected(one)).collect()
    };
    assert_eq!(unexpected(compare()), []);
    // The comparison can fail: one changed byte that keeps its size and time is found, and nothing else is.
    let passwd = root.join("etc/passwd");
    let time = std::fs::metadata(&passwd).unwrap().modified().unwrap();
    let changed = std::fs::read_to_string(&passwd).unwrap().replacen("root", "boot", 1);
    std::fs::write(&passwd, changed).unwrap();
    std::fs::File::options().write(true).open(&passwd).unwrap().set_modified(time).unwrap();
    let planted = Difference { class: "content".into(), path: "etc/passwd".into() };
    assert_eq!(unexpected(compare()), [planted]);
}

/// What a boot of bookworm writes by itself, rolled back or not: the database's own files (what is in it, `site-check` asks), the
/// system's log, the log of the page that the test has asked for, who logged in, and services' private directories. A path,
/// and all below it.
const WRITTEN_BY_ANY_BOOT: [&str; 5] =
    ["var/lib/mysql", "var/log/journal", "var/log/nginx/access.log", "var/log/wtmp", "var/tmp"];

fn is_below(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn only_snapshot(machine: &Machine) -> String {
    let names = std::fs::read_dir(machine.top()).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    let mut snapshots = names.iter().filter(|name| name.ends_with("-before"));
    let only = snapshots.next().unwrap_or_else(|| panic!("no snapshot in {names:?}"));
    assert_eq!(snapshots.next(), None, "{names:?}");
    only.clone()
}

#[test]
fn container_killed_in_full_upgrade_rolls_back() {
    if lab::skipped("container_killed_in_full_upgrade_rolls_back") {
        return;
    }
    let machine = machine("killed", "");
    let mut run = machine.start_run().unwrap();
    wait_for_the_middle(&machine, &mut run);
    machine.kill_main(UNIT).unwrap();
    let ended = settled(&machine, &mut run);
    assert_back_on_bookworm(&machine, &ended);
}

#[test]
fn container_plug_pulled_in_full_upgrade_rolls_back() {
    if lab::skipped("container_plug_pulled_in_full_upgrade_rolls_back") {
        return;
    }
    let machine = machine("plug", "");
    let mut run = machine.start_run().unwrap();
    wait_for_the_middle(&machine, &mut run);
    machine.pull_plug().unwrap();
    machine.switch_on().unwrap();
    let ended = settled(&machine, &mut run);
    assert_back_on_bookworm(&machine, &ended);
}

#[test]
fn container_plug_pulled_in_trial_and_while_rolling_back_rolls_back() {
    if lab::skipped("container_plug_pulled_in_trial_and_while_rolling_back_rolls_back") {
        return;
    }
    let machine = machine("twice", OLD_PYTHON);
    let mut run = machine.start_run().unwrap();
    machine.wait_in_run(&mut run, &["TrialBooted"]).unwrap();
    machine.pull_plug().unwrap();
    machine.switch_on().unwrap();
    machine.wait_in_run(&mut run, &["RollbackStarted"]).unwrap();
    machine.pull_plug().unwrap();
    let records = machine.records().unwrap();
    assert!(
        !records.iter().any(|record| record == "RolledBack"),
        "the plug was pulled too late: {records:?}"
    );
    machine.switch_on().unwrap();
    let ended = settled(&machine, &mut run);
    assert_back_on_bookworm(&machine, &ended);
}

#[test]
fn container_full_disk_during_the_upgrade_rolls_back() {
    if lab::skipped("container_full_disk_during_the_upgrade_rolls_back") {
        return;
    }
    let machine = machine("full", "\n[upgrade]\nsilence = \"30s\"\n");
    let mut run = machine.start_run().unwrap();
    wait_for_the_middle(&machine, &mut run);
    machine.fill_disk(4 << 20).unwrap();
    let ended = settled(&machine, &mut run);
    assert_reason(&ended);
    assert!(ended.why.contains("the disk is full") || ended.why.contains("no space left"), "{ended:?}");
    machine.free_disk().unwrap();
    assert_back_on_bookworm(&machine, &ended);
}

#[test]
fn container_failing_maintainer_script_rolls_back() {
    if lab::skipped("container_failing_maintainer_script_rolls_back") {
        return;
    }
    let machine = with_package("fragile", "", repo::FRAGILE_GOOD, repo::FRAGILE_BAD);
    let mut run = machine.start_run().unwrap();
    let ended = settled(&machine, &mut run);
    assert_reason(&ended);
    assert_back_on_bookworm(&machine, &ended);
}

#[test]
fn container_silent_maintainer_script_is_ended_by_the_watchdog() {
    if lab::skipped("container_silent_maintainer_script_is_ended_by_the_watchdog") {
        return;
    }
    let silence = "\n[upgrade]\nsilence = \"20s\"\n";
    let machine = with_package("stubborn", silence, repo::STUBBORN_GOOD, repo::STUBBORN_BAD);
    let mut run = machine.start_run().unwrap();
    let ended = settled(&machine, &mut run);
    assert_reason(&ended);
    assert_back_on_bookworm(&machine, &ended);
}

/// A machine with a package whose version on trixie misbehaves.
fn with_package(name: &str, config: &str, good: repo::Package, bad: repo::Package) -> Machine {
    let machine = machine(name, config);
    repo::publish(&machine.repo_directory(), "bookworm", &[good]).unwrap();
    repo::publish(&machine.repo_directory(), "trixie", &[bad]).unwrap();
    machine.write("/etc/apt/sources.list.d/lab.sources", 0o644, repo::deb822("bookworm").as_bytes()).unwrap();
    machine.sh(&format!("apt-get -q update && apt-get -qy install {}", good.name)).unwrap();
    machine
}

/// "The reason in one sentence": there is one, and it is one.
fn assert_reason(ended: &Ended) {
    assert!(ended.why.len() > 10 && !ended.why.contains('\n'), "{ended:?}");
}

#[test]
fn container_mirror_gone_between_fetch_and_install() {
    if lab::skipped("container_mirror_gone_between_fetch_and_install") {
        return;
    }
    let machine = machine("mirror", "");
    // Gone in the middle of the fetch: nothing has begun, and nothing shall.
    machine.mirror().take_away_after_debs(20);
    let mut run = machine.start_run().unwrap();
    let ended = settled(&machine, &mut run);
    assert_eq!(ended.state, "Refused", "{ended:?}");
    assert_reason(&ended);
    assert_untouched(&machine);

    // Gone once all is fetched: the upgrade needs it no more.
    machine.mirror().bring_back();
    let mut run = machine.start_run().unwrap();
    machine.wait_in_run(&mut run, &["UpgradeStarted"]).unwrap();
    machine.mirror().take_away();
    let ended = settled(&machine, &mut run);
    assert!(["Committed", "RolledBack"].contains(&ended.state.as_str()), "{ended:?}");
    assert!(serves_the_site(&machine));
}

#[test]
fn container_wrong_configurations_are_named_by_line() {
    if lab::skipped("container_wrong_configurations_are_named_by_line") {
        return;
    }
    let machine = machine("config", "");
    let unknown_key = SERVER.replace("[health]\n", "[health]\ncolour = \"green\"\n");
    let wrong_type = SERVER.replace("store = \"/srv/backup\"", "store = 5");
    for (config, line) in [(unknown_key.as_str(), ":6:"), (&wrong_type, ":2:"), ("[backup\n", ":1:")] {
        machine.write(lab::product::CONFIG, 0o600, config.as_bytes()).unwrap();
        assert_usage(&machine, line);
    }
    machine.sh(&format!("rm {}", lab::product::CONFIG)).unwrap();
    assert_usage(&machine, lab::product::CONFIG);
    assert_eq!(machine.records().unwrap(), Vec::<String>::new());
    assert_untouched(&machine);
}

fn assert_usage(machine: &Machine, named: &str) {
    let refused = machine.product(&["run", "--to", "trixie", "--yes"]).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains(named), "{named} is not in: {said}");
}

/// What happens to the copy of /srv/www; how the product must class it, and where.
const DAMAGES: [(&str, &str, &str); 7] = [
    (
        "printf X | dd of=d-content bs=1 conv=notrunc status=none; touch -d @1700000000 d-content",
        "content",
        "d-content",
    ),
    ("chmod 600 d-mode", "mode", "d-mode"),
    ("chown 33:0 d-owner", "owner", "d-owner"),
    ("touch -d @1600000000 d-mtime", "mtime", "d-mtime"),
    ("ln -sfn elsewhere d-link; touch -h -d @1700000000 d-link", "target", "d-link"),
    ("rm d-gone; touch -d @1700000000 .", "missing", "d-gone"),
    ("touch d-extra; touch -d @1700000000 .", "extra", "d-extra"),
];

#[test]
fn container_damaged_copies_are_refused_and_named() {
    if lab::skipped("container_damaged_copies_are_refused_and_named") {
        return;
    }
    let machine = machine("damaged", "");
    let fill = "cd /srv/www && for name in content mode owner mtime gone; do echo good >d-$name; done && ln -s here d-link && \
                touch -h -d @1700000000 d-* .";
    machine.sh(fill).unwrap();
    machine.sh("safe-upgrade backup").unwrap();
    // From here on the copies are somebody else's: a run only verifies what lies in the store.
    let config = SERVER.replace("[backup]\n", "[backup]\ncopy = false\n");
    machine.write(lab::product::CONFIG, 0o600, config.as_bytes()).unwrap();
    let copy = machine.sh("dirname $(find /srv/backup -name d-content)").unwrap();
    let copy = copy.trim();
    // Outside of the trees: a copy of the copy in /root would itself be a difference.
    machine.sh(&format!("cp -a {copy} /var/tmp/good-copy")).unwrap();
    for (damage, class, name) in DAMAGES {
        // The control: without the damage the backup is good, so what is refused below is refused for the damage.
        machine.sh("safe-upgrade backup").unwrap();
        machine.sh(&format!("cd {copy} && {damage}")).unwrap();
        let run = machine.product(&["run", "--to", "trixie", "--yes"]).unwrap();
        let said = String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned();
        assert_eq!(run.status.code(), Some(3), "{damage}: {said}");
        assert_eq!(machine.status().unwrap().state, "Refused");
        let details = machine.details().unwrap();
        let named = |line: &String| line.contains(class) && line.contains(name);
        assert!(details.iter().any(named), "no {class} of {name} after {damage}: {details:#?}");
        machine.sh(&format!("rm -rf {copy} && cp -a /var/tmp/good-copy {copy}")).unwrap();
    }
    assert_untouched(&machine);
}
