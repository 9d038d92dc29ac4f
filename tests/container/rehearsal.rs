//! Rehearsals on a real machine: the container of the lab boots a clone of itself in a container of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use safe_upgrade::places::RESUME_UNIT;
use safe_upgrade::system::exec::Output;
use serde_json::Value;

use super::knows::{checked, loaded};
use super::lab::Timer;
use super::lab::product::{Run, SERVER};
use super::lab::repo::Package;
use super::{assert_untouched, lab, machine, release, settled, with_package};

/// What boots the clone; a server installs it when it wants to rehearse.
const NSPAWN: &str = "apt-get -q update && apt-get -qy install --no-install-recommends systemd-container";

/// The lab's machines fetch the lists of packages only; apt by itself also fetches descriptions, and here those of sources.
const EVERY_LIST: &str = "grep -rl Acquire::Languages /etc/apt | xargs -r sed -i /Acquire::Languages/d && \
    sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >/etc/apt/sources.list.d/src.list && \
    test -s /etc/apt/sources.list.d/src.list";

/// The site of the loaded server: its interpreter was installed by its version, without the metapackage that would bring the next one.
const PHP_CHECK: &str = r#"
[[health.check]]
name = "shop"
kind = "http"
url = "http://127.0.0.1:8082/index.php"
body = "says PHP"
"#;

/// Changed here, and by the new release too.
const NGINX: &str = "/etc/nginx/nginx.conf";
const MARIADB: &str = "/etc/mysql/mariadb.conf.d/50-server.cnf";
const OURS: &str = "\\n# ours\\n";

const RULES: &str = r#"
[[configuration_files.rule]]
path = "/etc/nginx/nginx.conf"
action = "ask"

[[configuration_files.rule]]
path = "/etc/mysql/mariadb.conf.d/50-server.cnf"
action = "take"
"#;

/// A question of debconf's that is answered beforehand.
const RESTART: &str = "libraries/restart-without-asking";
const ANSWERS: &str = "/etc/safe-upgrade/answers.toml";

/// Sees from outside that the clone is there, and that nothing else is.
const TESTS: &str = r#"
[[rehearsal.test]]
name = "reached"
argv = ["/bin/bash", "-c", "echo >/dev/tcp/$SAFE_UPGRADE_TEST_HOST/22 || test $(ip -o link | wc -l) = 2"]

[[rehearsal.test]]
name = "endless"
argv = ["/bin/sleep", "86399"]
timeout = "2s"
"#;

/// Passes once, and does not end the next time.
const FALLS_SILENT: &str = r#"
[[rehearsal.test]]
name = "silent"
argv = ["/bin/sh", "-c", "mkdir /root/was-asked || exec sleep 86399"]
timeout = "3s"
"#;

/// Installs well.
const CURIOUS: Package<'static> =
    Package { name: "lab-curious", version: "1", depends: "", postinst: "exit 0" };

/// Its next version: in a clone its script tells what it may, and tries what reaches the host (304 is `open_by_handle_at`, 167 is `swapon`).
const CURIOUS_NEXT: Package<'static> = Package {
    name: "lab-curious",
    version: "2",
    depends: "",
    postinst: "test -e /var/lib/safe-upgrade/rehearsal/task.json || exit 0\n\
        sed -n 's/^/lab-curious: /; /Seccomp:/p; /NoNewPrivs:/p' /proc/self/status\n\
        echo x >/root/lab-swap\n\
        perl -e 'my $file = shift; print qq{lab-curious: file by number: }, syscall(304, -1, 0, 0), qq{ $!\\n}; \
        print qq{lab-curious: swapon: }, syscall(167, $file, 0), qq{ $!\\n}' /root/lab-swap\n\
        rm -f /root/lab-swap",
};

/// A directory of the root at a second place, and two of another subvolume.
const MOUNTS: &str = "mkdir -p /srv/twice /srv/apart /home/apart /srv/shown /home/shown && \
    mount --bind /srv/www /srv/twice && mount --bind /home/apart /srv/apart && \
    mount --bind /home/shown /srv/shown && touch /home/apart/file /home/shown/file && \
    printf 'server { listen 80; root /srv/twice; }' >/etc/nginx/conf.d/outside.conf && systemctl reload nginx";

/// The database gets a filesystem of its own, which only its user can enter, and of which the clone has nothing.
const DATABASE_APART: &str = "systemctl stop mariadb && cp -a /var/lib/mysql /home/mysql && chmod 0750 /home/mysql && \
    mount --bind /home/mysql /var/lib/mysql && systemctl start mariadb && site-check";

