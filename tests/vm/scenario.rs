//! What a test does to a machine with the product, and how it must end.

use std::io;
use std::time::{Duration, Instant};

use safe_upgrade::system::exec::tail;
use serde_json::Value;

use super::agent::Job;
use super::machine::{BINARY, BOOT_LIMIT, COMMAND_LIMIT};
use super::packages::{self, Extent, Fault, TURNCOAT};
use super::results::{self, Ended};
use super::{Layout, Options, Vm};
use crate::lab::product::{CONFIG, ENDS};
use crate::lab::{Result, Timer};

/// Preflight, backup and packages of a small upgrade take two to ten minutes under emulation, a whole release half an hour and more.
const PACKAGES_LIMIT: Duration = Duration::from_secs(7200);

/// From the reboot into the trial until the end: a trial that hangs waits for its dead man, then come two boots.
const RECOVERY_LIMIT: Duration = Duration::from_secs(1500);

/// How long to wait for a record before looking whether the command has given up.
const GLANCE: Duration = Duration::from_secs(5);

/// Where the product's command writes; no rollback takes it back.
const LOG: &str = "/srv/backup/lab/run.log";

/// What the product is configured with; a scenario may add to it.
const SERVER: &str = r#"[backup]
store = "/srv/backup/store"
trees = ["/etc", "/srv/www", "/root"]

[health]
soak = "5s"
settle = "2m"
deadline = "6m"

[[health.check]]
name = "site"
kind = "http"
url = "http://127.0.0.1:8080/"
body = "it works"
"#;

/// When the plug is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plug {
    /// Never.
    Stays,
    /// In the middle of the packages.
    WhileUpgrading,
    /// In the trial.
    InTrial,
    /// While it goes back.
    WhileRollingBack,
}

impl Plug {
    /// The record behind the reboot.
    const fn record(self) -> Option<&'static str> {
        match self {
            Self::Stays | Self::WhileUpgrading => None,
            Self::InTrial => Some("TrialBooted"),
            Self::WhileRollingBack => Some("RollbackStarted"),
        }
    }

    const fn name(self) -> Option<&'static str> {
        match self {
            Self::Stays => None,
            Self::WhileUpgrading => Some("plug-pulled-while-upgrading"),
            Self::InTrial => Some("plug-pulled-in-trial"),
            Self::WhileRollingBack => Some("plug-pulled-while-rolling-back"),
        }
    }
}

/// How a run must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// On the new release.
    Committed,
    /// On the old one, proven restored.
    RolledBack,
}

impl End {
    /// The record and the state.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Committed => "Committed",
            Self::RolledBack => "RolledBack",
        }
    }
}

/// One run of the product on one machine.
#[derive(Debug, Clone, Copy)]
pub struct Scenario<'a> {
    /// How the machine boots.
    pub layout: Layout,
    /// What else it has.
    pub options: Options,
    /// What is wrong with the new release.
    pub fault: Fault,
    /// How much of the new release there is.
    pub extent: Extent,
    /// When the plug is pulled.
    pub plug: Plug,
    /// More configuration, as TOML.
    pub config: &'a str,
    /// How it must end.
    pub end: End,
}

impl Scenario<'_> {
    /// An ordinary machine of this layout with this fault.
    pub fn new(layout: Layout, fault: Fault, end: End) -> Self {
        let (options, extent, plug) = (Options::default(), Extent::Small, Plug::Stays);
        Self { layout, options, fault, extent, plug, config: "", end }
    }

    /// The name in the results.
    pub fn name(&self) -> String {
        let name = self.plug.name().unwrap_or(self.fault.name());
        if self.extent == Extent::Full { format!("whole-release-{name}") } else { name.to_owned() }
    }

    /// The layout's name in the results.
    pub fn machine(&self) -> String {
        let secure = if self.options.secure_boot { "-secure-boot" } else { "" };
        format!("{}{secure}", self.layout.name())
    }
}

