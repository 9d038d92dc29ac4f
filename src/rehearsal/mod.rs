//! Rehearsal: a disposable clone of this machine is upgraded first, in a container that reaches nothing.
//!
//! In the order of the story: [`names`] derive from the id · [`made`] writes down what is about to be made · [`clone`] makes it, by snapshots or as [`restored`] from the backup, with what it has of other [`volumes`] ·
//! [`quiet`] decides what it must not do · [`network`] gives it one that leads nowhere · [`container`] boots it · [`inside`] is what
//! this program does in there (with [`offline`] in the place of apt's downloads) · [`play`] tells the whole of it · [`record`] is what
//! is kept · [`sweep`] removes what is left, whoever died.

pub mod clone;
pub mod container;
pub mod inside;
pub mod made;
pub mod names;
pub mod network;
pub mod offline;
pub mod play;
pub mod quiet;
pub mod record;
pub mod restored;
pub mod sweep;
pub mod volumes;

use std::io;
use std::path::PathBuf;

use crate::backup::VerifyError;
use crate::release::package_state::PackageStateError;
use crate::snapshot::SnapshotError;
use crate::system::durable::DurableError;
use crate::system::exec::ExecError;
use crate::system::mounts::MountsError;

/// A rehearsal that could not be done, or taken away. Never a statement about the upgrade.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// This machine cannot rehearse, and why.
    #[error("{0}")]
    Impossible(String),
    /// A subvolume could not be made or deleted.
    #[error("failed to {action}")]
    Snapshot {
        /// What was attempted.
        action: &'static str,
        /// Why.
        source: Box<SnapshotError>,
    },
    /// The backup could not be restored.
    #[error("failed to restore the backup of {}", .tree.display())]
    Restore {
        /// The tree.
        tree: PathBuf,
        /// Why.
        source: Box<VerifyError>,
    },
    /// A file of the clone, or one about it, could not be used.
    #[error("failed to {action} {}", .path.display())]
    Path {
        /// What was attempted.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be made durable.
    #[error("failed to write down what the rehearsal does")]
    Durable(#[from] DurableError),
    /// A program of the host failed.
    #[error("failed to {action}")]
    Exec {
        /// What was attempted.
        action: &'static str,
        /// Why.
        source: ExecError,
    },
    /// The packages of the restored backup are not known.
    #[error("failed to ask for the packages of the restored backup")]
    Packages(#[source] PackageStateError),
    /// The mount table could not be read.
    #[error(transparent)]
    Mounts(#[from] MountsError),
    /// A stage inside the clone did not say how it ended.
    #[error("the stage \"{stage}\" inside the clone gave no answer: {why}")]
    Silent {
        /// Which.
        stage: &'static str,
        /// What is known.
        why: String,
    },
}

impl RehearsalError {
    fn path(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Path { action, path, source }
    }

    fn snapshot(action: &'static str) -> impl FnOnce(SnapshotError) -> Self {
        move |source| Self::Snapshot { action, source: Box::new(source) }
    }

    fn exec(action: &'static str) -> impl FnOnce(ExecError) -> Self {
        move |source| Self::Exec { action, source }
    }
}

type Result<T> = std::result::Result<T, RehearsalError>;
