//! Members, one after another: the header with all that the extended headers before it say.

use std::io::BufRead;

use super::blocks::{Blocks, Broken, padding};
use super::header::{self, Block, Flavour, Header};
use super::layout::Layout;
use super::pax::{Records, Scope, Time};
use crate::manifest::Mtime;

/// More extended headers than this before one member have no use.
const MOST_EXTENSIONS: usize = 16;

/// The most oddities before one member, and the most remarks of a whole archive: it may hold millions.
const MOST_KEPT: usize = 1000;

/// One member, before anybody judged where it wants to be.
#[derive(Debug)]
pub(super) struct Member {
    /// As it was written: may be absolute or worse.
    pub(super) path: Vec<u8>,
    pub(super) kind: MemberKind,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// With the digits of its fraction, when a pax record gave it.
    pub(super) mtime: Time,
    pub(super) flavour: Flavour,
    /// Attributes and ACLs; the rest of the records was used.
    pub(super) records: Records,
}

#[derive(Debug)]
pub(super) enum MemberKind {
    Directory,
    File(Layout),
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
}

/// A piece of a file's content.
#[derive(Debug)]
pub(super) enum Piece<'b> {
    Bytes(&'b [u8]),
    Zeros(u64),
}

/// Something that is wrong with the archive, and what reading went on from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Oddity {
    /// The member as it is named in the archive; empty when it is none of one member.
    pub(super) path: Vec<u8>,
    pub(super) what: String,
}

/// Reads members from a stream.
#[derive(Debug)]
pub(super) struct Members<R> {
    pub(super) blocks: Blocks<R>,
    globals: Records,
    /// Stored bytes of the current member that nobody took, without the padding.
    pending: Option<(u64, Layout)>,
    longest_name: usize,
    longest_extension: usize,
    pub(super) oddities: Vec<Oddity>,
    /// What was passed over and does no harm, safe to show.
    pub(super) remarks: Vec<String>,
}

/// What the headers before a member have said so far.
#[derive(Default)]
struct Before {
    records: Records,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    extensions: usize,
    wrong: Vec<String>,
}

impl<R: BufRead> Members<R> {
    /// `longest_name` also bounds link targets; `longest_extension` is for one extended header.
    pub(super) fn new(blocks: Blocks<R>, longest_name: usize, longest_extension: usize) -> Self {
        Self {
            blocks,
            globals: Records::default(),
            pending: None,
            longest_name,
            longest_extension,
            oddities: Vec::new(),
            remarks: Vec::new(),
        }
    }

    /// Bytes of the archive read so far.
    pub(super) fn offset(&self) -> u64 {
        self.blocks.offset()
    }

    /// Where the content of the member that came last ends, whether or not it was taken. What a header claims may be too much.
    pub(super) fn ends(&self) -> u64 {
        let stored = self.pending.as_ref().map_or(0, |(stored, _)| *stored);
        self.offset().saturating_add(stored).saturating_add(padding(stored))
    }

    /// The next member; `None` behind the end marker, when all that follows it was looked at.
    pub(super) fn next(&mut self) -> Result<Option<Member>, Broken> {
        self.content(|_| {})?;
        let mut before = Before { records: self.globals.clone(), ..Before::default() };
        loop {
            let Some(block) = self.header_block(&mut before)? else { return Ok(None) };
            // header_block has just checked it.
            let Some(header) = Header::checked(&block) else { continue };
            let Ok(size) = header.size() else {
                self.odd(header.name(), "a header whose size is no number".to_owned());
                continue;
            };
            match header.type_flag() {
                b'x' | b'X' | b'g' | b'L' | b'K' => self.extension(header, size, &mut before)?,
                b'V' | b'M' | b'N' => self.not_a_member(header, size)?,
                _ => return self.member(header, size, before).map(Some),
            }
        }
    }

