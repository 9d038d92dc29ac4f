//! Entries and headers to bytes and back: the only place that knows bincode.
//!
//! bincode 2.0.1 is the last release that works (3.0.0 is a compile error on purpose, RUSTSEC-2025-0141), so it stays behind
//! these few functions. It never sees a byte that a digest has not covered, always has a limit, and what it decodes must
//! encode to the same bytes again: it accepts integers in longer forms than needed, a manifest does not.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{Decode, Encode};

use super::entry::{Device, Edge, Entry, InvalidEntry, Kind, MAX_PATH, Mtime, Status};
use super::format::Header;
use super::root::{edge_code, kind_code, status_code};

/// A path, a link target and some numbers.
pub(super) const MAX_ENTRY: usize = 2 * MAX_PATH + 512;

/// A path, a host name and the exclude patterns.
pub(super) const MAX_HEADER: usize = 1 << 20;

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
    /// It decodes, and breaks a rule.
    #[error("it breaks a rule")]
    Invalid(#[from] InvalidEntry),
}

/// What all kinds have: path, kind, mode, uid, gid, mtime, link group (0: none), status and errno.
type Common<P> = (P, u8, u16, u32, u32, (i64, u32), u64, (u8, u32));
/// What some kinds have: edge, size, content, target, device. The others write zeroes.
type Special<P> = (u8, u64, Option<[u8; 32]>, P, (u32, u32));

/// Appends an entry.
pub(super) fn put_entry(entry: &Entry, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let mut special: Special<&[u8]> = (0, 0, None, &[], (0, 0));
    match &entry.kind {
        Kind::Directory { edge } => special.0 = edge_code(*edge),
        Kind::File { size, content } => (special.1, special.2) = (*size, *content),
        Kind::Symlink { target } => special.3 = target,
        Kind::CharDevice(device) | Kind::BlockDevice(device) => special.4 = (device.major, device.minor),
        Kind::Fifo | Kind::Socket => {}
    }
    let common: Common<&[u8]> = (
        &entry.path,
        kind_code(&entry.kind),
        entry.mode,
        entry.uid,
        entry.gid,
        (entry.mtime.seconds, entry.mtime.nanoseconds),
        entry.link_group.unwrap_or(0),
        status_code(entry.status),
    );
    put::<MAX_ENTRY>(&(common, special), out)
}

/// Takes one entry off the front of `bytes`; says how long it was.
pub(super) fn take_entry(bytes: &[u8]) -> Result<(Entry, usize), CodecError> {
    type Wire = (Common<Vec<u8>>, Special<Vec<u8>>);
    let ((common, special), used): (Wire, usize) = take::<Wire, MAX_ENTRY>(bytes)?;
    let (path, kind, mode, uid, gid, (seconds, nanoseconds), group, status) = common;
    let (edge, size, content, target, (major, minor)) = special;
    let device = Device { major, minor };
    let kind = match kind {
        1 => Kind::Directory { edge: edge_of(edge)? },
        2 => Kind::File { size, content },
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
    let link_group = (group != 0).then_some(group);
    let mtime = Mtime { seconds, nanoseconds };
    let entry = Entry { path, kind, mode, uid, gid, mtime, link_group, status };
    entry.check()?;
    let mut again = Vec::with_capacity(used);
    put_entry(&entry, &mut again)?;
    // Also refuses fields that the kind does not have.
    if again != bytes[..used] { Err(CodecError::NotCanonical) } else { Ok((entry, used)) }
}

type WireHeader = (Vec<u8>, String, String, (i64, u32), (i64, u32), Vec<Vec<u8>>, (bool, bool));

/// A header as bytes.
pub(super) fn encode_header(header: &Header) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    let wire: WireHeader = (
        header.tree.clone(),
        header.host.clone(),
        header.tool.clone(),
        (header.started.seconds, header.started.nanoseconds),
        (header.ended.seconds, header.ended.nanoseconds),
        header.excludes.clone(),
        (header.one_filesystem, header.crossed_mounts),
    );
    put::<MAX_HEADER>(&wire, &mut out)?;
    Ok(out)
}

/// A header from all of `bytes`.
pub(super) fn decode_header(bytes: &[u8]) -> Result<Header, CodecError> {
    let (wire, used) = take::<WireHeader, MAX_HEADER>(bytes)?;
    let (tree, host, tool, started, ended, excludes, (one_filesystem, crossed_mounts)) = wire;
    let time = |(seconds, nanoseconds)| Mtime { seconds, nanoseconds };
    let (started, ended) = (time(started), time(ended));
    let header = Header { tree, host, tool, started, ended, excludes, one_filesystem, crossed_mounts };
    if used != bytes.len() {
        return Err(CodecError::Leftover);
    }
    if encode_header(&header)? != bytes { Err(CodecError::NotCanonical) } else { Ok(header) }
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
    fn a_longer_form_of_the_same_number_is_refused() {
        let mut bytes = Vec::new();
        put_entry(&file("abc", b"x"), &mut bytes).unwrap();
        assert_eq!(take_entry(&bytes).unwrap(), (file("abc", b"x"), bytes.len()));
        // The path's length 3 as a two-byte integer (marker 251).
        let mut longer = vec![251, 3, 0];
        longer.extend_from_slice(&bytes[1..]);
        assert!(matches!(take_entry(&longer), Err(CodecError::NotCanonical)));
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let mut bytes = vec![253];
        bytes.extend_from_slice(&(1_u64 << 40).to_le_bytes());
        assert!(matches!(take_entry(&bytes), Err(CodecError::Decode(_))));
        assert!(matches!(decode_header(&bytes), Err(CodecError::Decode(_))));
    }
}
