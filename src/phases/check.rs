//! Looking at the machine without changing it: what `check` shows and what preflight judges.

use std::path::Path;

use super::{Result, ahead, boot_proof, boot_set, loader, store, trouble, ubuntu};
use crate::boot::judge::Verdict;
use crate::boot::layout::BootLayout;
use crate::conffiles;
use crate::config::Config;
use crate::evidence::{GuaranteeLevel, Promise, Waiver};
use crate::finding::{Finding, Severity};
use crate::health::checks::{self, Phase};
use crate::health::clock::Cancel;
use crate::health::report::sentence;
use crate::places::StateDirectory;
use crate::release::apt;
use crate::release::completion::{self, CompletionFacts};
use crate::release::hop::Hop;
use crate::snapshot::names::RunNames;
use crate::snapshot::{self, layout};
use crate::system::show;

/// What was found, and on which day.
#[derive(Debug, Clone)]
pub struct Outlook {
    /// Everything that was found.
    pub findings: Vec<Finding>,
    /// The mounts and what a rollback does to each, one line each.
    pub mounts: Vec<String>,
    /// What this machine promises to bring back by itself.
    pub promise: Promise,
    /// The day, `YYYY-MM-DD` in UTC: waivers may have ended.
    pub today: String,
}

impl Outlook {
    /// Whether an inhibitor is not waived.
    #[must_use]
    pub fn stops(&self, waivers: &[Waiver]) -> bool {
        self.findings.iter().any(|finding| stops(finding, waivers, &self.today))
    }
}

/// Whether a finding stops a run on a day: an inhibitor that no waiver covers.
#[must_use]
pub fn stops(finding: &Finding, waivers: &[Waiver], today: &str) -> bool {
    finding.severity == Severity::Inhibitor && !waivers.iter().any(|waiver| waiver.covers(finding, today))
}

/// Looks at filesystems, store, packages and the named checks. Changes nothing.
///
/// # Errors
/// When the layout of the root cannot be found out; everything else that cannot be found out is a finding.
pub fn look(config: &Config, places: &StateDirectory, names: Option<&RunNames>) -> Result<Outlook> {
    Ok(look_and_boot(config, places, names)?.0)
}

/// With how the machine boots, for whoever looks further.
pub(super) fn look_and_boot(
    config: &Config,
    places: &StateDirectory,
    names: Option<&RunNames>,
) -> Result<(Outlook, BootLayout)> {
    let layout = layout::read(Path::new("/"), names).map_err(trouble)?;
    let mut findings: Vec<Finding> = snapshot::findings::findings(&layout);
    findings.extend(store::findings(config));
    findings.extend(match completion::completion_facts(Path::new("/")) {
        Ok(facts) => {
            let mut found = of_packages(&facts);
            found.extend(ubuntu::findings(&facts));
            found
        }
        Err(error) => vec![store::unknown("the state of the packages", &error)],
    });
    findings.extend(of_checks(config));
    let (boot, verdict) = loader::verdict()?;
    let promise = loader::promise(&verdict);
    findings.extend(of_promise(&promise, &verdict, config.upgrade.minimum_level));
    findings.extend(loader::default_entry(&boot));
    findings.extend(boot_set::space(&boot)?);
    if promise.method.is_one_shot() {
        findings.extend(boot_proof::findings(
            places,
            config.upgrade.boot_proof,
            &boot.kernel,
            promise.method,
        ));
    }
    findings.sort_by_key(|finding| finding.severity);
    let mounts =
        layout.mounts.iter().map(|mount| format!("{}: {}", mount.point.display(), mount.reason)).collect();
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    Ok((Outlook { findings, mounts, promise, today }, boot))
}

/// [`look`], and what the new release will make of the machine, with the configuration files that it will ask about. Downloads
/// lists, and the few packages whose files somebody has changed; changes nothing outside the state directory.
///
/// # Errors
/// As [`look`].
pub fn look_ahead(
    config: &Config,
    places: &StateDirectory,
    hop: &Hop,
    told: &dyn Fn(apt::Progress),
) -> Result<(Outlook, conffiles::Facts)> {
    let (mut outlook, boot) = look_and_boot(config, places, None)?;
    let ahead::Foresight { findings, packages } = ahead::look(places, hop, &boot, told);
    outlook.findings.extend(findings);
    let mut configuration = conffiles::Facts::default();
    if let Some(packages) = &packages {
        let facts = ahead::predict_configuration(packages);
        outlook.findings.extend(ahead::of_configuration(config, &facts));
        configuration = facts.unwrap_or_default();
    }
    outlook.findings.sort_by_key(|finding| finding.severity);
    Ok((outlook, configuration))
}

