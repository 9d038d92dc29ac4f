//! Which control groups the system uses. systemd 256 and later do not start on version 1 unless the kernel's command line insists
//! (its NEWS file), and Ubuntu's upgrader to 26.04 refuses to begin.

use std::path::Path;

use super::Circumstances;
use super::reading::{self, InspectError};
use crate::finding::Finding;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// PID 1 is systemd.
    systemd: bool,
    /// The filesystem at `/sys/fs/cgroup`; `None` when nothing is mounted there.
    fs_type: Option<String>,
    /// Words on the kernel's command line that ask for version 1.
    asked: Vec<String>,
}

pub(super) fn facts(root: &Path) -> Result<Facts, InspectError> {
    let line = reading::text(root, "proc/cmdline")?.unwrap_or_default();
    let asks = |word: &&str| {
        word.starts_with("systemd.unified_cgroup_hierarchy=")
            || word.starts_with("systemd.legacy_systemd_cgroup_controller")
    };
    let mounts = reading::mounted(root)?;
    let mount = mounts.iter().rfind(|mount| mount.point == Path::new("/sys/fs/cgroup"));
    Ok(Facts {
        systemd: reading::text(root, "proc/1/comm")?.is_some_and(|name| name.trim() == "systemd"),
        fs_type: mount.map(|mount| mount.fs_type.clone()),
        asked: line.split_ascii_whitespace().filter(asks).map(str::to_owned).collect(),
    })
}

/// Where the systemd of the new release is 256 or later: trixie has 257, resolute 259; noble has 255.
const UNIFIED_ONLY: [&str; 2] = ["trixie", "resolute"];

pub(super) fn findings(facts: &Facts, about: &Circumstances<'_>) -> Vec<Finding> {
    let Some(fs_type) = facts.fs_type.as_ref().filter(|fs_type| facts.systemd && *fs_type != "cgroup2")
    else {
        return Vec::new();
    };
    let mut evidence = vec![format!("/sys/fs/cgroup is {fs_type}, not cgroup2")];
    evidence.extend(facts.asked.iter().map(|word| format!("/proc/cmdline: {word}")));
    let remedy = if about.container() {
        "have the host give this container unified control groups (cgroup2)"
    } else {
        "remove these words from GRUB_CMDLINE_LINUX in /etc/default/grub, run update-grub, and reboot"
    };
    if !UNIFIED_ONLY.iter().any(|codename| about.reaches(codename)) {
        let what = "the machine runs with version 1 of control groups: systemd 256 and later, in releases to come, do not start on them.";
        return vec![Finding::note("cgroup-v1", what, remedy).with_evidence(evidence)];
    }
    let what = "the machine runs with version 1 of control groups: the systemd of the new release does not start on them.";
    vec![Finding::inhibitor("cgroup-v1", what, remedy).with_evidence(evidence)]
}

#[cfg(test)]
mod tests {
    use super::super::made_up::about;
    use super::super::reading::made_up::{ids, tree};
    use super::*;
    use crate::release::hop::Hop;

    fn of(init: &str, fs_type: &str) -> Vec<String> {
        on_the_way(init, fs_type, "bookworm", "trixie")
    }

    fn on_the_way(init: &str, fs_type: &str, from: &str, to: &str) -> Vec<String> {
        let table = format!("30 24 0:26 / /sys/fs/cgroup rw shared:9 - {fs_type} {fs_type} rw\n");
        let line = "root=/dev/vda systemd.unified_cgroup_hierarchy=0\n";
        let dir = tree(&[("proc/1/comm", init), ("proc/self/mountinfo", &table), ("proc/cmdline", line)]);
        let hop = Hop::between(from, to).unwrap();
        ids(&findings(&facts(dir.path()).unwrap(), &Circumstances { hop: Some(&hop), ..about(None) }))
    }

    #[test]
    fn only_systemd_minds() {
        assert!(of("systemd\n", "cgroup2").is_empty());
        assert_eq!(of("systemd\n", "tmpfs"), ["inhibitor cgroup-v1"]);
        assert!(of("runit\n", "tmpfs").is_empty());
    }

    #[test]
    fn only_where_the_new_systemd_does_not_start_on_them() {
        assert_eq!(on_the_way("systemd\n", "tmpfs", "jammy", "noble"), ["note cgroup-v1"]);
        assert_eq!(on_the_way("systemd\n", "tmpfs", "noble", "resolute"), ["inhibitor cgroup-v1"]);
    }
}
