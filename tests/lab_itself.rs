//! The lab proves itself: a machine boots, runs commands, reboots, loses power, loses its mirror, and fills up.

mod lab;

use std::time::Duration;

use lab::{Machine, Timer, repo};

/// Longer than any step of an upgrade takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// The release upgrade as a person would type it; `lab` stands for what the product does.
const UPGRADE: &str = "set -e
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
find /etc/apt -name '*.list' -exec sed -i s/bookworm/trixie/ {} +
apt='apt-get -qy -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold -o Acquire::Retries=0'
$apt update
$apt full-upgrade --download-only
$apt upgrade --without-new-pkgs
$apt full-upgrade";

#[test]
fn a_machine_boots_loses_power_and_comes_back() {
    if lab::skipped("a_machine_boots_loses_power_and_comes_back") {
        return;
    }
    let timer = Timer::start();
    let machine = Machine::new("itself").unwrap();
    timer.lap("a fresh machine (with the golden disk, when it is the first of the week)");
    machine.boot().unwrap();
    timer.lap("boot");
    assert_eq!(machine.sh("systemctl is-system-running --wait").unwrap(), "running\n");
    assert!(machine.get("/").unwrap().contains("it works"));
    assert_eq!(machine.sh("site-check").unwrap(), "OK: it works, says the database\n");
    assert_eq!(machine.sh("findmnt -no FSROOT /; findmnt -no FSROOT /home").unwrap(), "/@\n/@home\n");
    timer.lap("checks");

    machine.sh("echo safe >/root/synced && sync -f /root/synced && echo lost >/root/unsynced").unwrap();
    machine.pull_plug().unwrap();
    timer.lap("plug pulled");
    machine.boot().unwrap();
    timer.lap("boot after it");
    assert_eq!(machine.sh("cat /root/synced").unwrap(), "safe\n");
    assert_eq!(machine.sh("cat /root/unsynced 2>/dev/null || true").unwrap(), "");

    machine.reboot().unwrap();
    assert_eq!(machine.boots(), 3);
    timer.lap("reboot");
    machine.power_off().unwrap();
    timer.lap("power off");
}

#[test]
fn a_mirror_goes_away_and_a_disk_fills_up() {
    if lab::skipped("a_mirror_goes_away_and_a_disk_fills_up") {
        return;
    }
    let machine = Machine::new("mirror").unwrap();
    repo::publish(&machine.repo_directory(), "bookworm", &[repo::FRAGILE_GOOD]).unwrap();
    repo::publish(&machine.repo_directory(), "trixie", &[repo::FRAGILE_BAD]).unwrap();
    machine.boot().unwrap();
    machine.write("/etc/apt/sources.list.d/lab.list", 0o644, repo::one_line("bookworm").as_bytes()).unwrap();
    machine.sh("apt-get -q update && apt-get -qy install lab-fragile").unwrap();
    assert_eq!(machine.mirror().debs_served(), 1);

    machine.mirror().take_away_after_debs(3);
    let refused = machine.sh(UPGRADE).unwrap_err().to_string();
    assert!(refused.contains("Failed to fetch"), "{refused}");
    assert_eq!(machine.mirror().debs_served(), 4);
    machine.mirror().bring_back();

    machine.write("/etc/apt/sources.list", 0o644, b"").unwrap();
    let failed = machine.sh("apt-get -q update && apt-get -qy full-upgrade 2>&1").unwrap_err().to_string();
    assert!(failed.contains("lab-fragile: no, thank you"), "{failed}");

    machine.fill_disk(4 << 20).unwrap();
    let full = machine.sh("dd if=/dev/urandom of=/root/big bs=1M count=64 2>&1").unwrap_err().to_string();
    assert!(full.contains("No space left on device"), "{full}");
    machine.free_disk().unwrap();
    machine.sh("dd if=/dev/urandom of=/root/big bs=1M count=64").unwrap();
}

#[test]
#[ignore = "proves the lab, not the product, and takes a minute: make test-lab"]
fn a_plain_upgrade_works_and_a_pulled_plug_breaks_it() {
    if lab::skipped("a_plain_upgrade_works_and_a_pulled_plug_breaks_it") {
        return;
    }
    let timer = Timer::start();
    let machine = Machine::new("plain").unwrap();
    timer.lap("a fresh machine");
    machine.boot().unwrap();
    timer.lap("boot");
    let fetched = machine.mirror().fetched();
    machine.sh(UPGRADE).unwrap();
    timer.lap(&format!("upgrade, {} files from the original mirror", machine.mirror().fetched() - fetched));
    machine.reboot().unwrap();
    timer.lap("reboot");
    assert!(machine.sh("cat /etc/os-release").unwrap().contains("VERSION_CODENAME=trixie"));
    assert_eq!(machine.sh("systemctl is-system-running --wait").unwrap(), "running\n");
    assert!(machine.get("/").unwrap().contains("it works"));
    machine.sh("site-check").unwrap();
    drop(machine);

    let machine = Machine::new("plain").unwrap();
    machine.boot().unwrap();
    timer.lap("another machine, up");
    let old = machine.length("/var/log/dpkg.log").unwrap();
    let mut upgrade = machine.start(&["sh", "-c", UPGRADE]).unwrap();
    machine.wait_for_text("/var/log/dpkg.log", old, "status half-configured", PATIENCE).unwrap();
    machine.pull_plug().unwrap();
    upgrade.wait().unwrap();
    timer.lap("plug pulled in the upgrade");
    machine.boot().unwrap();
    timer.lap("boot after it");
    assert_ne!(machine.sh("dpkg --audit; apt-get check 2>&1 || true").unwrap(), "");
}
