//! The journal on a filesystem that is full: the space that was set aside lets the last words be written.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that can't go on has failed")]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use safe_upgrade::evidence::CommitRule;
use safe_upgrade::journal::Journal;
use safe_upgrade::machine::{Entry, Why};
use safe_upgrade::sim;
use safe_upgrade::system::exec::Exec;

/// A btrfs of its own on a loop device, unmounted when dropped.
struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.img");
        File::create(&image).unwrap().set_len(512 << 20).unwrap();
        let mount = directory.path().join("mount");
        fs::create_dir(&mount).unwrap();
        run("mkfs.btrfs", &["--quiet", "--mixed", &text(&image)]);
        run("mount", &["-o", "loop", &text(&image), &text(&mount)]);
        Self { directory }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("mount")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &[&text(&self.path())]);
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn run(tool: &str, args: &[&str]) {
    Exec::new(tool).unwrap().args(args).success().unwrap();
}

/// Writes until nothing more fits, not even a page.
fn fill(directory: &Path) {
    let mut file = File::create(directory.join("fill")).unwrap();
    for size in [1 << 20, 4096] {
        while file.write_all(&vec![1; size]).and_then(|()| file.sync_data()).is_ok() {}
    }
}

#[test]
fn loop_the_last_words_fit_on_a_full_disk() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: loop_the_last_words_fit_on_a_full_disk: needs root");
        return;
    }
    let disk = Disk::new();
    let state = disk.path().join("state");
    let mut journal = Journal::open(&state).unwrap();
    journal.append(&Entry::planned(sim::plan(CommitRule::Automatic))).unwrap();
    fill(&disk.path());
    assert!(fs::write(disk.path().join("one-more"), vec![1; 1 << 20]).is_err(), "the disk is full");
    journal.append(&Entry::refusal_started(Why::Operator)).unwrap();
    journal.append(&Entry::refused()).unwrap();
    drop(journal);
    assert_eq!(Journal::open(&state).unwrap().frames().len(), 3);
}
