//! `safe-upgrade manifest` and `safe-upgrade verify` as processes: what is typed, what is printed, the exit code.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {} {}", self.out, self.err))
    }
}

fn run(arguments: &[&dyn AsRef<OsStr>]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_safe-upgrade"))
        .args(arguments.iter().map(|argument| argument.as_ref()))
        .output()
        .unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    /// A tree, an exact copy of it, and the tree's manifest.
    fn new() -> Self {
        let lab = Self { dir: tempfile::tempdir().unwrap() };
        let tree = lab.path("tree");
        fs::create_dir_all(tree.join("sub/deep")).unwrap();
        for n in 0..20 {
            fs::write(tree.join(format!("sub/{n}")), format!("content {n}")).unwrap();
        }
        fs::write(tree.join("sub/deep/file"), "deep").unwrap();
        symlink("sub/1", tree.join("link")).unwrap();
        let status = Command::new("cp").arg("-a").arg(&tree).arg(lab.copy()).status().unwrap();
        assert!(status.success());
        let made = run(&[&"manifest", &"create", &tree, &"-o", &lab.manifest()]);
        assert_eq!(made.code, 0, "{}", made.err);
        assert!(made.out.starts_with("25 entries, "), "{}", made.out);
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn copy(&self) -> PathBuf {
        self.path("copy")
    }

    fn manifest(&self) -> PathBuf {
        self.path("tree.manifest")
    }

    fn verify(&self) -> Ran {
        run(&[&"verify", &self.copy(), &"--manifest", &self.manifest()])
    }

    fn verify_json(&self) -> (i32, Value) {
        let ran = run(&[&"verify", &self.copy(), &"--manifest", &self.manifest(), &"--json"]);
        (ran.code, ran.json())
    }
}

/// Changes something and puts the times of the file and its directory back.
fn unseen(path: &Path, change: impl FnOnce()) {
    let parent = path.parent().unwrap();
    let times = [path, parent].map(|path| fs::symlink_metadata(path).unwrap().modified().unwrap());
    change();
    for (path, time) in [path, parent].into_iter().zip(times) {
        if path.exists() && !path.is_symlink() {
            fs::File::open(path).unwrap().set_times(fs::FileTimes::new().set_modified(time)).unwrap();
        }
    }
}

#[test]
fn an_exact_copy_is_the_same() {
    let lab = Lab::new();
    let ran = lab.verify();
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(ran.out.ends_with("same: 25 entries, 194 bytes checked\n"), "{}", ran.out);
    let (code, json) = lab.verify_json();
    assert_eq!((code, &json["verdict"], &json["levels"]["same"]), (0, &"same".into(), &true.into()));
    assert_eq!(json["checked"]["entries"], 25);
}

#[test]
fn each_of_seven_damages_is_named() {
    type Damage = (&'static str, &'static str, fn(&Path));
    let damages: [Damage; 7] = [
        ("content", "sub/3", |path| unseen(path, || fs::write(path, "c0ntent 3").unwrap())),
        ("mode", "sub/3", |path| fs::set_permissions(path, Permissions::from_mode(0o4644)).unwrap()),
        ("owner", "sub/3", |path| chown(path, Some(12345), None).unwrap()),
        ("mtime", "sub/3", |path| {
            let time = fs::metadata(path).unwrap().modified().unwrap() + std::time::Duration::from_nanos(1);
            fs::File::open(path).unwrap().set_times(fs::FileTimes::new().set_modified(time)).unwrap();
        }),
        ("missing", "sub/3", |path| unseen(path, || fs::remove_file(path).unwrap())),
        ("extra", "sub/deep/new", |path| unseen(path.parent().unwrap(), || fs::write(path, "").unwrap())),
        ("link-target", "link", |path| {
            let parent = path.parent().unwrap();
            unseen(parent, || {
                let reference = path.with_file_name("reference");
                let copied = Command::new("cp").arg("-a").arg(path).arg(&reference).status().unwrap();
                assert!(copied.success());
                fs::remove_file(path).unwrap();
                symlink("sub/2", path).unwrap();
                let touched =
                    Command::new("touch").args(["-h", "-r"]).arg(&reference).arg(path).status().unwrap();
                assert!(touched.success());
                fs::remove_file(&reference).unwrap();
            });
        }),
    ];
    for (class, path, damage) in damages {
        if class == "owner" && !rustix::process::geteuid().is_root() {
            println!("skipped: giving a file away needs root");
            continue;
        }
        let lab = Lab::new();
        damage(&lab.copy().join(path));
        let (code, json) = lab.verify_json();
        assert_eq!(code, 7, "{class}: {json}");
        assert_eq!(json["verdict"], "not-same");
        assert_eq!(json["differences_total"], 1, "{class}: {json}");
        assert_eq!(json["differences"][0]["class"], class);
        assert_eq!(json["differences"][0]["path"], path);
        let text = lab.verify();
        assert_eq!(text.code, 7);
        let line = text.out.lines().next().unwrap();
        assert!(line.starts_with(class) && line.contains(path), "{}", text.out);
    }
}

#[test]
fn a_restored_copy_is_compared_and_removed() {
    if !Path::new("/usr/bin/rsync").exists() {
        return println!("skipped: rsync is not installed");
    }
    let lab = Lab::new();
    let scratch = lab.path("scratch");
    let verify = || {
        let (copy, manifest) = (lab.copy(), lab.manifest());
        run(&[&"verify", &copy, &"--manifest", &manifest, &"--restore-to", &scratch, &"--json"])
    };
    let same = verify();
    assert_eq!(same.code, 0, "{}{}", same.out, same.err);
    assert_eq!(same.json()["levels"]["restored"], true);
    fs::write(lab.copy().join("extra"), "").unwrap();
    let other = verify();
    assert_eq!(other.code, 7);
    assert_eq!(other.json()["counts"]["extra"], 1);
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
}

#[test]
fn without_root_owners_are_lost_and_said_to_be() {
    let lab = Lab::new();
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/setpriv").exists() {
        return println!("skipped: becoming another user needs root and setpriv");
    }
    for path in [lab.dir.path().to_owned(), lab.copy(), lab.copy().join("sub")] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    fs::remove_file(lab.manifest()).unwrap();
    assert_eq!(run(&[&"manifest", &"create", &lab.copy(), &"-o", &lab.manifest()]).code, 0);
    assert_eq!(fs::metadata(lab.manifest()).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(lab.manifest(), Permissions::from_mode(0o644)).unwrap();
    fs::create_dir(lab.path("scratch")).unwrap();
    chown(lab.path("scratch"), Some(65534), Some(65534)).unwrap();
    let program = lab.path("safe-upgrade");
    fs::copy(env!("CARGO_BIN_EXE_safe-upgrade"), &program).unwrap();
    let output = Command::new("/usr/bin/setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .arg("verify")
        .arg(lab.copy())
        .arg("--manifest")
        .arg(lab.manifest())
        .arg("--json")
        .arg("--restore-to")
        .arg(lab.path("scratch"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let json: Value = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{text} {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(output.status.code(), Some(8), "{json}");
    assert_eq!(json["verdict"], "same-but-lost");
    assert_eq!(json["counts"], serde_json::json!({ "lost-by-format": 25 }), "{json}");
    assert_eq!(fs::read_dir(lab.path("scratch")).unwrap().count(), 0);
}

#[test]
fn names_cannot_forge_output() {
    let lab = Lab::new();
    let evil = OsStr::from_bytes(b"\x1b[2J\nsame: 1\xff");
    unseen(&lab.copy().join("sub"), || fs::write(lab.copy().join("sub").join(evil), "").unwrap());
    let ran = lab.verify();
    assert_eq!(ran.code, 7);
    assert!(ran.out.contains(r"sub/\x1b[2J\x0asame: 1\xff"), "{}", ran.out);
    assert!(!ran.out.contains('\x1b'));
    let (_, json) = lab.verify_json();
    assert_eq!(json["differences"][0]["path_hex"], "7375622f1b5b324a0a73616d653a2031ff");
}

#[test]
fn what_cannot_be_found_out_is_exit_1() {
    let lab = Lab::new();
    let (copy, manifest) = (lab.copy(), lab.manifest());
    assert_eq!(run(&[&"verify", &lab.path("nowhere"), &"--manifest", &manifest]).code, 1);
    let whole = fs::read(&manifest).unwrap();
    fs::write(&manifest, &whole[..whole.len() - 1]).unwrap();
    let truncated = run(&[&"verify", &copy, &"--manifest", &manifest]);
    assert_eq!((truncated.code, truncated.out.as_str()), (1, ""));
    assert!(truncated.err.contains("truncated"), "{}", truncated.err);
    assert_eq!(run(&[&"manifest", &"show", &manifest]).code, 1);
    assert_eq!(run(&[&"verify", &copy]).code, 2);
}

#[test]
fn what_is_written_inside_what_is_read_is_refused() {
    let lab = Lab::new();
    let (copy, manifest, sub) = (lab.copy(), lab.manifest(), lab.copy().join("sub"));
    for option in ["--scratch", "--restore-to"] {
        let refused = run(&[&"verify", &copy, &"--manifest", &manifest, &option, &sub]);
        assert_eq!((refused.code, refused.out.as_str()), (2, ""));
        let hint = format!("name another directory with {option}");
        assert!(refused.err.contains(&hint), "{}", refused.err);
    }
    assert_eq!(lab.verify().code, 0);
}

#[test]
fn an_empty_copy_is_not_the_same() {
    let lab = Lab::new();
    fs::remove_dir_all(lab.copy()).unwrap();
    fs::create_dir(lab.copy()).unwrap();
    let (code, json) = lab.verify_json();
    assert_eq!(code, 7);
    assert_eq!(json["counts"]["missing"], 24);
}

#[test]
fn create_refuses_to_describe_itself() {
    let lab = Lab::new();
    let (tree, inside) = (lab.path("tree"), lab.path("tree/own.manifest"));
    let refused = run(&[&"manifest", &"create", &tree, &"-o", &inside]);
    assert_eq!(refused.code, 2);
    assert!(!inside.exists());
    let excluded = run(&[&"manifest", &"create", &tree, &"-o", &inside, &"--exclude", &"own.manifest"]);
    assert_eq!(excluded.code, 0, "{}", excluded.err);
    assert_eq!(run(&[&"verify", &tree, &"--manifest", &inside, &"--json"]).json()["counts"]["mtime"], 1);
    assert_eq!(run(&[&"manifest", &"create", &tree, &"-o", &inside, &"--exclude", &"../x"]).code, 2);
}

#[test]
fn two_manifests_are_compared() {
    let lab = Lab::new();
    let other = lab.path("copy.manifest");
    unseen(&lab.copy().join("sub/4"), || fs::write(lab.copy().join("sub/4"), "x").unwrap());
    assert_eq!(run(&[&"manifest", &"create", &lab.copy(), &"-o", &other]).code, 0);
    assert_eq!(run(&[&"manifest", &"diff", &lab.manifest(), &lab.manifest()]).code, 0);
    let ran = run(&[&"manifest", &"diff", &lab.manifest(), &other, &"--json"]);
    assert_eq!(ran.code, 7);
    assert_eq!(ran.json()["counts"], serde_json::json!({ "size": 1 }));
}

#[test]
fn a_manifest_can_be_read_by_people_and_other_tools() {
    let lab = Lab::new();
    let shown = run(&[&"manifest", &"show", &lab.manifest()]);
    assert_eq!(shown.code, 0);
    assert!(shown.out.contains("25 (3 directory, 21 file, 1 symlink)"), "{}", shown.out);
    let json = run(&[&"manifest", &"show", &lab.manifest(), &"--json"]).json();
    assert_eq!(json["entries"], 25);
    assert_eq!(json["id"].as_str().unwrap().len(), 64);
    let lines = run(&[&"manifest", &"export", &lab.manifest(), &"--format", &"jsonl"]).out;
    let entries: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), 25);
    assert_eq!(entries[1]["target"], "sub/1");
    let sums = run(&[&"manifest", &"export", &lab.manifest(), &"--format", &"b3sum"]).out;
    assert_eq!(sums.lines().count(), 21);
    assert!(sums.contains(&format!("{}  sub/deep/file\n", blake3::hash(b"deep"))));
}

/// A btrfs in a file, unmounted when dropped.
struct Btrfs {
    mount: PathBuf,
}

impl Btrfs {
    fn new(lab: &Path) -> Option<Self> {
        let (image, mount) = (lab.join("image"), lab.join("mount"));
        fs::File::create(&image).unwrap().set_len(300 << 20).unwrap();
        fs::create_dir(&mount).unwrap();
        let ran = |program: &str, arguments: &[&dyn AsRef<OsStr>]| {
            let mut command = Command::new(program);
            command.args(arguments.iter().map(|argument| argument.as_ref()));
            command.output().is_ok_and(|output| output.status.success())
        };
        let ready = ran("mkfs.btrfs", &[&"-q", &image]) && ran("mount", &[&"-o", &"loop", &image, &mount]);
        ready.then_some(Self { mount })
    }

    fn subvolume(&self, arguments: &[&dyn AsRef<OsStr>]) {
        let mut command = Command::new("btrfs");
        command.arg("subvolume").args(arguments.iter().map(|argument| argument.as_ref()));
        assert!(command.output().unwrap().status.success());
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.mount).status().unwrap().success());
    }
}

#[test]
fn nested_subvolumes_are_edges_and_their_stubs_are_not_held_against_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let Some(btrfs) = Btrfs::new(dir.path()) else {
        return println!("skipped: a btrfs needs root, mkfs.btrfs and a loop device");
    };
    let [live, snapshot, copy] = ["@", "snapshot", "copy"].map(|name| btrfs.mount.join(name));
    btrfs.subvolume(&[&"create", &live]);
    btrfs.subvolume(&[&"create", &live.join("nested")]);
    fs::write(live.join("nested/inner"), "not ours").unwrap();
    fs::write(live.join("file"), "ours").unwrap();
    btrfs.subvolume(&[&"snapshot", &"-r", &live, &snapshot]);
    let manifests = [&live, &snapshot].map(|tree| {
        let file = dir.path().join(format!("{}.manifest", tree.file_name().unwrap().display()));
        assert_eq!(run(&[&"manifest", &"create", tree, &"-o", &file]).code, 0);
        file
    });
    let edges = manifests.each_ref().map(|file| {
        let lines = run(&[&"manifest", &"export", file, &"--format", &"jsonl"]).out;
        let entries: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(entries.len(), 3, "{lines}");
        entries[2]["edge"].as_str().unwrap().to_owned()
    });
    assert_eq!(edges, ["mount", "stub"]);
    assert_eq!(run(&[&"manifest", &"diff", &manifests[0], &manifests[1]]).code, 0);
    assert!(Command::new("cp").arg("-a").args([&snapshot, &copy]).status().unwrap().success());
    let verified = run(&[&"verify", &copy, &"--manifest", &manifests[1]]);
    assert_eq!(verified.code, 0, "{}", verified.out);
}

