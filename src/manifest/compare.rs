//! Two sorted streams of entries in, differences out: a merge that holds one entry of each, and the open directories.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::path::PathBuf;

use super::entry::{Device, Edge, Entry, Kind, Mtime, Status, is_at_or_below, path_order};
use super::facts::{Facts, Found};
use super::format::FormatError;
use super::hashing::{Content, hex};
use super::holes;
use super::partition::Partition;
use super::verdict::{Class, Difference, Report};
use super::xattr::{self, Xattr};
use crate::system::show;

/// A second look at a file whose content is not what it should be: what should be, what was found; the finding that comes of both.
pub type SecondLook<'l> = &'l dyn Fn(&Entry, &Content) -> Difference;

/// How two streams are compared.
#[derive(Clone)]
pub struct Rules<'l> {
    /// Losses that are known and wanted: counted, and not held against the copy.
    pub accept_lost: Facts,
    /// What the copy can hold at all; what it says of single entries can only be less.
    pub carries: Facts,
    /// Contents are proven elsewhere: a file whose content was not read is compared without it.
    pub metadata_only: bool,
    /// Where temporary files go, when there are very many hard links.
    pub scratch: PathBuf,
    /// Asked when content differs; without it the first look counts.
    pub second_look: Option<SecondLook<'l>>,
}

impl Default for Rules<'_> {
    fn default() -> Self {
        // `/tmp` may be memory.
        Self {
            accept_lost: Facts::NONE,
            carries: Facts::ALL,
            metadata_only: false,
            scratch: "/var/tmp".into(),
            second_look: None,
        }
    }
}

/// An entry of a copy, and what is known of it.
pub trait Seen {
    /// As far as it could be learned.
    fn entry(&self) -> &Entry;
    /// What could be learned.
    fn carries(&self) -> Facts;
}

impl Seen for Found {
    fn entry(&self) -> &Entry {
        &self.entry
    }

    fn carries(&self) -> Facts {
        self.carries
    }
}

impl<E: Borrow<Entry>> Seen for (E, Facts) {
    fn entry(&self) -> &Entry {
        self.0.borrow()
    }

    fn carries(&self) -> Facts {
        self.1
    }
}

/// Compares what should be with what is, and adds each difference to the report.
///
/// # Errors
/// When either stream fails; the report then covers only a part and must not be used.
pub fn compare<E, F>(
    expected: impl IntoIterator<Item = Result<E, FormatError>>,
    found: impl IntoIterator<Item = Result<F, FormatError>>,
    rules: &Rules<'_>,
    report: &mut Report,
) -> Result<(), FormatError>
where
    E: Borrow<Entry>,
    F: Seen,
{
    let (mut expected, mut found) = (expected.into_iter(), found.into_iter());
    let (mut left, mut right) = (expected.next().transpose()?, found.next().transpose()?);
    let mut judge = Judge {
        rules,
        report,
        ancestors: Vec::new(),
        found_ancestors: Vec::new(),
        groups: Partition::new(&rules.scratch),
    };
    loop {
        let order = match (&left, &right) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(l), Some(r)) => path_order(&l.borrow().path, &r.entry().path),
        };
        match (&left, &right) {
            (Some(l), _) if order.is_lt() => judge.missing(l.borrow()),
            (_, Some(r)) if order.is_gt() => judge.extra(r.entry()),
            (Some(l), Some(r)) => judge.both(l.borrow(), r.entry(), r.carries().and(rules.carries))?,
            _ => {}
        }
        if order.is_le() {
            left = expected.next().transpose()?;
        }
        if order.is_ge() {
            right = found.next().transpose()?;
        }
    }
    judge.hard_links()
}

/// Why it is not known what a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blind {
    Unstable,
    Unreadable,
    Edge,
}

impl Blind {
    fn of(entry: &Entry) -> Option<Self> {
        match (&entry.kind, entry.status) {
            (Kind::Directory { .. }, _) if is_edge(entry) => Some(Self::Edge),
            (Kind::Directory { .. }, Status::Unstable) => Some(Self::Unstable),
            (Kind::Directory { .. }, Status::Unreadable(_)) => Some(Self::Unreadable),
            _ => None,
        }
    }
}

