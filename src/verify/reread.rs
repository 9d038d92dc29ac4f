//! A second look at a file that is not what it should be: is it the file, or the disk, its cable or the memory?
//!
//! The second reading goes past the page cache, so that the disk is asked and not the memory that may be wrong. Equal twice: the
//! file is damaged, and where. Different each time: what was read cannot be trusted, and the file may be fine.

use std::cell::RefCell;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::beneath::Beneath;
use crate::manifest::hashing::{hex, where_differing};
use crate::manifest::single::{self, open_quietly, open_regular};
use crate::manifest::verdict::{Class, Difference};
use crate::manifest::{Content, ContentHasher, Entry, Hashing, Kind, Status};
use crate::sources::Source;

/// What the second reading was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Second {
    /// All of it.
    Read(Content),
    /// It changed while it was read.
    Changing,
    /// It could not be read.
    Failed(Errno),
}

/// Reads a file once more, from the disk as far as the system lets us.
pub(super) fn read_again(dir: BorrowedFd<'_>, name: &CStr, hashing: &Hashing) -> Second {
    match read_directly(dir, name, hashing) {
        Ok(Some(content)) => Second::Read(content),
        Ok(None) | Err(Errno::INVAL) => match single::read(dir, name, hashing) {
            Ok(read) if read.stable => Second::Read(read.content),
            Ok(_) => Second::Changing,
            Err(errno) => Second::Failed(errno),
        },
        Err(errno) => Second::Failed(errno),
    }
}

/// What two readings say together: the class of the finding, and what was found in words. `first` is `None` when the first
/// reading failed; the two are not both right.
pub(super) fn judge(expected: &Entry, first: Option<&Content>, second: &Second) -> Difference {
    let Kind::File { size, content, blocks, .. } = &expected.kind else {
        return difference(Class::Type, expected, "not a file".to_owned());
    };
    let right = |found: &Content| found.size == *size && Some(found.hash) == *content;
    let (class, found) = match (first, second) {
        (Some(first), Second::Read(second)) if first.hash == second.hash => {
            let place = where_differing(*size, blocks, &second.blocks);
            let place = place.map_or_else(String::new, |place| format!("; {place}"));
            (Class::Content, format!("{} (read twice{place})", hex(&second.hash)))
        }
        (Some(first), Second::Read(second)) if right(second) => {
            (Class::FlakyRead, format!("{} at first, then the right content: {BLAME}", hex(&first.hash)))
        }
        (Some(first), Second::Read(second)) => {
            let (first, second) = (hex(&first.hash), hex(&second.hash));
            (Class::FlakyRead, format!("{first} at first, then {second}: {BLAME}"))
        }
        (Some(_), Second::Failed(errno)) if !is_of_the_disk(*errno) => {
            (Class::NotChecked, format!("it could not be read a second time: {}", words(*errno)))
        }
        (Some(first), Second::Failed(errno)) => (
            Class::FlakyRead,
            format!("{} at first, then an error ({}): {BLAME}", hex(&first.hash), words(*errno)),
        ),
        (_, Second::Changing) => {
            (Class::NotChecked, "it is being written to while it is verified".to_owned())
        }
        (None, Second::Read(second)) if right(second) => {
            (Class::FlakyRead, format!("an error at first, then the right content: {BLAME}"))
        }
        (None, Second::Read(second)) => {
            (Class::FlakyRead, format!("an error at first, then {}: {BLAME}", hex(&second.hash)))
        }
        (None, Second::Failed(errno)) => (Class::Unreadable, format!("could not be read: {}", words(*errno))),
    };
    let excused = expected.status == Status::Unstable && class == Class::Content;
    difference(if excused { Class::UnstableSource } else { class }, expected, found)
}

/// Second looks at the files of a copy that is a directory; other copies are looked at once.
#[derive(Debug)]
pub(super) struct SecondReading {
    beneath: Option<RefCell<Beneath>>,
    hashing: Hashing,
}

impl SecondReading {
    /// At this copy. A directory that cannot be opened will be told by whoever reads it first.
    pub(super) fn of(copy: &Source, hashing: &Hashing) -> Self {
        let beneath = match copy {
            Source::Path(path) if path.is_dir() => Beneath::open(path).ok().map(RefCell::new),
            _ => None,
        };
        Self { beneath, hashing: hashing.clone() }
    }

