//! Why there is no set, or why it was not brought back.

use std::io;
use std::path::PathBuf;

use crate::manifest::format::FormatError;
use crate::manifest::scan::ScanError;
use crate::system::durable::DurableError;
use crate::system::exec::ExecError;
use crate::system::mounts::MountsError;
use crate::system::show;

/// A boot set that could not be made, is not whole, or must not be restored here.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// What was written could not be brought to where a boot loader sees it.
    #[error(transparent)]
    Checkpoint(#[from] crate::system::checkpoint::CheckpointError),
    /// What was asked for makes no sense.
    #[error("the boot set cannot be made or restored as asked: {0}")]
    Asked(String),
    /// The mount table could not be read.
    #[error("failed to find out what is mounted")]
    Mounts(#[from] MountsError),
    /// Nothing is mounted there.
    #[error("no filesystem is mounted at {}", show::path(.0))]
    NotMounted(PathBuf),
    /// It is mounted, but cannot be written.
    #[error("{} is mounted read-only", show::path(.0))]
    ReadOnly(PathBuf),
    /// Another filesystem than the one that was copied is mounted there.
    #[error("{} is another filesystem now: {found}, copied was {copied}", show::path(.point))]
    OtherFilesystem {
        /// Where.
        point: PathBuf,
        /// What was copied: kind and UUID.
        copied: String,
        /// What is there.
        found: String,
    },
    /// What is mounted there does not lie on a block device by that name, so its UUID cannot be learned.
    #[error("{} is not the block device that is mounted at {}", show::path(.device), show::path(.point))]
    NoDevice {
        /// Where.
        point: PathBuf,
        /// What the mount table names as its source.
        device: PathBuf,
    },
    /// The filesystem's UUID could not be read.
    #[error("failed to read the UUID of the filesystem at {}", show::path(.point))]
    Uuid {
        /// Where.
        point: PathBuf,
        /// Why.
        source: ExecError,
    },
    /// A tree could not be read.
    #[error("failed to read {}", show::path(.tree))]
    Tree {
        /// Which.
        tree: PathBuf,
        /// Why.
        source: ScanError,
    },
    /// Parts of the source cannot be read, so no copy of it can be whole.
    #[error("{unreadable} entries of {} cannot be read", show::path(.point))]
    Unreadable {
        /// The source.
        point: PathBuf,
        /// How many.
        unreadable: u64,
    },
    /// The copy never became equal to its source: something writes there.
    #[error("{} changed each time it was copied: {words}", show::path(.point))]
    Moving {
        /// The source.
        point: PathBuf,
        /// What differed at last.
        words: String,
    },
    /// The copying failed.
    #[error("failed to copy {} to {}", show::path(.from), show::path(.to))]
    Copy {
        /// From where.
        from: PathBuf,
        /// To where.
        to: PathBuf,
        /// Why.
        source: ExecError,
    },
    /// Something could not be made durable.
    #[error("failed to write durably")]
    Durable(#[from] DurableError),
    /// A manifest is damaged or cannot be read.
    #[error("failed to use the manifest {}", show::path(.path))]
    Manifest {
        /// Which.
        path: PathBuf,
        /// Why.
        source: FormatError,
    },
    /// There is no complete set here.
    #[error("{} holds no complete boot set", show::path(.0))]
    NoSet(PathBuf),
    /// A file of the set, or a disk, could not be read or written.
    #[error("failed to {action} {}", show::path(.path))]
    Io {
        /// To do what.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The description of the set is not understood.
    #[error("failed to understand {}", show::path(.path))]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The set was made by a newer version of this program.
    #[error("{} has version {version}; this program knows version {known}", show::path(.path))]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        version: u32,
        /// What is understood.
        known: u32,
    },
    /// The stored set is not what it was when it was made. Nothing may be restored from it.
    #[error("the stored copy {} is damaged: {words}", show::path(.path))]
    Damaged {
        /// Which part of the set.
        path: PathBuf,
        /// In what way.
        words: String,
    },
    /// A complete set is there, of something else.
    #[error("{} already holds a boot set of something else: {words}", show::path(.set))]
    OtherSet {
        /// The set.
        set: PathBuf,
        /// What differs.
        words: String,
    },
    /// The disk has no partition table that is understood.
    #[error("{}: {words}", show::path(.disk))]
    Table {
        /// The disk.
        disk: PathBuf,
        /// What is wrong with it.
        words: &'static str,
    },
    /// The disk by this name is not the one whose boot code was copied, or it was partitioned anew.
    #[error("{} is not the disk that it was: {words}", show::path(.disk))]
    OtherDisk {
        /// The disk.
        disk: PathBuf,
        /// What differs.
        words: String,
    },
    /// The disk whose boot code was copied is not in this machine any more.
    #[error("the disk whose boot code was copied, {} at that time, is gone", show::path(.disk))]
    DiskGone {
        /// The name that it had.
        disk: PathBuf,
    },
    /// Two disks have the size and the partition table of the one whose boot code is copied.
    #[error("{} and {} cannot be told apart: both have the same size and partition table", show::path(.one), show::path(.other))]
    TwoDisks {
        /// The first.
        one: PathBuf,
        /// The second.
        other: PathBuf,
    },
    /// What was written is not what is read back.
    #[error("{} does not hold what was written to its part {part}", show::path(.disk))]
    NotWritten {
        /// The disk.
        disk: PathBuf,
        /// Which part.
        part: String,
    },
    /// The caller stopped it. What was done so far is durable; restoring again goes on from there.
    #[error("restoring the boot set was stopped before its end")]
    Stopped,
}
