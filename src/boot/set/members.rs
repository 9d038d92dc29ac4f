//! One member: what is mounted there, copying it, comparing it.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::SetError;
use super::record::KeptMember;
use crate::manifest::compare::Rules;
use crate::manifest::judge::judge;
use crate::manifest::scan::gather;
use crate::manifest::{Facts, Hashing, Report, ScanOptions};
use crate::system::checkpoint::{CheckpointError, checkpoint};
use crate::system::durable;
use crate::system::exec::Exec;
use crate::system::mounts::{self, Mount};

/// The longest that one rsync may take: `/boot` and the ESP are small, but the disk may be a slow one.
const COPY_LIMIT: Duration = Duration::from_secs(3600);

/// The longest that reading a UUID may take.
const UUID_LIMIT: Duration = Duration::from_secs(60);

/// What is mounted somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ground {
    pub(super) fs_type: String,
    pub(super) uuid: String,
    pub(super) read_only: bool,
}

/// How it is found out what is mounted somewhere: [`ground`], but in tests that have no such filesystem.
pub(super) type Look<'l> = &'l dyn Fn(&Path) -> Result<Ground, SetError>;

/// What is mounted at exactly this point.
pub(super) fn ground(point: &Path) -> Result<Ground, SetError> {
    // An automount shows its filesystem only to those who look inside.
    drop(std::fs::read_dir(point).map(|mut entries| entries.next().is_some()));
    let table = mounts::read()?;
    let mount = table.iter().rfind(|mount| mount.point == point);
    let mount = mount.ok_or_else(|| SetError::NotMounted(point.to_owned()))?;
    Ok(Ground { fs_type: mount.fs_type.clone(), uuid: uuid(mount)?, read_only: mount.read_only() })
}

/// Refuses a place that is not the one that was copied, or cannot be written.
pub(super) fn recognise(member: &KeptMember, found: &Ground) -> Result<(), SetError> {
    if (&found.fs_type, &found.uuid) != (&member.fs_type, &member.uuid) {
        return Err(SetError::OtherFilesystem {
            point: member.point.clone(),
            copied: member.filesystem(),
            found: format!("{} {}", found.fs_type, found.uuid),
        });
    }
    if found.read_only {
        return Err(SetError::ReadOnly(member.point.clone()));
    }
    Ok(())
}

/// Brings the copy of a member up to date.
pub(super) fn copy_away(point: &Path, tree: &Path) -> Result<(), SetError> {
    rsync(point, tree, &["-aHAXS", "--modify-window=-1"], &[])
}

/// Makes a member what its copy is, but for these paths, and waits until the disk has it.
pub(super) fn copy_back(tree: &Path, member: &KeptMember, spared: &[PathBuf]) -> Result<(), SetError> {
    // No `-S`: GRUB refuses to write to a sparse file.
    let whole = ["-aHAX", "--modify-window=-1"];
    // FAT has no owners, modes or links, and no time of its top directory.
    let fat = ["-rt", "--modify-window=2", "--omit-dir-times"];
    let how = if is_fat(&member.fs_type) { &fat[..] } else { &whole[..] };
    let mut spared = spared.to_vec();
    // What is mounted below (the ESP below /boot) is another filesystem's, its mount point included.
    spared.extend(mounted_below(&mounts::read()?, &member.point));
    rsync(tree, &member.point, how, &spared)?;
    seen_by_loader(&member.point)
}

/// Compares what is in a member's place with the manifest of its source.
pub(super) fn compare_place(set: &Path, member: &KeptMember) -> Result<Report, SetError> {
    let carries =
        if is_fat(&member.fs_type) { Facts::CONTENT.with(Facts::DIRECTORIES) } else { rsync_carries() };
    compare(&member.manifest(set), &member.point, set, carries)
}

/// Compares a stored copy with the manifest of its source.
pub(super) fn compare_copy(manifest: &Path, tree: &Path, scratch: &Path) -> Result<Report, SetError> {
    compare(manifest, tree, scratch, rsync_carries())
}

/// Waits until a filesystem's disk has all that was written to it.
pub(super) fn settle(point: &Path) -> Result<(), SetError> {
    Ok(durable::sync_filesystem(point)?)
}

/// A boot loader replays no journal: what it must read is brought out of it. A place on the running system's own filesystem, which must not be
/// frozen, is no place of a boot loader's own; it is only synced.
fn seen_by_loader(point: &Path) -> Result<(), SetError> {
    match checkpoint(point) {
        Err(CheckpointError::InUse { .. }) => settle(point),
        other => Ok(other?),
    }
}

