//! A member made an entry: its metadata, and how much of it the archive can tell.

use std::cell::OnceCell;

use super::header::Flavour;
use super::members::{Member, MemberKind};
use super::names::Names;
use crate::manifest::acl::Acl;
use crate::manifest::entry::{Device, Edge};
use crate::manifest::xattr::{self, Xattr, XattrValue};
use crate::manifest::{Entry, Facts, Found, Kind};

/// All that any tar archive can say. Sockets are never archived, flags of `chattr` only as text that is not read.
pub(super) const TAR: Facts = Facts::ALL.without(Facts::FLAGS).without(Facts::SOCKETS);

/// What only pax headers say.
const PAX_ONLY: Facts = Facts::MTIME_NANOS.with(Facts::XATTRS).with(Facts::ACL);

/// What an archive says only of the first name of a file with several.
pub(super) const WITH_FIRST_NAME: Facts = Facts::XATTRS.with(Facts::ACL).with(Facts::HARD_LINKS);

/// What the members show about how the archive was made: what never appears was never archived, and its absence says
/// nothing about a file.
#[derive(Debug, Default)]
pub(super) struct Traces {
    nanoseconds: bool,
    rounded: bool,
    xattrs: bool,
    acls: bool,
    /// There is a list as text, as restores use it.
    acl_texts: bool,
    /// The first member whose list is there as an attribute and not as text.
    raw_acl_only: Option<Vec<u8>>,
    holes: bool,
    newer_than_v7: bool,
    flags: bool,
}

impl Traces {
    /// Looks at a member.
    pub(super) fn note(&mut self, member: &Member) {
        let records = &member.records;
        // Who counts in floats loses what is behind the seventh digit.
        self.nanoseconds |= member.mtime.digits > 7;
        self.rounded |= (1..=7).contains(&member.mtime.digits);
        self.acl_texts |= records.acl_access.is_some() || records.acl_default.is_some();
        self.acls |= self.acl_texts;
        let without_text = |name: &[u8]| {
            let text = if name == xattr::ACL_ACCESS { &records.acl_access } else { &records.acl_default };
            is_acl(name) && text.is_none()
        };
        if self.raw_acl_only.is_none() && records.xattrs.iter().any(|(name, _)| without_text(name)) {
            self.raw_acl_only = Some(member.path.clone());
        }
        for (name, _) in &records.xattrs {
            if is_acl(name) { self.acls = true } else { self.xattrs = true }
        }
        self.flags |= records.flags;
        self.newer_than_v7 |= member.flavour != Flavour::V7;
        self.holes |= matches!(&member.kind, MemberKind::File(layout) if layout.is_sparse());
    }

    /// What the archive as a whole carries.
    pub(super) fn carries(&self) -> Facts {
        let mut facts = TAR;
        for (seen, fact) in [
            (self.nanoseconds, Facts::MTIME_NANOS),
            (self.xattrs, Facts::XATTRS),
            (self.acls, Facts::ACL),
            (self.holes, Facts::HOLES),
            (self.newer_than_v7, Facts::DEVICES.with(Facts::FIFOS)),
        ] {
            if !seen {
                facts = facts.without(fact);
            }
        }
        facts
    }

    /// A member with a list in one form only, in an archive whose writer uses two: the other one was lost.
    pub(super) fn half_a_list(&self) -> Option<Vec<u8>> {
        self.raw_acl_only.clone().filter(|_| self.acl_texts)
    }

    /// What a person should know about how the archive was made.
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.rounded && !self.nanoseconds {
            remarks
                .push("times have at most seven digits of their fraction: compared by the second".to_owned());
        }
        if self.flags {
            remarks.push("the archive has flags of files (SCHILY.fflags), which are not compared".to_owned());
        }
        remarks
    }
}

/// The entry of a member without its content, and what is wrong with its attributes.
pub(super) fn found(
    path: Vec<u8>,
    kind: Kind,
    member: &mut Member,
    names: &OnceCell<Names>,
    most_xattr_bytes: usize,
) -> (Found, Vec<String>) {
    let mut entry = Entry::new(path, kind);
    entry.mode = member.mode;
    (entry.uid, entry.gid) = (member.uid, member.gid);
    entry.mtime = member.mtime.at;
    let mut carries = TAR;
    if member.flavour != Flavour::Ustar {
        carries = carries.without(PAX_ONLY);
    }
    // GNU tar writes each name of a pipe or device as a member of its own.
    if matches!(entry.kind, Kind::Fifo | Kind::CharDevice(_) | Kind::BlockDevice(_)) {
        carries = carries.without(Facts::HARD_LINKS);
    }
    let mut wrong = Vec::new();
    match attributes(member, names, most_xattr_bytes) {
        Ok((xattrs, lost)) => {
            // libarchive writes the owning group's permissions where the kernel shows the mask; a restore sets the list last.
            if let Some(mode) = xattrs.iter().find_map(mode_of_list) {
                entry.mode = entry.mode & !0o777 | mode;
            }
            entry.xattrs = xattrs;
            carries = carries.without(lost);
        }
        Err(what) => {
            carries = carries.without(Facts::XATTRS).without(Facts::ACL);
            wrong.push(what);
        }
    }
    (Found { entry, carries }, wrong)
}

/// A directory of which the archive says nothing but what lies in it.
pub(super) fn implied(path: Vec<u8>) -> Found {
    let metadata = Facts::MODE
        .with(Facts::OWNER)
        .with(Facts::MTIME)
        .with(Facts::MTIME_NANOS)
        .with(Facts::XATTRS)
        .with(Facts::ACL);
    let entry = Entry::new(path, Kind::Directory { edge: Edge::Inside });
    Found { entry, carries: TAR.without(metadata) }
}

