//! Filesystems that packages cannot write to, or whose scripts cannot run.

use std::path::Path;

use super::reading::{self, InspectError};
use crate::finding::{Finding, Severity};
use crate::system::mounts::Mount;
use crate::system::show;

/// Where packages put files.
const WRITTEN: [&str; 8] = ["/", "/usr", "/boot", "/etc", "/var", "/var/lib", "/var/cache", "/opt"];
/// Where dpkg's scripts lie.
const SCRIPTS: [&str; 4] = ["/", "/var", "/var/lib", "/var/lib/dpkg"];

/// The mounts, the visible one of several on one point only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts(Vec<Mount>);

pub(super) fn facts(root: &Path) -> Result<Facts, InspectError> {
    let all = reading::mounted(root)?;
    let visible = |index: &usize| !all[index + 1..].iter().any(|later| later.point == all[*index].point);
    Ok(Facts((0..all.len()).filter(visible).map(|index| all[index].clone()).collect()))
}

pub(super) fn findings(facts: &Facts, distribution: &str) -> Vec<Finding> {
    let at = |points: &[&str]| -> Vec<&Mount> {
        facts.0.iter().filter(|mount| points.iter().any(|point| mount.point == Path::new(point))).collect()
    };
    let line = |mount: &&Mount, option: &str| {
        format!("{} ({}) is mounted {option}", show::path(&mount.point), show::line(&mount.fs_type))
    };
    let with = |mount: &&Mount, option: &str| mount.options.iter().any(|have| have == option);
    let mut found = Vec::new();
    let read_only: Vec<String> =
        at(&WRITTEN).iter().filter(|mount| mount.read_only()).map(|mount| line(mount, "ro")).collect();
    if !read_only.is_empty() {
        let what = "packages put files where nothing can be written now.";
        let remedy = "mount -o remount,rw the mount; when a disk error made it read-only, mend that first";
        found.push(Finding::inhibitor("mounted-read-only", what, remedy).with_evidence(read_only));
    }
    let no_scripts: Vec<String> = at(&SCRIPTS)
        .iter()
        .filter(|mount| with(mount, "noexec"))
        .map(|mount| line(mount, "noexec"))
        .collect();
    if !no_scripts.is_empty() {
        let what =
            "the scripts of packages lie where nothing can be run: every package with a script would fail.";
        let remedy = "mount -o remount,exec the mount, and correct /etc/fstab";
        found.push(Finding::inhibitor("scripts-noexec", what, remedy).with_evidence(no_scripts));
    }
    let tmp: Vec<String> = at(&["/tmp"])
        .iter()
        .filter(|mount| with(mount, "noexec"))
        .map(|mount| line(mount, "noexec"))
        .collect();
    if !tmp.is_empty() {
        let (severity, what) = if distribution == "ubuntu" {
            (Severity::Inhibitor, "Ubuntu's upgrader runs from /tmp, where nothing can be run now.")
        } else {
            (
                Severity::Note,
                "nothing can be run in /tmp: packages ask their questions one by one instead of all before.",
            )
        };
        found.push(
            Finding::new("tmp-noexec", severity, what, "mount -o remount,exec /tmp").with_evidence(tmp),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::reading::made_up::{ids, tree};
    use super::*;

    fn of(table: &str, distribution: &str) -> Vec<String> {
        let dir = tree(&[("proc/self/mountinfo", table)]);
        ids(&findings(&facts(dir.path()).unwrap(), distribution))
    }

    #[test]
    fn what_stops_packages() {
        let plain =
            "1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n2 1 8:2 / /boot/efi rw - vfat /dev/sda2 rw\n";
        assert!(of(plain, "debian").is_empty());
        let read_only = format!(
            "{plain}3 1 8:3 / /usr ro - ext4 /dev/sda3 ro\n4 1 7:1 / /snap/x ro - squashfs /dev/loop1 ro\n"
        );
        assert_eq!(of(&read_only, "debian"), ["inhibitor mounted-read-only"]);
        let covered = format!("{read_only}5 1 8:4 / /usr rw - ext4 /dev/sda4 rw\n");
        assert!(of(&covered, "debian").is_empty());
        let noexec = format!(
            "{plain}3 1 8:3 / /var rw,nosuid,noexec - ext4 /dev/sda3 rw\n4 1 0:9 / /tmp rw,noexec - tmpfs tmpfs rw\n"
        );
        assert_eq!(of(&noexec, "debian"), ["inhibitor scripts-noexec", "note tmp-noexec"]);
        assert_eq!(of(&noexec, "ubuntu")[1], "inhibitor tmp-noexec");
    }
}