const DATABASE_BACK: &str = "systemctl stop mariadb && umount /var/lib/mysql && rm -r /home/mysql && \
    systemctl start mariadb && site-check";

/// What was in /var goes to a subvolume on the top level, with mail that waits in it. The old one stays below it, as a decoy.
const VAR_APART: &str = "dev=$(sed -n 's/.* - btrfs \\([^ ]*\\) .*/\\1/p' /proc/self/mountinfo | head -n 1) && \
    systemctl stop mariadb nginx && mkdir -p /mnt/top /var/spool/nullmailer/queue && \
    touch /var/spool/nullmailer/queue/waiting && mount -t btrfs -o subvolid=5 $dev /mnt/top && \
    btrfs -q subvolume create /mnt/top/@var && cp -a --reflink=auto /var/. /mnt/top/@var/ && umount /mnt/top && \
    mount -t btrfs -o subvol=/@var $dev /var && systemctl start mariadb nginx && site-check";

/// The lab's machines have no curl.
const FETCH: &str = r#"exec 3<>/dev/tcp/$0/80 && printf "GET / HTTP/1.0\r\n\r\n" >&3 && cat <&3"#;

/// Everything that a rehearsal makes, counted, with what must be there when nothing of it is left.
const LEFT: &str = "echo $(systemctl list-units --all --plain --no-legend 'safe-upgrade-rehearsal-*' | wc -l) \
    $(ls /run/netns 2>/dev/null | wc -l) $(grep -c rehearsal- /proc/self/mountinfo) \
    $(ls -d /run/safe-upgrade/rehearsal-* 2>/dev/null | wc -l) $(btrfs subvolume list / | grep -c rehearsal-) \
    $(ls /var/lib/safe-upgrade/rehearsals/*/made.json 2>/dev/null | wc -l) \
    $(pgrep -c -f 'machine=[r]ehearsal|rehearsal-[s]tage')";

const NOTHING: &str = "0 0 0 0 0 0 0\n";

/// Fetching, a boot, an upgrade and a boot on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// From the machine's own words on stderr: each is said before what it names begins.
const ALL_POINTS: [&str; 5] = [
    "cloning the root",
    "booting the clone",
    "upgrading the clone",
    "minimal upgrade: Unpacking",
    "comparing the upgraded clone",
];

/// Before and after the clone is another system; all of them take minutes longer.
const POINTS: [&str; 2] = ["booting the clone", "minimal upgrade: Unpacking"];

fn record(output: &Output) -> Value {
    let told: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    told["rehearsal"].clone()
}

#[test]
fn container_rehearsal_names_the_dead_site_that_systemd_calls_running() {
    if lab::skipped("container_rehearsal_names_the_dead_site_that_systemd_calls_running") {
        return;
    }
    let timer = Timer::start();
    let machine = loaded("rehearse-php", PHP_CHECK);
    machine.sh(NSPAWN).unwrap();
    // What never comes back is waited for; it need not be the usual five minutes.
    let hasty = SERVER.replace("soak = \"5s\"", "soak = \"5s\"\nsettle = \"60s\"") + FALLS_SILENT;
    machine.write(lab::product::CONFIG, 0o600, format!("{hasty}{PHP_CHECK}").as_bytes()).unwrap();
    timer.lap("loaded machine");
    // With a repository that has no trixie no upgrade would begin: that is said before a clone is made.
    let refused = machine.product(&["rehearse", "--to", "trixie", "--json"]).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("(repository-without-target)"), "{said}");
    machine.sh("rm /etc/apt/sources.list.d/example.list && apt-get -q update").unwrap();
    timer.lap("refused rehearsal");
    let rehearsed = machine.product(&["rehearse", "--to", "trixie", "--json"]).unwrap();
    timer.lap("rehearsal");
    let record = record(&rehearsed);
    assert_eq!(rehearsed.status.code(), Some(3), "{record:#}");
    assert_eq!(record["outcome"], "failed", "{record:#}");
    let lost = record["services_lost"].to_string();
    assert!(lost.contains("php8.2-fpm.service"), "{record:#}");
    let failed = record["failed"].to_string();
    assert!(failed.contains("check shop") && failed.contains("not held: redis-tools"), "{record:#}");
    let silent = "the test silent does not pass any more: it did not end within its limit of 3 s";
    assert!(failed.contains(silent), "{record:#}");
    assert!(machine.sh("pgrep -x sleep -a | grep 86399").is_err());
    assert_all_came_true(&record["foretold"]);
    assert_eq!(machine.sh(LEFT).unwrap(), NOTHING);
    assert_untouched(&machine);
    assert!(machine.sh("systemctl is-active php8.2-fpm").is_ok());
    // Preflight says it without a rehearsal too. With waivers, what has failed is no evidence: a run that wants one is refused.
    let (found, _) = checked(&machine);
    let inhibitors: BTreeSet<&str> =
        found.iter().filter(|(severity, _)| severity == "inhibitor").map(|(_, id)| id.as_str()).collect();
    assert!(inhibitors.contains("package-removed-in-use"), "{found:?}");
    assert!(inhibitors.contains("packages-kept-back"), "{found:?}");
    let waivers: String = inhibitors
        .iter()
        .map(|id| format!("[[waiver]]\nid = \"{id}\"\nreason = \"the server moves elsewhere\"\n"))
        .collect();
    let config = format!("{hasty}{PHP_CHECK}\n[rehearsal]\nmode = \"required\"\n{waivers}");
    machine.write(lab::product::CONFIG, 0o600, config.as_bytes()).unwrap();
    let mut run = machine.start_run().unwrap();
    let ended = settled(&machine, &mut run);
    assert_eq!(ended.state, "Refused", "{ended:?}");
    assert!(ended.why.contains("the last rehearsal failed"), "{ended:?}");
    assert_untouched(&machine);
}

