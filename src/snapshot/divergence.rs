//! What was written to a tree since its snapshot: both are walked at once, by metadata alone, and what differs is counted.
//!
//! A file counts as changed when its kind, size or time of modification differs. Change times and inode numbers differ between any
//! two subvolumes and say nothing; content is not read. Memory grows with the largest directory and the widest path, not with the tree.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::system::beneath;

/// How many of the largest differences are kept.
const LARGEST: usize = 5;

/// Files and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Everything that is not a directory; each name of a file counts.
    pub files: u64,
    /// Their sizes.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// One file that was added or changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Written {
    /// Its size in bytes.
    pub bytes: u64,
    /// Its path from the top of the tree; bytes that are not UTF-8 and control characters are escaped.
    pub path: String,
}

/// What was written since a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// Only in the living tree.
    pub added: Amount,
    /// In both, and different.
    pub changed: Amount,
    /// Only in the snapshot; the bytes are those that they had there.
    pub removed: Amount,
    /// The largest files that were added or changed, largest first.
    pub largest: Vec<Written>,
}

/// A tree that could not be walked: then nothing is known, and nothing is guessed.
#[derive(Debug, thiserror::Error)]
#[error("failed to compare {} with its snapshot", crate::system::show::path(.path))]
pub struct DivergenceError {
    path: PathBuf,
    source: io::Error,
}

/// How a path differs between two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// Only in the second.
    Added,
    /// In both, and different.
    Changed,
    /// Only in the first.
    Removed,
}

/// Compares a snapshot with the tree that it was taken of. Other filesystems and subvolumes inside are left out.
///
/// # Errors
/// When a directory cannot be read; what vanishes meanwhile is gone.
pub fn between(before: &Path, now: &Path) -> Result<Divergence, DivergenceError> {
    let mut found = Divergence::default();
    walk(before, now, &mut |path, difference, bytes| {
        match difference {
            Difference::Added => found.added.add(bytes),
            Difference::Changed => found.changed.add(bytes),
            Difference::Removed => return found.removed.add(bytes),
        }
        if found.largest.len() < LARGEST || found.largest.last().is_some_and(|least| least.bytes < bytes) {
            found.largest.push(Written { bytes, path: crate::system::show::path(path) });
            found
                .largest
                .sort_by(|left, right| right.bytes.cmp(&left.bytes).then(left.path.cmp(&right.path)));
            found.largest.truncate(LARGEST);
        }
    })?;
    Ok(found)
}

/// Tells of each file that differs: its path from the top, how it differs, and its size (in the first tree, when it is only there). A
/// first tree that is not there is taken for an empty one.
///
/// # Errors
/// As [`between`].
pub fn walk(
    before: &Path,
    now: &Path,
    tell: &mut dyn FnMut(&Path, Difference, u64),
) -> Result<(), DivergenceError> {
    let before = match open(before) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => None,
        opened => Some(opened?),
    };
    walk_opened(before, open(now)?, tell)
}

/// As [`walk`], with directories that are open.
///
/// # Errors
/// As [`between`].
pub fn walk_opened(
    before: Option<OwnedFd>,
    now: OwnedFd,
    tell: &mut dyn FnMut(&Path, Difference, u64),
) -> Result<(), DivergenceError> {
    let pair = Pair { before: before.map(Side::of).transpose()?, now: Side::of(now)? };
    let mut waiting = vec![PathBuf::new()];
    while let Some(directory) = waiting.pop() {
        pair.compare(&directory, &mut waiting, tell).map_err(|errno| DivergenceError {
            path: Path::new("/").join(&directory),
            source: errno.into(),
        })?;
    }
    Ok(())
}

fn open(path: &Path) -> Result<OwnedFd, DivergenceError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| DivergenceError { path: path.to_owned(), source: errno.into() })
}

struct Pair {
    before: Option<Side>,
    now: Side,
}

/// One of the two trees.
struct Side {
    top: OwnedFd,
    device: u64,
}

/// The names in a directory, in order, each with what stat says.
type Names = BTreeMap<OsString, Stat>;

impl Side {
    fn of(top: OwnedFd) -> Result<Self, DivergenceError> {
        let device = rustix::fs::fstat(&top)
            .map_err(|errno| DivergenceError { path: "/".into(), source: errno.into() })?
            .st_dev;
        Ok(Self { top, device })
    }

    /// Nothing when the directory is not there (any more).
    fn names(&self, directory: &Path) -> Result<Names, Errno> {
        let fd = match beneath::directory(&self.top, directory) {
            // Something else is mounted there, or no such directory is.
            Err(errno) if errno == Errno::XDEV || beneath::is_none(errno) => return Ok(Names::new()),
            opened => opened?,
        };
        if rustix::fs::fstat(&fd)?.st_dev != self.device {
            return Ok(Names::new());
        }
        let mut names = Names::new();
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(&fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT) {
                Ok(stat) => drop(names.insert(OsString::from_vec(name.to_bytes().to_vec()), stat)),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(names)
    }

    /// A directory in which something else than this tree begins: a subvolume, or the stub of one in a snapshot.
    fn is_edge(&self, stat: &Stat) -> bool {
        /// The inode of an empty directory that stands where a snapshot's origin holds a subvolume (btrfs: `BTRFS_EMPTY_SUBVOL_DIR_OBJECTID`).
        const STUB: u64 = 2;
        is_directory(stat) && (stat.st_dev != self.device || stat.st_ino == STUB)
    }
}

impl Pair {
    fn compare(
        &self,
        directory: &Path,
        waiting: &mut Vec<PathBuf>,
        tell: &mut dyn FnMut(&Path, Difference, u64),
    ) -> Result<(), Errno> {
        let before = self.before.as_ref().map(|side| side.names(directory)).transpose()?;
        let (mut before, now) = (before.unwrap_or_default(), self.now.names(directory)?);
        for (name, stat) in &now {
            let old = before.remove(OsStr::from_bytes(name.as_bytes()));
            self.judge(directory.join(name), old.as_ref(), Some(stat), waiting, tell);
        }
        for (name, stat) in &before {
            self.judge(directory.join(name), Some(stat), None, waiting, tell);
        }
        Ok(())
    }

