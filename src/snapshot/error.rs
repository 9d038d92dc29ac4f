//! What can go wrong with subvolumes, each with the name that it concerns.

use std::path::PathBuf;

use super::Uuid;
use crate::system::{durable, exec, mounts};

/// Something about a btrfs filesystem could not be found out or done.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The mount table.
    #[error(transparent)]
    Mounts(#[from] mounts::MountsError),
    /// A file could not be made durable.
    #[error(transparent)]
    Durable(#[from] durable::DurableError),
    /// A program that was needed.
    #[error(transparent)]
    Exec(#[from] exec::ExecError),
    /// A path is not on btrfs, where btrfs is needed.
    #[error("{} is on {fs_type}, not on btrfs", .path.display())]
    NotBtrfs {
        /// The path.
        path: PathBuf,
        /// What it is on.
        fs_type: String,
    },
    /// A system call on a path failed.
    #[error("failed to {action} {}", .path.display())]
    Path {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The top level could not be mounted from any device of the filesystem.
    #[error("failed to mount the top level of the btrfs filesystem on {}", .device.display())]
    Mount {
        /// The device that was tried last.
        device: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The device from the mount table holds another filesystem than the mounted one.
    #[error("{} holds another filesystem than the one mounted at {}", .device.display(), .mount.display())]
    OtherFilesystem {
        /// The device.
        device: PathBuf,
        /// The mount that it should have been.
        mount: PathBuf,
    },
    /// An operation on a subvolume failed.
    #[error("failed to {action} the subvolume {name}")]
    Subvolume {
        /// What was tried.
        action: &'static str,
        /// The subvolume's name on the top level.
        name: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A name that cannot be one on the top level.
    #[error("{0:?} is not the name of a subvolume on the top level (it must be one plain name without '/')")]
    BadName(String),
    /// There is no such subvolume.
    #[error("there is no subvolume {0} on the top level")]
    Gone(String),
    /// The name belongs to something that is not a subvolume.
    #[error("{0} is there on the top level, but it is not a subvolume")]
    NotSubvolume(String),
    /// The name belongs to another subvolume than the one that was meant.
    #[error("the subvolume {name} is not the expected one: {why}")]
    NotTheOne {
        /// The name.
        name: String,
        /// In what it differs.
        why: String,
    },
    /// The subvolume holds others, which would be lost.
    #[error("the subvolume {name} holds other subvolumes: {}", .nested.join(", "))]
    HoldsOthers {
        /// The name.
        name: String,
        /// Their paths below it.
        nested: Vec<String>,
    },
    /// The subvolume is mounted.
    #[error("the subvolume {name} is mounted at {}", .point.display())]
    Mounted {
        /// The name.
        name: String,
        /// Where.
        point: PathBuf,
    },
    /// The place for the state holds files that a mount would hide.
    #[error("{} is not empty ({}), and mounting the state volume there would hide that", .path.display(), .entries.join(", "))]
    WouldHide {
        /// The directory.
        path: PathBuf,
        /// Some of what it holds.
        entries: Vec<String>,
    },
    /// Something else is mounted where the state volume belongs.
    #[error("{} shows {found} instead of the state volume {wanted}", .path.display())]
    WrongMount {
        /// The mount point.
        path: PathBuf,
        /// What is there.
        found: String,
        /// The UUID that should be there.
        wanted: Uuid,
    },
}

impl SnapshotError {
    pub(crate) fn path(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.into();
        move |errno| Self::Path { action, path, source: errno.into() }
    }

    pub(crate) fn subvolume(action: &'static str, name: &str) -> impl FnOnce(rustix::io::Errno) -> Self {
        let name = name.to_owned();
        move |errno| Self::Subvolume { action, name, source: errno.into() }
    }
}