#[test]
fn container_healthy_rehearsal_is_the_evidence_of_a_run() {
    if lab::skipped("container_healthy_rehearsal_is_the_evidence_of_a_run") {
        return;
    }
    let timer = Timer::start();
    let config = format!("\n[rehearsal]\nmode = \"required\"\nshow = [\"/srv/shown\"]\n{TESTS}{RULES}");
    let machine = with_package("rehearse", &config, CURIOUS, CURIOUS_NEXT);
    machine.sh(EVERY_LIST).unwrap();
    machine.sh(NSPAWN).unwrap();
    assert_ne!(machine.sh("ls /var/lib/apt/lists | grep -c -e _Translation-en -e _Sources").unwrap(), "0\n");
    machine.sh(&format!("printf '{OURS}' | tee -a {NGINX} >>{MARIADB}")).unwrap();
    machine.sh(MOUNTS).unwrap();
    machine.sh(DATABASE_APART).unwrap();
    let answered = format!(
        "version = 1\n\n[[debconf]]\npackage = \"libc6\"\nquestion = \"{RESTART}\"\ntype = \"boolean\"\nvalue = \"true\"\n"
    );
    machine.write(ANSWERS, 0o600, answered.as_bytes()).unwrap();
    timer.lap("machine");
    let rehearsed = machine.product(&["rehearse", "--to", "trixie", "--keep", "--json"]).unwrap();
    timer.lap("rehearsal");
    let record = record(&rehearsed);
    assert_eq!(rehearsed.status.code(), Some(0), "{record:#}");
    assert!(record["predicted_outage"].as_u64().unwrap() > 5, "{record:#}");
    assert!(record["packages"].as_u64().unwrap() > 100, "{record:#}");
    assert_eq!(record["unanswered"], serde_json::json!([NGINX]), "{record:#}");
    assert_all_came_true(&record["foretold"]);
    eprintln!("lab: the rehearsal took {} s beyond its upgrade: {}", record["overhead"], record["timings"]);
    let volumes = record["volumes"].to_string();
    assert!(volumes.contains("/srv/twice: the clone's own /srv/www"), "{record:#}");
    assert!(volumes.contains("/srv/apart: left out"), "{record:#}");
    assert!(volumes.contains("/srv/shown: the real one, read-only"), "{record:#}");
    let endless = "the test endless does not pass in the clone before the upgrade: it did not end within its limit of 2 s";
    assert!(record["noted"].to_string().contains(endless), "{record:#}");
    assert!(volumes.contains("/var/lib/mysql: left out"), "{record:#}");
    let noted = record["noted"].to_string();
    assert!(noted.contains("not in the clone") && noted.contains("mariadb.service"), "{record:#}");
    assert!(record["limits"].to_string().contains("MemoryMax="), "{record:#}");
    assert_refused_to_scripts(&machine, &record);
    assert_shown(&machine, &record);
    assert_kept_and_ended(&machine, &record);
    assert_untouched(&machine);
    machine.sh("umount /srv/twice /srv/apart /srv/shown && rm -r /srv/twice /srv/apart /srv/shown /home/apart /home/shown").unwrap();
    machine.sh(DATABASE_BACK).unwrap();
    review_the_answers(&machine, record["answers"].as_str().unwrap());

    let begun = machine.records().unwrap().len();
    let command = machine.start(&["safe-upgrade", "run", "--to", "trixie", "--yes", "--json"]).unwrap();
    let mut run = Run { command, begun, before: begun };
    let ended = settled(&machine, &mut run);
    timer.lap("run");
    assert_eq!(ended.state, "Committed", "{ended:?}");
    assert_eq!(release(&machine), "trixie");
    let status = machine.sh("safe-upgrade status").unwrap();
    assert!(status.contains(record["id"].as_str().unwrap()), "{status}");
    assert!(status.contains("\noutage    "), "{status}");
    assert_answered_as_reviewed(&machine);
    assert_told(&machine, &run, &record);
}

