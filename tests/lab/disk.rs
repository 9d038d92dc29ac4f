//! A btrfs or ext4 image on a loop device, and the plug that can be pulled.
#![expect(unsafe_code, reason = "two ioctls of the loop driver that no tool offers")]

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::ioctl::{Getter, Setter, ioctl};

use super::place::{detach_loops, locked};
use super::{Result, context, tool};

/// The subvolume that the machine boots from.
pub const ROOT_SUBVOLUME: &str = "@";

/// The subvolume that is mounted at `/home`.
pub const HOME_SUBVOLUME: &str = "@home";

/// As large as a small server's disk; the file is sparse and stays at about one gigabyte.
const SIZE: u64 = 8 << 30;

/// Held by whoever takes a loop device, on the whole host: one that was just given back for a moment is not free.
const LOOPS: &str = "/run/safe-upgrade-lab-loops.lock";

/// From `linux/loop.h`.
const LOOP_SET_STATUS64: u32 = 0x4C04;
const LOOP_GET_STATUS64: u32 = 0x4C05;

/// An image file behind a loop device.
#[derive(Debug, Clone)]
pub struct Disk {
    image: PathBuf,
    device: PathBuf,
    ext4: bool,
}

impl Disk {
    /// Makes an image with an empty btrfs and the two subvolumes of a usual installation.
    pub fn format(image: &Path, scratch: &Path) -> Result<Self> {
        File::create_new(image)?.set_len(SIZE)?;
        tool("mkfs.btrfs", &["--quiet", "--label", "lab", &image.to_string_lossy()])?;
        let disk = Self::attach(image)?;
        fs::create_dir_all(scratch)?;
        disk.mount_top(scratch)?;
        for name in [ROOT_SUBVOLUME, HOME_SUBVOLUME] {
            tool("btrfs", &["-q", "subvolume", "create", &scratch.join(name).to_string_lossy()])?;
        }
        tool("umount", &[&scratch.to_string_lossy()])?;
        Ok(disk)
    }

    /// Makes an image with an empty ext4: a machine without snapshots.
    pub fn format_ext4(image: &Path) -> Result<Self> {
        File::create_new(image)?.set_len(SIZE)?;
        tool("mkfs.ext4", &["-q", "-L", "lab", &image.to_string_lossy()])?;
        Self::attach(image)
    }

    /// Puts a loop device in front of an image.
    pub fn attach(image: &Path) -> Result<Self> {
        let _no_other = locked(Path::new(LOOPS))?;
        let device = tool("losetup", &["--find", "--show", &image.to_string_lossy()])?;
        let device = PathBuf::from(device.trim());
        let fs_type = tool("blkid", &["-p", "-s", "TYPE", "-o", "value", &device.to_string_lossy()])?;
        Ok(Self { image: image.to_owned(), device, ext4: fs_type.trim() == "ext4" })
    }

    /// Whether it has the subvolumes of a usual installation.
    pub fn has_subvolumes(&self) -> bool {
        !self.ext4
    }

    /// Puts the same loop device in front of the image anew: units of the machine know it by that name.
    pub fn reattach(&self) -> Result<()> {
        let _no_other = locked(Path::new(LOOPS))?;
        self.detach()?;
        tool("losetup", &[&self.device.to_string_lossy(), &self.image.to_string_lossy()]).map(drop)
    }

    /// The block device.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// Mounts a subvolume by its name, as a boot does; the whole of an ext4, whatever the name.
    pub fn mount(&self, subvolume: &str, at: &Path) -> Result<()> {
        self.mount_with(&format!("subvol={subvolume}"), at)
    }

    /// Mounts the top level of the file system, which shows all subvolumes.
    pub fn mount_top(&self, at: &Path) -> Result<()> {
        self.mount_with("subvolid=5", at)
    }

    /// From this moment on nothing is written to the image any more, whatever the kernel still has in memory.
    ///
    /// Shrinks the loop device to one sector: each later read or write is beyond its end and fails, as on a disk without power.
    pub fn cut(&self) -> Result<()> {
        let device = File::options().read(true).write(true).open(&self.device)?;
        let mut status = loop_status(&device)?;
        status.size_limit = 512;
        context(set_loop_status(&device, status), format_args!("cut {}", self.device.display()))
    }

    /// Takes the loop device away; the image stays.
    ///
    /// Fails when the kernel keeps the device: a mount namespace elsewhere still has the file system mounted.
    pub fn detach(&self) -> Result<()> {
        // The kernel remembers the newest generation that it has seen of a file system and refuses an older copy of it.
        drop(tool("btrfs", &["device", "scan", "--forget", &self.device.to_string_lossy()]));
        detach_loops(&self.image)?;
        let left = tool("losetup", &["-j", &self.image.to_string_lossy()])?;
        if left.is_empty() {
            return Ok(());
        }
        let device = self.device.display();
        Err(io::Error::other(format!(
            "{device} is still in use, perhaps in a mount namespace elsewhere: {}",
            users(&self.device)
        )))
    }

    fn mount_with(&self, options: &str, at: &Path) -> Result<()> {
        let (device, at) = (self.device.to_string_lossy(), at.to_string_lossy());
        if self.ext4 {
            return tool("mount", &["-t", "ext4", &device, &at]).map(drop);
        }
        tool("mount", &["-t", "btrfs", "-o", options, &device, &at]).map(drop)
    }
}

/// The processes in whose mount namespace the device is mounted, for the error.
fn users(device: &Path) -> String {
    let device = format!(" {} ", device.display());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().filter(|entry| {
        fs::read_to_string(entry.path().join("mountinfo")).is_ok_and(|table| table.contains(&device))
    });
    let names = processes.map(|entry| {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command: String =
            String::from_utf8_lossy(&command).replace('\0', " ").chars().take(160).collect();
        format!("{} ({command})", entry.file_name().to_string_lossy())
    });
    names.take(5).collect::<Vec<_>>().join(", ")
}

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopStatus {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

fn loop_status(device: &File) -> io::Result<LoopStatus> {
    // SAFETY: the kernel fills exactly one `struct loop_info64`, whose layout `LoopStatus` has; any bytes are valid in it.
    Ok(unsafe { ioctl(device, Getter::<LOOP_GET_STATUS64, LoopStatus>::new()) }?)
}

fn set_loop_status(device: &File, status: LoopStatus) -> io::Result<()> {
    // SAFETY: the kernel reads exactly one `struct loop_info64`, whose layout `LoopStatus` has.
    Ok(unsafe { ioctl(device, Setter::<LOOP_SET_STATUS64, LoopStatus>::new(status)) }?)
}
