//! One entry of a manifest, the rules that every entry obeys, and the order in which they stand.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::hashing::{self, Content};
use super::xattr::{self, Xattr};

/// The longest path or link target, in bytes. Linux takes 4095 at a time, but trees can be deeper than one call can name.
pub const MAX_PATH: usize = 65_535;

/// The most components of a path: bounds the memory of everything that keeps one item per open directory.
pub const MAX_DEPTH: usize = 4096;

/// The most extents of a sparse file that are kept; a file with more is recorded without.
pub const MAX_EXTENTS: usize = 4096;

/// The permission, set-id and sticky bits.
pub const MODE_BITS: u32 = 0o7777;

/// The BLAKE3 hash of a file's content.
pub type ContentHash = [u8; 32];

/// One file, directory, link or special file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Bytes relative to the tree, without a leading slash; empty for the tree itself.
    pub path: Vec<u8>,
    /// What it is, with what only that kind has.
    pub kind: Kind,
    /// The twelve permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the content was last changed.
    pub mtime: Mtime,
    /// Extended attributes, sorted by name; POSIX ACLs and capabilities are among them, as the kernel keeps them.
    pub xattrs: Vec<Xattr>,
    /// The flags of `chattr` that a person can set; `None` where the filesystem has none, or they were not asked for.
    pub flags: Option<u32>,
    /// Which hard-link group it belongs to: groups are numbered from 1 in the order of their first members, so that equal
    /// partitions have equal numbers. `None` when no other entry of the tree is the same inode.
    pub link_group: Option<u64>,
    /// How well it could be read.
    pub status: Status,
    /// What was seen on the way, and is never compared.
    pub noted: Option<Noted>,
}

/// What a restore cannot bring back: recorded for a person who looks for a cause, never compared, not part of the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noted {
    /// When content or metadata were last changed; the kernel's own.
    pub ctime: Mtime,
    /// When it was last read.
    pub atime: Mtime,
    /// The inode's number.
    pub inode: u64,
    /// How many names the inode has, in this tree and elsewhere.
    pub links: u64,
}

/// A part of a sparse file that holds data, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins.
    pub offset: u64,
    /// How long it is; never zero.
    pub length: u64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory {
        /// Whether the entries below it belong to this manifest.
        edge: Edge,
    },
    /// A regular file.
    File {
        /// Bytes that were hashed; what stat said when it could not be read.
        size: u64,
        /// `None` exactly when the status is [`Status::Unreadable`].
        content: Option<ContentHash>,
        /// Chaining values of its blocks, which say where in the file damage is; empty for a file of one block.
        /// See [`super::hashing`].
        blocks: Vec<ContentHash>,
        /// Where the data of a sparse file are; `None`: it has no holes. Advisory: filesystems move holes as they like.
        extents: Option<Vec<Extent>>,
    },
    /// A symbolic link and the bytes that it holds.
    Symlink {
        /// Never followed.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
}

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// The driver.
    pub major: u32,
    /// The unit.
    pub minor: u32,
}

/// Where a walk ended although a directory may hold more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// It did not end here.
    Inside,
    /// Another filesystem or subvolume begins here (another `st_dev`); nothing below it was listed.
    Mount,
    /// The empty place that a btrfs snapshot shows for a subvolume that was nested in the original (inode 2). The kernel makes up
    /// its metadata each time it is looked up.
    Stub,
}

/// A modification time; the seconds may be negative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtime {
    /// Since 1970.
    pub seconds: i64,
    /// 0..1 000 000 000, counted forwards also before 1970.
    pub nanoseconds: u32,
}

/// How well an entry could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It did not change while it was read.
    Stable,
    /// It changed each time it was read, or the tree changed under the backup.
    Unstable,
    /// The errno of the attempt.
    Unreadable(u32),
}

/// A rule that an entry breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {}: {what}", crate::system::show::bytes(.path))]
pub struct InvalidEntry {
    path: Vec<u8>,
    what: &'static str,
}

impl Entry {
    /// An entry without metadata: no permissions, root's, of 1970.
    pub fn new(path: impl Into<Vec<u8>>, kind: Kind) -> Self {
        Self {
            path: path.into(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Mtime::default(),
            xattrs: Vec::new(),
            flags: None,
            link_group: None,
            status: Status::Stable,
            noted: None,
        }
    }

    /// Checks the rules that the types do not express; both the writer and the reader of a manifest ask it.
    ///
    /// # Errors
    /// Names the entry and the rule.
    pub fn check(&self) -> Result<(), InvalidEntry> {
        match self.broken_rule() {
            Some(what) => Err(InvalidEntry { path: self.path.clone(), what }),
            None => Ok(()),
        }
    }

    fn broken_rule(&self) -> Option<&'static str> {
        let unreadable = matches!(self.status, Status::Unreadable(_));
        match &self.kind {
            Kind::File { content, .. } if content.is_none() != unreadable => {
                return Some("a file has a content hash exactly when it was readable");
            }
            Kind::Symlink { target } if target.len() > MAX_PATH => {
                return Some("the link target is too long");
            }
            Kind::Symlink { target } if target.contains(&0) => return Some("the link target holds a NUL"),
            Kind::File { size, content, blocks, extents } => {
                if let Some(what) = hashing::bad_blocks(*size, content.as_ref(), blocks) {
                    return Some(what);
                }
                if let Some(what) = extents.as_ref().and_then(|extents| bad_extents(*size, extents)) {
                    return Some(what);
                }
            }
            _ => {}
        }
        if let Some(what) = xattr::bad_list(&self.xattrs) {
            return Some(what);
        }
        if u32::from(self.mode) > MODE_BITS {
            return Some("the mode has more than twelve bits");
        }
        if self.mtime.nanoseconds >= 1_000_000_000 {
            return Some("the nanoseconds are not below 1 000 000 000");
        }
        if self.path.is_empty() && !matches!(self.kind, Kind::Directory { .. }) {
            return Some("the tree itself is not a directory");
        }
        bad_path(&self.path)
    }

