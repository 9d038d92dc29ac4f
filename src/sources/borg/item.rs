//! The items of an archive, as `borg debug dump-archive` writes them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::KEEPS;
use crate::manifest::acl::Acl;
use crate::manifest::collect::Sorted;
use crate::manifest::entry::{Device, Edge};
use crate::manifest::sorter::SortError;
use crate::manifest::xattr::{ACL_ACCESS, ACL_DEFAULT, Xattr};
use crate::manifest::{Class, Collector, Entry, Facts, Found, Kind, Mtime, Status};
use crate::sources::Reading;
use crate::sources::engine::{Findings, UNDELIVERED, bare, within};

/// How many names at the top of an archive an error lists.
const MOST_TOPS: usize = 10;

/// One item. Bytes are text where they can be; otherwise, and where they begin with DEL, a DEL and their hexadecimal form.
#[derive(Debug, Deserialize)]
pub(super) struct Item {
    path: String,
    mode: u32,
    #[serde(default)]
    uid: Option<u32>,
    #[serde(default)]
    gid: Option<u32>,
    #[serde(default)]
    mtime: i64,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    hardlink_master: Option<bool>,
    #[serde(default)]
    rdev: Option<u64>,
    #[serde(default)]
    bsdflags: Option<u32>,
    #[serde(default)]
    acl_access: Option<String>,
    #[serde(default)]
    acl_default: Option<String>,
    #[serde(default)]
    xattrs: BTreeMap<String, Option<String>>,
    /// A piece of a file whose backup was interrupted; the whole file has an item of its own.
    #[serde(default)]
    part: Option<IgnoredAny>,
    /// `borg check --repair` has put zeros where chunks were lost.
    #[serde(default)]
    chunks_healthy: Option<IgnoredAny>,
}

/// Takes the items of one tree.
pub(super) struct Listing<'l> {
    tree: &'l [u8],
    reading: &'l Reading<'l>,
    listed: Collector,
    entries: u64,
    /// Nothing of the tree came.
    is_empty: bool,
    tops: BTreeSet<String>,
}

impl<'l> Listing<'l> {
    pub(super) fn new(tree: &'l [u8], reading: &'l Reading<'l>) -> Self {
        let listed = Collector::new(reading.scratch);
        Self { tree, reading, listed, entries: 0, is_empty: true, tops: BTreeSet::new() }
    }

    pub(super) fn add(&mut self, item: Item, findings: &mut Findings) -> Result<(), SortError> {
        if item.part.is_some() {
            return Ok(());
        }
        let whole = bytes(&item.path);
        // The directory that borg was started in, when that is what it was told to save.
        let whole = if whole == b"." { Vec::new() } else { bare(&whole).to_vec() };
        let Some(path) = within(&whole, self.tree) else {
            self.note_top(&whole);
            return Ok(());
        };
        self.is_empty = false;
        if self.reading.excludes.covers(path) {
            return Ok(());
        }
        self.entries += 1;
        // The stream holds no fewer, and it is named there.
        if self.entries > self.reading.limits.entries {
            return Ok(());
        }
        let inode = link_key(&item, &whole);
        if item.chunks_healthy.is_some() {
            let found = "zeros that borg has put where parts were lost".to_owned();
            findings.add(Class::Content, path, "its content", found);
        }
        match found(path, &item, self.reading.limits.xattrs) {
            Ok(found) => {
                if let Some(inode) = inode {
                    self.listed.same_inode(inode, path)?;
                }
                self.listed.push(&found)
            }
            Err(wrong) => {
                findings.add(Class::Hostile, path, "an honest archive", wrong);
                Ok(())
            }
        }
    }

