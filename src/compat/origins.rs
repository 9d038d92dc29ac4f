//! Where the installed packages come from: the distribution, somebody else's repository, or nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::status::Package;
use crate::finding::{Finding, Severity};
use crate::release::hop::{Distribution, Hop};
use crate::release::sources::entries::{Entry, shown};
use crate::release::sources::{Note, SourcesPlan};

/// What is known of a repository that is not the distribution's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// File and line of its entry.
    pub place: String,
    /// Where it points, without passwords.
    pub uris: Vec<String>,
    /// Its suites now.
    pub suites: Vec<String>,
    /// Whom its Release file says that it is from.
    pub origin: Option<String>,
    /// Installed packages that come from it.
    pub packages: Vec<String>,
    /// What became of the question for its target suite.
    pub target: Target,
    /// Whether the run itself will ask for the target suite: an update fails when one repository does. Never on Ubuntu, whose
    /// upgrader switches off what is not Ubuntu's.
    pub in_plan: bool,
}

/// What a repository has for the new release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Its suite does not name a release: it stays what it is.
    Same,
    /// It has these suites.
    Exists(Vec<String>),
    /// It answers, and does not have these suites; apt's words.
    Missing(Vec<String>, String),
    /// It has them, and apt does not trust them; apt's words.
    Distrusted(Vec<String>, String),
    /// It gave no answer; apt's words.
    Unreachable(Vec<String>, String),
}

/// An installed package that no repository has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether its maintainer is one of the distribution's: then it is left over from an earlier release, or an old kernel.
    pub of_distribution: bool,
}

/// One line of `apt-get indextargets`: URI without password, suite as in the sources, origin.
pub type Origins = BTreeMap<(String, String), String>;

/// The format that [`parse_origins`] understands.
pub const TARGETS_FORMAT: &str = "$(REPO_URI)\t$(RELEASE)\t$(ORIGIN)";

/// Understands `apt-get indextargets --format` with [`TARGETS_FORMAT`]. Lists that have not been fetched are not in it.
#[must_use]
pub fn parse_origins(text: &str) -> Origins {
    let line = |line: &str| {
        let mut fields = line.split('\t');
        Some(((shown(fields.next()?), fields.next()?.to_owned()), fields.next()?.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Whether an entry is the distribution's own, with its backports and Ubuntu's extended maintenance. What its Release file says
/// counts; without one, its address.
#[must_use]
pub fn is_own(entry: &Entry, distribution: Distribution, origins: &Origins) -> bool {
    let (name, domain, paths) = match distribution {
        Distribution::Debian => ("Debian", "debian.org", ["/debian", "/debian-security"]),
        Distribution::Ubuntu => ("Ubuntu", "ubuntu.com", ["/ubuntu", "/ubuntu-ports"]),
    };
    let origin = origin_of(entry, origins);
    if let Some(origin) = origin {
        let rest = origin.strip_prefix(name);
        return rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' ') || rest.starts_with("ESM"));
    }
    let of_domain = |place: &str| {
        let host = place.split(['/', ':']).next().unwrap_or_default();
        let within = host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        // Personal archives are nobody's but their owners'.
        within && !host.starts_with("ppa.")
    };
    entry.uris.iter().all(|uri| {
        let uri = shown(uri);
        let rest = uri.split_once("://").map_or(uri.as_str(), |(_, rest)| rest);
        let path = &rest[rest.find('/').unwrap_or(rest.len())..];
        // `http://cache:3142/mirror.invalid/debian`
        let behind_a_cache = path.strip_prefix('/').is_some_and(of_domain);
        of_domain(rest) || behind_a_cache || paths.contains(&path)
    })
}

/// Whom an entry's Release file says that it is from.
#[must_use]
pub fn origin_of(entry: &Entry, origins: &Origins) -> Option<String> {
    let keys = entry.uris.iter().flat_map(|uri| entry.suites.iter().map(|suite| (shown(uri), suite.clone())));
    keys.into_iter().find_map(|key| origins.get(&key)).filter(|origin| !origin.is_empty()).cloned()
}

/// Where the versions of a package are to be had: URI and `suite/component`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The installed version.
    pub installed: String,
    /// Repositories that have just this version.
    pub exact: BTreeSet<(String, String)>,
    /// Repositories that have other versions.
    pub others: BTreeSet<(String, String)>,
    /// Whether a repository has a newer one; the table is sorted by that.
    pub newer: bool,
}

/// Understands `apt-cache policy` of installed packages.
#[must_use]
pub fn parse_policy(text: &str) -> BTreeMap<String, Policy> {
    let mut found: BTreeMap<String, Policy> = BTreeMap::new();
    let mut name = String::new();
    let (mut at_installed, mut passed) = (false, false);
    for line in text.lines() {
        if !line.starts_with(' ') {
            name = line.trim_end_matches(':').to_owned();
            (at_installed, passed) = (false, false);
            continue;
        }
        let policy = found.entry(name.clone()).or_default();
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            ["Installed:", version] => policy.installed = version.to_owned(),
            ["***", ..] => (at_installed, passed) = (true, true),
            [_, uri, suite, ..] if line.starts_with("        ") => {
                let place = (shown(uri), suite.to_owned());
                policy.newer |= !passed;
                if at_installed {
                    policy.exact.insert(place)
                } else {
                    policy.others.insert(place)
                };
            }
            [_, _] if line.starts_with("     ") && !line.starts_with("        ") => at_installed = false,
            _ => {}
        }
    }
    found
}

