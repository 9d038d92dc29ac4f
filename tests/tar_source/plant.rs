//! Trees with everything that a tree can hold, and what each format of GNU tar loses of it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid};

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) directory: usize,
    pub(crate) name: Vec<u8>,
    pub(crate) what: What,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, u32),
    pub(crate) attributes: u8,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    Directory,
    File(Vec<u8>),
    /// Pieces of data at multiples of 128 KiB.
    Sparse(Vec<u8>),
    Symlink(Vec<u8>),
    HardLink,
    Fifo,
    Device(u32, u32),
}

/// What a format can be asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    pub(crate) name: &'static str,
    pub(crate) options: &'static [&'static str],
    /// What it loses when the tree has it.
    pub(crate) loses: &'static [&'static str],
    pub(crate) longest_name: usize,
    pub(crate) special: bool,
    pub(crate) large_numbers: bool,
}

const V7: Format = Format {
    name: "v7",
    options: &["--format=v7"],
    loses: &["hard-links", "mtime-nanoseconds", "xattrs", "acl", "holes"],
    longest_name: 20,
    special: false,
    large_numbers: false,
};
const USTAR: Format =
    Format { name: "ustar", options: &["--format=ustar"], longest_name: 60, special: true, ..V7 };
const GNU: Format =
    Format { name: "gnu", options: &["--format=gnu"], longest_name: 250, large_numbers: true, ..USTAR };
const PAX: Format = Format {
    name: "pax",
    options: &["--format=pax"],
    loses: &["hard-links", "xattrs", "acl", "holes"],
    ..GNU
};
pub(crate) const WHOLE: Format = Format {
    name: "pax with all",
    options: &["--format=pax", "--xattrs", "--acls", "-S"],
    loses: &["hard-links"],
    ..PAX
};

pub(crate) const FORMATS: [Format; 10] = [
    V7,
    USTAR,
    Format { name: "oldgnu", options: &["--format=oldgnu"], ..GNU },
    GNU,
    Format {
        name: "gnu sparse",
        options: &["--format=gnu", "-S"],
        loses: &["hard-links", "mtime-nanoseconds", "xattrs", "acl"],
        ..GNU
    },
    PAX,
    WHOLE,
    Format {
        name: "sparse 0.0",
        options: &["--format=pax", "--xattrs", "--acls", "-S", "--sparse-version=0.0"],
        ..WHOLE
    },
    Format {
        name: "sparse 0.1",
        options: &["--format=pax", "--xattrs", "--acls", "-S", "--sparse-version=0.1"],
        ..WHOLE
    },
    Format {
        name: "raw holes",
        options: &["--format=pax", "--xattrs", "--acls", "-S", "--hole-detection=raw"],
        ..WHOLE
    },
];

/// bsdtar keeps attributes and lists without being asked; in formats that cannot hold lists it must be told not to read them, or it
/// writes modes that no restore can mend.
pub(crate) const BSD_FORMATS: [Format; 3] = [
    Format { name: "bsdtar ustar", options: &["--format=ustar", "--no-acls"], ..USTAR },
    // Without times before 1970 as well: it writes them as 1970 here, and with a fraction that counts the wrong way in pax.
    // And with short names: it cuts those of sparse files, and restores them so.
    Format { name: "bsdtar gnutar", options: &["--format=gnutar", "--no-acls"], large_numbers: false, ..GNU },
    Format {
        name: "bsdtar pax",
        options: &["--format=pax"],
        large_numbers: false,
        longest_name: 40,
        ..WHOLE
    },
];

pub(crate) fn node() -> impl Strategy<Value = Node> {
    let name = prop_oneof![
        "[a-z]{1,8}".prop_map(String::into_bytes),
        Just(b"new\nline".to_vec()),
        Just(b"not-utf8-\xff\xfe".to_vec()),
        Just(b" ./leading %41=".iter().copied().filter(|byte| *byte != b'/').collect::<Vec<u8>>()),
        (60_usize..250).prop_map(|length| vec![b'n'; length]),
    ];
    let content = prop::collection::vec(any::<u8>(), 0..2000);
    let what = prop_oneof![
        2 => Just(What::Directory),
        4 => content.prop_map(What::File),
        1 => Just(What::File(vec![7; 700_001])),
        1 => prop::collection::vec(any::<u8>(), 0..12).prop_map(What::Sparse),
        1 => prop::collection::vec(1_u8..=255, 1..240).prop_map(What::Symlink),
        2 => Just(What::HardLink),
        1 => Just(What::Fifo),
        1 => (0_u32..300, 0_u32..70_000).prop_map(|(major, minor)| What::Device(major, minor)),
    ];
    let owner = prop_oneof![Just((0, 0)), (0_u32..70_000, 0_u32..70_000), Just((3_000_000_000, 2_097_152))];
    let mtime = prop_oneof![
        3 => (0_i64..4_000_000_000, 0_u32..1_000_000_000),
        1 => (0_i64..4_000_000_000).prop_map(|seconds| (seconds, 0)),
        1 => (-1_000_000_i64..0, 0_u32..1_000_000_000),
    ];
    (any::<usize>(), name, what, 0_u32..0o10000, owner, mtime, any::<u8>()).prop_map(
        |(directory, name, what, mode, owner, mtime, attributes)| Node {
            directory,
            name,
            what,
            mode,
            owner,
            mtime,
            attributes,
        },
    )
}

