//! A manifest on disk: a preamble, then frames that each carry a digest over all that came before.
//!
//! ```text
//! preamble  magic 8 · version u16 · min reader u16 · required features u64 · optional features u64
//! frame     kind u8 · length u32 · payload · digest 32       (all integers little-endian)
//! frames    header, then entries and directories, then trailer, index.., footer
//! ```
//!
//! The writer is canonical: equal manifests are equal bytes, and a reader writes along to see that they are. It holds one frame
//! at a time. [`super::indexed`] reads parts of a file, by the index at its end.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::codec::CodecError;
use super::entry::{Entry, InvalidEntry, Mtime};
use super::hashing::Hashing;
use super::root::{ManifestId, OrphanEntry};
use super::sorter::SortError;
use super::write::{ManifestWriter, Out};
use crate::system::durable::{DurableError, Replacement};

pub use super::read::{Reader, open_file, open_file_with, read_file, read_file_with};

/// The first bytes of every manifest. As in PNG, a high bit, both line ends and a control-Z show what a text-minded copy broke.
pub const MAGIC: [u8; 8] = *b"\x89SUM\r\n\x1a\n";

/// The version that is written.
pub const VERSION: u16 = 1;

/// The feature bit of manifests whose hashes are made with a key.
pub const KEYED: u64 = 1;

/// Feature bits that a reader must know.
pub const KNOWN_REQUIRED: u64 = KEYED;

/// Feature bits that a reader may skip; none yet.
pub const KNOWN_OPTIONAL: u64 = 0;

/// The largest payload of a frame, in bytes: what a reader may have to hold.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// A block is closed when it has grown to this, in bytes: large enough that the digest (32) does not count.
pub(super) const BLOCK_TARGET: usize = 128 << 10;

/// Length of the preamble, in bytes.
pub(super) const PREAMBLE: usize = 28;

/// Bytes of a frame around its payload.
pub(super) const AROUND: usize = 1 + 4 + 32;

pub(super) const HEADER_FRAME: u8 = 1;
pub(super) const ENTRIES_FRAME: u8 = 2;
pub(super) const FOOTER_FRAME: u8 = 3;
pub(super) const DIRECTORIES_FRAME: u8 = 4;
pub(super) const TRAILER_FRAME: u8 = 5;
pub(super) const INDEX_FRAME: u8 = 6;

/// Where, when and how a manifest was taken. Not part of its id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// The tree, as an absolute path.
    pub tree: Vec<u8>,
    /// The machine's name.
    pub host: String,
    /// `/etc/machine-id`, as far as it can be read.
    pub machine: String,
    /// Program and version.
    pub tool: String,
    /// The kind of filesystem at the top of the tree, as `btrfs`; empty when it is not known.
    pub filesystem: String,
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
    /// The manifest of the same tree that this one follows.
    pub previous: Option<ManifestId>,
    /// Tells whether a key is the right one; a keyed manifest has it.
    pub key_check: Option<[u8; 32]>,
}

/// What is known only after the walk. Not part of the id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trailer {
    /// Names of the users that own something: hints, for whoever restores by name.
    pub users: BTreeMap<u32, Vec<u8>>,
    /// Names of the groups.
    pub groups: BTreeMap<u32, Vec<u8>>,
    /// What the patterns left out: the first [`Trailer::MAX_LEFT_OUT`] paths, each with all below it.
    pub left_out: Vec<Vec<u8>>,
    /// How many there were.
    pub left_out_total: u64,
}

impl Trailer {
    /// How many paths that were left out are named.
    pub const MAX_LEFT_OUT: usize = 1000;
    /// How many names of users and of groups are kept.
    pub const MAX_NAMES: usize = 1000;
}

