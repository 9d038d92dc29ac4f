//! One start of `systemd-nspawn`: from power on to power off, reboot or a pulled plug.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::Result;
use super::place::CGROUP_PREFIX;

/// `systemd-nspawn` ends with this status when the machine inside asked for a reboot.
pub const REBOOT: i32 = 133;

/// Gives the container a pure cgroup2 tree of its own, whatever the host has: in a private mount namespace cgroup2 takes the
/// place of the host's tree, and the container lives in a group that the lab can kill as a whole.
///
/// The namespace begins as a copy of the host's mounts. The disks of other work trees' labs must not stay in it: while it lives,
/// they could not be detached there after a pulled plug.
const ENTER: &str = r#"set -e
sed -n 's|^[^ ]* [^ ]* [^ ]* [^ ]* \([^ ]*/lab/run-[^ ]*\) .*|\1|p' /proc/self/mountinfo | while read -r point; do
    case "$point/" in "$1"/*) ;; *) umount --lazy "$point" 2>/dev/null || true ;; esac
done
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$2"
echo $$ >"/sys/fs/cgroup/$2/cgroup.procs"
shift 2
exec systemd-nspawn --register=no --keep-unit --boot --quiet "$@""#;

/// What one start of a machine needs.
#[derive(Debug)]
pub struct Payload<'a> {
    /// The name of its run directory.
    pub name: &'a str,
    /// The run directory.
    pub run: &'a Path,
    /// Where the root is mounted.
    pub root: &'a Path,
    /// The loop device, which the machine sees under the same name.
    pub device: &'a Path,
    /// The host's directory that the machine sees as `/srv/backup`.
    pub backup: &'a Path,
    /// The network namespace.
    pub network: &'a Path,
    /// The abstract socket that hears of the leader and of readiness.
    pub notify: &'a str,
    /// Where the console goes; each start is appended.
    pub console: &'a Path,
}

impl Payload<'_> {
    /// Starts the machine and returns without waiting for anything.
    pub fn start(&self) -> Result<Child> {
        let console = File::options().create(true).append(true).open(self.console)?;
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"])
            .arg(self.run)
            .arg(format!("{CGROUP_PREFIX}{}", self.name))
            .args(["--notify-ready=yes", "--console=read-only", "--resolv-conf=off", "--timezone=off"])
            .arg(format!("--machine={}", self.name))
            .arg(format!("--directory={}", self.root.display()))
            .arg(format!("--bind={}", self.device.display()))
            .arg(format!("--bind={}:/srv/backup", self.backup.display()))
            .arg(format!("--network-namespace-path={}", self.network.display()))
            .env("NOTIFY_SOCKET", format!("@{}", self.notify))
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()
    }
}
