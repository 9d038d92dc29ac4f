//! Mounting a subvolume where nobody else sees it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount, unmount,
};

/// Where the fallback mounts.
const PRIVATE: &str = "/run/safe-upgrade";

/// A mounted subvolume that goes away with this value.
#[derive(Debug)]
pub(super) struct Attached {
    directory: OwnedFd,
    _mount: Mount,
}

#[derive(Debug)]
enum Mount {
    /// Not in any mount table; the kernel drops it with the process, even a killed one.
    Detached { _mount: OwnedFd },
    /// At a directory of ours, for kernels and sandboxes without `fsopen`.
    Private(PathBuf),
}

/// Mounts a subvolume by its id, or the default one (`None`), preferably detached.
pub(super) fn attach(device: &Path, subvolume: Option<u64>) -> std::io::Result<Attached> {
    match detached(device, subvolume) {
        Ok(attached) => Ok(attached),
        // Why the new calls were refused does not matter if the old one works; if it fails too, its reason is the one to show.
        Err(_) => private(device, subvolume),
    }
}

impl Attached {
    /// Its root directory, open for reading.
    pub(super) fn directory(&self) -> &OwnedFd {
        &self.directory
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Self::Private(point) = self {
            // Lazily: nothing of ours is open in it any more, and a scanner that looks in must not keep it. Never recursive:
            // if it is still mounted, rmdir fails and nothing is lost.
            if unmount(point.as_path(), UnmountFlags::DETACH).is_ok() {
                drop(std::fs::remove_dir(&point));
            }
        }
    }
}

fn detached(device: &Path, subvolume: Option<u64>) -> Result<Attached, Errno> {
    let context = fsopen("btrfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", device)?;
    if let Some(id) = subvolume {
        fsconfig_set_string(context.as_fd(), "subvolid", id.to_string())?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOATIME
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let directory = open_root(&mount)?;
    Ok(Attached { directory, _mount: Mount::Detached { _mount: mount } })
}

fn private(device: &Path, subvolume: Option<u64>) -> std::io::Result<Attached> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let point = PathBuf::from(format!("{PRIVATE}/top-{}-{number}", std::process::id()));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&point)?;
    let options = subvolume.map(|id| format!("subvolid={id}")).unwrap_or_default();
    let options = std::ffi::CString::new(options)?;
    let flags = MountFlags::NOATIME | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    if let Err(errno) = mount(device, point.as_path(), "btrfs", flags, options.as_c_str()) {
        drop(std::fs::remove_dir(&point));
        return Err(errno.into());
    }
    let mounted = Mount::Private(point.clone());
    let directory =
        rustix::fs::open(&point, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(Attached { directory, _mount: mounted })
}

/// The descriptor of a detached mount is a mere path; asking and syncing need an open directory.
fn open_root(mount: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(mount, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::subvolume;
    use crate::system::exec::Exec;

    #[test]
    fn the_fallback_mounts_and_leaves_nothing_behind() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(200 << 20).unwrap();
        let Ok(mkfs) = Exec::new("mkfs.btrfs") else {
            println!("skipped: needs mkfs.btrfs");
            return;
        };
        mkfs.arg("-q").arg(&image).success().unwrap();
        let device = Exec::new("losetup").unwrap().args(["--find", "--show"]).arg(&image).text().unwrap();
        let attached = private(Path::new(device.trim()), Some(5));
        // In use it goes away with the last mount; unused, now.
        Exec::new("losetup").unwrap().args(["--detach", device.trim()]).success().unwrap();
        let attached = attached.unwrap();
        assert_eq!(subvolume::read(attached.directory()).unwrap().id, 5);
        let Mount::Private(point) = &attached._mount else { panic!("not the fallback") };
        let point = point.clone();
        assert!(point.exists());
        drop(attached);
        assert!(!point.exists());
    }
}
