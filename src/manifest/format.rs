//! A manifest on disk: a preamble, then frames that each carry a digest over all that came before.
//!
//! ```text
//! preamble  magic 8 · version u16 · min reader u16 · required features u64 · optional features u64
//! frame     kind u8 · length u32 · payload · digest 32       (header, entries.., footer; all integers little-endian)
//! ```
//!
//! The writer is canonical: equal manifests are equal bytes. The reader holds one frame at a time.

use std::io;
use std::path::{Path, PathBuf};

use super::codec::{self, CodecError};
use super::entry::{Entry, InvalidEntry, Mtime, path_order};
use super::root::{ManifestId, OrphanEntry, RootBuilder};
use crate::system::durable::{self, DurableError};

pub use super::read::{Reader, open_file, read_file};

/// The first bytes of every manifest. As in PNG, a high bit, both line ends and a control-Z show what a text-minded copy broke.
pub const MAGIC: [u8; 8] = *b"\x89SUM\r\n\x1a\n";

/// The version that is written.
pub const VERSION: u16 = 1;

/// Feature bits that a reader must know; none yet.
pub const KNOWN_REQUIRED: u64 = 0;

/// The largest payload of a frame, in bytes: what a reader may have to hold.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// A block of entries is closed when it has grown to this, in bytes: large enough that the digest (32) does not count.
const BLOCK_TARGET: usize = 128 << 10;

/// Length of the preamble, in bytes.
pub(super) const PREAMBLE: usize = 28;

/// Length of the footer's payload, in bytes.
pub(super) const FOOTER: usize = 48;

pub(super) const FRAME_CONTEXT: &str = "safe-upgrade 2026 manifest v1 frame";
pub(super) const HEADER_FRAME: u8 = 1;
pub(super) const ENTRIES_FRAME: u8 = 2;
pub(super) const FOOTER_FRAME: u8 = 3;

/// Where, when and how a manifest was taken. Not part of its id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// The tree, as an absolute path.
    pub tree: Vec<u8>,
    /// The machine's name.
    pub host: String,
    /// Program and version.
    pub tool: String,
    /// When the walk began.
    pub started: Mtime,
    /// When the walk ended.
    pub ended: Mtime,
    /// The patterns that left entries out; see [`super::exclude`].
    pub excludes: Vec<Vec<u8>>,
    /// Other filesystems and subvolumes were left out.
    pub one_filesystem: bool,
    /// At least one other filesystem or subvolume was entered.
    pub crossed_mounts: bool,
}

/// A whole manifest in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Where, when and how.
    pub header: Header,
    /// In their order, beginning with the tree itself.
    pub entries: Vec<Entry>,
    /// Counts and id.
    pub summary: Summary,
}

/// What the footer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// How many entries.
    pub entries: u64,
    /// Bytes of content in them.
    pub bytes: u64,
    /// The Merkle root.
    pub id: ManifestId,
}

