//! What the libraries of own programs mean for the upgrade. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::contents::Provided;
use super::{Facts, Found, Program};
use crate::finding::Finding;
use crate::system::show;

/// More programs than this are counted, not listed.
const LISTED: usize = 20;

/// The C library of programs that were made for other systems than Debian: modules bring one file for each, and only one is used.
const OTHER_C_LIBRARY: &str = "libc.musl-";

/// What is known about the new release's libraries.
pub enum NewRelease<'k> {
    /// What its index of files says about [`Facts::wanted`].
    Index(&'k Provided),
    /// There is no index, but the packages that go away are known.
    Packages {
        /// Whether a package goes away, and no package takes over its files.
        goes: &'k dyn Fn(&str) -> bool,
        /// Why there is no index.
        why: String,
    },
    /// Nothing.
    Unknown,
}

/// Judges. `remaining` says whether a package stays installed from the old release: what it holds stays too.
#[must_use]
pub fn findings(facts: &Facts, known: &NewRelease<'_>, remaining: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let asked = by_soname(facts.native(), |found| match found {
        Found::Package { package, .. } => Some(package.clone()),
        Found::Bundled | Found::Missing => None,
    });
    match known {
        NewRelease::Index(provided) if provided.whole => findings.extend(
            asked
                .iter()
                .filter(|(soname, _)| !provided.packages.contains_key(**soname))
                .map(|(soname, users)| gone(soname, users, remaining)),
        ),
        _ if asked.is_empty() => {}
        NewRelease::Packages { goes, why } => findings.extend(by_packages(&asked, goes, why)),
        NewRelease::Index(_) | NewRelease::Unknown => findings.push(
            Finding::unknown(
                "whether the new release has the libraries that programs of your own need",
                "there is no index of its files (Contents)",
            )
            .with_evidence(asked.iter().flat_map(|(soname, users)| users.lines(soname)).take(LISTED)),
        ),
    }
    findings.extend(missing_now(facts));
    findings.extend(others(facts));
    findings.extend(not_seen(facts));
    findings
}

/// Who needs a library, and which packages it comes from now.
#[derive(Default)]
struct Users {
    programs: BTreeSet<String>,
    packages: BTreeSet<String>,
    any_program: bool,
}

impl Users {
    fn lines(&self, soname: &str) -> Vec<String> {
        let soname = show::line(soname);
        let mut lines: Vec<String> =
            self.programs.iter().take(LISTED).map(|program| format!("{program} needs {soname}")).collect();
        if self.programs.len() > LISTED {
            lines.push(format!("and {} more", self.programs.len() - LISTED));
        }
        lines
    }
}

fn by_soname<'f>(
    programs: impl Iterator<Item = &'f Program>,
    from: impl Fn(&Found) -> Option<String>,
) -> BTreeMap<&'f str, Users> {
    let mut all: BTreeMap<&str, Users> = BTreeMap::new();
    for program in programs {
        for need in &program.needs {
            if let Some(package) = from(&need.found) {
                let users = all.entry(&need.soname).or_default();
                users.programs.insert(show::path(&program.path));
                users.packages.insert(package);
                users.any_program |= program.is_program;
            }
        }
    }
    all
}

fn gone(soname: &str, users: &Users, remaining: &dyn Fn(&str) -> bool) -> Finding {
    let packages = users.packages.iter().cloned().collect::<Vec<_>>().join(" ");
    let mut evidence = users.lines(soname);
    evidence.push(format!("{} comes from {packages} now", show::line(soname)));
    let soname = show::line(soname);
    let programs = users.programs.len();
    if users.packages.iter().all(|package| remaining(package)) {
        return Finding::note(
            "library-left-behind",
            format!(
                "{programs} of your own programs need {soname}, which the new release does not have: they keep working because \
                 {packages} stays installed, without security updates from then on."
            ),
            format!("apt-mark manual {packages}, so that autoremove leaves it, until the programs are built again"),
        )
        .with_evidence(evidence);
    }
    Finding::inhibitor(
        "library-gone",
        format!(
            "{programs} of your own programs need {soname}, which the new release does not have: they will not start any more."
        ),
        format!(
            "build them again on the new release, get them from their vendor for it, or keep the library: apt-mark manual {packages}, \
             if apt lets it stay"
        ),
    )
    .with_evidence(evidence)
}

