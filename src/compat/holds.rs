//! What keeps packages where they are: holds and pins.

use std::path::{Path, PathBuf};

use super::Error;
use super::removals::bare;
use super::status::text;
use crate::finding::{Finding, Severity};
use crate::health::HealthError;
use crate::release::hop::{Distribution, Hop};
use crate::release::prediction::Prediction;

/// A pin of apt's preferences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The file.
    pub file: PathBuf,
    /// The line on which it begins, from 1.
    pub line: usize,
    /// The packages, as written.
    pub package: String,
    /// What it pins to: `release n=bookworm`, `version 1.*`.
    pub pin: String,
    /// Its priority, as written.
    pub priority: String,
}

impl Pin {
    fn shown(&self) -> String {
        let Self { file, line, package, pin, priority } = self;
        format!("{}:{line}: Package: {package}; Pin: {pin}; Pin-Priority: {priority}", file.display())
    }

    /// Whether it can keep a package from the new release.
    fn keeps_back(&self, hop: &Hop) -> bool {
        let priority: i64 = self.priority.parse().unwrap_or(1000);
        let (kind, rest) = self.pin.split_once(char::is_whitespace).unwrap_or((&self.pin, ""));
        let names_old = match kind.to_ascii_lowercase().as_str() {
            "version" => true,
            "release" => rest.split(',').any(|condition| names_release(condition, hop)),
            // Where a package comes from says nothing of its release.
            _ => false,
        };
        !(0..1000).contains(&priority) || names_old
    }

    fn covers(&self, package: &str) -> bool {
        self.package.split_ascii_whitespace().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => bare(package).starts_with(start),
            None => bare(pattern) == bare(package),
        })
    }
}

/// Whether a condition of `Pin: release` names the release that is left: `n=bookworm`, `a=oldstable-security`, `v=24.04`, or such a
/// value without a key.
fn names_release(condition: &str, hop: &Hop) -> bool {
    let (key, value) = condition.split_once('=').unwrap_or(("", condition));
    let value = value.trim().trim_matches('"').trim_end_matches('*');
    // `bookworm`, and its pockets.
    let of =
        |name: &str| value.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    let by_name = || {
        let aliases: &[&str] = match hop.distribution() {
            Distribution::Debian => &["oldstable", "stable", "oldoldstable"],
            Distribution::Ubuntu => &[],
        };
        of(hop.from().codename) || aliases.iter().any(|alias| of(alias))
    };
    let by_version = || {
        let rest = value.strip_prefix(hop.from().version);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    match key.trim() {
        "n" | "a" => by_name(),
        "v" => by_version(),
        "" => by_name() || by_version(),
        _ => false,
    }
}

/// Reads the pins of a root, in apt's order.
///
/// # Errors
/// When a file cannot be read.
pub fn read(root: &Path) -> Result<Vec<Pin>, Error> {
    let mut files = vec![PathBuf::from("etc/apt/preferences")];
    let parts = root.join("etc/apt/preferences.d");
    match std::fs::read_dir(&parts) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(HealthError::Read { path: parts, source }.into()),
        Ok(entries) => {
            let mut names: Vec<String> =
                entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            // apt reads names without an extension, and `.pref`.
            let is_read =
                |name: &&String| !name.starts_with('.') && (!name.contains('.') || name.ends_with(".pref"));
            files.extend(
                names.iter().filter(is_read).map(|name| Path::new("etc/apt/preferences.d").join(name)),
            );
        }
    }
    let mut pins = Vec::new();
    for file in files {
        let path = root.join(&file);
        if path.is_file() {
            pins.extend(parse(&Path::new("/").join(&file), &text(&path)?));
        }
    }
    Ok(pins)
}

