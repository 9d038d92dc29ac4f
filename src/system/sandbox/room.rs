//! The engine's own root directory: the system's programs, what it reads and what it writes, and nothing else.
//!
//! Leaving the rest of the machine out is stronger than making it read-only: a socket in `/run` can be talked to and a device
//! in `/dev` written through a read-only mount.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};

use super::wire::Spec;
use crate::system::mounts::{self, Mount};

/// Where programs and their libraries lie. On a merged /usr most of these are symbolic links.
const SYSTEM: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// What programs need from /etc: the loader's cache, names for numbers, the time zone, Debian's alternatives. No secret is
/// among them.
const SETTINGS: [&str; 12] = [
    "alternatives",
    "group",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "passwd",
    "python3",
    "timezone",
];

/// What programs that use the network need on top.
const NETWORK_SETTINGS: [&str; 8] =
    ["ca-certificates", "gai.conf", "host.conf", "hosts", "protocols", "resolv.conf", "services", "ssl"];

const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// How much the engine may write under /tmp: it is memory.
const TEMPORARY: &std::ffi::CStr = c"size=256m,mode=1777";

/// A step of putting the room together that failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub(super) struct RoomError {
    what: String,
    source: io::Error,
}

fn failed<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> RoomError {
    move |source| RoomError { what: what.into(), source: source.into() }
}

/// What the engine sees of the machine before anything of its own: existing paths only.
pub(super) fn system_paths(network: bool) -> Vec<PathBuf> {
    let settings = SETTINGS.iter().chain(if network { NETWORK_SETTINGS.as_slice() } else { &[] });
    SYSTEM
        .iter()
        .map(|name| Path::new("/").join(name))
        .chain(settings.map(|name| Path::new("/etc").join(name)))
        .filter(|path| path.exists())
        .collect()
}

/// Puts the room together on `spec.root`, in this process's own mount namespace, and makes it the root directory.
pub(super) fn enter(spec: &Spec) -> Result<(), RoomError> {
    let root = Path::new(&spec.root);
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(failed("could not make the mounts private"))?;
    mount("tmpfs", root, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"size=16m,mode=0755")
        .map_err(failed("could not mount the new root"))?;
    make_temporary(root)?;
    make_devices(root)?;
    make_processes(root)?;
    for path in system_paths(spec.network.is_some()) {
        bind(root, &path)?;
    }
    let mut own: Vec<&Path> = spec.read.iter().chain(&spec.write).map(Path::new).collect();
    own.push(Path::new(&spec.program));
    own.push(Path::new(&spec.home));
    // A directory comes before what lies in it.
    own.sort_unstable();
    own.dedup();
    for path in own {
        bind(root, path)?;
    }
    close_all(root, spec)?;
    move_in(root)
}

