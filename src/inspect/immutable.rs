//! Files with `chattr +i` or `+a`: dpkg can't replace them, and fails in the middle.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use walkdir::WalkDir;

use super::reading::{self, InspectError};
use crate::finding::Finding;
use crate::system::show;

/// Where packages have files that they replace.
const TREES: [&str; 3] = ["etc", "usr", "boot"];
/// The scripts of packages add users and groups.
const ACCOUNTS: [&str; 6] =
    ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/subuid", "/etc/subgid"];
/// More entries than this, or longer than this, is not looked for.
const MOST_ENTRIES: usize = 1_000_000;
const LIMIT: Duration = Duration::from_secs(15);
/// More files than this are not listed.
const LISTED: usize = 20;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Files that packages or their scripts change, and directories.
    in_the_way: Vec<String>,
    /// Others.
    harmless: Vec<String>,
    /// Not everything was looked at.
    cut_off: bool,
}

pub(super) fn facts(root: &Path) -> Result<Facts, InspectError> {
    let mut found = Facts::default();
    let mut fixed: Vec<(PathBuf, bool)> = Vec::new();
    let deadline = Instant::now() + LIMIT;
    let mut left = MOST_ENTRIES;
    'trees: for tree in TREES {
        for entry in WalkDir::new(root.join(tree)).same_file_system(true) {
            if left == 0 || Instant::now() > deadline {
                found.cut_off = true;
                break 'trees;
            }
            left -= 1;
            // What vanishes meanwhile, or cannot be entered even by root (a user's mount), is no file of a package.
            let Ok(entry) = entry else { continue };
            if !entry.file_type().is_symlink() && is_fixed(entry.path()) {
                let below = entry.path().strip_prefix(root).unwrap_or(entry.path());
                fixed.push((Path::new("/").join(below), entry.file_type().is_dir()));
            }
        }
    }
    if fixed.is_empty() {
        return Ok(found);
    }
    let owned = owned(root, &fixed)?;
    for (path, is_directory) in fixed {
        let needed = is_directory
            || owned.contains(&path)
            || ACCOUNTS.iter().any(|account| path == Path::new(account));
        let list = if needed { &mut found.in_the_way } else { &mut found.harmless };
        list.push(show::path(&path));
    }
    Ok(found)
}

/// Whether a file can't be replaced, or only be appended to. A filesystem that knows no such flags has none.
fn is_fixed(path: &Path) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(CWD, path, flags, StatxFlags::empty()).is_ok_and(|found| {
        found.stx_attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND)
    })
}

/// Those that a package brought: by dpkg's lists of files, under either name on a merged `/usr`, and as configuration files.
fn owned(root: &Path, files: &[(PathBuf, bool)]) -> Result<BTreeSet<PathBuf>, InspectError> {
    let mut owned = BTreeSet::new();
    let info = "var/lib/dpkg/info";
    for name in reading::names(root, info)?.iter().filter(|name| name.ends_with(".list")) {
        let path = reading::at(root, info).join(name);
        let bytes = fs::read(&path).map_err(|source| InspectError::Read { path, source })?;
        let text = String::from_utf8_lossy(&bytes);
        let lines: BTreeSet<&Path> = text.lines().map(Path::new).collect();
        for (file, _) in files {
            let unmerged = file.strip_prefix("/usr").ok().map(|rest| Path::new("/").join(rest));
            if lines.contains(file.as_path()) || unmerged.is_some_and(|file| lines.contains(file.as_path())) {
                owned.insert(file.clone());
            }
        }
    }
    Ok(owned)
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let listed = |lines: &[String]| lines.iter().take(LISTED).cloned().collect::<Vec<_>>();
    if !facts.in_the_way.is_empty() {
        let what = format!(
            "{} files or directories that packages change are protected by chattr: dpkg would fail in the middle.",
            facts.in_the_way.len()
        );
        let remedy = format!("chattr -i -a {}", listed(&facts.in_the_way).join(" "));
        found.push(
            Finding::inhibitor("immutable-files", what, remedy).with_evidence(listed(&facts.in_the_way)),
        );
    }
    if !facts.harmless.is_empty() {
        let what = "files that no package brought are protected by chattr: they stay as they are.";
        found.push(
            Finding::note("immutable-own-files", what, "nothing, unless a package begins to manage them")
                .with_evidence(listed(&facts.harmless)),
        );
    }
    if facts.cut_off {
        let what = "there are too many files in /etc, /usr and /boot: not all were looked at for chattr +i.";
        found.push(Finding::note("immutable-not-all-seen", what, "lsattr -R /usr | grep -- '-i-'"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::reading::made_up::{ids, tree};
    use super::*;
    use rustix::fs::{IFlags, ioctl_setflags};

    #[test]
    fn protected_files() {
        let dir = tree(&[
            ("etc/resolv.conf", ""),
            ("etc/passwd", ""),
            ("usr/bin/tool", ""),
            ("usr/bin/other", ""),
            ("var/lib/dpkg/info/tool.list", "/bin/tool\n/bin/other\n"),
        ]);
        assert_eq!(facts(dir.path()).unwrap(), Facts::default());
        let set = |path: &str, flags| {
            let file = fs::File::open(dir.path().join(path)).unwrap();
            ioctl_setflags(&file, flags)
        };
        if let Err(error) = set("etc/resolv.conf", IFlags::IMMUTABLE) {
            eprintln!("skipped: no chattr +i here: {error}");
            return;
        }
        set("usr/bin/tool", IFlags::IMMUTABLE).unwrap();
        set("etc/passwd", IFlags::APPEND).unwrap();
        let seen = facts(dir.path());
        for path in ["etc/resolv.conf", "usr/bin/tool", "etc/passwd"] {
            set(path, IFlags::empty()).unwrap();
        }
        let found = findings(&seen.unwrap());
        assert_eq!(ids(&found), ["inhibitor immutable-files", "note immutable-own-files"]);
        assert_eq!(found[0].evidence, ["/etc/passwd", "/usr/bin/tool"]);
        assert_eq!(found[1].evidence, ["/etc/resolv.conf"]);
    }
}
