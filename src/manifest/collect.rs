//! What a source found, in any order, into the order of a manifest: sorted outside memory, hard links numbered.

use std::cmp::Ordering;
use std::path::Path;

use super::codec;
use super::entry::path_order;
use super::facts::{Facts, Found};
use super::sorter::{Merged, Record, SortError, Sorter};

/// How many paths that came twice with different types are named.
const NAMED_CLASHES: usize = 1000;

/// Takes entries as a source meets them.
#[derive(Debug)]
pub struct Collector {
    entries: Sorter,
    /// Inode and name, for each name of an inode that may have others.
    members: Sorter,
    /// Target and name.
    aliases: Sorter,
    arrived: u64,
}

impl Collector {
    /// Temporary files go to `scratch`; small trees need none.
    #[must_use]
    pub fn new(scratch: &Path) -> Self {
        Self {
            entries: Sorter::new(path_order, scratch),
            members: Sorter::with_buffer(inode_then_path, scratch, super::sorter::BUFFER / 4),
            aliases: Sorter::with_buffer(path_order, scratch, super::sorter::BUFFER / 4),
            arrived: 0,
        }
    }

    /// Adds an entry. When a path comes twice the later one counts; see [`Sorted::clashes`].
    ///
    /// # Errors
    /// When a temporary file cannot be written.
    pub fn push(&mut self, found: &Found) -> Result<(), SortError> {
        self.arrived += 1;
        let value = Arrived { at: self.arrived, carries: found.carries }.before(&found.entry)?;
        self.entries.push(&found.entry.path, &value)
    }

    /// Says that the entry at `path` is one name of the inode `key`. To be said of each of its names.
    ///
    /// # Errors
    /// As [`Collector::push`].
    pub fn same_inode(&mut self, key: [u8; 16], path: &[u8]) -> Result<(), SortError> {
        let mut both = key.to_vec();
        both.extend_from_slice(path);
        self.members.push(&both, &[])
    }

    /// Says that `path` is another name of what was pushed last under `target`: it gets all that is known about that.
    ///
    /// # Errors
    /// As [`Collector::push`].
    pub fn alias(&mut self, path: &[u8], target: &[u8]) -> Result<(), SortError> {
        let now = self.moment();
        self.alias_at(now, path, target)
    }

    /// A moment between what was pushed before and what will be pushed, for [`Collector::alias_at`].
    pub fn moment(&mut self) -> u64 {
        self.arrived += 1;
        self.arrived
    }

    /// As [`Collector::alias`], said later: what counts is what was there at that moment.
    ///
    /// # Errors
    /// As [`Collector::push`].
    pub fn alias_at(&mut self, moment: u64, path: &[u8], target: &[u8]) -> Result<(), SortError> {
        let mut value = moment.to_le_bytes().to_vec();
        value.extend_from_slice(path);
        self.aliases.push(target, &value)?;
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(target).as_bytes()[..16]);
        self.same_inode(key, target)?;
        self.same_inode(key, path)
    }

    /// Everything in order.
    ///
    /// # Errors
    /// When a temporary file fails, or an alias is of nothing that was there before it.
    pub fn finish(self) -> Result<Sorted, SortError> {
        let mut entries = self.entries.finish()?;
        if !self.aliases.is_empty() {
            entries = resolve(entries, self.aliases.finish()?)?;
        }
        let mut numbers = numbered(self.members.finish()?)?;
        let (next, number) = (entries.next_record()?, numbers.next_record()?);
        Ok(Sorted { entries, next, numbers, number, repeated: 0, clashes: Vec::new() })
    }
}

/// When an entry came, and what was carried: stands before it in its record.
struct Arrived {
    at: u64,
    carries: Facts,
}

impl Arrived {
    const LENGTH: usize = 12;

    fn before(self, entry: &super::Entry) -> Result<Vec<u8>, SortError> {
        let mut value = self.at.to_le_bytes().to_vec();
        value.extend_from_slice(&self.carries.bits().to_le_bytes());
        codec::put_entry(entry, &mut value).map_err(|_| SortError::Record("an entry is too large"))?;
        Ok(value)
    }

    fn split(value: &[u8]) -> Result<(Self, &[u8]), SortError> {
        let (head, rest) = value.split_at_checked(Self::LENGTH).ok_or(UNREADABLE)?;
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |n, &byte| n << 8 | u64::from(byte));
        // Four bytes fit.
        let carries = Facts::from_bits(number(&head[8..]) as u32);
        Ok((Self { at: number(&head[..8]), carries }, rest))
    }
}

const UNREADABLE: SortError = SortError::Record("it does not decode");

fn inode_then_path(left: &[u8], right: &[u8]) -> Ordering {
    let ((l_inode, l_path), (r_inode, r_path)) = (left.split_at(16), right.split_at(16));
    l_inode.cmp(r_inode).then_with(|| path_order(l_path, r_path))
}

