//! `safe-upgrade verify`: is this copy what the manifest says? And how a report is shown, here and by `manifest diff`.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::backup::{VerifyError, VerifyOptions, verify_restored, verify_stored};
use crate::error::{Exit, Failure};
use crate::manifest::verdict::{Difference, Meaning};
use crate::manifest::{Report, Verdict};
use crate::system::show;

/// Version of the JSON of a report: raised when a field changes its meaning or goes away, not when one is added.
pub const REPORT_SCHEMA: u32 = 1;

/// Compares a copy with a manifest. Needs no root and no configuration.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The copy, a directory.
    pub copy: PathBuf,
    /// The manifest of what it should be.
    #[arg(long, value_name = "FILE")]
    pub manifest: PathBuf,
    /// Really restore the copy into a fresh private directory in DIR, compare what came out, and remove it again.
    #[arg(long, value_name = "DIR")]
    pub restore_to: Option<PathBuf>,
    /// How many rsyncs restore at once.
    #[arg(long, value_name = "N", requires = "restore_to")]
    pub workers: Option<NonZeroUsize>,
    /// How many differences are listed in full; all are counted.
    #[arg(long, value_name = "N", default_value_t = crate::manifest::verdict::DEFAULT_KEPT)]
    pub max_differences: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Verifies and prints the report.
///
/// # Errors
/// When it could not be found out whether the copy is what it should be.
pub fn run(args: &VerifyArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let mut options = VerifyOptions { kept: args.max_differences, ..VerifyOptions::default() };
    if let Some(workers) = args.workers {
        options.workers = workers.get();
    }
    let verified = match &args.restore_to {
        None => verify_stored(&args.copy, &args.manifest, options, &|_| {}),
        Some(scratch) => verify_restored(&args.copy, &args.manifest, scratch, options, &|_| {}),
    };
    let report = verified.map_err(|error| explain(args, error))?;
    let printed = if args.json { print_json(&report, out) } else { print_text(&report, out) };
    printed.map_err(|error| Failure::failed("failed to write the report", error))?;
    Ok(exit_of(&report))
}

/// The exit code of a verdict.
#[must_use]
pub fn exit_of(report: &Report) -> Exit {
    match report.verdict() {
        Verdict::Same => Exit::Done,
        Verdict::SameButLost => Exit::Lost,
        Verdict::NotSame => Exit::NotSame,
        Verdict::Unknown => Exit::Failed,
    }
}

/// The report for a person: one line per difference, then what it amounts to.
///
/// # Errors
/// When `out` fails.
pub fn print_text(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    for difference in report.differences() {
        let Difference { class, path, expected, found } = difference;
        writeln!(out, "{class:<15} {}  (expected {expected}, found {found})", shown_path(path))?;
    }
    let hidden = report.total() - report.differences().len() as u64;
    if hidden > 0 {
        writeln!(out, "... and {hidden} more")?;
    }
    for remark in &report.remarks {
        writeln!(out, "note: {remark}")?;
    }
    if report.levels.stored || report.levels.restored {
        writeln!(out, "level: {}", level(report))?;
    }
    writeln!(out, "{}", report.sentence())
}

/// The report as one JSON object on one line; `docs/manifest-format.md` describes it.
///
/// # Errors
/// When `out` fails.
pub fn print_json(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let counts: Map<String, Value> =
        report.counts().map(|(class, count)| (class.name().to_owned(), count.into())).collect();
    let differences: Vec<Value> = report.differences().iter().map(difference_json).collect();
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
        "counts": counts,
        "differences_total": report.total(),
        "differences": differences,
        "remarks": report.remarks,
    });
    writeln!(out, "{object}")
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

fn explain(args: &VerifyArgs, error: VerifyError) -> Failure {
    let hint = match &error {
        VerifyError::TooSmall { .. }
        | VerifyError::Restore(crate::backup::rsync::RsyncError::NoSpace { .. }) => {
            Some("make room there, or name another directory with --restore-to")
        }
        VerifyError::Manifest { .. } => Some("without a whole manifest nothing can be said about the copy"),
        _ => None,
    };
    let message = format!("could not find out whether {} is good", show::path(&args.copy));
    let failure = Failure::failed(message, error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
