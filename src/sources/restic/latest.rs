//! Which of many snapshots is meant by "latest": a repository may hold those of other trees and other machines.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::sources::engine::{bare, within};
use crate::system::show;

/// A snapshot as restic lists it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Snapshot {
    pub id: String,
    pub time: String,
    pub hostname: String,
    pub paths: Vec<String>,
    /// Other machines with snapshots that could have been meant.
    #[serde(skip)]
    others: BTreeSet<String>,
}

impl Snapshot {
    /// What a person should know about the choice.
    pub(super) fn remarks(&self) -> Vec<String> {
        let id = self.id.get(..8).unwrap_or(&self.id);
        let mut remarks =
            vec![format!("snapshot {id} of {}, {}", show::line(&self.hostname), show::line(&self.time))];
        if !self.others.is_empty() {
            let others: Vec<String> = self.others.iter().map(|host| show::line(host)).collect();
            let others = others.join(", ");
            remarks.push(format!("there are snapshots of the same path by {others}: choose with --snapshot"));
        }
        remarks
    }

    /// How well it fits a tree: it was made of it or of something around it, or of parts of it, or of something else.
    fn rank(&self, tree: &[u8]) -> u8 {
        let any = |fits: &dyn Fn(&[u8]) -> bool| self.paths.iter().any(|path| fits(bare(path.as_bytes())));
        match () {
            () if any(&|path| within(tree, path).is_some()) => 2,
            () if any(&|path| within(path, tree).is_some()) => 1,
            () => 0,
        }
    }
}

/// The newest of those that fit best; without a tree the newest of all. `None` when there is none.
pub(super) fn latest(mut snapshots: Vec<Snapshot>, tree: Option<&[u8]>) -> Option<Snapshot> {
    if let Some(tree) = tree {
        let best = snapshots.iter().map(|snapshot| snapshot.rank(tree)).max()?;
        snapshots.retain(|snapshot| snapshot.rank(tree) == best);
    }
    let hosts: BTreeSet<String> = snapshots.iter().map(|snapshot| snapshot.hostname.clone()).collect();
    // Of equals the one that restic lists last; a time that is none is older than all.
    let time = |snapshot: &Snapshot| snapshot.time.parse::<jiff::Timestamp>().ok();
    let mut newest = snapshots.into_iter().max_by_key(time)?;
    newest.others = hosts.into_iter().filter(|host| *host != newest.hostname).collect();
    Some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: &str, time: &str, hostname: &str, paths: &[&str]) -> Snapshot {
        Snapshot {
            id: id.into(),
            time: time.into(),
            hostname: hostname.into(),
            paths: paths.iter().map(|path| (*path).into()).collect(),
            others: BTreeSet::new(),
        }
    }

    #[test]
    fn the_latest_is_the_latest_of_the_tree() {
        let all = [
            snapshot("www-old", "2026-01-01T00:00:00Z", "one", &["/srv/www"]),
            snapshot("www-new", "2026-01-03T01:00:00+02:00", "one", &["/etc", "/srv"]),
            snapshot("www-two", "2026-01-02T22:30:00Z", "two", &["/srv/www"]),
            snapshot("home", "2026-01-05T00:00:00Z", "three", &["/home/a", "/srv/www2"]),
        ];
        for (tree, wanted, others) in [
            (Some("srv/www"), "www-new", vec!["two"]),
            (Some("home"), "home", vec![]),
            (Some("home/a/b"), "home", vec![]),
            (Some("etc"), "www-new", vec![]),
            // Nothing fits: the error will say what the newest holds.
            (Some("var"), "home", vec!["one", "two"]),
            (Some(""), "home", vec!["one", "two"]),
            (None, "home", vec!["one", "two"]),
        ] {
            let chosen = latest(all.to_vec(), tree.map(str::as_bytes)).unwrap();
            assert_eq!(chosen.id, wanted, "{tree:?}");
            assert_eq!(chosen.others.iter().map(String::as_str).collect::<Vec<_>>(), others, "{tree:?}");
            assert_eq!(chosen.remarks().len(), 1 + usize::from(!others.is_empty()));
        }
        assert_eq!(latest(Vec::new(), Some(b"srv")), None);
    }
}
