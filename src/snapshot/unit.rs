//! The systemd mount unit of the state volume. Pure.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The name that a mount unit must have for a path (systemd.unit(5), "String Escaping for Inclusion in Unit Names").
pub(super) fn name(point: &Path) -> String {
    let bytes = point.as_os_str().as_bytes();
    let mut name = String::new();
    for part in bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        if !name.is_empty() {
            name.push('-');
        }
        for byte in part {
            let plain = byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'.');
            if plain && !(name.is_empty() && *byte == b'.') {
                name.push(char::from(*byte));
            } else {
                // Writing to a String cannot fail.
                let _ = write!(name, "\\x{byte:02x}");
            }
        }
    }
    if name.is_empty() {
        name.push('-');
    }
    name + ".mount"
}

/// The unit's text. `WantedBy`, not `RequiredBy`: a machine whose state volume is damaged must still boot.
pub(super) fn text(device: &Path, point: &Path, subvolume: &str) -> String {
    format!(
        "# Written by safe-upgrade: its journal must lie outside of what a rollback takes back.\n\
         [Unit]\n\
         Description=State of safe-upgrade\n\
         \n\
         [Mount]\n\
         What={}\n\
         Where={}\n\
         Type=btrfs\n\
         Options=subvol=/{subvolume},nodev,nosuid\n\
         DirectoryMode=0700\n\
         \n\
         [Install]\n\
         WantedBy=local-fs.target\n",
        specifier(device),
        specifier(point),
    )
}

/// A percent sign would be a specifier.
fn specifier(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::exec::Exec;

    #[test]
    fn names_are_those_of_systemd() {
        assert_eq!(name(Path::new("/var/lib/safe-upgrade")), "var-lib-safe\\x2dupgrade.mount");
        let Ok(tool) = Exec::new("systemd-escape") else {
            println!("skipped: needs systemd-escape");
            return;
        };
        drop(tool);
        for path in ["/var/lib/safe-upgrade", "/", "/.hidden/x.y", "/srv/a b", "/a//b/", "/gr\u{fc}n"] {
            let exec = Exec::new("systemd-escape").unwrap().args(["--path", "--suffix=mount", path]);
            assert_eq!(name(Path::new(path)), exec.text().unwrap().trim_end(), "{path}");
        }
    }

    #[test]
    fn the_text() {
        let text =
            text(Path::new("/dev/disk/by-uuid/x"), Path::new("/var/lib/safe-upgrade"), "@safe-upgrade");
        assert!(text.contains("\nWhat=/dev/disk/by-uuid/x\nWhere=/var/lib/safe-upgrade\n"), "{text}");
        assert!(text.contains("\nOptions=subvol=/@safe-upgrade,"), "{text}");
    }
}
