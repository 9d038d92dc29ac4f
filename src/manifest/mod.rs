//! What a tree held at one moment: a list of every entry with its metadata and content hash, and one id for all of it.
//!
//! | file | what |
//! |---|---|
//! | [`entry`] | one file, directory or link, and the order in which they stand |
//! | [`root`] | the Merkle root: the manifest's id |
//! | [`format`] | the file on disk: frames, digests, limits |
//! | [`scan`] | reading a tree, in parallel |
//! | [`exclude`] | patterns that leave parts of a tree out |
//! | [`compare`] | two sorted streams in, differences out |
//! | [`verdict`] | what the differences amount to |
//! | [`attest`] | a sample of a copy, read again |
//!
//! The format is described byte by byte in `docs/manifest-format.md`.

pub mod attest;
mod codec;
pub mod compare;
mod content;
pub mod entry;
pub mod exclude;
pub mod format;
mod read;
pub mod root;
pub mod scan;
pub mod verdict;
pub(crate) mod walk;

pub use entry::{Entry, Kind, Mtime, Status};
pub use format::{Header, Manifest, Reader, Summary, open_file, read_file, write_file};
pub use root::ManifestId;
pub use scan::{Progress, ScanOptions, scan};
pub use verdict::{Class, Report, Verdict};
