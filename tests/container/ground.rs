//! Ground under our feet: in the middle of an upgrade awk, perl and python may not run. Whatever drives it must not need them.

use std::time::Duration;

use super::lab::Machine;
use super::lab::product::{Run, UNIT};
use super::lab::repo::Package;
use super::{assert_back_on_bookworm, lab, release, serves_the_site, settled, with_package};

/// Any step of an upgrade takes less, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(300);

const DARK_GOOD: Package = Package { name: "lab-dark", version: "1", depends: "", postinst: "exit 0" };

/// The next version of [`DARK_GOOD`]: takes the interpreters away until the test lets there be light, two minutes at most. It says
/// a line a second, as a busy maintainer script does.
const DARK: Package = Package {
    name: "lab-dark",
    version: "2",
    depends: "",
    postinst: "cd /usr/bin
for tool in gawk mawk perl python3; do mv $tool $tool.dark; done
echo dark >/var/log/lab-dark.log
seconds=0
until [ -e /run/lab-light ] || [ $seconds = 120 ]; do seconds=$((seconds + 1)); echo $seconds; sleep 1; done
for tool in gawk mawk perl python3; do mv $tool.dark $tool; done
[ -e /run/lab-light ]",
};

/// A run in whose middle the interpreters are gone.
fn in_the_dark(name: &str) -> (Machine, Run) {
    let machine = with_package(name, "", DARK_GOOD, DARK);
    let mut run = machine.start_run().unwrap();
    machine.wait_in_run(&mut run, &["UpgradeStarted"]).unwrap();
    machine.wait_for_text("/var/log/lab-dark.log", 0, "dark", PATIENCE).unwrap();
    for tool in ["awk", "perl", "python3"] {
        assert_eq!(machine.run(&[tool, "--version"]).unwrap().status.code(), Some(127), "{tool} still runs");
    }
    assert_eq!(machine.status().unwrap().state, "Upgrading");
    (machine, run)
}

#[test]
fn container_upgrade_goes_on_while_interpreters_are_gone() {
    if lab::skipped("container_upgrade_goes_on_while_interpreters_are_gone") {
        return;
    }
    let (machine, mut run) = in_the_dark("dark");
    machine.write("/run/lab-light", 0o644, b"").unwrap();
    let ended = settled(&machine, &mut run);
    assert_eq!(ended.state, "Committed", "{ended:?}");
    assert_eq!(release(&machine), "trixie");
    assert!(serves_the_site(&machine));
}

#[test]
fn container_rollback_begins_while_interpreters_are_gone() {
    if lab::skipped("container_rollback_begins_while_interpreters_are_gone") {
        return;
    }
    let (machine, mut run) = in_the_dark("dark-back");
    machine.kill_main(UNIT).unwrap();
    let ended = settled(&machine, &mut run);
    assert_back_on_bookworm(&machine, &ended);
}
