//! Which physical disks lie below a path: two copies on one disk die together.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::mounts::{self, MountsError};

/// Deeper stacks of device mapper, md and loop devices than this are not real.
const DEEPEST_STACK: usize = 16;

/// What the name of a disk begins with that is a file behind a loop device.
const BACKING_FILE: &str = "file ";

/// What lies below a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Below {
    /// Whole disks, by their kernel names; for a loop device the file behind it, when it can be seen from here.
    Disks(BTreeSet<String>),
    /// A filesystem that lives in memory: nothing of it survives a reboot.
    Memory,
    /// A filesystem without a block device of this machine (network, shared by a host): its source.
    Elsewhere(String),
}

/// The disks could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum DisksError {
    /// The mount table could not be used.
    #[error(transparent)]
    Mounts(#[from] MountsError),
    /// A path could not be looked at.
    #[error("failed to look at {}", .path.display())]
    Look {
        /// The path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The stack of block devices does not end.
    #[error("the block devices below {} are stacked too deep", .0.display())]
    TooDeep(PathBuf),
}

/// Finds out what lies below an existing path.
///
/// # Errors
/// When a mount, a device or its place in `/sys` cannot be read.
pub fn below(path: &Path) -> Result<Below, DisksError> {
    let real = fs::canonicalize(path).map_err(at(path))?;
    let table = mounts::read()?;
    let mount = mounts::holding(&table, &real)?;
    if matches!(mount.fs_type.as_str(), "tmpfs" | "ramfs") {
        return Ok(Below::Memory);
    }
    let source = PathBuf::from(&mount.source);
    // btrfs and others show an anonymous number for the mount; the source then names the device.
    let number = match mount.device {
        (0, _) if source.is_absolute() => fs::metadata(&source).map_err(at(&source))?.rdev(),
        (0, _) => return Ok(Below::Elsewhere(mount.source.to_string_lossy().into_owned())),
        (major, minor) => rustix::fs::makedev(major, minor),
    };
    let mut disks = BTreeSet::new();
    collect(&sys_path(number), &mut disks, DEEPEST_STACK).map_err(|error| match error {
        None => DisksError::TooDeep(path.to_owned()),
        Some(error) => error,
    })?;
    Ok(Below::Disks(disks))
}

/// Whether any disk below an existing path has turning platters, on which every jump costs milliseconds.
///
/// Virtual disks do not count: most say that they turn, whatever they are made of.
///
/// # Errors
/// As [`below`], and when a disk's own word cannot be read.
pub fn turns(path: &Path) -> Result<bool, DisksError> {
    turns_within(path, DEEPEST_STACK)
}

fn turns_within(path: &Path, left: usize) -> Result<bool, DisksError> {
    let Below::Disks(disks) = below(path)? else { return Ok(false) };
    for disk in disks {
        let turning = match disk.strip_prefix(BACKING_FILE) {
            Some(_) if left == 0 => return Err(DisksError::TooDeep(path.to_owned())),
            Some(file) => turns_within(Path::new(file), left - 1)?,
            None => {
                let sys = Path::new("/sys/block").join(&disk);
                let flag = sys.join("queue/rotational");
                let flag = fs::read_to_string(&flag).map_err(at(&flag))?;
                // Disks that are no SCSI disks have neither.
                let word = |name: &str| fs::read_to_string(sys.join("device").join(name)).unwrap_or_default();
                flag.trim() == "1" && !is_virtual(&disk, &word("vendor"), &word("model"))
            }
        };
        if turning {
            return Ok(true);
        }
    }
    Ok(false)
}

/// By the names that hypervisors give to their disks: virtio and Xen by the driver's, others in the answers of a SCSI or ATA disk.
fn is_virtual(name: &str, vendor: &str, model: &str) -> bool {
    const MAKERS: [&str; 6] = ["QEMU", "VMware", "VBOX", "Msft", "Google", "Xen"];
    let made = |word: &str| MAKERS.iter().any(|maker| word.trim_start().starts_with(maker));
    ["vd", "xvd", "zram", "pmem"].iter().any(|prefix| name.starts_with(prefix)) || made(vendor) || made(model)
}

fn at<'p>(path: &'p Path) -> impl FnOnce(std::io::Error) -> DisksError + use<'p> {
    move |source| DisksError::Look { path: path.to_owned(), source }
}

fn sys_path(number: u64) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{}:{}", rustix::fs::major(number), rustix::fs::minor(number)))
}

/// Follows partitions to their disk, and stacked devices to what they are stacked on.
fn collect(device: &Path, disks: &mut BTreeSet<String>, left: usize) -> Result<(), Option<DisksError>> {
    if left == 0 {
        return Err(None);
    }
    let real = fs::canonicalize(device).map_err(at(device)).map_err(Some)?;
    if real.join("partition").exists() {
        return match real.parent() {
            Some(disk) => collect(disk, disks, left - 1),
            None => Err(None),
        };
    }
    let slaves: Vec<PathBuf> = fs::read_dir(real.join("slaves"))
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect();
    if !slaves.is_empty() {
        return slaves.iter().try_for_each(|slave| collect(slave, disks, left - 1));
    }
    let name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
    disks.insert(match fs::read(real.join("loop/backing_file")) {
        Ok(file) => {
            format!(
                "{BACKING_FILE}{}",
                Path::new(std::ffi::OsStr::from_bytes(file.trim_ascii_end())).display()
            )
        }
        Err(_) => name,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_disks_are_told_apart() {
        assert_eq!(below(Path::new("/dev/shm")).unwrap(), Below::Memory);
        let here = below(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(!matches!(here, Below::Memory), "{here:?}");
    }

    #[test]
    fn virtual_disks_do_not_turn_whatever_they_say() {
        assert!(!turns(Path::new("/dev/shm")).unwrap());
        for (name, vendor, model, wanted) in [
            ("vda", "0x1af4", "", true),
            ("sda", "QEMU    ", "QEMU HARDDISK   ", true),
            ("sda", "ATA     ", "VBOX HARDDISK   ", true),
            ("sda", "ATA     ", "ST4000VN008-2DR1", false),
            ("nvme0n1", "", "", false),
        ] {
            assert_eq!(is_virtual(name, vendor, model), wanted, "{name} {model}");
        }
    }
}