/// A whole manifest in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Where, when and how.
    pub header: Header,
    /// In their order, beginning with the tree itself.
    pub entries: Vec<Entry>,
    /// Names, and what was left out.
    pub trailer: Trailer,
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
    /// Its hashes were made with a key, and none was given, or one was given and there is none.
    #[error("{0}")]
    Key(&'static str),
    /// What was to be written could not be sorted.
    #[error("failed to sort the entries")]
    Sort(#[from] SortError),
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
    /// Makes a plain manifest of entries that are in order and form a tree.
    ///
    /// # Errors
    /// Names the first entry that breaks a rule.
    pub fn new(header: Header, entries: Vec<Entry>) -> Result<Self, FormatError> {
        Self::with(header, entries, &Hashing::plain())
    }

    /// Makes a manifest of entries that are in order and form a tree.
    ///
    /// # Errors
    /// Names the first entry that breaks a rule.
    pub fn with(header: Header, entries: Vec<Entry>, hashing: &Hashing) -> Result<Self, FormatError> {
        let mut writer = ManifestWriter::begin(io::sink(), Path::new("memory"), &header, hashing)?;
        for entry in &entries {
            writer.push(entry)?;
        }
        let (summary, _) = writer.finish(&Trailer::default())?;
        Ok(Self { header, entries, trailer: Trailer::default(), summary })
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> ManifestId {
        self.summary.id
    }

    /// The bytes of a plain file.
    ///
    /// # Errors
    /// When the header is too large.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        self.write(Vec::new(), Path::new("memory"), &Hashing::plain())
    }

    /// Writes it to anything that takes bytes; `path` is named in errors.
    ///
    /// # Errors
    /// When it cannot be written, or was not made with this hashing.
    pub fn write<W: Write>(&self, to: W, path: &Path, hashing: &Hashing) -> Result<W, FormatError> {
        let mut writer = ManifestWriter::begin(to, path, &self.header, hashing)?;
        for entry in &self.entries {
            writer.push(entry)?;
        }
        Ok(writer.finish(&self.trailer)?.1)
    }

    /// Writes it to a file; when this returns it survives a power cut, and the file was never there half.
    ///
    /// # Errors
    /// The old file, if any, is then still whole.
    pub fn write_file(&self, path: &Path, hashing: &Hashing) -> Result<(), FormatError> {
        let mut file = NewFile::begin(path)?;
        self.write(file.to()?, path, hashing)?;
        file.commit()
    }
}

/// Only its owner may read a manifest: it names every file, and the hash of a small secret can be guessed at.
const FILE_MODE: u32 = 0o600;

/// Writes a plain manifest to a file, as [`Manifest::write_file`].
///
/// # Errors
/// The old file, if any, is then still whole.
pub fn write_file(manifest: &Manifest, path: &Path) -> Result<(), FormatError> {
    manifest.write_file(path, &Hashing::plain())
}

/// The file of a manifest that is being written; nothing of it is seen until [`NewFile::commit`].
#[derive(Debug)]
pub struct NewFile(Replacement);

impl NewFile {
    /// Begins beside `path`.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn begin(path: &Path) -> Result<Self, FormatError> {
        Ok(Self(Replacement::begin(path, FILE_MODE)?))
    }

    /// Where to write to; to be flushed by whoever writes, as [`ManifestWriter::finish`] does.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn to(&mut self) -> Result<BufWriter<std::fs::File>, FormatError> {
        let file = self.0.file().try_clone().map_err(|source| FormatError::Io {
            action: "write",
            path: PathBuf::new(),
            source,
        })?;
        Ok(BufWriter::with_capacity(BLOCK_TARGET, file))
    }

    /// Puts it in place, durably.
    ///
    /// # Errors
    /// The old file, if any, is then still whole.
    pub fn commit(self) -> Result<(), FormatError> {
        Ok(self.0.commit()?)
    }
}

/// Any payloads under right digests, for fuzzing: a decoder that only ever sees broken digests is not tested.
///
/// # Errors
/// When a payload is larger than [`MAX_PAYLOAD`].
#[doc(hidden)]
pub fn seal_frames<'p>(frames: impl IntoIterator<Item = (u8, &'p [u8])>) -> Result<Vec<u8>, FormatError> {
    let mut out = Out::begin(Vec::new(), Path::new("memory"), &Hashing::plain())?;
    for (kind, payload) in frames {
        out.frame(kind, payload)?;
    }
    Ok(out.into_inner())
}
