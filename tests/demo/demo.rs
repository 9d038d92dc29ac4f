//! `make demo`: one command upgrades a real Debian, or puts it back. On a machine of the lab, from an empty directory.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a demo talks")]

#[path = "../lab/mod.rs"]
mod lab;

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;
use std::time::Instant;

use lab::Machine;
use lab::product::{CONFIG as CONFIG_FILE, ENDS, OLD_PYTHON, SERVER};

/// The milestones of a run that are shown as they happen.
const MILESTONES: [(&str, &str); 12] = [
    ("Planned", "a plan is written to the journal"),
    ("Checked", "preflight: nothing stops the run"),
    ("BackupVerified", "the backup was really restored, and is the same"),
    ("SnapshotSealed", "the root has a read-only snapshot"),
    ("FallbackArmed", "from here on any boot lands on the old system"),
    ("UpgradeStarted", "all proofs hold; apt upgrades to trixie"),
    ("UpgradeFinished", "every package is upgraded and configured"),
    ("TrialBooted", "trixie has booted, on trial"),
    ("HealthPassed", "trixie is as healthy as bookworm was"),
    ("RollbackStarted", "trixie is not healthy: the old system comes back"),
    ("RollbackPrepared", "the snapshot takes the root's place; reboot"),
    ("RolledBack", "bookworm runs again, and will at every boot"),
];

fn main() -> ExitCode {
    if let Some(why) = lab::cannot_run() {
        eprintln!("demo: {why}");
        return ExitCode::FAILURE;
    }
    match show() {
        Ok(table) => {
            println!("\n{table}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\ndemo: failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show() -> io::Result<String> {
    let whole = Instant::now();
    say("A real Debian bookworm with nginx, MariaDB and a little site, on btrfs");
    let machine = Machine::new("demo")?;
    machine.boot()?;
    expect(&machine, "bookworm")?;
    let mut table = Table::default();
    table.row("bookworm boots and serves the site", whole);

    say("The operator's checks: the site, the database, and a Python script that trixie will break");
    machine.install_product(&format!("{SERVER}{OLD_PYTHON}"))?;
    say("$ safe-upgrade run --to trixie --yes");
    let started = Instant::now();
    let state = follow(&machine)?;
    want(&state, "RolledBack")?;
    expect(&machine, "bookworm")?;
    table.row("(a) a required check fails on trixie: rolled back, bookworm serves the site", started);
    table.phases(&machine)?;

    say("The script is repaired");
    let repaired = OLD_PYTHON.replace("import imp", "import importlib");
    machine.write(CONFIG_FILE, 0o600, format!("{SERVER}{repaired}").as_bytes())?;
    say("$ safe-upgrade run --to trixie --yes");
    let started = Instant::now();
    let state = follow(&machine)?;
    want(&state, "Committed")?;
    expect(&machine, "trixie")?;
    table.row("(b) trixie is healthy: committed, and serves the site", started);
    table.phases(&machine)?;
    machine.power_off()?;
    table.row("everything together", whole);
    Ok(table.text)
}

/// Starts a run and shows its milestones until it has ended; returns its last state.
fn follow(machine: &Machine) -> io::Result<String> {
    let mut run = machine.start_run()?;
    let started = Instant::now();
    let names: Vec<&str> = ENDS.into_iter().chain(MILESTONES.map(|(name, _)| name)).collect();
    loop {
        let found = machine.wait_in_run(&mut run, &names)?;
        if let Some((_, text)) = MILESTONES.iter().find(|(name, _)| **name == found) {
            println!("  {:5.0} s  {text}", started.elapsed().as_secs_f64());
        }
        if ENDS.contains(&found.as_str()) {
            let ended = machine.settle(&mut run)?;
            println!("  {:5.0} s  {} {}", started.elapsed().as_secs_f64(), ended.state, ended.why);
            return Ok(ended.state);
        }
        // Look only behind this record from now on.
        let after = machine.records()?.iter().skip(run.before).position(|name| *name == found);
        run.before += after.unwrap_or_default() + 1;
    }
}

/// The release that must run, and the site that it must serve.
fn expect(machine: &Machine, release: &str) -> io::Result<()> {
    let runs = machine.sh(". /etc/os-release && echo $VERSION_CODENAME")?;
    want(runs.trim(), release)?;
    // A unit that failed is named with the error.
    machine.sh("systemctl is-system-running --wait || { systemctl --failed --no-pager --plain; exit 1; }")?;
    let page = machine.get("/")?;
    if !page.contains("it works") {
        return Err(io::Error::other(format!("the site answers {page:?}")));
    }
    let database = machine.sh("site-check")?;
    println!("  {release} runs; the site says \"it works\"; the database says \"{}\"", database.trim());
    Ok(())
}

fn want(found: &str, wanted: &str) -> io::Result<()> {
    if found == wanted {
        Ok(())
    } else {
        Err(io::Error::other(format!("{wanted} was expected, not {found}")))
    }
}

fn say(text: &str) {
    println!("\n== {text}");
}

#[derive(Default)]
struct Table {
    text: String,
}

/// What a run was doing until it wrote each of these records.
const PHASES: [(&str, &str); 9] = [
    ("Checked", "preflight, download, baseline"),
    ("BackupVerified", "backup, restored and compared"),
    ("FallbackArmed", "snapshot, fallback"),
    ("UpgradeFinished", "upgrade"),
    ("TrialBooted", "reboot into the trial"),
    ("Committed", "health, soak, commit"),
    ("RollbackStarted", "health"),
    ("RollbackPrepared", "exchange"),
    ("RolledBack", "reboot, second proof"),
];

impl Table {
    /// How long each phase of the last run took, by the times in its journal.
    fn phases(&mut self, machine: &Machine) -> io::Result<()> {
        let mut last: Option<jiff::Timestamp> = None;
        let frames =
            safe_upgrade::journal::read(&std::fs::read(machine.journal())?).map_err(io::Error::other)?.frames;
        let planned = frames.iter().rposition(|frame| frame.entry.name() == "Planned").unwrap_or(0);
        for frame in &frames[planned..] {
            let phase = PHASES.iter().find(|(record, _)| *record == frame.entry.name());
            if let (Some((_, text)), Some(before)) = (phase, last) {
                let seconds = frame.time.duration_since(before).as_secs_f64();
                self.text.push_str(&format!("  {seconds:8.1} s      {text}\n"));
            }
            if phase.is_some() || last.is_none() {
                last = Some(frame.time);
            }
        }
        Ok(())
    }

    fn row(&mut self, proven: &str, since: Instant) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{:7.1} s  {proven}", since.elapsed().as_secs_f64());
    }
}
