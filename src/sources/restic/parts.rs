//! Stream and list put together, and the entries that only a real restore can tell about.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::node::Listed;
use super::{KEEPS, complaint, pattern};
use crate::manifest::collect::Sorted;
use crate::manifest::entry::ContentHash;
use crate::manifest::scan::gather;
use crate::manifest::sorter::SortError;
use crate::manifest::{Class, Collector, Entry, Facts, Found, Kind, ScanOptions, Status};
use crate::sources::engine::{
    EngineError, Findings, Pair, Pairs, Target, numbered_key, restored_facts, with_listed,
};
use crate::sources::{Gathered, Reading};
use crate::system::room;
use crate::system::sandbox::Outcome;

/// Names of hard links that are restored to see which are one inode, and their bytes; when there are more, their link counts,
/// times and contents must do.
const MOST_LINKED: usize = 2000;
const MOST_LINKED_BYTES: u64 = 1 << 30;

/// How many paths are kept in memory to be restored.
const MOST_KEPT: usize = 100_000;

/// Bytes of patterns for one run of restic; the kernel takes about two million.
const MOST_PATTERNS: usize = 512 << 10;

/// What the stream left open.
#[derive(Default)]
pub(super) struct Parts {
    specials: Vec<Vec<u8>>,
    linked: LinkedFiles,
    pub(super) undelivered: Undelivered,
    /// Link targets with characters that stand for bytes that are no text.
    replaced: u64,
}

/// Files with more than one name.
#[derive(Default)]
struct LinkedFiles {
    /// With what the stream said they hold.
    kept: HashMap<Vec<u8>, (ContentHash, [u8; 16])>,
    bytes: u64,
    patterns: usize,
    /// There are too many: they are grouped by what is known of them.
    inferred: u64,
}

/// What is listed and did not come; the count is of files.
#[derive(Default)]
pub(super) struct Undelivered {
    /// And directories and links that only the list tells of.
    kept: Vec<Found>,
    bytes: u64,
    /// Of all files that are listed.
    all_bytes: u64,
    pub(super) count: u64,
}

/// Hands every entry that is fully known to `into`, and returns what is not.
pub(super) fn put_together(
    stream: Sorted,
    mut listed: Listed,
    reading: &Reading<'_>,
    findings: &mut Findings,
    into: &mut Collector,
) -> Result<Parts, SortError> {
    let mut parts = Parts::default();
    let mut pairs = Pairs::new(stream, listed.sorted)?;
    while let Some(pair) = pairs.pair()? {
        match pair {
            Pair::Both(streamed, known) => parts.both(streamed, &known, findings, into)?,
            Pair::Streamed(streamed) => match listed.odd.remove(&as_listed(&streamed.entry.path)) {
                Some(Some(known)) => parts.both(streamed, &known, findings, into)?,
                _ => into.push(&Found { carries: WITHOUT_LIST, ..streamed })?,
            },
            Pair::Listed(known) => parts.only_listed(known, into)?,
        }
    }
    for known in listed.odd.into_values().flatten() {
        let path = known.entry.path.clone();
        match known.entry.kind {
            Kind::File { .. } | Kind::Fifo | Kind::CharDevice(_) | Kind::BlockDevice(_) => {
                parts.only_listed(known, into)?;
            }
            // Its true name did not come with the stream, so nothing can be said under that name.
            _ if !reading.excludes.covers(&path) => {
                findings.add(Class::NotChecked, &path, "an entry", "its name is known only in part".into());
            }
            _ => {}
        }
    }
    Ok(parts)
}

/// What the stream alone tells. Its times are rounded to the nearest second, which may be the next.
const WITHOUT_LIST: Facts =
    KEEPS.without(Facts::MTIME).without(Facts::MTIME_NANOS).without(Facts::HARD_LINKS);

/// The path as the list writes it: each byte that is no text is replaced by itself, as Go does it.
fn as_listed(path: &[u8]) -> Vec<u8> {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '\u{fffd}'));
    }
    text.into_bytes()
}

fn is_replaced(text: &[u8]) -> bool {
    text.windows(3).any(|window| window == "\u{fffd}".as_bytes())
}

