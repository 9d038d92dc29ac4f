//! The restoring under a verification: a private directory, the shares of the workers, and the two passes of rsync.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::ScopedJoinHandle;

use super::rsync::{self, Ended, RsyncError};
use super::verify::{VerifyError, VerifyProgress};
use crate::manifest::entry::{Entry, Kind};
use crate::manifest::node::Stamp;
use crate::manifest::scan::Walked;
use crate::system::fresh::{self, FreshDirectory};
use crate::system::room;

/// What an entry costs besides its bytes, in bytes: creating a small file takes about as long as writing this much.
const ENTRY_COST: u64 = 16 << 10;

/// What an entry takes on a disk besides its contents, in bytes, at the most: its inode, its name, and the unused end of its last block.
pub(super) const BLOCK: u64 = 4 << 10;

/// Removes what verifications that were killed have left in a scratch directory; says how many there were. Those that are
/// running are left alone.
///
/// # Errors
/// When the scratch directory cannot be listed or a leftover not be removed. A scratch that is not there is fine.
pub fn remove_leftovers(scratch: &Path) -> io::Result<usize> {
    let removed: io::Result<Vec<()>> =
        fresh::remove_dead(scratch)?.into_iter().map(|(_, removed)| removed).collect();
    Ok(removed?.len())
}

/// A fresh directory that only we can enter; removed when dropped.
#[derive(Debug)]
pub(super) struct Private {
    directory: FreshDirectory,
}

impl Private {
    pub(super) fn create(scratch: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(scratch)?;
        let private = Self { directory: FreshDirectory::create(scratch, fresh::RESTORED)? };
        // The restored tree takes its own mode, which may be open to all; the directory around it stays closed.
        std::fs::create_dir(private.path())?;
        Ok(private)
    }

    /// Where the tree is restored to.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("tree")
    }

    /// The directory around it, for what only this verification needs.
    pub(super) fn around(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Removes it with all that was restored.
    pub(super) fn remove(mut self) -> io::Result<()> {
        self.directory.remove()
    }
}

/// What there is to restore.
pub(super) struct Work {
    shares: Vec<Share>,
    directories: Vec<Vec<u8>>,
    passes: usize,
    /// Bytes on disk.
    pub(super) needed: u64,
}

impl Work {
    /// All of what was listed, shared out.
    pub(super) fn of(walked: &Walked, workers: usize) -> Self {
        let shares = share_out(&walked.entries, &walked.stamps, workers);
        Self {
            needed: shares.iter().map(|share| share.bytes).sum(),
            directories: directories(&walked.entries),
            passes: rsync::directory_passes(&walked.entries, false),
            shares,
        }
    }
}

/// The whole restore, as it would be in earnest; returns what rsync complained about.
pub(super) fn restore_all(
    copy: &Path,
    to: &Path,
    work: &Work,
    progress: &(dyn Fn(VerifyProgress) + Sync),
) -> Result<Vec<String>, VerifyError> {
    make_directories(&work.directories, to).map_err(|source| full_or(source, to))?;
    let mut words = restore_shares(copy, to, &work.shares, work.needed, progress)?;
    for _ in 0..work.passes {
        words.extend(complaint(restore_directories(copy, to, &work.directories)?));
    }
    Ok(words)
}

fn restore_shares(
    copy: &Path,
    to: &Path,
    shares: &[Share],
    total: u64,
    progress: &(dyn Fn(VerifyProgress) + Sync),
) -> Result<Vec<String>, VerifyError> {
    let done: Vec<AtomicU64> = shares.iter().map(|_| AtomicU64::new(0)).collect();
    let ended: Vec<Result<Ended, RsyncError>> = std::thread::scope(|scope| {
        let done = &done;
        let workers: Vec<_> = shares
            .iter()
            .enumerate()
            .map(|(number, share)| {
                scope.spawn(move || {
                    restore_files(copy, to, &share.list, &|bytes| {
                        done[number].store(bytes, Relaxed);
                        let done = done.iter().map(|bytes| bytes.load(Relaxed)).sum();
                        progress(VerifyProgress::Restoring { done, total });
                    })
                })
            })
            .collect();
        workers.into_iter().map(joined).collect()
    });
    let mut words = Vec::new();
    for ended in ended {
        words.extend(complaint(ended?));
    }
    Ok(words)
}

fn complaint(ended: Ended) -> Option<String> {
    match ended {
        Ended::Complete => None,
        Ended::Vanished => Some("files of the copy vanished while it was restored".to_owned()),
        Ended::Partial(text) => Some(text),
    }
}

pub(super) fn check_room(scratch: &Path, needed: u64) -> Result<(), VerifyError> {
    let free =
        room::free(scratch).map_err(|source| VerifyError::Scratch { scratch: scratch.to_owned(), source })?;
    if free < needed {
        return Err(VerifyError::TooSmall { scratch: scratch.to_owned(), needed, free });
    }
    Ok(())
}

/// The part of one worker.
#[derive(Debug, Default)]
struct Share {
    /// Paths for rsync, each ended by NUL.
    list: Vec<u8>,
    /// Bytes on disk.
    bytes: u64,
    cost: u64,
}

/// Shares out everything but directories, evenly by cost and in the order of the tree: a worker that stays in few directories
/// makes rsync and the disk jump less. Names of one inode are one thing, or their link would be lost.
fn share_out(entries: &[Entry], stamps: &[Stamp], workers: usize) -> Vec<Share> {
    let things = things(entries, stamps);
    let workers = workers.max(1);
    let quota = (things.iter().map(|thing| thing.cost).sum::<u64>() / workers as u64).max(1);
    let mut shares: Vec<Share> = std::iter::repeat_with(Share::default).take(workers).collect();
    let mut before = 0;
    for thing in things {
        // By its middle, so that one large file goes where more than half of it belongs.
        let number = usize::try_from((before + thing.cost / 2) / quota).unwrap_or(usize::MAX);
        before += thing.cost;
        let share = &mut shares[number.min(workers - 1)];
        share.cost += thing.cost;
        share.bytes += thing.bytes;
        for member in thing.members {
            push_path(&mut share.list, &entries[member].path);
        }
    }
    shares.retain(|share| !share.list.is_empty());
    shares
}

