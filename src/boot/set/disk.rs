//! A disk whose boot code is copied or written, and how it is found again.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::SetError;
use super::code::{MOST_BYTES, at, plain_name};
use super::record::KeptCode;
use super::table::{self, NoTable};
use crate::system::show;

/// A disk, and what must not be touched on it.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) table: table::Table,
}

impl Disk {
    /// Finds the disk whose boot code was copied, by its size and its partition table: names are given anew at each boot.
    ///
    /// The name that it had is looked at first, then every plain disk of this machine.
    pub(super) fn find(kept: &KeptCode) -> Result<Self, SetError> {
        Self::find_in(kept, Path::new("/sys/block"), Path::new("/dev"))
    }

    fn find_in(kept: &KeptCode, sys: &Path, dev: &Path) -> Result<Self, SetError> {
        let mut found = Vec::new();
        let mut failed = None;
        match Self::open(&kept.disk).and_then(|disk| disk.is(kept).map(|()| disk)) {
            Ok(disk) => found.push(disk),
            Err(error) => failed = Some(error),
        }
        let mut unread = None;
        for path in plain_disks(sys, dev, kept.size)? {
            if is_one(&path, &kept.disk) {
                continue;
            }
            match Self::open(&path).and_then(|disk| disk.is(kept).map(|()| disk)) {
                Ok(disk) => found.push(disk),
                Err(SetError::OtherDisk { .. } | SetError::Table { .. }) => {}
                // It might be the one.
                Err(error) => unread = Some(error),
            }
        }
        if let [one, other, ..] = &found[..] {
            return Err(SetError::TwoDisks { one: one.path.clone(), other: other.path.clone() });
        }
        let gone = |error| match error {
            SetError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                SetError::DiskGone { disk: kept.disk.clone() }
            }
            SetError::OtherDisk { disk, words } => {
                SetError::OtherDisk { disk, words: words + "; no other disk of this machine is it either" }
            }
            error => error,
        };
        match (found.pop(), unread.or(failed.map(gone))) {
            (Some(disk), _) => {
                kept.parts.iter().try_for_each(|part| disk.allows(&part.name, part.offset, part.length))?;
                Ok(disk)
            }
            (None, Some(error)) => Err(error),
            // Where it is not found by its name there is an error.
            (None, None) => Err(SetError::DiskGone { disk: kept.disk.clone() }),
        }
    }

    fn is(&self, kept: &KeptCode) -> Result<(), SetError> {
        let other = |words: String| SetError::OtherDisk { disk: self.path.clone(), words };
        if self.size != kept.size {
            return Err(other(format!("it has {} bytes, before it had {}", self.size, kept.size)));
        }
        if self.table.identity.to_hex().as_str() != kept.table {
            return Err(other("its id is another one, or its partitions lie elsewhere".to_owned()));
        }
        Ok(())
    }

    pub(super) fn open(path: &Path) -> Result<Self, SetError> {
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
    pub(super) fn allows(&self, name: &str, offset: u64, length: u64) -> Result<(), SetError> {
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

/// The disks of this size in bytes that are a piece of hardware of their own, or look like one: nothing that is stacked on
/// others, no loop device, no memory.
fn plain_disks(sys: &Path, dev: &Path, size: u64) -> Result<Vec<PathBuf>, SetError> {
    let mut disks = Vec::new();
    for entry in fs::read_dir(sys).map_err(|source| at("read", sys, source))? {
        let entry = entry.map_err(|source| at("read", sys, source))?.path();
        // A medium that is taken out, or a disk that is pulled meanwhile, has no size any more.
        let sectors = fs::read_to_string(entry.join("size")).ok().and_then(|text| text.trim().parse().ok());
        // The kernel counts in 512 bytes, whatever the disk's sectors are.
        let same_size = sectors.and_then(|sectors: u64| sectors.checked_mul(512)) == Some(size);
        let Some(name) = entry.file_name().filter(|_| same_size && entry.join("device").exists()) else {
            continue;
        };
        // sysfs has `!` where a name below /dev has a slash; paths of a multipath disk have no name there.
        let path = dev.join(name.to_string_lossy().replace('!', "/"));
        if path.exists() {
            disks.push(path);
        }
    }
    disks.sort();
    Ok(disks)
}

/// Whether two names lead to the same disk.
fn is_one(path: &Path, other: &Path) -> bool {
    let number = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino(), found.rdev()));
    let (one, other) = (number(path), number(other));
    match (one, other) {
        (Some((_, _, one)), Some((_, _, other))) if one != 0 || other != 0 => one == other,
        (one, other) => one.is_some() && one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    /// A machine with these disks; each file holds a partition table with this signature.
    fn machine(disks: &[(&str, u8)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("dev")).unwrap();
        for (name, signature) in disks {
            let sys = dir.path().join("sys").join(name);
            fs::create_dir_all(sys.join("device")).unwrap();
            fs::write(sys.join("size"), format!("{}\n", SIZE / 512)).unwrap();
            let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
            bytes[440] = *signature;
            bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            fs::write(dir.path().join("dev").join(name), bytes).unwrap();
        }
        dir
    }

    fn find(dir: &tempfile::TempDir, kept: &KeptCode) -> Result<PathBuf, SetError> {
        let (sys, dev) = (dir.path().join("sys"), dir.path().join("dev"));
        Disk::find_in(kept, &sys, &dev).map(|disk| disk.path.strip_prefix(&dev).unwrap().to_owned())
    }

    #[test]
    fn a_disk_is_found_whatever_its_name_is_now() {
        let dir = machine(&[("sda", 1), ("sdb", 2)]);
        let dev = dir.path().join("dev");
        let disk = Disk::open(&dev.join("sda")).unwrap();
        let table = disk.table.identity.to_hex().to_string();
        let kept = KeptCode { disk: dev.join("sda"), size: disk.size, table, parts: vec![] };
        assert_eq!(find(&dir, &kept).unwrap(), Path::new("sda"));
        // Names are exchanged.
        fs::rename(dev.join("sda"), dev.join("x")).unwrap();
        fs::rename(dev.join("sdb"), dev.join("sda")).unwrap();
        fs::rename(dev.join("x"), dev.join("sdb")).unwrap();
        assert_eq!(find(&dir, &kept).unwrap(), Path::new("sdb"));
        // Two of them.
        fs::copy(dev.join("sdb"), dev.join("sda")).unwrap();
        let two = find(&dir, &kept).unwrap_err();
        let words = two.to_string();
        assert!(matches!(two, SetError::TwoDisks { .. }) && words.contains("/sda") && words.contains("/sdb"));
        // None.
        fs::remove_file(dev.join("sda")).unwrap();
        fs::remove_file(dev.join("sdb")).unwrap();
        let gone = find(&dir, &kept).unwrap_err();
        assert!(matches!(gone, SetError::DiskGone { .. }), "{gone}");
    }

    #[test]
    fn what_is_no_plain_disk_is_not_looked_at() {
        let dir = machine(&[("sda", 1), ("dm-0", 1)]);
        fs::remove_dir(dir.path().join("sys/dm-0/device")).unwrap();
        let found = plain_disks(&dir.path().join("sys"), &dir.path().join("dev"), SIZE).unwrap();
        assert_eq!(found, [dir.path().join("dev/sda")]);
        assert!(plain_disks(&dir.path().join("sys"), &dir.path().join("dev"), SIZE * 2).unwrap().is_empty());
    }
}
