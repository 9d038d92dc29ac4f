//! Configuration files across a release upgrade: which were changed here, which of these the upgrade will ask about, what is
//! to be answered, and what it left behind.
//!
//! | file | what |
//! |---|---|
//! | [`stock`] | what installed packages declare, and what was changed here |
//! | [`deb`] | what a package file brings |
//! | [`predict`], [`diff`] | pure: what will be asked, and what the two sides differ in |
//! | [`policy`], [`answers`], [`debconf`] | what is to be done about it |
//! | [`findings`](mod@findings) | pure: what of it is worth telling before |
//! | [`place`], [`left`] | afterwards: what ucf did not do, what was decided and left |
//! | [`syntax`], [`pam`] | afterwards: whether the new programs take the configuration |

pub mod answers;
pub mod deb;
pub mod debconf;
pub mod diff;
pub mod findings;
pub mod left;
#[cfg(test)]
mod made;
pub mod pam;
pub mod place;
pub mod policy;
pub mod predict;
pub mod stock;
pub mod syntax;
mod tarball;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

pub use findings::findings;

use deb::{Control, DebError};
use predict::{Prediction, Upstream};
use stock::{Below, Local, Md5Sum, Stock, StockError};

use crate::version;

/// What was found out about a system and the packages that it will get. Its texts may hold secrets: they go where only root
/// reads.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Every configuration file that is not as its package brought it.
    pub predictions: Vec<Prediction>,
    /// What the two sides of these differ in, where both are known and are text.
    pub diffs: BTreeMap<PathBuf, String>,
    /// Files of `pam-auth-update` that it no longer keeps up.
    pub local_pam: Vec<PathBuf>,
}

impl Facts {
    /// All diffs, one after another, for a file that only root reads.
    #[must_use]
    pub fn diff_text(&self) -> String {
        let mut text = String::new();
        for diff in self.diffs.values() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{diff}");
        }
        text
    }
}

/// Configuration files that could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// What is installed.
    #[error("failed to take stock of the configuration files")]
    Stock(#[from] StockError),
    /// The packages that were fetched.
    #[error("failed to look into {}", .path.display())]
    Archives {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// One of them.
    #[error("failed to look into the package {}", .path.display())]
    Package {
        /// Which.
        path: PathBuf,
        /// Why.
        source: DebError,
    },
}

/// Looks at the system below a root and at the packages in a directory, which need to be those of [`predict::wanted`] at least.
/// Nothing is changed.
///
/// # Errors
/// When anything could not be read: what was not looked at would pass for what will not be asked.
pub fn look(root: &Path, archives: &Path) -> Result<Facts, LookError> {
    let stock = stock::look(root)?;
    let newer = newer(archives, &stock.versions)?;
    let below = Below::open(root)?;
    let declared: BTreeSet<&Path> = stock.conffiles.iter().map(|one| one.path.as_path()).collect();
    let unowned = there_already(&below, &newer, &declared)?;
    let upstream = upstream(newer, &stock, &unowned)?;
    let mut predictions = predict::predict(&stock, &upstream);
    predictions.extend(predict::unowned(&declared, &upstream, &unowned));
    predictions.sort_by(|one, other| one.path.cmp(&other.path));
    let mut facts = Facts { predictions, diffs: BTreeMap::new(), local_pam: pam::local(root)? };
    for prediction in &mut facts.predictions {
        let new = upstream.files.get(&prediction.path).and_then(|file| file.bytes.as_deref());
        let (Some(new), Local::Changed(_)) = (new, prediction.local) else { continue };
        // Longer than what is kept of the new one: not a file that a person compares.
        let mine = below.bytes(&prediction.path, deb::KEPT_LIMIT + 1)?.unwrap_or_default();
        if mine.len() as u64 > deb::KEPT_LIMIT {
            continue;
        }
        if let Some(diff) = diff::unified(&prediction.path, &mine, new) {
            prediction.lines = Some(diff.lines);
            facts.diffs.insert(prediction.path.clone(), diff.text);
        }
    }
    Ok(facts)
}

/// A package that will be installed, and its file.
type Newer = BTreeMap<String, (Control, PathBuf)>;

/// The newest of each package in a directory, without what is not newer than the installed one.
fn newer(archives: &Path, installed: &BTreeMap<String, String>) -> Result<Newer, LookError> {
    let failed = |source| LookError::Archives { path: archives.to_owned(), source };
    let mut newest = Newer::new();
    for entry in std::fs::read_dir(archives).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "deb") {
            continue;
        }
        let control = deb::control(path.as_path())
            .map_err(|source| LookError::Package { path: path.clone(), source })?;
        let is_newer = |known: &str| version::compare(&control.version, known).is_gt();
        let than_installed = installed.get(&control.package).is_none_or(|version| is_newer(version));
        let than_found = newest.get(&control.package).is_none_or(|(known, _)| is_newer(&known.version));
        if than_installed && than_found {
            newest.insert(control.package.clone(), (control, path));
        }
    }
    Ok(newest)
}