/// The kind of a member that has no content of its own; `None` for files and hard links.
pub(super) fn plain_kind(kind: &mut MemberKind) -> Option<Kind> {
    Some(match kind {
        MemberKind::Directory => Kind::Directory { edge: Edge::Inside },
        MemberKind::Symlink(target) => Kind::Symlink { target: std::mem::take(target) },
        MemberKind::Fifo => Kind::Fifo,
        MemberKind::CharDevice(major, minor) => Kind::CharDevice(Device { major: *major, minor: *minor }),
        MemberKind::BlockDevice(major, minor) => Kind::BlockDevice(Device { major: *major, minor: *minor }),
        MemberKind::File(_) | MemberKind::HardLink(_) => return None,
    })
}

fn is_acl(name: &[u8]) -> bool {
    name == xattr::ACL_ACCESS || name == xattr::ACL_DEFAULT
}

/// Attributes by name, ACLs in the kernel's form; and what could not be understood and so is not carried.
fn attributes(
    member: &mut Member,
    names: &OnceCell<Names>,
    most_bytes: usize,
) -> Result<(Vec<Xattr>, Facts), String> {
    let records = &mut member.records;
    if records.xattr_bytes > most_bytes {
        return Err(format!(
            "{} bytes of attributes, more than {most_bytes} are allowed",
            records.xattr_bytes
        ));
    }
    let mut lost = Facts::NONE;
    let mut lists: Vec<(Vec<u8>, Acl)> = Vec::new();
    // No list has a name in it.
    let mut numeric = true;
    for (name, text) in
        [(xattr::ACL_ACCESS, records.acl_access.take()), (xattr::ACL_DEFAULT, records.acl_default.take())]
    {
        let Some(text) = text else { continue };
        numeric &= Acl::parse_text(&text, &|_, _| None).is_ok();
        if Acl::parse_text(&text, &|_, _| Some(0)).is_err() {
            return Err("an access control list that cannot be meant".to_owned());
        }
        match Acl::parse_text(&text, &|who, name| names.get_or_init(Names::of_machine).number(who, name)) {
            Ok(list) => lists.push((name.to_vec(), list)),
            Err(_) => lost = Facts::ACL,
        }
    }
    let texts = lists.len();
    let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for (name, value) in records.xattrs.drain(..) {
        if !is_acl(&name) {
            xattrs.push((name, value));
            continue;
        }
        match Acl::from_xattr(&value) {
            Ok(list) => {
                let differs = |(text_name, text): &(Vec<u8>, Acl)| {
                    *text_name == name && text != &list && (numeric || shape(text) != shape(&list))
                };
                if lists[..texts].iter().any(differs) {
                    return Err("two access control lists that say different things".to_owned());
                }
                lists.push((name, list));
            }
            Err(_) => lost = Facts::ACL,
        }
    }
    // A list that says no more than the mode is not kept by filesystems; the default list of a directory always is.
    let says =
        |name: &[u8], list: &Acl| !list.is_empty() && (name != xattr::ACL_ACCESS || !list.is_minimal());
    let kept = lists.into_iter().filter(|(name, list)| says(name, list));
    xattrs.extend(kept.map(|(name, list)| (name, list.to_xattr())));
    // Stable, so that of equal names the last stays last; dedup keeps the first.
    xattrs.reverse();
    xattrs.sort_by(|(left, _), (right, _)| left.cmp(right));
    xattrs.dedup_by(|(later, _), (kept, _)| later == kept);
    possible(&xattrs)?;
    Ok((xattrs.iter().map(|(name, value)| Xattr::new(name.clone(), value)).collect(), lost))
}

/// A list without its numbers: names may have others here than where the archive was made.
fn shape(list: &Acl) -> Vec<[u8; 4]> {
    let mut shape: Vec<[u8; 4]> = list
        .to_xattr()
        .chunks_exact(4)
        .skip(1)
        .step_by(2)
        .filter_map(|half| half.first_chunk().copied())
        .collect();
    shape.sort_unstable();
    shape
}

/// The nine permission bits of a file with this access control list.
fn mode_of_list(xattr: &Xattr) -> Option<u16> {
    let XattrValue::Bytes(raw) = &xattr.value else { return None };
    if xattr.name != xattr::ACL_ACCESS {
        return None;
    }
    // After the version: tag, permissions, number, of two, two and four bytes.
    let of = |tag: u8| {
        raw.get(4..)?.chunks_exact(8).find(|entry| entry[..2] == [tag, 0]).map(|entry| u16::from(entry[2]))
    };
    let (owner, group, mask, other) = (of(0x01)?, of(0x04)?, of(0x10), of(0x20)?);
    Some(owner << 6 | mask.unwrap_or(group) << 3 | other)
}

/// Whether Linux could have them.
fn possible(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), String> {
    if xattrs.len() > xattr::MAX_COUNT {
        return Err(format!("{} attributes, more than any system keeps", xattrs.len()));
    }
    let mut whole = 0;
    for (name, value) in xattrs {
        if name.is_empty() || name.len() > xattr::MAX_NAME || name.contains(&0) {
            return Err("an attribute with a name that no system has".to_owned());
        }
        if value.len() > xattr::MAX_VALUE {
            return Err(format!("an attribute of {} bytes, more than any system keeps", value.len()));
        }
        if value.len() <= xattr::MAX_WHOLE {
            whole += value.len();
        }
    }
    if whole > xattr::MAX_WHOLE_TOTAL {
        return Err(format!("{whole} bytes of attributes, more than a manifest keeps"));
    }
    Ok(())
}
