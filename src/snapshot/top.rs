//! The top level of a btrfs filesystem, where subvolumes have their names.
//!
//! Every change is on disk when its call returns: btrfs alone does not promise that for create, exchange and delete (seen:
//! after a power cut they had not happened), so each ends with `syncfs`.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use btrfsutil::qgroup::QgroupInherit;
use btrfsutil::subvolume::{DeleteFlags, SnapshotFlags, Subvolume as Named};
use rustix::fs::{AtFlags, RenameFlags};
use serde::{Deserialize, Serialize};

use super::attach::{Attached, attach};
use super::subvolume::{self, TOP_LEVEL_ID};
use super::{Nested, SnapshotError, Subvolume, Uuid, ioctl};
use crate::system::mounts;

/// Whether a call changed something, or found it done already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// It was done now.
    Changed,
    /// It was done before; nothing was touched.
    Unchanged,
}

/// A subvolume that is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Whether this call made it.
    pub change: Change,
    /// Its facts.
    pub subvolume: Subvolume,
}

/// How full a filesystem is; all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The size of all devices together.
    pub total: u64,
    /// In use, as `df` counts it.
    pub used: u64,
    /// The kernel's estimate of what can still be written.
    pub free_estimate: u64,
    /// On the devices, and not yet given to data or metadata. When this is near zero, writing can fail although files could
    /// still be stored.
    pub unallocated: u64,
    /// How many devices it has.
    pub devices: u64,
}

/// The top level of a mounted filesystem, open for changes.
#[derive(Debug)]
pub struct TopLevel {
    attached: Attached,
    device: PathBuf,
    uuid: Uuid,
    mount: mounts::Mount,
}

impl TopLevel {
    /// Opens the top level of the filesystem that is mounted at `mount` (`/` for the running root). The mount is not in any
    /// mount table and ends with the process; where the kernel refuses that, it is a private directory under
    /// `/run/safe-upgrade` until the value is dropped. Repeatable.
    ///
    /// # Errors
    /// When `mount` is not on btrfs, or no device of the filesystem could be mounted.
    pub fn open(mount: &Path) -> Result<Self, SnapshotError> {
        let table = mounts::read()?;
        let entry = mounts::holding(&table, mount)?.clone();
        if entry.fs_type != "btrfs" {
            return Err(SnapshotError::NotBtrfs { path: mount.to_owned(), fs_type: entry.fs_type });
        }
        let uuid = subvolume::filesystem_of(&entry.point)?;
        let (device, attached) = attach_any(&entry, Some(TOP_LEVEL_ID))?;
        let found = ioctl::filesystem_info(attached.directory())
            .map_err(SnapshotError::path("ask btrfs about", &device))?;
        if Uuid::from_bytes(found.uuid) != uuid {
            return Err(SnapshotError::OtherFilesystem { device, mount: entry.point });
        }
        Ok(Self { attached, device, uuid, mount: entry })
    }

