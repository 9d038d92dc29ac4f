//! Which package brought a library, by dpkg's lists of files.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::LibrariesError;

/// The packages of all shared libraries, and of everything below some trees.
#[derive(Debug, Default)]
pub struct Owners(HashMap<PathBuf, String>);

impl Owners {
    /// Reads the lists of files of all installed packages below `root`, and keeps what may be a library or lies below one of the
    /// trees.
    ///
    /// # Errors
    /// When the lists cannot be read.
    pub fn read(root: &Path, trees: &[PathBuf]) -> Result<Self, LibrariesError> {
        let directory = root.join("var/lib/dpkg/info");
        let wrong = |path: &Path| {
            let path = path.to_owned();
            move |source| LibrariesError::Read { path, source }
        };
        let mut owners = HashMap::new();
        for entry in fs::read_dir(&directory).map_err(wrong(&directory))? {
            let path = entry.map_err(wrong(&directory))?.path();
            if path.extension().is_none_or(|extension| extension != "list") {
                continue;
            }
            let package = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read(&path).map_err(wrong(&path))?;
            for line in String::from_utf8_lossy(&text).lines() {
                if line.contains(".so") || trees.iter().any(|tree| Path::new(line).starts_with(tree)) {
                    owners.insert(PathBuf::from(line), package.clone());
                }
            }
        }
        Ok(Self(owners))
    }

    /// The package of a path, under either of its names on a merged `/usr`: packages of bookworm still say `/lib`.
    #[must_use]
    pub fn of(&self, path: &Path) -> Option<&str> {
        let other = match path.strip_prefix("/usr") {
            Ok(rest) => Path::new("/").join(rest),
            Err(_) => Path::new("/usr").join(path.strip_prefix("/").unwrap_or(path)),
        };
        self.0.get(path).or_else(|| self.0.get(&other)).map(|package| strip_architecture(package))
    }
}

/// `libssl3:amd64` is `libssl3`.
fn strip_architecture(package: &str) -> &str {
    package.split_once(':').map_or(package, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merged_usr_has_two_names() {
        let dir = tempfile::tempdir().unwrap();
        let lists = dir.path().join("var/lib/dpkg/info");
        fs::create_dir_all(&lists).unwrap();
        fs::write(lists.join("libaio1:amd64.list"), "/.\n/lib/x86_64-linux-gnu/libaio.so.1\n/etc/x\n")
            .unwrap();
        fs::write(lists.join("vendor.list"), "/opt/vendor/bin/tool\n").unwrap();
        fs::write(lists.join("vendor.md5sums"), "").unwrap();
        let owners = Owners::read(dir.path(), &["/opt".into()]).unwrap();
        assert_eq!(owners.of(Path::new("/usr/lib/x86_64-linux-gnu/libaio.so.1")), Some("libaio1"));
        assert_eq!(owners.of(Path::new("/lib/x86_64-linux-gnu/libaio.so.1")), Some("libaio1"));
        assert_eq!(owners.of(Path::new("/opt/vendor/bin/tool")), Some("vendor"));
        assert_eq!(owners.of(Path::new("/etc/x")), None);
        assert!(Owners::read(&dir.path().join("none"), &[]).is_err());
    }
}