    /// Bytes of content that count towards totals.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self.kind {
            Kind::File { size, .. } => size,
            _ => 0,
        }
    }

    /// The path, to show or to join to a tree.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// The directory that it is in; `None` for the tree itself.
    #[must_use]
    pub fn parent(&self) -> Option<&[u8]> {
        parent(&self.path)
    }
}

impl Kind {
    /// A regular file that was read to its end.
    #[must_use]
    pub fn file(content: Content) -> Self {
        Self::File { size: content.size, content: Some(content.hash), blocks: content.blocks, extents: None }
    }

    /// A regular file whose content is not known.
    #[must_use]
    pub fn unread_file(size: u64) -> Self {
        Self::File { size, content: None, blocks: Vec::new(), extents: None }
    }

    /// The word for it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Directory { .. } => "directory",
            Self::File { .. } => "file",
            Self::Symlink { .. } => "symlink",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::CharDevice(_) => "character-device",
            Self::BlockDevice(_) => "block-device",
        }
    }
}

/// The directory that a path is in; `None` for the empty path.
#[must_use]
pub fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    Some(path.iter().rposition(|&byte| byte == b'/').map_or(&[][..], |slash| &path[..slash]))
}

/// The last component of a path.
#[must_use]
pub fn file_name(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(path, |slash| &path[slash + 1..])
}

/// Whether `path` is `ancestor` or lies below it.
#[must_use]
pub fn is_at_or_below(path: &[u8], ancestor: &[u8]) -> bool {
    ancestor.is_empty() || path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// The one order of a manifest: component by component, each by its bytes. A directory stands right before what it holds.
///
/// A plain comparison of the bytes would put `a-b` between `a` and `a/c`, because `-` sorts before `/`.
#[must_use]
pub fn path_order(left: &[u8], right: &[u8]) -> Ordering {
    let common = left.iter().zip(right).take_while(|(l, r)| l == r).count();
    // NUL cannot be part of a name, so it may stand for the slash and sorts before everything.
    let key = |path: &[u8]| path.get(common).map(|&byte| if byte == b'/' { 0 } else { byte });
    key(left).cmp(&key(right))
}

/// Extents are in order, do not touch, and lie within the file.
fn bad_extents(size: u64, extents: &[Extent]) -> Option<&'static str> {
    if extents.len() > MAX_EXTENTS {
        return Some("the file has too many extents");
    }
    let mut free = 0;
    for (number, extent) in extents.iter().enumerate() {
        if extent.length == 0 || extent.offset < free || (number > 0 && extent.offset == free) {
            return Some("the extents are empty, touch, or are not in order");
        }
        match extent.offset.checked_add(extent.length) {
            Some(end) if end <= size => free = end,
            _ => return Some("an extent ends behind the file"),
        }
    }
    None
}

fn bad_path(path: &[u8]) -> Option<&'static str> {
    if path.is_empty() {
        return None;
    }
    if path.len() > MAX_PATH {
        return Some("the path is too long");
    }
    if path.contains(&0) {
        return Some("the path holds a NUL");
    }
    let mut depth = 0;
    for component in path.split(|&byte| byte == b'/') {
        depth += 1;
        if matches!(component, b"" | b"." | b"..") {
            return Some("the path has an empty component, '.' or '..'");
        }
    }
    (depth > MAX_DEPTH).then_some("the path is too deep")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn file(path: &str, content: &[u8]) -> Entry {
        let kind = Kind::file(Content::of(content));
        let mtime = Mtime { seconds: 1_700_000_000, nanoseconds: 5 };
        Entry { mode: 0o644, mtime, ..Entry::new(path, kind) }
    }

    pub(crate) fn directory(path: &str) -> Entry {
        Entry { kind: Kind::Directory { edge: Edge::Inside }, mode: 0o755, ..file(path, b"") }
    }

    #[test]
    fn a_directory_stands_right_before_what_it_holds() {
        let mut paths = ["a-b", "a/c", "a", "", "a.b/x", "a/c/d", "a/c-d", "b"];
        paths.sort_by(|l, r| path_order(l.as_bytes(), r.as_bytes()));
        assert_eq!(paths, ["", "a", "a/c", "a/c/d", "a/c-d", "a-b", "a.b/x", "b"]);
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        for path in ["/a", "a/", "a//b", "a/./b", "..", "a/../b", "a\0b"] {
            assert!(file(path, b"").check().is_err(), "{path:?}");
        }
        assert!(file("a/".repeat(MAX_DEPTH + 1).trim_end_matches('/'), b"").check().is_err());
        assert!(file("a/b", b"").check().is_ok());
        assert!(file("", b"").check().is_err());
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_the_components(l in "[a-c./-]{0,8}", r in "[a-c./-]{0,8}") {
            let (l, r) = (l.as_bytes(), r.as_bytes());
            let parts = |p: &[u8]| -> Vec<Vec<u8>> {
                if p.is_empty() { return Vec::new() }
                p.split(|&b| b == b'/').map(<[u8]>::to_vec).collect()
            };
            prop_assume!(bad_path(l).is_none() && bad_path(r).is_none());
            prop_assert_eq!(path_order(l, r), parts(l).cmp(&parts(r)));
        }
    }
}
