//! Where an engine really restores to, and reading back what it wrote.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, OFlags, ioctl_getflags, ioctl_setflags};
use walkdir::WalkDir;

use super::EngineError;
use crate::manifest::collect::Sorted;
use crate::manifest::scan::gather;
use crate::manifest::{Facts, ScanOptions};
use crate::sources::{Gathered, Reading};
use crate::system::durable;
use crate::system::sandbox::Barriers;

/// What the names of directories begin with that things are restored to; `backup::remove_leftovers` knows it.
const PREFIX: &str = "safe-upgrade-restore-";

/// A fresh directory that only we can enter, with the place inside it that an engine writes to. Removed when dropped.
///
/// The engine can change the mode of the place, but not of the directory around it: no set-user-id program that it restores
/// can be reached by anybody else.
#[derive(Debug)]
pub(in crate::sources) struct Target {
    directory: Option<PathBuf>,
}

impl Target {
    pub(in crate::sources) fn create(below: &Path) -> Result<Self, EngineError> {
        let failed = |source| EngineError::Directory { path: below.to_owned(), source };
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(below.canonicalize().map_err(failed)?)
            .map_err(failed)?;
        let target = Self { directory: Some(directory.keep()) };
        fs::create_dir(target.path()).map_err(failed)?;
        Ok(target)
    }

    /// Where the engine writes.
    pub(in crate::sources) fn path(&self) -> PathBuf {
        self.directory.as_deref().unwrap_or(Path::new("/nonexistent")).join("tree")
    }

    fn remove(&mut self) -> io::Result<()> {
        self.directory.take().map_or(Ok(()), |directory| remove_tree(&directory))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // On the way out with an error already; the name of the directory says what it is.
        drop(self.remove());
    }
}

/// Removes a tree, also what was restored immutable.
fn remove_tree(directory: &Path) -> io::Result<()> {
    if fs::remove_dir_all(directory).is_ok() {
        return Ok(());
    }
    let stubborn = IFlags::IMMUTABLE | IFlags::APPEND;
    for entry in WalkDir::new(directory).into_iter().flatten() {
        if !entry.file_type().is_dir() && !entry.file_type().is_file() {
            continue;
        }
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        // What cannot be opened or has no flags is told by the removing.
        let Ok(file) = File::options().read(true).custom_flags(flags).open(entry.path()) else { continue };
        if let Ok(set) = ioctl_getflags(&file)
            && set.intersects(stubborn)
        {
            let _ = ioctl_setflags(&file, set - stubborn);
        }
    }
    fs::remove_dir_all(directory)
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
        self.target.remove()
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
    let mut remarks = vec![
        format!("restored {megabytes:.1} MB in {:.1} s", restored.seconds),
        format!("the engine ran behind: {}", restored.barriers.words()),
    ];
    remarks.extend(restored.words.iter().cloned());
    let gathered = Gathered { carries: restored.carries, remarks, restored: true, ..Gathered::plain() };
    Ok((gathering.sorted, gathered))
}

/// What a restore by this process brings back, of what the engine keeps.
pub(in crate::sources) fn restored_facts(keeps: Facts) -> Facts {
    keeps.and(Facts::restored_by(rustix::process::geteuid().is_root()))
}
