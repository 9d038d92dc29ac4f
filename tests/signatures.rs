//! Signing and checking manifests as processes, with the ssh-keygen of this machine.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn program(arguments: &[&str], paths: &[&Path]) -> (i32, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_safe-upgrade")).args(arguments).args(paths).output().unwrap();
    let Output { status, stdout, stderr } = output;
    (status.code().unwrap(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Option<Self> {
        if !Path::new("/usr/bin/ssh-keygen").exists() {
            eprintln!("skipped: ssh-keygen is not installed");
            return None;
        }
        let lab = Self { dir: tempfile::tempdir().unwrap() };
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(lab.path("key"))
            .status();
        assert!(made.unwrap().success());
        let key = fs::read_to_string(lab.path("key.pub")).unwrap();
        fs::write(lab.path("signers"), format!("backup@db1 {key}")).unwrap();
        fs::create_dir(lab.path("tree")).unwrap();
        fs::write(lab.path("tree/f"), "content").unwrap();
        let (code, text) =
            program(&["manifest", "create"], &[&lab.path("tree"), Path::new("-o"), &lab.path("m")]);
        assert_eq!(code, 0, "{text}");
        Some(lab)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn sign(&self) -> (i32, String) {
        program(&["manifest", "sign"], &[&self.path("m"), Path::new("--key"), &self.path("key")])
    }

    fn check(&self, more: &[&str]) -> (i32, String) {
        let arguments = [&["manifest", "check-signature"], more].concat();
        program(&arguments, &[&self.path("m"), Path::new("--signers"), &self.path("signers")])
    }
}

#[test]
fn a_signed_manifest_is_good_here_and_for_ssh_keygen_alone() {
    let Some(lab) = Lab::new() else { return };
    let (code, text) = lab.check(&[]);
    assert_eq!(code, 7, "{text}");
    assert!(text.starts_with("not good: there is no signature "), "{text}");
    let (code, text) = lab.sign();
    assert_eq!(code, 0, "{text}");
    let (code, text) = lab.check(&[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("is signed by backup@db1 with ED25519 key SHA256:"), "{text}");
    let alone = Command::new("ssh-keygen")
        .args(["-Y", "verify", "-I", "backup@db1", "-n", "safe-upgrade-manifest", "-f"])
        .arg(lab.path("signers"))
        .arg("-s")
        .arg(lab.path("m.sig"))
        .stdin(fs::File::open(lab.path("m")).unwrap())
        .status();
    assert!(alone.unwrap().success());
}

#[test]
fn another_manifest_or_another_signer_is_not_good() {
    let Some(lab) = Lab::new() else { return };
    assert_eq!(lab.sign().0, 0);
    let (code, text) = lab.check(&["--json", "--identity", "root@db1"]);
    assert_eq!(code, 7, "{text}");
    let object: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&object["good"], &object["why"]), (&false.into(), &"other-identity".into()));
    fs::write(lab.path("tree/f"), "changed").unwrap();
    program(&["manifest", "create"], &[&lab.path("tree"), Path::new("-o"), &lab.path("m")]);
    let (code, text) = lab.check(&["--json"]);
    assert_eq!(code, 7, "{text}");
    assert!(text.contains("\"why\":\"changed\""), "{text}");
}

#[test]
fn what_is_no_manifest_is_not_signed() {
    let Some(lab) = Lab::new() else { return };
    fs::write(lab.path("m"), "something else").unwrap();
    let (code, text) = lab.sign();
    assert_eq!(code, 1, "{text}");
    assert!(!lab.path("m.sig").exists());
}

#[test]
fn verify_believes_no_manifest_that_nobody_signed() {
    let Some(lab) = Lab::new() else { return };
    let verify = || {
        let (tree, manifest, signers) = (lab.path("tree"), lab.path("m"), lab.path("signers"));
        program(&["verify"], &[&tree, Path::new("--manifest"), &manifest, Path::new("--signers"), &signers])
    };
    let (code, text) = verify();
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("nothing was compared: there is no signature"), "{text}");
    assert_eq!(lab.sign().0, 0);
    let (code, text) = verify();
    assert_eq!(code, 0, "{text}");
}