#[test]
fn a_key_is_needed_where_one_was_used_and_nowhere_else() {
    let lab = Lab::new();
    let (key, other, keyed) = (lab.path("key"), lab.path("other"), lab.path("keyed"));
    fs::write(&key, "07".repeat(32)).unwrap();
    fs::write(&other, [9; 32]).unwrap();
    let tree = lab.path("tree");
    assert_eq!(run(&[&"manifest", &"create", &tree, &"-o", &keyed, &"--key-file", &key]).code, 0);
    let verify = |manifest: &Path, key: Option<&Path>| match key {
        None => run(&[&"verify", &lab.copy(), &"--manifest", &manifest]),
        Some(key) => run(&[&"verify", &lab.copy(), &"--manifest", &manifest, &"--key-file", &key]),
    };
    assert_eq!(verify(&keyed, Some(&key)).code, 0);
    for (manifest, key, word) in [
        (&keyed, None, "made with a key"),
        (&keyed, Some(&other), "the key is not this manifest's"),
        (&lab.manifest(), Some(&key), "made without a key"),
    ] {
        let ran = verify(manifest, key.map(PathBuf::as_path));
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert!(ran.err.contains(word), "{}", ran.err);
    }
    fs::write(lab.copy().join("sub/3"), "content X").unwrap();
    assert_eq!(verify(&keyed, Some(&key)).code, 7);
    fs::write(&key, "no key").unwrap();
    assert_eq!(verify(&keyed, Some(&key)).code, 2);
}

