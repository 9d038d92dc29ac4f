//! The clone: the root and its neighbours by snapshot, or without snapshots as they are restored from the backup, what holds the boot
//! loader by copy, everything else left out, and all of it prepared so that nothing of it acts on its own.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use super::names::Names;
use super::restored::Backup;
use super::{RehearsalError, Result, inside, offline, quiet, volumes};
use crate::snapshot::TopLevel;
use crate::system::{beneath, durable, mounts};

/// Where the state of this program lies: outside of the clone, and empty in it.
pub(super) const STATE: &str = "/var/lib/safe-upgrade";

/// Where boot loaders, kernels and initrds may have a filesystem of their own.
pub(super) const BOOT: [&str; 4] = ["/boot", "/boot/efi", "/boot/firmware", "/efi"];

/// Where the unit files lie that no administrator wrote.
const UNITS: [&str; 3] = ["usr/lib/systemd/system", "lib/systemd/system", "usr/local/lib/systemd/system"];

/// Where the administrator's lie.
const OWN_UNITS: &str = "etc/systemd/system";

/// Something that the clone sees in a place of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Where it is on the host.
    pub from: PathBuf,
    /// Where the clone sees it.
    pub to: PathBuf,
    /// Whether the clone can write to it: only what was made for the clone.
    pub writable: bool,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clone {
    /// Where its root is mounted.
    pub root: PathBuf,
    /// How its root was made.
    pub made: String,
    /// What it sees besides its root.
    pub binds: Vec<Bind>,
    /// How each other filesystem of the host is given to it, one line each.
    pub volumes: Vec<String>,
    /// What was taken from it so that it keeps quiet, one line each.
    pub held: Vec<String>,
}

/// What the clone is made from and with.
#[derive(Clone, Copy)]
pub struct Parts<'p> {
    /// What it is made from.
    pub origin: &'p Origin,
    /// Where a backup is restored to.
    pub restored: Option<&'p Path>,
    /// This program, linked statically.
    pub program: &'p Path,
    /// The packages of the new release, fetched before.
    pub archives: &'p Path,
    /// The package lists of the new release, fetched before.
    pub lists: &'p Path,
    /// A directory of this rehearsal on the host.
    pub directory: &'p Path,
    /// Mount points of filesystems that somebody wants to be the real ones, read-only.
    pub show: &'p [PathBuf],
    /// Who hears how far it is.
    pub told: &'p dyn Fn(&str),
}

/// What the clone is made from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// The running root, by a snapshot of the subvolume with this name.
    Subvolume(String),
    /// The backup of it.
    Backup(Backup),
}

/// Clones the root and what belongs to it. What it makes is named by the rehearsal; [`super::sweep`] removes it.
///
/// # Errors
/// [`RehearsalError::Impossible`] when the backup cannot become a clone.
pub fn make(names: &Names, parts: &Parts<'_>) -> Result<Clone> {
    let root = names.mounts().join("root");
    let (top, made) = match parts.origin {
        Origin::Subvolume(name) => {
            let top = TopLevel::open(Path::new("/"))
                .map_err(RehearsalError::snapshot("open the filesystem of the root"))?;
            top.clone_writable(name, &names.root())
                .map_err(RehearsalError::snapshot("make the clone of the root"))?;
            mount(&top, &names.root(), &root)?;
            (Some(top), "a writable snapshot of the root".to_owned())
        }
        Origin::Backup(backup) => {
            let directory = restored(parts)?;
            let private = fs::DirBuilder::new().mode(0o700).create(directory);
            private.map_err(RehearsalError::path("create", directory))?;
            let to = directory.join("root");
            let made = backup.restore(Path::new("/"), &to, parts.told)?;
            mount_tree(&to, &root)?;
            (None, made)
        }
    };
    let mut clone = Clone { root, made, binds: Vec::new(), volumes: Vec::new(), held: Vec::new() };
    volumes::give(top.as_ref(), names, parts, &mut clone)?;
    prepare(parts, &mut clone)?;
    Ok(clone)
}

/// The directory that a backup is restored into, which only we can enter.
pub(super) fn restored<'p>(parts: &Parts<'p>) -> Result<&'p Path> {
    parts
        .restored
        .ok_or_else(|| RehearsalError::Impossible("nobody has said where the backup is restored to".into()))
}

