//! Filesystems that packages cannot write to, or whose scripts cannot run.

use std::path::Path;

use super::reading::{self, InspectError};
use crate::finding::{Finding, Severity};
use crate::system::mounts::Mount;
use crate::system::show;

/// Where packages put files.
const WRITTEN: [&str; 7] = ["/", "/usr", "/boot", "/etc", "/var", "/var/lib", "/var/cache"];
/// Where packages of third parties may have put some; nobody else's do.
const OPT: &str = "/opt";
/// Where dpkg's scripts lie.
const SCRIPTS: [&str; 4] = ["/", "/var", "/var/lib", "/var/lib/dpkg"];

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The mounts, the visible one of several on one point only.
    mounts: Vec<Mount>,
    /// A package has files in `/opt`; not looked at while that can be written.
    opt_of_packages: bool,
}

pub(super) fn facts(root: &Path) -> Result<Facts, InspectError> {
    let all = reading::mounted(root)?;
    let visible = |index: &usize| !all[index + 1..].iter().any(|later| later.point == all[*index].point);
    let mounts: Vec<Mount> = (0..all.len()).filter(visible).map(|index| all[index].clone()).collect();
    let closed = mounts.iter().any(|mount| mount.point == Path::new(OPT) && mount.read_only());
    Ok(Facts { opt_of_packages: closed && packages_have_files_in_opt(root)?, mounts })
}

fn packages_have_files_in_opt(root: &Path) -> Result<bool, InspectError> {
    let info = "var/lib/dpkg/info";
    for name in reading::names(root, info)?.iter().filter(|name| name.ends_with(".list")) {
        let text = reading::text(root, &format!("{info}/{name}"))?.unwrap_or_default();
        if text.lines().any(|line| line.starts_with("/opt/")) {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn findings(facts: &Facts, distribution: &str) -> Vec<Finding> {
    let at = |points: &[&str]| -> Vec<&Mount> {
        facts
            .mounts
            .iter()
            .filter(|mount| points.iter().any(|point| mount.point == Path::new(point)))
            .collect()
    };
    let line = |mount: &&Mount, option: &str| {
        format!("{} ({}) is mounted {option}", show::path(&mount.point), show::line(&mount.fs_type))
    };
    let with = |mount: &&Mount, option: &str| mount.options.iter().any(|have| have == option);
    let mut found = Vec::new();
    let opt: &[&str] = if facts.opt_of_packages { &[OPT] } else { &[] };
    let read_only: Vec<String> = at(&[&WRITTEN, opt].concat())
        .iter()
        .filter(|mount| mount.read_only())
        .map(|mount| line(mount, "ro"))
        .collect();
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
    fn a_closed_opt_matters_to_those_who_have_files_there() {
        let table = ("proc/self/mountinfo", "3 1 0:44 / /opt ro - nfs server:/opt ro\n");
        let of = |list: &str| {
            let dir = tree(&[table, ("var/lib/dpkg/info/x.list", list)]);
            ids(&findings(&facts(dir.path()).unwrap(), "debian"))
        };
        assert!(of("/.\n/opt\n/usr/share/opt/x\n").is_empty());
        assert_eq!(of("/.\n/opt\n/opt/x\n/opt/x/bin\n"), ["inhibitor mounted-read-only"]);
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
