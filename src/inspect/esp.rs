//! Whether the EFI system partition is where the boot loader's package writes to, and the only one that the firmware starts.

use std::path::{Path, PathBuf};

use super::boot_options::{self, BootOption, BootOptions};
use super::reading::{self, InspectError};
use crate::boot::layout::{BootLayout, Firmware};
use crate::finding::Finding;
use crate::snapshot::fstab;
use crate::system::show;

/// The type of an ESP in a GPT. Source: UEFI specification 2.10, 5.3.3.
const ESP_TYPE: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
/// Where it is mounted, as distributions do it.
const POINTS: [&str; 3] = ["/boot/efi", "/efi", "/boot"];

/// What udev says of a filesystem that is only a part of a RAID: what is mounted is the whole.
const RAID_MEMBER: &str = "linux_raid_member";
/// Where another system keeps its boot loader, which no package of this one renews.
const FOREIGN: &str = "\\efi\\microsoft\\";

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Firmware of the UEFI kind started this machine.
    uefi: bool,
    /// Where fstab wants it.
    wanted: Option<String>,
    /// What is mounted there.
    mounted: Option<Mounted>,
    /// It is mounted when somebody looks.
    automatic: bool,
    /// Partitions that are one.
    partitions: Vec<Partition>,
    /// What the firmware starts.
    options: BootOptions,
}

/// The one that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mounted {
    point: PathBuf,
    writable: bool,
    /// The device's numbers, as udev names its record: `8:1`.
    device: String,
}

/// A partition with the type of an ESP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Partition {
    /// `8:1`.
    device: String,
    /// `sda1`, where the kernel's name is known.
    name: Option<String>,
    /// The filesystem's UUID.
    uuid: Option<String>,
    /// The partition's own GUID, in lower case.
    guid: Option<String>,
}

impl Partition {
    fn words(&self) -> String {
        let name = self.name.as_ref().map_or_else(|| self.device.clone(), |name| format!("/dev/{name}"));
        show::line(&format!("partition {name} (UUID {})", self.uuid.as_deref().unwrap_or("unknown")))
    }
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
        mounted: on_point(&["vfat", "msdos"]).map(|mount| Mounted {
            point: mount.point.clone(),
            writable: !mount.read_only(),
            device: format!("{}:{}", mount.device.0, mount.device.1),
        }),
        automatic: on_point(&["autofs"]).is_some(),
        partitions: partitions(root)?,
        options: boot_options::read(root)?,
    })
}

/// udev's word on the partitions of this machine.
fn partitions(root: &Path) -> Result<Vec<Partition>, InspectError> {
    let mut found = Vec::new();
    for record in reading::names(root, "run/udev/data")?.iter().filter(|name| name.starts_with('b')) {
        let text = reading::text(root, &format!("run/udev/data/{record}"))?.unwrap_or_default();
        let value = |key: &str| {
            text.lines().find_map(|line| line.strip_prefix("E:")?.strip_prefix(key)?.strip_prefix('='))
        };
        let is_esp = value("ID_PART_ENTRY_TYPE").is_some_and(|kind| kind.eq_ignore_ascii_case(ESP_TYPE));
        if is_esp && value("ID_FS_TYPE") != Some(RAID_MEMBER) {
            let device = record[1..].to_owned();
            let uevent = reading::text(root, &format!("sys/dev/block/{device}/uevent"))?.unwrap_or_default();
            let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME=")).map(str::to_owned);
            found.push(Partition {
                device,
                name,
                uuid: value("ID_FS_UUID").map(str::to_owned),
                guid: value("ID_PART_ENTRY_UUID").map(str::to_ascii_lowercase),
            });
        }
    }
    Ok(found)
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    if !facts.uefi || facts.automatic {
        return Vec::new();
    }
    match &facts.mounted {
        Some(mounted) => of_mount(mounted).into_iter().chain(of_firmware(facts, mounted)).collect(),
        None => not_mounted(facts).into_iter().collect(),
    }
}

