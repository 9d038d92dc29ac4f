//! What rclone says of a remote: what its backend can keep, and what is there.

use serde::Deserialize;

use crate::manifest::{Facts, Mtime};
use crate::system::show;

/// The longest line of a listing that is taken, in bytes.
pub const MAX_LINE: usize = 1 << 20;

/// One second, in the nanoseconds in which rclone gives precisions.
const SECOND: i64 = 1_000_000_000;

/// Something that rclone does not say.
#[derive(Debug, thiserror::Error)]
#[error("rclone listed something that makes no sense: {}", show::line(.shown))]
pub struct ListingError {
    shown: String,
    source: serde_json::Error,
}

/// What a backend can keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Of modification times, in nanoseconds; more than a second when it keeps none.
    pub precision: i64,
    /// Directories exist also without files.
    pub empty_directories: bool,
    /// It tells modes and owners, where they were kept.
    pub metadata: bool,
}

/// How the copy was made, which no remote can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Made {
    /// With `--links`: symlinks are files whose names end in `.rclonelink`.
    pub links: bool,
    /// With `--metadata`: modes and owners were kept.
    pub metadata: bool,
}

/// Understands `rclone backend features`.
///
/// # Errors
/// When it is something else.
pub fn parse_features(json: &[u8]) -> Result<Features, ListingError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Said {
        precision: i64,
        features: Flags,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "PascalCase", default)]
    struct Flags {
        can_have_empty_directories: bool,
        read_metadata: bool,
    }
    let Said { precision, features } = from_json(json)?;
    Ok(Features {
        precision,
        empty_directories: features.can_have_empty_directories,
        metadata: features.read_metadata,
    })
}

impl Features {
    /// What a copy on this backend can carry, made as it was.
    #[must_use]
    pub fn carries(self, made: Made) -> Facts {
        let mut carries = Facts::CONTENT;
        let mut also = |there: bool, fact: Facts| {
            if there {
                carries = carries.with(fact);
            }
        };
        also(self.precision <= SECOND, Facts::MTIME);
        also(self.precision == 1, Facts::MTIME_NANOS);
        also(self.empty_directories, Facts::DIRECTORIES);
        also(made.links, Facts::SYMLINKS);
        also(made.metadata && self.metadata, Facts::MODE.with(Facts::OWNER));
        carries
    }
}

/// One thing on a remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// As rclone writes it, and takes it.
    pub name: String,
    /// A directory.
    pub directory: bool,
    /// Bytes; `None` when the backend does not know.
    pub size: Option<u64>,
    /// `None` when the backend does not know.
    pub mtime: Option<Mtime>,
    /// Permission bits, where they were kept.
    pub mode: Option<u16>,
    /// User and group, where they were kept.
    pub owner: Option<(u32, u32)>,
}

impl Listed {
    /// The bytes that the source had.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        self.name.split('/').map(decoded).collect::<Vec<_>>().join(&b'/')
    }
}

/// Understands one line of `rclone lsjson`; `None` for the brackets around all.
///
/// # Errors
/// When it is something else.
pub fn parse_line(line: &[u8]) -> Result<Option<Listed>, ListingError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Said {
        path: String,
        size: i64,
        #[serde(default)]
        mod_time: String,
        is_dir: bool,
        #[serde(default)]
        metadata: Option<Metadata>,
    }
    #[derive(Deserialize)]
    struct Metadata {
        mode: Option<String>,
        uid: Option<String>,
        gid: Option<String>,
    }
    let line = line.trim_ascii();
    let line = line.strip_suffix(b",").unwrap_or(line);
    if matches!(line, b"" | b"[" | b"]") {
        return Ok(None);
    }
    let said: Said = from_json(line)?;
    let (mut mode, mut owner) = (None, None);
    if let Some(Metadata { mode: bits, uid, gid }) = said.metadata {
        mode = bits.and_then(|bits| u32::from_str_radix(&bits, 8).ok()).map(|bits| (bits & 0o7777) as u16);
        owner = uid.and_then(|uid| uid.parse().ok()).zip(gid.and_then(|gid| gid.parse().ok()));
    }
    Ok(Some(Listed {
        name: said.path,
        directory: said.is_dir,
        size: u64::try_from(said.size).ok(),
        mtime: mtime(&said.mod_time),
        mode,
        owner,
    }))
}