/// Plays a scenario that commits, and then rolls the committed run back by an operator's word.
pub fn play_and_go_back(scenario: &Scenario<'_>) -> Result<()> {
    let vm = play(scenario)?;
    let (timer, started, before) = (Timer::start(), Instant::now(), vm.records().len());
    let cut = vm.resets() + vm.plugs();
    vm.begin(&format!("safe-upgrade rollback --yes >>{LOG} 2>&1"))?;
    let end = End::RolledBack.name();
    let found = vm.wait_record(before, &[end, "Stuck"], RECOVERY_LIMIT).map_err(|error| told(&vm, &error))?;
    if found != end {
        return Err(told(&vm, &io::Error::other(format!("the rollback ended with {found}"))));
    }
    let seconds = started.elapsed().as_secs_f64();
    timer.lap("from the operator's rollback to RolledBack");
    check_end(&vm, &Scenario { end: End::RolledBack, ..*scenario })?;
    results::keep(Ended {
        layout: scenario.machine(),
        scenario: format!("{}-back-after-commit", scenario.name()),
        end: end.into(),
        seconds,
        packages: 0.0,
        resets: vm.resets() + vm.plugs() - cut,
    })
}

/// Plays a scenario from a fresh machine to its end, checks that it is the expected one, and keeps how long it took.
///
/// Returns the machine, still on.
pub fn play(scenario: &Scenario<'_>) -> Result<Vm> {
    let timer = Timer::start();
    let vm =
        Vm::start(&format!("{}-{}", scenario.machine(), scenario.name()), scenario.layout, scenario.options)?;
    vm.wait_agent(BOOT_LIMIT)?;
    vm.sh("systemctl is-system-running --wait")?;
    install(&vm, scenario)?;
    timer.lap("a machine with the product");

    let run = vm.begin(&format!("safe-upgrade run --to trixie --yes >{LOG} 2>&1"))?;
    wait_in_run(&vm, run, &["UpgradeStarted"], PACKAGES_LIMIT)?;
    timer.lap("preflight, backup, snapshot, fallback");
    let (mut since, packages) = match scenario.plug {
        Plug::WhileUpgrading => {
            wait_for_the_middle(&vm)?;
            pull_and_push(&vm)?;
            (Instant::now(), 0.0)
        }
        _ => {
            wait_in_run(&vm, run, &["RebootStarted"], PACKAGES_LIMIT)?;
            (Instant::now(), timer.lap("packages"))
        }
    };
    if let Some(record) = scenario.plug.record() {
        wait_in_run(&vm, run, &[record], RECOVERY_LIMIT)?;
        since = Instant::now();
        pull_and_push(&vm)?;
    }
    wait_in_run(&vm, run, &[scenario.end.name()], RECOVERY_LIMIT)?;
    let seconds = since.elapsed().as_secs_f64();
    timer.lap(&format!("from the fault or the reboot to {}", scenario.end.name()));
    let resets = vm.resets() + vm.plugs();
    check_end(&vm, scenario)?;
    timer.lap("checked, with one more reboot");
    results::keep(Ended {
        layout: scenario.machine(),
        scenario: scenario.name(),
        end: scenario.end.name().into(),
        seconds,
        packages,
        resets,
    })?;
    Ok(vm)
}

/// Installs the product and the package that will turn.
pub fn install(vm: &Vm, scenario: &Scenario<'_>) -> Result<()> {
    offer(vm, scenario)?;
    vm.sh(&format!("apt-get -qy install {TURNCOAT}"))?;
    vm.sh(&format!("install -m 755 {BINARY} /usr/local/sbin/safe-upgrade && safe-upgrade init"))?;
    vm.write(CONFIG, 0o600, &format!("{SERVER}{}", scenario.config))?;
    vm.sh("sync").map(drop)
}

/// The machine's apt finds the old release, and the new one with its fault.
pub fn offer(vm: &Vm, scenario: &Scenario<'_>) -> Result<()> {
    packages::publish(&vm.repo_directory(), scenario.fault, scenario.extent)?;
    let proxy = format!("Acquire::http::Proxy \"{}\";\n", vm.proxy());
    vm.write("/etc/apt/apt.conf.d/01lab-proxy", 0o644, &proxy)?;
    vm.write("/etc/apt/sources.list.d/lab.list", 0o644, &packages::entries(scenario.extent)?)?;
    vm.sh("apt-get -q update").map(drop)
}

/// Returns the first of these records of the run, over all reboots.
///
/// Ends at once when the run ends otherwise, or when the product refuses to plan one at all.
pub fn wait_in_run(vm: &Vm, run: Job, wanted: &[&str], limit: Duration) -> Result<String> {
    let deadline = Instant::now() + limit;
    let any: Vec<&str> = wanted.iter().chain(&ENDS).copied().collect();
    loop {
        match vm.wait_record(0, &any, GLANCE) {
            Ok(found) if wanted.contains(&found.as_str()) => return Ok(found),
            Ok(end) => return Err(told(vm, &io::Error::other(format!("the run ended with {end}")))),
            Err(error) if error.kind() != io::ErrorKind::TimedOut || Instant::now() > deadline => {
                return Err(told(vm, &error));
            }
            Err(_) => {}
        }
        if vm.records().is_empty()
            && let Ok(output) = vm.end(run, Duration::ZERO)
        {
            return Err(told(
                vm,
                &io::Error::other(format!("no run was planned, exit code {}", output.code)),
            ));
        }
    }
}

