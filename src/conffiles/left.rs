//! Configuration files that the upgrade met: what was decided for each, and what it left beside them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use walkdir::WalkDir;

use super::deb::KEPT_LIMIT;
use super::diff;
use super::stock::{Below, StockError};
use crate::system::show;

/// What became of a configuration file that both the administrator and the package had changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    /// The administrator's file stays in force.
    Kept,
    /// The package's file is in force now.
    Replaced,
    /// The package no longer has the file: the administrator's was moved aside and is not in force.
    MovedAside,
    /// A file was left beside it, and the log does not say why.
    Unclear,
}

impl Decision {
    /// The decision in a few words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Kept => "yours stays in force",
            Self::Replaced => "the package's is in force",
            Self::MovedAside => "yours was moved aside, and the package has none",
            Self::Unclear => "which of the two is in force is not known",
        }
    }
}

/// One configuration file and its decision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConffileDecision {
    /// The configuration file.
    pub path: PathBuf,
    /// What was decided.
    pub decision: Decision,
    /// The other version, where one was left: to compare, and to delete afterwards.
    pub leftover: Option<PathBuf>,
}

impl ConffileDecision {
    /// The decision as one line.
    #[must_use]
    pub fn line(&self) -> String {
        let other = self.leftover.as_ref().map(|path| format!("; the other version is {}", show::path(path)));
        format!("{}: {}{}", show::path(&self.path), self.decision.words(), other.unwrap_or_default())
    }
}

/// What a run keeps of the decisions: one line each, as a JSON list of texts.
pub const LINES_FILE: &str = "conffiles.json";
/// What a run keeps of the two sides of each. It may hold secrets, so only root reads it.
pub const DIFF_FILE: &str = "conffiles.diff";

/// Files that package tools left beside configuration files, with their modification times.
pub type Leftovers = BTreeMap<PathBuf, SystemTime>;

