//! The backup of one tree: scanned, copied, and looked at again, so that a live tree gets an honest manifest.
//!
//! ```text
//! scan ─→ rsync ─→ look again ─→ nothing changed: this is what was copied
//!                      │
//!                      └─ changed ─→ rsync ─→ look again ─→ what changed once more is marked unstable
//! ```
//!
//! "Look again" stats every entry and reads only files that changed or are too young to tell. An entry that was the same
//! before and after the copying was copied in that state, so any difference in the copy is damage. Only an entry that the
//! source really changed during the last copying is *unstable*; a difference there is not held against the copy, and not
//! called proven either. A tree that must be proven whole is best a read-only snapshot.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::place::{InvalidTree, Place};
use super::rsync::{self, Ended, RsyncError};
use crate::manifest::entry::{Edge, Entry, Kind, Status, path_order};
use crate::manifest::exclude::Excludes;
use crate::manifest::format::FormatError;
use crate::manifest::indexed::Indexed;
use crate::manifest::scan::{Scan, ScanError, scan_again};
use crate::manifest::{Hashing, Manifest, Progress, ScanOptions, Summary, write_file};
use crate::system::durable::{self, DurableError};

/// What is copied and how.
#[derive(Debug, Clone, Default)]
pub struct BackupOptions {
    /// What is left out; a copy that holds it from before loses it.
    pub excludes: Excludes,
    /// Copy other filesystems and subvolumes too.
    pub cross_mounts: bool,
    /// Compare files by content where the copy already has one of the same size and time: repairs a damaged copy.
    pub by_content: bool,
}

/// What a backup is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupProgress {
    /// Reading the source.
    Scanning(Progress),
    /// Copying; bytes so far.
    Copying(u64),
    /// Looking again at the source.
    Checking(Progress),
}

/// A finished backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Where it is.
    pub place: Place,
    /// The source's id and totals.
    pub summary: Summary,
    /// Entries that changed while they were copied, twice.
    pub unstable: u64,
    /// Entries of the source that could not be read.
    pub unreadable: u64,
}