    /// Passes on the content of the member that came last; nothing when it was taken before.
    pub(super) fn content(&mut self, mut each: impl FnMut(Piece<'_>)) -> Result<(), Broken> {
        let Some((stored, layout)) = self.pending.take() else { return Ok(()) };
        let inside = "a file";
        match layout {
            Layout::Plain(_) => self.blocks.bytes(stored, inside, |bytes| each(Piece::Bytes(bytes)))?,
            Layout::Unknown => self.blocks.bytes(stored, inside, |_| {})?,
            Layout::Sparse(map) => {
                let mut at = 0;
                for extent in &map.extents {
                    if extent.offset > at {
                        each(Piece::Zeros(extent.offset - at));
                    }
                    self.blocks.bytes(extent.length, inside, |bytes| each(Piece::Bytes(bytes)))?;
                    at = extent.offset + extent.length;
                }
                if map.real_size > at {
                    each(Piece::Zeros(map.real_size - at));
                }
            }
        }
        self.blocks.bytes(padding(stored), "the padding of a file", |_| {})
    }

    fn odd(&mut self, path: Vec<u8>, what: String) {
        if self.oddities.len() < MOST_KEPT {
            self.oddities.push(Oddity { path, what });
        }
    }

    /// The next block that is a header; blocks that should be one and are not are passed over and named.
    fn header_block(&mut self, before: &mut Before) -> Result<Option<Block>, Broken> {
        let mut lost: Option<(u64, u64)> = None;
        loop {
            let offset = self.blocks.offset();
            let Some(block) = self.blocks.block()? else {
                self.name_lost(lost);
                return Err(Broken::Cut { inside: "the list of members" });
            };
            if header::is_zero(&block) {
                self.name_lost(lost.take());
                if self.is_end_marker(offset)? {
                    self.leftovers(before);
                    self.after_end()?;
                    return Ok(None);
                }
            } else if Header::checked(&block).is_some() {
                self.name_lost(lost);
                return Ok(Some(block));
            } else {
                // What the headers before this one said was said of a member that is lost.
                *before = Before { records: self.globals.clone(), ..Before::default() };
                lost = Some(lost.map_or((offset, 1), |(start, count)| (start, count + 1)));
            }
        }
    }

    fn name_lost(&mut self, lost: Option<(u64, u64)>) {
        if let Some((start, count)) = lost {
            let what = format!(
                "at byte {start} a header with a wrong checksum; the next good one follows {count} blocks later"
            );
            self.odd(Vec::new(), what);
        }
    }

    /// After one block of zeros: whether a second one makes it an end marker.
    fn is_end_marker(&mut self, offset: u64) -> Result<bool, Broken> {
        match self.blocks.block()? {
            None => Err(Broken::Cut { inside: "the end marker" }),
            Some(block) if header::is_zero(&block) => Ok(true),
            Some(block) => {
                let what = format!("at byte {offset} a single block of zeros: some readers stop there");
                self.odd(Vec::new(), what);
                self.blocks.unread(block);
                Ok(false)
            }
        }
    }

    fn leftovers(&mut self, before: &Before) {
        if before.extensions > 0 {
            self.odd(Vec::new(), "an extended header that no member follows".to_owned());
        }
    }

    /// Looks at everything behind the end marker: only zeros may come.
    fn after_end(&mut self) -> Result<(), Broken> {
        let marker = self.blocks.offset();
        let (mut members, mut strange) = (0_u64, 0_u64);
        loop {
            match self.blocks.block() {
                Ok(None) => break,
                Ok(Some(block)) if header::is_zero(&block) => {}
                Ok(Some(block)) if Header::checked(&block).is_some() => members += 1,
                Ok(Some(_)) => strange += 1,
                Err(Broken::Cut { .. }) => {
                    self.odd(Vec::new(), "the archive ends in the middle of a block".to_owned());
                    break;
                }
                Err(broken) => return Err(broken),
            }
        }
        if members > 0 {
            let what = format!("{members} more members behind the end marker at byte {marker}");
            self.odd(Vec::new(), what);
        } else if strange > 0 {
            let what = format!("{strange} blocks that are not zero behind the end marker at byte {marker}");
            self.odd(Vec::new(), what);
        }
        Ok(())
    }

    fn extension(&mut self, header: Header<'_>, size: u64, before: &mut Before) -> Result<(), Broken> {
        before.extensions += 1;
        if before.extensions == MOST_EXTENSIONS + 1 {
            before.wrong.push(format!("more than {MOST_EXTENSIONS} extended headers before one member"));
        }
        let is_name = matches!(header.type_flag(), b'L' | b'K');
        // A name ends with a NUL, and some writers count it.
        let most = if is_name { self.longest_name + 1 } else { self.longest_extension };
        let body = self.body(size, most)?;
        let Some(body) = body.filter(|_| before.extensions <= MOST_EXTENSIONS) else {
            if size > most as u64 {
                before.wrong.push(format!("an extended header of {size} bytes; at most {most} are read"));
            }
            return Ok(());
        };
        match header.type_flag() {
            b'g' => {
                let wrong = self.globals.take(&body, Scope::Global);
                for what in wrong {
                    self.odd(Vec::new(), what);
                }
            }
            b'L' | b'K' => {
                let is_path = header.type_flag() == b'L';
                let name = header::until_nul(&body);
                if body[name.len()..].iter().any(|&byte| byte != 0) {
                    before.wrong.push("a long name with a NUL inside".to_owned());
                }
                let place = if is_path { &mut before.long_name } else { &mut before.long_link };
                if place.replace(name.to_vec()).is_some_and(|known| known != name) {
                    before.wrong.push("two long names for one member".to_owned());
                }
            }
            _ => {
                let wrong = before.records.take(&body, Scope::Member);
                before.wrong.extend(wrong);
            }
        }
        Ok(())
    }

    /// The content of an extended header; `None`, passed over, when it is longer than allowed.
    fn body(&mut self, size: u64, most: usize) -> Result<Option<Vec<u8>>, Broken> {
        let inside = "an extended header";
        let mut body = Vec::new();
        // Grows as bytes come, not as the header claims.
        let keep = size <= most as u64;
        self.blocks.bytes(size, inside, |bytes| {
            if keep {
                body.extend_from_slice(bytes);
            }
        })?;
        self.blocks.bytes(padding(size), inside, |_| {})?;
        Ok(keep.then_some(body))
    }

    fn not_a_member(&mut self, header: Header<'_>, size: u64) -> Result<(), Broken> {
        let name = header.name();
        let shown = crate::system::show::bytes(&name);
        match header.type_flag() {
            b'V' if self.remarks.len() < MOST_KEPT => {
                self.remarks.push(format!("the archive has the volume label {shown}"));
            }
            b'V' => {}
            b'M' => self.odd(name, "the rest of a file that began in another volume".to_owned()),
            _ => self.odd(name, "a member of type N, which nothing writes any more".to_owned()),
        }
        self.pending = Some((size, Layout::Unknown));
        self.content(|_| {})
    }

    fn member(&mut self, header: Header<'_>, header_size: u64, mut before: Before) -> Result<Member, Broken> {
        let path = self.path_of(header, &mut before);
        let mut wrong = std::mem::take(&mut before.wrong);
        let records = &mut before.records;
        let size = records.size.unwrap_or(header_size);
        if size != header_size && header_size != 0 && !header.size_is_saturated() {
            wrong.push(format!("two sizes: {header_size} in its header, {size} in its extended header"));
        }
        let kind = self.kind_of(header, size, &path, records, before.long_link.take(), &mut wrong)?;
        let mut number = |value: Result<u32, header::BadNumber>, what: &str| {
            value.unwrap_or_else(|_| {
                wrong.push(format!("a header whose {what} is no number"));
                0
            })
        };
        let mode = number(header.mode().map(u32::from), "mode");
        let uid = records.uid.unwrap_or_else(|| number(header.uid(), "owner"));
        let gid = records.gid.unwrap_or_else(|| number(header.gid(), "group"));
        let mtime = records.mtime.unwrap_or_else(|| {
            let at = header.mtime().unwrap_or_else(|_| {
                number(Err(header::BadNumber), "time");
                Mtime::default()
            });
            Time { at, digits: 0 }
        });
        for what in wrong {
            self.odd(path.clone(), what);
        }
        // Twelve bits: the mask was applied to the field.
        let mode = (mode & 0o7777) as u16;
        Ok(Member { path, kind, mode, uid, gid, mtime, flavour: header.flavour(), records: before.records })
    }

    fn path_of(&mut self, header: Header<'_>, before: &mut Before) -> Vec<u8> {
        let Before { records, long_name, wrong, .. } = before;
        if let (Some(path), Some(long)) = (&records.path, &long_name)
            && path != long
        {
            wrong.push("two names: one of GNU's long ones and one in a pax header".to_owned());
        }
        let path = records.sparse.name.take().or(records.path.take()).or(long_name.take());
        let path = path.unwrap_or_else(|| header.name());
        if path.len() > self.longest_name {
            wrong.push(format!("a name of {} bytes", path.len()));
        }
        path
    }

    /// The kind, and what is pending of its content.
    fn kind_of(
        &mut self,
        header: Header<'_>,
        size: u64,
        path: &[u8],
        records: &mut Records,
        long_link: Option<Vec<u8>>,
        wrong: &mut Vec<String>,
    ) -> Result<MemberKind, Broken> {
        let link = |records: &mut Records| {
            records.link_path.take().or(long_link).unwrap_or_else(|| header.link_name().to_vec())
        };
        let device = |records: &Records, wrong: &mut Vec<String>| {
            let (major, minor) = header.device().unwrap_or_else(|_| {
                wrong.push("a device without a number".to_owned());
                (0, 0)
            });
            (records.device.0.unwrap_or(major), records.device.1.unwrap_or(minor))
        };
        let kind = match header.type_flag() {
            b'1' => MemberKind::HardLink(link(records)),
            b'2' => MemberKind::Symlink(link(records)),
            b'3' => {
                let (major, minor) = device(records, wrong);
                MemberKind::CharDevice(major, minor)
            }
            b'4' => {
                let (major, minor) = device(records, wrong);
                MemberKind::BlockDevice(major, minor)
            }
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            // GNU's incremental archives list the names of a directory as its content.
            b'D' => {
                self.pending = Some((size, Layout::Unknown));
                return Ok(MemberKind::Directory);
            }
            flag => {
                if !matches!(flag, 0 | b'0' | b'7' | b'S') {
                    wrong.push(format!("a member of the unknown type {}", flag.escape_ascii()));
                }
                return self.file(header, size, path, records, wrong);
            }
        };
        if size != 0 {
            wrong.push(format!("a size of {size} for something that has no content: readers disagree"));
        }
        Ok(kind)
    }

    fn file(
        &mut self,
        header: Header<'_>,
        size: u64,
        path: &[u8],
        records: &mut Records,
        wrong: &mut Vec<String>,
    ) -> Result<MemberKind, Broken> {
        if path.ends_with(b"/") {
            if size != 0 {
                wrong.push("a directory with content".to_owned());
            }
            self.pending = Some((size, Layout::Unknown));
            return Ok(MemberKind::Directory);
        }
        let (stored, map) = if header.type_flag() == b'S' {
            (size, self.header_map(header)?)
        } else {
            self.record_map(size, records)?
        };
        let layout = match map {
            Ok(None) => Layout::Plain(stored),
            Ok(Some(map)) if map.stored() == stored => Layout::Sparse(map.into()),
            Ok(Some(map)) => {
                wrong.push(format!("a sparse map of {} bytes for {stored} stored ones", map.stored()));
                Layout::Unknown
            }
            Err(what) => {
                wrong.push(format!("a sparse map that cannot be meant: {what}"));
                Layout::Unknown
            }
        };
        self.pending = Some((stored, layout.clone()));
        Ok(MemberKind::File(layout))
    }
}
