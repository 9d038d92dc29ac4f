//! Reading below a root: what is not there is no error, what can't be read is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::health::HealthError;
use crate::health::packages::Packages;
use crate::system::exec::ExecError;
use crate::system::identity::IdentityError;
use crate::system::mounts::{self, Mount, MountsError};

/// A fact about the machine that could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A file or directory could not be read.
    #[error("failed to read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program could not be asked.
    #[error("failed to ask a program")]
    Ask(#[from] ExecError),
    /// The packages.
    #[error("failed to read the packages")]
    Packages(#[from] HealthError),
    /// The release.
    #[error("failed to find out which release this is")]
    Identity(#[from] IdentityError),
    /// The mounts.
    #[error("failed to read the mounts")]
    Mounts(#[from] MountsError),
    /// A file holds something else than expected.
    #[error("{} holds {what}, which is not understood", .path.display())]
    Understand {
        /// The file.
        path: PathBuf,
        /// What.
        what: String,
    },
}

/// Where something lies below a root.
pub(super) fn at(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// The text of a file; `None` when it is not there. Bytes that are no UTF-8 are replaced.
pub(super) fn text(root: &Path, path: &str) -> Result<Option<String>, InspectError> {
    Ok(bytes(root, path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The bytes of a file; `None` when it is not there.
pub(super) fn bytes(root: &Path, path: &str) -> Result<Option<Vec<u8>>, InspectError> {
    let path = at(root, path);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if absent(&error) => Ok(None),
        Err(source) => Err(InspectError::Read { path, source }),
    }
}

/// The names in a directory, sorted; empty when it is not there.
pub(super) fn names(root: &Path, path: &str) -> Result<Vec<String>, InspectError> {
    let path = at(root, path);
    let wrong = |source| InspectError::Read { path: path.clone(), source };
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(wrong(error)),
    };
    let names: io::Result<Vec<String>> =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
    let mut names = names.map_err(wrong)?;
    names.sort();
    Ok(names)
}

/// The mounts that the system below the root sees; none where it does not run.
pub(super) fn mounted(root: &Path) -> Result<Vec<Mount>, InspectError> {
    match bytes(root, "proc/self/mountinfo")? {
        Some(table) => Ok(mounts::parse(&table)?),
        None => Ok(Vec::new()),
    }
}

/// Lines that say something: without comments and empty ones, trimmed.
pub(super) fn settings(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
}

/// The version of an installed package, of whichever architecture.
pub(super) fn version<'p>(packages: &'p Packages, name: &str) -> Option<&'p str> {
    packages
        .installed
        .iter()
        .find(|(package, _)| package.split(':').next() == Some(name))
        .map(|(_, version)| version.as_str())
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
pub(crate) mod made_up {
    use super::{Path, fs};

    /// A root for tests, filled with these files.
    pub(crate) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            put(dir.path(), path, text);
        }
        dir
    }

    pub(crate) fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The ids of findings, with a letter for each weight.
    pub(crate) fn ids(findings: &[crate::finding::Finding]) -> Vec<String> {
        findings
            .iter()
            .map(|finding| format!("{:?} {}", finding.severity, finding.id).to_lowercase())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_no_error() {
        let dir = made_up::tree(&[("etc/x", "# c\n\n a = 1\n;d\n"), ("d/b", ""), ("d/a", "")]);
        assert_eq!(text(dir.path(), "etc/none").unwrap(), None);
        assert_eq!(text(dir.path(), "etc/x/below").unwrap(), None);
        assert_eq!(settings(&text(dir.path(), "/etc/x").unwrap().unwrap()).collect::<Vec<_>>(), ["a = 1"]);
        assert_eq!(names(dir.path(), "d").unwrap(), ["a", "b"]);
        assert!(names(dir.path(), "none").unwrap().is_empty());
        assert!(text(dir.path(), "d").is_err(), "a directory is no file");
        assert!(mounted(dir.path()).unwrap().is_empty());
    }
}
