//! Boot code: what a BIOS and GRUB's first stage read by position, from no filesystem.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, OFlags, fadvise};

use super::SetError;
use super::record::{KeptCode, KeptPart};
use super::table::{self, NoTable};
use crate::system::durable;
use crate::system::show;

pub use crate::boot::layout::{BootCode, CodePart};

/// The largest part that is copied, in bytes: a bios_grub partition or a gap is 1 MiB, seldom more.
const MOST_BYTES: u64 = 64 << 20;

/// What reading past the cache is aligned to: no disk has larger sectors.
const ALIGNMENT: usize = 4096;

/// The directory of the set in which the copies lie.
const DIRECTORY: &str = "code";

/// Copies the boot code of these disks into a set.
pub(super) fn keep(code: &[BootCode], set: &Path) -> Result<Vec<KeptCode>, SetError> {
    if code.is_empty() {
        return Ok(Vec::new());
    }
    durable::private_directory(&set.join(DIRECTORY))?;
    code.iter().enumerate().map(|(number, code)| keep_disk(number, code, set)).collect()
}

/// Proves that the copies of one disk's boot code are whole.
pub(super) fn verify(set: &Path, kept: &KeptCode) -> Result<(), SetError> {
    kept.parts.iter().try_for_each(|part| stored(set, part).map(drop))
}

/// Whether what was kept is of these disks and parts.
pub(super) fn is_of(kept: &[KeptCode], code: &[BootCode]) -> bool {
    let same = |kept: &KeptPart, part: &CodePart| {
        (&kept.name, kept.offset, kept.length) == (&part.name, part.offset, part.length)
    };
    let same = |kept: &KeptCode, code: &BootCode| {
        kept.disk == code.disk
            && kept.parts.len() == code.parts.len()
            && kept.parts.iter().zip(&code.parts).all(|(kept, part)| same(kept, part))
    };
    kept.len() == code.len() && kept.iter().zip(code).all(|(kept, code)| same(kept, code))
}

/// Refuses a disk that is not the one whose boot code was copied.
pub(super) fn recognise(kept: &KeptCode) -> Result<(), SetError> {
    let other = |words: String| SetError::OtherDisk { disk: kept.disk.clone(), words };
    let disk = Disk::open(&kept.disk)?;
    if disk.size != kept.size {
        return Err(other(format!("it has {} bytes, before it had {}", disk.size, kept.size)));
    }
    if disk.table.identity.to_hex().as_str() != kept.table {
        return Err(other("its id is another one, or its partitions lie elsewhere".to_owned()));
    }
    kept.parts.iter().try_for_each(|part| disk.allows(&part.name, part.offset, part.length))
}

/// Writes those parts that differ, and reads them back past the cache; says which they were.
pub(super) fn put_back(set: &Path, kept: &KeptCode) -> Result<Vec<String>, SetError> {
    recognise(kept)?;
    let mut written = Vec::new();
    // The first sector last: it only points to the others.
    let mut parts: Vec<&KeptPart> = kept.parts.iter().collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.offset));
    for part in parts {
        let wanted = stored(set, part)?;
        let is = || {
            read_past_cache(&kept.disk, part.offset, part.length)
                .map_err(|source| at("read", &kept.disk, source))
        };
        if is()? == wanted {
            continue;
        }
        let write = || {
            let disk = OpenOptions::new().write(true).open(&kept.disk)?;
            disk.write_all_at(&wanted, part.offset)?;
            disk.sync_all()
        };
        write().map_err(|source| at("write", &kept.disk, source))?;
        if is()? != wanted {
            return Err(SetError::NotWritten { disk: kept.disk.clone(), part: part.name.clone() });
        }
        written.push(part.name.clone());
    }
    Ok(written)
}

fn keep_disk(number: usize, code: &BootCode, set: &Path) -> Result<KeptCode, SetError> {
    let disk = Disk::open(&code.disk)?;
    let parts = code.parts.iter().map(|part| {
        disk.allows(&part.name, part.offset, part.length)?;
        let bytes = read_past_cache(&code.disk, part.offset, part.length)
            .map_err(|source| at("read", &code.disk, source))?;
        let file = format!("{number}-{}", part.name);
        durable::replace_file(&set.join(DIRECTORY).join(&file), &bytes, 0o600)?;
        let kept = KeptPart {
            name: part.name.clone(),
            offset: part.offset,
            length: part.length,
            blake3: blake3::hash(&bytes).to_hex().to_string(),
            file,
        };
        stored(set, &kept)?;
        Ok(kept)
    });
    Ok(KeptCode {
        disk: code.disk.clone(),
        size: disk.size,
        table: disk.table.identity.to_hex().to_string(),
        parts: parts.collect::<Result<_, SetError>>()?,
    })
}

