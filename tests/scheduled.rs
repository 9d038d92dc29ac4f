//! `verify --scheduled` as a process: what is due runs, what came out is kept, shown and measured.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    /// Two trees with copies and manifests, and a configuration that names both and a repository that is not there.
    fn new() -> Self {
        let lab = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["mail", "www"] {
            let tree = lab.path(&format!("tree-{name}"));
            fs::create_dir_all(tree.join("sub")).unwrap();
            for n in 0..40 {
                fs::write(tree.join(format!("sub/{n}")), format!("{name} {n}")).unwrap();
            }
            let copied =
                Command::new("cp").arg("-a").arg(&tree).arg(lab.path(&format!("copy-{name}"))).status();
            assert!(copied.unwrap().success());
            let manifest = lab.path(&format!("{name}.manifest"));
            assert_eq!(lab.program(&["manifest", "create", "-o"], &[&manifest, &tree]).0, 0);
        }
        let at = lab.dir.path().display();
        lab.configure(&format!(
            "[[verify]]\nname = \"mail\"\ncopy = \"{at}/copy-mail\"\nmanifest = \"{at}/mail.manifest\"\nsample = \"50%\"\n\
             every = \"1d\"\nmax_age = \"7d\"\nmetrics = \"{at}/all.prom\"\n\
             [[verify]]\nname = \"www\"\ncopy = \"dir:{at}/copy-www\"\nmanifest = \"{at}/www.manifest\"\nmetrics = \"{at}/all.prom\"\n"
        ));
        lab
    }

    fn configure(&self, text: &str) {
        fs::write(self.path("config.toml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn program(&self, arguments: &[&str], paths: &[&Path]) -> (i32, String) {
        let output =
            Command::new(env!("CARGO_BIN_EXE_safe-upgrade")).args(arguments).args(paths).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    fn scheduled(&self, more: &[&str]) -> (i32, String) {
        let arguments = [&["verify"], more, &["--config"]].concat();
        self.program(&arguments, &[&self.path("config.toml"), Path::new("--state"), &self.path("state")])
    }

    fn metric(&self, wanted: &str) -> String {
        let text = fs::read_to_string(self.path("all.prom")).unwrap();
        let line =
            text.lines().find(|line| line.starts_with(wanted)).unwrap_or_else(|| panic!("{wanted}: {text}"));
        line.rsplit_once(' ').unwrap().1.to_owned()
    }
}

#[test]
fn a_sample_a_day_proves_all_of_it_in_the_end() {
    let lab = Lab::new();
    let (code, text) = lab.scheduled(&["--scheduled"]);
    // Half of the mail is proven, and all of it is to be within seven days: not yet a good result.
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("mail: unknown: ") && text.contains("www: same: 42 entries"), "{text}");
    assert_eq!(lab.metric("safe_upgrade_verify_verdict{name=\"www\",verdict=\"same\"}"), "1");
    assert_eq!(lab.metric("safe_upgrade_verify_last_success_timestamp_seconds{name=\"mail\"}"), "0");
    let half: f64 = lab.metric("safe_upgrade_verify_proven_bytes_ratio{name=\"mail\"}").parse().unwrap();
    assert!((0.3..0.7).contains(&half), "{half}");
    let (code, text) = lab.scheduled(&["--scheduled"]);
    assert_eq!((code, text.as_str()), (0, "Nothing is due.\n"));
    let (code, text) = lab.scheduled(&["--scheduled", "mail", "--json"]);
    assert_eq!(code, 0, "{text}");
    let object: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(object["runs"][0]["outcome"]["verdict"], "same", "{text}");
    assert_eq!(object["runs"][0]["outcome"]["proven"], 1.0, "{text}");
    assert_ne!(lab.metric("safe_upgrade_verify_last_success_timestamp_seconds{name=\"mail\"}"), "0");
}

#[test]
fn damage_is_the_worst_of_all_and_is_counted() {
    let lab = Lab::new();
    fs::write(lab.path("copy-www/sub/7"), "www X").unwrap();
    fs::remove_file(lab.path("copy-www/sub/8")).unwrap();
    let touched = Command::new("touch")
        .arg("-r")
        .arg(lab.path("tree-www/sub/7"))
        .arg(lab.path("copy-www/sub/7"))
        .status();
    assert!(touched.unwrap().success());
    let (code, text) = lab.scheduled(&["--scheduled"]);
    assert_eq!(code, 7, "{text}");
    assert_eq!(lab.metric("safe_upgrade_verify_differences{name=\"www\",class=\"content\"}"), "1");
    assert_eq!(lab.metric("safe_upgrade_verify_differences{name=\"www\",class=\"missing\"}"), "1");
    assert_eq!(lab.metric("safe_upgrade_verify_verdict{name=\"www\",verdict=\"not-same\"}"), "1");
    let kept: Value = serde_json::from_slice(&fs::read(lab.path("state/www.json")).unwrap()).unwrap();
    assert_eq!(kept["outcome"]["counts"]["content"], 1);
    assert_eq!(kept["last_same"], Value::Null);
}

#[test]
fn what_gives_no_answer_is_told_and_due_again_and_stops_no_other() {
    let lab = Lab::new();
    let at = lab.dir.path().display().to_string();
    lab.configure(&format!(
        "[[verify]]\nname = \"gone\"\ncopy = \"{at}/nowhere\"\nagainst = \"{at}/tree-www\"\n\
         [[verify]]\nname = \"unsigned\"\ncopy = \"{at}/copy-www\"\nmanifest = \"{at}/www.manifest\"\nsigners = \"{at}/config.toml\"\n\
         [[verify]]\nname = \"live\"\ncopy = \"{at}/copy-www\"\nagainst = \"{at}/tree-www\"\n"
    ));
    for _ in 0..2 {
        let (code, text) = lab.scheduled(&["--scheduled", "gone", "unsigned", "live"]);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("gone: no answer: ") && text.contains("No such file"), "{text}");
        assert!(text.contains("unsigned: no answer: ") && text.contains("there is no signature"), "{text}");
        assert!(text.contains("live: same: "), "{text}");
    }
    let (code, text) = lab.scheduled(&["--scheduled"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("gone: no answer") && !text.contains("live"), "{text}");
}

#[test]
fn what_is_configured_wrong_is_named_with_its_line() {
    let lab = Lab::new();
    let (code, text) = lab.scheduled(&["--scheduled", "nobody"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("no verification is named \"nobody\""), "{text}");
    lab.configure("[[verify]]\nname = \"x\"\ncopy = \"/a\"\nagainst = \"/b\"\nsample = \"much\"\n");
    let (code, text) = lab.scheduled(&["--scheduled"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("config.toml:5:10: \"much\" is not a sample"), "{text}");
    lab.configure("");
    let (code, text) = lab.scheduled(&["--scheduled"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("has no [[verify]] section"), "{text}");
}
