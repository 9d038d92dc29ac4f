use super::*;

const SUCCESS: &[u8] = include_bytes!("../../../tests/fixtures/ubuntu/success.log");

fn told(bytes: &[u8]) -> Story {
    let mut reader = LogReader::default();
    reader.push(bytes);
    reader.close();
    reader.story().clone()
}

#[test]
fn a_whole_upgrade() {
    let story = told(SUCCESS);
    assert!(story.finished() && story.past_no_return());
    assert_eq!(story.version.as_deref(), Some("26.04.27"));
    assert_eq!(story.hop, Some(("Ubuntu 24.04 LTS".into(), "Ubuntu 26.04 LTS".into())));
    assert_eq!((story.commits, story.changes()), (2, 7));
    assert_eq!(story.upgrade, ["libc6", "bash", "base-files", "openssh-server"]);
    assert_eq!(story.conffiles, [PathBuf::from("/etc/login.defs")]);
    assert!(story.markers.is_empty() && story.errors.is_empty() && story.kept_back.is_empty());
}

#[test]
fn pieces_of_any_size_tell_the_same() {
    let whole = told(SUCCESS);
    for size in [1, 7, 64, 1000] {
        let mut reader = LogReader::default();
        let mut furthest = None;
        for piece in SUCCESS.chunks(size) {
            reader.push(piece);
            assert!(reader.story().phase >= furthest, "it went back");
            furthest = reader.story().phase;
        }
        assert_eq!(*reader.story(), whole, "{size}");
    }
}

#[test]
fn every_phase_but_the_skipped_cleanup_is_seen() {
    let mut reader = LogReader::default();
    let mut seen = Vec::new();
    for line in SUCCESS.split_inclusive(|byte| *byte == b'\n') {
        reader.push(line);
        seen.extend(reader.story().phase);
    }
    seen.dedup();
    let numbers: Vec<u8> = seen.iter().map(|phase| phase.number()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16]);
}

#[test]
fn the_second_commit_is_the_point_of_no_return() {
    let text = String::from_utf8(SUCCESS.to_vec()).unwrap();
    let second = text.rfind("INFO cache.commit()").unwrap();
    assert!(!told(&text.as_bytes()[..second]).past_no_return());
    assert!(told(&text.as_bytes()[..second + 20]).past_no_return());
}

/// Broken packages are repaired, and flatpak is kept, by commits long before: they are no simulation.
#[test]
fn commits_before_the_calculation_do_not_count() {
    let text = String::from_utf8(SUCCESS.to_vec()).unwrap();
    let early = text.replacen(
        "DEBUG Foreign: ",
        "DEBUG x\n2026-04-23 10:15:15,001 INFO cache.commit()\n2026-04-23 10:15:15,002 DEBUG Foreign: ",
        1,
    );
    let first = early.rfind("DEBUG cache.commit() returned").unwrap();
    let simulated = early[..first].find("cache.commit() returned").unwrap();
    let story = told(&early.as_bytes()[..simulated]);
    assert_eq!((story.commits, story.phase), (1, Some(Phase::Simulation)));
    assert!(!story.past_no_return());
}

#[test]
fn an_abort_before_says_why() {
    let story = told(include_bytes!("../../../tests/fixtures/ubuntu/abort-before.log"));
    assert!(!story.past_no_return() && !story.finished());
    assert!(matches!(&story.markers[0], Marker::Space(_)), "{:?}", story.markers);
    assert_eq!(story.markers.last(), Some(&Marker::Abort));
    assert_eq!(story.phase, Some(Phase::Space));
}

#[test]
fn a_failure_after_with_its_long_message() {
    let story = told(include_bytes!("../../../tests/fixtures/ubuntu/failure-after.log"));
    assert!(story.past_no_return() && !story.finished());
    assert_eq!(
        story.markers[0],
        Marker::Dpkg {
            package: "mysql-server-8.4".into(),
            words: "installed mysql-server-8.4 package post-installation script subprocess returned error exit status 1"
                .into()
        }
    );
    assert_eq!(story.markers[2], Marker::Commit("installArchives() failed".into()));
    let last = story.errors.last().unwrap();
    assert!(
        last.starts_with("Could not install") && last.contains("\nE:Sub-process /usr/bin/dpkg"),
        "{last}"
    );
}

