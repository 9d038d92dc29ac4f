//! How this machine boots: firmware, boot loader, where `/boot` and the ESP lie, what could write where. Facts only; what
//! they are worth is judged in [`super::judge`].

mod core_image;
mod disk;
mod facts;
mod grub;
mod menu_place;
mod systemd_boot;
mod table;
mod volumes;

use std::path::{Path, PathBuf};

/// How a machine boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootLayout {
    /// This system is a container: no kernel and no boot loader are its own.
    pub container: bool,
    /// What starts the boot loader.
    pub firmware: Firmware,
    /// What starts the kernel.
    pub loader: Loader,
    /// Where `/boot` lies.
    pub boot: BootPlace,
    /// The EFI system partition, when one is mounted.
    pub esp: Option<Partition>,
    /// What makes the initial RAM disks; `None` when nothing is installed that could.
    pub initramfs: Option<Initramfs>,
    /// Whether the running kernel can start another one.
    pub kexec: Kexec,
    /// A hardware watchdog is there.
    pub watchdog: bool,
    /// The running kernel's release, as `uname -r` says it.
    pub kernel: String,
    /// The running kernel's command line.
    pub command_line: String,
}

/// What starts the boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// A BIOS, or an UEFI that acts as one.
    Bios,
    /// UEFI.
    Uefi {
        /// Whether it starts signed programs only; `None` when it has no such variable, or the variables cannot be seen.
        secure_boot: Option<bool>,
    },
}

/// What starts the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loader {
    /// GRUB 2.
    Grub(Grub),
    /// systemd-boot.
    SystemdBoot(SystemdBoot),
    /// One that this program knows by name only.
    Other(&'static str),
    /// None was found.
    None,
}

/// What there is of GRUB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grub {
    /// The version of the installed package, e.g. `2.06-13+deb12u1`; `None` when dpkg knows of none.
    pub version: Option<String>,
    /// The places from which the firmware starts it.
    pub core: Vec<CoreImage>,
    /// Its modules and its menu, as the running system sees them.
    pub directory: PathBuf,
    /// There is a `grub.cfg` in its directory.
    pub menu: bool,
    /// Where its directory lies, as GRUB would name it; or why that is not known.
    pub menu_place: Result<MenuPlace, String>,
}

/// A directory by the names that GRUB has for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MenuPlace {
    /// The filesystem's UUID.
    pub uuid: String,
    /// The path from the filesystem's top; on btrfs that begins with the subvolume: `/@/boot/grub`.
    pub path: String,
    /// The numbers of the partitions on which the filesystem lies; empty where it lies on anything else as well.
    pub partitions: Vec<u32>,
}

/// What there is of systemd-boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemdBoot {
    /// It says that it boots an entry once by a variable.
    pub one_shot: bool,
    /// The firmware's variables can be written; or why not.
    pub variables: Result<(), String>,
    /// The file of the entry that boots the running system, of which a copy can be made; or why not.
    pub entry: Result<String, String>,
    /// There is a program that repairs the ESP at boot.
    pub fsck: bool,
}

/// A place from which the firmware starts GRUB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreImage {
    /// For people: `disk /dev/vda, partition 1 (bios_grub)`, `/boot/efi/EFI/debian/grubx64.efi`.
    pub place: String,
    /// Where it looks for its modules and its menu, when that can be read: `(,gpt4)/@/boot/grub`. For the `grub.cfg` beside a signed
    /// image the filesystem's UUID in parentheses and the path: `(UUID)/@/boot/grub`.
    pub prefix: Option<String>,
}

/// Where `/boot` lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootPlace {
    /// In the root's own filesystem.
    Inside,
    /// In a filesystem of its own.
    Separate(Partition),
}

/// A mounted filesystem on a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Where it is mounted.
    pub point: PathBuf,
    /// The device, as the mount table names it.
    pub device: PathBuf,
    /// `ext4`, `vfat`, ...
    pub fs_type: String,
    /// The filesystem's UUID in the form of GRUB's `search --fs-uuid` (vfat: `XXXX-XXXX`, upper case).
    pub uuid: Option<String>,
    /// A plain partition of a plain disk, to which GRUB can write; or why it is not.
    pub plain: Result<(), String>,
    /// Mounted read-only.
    pub read_only: bool,
}

/// What makes the initial RAM disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initramfs {
    /// initramfs-tools.
    InitramfsTools,
    /// dracut.
    Dracut,
}

