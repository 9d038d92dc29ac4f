//! How a report is shown: to a person, as one JSON object, as JSON lines.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use crate::manifest::Report;
use crate::manifest::coverage::{Amount, Coverage, Goal};
use crate::manifest::verdict::{Difference, Meaning};
use crate::system::show;

/// Version of the JSON of a report: raised when a field changes its meaning or goes away, not when one is added.
pub(super) const REPORT_SCHEMA: u32 = 2;

/// The report for a person: one line per difference, then what it amounts to.
///
/// # Errors
/// When `out` fails.
pub(super) fn print_text(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    for difference in report.differences() {
        let Difference { class, path, expected, found } = difference;
        writeln!(out, "{class:<15} {}  (expected {expected}, found {found})", shown_path(path))?;
    }
    let hidden = report.total() - report.differences().len() as u64;
    if hidden > 0 {
        writeln!(out, "... and {hidden} more")?;
    }
    for (what, facts) in [("lost", report.lost()), ("lost, as accepted", report.accepted())] {
        if !facts.is_empty() {
            let facts: Vec<String> = facts.iter().map(|(name, count)| format!("{count} {name}")).collect();
            writeln!(out, "{what}: {}", facts.join(", "))?;
        }
    }
    if let Some(restore) = report.restore {
        let rate = restore.bytes as f64 / 1e6 / restore.seconds.max(1e-3);
        writeln!(out, "restored in {:.1} s: {} bytes, {rate:.0} MB/s", restore.seconds, restore.bytes)?;
    }
    if report.edges > 0 {
        let places = if report.edges == 1 { "place" } else { "places" };
        writeln!(
            out,
            "note: {} {places} where another filesystem or subvolume begins: not covered",
            report.edges
        )?;
    }
    for remark in &report.remarks {
        writeln!(out, "note: {remark}")?;
    }
    if report.levels.stored || report.levels.restored {
        writeln!(out, "level: {}", level(report))?;
    }
    for line in report.coverage.iter().flat_map(Coverage::lines) {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{}", report.sentence())
}

/// The report as one JSON object on one line; `docs/manifest-format.md` describes it.
///
/// # Errors
/// When `out` fails.
pub(super) fn print_json(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let differences: Vec<Value> = report.differences().iter().map(difference_json).collect();
    let mut object = summary_json(report);
    object.insert("differences".to_owned(), differences.into());
    writeln!(out, "{}", Value::Object(object))
}

/// The report as JSON lines: one object per difference that was kept, then all else.
///
/// # Errors
/// When `out` fails.
pub(super) fn print_json_lines(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    for difference in report.differences() {
        writeln!(out, "{}", difference_json(difference))?;
    }
    writeln!(out, "{}", Value::Object(summary_json(report)))
}

fn summary_json(report: &Report) -> Map<String, Value> {
    let counts: Map<String, Value> =
        report.counts().map(|(class, count)| (class.name().to_owned(), count.into())).collect();
    let object = json!({
        "schema": REPORT_SCHEMA,
        "verdict": report.verdict().name(),
        "manifest": report.manifest.map(|summary| json!({
            "id": summary.id.to_string(),
            "entries": summary.entries,
            "bytes": summary.bytes,
        })),
        "levels": {
            "stored": report.levels.stored,
            "restored": report.levels.restored,
            "same": report.is_same(),
        },
        "checked": { "entries": report.entries, "bytes": report.bytes },
        "coverage": report.coverage.as_ref().map(coverage_json),
        "counts": counts,
        "differences_total": report.total(),
        "not_covered": report.edges,
        "lost": report.lost(),
        "accepted_lost": report.accepted(),
        "restore": report.restore.map(|restore| json!({
            "seconds": restore.seconds,
            "bytes": restore.bytes,
        })),
        "remarks": report.remarks,
    });
    match object {
        Value::Object(object) => object,
        // The macro above makes an object.
        _ => Map::new(),
    }
}

/// Adds a name's bytes to a JSON object: as text, and in hexadecimal too when the text cannot say it exactly.
pub(super) fn put_bytes(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            object.insert(key.to_owned(), text.into());
        }
        Err(_) => {
            object.insert(key.to_owned(), String::from_utf8_lossy(bytes).into());
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            object.insert(format!("{key}_hex"), hex.into());
        }
    }
}

fn coverage_json(coverage: &Coverage) -> Value {
    let amount = |amount: Amount| json!({ "files": amount.files, "bytes": amount.bytes });
    let (seed, max_age) = match coverage.goal {
        Goal::All => (None, None),
        Goal::Sample { seed } => (Some(seed), None),
        Goal::Age { seconds } => (None, Some(seconds)),
    };
    json!({
        "goal": coverage.goal.name(),
        "seed": seed,
        "max_age_seconds": max_age,
        "ended": coverage.ended.name(),
        "total": amount(coverage.total),
        "chosen": amount(coverage.chosen),
        "read": amount(coverage.read),
        "proven": amount(coverage.proven),
        "overdue": amount(coverage.overdue),
        "oldest_proof_seconds": coverage.oldest,
    })
}

fn difference_json(difference: &Difference) -> Value {
    let mut object = Map::new();
    object.insert("class".to_owned(), difference.class.name().into());
    object.insert("damage".to_owned(), (difference.class.meaning() == Meaning::Damage).into());
    put_bytes(&mut object, "path", &difference.path);
    object.insert("expected".to_owned(), difference.expected.clone().into());
    object.insert("found".to_owned(), difference.found.clone().into());
    Value::Object(object)
}

fn shown_path(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { show::bytes(path) }
}

fn level(report: &Report) -> &'static str {
    match (report.levels.restored, report.is_same()) {
        (true, true) => "same (really restored, and equal to the manifest)",
        (true, false) => "restored (really restored, not proven equal to the manifest)",
        (false, true) => "same (read where it is, and equal to the manifest; not restored)",
        (false, false) => "stored (read where it is, not proven equal to the manifest)",
    }
}
