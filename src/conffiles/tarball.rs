//! The members of a tar archive with their content: as much of the format as `dpkg-deb` and those who imitate it write.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

const BLOCK: usize = 512;
/// The longest name that an extended header may give, in bytes.
const NAME_LIMIT: u64 = 64 << 10;

/// A tar archive that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TarballError {
    /// The stream below it.
    #[error("failed to read on")]
    Read(#[from] io::Error),
    /// It is not as tar archives are.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Something in it is larger than anything honest.
    #[error("it holds more than {0} bytes where nobody needs so many")]
    TooLarge(u64),
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// From `/`, whatever was written in front.
    pub(super) path: PathBuf,
    /// A plain file with its content here: no link, no directory.
    pub(super) is_file: bool,
}

/// The members of an archive, one after another.
pub(super) struct Members {
    stream: Box<dyn Read>,
    limit: u64,
    taken: u64,
    /// What is left of the current member, and the padding behind it.
    left: u64,
    padding: u64,
}

impl Members {
    /// Of a stream that may give `limit` bytes at most.
    pub(super) fn of(stream: impl Read + 'static, limit: u64) -> Self {
        Self { stream: Box::new(stream), limit, taken: 0, left: 0, padding: 0 }
    }

    /// The next one; `None` at the end. The content of the one before is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Member>, TarballError> {
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_size: Option<u64> = None;
        loop {
            self.pass(self.left.saturating_add(self.padding))?;
            (self.left, self.padding) = (0, 0);
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            if !sum_is_right(&block) {
                return Err(TarballError::Damaged("the sum of a header is wrong"));
            }
            let size = number(&block[124..136]).ok_or(TarballError::Damaged("a size is no number"))?;
            self.sized(size);
            match block[156] {
                b'L' => long_name = Some(until_nul(&self.content(NAME_LIMIT)?).to_vec()),
                b'x' => {
                    let records = self.content(NAME_LIMIT)?;
                    let (name, size) = pax(&records)?;
                    long_name = name.or(long_name);
                    long_size = size.or(long_size);
                }
                b'K' | b'g' => {}
                kind => {
                    if let Some(size) = long_size {
                        self.sized(size);
                    }
                    let name = long_name.unwrap_or_else(|| short_name(&block));
                    return Ok(Some(Member { path: from_root(name)?, is_file: matches!(kind, b'0' | 0) }));
                }
            }
        }
    }

    /// The whole content of the member that [`Members::next`] gave.
    pub(super) fn content(&mut self, limit: u64) -> Result<Vec<u8>, TarballError> {
        if self.left > limit {
            return Err(TarballError::TooLarge(limit));
        }
        let mut bytes = Vec::new();
        let wanted = self.left;
        self.count(wanted)?;
        (&mut self.stream).take(wanted).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < wanted {
            return Err(TarballError::Damaged("it ends too early"));
        }
        self.left = 0;
        Ok(bytes)
    }

    fn sized(&mut self, size: u64) {
        self.left = size;
        let block = BLOCK as u64;
        self.padding = (block - size % block) % block;
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), TarballError> {
        self.count(buffer.len() as u64)?;
        self.stream.read_exact(buffer).map_err(|error| match error.get_ref() {
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                TarballError::Damaged("it ends too early")
            }
            _ => TarballError::Read(error),
        })
    }

    fn pass(&mut self, bytes: u64) -> Result<(), TarballError> {
        self.count(bytes)?;
        let passed = io::copy(&mut (&mut self.stream).take(bytes), &mut io::sink())?;
        if passed < bytes {
            return Err(TarballError::Damaged("it ends too early"));
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> Result<(), TarballError> {
        self.taken = self.taken.saturating_add(bytes);
        if self.taken > self.limit {
            return Err(TarballError::TooLarge(self.limit));
        }
        Ok(())
    }
}

/// The bytes of the header added up, its own field taken for spaces.
fn sum_is_right(block: &[u8; BLOCK]) -> bool {
    let all: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    let own: u64 = block[148..156].iter().map(|&byte| u64::from(byte)).sum();
    number(&block[148..156]) == Some(all - own + 8 * u64::from(b' '))
}

/// Octal digits, or GNU's binary form for what does not fit.
fn number(field: &[u8]) -> Option<u64> {
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        let (first, rest) = field.split_first()?;
        // A negative size, or one beyond 64 bits.
        if *first != 0x80 || rest[..rest.len().saturating_sub(8)].iter().any(|byte| *byte != 0) {
            return None;
        }
        return Some(rest.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)));
    }
    let text = std::str::from_utf8(until_nul(field)).ok()?.trim();
    if text.is_empty() {
        return Some(0);
    }
    u64::from_str_radix(text, 8).ok()
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or(bytes)
}

