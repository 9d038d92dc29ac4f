//! Copies of any kind, read as entries that can be compared with a manifest.
//!
//! Each source says what its format can carry; what it cannot is *lost by format*, neither different nor passed over. Archives
//! are interpreted as they stream by, and nothing is written; engines that must write do it in a private directory, confined.

pub mod compressed;
pub mod tar;

use crate::manifest::exclude::Excludes;
use crate::manifest::verdict::Difference;
use crate::manifest::{Facts, Hashing, Progress};

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
