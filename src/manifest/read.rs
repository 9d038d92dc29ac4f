//! Reading a manifest, frame by frame, on the assumption that somebody wants to fool us.
//!
//! A reader writes along: what it read goes into a writer, and every frame that comes out must have the digest of the frame that
//! was read. So whatever a writer would not have written is refused, without a second set of rules.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::codec;
use super::entry::Entry;
use super::format::{
    DIRECTORIES_FRAME, ENTRIES_FRAME, FOOTER_FRAME, FormatError, HEADER_FRAME, Header, INDEX_FRAME, KEYED,
    KNOWN_OPTIONAL, KNOWN_REQUIRED, MAGIC, MAX_PAYLOAD, Manifest, PREAMBLE, Summary, TRAILER_FRAME, Trailer,
    VERSION,
};
use super::hashing::Hashing;
use super::write::{ManifestWriter, frame_digest, preamble_digest};

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
    /// Where the block began.
    at: u64,
    along: Option<ManifestWriter<io::Sink>>,
    /// Digests of frames that were read and that the writer along has not written yet.
    waiting: VecDeque<[u8; 32]>,
    trailer: Option<Trailer>,
    ended: Option<Summary>,
    summary: Option<Summary>,
}

/// Opens a plain manifest and reads its header.
///
/// # Errors
/// When it cannot be read, is no manifest, is damaged so far, is keyed, or is newer than this program.
pub fn open_file(path: &Path) -> Result<Reader<BufReader<File>>, FormatError> {
    open_file_with(path, &Hashing::plain())
}

/// As [`open_file`], with the hashing that the manifest was made with.
///
/// # Errors
/// As [`open_file`]; also when the key is not the manifest's.
pub fn open_file_with(path: &Path, hashing: &Hashing) -> Result<Reader<BufReader<File>>, FormatError> {
    let open = |source| FormatError::Io { action: "open", path: path.to_owned(), source };
    let file = File::open(path).map_err(open)?;
    Reader::new(BufReader::with_capacity(128 << 10, file), path, hashing)
}

/// Reads a whole plain manifest into memory.
///
/// # Errors
/// As [`open_file`], and when any of it is damaged, truncated or out of order.
pub fn read_file(path: &Path) -> Result<Manifest, FormatError> {
    open_file(path)?.into_manifest()
}

/// As [`read_file`], with the hashing that it was made with.
///
/// # Errors
/// As [`read_file`].
pub fn read_file_with(path: &Path, hashing: &Hashing) -> Result<Manifest, FormatError> {
    open_file_with(path, hashing)?.into_manifest()
}

impl<R: Read> Reader<R> {
    /// Starts to read; `path` is named in errors.
    ///
    /// # Errors
    /// As [`open_file_with`].
    pub fn new(from: R, path: &Path, hashing: &Hashing) -> Result<Self, FormatError> {
        let hashing = hashing.clone();
        let mut source = Source { from, path: path.to_owned(), at: 0, digest: [0; 32], hashing };
        let preamble = source.preamble()?;
        let mut block = Vec::new();
        let (at, kind) = source.frame(&mut block)?;
        if kind != HEADER_FRAME {
            return Err(FormatError::Malformed { at, what: "the first frame is not a header" });
        }
        let header = codec::decode_header(&block).map_err(|source| FormatError::Codec { at, source })?;
        let along = ManifestWriter::along(&preamble, path, &header, &source.hashing)?;
        let mut reader = Self {
            waiting: VecDeque::from([source.digest]),
            source,
            header,
            used: block.len(),
            block,
            at,
            along: Some(along),
            trailer: None,
            ended: None,
            summary: None,
        };
        reader.agree()?;
        Ok(reader)
    }