/// Without an index: a library goes when all packages that it comes from go. A package that stays could still drop one.
fn by_packages(asked: &BTreeMap<&str, Users>, goes: &dyn Fn(&str) -> bool, why: &str) -> Vec<Finding> {
    let gone_ones = asked.iter().filter(|(_, users)| users.packages.iter().all(|package| goes(package)));
    let mut findings: Vec<Finding> =
        gone_ones.map(|(soname, users)| gone(soname, users, &|_| false)).collect();
    findings.push(
        Finding::warning(
            "libraries-by-packages-only",
            format!(
                "whether the new release has the libraries that programs of your own need was judged by the packages that go away: \
                 its index of files (Contents) could not be had: {why}."
            ),
            "safe-upgrade rehearse, with a check that starts these programs",
        )
        .with_evidence(asked.iter().flat_map(|(soname, users)| users.lines(soname)).take(LISTED)),
    );
    findings
}

/// What does not start today is no fault of the upgrade, but it would be blamed.
fn missing_now(facts: &Facts) -> Vec<Finding> {
    let missing = by_soname(facts.native(), |found| (*found == Found::Missing).then(String::new));
    let (mut sure, mut modules) = (Vec::new(), Vec::new());
    for (soname, users) in missing.iter().filter(|(soname, _)| !soname.starts_with(OTHER_C_LIBRARY)) {
        let list = if users.any_program { &mut sure } else { &mut modules };
        list.extend(users.lines(soname));
    }
    let mut findings = Vec::new();
    if !sure.is_empty() {
        let what = "programs of your own need libraries that nobody provides even now: they do not start, unless a start script \
                    says where the libraries are.";
        let remedy = "find out with `ldd PROGRAM`; delete what is not used any more";
        findings.push(Finding::warning("library-missing-now", what, remedy).with_evidence(sure));
    }
    if !modules.is_empty() {
        let what = "libraries or modules of your own need other libraries that were not found: whoever loads them may bring those.";
        findings.push(
            Finding::note("module-library-not-found", what, "nothing, if they are loaded")
                .with_evidence(modules),
        );
    }
    findings
}

/// Programs for another architecture that run here, by libraries of packages.
fn others(facts: &Facts) -> Option<Finding> {
    let from_packages = |program: &&Program| {
        program.architecture != Some(facts.architecture)
            && program.needs.iter().any(|need| matches!(need.found, Found::Package { .. }))
    };
    let lines: Vec<String> = facts
        .programs
        .iter()
        .filter(from_packages)
        .map(|program| {
            format!("{} ({})", show::path(&program.path), program.architecture.unwrap_or("unknown"))
        })
        .take(LISTED)
        .collect();
    (!lines.is_empty()).then(|| {
        Finding::warning(
            "programs-of-another-architecture",
            "programs of your own are made for another architecture, and the libraries that they need come from packages: whether \
             the new release has those was not looked at.",
            "try them in a rehearsal",
        )
        .with_evidence(lines)
    })
}