/// Understands the text of a preferences file (apt_preferences(5)).
#[must_use]
pub fn parse(file: &Path, text: &str) -> Vec<Pin> {
    let mut pins: Vec<Pin> = Vec::new();
    let mut open = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            open = false;
            continue;
        }
        let Some((key, value)) = line.split_once(':').filter(|_| !line.starts_with(['#', ' ', '\t'])) else {
            continue;
        };
        let value = value.trim().to_owned();
        if !open {
            pins.push(Pin {
                file: file.to_owned(),
                line: number + 1,
                package: String::new(),
                pin: String::new(),
                priority: String::new(),
            });
            open = true;
        }
        let Some(pin) = pins.last_mut() else { continue };
        match key.trim().to_ascii_lowercase().as_str() {
            "package" => pin.package = value,
            "pin" => pin.pin = value,
            "pin-priority" => pin.priority = value,
            _ => {}
        }
    }
    pins.retain(|pin| !pin.package.is_empty() && !pin.pin.is_empty());
    pins
}

/// Whether the target is reached, what stays behind, and the pins.
#[must_use]
pub fn findings(prediction: &Prediction, pins: &[Pin], hop: &Hop) -> Vec<Finding> {
    let mut findings = Vec::new();
    let keeping: Vec<&Pin> = pins.iter().filter(|pin| pin.keeps_back(hop)).collect();
    if !prediction.reaches(hop) {
        let held = prediction.held.iter().map(|package| format!("held: {package}"));
        findings.push(
            Finding::inhibitor(
                "target-not-reached",
                format!("the upgrade would not bring base-files of {}: a hold or a pin keeps it back.", hop.to()),
                "apt-mark unhold the packages; take the pins out of /etc/apt/preferences and /etc/apt/preferences.d",
            )
            .with_evidence(held.chain(keeping.iter().map(|pin| pin.shown()))),
        );
    }
    findings.extend(kept_back(prediction, pins, hop));
    if !pins.is_empty() {
        let severity = if keeping.is_empty() { Severity::Note } else { Severity::Warning };
        let what = match keeping.len() {
            0 => format!("{} pins of apt stay in force; none names the old release.", pins.len()),
            count => format!("{count} pins of apt can keep packages at the old release's version."),
        };
        let shown: Vec<&Pin> = if keeping.is_empty() { pins.iter().collect() } else { keeping };
        findings.push(
            Finding::new("apt-pins", severity, what, "take out what is not needed any more")
                .with_evidence(shown.iter().map(|pin| pin.shown())),
        );
    }
    findings
}

/// What stays behind. Held packages are wanted so; of others a run says afterwards that the upgrade is not complete, and goes back.
/// Ubuntu's upgrader calculates otherwise than apt, which is asked here: what it leaves is not known for sure.
fn kept_back(prediction: &Prediction, pins: &[Pin], hop: &Hop) -> Option<Finding> {
    let kept = &prediction.kept_back;
    let free: Vec<&str> =
        kept.iter().map(String::as_str).filter(|package| !is_held(package, prediction)).collect();
    let what = format!(
        "the upgrade leaves {} packages at the old release's version; they get no more security updates, and may not fit the new libraries.",
        kept.len()
    );
    let finding = if free.is_empty() || hop.distribution() == Distribution::Ubuntu {
        let remedy = "apt-mark unhold them, or find out what they wait for: apt-get -s install PACKAGE";
        Finding::warning("packages-kept-back", what, remedy)
    } else {
        Finding::inhibitor(
            "packages-kept-back",
            format!(
                "{what} Nobody holds {} of them: the run would find its upgrade incomplete, and go back.",
                free.len()
            ),
            format!(
                "find out what they wait for (apt-get -s install PACKAGE; a held package keeps those back that belong to it), or say that they are to stay: apt-mark hold {}",
                free.join(" ")
            ),
        )
    };
    let evidence = kept.iter().map(|package| why_kept(package, prediction, pins));
    (!kept.is_empty()).then(|| finding.with_evidence(evidence))
}

fn is_held(package: &str, prediction: &Prediction) -> bool {
    prediction.held.iter().any(|held| bare(held) == bare(package))
}

