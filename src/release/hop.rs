//! Which releases are known, and from which to which a run goes.

use std::fmt;

use crate::system::identity::OsRelease;

/// Whose releases they are, and so by which means a machine is upgraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// By apt, in stages of our own.
    Debian,
    /// By Ubuntu's own upgrader, driven and watched.
    Ubuntu,
}

/// A release that this version knows how to leave or to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// `bookworm`, `noble`
    pub codename: &'static str,
    /// `12`, `24.04`, as in `VERSION_ID` of os-release(5).
    pub version: &'static str,
}

/// Every known release of Debian, oldest first. A hop goes from one to its neighbour.
pub const RELEASES: [Release; 2] =
    [Release { codename: "bookworm", version: "12" }, Release { codename: "trixie", version: "13" }];

/// Every known release of Ubuntu with long-term support, oldest first. From one to the next is the only way that Ubuntu's upgrader
/// offers with `Prompt=lts`; the releases in between are not known here.
pub const UBUNTU_RELEASES: [Release; 3] = [
    Release { codename: "jammy", version: "22.04" },
    Release { codename: "noble", version: "24.04" },
    Release { codename: "resolute", version: "26.04" },
];

impl Distribution {
    /// The known releases, oldest first.
    #[must_use]
    pub fn releases(self) -> &'static [Release] {
        match self {
            Self::Debian => &RELEASES,
            Self::Ubuntu => &UBUNTU_RELEASES,
        }
    }

    /// Its name for a person.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Debian => "Debian",
            Self::Ubuntu => "Ubuntu",
        }
    }

    /// By `ID` of os-release(5).
    #[must_use]
    pub fn of(current: &OsRelease) -> Option<Self> {
        match current.id.as_str() {
            "debian" => Some(Self::Debian),
            "ubuntu" => Some(Self::Ubuntu),
            _ => None,
        }
    }
}

/// One step from a release to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    distribution: Distribution,
    from: Release,
    to: Release,
}

/// A hop that is refused. Nothing was changed; the text says what to do instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HopError {
    /// Already there.
    #[error("this machine already runs {0}: nothing to do")]
    SameRelease(String),
    /// Older than what runs.
    #[error(
        "this machine runs {from}, and {to} is older: packages cannot go backwards; `safe-upgrade rollback` returns to a kept snapshot"
    )]
    Backwards {
        /// What runs.
        from: String,
        /// What was asked for.
        to: String,
    },
    /// A release lies between the two.
    #[error("{to} is more than one release ahead of {from}: run `safe-upgrade run --to {next}` first")]
    Skipping {
        /// What runs.
        from: String,
        /// What was asked for.
        to: String,
        /// The codename of the release in between that comes next.
        next: String,
    },
    /// Some other distribution.
    #[error(
        "this machine runs {0:?}, and only Debian and Ubuntu are known to this version: upgrade it by its own means"
    )]
    UnknownDistribution(String),
    /// Debian without a version number.
    #[error(
        "this machine runs Debian testing or unstable (os-release has no VERSION_ID): it has no next release to go to; follow it with apt"
    )]
    Rolling,
    /// A release that is in no table.
    #[error("this machine runs {distribution} {found}, and this version starts from {known} only: {remedy}")]
    UnknownStart {
        /// Whose release.
        distribution: &'static str,
        /// `VERSION_ID` and codename.
        found: String,
        /// The releases that it knows.
        known: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A target that is not in the table of what runs.
    #[error("{asked:?} is no release that this version knows: it knows {known}")]
    UnknownTarget {
        /// What was typed.
        asked: String,
        /// The releases that it knows.
        known: String,
    },
}

impl Hop {
    /// Decides the hop from what runs and what was typed after `--to`: a codename or a version number.
    ///
    /// # Errors
    /// A refusal with its remedy.
    pub fn plan(current: &OsRelease, to: &str) -> Result<Self, HopError> {
        let distribution = known_distribution(current)?;
        plan_among(distribution, distribution.releases(), current, to)
    }

