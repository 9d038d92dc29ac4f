//! Partition tables, as far as boot code must not touch them: MBR and GPT (UEFI specification, chapter 5).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{LayoutError, at};

/// Where the four entries of an MBR begin, and how long each is.
const ENTRIES: usize = 446;
const ENTRY: usize = 16;
const PROTECTIVE: u8 = 0xee;

/// 21686148-6449-6E6F-744E-656564454649 as it lies on disk: its bytes spell "Hah!IdontNeedEFI".
const BIOS_GRUB: &[u8; 16] = b"Hah!IdontNeedEFI";

/// A GPT has 128 entries of 128 bytes; much more than that is no table.
const MOST_ENTRIES: u32 = 1024;
const LONGEST_ENTRY: u32 = 4096;

/// What a partition table says about the places around boot code. All in bytes from the start of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// Where the table ends and free space may begin.
    pub(super) end: u64,
    /// Where the first partition begins; `None` when there is none.
    pub(super) first_partition: Option<u64>,
    /// The partitions that GRUB's core image lives in.
    pub(super) bios_grub: Vec<Stretch>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) number: u32,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Reads the table of a disk whose first 512 bytes are known.
pub(super) fn read(disk: &File, path: &Path, first: &[u8; 512], sector: u64) -> Result<Table, LayoutError> {
    let wrong = |why: String| LayoutError::Table { disk: path.to_owned(), why };
    if !matches!(sector, 512 | 1024 | 2048 | 4096) {
        return Err(wrong(format!("its sectors have {sector} bytes")));
    }
    if let Some(table) = mbr(first, sector).map_err(wrong)? {
        return Ok(table);
    }
    let mut header = [0; 512];
    disk.read_exact_at(&mut header, sector).map_err(at(path))?;
    let header = Header::parse(&header).map_err(wrong)?;
    let length = u64::from(header.entries) * u64::from(header.entry_length);
    let start =
        header.entries_start.checked_mul(sector).ok_or_else(|| wrong("its entries lie nowhere".into()))?;
    let mut entries = vec![0; usize::try_from(length).unwrap_or_default()];
    disk.read_exact_at(&mut entries, start).map_err(at(path))?;
    gpt(&header, &entries, sector).map_err(wrong)
}

/// `None` when the disk has a GPT.
pub(super) fn mbr(first: &[u8; 512], sector: u64) -> Result<Option<Table>, String> {
    if first[510..] != [0x55, 0xaa] {
        return Err("its first sector has no signature".into());
    }
    let entries: Vec<&[u8]> = first[ENTRIES..ENTRIES + 4 * ENTRY].chunks_exact(ENTRY).collect();
    if entries.iter().any(|entry| entry[4] == PROTECTIVE) {
        return Ok(None);
    }
    let used = entries.iter().filter(|entry| entry[4] != 0);
    let first_partition = used.map(|entry| u64::from(le32(entry, 8)) * sector).min();
    if first_partition.is_some_and(|start| start < sector) {
        return Err("a partition begins in its first sector".into());
    }
    Ok(Some(Table { end: sector, first_partition, bios_grub: Vec::new() }))
}

/// What matters of a GPT's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    entries_start: u64,
    entries: u32,
    entry_length: u32,
    entries_checksum: u32,
}

impl Header {
    /// Understands a header; its checksum must be right.
    pub(super) fn parse(sector: &[u8; 512]) -> Result<Self, String> {
        if !sector.starts_with(b"EFI PART") {
            return Err("the first sector promises a GPT, and there is none".into());
        }
        let length = le32(sector, 12) as usize;
        if !(92..=512).contains(&length) {
            return Err(format!("its GPT header has {length} bytes"));
        }
        let mut copy = *sector;
        copy[16..20].fill(0);
        if checksum(&copy[..length]) != le32(sector, 16) {
            return Err("the checksum of its GPT header is wrong".into());
        }
        let header = Self {
            entries_start: le64(sector, 72),
            entries: le32(sector, 80),
            entry_length: le32(sector, 84),
            entries_checksum: le32(sector, 88),
        };
        if header.entries > MOST_ENTRIES || !(128..=LONGEST_ENTRY).contains(&header.entry_length) {
            return Err(format!("its GPT has {} entries of {} bytes", header.entries, header.entry_length));
        }
        Ok(header)
    }
}

/// Understands the entries of a GPT; their checksum must be right.
pub(super) fn gpt(header: &Header, entries: &[u8], sector: u64) -> Result<Table, String> {
    if checksum(entries) != header.entries_checksum {
        return Err("the checksum of its GPT entries is wrong".into());
    }
    let end = header.entries_start.saturating_mul(sector).saturating_add(entries.len() as u64);
    let end = end.max(2 * sector).next_multiple_of(sector);
    let mut table = Table { end, first_partition: None, bios_grub: Vec::new() };
    for (number, entry) in (1..).zip(entries.chunks_exact(header.entry_length as usize)) {
        if entry[..16] == [0; 16] {
            continue;
        }
        let (from, to) = (le64(entry, 32), le64(entry, 40));
        let offset = from.checked_mul(sector).filter(|offset| *offset >= end);
        let length = to.checked_sub(from).and_then(|sectors| sectors.checked_add(1)?.checked_mul(sector));
        let (Some(offset), Some(length)) = (offset, length) else {
            return Err(format!("its partition {number} reaches from sector {from} to {to}"));
        };
        table.first_partition = Some(table.first_partition.map_or(offset, |first| first.min(offset)));
        if &entry[..16] == BIOS_GRUB {
            table.bios_grub.push(Stretch { number, offset, length });
        }
    }
    Ok(table)
}

/// CRC-32, as GPT and gzip use it.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Callers give offsets inside of what they checked to be long enough.
fn le32(bytes: &[u8], offset: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(field)
}

fn le64(bytes: &[u8], offset: usize) -> u64 {
    u64::from(le32(bytes, offset)) | u64::from(le32(bytes, offset + 4)) << 32
}
