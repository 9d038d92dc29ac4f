//! Boot code on disks: the first sector, and GRUB's core image behind it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::table::{self, Table};
use super::{BootCode, CodePart, CoreImage, LayoutError, at, core_image, text};
use crate::system::disks::{Below, below};

/// The code in the first sector; after it come the disk's signature and the partition table (UEFI specification, "Legacy MBR").
const CODE_LENGTH: u64 = 440;

/// What comes before the first partition is at most this long: partitioning tools leave 1 MiB.
const LONGEST_GAP: u64 = 2 << 20;

/// A bios_grub partition has 1 MiB; what is much larger has the wrong type.
const LONGEST_PARTITION: u64 = 64 << 20;

/// Where GRUB's first stage has the 512-byte sector of the core image.
const CORE_SECTOR: usize = 0x5c;

/// A core image has some hundred KiB.
const LONGEST_CORE: u64 = 1 << 20;

/// What is known of one disk with boot code.
pub(super) struct Found {
    pub(super) parts: Vec<CodePart>,
    /// What the part is called that the first stage points to; `None` when it points to none of them.
    pub(super) core: Option<String>,
    pub(super) prefix: Option<String>,
}

/// The core images on the disks below GRUB's directory and the root.
pub(super) fn cores(root: &Path) -> Result<Vec<CoreImage>, LayoutError> {
    let mut cores = Vec::new();
    for disk in disks(root)? {
        if let Some(found) = look(&disk)? {
            let place = found.core.unwrap_or_else(|| "blocks inside a filesystem".into());
            cores
                .push(CoreImage { place: format!("disk {}, {place}", disk.display()), prefix: found.prefix });
        }
    }
    Ok(cores)
}

/// The boot code on the same disks.
pub(super) fn boot_code(root: &Path) -> Result<Vec<BootCode>, LayoutError> {
    let mut all = Vec::new();
    for disk in disks(root)? {
        if let Some(found) = look(&disk)? {
            all.push(BootCode { disk, parts: found.parts });
        }
    }
    Ok(all)
}

/// The disks from which the firmware can have started this system, by the root and by GRUB's directory: the two can lie apart.
fn disks(root: &Path) -> Result<Vec<PathBuf>, LayoutError> {
    let mut names = BTreeSet::new();
    for path in [root.to_owned(), root.join("boot"), root.join("boot/grub")] {
        if path.exists()
            && let Below::Disks(found) = below(&path)?
        {
            names.extend(found);
        }
    }
    names.extend(other_members(&names)?);
    // What a loop device shows is a file of another machine's, or of a test: no firmware starts from it.
    let disks = names.iter().filter(|name| !name.contains(' '));
    Ok(disks.map(|name| Path::new("/dev").join(name.replace('!', "/"))).collect())
}

/// The disks of the other members of each btrfs that has a member on one of these: a mount names one member only, and each can be
/// the one from which the firmware starts.
fn other_members(names: &BTreeSet<String>) -> Result<BTreeSet<String>, LayoutError> {
    let mut all = BTreeSet::new();
    let class = Path::new("/sys/fs/btrfs");
    for filesystem in entries(class)? {
        let mut disks = BTreeSet::new();
        for member in entries(&filesystem.join("devices"))? {
            let real = fs::canonicalize(&member).map_err(at(&member))?;
            let disk = if real.join("partition").exists() { real.parent().unwrap_or(&real) } else { &real };
            disks.insert(disk.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
        if !disks.is_disjoint(names) {
            all.extend(disks);
        }
    }
    Ok(all)
}

/// What is in a directory of the kernel; nothing when there is none (no btrfs, or one of its other directories).
fn entries(directory: &Path) -> Result<Vec<PathBuf>, LayoutError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(at(directory)(error)),
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(at(directory))).collect()
}

/// Looks at a disk; `None` when its first sector holds no GRUB.
fn look(path: &Path) -> Result<Option<Found>, LayoutError> {
    let disk = File::open(path).map_err(at(path))?;
    let name = path.file_name().unwrap_or_default();
    let sector = Path::new("/sys/class/block").join(name).join("queue/logical_block_size");
    let sector = text(&sector)?.trim().parse().map_err(|_| LayoutError::Table {
        disk: path.to_owned(),
        why: "its sector size is not known".into(),
    })?;
    inspect(&disk, path, sector)
}

/// The same for any file that is laid out like a disk.
pub(super) fn inspect(disk: &File, path: &Path, sector: u64) -> Result<Option<Found>, LayoutError> {
    let mut first = [0; 512];
    disk.read_exact_at(&mut first, 0).map_err(at(path))?;
    if !holds_grub(&first) {
        return Ok(None);
    }
    // Of a device, the length is where its end is; its metadata says 0.
    let length = (&mut &*disk).seek(SeekFrom::End(0)).map_err(at(path))?;
    let table = table::read(disk, path, &first, sector)?;
    let parts = code_parts(&table, length);
    if let Some(part) = parts.iter().find(|part| part.length > LONGEST_PARTITION) {
        let why = format!("{} has {} bytes: no boot code is that long", part.name, part.length);
        return Err(LayoutError::Table { disk: path.to_owned(), why });
    }
    let start = core_offset(&first);
    let core = parts
        .iter()
        .find(|part| (part.offset..part.offset + part.length).contains(&start))
        .map(|part| name_place(&part.name));
    let mut bytes = vec![0; usize::try_from(LONGEST_CORE.min(length.saturating_sub(start))).unwrap_or(0)];
    disk.read_exact_at(&mut bytes, start.min(length)).map_err(at(path))?;
    Ok(Some(Found { parts, core, prefix: core_image::prefix_of_bios_core(&bytes) }))
}

/// GRUB's first stage has its name among its messages.
pub(super) fn holds_grub(first_sector: &[u8]) -> bool {
    first_sector
        .iter()
        .take(CODE_LENGTH as usize)
        .copied()
        .collect::<Vec<_>>()
        .windows(4)
        .any(|word| word == b"GRUB")
}

/// Where the first stage looks for the core image, in bytes.
pub(super) fn core_offset(first_sector: &[u8; 512]) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&first_sector[CORE_SECTOR..CORE_SECTOR + 8]);
    u64::from_le_bytes(field).saturating_mul(512)
}

/// The stretches to keep. A GPT disk with bios_grub partitions has its core image in one of them, any other in the gap between the
/// table and the first partition.
pub(super) fn code_parts(table: &Table, disk_length: u64) -> Vec<CodePart> {
    let mut parts = vec![CodePart { name: "mbr".into(), offset: 0, length: CODE_LENGTH }];
    for bios_grub in &table.bios_grub {
        parts.push(CodePart {
            name: format!("bios-grub-{}", bios_grub.number),
            offset: bios_grub.offset,
            length: bios_grub.length,
        });
    }
    let end = table.first_partition.unwrap_or(disk_length).min(table.end + LONGEST_GAP).min(disk_length);
    if table.bios_grub.is_empty() && end > table.end {
        parts.push(CodePart { name: "gap".into(), offset: table.end, length: end - table.end });
    }
    parts
}

fn name_place(part: &str) -> String {
    match part.strip_prefix("bios-grub-") {
        Some(number) => format!("partition {number} (bios_grub)"),
        None => "before the first partition".into(),
    }
}
