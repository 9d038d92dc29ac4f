//! What there is of systemd-boot, as far as a trial needs it.

use std::fs;
use std::path::Path;

use super::{BootPlace, LayoutError, Partition, SystemdBoot, at};
use crate::boot::systemd_boot::{EFIVARS, Places, SystemdBootError};
use crate::system::mounts;

/// Before anything was looked at.
pub(super) fn unknown() -> SystemdBoot {
    let why = "nobody has looked yet".to_owned();
    SystemdBoot { one_shot: false, variables: Err(why.clone()), entry: Err(why), fsck: false }
}

/// Looks at its variables and entries.
pub(super) fn find(
    root: &Path,
    esp: Option<&Partition>,
    boot: &BootPlace,
    kernel: &str,
) -> Result<SystemdBoot, LayoutError> {
    let variables = variables(root)?;
    let fsck = ["usr/sbin/fsck.vfat", "sbin/fsck.vfat"].iter().any(|path| root.join(path).exists());
    let Some(esp) = esp else {
        return Ok(SystemdBoot { one_shot: false, variables, entry: Err("no ESP is mounted".into()), fsck });
    };
    let beside = match boot {
        BootPlace::Separate(partition) => Some(partition),
        BootPlace::Inside => None,
    };
    let places = Places::below(root, esp, beside);
    let one_shot = places.variables.knows_one_shot().map_err(SystemdBootError::from)?;
    Ok(SystemdBoot { one_shot, variables, entry: entry(&places, kernel)?, fsck })
}

fn entry(places: &Places, kernel: &str) -> Result<Result<String, String>, LayoutError> {
    if let Some(image) = places.unified()?.first() {
        // Their place among the entries, and what they boot, is written inside of them.
        let place = image.display();
        return Ok(Err(format!("{place} is a unified kernel image, which safe-upgrade does not understand")));
    }
    match places.running(kernel) {
        Ok(entry) => Ok(Ok(entry.file)),
        Err(error @ SystemdBootError::NoEntry { .. }) => Ok(Err(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

fn variables(root: &Path) -> Result<Result<(), String>, LayoutError> {
    let path = root.join("proc/self/mountinfo");
    let table = mounts::parse(&fs::read(&path).map_err(at(&path))?)?;
    let mount = table.iter().rfind(|mount| mount.point == Path::new(EFIVARS));
    Ok(match mount {
        Some(mount) if mount.fs_type == "efivarfs" && !mount.read_only() => Ok(()),
        Some(mount) if mount.fs_type == "efivarfs" => Err(format!("{EFIVARS} is mounted read-only")),
        _ => Err(format!("{EFIVARS} is not mounted")),
    })
}