impl Parts {
    fn both(
        &mut self,
        streamed: Found,
        known: &Found,
        findings: &mut Findings,
        into: &mut Collector,
    ) -> Result<(), SortError> {
        let path = streamed.entry.path.clone();
        match (&streamed.entry.kind, &known.entry.kind) {
            (_, Kind::Fifo | Kind::CharDevice(_) | Kind::BlockDevice(_)) => self.special(path),
            (Kind::File { content: None, .. }, Kind::File { .. }) => {
                let known = Found { entry: Entry { path, ..known.entry.clone() }, ..known.clone() };
                return self.undelivered(known, into);
            }
            (Kind::File { content: Some(content), size, .. }, Kind::File { .. }) => {
                self.undelivered.all_bytes += *size;
                let links = known.entry.noted.map_or(1, |noted| noted.links);
                if links > 1 {
                    self.linked.add(&path, *content, *size, likeness(&known.entry, content), into)?;
                }
                let entry = with_listed(streamed.entry, &known.entry);
                return into.push(&Found { entry, carries: KEEPS });
            }
            (came, told) if came.name() == told.name() => {
                self.replaced += u64::from(matches!(came, Kind::Symlink { target } if is_replaced(target)));
                // A directory of which the stream says nothing but that it holds something.
                let implied = !streamed.carries.has(Facts::MODE);
                let entry = with_listed(streamed.entry, &known.entry);
                return into.push(&Found { entry, carries: if implied { known.carries } else { KEEPS } });
            }
            (came, told) => {
                let (came, told) = (came.name().to_owned(), told.name());
                findings.add(Class::Hostile, &path, &format!("a {told}, as listed"), format!("a {came}"));
                return into.push(&Found { carries: WITHOUT_LIST, ..streamed });
            }
        }
        Ok(())
    }

    fn only_listed(&mut self, known: Found, into: &mut Collector) -> Result<(), SortError> {
        match known.entry.kind {
            Kind::File { .. } => self.undelivered(known, into),
            Kind::Fifo | Kind::CharDevice(_) | Kind::BlockDevice(_) => {
                self.special(known.entry.path);
                Ok(())
            }
            _ => self.undelivered.keep(known, into),
        }
    }

    fn special(&mut self, path: Vec<u8>) {
        if self.specials.len() < MOST_KEPT {
            self.specials.push(path);
        }
    }

    fn undelivered(&mut self, known: Found, into: &mut Collector) -> Result<(), SortError> {
        self.undelivered.count += 1;
        self.undelivered.bytes += known.entry.bytes();
        self.undelivered.all_bytes += known.entry.bytes();
        self.undelivered.keep(known, into)
    }
}

impl Undelivered {
    fn keep(&mut self, known: Found, into: &mut Collector) -> Result<(), SortError> {
        let known = Found { entry: Entry { noted: None, ..known.entry }, ..known };
        if self.kept.len() >= MOST_KEPT {
            return into.push(&known);
        }
        self.kept.push(known);
        Ok(())
    }
}

impl LinkedFiles {
    fn add(
        &mut self,
        path: &[u8],
        content: ContentHash,
        size: u64,
        likeness: [u8; 16],
        into: &mut Collector,
    ) -> Result<(), SortError> {
        self.bytes += size;
        self.patterns += path.len() + 256;
        self.kept.insert(path.to_vec(), (content, likeness));
        let too_many =
            self.kept.len() > MOST_LINKED || self.bytes > MOST_LINKED_BYTES || self.patterns > MOST_PATTERNS;
        if too_many || self.inferred > 0 {
            self.infer(into)?;
        }
        Ok(())
    }

    fn infer(&mut self, into: &mut Collector) -> Result<(), SortError> {
        self.inferred += self.kept.len() as u64;
        for (path, (_, likeness)) in self.kept.drain() {
            into.same_inode(likeness, &path)?;
        }
        Ok(())
    }
}

/// What all names of one inode have in common, and hardly any two inodes: the time of the last change to the nanosecond is
/// part of it.
fn likeness(entry: &Entry, content: &ContentHash) -> [u8; 16] {
    let noted = entry.noted.unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    hasher.update(content);
    for number in [noted.ctime.seconds, entry.mtime.seconds, noted.links.cast_signed()] {
        hasher.update(&number.to_le_bytes());
    }
    for number in [noted.ctime.nanoseconds, entry.mtime.nanoseconds, entry.mode.into(), entry.uid, entry.gid]
    {
        hasher.update(&number.to_le_bytes());
    }
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    key
}

/// Runs restic to restore what these patterns match into a directory.
type Restore<'r> = dyn Fn(&[OsString], &Target) -> Result<Outcome, EngineError> + 'r;

/// Restores what the stream left open, and hands over what came out.
pub(super) struct Rest<'r> {
    pub tree: &'r [u8],
    pub reading: &'r Reading<'r>,
    pub findings: &'r mut Findings,
    pub into: &'r mut Collector,
    pub gathered: &'r mut Gathered,
    /// The file at which restic gave up because of its content, with restic's words.
    pub damaged: Option<(Vec<u8>, String)>,
}

