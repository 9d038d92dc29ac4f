//! Findings about the backup's store and trees.

use std::ffi::OsStr;
use std::path::Path;

use crate::backup::Place;
use crate::config::Config;
use crate::finding::Finding;
use crate::manifest;
use crate::system::disks::{self, Below};
use crate::system::{mounts, show};

/// What would make the backup worthless or impossible.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let store = config.backup.store.as_path();
    let mut findings = Vec::new();
    // The store itself may still have to be made; the directory above it tells the disk.
    let Some(standing) = store.ancestors().find(|path| path.exists()) else { return findings };
    let store_disks = match disks::below(standing) {
        Ok(Below::Memory) => {
            findings.push(Finding::inhibitor(
                "store-in-memory",
                format!("the store {} lies in memory and is lost with the first reboot.", show::path(store)),
                "set backup.store to a directory on a disk of its own",
            ));
            return findings;
        }
        Ok(below) => below,
        Err(error) => {
            findings.push(unknown("the disk below the store", &error));
            return findings;
        }
    };
    findings.extend(copies_of_others(config));
    for tree in config.backup.trees.iter().map(crate::config::AbsolutePath::as_path) {
        findings.extend(of_tree(tree, store, &store_disks));
        findings.extend(mounts_inside(tree, config));
    }
    findings
}

fn of_tree(tree: &Path, store: &Path, store_disks: &Below) -> Option<Finding> {
    if !tree.is_dir() {
        return Some(Finding::inhibitor(
            "tree-missing",
            format!("the tree {} is not a directory here.", show::path(tree)),
            "correct backup.trees",
        ));
    }
    match std::fs::canonicalize(tree) {
        Ok(real) if real == tree => {}
        Ok(real) => {
            let what = format!("the tree {} is really {}.", show::path(tree), show::path(&real));
            return Some(Finding::inhibitor(
                "tree-behind-link",
                what,
                "name the real directory in backup.trees",
            ));
        }
        Err(error) => return Some(unknown(&format!("where {} really is", show::path(tree)), &error)),
    }
    match disks::below(tree) {
        Ok(below) if overlap(&below, store_disks) => Some(Finding::inhibitor(
            "store-on-same-device",
            format!(
                "the store {} lies on the same disk as {}: they would be lost together.",
                show::path(store),
                show::path(tree)
            ),
            "set backup.store to a directory on another disk or another machine's, or waive this by its id",
        )),
        Ok(_) => None,
        Err(error) => Some(unknown(&format!("the disk below {}", show::path(tree)), &error)),
    }
}

/// A copy that somebody else makes is only as good as it is young: nothing written since would come back.
fn copies_of_others(config: &Config) -> Vec<Finding> {
    if config.backup.copy {
        return Vec::new();
    }
    let most = config.backup.max_age;
    let oldest =
        jiff::Timestamp::now().as_second() - i64::try_from(most.duration().as_secs()).unwrap_or(i64::MAX);
    let too_old = |tree: &Path| -> Option<Finding> {
        let place = Place::of(config.backup.store.as_path(), tree).ok()?;
        match manifest::open_file(&place.manifest()) {
            Ok(reader) if reader.header().ended.seconds >= oldest => None,
            Ok(_) => Some(Finding::inhibitor(
                "copy-too-old",
                format!("the copy of {} in the store is older than {most}.", show::path(tree)),
                "make a new one (`safe-upgrade backup`), or raise backup.max_age",
            )),
            Err(error) => Some(unknown(&format!("how old the copy of {} is", show::path(tree)), &error)),
        }
    };
    config.backup.trees.iter().filter_map(|tree| too_old(tree.as_path())).collect()
}

/// Another filesystem inside a tree is not copied with it. One that is a tree itself, or that holds the store, need not be.
fn mounts_inside(tree: &Path, config: &Config) -> Vec<Finding> {
    let table = match mounts::read() {
        Ok(table) => table,
        Err(error) => return vec![unknown("what is mounted", &error)],
    };
    let holds_data =
        |source: &OsStr| Path::new(source).is_absolute() || source.to_string_lossy().contains(':');
    let inside = table.iter().filter(|mount| mount.point != tree && mount.point.starts_with(tree));
    let cared_for = |point: &Path| {
        config.backup.store.as_path().starts_with(point)
            || config.backup.trees.iter().any(|tree| tree.as_path() == point)
    };
    let inside = inside.filter(|mount| holds_data(&mount.source) && !cared_for(&mount.point));
    inside
        .map(|mount| {
            Finding::warning(
                "mount-inside-tree",
                format!(
                    "{} is mounted inside {} and is not copied with it.",
                    show::path(&mount.point),
                    show::path(tree)
                ),
                "name it in backup.trees too, if it matters",
            )
        })
        .collect()
}

fn overlap(one: &Below, other: &Below) -> bool {
    match (one, other) {
        (Below::Disks(one), Below::Disks(other)) => !one.is_disjoint(other),
        (one, other) => one == other,
    }
}

/// "Could not find out" is never a yes.
pub(super) fn unknown(what: &str, error: &(dyn std::error::Error + 'static)) -> Finding {
    Finding::unknown(what, crate::error::chain(error))
}
