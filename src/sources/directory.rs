//! A directory: a mirror, a mounted snapshot, whatever was restored.

use std::path::Path;

use super::{Gathered, Reading, SourceError};
use crate::manifest::collect::Sorted;
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
