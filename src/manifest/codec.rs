//! Entries and headers to bytes and back: the only place that knows bincode.
//!
//! bincode 2.0.1 is the last release that works (3.0.0 is a compile error on purpose, RUSTSEC-2025-0141), so it stays behind
//! these few functions. It never sees a byte that a digest has not covered, always has a limit, and what it decodes must
//! encode to the same bytes again: it accepts integers in longer forms than needed, a manifest does not.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{Decode, Encode};

use std::collections::BTreeMap;

use super::directories::{Address, DirectoryRecord};
use super::entry::{Device, Edge, Entry, Extent, Kind, MAX_EXTENTS, MAX_PATH, Mtime, Noted, Status};
use super::format::{Header, Trailer};
use super::hashing::MAX_BLOCKS;
use super::root::{ManifestId, edge_code, kind_code, status_code};
use super::xattr::{MAX_COUNT, MAX_NAME, Xattr, XattrValue};

/// A path, a link target, extended attributes (values and names), block hashes, extents, and some numbers.
pub(super) const MAX_ENTRY: usize =
    3 * MAX_PATH + MAX_COUNT * (MAX_NAME + 64) + MAX_BLOCKS * 32 + MAX_EXTENTS * 18 + 512;

/// A path, a host name and the exclude patterns.
pub(super) const MAX_HEADER: usize = 1 << 20;

/// Names of users and groups, and paths that were left out.
pub(super) const MAX_TRAILER: usize = 1 << 20;

type Config<const LIMIT: usize> = Configuration<LittleEndian, Varint, Limit<LIMIT>>;

fn config<const LIMIT: usize>() -> Config<LIMIT> {
    bincode::config::standard().with_limit::<LIMIT>()
}

