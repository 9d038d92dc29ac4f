//! `report`: the whole story of the last run, for whoever comes after it.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::args::ShowArgs;
use super::{SCHEMA, print_json, status, story, written};
use crate::conffiles::left;
use crate::error::{Exit, Failure};
use crate::journal::Frame;
use crate::machine::{Record, State};
use crate::phases::carry::{self, CarryReport};
use crate::phases::divergence::{self, MountDivergence};
use crate::phases::foretold;
use crate::phases::upgrade::configuration::{ASKED_FILE, Asked};
use crate::phases::{aftermath, post_mortem};
use crate::places::StateDirectory;
use crate::release::prediction::Verdict;
use crate::system::show;

/// How many carried files, or deviating packages, are listed.
const LISTED: usize = 20;

const NOT_YET: &str = "What the failed root leaves is not all carried and looked at yet. Where nobody is at it any more, `safe-upgrade resume` does it.";

const NOT_COMPARED: &str = "Whether the packages became what was foretold is not known: the upgrade was interrupted, or has not ended.";

/// Shows the last run with all that was kept of it.
///
/// # Errors
/// When the journal, or a file that was kept, cannot be read.
pub(super) fn run(args: &ShowArgs, places: &StateDirectory, out: &mut dyn Write) -> Result<Exit, Failure> {
    let (reading, state) = super::read_journal(places)?;
    let Some(plan) = state.plan() else {
        return Err(Failure::new(Exit::Refused, "this machine has never seen a run"));
    };
    let directory = places.run(&plan.run);
    let lost: Option<Vec<MountDivergence>> = kept(&directory.join(divergence::FILE))?;
    let carried: Option<CarryReport> = kept(&directory.join(carry::FILE))?;
    let died =
        read(&directory.join(post_mortem::FILE))?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let conffiles: Option<Vec<String>> = kept(&directory.join(left::LINES_FILE))?;
    let packages: Option<Verdict> = kept(&directory.join(foretold::FILE))?;
    let asked: Option<Asked> = kept(&directory.join(ASKED_FILE))?;
    let troubles: Option<Vec<String>> = kept(&directory.join(aftermath::FILE))?;
    let frames = status::last_run(&reading.frames);
    if args.json {
        let run = status::as_json(places, &reading, &state)["run"].take();
        print_json(
            out,
            &json!({
                "schema": SCHEMA, "command": "report", "run": run, "records": records(frames),
                "taken_back": lost, "carried": carried, "post_mortem": died,
                "aftermath": troubles, "configuration_files": conffiles,
                "packages": packages, "asked": asked,
            }),
        )?;
        return Ok(Exit::Done);
    }
    let mut lines = vec![status::as_text(places, &reading, &state)];
    lines.push("what happened".into());
    lines.extend(frames.iter().map(told));
    lines.push(String::new());
    lines.extend(conffiles.iter().flat_map(|decisions| conffile_lines(decisions, &directory)));
    lines.extend(package_lines(packages.as_ref(), frames));
    lines.extend(asked.iter().flat_map(asked_lines));
    lines.extend(lost.iter().flat_map(|found| story::divergence(found)));
    lines.extend(carried.iter().flat_map(carried_lines));
    if troubles.is_none() && matches!(state, State::RolledBack { snapshot: Some(_), .. }) {
        lines.push(NOT_YET.into());
    }
    lines.extend(troubles.iter().flatten().map(|sentence| show::line(sentence)));
    written(writeln!(out, "{}", lines.join("\n")))?;
    if let Some(text) = died {
        // Its control characters were escaped when it was written; what somebody may have put there since is not trusted.
        for line in text.lines() {
            written(writeln!(out, "{}", printable(line)))?;
        }
    }
    Ok(Exit::Done)
}

/// What the upgrade decided about configuration files that both sides had changed.
fn conffile_lines(decisions: &[String], directory: &Path) -> Vec<String> {
    if decisions.is_empty() {
        return Vec::new();
    }
    let mut lines = vec!["configuration files that the upgrade decided about".to_owned()];
    lines.extend(decisions.iter().map(|line| format!("  {}", printable(line))));
    let diff = directory.join(left::DIFF_FILE);
    if diff.exists() {
        lines.push(format!("  what they differ in: {} (only root reads it)", show::path(&diff)));
    }
    lines.push(String::new());
    lines
}

/// What became of the packages, against what was foretold.
fn package_lines(verdict: Option<&Verdict>, frames: &[Frame]) -> Vec<String> {
    let Some(verdict) = verdict else {
        // Before, there is nothing to compare.
        let began = frames.iter().any(|frame| matches!(frame.entry, Record::UpgradeStarted { .. }));
        return if began { vec![NOT_COMPARED.into(), String::new()] } else { Vec::new() };
    };
    let mut lines = vec![show::line(&verdict.sentence())];
    lines.extend(deviation_lines(verdict.deviations()));
    lines.push(String::new());
    lines
}