/// The units that are masked while the clone runs. Asked anew before each boot: an upgrade brings new ones.
///
/// # Errors
/// When a directory of units cannot be listed.
pub fn masked(clone: &Clone) -> Result<Vec<String>> {
    let mut system = Vec::new();
    for directory in UNITS {
        system.extend(listed(&seen(clone, directory))?);
    }
    let etc = seen(clone, OWN_UNITS);
    let mut own = listed(&etc)?;
    // An enabled instance of a template is a link there, and nowhere a file.
    for wants in own.clone().iter().filter(|name| name.ends_with(".wants") || name.ends_with(".requires")) {
        let directory = etc.join(wants);
        if fs::symlink_metadata(&directory).is_ok_and(|facts| facts.is_dir()) {
            own.extend(listed(&directory)?);
        }
    }
    Ok(quiet::masked(system.iter().map(String::as_str), own.iter().map(String::as_str)))
}

/// Copies a file that the clone has written out of it; nothing is followed that it may have put in the way.
///
/// # Errors
/// When it is not there, or is no regular file.
pub fn take_out(clone: &Clone, name: &str, to: &Path) -> Result<()> {
    let home = Path::new(inside::HOME);
    let failed = |error: io::Error| RehearsalError::path("take out", home.join(name))(error);
    let (mut from, _) = beneath::regular(&directory(clone, home)?, name.as_ref()).map_err(failed)?;
    let mut file = File::create(to).map_err(RehearsalError::path("write", to))?;
    io::copy(&mut from, &mut file).map(drop).map_err(failed)
}

/// Writes a file into the rehearsal's directory in the clone.
///
/// # Errors
/// When it cannot be written.
pub fn put(clone: &Clone, name: &str, bytes: &[u8]) -> Result<()> {
    let home = below(clone, Path::new(inside::HOME))?;
    Ok(durable::replace_file(&beneath::path_of(&home).join(name), bytes, 0o600)?)
}

pub(super) fn mount(top: &TopLevel, name: &str, at: &Path) -> Result<()> {
    durable::private_directory(at)?;
    let options = std::ffi::CString::new(format!("subvol=/{name}"))
        .map_err(|error| RehearsalError::path("mount", at)(error.into()))?;
    rustix::mount::mount(top.device(), at, "btrfs", MountFlags::empty(), options.as_c_str())
        .map_err(|errno| RehearsalError::path("mount", at)(errno.into()))
}

/// Without what forbids programs and their privileges where the backup is restored to: the machine has them in its root.
fn mount_tree(tree: &Path, at: &Path) -> Result<()> {
    durable::private_directory(at)?;
    rustix::mount::mount_bind(tree, at)
        .and_then(|()| rustix::mount::mount_remount(at, MountFlags::BIND, c""))
        .map_err(|errno| RehearsalError::path("mount", at)(errno.into()))
}

/// Unmounts everything below a directory, inner ones first. Probes first.
///
/// # Errors
/// When something stays mounted.
pub fn unmount_below(directory: &Path) -> Result<()> {
    let table = mounts::read()?;
    for mount in table.iter().rev().filter(|mount| mount.point.starts_with(directory)) {
        let gone = rustix::mount::unmount(&mount.point, UnmountFlags::empty())
            .or_else(|_| rustix::mount::unmount(&mount.point, UnmountFlags::DETACH));
        gone.map_err(|errno| RehearsalError::path("unmount", &mount.point)(errno.into()))?;
    }
    Ok(())
}

/// A directory of the clone, reached through no link.
///
/// # Errors
/// When it is not there.
pub(super) fn directory(clone: &Clone, path: &Path) -> Result<OwnedFd> {
    let (from, rest) = writable(clone, path)?;
    beneath::directory(&open(from)?, &rest).map_err(|errno| RehearsalError::path("open", path)(errno.into()))
}

