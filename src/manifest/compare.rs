//! Two sorted streams of entries in, differences out: a merge that holds one entry of each, and the open directories.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::HashMap;

use super::entry::{Edge, Entry, Kind, Mtime, Status, is_at_or_below, path_order};
use super::format::FormatError;
use super::verdict::{Class, Difference, Report};
use crate::system::show;

/// What the way to the copy could carry. A difference that it could not carry is lost by format, not damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// User and group of any file, and set-id bits of files that are somebody else's.
    pub owners: bool,
    /// Devices can be made.
    pub devices: bool,
}

impl Carried {
    /// Everything.
    pub const ALL: Self = Self { owners: true, devices: true };

    /// What a process with these rights can restore: only root can give files away and make devices.
    #[must_use]
    pub fn restored_by(root: bool) -> Self {
        Self { owners: root, devices: root }
    }
}

/// Compares what should be with what is, and adds each difference to the report.
///
/// # Errors
/// When either stream fails; the report then covers only a part and must not be used.
pub fn compare<E, F>(
    expected: impl IntoIterator<Item = Result<E, FormatError>>,
    found: impl IntoIterator<Item = Result<F, FormatError>>,
    carried: Carried,
    report: &mut Report,
) -> Result<(), FormatError>
where
    E: Borrow<Entry>,
    F: Borrow<Entry>,
{
    let (mut expected, mut found) = (expected.into_iter(), found.into_iter());
    let (mut left, mut right) = (expected.next().transpose()?, found.next().transpose()?);
    let mut judge = Judge { carried, report, ancestors: Vec::new(), groups: Partition::default() };
    loop {
        let order = match (&left, &right) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(l), Some(r)) => path_order(&l.borrow().path, &r.borrow().path),
        };
        match (&left, &right) {
            (Some(l), _) if order.is_lt() => judge.missing(l.borrow()),
            (_, Some(r)) if order.is_gt() => judge.extra(r.borrow()),
            (Some(l), Some(r)) => judge.both(l.borrow(), r.borrow()),
            _ => {}
        }
        if order.is_le() {
            left = expected.next().transpose()?;
        }
        if order.is_ge() {
            right = found.next().transpose()?;
        }
    }
}

struct Judge<'r> {
    carried: Carried,
    report: &'r mut Report,
    /// The expected directories above the current path that were not listed well, with how.
    ancestors: Vec<(Vec<u8>, Status)>,
    groups: Partition,
}