    /// The hop to the release that comes next.
    ///
    /// # Errors
    /// As [`Hop::plan`]; also when no newer release is known.
    pub fn next(current: &OsRelease) -> Result<Self, HopError> {
        let distribution = known_distribution(current)?;
        let table = distribution.releases();
        let at = table.iter().position(|release| release.version == current.version_id);
        let next = at.and_then(|at| table.get(at + 1)).or(table.last());
        plan_among(distribution, table, current, next.map_or("", |release| release.codename))
    }

    /// Finds the hop again from two recorded codenames, without asking what runs now.
    ///
    /// # Errors
    /// When one is not known, or the second is not the next after the first.
    pub fn between(from: &str, to: &str) -> Result<Self, HopError> {
        let ubuntu = find(&UBUNTU_RELEASES, from).is_ok();
        let distribution = if ubuntu { Distribution::Ubuntu } else { Distribution::Debian };
        let table = distribution.releases();
        let start = find(table, from)?;
        hop_to(distribution, table, start, to)
    }

    /// Whose releases they are.
    #[must_use]
    pub fn distribution(&self) -> Distribution {
        self.distribution
    }

    /// The release that it leaves.
    #[must_use]
    pub fn from(&self) -> Release {
        self.from
    }

    /// The release that it reaches.
    #[must_use]
    pub fn to(&self) -> Release {
        self.to
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from, self.to)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.codename, self.version)
    }
}

fn known_distribution(current: &OsRelease) -> Result<Distribution, HopError> {
    Distribution::of(current).ok_or_else(|| HopError::UnknownDistribution(current.id.clone()))
}

fn plan_among(
    distribution: Distribution,
    table: &[Release],
    current: &OsRelease,
    to: &str,
) -> Result<Hop, HopError> {
    if current.version_id.is_empty() {
        return Err(HopError::Rolling);
    }
    let start = table.iter().position(|release| release.version == current.version_id);
    let start = start.ok_or_else(|| unknown_start(distribution, table, current))?;
    hop_to(distribution, table, start, to)
}

fn hop_to(distribution: Distribution, table: &[Release], start: usize, to: &str) -> Result<Hop, HopError> {
    let target = find(table, to)?;
    let (from, to) = (table[start], table[target]);
    match target.checked_sub(start) {
        Some(1) => Ok(Hop { distribution, from, to }),
        Some(0) => Err(HopError::SameRelease(from.to_string())),
        None => Err(HopError::Backwards { from: from.to_string(), to: to.to_string() }),
        Some(_) => Err(HopError::Skipping {
            from: from.to_string(),
            to: to.to_string(),
            next: table[start + 1].codename.to_owned(),
        }),
    }
}

fn find(table: &[Release], asked: &str) -> Result<usize, HopError> {
    let wanted = asked.trim().to_ascii_lowercase();
    table
        .iter()
        .position(|release| release.codename == wanted || release.version == wanted)
        .ok_or_else(|| HopError::UnknownTarget { asked: asked.to_owned(), known: known(table) })
}

fn unknown_start(distribution: Distribution, table: &[Release], current: &OsRelease) -> HopError {
    let older =
        table.first().is_some_and(|first| version_of(&current.version_id) < version_of(first.version));
    let between = table.last().is_some_and(|last| version_of(&current.version_id) < version_of(last.version));
    HopError::UnknownStart {
        distribution: distribution.name(),
        found: format!("{} ({})", current.version_id, current.codename),
        known: known(table),
        remedy: match distribution {
            Distribution::Debian if older => {
                "bring it to the oldest of these by Debian's release notes first"
            }
            Distribution::Ubuntu if older => "bring it to the oldest of these by do-release-upgrade first",
            Distribution::Ubuntu if between => {
                "it is no release with long-term support; bring it to one by do-release-upgrade first"
            }
            _ => "a newer version of safe-upgrade may know it",
        },
    }
}

