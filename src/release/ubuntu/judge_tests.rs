use std::time::Duration;

use super::*;
use crate::release::ubuntu::log::{LogReader, last_traceback};

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../../../tests/fixtures/ubuntu/", $name))
    };
}

fn told(text: &str) -> Story {
    let mut reader = LogReader::default();
    reader.push(text.as_bytes());
    reader.close();
    reader.story().clone()
}

fn seen(story: &Story) -> Told<'_> {
    Told { ended: Ended::Exit(0), story, output: "", traceback: None }
}

const GOOD: Measured<'_> = Measured { version: "26.04", target: "26.04", audit: "", check: None, held: &[] };

fn why(told: &Told<'_>) -> (bool, String) {
    failed(judge(told))
}

fn failed(verdict: Verdict) -> (bool, String) {
    match verdict {
        Verdict::Failed { past_no_return, why } => (past_no_return, why),
        Verdict::Complete => panic!("judged complete"),
    }
}

#[test]
fn complete_only_when_everything_agrees() {
    let story = told(fixture!("success.log"));
    assert_eq!(judge(&seen(&story)), Verdict::Complete);
    assert_eq!(judge_machine(&story, &GOOD), Verdict::Complete);
    let machines = [
        (Measured { version: "24.04", ..GOOD }, "os-release says \"24.04\""),
        (Measured { audit: "\nThe following packages\n", ..GOOD }, "dpkg --audit complains: The following"),
        (Measured { check: Some("E: Unmet"), ..GOOD }, "apt-get check complains"),
    ];
    for (measured, expected) in machines {
        let (past, why) = failed(judge_machine(&story, &measured));
        assert!(past && why.contains(expected), "{why}");
    }
    for (ended, expected) in [(Ended::Exit(1), "with exit code 1"), (Ended::Signal(9), "signal 9")] {
        let (past, why) = why(&Told { ended, ..seen(&story) });
        assert!(past && why.contains(expected), "{why}");
    }
}

#[test]
fn exit_code_0_without_the_tool() {
    let nothing = Story::default();
    let (past, text) = why(&Told { output: fixture!("tool-404.stdout"), ..seen(&nothing) });
    assert!(!past && text.ends_with("the upgrade tool could not be fetched"), "{text}");
    let (_, text) = why(&Told { output: "Something else\n\n", ..seen(&nothing) });
    assert!(text.ends_with("is: Something else"), "{text}");
}

#[test]
fn an_abort_before_is_told_from_a_failure_after() {
    let story = told(fixture!("abort-before.log"));
    let (past, text) = why(&Told { ended: Ended::Exit(1), ..seen(&story) });
    assert!(!past && text.contains("not enough room"), "{text}");
    let story = told(fixture!("failure-after.log"));
    let (past, text) = why(&Told { ended: Ended::Exit(1), ..seen(&story) });
    assert!(past && text.starts_with("dpkg failed for mysql-server-8.4: installed"), "{text}");
}

#[test]
fn a_crash_is_found_wherever_it_went() {
    let story = told(fixture!("uncaught.main.log"));
    let traceback = last_traceback(fixture!("uncaught.apt.log"));
    let (past, text) = why(&Told { ended: Ended::Exit(1), traceback, ..seen(&story) });
    assert!(
        !past && text.contains("crashed in the phase \"rewriting the apt sources\": AttributeError"),
        "{text}"
    );
    // Even with the line of the end and exit code 0.
    let story = told(fixture!("hook.log"));
    let (past, text) = why(&seen(&story));
    assert!(past && text.contains("TypeError: a bytes-like object"), "{text}");
}

#[test]
fn held_back_counts_unless_it_is_held_by_will() {
    let story = told(fixture!("held-back.log"));
    let (_, text) = failed(judge_machine(&story, &GOOD));
    assert_eq!(text, "packages stayed at the old release: nginx nginx-common");
    let held = ["nginx".to_owned(), "nginx-common:all".to_owned()];
    assert_eq!(judge_machine(&story, &Measured { held: &held, ..GOOD }), Verdict::Complete);
}

#[test]
fn silence_names_the_phase() {
    let story = told(fixture!("rotation-2.log"));
    let (past, text) = why(&Told { ended: Ended::Silent(Duration::from_secs(1800)), ..seen(&story) });
    assert!(!past && text.contains("silent for 1800 s in the phase \"trying it without dpkg\""), "{text}");
}

#[test]
fn an_abort_without_a_named_reason_gives_its_last_error() {
    let text = "2026-04-23 10:15:01,000 INFO release-upgrader version '26.04.27' started\n\
        2026-04-23 10:15:14,000 DEBUG running Quirks.PostInitialUpdate\n\
        2026-04-23 10:15:15,000 ERROR Unable to upgrade Unified cgroups are\nneeded. (None)\n\
        2026-04-23 10:15:15,000 DEBUG abort called\n\
        2026-04-23 10:15:15,000 ERROR view.abort called\n";
    let story = told(text);
    let (past, text) = why(&Told { ended: Ended::Exit(1), ..seen(&story) });
    assert!(
        !past && text.ends_with("with exit code 1: Unable to upgrade Unified cgroups are needed. (None)"),
        "{text}"
    );
}
