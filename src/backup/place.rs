//! Where in a store the backup of a tree stands.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// The longest file name of the common filesystems, in bytes.
const NAME_MAX: usize = 255;

/// The directory of one tree in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    directory: PathBuf,
}

/// A path that cannot have a place in a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} cannot be kept in a store: {what}", crate::system::show::path(.tree))]
pub struct InvalidTree {
    tree: PathBuf,
    what: &'static str,
}

impl Place {
    /// The place of a tree, given as an absolute path.
    ///
    /// # Errors
    /// When the path is relative, has `..`, or is too long for a file name.
    pub fn of(store: &Path, tree: &Path) -> Result<Self, InvalidTree> {
        Ok(Self { directory: store.join(name_of(tree)?) })
    }

    /// All that belongs to the backup.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The copy.
    #[must_use]
    pub fn copy(&self) -> PathBuf {
        self.directory.join("tree")
    }

    /// The manifest of the source; there exactly when the backup was finished.
    #[must_use]
    pub fn manifest(&self) -> PathBuf {
        self.directory.join("manifest")
    }
}

/// The name of a tree's directory in a store: slashes become `_`, everything but letters, digits, `.` and `-` becomes `%XX`.
///
/// # Errors
/// As [`Place::of`].
pub fn name_of(tree: &Path) -> Result<OsString, InvalidTree> {
    let invalid = |what| InvalidTree { tree: tree.to_owned(), what };
    if !tree.is_absolute() {
        return Err(invalid("the path is not absolute"));
    }
    let mut name = String::new();
    for component in tree.components() {
        match component {
            Component::RootDir | Component::Prefix(_) | Component::CurDir => {}
            Component::ParentDir => return Err(invalid("the path has '..'")),
            Component::Normal(part) => {
                name.push('_');
                push_escaped(&mut name, part.as_bytes());
            }
        }
    }
    if name.is_empty() {
        name.push('_');
    }
    if name.len() > NAME_MAX {
        return Err(invalid("the path is too long"));
    }
    Ok(name.into())
}

/// The tree of a name that [`name_of`] made; `None` for other names.
#[must_use]
pub fn tree_of(name: &OsStr) -> Option<PathBuf> {
    let mut path = Vec::new();
    let mut bytes = name.as_bytes().iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'_' => path.push(b'/'),
            b'%' => {
                let digit = |byte: Option<&u8>| (*byte? as char).to_digit(16);
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                path.push(u8::try_from(high * 16 + low).ok()?);
            }
            _ => path.push(byte),
        }
    }
    let tree = PathBuf::from(OsString::from_vec(path));
    // One name per tree: what escapes otherwise is not ours.
    (name_of(&tree).ok()? == name).then_some(tree)
}

fn push_escaped(name: &mut String, part: &[u8]) {
    for &byte in part {
        if byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-' {
            name.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(name, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_can_be_read_by_a_person() {
        assert_eq!(name_of(Path::new("/var/www")).unwrap(), "_var_www");
        assert_eq!(name_of(Path::new("/")).unwrap(), "_");
        assert_eq!(name_of(Path::new("/a_b/c d")).unwrap(), "_a%5Fb_c%20d");
        assert!(name_of(Path::new("var")).is_err());
        assert!(name_of(Path::new("/a/../b")).is_err());
        assert_eq!(tree_of(OsStr::new("lost+found")), None);
        assert_eq!(tree_of(OsStr::new("_%7")), None);
    }

    proptest! {
        #[test]
        fn names_lead_back(parts in proptest::collection::vec(proptest::collection::vec(1u8.., 1..6), 0..4)) {
            let mut raw = vec![];
            for part in &parts {
                raw.push(b'/');
                raw.extend(part.iter().filter(|b| **b != b'/'));
            }
            raw.insert(0, b'/');
            let tree: PathBuf = PathBuf::from(OsString::from_vec(raw)).components().collect();
            prop_assume!(name_of(&tree).is_ok());
            let name = name_of(&tree).unwrap();
            prop_assert_eq!(tree_of(&name), Some(tree));
            prop_assert!(!name.as_bytes().contains(&b'/'));
        }
    }
}
