//! The finished tree, entry by entry.

use std::collections::BTreeMap;

use super::draft::{Bytes, Known, Layout, Why};
use super::interpreter::Interpreter;
use super::tree::{Body, Children, Id, Inode, TOP};
use super::{CARRIES, Gathered, SendStreamError};
use crate::manifest::collect::Collector;
use crate::manifest::entry::{Edge, Entry, Kind, MAX_DEPTH};
use crate::manifest::facts::{Facts, Found};
use crate::manifest::hashing::{ContentHasher, Hashing};
use crate::manifest::scan::Progress;

/// Files whose content the stream does not tell, and their bytes, by reason.
type Unchecked = BTreeMap<Why, (u64, u64)>;

impl Interpreter<'_> {
    /// Hands on every entry. `at` is the length of the stream.
    pub(super) fn tell(mut self, at: u64, into: &mut Collector) -> Result<Gathered, SendStreamError> {
        let limits = &self.reading.limits;
        let (longest, deepest) = (limits.name, limits.depth.min(MAX_DEPTH));
        let mut unchecked = Unchecked::new();
        let mut path = Vec::new();
        into.push(&self.found(TOP, &path, &mut unchecked))?;
        let mut open: Vec<(usize, Children)> = vec![(0, self.tree.take_children(TOP))];
        while let Some((length, children)) = open.last_mut() {
            path.truncate(*length);
            let Some((name, id)) = children.next() else {
                open.pop();
                continue;
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if path.len() > longest || open.len() > deepest {
                return Err(SendStreamError::Limit {
                    at,
                    what: "a path is longer or deeper than is allowed",
                });
            }
            if self.reading.excludes.matches(&path) {
                continue;
            }
            into.push(&self.found(id, &path, &mut unchecked))?;
            match &self.tree.inode(id).body {
                Body::Directory { .. } => open.push((path.len(), self.tree.take_children(id))),
                _ if self.tree.inode(id).names > 1 => into.same_inode(key(id), &path)?,
                _ => {}
            }
        }
        (self.reading.progress)(Progress { entries: self.tree.names() + 1, bytes: self.expanded });
        Ok(Gathered {
            carries: CARRIES,
            remarks: self.remarks(&unchecked),
            findings: self.findings,
            restored: false,
        })
    }

    fn found(&self, id: Id, path: &[u8], unchecked: &mut Unchecked) -> Found {
        let inode = self.tree.inode(id);
        let mut carries = CARRIES;
        let kind = match &inode.body {
            Body::Directory { .. } => Kind::Directory { edge: Edge::Inside },
            Body::File(bytes) => file(bytes, &self.reading.hashing, &mut carries, unchecked),
            Body::Symlink(target) => Kind::Symlink { target: target.to_vec() },
            Body::Fifo => Kind::Fifo,
            Body::Socket | Body::Gone => Kind::Socket,
            Body::CharDevice(device) => Kind::CharDevice(*device),
            Body::BlockDevice(device) => Kind::BlockDevice(*device),
        };
        let Inode { mtime, uid, gid, mode, ref xattrs, .. } = *inode;
        let xattrs = xattrs.clone();
        let entry = Entry { mode, uid, gid, mtime, xattrs, ..Entry::new(path, kind) };
        Found { entry, carries }
    }

    fn remarks(&self, unchecked: &Unchecked) -> Vec<String> {
        let mut remarks = Vec::new();
        for (why, (files, bytes)) in unchecked {
            let reason = match why {
                Why::Shared if self.spool.is_none() => {
                    "a part of it is that of other files, and the stream holds only a pointer there (named as a file, it is \
                     read a second time for them)"
                        .to_owned()
                }
                Why::Shared => "a part of it is that of a file that is not known either".to_owned(),
                Why::Order => "it was not written from its beginning to its end".to_owned(),
                Why::NoData => "the stream was made with --no-data".to_owned(),
                Why::Compression => {
                    format!("it is written with {}", self.unreadable.unwrap_or("an unknown compression"))
                }
            };
            remarks.push(format!(
                "content not checked by the stream: {files} file(s) with {bytes} bytes: {reason}; receive it and verify the received subvolume as a directory to prove it"
            ));
        }
        if self.more_findings > 0 {
            remarks
                .push(format!("{} more commands lead out of the tree than are listed", self.more_findings));
        }
        remarks
    }
}

fn file(bytes: &Bytes, hashing: &Hashing, carries: &mut Facts, unchecked: &mut Unchecked) -> Kind {
    match bytes {
        Bytes::Known(known) => {
            let Known { size, hash, blocks, layout } = known.as_ref();
            let extents = match layout {
                Layout::Full => None,
                Layout::Sparse(extents) => Some(extents.to_vec()),
                Layout::Scattered => {
                    *carries = carries.without(Facts::HOLES);
                    None
                }
            };
            Kind::File { size: *size, content: Some(*hash), blocks: blocks.to_vec(), extents }
        }
        Bytes::Unknown { size, why } => {
            *carries = carries.without(Facts::CONTENT).without(Facts::HOLES);
            let counted = unchecked.entry(*why).or_default();
            counted.0 += 1;
            counted.1 = counted.1.saturating_add(*size);
            Kind::unread_file(*size)
        }
        Bytes::Empty | Bytes::Drafted => Kind::file(ContentHasher::new(hashing).finish()),
    }
}

fn key(id: Id) -> [u8; 16] {
    u128::from(id).to_le_bytes()
}