    /// The UUID of the filesystem.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The device that it was mounted from: one that works from inside a container too.
    #[must_use]
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// An absolute path to something below the top level. Valid in this process only, while this value lives.
    #[must_use]
    pub fn path(&self, below: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.directory().as_raw_fd())).join(below)
    }

    /// The facts of a subvolume by its name; `None` when there is none of that name.
    ///
    /// # Errors
    /// Also when the name belongs to something that is not a subvolume.
    pub fn find(&self, name: &str) -> Result<Option<Subvolume>, SnapshotError> {
        let Some(fd) = self.open_name(name)? else { return Ok(None) };
        subvolume::read(&fd).map(Some).map_err(SnapshotError::subvolume("ask about", name))
    }

    /// As [`TopLevel::find`], for one that must be there.
    ///
    /// # Errors
    /// [`SnapshotError::Gone`] when there is none of that name.
    pub fn get(&self, name: &str) -> Result<Subvolume, SnapshotError> {
        self.find(name)?.ok_or_else(|| SnapshotError::Gone(name.to_owned()))
    }

    /// All subvolumes directly on the top level (not in directories there), by name.
    ///
    /// # Errors
    /// When btrfs cannot be asked.
    pub fn list(&self) -> Result<Vec<Subvolume>, SnapshotError> {
        let failed = || SnapshotError::path("list the subvolumes of", &self.device);
        let mut all = Vec::new();
        for (id, directory) in ioctl::subvolumes_below(self.directory()).map_err(failed())? {
            if directory != subvolume::ROOT_INODE {
                continue;
            }
            let name = ioctl::path_below(self.directory(), id, directory).map_err(failed())?;
            let name = Path::new(OsStr::from_bytes(&name));
            // Deleted since it was listed: then it is not there any more.
            if let Some(fd) = subvolume::open_below(self.directory(), name).map_err(failed())? {
                all.push(subvolume::read(&fd).map_err(failed())?);
            }
        }
        all.sort_by(|left: &Subvolume, right| left.name.cmp(&right.name));
        Ok(all)
    }

    /// All subvolumes inside another one, at any depth, given that one's path from the top level.
    ///
    /// # Errors
    /// When there is no such subvolume, or btrfs cannot be asked.
    pub fn nested(&self, upper: &Path) -> Result<Vec<Nested>, SnapshotError> {
        let shown = crate::system::show::path(upper);
        let fd = subvolume::open_below(self.directory(), upper)
            .map_err(SnapshotError::subvolume("open", &shown))?
            .ok_or_else(|| SnapshotError::Gone(shown.clone()))?;
        subvolume::nested(&fd).map_err(SnapshotError::subvolume("list what is nested in", &shown))
    }

    /// Whether anything at all has a name on the top level.
    ///
    /// # Errors
    /// When it cannot be found out.
    pub fn is_taken(&self, name: &str) -> Result<bool, SnapshotError> {
        match self.find(name) {
            Ok(found) => Ok(found.is_some()),
            Err(SnapshotError::NotSubvolume(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The facts of the subvolume that is mounted where this was opened: the running root. Its name is the one it has right
    /// now, which after an exchange is not the name that it was mounted by.
    ///
    /// # Errors
    /// When btrfs cannot be asked.
    pub fn running_root(&self) -> Result<Subvolume, SnapshotError> {
        subvolume::holding(&self.mount.point)
    }

    /// The id of the subvolume that a mount without `subvol=` gets.
    ///
    /// # Errors
    /// When it cannot be mounted to look.
    pub fn default_subvolume(&self) -> Result<u64, SnapshotError> {
        let (device, attached) = attach_any(&self.mount, None)?;
        let found =
            subvolume::read(attached.directory()).map_err(SnapshotError::path("ask btrfs about", device))?;
        Ok(found.id)
    }

    /// Makes an empty subvolume. Probe first: an existing one is left as it is. On disk when it returns.
    ///
    /// # Errors
    /// When the name is taken by something else, or btrfs refuses.
    pub fn create(&self, name: &str) -> Result<Made, SnapshotError> {
        if let Some(subvolume) = self.find(name)? {
            return Ok(Made { change: Change::Unchanged, subvolume });
        }
        Named::create(&*self.path(Path::new(name)), None::<QgroupInherit>)
            .map_err(|error| refused("create", name, &error))?;
        self.made(name)
    }

    /// Seals the present content of `source` under `name`, read-only. Probe first: an existing one is accepted when it is a
    /// read-only snapshot of the very same subvolume. On disk when it returns, with all data written to the source before.
    ///
    /// # Errors
    /// [`SnapshotError::NotTheOne`] when the name is taken by something else.
    pub fn snapshot_read_only(&self, source: &str, name: &str) -> Result<Made, SnapshotError> {
        self.copy(source, name, true)
    }

    /// Makes a writable clone of `source` under `name`. Probe first: an existing one is accepted when it is a writable clone
    /// of the very same subvolume. On disk when it returns.
    ///
    /// # Errors
    /// [`SnapshotError::NotTheOne`] when the name is taken by something else.
    pub fn clone_writable(&self, source: &str, name: &str) -> Result<Made, SnapshotError> {
        self.copy(source, name, false)
    }

    /// Lets two subvolumes swap their names in one step. What is mounted stays mounted, under its other name. Once: a second
    /// call swaps back, so the caller looks by UUID first. On disk when it returns; before that, a power cut leaves either
    /// both names as they were or both swapped.
    ///
    /// # Errors
    /// When one of them is missing or is no subvolume; then nothing was changed.
    pub fn exchange(&self, one: &str, other: &str) -> Result<(), SnapshotError> {
        self.get(one)?;
        self.get(other)?;
        rustix::fs::renameat_with(self.directory(), one, self.directory(), other, RenameFlags::EXCHANGE)
            .map_err(SnapshotError::subvolume("exchange", one))?;
        self.sync("exchange", one)
    }

    /// Deletes a subvolume. Probe first: one that is gone is fine. On disk when it returns. systemd's empty subvolumes inside
    /// it go with it.
    ///
    /// # Errors
    /// Nothing was deleted when it is not the one with the expected UUID, is mounted, or holds other subvolumes.
    pub fn delete(&self, name: &str, expected: Uuid) -> Result<Change, SnapshotError> {
        let Some(found) = self.find(name)? else {
            self.sync("delete", name)?;
            return Ok(Change::Unchanged);
        };
        if found.uuid != expected {
            let why = format!("its UUID is {}, not {expected}", found.uuid);
            return Err(SnapshotError::NotTheOne { name: name.to_owned(), why });
        }
        if let Some(point) = self.mounted_at(found.id)? {
            return Err(SnapshotError::Mounted { name: name.to_owned(), point });
        }
        self.delete_unused_nested(name)?;
        let path = self.path(Path::new(name));
        Named::get(&*path)
            .and_then(|named| named.delete(DeleteFlags::empty()))
            .map_err(|error| refused("delete", name, &error))?;
        self.sync("delete", name)?;
        Ok(Change::Changed)
    }

    /// [`TopLevel::delete`] for one whose content nobody wants: the subvolumes inside it go with it, whatever they hold.
    ///
    /// # Errors
    /// Nothing was deleted when it is not the one with the expected UUID, or is mounted.
    pub fn delete_with_nested(&self, name: &str, expected: Uuid) -> Result<Change, SnapshotError> {
        // Inner ones first: the list has a subvolume before those that it holds.
        if self.find(name)?.is_some_and(|found| found.uuid == expected) {
            for nested in self.nested(Path::new(name))?.iter().rev() {
                let path = Path::new(name).join(&nested.path);
                Named::get(&*self.path(&path))
                    .and_then(|named| named.delete(DeleteFlags::empty()))
                    .map_err(|error| refused("delete", &crate::system::show::path(&path), &error))?;
            }
        }
        self.delete(name, expected)
    }

    /// How full the filesystem is.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn usage(&self) -> Result<Usage, SnapshotError> {
        let failed = || SnapshotError::path("ask for the usage of", &self.device);
        let filesystem = ioctl::filesystem_info(self.directory()).map_err(failed())?;
        let (mut total, mut allocated) = (0_u64, 0_u64);
        // Device 0 exists only while one is being replaced; its space is not usable yet.
        for id in 1..=filesystem.max_device {
            if let Some(device) = ioctl::device_info(self.directory(), id).map_err(failed())? {
                total = total.saturating_add(device.total);
                allocated = allocated.saturating_add(device.allocated);
            }
        }
        let blocks = rustix::fs::fstatvfs(self.directory()).map_err(failed())?;
        Ok(Usage {
            total,
            used: blocks.f_blocks.saturating_sub(blocks.f_bfree).saturating_mul(blocks.f_frsize),
            free_estimate: blocks.f_bavail.saturating_mul(blocks.f_frsize),
            unallocated: total.saturating_sub(allocated),
            devices: filesystem.devices,
        })
    }

    fn copy(&self, source: &str, name: &str, read_only: bool) -> Result<Made, SnapshotError> {
        let original = self.get(source)?;
        if let Some(subvolume) = self.find(name)? {
            check_copy(&subvolume, &original, read_only)
                .map_err(|why| SnapshotError::NotTheOne { name: name.to_owned(), why })?;
            return Ok(Made { change: Change::Unchanged, subvolume });
        }
        let flags = if read_only { SnapshotFlags::READ_ONLY } else { SnapshotFlags::empty() };
        Named::get(&*self.path(Path::new(source)))
            .and_then(|named| named.snapshot(&*self.path(Path::new(name)), flags, None::<QgroupInherit>))
            .map_err(|error| refused("snapshot", source, &error))?;
        let made = self.made(name)?;
        // Between the first look and the snapshot somebody could have exchanged the source.
        check_copy(&made.subvolume, &original, read_only)
            .map_err(|why| SnapshotError::NotTheOne { name: name.to_owned(), why })?;
        Ok(made)
    }

    fn made(&self, name: &str) -> Result<Made, SnapshotError> {
        self.sync("create", name)?;
        Ok(Made { change: Change::Changed, subvolume: self.get(name)? })
    }

    fn delete_unused_nested(&self, name: &str) -> Result<(), SnapshotError> {
        let nested = self.nested(Path::new(name))?;
        let others: Vec<String> = nested
            .iter()
            .filter(|nested| !nested.is_unused_of_systemd())
            .map(|nested| crate::system::show::path(&nested.path))
            .collect();
        if !others.is_empty() {
            return Err(SnapshotError::HoldsOthers { name: name.to_owned(), nested: others });
        }
        for nested in nested {
            // rmdir deletes a subvolume only when it is empty: what appeared in it since is safe.
            rustix::fs::unlinkat(self.directory(), Path::new(name).join(nested.path), AtFlags::REMOVEDIR)
                .map_err(SnapshotError::subvolume("delete what is nested in", name))?;
        }
        Ok(())
    }

    fn mounted_at(&self, id: u64) -> Result<Option<PathBuf>, SnapshotError> {
        let id = id.to_string();
        let here = |mount: &mounts::Mount| {
            mount.device == self.mount.device && mount.option("subvolid") == Some(id.as_str())
        };
        Ok(mounts::read()?.into_iter().find(here).map(|mount| mount.point))
    }

    fn open_name(&self, name: &str) -> Result<Option<OwnedFd>, SnapshotError> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(SnapshotError::BadName(name.to_owned()));
        }
        match subvolume::open_below(self.directory(), Path::new(name)) {
            Err(rustix::io::Errno::NOTDIR) => Err(SnapshotError::NotSubvolume(name.to_owned())),
            answer => answer.map_err(SnapshotError::subvolume("open", name)),
        }
    }

    fn sync(&self, action: &'static str, name: &str) -> Result<(), SnapshotError> {
        rustix::fs::syncfs(self.directory()).map_err(SnapshotError::subvolume(action, name))
    }

    /// Its root directory, open.
    pub(super) fn directory(&self) -> &OwnedFd {
        self.attached.directory()
    }
}

