//! Packages that the upgrade takes away: which of them somebody would miss.

use std::collections::{BTreeMap, BTreeSet};

use super::status::{Package, field};
use crate::finding::Finding;
use crate::release::prediction::Prediction;

/// Why a package that goes away would be missed, and what could take its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// The package, as apt names it.
    pub package: String,
    /// The installed version.
    pub version: String,
    /// Whether somebody installed it by name; parts that others need do not count.
    pub by_name: bool,
    /// Enabled units that it brought.
    pub units: Vec<String>,
    /// What its programs listen at: `tcp 0.0.0.0:9000`.
    pub listens: Vec<String>,
    /// Its running programs: `/usr/sbin/php-fpm8.2 (process 812)`.
    pub running: Vec<String>,
    /// The arriving package that takes its place by itself.
    pub replaced_by: Option<String>,
    /// Packages of the target that carry on its work, if somebody installs them.
    pub successors: Vec<String>,
}

impl Removal {
    /// Whether somebody would miss it.
    #[must_use]
    pub fn is_missed(&self) -> bool {
        let used = self.by_name || !self.units.is_empty() || !self.listens.is_empty();
        self.replaced_by.is_none() && (used || !self.running.is_empty())
    }
}

/// What a package of the target says of others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relations {
    /// Names that it stands for.
    pub provides: BTreeSet<String>,
    /// Packages whose place it takes as a whole: replaced without a version, and in conflict.
    pub takes_over: BTreeSet<String>,
}

/// One finding for each package that would be missed, and one note for all the others.
#[must_use]
pub fn findings(removals: &[Removal], target: &str) -> Vec<Finding> {
    let (missed, harmless): (Vec<_>, Vec<_>) = removals.iter().partition(|removal| removal.is_missed());
    let mut findings: Vec<Finding> = missed.iter().map(|removal| finding(removal, target)).collect();
    if !harmless.is_empty() {
        findings.push(
            Finding::note(
                "packages-removed",
                format!(
                    "the upgrade removes {} packages that nobody uses by name, libraries and other parts for the most.",
                    harmless.len()
                ),
                "nothing",
            )
            .with_evidence(harmless.iter().map(|removal| match &removal.replaced_by {
                Some(by) => format!("{} {}: {by} takes its place", removal.package, removal.version),
                None => format!("{} {}", removal.package, removal.version),
            })),
        );
    }
    findings
}

fn finding(removal: &Removal, target: &str) -> Finding {
    let Removal { package, version, .. } = removal;
    let remedy = match &removal.successors[..] {
        [] => format!(
            "find out what does its work on {target}, or stop using it first: apt-get remove {package}"
        ),
        names => format!(
            "on {target} {} can carry on its work; apt-get install {} now where this release has it, so that the upgrade follows it, \
             or move the service after a rehearsal",
            names.join(" or "),
            names[0]
        ),
    };
    let mut evidence = vec![format!("package: {package} {version}")];
    if removal.by_name {
        evidence.push("installed by name (apt-mark showmanual)".into());
    }
    evidence.extend(removal.units.iter().map(|unit| format!("enabled unit: {unit}")));
    evidence.extend(removal.listens.iter().map(|at| format!("listens at {at}")));
    evidence.extend(removal.running.iter().map(|program| format!("runs: {program}")));
    evidence.extend(removal.successors.iter().map(|name| format!("possible successor: {name}")));
    Finding::inhibitor(
        "package-removed-in-use",
        format!(
            "the upgrade removes {package}, which is in use, and installs nothing in its place: {}.",
            lost(removal)
        ),
        remedy,
    )
    .with_evidence(evidence)
}

fn lost(removal: &Removal) -> &'static str {
    if !removal.listens.is_empty() {
        "nobody will answer where it listens"
    } else if !removal.units.is_empty() {
        "its service will be gone"
    } else if !removal.running.is_empty() {
        "its running program will not be there after the reboot"
    } else {
        "somebody installed it by name"
    }
}

/// Everything about the removed packages that the package database knows; what runs is added elsewhere.
#[must_use]
pub fn known(
    prediction: &Prediction,
    packages: &[Package],
    automatic: &BTreeSet<String>,
    relations: &BTreeMap<String, Relations>,
) -> Vec<Removal> {
    let removal = |package: &str| {
        let of = packages.iter().find(|one| one.name == package);
        Removal {
            package: package.to_owned(),
            version: of.map(|one| one.version.clone()).unwrap_or_default(),
            by_name: !automatic.contains(bare(package)) && !of.is_some_and(Package::is_part),
            replaced_by: replaced_by(package, prediction, relations),
            ..Removal::default()
        }
    };
    prediction.removed.iter().map(|change| removal(&change.package)).collect()
}

