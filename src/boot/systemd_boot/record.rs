//! What a run remembers of systemd-boot, in the run's directory.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::error::SystemdBootError;
use crate::boot::one_shot::record::{Kept, load, store};
use crate::system::durable::remove_file;

const RECORD: &str = "loader-one-shot.json";

/// What was armed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Our entry that boots the old system.
    pub(super) old: Entry,
    /// The copies that it needs.
    pub(super) kept: Vec<Kept>,
    /// `LoaderEntryDefault` as it was before.
    pub(super) default: Option<String>,
    /// Volumes that were mounted without `sync` before, and are mounted with it while armed.
    pub(super) made_sync: Vec<PathBuf>,
    /// Our entry that boots the new one, once that is known.
    pub(super) trial: Option<Entry>,
}

impl Record {
    pub(super) fn path(run_directory: &Path) -> PathBuf {
        run_directory.join(RECORD)
    }

    /// `None` when nothing was armed.
    pub(super) fn read(run_directory: &Path) -> Result<Option<Self>, SystemdBootError> {
        Ok(load(&Self::path(run_directory))?)
    }

    pub(super) fn write(&self, run_directory: &Path) -> Result<(), SystemdBootError> {
        Ok(store(&Self::path(run_directory), self)?)
    }

    pub(super) fn remove(run_directory: &Path) -> Result<(), SystemdBootError> {
        Ok(remove_file(&Self::path(run_directory))?)
    }

    /// Reads every copy to its end.
    pub(super) fn verify_kept(&self) -> Result<(), SystemdBootError> {
        Ok(self.kept.iter().try_for_each(Kept::verify)?)
    }
}
