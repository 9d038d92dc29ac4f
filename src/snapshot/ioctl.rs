//! Questions to btrfs that btrfsutil 0.2.0 cannot ask soundly: by open file instead of by path, and without its panics.
//!
//! All five calls read; none changes anything. The structures are those of
//! `linux/btrfs.h` (all fields plain integers, so that any bytes the kernel writes are valid values); their sizes are part
//! of the request number and are checked at compile time.

use std::os::fd::AsFd;

use rustix::io::{Errno, Result};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// `BTRFS_IOCTL_MAGIC`.
const MAGIC: u8 = 0x94;
const DEVICE_INFO: Opcode = opcode::read_write::<DeviceInfo>(MAGIC, 30);
const FILESYSTEM_INFO: Opcode = opcode::read::<FilesystemInfo>(MAGIC, 31);
const SUBVOLUME_INFO: Opcode = opcode::read::<SubvolumeInfo>(MAGIC, 60);
const ROOT_REFS: Opcode = opcode::read_write::<RootRefs>(MAGIC, 61);
const INODE_LOOKUP: Opcode = opcode::read_write::<InodeLookup>(MAGIC, 62);

const _: () = assert!(size_of::<DeviceInfo>() == 4096);
const _: () = assert!(size_of::<FilesystemInfo>() == 1024);
const _: () = assert!(size_of::<SubvolumeInfo>() == 504);
const _: () = assert!(size_of::<RootRefs>() == 4096);
const _: () = assert!(size_of::<InodeLookup>() == 4096);

/// `struct btrfs_ioctl_timespec`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Time {
    pub(super) seconds: u64,
    pub(super) nanoseconds: u32,
}

const EPOCH: Time = Time { seconds: 0, nanoseconds: 0 };

/// `struct btrfs_ioctl_get_subvol_info_args`.
#[repr(C)]
pub(super) struct SubvolumeInfo {
    pub(super) id: u64,
    pub(super) name: [u8; 256],
    pub(super) parent_id: u64,
    pub(super) directory: u64,
    pub(super) generation: u64,
    pub(super) flags: u64,
    pub(super) uuid: [u8; 16],
    pub(super) parent_uuid: [u8; 16],
    pub(super) received_uuid: [u8; 16],
    pub(super) changed_generation: u64,
    pub(super) created_generation: u64,
    sent_generation: u64,
    received_generation: u64,
    changed: Time,
    pub(super) created: Time,
    sent: Time,
    received: Time,
    reserved: [u64; 8],
}

/// `struct btrfs_ioctl_get_subvol_rootref_args`.
#[repr(C)]
struct RootRefs {
    minimum: u64,
    /// Pairs of a subvolume's id and the inode of the directory that holds its name.
    found: [[u64; 2]; 255],
    count: u8,
    align: [u8; 7],
}

/// `struct btrfs_ioctl_ino_lookup_user_args`.
#[repr(C)]
struct InodeLookup {
    directory: u64,
    subvolume: u64,
    name: [u8; 256],
    path: [u8; 3824],
}

/// `struct btrfs_ioctl_fs_info_args`.
#[repr(C)]
pub(super) struct FilesystemInfo {
    pub(super) max_device: u64,
    pub(super) devices: u64,
    pub(super) uuid: [u8; 16],
    sizes: [u32; 3],
    checksum: [u16; 2],
    flags: u64,
    generation: u64,
    metadata_uuid: [u8; 16],
    reserved: [u8; 944],
}

/// `struct btrfs_ioctl_dev_info_args`.
#[repr(C)]
pub(super) struct DeviceInfo {
    id: u64,
    uuid: [u8; 16],
    pub(super) allocated: u64,
    pub(super) total: u64,
    unused: [u64; 379],
    pub(super) path: [u8; 1024],
}

