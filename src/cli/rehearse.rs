//! `rehearse`: upgrades a disposable clone, and says what would come of the upgrade.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::Write;

use serde_json::json;

use super::args::RehearseArgs;
use super::outage::span;
use super::{SCHEMA, journal_failure, needs_root, print_json, run_report, written};
use crate::config::{self, Config};
use crate::error::{Exit, Failure};
use crate::journal::Journal;
use crate::phases::rehearsal::{self, Rehearsed};
use crate::phases::{ground, plan};
use crate::places::StateDirectory;
use crate::rehearsal::record::{Outcome, RehearsalRecord};
use crate::rehearsal::{inside, offline};
use crate::release::hop::Hop;
use crate::system::{enter, show};

/// Rehearses. The exit code is 3 when the upgraded clone is not what it was, or this machine cannot rehearse: nothing was changed.
///
/// # Errors
/// When it could not be found out.
pub(super) fn run(
    args: &RehearseArgs,
    places: &StateDirectory,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    needs_root("a rehearsal")?;
    if args.end {
        // Whatever the configuration and the journal say: the lock of rehearsals is all that it needs.
        ground::is_there(places)?;
        return end(args, places, out);
    }
    let (config, _) = config::load(&args.common.config)?;
    let runs = ground::prepare_without_runs(places)?.is_some();
    // Held to the end: no run begins meanwhile.
    let _alone = if runs { Some(between_runs(places)?) } else { None };
    let hop = plan::hop(args.to.as_deref())?;
    // The unit removes at the next boot what a power cut leaves.
    if runs { ground::install(places) } else { ground::install_sweeper(places) }?;
    let record = rehearse(&config, places, &hop, args.keep)?;
    if args.common.json {
        print_json(out, &json!({"schema": SCHEMA, "command": "rehearse", "rehearsal": *record}))?;
    } else {
        written(out.write_all(as_text(&record).as_bytes()))?;
    }
    Ok(if record.outcome == Outcome::Passed { Exit::Done } else { Exit::Refused })
}

fn between_runs(places: &StateDirectory) -> Result<Journal, Failure> {
    let journal = Journal::open(places.path()).map_err(journal_failure)?;
    if !journal.state().is_final() {
        let message =
            format!("a run is under way ({}); nothing is rehearsed meanwhile", journal.state().name());
        return Err(Failure::new(Exit::Refused, message));
    }
    Ok(journal)
}

/// Rehearses, and says on stderr how far it is: stdout may be somebody's JSON.
///
/// # Errors
/// Refused when this machine cannot rehearse; failed when it could not be found out.
pub(super) fn rehearse(
    config: &Config,
    places: &StateDirectory,
    hop: &Hop,
    keep: bool,
) -> Result<Box<RehearsalRecord>, Failure> {
    let last = RefCell::new(String::new());
    let told = |percent: f32, text: &str| {
        // dpkg says the same thing again and again, and nobody may be listening.
        if last.replace(text.to_owned()) != text {
            let _ = writeln!(std::io::stderr(), "{percent:3.0} %  {}", show::line(text));
        }
    };
    let rehearsed = rehearsal::rehearse(config, places, hop, keep, &told)
        .map_err(|error| Failure::failed("the rehearsal could not be done", error))?;
    match rehearsed {
        Rehearsed::Done(record) => Ok(record),
        Rehearsed::Refused(why) => Err(Failure::new(Exit::Refused, why)),
        Rehearsed::Busy => Err(busy("another rehearsal is at work; nothing was begun")),
    }
}

fn busy(message: &str) -> Failure {
    Failure::new(Exit::Locked, message)
        .hint("wait until it has ended, or end it: Ctrl-C where it was started, or SIGTERM")
}

/// What this program does inside a clone, and on its way there; `None` when its arguments ask for something else.
#[must_use]
pub fn stage_of(arguments: impl Iterator<Item = OsString>) -> Option<Result<(), Failure>> {
    let words: Vec<OsString> = arguments.skip(1).collect();
    let text =
        |index: usize| words.get(index).map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let failed = |error| Failure::failed("a stage of the rehearsal failed", error);
    if words.first()? == inside::ENTER {
        let leader = text(1).parse().map_err(|_| Failure::usage("no container is named"));
        return Some(leader.and_then(|leader| {
            match enter::become_inside(leader, words.get(2..).unwrap_or_default()) {
                Err(error) => Err(Failure::failed("the clone could not be entered", error)),
                Ok(never) => match never {},
            }
        }));
    }
    if words.first()? != inside::WORD {
        return None;
    }
    Some(if text(1).starts_with('/') {
        offline::answer(&mut std::io::stdin().lock(), &mut std::io::stdout().lock())
            .map_err(|error| Failure::failed("apt went away", error))
    } else {
        inside::run(&text(1), &text(2)).map_err(failed)
    })
}

