//! `safe-upgrade manifest export`: the entries of a manifest in the words of other programs.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::manifest::{no_output, unusable};
use super::report::put_bytes;
use crate::error::{Exit, Failure};
use crate::manifest::acl::Acl;
use crate::manifest::entry::{Device, Edge, Entry, Kind, Mtime, Noted, Status};
use crate::manifest::xattr::{ACL_ACCESS, ACL_DEFAULT, Xattr, XattrValue};
use crate::manifest::{Hashing, flags, open_file_with};
use crate::system::show;

/// How entries are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// One JSON object per entry, with all that the manifest knows.
    Jsonl,
    /// A specification for `mtree -f FILE -p TREE`: everything that mtree can compare, so neither hashes nor attributes.
    Mtree,
    /// Lines for `b3sum --check`; regular files only.
    B3sum,
}

/// Prints all entries.
///
/// # Errors
/// When the manifest cannot be used, or when the format could not say everything: what was printed is then not all of it.
pub(super) fn export(
    file: &Path,
    format: ExportFormat,
    hashing: &Hashing,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    if format == ExportFormat::B3sum && hashing.is_keyed() {
        return Err(Failure::usage("the hashes of a keyed manifest are not those of b3sum"));
    }
    let reader = open_file_with(file, hashing).map_err(|error| unusable(file, error))?;
    let mut left_out = LeftOut::default();
    if format == ExportFormat::Mtree {
        out.write_all(b"#mtree v2.0\n").map_err(no_output)?;
    }
    for entry in reader {
        let entry = entry.map_err(|error| unusable(file, error))?;
        match format {
            ExportFormat::Jsonl => writeln!(out, "{}", entry_json(&entry)),
            ExportFormat::Mtree => out.write_all(&mtree_line(&entry)),
            ExportFormat::B3sum => put_b3sum(&entry, &mut left_out, out),
        }
        .map_err(no_output)?;
    }
    match left_out.sentence() {
        None => Ok(Exit::Done),
        Some(what) => {
            Err(Failure::new(Exit::Failed, format!("not all of {} was printed: {what}", show::path(file))))
        }
    }
}

/// What a checkfile cannot say.
#[derive(Debug, Default)]
struct LeftOut {
    without_hash: u64,
    unspeakable: u64,
}