/// Entries and their aliases, in order.
fn resolve(mut entries: Merged, mut aliases: Merged) -> Result<Merged, SortError> {
    let mut all = Sorter::new(path_order, entries.scratch());
    let mut alias = aliases.next_record()?;
    let mut next = entries.next_record()?;
    while let Some((path, value)) = next {
        next = entries.next_record()?;
        // What comes under this path later is the target of later aliases.
        let until = match &next {
            Some((again, value)) if *again == path => Arrived::split(value)?.0.at,
            _ => u64::MAX,
        };
        while let Some((target, name)) = &alias {
            match path_order(target, &path) {
                Ordering::Greater => break,
                Ordering::Less => return Err(dangling(target, name)),
                Ordering::Equal => {}
            }
            let (found, rest) = Arrived::split(&value)?;
            let (at, name) = name.split_at_checked(8).ok_or(UNREADABLE)?;
            let at = u64::from_le_bytes(at.try_into().map_err(|_| UNREADABLE)?);
            if at > until {
                break;
            }
            if found.at >= at {
                return Err(SortError::Dangling { path: name.to_vec(), target: target.clone() });
            }
            let (mut entry, _) = codec::take_entry(rest).map_err(|_| UNREADABLE)?;
            entry.path = name.to_vec();
            all.push(name, &Arrived { at, ..found }.before(&entry)?)?;
            alias = aliases.next_record()?;
        }
        all.push(&path, &value)?;
    }
    match alias {
        Some((target, name)) => Err(dangling(&target, &name)),
        None => all.finish(),
    }
}

fn dangling(target: &[u8], name: &[u8]) -> SortError {
    SortError::Dangling { path: name.get(8..).unwrap_or_default().to_vec(), target: target.to_vec() }
}

/// The number of each entry that has another name in the tree, by path. Groups are numbered from 1 in the order of their first
/// members.
fn numbered(mut members: Merged) -> Result<Merged, SortError> {
    let scratch = members.scratch().to_owned();
    let buffer = super::sorter::BUFFER / 4;
    let mut by_first = Sorter::with_buffer(path_order, &scratch, buffer);
    let mut first: Option<(Vec<u8>, Vec<u8>)> = None;
    let mut last: Vec<u8> = Vec::new();
    while let Some((member, _)) = members.next_record()? {
        let (inode, path) = member.split_at_checked(16).ok_or(UNREADABLE)?;
        match &first {
            // The same name was said twice.
            Some((key, _)) if key == inode && last == path => continue,
            Some((key, leader)) if key == inode => {
                if last == *leader {
                    by_first.push(leader, leader)?;
                }
                by_first.push(leader, path)?;
            }
            _ => first = Some((inode.to_vec(), path.to_vec())),
        }
        last = path.to_vec();
    }
    let mut groups = by_first.finish()?;
    let mut numbers = Sorter::with_buffer(path_order, &scratch, buffer);
    let (mut number, mut leader) = (0_u64, None);
    while let Some((first, member)) = groups.next_record()? {
        if leader.as_ref() != Some(&first) {
            number += 1;
            leader = Some(first);
        }
        numbers.push(&member, &number.to_le_bytes())?;
    }
    numbers.finish()
}

/// What was found, in the order of a manifest.
#[derive(Debug)]
pub struct Sorted {
    entries: Merged,
    next: Option<Record>,
    numbers: Merged,
    number: Option<Record>,
    repeated: u64,
    clashes: Vec<Vec<u8>>,
}

impl Sorted {
    /// How many paths came more than once so far.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Paths that came as one type and later as another, so far; at most a thousand are named.
    #[must_use]
    pub fn clashes(&self) -> &[Vec<u8>] {
        &self.clashes
    }

    fn advance(&mut self) -> Result<Option<Found>, SortError> {
        let Some((path, value)) = self.next.take() else { return Ok(None) };
        let (mut at, mut found) = decode(&value)?;
        self.next = self.entries.next_record()?;
        while let Some((_, value)) = self.next.take_if(|(again, _)| *again == path) {
            let (again_at, again) = decode(&value)?;
            self.repeated += 1;
            if again.entry.kind.name() != found.entry.kind.name() && self.clashes.len() < NAMED_CLASHES {
                self.clashes.push(path.clone());
            }
            // Aliases come in the order of their targets.
            if again_at >= at {
                (at, found) = (again_at, again);
            }
            self.next = self.entries.next_record()?;
        }
        while let Some((member, number)) = &self.number {
            match path_order(member, &path) {
                Ordering::Greater => break,
                Ordering::Equal => {
                    let number = number.as_slice().try_into().map_err(|_| UNREADABLE)?;
                    found.entry.link_group = Some(u64::from_le_bytes(number));
                }
                Ordering::Less => {}
            }
            self.number = self.numbers.next_record()?;
        }
        Ok(Some(found))
    }
}