#[test]
fn the_last_line_of_a_crash_is_no_success() {
    let story = told(include_bytes!("../../../tests/fixtures/ubuntu/hook.log"));
    assert!(story.finished(), "the crash hook writes the line of the end");
    let crash = Marker::Uncaught("TypeError: a bytes-like object is required, not 'str'".into());
    assert!(story.markers.contains(&crash), "{:?}", story.markers);
}

#[test]
fn a_log_that_starts_again_in_the_middle() {
    let mut reader = LogReader::default();
    reader.push(include_bytes!("../../../tests/fixtures/ubuntu/rotation-1.log"));
    assert_eq!(reader.story().phase, Some(Phase::BlockingChecks));
    reader.push(b"2026-04-23 10:15:19,000 DEBUG half a l");
    reader.renew();
    reader.push(include_bytes!("../../../tests/fixtures/ubuntu/rotation-2.log"));
    // The second commit of that log tries the first again.
    assert_eq!((reader.story().commits, reader.story().phase), (1, Some(Phase::Simulation)));
    reader.push(b"2026-04-23 10:19:00,000 INFO cache.commit()\n");
    assert!(reader.story().past_no_return());
    // Whatever starts now, packages have been changed.
    reader.push(b"2026-04-23 10:20:00,000 INFO release-upgrader version '26.04.27' started\n");
    assert!(reader.story().past_no_return());
}

#[test]
fn held_back_packages() {
    let story = told(include_bytes!("../../../tests/fixtures/ubuntu/held-back.log"));
    assert!(story.finished());
    assert_eq!(story.kept_back, ["nginx", "nginx-common"]);
}

#[test]
fn a_traceback_in_the_resolvers_log() {
    let story = told(include_bytes!("../../../tests/fixtures/ubuntu/uncaught.main.log"));
    assert_eq!((story.phase, story.markers.len()), (Some(Phase::Sources), 0));
    let text = include_str!("../../../tests/fixtures/ubuntu/uncaught.apt.log");
    let found = last_traceback(text).unwrap();
    assert!(found.starts_with("AttributeError: property 'suites'"), "{found}");
    assert!(found.ends_with("line 921, in updateDeb822Sources)"), "{found}");
    assert_eq!(last_traceback("Log time: x\n"), None);
}

#[test]
fn both_spellings_and_lines_that_are_none() {
    let line = |text: &str| told(format!("2026-04-23 10:15:30,123 ERROR {text}\n").as_bytes()).markers;
    for word in ["a", "an"] {
        let found = line(&format!("got {word} error from dpkg for pkg: 'x': 'y: z'"));
        assert_eq!(found, [Marker::Dpkg { package: "x".into(), words: "y: z".into() }]);
    }
    assert!(line("failed to inhibit gnome-session idle").is_empty());
    assert_eq!(split("2026-04-23 10:15:30.123 ERROR x"), None);
    assert_eq!(split("2026-04-23 10:15:30,123 NOISE x"), None);
    assert_eq!(split("é026-04-23 10:15:30,123 ERROR x"), None);
}

/// The only one here that a real upgrader wrote.
#[test]
fn a_recorded_upgrade() {
    let story = told(include_bytes!("../../../tests/fixtures/ubuntu/recorded-noble-resolute.log"));
    assert!(story.finished() && story.markers.is_empty(), "{:?}", story.markers);
    assert_eq!((story.commits, story.version.as_deref()), (2, Some("26.04.18")));
    assert_eq!(story.hop, Some(("noble".into(), "resolute".into())));
    assert_eq!((story.upgrade.len(), story.install.len(), story.remove.len()), (169, 33, 0));
    assert_eq!(story.conffiles, [PathBuf::from("/etc/login.defs")]);
    // An ERROR alone is no failure.
    assert_eq!(story.errors, ["failed to import AptClone"]);
    assert!(story.kept_back.is_empty());
}
