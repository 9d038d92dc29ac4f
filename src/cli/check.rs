//! `check`: what would stop a run, without changing anything.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::args::CheckArgs;
use super::confirm::confirm;
use super::{SCHEMA, journal_failure, needs_root, print_json, written};
use crate::conffiles;
use crate::conffiles::answers::Answers;
use crate::config::{self, Config};
use crate::error::{Exit, Failure};
use crate::evidence::{GuaranteeLevel, Promise};
use crate::finding::{Finding, Severity};
use crate::journal::Journal;
use crate::phases::{self, Outlook, boot_proof, ground, plan};
use crate::places::StateDirectory;
use crate::release::apt;
use crate::system::show;

/// Looks and tells. The exit code is 3 when a run would be refused.
///
/// # Errors
/// When the machine cannot be looked at.
pub(super) fn run(args: &CheckArgs, places: &StateDirectory, out: &mut dyn Write) -> Result<Exit, Failure> {
    needs_root("check")?;
    if args.prove_boot {
        return prove_boot(args, places);
    }
    let (config, _) = config::load(&args.common.config)?;
    let hop = plan::hop(args.to.as_deref())?;
    let (outlook, configuration) = phases::look_ahead(&config, places, &hop, &told)
        .map_err(|error| Failure::failed("failed to look at this machine", error))?;
    if let Some(path) = &args.write_answers {
        write_answers(path, &config, &configuration)?;
    }
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
        if args.diff {
            written(out.write_all(show::lines(&configuration.diff_text()).as_bytes()))?;
        }
    }
    Ok(if stops { Exit::Refused } else { Exit::Done })
}

/// Says on stderr how far it is: stdout may be somebody's JSON.
fn told(state: apt::Progress) {
    // Nobody may be listening.
    let _ = writeln!(std::io::stderr(), "{}: {}", state.stage.name(), show::line(&state.detail));
}

fn write_answers(path: &Path, config: &Config, facts: &conffiles::Facts) -> Result<(), Failure> {
    let failed = |error| Failure::failed("failed to write what there is to answer", error);
    let section = &config.configuration_files;
    let before = Answers::read(section.answers.as_path()).map_err(failed)?;
    Answers::draft(facts, &section.policy(), &before).write(path, facts).map_err(failed)
}

/// Reboots through the boot chain; `check` says afterwards what came of it.
fn prove_boot(args: &CheckArgs, places: &StateDirectory) -> Result<Exit, Failure> {
    ground::prepare(places)?;
    let journal = Journal::open(places.path()).map_err(journal_failure)?;
    if !journal.state().is_final() {
        return Err(Failure::new(Exit::Refused, format!("a run is under way ({})", journal.state().name())));
    }
    confirm(
        "The machine reboots twice, once into a kernel that dies on purpose, and should come back by itself within minutes. \
         If it does not, reset it: it then boots as always. Services are down meanwhile.",
        args.yes,
    )?;
    ground::install(places)?;
    drop(journal);
    match boot_proof::begin(places)
        .map_err(|error| Failure::failed("failed to prove the boot chain", error))? {}
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
        lines.extend(finding.evidence.iter().map(|line| format!("          {}", show::line(line))));
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