/// What came in by `nsenter` has the filter that those have who did not, and in this machine nobody else would have refused it.
fn assert_refused_to_scripts(machine: &lab::Machine, record: &Value) {
    assert_eq!(machine.sh("grep Seccomp: /proc/self/status").unwrap(), "Seccomp:\t0\n");
    let said =
        machine.sh(&format!("grep lab-curious: {}/apt.log", record["logs"].as_str().unwrap())).unwrap();
    eprintln!("lab: a script in the clone:\n{said}");
    for line in [
        "lab-curious: NoNewPrivs:\t1",
        "lab-curious: Seccomp:\t2",
        "lab-curious: file by number: -1 Operation not permitted",
        "lab-curious: swapon: -1 Operation not permitted",
    ] {
        assert!(said.lines().any(|one| one.trim_end() == line), "{line}: {said}");
    }
}

/// What nobody has named is empty there; what somebody has named is there, and cannot be written to.
fn assert_shown(machine: &lab::Machine, record: &Value) {
    let root = root_of_kept(machine, record);
    assert_eq!(machine.sh(&format!("cd {root}/srv && ls apart shown")).unwrap(), "apart:\n\nshown:\nfile\n");
    let written = machine.run(&["sh", "-c", &format!("LC_ALL=C touch {root}/srv/shown/file")]).unwrap();
    let said = String::from_utf8_lossy(&written.stderr).into_owned();
    assert!(said.contains("Read-only file system"), "{said}");
}

/// Where the machine sees the root of a kept clone, with all that is mounted in it.
pub(super) fn root_of_kept(machine: &lab::Machine, record: &Value) -> String {
    let unit = record["kept"]["unit"].as_str().unwrap_or_else(|| panic!("{record:#}"));
    let first = format!("pgrep -P $(systemctl show --value --property=MainPID {unit})");
    format!("/proc/{}/root", machine.sh(&first).unwrap().trim())
}

/// The upgraded clone answers in its own network and has no way out; the host goes on. Ended, nothing is left.
fn assert_kept_and_ended(machine: &lab::Machine, record: &Value) {
    let kept = &record["kept"];
    let text = |name: &str| kept[name].as_str().unwrap_or_else(|| panic!("{record:#}")).to_owned();
    let (address, network) = (text("address"), text("network"));
    let site = machine.sh(&format!("ip netns exec {network} bash -c '{FETCH}' {address}")).unwrap();
    assert!(site.contains("it works"), "{site}");
    let clone = network.replace("-test", "-clone");
    assert_eq!(machine.sh(&format!("ip -n {clone} route show default")).unwrap(), "");
    assert_eq!(machine.sh(&format!("ip -n {clone} -6 route show default")).unwrap(), "");
    assert!(super::serves_the_site(machine));
    assert_ne!(machine.sh(LEFT).unwrap(), NOTHING);
    // Also without a configuration that can be read.
    machine.sh(&format!("mv {0} {0}.away && echo '[' >{0}", lab::product::CONFIG)).unwrap();
    machine.sh("safe-upgrade rehearse --end").unwrap();
    machine.sh(&format!("mv {0}.away {0}", lab::product::CONFIG)).unwrap();
    assert_eq!(machine.sh(LEFT).unwrap(), NOTHING);
}

