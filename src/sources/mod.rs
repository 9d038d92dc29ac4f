//! Copies of any kind, read as entries that can be compared with a manifest.
//!
//! Each source says what its format can carry; what it cannot is *lost by format*, neither different nor passed over. Archives
//! are interpreted as they stream by, and nothing is written; engines that must write do it in a private directory, confined.

pub mod borg;
pub mod compressed;
pub mod directory;
pub mod engine;
pub mod input;
pub mod name;
pub mod rclone;
pub mod rclone_listing;
pub mod remote_shell;
pub mod restic;
pub mod rsync_from;
pub mod send_stream;
pub mod sftp;
pub mod ssh;
pub mod tar;

use std::path::PathBuf;

use crate::manifest::exclude::Excludes;
use crate::manifest::scan::ScanError;
use crate::manifest::sorter::SortError;
use crate::manifest::verdict::Difference;
use crate::manifest::{Facts, Hashing, Progress, Summary};

pub use name::{Input, InvalidSource, Source};

/// A copy that could not be read, so that nothing is known about it.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A directory could not be read.
    #[error("failed to read {}", .tree.display())]
    Scan {
        /// The directory.
        tree: PathBuf,
        /// Why.
        source: ScanError,
    },
    /// A file could not be opened or looked at.
    #[error("failed to open {}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A pipe or device that was not said to be an archive or a stream: looking at it would take its first bytes away.
    #[error(
        "{0} is no file that can be read twice: say what it holds, as tar:{0} or send:{0}", .path.display()
    )]
    NotAFile {
        /// The pipe or device.
        path: PathBuf,
    },
    /// An archive about which nothing can be said.
    #[error("failed to read the archive")]
    Tar(#[from] tar::TarError),
    /// What was found could not be sorted.
    #[error("failed to put in order what was found")]
    Sort(#[from] SortError),
    /// Another machine.
    #[error("failed to read from another machine")]
    Ssh(#[from] ssh::SshError),
    /// An engine, or the sandbox around it.
    #[error("failed to read the repository")]
    Engine(#[from] engine::EngineError),
    /// Something behind rclone.
    #[error("failed to read from rclone")]
    Rclone(#[from] rclone::RcloneError),
    /// A btrfs send stream about which nothing can be said.
    #[error("failed to read the send stream")]
    SendStream(#[from] send_stream::SendStreamError),
    /// The first bytes could not be read.
    #[error("failed to unpack {0}")]
    Unpack(String, #[source] std::io::Error),
}

impl SourceError {
    /// What is wrong with the copy itself, safe to show, when the error says that rather than that it could not be read.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        match self {
            Self::SendStream(error) if error.is_damage() => Some(error.to_string()),
            _ => None,
        }
    }
}

/// How a copy is read.
#[derive(Clone)]
pub struct Reading<'r> {
    /// How content is hashed: as in the manifest.
    pub hashing: Hashing,
    /// A private directory for what must be written.
    pub scratch: &'r std::path::Path,
    /// What the manifest left out.
    pub excludes: &'r Excludes,
    /// What a copy may hold at most.
    pub limits: Limits,
    /// Told now and then.
    pub progress: &'r (dyn Fn(Progress) + Sync),
}

/// What a copy may hold at most: a bomb ends here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of content, unpacked, holes included.
    pub bytes: u64,
    /// Bytes of one path or link target.
    pub name: usize,
    /// Components of one path.
    pub depth: usize,
    /// Bytes of all extended attributes of one entry.
    pub xattrs: usize,
}

impl Limits {
    /// Somewhat more than a manifest says: an archive that goes beyond is not a copy of that tree, whatever it is.
    #[must_use]
    pub fn around(summary: &Summary) -> Self {
        Self {
            entries: summary.entries.saturating_add(summary.entries / 10).saturating_add(10_000),
            bytes: summary.bytes.saturating_add(summary.bytes / 10).saturating_add(64 << 20),
            ..Self::default()
        }
    }
}

impl Default for Limits {
    /// Generous: for copies without a manifest to measure them by.
    fn default() -> Self {
        Self {
            entries: 1_000_000_000,
            bytes: 1 << 50,
            name: crate::manifest::entry::MAX_PATH,
            depth: crate::manifest::entry::MAX_DEPTH,
            xattrs: 1 << 20,
        }
    }
}

/// What was learned besides the entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gathered {
    /// What the format as a whole can carry.
    pub carries: Facts,
    /// What is wrong with the copy whatever the manifest says, as members that no honest archive holds.
    pub findings: Vec<Difference>,
    /// For a person, safe to show.
    pub remarks: Vec<String>,
    /// An engine really restored it.
    pub restored: bool,
}

impl Gathered {
    /// Nothing special, and everything can be carried.
    #[must_use]
    pub fn plain() -> Self {
        Self { carries: Facts::ALL, findings: Vec::new(), remarks: Vec::new(), restored: false }
    }
}
