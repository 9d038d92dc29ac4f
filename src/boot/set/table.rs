//! Partition tables, as far as needed to know a disk again and to keep away from its tables.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes of the first sector that are code; the disk's signature and the partition table follow.
pub(super) const CODE_IN_FIRST_SECTOR: u64 = 440;

/// The first sector, whatever the disk's sectors are.
const FIRST_SECTOR: u64 = 512;

/// More than any partition table has: 128 entries of 128 bytes are usual.
const MOST_TABLE_BYTES: u64 = 1 << 20;

/// What is known of a disk's partitions.
#[derive(Debug)]
pub(super) struct Table {
    /// A hash of the disk's own id and of where its partitions lie; what may change by itself (names, flags) is not in it.
    pub(super) identity: blake3::Hash,
    /// Bytes of the disk that hold the tables.
    pub(super) reserved: Vec<Range<u64>>,
}

/// A table that could not be learned.
#[derive(Debug)]
pub(super) enum NoTable {
    /// The disk could not be read.
    Read(io::Error),
    /// It has none, or one that is not understood.
    Not(&'static str),
}

impl From<io::Error> for NoTable {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// Reads the partition table of a disk of this size in bytes.
pub(super) fn read(disk: &File, size: u64) -> Result<Table, NoTable> {
    let mut first = [0; FIRST_SECTOR as usize];
    disk.read_exact_at(&mut first, 0)?;
    if first[510..] != [0x55, 0xaa] {
        return Err(NoTable::Not("it has no partition table"));
    }
    let mut identity = blake3::Hasher::new();
    // The signature, then of each entry its kind, start and length.
    identity.update(b"mbr").update(&first[440..444]);
    let mut protective = false;
    for entry in first[446..510].chunks_exact(16) {
        identity.update(&entry[4..5]).update(&entry[8..16]);
        protective |= entry[4] == 0xee;
    }
    let mut reserved = Vec::new();
    reserved.push(CODE_IN_FIRST_SECTOR..FIRST_SECTOR);
    if protective {
        gpt(disk, size, &mut identity, &mut reserved)?;
    }
    Ok(Table { identity: identity.finalize(), reserved })
}

fn gpt(
    disk: &File,
    size: u64,
    identity: &mut blake3::Hasher,
    reserved: &mut Vec<Range<u64>>,
) -> Result<(), NoTable> {
    let mut header = [0; 92];
    let mut found = None;
    for sector in [512, 4096] {
        disk.read_exact_at(&mut header, sector)?;
        if header.starts_with(b"EFI PART") {
            found = Some(sector);
            break;
        }
    }
    let sector = found.ok_or(NoTable::Not("its GUID partition table is missing"))?;
    let long = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap_or_default());
    let short = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap_or_default());
    let (count, each) = (u64::from(short(80)), u64::from(short(84)));
    let bytes = count * each;
    if each < 128 || bytes > MOST_TABLE_BYTES {
        return Err(NoTable::Not("its GUID partition table makes no sense"));
    }
    let start = long(72).checked_mul(sector).filter(|start| start + bytes <= size);
    let start = start.ok_or(NoTable::Not("its GUID partition table lies outside the disk"))?;
    let mut entries = vec![0; usize::try_from(bytes).unwrap_or_default()];
    disk.read_exact_at(&mut entries, start)?;
    identity.update(b"gpt").update(&header[56..72]);
    for (number, entry) in entries.chunks_exact(usize::try_from(each).unwrap_or(128)).enumerate() {
        if entry[..16] != [0; 16] {
            // Kind, id, first and last sector.
            identity.update(&number.to_le_bytes()).update(&entry[..48]);
        }
    }
    reserved.push(sector..2 * sector);
    reserved.push(start..start + bytes);
    // The second copy: its header is the last sector, its entries are right before it.
    let room = bytes.div_ceil(sector) * sector + sector;
    reserved.push(size.saturating_sub(room)..size);
    Ok(())
}
