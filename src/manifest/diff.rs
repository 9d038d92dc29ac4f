//! Comparing two manifests without reading what is equal in both: directories with the same hash are passed over.
//!
//! A directory is passed over only when everything in it was read well on both sides and nothing in it has another name
//! elsewhere: what is doubtful must be told, and hard links reach across directories.

use std::cmp::Ordering;

use super::compare::{Rules, compare};
use super::directories::{Address, DirectoryRecord};
use super::entry::MAX_DEPTH;
use super::facts::Found;
use super::format::FormatError;
use super::indexed::Indexed;
use super::verdict::Report;

/// Compares what should be with what is, and adds each difference to the report; says how many directories were passed over.
///
/// # Errors
/// When either manifest is damaged where it was read.
pub fn diff(
    expected: &Indexed,
    found: &Indexed,
    rules: &Rules<'_>,
    report: &mut Report,
) -> Result<u64, FormatError> {
    let (Some(left), Some(right)) = (expected.top()?, found.top()?) else {
        return Ok(0);
    };
    let mut equal = Equal::default();
    equal.descend(expected, found, &left, &right, 0)?;
    let Equal { left: skip_left, right: skip_right, entries, bytes } = equal;
    let passed_over = skip_left.len() as u64;
    let left = expected.entries(left.first, left.end, in_order(skip_left));
    let right = found.entries(right.first, right.end, in_order(skip_right));
    compare(left, right.map(|entry| entry.map(Found::whole)), rules, report)?;
    report.entries += entries;
    report.bytes += bytes;
    report.manifest = Some(expected.summary());
    Ok(passed_over)
}

/// Where directories that are equal begin and end on both sides; the last first.
#[derive(Debug, Default)]
struct Equal {
    left: Vec<(Address, Address)>,
    right: Vec<(Address, Address)>,
    entries: u64,
    bytes: u64,
}

impl Equal {
    fn descend(
        &mut self,
        expected: &Indexed,
        found: &Indexed,
        left: &DirectoryRecord,
        right: &DirectoryRecord,
        depth: usize,
    ) -> Result<(), FormatError> {
        if depth > MAX_DEPTH {
            return Err(FormatError::Malformed { at: 0, what: "the directories are nested too deep" });
        }
        let plain = |record: &DirectoryRecord| record.doubtful == 0 && record.linked == 0;
        if left.hash == right.hash && plain(left) && plain(right) {
            self.left.push((left.first, left.end));
            self.right.push((right.first, right.end));
            self.entries += left.entries;
            self.bytes = self.bytes.saturating_add(left.bytes);
            return Ok(());
        }
        // From the last to the first: that is how the records are linked.
        let get = |of: &Indexed, at: Option<Address>| at.map(|at| of.directory(at)).transpose();
        let (mut l, mut r) = (get(expected, left.last_child)?, get(found, right.last_child)?);
        while let (Some(one), Some(other)) = (&l, &r) {
            let order = one.name.cmp(&other.name);
            if order == Ordering::Equal {
                self.descend(expected, found, one, other, depth + 1)?;
            }
            let (one_before, other_before) = (one.before, other.before);
            if order.is_ge() {
                l = get(expected, one_before)?;
            }
            if order.is_le() {
                r = get(found, other_before)?;
            }
        }
        Ok(())
    }
}

