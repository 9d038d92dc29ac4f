//! Files and directories of one run's trial.

use std::io::ErrorKind;
use std::path::Path;

use super::error::{OneShotError, at};
use crate::boot::for_grub::seen_by_grub;

pub(in crate::boot) fn has_content(path: &Path) -> Result<(), OneShotError> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() && found.len() > 0 => Ok(()),
        Ok(_) => Err(OneShotError::NoFile { path: path.to_owned() }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(OneShotError::NoFile { path: path.to_owned() })
        }
        Err(error) => Err(at("look at", path)(error)),
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, OneShotError> {
    std::fs::read(path).map_err(at("read", path))
}

pub(super) fn create_directory(path: &Path) -> Result<(), OneShotError> {
    std::fs::create_dir_all(path).map_err(at("create", path))
}

pub(super) fn remove_directory(path: &Path) -> Result<(), OneShotError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => {
            other.map_err(at("remove", path))?;
            Ok(seen_by_grub(path.parent().unwrap_or(Path::new("/")))?)
        }
    }
}
