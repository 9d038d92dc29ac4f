//! A userspace that lives but is wrong: nobody confirms, somebody reboots, the boot ends in emergency mode. And what is left to
//! read and to keep after it.

use std::time::Duration;

use super::lab::product::{SERVER, UNIT};
use super::lab::repo::Package;
use super::{assert_back_on_bookworm, lab, machine, release, settled, with_package};

/// Health takes a minute at most on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

const MOTD: &str = "/run/motd.d/50-safe-upgrade";
const DEADLINE_FILES: &str = "/etc/systemd/system/safe-upgrade-deadline.*";

/// Installs well.
const MOUNTS_GOOD: Package = Package { name: "lab-mounts", version: "1", depends: "", postinst: "exit 0" };

/// The next version of [`MOUNTS_GOOD`]: leaves a line in fstab that no boot can mount. (In a container systemd passes over lines
/// with a path as their source.)
const MOUNTS_BAD: Package = Package {
    name: "lab-mounts",
    version: "2",
    depends: "",
    postinst: "echo 'nowhere /mnt tmpfs no-such-option=1 0 0' >>/etc/fstab; echo kept >/var/log/lab-mounts.log",
};

#[test]
fn container_orderly_reboot_of_a_trial_and_a_confirmation_commit() {
    if lab::skipped("container_orderly_reboot_of_a_trial_and_a_confirmation_commit") {
        return;
    }
    let machine = machine("confirm", "\n[commit]\nrule = \"confirm\"\nconfirm = \"10m\"\n");
    // The health of the first boot must last until somebody has rebooted it.
    let config = SERVER.replace("soak = \"5s\"", "soak = \"60s\"")
        + "\n[commit]\nrule = \"confirm\"\nconfirm = \"10m\"\n";
    machine.write(lab::product::CONFIG, 0o600, config.as_bytes()).unwrap();
    let mut run = machine.start_run().unwrap();
    machine.wait_in_run(&mut run, &["TrialBooted"]).unwrap();
    machine.wait_boot(machine.boots(), PATIENCE).unwrap();
    let early = machine.product(&["commit", "--yes"]).unwrap();
    assert_eq!(early.status.code(), Some(3), "{}", String::from_utf8_lossy(&early.stderr));
    assert!(machine.sh(&format!("ls {DEADLINE_FILES}")).is_ok());
    assert_eq!(machine.sh("systemctl is-active safe-upgrade-deadline.timer").unwrap(), "active\n");
    machine.reboot().unwrap();
    machine.wait_in_run(&mut run, &["HealthPassed"]).unwrap();
    let records = machine.records().unwrap();
    let trial: Vec<&str> =
        records.iter().map(String::as_str).skip_while(|name| *name != "RebootStarted").collect();
    assert_eq!(trial, ["RebootStarted", "TrialBooted", "TrialLeft", "TrialBooted", "HealthPassed"]);
    let status = machine.sh("safe-upgrade status").unwrap();
    assert!(status.contains("for `safe-upgrade commit`"), "{status}");
    assert!(
        machine
            .sh(&format!("cat {MOTD} /run/issue.d/50-safe-upgrade.issue"))
            .unwrap()
            .contains("safe-upgrade commit")
    );
    let commit = machine.product(&["commit", "--yes"]).unwrap();
    assert_eq!(commit.status.code(), Some(0), "{}", String::from_utf8_lossy(&commit.stderr));
    let ended = settled(&machine, &mut run);
    assert_eq!(ended.state, "Committed", "{ended:?}");
    assert_eq!(release(&machine), "trixie");
    assert_eq!(machine.product(&["commit", "--yes"]).unwrap().status.code(), Some(0));
    assert_eq!(machine.sh(&format!("ls {DEADLINE_FILES} {MOTD} 2>/dev/null | wc -l")).unwrap(), "0\n");
}

#[test]
fn container_trial_in_emergency_mode_goes_back_and_leaves_its_story() {
    if lab::skipped("container_trial_in_emergency_mode_goes_back_and_leaves_its_story") {
        return;
    }
    let machine = with_package("emergency", "", MOUNTS_GOOD, MOUNTS_BAD);
    machine.sh("echo before >/var/log/lab-both.log").unwrap();
    let mut run = machine.start_run().unwrap();
    machine.wait_in_run(&mut run, &["UpgradeStarted"]).unwrap();
    machine.sh("echo upgraded >>/var/log/lab-both.log").unwrap();
    let ended = settled(&machine, &mut run);
    assert!(ended.why.contains("emergency or rescue mode"), "{ended:?}");
    assert_back_on_bookworm(&machine, &ended);
    // What the failed system has written to its logs is here.
    assert_eq!(machine.sh("cat /var/log/lab-mounts.log").unwrap(), "kept\n");
    assert_eq!(machine.sh("cat /var/log/lab-both.log").unwrap(), "before\nupgraded\n");
    assert!(machine.sh("journalctl --quiet --no-pager --unit mnt.mount").unwrap().contains("/mnt"));
    // The story names what failed.
    let report = machine.sh("safe-upgrade report").unwrap();
    assert!(report.contains("mnt.mount"), "{report}");
    assert!(report.contains("carried forward") && !report.contains("not carried"), "{report}");
    let motd = machine.sh(&format!("cat {MOTD}")).unwrap();
    assert!(motd.contains("rolled back") && motd.contains("emergency"), "{motd}");
}

#[test]
fn container_trial_that_nobody_confirms_goes_back() {
    if lab::skipped("container_trial_that_nobody_confirms_goes_back") {
        return;
    }
    let machine = machine("unconfirmed", "\n[commit]\nrule = \"confirm\"\nconfirm = \"3s\"\n");
    let mut run = machine.start_run().unwrap();
    let ended = settled(&machine, &mut run);
    assert!(ended.why.contains("nobody confirmed"), "{ended:?}");
    assert_back_on_bookworm(&machine, &ended);
    assert_eq!(machine.sh(&format!("systemctl is-active {UNIT} || true")).unwrap(), "inactive\n");
}

#[test]
fn container_trial_without_a_verdict_in_time_goes_back() {
    if lab::skipped("container_trial_without_a_verdict_in_time_goes_back") {
        return;
    }
    let machine = machine("overdue", "");
    let config = SERVER.replace("soak = \"5s\"", "soak = \"5s\"\nsettle = \"10s\"\ndeadline = \"40s\"");
    machine.write(lab::product::CONFIG, 0o600, config.as_bytes()).unwrap();
    let mut run = machine.start_run().unwrap();
    machine.wait_in_run(&mut run, &["UpgradeStarted"]).unwrap();
    // In the upgraded root alone: the program that drives the trial hangs, alive, before it can say anything.
    let dropin = "[Service]\nExecStart=\nExecStart=/bin/sleep infinity\n";
    machine
        .write("/etc/systemd/system/safe-upgrade-resume.service.d/hang.conf", 0o644, dropin.as_bytes())
        .unwrap();
    let ended = settled(&machine, &mut run);
    assert!(ended.why.contains("no verdict in the time"), "{ended:?}");
    assert_back_on_bookworm(&machine, &ended);
}
