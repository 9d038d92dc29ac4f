//! A btrfs filesystem in a file, mounted by the name of its root, that can lose power.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether the test may go on here: yes in a mount namespace of its own. Otherwise it is run again in one, or skipped
/// without root.
pub(crate) fn isolated(test: &str) -> bool {
    const INSIDE: &str = "SAFE_UPGRADE_TEST_IN_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return false;
    }
    if !std::fs::read_to_string("/proc/filesystems").unwrap().contains("btrfs") {
        println!("skipped: needs btrfs in the kernel");
        return false;
    }
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its namespace");
    false
}

/// Runs a program to its end and returns what it wrote.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) struct Disk {
    directory: tempfile::TempDir,
    image: PathBuf,
    point: PathBuf,
    root: String,
}

impl Disk {
    /// Small: enough for everything but judging space.
    pub(crate) fn new(root: &str) -> Self {
        Self::sized(root, "600M")
    }

    pub(crate) fn sized(root: &str, size: &str) -> Self {
        let disk = Self::made(root, size);
        disk.mount_top();
        run("btrfs", &["subvolume", "create", disk.mount().join(root).to_str().unwrap()]);
        disk.unmount();
        disk.mount_root();
        disk
    }

    pub(crate) fn on_top_level() -> Self {
        let disk = Self::made("", "600M");
        disk.mount_top();
        disk
    }

    pub(crate) fn on_two_devices(root: &str) -> Self {
        let disk = Self::sized(root, "600M");
        let second = disk.directory.path().join("second");
        run("truncate", &["-s", "600M", second.to_str().unwrap()]);
        let device = run("losetup", &["--find", "--show", second.to_str().unwrap()]);
        run("btrfs", &["device", "add", "-f", device.trim(), disk.mount().to_str().unwrap()]);
        // In use, so it goes away by itself with the last mount.
        run("losetup", &["--detach", device.trim()]);
        disk
    }

    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    pub(crate) fn mount(&self) -> &Path {
        &self.point
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.mount().join(path)).unwrap()
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        std::fs::write(self.mount().join(path), text).unwrap();
    }

    /// The top level mounted beside, for programs that must see it.
    pub(crate) fn top_level(&self) -> PathBuf {
        let point = self.directory.path().join("top");
        if !point.exists() {
            std::fs::create_dir(&point).unwrap();
            let device = run("findmnt", &["-no", "SOURCE", "--nofsroot", self.mount().to_str().unwrap()]);
            run("mount", &["-o", "subvolid=5", device.trim(), point.to_str().unwrap()]);
        }
        point
    }

    /// Shuts down in order and mounts what has the root's name.
    pub(crate) fn reboot(self) -> Self {
        self.unmount();
        self.mount_root();
        self
    }

    /// What is on the disk right now becomes a new machine; what is only in memory is lost.
    pub(crate) fn power_cut(self) -> Self {
        let image = self.image.with_extension("after");
        run("cp", &["--sparse=always", self.image.to_str().unwrap(), image.to_str().unwrap()]);
        // Two filesystems with one UUID cannot be mounted at once: the old one goes first, and with it what it still writes.
        self.unmount();
        std::fs::rename(&image, &self.image).unwrap();
        self.mount_root();
        self
    }

    fn made(root: &str, size: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        let point = directory.path().join("root");
        std::fs::create_dir(&point).unwrap();
        run("truncate", &["-s", size, image.to_str().unwrap()]);
        run("mkfs.btrfs", &["-q", image.to_str().unwrap()]);
        Self { directory, image, point, root: root.to_owned() }
    }

    fn mount_top(&self) {
        self.mount_with("subvolid=5");
    }

    fn mount_root(&self) {
        self.mount_with(&format!("subvol={}", self.root));
    }

    /// `-o loop` makes a loop device that goes away with the last mount; no commit of the kernel's own may hide that ours is
    /// missing.
    fn mount_with(&self, choice: &str) {
        let options = format!("loop,commit=300,{choice}");
        run("mount", &["-o", &options, self.image.to_str().unwrap(), self.mount().to_str().unwrap()]);
    }

    fn unmount(&self) {
        run("umount", &["--recursive", self.mount().to_str().unwrap()]);
        let top = self.directory.path().join("top");
        if top.exists() {
            run("umount", &[top.to_str().unwrap()]);
            std::fs::remove_dir(top).unwrap();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Whatever is still open goes with the namespace.
            for point in ["root", "top"] {
                let point = self.directory.path().join(point);
                drop(Command::new("umount").args(["--recursive", "--lazy"]).arg(point).output());
            }
        } else {
            self.unmount();
        }
    }
}