fn end(args: &RehearseArgs, places: &StateDirectory, out: &mut dyn Write) -> Result<Exit, Failure> {
    let swept = rehearsal::sweep(places, true)
        .map_err(|error| Failure::failed("failed to remove what a rehearsal has left", error))?
        .ok_or_else(|| busy("a rehearsal is at work; nothing was removed"))?;
    if args.common.json {
        print_json(out, &json!({"schema": SCHEMA, "command": "rehearse", "removed": swept}))?;
    } else if swept.is_empty() {
        written(writeln!(out, "No rehearsal has left anything behind."))?;
    } else {
        written(writeln!(out, "Removed: {}.", swept.join(", ")))?;
    }
    Ok(Exit::Done)
}

/// For a person.
pub(super) fn as_text(record: &RehearsalRecord) -> String {
    let way = format!("{} -> {}", record.from, record.to);
    let mut lines = vec![match record.outcome {
        Outcome::Passed => format!("{way}: the upgraded clone does what it did before."),
        Outcome::Failed => format!("{way}: the upgraded clone does not do what it did before."),
    }];
    let mut list = |title: &str, items: &[String]| {
        if !items.is_empty() {
            lines.push(format!("{title}:"));
            lines.extend(items.iter().map(|item| format!("  {}", show::line(item))));
        }
    };
    list("Failed", &record.failed);
    list("Services lost", &record.services_lost);
    list("Questions about configuration files", &record.prompts);
    list("Noted", &record.noted);
    if !record.clone.is_empty() {
        list("The clone's root", std::slice::from_ref(&record.clone));
    }
    list("Other filesystems", &record.volumes);
    list("Held in the clone", &record.held);
    if let Some(compared) = &record.foretold {
        lines.push(show::line(&compared.sentence()));
        lines.extend(run_report::deviation_lines(compared.deviations()));
    }
    let times = &record.timings;
    lines.push(format!(
        "Predicted outage: {} (upgrade {} s, shutdown {} s, boot {} s, soak {} s); {} packages.",
        span(record.predicted_outage),
        times.upgrade,
        times.shutdown,
        times.second_boot,
        times.soak,
        record.packages
    ));
    lines.push(format!(
        "The rehearsal took {}, {} more than the upgrade in it; its logs are in {}.",
        span(times.whole),
        span(times.overhead()),
        show::path(&record.logs)
    ));
    if let Some(answers) = &record.answers {
        lines.push(format!(
            "What was asked, and what may be answered, is in {}: look through it, and put it where the run reads it.",
            show::path(answers)
        ));
    }
    if let Some(kept) = &record.kept {
        lines.push(format!(
            "The clone still runs as {}. It is reached from its own network only: ip netns exec {} curl http://{}/",
            kept.unit, kept.network, kept.address
        ));
        lines.push("`safe-upgrade rehearse --end` removes it.".into());
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::ConfigArgs;
    use crate::rehearsal::sweep::Claim;

    #[test]
    fn nothing_is_ended_while_a_rehearsal_is_at_work() {
        let dir = tempfile::tempdir().unwrap();
        let places = StateDirectory::at(dir.path());
        let args = RehearseArgs {
            common: ConfigArgs { config: dir.path().join("none.toml"), json: false },
            to: None,
            keep: false,
            end: true,
        };
        let claim = Claim::take(&places.rehearsals()).unwrap().unwrap();
        let mut out = Vec::new();
        let failure = end(&args, &places, &mut out).unwrap_err();
        assert_eq!(failure.exit(), Exit::Locked);
        assert!(failure.to_string().contains("a rehearsal is at work; nothing was removed"), "{failure}");
        assert_eq!(out, b"");
        drop(claim);
        assert_eq!(
            rehearsal::sweep(&StateDirectory::at(dir.path().join("none")), true).unwrap(),
            Some(vec![])
        );
    }
}
