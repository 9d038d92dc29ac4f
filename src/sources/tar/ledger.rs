//! What came where and when: the questions that only the whole archive answers.
//!
//! Did a hard link's target come before it? Does a member lie below something that is no directory? Did a path come twice, and
//! as what? Which directories are only implied? Every member notes what it is, what it links to and which directories it lies in; the notes
//! are sorted by path outside memory, and then each path tells its own story in the order of the archive.

use std::path::Path;

use crate::manifest::entry::{parent, path_order};
use crate::manifest::sorter::{SortError, Sorter};

/// Bytes of notes that are held in memory: some 60 000 members.
const BUFFER: usize = 4 << 20;

/// What a member is, as far as the questions go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Directory = 0,
    File = 1,
    Symlink = 2,
    Special = 3,
    HardLink = 4,
}

impl What {
    const ALL: [Self; 5] = [Self::Directory, Self::File, Self::Symlink, Self::Special, Self::HardLink];

    fn name(self) -> &'static str {
        match self {
            Self::Directory => "a directory",
            Self::File => "a file",
            Self::Symlink => "a symlink",
            Self::Special => "a device or pipe",
            Self::HardLink => "a hard link",
        }
    }
}

/// A note's first byte; below it are the numbers of [`What`].
const LINKED: u8 = 100;
const LIES_IN: u8 = 101;

/// The longest path that is kept to name a member by, in bytes; what a single call to the kernel can name.
const LONGEST_WITNESS: usize = 4095;

/// Takes notes.
#[derive(Debug)]
pub(super) struct Ledger {
    notes: Sorter,
    /// The directory of the last member: its neighbours need not say it again.
    last: Option<Vec<u8>>,
    bytes: u64,
}

/// What a path's story amounts to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// `path` is another name of what `target` was at that moment.
    Alias { path: Vec<u8>, target: Vec<u8>, moment: u64 },
    /// A directory that only its content speaks of.
    Implied(Vec<u8>),
    /// Something is wrong.
    Odd { path: Vec<u8>, what: String },
    /// It came more than once, always as the same.
    Repeated(Vec<u8>),
}

impl Ledger {
    /// Notes go to `scratch` when there are many.
    pub(super) fn new(scratch: &Path) -> Self {
        Self { notes: Sorter::with_buffer(path_order, scratch, BUFFER), last: None, bytes: 0 }
    }

    /// Bytes of notes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Notes a member, in the order of the archive.
    pub(super) fn member(&mut self, path: &[u8], what: What) -> Result<(), SortError> {
        let directory = parent(path);
        if self.last.as_deref() != directory {
            self.lies_in(path)?;
            self.last = directory.map(<[u8]>::to_vec);
        }
        self.push(path, &[what as u8])
    }

    /// Notes a hard link and what it is another name of; the moment is the collector's.
    pub(super) fn link(&mut self, path: &[u8], target: &[u8], moment: u64) -> Result<(), SortError> {
        // A file that was named twice to the program that archived it is a link to itself: nothing changes.
        if path != target {
            self.member(path, What::HardLink)?;
        }
        self.push(target, &[&[LINKED], &moment.to_le_bytes()[..], path].concat())
    }

    /// Tells every directory above a path that something lies in it, from below up to those that the last member was in too.
    fn lies_in(&mut self, path: &[u8]) -> Result<(), SortError> {
        let shortened = if path.len() > LONGEST_WITNESS { b"" } else { path };
        let mut directory = parent(path);
        while let Some(above) = directory {
            let known =
                self.last.as_deref().is_some_and(|last| crate::manifest::entry::is_at_or_below(last, above));
            self.push(above, &[&[LIES_IN], shortened].concat())?;
            if known {
                break;
            }
            directory = parent(above);
        }
        Ok(())
    }

    fn push(&mut self, path: &[u8], note: &[u8]) -> Result<(), SortError> {
        self.bytes += (path.len() + note.len()) as u64;
        self.notes.push(path, note)
    }

    /// Tells the story of each path.
    pub(super) fn finish(self, mut tell: impl FnMut(Told) -> Result<(), SortError>) -> Result<(), SortError> {
        let mut notes = self.notes.finish()?;
        let mut story: Option<Story> = None;
        while let Some((path, note)) = notes.next_record()? {
            if story.as_ref().is_none_or(|story| story.path != path) {
                if let Some(ended) = story.take() {
                    ended.end(&mut tell)?;
                }
                story = Some(Story::of(path));
            }
            if let Some(story) = &mut story {
                story.note(&note, &mut tell)?;
            }
        }
        match story {
            Some(story) => story.end(&mut tell),
            None => Ok(()),
        }
    }
}

/// One path, while its notes come.
struct Story {
    path: Vec<u8>,
    now: Option<What>,
    times: u64,
    changed: bool,
    /// Something lies in it.
    used: bool,
    below: bool,
}

impl Story {
    fn of(path: Vec<u8>) -> Self {
        Self { path, now: None, times: 0, changed: false, used: false, below: false }
    }

