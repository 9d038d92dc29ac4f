//! A directory: a mirror, a mounted snapshot, whatever was restored.

use std::path::Path;

use super::{Gathered, Reading, SourceError};
use crate::manifest::collect::{Collector, Sorted};
use crate::manifest::scan::gather;
use crate::manifest::{Facts, ScanOptions};

/// Reads a directory from the disk, as far as the kernel lets us.
///
/// # Errors
/// When it is not there or not readable.
pub fn read(
    tree: &Path,
    cross_mounts: bool,
    reading: &Reading<'_>,
) -> Result<(Sorted, Gathered), SourceError> {
    let options = ScanOptions {
        excludes: reading.excludes.clone(),
        cross_mounts,
        evict: true,
        hashing: reading.hashing.clone(),
        ..ScanOptions::default()
    };
    let gathering = gather(tree, &options, reading.scratch, reading.progress)
        .map_err(|source| SourceError::Scan { tree: tree.to_owned(), source })?;
    let carries = carried(&gathering.header.filesystem);
    Ok((gathering.sorted, Gathered { carries, ..Gathered::plain() }))
}

/// What a directory on such a filesystem can hold, as far as this process can see it.
///
/// The tools that copy directories do not copy flags: where they are lost it is not the copy that was damaged.
#[must_use]
pub fn carried(filesystem: &str) -> Facts {
    let (trusted, named) = (Facts::TRUSTED_XATTRS, Facts::XATTRS.with(Facts::ACL));
    let seen = if rustix::process::geteuid().is_root() { Facts::ALL } else { Facts::ALL.without(trusted) };
    let seen = seen.without(Facts::FLAGS);
    match filesystem {
        // Two seconds, or none at all, and neither owners nor anything but files and directories.
        "vfat" | "msdos" | "exfat" => Facts::CONTENT.with(Facts::DIRECTORIES),
        // What a server that may be of any kind keeps of these is not known.
        "cifs" | "smb3" | "smbfs" => {
            seen.and(Facts::CONTENT.with(Facts::DIRECTORIES).with(Facts::MTIME).with(Facts::SYMLINKS))
        }
        "nfs" | "nfs4" => seen.without(trusted).without(named).without(Facts::HOLES),
        _ => seen,
    }
}

/// As [`read`], for what is only a part of a copy: the entries go into a collector with others.
///
/// # Errors
/// As [`read`], and when a temporary file cannot be written.
pub fn read_into(
    tree: &Path,
    cross_mounts: bool,
    reading: &Reading<'_>,
    into: &mut Collector,
) -> Result<Gathered, SourceError> {
    let (sorted, gathered) = read(tree, cross_mounts, reading)?;
    for found in sorted {
        let found = found?;
        if let Some(group) = found.entry.link_group {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&group.to_le_bytes());
            into.same_inode(key, &found.entry.path)?;
        }
        into.push(&found)?;
    }
    Ok(gathered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filesystem_without_owners_does_not_hold_them() {
        assert!(!carried("vfat").has(Facts::OWNER) && carried("vfat").has(Facts::CONTENT));
        assert!(carried("ext4").has(Facts::OWNER.with(Facts::ACL).with(Facts::MTIME_NANOS)));
        assert!(!carried("ext4").has(Facts::FLAGS));
        assert!(carried("nfs4").has(Facts::OWNER) && !carried("nfs4").has(Facts::ACL));
    }
}