impl Format {
    /// The node as this format can hold it at all; tar itself refuses the rest.
    fn fitted(&self, node: &Node) -> Node {
        let mut node = node.clone();
        node.name.truncate(self.longest_name);
        if !self.large_numbers {
            node.owner = (node.owner.0 % 2_000_000, node.owner.1 % 2_000_000);
            node.mtime.0 = node.mtime.0.abs();
            if let What::Symlink(target) = &mut node.what {
                target.truncate(90);
            }
        }
        if !self.special && matches!(node.what, What::Fifo | What::Device(..)) {
            node.what = What::File(b"special".to_vec());
        }
        node
    }
}

/// Makes the tree; only what it says and nothing else.
pub(crate) fn plant(top: &Path, format: &Format, nodes: &[Node]) {
    let mut directories = vec![top.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    let mut planted: Vec<(PathBuf, Node)> = Vec::new();
    for node in nodes.iter().map(|node| format.fitted(node)) {
        // Short paths for the formats that need them.
        let depth = if format.longest_name < 100 { directories.len().min(2) } else { directories.len() };
        let path = directories[node.directory % depth].join(OsStr::from_bytes(&node.name));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match &node.what {
            What::Directory => {
                fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            What::File(content) => fs::write(&path, content).unwrap(),
            What::Sparse(places) => {
                let file = File::create(&path).unwrap();
                for place in places {
                    file.write_all_at(&[*place; 5000], u64::from(*place) * (128 << 10)).unwrap();
                }
                file.set_len(300 * (128 << 10) + u64::from(node.attributes) % 2).unwrap();
            }
            What::Symlink(target) => std::os::unix::fs::symlink(OsStr::from_bytes(target), &path).unwrap(),
            What::HardLink => {
                let Some(target) = files.get(node.directory % files.len().max(1)) else { continue };
                fs::hard_link(target, &path).unwrap();
                continue;
            }
            What::Fifo => {
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
            }
            What::Device(major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, mode, device).unwrap();
            }
        }
        if !matches!(node.what, What::Directory) {
            files.push(path.clone());
        }
        planted.push((path, node));
    }
    // What lies deepest first: it changes the times of what it lies in.
    for (path, node) in planted.iter().rev() {
        dress(path, node);
    }
}

fn dress(path: &Path, node: &Node) {
    let is_link = matches!(node.what, What::Symlink(_));
    let (uid, gid) = (Uid::from_raw(node.owner.0), Gid::from_raw(node.owner.1));
    rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    if !is_link {
        fs::set_permissions(path, fs::Permissions::from_mode(node.mode)).unwrap();
    }
    let regular = matches!(node.what, What::File(_) | What::Sparse(_) | What::Directory);
    let set = |name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    if regular && node.attributes & 1 != 0 {
        set("user.plain", b"value");
        set("user.odd=name%25", b"\0binary\n12 path=x\n\xff");
    }
    if matches!(node.what, What::File(_)) && node.attributes & 2 != 0 {
        set("security.capability", b"\x01\0\0\x02\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    }
    // A user with a name, if this machine has one, or a number.
    let someone = if node.attributes & 16 == 0 { 33 } else { 77_777 };
    if regular && node.attributes & 4 != 0 {
        set(
            "system.posix_acl_access",
            &acl(&[(1, 6, !0), (2, 4, someone), (2, 7, 99_999), (4, 4, !0), (16, 7, !0), (32, 0, !0)]),
        );
    }
    if matches!(node.what, What::Directory) && node.attributes & 8 != 0 {
        set(
            "system.posix_acl_default",
            &acl(&[(1, 7, !0), (4, 5, !0), (8, 5, 55_555), (16, 5, !0), (32, 5, !0)]),
        );
    }
    let at = Timespec { tv_sec: node.mtime.0, tv_nsec: node.mtime.1.into() };
    let times = Timestamps { last_access: at, last_modification: at };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// The kernel's form: version, then tag, permissions and id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut raw = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        raw.extend_from_slice(&tag.to_le_bytes());
        raw.extend_from_slice(&permissions.to_le_bytes());
        raw.extend_from_slice(&id.to_le_bytes());
    }
    raw
}