impl Iterator for Sorted {
    type Item = Result<Found, SortError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

fn decode(value: &[u8]) -> Result<(u64, Found), SortError> {
    let (Arrived { at, carries }, rest) = Arrived::split(value)?;
    let (entry, _) = codec::take_entry(rest).map_err(|_| UNREADABLE)?;
    Ok((at, Found { entry, carries }))
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::{directory, file};
    use super::*;

    fn collector() -> (tempfile::TempDir, Collector) {
        let dir = tempfile::tempdir().unwrap();
        let collector = Collector::new(dir.path());
        (dir, collector)
    }

    fn paths_and_groups(collector: Collector) -> Vec<(String, Option<u64>)> {
        let found = collector.finish().unwrap().map(|found| found.unwrap().entry);
        found.map(|entry| (String::from_utf8(entry.path).unwrap(), entry.link_group)).collect()
    }

    #[test]
    fn entries_come_in_order_and_groups_are_numbered_by_their_first_members() {
        let (_dir, mut collector) = collector();
        for path in ["z", "b", "a-b", "a/c", "y", "alone"] {
            collector.push(&Found::whole(file(path, b"x"))).unwrap();
        }
        for path in ["", "a"] {
            collector.push(&Found::whole(directory(path))).unwrap();
        }
        for (key, path) in [(1, "z"), (1, "b"), (2, "y"), (2, "a-b"), (3, "alone")] {
            collector.same_inode([key; 16], path.as_bytes()).unwrap();
        }
        let expected = [
            ("", None),
            ("a", None),
            ("a/c", None),
            ("a-b", Some(1)),
            ("alone", None),
            ("b", Some(2)),
            ("y", Some(1)),
            ("z", Some(2)),
        ];
        let found = paths_and_groups(collector);
        assert_eq!(found, expected.map(|(path, group)| (path.to_owned(), group)));
    }

    #[test]
    fn an_alias_is_all_that_its_target_is() {
        let (_dir, mut collector) = collector();
        let target = Found::whole(file("m", b"content"));
        collector.push(&target).unwrap();
        collector.alias(b"a", b"m").unwrap();
        collector.alias(b"z", b"m").unwrap();
        let found: Vec<Found> = collector.finish().unwrap().map(Result::unwrap).collect();
        let paths: Vec<&[u8]> = found.iter().map(|found| &found.entry.path[..]).collect();
        assert_eq!(paths, [&b"a"[..], b"m", b"z"]);
        for found in &found {
            assert_eq!((found.entry.link_group, &found.entry.kind), (Some(1), &target.entry.kind));
        }
    }

    #[test]
    fn an_alias_is_what_its_target_was_when_it_was_said() {
        let content = |name: &str, steps: &[(&str, &str)]| {
            let (_dir, mut collector) = collector();
            for (path, what) in steps {
                match what.strip_prefix("= ") {
                    Some(target) => collector.alias(path.as_bytes(), target.as_bytes()).unwrap(),
                    None => collector.push(&Found::whole(file(path, what.as_bytes()))).unwrap(),
                }
            }
            let mut sorted = collector.finish().unwrap().map(Result::unwrap);
            sorted.find(|found| found.entry.path == name.as_bytes()).unwrap().entry.kind
        };
        let kind = |text: &[u8]| file("", text).kind;
        let (old, new, other) = (("m", "old"), ("m", "new"), ("b", "other"));
        assert_eq!(content("z", &[old, ("z", "= m"), new]), kind(b"old"));
        assert_eq!(content("z", &[old, new, ("z", "= m")]), kind(b"new"));
        assert_eq!(content("a", &[old, ("a", "= m"), new, ("a", "= m")]), kind(b"new"));
        for (name, last) in [("z", ("z", "= m")), ("a", ("a", "= m"))] {
            assert_eq!(content(name, &[other, old, (name, "= b"), last]), kind(b"old"));
            assert_eq!(content(name, &[other, old, last, (name, "= b")]), kind(b"other"));
            assert_eq!(content(name, &[old, last, (name, "file")]), kind(b"file"));
        }
    }

    #[test]
    fn an_alias_of_nothing_or_of_what_comes_later_is_an_error() {
        for early in [false, true] {
            let (_dir, mut collector) = collector();
            collector.alias(b"a", b"m").unwrap();
            if early {
                collector.push(&Found::whole(file("m", b""))).unwrap();
            }
            assert!(matches!(collector.finish(), Err(SortError::Dangling { .. })));
        }
    }

    #[test]
    fn the_later_of_two_counts_and_a_change_of_type_is_told() {
        let (_dir, mut collector) = collector();
        for entry in [file("a", b"1"), file("a", b"2"), file("b", b""), directory("b")] {
            collector.push(&Found::whole(entry)).unwrap();
        }
        let mut sorted = collector.finish().unwrap();
        let found: Vec<_> = sorted.by_ref().map(|found| found.unwrap().entry).collect();
        assert_eq!(found, [file("a", b"2"), directory("b")]);
        assert_eq!((sorted.repeated(), sorted.clashes()), (2, &[b"b".to_vec()][..]));
    }
}