/// The arriving package that says of itself that it stands for the removed one, or is the same library for 64-bit times.
fn replaced_by(
    package: &str,
    prediction: &Prediction,
    relations: &BTreeMap<String, Relations>,
) -> Option<String> {
    let name = bare(package);
    let t64 = format!("{name}t64");
    let takes = |arriving: &str| {
        let says = relations.get(arriving);
        bare(arriving) == t64
            || says.is_some_and(|says| says.provides.contains(name) || says.takes_over.contains(name))
    };
    let mut arriving = prediction.new.iter().chain(&prediction.upgraded).map(|change| &change.package);
    // A stack whose metapackage is installed moves on by itself.
    let moves_on = || successors(package, prediction.new.iter().map(|change| bare(&change.package))).pop();
    arriving.find(|arriving| takes(arriving)).cloned().or_else(moves_on)
}

/// Understands `apt-cache show`: what each package says of others.
#[must_use]
pub fn parse_relations(text: &str) -> BTreeMap<String, Relations> {
    let mut found: BTreeMap<String, Relations> = BTreeMap::new();
    for stanza in text.split("\n\n") {
        let Some(name) = field(stanza, "Package") else { continue };
        let list = |name: &str| field(stanza, name).unwrap_or_default();
        let conflicts: BTreeSet<&str> = names(list("Conflicts")).map(|(name, _)| name).collect();
        let relations = found.entry(name.to_owned()).or_default();
        relations.provides.extend(names(list("Provides")).map(|(name, _)| name.to_owned()));
        let whole = |(name, versioned): &(&str, bool)| !versioned && conflicts.contains(name);
        relations.takes_over.extend(names(list("Replaces")).filter(whole).map(|(name, _)| name.to_owned()));
    }
    found
}

/// The names in a field of relations, and whether each is bound to versions.
fn names(list: &str) -> impl Iterator<Item = (&str, bool)> {
    list.split([',', '|']).filter_map(|one| {
        let name = bare(one.split_ascii_whitespace().next()?);
        Some((name, one.contains('(')))
    })
}

/// Names of the target that could carry on the work of a versioned package: the unversioned name, and higher versions of the same
/// (`php-fpm` and `php8.4-fpm` for `php8.2-fpm`).
#[must_use]
pub fn successors<'n>(package: &str, names: impl IntoIterator<Item = &'n str>) -> Vec<String> {
    let package = bare(package);
    let splits: Vec<Split<'_>> = versions(package).collect();
    if splits.is_empty() {
        return Vec::new();
    }
    let mut metas = BTreeSet::new();
    let mut newer: Vec<BTreeMap<Vec<u64>, String>> = vec![BTreeMap::new(); splits.len()];
    for name in names {
        for (split, newer) in splits.iter().zip(&mut newer) {
            if name != package && split.is_plain(name) {
                metas.insert(name.to_owned());
            } else if let Some(version) = split.version_in(name).filter(|version| *version > split.version) {
                newer.insert(version, name.to_owned());
            }
        }
    }
    let highest = newer.into_iter().filter_map(|newer| newer.into_values().next_back());
    metas.into_iter().chain(highest).collect()
}

/// A name around one of its numbers: `php`, `[8, 2]`, `-fpm`.
struct Split<'n> {
    prefix: &'n str,
    version: Vec<u64>,
    suffix: &'n str,
}

impl Split<'_> {
    /// The version that another name has in the same place.
    fn version_in(&self, name: &str) -> Option<Vec<u64>> {
        number(name.strip_prefix(self.prefix)?.strip_suffix(self.suffix)?)
    }

    /// Whether a name is this one without the version: `python3` and `php` follow the default version; python's has its major
    /// number in the name.
    fn is_plain(&self, name: &str) -> bool {
        let stem = self.prefix.trim_end_matches('-');
        let rest = name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(self.suffix));
        rest.is_some_and(|rest| rest.is_empty() || rest == self.version[0].to_string())
    }
}

/// A name around each of its numbers: `libapache2-mod-php8.2` has two, and goes on by its second.
fn versions(name: &str) -> impl Iterator<Item = Split<'_>> {
    let digit = |at: usize| name.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
    let begins = move |at: &usize| {
        let before = at.checked_sub(1);
        digit(*at) && !before.is_some_and(|before| digit(before) || name.as_bytes()[before] == b'.')
    };
    (0..name.len()).filter(begins).filter_map(|start| {
        let length = name[start..].find(|character: char| !(character.is_ascii_digit() || character == '.'));
        let end = length.map_or(name.len(), |length| start + length);
        let written = name[start..end].trim_end_matches('.');
        let (prefix, suffix) = (&name[..start], &name[start + written.len()..]);
        Some(Split { prefix, version: number(written)?, suffix })
    })
}