#[test]
fn a_chain_names_the_link_that_is_broken() {
    let lab = Lab::new();
    let (tree, second, third) = (lab.path("tree"), lab.path("second"), lab.path("third"));
    fs::write(tree.join("sub/3"), "changed").unwrap();
    let create = |output: &Path, previous: &Path| {
        run(&[&"manifest", &"create", &tree, &"-o", &output, &"--previous", &previous])
    };
    assert_eq!(create(&second, &lab.manifest()).code, 0);
    assert_eq!(create(&third, &second).code, 0);
    let chain = run(&[&"manifest", &"chain", &lab.manifest(), &second, &third]);
    assert_eq!((chain.code, chain.out.matches("follows").count()), (0, 2), "{}", chain.out);
    let broken = run(&[&"manifest", &"chain", &lab.manifest(), &third]);
    assert_eq!(broken.code, 7, "{}", broken.out);
    assert!(broken.out.contains("BROKEN: does not follow"), "{}", broken.out);
    let foreign = run(&[&"manifest", &"create", &lab.copy(), &"-o", &third, &"--previous", &second]);
    assert_eq!(foreign.code, 2);
    assert!(foreign.err.contains("not of this tree"), "{}", foreign.err);
}

#[test]
fn a_manifest_on_standard_output_is_the_same_manifest() {
    let lab = Lab::new();
    let output = Command::new(env!("CARGO_BIN_EXE_safe-upgrade"))
        .args(["manifest", "create", "-o", "-"])
        .arg(lab.path("tree"))
        .output()
        .unwrap();
    assert!(output.status.success());
    fs::write(lab.path("piped"), output.stdout).unwrap();
    let diff = run(&[&"manifest", &"diff", &lab.manifest(), &lab.path("piped")]);
    assert_eq!(diff.code, 0, "{} {}", diff.out, diff.err);
}

