//! Reading a manifest, frame by frame, on the assumption that somebody wants to fool us.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::codec;
use super::entry::Entry;
use super::format::{
    ENTRIES_FRAME, EntryJudge, FOOTER, FOOTER_FRAME, FormatError, HEADER_FRAME, Header, KNOWN_REQUIRED,
    MAGIC, MAX_PAYLOAD, Manifest, PREAMBLE, Summary, VERSION, frame_digest, preamble_digest,
};
use super::root::ManifestId;

/// Yields the entries of a manifest in order, and holds one frame of it at a time.
///
/// An entry is yielded after the digest of its frame was checked. That the manifest is *whole* is known only when the
/// iterator has ended without an error; [`Reader::summary`] is `Some` from then on.
#[derive(Debug)]
pub struct Reader<R> {
    source: Source<R>,
    header: Header,
    block: Vec<u8>,
    used: usize,
    judge: Option<EntryJudge>,
    summary: Option<Summary>,
}

/// Opens a manifest and reads its header.
///
/// # Errors
/// When it cannot be read, is no manifest, is damaged so far, or is newer than this program.
pub fn open_file(path: &Path) -> Result<Reader<BufReader<File>>, FormatError> {
    let open = |source| FormatError::Io { action: "open", path: path.to_owned(), source };
    let file = File::open(path).map_err(open)?;
    Reader::new(BufReader::with_capacity(128 << 10, file), path)
}

/// Reads a whole manifest into memory.
///
/// # Errors
/// As [`open_file`], and when any of it is damaged, truncated or out of order.
pub fn read_file(path: &Path) -> Result<Manifest, FormatError> {
    open_file(path)?.into_manifest()
}

impl<R: Read> Reader<R> {
    /// Starts to read; `path` is named in errors.
    ///
    /// # Errors
    /// As [`open_file`].
    pub fn new(from: R, path: &Path) -> Result<Self, FormatError> {
        let mut source = Source { from, path: path.to_owned(), at: 0, digest: [0; 32] };
        source.preamble()?;
        let mut block = Vec::new();
        let (at, kind) = source.frame(&mut block)?;
        if kind != HEADER_FRAME {
            return Err(FormatError::Malformed { at, what: "the first frame is not a header" });
        }
        let header = codec::decode_header(&block).map_err(|source| FormatError::Codec { at, source })?;
        let judge = Some(EntryJudge::default());
        Ok(Self { source, header, used: block.len(), block, judge, summary: None })
    }

    /// Where, when and how it was taken.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Counts and id; `None` until the last entry was read and the end was found whole.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        self.summary
    }

    /// Reads the rest into memory.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn into_manifest(mut self) -> Result<Manifest, FormatError> {
        let mut entries = Vec::new();
        for entry in &mut self {
            entries.push(entry?);
        }
        let at = self.source.at;
        let summary = self.summary.ok_or(FormatError::Truncated(at))?;
        Ok(Manifest { header: self.header, entries, summary })
    }

    fn advance(&mut self) -> Result<Option<Entry>, FormatError> {
        let Some(judge) = &mut self.judge else { return Ok(None) };
        if self.used == self.block.len() {
            let (at, kind) = self.source.frame(&mut self.block)?;
            self.used = 0;
            match kind {
                ENTRIES_FRAME if self.block.is_empty() => {
                    return Err(FormatError::Malformed { at, what: "a block without entries" });
                }
                ENTRIES_FRAME => {}
                FOOTER_FRAME => return self.end(at),
                _ => return Err(FormatError::Malformed { at, what: "a frame of unknown kind" }),
            }
        }
        let at = self.source.at;
        let (entry, used) = codec::take_entry(&self.block[self.used..])
            .map_err(|source| FormatError::Codec { at, source })?;
        self.used += used;
        judge.push(&entry)?;
        Ok(Some(entry))
    }

    fn end(&mut self, at: u64) -> Result<Option<Entry>, FormatError> {
        let footer: &[u8; FOOTER] = self
            .block
            .as_slice()
            .try_into()
            .map_err(|_| FormatError::Malformed { at, what: "the footer has a wrong length" })?;
        let written = decode_footer(footer);
        let counted = self.judge.take().map(EntryJudge::finish);
        if counted != Some(written) {
            return Err(FormatError::Malformed { at, what: "the footer does not match the entries" });
        }
        if !self.source.at_end()? {
            return Err(FormatError::Malformed { at: self.source.at, what: "bytes follow the footer" });
        }
        self.summary = Some(written);
        Ok(None)
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Entry, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            // Nothing after an error can be trusted.
            self.judge = None;
        }
        next.transpose()
    }
}

