//! The records of pax extended headers: `LENGTH KEY=VALUE\n`, one after another.

use super::sparse::{self, BadMap};
use crate::manifest::Mtime;
use crate::manifest::xattr::MAX_COUNT;

/// After so many mistakes the rest of an extended header is not read: a header can hold a million of them.
const MOST_WRONG: usize = 20;

/// What the extended headers before a member say about it.
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Time>,
    pub(super) device: (Option<u32>, Option<u32>),
    /// Names and values as they were archived, not yet checked.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// POSIX ACLs as text.
    pub(super) acl_access: Option<Vec<u8>>,
    pub(super) acl_default: Option<Vec<u8>>,
    pub(super) sparse: SparseRecords,
    /// There is a record of file flags, which is not read.
    pub(super) flags: bool,
    /// Bytes of names and values of xattrs and ACLs.
    pub(super) xattr_bytes: usize,
}

/// A time, and how many digits its fraction had: writers that count in floats have seven at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time {
    pub(super) at: Mtime,
    pub(super) digits: usize,
}

/// The records of a sparse file, of all three formats.
#[derive(Debug, Clone, Default)]
pub(super) struct SparseRecords {
    /// Major and minor; a writer gives both or, before 1.0, none.
    pub(super) version: (Option<u64>, Option<u64>),
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    pub(super) pairs: Option<Vec<(u64, u64)>>,
    offset: Option<u64>,
}

/// Where records apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The one member that follows.
    Member,
    /// All members that follow.
    Global,
}

impl Records {
    /// Takes all records of one extended header; what is wrong with them is returned and not applied.
    ///
    /// An empty value takes an earlier value back, as POSIX says.
    pub(super) fn take(&mut self, text: &[u8], scope: Scope) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut named = Named::default();
        let mut rest = text;
        while !rest.is_empty() {
            if wrong.len() >= MOST_WRONG {
                wrong.push(
                    "more that is wrong with the same extended header; the rest of it was not read"
                        .to_owned(),
                );
                break;
            }
            let Some((key, value, after)) = split_record(rest) else {
                // A writer may fill the last block of the header with NUL instead of giving the exact size.
                if rest.iter().any(|&byte| byte != 0) {
                    wrong.push("an extended header with a record whose length is wrong".to_owned());
                }
                break;
            };
            rest = after;
            if scope == Scope::Global && is_of_one_member(key) {
                wrong.push(format!("a global header that sets {}", crate::system::show::bytes(key)));
                continue;
            }
            if let Some(twice) = named.note(key, value) {
                wrong.push(twice.to_owned());
            }
            if let Err(BadRecord(what)) = self.record(key, value) {
                wrong.push(format!("the record {} {what}", crate::system::show::bytes(key)));
            }
        }
        wrong
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), BadRecord> {
        match key {
            b"path" => self.path = name(value)?,
            b"linkpath" => self.link_path = name(value)?,
            b"size" => self.size = unless_empty(value, whole)?,
            b"uid" => self.uid = unless_empty(value, small)?,
            b"gid" => self.gid = unless_empty(value, small)?,
            b"mtime" => self.mtime = unless_empty(value, time)?,
            b"SCHILY.devmajor" => self.device.0 = unless_empty(value, small)?,
            b"SCHILY.devminor" => self.device.1 = unless_empty(value, small)?,
            b"SCHILY.acl.access" => self.acl_access = self.counted(value),
            b"SCHILY.acl.default" => self.acl_default = self.counted(value),
            b"SCHILY.fflags" => self.flags = !value.is_empty(),
            // The kernel keeps the label with its closing NUL; tar writes it as text.
            b"RHT.security.selinux" => return self.xattr(b"security.selinux", [value, b"\0"].concat()),
            _ => return self.long_key(key, value),
        }
        Ok(())
    }

    fn long_key(&mut self, key: &[u8], value: &[u8]) -> Result<(), BadRecord> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattr(&unescape(name, &[*b"25", *b"3D", *b"3d"]), value.to_vec())?;
        } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            let value = base64(value).ok_or(BadRecord("holds no base64"))?;
            self.xattr(&unescape(name, &[]), value)?;
        } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            self.sparse.record(key, value)?;
        }
        Ok(())
    }

    /// libarchive writes each attribute under two keys: of equal names the last counts.
    fn xattr(&mut self, name: &[u8], value: Vec<u8>) -> Result<(), BadRecord> {
        if self.xattrs.len() >= 2 * MAX_COUNT {
            return Err(BadRecord("is one of more attributes than any system keeps"));
        }
        self.xattr_bytes += name.len() + value.len();
        self.xattrs.push((name.to_vec(), value));
        Ok(())
    }

    fn counted(&mut self, value: &[u8]) -> Option<Vec<u8>> {
        self.xattr_bytes += value.len();
        (!value.is_empty()).then(|| value.to_vec())
    }
}

