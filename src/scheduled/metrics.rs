//! Last results in the text form that Prometheus' node exporter collects from files.

use std::fmt::Write;
use std::path::Path;

use jiff::Timestamp;

use super::last::{Answer, LastRun, Outcome};
use super::patience;
use crate::config::verify::Scheduled;
use crate::manifest::{Class, Verdict};
use crate::system::durable::{self, DurableError};

/// The node exporter runs as somebody else.
const FILE_MODE: u32 = 0o644;

/// The verdict of a run that gave none.
const NO_ANSWER: &str = "no-answer";

/// Replaces a file of metrics; whoever reads it sees the old or the new one, never a half.
///
/// # Errors
/// Names the file.
pub fn write(file: &Path, rows: &[(&Scheduled, Option<&LastRun>)]) -> Result<(), DurableError> {
    durable::replace_file(file, text(rows).as_bytes(), FILE_MODE)
}

/// The text: each metric once, with a line for each verification.
#[must_use]
pub fn text(rows: &[(&Scheduled, Option<&LastRun>)]) -> String {
    let mut out = String::new();
    for metric in METRICS {
        let name = metric.name;
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP safe_upgrade_verify_{name} {}", metric.what);
        let _ = writeln!(out, "# TYPE safe_upgrade_verify_{name} gauge");
        for (job, last) in rows {
            for (labels, value) in (metric.values)(job, *last) {
                let labels: String =
                    labels.iter().map(|(key, value)| format!(",{key}=\"{}\"", escaped(value))).collect();
                let job = escaped(job.name.as_str());
                let _ = writeln!(out, "safe_upgrade_verify_{name}{{name=\"{job}\"{labels}}} {value}");
            }
        }
    }
    out
}

