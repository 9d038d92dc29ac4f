//! What a rehearsal has made, written down before it is made.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::names::Names;
use super::{RehearsalError, Result};
use crate::system::durable;

/// The name of the file in the rehearsal's directory.
const FILE: &str = "made.json";

/// What is on this machine because of a rehearsal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The rehearsal.
    pub id: String,
    /// Whether it shall stay when its rehearsal is over, as a temporary server, until its unit ends.
    #[serde(default)]
    pub keep: bool,
    /// The boot of the host that it was made in: no unit and no mount outlives it.
    pub boot: String,
    /// Where the backup was restored to, when the clone was not made by snapshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Place>,
}

/// A directory that the backup is restored into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The directory.
    pub directory: PathBuf,
    /// Where the filesystem is mounted that it is on: when that is not mounted, nobody can say that the directory is gone.
    pub filesystem: PathBuf,
}

/// The file in which it is written down.
#[must_use]
pub fn file(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// The directory of one rehearsal: what it made, and its logs.
#[must_use]
pub fn directory(rehearsals: &Path, names: &Names) -> PathBuf {
    rehearsals.join(names.id())
}

/// Writes it down; durable when it returns.
///
/// # Errors
/// Names what could not be written.
pub fn write(directory: &Path, made: &Made) -> Result<()> {
    durable::private_directory(directory)?;
    let text = serde_json::to_vec_pretty(made)
        .map_err(|error| RehearsalError::path("write", directory.join(FILE))(error.into()))?;
    Ok(durable::replace_file(&directory.join(FILE), &text, 0o600)?)
}

/// What was written down; `None` when nothing is left to be removed.
///
/// # Errors
/// When it is there and cannot be read. What is not understood was written by somebody else and counts as not kept.
pub fn read(directory: &Path) -> Result<Option<Made>> {
    let path = directory.join(FILE);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RehearsalError::path("read", path)(error)),
    }
}

/// Nothing is left: the note goes, the logs stay.
///
/// # Errors
/// Names what could not be removed.
pub fn forget(directory: &Path) -> Result<()> {
    Ok(durable::remove_file(&directory.join(FILE))?)
}
