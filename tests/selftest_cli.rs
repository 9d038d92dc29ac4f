//! `safe-upgrade selftest` as a process: with the program itself, with one that sees nothing, and as a user without rights.

#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn selftest(program: &str, directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.arg("selftest").arg("--dir").arg(directory).args(arguments);
    command
}

fn run(mut command: Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

fn json(command: Command) -> (i32, Value) {
    let (code, text) = run(command);
    (code, serde_json::from_str(&text).unwrap())
}

fn names(report: &Value, which: impl Fn(&Value) -> bool) -> Vec<&str> {
    let rows = report["damages"].as_array().unwrap().iter();
    rows.filter(|row| which(row)).map(|row| row["damage"].as_str().unwrap()).collect()
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_safe-upgrade");

#[test]
fn every_damage_is_caught_by_the_program_itself() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let (code, report) = json(selftest(PROGRAM, directory.path(), &["--json"]));
    let missed = names(&report, |row| row["caught"] == false);
    assert_eq!((missed, code, &report["passed"]), (Vec::new(), 0, &Value::Bool(true)), "{report}");
    assert_eq!(report["damages"].as_array().unwrap().len(), 45);
    for row in report["damages"].as_array().unwrap() {
        assert!(row["caught"] == true || row["skipped"].is_string(), "{row}");
        // Each is found as what it is, and as nothing else; a renamed file is also one too many.
        let exact = row["found"] == row["expected"] || row["damage"] == "file renamed";
        let archive = row["damage"].as_str().unwrap().contains("archive");
        assert!(exact || archive || row["skipped"].is_string(), "{row}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "the copies are gone");
}

#[test]
fn the_table_says_in_its_last_line_how_it_ended() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let (code, text) = run(selftest(PROGRAM, directory.path(), &[]));
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("passed: all "), "{text}");
    assert_eq!(code, 0);
    assert!(
        text.lines().any(|line| line.starts_with("one bit flipped  ") && line.ends_with(" yes")),
        "{text}"
    );
}

/// A verifier that finds everything the same passes the controls, and nothing else.
#[test]
fn a_program_that_sees_nothing_is_found_out() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let blind = directory.path().join("blind");
    let script = "#!/bin/sh\n[ \"$1\" = manifest ] && : > \"$5\"\n\
                  [ \"$1\" = verify ] && echo '{\"verdict\":\"same\",\"counts\":{}}'\nexit 0\n";
    // The manifest that it makes must be long enough to be damaged.
    let script = script.replace(": > \"$5\"", "cp \"$0\" \"$5\"");
    fs::write(&blind, script).unwrap();
    fs::set_permissions(&blind, Permissions::from_mode(0o755)).unwrap();
    let command = selftest(PROGRAM, directory.path(), &["--json", "--program", blind.to_str().unwrap()]);
    let (code, report) = json(command);
    assert_eq!((code, &report["passed"]), (1, &Value::Bool(false)));
    let caught = names(&report, |row| row["caught"] == true);
    assert!(caught.iter().all(|name| name.starts_with("none (control")), "{caught:?}");
    assert!(report["missed"].as_u64().unwrap() > 30, "{report}");
}

/// One that cries wolf fails the control.
#[test]
fn a_program_that_sees_damage_everywhere_is_found_out() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let wolf = directory.path().join("wolf");
    let script = "#!/bin/sh\n[ \"$1\" = manifest ] && { cp \"$0\" \"$5\"; exit 0; }\n\
                  echo '{\"verdict\":\"not-same\",\"counts\":{\"content\":1}}'\nexit 7\n";
    fs::write(&wolf, script).unwrap();
    fs::set_permissions(&wolf, Permissions::from_mode(0o755)).unwrap();
    let (code, report) =
        json(selftest(PROGRAM, directory.path(), &["--json", "--program", wolf.to_str().unwrap()]));
    assert_eq!(code, 1);
    assert!(names(&report, |row| row["caught"] == false).contains(&"none (control)"));
}

#[test]
fn what_a_user_without_rights_cannot_make_is_skipped_by_name() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, to become somebody else");
        return;
    }
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    let program = directory.path().join("program");
    fs::copy(PROGRAM, &program).unwrap();
    let mut command = selftest(program.to_str().unwrap(), directory.path(), &["--json"]);
    command.uid(65_534).gid(65_534);
    let (code, report) = json(command);
    assert_eq!(code, 0, "{report}");
    let skipped = names(&report, |row| row["skipped"] == "needs root");
    assert_eq!(skipped, ["owner changed", "group changed", "device number changed"]);
}
