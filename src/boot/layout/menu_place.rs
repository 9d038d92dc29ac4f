//! Where GRUB's menu lies, as GRUB would name the place: filesystem, path from its top, partitions.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::volumes::{AskUuid, below};
use super::{LayoutError, MenuPlace, at, text_if_there};
use crate::system::mounts;

/// Finds the place of a directory that is there. Why it has none that GRUB could name is an answer too: a root on ZFS or a network
/// has no device with a UUID.
pub(super) fn find(
    root: &Path,
    directory: &Path,
    uuid: AskUuid,
) -> Result<Result<MenuPlace, String>, LayoutError> {
    let real_root = fs::canonicalize(root).map_err(at(root))?;
    let here = below(root, directory);
    let real = fs::canonicalize(&here).map_err(at(&here))?;
    let inside = Path::new("/").join(real.strip_prefix(&real_root).unwrap_or(&real));
    let path = root.join("proc/self/mountinfo");
    let table = mounts::parse(&fs::read(&path).map_err(at(&path))?)?;
    let mount = mounts::holding(&table, &inside)?;
    let device = PathBuf::from(&mount.source);
    if !device.is_absolute() {
        return Ok(Err(format!(
            "{} lies on {}, which is no block device",
            inside.display(),
            device.display()
        )));
    }
    // Some tables name a device that is not there (/dev/root): that is no reason not to know the rest of the machine.
    let id = match uuid(&device) {
        Ok(Some(id)) => id,
        Ok(None) => return Ok(Err(format!("the filesystem on {} has no UUID", device.display()))),
        Err(error) => return Ok(Err(error.to_string())),
    };
    let below_point = inside.strip_prefix(&mount.point).unwrap_or(&inside);
    let place = mount.root.join(below_point);
    Ok(Ok(MenuPlace {
        partitions: partitions(root, &device, &id)?,
        uuid: id,
        path: place.display().to_string(),
    }))
}

/// The numbers of the partitions on which the filesystem lies, all members of a btrfs among them; empty where one of them is no
/// partition.
fn partitions(root: &Path, device: &Path, uuid: &str) -> Result<Vec<u32>, LayoutError> {
    let real = fs::canonicalize(device).unwrap_or_else(|_| device.to_owned());
    let class = root.join("sys/class/block").join(real.file_name().unwrap_or_default());
    let mut members = vec![class];
    if let Ok(entries) = fs::read_dir(root.join("sys/fs/btrfs").join(uuid).join("devices")) {
        members.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    let mut numbers = BTreeSet::new();
    for member in members {
        let text = text_if_there(&member.join("partition"))?;
        match text.and_then(|text| text.trim().parse().ok()) {
            Some(number) => numbers.insert(number),
            None => return Ok(Vec::new()),
        };
    }
    Ok(numbers.into_iter().collect())
}