fn short_name(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = until_nul(&block[345..500]);
    if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
        return [prefix, b"/", name].concat();
    }
    name.to_vec()
}

/// The path and the size of a pax header, where it gives them.
fn pax(mut records: &[u8]) -> Result<(Option<Vec<u8>>, Option<u64>), TarballError> {
    let wrong = || TarballError::Damaged("an extended header is wrong");
    let (mut name, mut size) = (None, None);
    while !records.is_empty() {
        let space = records.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
        let length = std::str::from_utf8(&records[..space]).ok().and_then(|text| text.parse::<usize>().ok());
        let length = length.filter(|length| *length > space + 1).ok_or_else(wrong)?;
        let record = records.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n"));
        let record = record.ok_or_else(wrong)?;
        if let Some(path) = record.strip_prefix(b"path=") {
            name = Some(path.to_vec());
        } else if let Some(digits) = record.strip_prefix(b"size=") {
            let digits = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
            size = Some(digits.ok_or_else(wrong)?);
        }
        records = &records[length..];
    }
    Ok((name, size))
}

/// `./etc/x` as `/etc/x`.
fn from_root(name: Vec<u8>) -> Result<PathBuf, TarballError> {
    let name = PathBuf::from(OsString::from_vec(name));
    let mut path = PathBuf::from("/");
    for part in name.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir | Component::RootDir => {}
            _ => return Err(TarballError::Damaged("a name leads out of it")),
        }
    }
    Ok(Path::new("/").join(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conffiles::made::{Tar, tar};

    fn names(bytes: Vec<u8>) -> Result<Vec<(PathBuf, bool)>, TarballError> {
        let mut members = Members::of(io::Cursor::new(bytes), 1 << 20);
        let mut found = Vec::new();
        while let Some(member) = members.next()? {
            found.push((member.path, member.is_file));
        }
        Ok(found)
    }

    #[test]
    fn long_names_of_both_kinds() {
        let long = format!("./{}/end", "d".repeat(200));
        let pax = format!("path={long}\n");
        let record = format!("{} {pax}", pax.len() + 4);
        let bytes = Tar::default()
            .member(b'L', "././@LongLink", long.as_bytes())
            .member(b'0', "short", b"1")
            .member(b'x', "pax", record.as_bytes())
            .member(b'0', "short", b"2")
            .member(b'2', "./link", b"")
            .end();
        let long = PathBuf::from(long.trim_start_matches('.'));
        assert_eq!(
            names(bytes).unwrap(),
            [(long.clone(), true), (long, true), (PathBuf::from("/link"), false)]
        );
    }

    #[test]
    fn hostile_ones_are_refused() {
        assert!(names(tar(&[("../etc/passwd", "x")])).is_err());
        let mut broken = tar(&[("./a", "x")]);
        broken[0] ^= 1;
        assert!(matches!(names(broken), Err(TarballError::Damaged("the sum of a header is wrong"))));
        let huge = Tar::default().claiming("./a", u64::MAX).end();
        assert!(matches!(names(huge), Err(TarballError::TooLarge(_))));
        let name = Tar::default().member(b'L', "x", &vec![b'a'; 100_000]).member(b'0', "y", b"").end();
        assert!(matches!(names(name), Err(TarballError::TooLarge(NAME_LIMIT))));
    }
}
