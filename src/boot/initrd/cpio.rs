//! The archives in an initrd: cpio in its "new" form, of which only names and sizes are of interest here.

use std::io::{self, BufRead, BufReader, Read};

use super::packed::told;
use super::{Tally, Trouble};

/// Bytes of an entry's header: a magic of six digits and thirteen numbers of eight.
const HEADER: usize = 110;

/// The longest name that the kernel takes, with its NUL.
const MOST_NAME: u64 = 4096;

/// The entry that ends an archive.
const END: &[u8] = b"TRAILER!!!";

/// Reads the archives of an unpacked stream to its end; `name` is what to call it.
pub(super) fn archives(stream: &mut dyn Read, tally: &mut Tally, name: &str) -> Result<(), Trouble> {
    let mut stream = Positioned { input: BufReader::with_capacity(64 << 10, stream), position: 0 };
    let mut any = false;
    loop {
        let most = tally.most;
        let zeros = skip_zeros(&mut stream, most).map_err(|error| told(error, name))?;
        tally.add_bytes(zeros)?;
        if stream.fill_buf().map_err(|error| told(error, name))?.is_empty() {
            return if any { Ok(()) } else { Err(Trouble::Cut(format!("the {name} holds no archive"))) };
        }
        if !stream.position.is_multiple_of(4) {
            return Err(Trouble::Damaged(format!("something follows the archive in the {name}")));
        }
        archive(&mut stream, tally, name)?;
        any = true;
    }
}

/// Reads one archive up to its last entry.
pub(super) fn archive(input: &mut impl BufRead, tally: &mut Tally, name: &str) -> Result<(), Trouble> {
    loop {
        let mut header = [0; HEADER];
        exactly(input, &mut header, name)?;
        let header = Header::parse(&header)
            .ok_or_else(|| Trouble::Damaged(format!("no entry of an archive in the {name}")))?;
        if header.name == 0 || header.name > MOST_NAME {
            return Err(Trouble::Damaged(format!("an entry with an impossible name in the {name}")));
        }
        let mut path = vec![0; usize::try_from(header.name).unwrap_or_default()];
        exactly(input, &mut path, name)?;
        if path.pop() != Some(0) {
            return Err(Trouble::Damaged(format!("an entry whose name has no end in the {name}")));
        }
        tally.add_bytes(HEADER as u64 + header.name)?;
        if path == END {
            // The kernel stops right there; its padding is among the zeros that follow.
            return match header.size {
                0 => Ok(()),
                _ => Err(Trouble::Damaged(format!("an end of archive with content in the {name}"))),
            };
        }
        tally.add_bytes(padding(HEADER as u64 + header.name) + header.size + padding(header.size))?;
        skip_content(input, &header, name)?;
        tally.add_entry(&path)?;
    }
}

/// Skips zeros, and gives up behind the first `most`; says how many there were.
pub(super) fn skip_zeros(input: &mut impl BufRead, most: u64) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let here = input.fill_buf()?;
        let zeros = here.iter().take_while(|byte| **byte == 0).count();
        let more = zeros > 0 && zeros == here.len();
        input.consume(zeros);
        skipped += zeros as u64;
        if !more || skipped > most {
            return Ok(skipped);
        }
    }
}

/// What is of interest in an entry's header.
struct Header {
    summed: bool,
    size: u64,
    name: u64,
    sum: u32,
}

impl Header {
    fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let summed = match &bytes[..6] {
            b"070701" => false,
            b"070702" => true,
            _ => return None,
        };
        let number = |index: usize| {
            let digits = &bytes[6 + 8 * index..14 + 8 * index];
            // A sign would be taken for a part of a number.
            let plain = digits.iter().all(u8::is_ascii_hexdigit);
            u32::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| plain)?, 16).ok()
        };
        (0..13).try_for_each(|index| number(index).map(drop))?;
        // Links have no sum, and the kernel wants none of them.
        let is_file = number(1)? & 0o170_000 == 0o100_000;
        let summed = summed && is_file;
        Some(Self { summed, size: number(6)?.into(), name: number(11)?.into(), sum: number(12)? })
    }
}

fn skip_content(input: &mut impl BufRead, header: &Header, name: &str) -> Result<(), Trouble> {
    skip(input, padding(HEADER as u64 + header.name), name, &mut 0)?;
    let mut sum = 0;
    skip(input, header.size, name, &mut sum)?;
    if header.summed && sum != header.sum {
        return Err(Trouble::Damaged(format!("a file that fails its checksum in the {name}")));
    }
    skip(input, padding(header.size), name, &mut 0)
}

/// Skips bytes, and adds them up.
fn skip(input: &mut impl BufRead, mut left: u64, name: &str, sum: &mut u32) -> Result<(), Trouble> {
    while left > 0 {
        let here = input.fill_buf().map_err(|error| told(error, name))?;
        if here.is_empty() {
            return Err(cut(name));
        }
        let step = here.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        *sum = here[..step].iter().fold(*sum, |sum, &byte| sum.wrapping_add(byte.into()));
        input.consume(step);
        left -= step as u64;
    }
    Ok(())
}

fn exactly(input: &mut impl Read, buffer: &mut [u8], name: &str) -> Result<(), Trouble> {
    let mut got = 0;
    while got < buffer.len() {
        match input.read(&mut buffer[got..]) {
            Ok(0) => return Err(cut(name)),
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(told(error, name)),
        }
    }
    Ok(())
}

fn cut(name: &str) -> Trouble {
    Trouble::Cut(format!("the {name} has no TRAILER!!!"))
}

/// Names and contents are filled up to a multiple of four, counted from the header.
fn padding(length: u64) -> u64 {
    length.wrapping_neg() % 4
}

/// A stream, and how far it was read.
struct Positioned<R> {
    input: R,
    position: u64,
}

impl<R: BufRead> Read for Positioned<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.position += got as u64;
        Ok(got)
    }
}

impl<R: BufRead> BufRead for Positioned<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        self.position += length as u64;
        self.input.consume(length);
    }
}
