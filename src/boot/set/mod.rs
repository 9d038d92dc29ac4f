//! The boot set: what a boot needs and no root snapshot holds. `/boot` on a filesystem of its own, the ESP, and the boot code
//! that a BIOS reads by position.
//!
//! ```text
//! SET/boot-set.json      what was copied, written last: without it there is no set
//! SET/NAME/tree/         the copy of one mounted filesystem (a member)
//! SET/NAME/manifest      of the source
//! SET/code/N-PART        the raw bytes of one part of the boot code of disk N
//! ```
//!
//! The set lies on the state volume, which no rollback takes back. A rolled-back root under a newer boot loader's core does not
//! boot, so a rollback brings the whole set back, and proves it byte by byte.

mod capture;
pub mod code;
mod disk;
mod error;
mod members;
mod record;
mod restore;
mod table;

use std::path::PathBuf;

pub use capture::{capture, verify};
pub use code::{BootCode, CodePart};
pub use error::SetError;
pub use record::{Captured, KeptCode, KeptMember, KeptPart};
pub use restore::{RestoreOptions, Restored, Step, ready, restore};

/// A mounted filesystem that is copied whole, without what is mounted below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name of its copy: lower-case letters, digits and hyphens, as in `boot`, `esp`. `code` is taken.
    pub name: String,
    /// Where it is mounted, without symbolic links.
    pub point: PathBuf,
}

#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;
