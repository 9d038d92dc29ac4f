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
    let mut findings = Vec::new();
    let mut add = |id: &str, severity, what: String, remedy: &str| {
        findings.push(Finding::new(id, severity, what, remedy));
    };
    let stop = Severity::Inhibitor;
    if let Some(first) = facts.audit.lines().next() {
        add(
            "dpkg-audit",
            stop,
            format!("dpkg --audit complains: {first}"),
            "dpkg --configure -a, then apt-get install -f",
        );
    }
    if let Some(complaint) = &facts.check {
        add("apt-check", stop, format!("apt-get check complains: {complaint}"), "apt-get install -f");
    }
    if !facts.unfinished.is_empty() {
        let what = format!("not fully installed: {}.", facts.unfinished.join(" "));
        add("packages-unfinished", stop, what, "dpkg --configure -a, then apt-get install -f");
    }
    if !facts.pending.is_empty() {
        let what =
            format!("{} packages are not at their newest version of this release.", facts.pending.len());
        add("updates-pending", Severity::Warning, what, "apt-get update && apt-get upgrade");
    }
    if !facts.held.is_empty() {
        let what = format!("held packages stay as they are: {}.", facts.held.join(" "));
        add(
            "packages-held",
            Severity::Warning,
            what,
            "apt-mark unhold PACKAGE, if the hold is not wanted any more",
        );
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
