//! A rehearsal where there are no snapshots: a machine on ext4, whose clone is its restored backup.

use std::time::Duration;

use serde_json::Value;

use super::lab::Timer;
use super::lab::product::{CONFIG, SERVER, binary};
use super::rehearsal::root_of_kept;
use super::{Machine, lab, release, serves_the_site};

/// The lab's server, backed up whole, without what changes while it is copied.
fn server() -> String {
    let whole = "trees = [\"/\", \"/srv/data\"]\nexclude = [\"var/log/journal/*\", \"var/cache/apt\"]";
    let server = SERVER.replace("trees = [\"/etc\", \"/srv/www\", \"/root\"]", whole);
    assert_ne!(server, SERVER);
    server.replace("store = \"/srv/backup\"", "store = \"/srv/backup/store\"")
}

/// A second filesystem: of the one that the backups are on, which is not the root's.
const SECOND: &str = "mkdir -p /srv/backup/store /srv/backup/second /srv/data && \
    mount --bind /srv/backup/second /srv/data && test $(stat -c %d /srv/data) != $(stat -c %d /)";

/// Everything that such a rehearsal makes, counted.
const LEFT: &str = "echo $(systemctl list-units --all --plain --no-legend 'safe-upgrade-rehearsal-*' | wc -l) \
    $(ls /run/netns 2>/dev/null | wc -l) $(grep -c rehearsal- /proc/self/mountinfo) \
    $(ls -d /run/safe-upgrade/rehearsal-* 2>/dev/null | wc -l) $(ls -A /var/lib/safe-upgrade/scratch | wc -l) \
    $(ls /var/lib/safe-upgrade/rehearsals/*/made.json 2>/dev/null | wc -l)";

const NOTHING: &str = "0 0 0 0 0 0\n";

/// What of the machine was written since the mark was made, without its logs and what is this program's or the database's own.
const CHANGED: &str = "find / -xdev -newercm /root/mark ! -type d ! -path '/root/*' ! -path '/var/log/*' \
    ! -path '/var/lib/safe-upgrade/*' ! -path '/var/lib/mysql/*' | sort";

/// The unit that removes what a power cut leaves is put there anew by each rehearsal.
const UNIT_FILES: &str = "/etc/systemd/system/safe-upgrade-resume.service\n";

/// A question that this machine has no answer to.
const ANSWERS: &str = "version = 1\n\n[[debconf]]\npackage = \"libc6\"\n\
    question = \"libraries/restart-without-asking\"\ntype = \"boolean\"\nvalue = \"true\"\n";

/// What the clone took for its answer.
const ANSWERED: &str = "grep -A 9 '^Name: libraries/restart-without-asking$' \
    /var/lib/safe-upgrade/scratch/*/root/var/cache/debconf/config.dat | grep -m 1 ^Value:";

/// Fetching, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// A machine with the product that has no subvolume for a journal.
fn machine_without_snapshots() -> Machine {
    let machine = Machine::on_ext4("rehearse-ext4").unwrap();
    machine.boot().unwrap();
    machine.copy_in(&binary().unwrap(), "/usr/local/sbin/safe-upgrade", 0o755).unwrap();
    machine.sh("apt-get -q update && apt-get -qy install --no-install-recommends systemd-container").unwrap();
    machine
}

#[test]
fn container_rehearsal_without_snapshots_is_of_the_restored_backup() {
    if lab::skipped("container_rehearsal_without_snapshots_is_of_the_restored_backup") {
        return;
    }
    let timer = Timer::start();
    let machine = machine_without_snapshots();
    timer.lap("machine on ext4");
    // What is missing is said before anything is fetched.
    machine.sh(&format!("{SECOND} && echo precious >/srv/data/file")).unwrap();
    machine.write(CONFIG, 0o600, server().replace("\"/\", ", "\"/etc\", ").as_bytes()).unwrap();
    assert!(refusal(&machine).contains("name \"/\" in backup.trees"));
    machine.write(CONFIG, 0o600, server().as_bytes()).unwrap();
    assert!(refusal(&machine).contains("no finished backup of /"));
    machine.sh("mount -t tmpfs none /var/lib/dpkg").unwrap();
    assert!(refusal(&machine).contains("/var/lib/dpkg is a filesystem of its own, and the clone would have"));
    machine.sh("umount /var/lib/dpkg").unwrap();
    let made = machine.product(&["backup"]).unwrap();
    assert_eq!(made.status.code(), Some(0), "{}", String::from_utf8_lossy(&made.stdout));
    timer.lap("backup");
    it_is_killed_and_power_is_lost(&machine);
    timer.lap("killed and unplugged while it restores, and swept");

    // The backup is older than the answers.
    machine.write("/etc/safe-upgrade/answers.toml", 0o600, ANSWERS.as_bytes()).unwrap();
    machine.sh(&format!("{SECOND} && touch /root/mark")).unwrap();
    let rehearsed = machine.product(&["rehearse", "--to", "trixie", "--keep", "--json"]).unwrap();
    timer.lap("rehearsal");
    let told: Value = serde_json::from_slice(&rehearsed.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&rehearsed.stderr)));
    let record = &told["rehearsal"];
    assert_eq!(rehearsed.status.code(), Some(0), "{record:#}");
    assert_eq!(record["outcome"], "passed", "{record:#}");
    let clone = record["clone"].as_str().unwrap();
    eprintln!("lab: {clone}; {}", record["timings"]);
    assert!(
        clone.starts_with("restored from the backup of 20") && clone.contains(" entries verified"),
        "{clone}"
    );
    assert!(record["packages"].as_u64().unwrap() > 100, "{record:#}");
    assert_restored_beside_the_root(&machine, record);
    assert_eq!(machine.sh(ANSWERED).unwrap(), "Value: true\n");
    assert_kept_and_ended(&machine, record);
    assert_eq!(machine.sh(LEFT).unwrap(), NOTHING);
    // What asks for no snapshot works here.
    let others = "safe-upgrade prune && safe-upgrade init --config /root/new.toml --store /srv/backup/store";
    let said = machine.sh(others).unwrap();
    assert!(
        said.contains("No run has left anything behind.") && said.contains("/ is not on btrfs"),
        "{said}"
    );
    assert_eq!(release(&machine), "bookworm");
    assert_eq!(machine.sh("grep -rl trixie /etc/apt || true").unwrap(), "");
    assert_eq!(machine.sh(CHANGED).unwrap(), UNIT_FILES);
    assert!(serves_the_site(&machine));
}

