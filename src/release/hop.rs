//! Which releases are known, and from which to which a run goes.

use std::fmt;

use crate::system::identity::OsRelease;

/// A Debian release that this version knows how to leave or to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// `bookworm`
    pub codename: &'static str,
    /// `12`, as in `VERSION_ID` of os-release(5).
    pub version: &'static str,
}

/// Every known release, oldest first. A hop goes from one to its neighbour.
pub const RELEASES: [Release; 2] =
    [Release { codename: "bookworm", version: "12" }, Release { codename: "trixie", version: "13" }];

/// One step from a release to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
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
        "this machine runs {from}, and {to} is older: apt cannot go backwards; `safe-upgrade rollback` returns to a kept snapshot"
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
    /// Ubuntu has an upgrader of its own.
    #[error("this machine runs Ubuntu, which this version cannot upgrade yet: use do-release-upgrade")]
    Ubuntu,
    /// Some other distribution.
    #[error("this machine runs {0:?}, and only Debian is known to this version: upgrade it by its own means")]
    NotDebian(String),
    /// Debian without a version number.
    #[error(
        "this machine runs Debian testing or unstable (os-release has no VERSION_ID): it has no next release to go to; follow it with apt"
    )]
    Rolling,
    /// A Debian that is not in [`RELEASES`].
    #[error("this machine runs Debian {found}, and this version starts from {known} only: {remedy}")]
    UnknownStart {
        /// `VERSION_ID` and codename.
        found: String,
        /// The releases that it knows.
        known: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A target that is not in [`RELEASES`].
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
        plan_among(&RELEASES, current, to)
    }

    /// The hop to the release that comes next.
    ///
    /// # Errors
    /// As [`Hop::plan`]; also when no newer release is known.
    pub fn next(current: &OsRelease) -> Result<Self, HopError> {
        let at = RELEASES.iter().position(|release| release.version == current.version_id);
        let next = at.and_then(|at| RELEASES.get(at + 1)).or(RELEASES.last());
        plan_among(&RELEASES, current, next.map_or("", |release| release.codename))
    }

    /// Finds the hop again from two recorded codenames, without asking what runs now.
    ///
    /// # Errors
    /// When one is not known, or the second is not the next after the first.
    pub fn between(from: &str, to: &str) -> Result<Self, HopError> {
        let start = find(&RELEASES, from)?;
        hop_to(&RELEASES, start, to)
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

fn plan_among(table: &[Release], current: &OsRelease, to: &str) -> Result<Hop, HopError> {
    match current.id.as_str() {
        "debian" => {}
        "ubuntu" => return Err(HopError::Ubuntu),
        other => return Err(HopError::NotDebian(other.to_owned())),
    }
    if current.version_id.is_empty() {
        return Err(HopError::Rolling);
    }
    let start = table.iter().position(|release| release.version == current.version_id);
    let start = start.ok_or_else(|| unknown_start(table, current))?;
    hop_to(table, start, to)
}

fn hop_to(table: &[Release], start: usize, to: &str) -> Result<Hop, HopError> {
    let target = find(table, to)?;
    let (from, to) = (table[start], table[target]);
    match target.checked_sub(start) {
        Some(1) => Ok(Hop { from, to }),
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

fn unknown_start(table: &[Release], current: &OsRelease) -> HopError {
    let number = |version: &str| version.parse::<u32>().unwrap_or(0);
    let older = table.first().is_some_and(|first| number(&current.version_id) < number(first.version));
    HopError::UnknownStart {
        found: format!("{} ({})", current.version_id, current.codename),
        known: known(table),
        remedy: if older {
            "bring it to the oldest of these by Debian's release notes first"
        } else {
            "a newer version of safe-upgrade may know it"
        },
    }
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
        let ubuntu = OsRelease { id: "ubuntu".into(), ..debian("24.04", "noble") };
        assert!(text(&ubuntu, "trixie").contains("do-release-upgrade"));
        let other = OsRelease { id: "fedora".into(), ..debian("42", "") };
        assert!(text(&other, "trixie").contains("only Debian"));
    }

    #[test]
    fn skipping_names_the_release_in_between() {
        let three = [RELEASES[0], RELEASES[1], Release { codename: "forky", version: "14" }];
        let error = plan_among(&three, &debian("12", "bookworm"), "forky").unwrap_err();
        assert!(error.to_string().ends_with("run `safe-upgrade run --to trixie` first"), "{error}");
    }
}
