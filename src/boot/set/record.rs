//! `boot-set.json`: what a complete set holds.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::SetError;
use crate::system::durable;

/// The version that is written, and the only one that is understood.
const VERSION: u32 = 1;

/// The file that makes a set complete.
const FILE: &str = "boot-set.json";

/// What a complete set holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Captured {
    version: u32,
    /// The copied filesystems.
    pub members: Vec<KeptMember>,
    /// The copied boot code, a disk each.
    pub code: Vec<KeptCode>,
}

/// The copy of one filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptMember {
    /// Its name, and that of its directory in the set.
    pub name: String,
    /// Where it was mounted.
    pub point: PathBuf,
    /// `ext4`, `vfat`, ...
    pub fs_type: String,
    /// The filesystem's UUID as blkid prints it.
    pub uuid: String,
    /// The id of the manifest of the source, 64 hexadecimal digits.
    pub manifest: String,
    /// How many entries it has.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
}

/// The copied boot code of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptCode {
    /// The disk, by the name that the caller gave.
    pub disk: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// A hash of the disk's own id and of where its partitions lie, 64 hexadecimal digits.
    pub table: String,
    /// The copied parts.
    pub parts: Vec<KeptPart>,
}

/// One part of the boot code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptPart {
    /// Its name.
    pub name: String,
    /// Bytes from the start of the disk.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// BLAKE3 of its bytes, 64 hexadecimal digits.
    pub blake3: String,
    /// Its copy, in the directory `code` of the set.
    pub file: String,
}

impl Captured {
    pub(super) fn new(members: Vec<KeptMember>, code: Vec<KeptCode>) -> Self {
        Self { version: VERSION, members, code }
    }
}

impl KeptMember {
    /// Kind and UUID, for people.
    pub(super) fn filesystem(&self) -> String {
        format!("{} {}", self.fs_type, self.uuid)
    }

    /// Its copy.
    #[must_use]
    pub fn tree(&self, set: &Path) -> PathBuf {
        tree(set, &self.name)
    }

    /// The manifest of its source.
    pub(super) fn manifest(&self, set: &Path) -> PathBuf {
        manifest(set, &self.name)
    }
}

/// Where the copy of a member lies.
pub(super) fn tree(set: &Path, name: &str) -> PathBuf {
    set.join(name).join("tree")
}

/// Where its manifest lies.
pub(super) fn manifest(set: &Path, name: &str) -> PathBuf {
    set.join(name).join("manifest")
}

/// Reads the description of a complete set.
pub(super) fn read(set: &Path) -> Result<Captured, SetError> {
    let path = set.join(FILE);
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SetError::NoSet(set.to_owned()));
        }
        other => other.map_err(|source| SetError::Io { action: "read", path: path.clone(), source })?,
    };
    /// All that another version must have in common with this one.
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let understand = |source| SetError::Record { path: path.clone(), source };
    let Versioned { version } = serde_json::from_slice(&bytes).map_err(understand)?;
    if version != VERSION {
        return Err(SetError::Version { path, version, known: VERSION });
    }
    serde_json::from_slice(&bytes).map_err(understand)
}

/// Makes a set complete.
pub(super) fn write(set: &Path, captured: &Captured) -> Result<(), SetError> {
    let path = set.join(FILE);
    let mut bytes = serde_json::to_vec_pretty(captured)
        .map_err(|source| SetError::Record { path: path.clone(), source })?;
    bytes.push(b'\n');
    Ok(durable::replace_file(&path, &bytes, 0o600)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_another_version_is_not_guessed_at() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path()), Err(SetError::NoSet(_))));
        write(dir.path(), &Captured::new(Vec::new(), Vec::new())).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Captured::new(Vec::new(), Vec::new()));
        let path = dir.path().join(FILE);
        std::fs::write(&path, br#"{"version":2,"more":1}"#).unwrap();
        assert!(matches!(read(dir.path()), Err(SetError::Version { version: 2, .. })));
        std::fs::write(&path, br#"{"version":1,"members":["#).unwrap();
        assert!(matches!(read(dir.path()), Err(SetError::Record { .. })));
    }
}