impl SparseRecords {
    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), BadRecord> {
        match key {
            b"major" => self.version.0 = Some(whole(value)?),
            b"minor" => self.version.1 = Some(whole(value)?),
            b"name" => self.name = name(value)?,
            b"realsize" | b"size" => self.real_size = Some(whole(value)?),
            b"map" => self.pairs = Some(sparse::parse_list(value)?),
            b"offset" => self.offset = Some(whole(value)?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or(BadRecord("comes without an offset"))?;
                sparse::push(self.pairs.get_or_insert_default(), offset, whole(value)?)?;
            }
            b"numblocks" => {
                self.pairs.get_or_insert_default();
            }
            _ => {}
        }
        Ok(())
    }
}

/// What is wrong with one record.
#[derive(Debug, PartialEq, Eq)]
struct BadRecord(&'static str);

impl From<BadMap> for BadRecord {
    fn from(BadMap(what): BadMap) -> Self {
        Self(what)
    }
}

/// The values of this header that decide where and how long a member is: given twice, readers disagree.
#[derive(Default)]
struct Named<'t>([Option<&'t [u8]>; 3]);

impl<'t> Named<'t> {
    fn note(&mut self, key: &[u8], value: &'t [u8]) -> Option<&'static str> {
        let (place, what) = match key {
            b"path" => (0, "an extended header with two paths"),
            b"linkpath" => (1, "an extended header with two link targets"),
            b"size" => (2, "an extended header with two sizes"),
            _ => return None,
        };
        let before = self.0[place].replace(value);
        before.is_some_and(|before| before != value).then_some(what)
    }
}

/// Key, value and what follows; `None` when the length does not lead to the end of a line.
fn split_record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(sparse::decimal(&text[..space]).ok()?).ok()?;
    let (record, after) = text.split_at_checked(length)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    (equals > 0).then(|| (&body[..equals], &body[equals + 1..], after))
}

fn is_of_one_member(key: &[u8]) -> bool {
    matches!(key, b"path" | b"linkpath" | b"size" | b"SCHILY.devmajor" | b"SCHILY.devminor")
        || key.starts_with(b"GNU.sparse.")
        || key.starts_with(b"SCHILY.xattr.")
        || key.starts_with(b"LIBARCHIVE.xattr.")
        || key.starts_with(b"SCHILY.acl.")
}

fn name(value: &[u8]) -> Result<Option<Vec<u8>>, BadRecord> {
    if value.contains(&0) {
        return Err(BadRecord("holds a NUL"));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn unless_empty<T>(
    value: &[u8],
    parse: impl Fn(&[u8]) -> Result<T, BadRecord>,
) -> Result<Option<T>, BadRecord> {
    if value.is_empty() { Ok(None) } else { parse(value).map(Some) }
}

fn whole(value: &[u8]) -> Result<u64, BadRecord> {
    sparse::decimal(value).map_err(|_| BadRecord("holds no number"))
}

fn small(value: &[u8]) -> Result<u32, BadRecord> {
    u32::try_from(whole(value)?).map_err(|_| BadRecord("holds a number that no system has"))
}

/// Seconds with an optional sign and fraction; digits after the ninth are dropped.
fn time(value: &[u8]) -> Result<Time, BadRecord> {
    let bad = BadRecord("holds no time");
    let (negative, value) = match value {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, value),
    };
    let mut parts = value.splitn(2, |&byte| byte == b'.');
    let seconds = sparse::decimal(parts.next().unwrap_or_default()).ok();
    let Some(seconds) = seconds.and_then(|seconds| i64::try_from(seconds).ok()) else { return Err(bad) };
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad);
    }
    let place = |place| fraction.get(place).map_or(0, |digit: &u8| u32::from(digit - b'0'));
    let nanoseconds = (0..9).fold(0, |sum, at| sum * 10 + place(at));
    let at = match (negative, nanoseconds) {
        (false, _) => Mtime { seconds, nanoseconds },
        (true, 0) => Mtime { seconds: -seconds, nanoseconds },
        // The fraction of a manifest counts forwards.
        (true, _) => Mtime { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    };
    Ok(Time { at, digits: fraction.len() })
}