fn of_mount(mounted: &Mounted) -> Option<Finding> {
    if mounted.writable {
        return None;
    }
    let point = show::path(&mounted.point);
    let what = "the EFI system partition is mounted read-only: the boot loader's package fails, or leaves an old loader.";
    let remedy = format!(
        "mount -o remount,rw {point}; when it is damaged: umount {point}, fsck.vfat -a on its device"
    );
    Some(Finding::inhibitor("esp-read-only", what, remedy).with_evidence([format!("{point} is mounted ro")]))
}

fn not_mounted(facts: &Facts) -> Option<Finding> {
    let partitions = facts.partitions.iter().map(Partition::words);
    let started =
        facts.options.current.iter().map(|option| format!("started by the firmware: {}", words(option)));
    if let Some(point) = &facts.wanted {
        let point = show::line(point);
        let what = "the EFI system partition is not mounted: the boot loader's package fails, or writes to the wrong place.";
        let wants = format!("/etc/fstab wants it at {point}");
        let evidence = [wants].into_iter().chain(partitions).chain(started);
        return Some(
            Finding::inhibitor("esp-not-mounted", what, format!("mount {point}")).with_evidence(evidence),
        );
    }
    if facts.partitions.is_empty() {
        return None;
    }
    let what = "there is an EFI system partition, and neither is it mounted nor does /etc/fstab name it: nobody will renew the \
                boot loader on it.";
    let remedy =
        "add a line for it to /etc/fstab (UUID=... /boot/efi vfat umask=0077 0 1), then mount /boot/efi";
    Some(Finding::warning("esp-not-mounted", what, remedy).with_evidence(partitions.chain(started)))
}

/// What the firmware starts besides the partition that is mounted, or instead of it.
fn of_firmware(facts: &Facts, mounted: &Mounted) -> Vec<Finding> {
    // On a RAID, or without udev, nobody can tell which of the firmware's partitions it is.
    let Some(own) = facts.partitions.iter().find(|one| one.device == mounted.device) else {
        return Vec::new();
    };
    let point = show::path(&mounted.point);
    let is_own = |option: &&BootOption| own.guid.as_ref().is_none_or(|guid| *guid == option.partition);
    if let Some(option) = facts.options.current.as_ref().filter(|option| !is_own(option)) {
        let what = format!(
            "the firmware started this machine from another EFI system partition than the one at {point}: the boot loader's package \
             renews one that is not used, and a rollback does not bring back the one that is."
        );
        let remedy = format!(
            "mount the one that the firmware starts at {point} (and name it in /etc/fstab), or make the firmware start this one: \
             grub-install, then efibootmgr"
        );
        let mut evidence = vec![format!("mounted: {}", own.words()), format!("started: {}", words(option))];
        evidence
            .extend(of_partition(facts, &option.partition).map(|one| format!("which is {}", one.words())));
        return vec![Finding::warning("esp-not-the-started-one", what, remedy).with_evidence(evidence)];
    }
    let others: Vec<&Partition> = facts.partitions.iter().filter(|one| *one != own).collect();
    let started: Vec<&BootOption> = facts
        .options
        .order
        .iter()
        .filter(|option| !is_own(option) && !option.program.to_ascii_lowercase().starts_with(FOREIGN))
        .filter(|option| others.iter().any(|one| one.guid.as_ref() == Some(&option.partition)))
        .collect();
    if started.is_empty() {
        return Vec::new();
    }
    let what = format!(
        "the firmware also starts from an EFI system partition that is not the one at {point}: nothing of an upgrade or a rollback \
         reaches it, so it keeps an old boot loader that may not fit when the first disk is gone."
    );
    let remedy = "copy the boot loader to it after the run is committed (by the script that keeps both equal, or grub-install with \
                  --efi-directory), or delete its entry: efibootmgr -B -b NUMBER";
    let evidence = started.iter().flat_map(|option| {
        let partition = of_partition(facts, &option.partition).map(Partition::words);
        [words(option)].into_iter().chain(partition)
    });
    vec![Finding::warning("esp-second", what, remedy).with_evidence(evidence)]
}