impl LeftOut {
    fn sentence(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.without_hash > 0 {
            parts.push(format!("{} files have no hash, because they could not be read", self.without_hash));
        }
        if self.unspeakable > 0 {
            parts.push(format!("{} names are not UTF-8, which b3sum cannot check", self.unspeakable));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

fn put_b3sum(entry: &Entry, left_out: &mut LeftOut, out: &mut dyn Write) -> io::Result<()> {
    let Kind::File { content, .. } = &entry.kind else { return Ok(()) };
    let Some(hash) = content else {
        left_out.without_hash += 1;
        return Ok(());
    };
    // b3sum gives up on a whole list with bytes that are not UTF-8, and refuses the sign that it would show for them.
    match std::str::from_utf8(&entry.path) {
        Ok(path) if !path.contains('\u{fffd}') => out.write_all(b3sum_line(hash, path).as_bytes()),
        _ => {
            left_out.unspeakable += 1;
            Ok(())
        }
    }
}

/// One line as b3sum reads it: a backslash in front says that the name is escaped.
///
/// A carriage return is only escaped where it would be taken for a part of the line's end: b3sum 1.2 does not know `\r`.
fn b3sum_line(hash: &[u8; 32], path: &str) -> String {
    let hash = blake3::Hash::from_bytes(*hash).to_hex();
    // To b3sum, a plain `-` is its standard input.
    let path = if path == "-" { "./-" } else { path };
    if !path.contains(['\\', '\n']) && !path.ends_with('\r') {
        return format!("{hash}  {path}\n");
    }
    let mut name = path.replace('\\', "\\\\").replace('\n', "\\n");
    if name.ends_with('\r') {
        name.pop();
        name.push_str("\\r");
    }
    format!("\\{hash}  {name}\n")
}

/// One line of a specification: the whole path, then what mtree can compare.
fn mtree_line(entry: &Entry) -> Vec<u8> {
    let mut line = Vec::with_capacity(entry.path.len() + 128);
    line.push(b'.');
    if !entry.path.is_empty() {
        line.push(b'/');
        push_vis(&entry.path, &mut line);
    }
    let mut put = |text: String| line.extend_from_slice(text.as_bytes());
    put(format!(" type={}", mtree_type(&entry.kind)));
    put(format!(" mode=0{:03o} uid={} gid={}", entry.mode, entry.uid, entry.gid));
    put(format!(" time={}.{:09}", entry.mtime.seconds, entry.mtime.nanoseconds));
    match &entry.kind {
        Kind::File { size, .. } => put(format!(" size={size}")),
        Kind::CharDevice(Device { major, minor }) | Kind::BlockDevice(Device { major, minor }) => {
            put(format!(" device=native,{major},{minor}"));
        }
        // What lies on the other side was not recorded.
        Kind::Directory { edge: Edge::Mount | Edge::Stub } => put(" ignore".to_owned()),
        Kind::Symlink { target } => {
            put(" link=".to_owned());
            push_vis(target, &mut line);
        }
        Kind::Directory { edge: Edge::Inside } | Kind::Fifo | Kind::Socket => {}
    }
    line.push(b'\n');
    line
}

fn mtree_type(kind: &Kind) -> &'static str {
    match kind {
        Kind::Directory { .. } => "dir",
        Kind::File { .. } => "file",
        Kind::Symlink { .. } => "link",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice(_) => "char",
        Kind::BlockDevice(_) => "block",
    }
}

/// Everything that could mean something to a reader of specifications, as three octal digits behind a backslash.
fn push_vis(bytes: &[u8], line: &mut Vec<u8>) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"/._-+,:@%^~=".contains(&byte) {
            line.push(byte);
        } else {
            line.extend_from_slice(&[b'\\', b'0' + (byte >> 6), b'0' + (byte >> 3 & 7), b'0' + (byte & 7)]);
        }
    }
}

/// Everything that is known of an entry; `docs/manifest-format.md` lists the fields.
fn entry_json(entry: &Entry) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "path", &entry.path);
    object.insert("type".to_owned(), entry.kind.name().into());
    put_kind(&mut object, &entry.kind);
    let mut put = |key: &str, value: Value| {
        object.insert(key.to_owned(), value);
    };
    put("mode", format!("{:04o}", entry.mode).into());
    put("uid", entry.uid.into());
    put("gid", entry.gid.into());
    put("mtime_seconds", entry.mtime.seconds.into());
    put("mtime_nanoseconds", entry.mtime.nanoseconds.into());
    if let Some(group) = entry.link_group {
        put("link_group", group.into());
    }
    if let Some(set) = entry.flags {
        put("flags", flags::text(set).into());
    }
    match entry.status {
        Status::Stable => put("status", "stable".into()),
        Status::Unstable => put("status", "unstable".into()),
        Status::Unreadable(errno) => {
            put("status", "unreadable".into());
            put("errno", errno.into());
        }
    }
    if !entry.xattrs.is_empty() {
        put("xattrs", entry.xattrs.iter().map(xattr_json).collect());
    }
    for (key, name) in [("acl", ACL_ACCESS), ("default_acl", ACL_DEFAULT)] {
        if let Some(text) = acl_text(&entry.xattrs, name) {
            put(key, text.into());
        }
    }
    if let Some(noted) = entry.noted {
        put("noted", noted_json(noted));
    }
    Value::Object(object)
}

fn put_kind(object: &mut Map<String, Value>, kind: &Kind) {
    let mut put = |key: &str, value: Value| {
        object.insert(key.to_owned(), value);
    };
    match kind {
        Kind::File { size, content, blocks, extents } => {
            put("size", (*size).into());
            if let Some(hash) = content {
                put("blake3", hex(hash).into());
            }
            if !blocks.is_empty() {
                put("blocks", blocks.iter().map(|block| hex(block)).collect());
            }
            if let Some(extents) = extents {
                put("extents", extents.iter().map(|extent| json!([extent.offset, extent.length])).collect());
            }
        }
        Kind::Directory { edge: Edge::Mount } => put("edge", "mount".into()),
        Kind::Directory { edge: Edge::Stub } => put("edge", "stub".into()),
        Kind::CharDevice(device) | Kind::BlockDevice(device) => {
            put("device", format!("{}:{}", device.major, device.minor).into());
        }
        Kind::Symlink { target } => put_bytes(object, "target", target),
        Kind::Directory { edge: Edge::Inside } | Kind::Fifo | Kind::Socket => {}
    }
}

