//! What is mounted where, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One mounted filesystem, or part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mount's id, unique while it lasts.
    pub id: u32,
    /// Device numbers as the kernel shows them; btrfs shows a number of its own for each subvolume.
    pub device: (u32, u32),
    /// The part of the filesystem that is mounted; on btrfs the subvolume's path from the top level.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// `ext4`, `btrfs`, ...
    pub fs_type: String,
    /// The device, or a name for filesystems without one.
    pub source: OsString,
    /// Options of the mount, then options of the filesystem.
    pub options: Vec<String>,
}

impl Mount {
    /// The value of an option `name=value`.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }

    /// Whether it is mounted read-only.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.options.iter().any(|option| option == "ro")
    }
}

/// The mount table could not be read or understood.
#[derive(Debug, thiserror::Error)]
pub enum MountsError {
    /// It could not be read.
    #[error("failed to read /proc/self/mountinfo")]
    Read(#[from] std::io::Error),
    /// A line was not understood.
    #[error("failed to understand the mountinfo line {0:?}")]
    Line(String),
    /// No mount holds the path.
    #[error("no mount holds {}", .0.display())]
    NotMounted(PathBuf),
}

/// Reads the mounts that this process sees, in the kernel's order.
///
/// # Errors
/// When the table cannot be read or a line is not understood.
pub fn read() -> Result<Vec<Mount>, MountsError> {
    parse(&std::fs::read("/proc/self/mountinfo")?)
}

/// Understands the text of a mountinfo file.
///
/// # Errors
/// [`MountsError::Line`] with the first line that is not understood.
pub fn parse(bytes: &[u8]) -> Result<Vec<Mount>, MountsError> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_line(line).ok_or_else(|| MountsError::Line(String::from_utf8_lossy(line).into_owned()))
        })
        .collect()
}

/// The mount that holds an absolute path without symbolic links: the longest mount point that is a prefix; of several on
/// one point the last, which covers the others.
///
/// # Errors
/// [`MountsError::NotMounted`].
pub fn holding<'m>(mounts: &'m [Mount], path: &Path) -> Result<&'m Mount, MountsError> {
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.as_os_str().len())
        .ok_or_else(|| MountsError::NotMounted(path.to_owned()))
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let _parent = fields.next()?;
    let (major, minor) = split_once(fields.next()?, b':')?;
    let root = path(fields.next()?);
    let point = path(fields.next()?);
    let mount_options = fields.next()?;
    // Zero or more optional fields, ended by a single hyphen.
    fields.find(|field| *field == b"-")?;
    let fs_type = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let source = OsString::from_vec(unescape(fields.next()?));
    let super_options = fields.next().unwrap_or_default();
    let options = [mount_options, super_options]
        .iter()
        .flat_map(|list| list.split(|byte| *byte == b','))
        .map(|option| String::from_utf8_lossy(&unescape(option)).into_owned())
        .collect();
    Some(Mount { id, device: (number(major)?, number(minor)?), root, point, fs_type, source, options })
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn split_once(field: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = field.iter().position(|byte| *byte == at)?;
    Some((&field[..position], &field[position + 1..]))
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(field)))
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        match after.get(..3).and_then(octal) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = &after[3..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 0:20 /@ / rw,relatime shared:1 - btrfs /dev/loop0 rw,ssd,subvolid=256,subvol=/@\n\
        31 22 0:20 /@home /home rw,relatime shared:5 master:2 - btrfs /dev/loop0 rw,subvolid=257,subvol=/@home\n\
        40 22 254:0 / /srv/my\\040disk ro - ext4 /dev/vda ro\n";

    #[test]
    fn understands_optional_fields_and_escapes() {
        let mounts = parse(TABLE).unwrap();
        assert_eq!(mounts[0].option("subvolid"), Some("256"));
        assert_eq!(mounts[0].root, Path::new("/@"));
        assert_eq!(mounts[2].point, Path::new("/srv/my disk"));
        assert_eq!(mounts[2].device, (254, 0));
        assert!(mounts[2].read_only() && !mounts[0].read_only());
    }

    #[test]
    fn the_longest_mount_point_holds_a_path() {
        let mounts = parse(TABLE).unwrap();
        assert_eq!(holding(&mounts, Path::new("/home/me")).unwrap().id, 31);
        assert_eq!(holding(&mounts, Path::new("/homely")).unwrap().id, 22);
    }

    #[test]
    fn a_cut_line_is_an_error() {
        assert!(parse(b"22 1 0:20 /@ / rw").is_err());
    }

    #[test]
    fn reads_this_machine() {
        assert!(read().unwrap().iter().any(|mount| mount.point == Path::new("/")));
    }
}