fn number(text: &str) -> Option<Vec<u64>> {
    text.split('.').map(|part| part.parse().ok()).collect()
}

/// Without `:arch`.
pub(super) fn bare(package: &str) -> &str {
    package.split(':').next().unwrap_or(package)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;
    use crate::release::simulation::Change;

    #[test]
    fn successors_of_versioned_stacks() {
        let names = [
            "php-fpm",
            "php8.4-fpm",
            "php8.3-fpm",
            "php8.4-cli",
            "php8.2-fpm",
            "postgresql",
            "postgresql-17",
            "postgresql-17-cron",
            "python3",
            "python3.13",
            "python3.13-venv",
            "python3-venv",
            "ruby",
            "ruby3.3",
            "tomcat10",
            "libssl3t64",
            "nodejs",
            "libapache2-mod-php",
            "libapache2-mod-php8.4",
            "libapache2-mod-wsgi",
        ];
        let of = |package: &str| successors(package, names);
        assert_eq!(of("php8.2-fpm"), ["php-fpm", "php8.4-fpm"]);
        assert_eq!(of("postgresql-15"), ["postgresql", "postgresql-17"]);
        assert_eq!(of("python3.11"), ["python3", "python3.13"]);
        assert_eq!(of("python3.11-venv"), ["python3-venv", "python3.13-venv"]);
        assert_eq!(of("ruby3.1"), ["ruby", "ruby3.3"]);
        assert_eq!(of("tomcat9"), ["tomcat10"]);
        assert!(of("nginx").is_empty());
        assert_eq!(of("libapache2-mod-php8.2"), ["libapache2-mod-php", "libapache2-mod-php8.4"]);
    }

    #[test]
    fn relations_of_arriving_packages() {
        let text = "Package: libssl3t64\nProvides: libssl3 (= 3.5.1-1)\nReplaces: libssl3 (<< 3)\n\n\
            Package: new\nProvides: a, b:any (= 1)\nReplaces: old, part (<< 2)\nConflicts: old, part (<< 2)\n\n\
            Package: files-only\nReplaces: old\nBreaks: old\n";
        let found = parse_relations(text);
        assert!(found["libssl3t64"].provides.contains("libssl3"));
        assert_eq!(found["new"].takes_over.iter().collect::<Vec<_>>(), ["old"]);
        assert!(found["new"].provides.contains("b") && found["files-only"].takes_over.is_empty());
    }

    fn change(package: &str) -> Change {
        Change { package: package.into(), old: Some("1".into()), new: String::new(), origin: String::new() }
    }

    fn package(name: &str, section: &str) -> Package {
        Package { name: name.into(), version: "1".into(), section: section.into(), ..Package::default() }
    }

    #[test]
    fn only_what_is_missed_stops_a_run() {
        let names = ["libssl3", "lib9", "htop", "auto", "php8.2-fpm", "replaced"];
        let prediction = Prediction {
            removed: names.iter().map(|name| change(name)).collect(),
            new: vec![change("libssl3t64"), change("taker")],
            ..Prediction::default()
        };
        let sections = ["libs", "libs", "utils", "utils", "php", "net"];
        let packages: Vec<_> =
            names.iter().zip(sections).map(|(name, section)| package(name, section)).collect();
        let automatic: BTreeSet<String> = ["auto".to_owned(), "php8.2-fpm".to_owned()].into();
        let relations = parse_relations("Package: taker\nProvides: replaced\n");
        let mut removals = known(&prediction, &packages, &automatic, &relations);
        let php = removals.iter_mut().find(|one| one.package == "php8.2-fpm").unwrap();
        php.units = vec!["php8.2-fpm.service".into()];
        php.successors = vec!["php-fpm".into(), "php8.4-fpm".into()];
        let found = findings(&removals, "trixie");
        let stops: Vec<_> = found.iter().filter(|one| one.severity == Severity::Inhibitor).collect();
        assert_eq!(stops.len(), 2, "{stops:#?}");
        assert!(
            stops[0].what.contains("removes htop")
                && stops[0].evidence.iter().any(|line| line.contains("showmanual"))
        );
        assert!(stops[1].remedy.contains("php-fpm or php8.4-fpm"), "{}", stops[1].remedy);
        assert!(stops[1].evidence.contains(&"enabled unit: php8.2-fpm.service".to_owned()));
        let note = found.iter().find(|one| one.id == "packages-removed").unwrap();
        assert_eq!((note.severity, note.evidence.len()), (Severity::Note, 4));
        assert!(note.evidence.contains(&"libssl3 1: libssl3t64 takes its place".to_owned()));
    }
}