/// Whether the running kernel can start another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kexec {
    /// Nothing speaks against it.
    Possible,
    /// It cannot, and why.
    Impossible(String),
}

/// The boot code of one disk: what a BIOS and GRUB's first stage read by position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootCode {
    /// The disk's device.
    pub disk: PathBuf,
    /// Its parts, by offset; none overlaps a partition table.
    pub parts: Vec<CodePart>,
}

/// One stretch of boot code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodePart {
    /// A file name for its copy: `mbr`, `bios-grub-1` (with the partition's number), `gap`.
    pub name: String,
    /// Bytes from the start of the disk.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// How the machine boots could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file or device could not be read.
    #[error("failed to read {}", .path.display())]
    Read {
        /// The file or device.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The mount table could not be used.
    #[error(transparent)]
    Mounts(#[from] crate::system::mounts::MountsError),
    /// The disks below a path could not be found out.
    #[error(transparent)]
    Disks(#[from] crate::system::disks::DisksError),
    /// systemd-boot's variables or entries could not be read.
    #[error(transparent)]
    SystemdBoot(#[from] super::systemd_boot::SystemdBootError),
    /// A program failed.
    #[error(transparent)]
    Exec(#[from] crate::system::exec::ExecError),
    /// A disk's partition table makes no sense, so nobody can tell where its boot code lies.
    #[error("the partition table of {} makes no sense: {why}", .disk.display())]
    Table {
        /// The disk.
        disk: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Finds out how the system below `root` boots: `/` on a live machine.
///
/// # Errors
/// When anything that is there cannot be read: "could not find out" is never a fact.
pub fn read(root: &Path) -> Result<BootLayout, LayoutError> {
    read_asking(root, &Machine { uuid: volumes::uuid, core: disk::cores, kexec: super::kexec::probe })
}

/// The boot code on the disks below GRUB's directory and below the root: the code in the first sector (never the partition
/// table in it), and what comes after it. Empty where no disk has any.
///
/// # Errors
/// As [`read`].
pub fn boot_code(root: &Path) -> Result<Vec<BootCode>, LayoutError> {
    disk::boot_code(root)
}

/// What only a live machine answers, apart so that everything else can be read from a made-up tree.
struct Machine {
    uuid: fn(&Path) -> Result<Option<String>, LayoutError>,
    core: fn(&Path) -> Result<Vec<CoreImage>, LayoutError>,
    kexec: fn() -> std::io::Result<()>,
}

fn read_asking(root: &Path, machine: &Machine) -> Result<BootLayout, LayoutError> {
    let container = facts::is_container(root)?;
    let firmware = facts::firmware(root)?;
    let kernel = text(&root.join("proc/sys/kernel/osrelease"))?.trim().to_owned();
    let command_line = text(&root.join("proc/cmdline"))?.trim().to_owned();
    let (boot, esp, loader, kexec) = if container {
        // Disks, kernel and firmware that can be seen from in here are the host's.
        (
            BootPlace::Inside,
            None,
            Loader::None,
            Kexec::Impossible("a container has no kernel of its own".into()),
        )
    } else {
        let (boot, esp) = volumes::find(root, machine.uuid)?;
        let mut loader = grub::loader(root, firmware, esp.as_ref(), machine)?;
        if let Loader::SystemdBoot(found) = &mut loader {
            *found = systemd_boot::find(root, esp.as_ref(), &boot, &kernel)?;
        }
        (boot, esp, loader, facts::kexec(root, &kernel, machine.kexec)?)
    };
    let (initramfs, watchdog) = (facts::initramfs(root), facts::watchdog(root)?);
    Ok(BootLayout {
        container,
        firmware,
        loader,
        boot,
        esp,
        initramfs,
        kexec,
        watchdog,
        kernel,
        command_line,
    })
}

/// A file as text; bytes that are not UTF-8 are replaced.
fn text(path: &Path) -> Result<String, LayoutError> {
    Ok(String::from_utf8_lossy(&std::fs::read(path).map_err(at(path))?).into_owned())
}

/// The same, and `None` when there is no such file.
fn text_if_there(path: &Path) -> Result<Option<String>, LayoutError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

fn at<'p>(path: &'p Path) -> impl FnOnce(std::io::Error) -> LayoutError + use<'p> {
    move |source| LayoutError::Read { path: path.to_owned(), source }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
