//! The other filesystems of the machine, as the clone sees them: clones and copies of its own, the real ones only where somebody named
//! them, and an empty directory in the place of everything else.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::clone::{BOOT, Bind, Clone, Origin, Parts, STATE, mount, open, restored};
use super::names::Names;
use super::{RehearsalError, Result};
use crate::health::known;
use crate::snapshot::{TopLevel, subvolume};
use crate::system::exec::Exec;
use crate::system::mounts::{self, Mount};
use crate::system::{beneath, durable, show};

/// Filesystems whose answer may never come: nothing of them is looked at, unless somebody names them.
const NETWORK: [&str; 14] = [
    "9p",
    "afs",
    "autofs",
    "beegfs",
    "ceph",
    "cifs",
    "davfs",
    "fuse",
    "gfs2",
    "glusterfs",
    "lustre",
    "nfs",
    "nfs4",
    "smb3",
];

/// Filesystems that are neither a disk nor a network store.
const OTHER_FILESYSTEMS: [&str; 4] = ["devtmpfs", "tmpfs", "overlay", "squashfs"];

/// What is said of a filesystem of which the clone sees nothing.
const LEFT_OUT: &str =
    "left out, an empty directory: name it in [rehearsal] show to have the real one, read-only";

/// Where the empty directories lie, in the rehearsal's directory.
const EMPTY: &str = "volumes/empty";

/// How one filesystem of the host is given: from where, whether the clone can write to it, and in words.
type Given = (PathBuf, bool, String);

/// What starts the clone, before it sees anything in a place of its own: on the root, or nowhere.
const ON_THE_ROOT: [&str; 2] = ["/etc", "/usr"];

/// Without these there is nothing to be upgraded: on the root, or on a filesystem of which the clone has its own.
const HELD: [&str; 3] = ["/var", "/var/lib", "/var/lib/dpkg"];

/// Whether a clone would have of this machine what an upgrade needs.
///
/// # Errors
/// [`RehearsalError::Impossible`] names the filesystem that it would not have.
pub fn needed(origin: &Origin) -> Result<()> {
    let table = mounts::read()?;
    for place in ON_THE_ROOT {
        if last_on(&table, place).is_some() {
            return Err(RehearsalError::Impossible(format!(
                "{place} is a filesystem of its own, and the clone boots only when it is on the root"
            )));
        }
    }
    let top = match origin {
        Origin::Subvolume(_) => Some(
            TopLevel::open(Path::new("/"))
                .map_err(RehearsalError::snapshot("open the filesystem of the root"))?,
        ),
        Origin::Backup(_) => None,
    };
    for mount in HELD.into_iter().filter_map(|place| last_on(&table, place)) {
        if !is_held(top.as_ref(), origin, mount)? {
            let remedy = match origin {
                Origin::Subvolume(_) => "only subvolumes of the root's filesystem are cloned with it",
                Origin::Backup(_) => "name it in backup.trees, then `safe-upgrade backup`",
            };
            return Err(RehearsalError::Impossible(format!(
                "{} is a filesystem of its own, and the clone would have nothing of it: {remedy}",
                show::path(&mount.point)
            )));
        }
    }
    Ok(())
}

/// Of several mounts on one point the last covers the others.
fn last_on<'m>(table: &'m [Mount], place: &str) -> Option<&'m Mount> {
    table.iter().rev().find(|mount| mount.point == Path::new(place))
}

/// As [`found`] finds it, without anything being made.
fn is_held(top: Option<&TopLevel>, origin: &Origin, mount: &Mount) -> Result<bool> {
    if is_network(mount) || OTHER_FILESYSTEMS.contains(&mount.fs_type.as_str()) {
        return Ok(false);
    }
    let in_backup = matches!(origin, Origin::Backup(backup) if backup.holds(&mount.point));
    let cloned = top.is_some_and(|top| neighbour(top, mount).is_some());
    Ok(in_backup || cloned || of_the_root(origin, mount)?.is_some())
}

/// Gives the clone what it can have of each of them, and says so in it.
///
/// # Errors
/// When a clone or a copy cannot be made.
pub(super) fn give(
    top: Option<&TopLevel>,
    names: &Names,
    parts: &Parts<'_>,
    clone: &mut Clone,
) -> Result<()> {
    for (number, mount) in others(&mounts::read()?).into_iter().enumerate() {
        give_one(top, names, parts, (number, mount), clone)?;
    }
    Ok(())
}