/// Files that new packages will declare, that nobody declared before, and that lie there all the same.
fn there_already(
    below: &Below,
    newer: &Newer,
    declared: &BTreeSet<&Path>,
) -> Result<BTreeMap<PathBuf, Md5Sum>, StockError> {
    let mut found = BTreeMap::new();
    let new = newer.values().flat_map(|(control, _)| &control.conffiles);
    for path in new.filter(|path| !declared.contains(path.as_path())) {
        if let Some(sum) = below.sum(path)? {
            found.insert(path.clone(), sum);
        }
    }
    Ok(found)
}

/// Reads from the new packages what predictions need.
fn upstream(newer: Newer, stock: &Stock, unowned: &BTreeMap<PathBuf, Md5Sum>) -> Result<Upstream, LookError> {
    let changed = stock.conffiles.iter().filter(|one| one.is_changed()).map(|one| &one.path);
    let asked: BTreeSet<PathBuf> = changed.chain(unowned.keys()).cloned().collect();
    let mut upstream = Upstream::default();
    for (name, (control, path)) in newer {
        let wanted: BTreeSet<PathBuf> = control.conffiles.intersection(&asked).cloned().collect();
        if !wanted.is_empty() {
            let files = deb::contents(path.as_path(), &wanted)
                .map_err(|source| LookError::Package { path: path.clone(), source })?;
            upstream.files.extend(files);
        }
        upstream.packages.insert(name, control);
    }
    Ok(upstream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use predict::Outcome;

    #[test]
    fn a_system_and_its_new_packages() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for directory in ["var/lib/dpkg", "etc", "archives"] {
            std::fs::create_dir_all(at(directory)).unwrap();
        }
        let sum = Md5Sum::of(b"a\n");
        let status = format!(
            "Package: p\nStatus: install ok installed\nVersion: 1\nConffiles:\n /etc/both {sum}\n /etc/mine {sum}\n /etc/aside {sum}\n"
        );
        std::fs::write(at("var/lib/dpkg/status"), status).unwrap();
        for name in ["both", "mine", "aside", "nobodys"] {
            std::fs::write(at("etc").join(name), "me\n").unwrap();
        }
        let script = "dpkg-maintscript-helper rm_conffile /etc/aside 2 -- \"$@\"\n";
        let conffiles = "/etc/both\n/etc/mine\n/etc/nobodys\n";
        let files = |both| [("/etc/both", both), ("/etc/mine", "a\n"), ("/etc/nobodys", "new\n")];
        for (version, both) in [("2~rc1", "x\n"), ("2", "b\n"), ("0.9", "y\n")] {
            let package = made::deb("p", version, conffiles, script, &files(both), "xz");
            std::fs::write(at("archives").join(format!("p_{version}_all.deb")), package).unwrap();
        }
        let facts = look(root.path(), &at("archives")).unwrap();
        let found: Vec<_> =
            facts.predictions.iter().map(|one| (one.path.to_str().unwrap(), one.outcome.clone())).collect();
        assert_eq!(
            found,
            [
                ("/etc/aside", Outcome::PutAside),
                ("/etc/both", Outcome::Asked),
                ("/etc/mine", Outcome::Stays),
                ("/etc/nobodys", Outcome::Asked),
            ]
        );
        assert!(facts.diff_text().contains("\n-me\n+b\n"), "{}", facts.diff_text());
        assert_eq!(facts.predictions[1].lines, Some(diff::Lines { added: 1, removed: 1 }));
        std::fs::write(at("archives/broken.deb"), "x").unwrap();
        let error = look(root.path(), &at("archives")).unwrap_err().to_string();
        assert!(error.ends_with("archives/broken.deb"), "{error}");
    }
}