/// Bytes that are not the one encoding of an entry or a header.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// bincode gave up.
    #[error("the bytes do not decode")]
    Decode(#[source] bincode::error::DecodeError),
    /// bincode could not write it.
    #[error("it is too large to encode")]
    Encode(#[source] bincode::error::EncodeError),
    /// A number stands for nothing.
    #[error("unknown {0} number")]
    Unknown(&'static str),
    /// The same value has another, shorter form.
    #[error("the bytes are not in their one canonical form")]
    NotCanonical,
    /// Bytes are left over.
    #[error("bytes are left over")]
    Leftover,
}

type Time = (i64, u32);
/// A whole value, or size and hash of a large one.
type WireValue<P> = (P, Option<(u32, [u8; 32])>);
/// Path, kind, mode, uid, gid, mtime, link group (0: none), status and errno.
type Common<P> = (P, u8, u16, u32, u32, Time, u64, (u8, u32));
/// Flags, extended attributes; change time, access time, inode and links.
type More<P> = (Option<u32>, Vec<(P, WireValue<P>)>, Option<(Time, Time, u64, u64)>);
/// What some kinds have, and the others write as zeroes: edge, size, content, blocks, extents, target, device.
type Special<P> = (u8, u64, Option<[u8; 32]>, Vec<[u8; 32]>, Option<Vec<(u64, u64)>>, P, (u32, u32));

/// All of an entry.
type WireEntry<P> = (Common<P>, More<P>, Special<P>);

/// Appends an entry.
pub(super) fn put_entry(entry: &Entry, out: &mut Vec<u8>) -> Result<(), CodecError> {
    put::<MAX_ENTRY>(&wire(entry), out)
}

/// Takes one entry off the front of `bytes`; says how long it was. Rules and canonical form are for the caller to check, by
/// writing it again.
pub(super) fn take_entry(bytes: &[u8]) -> Result<(Entry, usize), CodecError> {
    let ((common, more, special), used) = take::<WireEntry<Vec<u8>>, MAX_ENTRY>(bytes)?;
    Ok((unwire(common, more, special)?, used))
}

fn wire(entry: &Entry) -> WireEntry<&[u8]> {
    let mut special: Special<&[u8]> = (0, 0, None, Vec::new(), None, &[], (0, 0));
    match &entry.kind {
        Kind::Directory { edge } => special.0 = edge_code(*edge),
        Kind::File { size, content, blocks, extents } => {
            (special.1, special.2, special.3) = (*size, *content, blocks.clone());
            special.4 = extents.as_ref().map(|all| all.iter().map(|one| (one.offset, one.length)).collect());
        }
        Kind::Symlink { target } => special.5 = target,
        Kind::CharDevice(device) | Kind::BlockDevice(device) => special.6 = (device.major, device.minor),
        Kind::Fifo | Kind::Socket => {}
    }
    let time = |time: Mtime| (time.seconds, time.nanoseconds);
    let group = entry.link_group.unwrap_or(0);
    let (kind, status) = (kind_code(&entry.kind), status_code(entry.status));
    let common: Common<&[u8]> =
        (&entry.path, kind, entry.mode, entry.uid, entry.gid, time(entry.mtime), group, status);
    let value = |value| match value {
        &XattrValue::Hashed { size, hash } => (&[][..], Some((size, hash))),
        XattrValue::Bytes(bytes) => (&bytes[..], None),
    };
    let xattrs = entry.xattrs.iter().map(|xattr| (&xattr.name[..], value(&xattr.value))).collect();
    let noted = entry.noted.map(|noted| (time(noted.ctime), time(noted.atime), noted.inode, noted.links));
    (common, (entry.flags, xattrs, noted), special)
}

fn unwire(
    common: Common<Vec<u8>>,
    more: More<Vec<u8>>,
    special: Special<Vec<u8>>,
) -> Result<Entry, CodecError> {
    let (path, kind, mode, uid, gid, mtime, group, status) = common;
    let (edge, size, content, blocks, extents, target, (major, minor)) = special;
    let device = Device { major, minor };
    let extent = |(offset, length)| Extent { offset, length };
    let kind = match kind {
        1 => Kind::Directory { edge: edge_of(edge)? },
        2 => {
            let extents = extents.map(|all| all.into_iter().map(extent).collect());
            Kind::File { size, content, blocks, extents }
        }
        3 => Kind::Symlink { target },
        4 => Kind::Fifo,
        5 => Kind::Socket,
        6 => Kind::CharDevice(device),
        7 => Kind::BlockDevice(device),
        _ => return Err(CodecError::Unknown("kind")),
    };
    let status = match status.0 {
        0 => Status::Stable,
        1 => Status::Unstable,
        2 => Status::Unreadable(status.1),
        _ => return Err(CodecError::Unknown("status")),
    };
    let (flags, xattrs, noted) = more;
    let value = |(bytes, hashed)| match hashed {
        Some((size, hash)) => XattrValue::Hashed { size, hash },
        None => XattrValue::Bytes(bytes),
    };
    let xattrs = xattrs.into_iter().map(|(name, wire)| Xattr { name, value: value(wire) }).collect();
    let noted = noted.map(|(ctime, atime, inode, links)| Noted {
        ctime: time(ctime),
        atime: time(atime),
        inode,
        links,
    });
    let link_group = (group != 0).then_some(group);
    Ok(Entry { path, kind, mode, uid, gid, mtime: time(mtime), xattrs, flags, link_group, status, noted })
}

fn time((seconds, nanoseconds): Time) -> Mtime {
    Mtime { seconds, nanoseconds }
}

type Texts = (String, String, String, String);
/// Tree; host, machine id, tool, filesystem; times; excludes; mounts; the manifest before, the key check.
type WireHeader =
    (Vec<u8>, Texts, Time, Time, Vec<Vec<u8>>, (bool, bool), (Option<[u8; 32]>, Option<[u8; 32]>));

/// A header as bytes.
pub(super) fn encode_header(header: &Header) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    let wire: WireHeader = (
        header.tree.clone(),
        (header.host.clone(), header.machine.clone(), header.tool.clone(), header.filesystem.clone()),
        (header.started.seconds, header.started.nanoseconds),
        (header.ended.seconds, header.ended.nanoseconds),
        header.excludes.clone(),
        (header.one_filesystem, header.crossed_mounts),
        (header.previous.map(|id| *id.as_bytes()), header.key_check),
    );
    put::<MAX_HEADER>(&wire, &mut out)?;
    Ok(out)
}

/// A header from all of `bytes`.
pub(super) fn decode_header(bytes: &[u8]) -> Result<Header, CodecError> {
    let (wire, used) = take::<WireHeader, MAX_HEADER>(bytes)?;
    let (tree, texts, started, ended, excludes, (one_filesystem, crossed_mounts), ids) = wire;
    let (host, machine, tool, filesystem) = texts;
    let header = Header {
        tree,
        host,
        machine,
        tool,
        filesystem,
        started: time(started),
        ended: time(ended),
        excludes,
        one_filesystem,
        crossed_mounts,
        previous: ids.0.map(ManifestId::from_bytes),
        key_check: ids.1,
    };
    whole(used, bytes, &encode_header(&header)?)?;
    Ok(header)
}

/// Users, groups; what was left out, and how many there were.
type WireTrailer = (Vec<(u32, Vec<u8>)>, Vec<(u32, Vec<u8>)>, Vec<Vec<u8>>, u64);

/// A trailer as bytes.
pub(super) fn encode_trailer(trailer: &Trailer) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    let Trailer { users, groups, left_out, left_out_total } = trailer.clone();
    let list = |names: BTreeMap<u32, Vec<u8>>| names.into_iter().collect();
    let wire: WireTrailer = (list(users), list(groups), left_out, left_out_total);
    put::<MAX_TRAILER>(&wire, &mut out)?;
    Ok(out)
}

