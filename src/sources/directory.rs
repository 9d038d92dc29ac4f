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
    // The tools that copy directories do not copy flags: where they are lost it is not the copy that was damaged.
    let gathered = Gathered { carries: Facts::ALL.without(Facts::FLAGS), ..Gathered::plain() };
    Ok((gathering.sorted, gathered))
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