fn give_one(
    top: Option<&TopLevel>,
    names: &Names,
    parts: &Parts<'_>,
    (number, mount): (usize, Mount),
    clone: &mut Clone,
) -> Result<()> {
    let found = match is_network(&mount) {
        true => None,
        false => found(top, names, parts, (number, &mount), clone)?,
    };
    let (from, writable, how) = match found {
        Some(given) => given,
        None if parts.show.contains(&mount.point) => {
            (mount.point.clone(), false, "the real one, read-only".to_owned())
        }
        // Not the real one, read-only: that keeps nobody from a service's socket in it, nor from writing to a pipe.
        None => (empty(parts.directory, number, &mount)?, true, LEFT_OUT.to_owned()),
    };
    // What is mounted in an empty one needs a place there.
    let outer = clone.binds.iter().rev().find(|bind| mount.point.starts_with(&bind.to));
    if let Some(outer) = outer.filter(|bind| bind.from.starts_with(parts.directory.join(EMPTY))) {
        let place = outer.from.join(mount.point.strip_prefix(&outer.to).unwrap_or(Path::new("")));
        fs::create_dir_all(&place).map_err(RehearsalError::path("create", &place))?;
    }
    clone.volumes.push(format!("{}: {how}", show::path(&mount.point)));
    clone.binds.push(Bind { from, to: mount.point, writable });
    Ok(())
}

/// The other filesystems of this machine that hold something to be seen, outer ones first; of several on one point the last, which
/// covers the others.
fn others(table: &[Mount]) -> Vec<Mount> {
    let mut kept: Vec<Mount> = table
        .iter()
        .rev()
        .filter(|mount| mount.point != Path::new("/") && !mount.point.starts_with(STATE))
        .filter(|mount| known::is_kept_mount(&mount.point.to_string_lossy(), &mount.fs_type))
        .filter(|mount| !OTHER_FILESYSTEMS.contains(&mount.fs_type.as_str()))
        .filter(|mount| is_network(mount) || mount.point.is_dir())
        .cloned()
        .collect();
    kept.sort_by(|one, other| one.point.cmp(&other.point));
    kept.dedup_by(|one, other| one.point == other.point);
    kept
}

/// What holds the boot loader is local, also where it is mounted at the first look only.
fn is_network(mount: &Mount) -> bool {
    let remote = NETWORK.contains(&mount.fs_type.as_str()) || mount.fs_type.starts_with("fuse.");
    remote && !BOOT.iter().any(|place| mount.point == Path::new(place))
}

/// An empty directory in the place of a filesystem, with its owner and permissions: packages write there, and their scripts fail when
/// they cannot.
fn empty(directory: &Path, number: usize, mount: &Mount) -> Result<PathBuf> {
    let empty = directory.join(EMPTY).join(number.to_string());
    fs::create_dir_all(&empty).map_err(RehearsalError::path("create", &empty))?;
    // Of a network filesystem not even this is asked.
    let mode = match is_network(mount) {
        true => 0o755,
        false => {
            let facts = fs::metadata(&mount.point).map_err(RehearsalError::path("look at", &mount.point))?;
            chown(&empty, Some(facts.uid()), Some(facts.gid()))
                .map_err(RehearsalError::path("set the owner of", &empty))?;
            facts.mode() & 0o7777
        }
    };
    fs::set_permissions(&empty, fs::Permissions::from_mode(mode))
        .map_err(RehearsalError::path("set the mode of", &empty))?;
    Ok(empty)
}

