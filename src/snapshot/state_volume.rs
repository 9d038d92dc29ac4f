//! The place of the journal: a top-level subvolume of its own, so that no rollback takes the journal back in time.

use std::ffi::CString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;
use serde::{Deserialize, Serialize};

use super::names::STATE_VOLUME;
use super::subvolume::{self, ROOT_INODE};
use super::{Change, SnapshotError, Subvolume, TopLevel, unit};
use crate::system::exec::Exec;
use crate::system::{durable, mounts, show};

/// Where the state volume is mounted.
pub const MOUNT_POINT: &str = "/var/lib/safe-upgrade";

/// Where its unit is written: on the root, so that the snapshot (taken later) has it too.
pub const UNIT_DIRECTORY: &str = "/etc/systemd/system";

/// How many names of what would be hidden an error shows.
const SHOWN_ENTRIES: usize = 5;

/// Where everything goes; tests have it elsewhere.
#[derive(Debug, Clone)]
pub struct Places {
    /// Where the volume is mounted.
    pub mount_point: PathBuf,
    /// Where the unit is written.
    pub unit_directory: PathBuf,
    /// Whether to ask systemd to mount it (when systemd runs this machine), rather than the kernel.
    pub by_systemd: bool,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            mount_point: MOUNT_POINT.into(),
            unit_directory: UNIT_DIRECTORY.into(),
            by_systemd: Path::new("/run/systemd/system").is_dir(),
        }
    }
}

/// Where a path lies with regard to a rollback of the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocationFacts {
    /// The mount that holds the path.
    pub mount_point: PathBuf,
    /// Its filesystem type.
    pub fs_type: String,
    /// The subvolume that holds the path, when it is on btrfs.
    pub subvolume: Option<Subvolume>,
    /// Whether that subvolume has its name directly on the top level and is not the root's.
    pub own_top_level: bool,
    /// Whether it is on the filesystem of the root.
    pub same_filesystem: bool,
    /// Whether a rollback of the root takes the path back, or moves it away with the failed root. Then no journal may be there.
    pub in_rollback_scope: bool,
}

/// Sees to it that the state volume exists (mode 0700), is mounted, and will be mounted at each boot. Each part is looked
/// for first, so it is repeatable; all of it is on disk when it returns.
///
/// # Errors
/// [`SnapshotError::WouldHide`] when the mount point holds files: nothing was changed then. [`SnapshotError::WrongMount`]
/// when something else is mounted there.
pub fn ensure(top: &TopLevel, places: &Places) -> Result<(Change, Subvolume), SnapshotError> {
    let point = &places.mount_point;
    let mounted = mounted_at(point)?;
    if mounted.is_none() {
        refuse_to_hide(point)?;
    }
    let made = top.create(STATE_VOLUME)?;
    let subvolume = made.subvolume;
    make_private(top)?;
    if let Some(found) = &mounted {
        expect(point, found, &subvolume)?;
    }
    durable::private_directory(point)?;
    let wrote = write_unit(top, places)?;
    if mounted.is_none() {
        mount(top, places)?;
        let found = mounted_at(point)?.unwrap_or_else(|| "nothing".to_owned());
        expect(point, &found, &subvolume)?;
    }
    let unchanged = made.change == Change::Unchanged && !wrote && mounted.is_some();
    Ok((if unchanged { Change::Unchanged } else { Change::Changed }, subvolume))
}

/// Finds out where an existing path lies with regard to the root that is mounted at `root`. Changes nothing; told by open
/// files and ids, so that neither names nor bind mounts can deceive it.
///
/// # Errors
/// When it cannot be found out: then nothing is proven.
pub fn location_facts(path: &Path, root: &Path) -> Result<LocationFacts, SnapshotError> {
    let real = std::fs::canonicalize(path).map_err(|source| SnapshotError::Path {
        action: "resolve",
        path: path.to_owned(),
        source,
    })?;
    let table = mounts::read()?;
    let (mount, root_mount) = (mounts::holding(&table, &real)?, mounts::holding(&table, root)?);
    let same_filesystem = mount.device == root_mount.device;
    let mut facts = LocationFacts {
        mount_point: mount.point.clone(),
        fs_type: mount.fs_type.clone(),
        subvolume: None,
        own_top_level: false,
        same_filesystem,
        in_rollback_scope: same_filesystem,
    };
    if mount.fs_type == "btrfs" {
        let found = subvolume::holding(&real)?;
        if same_filesystem {
            let root = subvolume::holding(root)?;
            facts.own_top_level = found.on_top_level() && found.id != root.id;
            // One that is nested (in the root or elsewhere) goes where its holder goes.
            facts.in_rollback_scope = !facts.own_top_level;
        } else {
            facts.own_top_level = found.on_top_level();
        }
        facts.subvolume = Some(found);
    }
    Ok(facts)
}

