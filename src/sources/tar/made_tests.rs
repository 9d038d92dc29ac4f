//! Archives made by hand, for tests: also those that no program makes.

use std::collections::BTreeMap;
use std::io::Cursor;

use super::header::BLOCK;
use super::{TarError, Whole, read_streamed, read_unpacked};
use crate::manifest::exclude::Excludes;
use crate::manifest::verdict::Difference;
use crate::manifest::{Class, Collector, Found, Hashing};
use crate::sources::{Gathered, Limits, Reading};

/// A header with a right sum; fields may be changed before it is sealed.
pub(super) struct Raw(pub(super) [u8; BLOCK]);

impl Raw {
    pub(super) fn new(name: &str, flag: u8, size: u64) -> Self {
        let mut raw = Self([0; BLOCK]);
        raw.put(0, name.as_bytes());
        raw.put(100, b"0000644\0");
        raw.put(108, b"0000000\0");
        raw.put(116, b"0000000\0");
        raw.put(124, format!("{size:011o}\0").as_bytes());
        raw.put(136, b"00000000001\0");
        raw.put(257, b"ustar\x0000");
        raw.0[156] = flag;
        raw
    }

    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.put(at, bytes);
        self
    }

    pub(super) fn sealed(mut self) -> Vec<u8> {
        self.put(148, b"        ");
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.put(148, format!("{sum:06o}\0 ").as_bytes());
        self.0.to_vec()
    }
}

/// Content filled up to whole blocks.
pub(super) fn padded(content: &[u8]) -> Vec<u8> {
    let mut padded = content.to_vec();
    padded.resize(content.len().next_multiple_of(BLOCK), 0);
    padded
}

pub(super) fn file(name: &str, content: &[u8]) -> Vec<u8> {
    [Raw::new(name, b'0', content.len() as u64).sealed(), padded(content)].concat()
}

pub(super) fn link(name: &str, flag: u8, target: &str) -> Vec<u8> {
    Raw::new(name, flag, 0).with(157, target.as_bytes()).sealed()
}

pub(super) fn directory(name: &str) -> Vec<u8> {
    Raw::new(name, b'5', 0).sealed()
}

/// An extended header of this type.
pub(super) fn extended(flag: u8, body: &[u8]) -> Vec<u8> {
    [Raw::new("x", flag, body.len() as u64).sealed(), padded(body)].concat()
}

/// A pax record.
pub(super) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = [key.as_bytes(), b"=", value, b"\n"].concat();
    let mut length = body.len() + 2;
    while length.to_string().len() + 1 + body.len() != length {
        length += 1;
    }
    [length.to_string().as_bytes(), b" ", &body].concat()
}

pub(super) fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    extended(b'x', &body)
}

pub(super) fn end() -> Vec<u8> {
    vec![0; 2 * BLOCK]
}

/// What was read.
pub(super) struct Outcome {
    pub(super) entries: BTreeMap<String, Found>,
    pub(super) gathered: Gathered,
}

impl Outcome {
    pub(super) fn hostile(&self) -> Vec<String> {
        let text = |bytes: &[u8]| crate::system::show::bytes(bytes);
        let bad = |class| matches!(class, Class::Hostile | Class::Broken);
        let hostile = self.gathered.findings.iter().filter(|finding| bad(finding.class));
        hostile.map(|finding| format!("{}: {}", text(&finding.path), finding.found)).collect()
    }
}

/// Reads these parts, one after another.
pub(super) fn outcome(parts: &[Vec<u8>]) -> Outcome {
    limited(parts, "", Limits::default()).unwrap()
}

/// What is wrong with an archive, and the cut by itself.
pub(super) fn told_apart(archive: &[u8]) -> (Vec<Difference>, Option<Difference>) {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::new(dir.path());
    let excludes = Excludes::default();
    let reading = Reading {
        hashing: Hashing::plain(),
        scratch: dir.path(),
        excludes: &excludes,
        limits: Limits::default(),
        progress: &|_| {},
    };
    let Whole { gathered, cut } = read_streamed(archive, b"", &reading, &mut collector).unwrap();
    (gathered.findings, cut)
}

pub(super) fn limited(parts: &[Vec<u8>], strip: &str, limits: Limits) -> Result<Outcome, TarError> {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::new(dir.path());
    let excludes = Excludes::parse(&["left/out"]).unwrap();
    let reading = Reading {
        hashing: Hashing::plain(),
        scratch: dir.path(),
        excludes: &excludes,
        limits,
        progress: &|_| {},
    };
    let gathered = read_unpacked(Cursor::new(parts.concat()), strip.as_bytes(), &reading, &mut collector)?;
    let name = |found: &Found| crate::system::show::bytes(&found.entry.path);
    let entries = collector.finish().unwrap().map(|found| found.unwrap());
    let entries = entries.inspect(|found| found.entry.check().unwrap()).map(|found| (name(&found), found));
    Ok(Outcome { entries: entries.collect(), gathered })
}