/// What the clone can have of a filesystem without touching it.
fn found(
    top: Option<&TopLevel>,
    names: &Names,
    parts: &Parts<'_>,
    (number, mount): (usize, &Mount),
    clone: &Clone,
) -> Result<Option<Given>> {
    let at = names.mounts().join(format!("volume-{number}"));
    if let Some((top, source)) = top.and_then(|top| Some((top, neighbour(top, mount)?))) {
        let name = names.volume(number);
        top.clone_writable(&source, &name).map_err(RehearsalError::snapshot("make the clone of a volume"))?;
        self::mount(top, &name, &at)?;
        return Ok(Some((at, true, "a clone".to_owned())));
    }
    if BOOT.iter().any(|place| mount.point == Path::new(place)) {
        let copy = parts.directory.join("volumes").join(number.to_string());
        durable::private_directory(&copy)?;
        Exec::new("cp")
            .and_then(|exec| {
                exec.args(["-a", "-x", "--reflink=auto"]).arg(mount.point.join(".")).arg(&copy).success()
            })
            .map_err(RehearsalError::exec("copy what holds the boot loader"))?;
        return Ok(Some((copy, true, "a copy".to_owned())));
    }
    if let Origin::Backup(backup) = parts.origin
        && backup.holds(&mount.point)
    {
        let to = restored(parts)?.join(format!("volume-{number}"));
        let how = backup.restore(&mount.point, &to, parts.told)?;
        return Ok(Some((to, true, how)));
    }
    let Some(inner) = of_the_root(parts.origin, mount)? else { return Ok(None) };
    let opened = match beneath::directory(&open(&clone.root)?, &inner) {
        Err(errno) if beneath::is_none(errno) => return Ok(None),
        opened => opened.map_err(|errno| RehearsalError::path("open", &inner)(errno.into()))?,
    };
    durable::private_directory(&at)?;
    rustix::mount::mount_bind(beneath::path_of(&opened), &at)
        .map_err(|errno| RehearsalError::path("mount", &at)(errno.into()))?;
    Ok(Some((at, true, format!("the clone's own /{}", show::path(&inner)))))
}

/// Where in the root it lies, when it is a directory of the root that is mounted at a second place.
fn of_the_root(origin: &Origin, mount: &Mount) -> Result<Option<PathBuf>> {
    let table = mounts::read()?;
    let root = mounts::holding(&table, Path::new("/"))?;
    let Some(inner) = second_place(root, mount) else { return Ok(None) };
    if let Origin::Subvolume(name) = origin {
        // A subvolume inside of the root is not in its snapshot.
        let held = subvolume::holding(&mount.point)
            .map_err(RehearsalError::snapshot("ask which subvolume a mount is of"))?;
        if held.name != *name || !held.on_top_level() {
            return Ok(None);
        }
    }
    Ok(Some(inner))
}

fn second_place(root: &Mount, mount: &Mount) -> Option<PathBuf> {
    let same = root.fs_type == mount.fs_type && (root.device == mount.device || root.source == mount.source);
    let inner = mount.root.strip_prefix(&root.root).ok()?;
    (same && !inner.as_os_str().is_empty()).then(|| inner.to_owned())
}

/// The name of a subvolume on the top level of the root's own filesystem that is mounted whole.
fn neighbour(top: &TopLevel, mount: &Mount) -> Option<String> {
    if mount.fs_type != "btrfs" || subvolume::filesystem_of(&mount.point).ok()? != top.uuid() {
        return None;
    }
    let found = subvolume::holding(&mount.point).ok()?;
    let whole = mount.root.strip_prefix("/").is_ok_and(|root| root == Path::new(&found.name));
    (whole && found.on_top_level() && !found.name.is_empty()).then_some(found.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(point: &Path, fs_type: &str) -> Mount {
        Mount {
            id: 1,
            device: (0, 1),
            root: "/".into(),
            point: point.to_owned(),
            fs_type: fs_type.into(),
            source: "none".into(),
            options: Vec::new(),
        }
    }

    #[test]
    fn what_is_left_out_can_be_written_by_whom_it_belongs_to() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("mysql");
        fs::create_dir(&real).unwrap();
        fs::write(real.join("ibdata1"), "").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o2750)).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(&real, Some(112), Some(115)).unwrap();
            fs::set_permissions(&real, fs::Permissions::from_mode(0o2750)).unwrap();
        }
        let empty = |number, fs_type| super::empty(dir.path(), number, &mount(&real, fs_type)).unwrap();
        let (expected, own) = (fs::metadata(&real).unwrap(), empty(3, "xfs"));
        let facts = fs::metadata(&own).unwrap();
        assert_eq!(
            (facts.mode(), facts.uid(), facts.gid()),
            (expected.mode(), expected.uid(), expected.gid())
        );
        assert_eq!(fs::read_dir(&own).unwrap().count(), 0);
        assert!(own.starts_with(dir.path().join("volumes")), "a sweep takes it away");
        // The server may be gone, and whoever asks it waits for ever.
        let facts = fs::metadata(empty(4, "nfs4")).unwrap();
        assert_eq!((facts.mode() & 0o7777, facts.uid()), (0o755, rustix::process::geteuid().as_raw()));
    }
}