/// What is mounted exactly at a point, as text that [`expect`] compares: a UUID on btrfs, else the filesystem type.
fn mounted_at(point: &Path) -> Result<Option<String>, SnapshotError> {
    let table = mounts::read()?;
    let Some(mount) = table.iter().rfind(|mount| mount.point == point) else { return Ok(None) };
    if mount.fs_type != "btrfs" {
        return Ok(Some(mount.fs_type.clone()));
    }
    let inode = rustix::fs::stat(point).map_err(SnapshotError::path("look at", point))?.st_ino;
    if inode != ROOT_INODE {
        return Ok(Some(format!("the directory {}", show::path(&mount.root))));
    }
    Ok(Some(subvolume::holding(point)?.uuid.to_string()))
}

fn expect(point: &Path, found: &str, wanted: &Subvolume) -> Result<(), SnapshotError> {
    if found == wanted.uuid.to_string() {
        return Ok(());
    }
    Err(SnapshotError::WrongMount { path: point.to_owned(), found: found.to_owned(), wanted: wanted.uuid })
}

fn refuse_to_hide(point: &Path) -> Result<(), SnapshotError> {
    let failed = |source| SnapshotError::Path { action: "list", path: point.to_owned(), source };
    let entries = match std::fs::read_dir(point) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries.take(SHOWN_ENTRIES) {
        names.push(show::path(Path::new(&entry.map_err(failed)?.file_name())));
    }
    if names.is_empty() {
        return Ok(());
    }
    Err(SnapshotError::WouldHide { path: point.to_owned(), entries: names })
}

fn make_private(top: &TopLevel) -> Result<(), SnapshotError> {
    let path = top.path(Path::new(STATE_VOLUME));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))
        .and_then(|()| std::fs::File::open(&path)?.sync_all())
        .map_err(|source| SnapshotError::Path { action: "set the mode of", path, source })
}

/// Writes the unit and enables it; says whether anything had to be written.
fn write_unit(top: &TopLevel, places: &Places) -> Result<bool, SnapshotError> {
    let name = unit::name(&places.mount_point);
    let path = places.unit_directory.join(&name);
    let text = unit::text(&what(top), &places.mount_point, STATE_VOLUME);
    let mut wrote = false;
    if std::fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
        durable::replace_file(&path, text.as_bytes(), 0o644)?;
        wrote = true;
    }
    let wants = places.unit_directory.join("local-fs.target.wants");
    let link = wants.join(&name);
    if std::fs::read_link(&link).ok().as_ref() != Some(&path) {
        enable(&wants, &link, &path).map_err(|source| SnapshotError::Path {
            action: "enable",
            path: link,
            source,
        })?;
        durable::sync_directory(&wants)?;
        durable::sync_directory(&places.unit_directory)?;
        wrote = true;
    }
    Ok(wrote)
}

/// What `systemctl enable` does, without the need for a running systemd, and synced by the caller.
fn enable(wants: &Path, link: &Path, unit: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(wants)?;
    match std::fs::remove_file(link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(unit, link)
}

/// By UUID where udev keeps such links; a container has the device only. (`UUID=` would do on bookworm, but systemd 257 makes it a
/// link under `/dev/disk` that nobody keeps in a container, and the volume is not mounted: seen in a trial.)
fn what(top: &TopLevel) -> PathBuf {
    let by_uuid = Path::new("/dev/disk/by-uuid").join(top.uuid().to_string());
    if by_uuid.exists() { by_uuid } else { top.device().to_owned() }
}

fn mount(top: &TopLevel, places: &Places) -> Result<(), SnapshotError> {
    let point = &places.mount_point;
    if places.by_systemd {
        Exec::new("systemctl")?.arg("daemon-reload").success()?;
        Exec::new("systemctl")?.args(["start", &unit::name(point)]).success()?;
        return Ok(());
    }
    let options = CString::new(format!("subvol=/{STATE_VOLUME}")).unwrap_or_default();
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    rustix::mount::mount(top.device(), point.as_path(), "btrfs", flags, options.as_c_str())
        .map_err(SnapshotError::path("mount the state volume at", point))
}
