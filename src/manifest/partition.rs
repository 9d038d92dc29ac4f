//! Which names are one inode, on both sides: not the numbers of the groups are compared but who is in a group with whom.
//!
//! Only names that are on both sides count: a group that lost a member, which is missing, is otherwise what it was.

use std::path::Path;

use super::entry::{Entry, Status};
use super::format::FormatError;
use super::sorter::{BUFFER, SortError, Sorter};

/// Collects the linked names of both sides, outside memory.
#[derive(Debug)]
pub(super) struct Partition {
    /// Group in the manifest, then place: group in the copy and path.
    by_expected: Sorter,
    /// The other way round.
    by_found: Sorter,
    place: u64,
}

/// A name that is in a group with others than it should be.
#[derive(Debug)]
pub(super) struct Stray {
    pub(super) path: Vec<u8>,
    pub(super) expected: Option<u64>,
    pub(super) found: Option<u64>,
    pub(super) unstable: bool,
}

impl Partition {
    pub(super) fn new(scratch: &Path) -> Self {
        let sorter = || Sorter::with_buffer(Ord::cmp, scratch, BUFFER / 4);
        Self { by_expected: sorter(), by_found: sorter(), place: 0 }
    }

    /// An entry that is on both sides.
    pub(super) fn add(&mut self, expected: &Entry, found: &Entry) -> Result<(), FormatError> {
        self.place += 1;
        if expected.link_group.is_none() && found.link_group.is_none() {
            return Ok(());
        }
        let member = Member {
            place: self.place,
            expected: expected.link_group,
            found: found.link_group,
            unstable: expected.status == Status::Unstable,
            path: expected.path.clone(),
        };
        if let Some(group) = member.expected {
            self.by_expected.push(&key(group, self.place), &member.encode())?;
        }
        if let Some(group) = member.found {
            self.by_found.push(&key(group, self.place), &member.encode())?;
        }
        Ok(())
    }

    /// Names every stray once: first those that are not where they should be, then those that are where they should not.
    pub(super) fn judge(self, mut stray: impl FnMut(Stray)) -> Result<(), FormatError> {
        each_group(
            self.by_expected,
            |member| member.expected,
            |group| {
                for member in outside(group, |member| member.found) {
                    stray(member.stray());
                }
            },
        )?;
        each_group(
            self.by_found,
            |member| member.found,
            |group| {
                for member in outside(group, |member| member.expected) {
                    // Those with a group in the manifest were named by it.
                    if member.expected.is_none() {
                        stray(member.stray());
                    }
                }
            },
        )
    }
}

#[derive(Debug, Clone)]
struct Member {
    place: u64,
    expected: Option<u64>,
    found: Option<u64>,
    unstable: bool,
    path: Vec<u8>,
}

impl Member {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.place.to_be_bytes().to_vec();
        // Groups are numbered from 1.
        bytes.extend_from_slice(&self.expected.unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(&self.found.unwrap_or(0).to_be_bytes());
        bytes.push(u8::from(self.unstable));
        bytes.extend_from_slice(&self.path);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.split_at_checked(24)?;
        let (unstable, path) = rest.split_first()?;
        let number = |at: usize| numbers[at..at + 8].iter().fold(0, |n, &byte| n << 8 | u64::from(byte));
        let group = |number: u64| (number != 0).then_some(number);
        Some(Self {
            place: number(0),
            expected: group(number(8)),
            found: group(number(16)),
            unstable: *unstable != 0,
            path: path.to_vec(),
        })
    }

    fn stray(&self) -> Stray {
        Stray { path: self.path.clone(), expected: self.expected, found: self.found, unstable: self.unstable }
    }
}

fn key(group: u64, place: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&group.to_be_bytes());
    key[8..].copy_from_slice(&place.to_be_bytes());
    key
}

/// Calls `judge` with the members of each group.
fn each_group(
    sorter: Sorter,
    group_of: impl Fn(&Member) -> Option<u64>,
    mut judge: impl FnMut(&[Member]),
) -> Result<(), FormatError> {
    let mut sorted = sorter.finish()?;
    let mut group: Vec<Member> = Vec::new();
    while let Some((_, value)) = sorted.next_record()? {
        let member = Member::decode(&value).ok_or(SortError::Record("it does not decode"))?;
        if group.last().is_some_and(|last| group_of(last) != group_of(&member)) {
            judge(&group);
            group.clear();
        }
        group.push(member);
    }
    judge(&group);
    Ok(())
}

/// The members that are not with most of the others on the other side. Who is alone there is with nobody.
fn outside(group: &[Member], other: impl Fn(&Member) -> Option<u64>) -> Vec<&Member> {
    if group.len() < 2 {
        return Vec::new();
    }
    let mut counts = std::collections::BTreeMap::<Option<u64>, usize>::new();
    for member in group {
        *counts.entry(other(member)).or_default() += 1;
    }
    let most = counts.iter().filter(|(number, _)| number.is_some()).max_by_key(|(_, count)| **count);
    let home = match most {
        Some((number, _)) => *number,
        // All are alone: the first is the one that the others should be.
        None => return group[1..].iter().collect(),
    };
    group.iter().filter(|member| other(member) != home).collect()
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::file;
    use super::*;

    fn strays(pairs: &[(&str, u64, u64)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let mut partition = Partition::new(dir.path());
        let entry = |path, group| Entry { link_group: (group != 0).then_some(group), ..file(path, b"") };
        for (path, expected, found) in pairs {
            partition.add(&entry(path, *expected), &entry(path, *found)).unwrap();
        }
        let mut strays = Vec::new();
        partition.judge(|stray| strays.push(String::from_utf8(stray.path).unwrap())).unwrap();
        strays
    }

    #[test]
    fn numbers_mean_nothing_and_partners_all() {
        assert!(strays(&[("a", 1, 7), ("b", 1, 7), ("c", 2, 3), ("d", 2, 3), ("e", 0, 0)]).is_empty());
        assert_eq!(strays(&[("a", 1, 1), ("b", 1, 0)]), ["b"]);
        assert_eq!(strays(&[("a", 1, 0), ("b", 1, 2), ("c", 1, 2)]), ["a"]);
        assert_eq!(strays(&[("a", 1, 0), ("b", 1, 0), ("c", 1, 0)]), ["b", "c"]);
        assert_eq!(strays(&[("a", 0, 1), ("b", 0, 1)]), ["b"]);
        assert_eq!(strays(&[("a", 1, 1), ("b", 1, 1), ("c", 0, 1)]), ["c"]);
        assert_eq!(strays(&[("a", 1, 1), ("b", 1, 2), ("c", 2, 1), ("d", 2, 2)]).len(), 2);
        // Its partner is missing: nothing is wrong with it.
        assert!(strays(&[("b", 1, 0)]).is_empty());
    }
}