/// Whether `copy` is a copy of `original`, by UUID.
fn check_copy(copy: &Subvolume, original: &Subvolume, read_only: bool) -> Result<(), String> {
    if copy.parent_uuid != Some(original.uuid) {
        return Err(format!("it is no copy of {} ({})", original.name, original.uuid));
    }
    if copy.read_only != read_only {
        return Err(if read_only { "it is writable" } else { "it is read-only" }.to_owned());
    }
    Ok(())
}

/// The device in the mount table may be a name from the initramfs (`/dev/root`), or one that a container does not have; the
/// kernel knows the others.
fn attach_any(mount: &mounts::Mount, subvolume: Option<u64>) -> Result<(PathBuf, Attached), SnapshotError> {
    let mut device = PathBuf::from(&mount.source);
    let mut failure = match attach(&device, subvolume) {
        Ok(attached) => return Ok((device, attached)),
        Err(error) => error,
    };
    for path in subvolume::devices(&mount.point)? {
        device = path;
        match attach(&device, subvolume) {
            Ok(attached) => return Ok((device, attached)),
            Err(error) => failure = error,
        }
    }
    Err(SnapshotError::Mount { device, source: failure })
}

/// btrfsutil's error names the step, errno (still that of the failed call) the reason.
fn refused(action: &'static str, name: &str, error: &btrfsutil::error::LibError) -> SnapshotError {
    let reason = std::io::Error::last_os_error();
    let source = std::io::Error::new(reason.kind(), format!("{error}: {reason}"));
    SnapshotError::Subvolume { action, name: name.to_owned(), source }
}