fn why_kept(package: &str, prediction: &Prediction, pins: &[Pin]) -> String {
    if is_held(package, prediction) {
        return format!("{package}: held (apt-mark showhold)");
    }
    match pins.iter().find(|pin| pin.covers(package)) {
        Some(pin) => format!("{package}: pinned by {}:{}", pin.file.display(), pin.line),
        None => format!("{package}: something that it needs is not there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# kept for the tests\nExplanation: old\nPackage: nginx*\nPin: release n=bookworm\nPin-Priority: 990\n\n\
        Package: docker-ce\nPin: origin download.invalid\nPin-Priority: 500\n\nPackage: broken\n";

    #[test]
    fn pins_with_their_lines() {
        let pins = parse(Path::new("/etc/apt/preferences.d/x"), TEXT);
        assert_eq!(pins.len(), 2);
        assert_eq!((pins[0].line, pins[0].package.as_str(), pins[1].line), (2, "nginx*", 7));
        let hop = Hop::between("bookworm", "trixie").unwrap();
        assert!(pins[0].keeps_back(&hop) && !pins[1].keeps_back(&hop));
        assert!(pins[0].covers("nginx-common") && !pins[1].covers("docker"));
    }

    #[test]
    fn what_a_pin_names() {
        let debian = Hop::between("bookworm", "trixie").unwrap();
        let ubuntu = Hop::between("noble", "resolute").unwrap();
        let keeps = |pin: &str, hop: &Hop| {
            let pin = Pin {
                file: "/p".into(),
                line: 1,
                package: "*".into(),
                pin: pin.into(),
                priority: "500".into(),
            };
            pin.keeps_back(hop)
        };
        for pin in [
            "release n=bookworm",
            "release o=Debian, n=bookworm-security",
            "release a=oldstable",
            "release v=12.*",
            "release l=Debian,v=12",
            "release bookworm",
            "version 1.2*",
        ] {
            assert!(keeps(pin, &debian), "{pin}");
        }
        for pin in [
            "origin 10.12.0.5",
            "origin mirror.stable.invalid",
            "release o=stable",
            "release n=trixie",
            "release v=13",
            "release a=bookworm2,c=12",
        ] {
            assert!(!keeps(pin, &debian), "{pin}");
        }
        assert!(keeps("release v=24.04", &ubuntu) && keeps("release a=noble-updates", &ubuntu));
        assert!(!keeps("release a=stable", &ubuntu) && !keeps("release v=26.04", &ubuntu));
    }

    #[test]
    fn what_is_held_may_stay_behind() {
        let hop = Hop::between("bookworm", "trixie").unwrap();
        let prediction = Prediction {
            held: vec!["redis-server".into()],
            kept_back: vec!["redis-server".into()],
            ..Prediction::default()
        };
        let found = findings(&prediction, &[], &hop);
        let kept = found.iter().find(|one| one.id == "packages-kept-back").unwrap();
        assert_eq!(
            (kept.severity, &kept.evidence[..]),
            (Severity::Warning, &["redis-server: held (apt-mark showhold)".to_owned()][..])
        );
    }

    #[test]
    fn what_ubuntus_upgrader_leaves_is_not_foretold_for_sure() {
        let hop = Hop::between("noble", "resolute").unwrap();
        let prediction = Prediction { kept_back: vec!["x".into()], ..Prediction::default() };
        let found = findings(&prediction, &[], &hop);
        let kept = found.iter().find(|one| one.id == "packages-kept-back").unwrap();
        assert_eq!(kept.severity, Severity::Warning);
    }

    #[test]
    fn what_keeps_the_target_away_is_named() {
        let hop = Hop::between("bookworm", "trixie").unwrap();
        let prediction = Prediction {
            held: vec!["base-files".into()],
            kept_back: vec!["base-files".into(), "nginx".into(), "x".into()],
            ..Prediction::default()
        };
        let found = findings(&prediction, &parse(Path::new("/p"), TEXT), &hop);
        let ids: Vec<_> = found.iter().map(|one| (one.id.as_str(), one.severity)).collect();
        assert_eq!(
            ids,
            [
                ("target-not-reached", Severity::Inhibitor),
                ("packages-kept-back", Severity::Inhibitor),
                ("apt-pins", Severity::Warning)
            ]
        );
        assert_eq!(found[0].evidence[0], "held: base-files");
        assert!(found[1].remedy.ends_with("apt-mark hold nginx x"), "{}", found[1].remedy);
        assert_eq!(
            found[1].evidence,
            [
                "base-files: held (apt-mark showhold)",
                "nginx: pinned by /p:2",
                "x: something that it needs is not there"
            ]
        );
    }
}