/// A backup that was not finished; the store then holds no manifest for this tree.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The tree has no place in a store.
    #[error("failed to find a place in the store")]
    Tree(#[from] InvalidTree),
    /// The store would be copied into itself.
    #[error("the store {} is inside the tree {} and not excluded", .store.display(), .tree.display())]
    StoreInsideTree {
        /// The store.
        store: PathBuf,
        /// The tree.
        tree: PathBuf,
    },
    /// A path could not be looked at.
    #[error("failed to look at {}", .path.display())]
    Look {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The source could not be scanned.
    #[error("failed to scan {}", .tree.display())]
    Scan {
        /// The tree.
        tree: PathBuf,
        /// Why.
        source: ScanError,
    },
    /// The copying failed.
    #[error("failed to copy {}", .tree.display())]
    Copy {
        /// The tree.
        tree: PathBuf,
        /// Why.
        source: RsyncError,
    },
    /// Some of the source was not copied.
    #[error("failed to copy all of {}: {words}", .tree.display())]
    Incomplete {
        /// The tree.
        tree: PathBuf,
        /// rsync's.
        words: String,
    },
    /// The store could not be written durably.
    #[error("failed to write the store")]
    Store(#[from] DurableError),
    /// The manifest could not be written.
    #[error("failed to finish the backup")]
    Manifest(#[from] FormatError),
}

/// Copies a tree into a store. When this returns, the copy and its manifest survive a power cut.
///
/// Repeatable: a second call brings the copy up to date. While it runs, and after an error, the place has no manifest, so an
/// unfinished copy is never taken for a backup.
///
/// # Errors
/// When the source cannot be read or the store not written.
pub fn back_up(
    tree: &Path,
    store: &Path,
    options: &BackupOptions,
    progress: &(dyn Fn(BackupProgress) + Sync),
) -> Result<Backup, BackupError> {
    let look = |path: &Path| {
        std::fs::canonicalize(path).map_err(|source| BackupError::Look { path: path.to_owned(), source })
    };
    durable::private_directory(store)?;
    let (tree, store) = (look(tree)?, look(store)?);
    refuse_recursion(&tree, &store, options)?;
    let place = Place::of(&store, &tree)?;
    durable::private_directory(place.directory())?;
    // A manifest that cannot be read has no follower: what was before it is not known either.
    let previous = Indexed::open(&place.manifest(), &Hashing::plain()).ok().map(|last| last.summary().id);
    durable::remove_file(&place.manifest())?;
    durable::private_directory(&place.copy())?;
    let mut manifest = copy_and_describe(&tree, &place, options, progress)?;
    manifest.header.previous = previous;
    // The manifest says that the copy is whole, so the copy must be on the disk before it.
    durable::sync_filesystem(&place.copy())?;
    write_file(&manifest, &place.manifest())?;
    let count =
        |wanted: fn(&Status) -> bool| manifest.entries.iter().filter(|e| wanted(&e.status)).count() as u64;
    Ok(Backup {
        unstable: count(|status| *status == Status::Unstable),
        unreadable: count(|status| matches!(status, Status::Unreadable(_))),
        summary: manifest.summary,
        place,
    })
}

fn copy_and_describe(
    tree: &Path,
    place: &Place,
    options: &BackupOptions,
    progress: &(dyn Fn(BackupProgress) + Sync),
) -> Result<Manifest, BackupError> {
    let scan_options = ScanOptions {
        excludes: options.excludes.clone(),
        cross_mounts: options.cross_mounts,
        ..ScanOptions::default()
    };
    let scan = |before: Option<&Scan>| {
        let told = |state| {
            progress(if before.is_some() {
                BackupProgress::Checking(state)
            } else {
                BackupProgress::Scanning(state)
            });
        };
        scan_again(tree, &scan_options, before, &told)
            .map_err(|source| BackupError::Scan { tree: tree.to_owned(), source })
    };
    let first = scan(None)?;
    for _ in 0..rsync::directory_passes(&first.manifest.entries, true) {
        copy(tree, place, options, progress)?;
    }
    let second = scan(Some(&first))?;
    if changed(&first, &second).is_empty() && first.manifest.summary == second.manifest.summary {
        return Ok(second.manifest);
    }
    for _ in 0..rsync::directory_passes(&second.manifest.entries, true) {
        copy(tree, place, options, progress)?;
    }
    let third = scan(Some(&second))?;
    let moving = changed(&second, &third);
    let Manifest { header, mut entries, .. } = third.manifest;
    for place in moving {
        mark_unstable(&mut entries[place]);
    }
    Ok(Manifest::new(header, entries)?)
}

fn copy(
    tree: &Path,
    place: &Place,
    options: &BackupOptions,
    progress: &(dyn Fn(BackupProgress) + Sync),
) -> Result<(), BackupError> {
    let mut arguments: Vec<OsString> = vec!["--delete".into(), "--delete-excluded".into()];
    arguments.extend(options.excludes.rsync_arguments());
    if !options.cross_mounts {
        arguments.push("--one-file-system".into());
    }
    if options.by_content {
        arguments.push("--checksum".into());
    }
    let told = |bytes| progress(BackupProgress::Copying(bytes));
    match rsync::run(tree, &place.copy(), &arguments, None, &told) {
        Ok(Ended::Complete | Ended::Vanished) => Ok(()),
        Ok(Ended::Partial(words)) => Err(BackupError::Incomplete { tree: tree.to_owned(), words }),
        Err(source) => Err(BackupError::Copy { tree: tree.to_owned(), source }),
    }
}

/// The entries of `after`, by index, that were not there before, or not in this state. What is gone shows in its directory,
/// whose times moved.
fn changed(before: &Scan, after: &Scan) -> Vec<usize> {
    let mut old = before.manifest.entries.iter().zip(&before.stamps).peekable();
    let mut changed = Vec::new();
    for (index, (entry, stamp)) in after.manifest.entries.iter().zip(&after.stamps).enumerate() {
        while old.next_if(|(then, _)| path_order(&then.path, &entry.path).is_lt()).is_some() {}
        let same = old.peek().is_some_and(|(then, old)| {
            // The times of an edge are those of another filesystem.
            let edge = matches!(entry.kind, Kind::Directory { edge: Edge::Mount | Edge::Stub });
            then.path == entry.path && then.kind == entry.kind && (edge || *old == stamp)
        });
        if !same {
            changed.push(index);
        }
    }
    changed
}

fn mark_unstable(entry: &mut Entry) {
    if entry.status == Status::Stable {
        entry.status = Status::Unstable;
    }
}

fn refuse_recursion(tree: &Path, store: &Path, options: &BackupOptions) -> Result<(), BackupError> {
    let Ok(inside) = store.strip_prefix(tree) else { return Ok(()) };
    let device = |path: &Path| {
        let seen = std::fs::metadata(path).map(|metadata| metadata.dev());
        seen.map_err(|source| BackupError::Look { path: path.to_owned(), source })
    };
    let reached = options.cross_mounts || device(store)? == device(tree)?;
    if !reached || options.excludes.covers(inside.as_os_str().as_bytes()) {
        return Ok(());
    }
    Err(BackupError::StoreInsideTree { store: store.to_owned(), tree: tree.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Class, read_file};
    use crate::sources::Source;
    use crate::verify::{Against, Request, verify};
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    struct Lab {
        dir: tempfile::TempDir,
    }

    impl Lab {
        fn new() -> Option<Self> {
            if crate::system::exec::find_tool("rsync").is_err() {
                println!("skipped: rsync is not installed");
                return None;
            }
            let lab = Self { dir: tempfile::tempdir().unwrap() };
            std::fs::create_dir_all(lab.tree().join("quiet")).unwrap();
            for name in ["log", "quiet/a", "quiet/b", "gone"] {
                std::fs::write(lab.tree().join(name), name).unwrap();
            }
            Some(lab)
        }

        fn tree(&self) -> PathBuf {
            self.dir.path().join("tree")
        }

        fn store(&self) -> PathBuf {
            self.dir.path().join("store")
        }

        /// Backs up while `change` is called with the number of the state each time the backup enters another one.
        fn back_up(&self, change: impl Fn(u32) + Sync) -> Backup {
            let (last, states) = (std::sync::Mutex::new(None), AtomicU32::new(0));
            let progress = |state: BackupProgress| {
                let kind = std::mem::discriminant(&state);
                if last.lock().unwrap().replace(kind) != Some(kind) {
                    change(states.fetch_add(1, Relaxed));
                }
            };
            back_up(&self.tree(), &self.store(), &BackupOptions::default(), &progress).unwrap()
        }

        fn findings(&self, backup: &Backup) -> Vec<(Class, String)> {
            let (copy, manifest) = (backup.place.copy(), backup.place.manifest());
            let request = Request::new(Source::Path(copy), Against::Manifest(manifest));
            let report = verify(&request, &|_| {}).unwrap();
            let path = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
            report.differences().iter().map(|d| (d.class, path(&d.path))).collect()
        }
    }

    #[test]
    fn a_change_during_the_first_copying_is_copied_again() {
        let Some(lab) = Lab::new() else { return };
        // State 0 scans, 1 copies, 2 looks again.
        let backup = lab.back_up(|state| {
            if state == 1 {
                std::fs::write(lab.tree().join("log"), "one more line").unwrap();
                std::fs::remove_file(lab.tree().join("gone")).unwrap();
            }
        });
        assert_eq!((backup.unstable, lab.findings(&backup)), (0, vec![]));
        assert_eq!(std::fs::read(backup.place.copy().join("log")).unwrap(), b"one more line");
    }

    #[test]
    fn only_what_keeps_changing_is_unstable_and_other_damage_is_damage() {
        let Some(lab) = Lab::new() else { return };
        let backup = lab.back_up(|state| {
            // States 2 and 4 look again, after the first and the second copying.
            if state == 1 || state == 4 {
                std::fs::write(lab.tree().join("log"), format!("state {state}, a line")).unwrap();
            }
        });
        let manifest = read_file(&backup.place.manifest()).unwrap();
        let unstable = manifest.entries.iter().filter(|e| e.status == Status::Unstable);
        let unstable: Vec<_> = unstable.map(|e| e.path.as_slice()).collect();
        assert_eq!(unstable, [b"log"]);
        std::fs::write(backup.place.copy().join("quiet/a"), "QUIET/A").unwrap();
        let findings = lab.findings(&backup);
        let classes: Vec<Class> =
            findings.iter().filter(|(_, path)| path == "log").map(|(class, _)| *class).collect();
        assert!(!classes.is_empty() && classes.iter().all(|class| *class == Class::UnstableSource));
        assert!(findings.contains(&(Class::Content, "quiet/a".to_owned())), "{findings:?}");
    }

    #[test]
    fn an_interrupted_backup_has_no_manifest() {
        let Some(lab) = Lab::new() else { return };
        let backup = lab.back_up(|_| {});
        let manifest = backup.place.manifest();
        assert!(manifest.exists());
        let seen = AtomicU32::new(0);
        lab.back_up(|_| {
            seen.fetch_add(u32::from(manifest.exists()), Relaxed);
        });
        assert_eq!(seen.into_inner(), 0, "while a backup runs there is none");
        let excludes = Excludes::parse(&["quiet"]).unwrap();
        let options = BackupOptions { excludes, ..BackupOptions::default() };
        back_up(&lab.tree(), &lab.store(), &options, &|_| {}).unwrap();
        assert!(!backup.place.copy().join("quiet").exists(), "what is excluded later leaves the copy");
        assert_eq!(lab.findings(&backup), []);
    }
}
