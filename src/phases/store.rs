//! Findings about the backup's store and trees.

use std::path::Path;

use crate::config::Config;
use crate::evidence::{Finding, Severity};
use crate::system::disks::{self, Below};
use crate::system::show;

/// What would make the backup worthless or impossible.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let store = config.backup.store.as_path();
    let mut findings = Vec::new();
    // The store itself may still have to be made; the directory above it tells the disk.
    let Some(standing) = store.ancestors().find(|path| path.exists()) else { return findings };
    let store_disks = match disks::below(standing) {
        Ok(Below::Memory) => {
            findings.push(inhibitor(
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
    for tree in config.backup.trees.iter().map(crate::config::AbsolutePath::as_path) {
        findings.extend(of_tree(tree, store, &store_disks));
    }
    findings
}

fn of_tree(tree: &Path, store: &Path, store_disks: &Below) -> Option<Finding> {
    if !tree.is_dir() {
        return Some(inhibitor(
            "tree-missing",
            format!("the tree {} is not a directory here.", show::path(tree)),
            "correct backup.trees",
        ));
    }
    match disks::below(tree) {
        Ok(below) if overlap(&below, store_disks) => Some(inhibitor(
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

fn overlap(one: &Below, other: &Below) -> bool {
    match (one, other) {
        (Below::Disks(one), Below::Disks(other)) => !one.is_disjoint(other),
        (one, other) => one == other,
    }
}

fn inhibitor(id: &str, what: String, remedy: &str) -> Finding {
    Finding { id: id.into(), severity: Severity::Inhibitor, what, remedy: remedy.into() }
}

/// "Could not find out" is never a yes.
pub(super) fn unknown(what: &str, error: &(dyn std::error::Error + 'static)) -> Finding {
    inhibitor(
        "could-not-find-out",
        format!("could not find out {what}: {}.", crate::error::chain(error)),
        "mend what the message names, then check again",
    )
}
