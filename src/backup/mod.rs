//! Making copies, and reading them back.
//!
//! A store is a directory. Each tree has one directory in it, named after the tree:
//!
//! ```text
//! STORE/_var_www/tree/       the copy
//! STORE/_var_www/manifest    of the source; written last, so a backup without it is not finished
//! ```

pub mod place;
mod restore;
pub mod rsync;
pub mod tree;
pub mod verify;

pub use place::Place;
pub use restore::remove_leftovers;
pub use tree::{Backup, BackupError, BackupOptions, BackupProgress, back_up};
pub use verify::{VerifyError, VerifyOptions, VerifyProgress, restore_to_stay, verify_restored};