    /// Where, when and how it was taken.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The digest of the frame that was read last.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.source.digest
    }

    /// Counts and id; `None` until the last entry was read and the end was found whole.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        self.summary
    }

    /// Names, and what was left out; `None` until the last entry was read.
    #[must_use]
    pub fn trailer(&self) -> Option<&Trailer> {
        self.trailer.as_ref()
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
        let trailer = self.trailer.ok_or(FormatError::Truncated(at))?;
        Ok(Manifest { header: self.header, entries, trailer, summary })
    }

    fn advance(&mut self) -> Result<Option<Entry>, FormatError> {
        while self.used == self.block.len() {
            if self.along.is_none() {
                return Ok(None);
            }
            self.next_frame()?;
        }
        let at = self.at;
        let (entry, used) = codec::take_entry(&self.block[self.used..])
            .map_err(|source| FormatError::Codec { at, source })?;
        self.used += used;
        if let Some(along) = &mut self.along {
            along.push(&entry)?;
        }
        self.agree()?;
        Ok(Some(entry))
    }

    /// Reads the next frame; a block of entries becomes the current one.
    fn next_frame(&mut self) -> Result<(), FormatError> {
        let (at, kind) = self.source.frame(&mut self.block)?;
        (self.at, self.used) = (at, self.block.len());
        self.waiting.push_back(self.source.digest);
        match kind {
            ENTRIES_FRAME if self.trailer.is_none() => self.used = 0,
            TRAILER_FRAME if self.trailer.is_none() => self.take_trailer(at)?,
            DIRECTORIES_FRAME | INDEX_FRAME => {}
            FOOTER_FRAME => {
                self.agree()?;
                return self.end();
            }
            _ => return Err(FormatError::Malformed { at, what: "a frame of unknown kind" }),
        }
        self.agree()
    }

    fn take_trailer(&mut self, at: u64) -> Result<(), FormatError> {
        let codec = |source| FormatError::Codec { at, source };
        let trailer = codec::decode_trailer(&self.block).map_err(codec)?;
        if let Some(along) = &mut self.along {
            self.ended = Some(along.end(&trailer)?);
        }
        self.trailer = Some(trailer);
        Ok(())
    }

    /// What was read and what is written along are the same, as far as both have come.
    fn agree(&mut self) -> Result<(), FormatError> {
        let Some(along) = &mut self.along else { return Ok(()) };
        while let Some(read) = self.waiting.front() {
            match along.next_digest() {
                Some(written) if written == *read => self.waiting.pop_front(),
                // The last blocks of entries and of directories wait for the trailer.
                None if self.waiting.len() <= 3 => return Ok(()),
                _ => return Err(FormatError::Malformed { at: self.at, what: NOT_CANONICAL }),
            };
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), FormatError> {
        let unwritten = self.along.take().and_then(|mut along| along.next_digest()).is_some();
        if unwritten || !self.waiting.is_empty() || self.ended.is_none() {
            return Err(FormatError::Malformed { at: self.at, what: NOT_CANONICAL });
        }
        if !self.source.at_end()? {
            return Err(FormatError::Malformed { at: self.source.at, what: "bytes follow the footer" });
        }
        self.summary = self.ended;
        Ok(())
    }
}

const NOT_CANONICAL: &str = "no writer would have written this";

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Entry, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            // Nothing after an error can be trusted.
            self.along = None;
            self.used = self.block.len();
        }
        next.transpose()
    }
}

#[derive(Debug)]
struct Source<R> {
    from: R,
    path: PathBuf,
    at: u64,
    digest: [u8; 32],
    hashing: Hashing,
}