impl Judge<'_> {
    fn missing(&mut self, expected: &Entry) {
        let class = match (expected.status, &expected.kind) {
            (Status::Unstable, _) => Class::UnstableSource,
            (Status::Unreadable(_), _) => Class::Unreadable,
            (_, Kind::CharDevice(_) | Kind::BlockDevice(_)) if !self.carried.devices => Class::LostByFormat,
            _ => Class::Missing,
        };
        self.remember(expected);
        self.add(class, expected, expected.kind.name().to_owned(), "nothing".to_owned());
    }

    fn extra(&mut self, found: &Entry) {
        self.leave(&found.path);
        let class = match self.ancestors.last() {
            // It was there for a while, or came with a directory that was.
            Some((directory, Status::Unstable)) if found.parent() == Some(directory) => Class::UnstableSource,
            // What an unreadable directory held is not known.
            Some((_, Status::Unreadable(_))) => Class::NotChecked,
            _ => Class::Extra,
        };
        if class == Class::UnstableSource && matches!(found.kind, Kind::Directory { .. }) {
            self.ancestors.push((found.path.clone(), Status::Unstable));
        }
        self.add(class, found, "nothing".to_owned(), found.kind.name().to_owned());
    }

    fn both(&mut self, expected: &Entry, found: &Entry) {
        self.remember(expected);
        self.report.entries += 1;
        if expected.kind.name() != found.kind.name() {
            let names = (expected.kind.name().to_owned(), found.kind.name().to_owned());
            return self.add(unless_unstable(Class::Type, expected), expected, names.0, names.1);
        }
        if let Status::Unreadable(errno) = expected.status {
            self.add(Class::Unreadable, expected, reason(errno), String::from("not compared"));
        }
        if let Status::Unreadable(errno) = found.status {
            self.add(Class::Unreadable, expected, String::from("readable"), reason(errno));
        }
        self.kinds(expected, found);
        match (is_edge(expected), is_edge(found)) {
            (false, false) => self.metadata(expected, found),
            (false, true) => {
                let found = "another filesystem or subvolume in its place".to_owned();
                self.add(Class::NotChecked, expected, expected.kind.name().to_owned(), found);
            }
            // What is on the other side of an edge was never part of the manifest.
            (true, _) => {}
        }
        if !self.groups.agree(expected.link_group, found.link_group) {
            let group = |entry: &Entry| match entry.link_group {
                Some(number) => format!("link group {number}"),
                None => "no other name".to_owned(),
            };
            let class = unless_unstable(Class::HardLinks, expected);
            self.add(class, expected, group(expected), group(found));
        }
    }

    fn kinds(&mut self, expected: &Entry, found: &Entry) {
        match (&expected.kind, &found.kind) {
            (Kind::File { size: l, content: Some(lc) }, Kind::File { size: r, content: Some(rc) }) => {
                self.report.bytes += r;
                if l != r {
                    self.changed(Class::Size, expected, found, (l.to_string(), r.to_string()));
                } else if lc != rc {
                    self.changed(Class::Content, expected, found, (hex(lc), hex(rc)));
                }
            }
            (Kind::Symlink { target: l }, Kind::Symlink { target: r }) if l != r => {
                self.changed(Class::LinkTarget, expected, found, (show::bytes(l), show::bytes(r)));
            }
            (Kind::CharDevice(l), Kind::CharDevice(r)) | (Kind::BlockDevice(l), Kind::BlockDevice(r))
                if l != r =>
            {
                let text = |device: &super::entry::Device| format!("{}:{}", device.major, device.minor);
                self.changed(Class::Device, expected, found, (text(l), text(r)));
            }
            _ => {}
        }
    }

    fn metadata(&mut self, expected: &Entry, found: &Entry) {
        let owners = (expected.uid, expected.gid) != (found.uid, found.gid);
        // A symlink's mode means nothing on Linux.
        if expected.mode != found.mode && !matches!(expected.kind, Kind::Symlink { .. }) {
            let only_set_id = (expected.mode ^ found.mode) & !0o6000 == 0;
            let lost = only_set_id && owners && !self.carried.owners;
            let class = if lost { Class::LostByFormat } else { Class::Mode };
            let text = |mode: u16| format!("mode {mode:04o}");
            self.changed(class, expected, found, (text(expected.mode), text(found.mode)));
        }
        if owners {
            let class = if self.carried.owners { Class::Owner } else { Class::LostByFormat };
            let text = |entry: &Entry| format!("owner {}:{}", entry.uid, entry.gid);
            self.changed(class, expected, found, (text(expected), text(found)));
        }
        if expected.mtime != found.mtime {
            let text = |Mtime { seconds, nanoseconds }| format!("{seconds}s+{nanoseconds}ns");
            self.changed(Class::Mtime, expected, found, (text(expected.mtime), text(found.mtime)));
        }
    }

    /// A difference between two entries that are both there.
    fn changed(&mut self, class: Class, expected: &Entry, found: &Entry, text: (String, String)) {
        let class = match (expected.status, found.status) {
            (Status::Unstable, _) => Class::UnstableSource,
            // The copy changed under our eyes: what it holds is not known.
            (_, Status::Unstable) => Class::NotChecked,
            _ => class,
        };
        self.add(class, expected, text.0, text.1);
    }

    fn add(&mut self, class: Class, entry: &Entry, expected: String, found: String) {
        self.report.add(Difference { class, path: entry.path.clone(), expected, found });
    }

    fn remember(&mut self, expected: &Entry) {
        self.leave(&expected.path);
        let listed = expected.status == Status::Stable;
        if !listed && matches!(expected.kind, Kind::Directory { .. }) {
            self.ancestors.push((expected.path.clone(), expected.status));
        }
    }

    fn leave(&mut self, path: &[u8]) {
        while self.ancestors.last().is_some_and(|(directory, _)| !is_at_or_below(path, directory)) {
            self.ancestors.pop();
        }
    }
}

/// Both sides' groups, as far as seen: the partitions are equal when the numbers map one to one.
#[derive(Debug, Default)]
struct Partition {
    to_found: HashMap<u64, u64>,
    to_expected: HashMap<u64, u64>,
}

impl Partition {
    fn agree(&mut self, expected: Option<u64>, found: Option<u64>) -> bool {
        match (expected, found) {
            (None, None) => true,
            (Some(l), Some(r)) => {
                *self.to_found.entry(l).or_insert(r) == r && *self.to_expected.entry(r).or_insert(l) == l
            }
            _ => false,
        }
    }
}

fn unless_unstable(class: Class, expected: &Entry) -> Class {
    if expected.status == Status::Unstable { Class::UnstableSource } else { class }
}

/// The metadata of an edge are those of another filesystem's top, or made up by the kernel.
fn is_edge(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::Directory { edge: Edge::Mount | Edge::Stub })
}

fn hex(hash: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}

