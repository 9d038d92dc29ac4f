//! What apt-get says that it would do: `-s`, `--assume-no` and `--print-uris`, understood from their text (LC_ALL=C.UTF-8).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A package that apt would install or upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its name; with `:arch` where apt says so (foreign architectures).
    pub package: String,
    /// The installed version; `None` for a new package.
    pub old: Option<String>,
    /// The version that it would get; empty for a removal.
    pub new: String,
    /// Where it comes from, as apt says it: `Debian:13.8/stable`.
    pub origin: String,
}

/// What `apt-get -s` would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Simulation {
    /// Installed packages that get a new version.
    pub upgraded: Vec<Change>,
    /// New packages.
    pub new: Vec<Change>,
    /// Packages that go away, with their versions in `old`.
    pub removed: Vec<Change>,
    /// Packages that could be upgraded but are not.
    pub kept_back: Vec<String>,
}

/// Output that does not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("apt-get's simulation was not understood: {0}")]
pub struct SimulationError(String);

/// Understands the output of `apt-get -s`; its own summary line must agree with what was counted.
///
/// # Errors
/// When the summary line is missing or disagrees.
pub fn parse_simulation(text: &str) -> Result<Simulation, SimulationError> {
    let mut found = Simulation { kept_back: block(text, KEPT_BACK), ..Simulation::default() };
    for line in text.lines() {
        let Some((verb, rest)) = line.split_once(' ') else { continue };
        match verb {
            "Inst" => match change(rest) {
                Some(change) if change.old.is_some() => found.upgraded.push(change),
                Some(change) => found.new.push(change),
                None => return Err(SimulationError(line.to_owned())),
            },
            "Remv" | "Purg" => {
                found.removed.push(change(rest).ok_or_else(|| SimulationError(line.to_owned()))?);
            }
            _ => {}
        }
    }
    let summary = parse_summary(text).ok_or_else(|| SimulationError("it has no summary line".into()))?;
    let unique = |changes: &[Change]| {
        changes.iter().map(|change| change.package.as_str()).collect::<BTreeSet<_>>().len()
    };
    let counted = (unique(&found.upgraded), unique(&found.new), unique(&found.removed));
    // A downgrade is a line of its own in the summary and an Inst with an old version here: it counts as neither.
    if counted.1 != summary.new || counted.2 != summary.removed || counted.0 < summary.upgraded {
        return Err(SimulationError(format!(
            "it lists {} upgraded, {} new, {} removed and sums up {}, {}, {}",
            counted.0, counted.1, counted.2, summary.upgraded, summary.new, summary.removed
        )));
    }
    Ok(found)
}

/// apt-get's closing line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Packages upgraded.
    pub upgraded: usize,
    /// Packages new.
    pub new: usize,
    /// Packages removed.
    pub removed: usize,
    /// Packages left although they could be upgraded.
    pub left: usize,
}

