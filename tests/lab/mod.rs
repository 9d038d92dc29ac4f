//! The lab: a real Debian bookworm on btrfs in a container that can reboot, lose power, fill up and lose its mirror.
//!
//! | file | what it is |
//! |---|---|
//! | `place` | where the lab keeps things, its lock, and how all traces of a machine are removed |
//! | `image` | the base system by mmdebstrap, and the golden disk that machines are copied from |
//! | `sources` | the machine's own apt sources, as the lab uses them |
//! | `disk` | a btrfs image on a loop device, and the plug that can be pulled |
//! | `network` | a network of its own: nothing but the loopback device and the mirror |
//! | `mirror` | a caching mirror that can be taken away |
//! | `repo` | tiny packages that misbehave, in a repository of our own |
//! | `machine` | the machine: power, reboots, commands inside, the journal of the product |
//! | `power` | boots it again whenever it asks for it |
//! | `watch` | waits for lines and records that appear on its disk |
//! | `product` | the product inside a machine: installing it, running it, how a run ended |
//! | `found` | what `check --json` has found |
//! | `payload` | one start of `systemd-nspawn` |
//!
//! What it models and what it does not: `docs/testing.md`.
#![allow(dead_code, reason = "every test crate that includes the lab uses its own part of it")]
#![allow(clippy::print_stderr, reason = "whoever waits for a machine is told what the lab does")]
#![allow(unreachable_pub, reason = "the lab is a module of several test crates, a library of none")]

pub mod disk;
pub mod found;
pub mod image;
pub mod machine;
pub mod mirror;
pub mod network;
pub mod payload;
pub mod place;
pub mod power;
pub mod product;
pub mod repo;
pub mod sources;
pub mod watch;

use std::cell::Cell;
use std::io;
use std::time::Instant;

pub use machine::Machine;
use safe_upgrade::system::exec::{Exec, ExecError, find_tool};

/// What goes wrong in the lab is told in words; nobody decides on its kind.
pub type Result<T> = io::Result<T>;

/// The programs that the lab drives, each with its Debian package.
const TOOLS: [(&str, &str); 11] = [
    ("mmdebstrap", "mmdebstrap"),
    ("systemd-nspawn", "systemd-container"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("btrfs", "btrfs-progs"),
    ("losetup", "mount"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("ip", "iproute2"),
    ("tar", "tar"),
    ("cp", "coreutils"),
    ("dpkg-deb", "dpkg"),
];

/// Why no machine can be booted here, or nothing when one can.
pub fn cannot_run() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("containers need root".into());
    }
    let missing: Vec<&str> =
        TOOLS.iter().filter(|(tool, _)| find_tool(tool).is_err()).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        return Some(format!("packages are missing: {}", missing.join(" ")));
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    ["btrfs", "cgroup2"]
        .iter()
        .find(|wanted| !filesystems.lines().any(|line| line.split_whitespace().next_back() == Some(wanted)))
        .map(|missing| format!("this kernel has no {missing}"))
}

/// Says on stderr why a test is skipped and returns true, or returns false when it can run.
pub fn skipped(test: &str) -> bool {
    match cannot_run() {
        None => false,
        Some(why) => {
            eprintln!("skipped: {test}: {why}");
            true
        }
    }
}

/// Tells how long things took.
#[derive(Debug)]
pub struct Timer(Cell<Instant>);

impl Timer {
    /// Starts counting.
    pub fn start() -> Self {
        Self(Cell::new(Instant::now()))
    }

    /// Says on stderr what took how long since the last lap, and returns the seconds.
    pub fn lap(&self, what: &str) -> f64 {
        let seconds = self.0.replace(Instant::now()).elapsed().as_secs_f64();
        eprintln!("lab: {seconds:6.1} s  {what}");
        seconds
    }
}

/// Runs a program of the host to its end and wants exit code 0; returns its stdout.
pub(crate) fn tool(name: &str, args: &[&str]) -> Result<String> {
    Exec::new(name).and_then(|exec| exec.args(args).text()).map_err(told)
}

/// Runs a program of the host that reads this, wants exit code 0, and returns what it wrote.
pub(crate) fn tool_with_input(name: &str, args: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let exec = Exec::new(name).map_err(told)?.args(args).stdin(input.to_vec());
    exec.success().map(|output| output.stdout).map_err(told)
}

/// An error of the product's own `exec` as the lab reports it.
pub(crate) fn told(error: ExecError) -> io::Error {
    io::Error::other(error)
}

/// Adds what was attempted to an I/O error.
pub(crate) fn context<T>(result: io::Result<T>, attempted: impl std::fmt::Display) -> Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("failed to {attempted}: {error}")))
}