#[test]
fn a_live_tree_serves_where_there_is_no_manifest() {
    let lab = Lab::new();
    let against = || run(&[&"verify", &lab.copy(), &"--against", &lab.path("tree"), &"--jsonl"]);
    let same = against();
    assert_eq!(same.code, 0, "{} {}", same.out, same.err);
    fs::remove_file(lab.copy().join("sub/3")).unwrap();
    let differs = against();
    assert_eq!(differs.code, 7);
    let lines: Vec<Value> = differs.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["class"] == "missing" && line["path"] == "sub/3"), "{lines:?}");
    assert_eq!(lines.last().unwrap()["verdict"], "not-same");
    let both =
        run(&[&"verify", &lab.copy(), &"--against", &lab.path("tree"), &"--manifest", &lab.manifest()]);
    assert_eq!(both.code, 2);
    assert_eq!(run(&[&"verify", &lab.copy()]).code, 2);
}

#[test]
fn a_loss_that_is_no_fact_is_refused() {
    let lab = Lab::new();
    for (fact, word) in [("colour", "known are mode, owner"), ("content", "cannot be accepted")] {
        let ran = run(&[&"verify", &lab.copy(), &"--manifest", &lab.manifest(), &"--accept-lost", &fact]);
        assert_eq!(ran.code, 2);
        assert!(ran.err.contains(word), "{}", ran.err);
    }
}
