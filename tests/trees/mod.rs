//! Trees made from a description, so that a property test can shrink them; and single changes to them.

#![allow(dead_code, unreachable_pub, reason = "each test uses some of it")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use safe_upgrade::manifest::acl::Acl;
use safe_upgrade::manifest::verdict::Class;

/// One thing in a tree; its directory is one of those described before it.
#[derive(Debug, Clone)]
pub struct Thing {
    pub name: Vec<u8>,
    pub parent: prop::sample::Index,
    pub what: What,
    pub mode: u32,
    pub owner: u32,
    pub seconds: i64,
    pub nanoseconds: i64,
    pub attribute: Option<Vec<u8>>,
    pub acl: bool,
}

#[derive(Debug, Clone)]
pub enum What {
    Directory,
    File(Vec<u8>),
    /// A hole of so many MiB before one byte.
    Sparse(u8),
    Symlink(Vec<u8>),
    /// Another name of one of the files before it.
    HardLink(prop::sample::Index),
    Fifo,
    Socket,
    Device(u32),
}

/// Any small tree. Devices and owners only where the process may make them.
pub fn things() -> impl Strategy<Value = Vec<Thing>> {
    prop::collection::vec(thing(), 1..14)
}

fn thing() -> impl Strategy<Value = Thing> {
    let name = prop_oneof![
        4 => "[a-c]{1,3}".prop_map(String::into_bytes),
        1 => "[ -.\n\\\\\"*é]{1,4}".prop_map(String::into_bytes),
        1 => prop::collection::vec(128_u8..=255, 1..4),
        1 => "n{120,250}".prop_map(String::into_bytes),
    ];
    let name = name.prop_filter("a name", |name| !matches!(&name[..], b"." | b".."));
    let what = prop_oneof![
        3 => Just(What::Directory),
        5 => prop::collection::vec(any::<u8>(), 0..300).prop_map(What::File),
        1 => (1_usize..40_000).prop_map(|size| What::File(vec![7; size * 37])),
        1 => (1_u8..4).prop_map(What::Sparse),
        2 => "[a-c./]{1,40}".prop_map(|target| What::Symlink(target.into_bytes())),
        2 => any::<prop::sample::Index>().prop_map(What::HardLink),
        1 => Just(What::Fifo),
        1 => Just(What::Socket),
        1 => (0_u32..300).prop_map(What::Device),
    ];
    let times = (-100_000_i64..2_000_000_000, prop_oneof![Just(0), 0_i64..1_000_000_000]);
    let attribute = prop::option::weighted(0.2, prop::collection::vec(any::<u8>(), 0..50));
    let parent = any::<prop::sample::Index>();
    (name, parent, what, 0_u32..0o7777, 0_u32..3, times, attribute, prop::bool::weighted(0.15)).prop_map(
        |(name, parent, what, mode, owner, (seconds, nanoseconds), attribute, acl)| Thing {
            name,
            parent,
            what,
            // The owner must be able to read it again.
            mode: mode | 0o400,
            owner: owner * 1000,
            seconds,
            nanoseconds,
            attribute,
            acl,
        },
    )
}

/// Makes the tree; things whose name is taken are left out. Says what there is, directories last and deepest first.
pub fn make(tree: &Path, things: &[Thing]) -> Vec<PathBuf> {
    fs::create_dir(tree).unwrap();
    let (mut directories, mut files, mut made) = (vec![tree.to_owned()], Vec::new(), Vec::new());
    for thing in things {
        let path = thing.parent.get(&directories).join(OsStr::from_bytes(&thing.name));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match &thing.what {
            What::Directory => {
                fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            What::File(content) => fs::write(&path, content).unwrap(),
            What::Sparse(mebibytes) => {
                let file = File::create(&path).unwrap();
                file.write_all_at(b"x", u64::from(*mebibytes) << 20).unwrap();
            }
            What::Symlink(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
            What::HardLink(_) if files.is_empty() => continue,
            What::HardLink(of) => {
                fs::hard_link(of.get(&files), &path).unwrap();
                continue;
            }
            What::Fifo => node(&path, FileType::Fifo, 0),
            What::Socket => node(&path, FileType::Socket, 0),
            What::Device(minor) => node(&path, FileType::CharacterDevice, rustix::fs::makedev(1, *minor)),
        }
        if matches!(thing.what, What::File(_) | What::Sparse(_)) {
            files.push(path.clone());
        }
        made.push((path, thing));
    }
    for (path, thing) in made.iter().rev() {
        dress(path, thing);
    }
    set_times(tree, 1_000_000_000, 5);
    made.into_iter().map(|(path, _)| path).collect()
}

fn node(path: &Path, kind: FileType, device: u64) {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), device).unwrap();
}

fn dress(path: &Path, thing: &Thing) {
    lchown(path, Some(thing.owner), Some(thing.owner)).unwrap();
    if !matches!(thing.what, What::Symlink(_)) {
        fs::set_permissions(path, fs::Permissions::from_mode(thing.mode)).unwrap();
    }
    if matches!(thing.what, What::Directory | What::File(_)) {
        if let Some(value) = &thing.attribute {
            set_attribute(path, "user.test", value);
        }
        if thing.acl {
            set_acl(path, "u::rwx,u:1234:r--,g::r-x,m::r-x,o::---");
        }
    }
    set_times(path, thing.seconds, thing.nanoseconds);
}