/// A directory that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to look for configuration files left beside others")]
pub struct LeftoversError(#[from] walkdir::Error);

/// The endings that dpkg, dpkg-maintscript-helper and ucf use, and what each says about the file beside it.
const ENDINGS: [(&str, Decision); 8] = [
    (".dpkg-dist", Decision::Kept),
    (".dpkg-new", Decision::Unclear),
    (".ucf-dist", Decision::Kept),
    (".ucf-new", Decision::Kept),
    (".dpkg-old", Decision::Replaced),
    (".ucf-old", Decision::Replaced),
    (".dpkg-bak", Decision::MovedAside),
    (".dpkg-remove", Decision::MovedAside),
];

/// Looks through `etc` below a root. Paths in the result are as on that system (`/etc/...`).
///
/// # Errors
/// When a directory cannot be read: an incomplete list would look like a short one.
pub fn leftovers(root: &Path) -> Result<Leftovers, LeftoversError> {
    let mut found = Leftovers::new();
    for entry in WalkDir::new(root.join("etc")) {
        let entry = match entry {
            // Something was deleted while we looked.
            Err(error) if error.io_error().is_some_and(|io| io.kind() == std::io::ErrorKind::NotFound) => {
                continue;
            }
            other => other?,
        };
        if entry.file_type().is_dir() || ending_of(entry.path()).is_none() {
            continue;
        }
        let modified = entry.metadata()?.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
        found.insert(Path::new("/").join(path), modified);
    }
    Ok(found)
}

/// Brings together what the log says and what lies in `/etc`: every file that dpkg decided about, and every file left that was
/// not there before, or not the same. Sorted by path. Pure.
#[must_use]
pub fn decisions(log: &str, before: &Leftovers, after: &Leftovers) -> Vec<ConffileDecision> {
    let mut found: BTreeMap<PathBuf, ConffileDecision> = BTreeMap::new();
    for (path, decision) in from_log(log) {
        let decision = ConffileDecision { path: path.clone(), decision, leftover: None };
        found.insert(path, decision);
    }
    for (leftover, modified) in after {
        let Some((ending, decision)) = ending_of(leftover) else { continue };
        let text = leftover.to_string_lossy();
        let path = PathBuf::from(text.strip_suffix(ending).unwrap_or(&text));
        let known = found.get_mut(&path);
        // dpkg keeps the time of the packaged file, so an old leftover with the log's word about it counts as well.
        if known.is_none() && before.get(leftover) == Some(modified) {
            continue;
        }
        match known {
            Some(entry) => {
                if entry.decision == Decision::Unclear {
                    entry.decision = decision;
                }
                entry.leftover = Some(leftover.clone());
            }
            None => {
                let entry =
                    ConffileDecision { path: path.clone(), decision, leftover: Some(leftover.clone()) };
                found.insert(path, entry);
            }
        }
    }
    found.into_values().collect()
}

/// What the files in force and those left beside them differ in, as text that may hold secrets.
///
/// # Errors
/// When one of them cannot be read; a file that is gone is no error.
pub fn diffs(root: &Path, decisions: &[ConffileDecision]) -> Result<String, StockError> {
    let below = Below::open(root)?;
    let mut text = String::new();
    for one in decisions {
        let Some(leftover) = &one.leftover else { continue };
        let (Some(in_force), Some(other)) =
            (below.bytes(&one.path, KEPT_LIMIT)?, below.bytes(leftover, KEPT_LIMIT)?)
        else {
            continue;
        };
        // The package's file is always the new one.
        let (mine, new) = match one.decision {
            Decision::Replaced => (other, in_force),
            _ => (in_force, other),
        };
        if let Some(diff) = diff::unified(&one.path, &mine, &new) {
            text.push_str(&diff.text);
            text.push('\n');
        }
    }
    Ok(text)
}

/// dpkg's own words, in the order of the log. With confdef and confold it does not ask, and says what it did.
fn from_log(log: &str) -> Vec<(PathBuf, Decision)> {
    let mut found: Vec<(PathBuf, Decision)> = Vec::new();
    for line in log.lines() {
        let line = line.trim_end();
        if let Some(path) = between(line, "Configuration file '", "'") {
            found.push((path, Decision::Unclear));
        } else if let Some(path) = between(line, "Obsolete conffile ", " has been modified by you.") {
            found.push((path, Decision::MovedAside));
        } else if line.starts_with(" ==> ") {
            let Some((_, decision)) = found.last_mut() else { continue };
            if line.contains("Keeping old config file") || line.contains("Using current old file") {
                *decision = Decision::Kept;
            } else if line.contains("Using new config file") || line.contains("Using new file") {
                *decision = Decision::Replaced;
            }
        }
    }
    found
}

fn between(line: &str, before: &str, after: &str) -> Option<PathBuf> {
    let path = line.strip_prefix(before)?.strip_suffix(after)?;
    Some(PathBuf::from(path))
}

fn ending_of(path: &Path) -> Option<(&'static str, Decision)> {
    let name = path.file_name()?.to_str()?;
    ENDINGS.into_iter().find(|(ending, _)| name.ends_with(ending) && name.len() > ending.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)
    }

    #[test]
    fn the_log_and_what_was_left() {
        let log = include_str!("../../tests/fixtures/release/full-upgrade.log");
        let old = (PathBuf::from("/etc/old.conf.dpkg-dist"), at(1));
        let before = Leftovers::from([old.clone()]);
        let after = Leftovers::from([
            old,
            ("/etc/nginx/nginx.conf.dpkg-dist".into(), at(2)),
            ("/etc/ssh/sshd_config.ucf-dist".into(), at(2)),
            ("/etc/sysctl.conf.dpkg-bak".into(), at(2)),
            ("/etc/ca-certificates.conf.dpkg-old".into(), at(2)),
        ]);
        let found = decisions(log, &before, &after);
        let shown: Vec<(String, Decision)> =
            found.iter().map(|one| (one.path.display().to_string(), one.decision)).collect();
        assert_eq!(
            shown,
            [
                ("/etc/ca-certificates.conf".into(), Decision::Replaced),
                ("/etc/nginx/nginx.conf".into(), Decision::Kept),
                ("/etc/ssh/sshd_config".into(), Decision::Kept),
                ("/etc/sysctl.conf".into(), Decision::MovedAside),
            ]
        );
        assert!(found.iter().all(|one| one.leftover.is_some()));
    }

    #[test]
    fn both_sides_are_compared() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        for (name, text) in [("a", "me\n"), ("a.dpkg-dist", "new\n"), ("b", "new\n"), ("b.dpkg-old", "me\n")]
        {
            std::fs::write(root.path().join("etc").join(name), text).unwrap();
        }
        let one = |path: &str, decision, leftover: &str| ConffileDecision {
            path: path.into(),
            decision,
            leftover: Some(leftover.into()),
        };
        let decisions = [
            one("/etc/a", Decision::Kept, "/etc/a.dpkg-dist"),
            one("/etc/b", Decision::Replaced, "/etc/b.dpkg-old"),
            one("/etc/c", Decision::MovedAside, "/etc/c.dpkg-bak"),
        ];
        let text = diffs(root.path(), &decisions).unwrap();
        assert_eq!(text.matches("-me\n+new\n").count(), 2, "{text}");
        assert_eq!(
            decisions[0].line(),
            "/etc/a: yours stays in force; the other version is /etc/a.dpkg-dist"
        );
    }

    #[test]
    fn a_new_file_in_force_is_told() {
        let log = "Configuration file '/etc/a b'\n ==> Using new config file as default.\n";
        let found = decisions(log, &Leftovers::new(), &Leftovers::new());
        assert_eq!((found[0].path.as_path(), found[0].decision), (Path::new("/etc/a b"), Decision::Replaced));
    }

    #[test]
    fn the_walk_finds_them_below_a_root() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc/x")).unwrap();
        for name in ["etc/x/a.dpkg-dist", "etc/b.ucf-old", "etc/.dpkg-new", "etc/c"] {
            std::fs::write(root.path().join(name), "").unwrap();
        }
        let names: Vec<PathBuf> = leftovers(root.path()).unwrap().into_keys().collect();
        assert_eq!(names, [PathBuf::from("/etc/b.ucf-old"), PathBuf::from("/etc/x/a.dpkg-dist")]);
        assert!(leftovers(&root.path().join("none")).unwrap().is_empty());
    }
}