    fn note(
        &mut self,
        note: &[u8],
        tell: &mut impl FnMut(Told) -> Result<(), SortError>,
    ) -> Result<(), SortError> {
        let Some((&tag, other)) = note.split_first() else { return Ok(()) };
        match tag {
            LINKED => match other.split_first_chunk() {
                Some((moment, path)) => tell(self.linked(path, u64::from_le_bytes(*moment))),
                None => Ok(()),
            },
            LIES_IN => {
                self.used = true;
                match self.now {
                    Some(what) if what != What::Directory && !self.below => {
                        self.below = true;
                        let what = format!("a member below {}, which is {}", shown(&self.path), what.name());
                        let path = if other.is_empty() { self.path.clone() } else { other.to_vec() };
                        tell(Told::Odd { path, what })
                    }
                    _ => Ok(()),
                }
            }
            _ => {
                let what = What::ALL.into_iter().find(|&what| what as u8 == tag);
                let before = std::mem::replace(&mut self.now, what);
                self.times += 1;
                match (before, what) {
                    (Some(before), Some(what)) if before != what => {
                        self.changed = true;
                        let what = format!("it comes as {} and later as {}", before.name(), what.name());
                        tell(Told::Odd { path: self.path.clone(), what })
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// A link to this path: good only when a member came before it that can have another name.
    fn linked(&self, path: &[u8], moment: u64) -> Told {
        let odd = |what: String| Told::Odd { path: path.to_vec(), what };
        let target = shown(&self.path);
        match self.now {
            None => odd(format!("a hard link to {target}, which does not come before it")),
            Some(_) if path == self.path => Told::Repeated(path.to_vec()),
            Some(What::Directory) => odd(format!("a hard link to {target}, which is a directory")),
            Some(What::HardLink) => odd(format!("a hard link to {target}, which is itself one")),
            Some(_) => Told::Alias { path: path.to_vec(), target: self.path.clone(), moment },
        }
    }

    fn end(self, tell: &mut impl FnMut(Told) -> Result<(), SortError>) -> Result<(), SortError> {
        match self.now {
            None if self.used => tell(Told::Implied(self.path)),
            Some(what) if what != What::Directory && self.used && !self.below => {
                let what = format!("{} in the place of a directory that other members lie in", what.name());
                tell(Told::Odd { path: self.path, what })
            }
            _ if self.times > 1 && !self.changed => tell(Told::Repeated(self.path)),
            _ => Ok(()),
        }
    }
}

fn shown(path: &[u8]) -> String {
    crate::system::show::bytes(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Step {
        Is(&'static str, What),
        Link(&'static str, &'static str),
    }
    use Step::{Is, Link};
    use What::{Directory, File, Symlink};

    /// What is told of these members, in short.
    fn told(steps: &[Step]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::new(dir.path());
        for step in steps {
            match step {
                Is(path, what) => ledger.member(path.as_bytes(), *what).unwrap(),
                Link(path, target) => ledger.link(path.as_bytes(), target.as_bytes(), 1).unwrap(),
            }
        }
        let mut told = Vec::new();
        ledger
            .finish(|one| {
                told.push(match one {
                    Told::Alias { path, target, .. } => format!("{} = {}", shown(&path), shown(&target)),
                    Told::Implied(path) => format!("implied {}", shown(&path)),
                    Told::Odd { path, what } => format!("{}: {what}", shown(&path)),
                    Told::Repeated(path) => format!("repeated {}", shown(&path)),
                });
                Ok(())
            })
            .unwrap();
        told
    }

    #[test]
    fn an_honest_archive_tells_only_its_links() {
        let steps = [
            Is("", Directory),
            Is("d", Directory),
            Is("d/f", File),
            Is("s", Symlink),
            Link("d/g", "d/f"),
            Link("t", "s"),
        ];
        assert_eq!(told(&steps), ["d/g = d/f", "t = s"]);
    }

    #[test]
    fn directories_may_be_implied_or_come_late() {
        assert_eq!(told(&[Is("a/b/c", File), Is("a/b", Directory)]), ["implied ", "implied a"]);
        assert_eq!(
            told(&[Is("", Directory), Is("a/x", File), Is("b/x", File), Is("a/y", File)]),
            ["implied a", "implied b"]
        );
    }

    #[test]
    fn links_need_a_target_that_came_before() {
        for (steps, word) in [
            (&[Is("", Directory), Link("l", "t")][..], "does not come before"),
            (&[Is("", Directory), Link("l", "t"), Is("t", File)], "does not come before"),
            (&[Is("", Directory), Is("t", Directory), Link("l", "t")], "is a directory"),
            (&[Is("", Directory), Link("l", "l")], "does not come before"),
        ] {
            let told = told(steps);
            assert!(told.len() == 1 && told[0].starts_with("l: ") && told[0].contains(word), "{told:?}");
        }
        assert_eq!(told(&[Is("", Directory), Is("f", File), Link("f", "f")]), ["repeated f"]);
    }

    #[test]
    fn nothing_may_lie_below_what_is_no_directory() {
        for (steps, word) in [
            (
                &[Is("", Directory), Is("s", Symlink), Is("s/x", File), Is("s/y", File)][..],
                "s/x: a member below s, which is a symlink",
            ),
            (
                &[Is("", Directory), Is("d/x", File), Is("d", Symlink)],
                "d: a symlink in the place of a directory",
            ),
            (
                &[Is("", Directory), Is("d", Directory), Is("d", Symlink), Is("d/x", File)],
                "d/x: a member below d",
            ),
        ] {
            let told = told(steps);
            assert!(told.iter().any(|told| told.starts_with(word)), "{told:?}");
        }
    }

    #[test]
    fn what_comes_twice_is_told_and_a_change_of_type_is_odd() {
        assert_eq!(told(&[Is("", Directory), Is("f", File), Is("f", File)]), ["repeated f"]);
        let told = told(&[Is("", Directory), Is("f", File), Is("f", Symlink)]);
        assert_eq!(told, ["f: it comes as a file and later as a symlink"]);
    }
}
