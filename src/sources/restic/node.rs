//! The nodes of a snapshot, as `restic find --json` lists them.

use std::collections::HashMap;

use serde::Deserialize;

use super::KEEPS;
use crate::manifest::collect::Sorted;
use crate::manifest::entry::{Device, Edge, Noted};
use crate::manifest::sorter::SortError;
use crate::manifest::{Class, Collector, Entry, Facts, Found, Kind, Mtime, Status};
use crate::sources::Reading;
use crate::sources::engine::{Findings, UNDELIVERED, bare, within};

/// How many names that are no text are kept in memory.
const MOST_ODD: usize = 100_000;

/// What the list says of one node; it leaves the attributes, the content and device numbers out.
#[derive(Debug, Deserialize)]
pub(super) struct Node {
    path: String,
    #[serde(rename = "type")]
    kind: String,
    mode: u32,
    mtime: String,
    #[serde(default)]
    ctime: String,
    uid: u32,
    gid: u32,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    links: u64,
    #[serde(default)]
    linktarget: String,
}

/// Bits of Go's `fs.FileMode`, which restic writes.
const GO_SETUID: u32 = 1 << 23;
const GO_SETGID: u32 = 1 << 22;
const GO_STICKY: u32 = 1 << 20;

/// The list of a tree, sorted.
pub(super) struct Listed {
    pub sorted: Sorted,
    /// Nodes whose names the list replaced in part, by their path as listed; `None` when two are listed alike.
    pub odd: HashMap<Vec<u8>, Option<Found>>,
}

/// Takes the list.
pub(super) struct Listing<'l> {
    tree: &'l [u8],
    reading: &'l Reading<'l>,
    listed: Collector,
    odd: HashMap<Vec<u8>, Option<Found>>,
    entries: u64,
    has_tree: bool,
    /// The directory that could be the tree when it was saved under a relative path.
    relative: Option<Vec<u8>>,
}

impl<'l> Listing<'l> {
    pub(super) fn new(tree: &'l [u8], reading: &'l Reading<'l>) -> Self {
        let listed = Collector::new(reading.scratch);
        Self {
            tree,
            reading,
            listed,
            odd: HashMap::new(),
            entries: 0,
            has_tree: tree.is_empty(),
            relative: None,
        }
    }

    pub(super) fn add(&mut self, node: Node, findings: &mut Findings) -> Result<(), SortError> {
        let whole = bare(node.path.as_bytes());
        let Some(path) = within(whole, self.tree) else {
            if node.kind == "dir" && self.tree.strip_suffix(whole).is_some_and(|front| front.ends_with(b"/"))
            {
                self.relative = Some(whole.to_vec());
            }
            return Ok(());
        };
        self.has_tree |= path.is_empty();
        if self.reading.excludes.covers(path) {
            return Ok(());
        }
        self.entries += 1;
        // The stream holds no fewer, and it is named there.
        if self.entries > self.reading.limits.entries {
            return Ok(());
        }
        let path = path.to_vec();
        let (found, wrong) = found(&path, node);
        if let Some(wrong) = wrong {
            findings.add(Class::Hostile, &path, "an honest snapshot", wrong);
        }
        let Some(found) = found else { return Ok(()) };
        if path.windows(3).any(|window| window == "\u{fffd}".as_bytes()) && self.odd.len() < MOST_ODD {
            self.odd.entry(path).and_modify(|odd| *odd = None).or_insert(Some(found));
            return Ok(());
        }
        self.listed.push(&found)
    }

    pub(super) fn has_tree(&self) -> bool {
        self.has_tree
    }

    pub(super) fn relative(&self) -> Option<&[u8]> {
        self.relative.as_deref()
    }

    pub(super) fn finish(self) -> Result<Listed, SortError> {
        Ok(Listed { sorted: self.listed.finish()?, odd: self.odd })
    }
}

