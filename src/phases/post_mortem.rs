//! After the machine went back: what the failed root and the firmware still know, in one file for a person.

use std::fmt::Write;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use super::{Machine, Result, trouble};
use crate::driver::Trouble;
use crate::evidence::Plan;
use crate::journal::Frame;
use crate::machine::{Record, Why};
use crate::snapshot::TopLevel;
use crate::system::exec::Exec;
use crate::system::{beneath, durable, show};

/// The file's name in the run's directory. It may hold anything that a log may hold: only root can read it.
pub const FILE: &str = "post-mortem.txt";

/// How many lines of warnings are kept, and how many of the kernel's messages.
const WARNINGS: &str = "--lines=200";
const KERNEL: &str = "--lines=100";

/// How many lines of each log of the package tools are kept, and how much of its end is read for them.
const LOG_LINES: usize = 60;
const LOG_TAIL: u64 = 256 << 10;

/// How much of each message that the firmware kept is shown, in bytes.
const PSTORE_BYTES: u64 = 16 << 10;

/// A broken journal must not keep a restored machine waiting.
const LIMIT: Duration = Duration::from_secs(60);

const LOGS: [&str; 3] = ["var/log/apt/term.log", "var/log/apt/history.log", "var/log/dpkg.log"];

/// What the kernel wrote when it died, where it lies until systemd-pstore moves it, and where that puts it.
const PSTORE: [&str; 2] = ["/sys/fs/pstore", "/var/lib/systemd/pstore"];

/// systemd's ids of "a unit failed" and "a start job failed" (systemd.journal-fields(7), the message catalog).
const UNIT_FAILED: [&str; 2] =
    ["MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c", "MESSAGE_ID=be02cf6855d2428ba40df7e9d022f03d"];

/// Gathers it all and writes it. Repeatable.
pub(super) fn write(machine: &Machine, plan: &Plan) -> Result<()> {
    let mut text = story(plan, machine.journal.frames());
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let name = machine.names.other_root();
    top.get(&name).map_err(trouble)?;
    let failed: OwnedFd = File::open(top.path(Path::new(&name))).map_err(trouble)?.into();
    of_journal(&mut text, beneath::directory(&failed, Path::new("var/log/journal")));
    for log in LOGS {
        section(&mut text, &format!("the end of /{log} in the failed root"), tail(&failed, Path::new(log)));
    }
    section(&mut text, "what the kernel left in the firmware's store", pstore(&PSTORE.map(PathBuf::from)));
    durable::replace_file(&machine.directory.join(FILE), text.as_bytes(), 0o600).map_err(trouble)
}

/// A link out of the failed root would lead to the journal of the running one.
fn of_journal(text: &mut String, journal: std::result::Result<OwnedFd, Errno>) {
    let journal = match journal {
        Ok(journal) => journal,
        Err(Errno::NOENT) => {
            let none = "There is none in the failed root: its journal was kept in memory, and died with it.";
            return section(text, "the journal", Ok(none.to_owned()));
        }
        Err(errno) => return section(text, "the journal", Err(trouble(std::io::Error::from(errno)))),
    };
    let ask = |arguments: &[&str]| journalctl(&beneath::path_of(&journal), arguments);
    section(text, "the boots that are in the failed root's journal", ask(&["--list-boots"]));
    let mut failed = vec!["--boot=0", "--output=json", "--output-fields=UNIT,USER_UNIT"];
    failed.extend(UNIT_FAILED);
    section(text, "units that failed in its last boot", ask(&failed).map(|json| failed_units(&json)));
    let last = ["--boot=0", "--output=short-iso"];
    let warnings = [&last[..], &["--priority=warning", WARNINGS]].concat();
    section(text, "warnings and worse of its last boot (at most 200 lines)", ask(&warnings));
    let kernel = [&last[..], &["--dmesg", KERNEL]].concat();
    section(text, "the kernel's messages of its last boot (at most 100 lines)", ask(&kernel));
}

/// A part of the text with its heading. What could not be found out is said in its place.
fn section(text: &mut String, heading: &str, content: Result<String>) {
    let content = content.unwrap_or_else(|trouble| format!("could not be read: {trouble}"));
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n== {heading} ==");
    for line in content.lines() {
        let _ = writeln!(text, "{}", show::line(line));
    }
    if content.trim().is_empty() {
        text.push_str("nothing\n");
    }
}

fn journalctl(directory: &Path, arguments: &[&str]) -> Result<String> {
    let mut path = std::ffi::OsString::from("--directory=");
    path.push(directory);
    let exec = Exec::new("journalctl").map_err(trouble)?.args(["--no-pager", "--quiet", "--utc"]).arg(path);
    exec.args(arguments).limit(LIMIT).text().map_err(trouble)
}

/// The units in journalctl's JSON lines, each once, in the order in which they failed.
fn failed_units(json: &str) -> String {
    let mut units: Vec<String> = Vec::new();
    for line in json.lines() {
        let Ok(entry) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let unit = entry["UNIT"].as_str().or_else(|| entry["USER_UNIT"].as_str());
        if let Some(unit) = unit.filter(|unit| !units.iter().any(|known| known == unit)) {
            units.push(unit.to_owned());
        }
    }
    units.join("\n")
}

