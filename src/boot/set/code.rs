//! Boot code: what a BIOS and GRUB's first stage read by position, from no filesystem.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, OFlags, fadvise};

use super::SetError;
use super::disk::Disk;
use super::record::{KeptCode, KeptPart};
use crate::system::durable;

pub use crate::boot::layout::{BootCode, CodePart};

/// The largest part that is copied, in bytes: a bios_grub partition or a gap is 1 MiB, seldom more.
pub(super) const MOST_BYTES: u64 = 64 << 20;

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

/// Refuses when the disk whose boot code was copied is not found, whatever its name is now.
pub(super) fn recognise(kept: &KeptCode) -> Result<(), SetError> {
    Disk::find(kept).map(drop)
}

/// Writes those parts that differ, and reads them back past the cache; says which they were.
pub(super) fn put_back(set: &Path, kept: &KeptCode) -> Result<Vec<String>, SetError> {
    let disk = Disk::find(kept)?.path;
    let mut written = Vec::new();
    // The first sector last: it only points to the others.
    let mut parts: Vec<&KeptPart> = kept.parts.iter().collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.offset));
    for part in parts {
        let wanted = stored(set, part)?;
        let is =
            || read_past_cache(&disk, part.offset, part.length).map_err(|source| at("read", &disk, source));
        if is()? == wanted {
            continue;
        }
        let write = || {
            let file = OpenOptions::new().write(true).open(&disk)?;
            file.write_all_at(&wanted, part.offset)?;
            file.sync_all()
        };
        write().map_err(|source| at("write", &disk, source))?;
        if is()? != wanted {
            return Err(SetError::NotWritten { disk, part: part.name.clone() });
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
    let kept = KeptCode {
        disk: code.disk.clone(),
        size: disk.size,
        table: disk.table.identity.to_hex().to_string(),
        parts: parts.collect::<Result<_, SetError>>()?,
    };
    // One that could not be told from another later is refused now.
    recognise(&kept)?;
    Ok(kept)
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

pub(super) fn plain_name(name: &str) -> bool {
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

pub(super) fn at(action: &'static str, path: &Path, source: io::Error) -> SetError {
    SetError::Io { action, path: path.to_owned(), source }
}
