//! Files that GRUB must find: written for good, and read back.

use std::io::ErrorKind;
use std::path::Path;

use super::error::{OneShotError, at};
use crate::boot::block;
use crate::system::checkpoint::checkpoint;
use crate::system::durable::{replace_file, sync_filesystem};
use crate::system::exec::{Exec, find_tool};

/// The kernel says here whether one waits to be started.
const KEXEC_LOADED: &str = "/sys/kernel/kexec_loaded";

/// Puts a menu in place that GRUB can read, and reads it back.
pub(super) fn write_menu(path: &Path, bytes: &[u8]) -> Result<(), OneShotError> {
    if find_tool("grub-script-check").is_ok() {
        Exec::new("grub-script-check")?.stdin(bytes.to_vec()).success()?;
    }
    // Readable by root only, as grub-mkconfig leaves it: it may hold a password's hash.
    replace_file(path, bytes, 0o600)?;
    seen_by_grub(path.parent().unwrap_or(Path::new("/")))?;
    match read(path)? == bytes {
        true => Ok(()),
        false => Err(OneShotError::NotWritten { path: path.to_owned() }),
    }
}

pub(super) fn strip_menu(path: &Path) -> Result<(), OneShotError> {
    let menu = match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.map_err(at("read", path))?,
    };
    let bare = block::strip(&menu);
    if bare == menu { Ok(()) } else { write_menu(path, &bare) }
}

pub(super) fn has_content(path: &Path) -> Result<(), OneShotError> {
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
            seen_by_grub(path.parent().unwrap_or(Path::new("/")))
        }
    }
}

/// Makes what was written visible to a reader that replays no journal.
pub(super) fn seen_by_grub(directory: &Path) -> Result<(), OneShotError> {
    // The old system's tree is a mount that no table lists; it is btrfs, which needs no more than a commit.
    if directory.starts_with("/proc/self/fd") {
        return Ok(sync_filesystem(directory)?);
    }
    Ok(checkpoint(directory)?)
}

pub(super) fn unload_kexec() -> Result<(), OneShotError> {
    let path = Path::new(KEXEC_LOADED);
    let loaded = match std::fs::read_to_string(path) {
        // A kernel without kexec has none loaded.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.map_err(at("read", path))?,
    };
    if loaded.trim() != "0" {
        Exec::new("kexec")?.arg("--unload").success()?;
    }
    Ok(())
}