/// The new kernel is unpacked, and nothing is configured yet.
fn wait_for_the_middle(vm: &Vm) -> Result<()> {
    let look = "until grep -q 'status unpacked linux-image-6.12' /var/log/dpkg.log; do sleep 0.2; done";
    let job = vm.begin(look)?;
    vm.end(job, PACKAGES_LIMIT).map(drop)
}

/// Pulls the plug, and switches the machine on again.
fn pull_and_push(vm: &Vm) -> Result<()> {
    vm.pull_plug()?;
    vm.switch_on()
}

/// The machine is what the journal says, and boots the same system again, without a trial's arguments.
fn check_end(vm: &Vm, scenario: &Scenario<'_>) -> Result<()> {
    // The record was written inside, so its agent is up or will be.
    vm.wait_agent(BOOT_LIMIT)?;
    check_system(vm, scenario)?;
    check_what_went_back(vm, scenario)?;
    vm.reboot()?;
    check_system(vm, scenario)?;
    let booted = vm.sh("findmnt -no FSROOT /; grep -c safe_upgrade.trial /proc/cmdline || true")?;
    if booted == "/@\n0\n" {
        return Ok(());
    }
    Err(told(vm, &io::Error::other(format!("a reboot after {} leads to {booted:?}", scenario.end.name()))))
}

/// The report counts what was taken back of each filesystem that the boot loader lives on.
fn check_what_went_back(vm: &Vm, scenario: &Scenario<'_>) -> Result<()> {
    let of_its_own = match scenario.layout {
        Layout::BiosInside => return Ok(()),
        Layout::BiosExt4 => "/boot: ",
        Layout::Uefi | Layout::SystemdBoot => "/boot/efi: ",
    };
    let counted =
        |line: &str| line.trim_start().starts_with(of_its_own) && line.contains("since the snapshot");
    if scenario.end == End::RolledBack {
        // The record is older than what is looked at and carried after it.
        let looked = "until ls /var/lib/safe-upgrade/runs/*/aftermath-done; do sleep 0.2; done";
        let job = vm.begin(looked)?;
        vm.end(job, COMMAND_LIMIT)?;
    }
    let report = vm.sh("safe-upgrade report")?;
    if scenario.end == End::Committed || report.lines().any(counted) {
        return Ok(());
    }
    Err(io::Error::other(format!("nothing was counted of {of_its_own} in the report:\n{report}")))
}

fn check_system(vm: &Vm, scenario: &Scenario<'_>) -> Result<()> {
    vm.sh("systemctl is-system-running --wait")?;
    let status: Value =
        serde_json::from_str(&vm.sh("safe-upgrade status --json")?).map_err(io::Error::other)?;
    let state = status["run"]["state"].as_str().unwrap_or_default();
    let (codename, kernel) = match scenario.end {
        End::Committed => ("trixie", "6.12."),
        End::RolledBack => ("bookworm", "6.1."),
    };
    let facts = vm.sh(". /etc/os-release; echo $VERSION_CODENAME; uname -r; dpkg --audit")?;
    let expected = facts.starts_with(&format!("{codename}\n{kernel}")) && facts.lines().count() == 2;
    if state != scenario.end.name() || !expected {
        return Err(told(vm, &io::Error::other(format!("the state is {state}, the system {facts:?}"))));
    }
    vm.sh("systemctl is-active nginx && test -s /srv/www/index.html").map(drop)
}

/// An error with what the product has said.
fn told(vm: &Vm, error: &io::Error) -> io::Error {
    let log = vm.begin(&format!(
        "tail -n 40 {LOG}; safe-upgrade status; journalctl -b -u 'safe-upgrade*' -n 40 --no-pager"
    ));
    let said = log.and_then(|job| vm.end(job, COMMAND_LIMIT.min(Duration::from_secs(60))));
    let said =
        said.map_or_else(|_| "the machine does not answer".into(), |output| output.stdout + &output.stderr);
    io::Error::new(
        error.kind(),
        format!("{error}; records: {}; inside:\n{}", vm.records().join(" "), tail(said.as_bytes())),
    )
}
