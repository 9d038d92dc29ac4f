//! Copies that real rclone made, on a plain directory and on an encrypted remote, read back without being copied.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Option<Self> {
        if !Path::new("/usr/bin/rclone").exists() {
            eprintln!("skipped: rclone is not installed");
            return None;
        }
        let lab = Self { dir: tempfile::tempdir().unwrap() };
        let tree = lab.path("tree");
        fs::create_dir_all(tree.join("sub dir/deep")).unwrap();
        fs::create_dir(tree.join("empty")).unwrap();
        // Control characters, rclone's own pictures of them (not its quote: rclone 1.60 cannot copy that), and what means something in paths elsewhere.
        for (n, name) in
            ["plain", "two\nlines", "a␊b", "back\\slash", "a:b?*\"<>|%#", "grün", " lead"].iter().enumerate()
        {
            fs::write(tree.join(name), format!("content {n}")).unwrap();
        }
        fs::write(tree.join("none"), "").unwrap();
        fs::write(tree.join("sub dir/big"), (0..3_u32 << 20).map(|n| (n / 251) as u8).collect::<Vec<_>>())
            .unwrap();
        symlink("plain", tree.join("sub dir/deep/link")).unwrap();
        fs::set_permissions(tree.join("plain"), fs::Permissions::from_mode(0o640)).unwrap();
        let old = fs::File::options().write(true).open(tree.join("plain")).unwrap();
        old.set_modified(std::time::UNIX_EPOCH - std::time::Duration::from_millis(1_500)).unwrap();
        let obscured = lab.rclone(&["obscure", "secret"]);
        let config = format!(
            "[store]\ntype = alias\nremote = {0}/store\n[crypt]\ntype = crypt\nremote = {0}/crypt\npassword = {1}\n",
            lab.dir.path().display(),
            obscured.trim()
        );
        fs::write(lab.path("config"), config).unwrap();
        let made = lab.program(&["manifest", "create", "-o"], &[&lab.path("m"), &tree]);
        assert_eq!(made.0, 0, "{}", made.1);
        Some(lab)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn rclone(&self, arguments: &[&str]) -> String {
        let output =
            Command::new("rclone").arg("--config").arg(self.path("config")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn copy_to(&self, remote: &str, options: &[&str]) {
        let tree = self.path("tree").display().to_string();
        self.rclone(&[&["copy", "--create-empty-src-dirs", &tree, remote][..], options].concat());
    }

    fn program(&self, arguments: &[&str], paths: &[&Path]) -> (i32, String) {
        let output =
            Command::new(env!("CARGO_BIN_EXE_safe-upgrade")).args(arguments).args(paths).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    fn verify(&self, remote: &str, more: &[&str]) -> (i32, String) {
        let name = format!("rclone:{remote}");
        let arguments = [&["verify", &name][..], more, &["--engine-config"]].concat();
        self.program(&arguments, &[&self.path("config"), Path::new("--manifest"), &self.path("m")])
    }
}

/// What a remote of files can never hold, accepted.
const ACCEPT: [&str; 6] = [
    "--accept-lost=mode",
    "--accept-lost=owner",
    "--accept-lost=symlinks",
    "--accept-lost=mtime",
    "--accept-lost=xattrs",
    "--accept-lost=flags",
];

#[test]
fn a_good_copy_is_good_but_for_what_such_a_copy_cannot_hold() {
    let Some(lab) = Lab::new() else { return };
    for remote in ["store:", "crypt:"] {
        lab.copy_to(remote, &[]);
        let (code, text) = lab.verify(remote, &[]);
        assert_eq!(code, 8, "{text}");
        assert!(text.contains("lost-by-format  sub dir/deep/link"), "{text}");
        let (code, text) = lab.verify(remote, &ACCEPT);
        assert_eq!(code, 0, "{text}");
    }
}

#[test]
fn links_and_modes_count_when_the_copy_was_made_to_keep_them() {
    let Some(lab) = Lab::new() else { return };
    lab.copy_to("crypt:", &["--links", "--metadata"]);
    let made = ["--engine-option=--links", "--engine-option=--metadata", "--accept-lost=mtime"];
    let (code, text) = lab.verify("crypt:", &made);
    assert!(!text.contains("link  (expected"), "{text}");
    assert!(!text.contains("plain"), "{text}");
    // Modes of directories are what remains.
    assert_eq!(code, 8, "{text}");
    fs::set_permissions(lab.path("tree/plain"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(lab.path("tree/sub dir/deep/link")).unwrap();
    symlink("elsewhere", lab.path("tree/sub dir/deep/link")).unwrap();
    lab.program(&["manifest", "create", "-o"], &[&lab.path("m"), &lab.path("tree")]);
    let (code, text) = lab.verify("crypt:", &made);
    assert_eq!(code, 7, "{text}");
    assert!(text.contains("link-target     sub dir/deep/link"), "{text}");
    assert!(text.contains("mode            plain"), "{text}");
}

#[test]
fn every_change_is_named() {
    let Some(lab) = Lab::new() else { return };
    lab.copy_to("store:", &[]);
    let big = lab.path("store/sub dir/big");
    flip(&big, 2 << 20);
    fs::remove_file(lab.path("store/two\nlines")).unwrap();
    fs::remove_dir(lab.path("store/empty")).unwrap();
    fs::write(lab.path("store/new"), "").unwrap();
    let (code, text) = lab.verify("store:", &ACCEPT);
    assert_eq!(code, 7, "{text}");
    for found in [
        "content         sub dir/big",
        "missing         two\\x0alines",
        "missing         empty",
        "extra           new",
    ] {
        assert!(text.contains(found), "{found:?} is not in {text}");
    }
    assert!(text.contains("1 content, 2 missing, 1 extra"), "{text}");
}

/// Damage to an encrypted file is found by rclone itself, which then cannot read it.
#[test]
fn what_the_remote_cannot_read_is_unreadable_and_the_rest_is_checked() {
    let Some(lab) = Lab::new() else { return };
    lab.copy_to("crypt:", &[]);
    let largest = largest_file(&lab.path("crypt"));
    flip(&largest, 1 << 20);
    let (code, text) = lab.verify("crypt:", &ACCEPT);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("unreadable      sub dir/big"), "{text}");
    assert!(text.contains("rclone could not read 1 files"), "{text}");
    assert!(text.contains("unknown: 1 unreadable"), "{text}");
}

#[test]
fn no_remote_no_configuration_and_no_directory_are_no_answers() {
    let Some(lab) = Lab::new() else { return };
    for (remote, why) in [("nowhere:", "didn't find section"), ("store:no/such", "directory not found")] {
        let (code, text) = lab.verify(remote, &[]);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains(why), "{text}");
    }
    fs::remove_file(lab.path("config")).unwrap();
    let (code, text) = lab.verify("store:", &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("failed to read the configuration of rclone"), "{text}");
}

/// Changes one bit, and no time.
fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    let time = fs::metadata(file).unwrap().modified().unwrap();
    fs::write(file, bytes).unwrap();
    fs::File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
}

fn largest_file(directory: &Path) -> PathBuf {
    let files = walkdir::WalkDir::new(directory).into_iter().map(Result::unwrap);
    files
        .max_by_key(|entry| if entry.file_type().is_file() { entry.metadata().unwrap().len() } else { 0 })
        .unwrap()
        .into_path()
}