/// What does not come back by itself is said before anything begins.
fn of_promise(promise: &Promise, verdict: &Verdict, least: GuaranteeLevel) -> Vec<Finding> {
    let note = |id: &str, what: &String, remedy: &str| Finding::note(id, format!("{what}."), remedy);
    let mut findings: Vec<Finding> = verdict
        .remarks
        .iter()
        .map(|remark| note("boot", remark, "nothing, if you can live with it"))
        .collect();
    if promise.level > least {
        findings.push(Finding::inhibitor(
            "guarantee-level",
            format!(
                "this machine offers guarantee level {:?}, the configuration wants at least {least:?}: {}.",
                promise.level, promise.reason
            ),
            match verdict.better.first() {
                Some(better) => {
                    format!("for more: {better}; or set upgrade.minimum_level to what you can live with")
                }
                None => "set upgrade.minimum_level to what you can live with".into(),
            },
        ));
    }
    findings
}

/// A machine whose packages are half installed is mended first: nobody could tell afterwards what the upgrade broke.
fn of_packages(facts: &CompletionFacts) -> Vec<Finding> {
    const AUDIT_LINES: usize = 20;
    let mut findings = Vec::new();
    let mut add = |id: &str, severity, what: String, evidence: Vec<String>, remedy: &str| {
        findings.push(Finding::new(id, severity, what, remedy).with_evidence(evidence));
    };
    let stop = Severity::Inhibitor;
    if !facts.audit.is_empty() {
        // Whole sentences are wrapped, and the packages come after them.
        let lines = facts.audit.lines().map(|line| show::line(line.trim_end()));
        add(
            "dpkg-audit",
            stop,
            "dpkg --audit complains about the state of packages.".into(),
            lines.filter(|line| !line.is_empty()).take(AUDIT_LINES).collect(),
            "dpkg --configure -a, then apt-get install -f",
        );
    }
    if let Some(complaint) = &facts.check {
        let what = format!("apt-get check complains: {complaint}");
        add("apt-check", stop, what, Vec::new(), "apt-get install -f");
    }
    if !facts.unfinished.is_empty() {
        let what = format!("not fully installed: {}.", facts.unfinished.join(" "));
        add("packages-unfinished", stop, what, Vec::new(), "dpkg --configure -a, then apt-get install -f");
    }
    if !facts.pending.is_empty() {
        let what =
            format!("{} packages are not at their newest version of this release.", facts.pending.len());
        let names = vec![facts.pending.join(" ")];
        add("updates-pending", Severity::Warning, what, names, "apt-get update && apt-get upgrade");
    }
    if !facts.held.is_empty() {
        let what = format!("held packages stay as they are: {}.", facts.held.join(" "));
        let remedy = "apt-mark unhold PACKAGE, if the hold is not wanted any more";
        add("packages-held", Severity::Warning, what, Vec::new(), remedy);
    }
    findings
}

/// A check that does not pass now would not pass afterwards either, and the upgrade would be blamed.
fn of_checks(config: &Config) -> Vec<Finding> {
    checks::run_all(&config.health.checks, Phase::Before, &Cancel::new())
        .iter()
        .filter(|result| !result.passed)
        .map(|result| {
            Finding::new(
                &format!("check-fails-now:{}", result.name),
                if result.required { Severity::Inhibitor } else { Severity::Warning },
                format!("{}, before anything was changed.", sentence(result)),
                "mend the service, or the check in the configuration",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dpkg_says_is_told_with_the_packages() {
        // As dpkg 1.21.22 of bookworm says it while another dpkg works.
        let audit = "Another process has locked the database for writing, and might currently be\n\
            modifying it, some of the following problems might just be due to that.\n\n\
            The following packages are only half configured, probably due to problems\n\
            configuring them the first time.  The configuration should be retried using\n\
            dpkg --configure <package> or the configure menu option in dselect:\n \
            lab-broken           a package of the lab\n";
        let facts = CompletionFacts { audit: audit.into(), pending: vec!["ucf".into()], ..plain() };
        let found = of_packages(&facts);
        let ids: Vec<_> = found.iter().map(|one| (one.id.as_str(), one.severity)).collect();
        assert_eq!(ids, [("dpkg-audit", Severity::Inhibitor), ("updates-pending", Severity::Warning)]);
        assert!(found[0].evidence.iter().any(|line| line.contains("lab-broken")), "{found:?}");
        assert_eq!(found[1].evidence, ["ucf"]);
        assert!(of_packages(&plain()).is_empty());
    }

    fn plain() -> CompletionFacts {
        CompletionFacts {
            os_release: crate::system::identity::OsRelease {
                id: "debian".into(),
                version_id: "12".into(),
                codename: "bookworm".into(),
            },
            audit: String::new(),
            check: None,
            unfinished: Vec::new(),
            pending: Vec::new(),
            kept_back: Vec::new(),
            held: Vec::new(),
            kernel_metapackages: Vec::new(),
            kernels: Vec::new(),
        }
    }
}
