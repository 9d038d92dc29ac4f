//! What GRUB must find at the next boot: its menu, and the file with the choice. Written for good, brought to where a reader without
//! a journal sees it, and read back.

use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::block::{self, VARIABLE};
use super::env_block::{self, EnvFileError};
use crate::system::checkpoint::{CheckpointError, checkpoint};
use crate::system::durable::{self, DurableError, sync_filesystem};
use crate::system::exec::{Exec, ExecError, find_tool};

/// A menu that is new is for root only: it may hold a password's hash.
const NEW_MENU_MODE: u32 = 0o600;

/// Something that GRUB should find could not be put there, or taken away.
#[derive(Debug, thiserror::Error)]
pub enum ForGrubError {
    /// The file with the choice.
    #[error(transparent)]
    EnvFile(#[from] EnvFileError),
    /// GRUB's own checker says no, or could not be asked.
    #[error(transparent)]
    Checker(#[from] ExecError),
    /// A file could not be written for good.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// What was written may not be visible to GRUB.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file could not be read or removed.
    #[error("failed to {action} {}", .path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// What was written is not there.
    #[error("{} does not hold what was written to it", .path.display())]
    NotWritten {
        /// The file.
        path: PathBuf,
    },
}

type Result<T> = std::result::Result<T, ForGrubError>;

/// Puts a menu in place that GRUB can read, and reads it back. A menu that was there keeps its mode: a system that goes back must be as
/// it was.
///
/// # Errors
/// The old menu is still there when GRUB's checker says no.
pub fn write_menu(path: &Path, bytes: &[u8]) -> Result<()> {
    if find_tool("grub-script-check").is_ok() {
        Exec::new("grub-script-check")?.stdin(bytes.to_vec()).success()?;
    }
    let mode = match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => NEW_MENU_MODE,
        found => found.map_err(at("look at", path))?.permissions().mode() & 0o7777,
    };
    durable::replace_file(path, bytes, mode)?;
    seen_by_grub(path.parent().unwrap_or(Path::new("/")))?;
    match std::fs::read(path).map_err(at("read", path))? == bytes {
        true => Ok(()),
        false => Err(ForGrubError::NotWritten { path: path.to_owned() }),
    }
}

/// Takes any block of ours out of a menu; one that is not there needs nothing. Repeatable.
///
/// # Errors
/// As [`write_menu`].
pub fn strip_menu(path: &Path) -> Result<()> {
    let menu = match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        read => read.map_err(at("read", path))?,
    };
    let bare = block::strip(&menu);
    if bare == menu { Ok(()) } else { write_menu(path, &bare) }
}

/// Writes which run's entry the next boot is, once; the empty name chooses none. The file's directory is there.
///
/// # Errors
/// When it can't be written, or does not read back.
pub fn choose(file: &Path, run: &str) -> Result<()> {
    env_block::write_in_place(file, &choice(run))?;
    seen_by_grub(file.parent().unwrap_or(Path::new("/")))?;
    match is_chosen(file, run)? {
        true => Ok(()),
        false => Err(ForGrubError::NotWritten { path: file.to_owned() }),
    }
}

/// Whether the file says this run, and nothing else.
///
/// # Errors
/// When it can't be read.
pub fn is_chosen(file: &Path, run: &str) -> Result<bool> {
    Ok(env_block::read(file)? == choice(run))
}

/// Whether GRUB would choose no run's entry.
///
/// # Errors
/// When the file can't be read.
pub fn chooses_none(file: &Path) -> Result<bool> {
    Ok(!env_block::read(file)?.iter().any(|(name, value)| name == VARIABLE && !value.is_empty()))
}

fn choice(run: &str) -> env_block::Variables {
    vec![(VARIABLE.to_owned(), run.to_owned())]
}

/// Takes the file with the choice away, and its directory when that is empty and ours by its name. Repeatable.
///
/// # Errors
/// When the file can't be removed.
pub fn forget(file: &Path) -> Result<()> {
    durable::remove_file(file)?;
    if let Some(directory) = file.parent().filter(|directory| directory.ends_with("safe-upgrade")) {
        let _ = std::fs::remove_dir(directory);
    }
    Ok(())
}

/// Makes what was written visible to a reader that replays no journal.
///
/// # Errors
/// When it can't be done.
pub fn seen_by_grub(directory: &Path) -> Result<()> {
    // The old system's tree is a mount that no table lists; it is btrfs, which needs no more than a commit.
    if directory.starts_with("/proc/self/fd") {
        return Ok(sync_filesystem(directory)?);
    }
    Ok(checkpoint(directory)?)
}

fn at<'p>(action: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> ForGrubError + use<'p> {
    move |source| ForGrubError::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_menu_keeps_its_mode_and_a_new_one_is_for_root_only() {
        // In memory: a filesystem of the running system's own must never be frozen, as one with a journal would be here.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let menu = dir.path().join("grub.cfg");
        let mode = || std::fs::metadata(&menu).unwrap().permissions().mode() & 0o7777;
        write_menu(&menu, b"set default=0\n").unwrap();
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&menu, std::fs::Permissions::from_mode(0o444)).unwrap();
        write_menu(&menu, b"set default=1\n").unwrap();
        assert_eq!((mode(), std::fs::read(&menu).unwrap()), (0o444, b"set default=1\n".to_vec()));
    }
}
