//! Ten million entries: memory stays flat, and an entry costs as much as in a small tree. `make scale`; takes long, needs root.
//!
//! The tree is a btrfs subvolume of 250 000 empty files, one directory of it with 100 000, and snapshots of it: made in a minute,
//! and one filesystem after the other for the walk.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that can't go on has failed, and measures are to be read"
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

const PER_SUBVOLUME: u64 = 250_000;
const IN_ONE_DIRECTORY: u64 = 100_000;
const SMALL: u64 = 10_000;

/// What the program may use at most, in KiB.
const MOST_MEMORY: u64 = 64 << 10;

/// How much more an entry may cost in the large tree than in the small one.
const MOST_RATIO: f64 = 1.5;

/// A btrfs of our own, gone with the test.
struct Lab {
    place: tempfile::TempDir,
}

impl Lab {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: a filesystem with ten million entries needs root");
            return None;
        }
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let lab = Self { place };
        std::fs::create_dir(lab.at("mounted")).unwrap();
        File::create(lab.at("image")).unwrap().set_len(16 << 30).unwrap();
        let made = Command::new("mkfs.btrfs").arg("-q").arg(lab.at("image")).status();
        let mounted = Command::new("mount")
            .args(["-o", "loop,noatime"])
            .args([lab.at("image"), lab.at("mounted")])
            .status();
        if !made.is_ok_and(|status| status.success()) || !mounted.is_ok_and(|status| status.success()) {
            println!("skipped: no btrfs on a loop device here");
            return None;
        }
        Some(lab)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Makes the small tree, and the large one with at least so many entries.
    fn fill(&self, entries: u64) {
        let tree = self.at("mounted/large");
        std::fs::create_dir(&tree).unwrap();
        make(&self.at("mounted/small"), SMALL, SMALL / 10 * 4);
        let first = tree.join("subvolume-000");
        btrfs(&["subvolume", "create"], &[&first]);
        make(&first, PER_SUBVOLUME, IN_ONE_DIRECTORY);
        for number in 1..entries.div_ceil(PER_SUBVOLUME) {
            btrfs(&["subvolume", "snapshot"], &[&first, &tree.join(format!("subvolume-{number:03}"))]);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // When it was not mounted this fails, and that is fine.
        let _ = Command::new("umount").arg(self.at("mounted")).stderr(Stdio::null()).status();
    }
}

fn btrfs(words: &[&str], paths: &[&PathBuf]) {
    let status = Command::new("btrfs").args(words).args(paths).stdout(Stdio::null()).status();
    assert!(status.unwrap().success(), "btrfs {words:?} {paths:?}");
}

/// Empty files, a thousand in each directory and `in_one` in one of them.
fn make(tree: &Path, entries: u64, in_one: u64) {
    for number in 0..entries {
        let directory = if number < in_one {
            tree.join("one")
        } else {
            tree.join(format!("group-{:03}/directory-{:05}", number / 100_000, number / 1000))
        };
        if number == 0 || number % 1000 == 0 || number == in_one {
            std::fs::create_dir_all(&directory).unwrap();
        }
        File::create(directory.join(format!("file-{number:09}.dat"))).unwrap();
    }
}

/// Runs the program; says how long it took and how much memory it used at most, in KiB.
fn run(words: &[&str], paths: &[&Path], wanted: i32) -> (Duration, u64) {
    let begun = Instant::now();
    let mut child = Command::new(program()).args(words).args(paths).stdout(Stdio::null()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let ended = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    let tick = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    while poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&tick)).unwrap() == 0 {
        // The kernel keeps the maximum, so only growth within the last tick can be missed.
        most = high_water(&std::fs::read_to_string(&status).unwrap_or_default()).unwrap_or(most);
    }
    let elapsed = begun.elapsed();
    assert_eq!(child.wait().unwrap().code(), Some(wanted), "{words:?}");
    (elapsed, most)
}

fn program() -> PathBuf {
    let own = || env!("CARGO_BIN_EXE_safe-upgrade").into();
    std::env::var_os("SAFE_UPGRADE_LAB_BINARY").map_or_else(own, PathBuf::from)
}

fn high_water(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

#[test]
#[ignore = "takes long: `make scale`"]
fn ten_million_entries_in_64_mib() {
    let Some(lab) = Lab::new() else { return };
    let entries = std::env::var("SCALE_ENTRIES").map_or(10_000_000, |text| text.parse().unwrap());
    lab.fill(entries);
    let (small, large) = (lab.at("mounted/small"), lab.at("mounted/large"));
    let [a, b, m] = ["a", "b", "small.manifest"].map(|name| lab.at(name));
    let scratch = lab.place.path().to_str().unwrap().to_owned();
    let create = ["manifest", "create", "--cross-mounts", "--scratch", &scratch, "-o"];
    let mut times: Vec<Duration> = (0..5).map(|_| run(&create, &[&m, &small], 0).0).collect();
    times.sort_unstable();
    let per_small = times[2].as_nanos() as f64 / SMALL as f64;
    let mut peaks = Vec::new();
    let mut told = |what: &'static str, (time, memory): (Duration, u64)| {
        let per_entry = time.as_nanos() as f64 / entries as f64;
        println!("{what}: {:.0} s, {per_entry:.0} ns per entry, {memory} KiB", time.as_secs_f64());
        peaks.push((what, memory));
        per_entry
    };
    println!("create of {SMALL}: {per_small:.0} ns per entry");
    let per_large = told("create", run(&create, &[&a, &large], 0));
    let verify = ["verify", "--scratch", &scratch, "--manifest"];
    told("verify", run(&verify, &[&a, &large], 0));
    File::create(large.join("subvolume-000/one/extra")).unwrap();
    run(&create, &[&b, &large], 0);
    told("diff", run(&["manifest", "diff"], &[&a, &b], 7));
    for (what, memory) in peaks {
        assert!(memory > 0 && memory <= MOST_MEMORY, "{what} used {memory} KiB, more than {MOST_MEMORY}");
    }
    let ratio = per_large / per_small;
    assert!(ratio <= MOST_RATIO, "an entry costs {ratio:.2} times as much in the large tree");
}