    /// Whether there can be a second look.
    pub(super) fn is_possible(&self) -> bool {
        self.beneath.is_some()
    }

    /// Reads a file again whose content was not what it should be.
    pub(super) fn look(&self, expected: &Entry, first: &Content) -> Difference {
        let second = match &self.beneath {
            None => Second::Failed(Errno::NOTSUP),
            Some(beneath) => match beneath.borrow_mut().parent_and_name(&expected.path) {
                Ok((dir, name)) => read_again(dir, &name, &self.hashing),
                Err(errno) => Second::Failed(errno),
            },
        };
        judge(expected, Some(first), &second)
    }
}

const BLAME: &str = "the disk, its cable or the memory cannot be trusted";

fn difference(class: Class, expected: &Entry, found: String) -> Difference {
    let wanted = match &expected.kind {
        Kind::File { content: Some(content), .. } => hex(content),
        _ => "readable".to_owned(),
    };
    Difference { class, path: expected.path.clone(), expected: wanted, found }
}

/// Errors of the disk or its filesystem, not of who asks or of what was renamed meanwhile.
pub(super) fn is_of_the_disk(errno: Errno) -> bool {
    matches!(errno, Errno::IO | Errno::BADMSG | Errno::UCLEAN | Errno::NODATA | Errno::REMOTEIO)
}

fn words(errno: Errno) -> String {
    std::io::Error::from(errno).to_string()
}

