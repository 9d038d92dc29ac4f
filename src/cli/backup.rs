//! `backup`: copies the configured trees, restores the copies and compares, without any upgrade.

use std::io::Write;

use serde_json::{Value, json};

use super::args::ConfigArgs;
use super::{SCHEMA, journal_failure, needs_root, print_json, story, written};
use crate::config;
use crate::error::{Exit, Failure};
use crate::evidence::TreeReport;
use crate::journal::Journal;
use crate::phases::{self, ground};
use crate::places::StateDirectory;
use crate::progress::Progress;
use crate::system::show;

/// Makes and proves the backup.
///
/// # Errors
/// When a copy cannot be made, or it cannot be found out whether it is good.
pub(super) fn run(args: &ConfigArgs, places: &StateDirectory, out: &mut dyn Write) -> Result<Exit, Failure> {
    needs_root("backing up")?;
    let (config, _) = config::load(&args.config)?;
    // A run that has just proven these copies must not find others.
    let _alone = match ground::is_there(places)? {
        true => Some(Journal::open(places.path()).map_err(journal_failure)?),
        false => None,
    };
    let report = phases::back_up_all(&config, places, &Progress::nowhere())
        .map_err(|error| Failure::failed("failed to make and prove the backup", error))?;
    let same = report.trees.iter().all(|tree| tree.differences == 0 && tree.entries > 0);
    if args.json {
        let trees: Vec<Value> = report.trees.iter().map(as_json).collect();
        print_json(out, &json!({"schema": SCHEMA, "command": "backup", "same": same, "trees": trees}))?;
    } else {
        for tree in &report.trees {
            written(out.write_all(as_text(tree).as_bytes()))?;
        }
    }
    Ok(if same { Exit::Done } else { Exit::NotSame })
}

fn as_json(tree: &TreeReport) -> Value {
    json!({
        "tree": tree.tree,
        "manifest": tree.manifest,
        "entries": tree.entries,
        "bytes": tree.bytes,
        "differences": tree.differences,
        "lines": tree.lines,
    })
}

fn as_text(tree: &TreeReport) -> String {
    let verdict = match tree.differences {
        0 if tree.entries > 0 => "restored, and the same".to_owned(),
        0 => "NOT PROVEN: nothing was checked".to_owned(),
        count => format!("NOT THE SAME: {count} differences"),
    };
    let size = story::bytes(tree.bytes);
    let mut lines = vec![format!("{}: {verdict} ({} entries, {size})", show::line(&tree.tree), tree.entries)];
    lines.extend(tree.lines.iter().map(|line| format!("  {}", show::line(line))));
    lines.join("\n") + "\n"
}