/// A manifest that could not be read or written. Nothing that it held can be relied on.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The file could not be read or written.
    #[error("failed to {action} manifest {}", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be made durable.
    #[error("failed to write the manifest")]
    Durable(#[from] DurableError),
    /// It does not begin as a manifest does.
    #[error("this is not a manifest")]
    NotAManifest,
    /// It needs a newer program.
    #[error("this manifest needs a newer safe-upgrade: {0}")]
    Newer(String),
    /// It ends before its footer, or a frame is cut short.
    #[error("the manifest is truncated at byte {0}")]
    Truncated(u64),
    /// Bytes differ from what was written.
    #[error("the manifest is damaged: the digest of the frame at byte {0} does not match")]
    Digest(u64),
    /// Frames are in an order or of a size that no writer makes.
    #[error("the manifest is malformed at byte {at}: {what}")]
    Malformed {
        /// Offset of the frame.
        at: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An entry or the header does not decode.
    #[error("the manifest is malformed in the frame at byte {at}")]
    Codec {
        /// Offset of the frame.
        at: u64,
        /// Why.
        source: CodecError,
    },
    /// An entry breaks a rule.
    #[error("an entry is invalid")]
    Entry(#[from] InvalidEntry),
    /// An entry has no directory.
    #[error("the entries are no tree")]
    Orphan(#[from] OrphanEntry),
    /// Entries out of order, or one path twice.
    #[error("entry {} does not come after the one before it", crate::system::show::bytes(.0))]
    Order(Vec<u8>),
}

impl Manifest {
    /// Makes a manifest of entries that are in order and form a tree.
    ///
    /// # Errors
    /// Names the first entry that breaks a rule.
    pub fn new(header: Header, entries: Vec<Entry>) -> Result<Self, FormatError> {
        let mut judge = EntryJudge::default();
        for entry in &entries {
            entry.check()?;
            judge.push(entry)?;
        }
        Ok(Self { header, entries, summary: judge.finish() })
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> ManifestId {
        self.summary.id
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// When the header is too large.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut writer = FrameWriter::begin();
        let header =
            codec::encode_header(&self.header).map_err(|source| FormatError::Codec { at: 0, source })?;
        writer.frame(HEADER_FRAME, &header)?;
        let mut block = Vec::new();
        for entry in &self.entries {
            codec::put_entry(entry, &mut block).map_err(|source| FormatError::Codec { at: 0, source })?;
            if block.len() >= BLOCK_TARGET {
                writer.frame(ENTRIES_FRAME, &block)?;
                block.clear();
            }
        }
        if !block.is_empty() {
            writer.frame(ENTRIES_FRAME, &block)?;
        }
        writer.frame(FOOTER_FRAME, &encode_footer(&self.summary))?;
        Ok(writer.out)
    }
}

/// Only its owner may read a manifest: it names every file, and the hash of a small secret can be guessed at.
const FILE_MODE: u32 = 0o600;

/// Writes a manifest; when this returns it survives a power cut, and the file was never there half.
///
/// # Errors
/// The old file, if any, is then still whole.
pub fn write_file(manifest: &Manifest, path: &Path) -> Result<(), FormatError> {
    durable::replace_file(path, &manifest.encode()?, FILE_MODE)?;
    Ok(())
}

/// Any payloads under right digests, for fuzzing: a decoder that only ever sees broken digests is not tested.
///
/// # Errors
/// When a payload is larger than [`MAX_PAYLOAD`].
#[doc(hidden)]
pub fn seal_frames<'p>(frames: impl IntoIterator<Item = (u8, &'p [u8])>) -> Result<Vec<u8>, FormatError> {
    let mut writer = FrameWriter::begin();
    for (kind, payload) in frames {
        writer.frame(kind, payload)?;
    }
    Ok(writer.out)
}

/// Judges that entries follow each other as they must, and sums them up.
#[derive(Debug, Default)]
pub(super) struct EntryJudge {
    last: Option<Vec<u8>>,
    root: RootBuilder,
    entries: u64,
    bytes: u64,
}

impl EntryJudge {
    pub(super) fn push(&mut self, entry: &Entry) -> Result<(), FormatError> {
        if self.last.as_ref().is_some_and(|last| path_order(last, &entry.path).is_ge()) {
            return Err(FormatError::Order(entry.path.clone()));
        }
        self.root.push(entry)?;
        self.last.get_or_insert_default().clone_from(&entry.path);
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.bytes());
        Ok(())
    }

    pub(super) fn finish(self) -> Summary {
        Summary { entries: self.entries, bytes: self.bytes, id: self.root.finish() }
    }
}

/// The digest of a frame, chained to the one before it.
pub(super) fn frame_digest(previous: &[u8; 32], kind: u8, payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(FRAME_CONTEXT);
    hasher.update(previous).update(&[kind]).update(&(payload.len() as u64).to_le_bytes()).update(payload);
    *hasher.finalize().as_bytes()
}

/// The first link of the chain of digests.
pub(super) fn preamble_digest(preamble: &[u8; PREAMBLE]) -> [u8; 32] {
    *blake3::Hasher::new_derive_key(FRAME_CONTEXT).update(preamble).finalize().as_bytes()
}

fn preamble() -> [u8; PREAMBLE] {
    let mut bytes = [0; PREAMBLE];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[10..12].copy_from_slice(&VERSION.to_le_bytes());
    // Bytes 12..20 and 20..28 are the required and the optional feature bits: none.
    bytes
}

fn encode_footer(summary: &Summary) -> [u8; FOOTER] {
    let mut bytes = [0; FOOTER];
    bytes[..8].copy_from_slice(&summary.entries.to_le_bytes());
    bytes[8..16].copy_from_slice(&summary.bytes.to_le_bytes());
    bytes[16..].copy_from_slice(summary.id.as_bytes());
    bytes
}

struct FrameWriter {
    out: Vec<u8>,
    digest: [u8; 32],
}

impl FrameWriter {
    fn begin() -> Self {
        let preamble = preamble();
        Self { out: preamble.to_vec(), digest: preamble_digest(&preamble) }
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> Result<(), FormatError> {
        let at = self.out.len() as u64;
        let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_PAYLOAD);
        let length = length.ok_or(FormatError::Malformed { at, what: "the frame is too large" })?;
        self.digest = frame_digest(&self.digest, kind, payload);
        self.out.push(kind);
        self.out.extend_from_slice(&length.to_le_bytes());
        self.out.extend_from_slice(payload);
        self.out.extend_from_slice(&self.digest);
        Ok(())
    }
}
