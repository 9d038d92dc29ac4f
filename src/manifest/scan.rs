//! Takes the manifest of a tree: streamed ([`gather`], [`describe`]), or whole in memory for those that look at it twice.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::slice::ParallelSliceMut;
use rustix::io::Errno;

use super::entry::{Entry, Mtime, Status, path_order};
use super::exclude::Excludes;
use super::format::{FormatError, Manifest};
use super::hashing::Hashing;
use super::node::Stamp;
use super::sorter::SortError;
use super::walk::{self, Order, Reading};
use crate::system::disks;

pub use super::gather::{Described, Gathering, describe, gather};

/// How far a scan has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries seen.
    pub entries: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// What a scan reads and how.
#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    /// What is left out.
    pub excludes: Excludes,
    /// Enter other filesystems and subvolumes. Otherwise each is recorded as [`super::entry::Edge::Mount`] and not entered.
    pub cross_mounts: bool,
    /// Threads that read; `None` takes what suits the disk: [`default_threads`], or one where it turns.
    pub threads: Option<NonZeroUsize>,
    /// Ask the kernel to drop each file from its cache before and after it is read, so that the disk is read and not the memory.
    /// Only what was synced can be dropped.
    pub evict: bool,
    /// Leave the kernel's cache as it was found: what only this reading has brought there is dropped again. For large trees on
    /// machines that have other work; not for one that is about to be copied.
    pub tidy: bool,
    /// Do not read content; only [`gather`] looks at this.
    pub metadata_only: bool,
    /// How content is hashed.
    pub hashing: Hashing,
}

