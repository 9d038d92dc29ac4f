//! What a tree held at one moment: a list of every entry with its metadata and content hash, and one id for all of it.
//!
//! | file | what |
//! |---|---|
//! | [`entry`] | one file, directory or link, and the order in which they stand |
//! | [`xattr`], [`acl`] | extended attributes, and access control lists as text and as bytes |
//! | [`hashing`] | plain or keyed, and block by block |
//! | [`root`] | the Merkle root: the manifest's id |
//! | [`format`], [`write`] | the file on disk: frames, digests, limits |
//! | [`indexed`], [`diff`] | parts of a file, and two files without what is equal in both |
//! | [`scan`] | reading a tree, in parallel, in bounded memory |
//! | [`facts`] | what a way of copying can carry |
//! | [`collect`], [`sorter`] | entries in any order into the order of a manifest, outside memory |
//! | [`exclude`] | patterns that leave parts of a tree out |
//! | [`compare`], [`judge`] | two sorted streams in, differences out; a whole manifest against what was found |
//! | [`verdict`] | what the differences amount to |
//! | [`coverage`] | how much of the content is proven, and since when |
//! | [`attest`] | a sample of a copy, read again |
//!
//! The format is described byte by byte in `docs/manifest-format.md`.

pub mod acl;
pub mod attest;
mod attributes;
mod blocks;
mod codec;
pub mod collect;
pub mod compare;
mod content;
pub mod coverage;
mod crew;
pub mod diff;
mod directories;
pub mod entry;
pub mod exclude;
pub mod facts;
pub mod flags;
pub mod format;
mod gather;
pub mod hashing;
mod holes;
pub mod indexed;
pub mod judge;
mod names;
pub(crate) mod node;
mod opening;
mod owners;
mod partition;
mod read;
pub mod root;
pub mod scan;
pub mod signature;
pub(crate) mod single;
pub mod sorter;
pub mod verdict;
mod walk;
mod walker;
pub mod write;
pub mod xattr;

pub use collect::Collector;
pub use entry::{Entry, Kind, Mtime, Status};
pub use facts::{Facts, Found};
pub use format::{
    Header, Manifest, Reader, Summary, Trailer, open_file, open_file_with, read_file, read_file_with,
    write_file,
};
pub use hashing::{Content, ContentHasher, Hashing};
pub use root::ManifestId;
pub use scan::{Progress, ScanOptions, scan};
pub use verdict::{Class, Report, Verdict};
