//! What is kept of each scenario, and the table for docs/guarantees.md.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Layout;
use crate::lab::place::lab_directory;
use crate::lab::{Result, context};

/// Where the generated table begins and ends in the document.
const BEGIN: &str = "<!-- measured in virtual machines: begin -->";
const END: &str = "<!-- measured in virtual machines: end -->";

/// How one scenario ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// The layout's name.
    pub layout: String,
    /// The scenario's name.
    pub scenario: String,
    /// The state in which the run ended.
    pub end: String,
    /// From the fault (or from the reboot into a faulty system) until the journal said how it ended, in seconds.
    pub seconds: f64,
    /// How long the packages took, in seconds.
    pub packages: f64,
    /// How often the machine was reset or lost its power on the way.
    pub resets: usize,
}

/// Keeps a result; one of the same layout and scenario is replaced.
pub fn keep(ended: Ended) -> Result<()> {
    let path = file();
    let mut all = read(&path)?;
    all.retain(|other| (&other.layout, &other.scenario) != (&ended.layout, &ended.scenario));
    all.push(ended);
    all.sort_by(|a, b| (&a.layout, &a.scenario).cmp(&(&b.layout, &b.scenario)));
    let text = serde_json::to_string_pretty(&all).map_err(io::Error::other)? + "\n";
    let part = path.with_extension("part");
    fs::write(&part, text)?;
    context(fs::rename(&part, &path), format_args!("write {}", path.display()))
}

/// Writes the table of all results into the document; false when there are no results yet.
pub fn write_table(document: &Path) -> Result<bool> {
    let all = read(&file())?;
    if all.is_empty() {
        return Ok(false);
    }
    let text = context(fs::read_to_string(document), format_args!("read {}", document.display()))?;
    fs::write(document, with_table(&text, &table(&all)))?;
    Ok(true)
}

fn file() -> PathBuf {
    lab_directory().with_file_name("vm-results.json")
}

fn read(path: &Path) -> Result<Vec<Ended>> {
    match fs::read(path) {
        Ok(bytes) => context(
            serde_json::from_slice(&bytes).map_err(Into::into),
            format_args!("read {}", path.display()),
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The document with this table between the markers; they are added at its end when it has none.
fn with_table(text: &str, table: &str) -> String {
    let block = format!("{BEGIN}\n{table}{END}");
    let place = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    match place {
        Some((before, after)) => format!("{before}{block}{after}"),
        None => format!("{}\n\n{block}\n", text.trim_end()),
    }
}

/// One line a scenario, one column a layout.
fn table(all: &[Ended]) -> String {
    let mut scenarios: BTreeMap<&str, BTreeMap<&str, &Ended>> = BTreeMap::new();
    for one in all {
        scenarios.entry(&one.scenario).or_default().insert(&one.layout, one);
    }
    let mut columns: Vec<&str> = all.iter().map(|one| one.layout.as_str()).collect();
    columns.sort_unstable();
    columns.dedup();
    let mut text = "| what happens |".to_owned();
    for column in &columns {
        text.push_str(&format!(" {} |", title(column)));
    }
    text.push_str(&format!("\n|---|{}\n", "---|".repeat(columns.len())));
    for (scenario, ends) in scenarios {
        text.push_str(&format!("| {} |", scenario.replace('-', " ")));
        for column in &columns {
            let cell = ends.get(column).map_or_else(|| "not tried".into(), |one| cell(one));
            text.push_str(&format!(" {cell} |"));
        }
        text.push('\n');
    }
    text
}

fn cell(one: &Ended) -> String {
    let times = if one.resets == 1 { "1 reset".into() } else { format!("{} resets", one.resets) };
    format!("`{}` after {:.0} s, {times}", one.end, one.seconds)
}

fn title(layout: &str) -> String {
    let known = Layout::ALL.into_iter().find(|one| one.name() == layout);
    match (known, layout.strip_suffix("-secure-boot")) {
        (Some(known), _) => known.title().to_owned(),
        (None, Some("uefi")) => format!("{}, Secure Boot", Layout::Uefi.title()),
        _ => layout.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(layout: &str, scenario: &str, seconds: f64) -> Ended {
        Ended {
            layout: layout.into(),
            scenario: scenario.into(),
            end: "RolledBack".into(),
            seconds,
            packages: 60.0,
            resets: 2,
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_scenario() {
        let all = [
            ended("uefi", "boot-hangs", 99.6),
            ended("bios-ext4", "boot-hangs", 80.0),
            ended("uefi", "panics", 70.0),
        ];
        let lines: Vec<String> = table(&all).lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "| what happens | BIOS, ext4 `/boot` | UEFI, ESP, `/boot` inside btrfs |");
        assert_eq!(
            lines[2],
            "| boot hangs | `RolledBack` after 80 s, 2 resets | `RolledBack` after 100 s, 2 resets |"
        );
        assert_eq!(lines[3], "| panics | not tried | `RolledBack` after 70 s, 2 resets |");
    }

    #[test]
    fn the_table_replaces_the_one_before() {
        let first = with_table("# Title\n", "old\n");
        assert!(first.starts_with("# Title\n") && first.contains("old"));
        let second = with_table(&(first + "\nafter\n"), "new\n");
        assert!(second.contains("new") && !second.contains("old") && second.ends_with("\nafter\n"));
        assert_eq!(second.matches(BEGIN).count(), 1);
    }
}