/// A trailer from all of `bytes`.
pub(super) fn decode_trailer(bytes: &[u8]) -> Result<Trailer, CodecError> {
    let ((users, groups, left_out, left_out_total), used) = take::<WireTrailer, MAX_TRAILER>(bytes)?;
    let map = |names: Vec<(u32, Vec<u8>)>| names.into_iter().collect();
    let trailer = Trailer { users: map(users), groups: map(groups), left_out, left_out_total };
    whole(used, bytes, &encode_trailer(&trailer)?)?;
    Ok(trailer)
}

type WireAddress = (u32, u32);
/// Name, hash; entries, bytes, doubtful, linked; first, end; last child, the one before.
type WireDirectory<P> = (
    (P, [u8; 32]),
    (u64, u64, u64, u64),
    (WireAddress, WireAddress),
    (Option<WireAddress>, Option<WireAddress>),
);

/// Appends a directory's record.
pub(super) fn put_directory(record: &DirectoryRecord, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let address = |at: Address| (at.block, at.offset);
    let wire: WireDirectory<&[u8]> = (
        (&record.name, record.hash),
        (record.entries, record.bytes, record.doubtful, record.linked),
        (address(record.first), address(record.end)),
        (record.last_child.map(address), record.before.map(address)),
    );
    put::<MAX_DIRECTORY>(&wire, out)
}

/// Takes a directory's record off the front of `bytes`.
pub(super) fn take_directory(bytes: &[u8]) -> Result<DirectoryRecord, CodecError> {
    let (wire, _) = take::<WireDirectory<Vec<u8>>, MAX_DIRECTORY>(bytes)?;
    let ((name, hash), (entries, bytes, doubtful, linked), (first, end), (last_child, before)) = wire;
    let address = |(block, offset)| Address { block, offset };
    Ok(DirectoryRecord {
        name,
        hash,
        entries,
        bytes,
        doubtful,
        linked,
        first: address(first),
        end: address(end),
        last_child: last_child.map(address),
        before: before.map(address),
    })
}

/// A name and some numbers.
const MAX_DIRECTORY: usize = MAX_PATH + 256;

/// Everything was used, and there is no other way to write it.
fn whole(used: usize, bytes: &[u8], again: &[u8]) -> Result<(), CodecError> {
    if used != bytes.len() {
        return Err(CodecError::Leftover);
    }
    if again != bytes { Err(CodecError::NotCanonical) } else { Ok(()) }
}

fn put<const LIMIT: usize>(value: &impl Encode, out: &mut Vec<u8>) -> Result<(), CodecError> {
    bincode::encode_into_std_write(value, out, config::<LIMIT>()).map(drop).map_err(CodecError::Encode)
}

fn take<T: Decode<()>, const LIMIT: usize>(bytes: &[u8]) -> Result<(T, usize), CodecError> {
    // The limit is on what is claimed and read; the slice makes sure that nothing after the block is seen.
    bincode::decode_from_slice(bytes, config::<LIMIT>()).map_err(CodecError::Decode)
}

fn edge_of(code: u8) -> Result<Edge, CodecError> {
    match code {
        0 => Ok(Edge::Inside),
        1 => Ok(Edge::Mount),
        2 => Ok(Edge::Stub),
        _ => Err(CodecError::Unknown("edge")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::file;
    use super::*;

    #[test]
    fn an_entry_with_everything_comes_back() {
        let mut entry = file("abc", b"x");
        entry.xattrs = vec![Xattr::new("user.a", b"1"), Xattr::new("user.b", &[0; 5000])];
        entry.flags = Some(0x10);
        entry.link_group = Some(3);
        entry.noted = Some(Noted { inode: 9, links: 2, ..Noted::default() });
        if let Kind::File { extents, .. } = &mut entry.kind {
            *extents = Some(vec![Extent { offset: 0, length: 1 }]);
        }
        let mut bytes = Vec::new();
        put_entry(&entry, &mut bytes).unwrap();
        assert_eq!(take_entry(&bytes).unwrap(), (entry, bytes.len()));
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let mut bytes = vec![253];
        bytes.extend_from_slice(&(1_u64 << 40).to_le_bytes());
        assert!(matches!(take_entry(&bytes), Err(CodecError::Decode(_))));
        assert!(matches!(decode_header(&bytes), Err(CodecError::Decode(_))));
    }
}
