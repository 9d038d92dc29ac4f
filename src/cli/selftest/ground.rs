//! The tree of the self-test: every kind of entry that this machine, this filesystem and this user can make.
//!
//! It is the same each time it is built, times included, so building it twice makes a tree and a copy.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, IFlags, Mode, SeekFrom, Timespec, Timestamps, UTIME_OMIT, XattrFlags, makedev,
    mknodat, setxattr, utimensat,
};

use crate::manifest::acl::Acl;
use crate::manifest::xattr::ACL_ACCESS;

/// What can be made here; `Err` says why not.
#[derive(Debug)]
pub(super) struct Able {
    /// Devices, and files of other owners.
    pub(super) root: Result<(), String>,
    /// Extended attributes.
    pub(super) xattrs: Result<(), String>,
    /// Access control lists.
    pub(super) acls: Result<(), String>,
    /// The flags of `chattr`.
    pub(super) flags: Result<(), String>,
    /// Holes that are seen as such.
    pub(super) holes: Result<(), String>,
}

/// The attribute that files have.
pub(super) const XATTR: &str = "user.selftest";

/// Seconds of every entry's time, and its nanoseconds.
pub(super) const TIME: (i64, i64) = (1_000_000_000, 123_456_789);

/// How long the files are whose content is damaged, in bytes.
const ORDINARY: usize = 64 << 10;
/// Of several blocks, in bytes.
pub(super) const LARGE: usize = 3 << 20;
/// Of the file with a hole, in bytes.
pub(super) const SPARSE: u64 = 1 << 20;

impl Able {
    /// Tries it out in an empty directory.
    pub(super) fn probe(directory: &Path) -> io::Result<Self> {
        let path = directory.join("probe");
        fs::write(&path, "probe")?;
        let says = |result: rustix::io::Result<()>, what: &str| {
            result.map_err(|errno| format!("this filesystem has no {what} ({errno})"))
        };
        let root = match rustix::process::geteuid().is_root() {
            false => Err("needs root".to_owned()),
            true => make_device(&directory.join("device"), 3)
                .map_err(|error| format!("no devices can be made here ({error})")),
        };
        let able = Self {
            root,
            xattrs: says(setxattr(&path, XATTR, b"probe", XattrFlags::empty()), "extended attributes"),
            acls: says(set_acl(&path, "user::rw-,user:1:r--,group::r--,mask::r--,other::---"), "ACLs"),
            flags: says(set_flags(&path, IFlags::NODUMP), "flags"),
            holes: holes(&directory.join("holes")),
        };
        fs::remove_dir_all(directory)?;
        fs::create_dir(directory)?;
        Ok(able)
    }
}

/// Builds the tree in a directory that is not there yet.
pub(super) fn build(tree: &Path, able: &Able) -> io::Result<()> {
    let at = |name: &str| tree.join(name);
    fs::create_dir(tree)?;
    fs::set_permissions(tree, Permissions::from_mode(0o755))?;
    for name in ["directory", "directory/deep", "directory/empty"] {
        fs::create_dir(at(name))?;
        fs::set_permissions(at(name), Permissions::from_mode(0o755))?;
    }
    write(&at("one"), &noise(1, ORDINARY), 0o644)?;
    write(&at("two"), &noise(2, ORDINARY), 0o640)?;
    write(&at("large"), &noise(3, LARGE), 0o600)?;
    write(&at("nothing"), b"", 0o644)?;
    write(&at("directory/program"), &noise(4, 1000), 0o755)?;
    write(&at("directory/deep/file"), b"deep", 0o444)?;
    write(&tree.join(OsStr::from_bytes(b"n\xffot \x1b[31mnice\n")), b"name", 0o644)?;
    write(&at("linked"), b"two names", 0o644)?;
    fs::hard_link(at("linked"), at("directory/linked"))?;
    write(&at("alike"), b"the same", 0o644)?;
    write(&at("alike too"), b"the same", 0o644)?;
    sparse(&at("sparse"))?;
    symlink("directory/program", at("link"))?;
    mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    drop(UnixListener::bind(at("directory/socket"))?);
    fs::set_permissions(at("directory/socket"), Permissions::from_mode(0o600))?;
    if able.root.is_ok() {
        make_device(&at("device"), 3)?;
        std::os::unix::fs::chown(at("two"), Some(1), Some(1))?;
    }
    write(&at("attributes"), b"attributes", 0o640)?;
    if able.xattrs.is_ok() {
        setxattr(at("attributes"), XATTR, b"value", XattrFlags::empty())?;
    }
    if able.acls.is_ok() {
        set_acl(&at("attributes"), "user::rw-,user:1:r--,group::r--,mask::r--,other::---")?;
    }
    write(&at("flags"), b"flags", 0o644)?;
    if able.flags.is_ok() {
        set_flags(&at("flags"), IFlags::NODUMP)?;
    }
    stamp(tree)
}

/// Gives every entry the time that all have. What is below a directory first: naming or removing something there moves its time.
pub(super) fn stamp(tree: &Path) -> io::Result<()> {
    if fs::symlink_metadata(tree)?.is_dir() {
        for entry in fs::read_dir(tree)? {
            stamp(&entry?.path())?;
        }
    }
    set_time(tree, TIME)
}

/// Sets the time of one entry; a link is not followed.
pub(super) fn set_time(path: &Path, (seconds, nanoseconds): (i64, i64)) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A character device of major number 1: 3 is `/dev/null`, 5 is `/dev/zero`.
pub(super) fn make_device(path: &Path, minor: u32) -> io::Result<()> {
    Ok(mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(1, minor))?)
}

/// Sets the access ACL that this text says.
pub(super) fn set_acl(path: &Path, text: &str) -> rustix::io::Result<()> {
    let acl = Acl::parse_text(text.as_bytes(), &|_, _| None).map_err(|_| rustix::io::Errno::INVAL)?;
    // The kernel's own names are ASCII.
    setxattr(path, OsStr::from_bytes(ACL_ACCESS), &acl.to_xattr(), XattrFlags::empty())
}

/// Sets the flags of `chattr`.
pub(super) fn set_flags(path: &Path, flags: IFlags) -> rustix::io::Result<()> {
    let file = rustix::fs::open(path, rustix::fs::OFlags::RDONLY, Mode::empty())?;
    let set_by_filesystem = rustix::fs::ioctl_getflags(&file)? - IFlags::NODUMP;
    rustix::fs::ioctl_setflags(&file, set_by_filesystem | flags)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    fs::write(path, bytes)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Bytes that no two places and no two files share.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn sparse(path: &Path) -> io::Result<()> {
    let file = File::create(path)?;
    file.write_all_at(b"begin", 0)?;
    file.write_all_at(b"end", SPARSE - 3)?;
    fs::set_permissions(path, Permissions::from_mode(0o644))
}

fn holes(path: &Path) -> Result<(), String> {
    let seen = || -> io::Result<u64> {
        sparse(path)?;
        Ok(rustix::fs::seek(File::open(path)?, SeekFrom::Hole(0))?)
    };
    match seen() {
        Ok(first) if first < SPARSE => Ok(()),
        Ok(_) => Err("this filesystem shows no holes".to_owned()),
        Err(error) => Err(format!("this filesystem shows no holes ({error})")),
    }
}
