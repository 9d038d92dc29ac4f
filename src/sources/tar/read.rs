//! The whole archive into a collector.

use std::cell::OnceCell;
use std::io::{self, BufRead, Read};

use super::blocks::{Blocks, Broken};
use super::findings::{Findings, damage};
use super::found::{self, Traces};
use super::header::Header;
use super::layout::Layout;
use super::ledger::{Ledger, Told, What};
use super::members::{Member, MemberKind, Members, Piece};
use super::names::Names;
use super::place::{Place, Places, bad_target};
use super::pump;
use crate::manifest::entry::MAX_EXTENTS;
use crate::manifest::sorter::SortError;
use crate::manifest::verdict::Difference;
use crate::manifest::{Collector, ContentHasher, Facts, Kind, Progress, Status};
use crate::sources::compressed::{Decompressed, Trouble};
use crate::sources::{Gathered, Limits, Reading};
use crate::system::show;

/// Room in an extended header for the map of a sparse file, in bytes: some 300 000 pieces.
const MAP_ROOM: usize = 8 << 20;

/// Bytes of an archive for each entry besides its content, on average: headers, padding, names and attributes.
const OVERHEAD: u64 = 16 << 10;

/// Zeros that a writer with large records may put behind the end marker, in bytes.
const LAST_RECORD: u64 = 16 << 20;

/// How many bytes of notes one byte of archive may cause. A tree in the order of its directories stays far below 10; names of
/// thousands of components in an order made for it reach thousands.
const MOST_NOTES: u64 = 64;

/// Zeros that are hashed at once for a hole.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Bytes of one file after which progress is told.
const TELL_EVERY: u64 = 16 << 20;

/// What stands for "the archive does not hold the content" and for "what it holds is damaged".
const NOT_THERE: u32 = rustix::io::Errno::NODATA.raw_os_error().cast_unsigned();
const DAMAGED: u32 = rustix::io::Errno::BADMSG.raw_os_error().cast_unsigned();

/// An archive about which nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The file or pipe.
    #[error("failed to read the archive")]
    Input(#[source] io::Error),
    /// Its compression asks for too much.
    #[error("the archive cannot be decompressed here")]
    Memory(#[source] io::Error),
    /// Nothing in it looks like a member.
    #[error("this is not a tar archive, compressed with gzip, zstd, xz, bzip2, lz4 or not at all")]
    NotAnArchive,
    /// The tree is not where it was said to be in the archive.
    #[error(
        "nothing in the archive lies in the tree, but elsewhere, as {}: say with --strip where the tree is in the archive, as \
         srv/www, or /srv/www when its names begin with a slash", show::bytes(.example)
    )]
    NothingInside {
        /// A member.
        example: Vec<u8>,
    },
    /// What does not belong to the tree goes on and on.
    #[error("the archive holds more than {0} besides the tree: it was not read to its end")]
    TooMuchElse(String),
    /// No thread for reading.
    #[error("failed to start the reading thread")]
    Thread(#[source] io::Error),
    /// The machine's own disk.
    #[error("failed to sort what the archive holds")]
    Sort(#[from] SortError),
}

/// Reads an archive to its end, whatever compresses it, and hands every member to `into`.
///
/// `strip` is the part of the archive that is the tree: empty for all of it, `srv/www` when the manifest is of that directory,
/// with a leading slash when the archive was made with absolute names. What lies elsewhere is counted.
///
/// Damage and hostile members are findings, after which reading goes on as far as it makes sense.
/// What the archive carries is known only at its end: [`Gathered::carries`] narrows what each entry carries by itself.
///
/// # Errors
/// When the archive cannot be read, is none, or the machine runs out of something.
pub fn read(
    input: impl Read + Send + 'static,
    strip: &[u8],
    reading: &Reading<'_>,
    into: &mut Collector,
) -> Result<Gathered, TarError> {
    let is_header = |first: &[u8]| first.first_chunk().is_some_and(|block| Header::checked(block).is_some());
    let unpacked = Decompressed::unless(input, is_header).map_err(TarError::Input)?;
    pump::pumped(unpacked, |unpacked| read_unpacked(unpacked, strip, reading, into))
        .map_err(TarError::Thread)?
}

/// As [`read`], of an archive that is not compressed, without a thread.
///
/// # Errors
/// As [`read`].
pub fn read_unpacked(
    input: impl BufRead,
    strip: &[u8],
    reading: &Reading<'_>,
    into: &mut Collector,
) -> Result<Gathered, TarError> {
    let Whole { mut gathered, cut } = read_streamed(input, strip, reading, into)?;
    gathered.findings.extend(cut);
    Ok(gathered)
}

/// An archive, and the finding that says where and why reading it had to end.
pub(in crate::sources) struct Whole {
    pub(in crate::sources) gathered: Gathered,
    pub(in crate::sources) cut: Option<Difference>,
}

/// As [`read_unpacked`], with what cuts the archive off told apart from all other findings.
pub(in crate::sources) fn read_streamed(
    input: impl BufRead,
    strip: &[u8],
    reading: &Reading<'_>,
    into: &mut Collector,
) -> Result<Whole, TarError> {
    let limits = &reading.limits;
    // Attributes come twice from libarchive, once in base64.
    let records = limits.xattrs.saturating_mul(3).saturating_add(limits.name.saturating_mul(4));
    let longest_extension = records.saturating_add(MAP_ROOM);
    let overhead = limits.entries.saturating_mul(OVERHEAD).saturating_add(longest_extension as u64);
    let most = limits.bytes.saturating_add(overhead).saturating_add(LAST_RECORD);
    let archive = Archive {
        members: Members::new(Blocks::new(input, most), limits.name, longest_extension),
        places: Places::new(strip, limits.name, limits.depth),
        ledger: Ledger::new(reading.scratch),
        names: OnceCell::new(),
        traces: Traces::default(),
        findings: Findings::default(),
        absolute: Findings::default(),
        cut: None,
        reading,
        into,
        seen: Progress::default(),
        taken: 0,
        passed: Progress::default(),
        ends: 0,
        elsewhere: None,
        outside: 0,
        excluded: 0,
        repeated: 0,
    };
    archive.run()
}

struct Archive<'a, R> {
    members: Members<R>,
    places: Places,
    ledger: Ledger,
    /// Read when the first access control list needs them.
    names: OnceCell<Names>,
    traces: Traces,
    findings: Findings,
    /// Absolute names: hostile, unless nothing lies in the tree and the person has only forgotten the slash.
    absolute: Findings,
    cut: Option<Difference>,
    reading: &'a Reading<'a>,
    into: &'a mut Collector,
    /// Members, and bytes of their content with holes.
    seen: Progress,
    /// Members that the limits of the manifest are about.
    taken: u64,
    /// Members outside the tree or excluded, and their bytes in the archive: the manifest says nothing about how many.
    passed: Progress,
    /// Where in the archive the last member ends.
    ends: u64,
    /// A member that is not in the tree.
    elsewhere: Option<Vec<u8>>,
    outside: u64,
    excluded: u64,
    repeated: u64,
}

