//! Preflight: findings, the packages fetched, and the baseline of the machine as it is.

use std::path::Path;

use super::{Machine, Result, ahead, check, foretold, ground, plan::digest, trouble};
use crate::evidence::{ManifestId, Plan, PreflightFacts};
use crate::finding::Finding;
use crate::health::baseline::{self, Baseline};
use crate::release::hop::Hop;
use crate::system::durable;

/// The name of a run's baseline.
pub(super) const BASELINE_NAME: &str = "baseline.json";

/// Looks at the machine, and fetches what the upgrade will need. Repeatable; changes nothing outside the state directory.
pub(super) fn look(machine: &Machine, plan: &Plan) -> Result<PreflightFacts> {
    let hop = Hop::between(&plan.from.codename, &plan.to.codename).map_err(trouble)?;
    machine.progress.percent(1.0, "looking at the machine");
    let (mut outlook, boot) = check::look_and_boot(&machine.config, &machine.places, Some(&machine.names))?;
    // Nothing is fetched for a run that cannot begin.
    let stopped = outlook.stops(&plan.waivers);
    if !stopped {
        let stops = |finding: &Finding| check::stops(finding, &plan.waivers, &outlook.today);
        let fetched = ahead::fetch(&machine.config, &machine.places, &hop, &boot, &machine.progress, &stops)?;
        outlook.findings.extend(fetched.findings);
        fetched.foretold.map_or(Ok(()), |foretold| foretold::keep(&machine.directory, &foretold))?;
    }
    machine.progress.percent(95.0, "taking the baseline");
    let seen = baseline::capture(Path::new("/")).map_err(trouble)?;
    outlook.findings.extend(by_hand(&seen));
    let (digest, items) = keep_baseline(machine, &seen)?;
    Ok(PreflightFacts {
        findings: outlook.findings,
        today: outlook.today,
        baseline: digest,
        baseline_items: items,
        journal: ground::journal_facts(&machine.places, plan)?,
    })
}

fn keep_baseline(machine: &Machine, seen: &Baseline) -> Result<(ManifestId, u64)> {
    let bytes = seen.encode().map_err(trouble)?;
    durable::replace_file(&machine.directory.join(BASELINE_NAME), &bytes, 0o600).map_err(trouble)?;
    Ok((digest(&bytes), seen.watched() as u64))
}

/// What no reboot would bring back would count as lost by the upgrade.
fn by_hand(seen: &Baseline) -> Vec<Finding> {
    let services = seen.started_by_hand().into_iter().map(|unit| {
        Finding::warning(
            "started-by-hand",
            format!("{unit} runs, but no boot starts it."),
            "enable it, or stop it before the run",
        )
    });
    let mounts = seen.mounted_by_hand().into_iter().map(|point| {
        Finding::warning(
            "mounted-by-hand",
            format!("{point} is mounted, but no boot mounts it."),
            "add it to /etc/fstab, or unmount it before the run",
        )
    });
    services.chain(mounts).collect()
}
