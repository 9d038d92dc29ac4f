//! A sample of a copy, read again: cheap proof that a store which was verified before is still what it was.

use std::collections::BinaryHeap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::io::Errno;

use super::compare::{Rules, compare};
use super::content::{self, How, ReadFile, Use};
use super::entry::{Entry, Kind, Status, file_name};
use super::facts::Found;
use super::format::FormatError;
use super::hashing::Hashing;
use super::node::{Node, node_at};
use super::opening::{descend, open_top};
use super::scan::ScanError;
use super::verdict::{Class, Difference, Report};

/// Reads `count` files of a copy again and compares them with the manifest: the largest always, the others chosen by the seed.
///
/// The choice is the same for the same seed and manifest, and no file can know beforehand that it will not be asked. Hard
/// links are not judged. The report says how many entries were checked; a manifest without files yields zero, which is
/// never "same".
///
/// # Errors
/// When the manifest is damaged or the copy itself cannot be opened.
pub fn attest_sample(
    copy: &Path,
    entries: impl IntoIterator<Item = Result<Entry, FormatError>>,
    seed: u64,
    count: usize,
) -> Result<Report, ScanError> {
    let sample = choose(entries, seed, count)?;
    let at_copy = |errno: Errno| ScanError::Tree { tree: copy.to_owned(), source: errno.into() };
    let top = open_top(copy).map_err(at_copy)?;
    let (rules, mut report) = (Rules::default(), Report::default());
    for mut expected in sample {
        expected.link_group = None;
        match look(top.as_fd(), &expected) {
            Ok(found) => compare([Ok(&expected)], [Ok(Found::whole(found))], &rules, &mut report)?,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                compare([Ok(&expected)], std::iter::empty::<Result<Found, _>>(), &rules, &mut report)?;
            }
            Err(errno) => report.add(Difference {
                class: Class::Unreadable,
                path: expected.path,
                expected: "readable".to_owned(),
                found: format!("could not be read: {}", std::io::Error::from(errno)),
            }),
        }
    }
    Ok(report)
}

/// The largest file, and the `count - 1` with the smallest keyed hash of their paths; holds that many at a time.
fn choose(
    entries: impl IntoIterator<Item = Result<Entry, FormatError>>,
    seed: u64,
    count: usize,
) -> Result<Vec<Entry>, FormatError> {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut largest: Option<Entry> = None;
    let mut heap: BinaryHeap<Ranked> = BinaryHeap::new();
    for entry in entries {
        let entry = entry?;
        if !matches!(entry.kind, Kind::File { .. }) || entry.status != Status::Stable {
            continue;
        }
        if count > 0 && largest.as_ref().is_none_or(|largest| largest.bytes() < entry.bytes()) {
            largest = Some(entry.clone());
        }
        let rank = *blake3::keyed_hash(&key, &entry.path).as_bytes();
        heap.push(Ranked { rank, entry });
        if heap.len() > count {
            heap.pop();
        }
    }
    let mut sample: Vec<Entry> = heap.into_sorted_vec().into_iter().map(|ranked| ranked.entry).collect();
    if let Some(largest) = largest
        && !sample.iter().any(|entry| entry.path == largest.path)
    {
        sample.pop();
        sample.push(largest);
    }
    Ok(sample)
}

struct Ranked {
    rank: [u8; 32],
    entry: Entry,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl Eq for Ranked {}

/// The entry as the copy has it now; never leaves the copy, follows no link, and opens nothing but regular files.
fn look(top: BorrowedFd<'_>, expected: &Entry) -> Result<Entry, Errno> {
    let dir = descend(top, expected.parent().unwrap_or_default())?;
    let name = CString::new(file_name(&expected.path)).map_err(|_| Errno::INVAL)?;
    let (Node { mut entry, .. }, is_file) = node_at(dir.as_fd(), &name, expected.path.clone())?;
    if !is_file {
        return Ok(entry);
    }
    let how = How { content: Use::Hash(Hashing::plain()), evict: true, tidy: true };
    let read = content::read_file(dir.as_fd(), &name, &how)?;
    entry.status = if read.stable { Status::Stable } else { Status::Unstable };
    (entry.xattrs, entry.flags) = (read.more.xattrs, read.more.flags);
    entry.kind = ReadFile::kind(read.content, entry.bytes(), read.more.extents);
    Ok(entry)
}