impl<R: Read> Source<R> {
    fn preamble(&mut self) -> Result<[u8; PREAMBLE], FormatError> {
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
        let u64_at = |at: usize| (at..at + 8).rev().fold(0, |n, at| n << 8 | u64::from(bytes[at]));
        let (required, optional) = (u64_at(12), u64_at(20));
        if required & !KNOWN_REQUIRED != 0 {
            let unknown = required & !KNOWN_REQUIRED;
            return Err(FormatError::Newer(format!("required features {unknown:#x}")));
        }
        if optional & !KNOWN_OPTIONAL != 0 {
            tracing::warn!(features = optional, "the manifest says more than this safe-upgrade knows");
        }
        match (required & KEYED != 0, self.hashing.is_keyed()) {
            (true, false) => return Err(FormatError::Key("this manifest was made with a key")),
            (false, true) => return Err(FormatError::Key("this manifest was made without a key")),
            _ => {}
        }
        self.digest = preamble_digest(&self.hashing, &bytes);
        Ok(bytes)
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
        self.digest = frame_digest(&self.hashing, &self.digest, head[0], payload);
        if self.digest != digest {
            // Nobody can tell damage from another key here; the header is small, so it is most likely the key.
            if self.hashing.is_keyed() && head[0] == HEADER_FRAME {
                return Err(FormatError::Key("the key is not this manifest's, or the manifest is damaged"));
            }
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
            previous: Some(super::super::root::ManifestId::from_bytes([7; 32])),
            ..Header::default()
        };
        let mut link = file("a/link", b"");
        link.kind = Kind::Symlink { target: b"../b\n".to_vec() };
        let mut device = file("a/tty", b"");
        device.kind = Kind::CharDevice(Device { major: 5, minor: 0 });
        let mut mount = directory("proc");
        mount.kind = Kind::Directory { edge: Edge::Mount };
        let mut secret = file("secret", b"");
        secret.kind = Kind::unread_file(9);
        secret.status = Status::Unreadable(13);
        let entries = vec![directory(""), directory("a"), link, device, file("b", b"hello"), mount, secret];
        Manifest::new(header, entries).unwrap()
    }

    fn decode(bytes: &[u8]) -> Result<Manifest, FormatError> {
        Reader::new(bytes, Path::new("test"), &Hashing::plain())?.into_manifest()
    }

    #[test]
    fn survives_the_disk() {
        assert_eq!(decode(&sample().encode().unwrap()).unwrap(), sample());
    }

    #[test]
    fn truncation_at_every_byte_and_anything_after_the_end_are_found() {
        let bytes = sample().encode().unwrap();
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "cut at {length}");
        }
        assert!(matches!(decode(&[&bytes[..], b"x"].concat()), Err(FormatError::Malformed { .. })));
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
    fn a_manifest_of_the_future_is_refused_as_such() {
        let mut bytes = sample().encode().unwrap();
        bytes[10] = 2;
        assert!(matches!(decode(&bytes), Err(FormatError::Newer(_))));
        let mut bytes = sample().encode().unwrap();
        bytes[12] = 2;
        assert!(matches!(decode(&bytes), Err(FormatError::Newer(_))));
        let mut bytes = sample().encode().unwrap();
        bytes[12] = 1;
        assert!(matches!(decode(&bytes), Err(FormatError::Key(_))));
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

    /// The frames of a file as the fuzz target takes them: kind, length (two bytes), payload.
    fn unsealed(file: &[u8]) -> Vec<u8> {
        let (mut out, mut rest) = (Vec::new(), &file[PREAMBLE..]);
        while let [kind, a, b, c, d, tail @ ..] = rest {
            let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            out.extend_from_slice(&[*kind, *a, *b]);
            out.extend_from_slice(&tail[..length]);
            rest = &tail[length + 32..];
        }
        out
    }

    /// `fuzz/seeds/manifest_decode` through what the fuzz target does, for toolchains without a fuzzer.
    #[test]
    fn the_fuzz_corpus_neither_panics_nor_lies() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/manifest_decode");
        if std::env::var_os("SAFE_UPGRADE_BLESS").is_some() {
            let whole = sample().encode().unwrap();
            std::fs::write(corpus.join("whole-file"), &whole).unwrap();
            std::fs::write(corpus.join("whole-frames"), unsealed(&whole)).unwrap();
        }
        let (mut seen, mut whole) = (0, 0);
        for file in std::fs::read_dir(corpus).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            let (mut frames, mut rest) = (Vec::new(), bytes.as_slice());
            while let [kind, low, high, tail @ ..] = rest {
                let length = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
                frames.push((kind % 8, &tail[..length]));
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
