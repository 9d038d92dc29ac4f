//! A tree as a sorted stream or as a manifest, in bounded memory, however large it is.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::collect::{Collector, Sorted};
use super::entry::Status;
use super::facts::{Facts, Found};
use super::format::{Header, Summary, Trailer};
use super::owners::Owners;
use super::root::ManifestId;
use super::scan::{Progress, ScanError, ScanOptions, absolute, now};
use super::walk::{self, Haul, Order, Reading};
use super::write::ManifestWriter;
use crate::system::{identity, mounts};

/// What a walk found, in the order of a manifest.
#[derive(Debug)]
pub struct Gathering {
    /// The entries.
    pub sorted: Sorted,
    /// Where, when and how; `previous` is for the caller to fill.
    pub header: Header,
    /// Names of owners, and what was left out.
    pub trailer: Trailer,
    /// How many entries there are.
    pub entries: u64,
    /// Bytes of content that were read.
    pub bytes: u64,
    /// Entries that changed each time they were looked at.
    pub unstable: u64,
    /// Entries that could not be read.
    pub unreadable: u64,
}

/// A manifest that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described {
    /// Counts and id.
    pub summary: Summary,
    /// Entries that changed each time they were looked at.
    pub unstable: u64,
    /// Entries that could not be read.
    pub unreadable: u64,
}

/// Reads a tree and sorts what it finds; with [`ScanOptions::metadata_only`] without content, which the entries then say they do
/// not carry. At most some 30 MiB are in memory; the rest is in unlinked files in `scratch`.
///
/// A file or directory that changes while it is read is read once more and then marked unstable; one that cannot be read is
/// marked with its errno. Nothing is followed, nothing is opened but directories and regular files.
///
/// # Errors
/// When the tree itself cannot be read, the machine runs out of memory or descriptors, or `scratch` cannot be written.
pub fn gather(
    tree: &Path,
    options: &ScanOptions,
    scratch: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Gathering, ScanError> {
    let reading = if options.metadata_only { Reading::Metadata } else { Reading::All { known: None } };
    let carries = if options.metadata_only { Facts::ALL.without(Facts::CONTENT) } else { Facts::ALL };
    let order = Order { scratch: Some(scratch), ..Order::new(tree, options, reading) };
    let started = now();
    let mut collector = Collector::new(scratch);
    let (mut counts, mut owners) = (Counts::default(), Owners::default());
    let mut trailer = Trailer::default();
    // Before anything is read: whoever watches knows that it begins.
    progress(Progress::default());
    let crossed = walk::walk(&order, |haul| {
        counts.add(&haul);
        let Haul { nodes, left_out, .. } = haul;
        trailer.left_out.extend(left_out.paths);
        if trailer.left_out.len() > 2 * Trailer::MAX_LEFT_OUT {
            keep_first(&mut trailer.left_out);
        }
        trailer.left_out_total += left_out.total;
        for node in nodes {
            owners.add(node.entry.uid, node.entry.gid);
            if node.is_linked() {
                collector.same_inode(node.stamp.key(), &node.entry.path)?;
            }
            collector.push(&Found { entry: node.entry, carries })?;
        }
        progress(Progress { entries: counts.entries, bytes: counts.bytes });
        Ok(())
    })?;
    keep_first(&mut trailer.left_out);
    (trailer.users, trailer.groups) = owners.names();
    let header = header(tree, options, started, crossed);
    let Counts { entries, bytes, unstable, unreadable } = counts;
    Ok(Gathering { sorted: collector.finish()?, header, trailer, entries, bytes, unstable, unreadable })
}

/// Reads a tree and writes its manifest, hashed as the options say; memory and temporary files as for [`gather`]. Nothing is
/// written to `to` before the whole tree was read.
///
/// # Errors
/// As [`gather`], and when `to` cannot be written.
pub fn describe<W: Write>(
    tree: &Path,
    options: &ScanOptions,
    scratch: &Path,
    previous: Option<ManifestId>,
    to: W,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Described, ScanError> {
    // A manifest without contents is none.
    let options = &ScanOptions { metadata_only: false, ..options.clone() };
    let gathering = gather(tree, options, scratch, progress)?;
    let Gathering { sorted, header, trailer, unstable, unreadable, .. } = gathering;
    let header = Header { previous, ..header };
    let mut writer = ManifestWriter::begin(to, tree, &header, &options.hashing)?;
    for found in sorted {
        writer.push(&found?.entry)?;
    }
    let (summary, _) = writer.finish(&trailer)?;
    Ok(Described { summary, unstable, unreadable })
}

#[derive(Default)]
struct Counts {
    entries: u64,
    bytes: u64,
    unstable: u64,
    unreadable: u64,
}

impl Counts {
    fn add(&mut self, haul: &Haul) {
        self.entries += haul.nodes.len() as u64;
        self.bytes += haul.bytes;
        for node in &haul.nodes {
            match node.entry.status {
                Status::Stable => {}
                Status::Unstable => self.unstable += 1,
                Status::Unreadable(_) => self.unreadable += 1,
            }
        }
    }
}

/// Of more than are named, those that sort first: so that equal trees name equal paths, whatever the threads did.
fn keep_first(left_out: &mut Vec<Vec<u8>>) {
    left_out.sort_unstable_by(|l, r| super::entry::path_order(l, r));
    left_out.truncate(Trailer::MAX_LEFT_OUT);
}

/// Where, when and how a tree was read; it has just been read.
pub(super) fn header(tree: &Path, options: &ScanOptions, started: super::Mtime, crossed: bool) -> Header {
    let absolute = absolute(tree);
    let table = mounts::read().unwrap_or_default();
    let filesystem = mounts::holding(&table, &absolute).map(|mount| mount.fs_type.clone());
    Header {
        tree: absolute.as_os_str().as_bytes().to_vec(),
        host: identity::host_name(),
        machine: identity::machine_id(),
        tool: concat!("safe-upgrade ", env!("CARGO_PKG_VERSION")).to_owned(),
        filesystem: filesystem.unwrap_or_default(),
        started,
        ended: now(),
        excludes: options.excludes.written().to_vec(),
        one_filesystem: !options.cross_mounts,
        crossed_mounts: crossed,
        ..Header::default()
    }
}
