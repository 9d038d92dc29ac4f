//! The Merkle root of a manifest: one id for all entries, whatever the header says about times and places.
//!
//! Each directory's hash covers its own metadata and the names and hashes of its children, so two manifests can be compared
//! subtree by subtree. The hashed bytes are written by hand here, not by the codec of the file: an id must outlive a codec.

use std::fmt;
use std::str::FromStr;

use super::entry::{Edge, Entry, Kind, Status, file_name, parent};
use super::hashing::{Domain, Hashing};
use super::xattr::XattrValue;

/// The id of a manifest: equal exactly when all entries are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ManifestId([u8; 32]);

impl ManifestId {
    /// The id with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ManifestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for ManifestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManifestId({self})")
    }
}

/// Text that is not a manifest id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a manifest id is 64 lower-case hexadecimal digits")]
pub struct InvalidId;

impl FromStr for ManifestId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(InvalidId);
        }
        blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes())).map_err(|_| InvalidId)
    }
}

/// An entry whose directory is not open: it is missing, is not a directory, or was closed by the order of the entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {} is in no directory of the manifest", crate::system::show::bytes(.path))]
pub struct OrphanEntry {
    path: Vec<u8>,
}

/// Takes the entries in their order and yields the id; keeps one hash state per open directory.
#[derive(Debug)]
pub struct RootBuilder {
    hashing: Hashing,
    open: Vec<OpenDirectory>,
    root: Option<blake3::Hash>,
    links: blake3::Hasher,
    entries: u64,
    bytes: u64,
}

/// A directory whose last entry was seen.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) path: Vec<u8>,
    pub(super) hash: [u8; 32],
    pub(super) totals: Totals,
}

/// What a subtree holds, its top included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// Entries that were not read well.
    pub(super) doubtful: u64,
    /// Entries that have another name somewhere in the tree.
    pub(super) linked: u64,
}

impl Totals {
    fn of(entry: &Entry) -> Self {
        Self {
            entries: 1,
            bytes: entry.bytes(),
            doubtful: u64::from(entry.status != Status::Stable),
            linked: u64::from(entry.link_group.is_some()),
        }
    }

    fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.doubtful += other.doubtful;
        self.linked += other.linked;
    }
}

#[derive(Debug)]
struct OpenDirectory {
    path: Vec<u8>,
    hasher: blake3::Hasher,
    totals: Totals,
}

impl RootBuilder {
    /// Begins; the hashes of content must have been made the same way.
    #[must_use]
    pub fn new(hashing: &Hashing) -> Self {
        let links = hashing.hasher(Domain::Links);
        Self { hashing: hashing.clone(), open: Vec::new(), root: None, links, entries: 0, bytes: 0 }
    }

    /// The directories that end before an entry whose directory is `parent`, innermost first; all of them for `None`.
    pub(super) fn close_until(&mut self, parent: Option<&[u8]>, mut closed: impl FnMut(Closed)) {
        while let Some(top) = self.open.pop_if(|top| Some(top.path.as_slice()) != parent) {
            let hash = top.hasher.finalize();
            let OpenDirectory { path, totals, .. } = top;
            self.fold(&path, hash, totals);
            closed(Closed { path, hash: *hash.as_bytes(), totals });
        }
    }

    /// Adds the next entry; the caller has checked the order and has closed what ends before it.
    ///
    /// # Errors
    /// When the entry's directory is not in the manifest.
    pub(super) fn add(&mut self, entry: &Entry) -> Result<(), OrphanEntry> {
        let is_root = entry.parent().is_none() && self.entries == 0;
        if self.open.is_empty() && !is_root {
            return Err(OrphanEntry { path: entry.path.clone() });
        }
        if let Some(group) = entry.link_group {
            self.links.update(&self.entries.to_le_bytes()).update(&group.to_le_bytes());
        }
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.bytes());
        let (hash, totals) = (entry_hash(&self.hashing, entry), Totals::of(entry));
        if matches!(entry.kind, Kind::Directory { .. }) {
            let mut hasher = self.hashing.hasher(Domain::Directory);
            hasher.update(hash.as_bytes());
            self.open.push(OpenDirectory { path: entry.path.clone(), hasher, totals });
        } else {
            self.fold(&entry.path, hash, totals);
        }
        Ok(())
    }

    /// The id, when all directories are closed.
    pub(super) fn id(&self) -> ManifestId {
        let mut hasher = self.hashing.hasher(Domain::Root);
        hasher.update(&self.entries.to_le_bytes());
        hasher.update(&self.bytes.to_le_bytes());
        hasher.update(self.links.finalize().as_bytes());
        if let Some(root) = self.root {
            hasher.update(root.as_bytes());
        }
        ManifestId(*hasher.finalize().as_bytes())
    }

    fn fold(&mut self, path: &[u8], hash: blake3::Hash, totals: Totals) {
        debug_assert!(self.open.last().is_none_or(|top| Some(top.path.as_slice()) == parent(path)));
        match self.open.last_mut() {
            Some(directory) => {
                let name = file_name(path);
                directory.hasher.update(&length(name)).update(name).update(hash.as_bytes());
                directory.totals.add(totals);
            }
            None => self.root = Some(hash),
        }
    }
}