impl Rest<'_> {
    pub(super) fn restore(&mut self, parts: Parts, restore: &Restore<'_>) -> Result<(), EngineError> {
        if parts.linked.inferred > 0 {
            let count = parts.linked.inferred;
            let how = "grouped by their link counts, times and contents: too many to be restored";
            self.gathered.remarks.push(format!("{count} names of hard links were {how}"));
        }
        if parts.replaced > 0 {
            let what = "symlinks point at names that restic took for text: it may have replaced bytes when it saved them";
            self.gathered.remarks.push(format!("{} {what}", parts.replaced));
        }
        let Undelivered { kept, bytes, all_bytes, count } = parts.undelivered;
        let mut waiting: HashMap<Vec<u8>, Found> =
            kept.into_iter().map(|found| (found.entry.path.clone(), found)).collect();
        let free = free_bytes(self.reading.scratch)? / 10 * 9;
        let linked = &parts.linked;
        // Restored as a whole, directories come with their attributes; one by one they would come with all that they hold.
        if count > 0 && bytes.saturating_mul(2) >= all_bytes && free > all_bytes {
            self.run(&[self.pattern(b"")], 0, linked, &mut waiting, restore)?;
        } else {
            let specials = parts.specials.iter().map(Vec::as_slice);
            let files = waiting.values().filter(|found| matches!(found.entry.kind, Kind::File { .. }));
            let files = files.map(|found| found.entry.path.as_slice()).filter(|_| free > bytes);
            let paths = files.chain(specials).chain(linked.kept.keys().map(Vec::as_slice));
            let patterns: Vec<OsString> = paths.map(|path| self.pattern(path)).collect();
            for (number, patterns) in runs(patterns).iter().enumerate() {
                self.run(patterns, number, linked, &mut waiting, restore)?;
            }
        }
        self.tell(parts.specials.len() + linked.kept.len(), count, &waiting, (bytes, free));
        for found in waiting.into_values() {
            self.into.push(&found)?;
        }
        Ok(())
    }

    fn tell(&mut self, asked: usize, count: u64, waiting: &HashMap<Vec<u8>, Found>, room: (u64, u64)) {
        let remarks = &mut self.gathered.remarks;
        if asked > 0 {
            let what = "that the stream does not carry were really restored and read";
            remarks.push(format!("{asked} devices, pipes and hard links {what}"));
        }
        let left = waiting.values().filter(|found| matches!(found.entry.kind, Kind::File { .. })).count();
        match (count, left) {
            (0, _) => {}
            (_, 0) => {
                remarks.push(format!("{count} files that did not come with the stream were really restored and read"));
            }
            _ => remarks.push(format!(
                "{count} files did not come with the stream, and {left} of them could not be restored: that takes {} bytes, {} are \
                 free",
                room.0, room.1
            )),
        }
        // What restic found damaged is damage, whether or not there was room to look at what is left of it.
        if let Some((path, words)) = self.damaged.take().filter(|(path, _)| waiting.contains_key(path)) {
            self.findings.add(Class::Content, &path, "content that restic can read", words);
        }
    }

    /// One pattern in the snapshot for a path in the tree.
    fn pattern(&self, path: &[u8]) -> OsString {
        match (self.tree.is_empty(), path.is_empty()) {
            (true, _) => pattern(path),
            (false, true) => pattern(self.tree),
            (false, false) => pattern(&[self.tree, b"/", path].concat()),
        }
    }

    /// One run of restic: special files and hard links are handed over, and of other files those that `waiting` waits for.
    fn run(
        &mut self,
        patterns: &[OsString],
        number: usize,
        linked: &LinkedFiles,
        waiting: &mut HashMap<Vec<u8>, Found>,
        restore: &Restore<'_>,
    ) -> Result<(), EngineError> {
        let target = Target::create(self.reading.scratch)?;
        let outcome = restore(patterns, &target)?;
        self.gathered.remarks.extend(complaint(&outcome));
        let tree = target.path().join(OsStr::from_bytes(self.tree));
        if !tree.is_dir() {
            return Ok(());
        }
        let options = ScanOptions {
            excludes: self.reading.excludes.clone(),
            hashing: self.reading.hashing.clone(),
            ..ScanOptions::default()
        };
        for found in gather(&tree, &options, self.reading.scratch, &|_| {})?.sorted {
            self.restored(found?.entry, number, linked, waiting)?;
        }
        Ok(())
    }

    fn restored(
        &mut self,
        mut entry: Entry,
        number: usize,
        linked: &LinkedFiles,
        waiting: &mut HashMap<Vec<u8>, Found>,
    ) -> Result<(), SortError> {
        // Groups are numbered anew in each run.
        let group = entry.link_group.take().map(|group| (number as u64) << 40 | group);
        let carries = restored_facts(KEEPS);
        if let Kind::Fifo | Kind::CharDevice(_) | Kind::BlockDevice(_) = &entry.kind {
            // Of what was restored as a whole it is here again. restic restores each name of a device by itself.
            return self.into.push(&Found { entry, carries: carries.without(Facts::HARD_LINKS) });
        }
        let listed = match waiting.contains_key(&entry.path) {
            true => entry.path.clone(),
            false => as_listed(&entry.path),
        };
        if let Some(group) = group
            && (linked.kept.contains_key(&entry.path) || waiting.contains_key(&listed))
        {
            self.into.same_inode(numbered_key(b'l', group), &entry.path)?;
        }
        if let Some((streamed, _)) = linked.kept.get(&entry.path) {
            let same =
                matches!(&entry.kind, Kind::File { content: Some(content), .. } if content == streamed);
            if !same {
                let (expected, found) =
                    ("the content that was streamed", "other content when it was restored");
                self.findings.add(Class::Content, &entry.path, expected, found.to_owned());
            }
        }
        if waiting.get(&listed).is_some_and(|found| found.entry.kind.name() == entry.kind.name())
            && entry.status == Status::Stable
        {
            waiting.remove(&listed);
            return self.into.push(&Found { entry, carries });
        }
        Ok(())
    }
}