fn from_json<'j, T: Deserialize<'j>>(json: &'j [u8]) -> Result<T, ListingError> {
    serde_json::from_slice(json).map_err(|source| {
        let shown = String::from_utf8_lossy(&json[..json.len().min(200)]).into_owned();
        ListingError { shown, source }
    })
}

/// Counted forwards also before 1970.
fn mtime(text: &str) -> Option<Mtime> {
    let nanoseconds = text.parse::<jiff::Timestamp>().ok()?.as_nanosecond();
    let (seconds, rest) =
        (nanoseconds.div_euclid(i128::from(SECOND)), nanoseconds.rem_euclid(i128::from(SECOND)));
    // A remainder of a division by a thousand million fits.
    Some(Mtime { seconds: i64::try_from(seconds).ok()?, nanoseconds: rest as u32 })
}

/// A name as the source had it: rclone writes control characters as their pictures (U+2400 and so on), and a picture that was in
/// the name itself with a quote (U+201B) in front.
fn decoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        let quoted =
            if c == QUOTE { chars.next_if(|next| *next == QUOTE || picture(*next).is_some()) } else { None };
        match (quoted, picture(c)) {
            (Some(plain), _) => push(&mut bytes, plain),
            (None, Some(byte)) => bytes.push(byte),
            (None, None) => push(&mut bytes, c),
        }
    }
    bytes
}

const QUOTE: char = '\u{201b}';

/// The control character that a picture stands for; never NUL, which no name holds.
fn picture(c: char) -> Option<u8> {
    match u32::from(c) {
        // Below 32 after the subtraction.
        code @ 0x2401..=0x241f => Some((code - 0x2400) as u8),
        0x2421 => Some(0x7f),
        _ => None,
    }
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captured from rclone 1.60.1 on a local directory and a crypt remote.
    const FEATURES: &[u8] = include_bytes!("../../tests/fixtures/rclone/features-local.json");
    const LISTING: &[u8] = include_bytes!("../../tests/fixtures/rclone/lsjson-metadata.json");

    #[test]
    fn what_a_backend_can_keep() {
        let local = parse_features(FEATURES).unwrap();
        assert_eq!(local, Features { precision: 1, empty_directories: true, metadata: true });
        let plain = local.carries(Made::default());
        assert_eq!(
            plain.names().collect::<Vec<_>>(),
            ["mtime", "mtime-nanoseconds", "directories", "content"]
        );
        assert!(local.carries(Made { links: true, metadata: true }).has(Facts::OWNER.with(Facts::SYMLINKS)));
        let bucket =
            Features { precision: 3_155_760_000_000_000_000, empty_directories: false, metadata: false };
        assert_eq!(bucket.carries(Made { links: false, metadata: true }), Facts::CONTENT);
        assert!(parse_features(b"{}").is_err());
    }

    #[test]
    fn a_listing_is_read_line_by_line() {
        let all: Vec<Listed> =
            LISTING.split(|&byte| byte == b'\n').filter_map(|line| parse_line(line).unwrap()).collect();
        assert_eq!(all.len(), 6);
        assert_eq!(all[0].path(), b"a");
        assert_eq!(all[0].mtime, Some(Mtime { seconds: 1_577_836_800, nanoseconds: 123_456_789 }));
        assert_eq!((all[0].mode, all[0].owner, all[0].size), (Some(0o644), Some((0, 0)), Some(3)));
        assert_eq!(all[3].path(), b"nl\nx");
        assert!(all[4].directory && all[4].size.is_none() && all[4].mode.is_none());
        for bad in [&b"{"[..], b"{}", b"null", b"[]", b"{\"Path\":\"a\",\"Size\":\"x\",\"IsDir\":false}"] {
            assert!(parse_line(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn names_and_times_are_what_they_were() {
        assert_eq!(decoded("a␊b␡␉"), b"a\nb\x7f\t");
        assert_eq!(decoded("‛␊"), "␊".as_bytes());
        assert_eq!(decoded("‛‛␊"), "‛\n".as_bytes());
        assert_eq!(decoded("it‛s ␀"), "it‛s ␀".as_bytes());
        assert_eq!(mtime("1969-12-31T23:59:59.5Z"), Some(Mtime { seconds: -1, nanoseconds: 500_000_000 }));
        assert_eq!(
            mtime("2020-01-01T01:00:00+01:00"),
            Some(Mtime { seconds: 1_577_836_800, nanoseconds: 0 })
        );
        assert_eq!(mtime(""), None);
    }
}
