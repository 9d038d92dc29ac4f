//! What an upgrade will do, as foretold, and compared with what it then did.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::release::hop::{Distribution, Hop};
use crate::release::simulation::Change;

/// What the upgrade would do, and what it needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prediction {
    /// Installed packages that get a new version.
    pub upgraded: Vec<Change>,
    /// New packages.
    pub new: Vec<Change>,
    /// Packages that go away.
    pub removed: Vec<Change>,
    /// Packages that could be upgraded but would be left.
    pub kept_back: Vec<String>,
    /// Packages that an administrator holds.
    pub held: Vec<String>,
    /// Bytes of all packages that the upgrade needs.
    pub download_bytes: u64,
    /// Bytes that the installed system grows by (negative: shrinks), as apt says it rounded; `None` when apt did not say it.
    /// dpkg needs more for a while: it unpacks the new files of a package beside the old ones.
    pub disk_bytes: Option<i64>,
}

impl Prediction {
    /// Whether the machine would be on the target afterwards: `base-files` brings os-release. When it would not, holds or pins
    /// (`/etc/apt/preferences`) keep the machine where it is.
    ///
    /// Debian's version of it begins with the release's number. Ubuntu's does not (`13ubuntu10` is of 24.04), but what apt says of
    /// its origin ends with the codename (`Ubuntu:24.04/noble`).
    #[must_use]
    pub fn reaches(&self, hop: &Hop) -> bool {
        let target = hop.to();
        let of_suite = |suite: &str| {
            suite.strip_prefix(target.codename).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let of_target = |change: &Change| match hop.distribution() {
            Distribution::Debian => {
                change.new.strip_prefix(target.version).is_some_and(|rest| rest.starts_with('.'))
            }
            Distribution::Ubuntu => change
                .origin
                .split(", ")
                .any(|origin| origin.split_once('/').is_some_and(|(_, suite)| of_suite(suite))),
        };
        self.upgraded.iter().any(|change| change.package == "base-files" && of_target(change))
    }

    /// Bytes that the installed system grows by, 0 when it shrinks; `None` when apt did not say.
    #[must_use]
    pub fn growth(&self) -> Option<u64> {
        self.disk_bytes.map(|bytes| u64::try_from(bytes).unwrap_or(0))
    }

    /// The change of one package that is upgraded or new.
    #[must_use]
    pub fn arriving(&self, package: &str) -> Option<&Change> {
        self.upgraded.iter().chain(&self.new).find(|change| change.package == package)
    }

    /// Whether a package goes away.
    #[must_use]
    pub fn removes(&self, package: &str) -> bool {
        self.removed.iter().any(|change| change.package == package)
    }

    /// Compares what was foretold with what happened.
    #[must_use]
    pub fn compare(&self, happened: &Happened) -> Comparison {
        let mut deviations = Vec::new();
        let mut named: BTreeSet<&str> = BTreeSet::new();
        for change in self.upgraded.iter().chain(&self.new) {
            named.insert(&change.package);
            let verb = if change.old.is_some() { "upgraded" } else { "installed" };
            let now = happened.after.get(&change.package);
            if now != Some(&change.new) {
                let now = now.map_or("it is not installed".to_owned(), |version| format!("it is {version}"));
                deviations.push(format!("{} was to be {verb} to {}, and {now}", change.package, change.new));
            }
        }
        for change in &self.removed {
            named.insert(&change.package);
            if let Some(version) = happened.after.get(&change.package) {
                deviations.push(format!("{} was to be removed, and it is {version}", change.package));
            }
        }
        let foretold = named.len();
        let came_true = foretold.saturating_sub(deviations.len());
        deviations.extend(happened.changes().filter(|(name, ..)| !named.contains(name)).map(unforetold));
        Comparison { foretold: foretold as u64, came_true: came_true as u64, deviations }
    }
}

fn unforetold((name, before, after): (&str, Option<&str>, Option<&str>)) -> String {
    match (before, after) {
        (Some(before), Some(after)) => {
            format!("{name} went from {before} to {after}, which was not foretold")
        }
        (None, Some(after)) => format!("{name} {after} was installed, which was not foretold"),
        (before, None) => {
            format!("{name} {} was removed, which was not foretold", before.unwrap_or_default())
        }
    }
}

/// How much of a prediction came true.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Packages that were to be upgraded, installed or removed.
    pub foretold: u64,
    /// Those of them with which just that happened, to the version.
    pub came_true: u64,
    /// Every way in which what happened is not what was foretold, one line each; empty when all of it came true.
    pub deviations: Vec<String>,
}

impl Comparison {
    /// One sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut text = format!("{} of {} package changes came true", self.came_true, self.foretold);
        let besides = self.deviations.len() as u64 - self.foretold.saturating_sub(self.came_true);
        if besides > 0 {
            text.push_str(&format!("; {besides} others happened"));
        }
        text + "."
    }
}

/// Whether it came true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Verdict {
    /// As far as this says.
    Compared(Comparison),
    /// It could not be found out.
    Unknown {
        /// Why, in one sentence.
        unknown: String,
    },
}

