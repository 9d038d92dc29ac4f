//! Journals that every released version must be able to read for ever, and the fuzzer's seeds, which are the same files without
//! their digests.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::fs;
use std::path::PathBuf;

use safe_upgrade::driver;
use safe_upgrade::evidence::CommitRule;
use safe_upgrade::journal::{Journal, read, read_file, seal_lines};
use safe_upgrade::machine::State;
use safe_upgrade::sim::{Sim, World};

const STORIES: [(&str, &str); 4] = [
    ("committed", "Committed"),
    ("refused", "Refused"),
    ("rolled-back", "RolledBack"),
    ("awaits-commit", "Trial"),
];

fn world(story: &str) -> World {
    match story {
        "refused" => World { inhibited: true, ..World::FINE },
        "rolled-back" => World { healthy: false, ..World::FINE },
        "awaits-commit" => World { commit: CommitRule::Manual, ..World::FINE },
        _ => World::FINE,
    }
}

fn golden(story: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/journal/v1-{story}.jsonl"))
}

/// The lines that a run writes, without their digests.
fn texts(story: &str) -> Vec<Vec<u8>> {
    let mut sim = Sim::planned(world(story));
    while driver::run(&mut sim).is_err() {
        sim.power_on();
    }
    let line = |(seq, record)| {
        let frame = serde_json::json!({
            "v": 1, "seq": seq, "time": "2026-11-26T16:30:00Z", "boot": "boot", "tool": "0.1.0", "entry": record,
        });
        let mut text = serde_json::to_vec(&frame).unwrap();
        text.pop();
        text
    };
    sim.journal.iter().enumerate().map(line).collect()
}

/// `UPDATE_GOLDEN=1` writes a story that is not there yet; what is there never changes.
#[test]
fn every_version_reads_the_journals_of_version_1() {
    for (story, end) in STORIES {
        let path = golden(story);
        if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let texts = texts(story);
            fs::write(&path, seal_lines(texts.iter().map(Vec::as_slice))).unwrap();
            let seeds = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/journal_decode");
            fs::create_dir_all(&seeds).unwrap();
            fs::write(seeds.join(format!("v1-{story}")), texts.join(&b"\n"[..])).unwrap();
        }
        let reading = read(&fs::read(&path).unwrap()).unwrap();
        let state =
            reading.frames.iter().try_fold(State::New, |state, frame| state.apply(&frame.entry)).unwrap();
        assert_eq!(state.name(), end, "{story}");
    }
}

#[test]
fn a_golden_journal_opens_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(golden("committed"), directory.path().join("journal.jsonl")).unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    assert!(journal.state().is_final());
    drop(journal);
    assert_eq!(read_file(directory.path()).unwrap().1.name(), "Committed");
}