pub fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

pub fn set_acl(path: &Path, text: &str) {
    let acl = Acl::parse_text(text.as_bytes(), &|_, _| None).unwrap();
    set_attribute(path, "system.posix_acl_access", &acl.to_xattr());
}

pub fn set_times(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// One change to a tree that is otherwise left as it was, times included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Content,
    Append,
    Mode,
    Owner,
    Mtime,
    Attribute,
    Acl,
    Remove,
    Add,
    LinkTarget,
    BreakHardLink,
    Type,
}

impl Change {
    pub const ALL: [Self; 12] = [
        Self::Content,
        Self::Append,
        Self::Mode,
        Self::Owner,
        Self::Mtime,
        Self::Attribute,
        Self::Acl,
        Self::Remove,
        Self::Add,
        Self::LinkTarget,
        Self::BreakHardLink,
        Self::Type,
    ];

    /// What a manifest of the changed tree must say of a copy of the unchanged one.
    pub fn class(self) -> Class {
        match self {
            Self::Content => Class::Content,
            Self::Append => Class::Size,
            Self::Mode => Class::Mode,
            Self::Owner => Class::Owner,
            Self::Mtime => Class::Mtime,
            Self::Attribute => Class::Xattrs,
            Self::Acl => Class::Acl,
            Self::Remove => Class::Extra,
            Self::Add => Class::Missing,
            Self::LinkTarget => Class::LinkTarget,
            Self::BreakHardLink => Class::HardLinks,
            Self::Type => Class::Type,
        }
    }

    /// What a copy must be able to hold to show the change.
    pub fn fact(self) -> Option<&'static str> {
        match self {
            Self::Attribute => Some("xattrs"),
            Self::Acl => Some("acl"),
            _ => None,
        }
    }

    /// Makes the change to the tree of [`standard`]; says at which path.
    pub fn make(self, tree: &Path) -> &'static str {
        let file = tree.join("dir/file");
        match self {
            Self::Content => keeping_times(&file, || fs::write(&file, b"CONTENT").unwrap()),
            Self::Append => keeping_times(&file, || fs::write(&file, b"content and more").unwrap()),
            Self::Mode => fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap(),
            Self::Owner => chown(&file, Some(77), None).unwrap(),
            Self::Mtime => set_times(&file, 1_500_000_001, 0),
            Self::Attribute => set_attribute(&tree.join("dir/labelled"), "user.test", b"other"),
            Self::Acl => set_acl(&tree.join("dir/labelled"), "u::rw-,u:1234:---,g::r--,m::r--,o::---"),
            Self::Remove => within_directory(tree, || fs::remove_file(&file).unwrap()),
            Self::Add => within_directory(tree, || fs::write(tree.join("dir/new"), b"").unwrap()),
            Self::LinkTarget => within_directory(tree, || relink(&tree.join("dir/link"))),
            Self::BreakHardLink => within_directory(tree, || {
                let name = tree.join("dir/second name");
                fs::remove_file(&name).unwrap();
                fs::write(&name, b"linked").unwrap();
                fs::set_permissions(&name, fs::Permissions::from_mode(0o644)).unwrap();
                set_times(&name, 1_500_000_000, 0);
            }),
            Self::Type => within_directory(tree, || {
                fs::remove_file(&file).unwrap();
                fs::create_dir(&file).unwrap();
            }),
        }
        match self {
            Self::Attribute | Self::Acl => "dir/labelled",
            Self::Add => "dir/new",
            Self::LinkTarget => "dir/link",
            Self::BreakHardLink => "dir/second name",
            _ => "dir/file",
        }
    }
}

/// A tree with one of everything that a change needs.
pub fn standard(tree: &Path) {
    let dir = tree.join("dir");
    fs::create_dir_all(&dir).unwrap();
    for (name, content) in
        [("file", &b"content"[..]), ("labelled", b"x"), ("name", b"linked"), ("plain", b"p")]
    {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    set_attribute(&dir.join("labelled"), "user.test", b"value");
    set_acl(&dir.join("labelled"), "u::rw-,u:1234:r--,g::r--,m::r--,o::---");
    // A directory with a list and without a default list: borg writes an empty text for the latter.
    set_acl(&dir, "u::rwx,u:1234:r-x,g::r-x,m::r-x,o::---");
    fs::hard_link(dir.join("name"), dir.join("second name")).unwrap();
    symlink("file", dir.join("link")).unwrap();
    for name in ["file", "labelled", "name", "plain", "link"] {
        set_times(&dir.join(name), 1_500_000_000, 0);
    }
    set_times(&dir, 1_500_000_000, 0);
    set_times(tree, 1_500_000_000, 0);
}

fn relink(link: &Path) {
    fs::remove_file(link).unwrap();
    symlink("elsewhere", link).unwrap();
    set_times(link, 1_500_000_000, 0);
}

fn keeping_times(path: &Path, change: impl FnOnce()) {
    change();
    set_times(path, 1_500_000_000, 0);
}

fn within_directory(tree: &Path, change: impl FnOnce()) {
    change();
    set_times(&tree.join("dir"), 1_500_000_000, 0);
}

/// Whether this process may make everything: owners, devices.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