/// Where a damaged file first differs from the live tree's, and in how many bytes; `None` when the live file is not, or no longer,
/// what the manifest says, or either changed meanwhile.
pub(super) fn against_live(
    live: &mut Beneath,
    copy: (BorrowedFd<'_>, &CStr),
    expected: &Entry,
    hashing: &Hashing,
) -> Option<String> {
    let Kind::File { content: Some(content), .. } = expected.kind else { return None };
    let (dir, name) = live.parent_and_name(&expected.path).ok()?;
    let (live, _) = open_regular(dir, &name).ok()?;
    let (copy, _) = open_regular(copy.0, copy.1).ok()?;
    let (live, copy) = (File::from(live), File::from(copy));
    let mut hasher = ContentHasher::new(hashing);
    let (mut right, mut found) = (vec![0; CHUNK], vec![0; CHUNK]);
    let (mut at, mut first, mut count) = (0_u64, None, 0_u64);
    loop {
        let got = fill(&live, &mut right, at)?;
        let there = fill(&copy, &mut found, at)?;
        if got != there {
            return None;
        }
        if got == 0 {
            break;
        }
        hasher.update(&right[..got]);
        for (place, (l, r)) in right[..got].iter().zip(&found[..got]).enumerate() {
            if l != r {
                first.get_or_insert(at + place as u64);
                count += 1;
            }
        }
        at += got as u64;
    }
    let first = first.filter(|_| hasher.finish().hash == content)?;
    let bytes = if count == 1 { "byte differs" } else { "bytes differ" };
    Some(format!("{count} {bytes} from the live tree, the first at {first}"))
}

/// Bytes that are read at once, by both of the above.
const CHUNK: usize = 1 << 20;

/// What direct reading must be aligned to, in memory and on disk: the largest sector that disks have.
const SECTOR: usize = 4096;

/// Reads past the page cache; `None` where the filesystem does not offer it.
fn read_directly(dir: BorrowedFd<'_>, name: &CStr, hashing: &Hashing) -> Result<Option<Content>, Errno> {
    let file = open_quietly(dir, name, OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::DIRECT)?;
    let before = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
        // It was one a moment ago.
        return Err(Errno::STALE);
    }
    let size = before.st_size.cast_unsigned();
    let mut room = vec![0_u8; CHUNK + SECTOR];
    let start = room.as_ptr().align_offset(SECTOR);
    let Some(buffer) = room.get_mut(start..start.saturating_add(CHUNK)) else { return Ok(None) };
    let mut hasher = ContentHasher::new(hashing);
    let mut at = 0_u64;
    while at < size {
        match rustix::io::pread(&file, &mut *buffer, at) {
            Ok(0) => return Ok(None),
            Ok(got) => {
                hasher.update(&buffer[..got]);
                at += got as u64;
                // A short piece that is not the last one cannot be gone on from.
                if at < size && !at.is_multiple_of(SECTOR as u64) {
                    return Ok(None);
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    let after = rustix::fs::fstat(&file)?;
    let still = after.st_size == before.st_size
        && (after.st_mtime, after.st_mtime_nsec) == (before.st_mtime, before.st_mtime_nsec)
        && (after.st_ctime, after.st_ctime_nsec) == (before.st_ctime, before.st_ctime_nsec);
    Ok((still && at == size).then(|| hasher.finish()))
}

fn fill(file: &File, into: &mut [u8], at: u64) -> Option<usize> {
    let mut got = 0;
    while got < into.len() {
        match file.read_at(&mut into[got..], at + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(got)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, OwnedFd};

    fn entry(content: &[u8]) -> Entry {
        Entry::new("f", Kind::file(Content::of(content)))
    }

    #[test]
    fn only_what_is_the_same_twice_is_damage_of_the_file() {
        let (right, bad, worse) = (Content::of(b"right"), Content::of(b"wrong"), Content::of(b"worse"));
        let read = |content: &Content| Second::Read(content.clone());
        let table = [
            (Some(&bad), read(&bad), Class::Content),
            (Some(&bad), read(&right), Class::FlakyRead),
            (Some(&bad), read(&worse), Class::FlakyRead),
            (Some(&bad), Second::Failed(Errno::IO), Class::FlakyRead),
            (Some(&bad), Second::Failed(Errno::NOENT), Class::NotChecked),
            (Some(&bad), Second::Changing, Class::NotChecked),
            (None, read(&right), Class::FlakyRead),
            (None, read(&bad), Class::FlakyRead),
            (None, Second::Failed(Errno::IO), Class::Unreadable),
        ];
        for (first, second, class) in table {
            let found = judge(&entry(b"right"), first, &second);
            assert_eq!(found.class, class, "{second:?}");
            assert_eq!(found.found.contains(BLAME), class == Class::FlakyRead);
        }
        let unstable = Entry { status: Status::Unstable, ..entry(b"right") };
        assert_eq!(judge(&unstable, Some(&bad), &read(&bad)).class, Class::UnstableSource);
    }

    #[test]
    fn reading_past_the_cache_gives_the_same_content_whatever_the_size() {
        let dir = tempfile::tempdir().unwrap();
        let top = OwnedFd::from(File::open(dir.path()).unwrap());
        for size in [0, 1, SECTOR - 1, SECTOR, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
            let bytes: Vec<u8> = (0..size).map(|n| (n / 7) as u8).collect();
            std::fs::write(dir.path().join("f"), &bytes).unwrap();
            let read = read_again(top.as_fd(), c"f", &Hashing::plain());
            assert_eq!(read, Second::Read(Content::of(&bytes)), "{size}");
        }
        assert_eq!(read_again(top.as_fd(), c"none", &Hashing::plain()), Second::Failed(Errno::NOENT));
        std::os::unix::fs::symlink("f", dir.path().join("link")).unwrap();
        assert_eq!(read_again(top.as_fd(), c"link", &Hashing::plain()), Second::Failed(Errno::LOOP));
    }

    #[test]
    fn a_live_tree_says_where_and_how_much() {
        let dir = tempfile::tempdir().unwrap();
        let (live, copy) = (dir.path().join("live"), dir.path().join("copy"));
        std::fs::create_dir_all(live.join("d")).unwrap();
        std::fs::create_dir(&copy).unwrap();
        let mut bytes = vec![7; 2 * CHUNK + 3];
        std::fs::write(live.join("d/f"), &bytes).unwrap();
        let expected = Entry::new("d/f", Kind::file(Content::of(&bytes)));
        bytes[CHUNK + 9] = 0;
        bytes[2 * CHUNK] = 0;
        std::fs::write(copy.join("f"), &bytes).unwrap();
        let top = OwnedFd::from(File::open(&copy).unwrap());
        let mut beneath = Beneath::open(&live).unwrap();
        let mut words = || against_live(&mut beneath, (top.as_fd(), c"f"), &expected, &Hashing::plain());
        assert_eq!(
            words().unwrap(),
            format!("2 bytes differ from the live tree, the first at {}", CHUNK + 9)
        );
        std::fs::write(live.join("d/f"), vec![8; bytes.len()]).unwrap();
        assert_eq!(words(), None, "a live file that has changed says nothing");
    }
}