fn of_partition<'f>(facts: &'f Facts, guid: &str) -> Option<&'f Partition> {
    facts.partitions.iter().find(|one| one.guid.as_deref() == Some(guid))
}

fn words(option: &BootOption) -> String {
    let program = if option.program.is_empty() { "the default program" } else { &option.program };
    show::line(&format!(
        "{} ({}): {program} on partition {}",
        option.name, option.description, option.partition
    ))
}

#[cfg(test)]
mod tests {
    use super::super::boot_options::made_up::{option, put};
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

    /// Two disks with one each: `8:1` with the GUID ab..., which is mounted, and `8:17` with cd...
    fn two(mount: &str, second: &str, variables: &[(&str, &[u8])]) -> Vec<Finding> {
        let record = |first: &str| {
            format!(
                "E:ID_PART_ENTRY_TYPE={ESP_TYPE}\nE:ID_FS_UUID={first}\n\
                 E:ID_PART_ENTRY_UUID={first}010203-0405-0607-0809-0a0b0c0d0e0f\n"
            )
        };
        let dir = tree(&[
            ("etc/fstab", FSTAB),
            ("proc/self/mountinfo", mount),
            ("run/udev/data/b8:1", &record("ab")),
            ("run/udev/data/b8:17", &format!("{}{second}", record("cd"))),
            ("sys/dev/block/8:17/uevent", "MAJOR=8\nMINOR=17\nDEVNAME=sdb1\n"),
        ]);
        for (name, bytes) in variables {
            put(dir.path(), name, bytes);
        }
        findings(&facts(dir.path(), &boot(Firmware::Uefi { secure_boot: None })).unwrap())
    }

    #[test]
    fn a_second_one_that_the_firmware_starts() {
        const ON_FIRST: &str = "2 1 8:1 / /boot/efi rw - vfat /dev/sda1 rw\n";
        let (first, second) =
            (option(true, "debian", 0xab, "\\EFI\\debian\\shimx64.efi"), option(true, "copy", 0xcd, ""));
        let windows = option(true, "Windows", 0xcd, "\\EFI\\Microsoft\\Boot\\bootmgfw.efi");
        let order: &[u8] = &[7, 0, 0, 0, 1, 0, 2, 0];
        let current = |number: u8| [6, 0, 0, 0, number, 0];
        let with = |number: u8, other: &[u8], mount: &str, raid: &str| {
            let current = current(number);
            let variables: [(&str, &[u8]); 4] =
                [("BootOrder", order), ("BootCurrent", &current), ("Boot0001", &first), ("Boot0002", other)];
            two(mount, raid, &variables)
        };
        let found = with(1, &second, ON_FIRST, "");
        assert_eq!(ids(&found), ["warning esp-second"]);
        assert_eq!(
            found[0].evidence,
            [
                "Boot0002 (copy): the default program on partition cd010203-0405-0607-0809-0a0b0c0d0e0f",
                "partition /dev/sdb1 (UUID cd)"
            ]
        );
        let found = with(2, &second, ON_FIRST, "");
        assert_eq!(ids(&found), ["warning esp-not-the-started-one"]);
        assert_eq!(found[0].evidence[2], "which is partition /dev/sdb1 (UUID cd)");
        for quiet in [
            with(1, &windows, ON_FIRST, ""),
            with(1, &option(false, "off", 0xcd, ""), ON_FIRST, ""),
            with(1, &second, ON_FIRST, "E:ID_FS_TYPE=linux_raid_member\n"),
            with(2, &second, "2 1 9:0 / /boot/efi rw - vfat /dev/md0 rw\n", ""),
            two(ON_FIRST, "", &[]),
        ] {
            assert!(quiet.is_empty(), "{quiet:?}");
        }
        let found = with(2, &second, "", "");
        assert_eq!(ids(&found), ["inhibitor esp-not-mounted"]);
        assert!(found[0].evidence.iter().any(|line| line.starts_with("started by the firmware: Boot0002")));
    }
}
