//! The outer shell of a send stream: a header, then commands, each with its length, its number and a CRC-32C.

use std::io::{self, Read};

use super::SendStreamError;

/// What every send stream begins with, the closing NUL included.
pub const MAGIC: &[u8; 13] = b"btrfs-stream\0";

/// The newest version that is taken. The kernel makes version 3 only in experimental builds, its format is not final, and an
/// ordinary `btrfs receive` refuses it: no backup that anybody could count on.
const NEWEST: u32 = 2;

/// Length, number and checksum of a command.
const HEADER: usize = 10;

/// The longest command that is taken, in bytes. The kernel's own buffer is 64 KiB in version 1 and, later, 144 KiB rounded up to
/// a page, and pages have up to 64 KiB.
const LONGEST: usize = 256 << 10;

/// One command as it stands in the stream, its checksum found right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame<'f> {
    /// Where it begins, in bytes from the start of the stream.
    pub(super) at: u64,
    /// The command's number.
    pub(super) number: u16,
    /// Its attributes.
    pub(super) body: &'f [u8],
}

/// Reads the commands of a stream one after the other.
#[derive(Debug)]
pub(super) struct Frames<R> {
    input: R,
    version: u32,
    /// Bytes taken so far.
    at: u64,
    body: Vec<u8>,
}

impl<R: Read> Frames<R> {
    /// Reads the header of the stream.
    pub(super) fn open(input: R) -> Result<Self, SendStreamError> {
        let mut frames = Self { input, version: 0, at: 0, body: Vec::new() };
        let mut header = [0; MAGIC.len() + 4];
        let length = frames.fill(&mut header)?;
        let (magic, version) = header.split_at(MAGIC.len());
        if length < MAGIC.len() || magic != MAGIC {
            return Err(SendStreamError::NotAStream);
        }
        if length < header.len() {
            return Err(SendStreamError::Truncated { at: frames.at });
        }
        frames.version = u32_at(version, 0);
        match frames.version {
            1..=NEWEST => Ok(frames),
            version => Err(SendStreamError::Version { version }),
        }
    }

    /// The version that the header names.
    pub(super) fn version(&self) -> u32 {
        self.version
    }

    /// Bytes taken so far.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Whether nothing is left; at most one byte is taken to find out.
    pub(super) fn is_at_end(&mut self) -> Result<bool, SendStreamError> {
        let at = self.at;
        let ended = self.fill(&mut [0])? == 0;
        self.at = at;
        Ok(ended)
    }

    /// The next command; `None` when the input ends where one could begin.
    pub(super) fn next(&mut self) -> Result<Option<Frame<'_>>, SendStreamError> {
        let at = self.at;
        let mut header = [0; HEADER];
        match self.fill(&mut header)? {
            0 => return Ok(None),
            HEADER => {}
            _ => return Err(SendStreamError::Truncated { at: self.at }),
        }
        let length = u32_at(&header, 0);
        let number = u16::from_le_bytes([header[4], header[5]]);
        let stored = u32_at(&header, 6);
        let length = match usize::try_from(length) {
            Ok(length) if length <= LONGEST => length,
            _ => return Err(SendStreamError::TooLong { at, length }),
        };
        let mut body = std::mem::take(&mut self.body);
        body.resize(length, 0);
        let filled = self.fill(&mut body)?;
        self.body = body;
        if filled < length {
            return Err(SendStreamError::Truncated { at: self.at });
        }
        header[6..].fill(0);
        if checksum(&header, &self.body) != stored {
            return Err(SendStreamError::Checksum { at });
        }
        Ok(Some(Frame { at, number, body: &self.body }))
    }

    /// Reads until the buffer is full or the input ends; says how much came.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, SendStreamError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(SendStreamError::Read { at: self.at + filled as u64, source }),
            }
        }
        self.at += filled as u64;
        Ok(filled)
    }
}

/// Puts commands into a stream: number and attributes each, version 1 or 2. For tests and fuzzing, which must get past the
/// checksums.
#[must_use]
pub fn seal_commands<'c>(version: u32, commands: impl IntoIterator<Item = (u16, &'c [u8])>) -> Vec<u8> {
    let mut stream = MAGIC.to_vec();
    stream.extend_from_slice(&version.to_le_bytes());
    for (number, body) in commands {
        // A longer one is sealed with a length that the reader refuses, as it should.
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..6].copy_from_slice(&number.to_le_bytes());
        let checksum = checksum(&header, body);
        header[6..].copy_from_slice(&checksum.to_le_bytes());
        stream.extend_from_slice(&header);
        stream.extend_from_slice(body);
    }
    stream
}

/// The kernel's CRC-32C begins at 0 and is not inverted at the end; the crate's does both the usual way.
fn checksum(header: &[u8; HEADER], body: &[u8]) -> u32 {
    !crc32c::crc32c_append(crc32c::crc32c_append(!0, header), body)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(stream: &[u8]) -> Result<Vec<(u16, usize)>, SendStreamError> {
        let mut frames = Frames::open(stream)?;
        let mut numbers = Vec::new();
        while let Some(frame) = frames.next()? {
            numbers.push((frame.number, frame.body.len()));
        }
        Ok(numbers)
    }

    #[test]
    fn what_is_sealed_is_read_again() {
        let stream = seal_commands(2, [(1, &b"abc"[..]), (21, b"")]);
        assert_eq!(numbers(&stream).unwrap(), [(1, 3), (21, 0)]);
    }

    /// Not every cut can be seen here: one between two commands is seen by the missing end command.
    #[test]
    fn each_flipped_bit_and_each_cut_inside_a_command_is_seen() {
        let stream = seal_commands(1, [(1, &b"name"[..]), (21, b"")]);
        let whole = numbers(&stream).unwrap();
        for bit in 0..stream.len() * 8 {
            let mut flipped = stream.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The version has no checksum, but no flip makes one known version from another.
            assert!(numbers(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..stream.len() {
            match numbers(&stream[..length]) {
                Ok(some) => assert!(some.len() < whole.len(), "cut at {length}"),
                Err(error) => assert!(
                    matches!(error, SendStreamError::NotAStream | SendStreamError::Truncated { .. }),
                    "{error}"
                ),
            }
        }
    }

    #[test]
    fn a_length_is_bounded_before_anything_is_taken_for_it() {
        let mut stream = seal_commands(1, []);
        stream.extend_from_slice(&[0xff; HEADER]);
        assert!(matches!(
            Frames::open(&stream[..]).unwrap().next(),
            Err(SendStreamError::TooLong { at: 17, length: u32::MAX })
        ));
    }
}
