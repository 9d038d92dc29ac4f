//! A test binary that starts itself again in a throw-away container, one time per scenario: what a scenario does to the root is gone with
//! its overlay.

#![allow(clippy::print_stdout, reason = "a test says what it does")]
#![allow(unreachable_pub, reason = "a module of several test crates, a library of none")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Names the scenario to the test binary inside.
pub const INSIDE: &str = "SAFE_UPGRADE_INSIDE";

/// Where the tests of releases keep their Debian root; says why there is none.
pub fn lab() -> Option<PathBuf> {
    let Some(lab) = std::env::var_os("SAFE_UPGRADE_RELEASE_LAB").map(PathBuf::from) else {
        println!("skipped: SAFE_UPGRADE_RELEASE_LAB names no directory for a Debian root");
        return None;
    };
    if !rustix::process::geteuid().is_root() {
        println!("skipped: a container needs root");
        return None;
    }
    Some(lab)
}

/// Whether everything is there that a test needs; says what is not.
pub fn has(needed: &[&Path]) -> bool {
    let missing = needed.iter().find(|path| !path.exists());
    if let Some(path) = missing {
        println!("skipped: {} is not there", path.display());
    }
    missing.is_none()
}

/// Runs the ignored test `inside` once for each scenario; the first that fails is the end.
pub fn run_each<'s>(root: &Path, options: &[&str], scenarios: impl IntoIterator<Item = &'s str>) {
    let program = std::env::current_exe().unwrap();
    fs::copy(program, root.join("root/scenario")).unwrap();
    for name in scenarios {
        let begun = Instant::now();
        let status = Command::new("systemd-nspawn")
            .args(["-q", "--register=no", "--keep-unit", "--as-pid2", "--volatile=overlay", "-D"])
            .arg(root)
            .arg(format!("--setenv={INSIDE}={name}"))
            .args(options)
            .args(["/root/scenario", "--exact", "inside", "--ignored", "--nocapture"])
            .stdin(Stdio::null())
            .status()
            .unwrap();
        println!("scenario {name}: {status} after {:?}", begun.elapsed());
        assert!(status.success(), "scenario {name}: {status}");
    }
}