fn decode_footer(bytes: &[u8; FOOTER]) -> Summary {
    let number = |at: usize| bytes[at..].iter().take(8).rev().fold(0, |n, &byte| n << 8 | u64::from(byte));
    let mut id = [0; 32];
    id.copy_from_slice(&bytes[16..]);
    Summary { entries: number(0), bytes: number(8), id: ManifestId::from_bytes(id) }
}

#[derive(Debug)]
struct Source<R> {
    from: R,
    path: PathBuf,
    at: u64,
    digest: [u8; 32],
}

impl<R: Read> Source<R> {
    fn preamble(&mut self) -> Result<(), FormatError> {
        let mut bytes = [0; PREAMBLE];
        let got = self.fill(&mut bytes)?;
        if got < MAGIC.len() || bytes[..MAGIC.len()] != MAGIC {
            return Err(FormatError::NotAManifest);
        }
        if got < PREAMBLE {
            return Err(FormatError::Truncated(self.at));
        }
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let (version, min_reader) = (u16_at(8), u16_at(10));
        if min_reader > VERSION {
            return Err(FormatError::Newer(format!(
                "format version {version}, readable from {min_reader} on"
            )));
        }
        if version == 0 || min_reader == 0 || version < min_reader {
            return Err(FormatError::Malformed { at: 8, what: "an impossible version" });
        }
        let mut required = [0; 8];
        required.copy_from_slice(&bytes[12..20]);
        let unknown = u64::from_le_bytes(required) & !KNOWN_REQUIRED;
        if unknown != 0 {
            return Err(FormatError::Newer(format!("required features {unknown:#x}")));
        }
        self.digest = preamble_digest(&bytes);
        Ok(())
    }

    /// Reads one frame into `payload` and checks its digest; says where it began and its kind.
    fn frame(&mut self, payload: &mut Vec<u8>) -> Result<(u64, u8), FormatError> {
        let at = self.at;
        let mut head = [0; 5];
        self.exactly(&mut head)?;
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > MAX_PAYLOAD {
            return Err(FormatError::Malformed { at, what: "a frame is larger than allowed" });
        }
        payload.clear();
        payload.resize(length, 0);
        self.exactly(payload)?;
        let mut digest = [0; 32];
        self.exactly(&mut digest)?;
        self.digest = frame_digest(&self.digest, head[0], payload);
        if self.digest != digest {
            return Err(FormatError::Digest(at));
        }
        Ok((at, head[0]))
    }

    fn at_end(&mut self) -> Result<bool, FormatError> {
        self.fill(&mut [0]).map(|got| got == 0)
    }

    fn exactly(&mut self, into: &mut [u8]) -> Result<(), FormatError> {
        if self.fill(into)? < into.len() { Err(FormatError::Truncated(self.at)) } else { Ok(()) }
    }