/// Replaces `%XX`; with a list, only those that are on it, because others were never escaped.
fn unescape(name: &[u8], only: &[[u8; 2]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, after @ ..] = rest {
        rest = after;
        if let (b'%', [high, low, after @ ..]) = (first, after)
            && let (Some(h), Some(l)) = (hex_digit(*high), hex_digit(*low))
            && (only.is_empty() || only.contains(&[*high, *low]))
        {
            out.push(h << 4 | l);
            rest = after;
        } else {
            out.push(*first);
        }
    }
    out
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Base64 with or without its padding.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"==").or(text.strip_suffix(b"=")).unwrap_or(text);
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut held) = (0_u32, 0);
    for &byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            // At most 13 bits are held: the shift leaves one byte.
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    // Bits that are left over fill the last letter and must be nothing.
    (bits == 0 && held < 6).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body: &[u8]) -> Vec<u8> {
        let mut length = body.len() + 2;
        while length.to_string().len() + 2 + body.len() != length {
            length += 1;
        }
        [length.to_string().as_bytes(), b" ", body, b"\n"].concat()
    }

    fn taken(bodies: &[&[u8]]) -> (Records, Vec<String>) {
        let mut records = Records::default();
        let text: Vec<u8> = bodies.iter().flat_map(|body| record(body)).collect();
        let wrong = records.take(&text, Scope::Member);
        (records, wrong)
    }

    #[test]
    fn values_may_hold_anything() {
        let (records, wrong) =
            taken(&[b"path=a\nb=c", b"SCHILY.xattr.user.a%3Db%25=\0\n1 x=y\n", b"other=1"]);
        assert_eq!(wrong, [""; 0]);
        assert_eq!(records.path.unwrap(), b"a\nb=c");
        assert_eq!(records.xattrs, [(b"user.a=b%".to_vec(), b"\0\n1 x=y\n".to_vec())]);
    }

    #[test]
    fn an_empty_value_takes_an_earlier_one_back() {
        let (mut records, _) = taken(&[b"path=a", b"uid=7"]);
        assert!(records.take(&record(b"path="), Scope::Member).is_empty());
        assert_eq!((records.path, records.uid), (None, Some(7)));
    }

    #[test]
    fn times_count_forwards_also_before_1970() {
        let at = |seconds, nanoseconds| Mtime { seconds, nanoseconds };
        for (text, wanted, digits) in [
            (&b"1700000000.123456789"[..], at(1_700_000_000, 123_456_789), 9),
            (b"5", at(5, 0), 0),
            (b"-1", at(-1, 0), 0),
            (b"-1.25", at(-2, 750_000_000), 2),
            (b"-0.5", at(-1, 500_000_000), 1),
            (b"0.0000000019", at(0, 1), 10),
        ] {
            assert_eq!(time(text), Ok(Time { at: wanted, digits }), "{text:?}");
        }
        for bad in [&b""[..], b"-", b".5", b"1.x", b"1e5", b"99999999999999999999"] {
            assert!(time(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_readers_could_take_two_ways_is_named() {
        for (bodies, word) in [
            (&[&b"path=a"[..], b"path=b"][..], "two paths"),
            (&[b"size=1", b"size=2"], "two sizes"),
            (&[b"path=a\0b"], "NUL"),
            (&[b"size=-1"], "no number"),
            (&[b"uid=4294967296"], "no system"),
            (&[b"GNU.sparse.numbytes=1"], "without an offset"),
        ] {
            let (_, wrong) = taken(bodies);
            assert!(wrong.len() == 1 && wrong[0].contains(word), "{wrong:?}");
        }
        for text in
            [&b"5 a=b\n"[..], b"7 a=b\n", b"x", b"6 a=b\n6 a=", b"99999999999999999999 a=b\n", b"4 =\n"]
        {
            assert_eq!(Records::default().take(text, Scope::Member).len(), 1, "{text:?}");
        }
        let mut global = Records::default();
        assert_eq!(global.take(&record(b"size=5"), Scope::Global).len(), 1);
        assert!(global.take(&record(b"comment=abc"), Scope::Global).is_empty());
        assert_eq!(global.size, None);
    }

    #[test]
    fn base64_is_whole_or_nothing() {
        assert_eq!(base64(b"aGVsbG8="), Some(b"hello".to_vec()));
        assert_eq!(base64(b"aGVsbG8"), Some(b"hello".to_vec()));
        assert_eq!(base64(b"/+8="), Some(vec![0xff, 0xef]));
        assert_eq!(base64(b""), Some(vec![]));
        assert!([&b"a"[..], b"a*bc", b"aGVsbG9="].iter().all(|text| base64(text).is_none()));
    }

    #[test]
    fn both_sparse_formats_of_records_give_pairs() {
        let (old, wrong) = taken(&[
            b"GNU.sparse.size=100",
            b"GNU.sparse.numblocks=2",
            b"GNU.sparse.offset=0",
            b"GNU.sparse.numbytes=10",
            b"GNU.sparse.offset=90",
            b"GNU.sparse.numbytes=10",
        ]);
        assert_eq!(wrong, [""; 0]);
        let (new, _) = taken(&[b"GNU.sparse.size=100", b"GNU.sparse.map=0,10,90,10", b"GNU.sparse.name=n"]);
        assert_eq!(old.sparse.pairs, new.sparse.pairs);
        assert_eq!(old.sparse.pairs.unwrap(), [(0, 10), (90, 10)]);
        assert_eq!((new.sparse.real_size, new.sparse.name), (Some(100), Some(b"n".to_vec())));
    }
}
