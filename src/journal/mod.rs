//! The journal: every record of every run, in order, on a filesystem that no rollback takes back.
//!
//! Format and rules: docs/journal-format.md.

mod ballast;
mod frame;
mod store;

pub use frame::{Damage, FORMAT, Frame, Reading, read, seal_lines};
pub use store::{FILE_NAME, Journal, JournalError, read_file};