/// The first of them, and how many there are.
pub(super) fn deviation_lines(deviations: &[String]) -> Vec<String> {
    let mut lines: Vec<String> =
        deviations.iter().take(LISTED).map(|line| format!("  {}", show::line(line))).collect();
    if deviations.len() > LISTED {
        lines.push(format!("  and {} more", deviations.len() - LISTED));
    }
    lines
}

fn asked_lines(asked: &Asked) -> Vec<String> {
    let mut lines = match asked {
        Asked::Unknown { unknown } => {
            vec![format!("What scripts of packages have asked is not known: {}.", show::line(unknown))]
        }
        Asked::Known(none) if none.is_empty() => {
            vec!["Nothing was asked that had not been decided before.".into()]
        }
        Asked::Known(asked) => {
            let title = "scripts of packages asked, and nobody had answered before".to_owned();
            let questions = asked.iter().map(|line| format!("  {}", show::line(line)));
            std::iter::once(title).chain(questions).collect()
        }
    };
    lines.push(String::new());
    lines
}

fn told(frame: &Frame) -> String {
    let why = match &frame.entry {
        Record::RollbackStarted { why } | Record::RefusalStarted { why } | Record::Stuck { why } => {
            format!(": {}", show::line(&why.to_string()))
        }
        _ => String::new(),
    };
    format!("  {}  {}{why}", frame.time.strftime("%Y-%m-%d %H:%M:%S UTC"), frame.entry.name())
}

fn records(frames: &[Frame]) -> Vec<Value> {
    frames.iter().map(|frame| json!({"time": frame.time, "record": frame.entry.name()})).collect()
}

fn carried_lines(report: &CarryReport) -> Vec<String> {
    let bytes = report.files.iter().map(|file| file.bytes).sum();
    let mut lines = vec![format!(
        "{} files ({}) were carried forward from the failed root, compared and equal.",
        story::count(report.files.len() as u64),
        story::bytes(bytes)
    )];
    // Paths and sentences are escaped already.
    lines.extend(report.files.iter().take(LISTED).map(|file| {
        let both = if file.both { "  (the restored one is kept beside it)" } else { "" };
        format!("  {:>10}  {}{both}", story::bytes(file.bytes), file.path)
    }));
    if report.files.len() > LISTED {
        lines.push(format!("  and {} more", report.files.len() - LISTED));
    }
    lines.extend(report.troubles.iter().map(|sentence| format!("  not carried: {sentence}")));
    lines
}

fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A JSON file of a run; nothing when the run has none.
fn kept<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Failure::failed(format!("failed to understand {}", show::path(path)), error))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => read
            .map(Some)
            .map_err(|error| Failure::failed(format!("failed to read {}", show::path(path)), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::BootId;
    use crate::release::prediction::Comparison;

    fn frame(entry: Record) -> Frame {
        let time = jiff::Timestamp::from_second(1_800_000_000).unwrap();
        Frame { v: 1, seq: 0, time, boot: "b".into(), tool: "0".into(), entry }
    }

    #[test]
    fn deviations_are_told_and_counted() {
        let deviations: Vec<String> = (0..30).map(|n| format!("p{n} deviates")).collect();
        let verdict = Verdict::Compared(Comparison { foretold: 412, came_true: 382, deviations });
        let lines = package_lines(Some(&verdict), &[]);
        assert_eq!(lines[..2], ["382 of 412 package changes came true.", "  p0 deviates"]);
        assert_eq!(lines[21..], ["  and 10 more", ""]);
        let unknown = Verdict::Unknown { unknown: "the file is gone".into() };
        assert!(package_lines(Some(&unknown), &[])[0].ends_with("is not known: the file is gone."));
    }

    #[test]
    fn only_an_upgrade_that_began_is_missed() {
        let began = frame(Record::UpgradeStarted { boot: BootId::new("1") });
        assert!(package_lines(None, &[]).is_empty());
        assert_eq!(package_lines(None, &[began])[0], NOT_COMPARED);
    }

    #[test]
    fn what_was_asked_is_told() {
        assert_eq!(
            asked_lines(&Asked::Known(vec![]))[0],
            "Nothing was asked that had not been decided before."
        );
        let lines = asked_lines(&Asked::Known(vec!["p asked p/q and took \"a\u{1b}\"".into()]));
        assert_eq!(lines[1], "  p asked p/q and took \"a\\x1b\"");
        assert!(asked_lines(&Asked::Unknown { unknown: "no file".into() })[0].contains("no file"));
    }
}