/// Everything below is reached beneath the clone's root, or what it sees in a place of its own, through no link: the clone's links
/// point into the host from out here.
fn prepare(parts: &Parts<'_>, clone: &mut Clone) -> Result<()> {
    for table in ["fstab", "crypttab"] {
        if switch_off(clone, table)? {
            clone.held.push(format!("/etc/{table}: every entry is switched off"));
        }
    }
    for queue in quiet::MAIL_QUEUES {
        let waiting = empty(clone, Path::new(queue))?;
        if waiting > 0 {
            clone.held.push(format!("/{queue}: {waiting} entries of waiting mail are deleted in the clone"));
        }
    }
    // A backup may have it; a snapshot of the root has not.
    empty(clone, Path::new(STATE))?;
    let home = below(clone, Path::new(inside::HOME))?;
    let path = |name: &str| beneath::path_of(&home).join(name);
    let put = |name: &str, mode, bytes: &[u8]| durable::replace_file(&path(name), bytes, mode);
    put(inside::PROGRAM, 0o755, b"")?;
    put(offline::SCRIPT, 0o755, offline::script().as_bytes())?;
    for directory in [inside::ARCHIVES, offline::METHODS] {
        let path = path(directory);
        fs::create_dir_all(&path).map_err(RehearsalError::path("create", &path))?;
    }
    for (name, target) in offline::methods() {
        let link = path(offline::METHODS).join(name);
        symlink(target, &link).map_err(RehearsalError::path("create", &link))?;
    }
    let parts_of_apt = below(clone, Path::new("/etc/apt/apt.conf.d"))?;
    let conf = beneath::path_of(&parts_of_apt).join(offline::CONF);
    durable::replace_file(&conf, offline::configuration().as_bytes(), 0o644)?;
    copy_lists(parts.lists, &below(clone, Path::new("/var/lib/apt/lists"))?)?;
    let bind = |from: &Path, name: &str| Bind {
        from: from.to_owned(),
        to: Path::new(inside::HOME).join(name),
        writable: false,
    };
    clone.binds.push(bind(parts.program, inside::PROGRAM));
    clone.binds.push(bind(parts.archives, inside::ARCHIVES));
    Ok(())
}

pub(super) fn open(path: &Path) -> Result<OwnedFd> {
    File::open(path).map(OwnedFd::from).map_err(RehearsalError::path("open", path))
}

/// Where a path of the clone is on the host: below which directory, by which rest of the path, and whether the clone can write there.
/// Of what it sees in places of their own the innermost holds the path.
fn place<'c>(clone: &'c Clone, path: &Path) -> (&'c Path, PathBuf, bool) {
    let path = Path::new("/").join(path);
    let over = clone.binds.iter().filter(|bind| path.starts_with(&bind.to));
    let (from, to, writable) = over
        .max_by_key(|bind| bind.to.components().count())
        .map_or((clone.root.as_path(), Path::new("/"), true), |bind| (&bind.from, &bind.to, bind.writable));
    (from, path.strip_prefix(to).unwrap_or(&path).to_owned(), writable)
}

/// Where something of the clone can be looked at.
fn seen(clone: &Clone, path: &str) -> PathBuf {
    let (from, rest, _) = place(clone, Path::new(path));
    from.join(rest)
}

/// [`place`], where it is the clone's own.
fn writable<'c>(clone: &'c Clone, path: &Path) -> Result<(&'c Path, PathBuf)> {
    match place(clone, path) {
        (from, rest, true) => Ok((from, rest)),
        _ => {
            Err(RehearsalError::path("use", path)(io::Error::other("the clone sees the machine's own there")))
        }
    }
}

/// A directory of the clone, part by part and through no link; what of it is missing is made.
fn below(clone: &Clone, path: &Path) -> Result<OwnedFd> {
    let (from, rest) = writable(clone, path)?;
    let failed = |errno: rustix::io::Errno| RehearsalError::path("open", path)(errno.into());
    let mut here = beneath::directory(&open(from)?, Path::new("")).map_err(failed)?;
    for part in rest.components() {
        match rustix::fs::mkdirat(&here, part.as_os_str(), rustix::fs::Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(RehearsalError::path("create", path)(errno.into())),
        }
        here = beneath::directory(&here, Path::new(part.as_os_str())).map_err(failed)?;
    }
    Ok(here)
}