/// A person's review: the draft is found beside the logs, and what it leaves open is decided.
fn review_the_answers(machine: &lab::Machine, draft: &str) {
    let text = machine.sh(&format!("cat {draft}")).unwrap();
    eprintln!("lab: the draft of the answers:\n{text}");
    assert_eq!(text.matches("\nanswer = \"undecided\"\n").count(), 1, "{text}");
    assert!(text.contains(&format!("path = \"{NGINX}\"")), "{text}");
    assert_eq!(text.matches(RESTART).count(), 1, "{text}");
    let decided = text.replace("answer = \"undecided\"", "answer = \"keep\"");
    machine.write(ANSWERS, 0o600, decided.as_bytes()).unwrap();
}

/// Both files are what was decided about them, and nothing else was asked.
fn assert_answered_as_reviewed(machine: &lab::Machine) {
    let kept = machine.sh(&format!("tail -n 1 {NGINX}; grep -c ours {NGINX}.dpkg-dist || true")).unwrap();
    assert_eq!(kept, "# ours\n0\n");
    let taken = machine.sh(&format!("tail -n 1 {MARIADB}.dpkg-old; grep -c ours {MARIADB} || true")).unwrap();
    assert_eq!(taken, "# ours\n0\n");
    let question = machine.sh("debconf-show libc6").unwrap();
    assert!(question.contains(&format!("{RESTART}: true")), "{question}");
}

/// What the report, the history and the run's own lines say.
fn assert_told(machine: &lab::Machine, run: &Run, record: &Value) {
    let text = machine.sh("safe-upgrade report").unwrap();
    assert!(text.contains("Nothing was asked that had not been decided before."), "{text}");
    assert!(text.contains(" package changes came true.\n\n"), "{text}");
    let json = |command: &str| -> Value {
        serde_json::from_str(&machine.sh(&format!("safe-upgrade {command} --json")).unwrap()).unwrap()
    };
    let report = json("report");
    assert_eq!(report["asked"], serde_json::json!([]), "{report:#}");
    assert_all_came_true(&report["packages"]);
    let decided = report["configuration_files"].to_string();
    assert!(decided.contains(&format!("{NGINX}: yours stays in force")), "{report:#}");
    assert!(decided.contains(&format!("{MARIADB}: the package's is in force")), "{report:#}");
    let outage = &json("history")["runs"][0]["outage"];
    assert_eq!(*outage, report["run"]["outage"], "{report:#}");
    eprintln!("lab: the outage was foretold as {} s and measured as {outage}", record["predicted_outage"]);
    assert!(outage["seconds"].as_u64().unwrap() > 5, "{outage}");
    let said = run.command.log();
    let first: Value = serde_json::from_str(said.lines().next().unwrap_or_default()).unwrap();
    assert_eq!(first["event"], "predicted-outage", "{said}");
    assert_eq!(
        (&first["basis"], &first["seconds"]),
        (&"rehearsal".into(), &record["predicted_outage"]),
        "{said}"
    );
}

fn assert_all_came_true(compared: &Value) {
    eprintln!("lab: {} of {} package changes came true", compared["came_true"], compared["foretold"]);
    assert_eq!(compared["deviations"], serde_json::json!([]), "{compared:#}");
    assert!(compared["foretold"].as_u64().unwrap() > 100, "{compared:#}");
    assert_eq!(compared["came_true"], compared["foretold"]);
}

#[test]
fn container_killed_rehearsal_leaves_nothing_after_a_sweep() {
    if lab::skipped("container_killed_rehearsal_leaves_nothing_after_a_sweep") {
        return;
    }
    let machine = machine("rehearse-killed", "");
    machine.sh(NSPAWN).unwrap();
    POINTS.iter().for_each(|point| assert_leaves_nothing_when_killed(&machine, point));
    assert_ends_for_want_of_room(&machine);
    // And what a boot finds, its unit removes.
    machine.start(&["safe-upgrade", "rehearse", "--to", "trixie"]).unwrap();
    let made = "for n in $(seq 600); do ls /run/netns/*rehearsal*test >/dev/null 2>&1 && exit; sleep 0.1; done; exit 1";
    machine.sh(made).unwrap();
    machine.pull_plug().unwrap();
    machine.boot().unwrap();
    assert_swept_by_the_boot(&machine);
    assert_untouched_but_rebooted(&machine);
}

