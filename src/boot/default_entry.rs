//! Which entry of GRUB's menu the operator wants by default: `GRUB_DEFAULT` of `/etc/default/grub` and of the files beside it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::layout::LayoutError;

const FILE: &str = "etc/default/grub";
const PARTS: &str = "etc/default/grub.d";

/// A setting, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The file, below the root that was looked at.
    pub file: PathBuf,
    /// The value, without quotes.
    pub value: String,
}

impl Setting {
    /// Whether the first entry of the menu is meant.
    #[must_use]
    pub fn is_first(&self) -> bool {
        matches!(self.value.as_str(), "" | "0")
    }
}

/// Reads the setting that counts: the last one. `None` where there is none, and then GRUB boots the first entry.
///
/// # Errors
/// When a file that is there cannot be read.
pub fn read(root: &Path) -> Result<Option<Setting>, LayoutError> {
    let mut found = None;
    for file in files(root)? {
        match fs::read(&file) {
            Ok(bytes) => {
                let value = parse(&String::from_utf8_lossy(&bytes));
                found = value.map(|value| Setting { file, value }).or(found);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(LayoutError::Read { path: file, source }),
        }
    }
    Ok(found)
}

/// In the order in which `grub-mkconfig` reads them.
fn files(root: &Path) -> Result<Vec<PathBuf>, LayoutError> {
    let directory = root.join(PARTS);
    let wrong = |source| LayoutError::Read { path: directory.clone(), source };
    let mut parts = match fs::read_dir(&directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        listed => listed
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>, _>>())
            .map_err(wrong)?,
    };
    parts.retain(|path| path.extension().is_some_and(|extension| extension == "cfg"));
    parts.sort();
    Ok([vec![root.join(FILE)], parts].concat())
}

/// The last assignment in a file of shell; one that a script computes is taken as it is written.
fn parse(text: &str) -> Option<String> {
    let assigned = |line: &str| {
        let line = line.trim_start();
        let value =
            line.strip_prefix("export ").unwrap_or(line).trim_start().strip_prefix("GRUB_DEFAULT=")?;
        let quoted = value.chars().next().filter(|first| matches!(first, '"' | '\''));
        let end = quoted.unwrap_or(' ');
        let value = quoted.map_or(value, |_| &value[1..]);
        Some(value.split([end, '\n']).next().unwrap_or_default().trim().to_owned())
    };
    text.lines().filter_map(assigned).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_setting_counts() {
        for (text, value) in [
            ("GRUB_DEFAULT=0\nGRUB_TIMEOUT=5\n", Some("0")),
            ("# GRUB_DEFAULT=3\n", None),
            ("GRUB_DEFAULT=\"Debian GNU/Linux>1\"  # mine\n", Some("Debian GNU/Linux>1")),
            (" export GRUB_DEFAULT='saved'\n", Some("saved")),
            ("GRUB_DEFAULT=saved\nGRUB_DEFAULT=2 # third\n", Some("2")),
            ("GRUB_DEFAULT=\n", Some("")),
            ("GRUB_DEFAULT_BUTTON=1\n", None),
        ] {
            assert_eq!(parse(text).as_deref(), value, "{text}");
        }
    }

    #[test]
    fn parts_come_after_the_file() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(read(root.path()).unwrap(), None);
        fs::create_dir_all(root.path().join(PARTS)).unwrap();
        fs::write(root.path().join(FILE), "GRUB_DEFAULT=0\n").unwrap();
        assert!(read(root.path()).unwrap().unwrap().is_first());
        fs::write(root.path().join(PARTS).join("50-mine.cfg"), "GRUB_DEFAULT=saved\n").unwrap();
        fs::write(root.path().join(PARTS).join("60-none.cfg"), "GRUB_TIMEOUT=0\n").unwrap();
        fs::write(root.path().join(PARTS).join("90-off.cfg.old"), "GRUB_DEFAULT=0\n").unwrap();
        let setting = read(root.path()).unwrap().unwrap();
        assert!(setting.value == "saved" && !setting.is_first());
        assert!(setting.file.ends_with("grub.d/50-mine.cfg"), "{setting:?}");
    }
}