    fn note_top(&mut self, path: &[u8]) {
        if self.tops.len() < MOST_TOPS {
            // Trees are a few names deep: enough to recognise them.
            let start: Vec<&[u8]> = path.split(|byte| *byte == b'/').take(3).collect();
            self.tops.insert(String::from_utf8_lossy(&start.join(&b'/')).into_owned());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// What the archive holds instead.
    pub(super) fn tops(&self) -> Vec<String> {
        self.tops.iter().cloned().collect()
    }

    pub(super) fn finish(self) -> Result<Sorted, SortError> {
        self.listed.finish()
    }
}

/// The bytes that a text stands for.
fn bytes(text: &str) -> Vec<u8> {
    let Some(hex) = text.strip_prefix('\u{7f}') else { return text.as_bytes().to_vec() };
    let digit = |byte: u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = hex.as_bytes().chunks(2);
    let decoded: Option<Vec<u8>> = pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect();
    // borg never writes anything else after a DEL; if it does, that is what the name is.
    decoded.unwrap_or_else(|| text.as_bytes().to_vec())
}

const FORMAT: u32 = 0o170_000;
const SYMLINK: u32 = 0o120_000;

/// What all names of one inode share: the path of the first, within the whole archive.
fn link_key(item: &Item, path: &[u8]) -> Option<[u8; 16]> {
    let first = match (&item.source, item.hardlink_master) {
        (Some(source), _) if item.mode & FORMAT != SYMLINK => bare(&bytes(source)).to_vec(),
        (None, Some(true)) => path.to_vec(),
        _ => return None,
    };
    let mut key = [0; 16];
    key.copy_from_slice(&blake3::hash(&first).as_bytes()[..16]);
    Some(key)
}

/// The item as an entry without content, or what is wrong with it.
fn found(path: &[u8], item: &Item, most_xattrs: usize) -> Result<Found, String> {
    let device = || {
        let number = item.rdev.unwrap_or(0);
        Device { major: rustix::fs::major(number), minor: rustix::fs::minor(number) }
    };
    let (kind, status) = match item.mode & FORMAT {
        0o040_000 => (Kind::Directory { edge: Edge::Inside }, Status::Stable),
        0o100_000 => (Kind::unread_file(item.size.unwrap_or(0)), UNDELIVERED),
        SYMLINK => (Kind::Symlink { target: bytes(item.source.as_deref().unwrap_or("")) }, Status::Stable),
        0o010_000 => (Kind::Fifo, Status::Stable),
        0o140_000 => (Kind::Socket, Status::Stable),
        0o020_000 => (Kind::CharDevice(device()), Status::Stable),
        0o060_000 => (Kind::BlockDevice(device()), Status::Stable),
        other => return Err(format!("an item of type {other:o}")),
    };
    let takes_flags = matches!(kind, Kind::Directory { .. } | Kind::File { .. });
    let flags = takes_flags.then(|| flags(item.bsdflags.unwrap_or(0)));
    let nanoseconds = item.mtime.rem_euclid(1_000_000_000);
    let entry = Entry {
        // Twelve bits.
        mode: (item.mode & 0o7777) as u16,
        uid: item.uid.unwrap_or(u32::MAX),
        gid: item.gid.unwrap_or(u32::MAX),
        mtime: Mtime { seconds: item.mtime.div_euclid(1_000_000_000), nanoseconds: nanoseconds as u32 },
        xattrs: attributes(item, most_xattrs)?,
        flags,
        status,
        ..Entry::new(path, kind)
    };
    entry.check().map_err(|error| error.to_string())?;
    // borg knows four flags. Where it has none, the source may have had others.
    let carries = if flags.unwrap_or(0) == 0 { KEEPS.without(Facts::FLAGS) } else { KEEPS };
    Ok(Found { entry, carries })
}

/// BSD's flags, as borg stores them (sys/stat.h of FreeBSD), as Linux has them.
fn flags(bsd: u32) -> u32 {
    let table = [(0x01, 0x40), (0x02, 0x10), (0x04, 0x20), (0x20, 0x04)];
    table.into_iter().filter(|(theirs, _)| bsd & theirs != 0).fold(0, |flags, (_, ours)| flags | ours)
}

fn attributes(item: &Item, most: usize) -> Result<Vec<Xattr>, String> {
    let mut all = BTreeMap::new();
    for (name, value) in &item.xattrs {
        all.insert(bytes(name), value.as_deref().map(bytes).unwrap_or_default());
    }
    // A list that says no more than the mode is kept by no filesystem, but for new files in a directory it means something.
    for (name, text, even_minimal) in
        [(ACL_ACCESS, &item.acl_access, false), (ACL_DEFAULT, &item.acl_default, true)]
    {
        let Some(text) = text else { continue };
        let acl = Acl::parse_text(&bytes(text), &|_, _| None).map_err(|error| error.to_string())?;
        if !acl.is_empty() && (even_minimal || !acl.is_minimal()) {
            all.insert(name.to_vec(), acl.to_xattr());
        }
    }
    let total: usize = all.iter().map(|(name, value)| name.len() + value.len()).sum();
    if total > most {
        return Err(format!("{total} bytes of attributes"));
    }
    Ok(all.into_iter().map(|(name, value)| Xattr::new(name, &value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::engine::each_in;

    /// As borg 1.2.4 wrote it.
    const DUMP: &[u8] = include_bytes!("../../../tests/fixtures/engines/borg-1.2-dump-archive.json");

    fn items() -> Vec<(Vec<u8>, Found, Option<[u8; 16]>)> {
        let mut items = Vec::new();
        let mut each = |item: Item| {
            let path = bytes(&item.path);
            let key = link_key(&item, &path);
            items.push((path.clone(), found(&path, &item, 1 << 20).unwrap(), key));
            Ok(())
        };
        each_in(&mut &*DUMP, "_items", &mut each).unwrap();
        items
    }

    fn entry(path: &[u8]) -> Entry {
        items().into_iter().find(|(at, _, _)| at == path).unwrap().1.entry
    }

    #[test]
    fn the_dump_of_1_2_is_understood() {
        let file = entry(b"src/d/file");
        assert_eq!((file.mode, file.uid, file.gid), (0o664, 1001, 1002));
        assert_eq!(file.mtime, Mtime { seconds: 1_577_836_800, nanoseconds: 987_654_321 });
        let names: Vec<&[u8]> = file.xattrs.iter().map(|xattr| xattr.name.as_slice()).collect();
        assert_eq!(names, [ACL_ACCESS, b"user.one"]);
        let directory = entry(b"src/d");
        let names: Vec<&[u8]> = directory.xattrs.iter().map(|xattr| xattr.name.as_slice()).collect();
        assert_eq!(names, [ACL_DEFAULT, b"user.dir"], "the access list of the directory is minimal");
        assert_eq!(entry(b"src/odd/badlink").kind, Kind::Symlink { target: b"tgt\xff".to_vec() });
        assert_eq!(entry(b"src/odd/na\xffme\n\"x").kind, Kind::unread_file(3));
        assert_eq!(entry(b"src/bdev").kind, Kind::BlockDevice(Device { major: 7, minor: 200 }));
        assert_eq!(entry(b"src/big").flags, Some(0x10));
        assert_eq!(entry("src/odd/café".as_bytes()).mode, 0o4755);
    }

    #[test]
    fn names_of_one_inode_share_a_key() {
        let items = items();
        let key = |path: &[u8]| items.iter().find(|(at, _, _)| at == path).unwrap().2;
        assert!(key(b"src/d/file").is_some());
        assert_eq!(key(b"src/d/file"), key(b"src/odd/hard2"));
        assert_eq!(key(b"src/fifo"), key(b"src/fifo2"));
        assert_ne!(key(b"src/fifo"), key(b"src/odd/cdev2"));
        assert_eq!((key(b"src/cdev"), key(b"src/d/sub/link")), (None, None));
    }

    #[test]
    fn text_that_stands_for_bytes() {
        assert_eq!(bytes("plain"), b"plain");
        assert_eq!(bytes("\u{7f}61ff"), b"a\xff");
        assert_eq!(bytes("\u{7f}6"), b"\x7f6");
    }
}