/// Labels besides the name, and a value.
type Values = Vec<(Vec<(&'static str, String)>, String)>;

struct Metric {
    name: &'static str,
    what: &'static str,
    values: fn(&Scheduled, Option<&LastRun>) -> Values,
}

/// Times are 0 for what never happened: the age of nothing is then large, and an alarm on it goes off.
const METRICS: [Metric; 11] = [
    Metric {
        name: "last_success_timestamp_seconds",
        what: "When all that was to be checked was last found good; 0: never.",
        values: |_, last| one(seconds(last.and_then(|last| last.last_same))),
    },
    Metric {
        name: "last_run_timestamp_seconds",
        what: "When the last run ended, whatever came out; 0: never.",
        values: |_, last| one(seconds(last.map(|last| last.ended))),
    },
    Metric {
        name: "max_age_seconds",
        what: "How old the last success may grow before somebody should look.",
        values: |job, _| one(patience(job).as_secs().to_string()),
    },
    Metric {
        name: "verdict",
        what: "1 for the verdict of the last run, 0 for the others.",
        values: verdicts,
    },
    Metric {
        name: "duration_seconds",
        what: "How long the last run took.",
        values: |_, last| last.map_or_else(Vec::new, |last| one(took(last))),
    },
    Metric {
        name: "checked_entries",
        what: "Files, directories and links that the last run compared.",
        values: |_, last| answered(last, |answer| Some(answer.entries.to_string())),
    },
    Metric {
        name: "checked_bytes",
        what: "Bytes of content that the last run compared.",
        values: |_, last| answered(last, |answer| Some(answer.bytes.to_string())),
    },
    Metric {
        name: "proven_bytes_ratio",
        what: "The share of all bytes that is proven, from 0 to 1.",
        values: |_, last| answered(last, |answer| answer.proven.map(|share| share.to_string())),
    },
    Metric {
        name: "restored",
        what: "1 when the last run really restored the copy.",
        values: |_, last| answered(last, |answer| Some(u8::from(answer.restored).to_string())),
    },
    Metric {
        name: "restore_seconds",
        what: "How long the last run took to restore the copy, without reading it afterwards.",
        values: |_, last| answered(last, |answer| answer.restore_seconds.map(|time| format!("{time:.3}"))),
    },
    Metric { name: "differences", what: "Findings of the last run by class.", values: differences },
];

fn one(value: String) -> Values {
    vec![(Vec::new(), value)]
}

fn answered(last: Option<&LastRun>, value: impl Fn(&Answer) -> Option<String>) -> Values {
    answer_of(last).and_then(value).map_or_else(Vec::new, one)
}

fn answer_of(last: Option<&LastRun>) -> Option<&Answer> {
    match &last?.outcome {
        Outcome::Answered(answer) => Some(answer),
        Outcome::NoAnswer { .. } => None,
    }
}

fn verdicts(_: &Scheduled, last: Option<&LastRun>) -> Values {
    let Some(last) = last else { return Vec::new() };
    let verdict = match &last.outcome {
        Outcome::Answered(answer) => answer.verdict.as_str(),
        Outcome::NoAnswer { .. } => NO_ANSWER,
    };
    let names =
        [Verdict::Same, Verdict::SameInPart, Verdict::SameButLost, Verdict::NotSame, Verdict::Unknown];
    names
        .map(Verdict::name)
        .into_iter()
        .chain([NO_ANSWER])
        .map(|each| (vec![("verdict", each.to_owned())], u8::from(each == verdict).to_string()))
        .collect()
}

/// Every class, so that one that is gone falls to 0 and not out of sight.
fn differences(_: &Scheduled, last: Option<&LastRun>) -> Values {
    let Some(answer) = answer_of(last) else { return Vec::new() };
    Class::ALL
        .iter()
        .map(|class| {
            let count = answer.counts.get(class.name()).copied().unwrap_or(0);
            (vec![("class", class.name().to_owned())], count.to_string())
        })
        .collect()
}

fn took(last: &LastRun) -> String {
    format!("{:.3}", last.ended.duration_since(last.started).as_secs_f64().max(0.0))
}

fn seconds(time: Option<Timestamp>) -> String {
    time.map_or(0, Timestamp::as_second).to_string()
}

/// A label's value: backslash, double quote and newline are escaped.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_scheduled;
    use crate::manifest::Report;

    fn rows() -> Vec<Scheduled> {
        parse_scheduled(
            "[[verify]]\nname = \"never\"\ncopy = \"/a\"\nagainst = \"/x\"\nmax_age = \"7d\"\n\
             [[verify]]\nname = \"good\"\ncopy = \"/b\"\nagainst = \"/x\"\n",
        )
        .unwrap()
    }

    #[test]
    fn each_metric_stands_once_and_what_never_ran_is_seen() {
        let jobs = rows();
        let started = Timestamp::from_second(1_800_000_000).unwrap();
        let mut report = Report::default();
        (report.entries, report.bytes) = (5, 9);
        let outcome = Outcome::Answered(Answer::of(&report));
        let (name, copy) = ("good".to_owned(), "/b".to_owned());
        let ended = Timestamp::from_second(1_800_000_007).unwrap();
        let last = LastRun { name, copy, started, ended, outcome, last_same: Some(started) };
        let text = text(&[(&jobs[0], None), (&jobs[1], Some(&last))]);
        for line in [
            "safe_upgrade_verify_last_success_timestamp_seconds{name=\"never\"} 0",
            "safe_upgrade_verify_last_success_timestamp_seconds{name=\"good\"} 1800000000",
            "safe_upgrade_verify_max_age_seconds{name=\"never\"} 604800",
            "safe_upgrade_verify_max_age_seconds{name=\"good\"} 172800",
            "safe_upgrade_verify_verdict{name=\"good\",verdict=\"same\"} 1",
            "safe_upgrade_verify_verdict{name=\"good\",verdict=\"not-same\"} 0",
            "safe_upgrade_verify_duration_seconds{name=\"good\"} 7.000",
            "safe_upgrade_verify_checked_bytes{name=\"good\"} 9",
            "safe_upgrade_verify_differences{name=\"good\",class=\"content\"} 0",
        ] {
            assert_eq!(text.lines().filter(|found| *found == line).count(), 1, "{line} in {text}");
        }
        assert_eq!(text.matches("# TYPE ").count(), METRICS.len());
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