/// A table that is a link, or cannot be read, is an error: the clone would mount what it says.
fn switch_off(clone: &Clone, table: &str) -> Result<bool> {
    let etc = below(clone, Path::new("/etc"))?;
    let path = beneath::path_of(&etc).join(table);
    let failed = || RehearsalError::path("switch off the entries of", Path::new("/etc").join(table));
    let mut file = match beneath::regular(&etc, table.as_ref()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.map_err(failed())?.0,
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut file, &mut bytes).map_err(failed())?;
    let text = String::from_utf8_lossy(&bytes);
    let quiet = quiet::without_entries(&text);
    durable::replace_file(&path, quiet.as_bytes(), 0o644)?;
    Ok(quiet != text)
}

/// What the clone sees of the machine itself is left alone.
fn empty(clone: &Clone, directory: &Path) -> Result<usize> {
    let (from, rest, true) = place(clone, directory) else { return Ok(0) };
    let opened = match beneath::directory(&open(from)?, &rest) {
        Err(errno) if beneath::is_none(errno) => return Ok(0),
        opened => opened.map_err(|errno| RehearsalError::path("open", directory)(errno.into()))?,
    };
    let path = beneath::path_of(&opened);
    let failed = || RehearsalError::path("empty", directory);
    let mut count = 0;
    for entry in fs::read_dir(&path).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let removed = match entry.file_type().map_err(failed())?.is_dir() {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
        removed.map_err(failed())?;
        count += 1;
    }
    Ok(count)
}

/// apt in the clone finds the lists of the new release where it looks for them, and asks only whether they are still the newest.
fn copy_lists(from: &Path, to: &OwnedFd) -> Result<()> {
    let to = beneath::path_of(to);
    for entry in fs::read_dir(from).map_err(RehearsalError::path("list", from))? {
        let entry = entry.map_err(RehearsalError::path("list", from))?;
        if entry.file_name() == "lock" || !entry.path().is_file() {
            continue;
        }
        let target = to.join(entry.file_name());
        fs::copy(entry.path(), &target).map_err(RehearsalError::path("copy", entry.path()))?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o644))
            .map_err(RehearsalError::path("set the mode of", &target))?;
        let time = entry.metadata().and_then(|facts| facts.modified());
        time.and_then(|time| File::options().write(true).open(&target)?.set_modified(time))
            .map_err(RehearsalError::path("set the time of", &target))?;
    }
    Ok(())
}

/// The names in a directory; none when it is not there.
fn listed(directory: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(RehearsalError::path("list", directory))?,
    };
    entries
        .map(|entry| {
            let entry = entry.map_err(RehearsalError::path("list", directory))?;
            Ok(entry.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clone whose /var is a volume of its own, with a shown filesystem in it.
    fn with_var(dir: &Path) -> Clone {
        let bind = |from: &str, to: &str, writable| Bind { from: dir.join(from), to: to.into(), writable };
        for name in ["root/etc", "root/var", "volume-1/spool/postfix/incoming", "real/postfix"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        Clone {
            root: dir.join("root"),
            made: String::new(),
            binds: vec![bind("volume-1", "/var", true), bind("real", "/var/real", false)],
            volumes: vec![],
            held: vec![],
        }
    }

    #[test]
    fn what_is_put_into_the_clone_is_where_the_clone_sees_it() {
        let dir = tempfile::tempdir().unwrap();
        let clone = with_var(dir.path());
        put(&clone, inside::TASK, b"{}").unwrap();
        assert!(dir.path().join("volume-1/lib/safe-upgrade/rehearsal/task.json").exists());
        assert_eq!(fs::read_dir(clone.root.join("var")).unwrap().count(), 0, "nobody sees that");
        take_out(&clone, inside::TASK, &dir.path().join("out")).unwrap();
        assert_eq!(fs::read(dir.path().join("out")).unwrap(), b"{}");
        assert_eq!(empty(&clone, Path::new("var/spool/postfix")).unwrap(), 1);
        assert_eq!(seen(&clone, OWN_UNITS), clone.root.join("etc/systemd/system"));
    }

    #[test]
    fn nothing_of_the_machine_itself_is_written_or_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let clone = with_var(dir.path());
        assert_eq!(empty(&clone, Path::new("var/real")).unwrap(), 0);
        assert!(dir.path().join("real/postfix").exists());
        assert!(below(&clone, Path::new("/var/real/lists")).is_err());
        assert!(!dir.path().join("real/lists").exists());
        assert_eq!(seen(&clone, "var/real"), dir.path().join("real"));
    }
}