/// `24.04` as two numbers; what is no number is 0, and so older than everything.
fn version_of(text: &str) -> (u32, u32) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn known(table: &[Release]) -> String {
    table.iter().map(Release::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian(version: &str, codename: &str) -> OsRelease {
        OsRelease { id: "debian".into(), version_id: version.into(), codename: codename.into() }
    }

    #[test]
    fn one_hop_by_codename_or_number() {
        for to in ["trixie", "13", "Trixie"] {
            let hop = Hop::plan(&debian("12", "bookworm"), to).unwrap();
            assert_eq!((hop.from().codename, hop.to().version), ("bookworm", "13"));
        }
        assert_eq!(Hop::between("bookworm", "trixie").unwrap().to_string(), "bookworm (12) to trixie (13)");
    }

    #[test]
    fn refusals_name_the_remedy() {
        let from = debian("12", "bookworm");
        let text = |os: &OsRelease, to: &str| Hop::plan(os, to).unwrap_err().to_string();
        assert!(text(&from, "12").contains("already runs bookworm (12)"));
        assert!(text(&debian("13", "trixie"), "bookworm").contains("safe-upgrade rollback"));
        assert!(text(&from, "forky").contains("it knows bookworm (12), trixie (13)"));
        assert!(text(&debian("", "forky"), "trixie").contains("testing or unstable"));
        assert!(text(&debian("11", "bullseye"), "trixie").contains("release notes first"));
        assert!(text(&debian("14", "forky"), "trixie").contains("a newer version of safe-upgrade"));
        let other = OsRelease { id: "fedora".into(), ..debian("42", "") };
        assert!(text(&other, "trixie").contains("only Debian and Ubuntu"));
    }

    #[test]
    fn ubuntu_goes_from_long_term_support_to_the_next() {
        let ubuntu = |version: &str, codename: &str| OsRelease {
            id: "ubuntu".into(),
            version_id: version.into(),
            codename: codename.into(),
        };
        let hop = Hop::next(&ubuntu("22.04", "jammy")).unwrap();
        assert_eq!((hop.to().codename, hop.distribution()), ("noble", Distribution::Ubuntu));
        assert_eq!(Hop::plan(&ubuntu("24.04", "noble"), "26.04").unwrap().to().codename, "resolute");
        assert_eq!(Hop::between("noble", "resolute").unwrap().distribution(), Distribution::Ubuntu);
        assert_eq!(Hop::between("bookworm", "trixie").unwrap().distribution(), Distribution::Debian);
        let text = |os: &OsRelease, to: &str| Hop::plan(os, to).unwrap_err().to_string();
        assert!(text(&ubuntu("22.04", "jammy"), "resolute").ends_with("run --to noble` first"));
        assert!(text(&ubuntu("24.04", "noble"), "trixie").contains("it knows jammy (22.04)"));
        assert!(text(&ubuntu("24.10", "oracular"), "resolute").contains("no release with long-term support"));
        assert!(text(&ubuntu("20.04", "focal"), "noble").contains("Ubuntu 20.04 (focal)"));
        assert!(
            text(&ubuntu("20.04", "focal"), "noble").contains("the oldest of these by do-release-upgrade")
        );
        assert!(text(&ubuntu("26.10", "later"), "noble").contains("a newer version"));
        let last = Hop::next(&ubuntu("26.04", "resolute")).unwrap_err();
        assert!(last.to_string().contains("already runs resolute"), "{last}");
    }

    #[test]
    fn skipping_names_the_release_in_between() {
        let three = [RELEASES[0], RELEASES[1], Release { codename: "forky", version: "14" }];
        let error = plan_among(Distribution::Debian, &three, &debian("12", "bookworm"), "forky").unwrap_err();
        assert!(error.to_string().ends_with("run `safe-upgrade run --to trixie` first"), "{error}");
    }
}