/// Patterns in runs that fit a command line.
fn runs(patterns: Vec<OsString>) -> Vec<Vec<OsString>> {
    let mut runs: Vec<Vec<OsString>> = Vec::new();
    let mut room = 0;
    let mut seen = HashSet::new();
    for pattern in patterns.into_iter().rev() {
        if !seen.insert(pattern.clone()) {
            continue;
        }
        let length = pattern.len() + 16;
        match runs.last_mut() {
            Some(run) if length <= room => run.push(pattern),
            _ => {
                room = MOST_PATTERNS + MOST_PATTERNS / 4;
                runs.push(vec![pattern]);
            }
        }
        room = room.saturating_sub(length);
    }
    runs
}

fn free_bytes(directory: &std::path::Path) -> Result<u64, EngineError> {
    room::free(directory).map_err(|source| EngineError::Directory { path: directory.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::engine::UNDELIVERED;

    #[test]
    fn bytes_that_are_no_text_are_replaced_one_by_one() {
        assert_eq!(as_listed(b"a\xff\xfeb"), "a\u{fffd}\u{fffd}b".as_bytes());
        // The beginning of a character that is cut: Go replaces each byte.
        assert_eq!(as_listed(b"\xe2\x82x"), "\u{fffd}\u{fffd}x".as_bytes());
        assert_eq!(as_listed("café".as_bytes()), "café".as_bytes());
    }

    #[test]
    fn too_many_hard_links_are_grouped_by_what_is_known_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut into = Collector::new(dir.path());
        let mut linked = LinkedFiles::default();
        let names = MOST_LINKED + 100;
        for name in 0..names {
            let path = format!("{name:05}").into_bytes();
            let mut entry = Entry::new(path.clone(), Kind::unread_file(1));
            entry.mtime.seconds = (name / 2) as i64;
            let content = [1; 32];
            linked.add(&path, content, 1, likeness(&entry, &content), &mut into).unwrap();
            into.push(&Found { entry: Entry { status: UNDELIVERED, ..entry }, carries: KEEPS }).unwrap();
        }
        assert_eq!((linked.inferred, linked.kept.len()), (names as u64, 0));
        let groups: Vec<u64> =
            into.finish().unwrap().map(|found| found.unwrap().entry.link_group.unwrap()).collect();
        let wanted: Vec<u64> = (0..names).map(|name| name as u64 / 2 + 1).collect();
        assert_eq!(groups, wanted);
    }

    #[test]
    fn the_last_patterns_share_the_first_run() {
        let all: Vec<OsString> = (0..100_000).map(|number| format!("/some/path/{number}").into()).collect();
        let runs = runs(all.clone());
        assert!(runs.len() > 1 && runs[0].contains(&all[99_999]) && runs[0].contains(&all[90_000]));
        assert_eq!(runs.iter().map(Vec::len).sum::<usize>(), 100_000);
        let longest =
            runs.iter().map(|run| run.iter().map(|pattern| pattern.len() + 16).sum::<usize>()).max();
        assert!(longest.unwrap() <= MOST_PATTERNS + MOST_PATTERNS / 4);
    }
}
