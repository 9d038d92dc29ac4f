//! Whether there is a way on from this release, and how long releases are cared for.

use std::path::Path;

use jiff::civil::{Date, date};

use super::Circumstances;
use super::reading::InspectError;
use crate::finding::Finding;
use crate::release::hop::{Hop, HopError};
use crate::system::exec::Exec;
use crate::system::identity::{self, OsRelease};
use crate::system::show;

/// How long a release is cared for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Care {
    codename: &'static str,
    /// The last day of Debian's security team.
    security: Date,
    /// The last day of Debian LTS.
    long_term: Date,
}

/// Source: `debian.csv` of distro-info-data, as in bookworm in November 2026.
const CARE: [Care; 3] = [
    Care { codename: "bullseye", security: date(2024, 8, 14), long_term: date(2026, 8, 31) },
    Care { codename: "bookworm", security: date(2026, 7, 11), long_term: date(2028, 6, 30) },
    Care { codename: "trixie", security: date(2028, 8, 9), long_term: date(2030, 6, 30) },
];

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    release: OsRelease,
    /// dpkg's architecture; `None` when dpkg is not installed there.
    architecture: Option<String>,
}

pub(super) fn facts(root: &Path) -> Result<Facts, InspectError> {
    let admin = format!("--admindir={}", root.join("var/lib/dpkg").display());
    // That of the package `dpkg` in this root, which need not be that of the running system.
    let output =
        Exec::new("dpkg-query")?.args([admin.as_str(), "-W", "-f", "${Architecture}", "dpkg"]).output()?;
    let architecture =
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    Ok(Facts {
        release: identity::os_release(root)?,
        architecture: architecture.filter(|name| !name.is_empty()),
    })
}

pub(super) fn findings(facts: &Facts, about: &Circumstances<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    if about.hop.is_none()
        && let Err(refusal) = Hop::next(&facts.release)
    {
        found.push(match refusal {
            HopError::SameRelease(_) => Finding::note("release-path", format!("{refusal}."), "nothing"),
            _ => Finding::inhibitor(
                "release-path",
                format!("{}.", show::line(&refusal.to_string())),
                "do as the message says, then check again",
            ),
        });
    }
    if about.reaches("trixie") && facts.architecture.as_deref() == Some("i386") {
        found.push(
            Finding::inhibitor(
                "i386-ends",
                "Debian has no kernel and no support for 32-bit PCs from trixie on.",
                "install the server anew as amd64, if its processor can do that",
            )
            .with_evidence(["dpkg's architecture is i386"]),
        );
    }
    if facts.release.id == "debian" {
        found.extend(care(&facts.release.codename, about.today, "this release"));
        let target = about.hop.map_or("", |hop| hop.to().codename);
        found.extend(care(target, about.today, "the release that the upgrade goes to"));
    }
    found
}

/// What the end of a release's care means today.
fn care(codename: &str, today: Date, which: &str) -> Option<Finding> {
    let care = CARE.iter().find(|care| care.codename == codename)?;
    let days = |until: Date| today.until(until).map_or(0, |span| span.get_days());
    let evidence = [
        format!("{codename}: security team until {} ({} days)", care.security, days(care.security)),
        format!("{codename}: LTS until {} ({} days)", care.long_term, days(care.long_term)),
    ];
    let remedy = "upgrade; or look into Extended LTS, which is paid for";
    let finding = if today > care.long_term {
        Finding::warning("support-ended", format!("{which} gets no security updates any more."), remedy)
    } else if today > care.security {
        let what = format!(
            "{which} gets security updates from Debian LTS only: not for all packages and architectures."
        );
        Finding::note("support-by-lts", what, "upgrade before that ends too")
    } else {
        return None;
    };
    Some(finding.with_evidence(evidence))
}

#[cfg(test)]
mod tests {
    use super::super::made_up::{about, about_trixie};
    use super::super::reading::made_up::ids;
    use super::*;

    fn running(id: &str, version_id: &str, codename: &str) -> Facts {
        let release = OsRelease { id: id.into(), version_id: version_id.into(), codename: codename.into() };
        Facts { release, architecture: Some("amd64".into()) }
    }

    #[test]
    fn the_end_of_care() {
        let of = |day: Date| care("bookworm", day, "this release");
        assert_eq!(of(date(2026, 7, 11)), None);
        let lts = of(date(2026, 11, 27)).unwrap();
        assert_eq!(ids(std::slice::from_ref(&lts)), ["note support-by-lts"]);
        assert_eq!(lts.evidence[1], "bookworm: LTS until 2028-06-30 (581 days)");
        assert_eq!(ids(&[of(date(2028, 7, 1)).unwrap()]), ["warning support-ended"]);
        assert_eq!(care("sid", date(2030, 1, 1), "this release"), None);
    }

    #[test]
    fn the_way_on() {
        let next = |facts: &Facts| ids(&findings(facts, &about(None)));
        assert_eq!(next(&running("debian", "13", "trixie")), ["note release-path"]);
        assert_eq!(next(&running("fedora", "42", "")), ["inhibitor release-path"]);
        assert_eq!(next(&running("debian", "11", "bullseye"))[0], "inhibitor release-path");
        let old = Facts { architecture: Some("i386".into()), ..running("debian", "12", "bookworm") };
        about_trixie(|about| assert_eq!(ids(&findings(&old, &about))[0], "inhibitor i386-ends"));
        about_trixie(|about| {
            assert_eq!(ids(&findings(&running("debian", "12", "bookworm"), &about)), ["note support-by-lts"])
        });
    }
}