fn make_temporary(root: &Path) -> Result<(), RoomError> {
    let point = root.join("tmp");
    fs::create_dir(&point).map_err(failed("could not make /tmp"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", &point, "tmpfs", flags, TEMPORARY).map_err(failed("could not mount /tmp"))
}

/// No disk is among them: whoever may write to a disk's device needs no mount to change what is on it.
fn make_devices(root: &Path) -> Result<(), RoomError> {
    let point = root.join("dev");
    let wrong = || "could not make /dev";
    fs::create_dir(&point).map_err(failed(wrong()))?;
    for name in DEVICES {
        File::create(point.join(name)).map_err(failed(wrong()))?;
        mount_bind(Path::new("/dev").join(name), point.join(name))
            .map_err(failed(format!("could not bring /dev/{name}")))?;
    }
    symlink("/proc/self/fd", point.join("fd")).map_err(failed(wrong()))?;
    for (number, name) in ["stdin", "stdout", "stderr"].into_iter().enumerate() {
        symlink(format!("/proc/self/fd/{number}"), point.join(name)).map_err(failed(wrong()))?;
    }
    Ok(())
}

fn make_processes(root: &Path) -> Result<(), RoomError> {
    let point = root.join("proc");
    fs::create_dir(&point).map_err(failed("could not make /proc"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", &point, "proc", flags, None).map_err(failed("could not mount /proc"))
}

/// Brings one path of the machine into the room, under the same name; symbolic links stay links.
fn bind(root: &Path, path: &Path) -> Result<(), RoomError> {
    let wrong = || format!("could not bring {} into the sandbox", path.display());
    let target = root.join(path.strip_prefix("/").unwrap_or(path));
    if path.components().any(|part| part == Component::ParentDir) || target == root {
        return Err(failed::<io::Error>(wrong())(io::Error::other("a path below / without .. is needed")));
    }
    let facts = fs::symlink_metadata(path).map_err(failed(wrong()))?;
    let parent = target.parent().unwrap_or(root);
    fs::create_dir_all(parent).map_err(failed(wrong()))?;
    if facts.is_symlink() && path.parent() == Some(Path::new("/")) {
        let link = fs::read_link(path).map_err(failed(wrong()))?;
        return symlink(link, target).map_err(failed(wrong()));
    }
    // What lies in a directory that was brought before is there already; it is bound once more, to be opened or closed by itself.
    if fs::symlink_metadata(&target).is_err() {
        let made = match fs::metadata(path).map_err(failed(wrong()))?.is_dir() {
            true => fs::create_dir(&target),
            false => File::create(&target).map(drop),
        };
        made.map_err(failed(wrong()))?;
    }
    mount_bind_recursive(path, &target).map_err(failed(wrong()))
}

/// Makes everything read-only but what may be written; no device can be opened and no set-user-id bit counts anywhere.
fn close_all(root: &Path, spec: &Spec) -> Result<(), RoomError> {
    let table = mounts::read().map_err(|error| {
        failed::<io::Error>("could not read the mounts of the sandbox")(io::Error::other(error))
    })?;
    let open: Vec<&Path> =
        spec.write.iter().map(Path::new).chain([Path::new(&spec.home), Path::new("/tmp")]).collect();
    for mounted in &table {
        let Ok(inside) = mounted.point.strip_prefix(root) else { continue };
        let inside = Path::new("/").join(inside);
        let mut flags = kept(mounted) | MountFlags::BIND | MountFlags::NOSUID;
        if inside.parent() != Some(Path::new("/dev")) {
            flags |= MountFlags::NODEV;
        }
        if open.iter().any(|path| is_opened_by(path, &inside, &spec.read)) {
            flags |= MountFlags::NOEXEC;
        } else {
            flags |= MountFlags::RDONLY;
        }
        mount_remount(&mounted.point, flags, c"")
            .map_err(failed(format!("could not close {}", inside.display())))?;
    }
    Ok(())
}

/// Whether a mount is open because a writable path covers it, and no closer path is to be read only.
fn is_opened_by(writable: &Path, point: &Path, read: &[impl AsRef<OsStr>]) -> bool {
    point.starts_with(writable)
        && !read
            .iter()
            .map(|path| Path::new(path.as_ref()))
            .any(|read| point.starts_with(read) && read.starts_with(writable) && read != writable)
}

/// The options that a remount must name again, or they would be lost; a user namespace may not drop them at all.
fn kept(mounted: &Mount) -> MountFlags {
    mounted.options.iter().fold(MountFlags::empty(), |flags, option| {
        flags
            | match option.as_str() {
                "ro" => MountFlags::RDONLY,
                "nosuid" => MountFlags::NOSUID,
                "nodev" => MountFlags::NODEV,
                "noexec" => MountFlags::NOEXEC,
                "noatime" => MountFlags::NOATIME,
                "nodiratime" => MountFlags::NODIRATIME,
                "relatime" => MountFlags::RELATIME,
                _ => MountFlags::empty(),
            }
    })
}

/// Makes the room the root directory and lets go of the old one.
fn move_in(root: &Path) -> Result<(), RoomError> {
    let wrong = "could not move into the sandbox's root directory";
    rustix::process::chdir(root).map_err(failed(wrong))?;
    // The old root is put on top of the new one and then taken off: no directory for it is needed (pivot_root(2)).
    rustix::process::pivot_root(".", ".").map_err(failed(wrong))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed(wrong))?;
    rustix::process::chdir("/").map_err(failed(wrong))
}

/// Makes a private directory that only its owner can enter.
pub(super) fn private(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}