/// A tree that could not be scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The tree itself is not there, no directory, or not readable.
    #[error("failed to open the tree {}", .tree.display())]
    Tree {
        /// The tree.
        tree: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The machine ran out of something; the entry itself may be fine.
    #[error("failed to read {}", crate::system::show::path(.path))]
    Resources {
        /// Where.
        path: PathBuf,
        /// Of what.
        source: std::io::Error,
    },
    /// No threads.
    #[error("failed to start the reading threads")]
    Threads(#[source] std::io::Error),
    /// What was found could not be put in order.
    #[error("failed to sort what was found")]
    Sort(#[from] SortError),
    /// Entries that no manifest can hold.
    #[error("the tree cannot be described")]
    Format(#[from] FormatError),
}

/// Threads when nothing else was asked for: reading small cold files is waiting, so more than cores. 16 threads read 31 000
/// cold files a second where 2 read 11 000 (measured on two cores).
#[must_use]
pub fn default_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    (4 * cores).clamp(16, 64)
}

/// What suits the disk below a tree: one that turns is read by one thread, for a second would only make it jump.
pub(crate) fn threads_for(tree: &Path, options: &ScanOptions) -> usize {
    let by_disk = || match disks::turns(tree) {
        Ok(true) => 1,
        // Where it cannot be known, many threads cost least.
        Ok(false) | Err(_) => default_threads(),
    };
    options.threads.map_or_else(by_disk, NonZeroUsize::get)
}

/// Reads a tree and makes its manifest, in memory; see [`gather`] for what that means and [`describe`] for large trees.
///
/// # Errors
/// When the tree itself cannot be read, or the machine runs out of memory or descriptors.
pub fn scan(
    tree: &Path,
    options: &ScanOptions,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Manifest, ScanError> {
    Ok(scan_again(tree, options, None, progress)?.manifest)
}

/// A manifest together with what stat said of each entry.
#[derive(Debug)]
pub struct Scan {
    /// The manifest.
    pub manifest: Manifest,
    pub(crate) stamps: Vec<Stamp>,
}

/// As [`scan`]; files whose inode has not changed since `before` (same inode, size, mtime and ctime) are taken from there and not
/// read again.
///
/// # Errors
/// As [`scan`].
pub fn scan_again(
    tree: &Path,
    options: &ScanOptions,
    before: Option<&Scan>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Scan, ScanError> {
    let started = now();
    let known = before.map(Known::new);
    let walked = walk_sorted(tree, options, Reading::All { known: known.as_ref() }, progress)?;
    let header = super::gather::header(tree, options, started, walked.crossed);
    let manifest = Manifest::with(header, walked.entries, &options.hashing)?;
    Ok(Scan { manifest, stamps: walked.stamps })
}

/// What stat says of a tree, without reading any content.
#[derive(Debug)]
pub(crate) struct Walked {
    pub(crate) entries: Vec<Entry>,
    pub(crate) stamps: Vec<Stamp>,
    crossed: bool,
}

/// Lists a tree in order; files have no content hash, and nothing has attributes or flags. With [`ScanOptions::evict`] each file
/// is dropped from the cache.
pub(crate) fn survey(tree: &Path, options: &ScanOptions) -> Result<Walked, ScanError> {
    walk_sorted(tree, options, Reading::Nothing, &|_| {})
}

/// Reads all content and does nothing with it, as a measure for how fast a scan could be; says how many bytes there were.
///
/// # Errors
/// As [`gather`].
#[doc(hidden)]
pub fn read_without_hashing(tree: &Path, options: &ScanOptions) -> Result<u64, ScanError> {
    let order = Order::new(tree, options, Reading::Count);
    let mut bytes = 0;
    walk::walk(&order, |haul| {
        bytes += haul.nodes.iter().map(|node| node.entry.bytes()).sum::<u64>();
        Ok(())
    })?;
    Ok(bytes)
}

/// Files that were read before, by path.
#[derive(Debug)]
pub(super) struct Known<'s> {
    by_path: HashMap<&'s [u8], (&'s Entry, &'s Stamp)>,
    /// When the reading of them began, in seconds since 1970.
    started: i64,
}

/// Filesystem times move in steps (4 ms on many kernels, 2 s on FAT). A file last changed within this many seconds before it
/// was read could have been changed once more without its times showing it.
const RACY_SECONDS: i64 = 3;

impl<'s> Known<'s> {
    fn new(scan: &'s Scan) -> Self {
        let pairs = scan.manifest.entries.iter().zip(&scan.stamps);
        let by_path = pairs.map(|(entry, stamp)| (entry.path.as_slice(), (entry, stamp))).collect();
        Self { by_path, started: scan.manifest.header.started.seconds }
    }

    /// The entry of before, when the file was read well and certainly has not changed since.
    pub(super) fn unchanged(&self, path: &[u8], stamp: &Stamp) -> Option<&Entry> {
        let (entry, then) = self.by_path.get(path)?;
        let stable = entry.status == Status::Stable;
        let settled = stamp.ctime.seconds.saturating_add(RACY_SECONDS) < self.started;
        (stable && settled && *then == stamp).then_some(entry)
    }
}

fn walk_sorted(
    tree: &Path,
    options: &ScanOptions,
    reading: Reading<'_>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Walked, ScanError> {
    let order = Order::new(tree, options, reading);
    let (mut nodes, mut bytes) = (Vec::new(), 0);
    // Before anything is read: whoever watches knows that it begins.
    progress(Progress::default());
    let crossed = walk::walk(&order, |haul| {
        nodes.extend(haul.nodes);
        bytes += haul.bytes;
        progress(Progress { entries: nodes.len() as u64, bytes });
        Ok(())
    })?;
    nodes.par_sort_unstable_by(|l, r| path_order(&l.entry.path, &r.entry.path));
    // A name that moved while its directory was listed may have been listed twice.
    nodes.dedup_by(|l, r| l.entry.path == r.entry.path);
    let (mut entries, stamps): (Vec<Entry>, Vec<Stamp>) =
        nodes.into_iter().map(|node| (node.entry, node.stamp)).unzip();
    number_links(&mut entries, &stamps);
    Ok(Walked { entries, stamps, crossed })
}

/// Gives entries of the same inode a common number, counted in the order of the entries.
fn number_links(entries: &mut [Entry], stamps: &[Stamp]) {
    use super::entry::Kind;
    let linked =
        |entry: &Entry, stamp: &Stamp| stamp.links > 1 && !matches!(entry.kind, Kind::Directory { .. });
    let mut members: HashMap<[u8; 16], (u64, Option<u64>)> = HashMap::new();
    for (entry, stamp) in entries.iter().zip(stamps) {
        if linked(entry, stamp) {
            members.entry(stamp.key()).or_default().0 += 1;
        }
    }
    let mut last = 0;
    for (entry, stamp) in entries.iter_mut().zip(stamps) {
        let Some((count, number)) = members.get_mut(&stamp.key()) else { continue };
        if *count > 1 && linked(entry, stamp) {
            entry.link_group = Some(*number.get_or_insert_with(|| {
                last += 1;
                last
            }));
        }
    }
}

/// Errors that speak of this process or machine and not of the entry that was opened.
pub(crate) fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}

pub(super) fn absolute(tree: &Path) -> PathBuf {
    std::fs::canonicalize(tree).unwrap_or_else(|_| tree.to_owned())
}

/// The wall clock.
pub(crate) fn now() -> Mtime {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Mtime { seconds: since.as_secs().cast_signed(), nanoseconds: since.subsec_nanos() },
        // A clock before 1970 is wrong; the time of a manifest is a remark.
        Err(_) => Mtime::default(),
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