/// The node as an entry, and what is wrong with it.
fn found(path: &[u8], node: Node) -> (Option<Found>, Option<String>) {
    let nowhere = Device { major: 0, minor: 0 };
    let (kind, status) = match node.kind.as_str() {
        "dir" => (Kind::Directory { edge: Edge::Inside }, Status::Stable),
        "file" => (Kind::unread_file(node.size), UNDELIVERED),
        "symlink" => (Kind::Symlink { target: node.linktarget.into_bytes() }, Status::Stable),
        "fifo" => (Kind::Fifo, Status::Stable),
        "dev" => (Kind::BlockDevice(nowhere), Status::Stable),
        "chardev" => (Kind::CharDevice(nowhere), Status::Stable),
        // restic notes them now and then, and never restores them.
        "socket" | "irregular" => return (None, None),
        other => return (None, Some(format!("a node of type {other:?}"))),
    };
    let Some(mtime) = time(&node.mtime) else {
        return (None, Some(format!("a time that is none: {:?}", node.mtime)));
    };
    let entry = Entry {
        mode: mode(node.mode),
        uid: node.uid,
        gid: node.gid,
        mtime,
        status,
        noted: Some(Noted {
            ctime: time(&node.ctime).unwrap_or_default(),
            links: node.links,
            ..Noted::default()
        }),
        ..Entry::new(path, kind)
    };
    match entry.check() {
        Ok(()) => {
            let carries = KEEPS.without(Facts::XATTRS).without(Facts::ACL);
            (Some(Found { entry, carries }), None)
        }
        Err(error) => (None, Some(error.to_string())),
    }
}

fn mode(go: u32) -> u16 {
    let bits = [(GO_SETUID, 0o4000), (GO_SETGID, 0o2000), (GO_STICKY, 0o1000)];
    // The nine permission bits are the same.
    bits.into_iter()
        .fold((go & 0o777) as u16, |mode, (bit, ours)| if go & bit == 0 { mode } else { mode | ours })
}

/// RFC 3339 with up to nine digits, in whatever zone the source was.
fn time(text: &str) -> Option<Mtime> {
    let nanoseconds = text.parse::<jiff::Timestamp>().ok()?.as_nanosecond();
    let seconds = i64::try_from(nanoseconds.div_euclid(1_000_000_000)).ok()?;
    Some(Mtime { seconds, nanoseconds: u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As restic 0.14.0 printed them.
    const NODES: &str = include_str!("../../../tests/fixtures/engines/restic-0.14-find.json");

    fn nodes() -> Vec<(String, Option<Found>)> {
        let all: Vec<serde_json::Value> = serde_json::from_str(NODES).unwrap();
        let nodes: Vec<Node> = serde_json::from_value(all[0]["matches"].clone()).unwrap();
        nodes
            .into_iter()
            .map(|node| {
                let path = node.path.clone();
                let (found, wrong) = found(bare(path.as_bytes()), node);
                assert_eq!(wrong, None);
                (path, found)
            })
            .collect()
    }

    fn entry(path: &str) -> Entry {
        nodes().into_iter().find(|(at, _)| at == path).unwrap().1.unwrap().entry
    }

    #[test]
    fn the_list_of_0_14_is_understood() {
        let tmp = entry("/tmp");
        assert_eq!((tmp.mode, tmp.kind.name()), (0o1777, "directory"));
        let empty = entry("/tmp/sbx/src/d/empty");
        assert_eq!(empty.mtime, Mtime { seconds: -2, nanoseconds: 123_456_789 });
        let file = entry("/tmp/sbx/src/d/file");
        assert_eq!((file.uid, file.gid, file.noted.unwrap().links), (1001, 1002, 3));
        assert_eq!(file.kind, Kind::unread_file(5));
        assert_eq!(entry("/tmp/sbx/src/odd/café").mode, 0o4755);
        assert_eq!(entry("/tmp/sbx/src/bdev").kind.name(), "block-device");
        assert_eq!(entry("/tmp/sbx/src/fifo").kind, Kind::Fifo);
    }

    #[test]
    fn times_of_other_zones_and_before_1970() {
        assert_eq!(time("1970-01-01T01:00:00.5+01:00"), Some(Mtime { seconds: 0, nanoseconds: 500_000_000 }));
        assert_eq!(time("1969-12-31T23:59:59.9Z"), Some(Mtime { seconds: -1, nanoseconds: 900_000_000 }));
        assert_eq!(time("yesterday"), None);
    }
}