struct Judge<'r> {
    rules: &'r Rules<'r>,
    report: &'r mut Report,
    /// The expected directories above the current path about whose content the manifest knows nothing certain.
    ancestors: Vec<(Vec<u8>, Blind)>,
    /// Those of the copy about whose content it says nothing certain.
    found_ancestors: Vec<(Vec<u8>, Blind)>,
    groups: Partition,
}

impl Judge<'_> {
    fn missing(&mut self, expected: &Entry) {
        self.remember(expected);
        if matches!(expected.kind, Kind::Directory { edge: Edge::Stub }) {
            // The kernel shows it in snapshots, and copies may or may not have it: nothing was ever in it.
            self.report.entries += 1;
            return;
        }
        let needs = kind_facts(&expected.kind);
        let found = "nothing".to_owned();
        let hidden = match self.found_ancestors.last() {
            Some((_, Blind::Unreadable)) => Some(Class::Unreadable),
            Some((_, Blind::Edge)) => Some(Class::NotChecked),
            Some((directory, Blind::Unstable)) if expected.parent() == Some(directory) => {
                Some(Class::NotChecked)
            }
            _ => None,
        };
        let class = match expected.status {
            _ if hidden.is_some() => hidden.unwrap_or(Class::NotChecked),
            Status::Unstable => Class::UnstableSource,
            Status::Unreadable(_) => Class::Unreadable,
            Status::Stable if !self.rules.carries.has(needs) => {
                return self.lost(needs, expected, expected.kind.name().to_owned(), found);
            }
            Status::Stable => Class::Missing,
        };
        self.add(class, expected, expected.kind.name().to_owned(), found);
    }

    fn extra(&mut self, found: &Entry) {
        self.leave(&found.path);
        let class = match self.ancestors.last() {
            // It was there for a while, or came with a directory that was.
            Some((directory, Blind::Unstable)) if found.parent() == Some(directory) => Class::UnstableSource,
            // What an unreadable directory held, or another filesystem, is not known.
            Some((_, Blind::Unreadable | Blind::Edge)) => Class::NotChecked,
            _ => Class::Extra,
        };
        if class == Class::UnstableSource && matches!(found.kind, Kind::Directory { .. }) {
            self.ancestors.push((found.path.clone(), Blind::Unstable));
        }
        self.add(class, found, "nothing".to_owned(), found.kind.name().to_owned());
    }

    fn both(&mut self, expected: &Entry, found: &Entry, carries: Facts) -> Result<(), FormatError> {
        self.remember(expected);
        self.report.entries += 1;
        if let Some(blind) = Blind::of(found) {
            self.found_ancestors.push((found.path.clone(), blind));
        }
        if expected.kind.name() != found.kind.name() {
            let names = (expected.kind.name().to_owned(), found.kind.name().to_owned());
            let needs = kind_facts(&expected.kind);
            if carries.has(needs) {
                self.add(unless_unstable(Class::Type, expected), expected, names.0, names.1);
            } else {
                self.lost(needs, expected, names.0, names.1);
            }
            return Ok(());
        }
        if let Status::Unreadable(errno) = expected.status {
            self.add(Class::Unreadable, expected, reason(errno), String::from("not compared"));
        }
        if let Status::Unreadable(errno) = found.status {
            self.add(Class::Unreadable, expected, String::from("readable"), reason(errno));
        }
        self.kinds(expected, found, carries);
        match (is_edge(expected), is_edge(found)) {
            (false, false) => self.metadata(expected, found, carries),
            (false, true) => {
                let found = "another filesystem or subvolume in its place".to_owned();
                self.add(Class::NotChecked, expected, expected.kind.name().to_owned(), found);
            }
            // What is on the other side of an edge was never part of the manifest.
            (true, _) => {}
        }
        if !carries.has(Facts::HARD_LINKS) {
            if let Some(group) = expected.link_group {
                let text = format!("link group {group}");
                self.lost(Facts::HARD_LINKS, expected, text, "not carried".to_owned());
            }
        } else {
            self.groups.add(expected, found)?;
        }
        Ok(())
    }

    fn kinds(&mut self, expected: &Entry, found: &Entry, carries: Facts) {
        match (&expected.kind, &found.kind) {
            (Kind::File { .. }, Kind::File { .. }) => self.files(expected, found, carries),
            (Kind::Symlink { target: l }, Kind::Symlink { target: r }) if l != r => {
                self.changed(Class::LinkTarget, expected, found, (show::bytes(l), show::bytes(r)));
            }
            (Kind::CharDevice(l), Kind::CharDevice(r)) | (Kind::BlockDevice(l), Kind::BlockDevice(r))
                if l != r =>
            {
                let text = |device: &Device| format!("{}:{}", device.major, device.minor);
                self.changed(Class::Device, expected, found, (text(l), text(r)));
            }
            _ => {}
        }
    }

    fn files(&mut self, expected: &Entry, found: &Entry, carries: Facts) {
        let Kind::File { size: l, content: Some(lc), blocks: lb, extents: le } = &expected.kind else {
            return;
        };
        let Kind::File { size: r, content: rc, blocks: rb, extents: re } = &found.kind else { return };
        // A source that could not learn the content may not know the size either.
        let unknown = rc.is_none() && !carries.has(Facts::CONTENT);
        let unknown = unknown && (!self.rules.metadata_only || found.status != Status::Stable);
        if l != r && !unknown {
            return self.changed(Class::Size, expected, found, (l.to_string(), r.to_string()));
        }
        match rc {
            Some(rc) if rc != lc => {
                self.report.bytes += r;
                let steady = expected.status == Status::Stable && found.status == Status::Stable;
                if let Some(look) = self.rules.second_look.filter(|_| steady) {
                    let first = Content { size: *r, hash: *rc, blocks: rb.clone() };
                    return self.report.add(look(expected, &first));
                }
                let place = super::hashing::where_differing(*l, lb, rb);
                let found_text = place.map_or_else(|| hex(rc), |place| format!("{} ({place})", hex(rc)));
                self.changed(Class::Content, expected, found, (hex(lc), found_text));
            }
            Some(_) => self.report.bytes += r,
            None if self.rules.metadata_only || matches!(found.status, Status::Unreadable(_)) => {}
            None => {
                let text = ("content".to_owned(), "content that could not be learned".to_owned());
                self.add(Class::NotChecked, expected, text.0, text.1);
            }
        }
        if unknown {
            return;
        }
        if let Some(le) = le
            && !carries.has(Facts::HOLES)
        {
            let text = format!("{} data extents", le.len());
            self.lost(Facts::HOLES, expected, text, "not carried".to_owned());
        } else if let Some((hole, filled)) = holes::filled(*l, le.as_deref(), re.as_deref()) {
            self.changed(Class::Holes, expected, found, (hole, filled));
        }
    }

    fn metadata(&mut self, expected: &Entry, found: &Entry, carries: Facts) {
        let owners = (expected.uid, expected.gid) != (found.uid, found.gid);
        // A symlink's mode means nothing on Linux.
        if expected.mode != found.mode && !matches!(expected.kind, Kind::Symlink { .. }) {
            let only_set_id = (expected.mode ^ found.mode) & !0o6000 == 0;
            let lost = only_set_id && owners && !carries.has(Facts::OWNER);
            let text = |mode: u16| format!("mode {mode:04o}");
            let carried = if lost { carries.without(Facts::MODE) } else { carries };
            self.fact(
                Class::Mode,
                Facts::MODE,
                carried,
                expected,
                found,
                (text(expected.mode), text(found.mode)),
            );
        }
        if owners {
            let text = |entry: &Entry| format!("owner {}:{}", entry.uid, entry.gid);
            self.fact(Class::Owner, Facts::OWNER, carries, expected, found, (text(expected), text(found)));
        }
        self.times(expected, found, carries);
        self.attributes(expected, found, carries);
        // Where the source's filesystem has no flags, the copy's own are no difference; where the copy's has none, they are lost.
        if let Some(flags) = expected.flags
            && flags != found.flags.unwrap_or(0)
        {
            let text = |flags: u32| format!("flags {}", super::flags::text(flags));
            let carries = if found.flags.is_none() { carries.without(Facts::FLAGS) } else { carries };
            let texts = (text(flags), text(found.flags.unwrap_or(0)));
            self.fact(Class::Flags, Facts::FLAGS, carries, expected, found, texts);
        }
    }

    fn times(&mut self, expected: &Entry, found: &Entry, carries: Facts) {
        let (l, r) = (expected.mtime, found.mtime);
        if l == r {
            return;
        }
        let text = |Mtime { seconds, nanoseconds }| format!("{seconds}s+{nanoseconds}ns");
        // A format of whole seconds loses the rest; with another second something is wrong.
        let fact = if l.seconds == r.seconds { Facts::MTIME_NANOS } else { Facts::MTIME };
        self.fact(Class::Mtime, fact, carries, expected, found, (text(l), text(r)));
    }

    fn attributes(&mut self, expected: &Entry, found: &Entry, carries: Facts) {
        const GROUPS: [(Class, Facts); 3] = [
            (Class::Xattrs, Facts::XATTRS),
            (Class::Xattrs, Facts::TRUSTED_XATTRS),
            (Class::Acl, Facts::ACL),
        ];
        for (class, fact) in GROUPS {
            let of = |entry: &Entry| -> Vec<Xattr> {
                entry.xattrs.iter().filter(|xattr| xattr.needs() == fact).cloned().collect()
            };
            let (l, r) = (of(expected), of(found));
            // What a format cannot carry is lost only where there is something to carry.
            if l == r || (!carries.has(fact) && l.is_empty()) {
                continue;
            }
            let (l, r) = (xattr::only_in(&l, &r), xattr::only_in(&r, &l));
            self.fact(class, fact, carries, expected, found, (xattr::text(&l), xattr::text(&r)));
        }
    }

    /// A difference in a fact that the copy may not be able to hold.
    fn fact(
        &mut self,
        class: Class,
        fact: Facts,
        carries: Facts,
        expected: &Entry,
        found: &Entry,
        text: (String, String),
    ) {
        if carries.has(fact) {
            self.changed(class, expected, found, text);
        } else {
            self.lost(fact, expected, text.0, "not carried".to_owned());
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

    fn lost(&mut self, fact: Facts, entry: &Entry, expected: String, found: String) {
        if self.rules.accept_lost.has(fact) {
            return self.report.accept(fact);
        }
        self.report.lose(fact);
        self.add(Class::LostByFormat, entry, expected, found);
    }

    fn add(&mut self, class: Class, entry: &Entry, expected: String, found: String) {
        self.report.add(Difference { class, path: entry.path.clone(), expected, found });
    }

    fn remember(&mut self, expected: &Entry) {
        self.leave(&expected.path);
        self.report.edges += u64::from(is_edge(expected));
        if let Some(blind) = Blind::of(expected) {
            self.ancestors.push((expected.path.clone(), blind));
        }
    }

    fn leave(&mut self, path: &[u8]) {
        for ancestors in [&mut self.ancestors, &mut self.found_ancestors] {
            while ancestors.last().is_some_and(|(directory, _)| !is_at_or_below(path, directory)) {
                ancestors.pop();
            }
        }
    }

    fn hard_links(self) -> Result<(), FormatError> {
        let Self { report, groups, .. } = self;
        groups.judge(|stray| {
            let class = if stray.unstable { Class::UnstableSource } else { Class::HardLinks };
            let text = |group: Option<u64>| match group {
                Some(number) => format!("link group {number}"),
                None => "no other name".to_owned(),
            };
            let (expected, found) = (text(stray.expected), text(stray.found));
            report.add(Difference { class, path: stray.path, expected, found });
        })
    }
}

/// What a copy must be able to hold to hold such an entry at all.
fn kind_facts(kind: &Kind) -> Facts {
    match kind {
        Kind::Directory { .. } => Facts::DIRECTORIES,
        Kind::File { .. } => Facts::NONE,
        Kind::Symlink { .. } => Facts::SYMLINKS,
        Kind::Fifo => Facts::FIFOS,
        Kind::Socket => Facts::SOCKETS,
        Kind::CharDevice(_) | Kind::BlockDevice(_) => Facts::DEVICES,
    }
}

fn unless_unstable(class: Class, expected: &Entry) -> Class {
    if expected.status == Status::Unstable { Class::UnstableSource } else { class }
}

/// The metadata of an edge are those of another filesystem's top, or made up by the kernel.
fn is_edge(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::Directory { edge: Edge::Mount | Edge::Stub })
}

fn reason(errno: u32) -> String {
    let error = std::io::Error::from_raw_os_error(errno.cast_signed());
    format!("could not be read: {error}")
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
