//! Files and directories that survive a power cut: after each call either the old or the new is there, never a half.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file or directory that could not be made durable.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} {}", .path.display())]
pub struct DurableError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn at<'p>(action: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> DurableError + use<'p> {
    move |source| DurableError { action, path: path.to_owned(), source }
}

/// Replaces a file by rename: written beside it, synced, renamed, and the directory synced.
/// Repeatable. `mode` is the permission bits of the new file.
///
/// # Errors
/// Names the path and what could not be done; the old file is then still whole.
pub fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DurableError> {
    let mut replacement = Replacement::begin(path, mode)?;
    replacement.file.write_all(bytes).map_err(at("write", &replacement.beside))?;
    replacement.commit()
}

/// A file that is being written beside the one that it will replace; dropped, it leaves the old one as it was.
#[derive(Debug)]
pub struct Replacement {
    file: File,
    path: PathBuf,
    beside: PathBuf,
    done: bool,
}

impl Replacement {
    /// Creates the file beside `path`. `mode` is the permission bits of the new file.
    ///
    /// # Errors
    /// Names the path.
    pub fn begin(path: &Path, mode: u32) -> Result<Self, DurableError> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let beside = parent.join(format!(".{name}.safe-upgrade-new"));
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(at("remove", &beside)(error));
            }
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)
            .map_err(at("create", &beside))?;
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(mode))
            .map_err(|errno| at("set the mode of", &beside)(errno.into()))?;
        Ok(Self { file, path: path.to_owned(), beside, done: false })
    }

    /// The file, to write to.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Syncs what was written and puts it in place.
    ///
    /// # Errors
    /// Names the path; the old file is then still whole.
    pub fn commit(mut self) -> Result<(), DurableError> {
        self.file.sync_all().map_err(at("sync", &self.beside))?;
        std::fs::rename(&self.beside, &self.path).map_err(at("replace", &self.path))?;
        self.done = true;
        sync_directory(self.path.parent().unwrap_or(Path::new("/")))
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.done {
            // It replaces nothing; the next attempt removes it too.
            let _ = std::fs::remove_file(&self.beside);
        }
    }
}

/// Removes a file and syncs its directory. A file that is not there is fine.
///
/// # Errors
/// Names the path.
pub fn remove_file(path: &Path) -> Result<(), DurableError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at("remove", path)(error)),
        Ok(()) => sync_directory(path.parent().unwrap_or(Path::new("/"))),
    }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// Names the directory.
pub fn sync_directory(path: &Path) -> Result<(), DurableError> {
    // The parent of a plain name is empty: the current directory.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path).and_then(|dir| dir.sync_all()).map_err(at("sync directory", path))
}

/// Writes out everything of the filesystem that holds `path`.
///
/// # Errors
/// Names the path.
pub fn sync_filesystem(path: &Path) -> Result<(), DurableError> {
    let dir = File::open(path).map_err(at("open", path))?;
    rustix::fs::syncfs(&dir).map_err(|errno| at("sync the filesystem of", path)(errno.into()))
}

/// Creates a directory that only its owner can enter (mode 0700), with its parents; an existing one is left as it is.
///
/// # Errors
/// Names the directory.
pub fn private_directory(path: &Path) -> Result<(), DurableError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at("create directory", path))?;
    match path.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn replaces_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        replace_file(&path, b"one", 0o600).unwrap();
        replace_file(&path, b"two", 0o644).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        remove_file(&path).unwrap();
        remove_file(&path).unwrap();
    }

    #[test]
    fn errors_name_the_path() {
        let error = replace_file(Path::new("/no/such/dir/f"), b"", 0o600).unwrap_err();
        assert!(error.to_string().contains("/no/such/dir/"), "{error}");
    }
}