/// Whether reading goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    Stop,
}

impl<R: BufRead> Archive<'_, R> {
    fn run(mut self) -> Result<Whole, TarError> {
        loop {
            let next = self.members.next();
            self.take_oddities();
            let then = match next {
                Ok(Some(member)) => self.member(member)?,
                Ok(None) => break,
                Err(broken) => self.broken(broken, Vec::new())?,
            };
            if then == Then::Stop {
                break;
            }
        }
        (self.reading.progress)(self.seen);
        self.finish()
    }

    fn take_oddities(&mut self) {
        for oddity in self.members.oddities.drain(..) {
            self.findings.hostile(oddity.path, oddity.what);
        }
    }

    fn member(&mut self, mut member: Member) -> Result<Then, TarError> {
        self.seen.entries += 1;
        if self.seen.entries.is_multiple_of(1024) {
            (self.reading.progress)(self.seen);
        }
        if self.ledger.bytes() > self.members.offset().saturating_mul(MOST_NOTES) + (1 << 20) {
            let what = "names that make more work than the archive is worth".to_owned();
            return Ok(self.too_much(member.path, what));
        }
        self.traces.note(&member);
        let ends = self.members.ends();
        let length = ends.saturating_sub(std::mem::replace(&mut self.ends, ends));
        let placed = match self.places.of(&member.path) {
            Ok(Place::Inside(path)) if !self.reading.excludes.covers(&path) => Ok(path),
            Ok(place) => return self.passed_over(&place, member.path, length),
            Err(what) => Err(what),
        };
        self.taken += 1;
        if self.taken > self.reading.limits.entries {
            let most = self.reading.limits.entries;
            return Ok(self.too_much(member.path, format!("more than {most} members")));
        }
        let path = match placed {
            Ok(path) => path,
            Err(what) => {
                self.refused(member.path, what);
                return Ok(Then::GoOn);
            }
        };
        if path.is_empty() && !matches!(member.kind, MemberKind::Directory) {
            self.findings.hostile(member.path, "the tree itself is not a directory".to_owned());
            return Ok(Then::GoOn);
        }
        match &member.kind {
            MemberKind::File(layout) => {
                let layout = layout.clone();
                self.file(path, member, &layout)
            }
            MemberKind::HardLink(target) => {
                let target = target.clone();
                self.hard_link(path, member, &target)
            }
            _ => self.plain(path, &mut member),
        }
    }

    /// A member that the manifest does not speak of: counted for itself, and the archive may be longer by it.
    fn passed_over(&mut self, place: &Place, name: Vec<u8>, length: u64) -> Result<Then, TarError> {
        match place {
            Place::Inside(_) => self.excluded += 1,
            Place::Outside => self.outside += 1,
            Place::Above => {}
        }
        if !matches!(place, Place::Inside(_)) {
            self.elsewhere.get_or_insert(name);
        }
        let most = Limits::default();
        self.passed.entries += 1;
        self.passed.bytes = self.passed.bytes.saturating_add(length);
        if self.passed.entries > most.entries {
            return Err(TarError::TooMuchElse(format!("{} members", most.entries)));
        }
        if self.passed.bytes > most.bytes {
            return Err(TarError::TooMuchElse(format!("{} bytes", most.bytes)));
        }
        self.members.blocks.allow(length);
        Ok(Then::GoOn)
    }

    /// A name that leads where no member may be.
    fn refused(&mut self, name: Vec<u8>, what: String) {
        if self.places.is_absolute_by_surprise(&name) {
            self.elsewhere.get_or_insert_with(|| name.clone());
            self.absolute.hostile(name, what);
        } else {
            self.findings.hostile(name, what);
        }
    }

    /// A member without content.
    fn plain(&mut self, path: Vec<u8>, member: &mut Member) -> Result<Then, TarError> {
        let what = match &member.kind {
            MemberKind::Directory => What::Directory,
            MemberKind::Symlink(_) => What::Symlink,
            _ => What::Special,
        };
        if let MemberKind::Symlink(target) = &member.kind
            && let Some(what) = bad_target(target, self.reading.limits.name)
        {
            self.findings.hostile(member.path.clone(), what);
            return Ok(Then::GoOn);
        }
        let Some(kind) = found::plain_kind(&mut member.kind) else { return Ok(Then::GoOn) };
        self.ledger.member(&path, what)?;
        self.push(path, kind, Status::Stable, member)?;
        Ok(Then::GoOn)
    }

    fn file(&mut self, path: Vec<u8>, mut member: Member, layout: &Layout) -> Result<Then, TarError> {
        let most = self.reading.limits.bytes;
        let size = layout.size();
        if size.is_some_and(|size| size > most - self.seen.bytes) {
            return Ok(self.too_much(member.path, format!("more than {most} bytes of content")));
        }
        self.ledger.member(&path, What::File)?;
        let mut hashed = Hashed {
            hasher: ContentHasher::new(&self.reading.hashing),
            progress: self.reading.progress,
            seen: self.seen,
            told: self.seen.bytes,
        };
        let read = self.members.content(|piece| match piece {
            Piece::Bytes(bytes) => hashed.update(bytes),
            Piece::Zeros(count) => hashed.zeros(count),
        });
        if let Err(broken) = read {
            self.push(path, Kind::unread_file(size.unwrap_or(0)), Status::Unreadable(DAMAGED), &mut member)?;
            return self.broken(broken, member.path);
        }
        let content = hashed.hasher.finish();
        self.seen.bytes += content.size;
        let (kind, status) = match layout {
            Layout::Unknown => (Kind::unread_file(0), Status::Unreadable(DAMAGED)),
            Layout::Plain(_) => (Kind::file(content), Status::Stable),
            Layout::Sparse(map) => {
                let mut kind = Kind::file(content);
                if let Kind::File { extents, .. } = &mut kind {
                    *extents = map.joined().filter(|extents| extents.len() <= MAX_EXTENTS);
                }
                (kind, Status::Stable)
            }
        };
        self.push(path, kind, status, &mut member)?;
        Ok(Then::GoOn)
    }

    fn hard_link(&mut self, path: Vec<u8>, mut member: Member, target: &[u8]) -> Result<Then, TarError> {
        let target = match self.places.of(target) {
            Ok(Place::Inside(target)) if !self.reading.excludes.covers(&target) => target,
            Ok(_) => {
                // Its content came with another member, which was not looked at.
                self.ledger.member(&path, What::HardLink)?;
                let what = "a hard link to something outside the tree that is verified".to_owned();
                self.findings.unknown(path.clone(), what);
                self.push(path, Kind::unread_file(0), Status::Unreadable(NOT_THERE), &mut member)?;
                return Ok(Then::GoOn);
            }
            Err(what) => {
                self.findings.hostile(member.path, format!("a hard link to {what}"));
                return Ok(Then::GoOn);
            }
        };
        self.ledger.link(&path, &target, self.into.moment())?;
        Ok(Then::GoOn)
    }

    fn push(
        &mut self,
        path: Vec<u8>,
        kind: Kind,
        status: Status,
        member: &mut Member,
    ) -> Result<(), TarError> {
        let most = self.reading.limits.xattrs;
        let unread = matches!(kind, Kind::File { content: None, .. });
        let (mut found, wrong) = found::found(path, kind, member, &self.names, most);
        if unread {
            found.carries = found.carries.without(Facts::CONTENT).without(Facts::HOLES);
        }
        if matches!(member.kind, MemberKind::HardLink(_)) {
            found.carries = found.carries.without(found::WITH_FIRST_NAME);
        }
        found.entry.status = status;
        for what in wrong {
            self.findings.hostile(member.path.clone(), what);
        }
        Ok(self.into.push(&found)?)
    }

    fn too_much(&mut self, path: Vec<u8>, what: String) -> Then {
        self.findings.hostile(path, format!("{what}: nothing behind it was read"));
        Then::Stop
    }

    /// The archive cannot be read any further: damage, unless it is this machine that failed.
    fn broken(&mut self, broken: Broken, path: Vec<u8>) -> Result<Then, TarError> {
        let at = self.members.offset();
        let what = match broken {
            Broken::TooLong => {
                return Ok(self.too_much(path, "an archive that is longer than it may be".to_owned()));
            }
            Broken::Cut { inside } => {
                if self.seen.entries == 0 && self.findings.nothing_of_an_archive() {
                    return Err(TarError::NotAnArchive);
                }
                format!("the archive is cut: it ends at byte {at}, inside {inside}")
            }
            Broken::Stream(error) => match Trouble::of(&error) {
                Some(trouble @ (Trouble::Cut(_) | Trouble::Damaged(..))) => {
                    format!("{trouble}; {at} bytes of the archive could be read")
                }
                Some(Trouble::Memory(_)) => return Err(TarError::Memory(error)),
                Some(Trouble::Input(_)) | None => return Err(TarError::Input(error)),
            },
        };
        self.cut = Some(damage(path, what));
        Ok(Then::Stop)
    }

    fn finish(self) -> Result<Whole, TarError> {
        let Self { ledger, into, mut findings, traces, members, mut repeated, cut, .. } = self;
        // Compared with this, the manifest would only say that everything is missing, which nobody knows.
        let nothing_inside = self.taken == self.absolute.count() && self.excluded == 0;
        if let Some(example) = self.elsewhere
            && nothing_inside
            && cut.is_none()
            && findings.count() == 0
        {
            return Err(TarError::NothingInside { example });
        }
        findings.extend(self.absolute);
        ledger.finish(|told| {
            match told {
                Told::Alias { path, target, moment } => return into.alias_at(moment, &path, &target),
                Told::Implied(path) => return into.push(&found::implied(path)),
                Told::Odd { path, what } => findings.hostile(path, what),
                Told::Repeated(_) => repeated += 1,
            }
            Ok(())
        })?;
        if let Some(path) = traces.half_a_list() {
            let what = "an access control list in one form, where others are in two";
            findings.damaged(damage(path, what.to_owned()));
        }
        let mut remarks = members.remarks;
        remarks.extend(traces.remarks());
        for (count, what) in [
            (self.outside, "members outside the tree were left out"),
            (self.excluded, "members that the manifest excludes were left out"),
            (repeated, "paths came more than once; the last one counts"),
            (findings.dropped, "more findings about the archive were not kept"),
        ] {
            if count > 0 {
                remarks.push(format!("{count} {what}"));
            }
        }
        let findings = findings.kept;
        let gathered = Gathered { carries: traces.carries(), findings, remarks, restored: false };
        Ok(Whole { gathered, cut })
    }
}

/// A file being hashed, with word of it now and then.
struct Hashed<'r> {
    hasher: ContentHasher,
    progress: &'r (dyn Fn(Progress) + Sync),
    seen: Progress,
    told: u64,
}

impl Hashed<'_> {
    fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.seen.bytes += bytes.len() as u64;
        if self.seen.bytes - self.told >= TELL_EVERY {
            self.told = self.seen.bytes;
            (self.progress)(self.seen);
        }
    }

    fn zeros(&mut self, mut count: u64) {
        while count > 0 {
            let now = ZEROS.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            self.update(&ZEROS[..now]);
            count -= now as u64;
        }
    }
}
