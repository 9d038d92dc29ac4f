//! `status`: in one screen where the run stands, on which evidence, what happens next, how to go back.

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::args::ShowArgs;
use super::story::{self, Story};
use super::{SCHEMA, outage, print_json, scheduled, written};
use crate::error::{Exit, Failure};
use crate::evidence::Promise;
use crate::journal::{self, Frame, Reading};
use crate::machine::{Passage, Record, State};
use crate::phases::{confirmation, post_mortem};
use crate::places::StateDirectory;
use crate::system::show;

/// Shows the last run.
///
/// # Errors
/// When the journal cannot be read or is not trusted.
pub(super) fn run(args: &ShowArgs, places: &StateDirectory, out: &mut dyn Write) -> Result<Exit, Failure> {
    let (reading, state) = super::read_journal(places)?;
    if args.json {
        let mut object = as_json(places, &reading, &state);
        object["verifications"] = scheduled::status_json(places);
        print_json(out, &object)?;
    } else {
        let mut text = as_text(places, &reading, &state);
        for line in scheduled::status_lines(places) {
            text.push_str(&line);
            text.push('\n');
        }
        written(out.write_all(text.as_bytes()))?;
    }
    Ok(Exit::Done)
}

/// The frames of the last run.
pub(super) fn last_run(frames: &[Frame]) -> &[Frame] {
    let start = frames.iter().rposition(|frame| matches!(frame.entry, Record::Planned { .. })).unwrap_or(0);
    &frames[start..]
}

/// What the last run's status is, as JSON (docs/json.md).
pub(super) fn as_json(places: &StateDirectory, reading: &Reading, state: &State) -> Value {
    let frames = last_run(&reading.frames);
    let Story { now, next, back } = story::tell(state);
    let run = state.plan().map(|plan| {
        json!({
            "id": plan.run,
            "host": plan.host,
            "from": plan.from,
            "to": plan.to,
            "state": state.name(),
            "final": state.is_final(),
            "since": frames.last().map(|frame| frame.time),
            "outage": outage::measure(frames),
            "confirm_until": confirmation::until(state, frames),
            "why": state.why().map(ToString::to_string),
            "details": details(state),
            "snapshot": state.snapshot(),
            "promise": plan.promise,
            "post_mortem": post_mortem(places, state),
            "evidence": evidence(frames).into_iter().map(|(what, text)| json!({"what": what, "text": text})).collect::<Vec<_>>(),
            "reattest": story::reattest_rule(plan),
            "now": now,
            "next": next,
            "back": back,
        })
    });
    json!({"schema": SCHEMA, "command": "status", "run": run, "notices": notices(reading)})
}

pub(super) fn as_text(places: &StateDirectory, reading: &Reading, state: &State) -> String {
    let Story { now, next, back } = story::tell(state);
    let mut lines = notices(reading);
    let Some(plan) = state.plan() else {
        lines.push(format!("No run: {now}. Next: {next}."));
        return lines.join("\n") + "\n";
    };
    let frames = last_run(&reading.frames);
    lines.push(format!("run       {} on {}: {} -> {}", plan.run, show::line(&plan.host), plan.from, plan.to));
    let Promise { level, method, reason } = &plan.promise;
    lines.push(format!("promise   level {level:?}: {}; {}", method.words(), show::line(reason)));
    lines.push(format!("state     {}: {now}", state.name()));
    if let Some(frame) = frames.last() {
        lines.push(format!(
            "since     {} ({})",
            frame.time.strftime("%Y-%m-%d %H:%M:%S UTC"),
            story::ago(frame.time)
        ));
    }
    if let Some(why) = state.why() {
        lines.push(format!("why       {}", show::line(&why.to_string())));
        lines.extend(
            details(state).iter().take(20).map(|detail| format!("          - {}", show::line(detail))),
        );
    }
    for (what, text) in evidence(frames) {
        lines.push(format!("{what:<9} {}", show::line(&text)));
    }
    if let Some(path) = post_mortem(places, state) {
        lines.push(format!("failed    {} (`safe-upgrade report` shows it)", show::path(&path)));
    }
    if let Some(outage) = outage::measure(frames) {
        lines.push(format!("outage    {}", outage.text()));
    }
    lines.push(format!("rule      {}", story::reattest_rule(plan)));
    if let Some(until) = confirmation::until(state, frames) {
        lines.push(format!("waits     {}", story::until(until, jiff::Timestamp::now())));
    }
    lines.push(format!("next      {next}"));
    lines.push(format!("back      {back}"));
    lines.join("\n") + "\n"
}