/// `BTRFS_IOC_GET_SUBVOL_INFO`: the subvolume that holds the open file (also when the file is not its root).
pub(super) fn subvolume_info(fd: impl AsFd) -> Result<SubvolumeInfo> {
    let mut value = SubvolumeInfo {
        id: 0,
        name: [0; 256],
        parent_id: 0,
        directory: 0,
        generation: 0,
        flags: 0,
        uuid: [0; 16],
        parent_uuid: [0; 16],
        received_uuid: [0; 16],
        changed_generation: 0,
        created_generation: 0,
        sent_generation: 0,
        received_generation: 0,
        changed: EPOCH,
        created: EPOCH,
        sent: EPOCH,
        received: EPOCH,
        reserved: [0; 8],
    };
    #[expect(unsafe_code, reason = "btrfsutil 0.2.0 asks by path only and panics on odd times")]
    // SAFETY: the request number carries the size of `SubvolumeInfo`, asserted to be the kernel's; the kernel writes no
    // more than that, into a value that we own and that accepts any bytes.
    unsafe {
        ioctl(fd, Updater::<SUBVOLUME_INFO, _>::new(&mut value))?;
    }
    Ok(value)
}

/// `BTRFS_IOC_GET_SUBVOL_ROOTREF`: the subvolumes directly below the one that holds the open file, each as its id and the
/// inode of the directory (in the upper subvolume) that holds its name.
pub(super) fn subvolumes_below(fd: impl AsFd) -> Result<Vec<(u64, u64)>> {
    let fd = fd.as_fd();
    let mut all = Vec::new();
    let mut value = RootRefs { minimum: 0, found: [[0; 2]; 255], count: 0, align: [0; 7] };
    loop {
        #[expect(unsafe_code, reason = "btrfsutil 0.2.0 lists relative to the working directory")]
        // SAFETY: as above for `RootRefs`; on EOVERFLOW the kernel has filled the value as well.
        let answer = unsafe { ioctl(fd, Updater::<ROOT_REFS, _>::new(&mut value)) };
        // EOVERFLOW: these, and more after them; the kernel has moved `minimum` on.
        if !matches!(answer, Ok(()) | Err(Errno::OVERFLOW)) {
            return answer.map(|()| all);
        }
        all.extend(value.found.iter().take(value.count.into()).map(|[id, directory]| (*id, *directory)));
        if answer.is_ok() {
            return Ok(all);
        }
    }
}

/// `BTRFS_IOC_INO_LOOKUP_USER`: the path from the open directory to a subvolume below it, given the inode of the directory
/// that holds its name.
pub(super) fn path_below(fd: impl AsFd, subvolume: u64, directory: u64) -> Result<Vec<u8>> {
    let mut value = InodeLookup { directory, subvolume, name: [0; 256], path: [0; 3824] };
    #[expect(unsafe_code, reason = "btrfsutil 0.2.0 resolves relative to the working directory")]
    // SAFETY: as above for `InodeLookup`.
    unsafe {
        ioctl(fd, Updater::<INODE_LOOKUP, _>::new(&mut value))?;
    }
    let mut path = until_nul(&value.path).to_vec();
    path.extend_from_slice(until_nul(&value.name));
    Ok(path)
}

/// `BTRFS_IOC_FS_INFO`: the filesystem that holds the open file.
pub(super) fn filesystem_info(fd: impl AsFd) -> Result<FilesystemInfo> {
    let mut value = FilesystemInfo {
        max_device: 0,
        devices: 0,
        uuid: [0; 16],
        sizes: [0; 3],
        checksum: [0; 2],
        flags: 0,
        generation: 0,
        metadata_uuid: [0; 16],
        reserved: [0; 944],
    };
    #[expect(unsafe_code, reason = "btrfsutil has no such call")]
    // SAFETY: as above for `FilesystemInfo`.
    unsafe {
        ioctl(fd, Updater::<FILESYSTEM_INFO, _>::new(&mut value))?;
    }
    Ok(value)
}

/// `BTRFS_IOC_DEV_INFO`: one device of the filesystem by its number; `None` when there is none with that number.
pub(super) fn device_info(fd: impl AsFd, id: u64) -> Result<Option<DeviceInfo>> {
    let mut value =
        DeviceInfo { id, uuid: [0; 16], allocated: 0, total: 0, unused: [0; 379], path: [0; 1024] };
    #[expect(unsafe_code, reason = "btrfsutil has no such call")]
    // SAFETY: as above for `DeviceInfo`.
    let answer = unsafe { ioctl(fd, Updater::<DEVICE_INFO, _>::new(&mut value)) };
    match answer {
        Ok(()) => Ok(Some(value)),
        Err(Errno::NODEV) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The bytes before the first NUL.
pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}