fn not_seen(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.cut_off {
        let what =
            "there are too many files below the directories of your own programs: not all were looked at.";
        let remedy = "try your own programs in a rehearsal";
        findings.push(Finding::warning("libraries-not-all-seen", what, remedy));
    }
    if !facts.unreadable.is_empty() {
        let what = format!(
            "{} files or directories of your own programs could not be read.",
            facts.unreadable.len()
        );
        let lines = facts.unreadable.iter().take(LISTED).map(|line| show::line(line));
        findings.push(
            Finding::warning(
                "libraries-unreadable",
                what,
                "run the check as root, and mend what the lines name",
            )
            .with_evidence(lines),
        );
    }
    if !facts.damaged.is_empty() {
        let what =
            "files that begin like programs are damaged, or made for something else than Linux's linker.";
        let lines = facts.damaged.iter().take(LISTED).map(|path| show::path(path));
        findings.push(
            Finding::note("program-damaged", what, "nothing, if nobody starts them").with_evidence(lines),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{COULD_NOT_FIND_OUT, Severity};
    use crate::libraries::Need;

    fn program(path: &str, needs: &[(&str, Found)]) -> Program {
        let needs =
            needs.iter().map(|(soname, found)| Need { soname: (*soname).into(), found: found.clone() });
        Program {
            path: path.into(),
            is_program: !path.contains(".so"),
            architecture: Some("amd64"),
            needs: needs.collect(),
        }
    }

    fn package(name: &str) -> Found {
        Found::Package { package: name.into(), file: format!("/usr/lib/x86_64-linux-gnu/{name}.so").into() }
    }

    fn facts(programs: Vec<Program>) -> Facts {
        Facts { programs, architecture: "amd64", ..Facts::default() }
    }

    fn index(sonames: &[&str]) -> Provided {
        let packages = sonames.iter().map(|soname| ((*soname).to_owned(), BTreeSet::from(["x".to_owned()])));
        Provided { packages: packages.collect(), whole: true, lines: 1 }
    }

    fn ids(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.id.as_str()).collect()
    }

    #[test]
    fn what_goes_and_what_stays() {
        let facts = facts(vec![
            program(
                "/opt/a/tool",
                &[("libicuuc.so.72", package("libicu72")), ("libc.so.6", package("libc6"))],
            ),
            program(
                "/opt/b/tool",
                &[("libicuuc.so.72", package("libicu72")), ("libown.so.1", Found::Bundled)],
            ),
        ]);
        let index = index(&["libc.so.6"]);
        let found = findings(&facts, &NewRelease::Index(&index), &|_| false);
        assert_eq!(ids(&found), ["library-gone"]);
        assert_eq!(found[0].severity, Severity::Inhibitor);
        assert_eq!(
            found[0].evidence,
            [
                "/opt/a/tool needs libicuuc.so.72",
                "/opt/b/tool needs libicuuc.so.72",
                "libicuuc.so.72 comes from libicu72 now"
            ]
        );
        let found = findings(&facts, &NewRelease::Index(&index), &|package| package == "libicu72");
        assert_eq!((ids(&found), found[0].severity), (vec!["library-left-behind"], Severity::Note));
        assert!(found[0].remedy.contains("apt-mark manual libicu72"));
    }

    #[test]
    fn without_an_index_nothing_is_known() {
        let own = facts(vec![program("/opt/a/tool", &[("libc.so.6", package("libc6"))])]);
        let part = Provided { whole: false, ..index(&[]) };
        for known in [NewRelease::Unknown, NewRelease::Index(&part)] {
            assert_eq!(ids(&findings(&own, &known, &|_| true)), [COULD_NOT_FIND_OUT]);
        }
        let by_packages = |goes: &dyn Fn(&str) -> bool| {
            let known = NewRelease::Packages { goes, why: "404".into() };
            findings(&own, &known, &|_| true).into_iter().map(|one| one.id).collect::<Vec<_>>()
        };
        assert_eq!(by_packages(&|_| false), ["libraries-by-packages-only"]);
        assert_eq!(by_packages(&|_| true), ["library-gone", "libraries-by-packages-only"]);
        assert!(findings(&facts(Vec::new()), &NewRelease::Unknown, &|_| true).is_empty(), "nobody asks");
    }

    #[test]
    fn missing_today() {
        let facts = facts(vec![
            program("/opt/a/tool", &[("libgone.so.1", Found::Missing)]),
            program(
                "/opt/a/mod.so",
                &[("libpart.so.1", Found::Missing), ("libc.musl-x86_64.so.1", Found::Missing)],
            ),
        ]);
        let found = findings(&facts, &NewRelease::Index(&index(&[])), &|_| false);
        assert_eq!(ids(&found), ["library-missing-now", "module-library-not-found"]);
        assert_eq!(found[1].evidence, ["/opt/a/mod.so needs libpart.so.1"]);
    }

    #[test]
    fn what_was_not_seen_is_said() {
        let mut other = program("/opt/old/tool", &[("libc.so.6", package("libc6"))]);
        other.architecture = Some("i386");
        let facts = Facts {
            cut_off: true,
            unreadable: vec!["/opt/x: no\npermission".into()],
            damaged: vec!["/opt/cut".into()],
            ..facts(vec![other])
        };
        let found = findings(&facts, &NewRelease::Index(&index(&[])), &|_| false);
        assert_eq!(
            ids(&found),
            [
                "programs-of-another-architecture",
                "libraries-not-all-seen",
                "libraries-unreadable",
                "program-damaged"
            ]
        );
        assert_eq!(found[2].evidence, ["/opt/x: no\\x0apermission"]);
    }
}
