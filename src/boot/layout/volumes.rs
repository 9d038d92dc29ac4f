//! The filesystems that hold `/boot` and the ESP, and what they lie on.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{BootPlace, LayoutError, Partition, at};
use crate::system::exec::Exec;
use crate::system::mounts::{self, Mount};

/// Where Debian and Ubuntu mount an ESP, then where others do.
const ESP_POINTS: [&str; 3] = ["/boot/efi", "/efi", "/boot"];

/// Disks to which firmware, and so GRUB, can write: SCSI, SATA, IDE, virtio, Xen, NVMe, MMC.
const PLAIN_DISKS: [&str; 6] = ["sd", "hd", "vd", "xvd", "nvme", "mmcblk"];

/// `blkid` found nothing that it knows: blkid(8).
const NOTHING_KNOWN: i32 = 2;

pub(super) type AskUuid = fn(&Path) -> Result<Option<String>, LayoutError>;

/// `/boot` and the ESP.
pub(super) fn find(root: &Path, uuid: AskUuid) -> Result<(BootPlace, Option<Partition>), LayoutError> {
    // Looking into it mounts what is mounted on demand; a directory that is not there is no ESP.
    for point in ESP_POINTS {
        drop(fs::read_dir(below(root, Path::new(point))).map(Iterator::count));
    }
    let path = root.join("proc/self/mountinfo");
    let table = mounts::parse(&fs::read(&path).map_err(at(&path))?)?;
    let on = |point: &str| table.iter().rfind(|mount| mount.point == Path::new(point));
    let boot = match on("/boot") {
        Some(mount) => BootPlace::Separate(partition(root, mount, uuid)?),
        None => BootPlace::Inside,
    };
    let esp = ESP_POINTS
        .iter()
        .filter_map(|point| on(point))
        .find(|mount| mount.fs_type == "vfat" && below(root, &mount.point).join("EFI").is_dir());
    Ok((boot, esp.map(|mount| partition(root, mount, uuid)).transpose()?))
}

/// The UUID of the filesystem on a device, by reading its superblock. Not by the links in /dev/disk/by-uuid: those are udev's memory, may be
/// missing or stale, and escape some characters; blkid is in util-linux, which is never missing, and with `-p` keeps no
/// cache.
pub(super) fn uuid(device: &Path) -> Result<Option<String>, LayoutError> {
    // blkid answers the same for a device that is not there as for one that it knows nothing of.
    drop(fs::File::open(device).map_err(at(device))?);
    let output = Exec::new("blkid")?.args(["-p", "-s", "UUID", "-o", "value"]).arg(device).output()?;
    if output.status.code() == Some(NOTHING_KNOWN) {
        return Ok(None);
    }
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(at(device)(std::io::Error::other(format!("blkid ended with {}: {why}", output.status))));
    }
    let uuid = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok((!uuid.is_empty()).then_some(uuid))
}

fn partition(root: &Path, mount: &Mount, uuid: AskUuid) -> Result<Partition, LayoutError> {
    let device = PathBuf::from(&mount.source);
    let is_device = device.is_absolute();
    Ok(Partition {
        point: mount.point.clone(),
        fs_type: mount.fs_type.clone(),
        uuid: if is_device { uuid(&device)? } else { None },
        plain: if is_device {
            plain(root, mount)?
        } else {
            Err(format!("{} is no block device", device.display()))
        },
        read_only: mount.read_only(),
        device,
    })
}

/// Whether a mount lies on a plain partition of a plain disk; if not, why.
fn plain(root: &Path, mount: &Mount) -> Result<Result<(), String>, LayoutError> {
    let sys = match mount.device {
        // btrfs shows a number of its own: the device's name leads on.
        (0, _) => {
            let real = fs::canonicalize(&mount.source).unwrap_or_else(|_| PathBuf::from(&mount.source));
            root.join("sys/class/block").join(real.file_name().unwrap_or_default())
        }
        (major, minor) => root.join(format!("sys/dev/block/{major}:{minor}")),
    };
    let real = match fs::canonicalize(&sys) {
        Ok(real) => real,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Err(format!("{} is not known to the kernel", Path::new(&mount.source).display())));
        }
        Err(error) => return Err(at(&sys)(error)),
    };
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let disk = match real.parent() {
        Some(parent) if real.join("partition").exists() => Some(name(parent)),
        _ => None,
    };
    Ok(judge_device(&name(&real), disk.as_deref()))
}

/// By the kernel's names of a device and, for a partition, of its disk.
pub(super) fn judge_device(device: &str, disk: Option<&str>) -> Result<(), String> {
    let base = disk.unwrap_or(device);
    if base.starts_with("dm-") {
        return Err(format!("{device} is made by the device mapper (LVM, encryption or multipath)"));
    }
    if base.starts_with("md") {
        return Err(format!("{device} is a software RAID"));
    }
    if base.starts_with("loop") {
        return Err(format!("{device} is a file behind a loop device"));
    }
    if !PLAIN_DISKS.iter().any(|prefix| base.starts_with(prefix)) {
        return Err(format!("{device} is no kind of disk to which GRUB is known to write"));
    }
    match disk {
        Some(_) => Ok(()),
        None => Err(format!("{device} is a whole disk without partitions")),
    }
}

/// An absolute path of the system below a root.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
