//! Whether the EFI system partition is where the boot loader's package writes to.

use std::path::{Path, PathBuf};

use super::reading::{self, InspectError};
use crate::boot::layout::{BootLayout, Firmware};
use crate::finding::Finding;
use crate::snapshot::fstab;
use crate::system::show;

/// The type of an ESP in a GPT. Source: UEFI specification 2.10, 5.3.3.
const ESP_TYPE: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
/// Where it is mounted, as distributions do it.
const POINTS: [&str; 3] = ["/boot/efi", "/efi", "/boot"];

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Firmware of the UEFI kind started this machine.
    uefi: bool,
    /// Where fstab wants it.
    wanted: Option<String>,
    /// Where it is mounted, and whether it can be written.
    mounted: Option<(PathBuf, bool)>,
    /// It is mounted when somebody looks.
    automatic: bool,
    /// Partitions that are one.
    partitions: Vec<String>,
}

pub(super) fn facts(root: &Path, boot: &BootLayout) -> Result<Facts, InspectError> {
    let table = reading::text(root, "etc/fstab")?.unwrap_or_default();
    let is_esp =
        |point: &str, fs_type: &str| POINTS.contains(&point) && matches!(fs_type, "vfat" | "msdos" | "fat");
    let wanted = fstab::parse(&table).into_iter().find(|entry| is_esp(&entry.point, &entry.fs_type));
    let mounts = reading::mounted(root)?;
    let on_point = |fs_types: &[&str]| {
        mounts.iter().rfind(|mount| {
            POINTS.iter().any(|point| mount.point == Path::new(point))
                && fs_types.contains(&mount.fs_type.as_str())
        })
    };
    Ok(Facts {
        uefi: matches!(boot.firmware, Firmware::Uefi { .. }),
        wanted: wanted.map(|entry| entry.point),
        mounted: on_point(&["vfat", "msdos"]).map(|mount| (mount.point.clone(), !mount.read_only())),
        automatic: on_point(&["autofs"]).is_some(),
        partitions: partitions(root)?,
    })
}

/// udev's word on the partitions of this machine.
fn partitions(root: &Path) -> Result<Vec<String>, InspectError> {
    let mut found = Vec::new();
    for name in reading::names(root, "run/udev/data")?.iter().filter(|name| name.starts_with('b')) {
        let text = reading::text(root, &format!("run/udev/data/{name}"))?.unwrap_or_default();
        let value = |key: &str| {
            text.lines().find_map(|line| line.strip_prefix("E:")?.strip_prefix(key)?.strip_prefix('='))
        };
        if value("ID_PART_ENTRY_TYPE").is_some_and(|kind| kind.eq_ignore_ascii_case(ESP_TYPE)) {
            found.push(format!(
                "partition {} (UUID {})",
                &name[1..],
                value("ID_FS_UUID").unwrap_or("unknown")
            ));
        }
    }
    Ok(found)
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    if !facts.uefi || facts.automatic {
        return Vec::new();
    }
    match (&facts.mounted, &facts.wanted) {
        (Some((_, true)), _) => Vec::new(),
        (Some((point, false)), _) => {
            let point = show::path(point);
            let what = "the EFI system partition is mounted read-only: the boot loader's package fails, or leaves an old loader.";
            let remedy = format!(
                "mount -o remount,rw {point}; when it is damaged: umount {point}, fsck.vfat -a on its device"
            );
            vec![
                Finding::inhibitor("esp-read-only", what, remedy)
                    .with_evidence([format!("{point} is mounted ro")]),
            ]
        }
        (None, Some(point)) => {
            let point = show::line(point);
            let what = "the EFI system partition is not mounted: the boot loader's package fails, or writes to the wrong place.";
            let mut evidence = vec![format!("/etc/fstab wants it at {point}")];
            evidence.extend(facts.partitions.iter().map(|line| show::line(line)));
            vec![
                Finding::inhibitor("esp-not-mounted", what, format!("mount {point}")).with_evidence(evidence),
            ]
        }
        (None, None) if !facts.partitions.is_empty() => {
            let what = "there is an EFI system partition, and neither is it mounted nor does /etc/fstab name it: nobody will renew the \
                        boot loader on it.";
            let remedy = "add a line for it to /etc/fstab (UUID=... /boot/efi vfat umask=0077 0 1), then mount /boot/efi";
            let evidence = facts.partitions.iter().map(|line| show::line(line));
            vec![Finding::warning("esp-not-mounted", what, remedy).with_evidence(evidence)]
        }
        (None, None) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::made_up::boot;
    use super::super::reading::made_up::{ids, tree};
    use super::*;

    const FSTAB: &str = "UUID=x / ext4 defaults 0 1\nUUID=1234-ABCD /boot/efi vfat umask=0077 0 1\n";
    const UDEV: &str = "S:disk/by-uuid/1234-ABCD\nE:ID_PART_ENTRY_TYPE=c12a7328-f81f-11d2-ba4b-00a0c93ec93b\nE:ID_FS_UUID=1234-ABCD\n";

    fn of(fstab: &str, mount: &str, udev: &str) -> Vec<String> {
        let dir = tree(&[("etc/fstab", fstab), ("proc/self/mountinfo", mount), ("run/udev/data/b8:1", udev)]);
        let uefi = boot(Firmware::Uefi { secure_boot: None });
        assert!(findings(&facts(dir.path(), &boot(Firmware::Bios)).unwrap()).is_empty());
        ids(&findings(&facts(dir.path(), &uefi).unwrap()))
    }

    #[test]
    fn mounted_or_not() {
        let mounted = |options: &str| format!("2 1 8:1 / /boot/efi {options} - vfat /dev/sda1 {options}\n");
        assert!(of(FSTAB, &mounted("rw"), UDEV).is_empty());
        assert_eq!(of(FSTAB, &mounted("ro"), UDEV), ["inhibitor esp-read-only"]);
        assert_eq!(of(FSTAB, "", UDEV), ["inhibitor esp-not-mounted"]);
        assert_eq!(of("", "", UDEV), ["warning esp-not-mounted"]);
        assert!(of("", "", "E:ID_FS_TYPE=ext4\n").is_empty());
        assert!(of(FSTAB, "2 1 0:40 / /boot/efi rw - autofs systemd-1 rw\n", UDEV).is_empty());
    }
}