/// The clone has the second filesystem from the backup too, and writes to its own.
fn assert_restored_beside_the_root(machine: &Machine, record: &Value) {
    let volumes = record["volumes"].to_string();
    eprintln!("lab: {volumes}");
    assert!(volumes.contains("/srv/data: restored from the backup of 20"), "{record:#}");
    let root = root_of_kept(machine, record);
    let both =
        format!("cat {root}/srv/data/file && echo changed >{root}/srv/data/file && cat /srv/data/file");
    assert_eq!(machine.sh(&both).unwrap(), "precious\nprecious\n");
}

/// The upgraded clone runs on beside the machine, keeps another from being made, and goes when it is told to.
fn assert_kept_and_ended(machine: &Machine, record: &Value) {
    let root = root_of_kept(machine, record);
    assert!(machine.sh(&format!("cat {root}/etc/os-release")).unwrap().contains("=trixie"));
    let network = record["kept"]["network"].as_str().unwrap();
    let address = record["kept"]["address"].as_str().unwrap();
    // Nobody listens there; that it says so, it says itself.
    let nobody = format!("ip netns exec {network} bash -c 'echo >/dev/tcp/{address}/9' 2>&1 || true");
    assert!(machine.sh(&nobody).unwrap().contains("Connection refused"));
    assert_ne!(machine.sh(LEFT).unwrap(), NOTHING);
    let second = machine.product(&["rehearse", "--to", "trixie"]).unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(3), "{said}");
    assert!(said.contains("still runs: `safe-upgrade rehearse --end` removes it"), "{said}");
    let id = record["id"].as_str().unwrap();
    assert!(machine.sh("safe-upgrade rehearse --end").unwrap().contains(id));
}

/// Nothing is taken from under a rehearsal.
fn assert_busy(machine: &Machine) {
    for (words, sentence) in [
        (&["rehearse", "--end"][..], "a rehearsal is at work; nothing was removed"),
        (&["rehearse", "--to", "trixie"], "another rehearsal is at work; nothing was begun"),
    ] {
        let refused = machine.product(words).unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(6), "{said}");
        assert!(said.contains(sentence), "{said}");
    }
}

fn refusal(machine: &Machine) -> String {
    let refused = machine.product(&["rehearse", "--to", "trixie"]).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert_eq!(machine.sh("ls /var/lib/safe-upgrade/apt 2>/dev/null || true").unwrap(), "", "{said}");
    said
}

/// Killed, it leaves what the next one removes; when the power goes, the boot removes it.
fn it_is_killed_and_power_is_lost(machine: &Machine) {
    rehearsal_comes_to(machine, "restoring the backup of /: 1");
    assert_busy(machine);
    machine.sh("pkill -KILL -f '^safe-upgrade rehearse --to'").unwrap();
    assert_ne!(machine.sh(LEFT).unwrap(), NOTHING);
    machine.sh("safe-upgrade rehearse --end").unwrap();
    assert_eq!(machine.sh(LEFT).unwrap(), NOTHING);
    // By then all of it is on the disk.
    rehearsal_comes_to(machine, "comparing what was restored of /");
    machine.pull_plug().unwrap();
    let state = machine.top().join("var/lib/safe-upgrade");
    let left = |place: &str| std::fs::read_dir(state.join(place)).unwrap().map(|one| one.unwrap().path());
    assert_eq!(left("scratch").count(), 1);
    assert_eq!(left("rehearsals").filter(|one| one.join("made.json").exists()).count(), 1);
    machine.boot().unwrap();
    let swept = format!(
        "for n in $(seq 300); do test \"$({LEFT})\" = '{}' && exit; sleep 0.2; done; {LEFT}; exit 1",
        NOTHING.trim()
    );
    machine.sh(&swept).unwrap();
}

fn rehearsal_comes_to(machine: &Machine, point: &str) {
    let log = "/root/rehearse.log";
    machine.write(log, 0o600, b"").unwrap();
    machine.start(&["sh", "-c", &format!("exec safe-upgrade rehearse --to trixie >{log} 2>&1")]).unwrap();
    machine.wait_for_text(log, 0, point, PATIENCE).unwrap();
}