    /// Reads until `into` is full or the end; says how much.
    fn fill(&mut self, into: &mut [u8]) -> Result<usize, FormatError> {
        let mut got = 0;
        while got < into.len() {
            match self.from.read(&mut into[got..]) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(FormatError::Io { action: "read", path: self.path.clone(), source });
                }
            }
        }
        self.at += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::{directory, file};
    use super::super::entry::{Device, Edge, Kind, Mtime, Status, path_order};
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Manifest {
        let header = Header {
            tree: b"/srv/\xff".to_vec(),
            host: "host".into(),
            tool: "safe-upgrade 0.1.0".into(),
            started: Mtime { seconds: 1, nanoseconds: 2 },
            ended: Mtime { seconds: 3, nanoseconds: 4 },
            excludes: vec![b"var/cache".to_vec()],
            one_filesystem: true,
            crossed_mounts: false,
        };
        let mut link = file("a/link", b"");
        link.kind = Kind::Symlink { target: b"../b\n".to_vec() };
        let mut device = file("a/tty", b"");
        device.kind = Kind::CharDevice(Device { major: 5, minor: 0 });
        let mut mount = directory("proc");
        mount.kind = Kind::Directory { edge: Edge::Mount };
        let mut secret = file("secret", b"");
        secret.kind = Kind::File { size: 9, content: None };
        secret.status = Status::Unreadable(13);
        let entries = vec![directory(""), directory("a"), link, device, file("b", b"hello"), mount, secret];
        Manifest::new(header, entries).unwrap()
    }

    fn decode(bytes: &[u8]) -> Result<Manifest, FormatError> {
        Reader::new(bytes, Path::new("test"))?.into_manifest()
    }

    #[test]
    fn survives_the_disk() {
        assert_eq!(decode(&sample().encode().unwrap()).unwrap(), sample());
    }

    #[test]
    fn truncation_at_every_byte_is_found() {
        let bytes = sample().encode().unwrap();
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_flipped_bit_at_every_byte_is_found() {
        let bytes = sample().encode().unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(decode(&damaged).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn anything_after_the_end_is_refused() {
        let mut bytes = sample().encode().unwrap();
        bytes.push(0);
        assert!(matches!(decode(&bytes), Err(FormatError::Malformed { .. })));
    }

    #[test]
    fn a_manifest_of_the_future_is_refused_as_such() {
        let mut bytes = sample().encode().unwrap();
        bytes[10] = 2;
        assert!(matches!(decode(&bytes), Err(FormatError::Newer(_))));
        let mut bytes = sample().encode().unwrap();
        bytes[12] = 1;
        assert!(matches!(decode(&bytes), Err(FormatError::Newer(_))));
    }

    #[test]
    fn order_and_structure_are_checked() {
        let header = Header::default;
        let swapped = vec![directory(""), file("b", b""), file("a", b"")];
        assert!(matches!(Manifest::new(header(), swapped), Err(FormatError::Order(_))));
        let twice = vec![directory(""), file("a", b""), file("a", b"")];
        assert!(matches!(Manifest::new(header(), twice), Err(FormatError::Order(_))));
        let orphan = vec![directory(""), file("a/b", b"")];
        assert!(matches!(Manifest::new(header(), orphan), Err(FormatError::Orphan(_))));
    }

    #[test]
    fn many_blocks_are_one_stream() {
        let mut entries = vec![directory("")];
        entries.extend((0..5000).map(|n| file(&format!("{n:06}"), b"x")));
        let manifest = Manifest::new(Header::default(), entries).unwrap();
        let bytes = manifest.encode().unwrap();
        assert!(bytes.len() > 256 << 10);
        assert_eq!(decode(&bytes).unwrap(), manifest);
    }

    /// `fuzz/corpus/manifest_decode` through what the fuzz target does, for toolchains without a fuzzer.
    #[test]
    fn the_fuzz_corpus_neither_panics_nor_lies() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/manifest_decode");
        let (mut seen, mut whole) = (0, 0);
        for file in std::fs::read_dir(corpus).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            let (mut frames, mut rest) = (Vec::new(), bytes.as_slice());
            while let [kind, low, high, tail @ ..] = rest {
                let length = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
                frames.push((kind % 5, &tail[..length]));
                rest = &tail[length..];
            }
            for bytes in [&bytes, &super::super::format::seal_frames(frames).unwrap()] {
                seen += 1;
                if let Ok(manifest) = decode(bytes) {
                    whole += 1;
                    assert_eq!(
                        Manifest::new(manifest.header, manifest.entries).unwrap().summary,
                        manifest.summary
                    );
                }
            }
        }
        assert!(seen >= 14 && whole >= 2, "{seen} seen, {whole} whole");
    }

    #[test]
    fn the_golden_file_of_version_1_still_reads() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/manifest/golden-v1.manifest");
        if std::env::var_os("SAFE_UPGRADE_BLESS").is_some() {
            std::fs::write(&path, sample().encode().unwrap()).unwrap();
        }
        assert_eq!(read_file(&path).unwrap(), sample());
        assert_eq!(std::fs::read(&path).unwrap(), sample().encode().unwrap());
    }

    proptest! {
        #[test]
        fn any_tree_survives(
            names in proptest::collection::btree_set("[a-c\\-.\n]{1,3}", 0..12),
            numbers in proptest::collection::vec((any::<u16>(), any::<u32>(), any::<i64>(), 0..1_000_000_000u32), 12),
        ) {
            let mut entries = vec![directory("")];
            for (name, (mode, id, seconds, nanoseconds)) in names.into_iter().zip(numbers) {
                if name == "." || name == ".." { continue }
                let mut entry = if mode & 1 == 0 { directory(&name) } else { file(&name, name.as_bytes()) };
                (entry.mode, entry.uid, entry.gid) = (mode & 0o7777, id, !id);
                entry.mtime = Mtime { seconds, nanoseconds };
                entry.link_group = (id % 3 == 0).then_some(u64::from(id) + 1);
                entries.push(entry);
            }
            entries.sort_by(|l, r| path_order(&l.path, &r.path));
            let manifest = Manifest::new(Header::default(), entries).unwrap();
            let bytes = manifest.encode().unwrap();
            let back = decode(&bytes).unwrap();
            prop_assert_eq!(back.encode().unwrap(), bytes);
            prop_assert_eq!(back, manifest);
        }
    }
}
