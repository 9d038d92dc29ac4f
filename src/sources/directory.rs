//! A directory: a mirror, a mounted snapshot, whatever was restored.

use std::path::Path;

use super::{Gathered, Reading, SourceError};
use crate::manifest::collect::Collector;
use crate::manifest::{Facts, Found, ScanOptions, scan};

/// Reads a directory from the disk, as far as the kernel lets us.
///
/// # Errors
/// When it is not there or not readable.
pub fn read(
    tree: &Path,
    cross_mounts: bool,
    reading: &Reading<'_>,
    into: &mut Collector,
) -> Result<Gathered, SourceError> {
    let options = ScanOptions {
        excludes: reading.excludes.clone(),
        cross_mounts,
        evict: true,
        hashing: reading.hashing.clone(),
        ..ScanOptions::default()
    };
    let trouble = |source| SourceError::Scan { tree: tree.to_owned(), source };
    let manifest = scan(tree, &options, reading.progress).map_err(trouble)?;
    for entry in manifest.entries {
        if let Some(group) = entry.link_group {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&group.to_le_bytes());
            into.same_inode(key, &entry.path)?;
        }
        into.push(&Found::whole(entry))?;
    }
    // The tools that copy directories do not copy flags: where they are lost it is not the copy that was damaged.
    Ok(Gathered { carries: Facts::ALL.without(Facts::FLAGS), ..Gathered::plain() })
}
