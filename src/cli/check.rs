//! `check`: what would stop a run, without changing anything.

use std::io::Write;

use serde_json::json;

use super::args::CheckArgs;
use super::{SCHEMA, needs_root, print_json, written};
use crate::config::{self, Config};
use crate::error::{Exit, Failure};
use crate::evidence::{Finding, GuaranteeLevel, Promise, Severity};
use crate::phases::{self, Outlook, plan};
use crate::places::StateDirectory;
use crate::system::show;

/// Looks and tells. The exit code is 3 when a run would be refused.
///
/// # Errors
/// When the machine cannot be looked at.
pub(super) fn run(args: &CheckArgs, _: &StateDirectory, out: &mut dyn Write) -> Result<Exit, Failure> {
    needs_root("check")?;
    let (config, _) = config::load(&args.common.config)?;
    let hop = plan::hop(args.to.as_deref())?;
    let outlook = phases::look(&config, None)
        .map_err(|error| Failure::failed("failed to look at this machine", error))?;
    let stops = outlook.stops(&config.waivers);
    if args.common.json {
        let findings: Vec<_> = outlook
            .findings
            .iter()
            .map(|f| json!({"finding": f, "waived": waived(f, &outlook, &config)}))
            .collect();
        print_json(
            out,
            &json!({
                "schema": SCHEMA,
                "command": "check",
                "from": hop.from().codename,
                "to": hop.to().codename,
                "refused": stops,
                "promise": outlook.promise,
                "findings": findings,
                "mounts": outlook.mounts,
            }),
        )?;
    } else {
        let way = format!("{} -> {}", hop.from().codename, hop.to().codename);
        written(out.write_all(as_text(&way, &outlook, &config).as_bytes()))?;
    }
    Ok(if stops { Exit::Refused } else { Exit::Done })
}

fn waived(finding: &Finding, outlook: &Outlook, config: &Config) -> bool {
    config.waivers.iter().any(|waiver| waiver.covers(finding, &outlook.today))
}

fn as_text(way: &str, outlook: &Outlook, config: &Config) -> String {
    let mut lines =
        vec![promise_line(&outlook.promise), format!("{way}: {} findings", outlook.findings.len())];
    for finding in &outlook.findings {
        let word = match finding.severity {
            Severity::Inhibitor if waived(finding, outlook, config) => "waived   ",
            Severity::Inhibitor => "INHIBITOR",
            Severity::Warning => "warning  ",
            Severity::Note => "note     ",
        };
        lines.push(format!("{word} {}: {}", finding.id, show::line(&finding.what)));
        lines.push(format!("          remedy: {}", show::line(&finding.remedy)));
    }
    lines.push("What a rollback does to each mount:".into());
    lines.extend(outlook.mounts.iter().map(|mount| format!("  {}", show::line(mount))));
    lines.push(if outlook.stops(&config.waivers) {
        "A run would be refused. Mend the inhibitors, or waive them by id in the configuration.".into()
    } else {
        "Nothing stops a run. It also downloads the packages and proves the backup before it changes anything.".into()
    });
    lines.join("\n") + "\n"
}

/// What comes back by itself, in one line: the first thing to know about a run on this machine.
pub(super) fn promise_line(promise: &Promise) -> String {
    let comes_back = match promise.level {
        GuaranteeLevel::A => "also a dead kernel comes back by itself",
        GuaranteeLevel::B => "it comes back by itself while a userspace lives; a dead kernel needs a human",
        GuaranteeLevel::C => "only a human brings it back",
    };
    format!("Guarantee level {:?}: {comes_back} ({}).", promise.level, show::line(&promise.reason))
}