fn in_order(mut gaps: Vec<(Address, Address)>) -> Vec<(Address, Address)> {
    gaps.reverse();
    gaps
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::{directory, file};
    use super::super::entry::{Entry, Status, path_order};
    use super::super::format::{Header, Manifest, write_file};
    use super::super::hashing::Hashing;
    use super::*;
    use proptest::prelude::*;

    struct Pair {
        _dir: tempfile::TempDir,
        left: Indexed,
        right: Indexed,
    }

    fn pair(left: Vec<Entry>, right: Vec<Entry>) -> Pair {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str, entries| {
            let path = dir.path().join(name);
            write_file(&Manifest::new(Header::default(), entries).unwrap(), &path).unwrap();
            Indexed::open(&path, &Hashing::plain()).unwrap()
        };
        let (left, right) = (open("left", left), open("right", right));
        Pair { _dir: dir, left, right }
    }

    fn plainly(left: &[Entry], right: &[Entry]) -> Report {
        let mut report = Report::default();
        let right = right.iter().map(|entry| Ok((entry, super::super::Facts::ALL)));
        compare(left.iter().map(Ok), right, &Rules::default(), &mut report).unwrap();
        report
    }

    /// Many directories, so that there are several blocks of both kinds.
    fn large(directories: usize) -> Vec<Entry> {
        let mut entries = vec![directory("")];
        for d in 0..directories {
            entries.push(directory(&format!("d{d:05}")));
            entries.extend((0..3).map(|f| file(&format!("d{d:05}/{f}"), d.to_string().as_bytes())));
        }
        entries
    }

    #[test]
    fn what_is_equal_is_passed_over_and_still_counted() {
        let (left, mut right) = (large(2000), large(2000));
        let at = right.iter().position(|entry| entry.path == b"d01000/1").unwrap();
        right[at] = file("d01000/changed", b"new");
        right.sort_by(|l, r| path_order(&l.path, &r.path));
        let pair = pair(left.clone(), right.clone());
        let mut report = Report::default();
        let passed = diff(&pair.left, &pair.right, &Rules::default(), &mut report).unwrap();
        let plain = plainly(&left, &right);
        assert_eq!(report.differences(), plain.differences());
        assert_eq!((report.entries, report.bytes), (plain.entries, plain.bytes));
        assert!(report.total() > 0 && passed >= 1998, "{passed}");
    }

    #[test]
    fn equal_trees_are_one_look() {
        let pair = pair(large(10), large(10));
        let mut report = Report::default();
        assert_eq!(diff(&pair.left, &pair.right, &Rules::default(), &mut report).unwrap(), 1);
        assert!(report.is_same());
        assert_eq!(report.entries, 41);
    }

    #[test]
    fn doubt_is_not_passed_over() {
        let mut entries = large(3);
        entries[2].status = Status::Unstable;
        let unreadable = Entry { status: Status::Unreadable(5), ..directory("z") };
        entries.push(unreadable);
        let pair = pair(entries.clone(), entries.clone());
        let mut report = Report::default();
        diff(&pair.left, &pair.right, &Rules::default(), &mut report).unwrap();
        assert_eq!(report.differences(), plainly(&entries, &entries).differences());
        assert!(!report.is_same());
    }

    fn tree() -> impl Strategy<Value = Vec<Entry>> {
        let path = prop::collection::vec("[ab-]", 1..4).prop_map(|parts| parts.join("/"));
        prop::collection::btree_map(path, (0_u8..2, prop::option::of(1_u64..3)), 0..12).prop_map(|paths| {
            let mut all = std::collections::BTreeMap::new();
            for (path, (content, group)) in paths {
                let mut at = path.as_str();
                while let Some((parent, _)) = at.rsplit_once('/') {
                    all.insert(parent.to_owned(), directory(parent));
                    at = parent;
                }
                let entry = Entry { link_group: group, ..file(&path, &[content]) };
                all.entry(path).or_insert(entry);
            }
            let mut entries: Vec<Entry> = all.into_values().collect();
            entries.push(directory(""));
            entries.sort_by(|l, r| path_order(&l.path, &r.path));
            entries
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn the_short_way_finds_what_the_long_way_finds(left in tree(), right in tree()) {
            let pair = pair(left.clone(), right.clone());
            let mut report = Report::default();
            diff(&pair.left, &pair.right, &Rules::default(), &mut report).unwrap();
            let plain = plainly(&left, &right);
            prop_assert_eq!(report.differences(), plain.differences());
            prop_assert_eq!((report.entries, report.bytes), (plain.entries, plain.bytes));
        }
    }

    #[test]
    fn the_header_of_another_manifest_does_not_fit() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = |host: &str| {
            let header = Header { host: host.into(), ..Header::default() };
            Manifest::new(header, large(3)).unwrap().encode().unwrap()
        };
        let (one, other) = (bytes("one"), bytes("two"));
        // Equally long names: the frames of both stand at the same places.
        let end_of_header = 28 + 5 + u32::from_le_bytes(one[29..33].try_into().unwrap()) as usize + 32;
        let spliced = [&one[..end_of_header], &other[end_of_header..]].concat();
        let path = dir.path().join("spliced");
        std::fs::write(&path, spliced).unwrap();
        assert!(Indexed::open(&path, &Hashing::plain()).is_err());
        std::fs::write(&path, other).unwrap();
        assert!(Indexed::open(&path, &Hashing::plain()).is_ok());
    }
}
