//! The upgrader here is a stand-in: a small script that writes logs as the real one does. What it proves is our watch, not Ubuntu's program.

use std::cell::RefCell;

use super::*;

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(lab.dir.path().join(LOG_DIRECTORY)).unwrap();
        lab
    }

    fn logs(&self) -> PathBuf {
        self.dir.path().join(LOG_DIRECTORY)
    }

    /// The script finds the logs as `$1`, the fixtures as `$2`.
    fn run(&self, script: &str, silence: Span, stop: Option<&ToldToStop>) -> (Drive, Vec<Seen>) {
        let (logs, fixtures) = (
            self.logs().display().to_string(),
            format!("{}/tests/fixtures/ubuntu", env!("CARGO_MANIFEST_DIR")),
        );
        let seen = RefCell::new(Vec::new());
        let arguments = ["-ec", script, "stand-in", logs.as_str(), fixtures.as_str()];
        let upgrader = Upgrader {
            program: "sh",
            arguments: &arguments,
            environment: &[("DEBIAN_FRONTEND", "noninteractive")],
            root: self.dir.path(),
            archives: &self.dir.path().join("archives"),
            output: &self.dir.path().join("output"),
            silence,
            interval: Duration::from_millis(20),
            stop,
        };
        let drive = drive(&upgrader, &|now| seen.borrow_mut().push(now)).unwrap();
        (drive, seen.into_inner())
    }
}

const LONG: Span = Span::seconds(60);
/// Moves away what an earlier run left, as the real one does.
const ROTATE: &str = "mkdir $1/20260423-1015; mv $1/*.log $1/20260423-1015/;";

#[test]
fn a_whole_upgrade_is_followed_through_its_rotation() {
    let lab = Lab::new();
    fs::write(lab.logs().join("main.log"), include_str!("../../../tests/fixtures/ubuntu/hook.log")).unwrap();
    let script = format!(
        "{ROTATE} cat $2/success.log > $1/main.log; printf 'Setting up bash (1) ...\\r\\n' > $1/apt-term.log; echo printed"
    );
    let (drive, _) = lab.run(&script, LONG, None);
    assert_eq!(drive.ended, Ended::Exit(0));
    assert!(drive.story.finished() && drive.story.markers.is_empty(), "{:?}", drive.story.markers);
    assert!(drive.output.ends_with("printed\n") && drive.terminal.contains("Setting up bash"));
    assert_eq!(drive.traceback, None);
}

#[test]
fn progress_only_goes_forward() {
    let lab = Lab::new();
    let script = "while read -r line; do echo \"$line\" >> $1/main.log; sleep 0.01; done < $2/success.log";
    let (drive, seen) = lab.run(script, LONG, None);
    assert!(drive.story.finished());
    assert!(seen.len() > 3, "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0].percent <= pair[1].percent), "{seen:?}");
}

#[test]
fn silence_ends_it_and_the_dpkg_that_left_its_session() {
    let lab = Lab::new();
    let script =
        "setsid sleep 600 & echo $! > $1/../dpkg.pid; cat $2/rotation-2.log > $1/main.log; sleep 600";
    let (drive, _) = lab.run(script, Span::seconds(1), None);
    assert_eq!(drive.ended, Ended::Silent(Duration::from_secs(1)));
    assert_eq!(drive.story.phase, Some(Phase::Simulation));
    assert!(drive.left_running >= 1);
    let pid = fs::read_to_string(lab.logs().join("../dpkg.pid")).unwrap();
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    assert!(state.as_ref().map_or(true, |stat| stat.contains(") Z ")), "{state:?}");
}

#[test]
fn whatever_grows_is_life() {
    let lab = Lab::new();
    for directory in GROWING {
        fs::create_dir_all(lab.dir.path().join(directory)).unwrap();
    }
    // Nothing is logged for twice the silence, but a download grows.
    let script =
        "for i in 1 2 3 4 5 6 7 8; do echo x >> $1/../../cache/apt/archives/partial/a.deb; sleep 0.25; done";
    let (drive, _) = lab.run(script, Span::seconds(1), None);
    assert_eq!(drive.ended, Ended::Exit(0));
}

#[test]
fn a_crash_tells_its_exception_and_leaves_nothing_running() {
    let lab = Lab::new();
    let script = "setsid sleep 600 & cat $2/uncaught.main.log > $1/main.log; cat $2/uncaught.apt.log > $1/apt.log; exit 1";
    let (drive, _) = lab.run(script, LONG, None);
    assert_eq!((drive.ended, drive.left_running), (Ended::Exit(1), 1));
    assert!(drive.traceback.unwrap().starts_with("AttributeError"));
    assert!(!drive.story.past_no_return());
}

#[test]
fn being_told_to_stop_ends_it() {
    let lab = Lab::new();
    let stop = ToldToStop::new().unwrap();
    stop.tell();
    let (drive, _) = lab.run("sleep 600", LONG, Some(&stop));
    assert_eq!(drive.ended, Ended::Stopped);
}

#[test]
fn it_leads_a_session_without_a_terminal_and_asks_nobody() {
    let lab = Lab::new();
    let script = "if read -r answer; then exit 9; fi; ps -o sid= -p $$ > $1/sid 2>/dev/null || cut -d' ' -f6 /proc/$$/stat > $1/sid; echo $$ > $1/pid";
    let (drive, _) = lab.run(script, LONG, None);
    assert_eq!(drive.ended, Ended::Exit(0), "{}", drive.output);
    let read = |name: &str| fs::read_to_string(lab.logs().join(name)).unwrap().trim().to_owned();
    assert_eq!(read("sid"), read("pid"));
}

#[test]
fn the_upgraders_own_progress_log() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(dpkg_percent(dir.path()), None);
    fs::write(dir.path().join("dpkg-progress.0.log"), "1.5:99.0:a:b\n").unwrap();
    assert_eq!(dpkg_percent(dir.path()), None);
    fs::write(dir.path().join("dpkg-progress.1.log"), "1.5: Start\n1.6:12.5:libc6:amd64:Unpacking\n1.7:13")
        .unwrap();
    assert_eq!(dpkg_percent(dir.path()), Some(12.5));
}