/// The stored bytes of one part, proven.
fn stored(set: &Path, part: &KeptPart) -> Result<Vec<u8>, SetError> {
    let damaged = |path: PathBuf, words: String| SetError::Damaged { path, words };
    let plain = plain_name(&part.file);
    let path = set.join(DIRECTORY).join(&part.file);
    if !plain || part.length > MOST_BYTES {
        return Err(damaged(path, "its description makes no sense".to_owned()));
    }
    let length = std::fs::metadata(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => damaged(path.clone(), "it is gone".to_owned()),
        _ => at("read", &path, source),
    })?;
    if length.len() != part.length {
        let words = format!("it has {} bytes and not {}", length.len(), part.length);
        return Err(damaged(path, words));
    }
    let bytes = read_past_cache(&path, 0, part.length).map_err(|source| at("read", &path, source))?;
    if blake3::hash(&bytes).to_hex().as_str() != part.blake3 {
        return Err(damaged(path, "its hash is another one".to_owned()));
    }
    Ok(bytes)
}

/// A disk, and what must not be touched on it.
struct Disk {
    path: PathBuf,
    size: u64,
    table: table::Table,
}

impl Disk {
    fn open(path: &Path) -> Result<Self, SetError> {
        let read = |source| at("read", path, source);
        let mut file = File::open(path).map_err(read)?;
        // Device files have no length of their own.
        let size = file.seek(SeekFrom::End(0)).map_err(read)?;
        let table = table::read(&file, size).map_err(|why| match why {
            NoTable::Read(source) => read(source),
            NoTable::Not(words) => SetError::Table { disk: path.to_owned(), words },
        })?;
        Ok(Self { path: path.to_owned(), size, table })
    }

    /// Refuses a part that touches a partition table or lies outside the disk.
    fn allows(&self, name: &str, offset: u64, length: u64) -> Result<(), SetError> {
        let refuse = |words: &str| {
            let disk = show::path(&self.path);
            Err(SetError::Asked(format!("part {} of the boot code of {disk} {words}", show::line(name))))
        };
        if !plain_name(name) {
            return refuse("has no usable name");
        }
        if length == 0 || length > MOST_BYTES {
            return refuse("is empty or too large");
        }
        match offset.checked_add(length) {
            Some(end) if end <= self.size => {
                let touches = |table: &std::ops::Range<u64>| offset < table.end && table.start < end;
                if self.table.reserved.iter().any(touches) {
                    return refuse("reaches into the partition table");
                }
                Ok(())
            }
            _ => refuse("lies outside the disk"),
        }
    }
}

fn plain_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Reads from the disk and not from memory, as far as the kernel lets us: directly, or after it was asked to forget.
fn read_past_cache(path: &Path, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let direct = OFlags::DIRECT.bits().cast_signed();
    let read = match OpenOptions::new().read(true).custom_flags(direct).open(path) {
        Ok(file) => read_aligned(file, offset, length),
        Err(error) => Err(error),
    };
    match read {
        // The filesystem cannot (a memory disk), or not with this alignment.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            let file = File::open(path)?;
            let all = std::num::NonZeroU64::new(length);
            fadvise(&file, offset, all, Advice::DontNeed)?;
            read_aligned(file, offset, length)
        }
        other => other,
    }
}

/// Reads with everything aligned: offset, length and memory.
fn read_aligned(mut file: File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let alignment = ALIGNMENT as u64;
    let before = usize::try_from(offset % alignment).map_err(io::Error::other)?;
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let whole = (before + length).div_ceil(ALIGNMENT) * ALIGNMENT;
    let mut memory = vec![0; whole + ALIGNMENT];
    let skip = memory.as_ptr().align_offset(ALIGNMENT);
    let room =
        memory.get_mut(skip..skip + whole).ok_or_else(|| io::Error::other("memory cannot be aligned"))?;
    file.seek(SeekFrom::Start(offset - before as u64))?;
    let mut got = 0;
    while got < before + length {
        // A short read in the middle would break the alignment of the next; it only happens at the end.
        match file.read(&mut room[got..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => got += more,
        }
    }
    Ok(room[before..before + length].to_vec())
}

fn at(action: &'static str, path: &Path, source: io::Error) -> SetError {
    SetError::Io { action, path: path.to_owned(), source }
}
