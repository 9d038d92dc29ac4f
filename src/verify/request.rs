//! What is asked of a verification.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::budget::Budget;
use crate::manifest::verdict::DEFAULT_KEPT;
use crate::manifest::{Facts, Hashing};
use crate::sources::Source;

/// A copy, what it should be, and how far the proof shall go.
#[derive(Debug, Clone)]
pub struct Request {
    /// The copy.
    pub copy: Source,
    /// What it should be.
    pub against: Against,
    /// How the manifest's hashes were made.
    pub hashing: Hashing,
    /// Really restore it below this directory, and read what came out from the disk.
    pub restore_to: Option<PathBuf>,
    /// Where temporary files go.
    pub scratch: PathBuf,
    /// Losses that are known and wanted.
    pub accept_lost: Facts,
    /// What an archive has in front of the paths of the manifest.
    pub strip: Vec<u8>,
    /// How many differences are kept in full.
    pub kept: usize,
    /// How many engines restore at once, where several can.
    pub workers: Option<usize>,
    /// What only some engines need.
    pub engine: Engine,
    /// Read only so much of a directory's content.
    pub budget: Option<Budget>,
    /// Where it is kept what was proven when.
    pub ledger: Option<PathBuf>,
    /// Enter other filesystems and subvolumes of the live tree.
    pub cross_mounts: bool,
    /// Threads that read; `None` takes what suits the disk.
    pub threads: Option<NonZeroUsize>,
}

/// What a copy should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Against {
    /// What this manifest says.
    Manifest(PathBuf),
    /// What this tree is now.
    Tree(PathBuf),
}

/// What an engine must be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Engine {
    /// Which snapshot or archive; by default the latest.
    pub snapshot: Option<String>,
    /// The tree's path inside the snapshot.
    pub inside: Option<PathBuf>,
    /// A file that holds the repository's password.
    pub password_file: Option<PathBuf>,
    /// A configuration file of the engine.
    pub config: Option<PathBuf>,
    /// Options for the engine's transport, as ssh's.
    pub options: Vec<OsString>,
}

impl Request {
    /// A plain request: read the copy, compare, accept no loss.
    #[must_use]
    pub fn new(copy: Source, against: Against) -> Self {
        Self {
            copy,
            against,
            hashing: Hashing::plain(),
            restore_to: None,
            scratch: DEFAULT_SCRATCH.into(),
            accept_lost: Facts::NONE,
            strip: Vec::new(),
            kept: DEFAULT_KEPT,
            workers: None,
            engine: Engine::default(),
            budget: None,
            ledger: None,
            cross_mounts: false,
            threads: None,
        }
    }
}

/// Where temporary files go: `/tmp` may be memory.
pub const DEFAULT_SCRATCH: &str = "/var/tmp";
