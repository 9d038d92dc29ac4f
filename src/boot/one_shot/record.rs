//! What a run remembers of its boot menu, in the run's directory.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Trial;
use super::error::{OneShotError, at};
use super::files::has_content;
use crate::boot::menu::Boots;
use crate::system::durable::{Replacement, remove_file, replace_file};

const RECORD: &str = "one-shot.json";
const TRIAL: &str = "trial.json";

/// What was armed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::boot) struct Record {
    /// What boots the old system.
    pub(in crate::boot) old: Boots,
    /// The copies that it needs.
    pub(in crate::boot) kept: Vec<Kept>,
    /// What boots the new one, once that is known.
    pub(in crate::boot) trial: Option<Boots>,
}

/// A file that was copied out of the upgrade's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::boot) struct Kept {
    path: PathBuf,
    blake3: String,
}

impl Record {
    pub(in crate::boot) fn path(run_directory: &Path) -> PathBuf {
        run_directory.join(RECORD)
    }

    /// `None` when nothing was armed.
    pub(in crate::boot) fn read(run_directory: &Path) -> Result<Option<Self>, OneShotError> {
        load(&Self::path(run_directory))
    }

    pub(in crate::boot) fn write(&self, run_directory: &Path) -> Result<(), OneShotError> {
        store(&Self::path(run_directory), self)
    }

    pub(in crate::boot) fn remove(run_directory: &Path) -> Result<(), OneShotError> {
        Ok(remove_file(&Self::path(run_directory))?)
    }

    /// Reads every copy to its end.
    pub(in crate::boot) fn verify_kept(&self) -> Result<(), OneShotError> {
        self.kept.iter().try_for_each(Kept::verify)
    }
}

impl Kept {
    /// Copies a file and reads the copy back.
    pub(in crate::boot) fn copy(from: &Path, to: &Path) -> Result<Self, OneShotError> {
        has_content(from)?;
        let mut source = std::fs::File::open(from).map_err(at("read", from))?;
        let mut copy = Replacement::begin(to, 0o600)?;
        io::copy(&mut source, copy.file()).map_err(at("copy", from))?;
        copy.commit()?;
        let kept = Self { path: to.to_owned(), blake3: hash(from)? };
        kept.verify()?;
        Ok(kept)
    }

    /// Reads the copy to its end.
    pub(in crate::boot) fn verify(&self) -> Result<(), OneShotError> {
        match hash(&self.path)? == self.blake3 {
            true => Ok(()),
            false => Err(OneShotError::CopyDiffers { path: self.path.clone() }),
        }
    }
}

pub(in crate::boot) fn trial_path(run_directory: &Path) -> PathBuf {
    run_directory.join(TRIAL)
}

pub(in crate::boot) fn read_trial(run_directory: &Path) -> Result<Option<Trial>, OneShotError> {
    load(&trial_path(run_directory))
}

pub(in crate::boot) fn write_trial(run_directory: &Path, trial: &Trial) -> Result<(), OneShotError> {
    store(&trial_path(run_directory), trial)
}

fn hash(path: &Path) -> Result<String, OneShotError> {
    let mut hasher = blake3::Hasher::new();
    std::fs::File::open(path)
        .and_then(|file| hasher.update_reader(file).map(drop))
        .map_err(at("read", path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

pub(in crate::boot) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, OneShotError> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(at("read", path))?,
    };
    let damaged = |source| OneShotError::Record { path: path.to_owned(), source };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

pub(in crate::boot) fn store<T: Serialize>(path: &Path, value: &T) -> Result<(), OneShotError> {
    let damaged = |source| OneShotError::Record { path: path.to_owned(), source };
    Ok(replace_file(path, &serde_json::to_vec_pretty(value).map_err(damaged)?, 0o600)?)
}