    fn judge(
        &self,
        path: PathBuf,
        old: Option<&Stat>,
        new: Option<&Stat>,
        waiting: &mut Vec<PathBuf>,
        tell: &mut dyn FnMut(&Path, Difference, u64),
    ) {
        let begins =
            |side: Option<&Side>, stat| side.zip(stat).is_some_and(|(side, stat)| side.is_edge(stat));
        if begins(self.before.as_ref(), old) || begins(Some(&self.now), new) {
            return;
        }
        let file = |stat: Option<&Stat>| stat.filter(|stat| !is_directory(stat)).map(size);
        match (file(old), file(new)) {
            (Some(_), Some(bytes)) if old.map(state) != new.map(state) => {
                tell(&path, Difference::Changed, bytes)
            }
            (None, Some(bytes)) => tell(&path, Difference::Added, bytes),
            (Some(bytes), None) => tell(&path, Difference::Removed, bytes),
            _ => {}
        }
        if old.is_some_and(is_directory) || new.is_some_and(is_directory) {
            waiting.push(path);
        }
    }
}

fn is_directory(stat: &Stat) -> bool {
    kind(stat) == FileType::Directory
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn size(stat: &Stat) -> u64 {
    stat.st_size.cast_unsigned()
}

/// What must be equal for a file to count as the same.
#[allow(clippy::unnecessary_cast, reason = "the types differ between architectures")]
fn state(stat: &Stat) -> (u32, i64, i64, i64, u64) {
    let kind = (stat.st_mode as u32) & 0o170_000;
    (kind, stat.st_size as i64, stat.st_mtime as i64, stat.st_mtime_nsec as i64, stat.st_rdev as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::{Duration, SystemTime};

    fn put(tree: &Path, path: &str, content: &str, seconds: u64) {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(seconds * 1_000_000_000 + 7);
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    }

    fn two_trees() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let (before, now) = (directory.path().join("before"), directory.path().join("now"));
        for tree in [&before, &now] {
            put(tree, "same", "equal", 1000);
            put(tree, "d/deep/same", "equal", 1000);
            std::os::unix::fs::symlink("same", tree.join("link")).unwrap();
            let link = rustix::fs::Timespec { tv_sec: 5, tv_nsec: 5 };
            let times = rustix::fs::Timestamps { last_access: link, last_modification: link };
            rustix::fs::utimensat(rustix::fs::CWD, tree.join("link"), &times, AtFlags::SYMLINK_NOFOLLOW)
                .unwrap();
        }
        (directory, before, now)
    }

    #[test]
    fn equal_trees_do_not_diverge() {
        let (_directory, before, now) = two_trees();
        assert_eq!(between(&before, &now).unwrap(), Divergence::default());
    }

    #[test]
    fn what_differs_is_counted_and_the_largest_named() {
        let (_directory, before, now) = two_trees();
        put(&now, "d/new", "12345678", 1);
        put(&now, "whole/new/tree", "123", 1);
        put(&before, "d/touched", "same size", 1000);
        put(&now, "d/touched", "same size", 1001);
        put(&before, "grown", "a", 1000);
        put(&now, "grown", &"a".repeat(100), 1000);
        put(&before, "gone/with/all", "1234", 1);
        put(&before, "gone/too", "12", 1);
        put(&before, "becomes/a/directory", "", 1);
        put(&now, "becomes/a/directory/below", "1", 1);
        let found = between(&before, &now).unwrap();
        assert_eq!(found.added, Amount { files: 3, bytes: 8 + 3 + 1 });
        assert_eq!(found.changed, Amount { files: 2, bytes: 9 + 100 });
        assert_eq!(found.removed, Amount { files: 3, bytes: 6 });
        let names: Vec<&str> = found.largest.iter().map(|one| one.path.as_str()).collect();
        assert_eq!(names, ["grown", "d/touched", "d/new", "whole/new/tree", "becomes/a/directory/below"]);
    }

    #[test]
    fn only_the_largest_are_kept() {
        let (_directory, before, now) = two_trees();
        for number in 0..40 {
            put(&now, &format!("n{number}"), &"x".repeat(number), 1);
        }
        let found = between(&before, &now).unwrap();
        assert_eq!(found.added.files, 40);
        assert_eq!(found.largest.iter().map(|one| one.bytes).collect::<Vec<_>>(), [39, 38, 37, 36, 35]);
    }

    #[test]
    fn a_tree_that_is_not_there_is_an_error() {
        let (directory, before, _) = two_trees();
        let error = between(&before, &directory.path().join("nowhere")).unwrap_err();
        assert!(error.to_string().contains("nowhere"), "{error}");
    }
}