/// The value in hexadecimal, or the hash of a long one.
fn xattr_json(xattr: &Xattr) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "name", &xattr.name);
    match &xattr.value {
        XattrValue::Bytes(bytes) => {
            object.insert("value_hex".to_owned(), hex(bytes).into());
        }
        XattrValue::Hashed { size, hash } => {
            object.insert("size".to_owned(), (*size).into());
            object.insert("hash".to_owned(), hex(hash).into());
        }
    }
    Value::Object(object)
}

/// The list that an attribute holds; none when its bytes are no list, which are printed among the attributes all the same.
fn acl_text(xattrs: &[Xattr], name: &[u8]) -> Option<String> {
    match &xattrs.iter().find(|xattr| xattr.name == name)?.value {
        XattrValue::Bytes(raw) => Acl::from_xattr(raw).ok().map(|acl| acl.to_text()),
        XattrValue::Hashed { .. } => None,
    }
}

fn noted_json(noted: Noted) -> Value {
    let time = |time: Mtime| json!([time.seconds, time.nanoseconds]);
    json!({"ctime": time(noted.ctime), "atime": time(noted.atime), "inode": noted.inode, "links": noted.links})
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::entry::Extent;

    #[test]
    fn json_says_everything() {
        let content = blake3::hash(b"x");
        let extents = Some(vec![Extent { offset: 4096, length: 8192 }]);
        let blocks = vec![[1; 32], [2; 32]];
        let kind = Kind::File { size: 3 << 20, content: Some(*content.as_bytes()), blocks, extents };
        let mut entry = Entry::new("a/b", kind);
        let list: [&[u8]; 6] = [
            &[2, 0, 0, 0],
            &[1, 0, 6, 0, 255, 255, 255, 255],
            &[2, 0, 4, 0, 232, 3, 0, 0],
            &[4, 0, 4, 0, 255, 255, 255, 255],
            &[16, 0, 4, 0, 255, 255, 255, 255],
            &[32, 0, 0, 0, 255, 255, 255, 255],
        ];
        entry.xattrs = vec![
            Xattr::new(ACL_ACCESS, &list.concat()),
            Xattr::new("user.c", b"a\0b"),
            Xattr::new("user.l", &[0; 5000]),
        ];
        entry.flags = Some(0x10);
        entry.link_group = Some(7);
        entry.noted = Some(Noted { inode: 12, links: 2, ..Noted::default() });
        let object = entry_json(&entry);
        assert_eq!(object["acl"], "user::rw-,user:1000:r--,group::r--,mask::r--,other::---");
        assert_eq!(object["xattrs"][1]["value_hex"], "610062");
        assert_eq!(object["xattrs"][2]["size"], 5000);
        assert_eq!(object["extents"], json!([[4096, 8192]]));
        assert_eq!(object["blocks"][1], "02".repeat(32));
        assert_eq!((&object["flags"], &object["link_group"]), (&json!("i"), &json!(7)));
        assert_eq!(object["noted"], json!({"ctime": [0, 0], "atime": [0, 0], "inode": 12, "links": 2}));
    }

    #[test]
    fn what_means_something_to_mtree_is_escaped() {
        let mut line = Vec::new();
        push_vis(b"a b#*\\\n\xff", &mut line);
        assert_eq!(line, b"a\\040b\\043\\052\\134\\012\\377");
        let edge = Entry::new("mnt", Kind::Directory { edge: Edge::Mount });
        assert_eq!(mtree_line(&edge), b"./mnt type=dir mode=0000 uid=0 gid=0 time=0.000000000 ignore\n");
    }
}