/// Where it is written what went wrong.
fn post_mortem(places: &StateDirectory, state: &State) -> Option<PathBuf> {
    let path = places.run(&state.plan()?.run).join(post_mortem::FILE);
    path.is_file().then_some(path)
}

fn notices(reading: &Reading) -> Vec<String> {
    let mut notices = Vec::new();
    if let Some(format) = reading.newer {
        notices.push(format!(
            "notice    a newer safe-upgrade (journal format {format}) has written to this journal: what follows is what this version understands"
        ));
    }
    if reading.torn_bytes > 0 {
        notices.push(format!(
            "notice    {} bytes of a last line whose writing was cut off are left out",
            reading.torn_bytes
        ));
    }
    notices
}

fn details(state: &State) -> Vec<String> {
    match state.why() {
        Some(crate::machine::Why::Judged { refusal }) => refusal.details.clone(),
        _ => Vec::new(),
    }
}

/// What has been proven so far, from the records of a run.
fn evidence(frames: &[Frame]) -> Vec<(&'static str, String)> {
    frames.iter().filter_map(|frame| evidence_of(&frame.entry)).collect()
}

fn evidence_of(record: &Record) -> Option<(&'static str, String)> {
    let passage = |passage: &Passage| match passage {
        Passage::Waived { reason } => format!("left out: {reason}"),
        Passage::Rehearsed { proof } => {
            format!("{} passed; it predicts an outage of {} s", proof.id, proof.outage)
        }
        Passage::Done { what } => what.clone(),
    };
    Some(match record {
        Record::Checked { proof } => {
            let waived: Vec<&str> = proof.waived.iter().map(|waiver| waiver.id.as_str()).collect();
            let waived =
                if waived.is_empty() { String::new() } else { format!("; waived: {}", waived.join(", ")) };
            ("preflight", format!("no inhibitor, {} findings{waived}", proof.findings.len()))
        }
        Record::BackupVerified { proof } => (
            "backup",
            format!(
                "{} entries, {} restored and equal to their manifests",
                proof.entries,
                story::bytes(proof.bytes)
            ),
        ),
        Record::Rehearsed { passage: passed } => ("rehearsal", passage(passed)),
        Record::Drained { passage: passed } => ("drain", passage(passed)),
        Record::SnapshotSealed { set } => ("snapshot", format!("{} (read-only, {})", set.name, set.uuid)),
        Record::FallbackArmed { proof } => {
            ("fallback", format!("armed ({}); guarantee level {:?}", proof.method, proof.level))
        }
        Record::UpgradeFinished { proof } => {
            ("upgrade", format!("complete: {}, {} packages", proof.release, proof.packages))
        }
        Record::HealthPassed { facts, .. } | Record::Committed { facts, .. } => {
            ("health", format!("{} things checked, none failed, for {} s", facts.checked, facts.soaked))
        }
        Record::RolledBack { health, .. } if health.failed.is_empty() => {
            ("restored", "the old system runs and boots next; its health is as before".into())
        }
        Record::RolledBack { health, .. } => (
            "restored",
            format!("the old system runs and boots next; not as before: {}", health.failed.join("; ")),
        ),
        _ => return None,
    })
}

/// Reads the journal without its lock.
pub(super) fn read(places: &StateDirectory) -> Result<(Reading, State), journal::JournalError> {
    journal::read_file(places.path())
}
