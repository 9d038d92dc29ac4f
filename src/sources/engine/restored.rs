//! Where an engine really restores to, and reading back what it wrote.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::EngineError;
use crate::manifest::collect::Sorted;
use crate::manifest::scan::gather;
use crate::manifest::verdict::Difference;
use crate::manifest::{Class, Facts, ScanOptions};
use crate::sources::{Gathered, Reading};
use crate::system::durable;
use crate::system::fresh::{self, FreshDirectory};
use crate::system::sandbox::Barriers;

/// A fresh directory that only we can enter, with the place inside it that an engine writes to. Removed when dropped.
///
/// The engine can change the mode of the place, but not of the directory around it: no set-user-id program that it restores
/// can be reached by anybody else.
#[derive(Debug)]
pub(in crate::sources) struct Target {
    directory: FreshDirectory,
}

impl Target {
    pub(in crate::sources) fn create(below: &Path) -> Result<Self, EngineError> {
        let failed = |source| EngineError::Directory { path: below.to_owned(), source };
        let target = Self { directory: FreshDirectory::create(below, fresh::RESTORED).map_err(failed)? };
        fs::create_dir(target.path()).map_err(failed)?;
        Ok(target)
    }

    /// Where the engine writes.
    pub(in crate::sources) fn path(&self) -> PathBuf {
        self.directory.path().join("tree")
    }
}

/// A tree that an engine really restored. It is removed when this is dropped, or with [`Restored::remove`].
#[derive(Debug)]
pub struct Restored {
    /// The tree that the manifest is of.
    pub tree: PathBuf,
    /// What the engine alone took: the recovery time, as far as this machine can tell.
    pub seconds: f64,
    /// Bytes of all restored files.
    pub bytes: u64,
    /// What the engine complained about, safe to show; empty when it ended well.
    pub words: Vec<String>,
    /// What a person should know about it, safe to show.
    pub remarks: Vec<String>,
    /// What stood around the engine.
    pub barriers: Barriers,
    /// What a restore by this engine brings back.
    pub carries: Facts,
    pub(in crate::sources) target: Target,
}

impl Restored {
    /// Removes the tree.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn remove(mut self) -> io::Result<()> {
        self.target.directory.remove()
    }
}

/// Bytes of all regular files of a tree.
pub(in crate::sources) fn bytes_of(tree: &Path) -> u64 {
    let files = WalkDir::new(tree).into_iter().flatten().filter(|entry| entry.file_type().is_file());
    files.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

/// Reads a restored tree from the disk, not from memory: it is synced and dropped from the cache first. In bounded memory.
///
/// # Errors
/// When that could not be done.
pub fn read_restored(restored: &Restored, reading: &Reading<'_>) -> Result<(Sorted, Gathered), EngineError> {
    durable::sync_filesystem(&restored.tree)?;
    let options = ScanOptions {
        excludes: reading.excludes.clone(),
        cross_mounts: true,
        evict: true,
        hashing: reading.hashing.clone(),
        ..ScanOptions::default()
    };
    let gathering = gather(&restored.tree, &options, reading.scratch, reading.progress)?;
    let megabytes = restored.bytes as f64 / 1e6;
    let mut remarks = restored.remarks.clone();
    remarks.extend([
        format!("restored {megabytes:.1} MB in {:.1} s", restored.seconds),
        format!("the engine ran behind: {}", restored.barriers.words()),
    ]);
    remarks.extend(restored.words.iter().cloned());
    // It may be about something that no comparison shows; where one does, damage outweighs this.
    let complaint = |words: &String| Difference {
        class: Class::NotChecked,
        path: Vec::new(),
        expected: "a restore without complaints".to_owned(),
        found: words.clone(),
    };
    let gathered = Gathered {
        carries: restored.carries,
        findings: restored.words.iter().map(complaint).collect(),
        remarks,
        restored: restored.words.is_empty(),
    };
    Ok((gathering.sorted, gathered))
}

/// What a restore by this process brings back, of what the engine keeps.
pub(in crate::sources) fn restored_facts(keeps: Facts) -> Facts {
    keeps.and(Facts::restored_by(rustix::process::geteuid().is_root()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Hashing;
    use crate::manifest::exclude::Excludes;
    use crate::sources::Limits;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_restore_that_ended_badly_is_not_proven() {
        let below = tempfile::tempdir().unwrap();
        let excludes = Excludes::default();
        for words in [vec![], vec!["restic ended with exit code 1: no space left on device".to_owned()]] {
            let target = Target::create(below.path()).unwrap();
            let (tree, carries) = (target.path(), Facts::ALL);
            fs::write(tree.join("file"), b"content").unwrap();
            let barriers = Barriers::default();
            let restored = Restored {
                tree,
                seconds: 1.0,
                bytes: 7,
                words: words.clone(),
                remarks: Vec::new(),
                barriers,
                carries,
                target,
            };
            let reading = Reading {
                hashing: Hashing::plain(),
                scratch: below.path(),
                excludes: &excludes,
                limits: Limits::default(),
                progress: &|_| {},
            };
            let (sorted, gathered) = read_restored(&restored, &reading).unwrap();
            assert_eq!(sorted.count(), 2);
            assert_eq!(gathered.restored, words.is_empty());
            let found: Vec<_> = gathered.findings.iter().map(|finding| finding.found.clone()).collect();
            assert_eq!(found, words);
            assert!(gathered.findings.iter().all(|finding| finding.class == Class::NotChecked));
        }
    }

    #[test]
    fn trees_that_may_not_be_written_are_removed() {
        let below = tempfile::tempdir().unwrap();
        let target = Target::create(below.path()).unwrap();
        let inner = target.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("file"), b"").unwrap();
        for directory in [&inner, &target.path().join("a")] {
            fs::set_permissions(directory, Permissions::from_mode(0o555)).unwrap();
        }
        drop(target);
        assert_eq!(fs::read_dir(below.path()).unwrap().count(), 0);
    }
}