/// Hash of everything but the path, field by field as `docs/manifest-format.md` lists them.
fn entry_hash(hashing: &Hashing, entry: &Entry) -> blake3::Hash {
    let mut hasher = hashing.hasher(Domain::Entry);
    hasher.update(&[kind_code(&entry.kind)]);
    if let Kind::Directory { edge: edge @ (Edge::Mount | Edge::Stub) } = entry.kind {
        // Its metadata are not of this tree: those of `/run` would change the id of `/` from one second to the next.
        return hasher.update(&[edge_code(edge)]).finalize();
    }
    hasher.update(&entry.mode.to_le_bytes());
    hasher.update(&entry.uid.to_le_bytes()).update(&entry.gid.to_le_bytes());
    hasher.update(&entry.mtime.seconds.to_le_bytes()).update(&entry.mtime.nanoseconds.to_le_bytes());
    let (code, errno) = status_code(entry.status);
    hasher.update(&[code]).update(&errno.to_le_bytes());
    hasher.update(&[u8::from(entry.flags.is_some())]).update(&entry.flags.unwrap_or(0).to_le_bytes());
    hasher.update(&(entry.xattrs.len() as u64).to_le_bytes());
    for xattr in &entry.xattrs {
        hasher.update(&length(&xattr.name)).update(&xattr.name);
        match &xattr.value {
            XattrValue::Bytes(value) => hasher.update(&[0]).update(&length(value)).update(value),
            XattrValue::Hashed { size, hash } => {
                hasher.update(&[1]).update(&u64::from(*size).to_le_bytes()).update(hash)
            }
        };
    }
    match &entry.kind {
        Kind::Directory { edge } => {
            hasher.update(&[edge_code(*edge)]);
        }
        Kind::File { size, content, .. } => {
            hasher.update(&size.to_le_bytes());
            hasher.update(content.as_ref().map_or(&[][..], |hash| hash));
        }
        Kind::Symlink { target } => {
            hasher.update(&length(target)).update(target);
        }
        Kind::CharDevice(device) | Kind::BlockDevice(device) => {
            hasher.update(&device.major.to_le_bytes()).update(&device.minor.to_le_bytes());
        }
        Kind::Fifo | Kind::Socket => {}
    }
    hasher.finalize()
}

fn length(bytes: &[u8]) -> [u8; 8] {
    (bytes.len() as u64).to_le_bytes()
}

/// The number of a kind, in the hash and in the file.
pub(super) fn kind_code(kind: &Kind) -> u8 {
    match kind {
        Kind::Directory { .. } => 1,
        Kind::File { .. } => 2,
        Kind::Symlink { .. } => 3,
        Kind::Fifo => 4,
        Kind::Socket => 5,
        Kind::CharDevice(_) => 6,
        Kind::BlockDevice(_) => 7,
    }
}

/// The number of an edge, in the hash and in the file.
pub(super) fn edge_code(edge: Edge) -> u8 {
    match edge {
        Edge::Inside => 0,
        Edge::Mount => 1,
        Edge::Stub => 2,
    }
}

/// The number of a status and its errno, in the hash and in the file.
pub(super) fn status_code(status: Status) -> (u8, u32) {
    match status {
        Status::Stable => (0, 0),
        Status::Unstable => (1, 0),
        Status::Unreadable(errno) => (2, errno),
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::{directory, file};
    use super::super::xattr::Xattr;
    use super::*;

    fn push(builder: &mut RootBuilder, entry: &Entry) -> Result<(), OrphanEntry> {
        builder.close_until(entry.parent(), |_| {});
        builder.add(entry)
    }

    fn id(entries: &[Entry]) -> ManifestId {
        let mut builder = RootBuilder::new(&Hashing::plain());
        for entry in entries {
            push(&mut builder, entry).unwrap();
        }
        builder.close_until(None, |_| {});
        builder.id()
    }

    fn tree() -> Vec<Entry> {
        vec![directory(""), directory("a"), file("a/x", b"1"), file("b", b"2")]
    }

    #[test]
    fn every_field_reaches_the_id() {
        let base = id(&tree());
        let change: [fn(&mut Entry); 11] = [
            |e| e.flags = Some(0),
            |e| e.xattrs = vec![Xattr::new("user.a", b"1")],
            |e| e.xattrs = vec![Xattr::new("user.a", &[1; 5000])],
            |e| e.mode = 0o600,
            |e| e.uid = 1,
            |e| e.gid = 1,
            |e| e.mtime.nanoseconds = 6,
            |e| e.mtime.seconds = -1,
            |e| e.link_group = Some(1),
            |e| e.status = Status::Unstable,
            |e| e.kind = file("", b"3").kind,
        ];
        let mut seen = vec![base];
        for change in change {
            let mut entries = tree();
            change(&mut entries[2]);
            seen.push(id(&entries));
        }
        let mut renamed = tree();
        renamed[2].path = b"a/y".to_vec();
        seen.push(id(&renamed));
        let mut moved = tree();
        moved.swap_remove(2);
        moved[2] = file("x", b"1");
        seen.push(id(&moved));
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn orphans_are_refused() {
        let mut builder = RootBuilder::new(&Hashing::plain());
        assert!(push(&mut builder, &file("a", b"")).is_err());
        push(&mut builder, &directory("")).unwrap();
        push(&mut builder, &file("a", b"")).unwrap();
        assert!(push(&mut builder, &file("a/x", b"")).is_err());
    }

    #[test]
    fn ids_survive_text() {
        let id = id(&tree());
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("xyz".parse::<ManifestId>(), Err(InvalidId));
        assert_eq!(id.to_string().to_uppercase().parse::<ManifestId>(), Err(InvalidId));
    }
}
