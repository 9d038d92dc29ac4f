//! What `manifest export` prints is taken by the programs that it is for: mtree, bsdtar's reader, b3sum.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    /// A tree with every kind of entry that this user can make, and names that mean something to other programs.
    fn new() -> Self {
        let lab = Self { dir: tempfile::tempdir().unwrap() };
        let tree = lab.tree();
        fs::create_dir_all(tree.join("sub dir/deep")).unwrap();
        for (n, name) in
            ["-", "a*b?[c]", "hash#", "back\\slash", " lead", "trail ", "grün", "cr\rin", "=x", "two\nlines"]
                .iter()
                .enumerate()
        {
            fs::write(tree.join(name), format!("content {n}")).unwrap();
            fs::write(tree.join("sub dir").join(name), format!("{n} below")).unwrap();
        }
        symlink("../a b\\#", tree.join("sub dir/link")).unwrap();
        fs::set_permissions(tree.join("-"), fs::Permissions::from_mode(0o4751)).unwrap();
        let old = fs::File::options().write(true).open(tree.join("grün")).unwrap();
        old.set_modified(std::time::UNIX_EPOCH - std::time::Duration::new(86_400, 7)).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            tree.join("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o640),
            0,
        )
        .unwrap();
        // Only root may; without it the test says less, not something wrong.
        let null = rustix::fs::makedev(1, 3);
        let kind = rustix::fs::FileType::CharacterDevice;
        let _ = rustix::fs::mknodat(rustix::fs::CWD, tree.join("null"), kind, 0o600.into(), null);
        lab
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The manifest, exported.
    fn export(&self, format: &str) -> (i32, Vec<u8>, String) {
        let manifest = self.file("manifest");
        let made = program(&[
            OsStr::new("manifest"),
            "create".as_ref(),
            self.tree().as_ref(),
            "-o".as_ref(),
            manifest.as_ref(),
        ]);
        assert_eq!(made.0, 0, "{}", made.2);
        program(&[
            "manifest".as_ref(),
            "export".as_ref(),
            "--format".as_ref(),
            OsStr::new(format),
            manifest.as_ref(),
        ])
    }
}

fn program(arguments: &[&OsStr]) -> (i32, Vec<u8>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_safe-upgrade")).args(arguments).output().unwrap();
    (output.status.code().unwrap(), output.stdout, String::from_utf8(output.stderr).unwrap())
}

fn installed(tool: &str) -> bool {
    let there = ["/usr/bin", "/usr/sbin"].iter().any(|directory| Path::new(directory).join(tool).exists());
    if !there {
        eprintln!("skipped: {tool} is not installed");
    }
    there
}

#[test]
fn mtree_finds_the_tree_as_it_was_and_each_change() {
    if !installed("mtree") {
        return;
    }
    let lab = Lab::new();
    fs::write(lab.tree().join(OsStr::from_bytes(b"\xff\xfe")), "bytes").unwrap();
    let (code, spec, error) = lab.export("mtree");
    assert_eq!(code, 0, "{error}");
    fs::write(lab.file("spec"), spec).unwrap();
    let mtree = || {
        let output =
            Command::new("mtree").arg("-f").arg(lab.file("spec")).arg("-p").arg(lab.tree()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    assert_eq!(mtree(), (0, String::new()));
    let grown = lab.tree().join("sub dir/=x");
    fs::write(&grown, "longer than it was").unwrap();
    fs::remove_file(lab.tree().join("sub dir/link")).unwrap();
    symlink("elsewhere", lab.tree().join("sub dir/link")).unwrap();
    fs::set_permissions(lab.tree().join("-"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(lab.tree().join("a*b?[c]")).unwrap();
    let (code, text) = mtree();
    assert_eq!(code, 2, "{text}");
    for found in ["size (7, 18)", "permissions (04751, 0755)", "link ref", "missing: ./a"] {
        assert!(text.contains(found), "{found:?} is not in {text}");
    }
}

#[test]
fn bsdtar_reads_the_specification() {
    if !installed("bsdtar") {
        return;
    }
    let lab = Lab::new();
    let (_, spec, _) = lab.export("mtree");
    fs::write(lab.file("spec"), spec).unwrap();
    let output =
        Command::new("bsdtar").arg("-tf").arg(lab.file("spec")).current_dir(lab.tree()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("./sub dir/a*b?[c]"), "{output:?}");
}

#[test]
fn b3sum_checks_every_file() {
    if !installed("b3sum") {
        return;
    }
    let lab = Lab::new();
    fs::write(lab.tree().join("cr at the end\r"), "").unwrap();
    let (code, list, error) = lab.export("b3sum");
    assert_eq!(code, 0, "{error}");
    // b3sum 1.2 does not know the escape of a carriage return; newer ones do.
    let list: Vec<u8> = list
        .split_inclusive(|&byte| byte == b'\n')
        .filter(|line| !line.ends_with(b"\\r\n"))
        .flatten()
        .copied()
        .collect();
    fs::write(lab.file("list"), &list).unwrap();
    let b3sum = || {
        let output =
            Command::new("b3sum").arg("--check").arg(lab.file("list")).current_dir(lab.tree()).output();
        let output = output.unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).matches(": OK").count())
    };
    assert_eq!(b3sum(), (true, 20));
    fs::write(lab.tree().join("two\nlines"), "Content 9").unwrap();
    assert_eq!(b3sum(), (false, 19));
}

#[test]
fn names_that_b3sum_cannot_check_are_counted_and_not_silently_left_out() {
    let lab = Lab::new();
    fs::write(lab.tree().join(OsStr::from_bytes(b"\xff\xfe")), "bytes").unwrap();
    let (code, list, error) = lab.export("b3sum");
    assert_eq!(code, 1);
    assert!(error.contains("1 names are not UTF-8"), "{error}");
    assert!(String::from_utf8(list).unwrap().contains("./-\n"));
}

#[test]
fn json_lines_are_one_object_for_each_entry() {
    let lab = Lab::new();
    let (code, lines, error) = lab.export("jsonl");
    assert_eq!(code, 0, "{error}");
    let objects: Vec<serde_json::Value> =
        String::from_utf8(lines).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find = |path: &str| objects.iter().find(|object| object["path"] == path).unwrap();
    assert_eq!(find("sub dir/link")["target"], "../a b\\#");
    assert_eq!(find("grün")["mtime_nanoseconds"], 999_999_993);
    assert_eq!(find("fifo")["type"], "fifo");
    assert_eq!(find("-")["mode"], "4751");
}
