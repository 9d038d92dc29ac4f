//! Room on filesystems beside the root: the root's own and that of `/boot` are predicted elsewhere, from what was downloaded.

use std::path::{Path, PathBuf};

use super::reading::{self, InspectError};
use crate::finding::Finding;
use crate::system::show;

/// What a server's packages grow by when nothing was predicted, in bytes. An assumption: a small bookworm server with PHP and two
/// databases grew by 600 MiB.
const GROWTH: u64 = 1 << 30;
/// Room that `/var` needs: dpkg's lists, apt's lists and caches, and old initrds beside new ones in `/var/tmp`.
const VAR: u64 = 700 << 20;
/// Room that making an initrd needs in `/tmp` or `/var/tmp`.
const TMP: u64 = 200 << 20;
/// Files that the upgrade makes beside the old ones. Source: the packages of a small server have 60,000 files, of which dpkg has at
/// most those of one package twice; new packages add the rest.
const INODES: u64 = 20_000;

/// The room of one filesystem.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Room {
    point: PathBuf,
    free: u64,
    /// Files that can still be made; `None` where the filesystem does not count them.
    inodes: Option<u64>,
}

/// The filesystems that packages write to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts(Vec<Room>);

pub(super) fn facts(root: &Path) -> Result<Facts, InspectError> {
    const POINTS: [&str; 8] =
        ["/", "/usr", "/var", "/var/lib", "/var/lib/dpkg", "/var/cache", "/var/tmp", "/tmp"];
    let mounts = reading::mounted(root)?;
    let mut rooms = Vec::new();
    for point in POINTS {
        if !mounts.iter().any(|mount| mount.point == Path::new(point)) {
            continue;
        }
        let path = reading::at(root, point);
        let found = rustix::fs::statvfs(&path)
            .map_err(|source| InspectError::Read { path: path.clone(), source: source.into() })?;
        rooms.push(Room {
            point: point.into(),
            free: found.f_bavail.saturating_mul(found.f_frsize),
            inodes: (found.f_files > 0).then_some(found.f_favail),
        });
    }
    Ok(Facts(rooms))
}

pub(super) fn findings(facts: &Facts, growth: Option<u64>) -> Vec<Finding> {
    let mut short = Vec::new();
    let mut inodes = Vec::new();
    for room in &facts.0 {
        let needed = match room.point.to_str() {
            Some("/usr") => growth.unwrap_or(GROWTH).max(TMP),
            Some("/var") => VAR,
            Some("/var/lib" | "/var/cache" | "/var/tmp" | "/tmp") => TMP,
            Some("/var/lib/dpkg") => TMP / 4,
            _ => 0,
        };
        let point = show::path(&room.point);
        if room.free < needed {
            short.push(format!(
                "{point}: {} MiB free, about {} MiB needed",
                room.free >> 20,
                needed.div_ceil(1 << 20)
            ));
        }
        if let Some(left) = room.inodes.filter(|left| *left < INODES && !room.point.ends_with("tmp")) {
            inodes.push(format!("{point}: {left} more files possible, about {INODES} needed"));
        }
    }
    let mut found = Vec::new();
    if !short.is_empty() {
        let what = "a filesystem beside the root has too little room: the upgrade would stop in the middle.";
        found.push(
            Finding::inhibitor("space", what, "make room there, for instance with apt-get clean")
                .with_evidence(short),
        );
    }
    if !inodes.is_empty() {
        let what = "a filesystem can hold too few more files, however much room it has: the upgrade would stop in the middle.";
        let remedy = "delete many small files there (old sessions, caches); `du --inodes -x -d 3 /` shows where they are";
        found.push(Finding::inhibitor("inodes", what, remedy).with_evidence(inodes));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::reading::made_up::{ids, tree};
    use super::*;

    fn of(point: &str, free_mib: u64, inodes: Option<u64>, growth: Option<u64>) -> Vec<String> {
        let room = Room { point: point.into(), free: free_mib << 20, inodes };
        ids(&findings(&Facts(vec![room]), growth))
    }

    #[test]
    fn what_each_filesystem_needs() {
        assert!(of("/usr", 1100, Some(1_000_000), None).is_empty());
        assert_eq!(of("/usr", 900, None, None), ["inhibitor space"]);
        assert!(of("/usr", 900, None, Some(600 << 20)).is_empty());
        assert_eq!(of("/var", 600, None, None), ["inhibitor space"]);
        assert_eq!(of("/tmp", 100, Some(10), None), ["inhibitor space"]);
        // The root's room is predicted by somebody else; its files are counted here.
        assert!(of("/", 10, None, None).is_empty());
        assert_eq!(of("/", 10, Some(500), None), ["inhibitor inodes"]);
    }

    #[test]
    fn only_mounts_are_measured() {
        let dir = tree(&[("proc/self/mountinfo", "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"), ("var/x", "")]);
        let facts = facts(dir.path()).unwrap();
        assert_eq!(facts.0.len(), 1);
        assert!(facts.0[0].free > 0);
    }
}
