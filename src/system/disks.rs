//! Which physical disks lie below a path: two copies on one disk die together.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::mounts::{self, MountsError};

/// Deeper stacks of device mapper, md and loop devices than this are not real.
const DEEPEST_STACK: usize = 16;

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
            format!("file {}", Path::new(std::ffi::OsStr::from_bytes(file.trim_ascii_end())).display())
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
}