impl Verdict {
    /// One sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Compared(comparison) => comparison.sentence(),
            Self::Unknown { unknown } => {
                format!("Whether the packages became what was foretold is not known: {unknown}.")
            }
        }
    }

    /// What deviated, one line each.
    #[must_use]
    pub fn deviations(&self) -> &[String] {
        match self {
            Self::Compared(comparison) => &comparison.deviations,
            Self::Unknown { .. } => &[],
        }
    }
}

impl From<Result<Comparison, String>> for Verdict {
    fn from(compared: Result<Comparison, String>) -> Self {
        match compared {
            Ok(comparison) => Self::Compared(comparison),
            Err(unknown) => Self::Unknown { unknown },
        }
    }
}

/// What is kept before an upgrade, to be compared with what it then does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foretold {
    /// What it will do.
    pub prediction: Prediction,
    /// The installed packages and their versions when that was foretold.
    pub before: BTreeMap<String, String>,
}

impl Foretold {
    /// Compares with the packages that are installed now.
    #[must_use]
    pub fn compare(self, after: BTreeMap<String, String>) -> Comparison {
        self.prediction.compare(&Happened { before: self.before, after })
    }
}

/// What happened to the packages: the installed ones (named as apt names them) and their versions, before and after.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// Before.
    pub before: BTreeMap<String, String>,
    /// After.
    pub after: BTreeMap<String, String>,
}

impl Happened {
    /// Packages whose version is not the same: name, before, after.
    fn changes(&self) -> impl Iterator<Item = (&str, Option<&str>, Option<&str>)> {
        let gone = self.before.keys().filter(|name| !self.after.contains_key(*name));
        self.after.keys().chain(gone).filter_map(|name| {
            let (before, after) = (self.before.get(name), self.after.get(name));
            (before != after).then_some((
                name.as_str(),
                before.map(String::as_str),
                after.map(String::as_str),
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(package: &str, old: Option<&str>, new: &str) -> Change {
        Change {
            package: package.into(),
            old: old.map(str::to_owned),
            new: new.into(),
            origin: "Debian:13.1/stable".into(),
        }
    }

    fn side(packages: &[(&str, &str)]) -> BTreeMap<String, String> {
        packages.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
    }

    fn foretold() -> Prediction {
        Prediction {
            upgraded: vec![change("bash", Some("5.2.15"), "5.2.37")],
            new: vec![change("libssl3t64", None, "3.5")],
            removed: vec![change("libssl3", Some("3.0"), "")],
            ..Prediction::default()
        }
    }

    #[test]
    fn what_came_true_has_no_lines() {
        let before = side(&[("bash", "5.2.15"), ("libssl3", "3.0"), ("held", "1")]);
        let after = side(&[("bash", "5.2.37"), ("libssl3t64", "3.5"), ("held", "1")]);
        let compared = foretold().compare(&Happened { before, after });
        assert_eq!(compared, Comparison { foretold: 3, came_true: 3, deviations: vec![] });
        assert_eq!(compared.sentence(), "3 of 3 package changes came true.");
    }

    #[test]
    fn every_surprise_has_a_line() {
        let before = side(&[("bash", "5.2.15"), ("libssl3", "3.0"), ("x", "1"), ("gone", "1")]);
        let after = side(&[("bash", "5.2.15"), ("libssl3", "3.0"), ("x", "2"), ("y", "1")]);
        let compared = Foretold { prediction: foretold(), before }.compare(after);
        assert_eq!((compared.foretold, compared.came_true), (3, 0));
        assert_eq!(compared.sentence(), "0 of 3 package changes came true; 3 others happened.");
        assert_eq!(
            compared.deviations,
            [
                "bash was to be upgraded to 5.2.37, and it is 5.2.15",
                "libssl3t64 was to be installed to 3.5, and it is not installed",
                "libssl3 was to be removed, and it is 3.0",
                "x went from 1 to 2, which was not foretold",
                "y 1 was installed, which was not foretold",
                "gone 1 was removed, which was not foretold",
            ]
        );
    }

    #[test]
    fn is_kept_as_json() {
        let text = serde_json::to_string(&foretold()).unwrap();
        assert_eq!(serde_json::from_str::<Prediction>(&text).unwrap(), foretold());
    }

    #[test]
    fn ubuntus_base_files_is_known_by_its_origin() {
        let foretold = |new: &str, origin: &str| Prediction {
            upgraded: vec![Change {
                package: "base-files".into(),
                old: Some("13ubuntu10".into()),
                new: new.into(),
                origin: origin.into(),
            }],
            ..Prediction::default()
        };
        let hop = Hop::between("noble", "resolute").unwrap();
        assert!(foretold("14ubuntu6", "Ubuntu:26.04/resolute").reaches(&hop));
        assert!(foretold("14ubuntu6.1", "Other:1/x, Ubuntu:26.04/resolute-updates").reaches(&hop));
        assert!(!foretold("13ubuntu10.3", "Ubuntu:24.04/noble-updates").reaches(&hop));
        let debian = Hop::between("bookworm", "trixie").unwrap();
        assert!(foretold("13.8+deb13u1", "Debian:13.8/stable").reaches(&debian));
        assert!(!foretold("130", "Debian:13.8/stable").reaches(&debian));
    }
}