fn uuid(mount: &Mount) -> Result<String, SetError> {
    let device = PathBuf::from(&mount.source);
    let is_it = std::fs::metadata(&device).is_ok_and(|found| {
        let number = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
        found.file_type().is_block_device() && number == mount.device
    });
    if !is_it {
        return Err(SetError::NoDevice { point: mount.point.clone(), device });
    }
    // Low-level probing: blkid's cache may be older than the filesystem.
    let asked = Exec::new("blkid").and_then(|exec| {
        exec.args(["-p", "-o", "value", "-s", "UUID", "--"]).arg(&device).limit(UUID_LIMIT).text()
    });
    let text = asked.map_err(|source| SetError::Uuid { point: mount.point.clone(), source })?;
    Ok(text.trim().to_owned())
}

fn is_fat(fs_type: &str) -> bool {
    matches!(fs_type, "vfat" | "msdos" | "exfat")
}

/// rsync does not copy the flags of chattr.
fn rsync_carries() -> Facts {
    Facts::restored_by(rustix::process::geteuid().is_root()).without(Facts::FLAGS)
}

fn compare(manifest: &Path, tree: &Path, scratch: &Path, carries: Facts) -> Result<Report, SetError> {
    // What only lies in memory proves nothing.
    let options = ScanOptions { evict: true, ..ScanOptions::default() };
    settle(tree)?;
    let found = gather(tree, &options, scratch, &|_| {})
        .map_err(|source| SetError::Tree { tree: tree.to_owned(), source })?;
    let accept_lost = Facts::ALL.without(carries);
    let rules = Rules { accept_lost, carries, scratch: scratch.to_owned(), ..Rules::default() };
    let mut report = Report::default();
    judge(manifest, &Hashing::plain(), found.sorted, &rules, &mut report)
        .map_err(|source| SetError::Manifest { path: manifest.to_owned(), source })?;
    report.levels.stored = true;
    Ok(report)
}

/// By content, because a size and a time prove nothing; what is superfluous goes first, because `/boot` may be full.
fn rsync(from: &Path, to: &Path, how: &[&str], spared: &[PathBuf]) -> Result<(), SetError> {
    let run = || {
        Exec::new("rsync")?
            .args(how)
            .args(["--numeric-ids", "--one-file-system", "--checksum", "--delete-before"])
            .args(spared.iter().map(|path| exclusion(path)))
            .arg("--")
            .args([with_slash(from), with_slash(to)])
            .limit(COPY_LIMIT)
            .success()
    };
    run().map(drop).map_err(|source| SetError::Copy { from: from.to_owned(), to: to.to_owned(), source })
}

/// The points of what is mounted below a point, relative to it.
fn mounted_below(table: &[Mount], point: &Path) -> Vec<PathBuf> {
    let below = |mount: &Mount| Some(mount.point.strip_prefix(point).ok()?.to_owned());
    table.iter().filter_map(below).filter(|path| !path.as_os_str().is_empty()).collect()
}

/// The option that makes rsync leave one path alone, on both sides. In a pattern with a wildcard a backslash escapes, in any
/// other it is itself.
fn exclusion(path: &Path) -> OsString {
    let bytes = path.as_os_str().as_bytes();
    let wild = bytes.iter().any(|byte| b"*?[".contains(byte));
    let mut option = b"--exclude=/".to_vec();
    for &byte in bytes {
        if wild && b"*?[\\".contains(&byte) {
            option.push(b'\\');
        }
        option.push(byte);
    }
    OsString::from_vec(option)
}

/// To rsync, `dir/` is what is in the directory. Both are absolute, so a colon in them is not taken for a host.
fn with_slash(path: &Path) -> OsString {
    let mut text = path.as_os_str().to_owned();
    text.push("/");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_below_is_found() {
        let table = mounts::parse(
            b"22 1 0:20 /@ / rw - btrfs /dev/vda4 rw\n31 22 254:3 / /boot rw - ext4 /dev/vda3 rw\n\
              32 31 254:2 / /boot/efi rw - vfat /dev/vda2 rw\n33 22 254:9 / /boots rw - ext4 /dev/vdb rw\n",
        );
        assert_eq!(mounted_below(&table.unwrap(), Path::new("/boot")), [Path::new("efi")]);
    }

    #[test]
    fn wildcards_in_names_are_taken_literally() {
        assert_eq!(exclusion(Path::new("grub/grub.cfg")), "--exclude=/grub/grub.cfg");
        assert_eq!(exclusion(Path::new("a[1]\\b*")), "--exclude=/a\\[1]\\\\b\\*");
        assert_eq!(exclusion(Path::new("a\\b")), "--exclude=/a\\b");
    }

    #[test]
    fn what_is_no_mount_point_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(ground(dir.path()), Err(SetError::NotMounted(_))));
        // Mounted, but on no block device: its UUID cannot be known.
        assert!(matches!(ground(Path::new("/proc")), Err(SetError::NoDevice { .. })));
    }
}