/// The packages of `apt-cache policy` that could be installed.
#[must_use]
pub fn parse_candidates(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut name = "";
    for line in text.lines() {
        if !line.starts_with(' ') {
            name = line.trim_end_matches(':');
        } else if line.trim().strip_prefix("Candidate:").is_some_and(|version| version.trim() != "(none)") {
            found.insert(name.to_owned());
        }
    }
    found
}

/// The installed packages that come from an entry: this version, or, when nobody has this version, another one.
#[must_use]
pub fn packages_of(entry: &Entry, policies: &BTreeMap<String, Policy>) -> Vec<String> {
    let uris: Vec<String> = entry.uris.iter().map(|uri| shown(uri)).collect();
    let fits = |(uri, suite): &(String, String)| {
        let of = |wanted: &String| {
            suite.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        uris.contains(uri) && entry.suites.iter().any(of)
    };
    let from = |policy: &Policy| {
        let places = if policy.exact.is_empty() { &policy.others } else { &policy.exact };
        places.iter().any(fits)
    };
    policies.iter().filter(|(_, policy)| from(policy)).map(|(name, _)| name.clone()).collect()
}

/// The installed packages that nobody has: neither this version nor another, or only older ones.
#[must_use]
pub fn local(
    packages: &[Package],
    policies: &BTreeMap<String, Policy>,
    distribution: Distribution,
) -> Vec<Local> {
    // Ubuntu takes packages over from Debian; some keep their maintainer. Many teams of Debian's have a list at
    // alioth-lists.debian.net: libssl1.1, which most upgraded servers keep for long, is one of theirs.
    let domains: &[&str] = match distribution {
        Distribution::Debian => &["debian.org", "debian.net"],
        Distribution::Ubuntu => &["ubuntu.com", "canonical.com", "debian.org", "debian.net"],
    };
    let own = |maintainer: &str| {
        let address = maintainer.rsplit('<').next().unwrap_or_default().trim_end_matches('>');
        let host = address.rsplit('@').next().unwrap_or_default();
        domains.iter().any(|domain| {
            host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    };
    let is_local = |package: &&Package| {
        let policy = policies.get(&package.name);
        package.is_present() && policy.is_none_or(|policy| policy.exact.is_empty() && !policy.newer)
    };
    packages
        .iter()
        .filter(is_local)
        .map(|package| Local {
            name: package.name.clone(),
            version: package.version.clone(),
            of_distribution: own(&package.maintainer),
        })
        .collect()
}

/// Finds in apt's output why an entry could not be updated.
#[must_use]
pub fn failure(entry: &Entry, output: &str) -> Option<Target> {
    let uris: Vec<String> = entry.uris.iter().map(|uri| shown(uri)).collect();
    let about = |line: &&str| {
        let speaks = ["E: ", "W: ", "Err:"].iter().any(|start| line.starts_with(start));
        let names = |uri: &String| {
            entry.suites.iter().any(|suite| {
                [
                    format!("{uri} {suite} "),
                    format!("{uri}/ {suite} "),
                    format!("{uri}/dists/{suite}/"),
                    format!("{uri}/{suite}"),
                ]
                .iter()
                .any(|text| format!("{line} ").contains(text.as_str()))
            })
        };
        speaks && uris.iter().any(names)
    };
    let lines: Vec<&str> = output.lines().filter(about).collect();
    let clean = |line: &str| line.split_once(": ").map_or(line, |(_, rest)| rest).trim().to_owned();
    let suites = entry.suites.clone();
    let first = |words: &[&str]| lines.iter().find(|line| words.iter().any(|word| line.contains(word)));
    const MISSING: [&str; 4] =
        ["does not have a Release file", "no longer has a Release file", "404", "File not found"];
    if let Some(line) = first(&MISSING) {
        return Some(Target::Missing(suites, clean(line)));
    }
    if let Some(line) =
        first(&["is not signed", "signature", "GPG error", "public key", "not valid yet", "expired"])
    {
        return Some(Target::Distrusted(suites, clean(line)));
    }
    let line = lines.iter().find(|line| !line.starts_with("W: Target"))?;
    Some(Target::Unreachable(
        suites,
        clean(lines.iter().find(|line| line.starts_with("E: ")).unwrap_or(line)),
    ))
}

/// Everything about repositories, local packages, and what the hop does to the sources.
#[must_use]
pub fn findings(repositories: &[Repository], local: &[Local], plan: &SourcesPlan, hop: &Hop) -> Vec<Finding> {
    let mut findings: Vec<Finding> = repositories.iter().map(|one| of_repository(one, hop)).collect();
    let listed = |of_distribution: bool| -> Vec<String> {
        let some = local.iter().filter(|one| one.of_distribution == of_distribution);
        some.map(|one| format!("{} {}", one.name, one.version)).collect()
    };
    let (own, left) = (listed(false), listed(true));
    if !own.is_empty() {
        findings.push(
            Finding::warning(
                "packages-local",
                format!("{} installed packages are in no repository: nobody has built them for {}.", own.len(), hop.to()),
                "build or fetch them for the new release, or remove what is not needed: apt-get remove PACKAGE",
            )
            .with_evidence(own),
        );
    }
    if !left.is_empty() {
        findings.push(
            Finding::note(
                "packages-obsolete",
                format!(
                    "{} packages of {} are left over: no repository has them any more.",
                    left.len(),
                    hop.distribution().name()
                ),
                "apt-get autoremove --purge, when the upgrade has been accepted",
            )
            .with_evidence(left),
        );
    }
    findings.extend(plan.findings.iter().filter_map(|found| {
        let severity = match &found.what {
            // What others call stable is theirs; what is known of it is said above.
            Note::AliasLeft { .. } if is_of(repositories, &found.file, &found.uri) => return None,
            Note::AliasLeft { .. } => Severity::Warning,
            Note::Disabled { .. } | Note::AlreadyTarget { .. } | Note::FirmwareAdded => Severity::Note,
            // The plan itself, and what the repositories' own findings say.
            Note::Rewritten { .. } | Note::ThirdPartyLeft { .. } => return None,
        };
        Some(
            Finding::new(
                "apt-source",
                severity,
                format!("an apt source is not simply taken to the new release: {}.", found.what),
                "look whether it is what you want",
            )
            .with_evidence([format!(
                "{}:{}: {}",
                found.file.display(),
                found.line,
                shown_all(&found.uri)
            )]),
        )
    }));
    findings
}

/// Whether an entry, by its file and addresses, is one of the repositories.
fn is_of(repositories: &[Repository], file: &Path, uris: &str) -> bool {
    let place = format!("{}:", file.display());
    let uris = shown_all(uris);
    repositories.iter().any(|one| one.place.starts_with(&place) && one.uris.join(" ") == uris)
}

fn shown_all(uris: &str) -> String {
    uris.split_ascii_whitespace().map(shown).collect::<Vec<_>>().join(" ")
}

fn of_repository(one: &Repository, hop: &Hop) -> Finding {
    let (id, severity, what, remedy, said) = verdict(one, hop);
    let origin = one.origin.iter().map(|origin| format!("origin: {origin}"));
    let evidence = std::iter::once(format!("{}: suite {}", one.place, one.suites.join(" ")))
        .chain(origin)
        .chain(said.map(|why| format!("apt: {why}")))
        .chain(one.packages.iter().map(|package| format!("package: {package}")));
    Finding::new(id, severity, what, remedy).with_evidence(evidence)
}

/// Id, weight, what it means, what to do, and apt's words.
type Verdict<'r> = (&'static str, Severity, String, String, Option<&'r String>);

fn verdict<'r>(one: &'r Repository, hop: &Hop) -> Verdict<'r> {
    let ubuntu = hop.distribution() == Distribution::Ubuntu;
    let name = format!("{} is not {}'s", one.uris.join(" "), hop.distribution().name());
    let count = one.packages.len();
    let breaks = if one.in_plan { Severity::Inhibitor } else { Severity::Warning };
    let switch_off = switch_off(one, hop);
    match &one.target {
        Target::Same => (
            "repository-same-suite",
            Severity::Note,
            format!(
                "{name}, and its suite does not name a release; {}. {count} packages come from it.",
                if ubuntu { "the upgrader switches it off" } else { "it stays as it is" }
            ),
            "look whether its packages support the new release".to_owned(),
            None,
        ),
        Target::Exists(suites) if one.in_plan => (
            "repository-has-target",
            Severity::Note,
            format!("{name}, and has {}; {count} packages come from it.", suites.join(" ")),
            "nothing: the run takes it along".to_owned(),
            None,
        ),
        Target::Exists(suites) => (
            "repository-has-target",
            Severity::Note,
            format!(
                "{name}, and has {}, but {}; {count} packages come from it.",
                suites.join(" "),
                if ubuntu { "the upgrader switches it off" } else { "the run leaves its suite as it is" }
            ),
            format!(
                "write {} at {} after the upgrade, then apt-get update && apt-get upgrade",
                suites.join(" "),
                one.place
            ),
            None,
        ),
        Target::Missing(suites, why) => (
            "repository-without-target",
            breaks,
            format!("{name}, and has no {}; {count} packages come from it.", suites.join(" ")),
            switch_off,
            Some(why),
        ),
        Target::Distrusted(suites, why) => (
            "repository-distrusted",
            breaks,
            format!(
                "{name}, and apt does not trust what it has as {}; {count} packages come from it.",
                suites.join(" ")
            ),
            format!("install the repository's new key; {switch_off}"),
            Some(why),
        ),
        Target::Unreachable(suites, why) => (
            "repository-unreachable",
            breaks,
            format!(
                "{name}, and gave no answer: whether it has {} could not be found out; {count} packages come from it.",
                suites.join(" ")
            ),
            format!("try again when it can be reached; {switch_off}"),
            Some(why),
        ),
    }
}

fn switch_off(one: &Repository, hop: &Hop) -> String {
    if one.in_plan {
        "the run would stop at its update: switch the repository off first (Enabled: no, or # before its line), or write the suite that it has".to_owned()
    } else {
        format!(
            "look whether its packages for {} work on {}, or replace them by {}'s",
            hop.from(),
            hop.to(),
            hop.distribution().name()
        )
    }
}