/// What must be restored by one worker: one inode, with all its names.
struct Thing {
    bytes: u64,
    cost: u64,
    members: Vec<usize>,
}

fn things(entries: &[Entry], stamps: &[Stamp]) -> Vec<Thing> {
    let mut things: Vec<Thing> = Vec::new();
    let mut groups: HashMap<u64, usize> = HashMap::new();
    for (index, (entry, stamp)) in entries.iter().zip(stamps).enumerate() {
        if matches!(entry.kind, Kind::Directory { .. }) {
            continue;
        }
        let known = entry.link_group.and_then(|group| groups.get(&group).copied());
        if let Some(place) = known {
            things[place].cost += ENTRY_COST;
            things[place].members.push(index);
            continue;
        }
        if let Some(group) = entry.link_group {
            groups.insert(group, things.len());
        }
        let bytes = entry.bytes().min(stamp.allocated);
        things.push(Thing { bytes, cost: bytes.saturating_add(ENTRY_COST), members: vec![index] });
    }
    things
}

/// `./` before a path keeps rsync from taking `#name` for a comment.
fn push_path(list: &mut Vec<u8>, path: &[u8]) {
    list.extend_from_slice(b"./");
    list.extend_from_slice(path);
    list.push(0);
}

/// The directories of a tree, parents first; the first is the tree itself.
fn directories(entries: &[Entry]) -> Vec<Vec<u8>> {
    let directories = entries.iter().filter(|entry| matches!(entry.kind, Kind::Directory { .. }));
    directories.map(|entry| entry.path.clone()).collect()
}

/// Makes all directories, open to us for now.
fn make_directories(directories: &[Vec<u8>], to: &Path) -> io::Result<()> {
    for directory in directories.iter().filter(|directory| !directory.is_empty()) {
        std::fs::create_dir(to.join(OsStr::from_bytes(directory)))?;
    }
    Ok(())
}

/// Restores one share.
fn restore_files(
    copy: &Path,
    to: &Path,
    list: &[u8],
    on_bytes: &(dyn Fn(u64) + Sync),
) -> Result<Ended, RsyncError> {
    // The directories exist, and their times must not be set while other workers still write into them.
    rsync::run(copy, to, &["--no-implied-dirs".into(), "--whole-file".into()], Some(list), on_bytes)
}

/// Gives all directories their metadata.
fn restore_directories(copy: &Path, to: &Path, directories: &[Vec<u8>]) -> Result<Ended, RsyncError> {
    let mut list = Vec::new();
    for directory in directories {
        push_path(&mut list, directory);
    }
    rsync::run(copy, to, &["--no-recursive".into(), "--dirs".into()], Some(&list), &|_| {})
}

/// A full disk has a name of its own: the answer is then not known.
fn full_or(source: io::Error, scratch: &Path) -> VerifyError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            VerifyError::Restore(RsyncError::NoSpace { to: scratch.to_owned() })
        }
        _ => VerifyError::Scratch { scratch: scratch.to_owned(), source },
    }
}

/// A worker's result.
fn joined(worker: ScopedJoinHandle<'_, Result<Ended, RsyncError>>) -> Result<Ended, RsyncError> {
    worker.join().unwrap_or_else(|_| {
        let source = io::Error::other("a restoring thread panicked");
        Err(RsyncError::Io { from: PathBuf::new(), source })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::ScanOptions;
    use crate::manifest::scan::survey;

    #[test]
    fn leftovers_of_a_killed_verification_are_removed_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let private = Private::create(scratch.path()).unwrap();
        let left = scratch.path().join(format!("{}left", fresh::RESTORED));
        std::fs::create_dir(&left).unwrap();
        std::fs::set_permissions(&left, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::write(left.join("f"), "x").unwrap();
        std::fs::create_dir(scratch.path().join("ours")).unwrap();
        assert_eq!(remove_leftovers(scratch.path()).unwrap(), 1);
        assert_eq!(remove_leftovers(scratch.path()).unwrap(), 0);
        assert!(scratch.path().join("ours").exists() && private.path().exists());
        assert_eq!(remove_leftovers(Path::new("/no/such/scratch")).unwrap(), 0);
    }

    #[test]
    fn shares_are_even_and_links_stay_together() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("d")).unwrap();
        for n in 0..40 {
            std::fs::write(at(&n.to_string()), vec![1; 10_000]).unwrap();
        }
        std::fs::write(at("large"), vec![1; 1_000_000]).unwrap();
        std::fs::hard_link(at("large"), at("d/large-too")).unwrap();
        let walked = survey(dir.path(), &ScanOptions::default()).unwrap();
        let shares = share_out(&walked.entries, &walked.stamps, 3);
        assert_eq!(shares.len(), 3);
        let names = |share: &Share| share.list.iter().filter(|byte| **byte == 0).count();
        assert_eq!(shares.iter().map(names).sum::<usize>(), 42);
        let holds = |share: &Share, name: &str| String::from_utf8_lossy(&share.list).contains(name);
        let large = shares.iter().find(|share| holds(share, "./large\0")).unwrap();
        assert!(holds(large, "./d/large-too\0"));
        assert!(shares.iter().all(|share| share.cost < 1_300_000));
        assert_eq!(directories(&walked.entries), [b"".to_vec(), b"d".to_vec()]);
    }
}
