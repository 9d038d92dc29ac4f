//! How the root of a machine is laid out: facts only. What of them stops a run is judged in [`super::findings`].

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::names::{RunNames, STATE_VOLUME};
use super::subvolume::{ROOT_INODE, TOP_LEVEL_ID};
use super::top::Usage;
use super::{Nested, SnapshotError, Subvolume, TopLevel, Uuid, fstab, subvolume};
use crate::system::mounts::{self, Mount};

/// Filesystems that hold nothing a reboot would not make anew, or that belong to another machine.
const WITHOUT_DATA: [&str; 28] = [
    "autofs",
    "binder",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fuse.gvfsd-fuse",
    "fuse.lxcfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "ramfs",
    "resctrl",
    "rootfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// Where Debian and Ubuntu mount what a boot loader reads, when it is a filesystem of its own.
pub const BOOT_PLACES: [&str; 3] = ["/boot", "/boot/efi", "/efi"];

/// What a rollback does to a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountClass {
    /// It becomes again what it was in the snapshot.
    RolledBack,
    /// It is the boot loader's: copied before the upgrade, and brought back from the copy.
    Copied,
    /// It stays as it is, with what the new system wrote to it.
    Kept,
    /// It holds no data of this machine.
    WithoutData,
}

/// One mount and what a rollback does to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassifiedMount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// `btrfs`, `ext4`, ...
    pub fs_type: String,
    /// What a rollback does to it.
    pub class: MountClass,
    /// Why.
    pub reason: String,
}

/// How the root is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The filesystem type of the root.
    pub root_fs: String,
    /// Whether this is a container: its kernel command line and boot loader are another machine's.
    pub container: bool,
    /// Every mount, classified.
    pub mounts: Vec<ClassifiedMount>,
    /// More about the root when it is on btrfs.
    pub btrfs: Option<BtrfsLayout>,
}

/// A root on btrfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BtrfsLayout {
    /// The UUID of the filesystem.
    pub filesystem: Uuid,
    /// Its devices.
    pub devices: Vec<PathBuf>,
    /// The subvolume that is mounted as the root.
    pub root: Subvolume,
    /// Its path from the top level, as mounted now; empty for the top level itself.
    pub root_path: String,
    /// Whether the root of the machine is the root of that subvolume, and not a directory in it.
    pub root_is_subvolume: bool,
    /// The id of the subvolume that a mount without a name gets.
    pub default_subvolume: u64,
    /// What fstab says about the root.
    pub fstab: fstab::Choice,
    /// What the kernel command line says about the root (nothing in a container).
    pub cmdline: fstab::Choice,
    /// The subvolumes inside the root, which a snapshot of it does not contain.
    pub nested: Vec<Nested>,
    /// Names of the run that are taken on the top level.
    pub names_taken: Vec<String>,
    /// How full the filesystem is.
    pub usage: Usage,
}

impl BtrfsLayout {
    /// The root's plain name on the top level; `None` when it is the top level itself or lies deeper.
    #[must_use]
    pub fn root_name(&self) -> Option<&str> {
        (self.root_is_subvolume && self.root.on_top_level() && !self.root_path.contains('/'))
            .then_some(self.root_path.as_str())
    }

    /// Whether the root is the top level of the filesystem.
    #[must_use]
    pub fn root_on_top_level(&self) -> bool {
        self.root.id == TOP_LEVEL_ID
    }

    /// Whether the next boot mounts the root by its name: fstab or the command line says so, or nothing else would lead to
    /// it.
    #[must_use]
    pub fn mounted_by_name(&self) -> bool {
        self.fstab.name.is_some() || self.cmdline.name.is_some() || self.default_subvolume != self.root.id
    }
}

/// Reads the layout of the machine whose root is mounted at `root` (`/`, but for tests). With `names`, also which names of
/// that run are taken. Changes nothing.
///
/// # Errors
/// When something cannot be found out.
pub fn read(root: &Path, names: Option<&RunNames>) -> Result<Layout, SnapshotError> {
    let table = mounts::read()?;
    let mount = mounts::holding(&table, root)?;
    let container = Path::new("/run/systemd/container").exists();
    let btrfs = match mount.fs_type.as_str() {
        "btrfs" => Some(read_btrfs(root, mount, container, names)?),
        _ => None,
    };
    Ok(Layout { root_fs: mount.fs_type.clone(), container, mounts: classify(&table, mount), btrfs })
}