/// The last lines of a log.
fn tail(root: &OwnedFd, path: &Path) -> Result<String> {
    let read = || {
        let directory = beneath::directory(root, path.parent().unwrap_or(Path::new("")))?;
        let (mut file, _) = beneath::regular(&directory, path.file_name().unwrap_or_default())?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().map_err(|error: std::io::Error| Trouble::new(error.to_string()))?;
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"))
}

/// All messages in these directories. A directory that is not there holds none.
fn pstore(directories: &[PathBuf]) -> Result<String> {
    let mut text = String::new();
    let mut waiting = directories.to_vec();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).map_err(trouble)?;
            for entry in entries {
                waiting.push(entry.map_err(trouble)?.path());
            }
            waiting.sort();
        } else if path.is_file() {
            let mut bytes = Vec::new();
            let file = std::fs::File::open(&path).map_err(trouble)?;
            file.take(PSTORE_BYTES).read_to_end(&mut bytes).map_err(trouble)?;
            let _ = writeln!(text, "-- {}\n{}", show::path(&path), String::from_utf8_lossy(&bytes));
        }
    }
    Ok(text)
}

/// What the run's own journal tells, in one paragraph. Pure.
fn story(plan: &Plan, frames: &[Frame]) -> String {
    let start = frames.iter().rposition(|frame| matches!(frame.entry, Record::Planned { .. })).unwrap_or(0);
    let mut sentences = vec![format!(
        "Run {} should have taken {} from {} to {}.",
        plan.run,
        show::line(&plan.host),
        plan.from,
        plan.to
    )];
    let (mut rebooted, mut reported) = (false, false);
    for frame in &frames[start..] {
        let at = frame.time.strftime("%Y-%m-%d %H:%M:%S UTC");
        let sentence = match &frame.entry {
            Record::UpgradeStarted { .. } => format!("The packages began to change at {at}."),
            Record::UpgradeFinished { .. } => format!("They were complete at {at}."),
            Record::RebootStarted { .. } => {
                rebooted = true;
                format!("The machine rebooted into the trial at {at}.")
            }
            Record::TrialBooted { .. } => {
                reported = true;
                format!("The trial reported at {at}.")
            }
            Record::TrialLeft { .. } => format!("Somebody rebooted it in an orderly way at {at}."),
            Record::HealthPassed { .. } => format!("It was healthy at {at}."),
            Record::Committed { .. } => format!("The new release was committed at {at}."),
            Record::RollbackStarted { why } => {
                let died = matches!(why, Why::FellBack | Why::Interrupted { .. });
                let silent = if rebooted && !reported && died { "The trial never reported. " } else { "" };
                format!("{silent}The way back began at {at}: {}.", show::line(&why.to_string()))
            }
            Record::RollbackPrepared { .. } => format!("The old system was the next boot again at {at}."),
            _ => continue,
        };
        sentences.push(sentence);
    }
    sentences.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_units_are_named_once_in_order() {
        let json = "{\"UNIT\":\"mnt.mount\",\"MESSAGE\":\"x\"}\nnot json\n{\"UNIT\":\"a.service\"}\n{\"UNIT\":\"mnt.mount\"}\n{}\n";
        assert_eq!(failed_units(json), "mnt.mount\na.service");
    }

    #[test]
    fn control_characters_do_not_get_through() {
        let mut text = String::new();
        section(&mut text, "a log", Ok("one\x1b[2J\ntwo".into()));
        section(&mut text, "empty", Ok(String::new()));
        section(&mut text, "unknown", Err(Trouble::new("no")));
        let expected = "\n== a log ==\none\\x1b[2J\ntwo\n\n== empty ==\nnothing\n\n== unknown ==\ncould not be read: no\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn logs_are_cut_at_their_end() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        std::fs::write(&log, (0..1000).map(|number| format!("line {number}\n")).collect::<String>()).unwrap();
        let root = File::open(directory.path()).unwrap().into();
        let tail = tail(&root, Path::new("log")).unwrap();
        assert_eq!((tail.lines().count(), tail.lines().last()), (LOG_LINES, Some("line 999")));
        assert!(super::tail(&root, Path::new("none")).is_err());
    }

    #[test]
    fn a_root_without_a_journal_says_so() {
        let mut text = String::new();
        of_journal(&mut text, Err(Errno::NOENT));
        assert!(text.contains("kept in memory"), "{text}");
        text.clear();
        of_journal(&mut text, Err(Errno::LOOP));
        assert!(text.contains("could not be read"), "{text}");
    }

    #[test]
    fn what_the_kernel_left_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("dmesg-efi-1"), "Kernel panic - not syncing").unwrap();
        let text = pstore(&[directory.path().to_owned(), "/nowhere".into()]).unwrap();
        assert!(text.contains("dmesg-efi-1\nKernel panic"), "{text}");
    }
}