/// Finds `334 upgraded, 63 newly installed, 26 to remove and 2 not upgraded.`
#[must_use]
pub fn parse_summary(text: &str) -> Option<Summary> {
    let line = text.lines().find(|line| line.contains(" upgraded, ") && line.contains(" to remove and "))?;
    let before = |words: &str| -> Option<usize> {
        line.split_once(words)?.0.rsplit(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
    };
    Some(Summary {
        upgraded: before(" upgraded, ")?,
        new: before(" newly installed")?,
        removed: before(" to remove")?,
        left: before(" not upgraded")?,
    })
}

/// How much space the filesystem gives up (positive) or gains (negative) by the upgrade, in bytes, as
/// apt says it rounded: `After this operation, 72.1 MB of additional disk space will be used.`
#[must_use]
pub fn parse_space_after(text: &str) -> Option<i64> {
    let line = text.lines().find(|line| line.starts_with("After this operation, "))?;
    let mut words = line["After this operation, ".len()..].split(' ');
    let number: f64 = words.next()?.replace(',', "").parse().ok()?;
    let unit = match words.next()? {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        _ => return None,
    };
    let bytes = (number * unit) as i64;
    Some(if line.contains(" freed") { -bytes } else { bytes })
}

/// One file that apt would download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Its URI.
    pub uri: String,
    /// Its name in the archives directory.
    pub file: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Understands `apt-get --print-uris -qq`: what is not yet in the archives directory.
#[must_use]
pub fn parse_uris(text: &str) -> Vec<Fetch> {
    text.lines()
        .filter_map(|line| {
            let (uri, rest) = line.strip_prefix('\'')?.split_once("' ")?;
            let mut words = rest.split(' ');
            let file = words.next()?.to_owned();
            Some(Fetch { uri: uri.to_owned(), file, bytes: words.next()?.parse().ok()? })
        })
        .collect()
}

const KEPT_BACK: &str = "The following packages have been kept back:";

/// The names in the indented block after a heading.
fn block(text: &str, heading: &str) -> Vec<String> {
    text.lines()
        .skip_while(|line| *line != heading)
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .flat_map(str::split_ascii_whitespace)
        .map(str::to_owned)
        .collect()
}

/// `libc6 [2.36] (2.41 Debian:13.8/stable [amd64]) [libc-bin:amd64 ]`, or with the parts that a removal or a new package lacks.
fn change(rest: &str) -> Option<Change> {
    let (package, mut rest) = rest.split_once(' ')?;
    let mut old = None;
    if let Some(after) = rest.strip_prefix('[') {
        let (version, after) = after.split_once(']')?;
        old = Some(version.to_owned());
        rest = after.trim_start();
    }
    let (mut new, mut origin) = (String::new(), String::new());
    if let Some(inside) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        let (version, from) = inside.0.split_once(' ').unwrap_or((inside.0, ""));
        new = version.to_owned();
        origin = from.split_once(" [").map_or(from, |(origin, _)| origin).to_owned();
    }
    Some(Change { package: package.to_owned(), old, new, origin })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_simulation() {
        let text = include_str!("../../tests/fixtures/release/simulate.txt");
        let found = parse_simulation(text).unwrap();
        assert_eq!((found.upgraded.len(), found.new.len(), found.removed.len()), (140, 25, 9));
        assert!(found.kept_back.is_empty());
        let libc = found.upgraded.iter().find(|change| change.package == "libc6").unwrap();
        assert!(libc.old.as_deref().unwrap().starts_with("2.36-9+deb12u"), "{libc:?}");
        assert_eq!((libc.new.as_str(), libc.origin.as_str()), ("2.41-12+deb13u5", "Debian:13.8/stable"));
        assert!(found.removed.iter().any(|change| change.package == "libssl3" && change.old.is_some()));
    }

    #[test]
    fn kept_back_and_many_origins() {
        let text = "The following packages have been kept back:\n  redis-server redis-tools\n  x:i386\nThe following packages will be upgraded:\n  a\nInst a [1] (2:2.0~x Debian:13.8/stable, Debian-Security:13/stable-security [amd64]) []\n1 upgraded, 0 newly installed, 0 to remove and 3 not upgraded.\n";
        let found = parse_simulation(text).unwrap();
        assert_eq!(found.kept_back, ["redis-server", "redis-tools", "x:i386"]);
        assert_eq!(found.upgraded[0].new, "2:2.0~x");
        assert_eq!(found.upgraded[0].origin, "Debian:13.8/stable, Debian-Security:13/stable-security");
    }

    #[test]
    fn what_does_not_add_up_is_an_error() {
        assert!(parse_simulation("E: something\n").is_err());
        let text = "Inst a (1 X [amd64])\n0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.\n";
        assert!(parse_simulation(text).unwrap_err().to_string().contains("1 new"), "{text}");
        assert!(
            parse_simulation("Inst\nInst a\n0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.")
                .is_err()
        );
    }

    #[test]
    fn sizes() {
        let text = include_str!("../../tests/fixtures/release/assume-no.txt");
        assert_eq!(parse_space_after(text), Some(72_100_000));
        assert_eq!(
            parse_space_after("After this operation, 1,234 kB disk space will be freed."),
            Some(-1_234_000)
        );
        assert_eq!(parse_space_after("After this operation, x"), None);
        let uris = parse_uris(include_str!("../../tests/fixtures/release/print-uris.txt"));
        assert_eq!(uris.len(), 4);
        assert_eq!(uris[0].bytes, 88_324);
        assert_eq!(uris[0].file, "base-files_13.8+deb13u8_amd64.deb");
    }
}