/// Classifies every mount of a table, given the root's. Pure.
#[must_use]
pub fn classify(table: &[Mount], root: &Mount) -> Vec<ClassifiedMount> {
    table
        .iter()
        .map(|mount| {
            let (class, reason) = class_of(mount, root);
            ClassifiedMount { point: mount.point.clone(), fs_type: mount.fs_type.clone(), class, reason }
        })
        .collect()
}

fn class_of(mount: &Mount, root: &Mount) -> (MountClass, String) {
    if WITHOUT_DATA.contains(&mount.fs_type.as_str()) {
        return (MountClass::WithoutData, format!("{} holds no data of this machine", mount.fs_type));
    }
    if BOOT_PLACES.iter().any(|place| mount.point == Path::new(place)) && mount.device != root.device {
        return (
            MountClass::Copied,
            "the boot loader's: copied before, and brought back from the copy".to_owned(),
        );
    }
    if mount.device != root.device {
        return (MountClass::Kept, format!("on a filesystem of its own ({})", mount.fs_type));
    }
    if root.fs_type != "btrfs" {
        return (MountClass::Kept, "there is no snapshot of this kind of filesystem".to_owned());
    }
    // By id: the same as long as the subvolume lives, whatever its name.
    if mount.option("subvolid") == root.option("subvolid") {
        return (MountClass::RolledBack, "part of the root subvolume".to_owned());
    }
    if mount.root.file_name().is_some_and(|name| name == STATE_VOLUME) {
        return (
            MountClass::Kept,
            "the journal of safe-upgrade, outside of the rollback on purpose".to_owned(),
        );
    }
    if mount.root.starts_with(&root.root) && root.root != Path::new("/") {
        return (MountClass::Kept, "a subvolume inside the root: it moves away with it".to_owned());
    }
    (MountClass::Kept, format!("a subvolume of its own ({})", crate::system::show::path(&mount.root)))
}

fn read_btrfs(
    root: &Path,
    mount: &Mount,
    container: bool,
    names: Option<&RunNames>,
) -> Result<BtrfsLayout, SnapshotError> {
    let top = TopLevel::open(root)?;
    let running = top.running_root()?;
    let inside = rustix::fs::stat(root).map_err(SnapshotError::path("look at", root))?.st_ino == ROOT_INODE;
    let root_path = mount.root.strip_prefix("/").unwrap_or(&mount.root);
    // On the top level every subvolume is "inside the root"; that it is there is finding enough.
    let nested = if running.id == TOP_LEVEL_ID || !inside { Vec::new() } else { top.nested(root_path)? };
    let mut names_taken = Vec::new();
    for name in names.iter().flat_map(|names| [names.before(), names.other_root()]) {
        if top.is_taken(&name)? {
            names_taken.push(name);
        }
    }
    let cmdline = if container { String::new() } else { read_text(Path::new("/proc/cmdline"))? };
    Ok(BtrfsLayout {
        filesystem: top.uuid(),
        devices: subvolume::devices(root)?,
        root: running,
        root_path: root_path.to_string_lossy().into_owned(),
        root_is_subvolume: inside,
        default_subvolume: top.default_subvolume()?,
        fstab: fstab::root_choice(&read_text(&root.join("etc/fstab"))?),
        cmdline: fstab::cmdline_choice(&cmdline),
        nested,
        names_taken,
        usage: top.usage()?,
    })
}

/// A file that is not there says nothing; one that cannot be read is an error.
fn read_text(path: &Path) -> Result<String, SnapshotError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(SnapshotError::Path { action: "read", path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = include_bytes!("../../tests/fixtures/snapshot/mountinfo-debian-btrfs");

    #[test]
    fn every_mount_is_classified() {
        let table = mounts::parse(TABLE).unwrap();
        let root = mounts::holding(&table, Path::new("/")).unwrap();
        let classes: Vec<(String, MountClass)> = classify(&table, root)
            .into_iter()
            .map(|mount| (mount.point.display().to_string(), mount.class))
            .collect();
        let expected = [
            ("/", MountClass::RolledBack),
            ("/proc", MountClass::WithoutData),
            ("/home", MountClass::Kept),
            ("/boot/efi", MountClass::Copied),
            ("/var/tmp/bound", MountClass::RolledBack),
            ("/var/lib/docker", MountClass::Kept),
            ("/var/lib/safe-upgrade", MountClass::Kept),
        ];
        assert_eq!(classes, expected.map(|(point, class)| (point.to_owned(), class)));
    }

    #[test]
    fn a_root_without_snapshots_is_never_rolled_back() {
        let table = mounts::parse(b"22 1 254:0 / / rw - ext4 /dev/vda1 rw\n").unwrap();
        assert_eq!(classify(&table, &table[0])[0].class, MountClass::Kept);
    }
}