fn reason(errno: u32) -> String {
    let error = std::io::Error::from_raw_os_error(errno.cast_signed());
    format!("could not be read: {error}")
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::{directory, file};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn judged(expected: &[Entry], found: &[Entry], carried: Carried) -> Report {
        let mut report = Report::default();
        compare(expected.iter().map(Ok), found.iter().map(Ok), carried, &mut report).unwrap();
        report
    }

    fn found(report: &Report) -> Vec<(Class, String)> {
        report.differences().iter().map(|d| (d.class, show::bytes(&d.path))).collect()
    }

    fn tree() -> Vec<Entry> {
        vec![directory(""), directory("d"), file("d/x", b"x"), file("f", b"f")]
    }

    #[test]
    fn each_change_has_its_class() {
        type Change = fn(&mut Entry);
        let table: [(Change, Class); 7] = [
            (|e| e.kind = file("", b"y").kind, Class::Content),
            (|e| e.kind = file("", b"longer").kind, Class::Size),
            (|e| e.kind = Kind::Fifo, Class::Type),
            (|e| e.mode = 0o600, Class::Mode),
            (|e| e.gid = 7, Class::Owner),
            (|e| e.mtime.nanoseconds += 1, Class::Mtime),
            (|e| e.link_group = Some(1), Class::HardLinks),
        ];
        for (change, class) in table {
            let mut copy = tree();
            change(&mut copy[2]);
            let report = judged(&tree(), &copy, Carried::ALL);
            assert_eq!(found(&report), [(class, "d/x".to_owned())]);
        }
        assert!(judged(&tree(), &tree(), Carried::ALL).is_same());
    }

    #[test]
    fn missing_and_extra_are_told_apart() {
        let mut copy = tree();
        copy[3] = file("g", b"f");
        let report = judged(&tree(), &copy, Carried::ALL);
        assert_eq!(found(&report), [(Class::Missing, "f".to_owned()), (Class::Extra, "g".to_owned())]);
    }

    #[test]
    fn only_what_was_unstable_is_excused() {
        let mut source = tree();
        source[1].status = Status::Unstable;
        let mut copy = tree();
        copy.insert(2, directory("d/new"));
        copy.insert(3, file("d/new/deep", b""));
        copy[4].mode = 0o600;
        copy.pop();
        let report = judged(&source, &copy, Carried::ALL);
        let wanted = [
            (Class::UnstableSource, "d/new"),
            (Class::UnstableSource, "d/new/deep"),
            (Class::Mode, "d/x"),
            (Class::Missing, "f"),
        ];
        assert_eq!(found(&report), wanted.map(|(class, path)| (class, path.to_owned())));
    }

    #[test]
    fn owners_that_could_not_be_given_are_lost_by_format() {
        let mut copy = tree();
        copy[2].uid = 1000;
        let report = judged(&tree(), &copy, Carried::restored_by(false));
        assert_eq!(found(&report), [(Class::LostByFormat, "d/x".to_owned())]);
        assert!(!report.is_same());
    }

    #[test]
    fn what_is_beyond_an_edge_is_not_judged_but_an_edge_hides_what_should_be_seen() {
        let edge = |edge| {
            let mut entries = tree();
            (entries[1].kind, entries[1].mode) = (Kind::Directory { edge }, 0o1777);
            entries.remove(2);
            entries
        };
        assert!(judged(&edge(Edge::Mount), &edge(Edge::Stub), Carried::ALL).is_same());
        let mut plain = tree();
        plain.remove(2);
        assert!(judged(&edge(Edge::Mount), &plain, Carried::ALL).is_same());
        let report = judged(&plain, &edge(Edge::Mount), Carried::ALL);
        assert_eq!(found(&report), [(Class::NotChecked, "d".to_owned())]);
    }

    #[test]
    fn equal_counts_of_links_with_other_partners_differ() {
        let linked = |groups: [u64; 4]| {
            let mut entries = vec![directory("")];
            for (name, group) in ["a", "b", "c", "d"].iter().zip(groups) {
                entries.push(Entry { link_group: Some(group), ..file(name, b"same") });
            }
            entries
        };
        let report = judged(&linked([1, 1, 2, 2]), &linked([1, 2, 1, 2]), Carried::ALL);
        assert!(report.count(Class::HardLinks) >= 2);
    }

    proptest! {
        #[test]
        fn the_merge_agrees_with_a_map(
            left in proptest::collection::btree_map("[ab.-]{1,3}", 0u8..3, 0..10),
            right in proptest::collection::btree_map("[ab.-]{1,3}", 0u8..3, 0..10),
        ) {
            let entries = |map: &BTreeMap<String, u8>| {
                let mut entries = vec![directory("")];
                entries.extend(map.iter().map(|(name, content)| file(name, &[*content])));
                entries.sort_by(|l, r| path_order(&l.path, &r.path));
                entries
            };
            let report = judged(&entries(&left), &entries(&right), Carried::ALL);
            let mut wanted = Vec::new();
            for (name, content) in &left {
                match right.get(name) {
                    None => wanted.push((Class::Missing, name.clone())),
                    Some(other) if other != content => wanted.push((Class::Content, name.clone())),
                    Some(_) => {}
                }
            }
            wanted.extend(right.keys().filter(|n| !left.contains_key(*n)).map(|n| (Class::Extra, n.clone())));
            let mut got = found(&report);
            got.sort();
            wanted.sort();
            prop_assert_eq!(got, wanted);
        }
    }
}