#[test]
#[ignore = "ten minutes: make test-long"]
fn long_rehearsal_killed_at_each_point_leaves_nothing_after_a_sweep() {
    if lab::skipped("long_rehearsal_killed_at_each_point_leaves_nothing_after_a_sweep") {
        return;
    }
    let machine = machine("rehearse-killed", "");
    machine.sh(NSPAWN).unwrap();
    ALL_POINTS.iter().for_each(|point| assert_leaves_nothing_when_killed(&machine, point));
}

#[test]
#[ignore = "three minutes: make test-long"]
fn long_rehearsal_of_a_machine_whose_var_is_a_subvolume_of_its_own() {
    if lab::skipped("long_rehearsal_of_a_machine_whose_var_is_a_subvolume_of_its_own") {
        return;
    }
    let machine = lab::Machine::new("rehearse-var").unwrap();
    machine.boot().unwrap();
    machine.sh(NSPAWN).unwrap();
    machine.sh(VAR_APART).unwrap();
    machine.install_product(SERVER).unwrap();
    let rehearsed = machine.product(&["rehearse", "--to", "trixie", "--json"]).unwrap();
    let record = record(&rehearsed);
    assert_eq!(rehearsed.status.code(), Some(0), "{record:#}");
    assert!(record["volumes"].to_string().contains("/var: a clone"), "{record:#}");
    assert!(record["held"].to_string().contains("/var/spool/nullmailer/queue: 1 entries"), "{record:#}");
    assert!(record["packages"].as_u64().unwrap() > 100, "{record:#}");
    assert_eq!(machine.sh("ls /var/spool/nullmailer/queue").unwrap(), "waiting\n");
    assert_eq!(machine.sh(LEFT).unwrap(), NOTHING);
    assert_untouched(&machine);
}

fn assert_leaves_nothing_when_killed(machine: &lab::Machine, point: &str) {
    let log = "/root/rehearse.log";
    machine.write(log, 0o600, b"").unwrap();
    let mut command =
        machine.start(&["sh", "-c", &format!("exec safe-upgrade rehearse --to trixie >{log} 2>&1")]).unwrap();
    machine.wait_for_text(log, 0, point, PATIENCE).unwrap();
    machine.sh("pkill -KILL -f '^safe-upgrade rehearse --to'").unwrap();
    assert_ne!(command.wait().unwrap(), Some(0), "{point}: it had ended before");
    let left = machine.sh(LEFT).unwrap();
    assert_ne!(left, NOTHING, "{point}: nothing was there to be removed");
    machine.sh("safe-upgrade rehearse --end").unwrap();
    assert_eq!(machine.sh(LEFT).unwrap(), NOTHING, "{point}, after {left}");
    assert!(machine.sh("ls /var/lib/safe-upgrade/rehearsal.json").is_err(), "{point}");
}

/// The clone is on the machine's own disk: when that fills up, whoever writes, the clone goes first.
fn assert_ends_for_want_of_room(machine: &lab::Machine) {
    let log = "/root/rehearse.log";
    machine.write(log, 0o600, b"").unwrap();
    let mut command =
        machine.start(&["sh", "-c", &format!("exec safe-upgrade rehearse --to trixie >{log} 2>&1")]).unwrap();
    machine.wait_for_text(log, 0, "booting the clone", PATIENCE).unwrap();
    machine.fill_disk(900 << 20).unwrap();
    let code = command.wait().unwrap();
    machine.free_disk().unwrap();
    let said = machine.sh(&format!("cat {log}")).unwrap();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("less than 1024 MiB were left on the filesystem of /, "), "{said}");
    assert_eq!(machine.sh(LEFT).unwrap(), NOTHING);
}

/// The unit that goes on after a reboot has this to itself, and says why when it could not do it.
fn assert_swept_by_the_boot(machine: &lab::Machine) {
    let nothing = NOTHING.trim();
    let waiting =
        format!("for n in $(seq 300); do test \"$({LEFT})\" = '{nothing}' && exit; sleep 0.2; done; exit 1");
    if machine.sh(&waiting).is_err() {
        let said = machine.sh(&format!(
            "{LEFT}; systemctl status --no-pager --full {RESUME_UNIT}; journalctl --no-pager -b -n 60"
        ));
        panic!("the boot has left something: {said:?}");
    }
}

fn assert_untouched_but_rebooted(machine: &lab::Machine) {
    assert_eq!(release(machine), "bookworm");
    assert_eq!(machine.sh("grep -rl trixie /etc/apt || true").unwrap(), "");
    assert!(super::serves_the_site(machine));
}
