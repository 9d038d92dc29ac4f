//! Real copies by real tools: a copy that was just made is the same, and one change is named as exactly that.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod trees;

use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use safe_upgrade::manifest::verdict::{Class, Meaning};
use safe_upgrade::manifest::{Report, Verdict};
use safe_upgrade::sources::{Input, Source};
use safe_upgrade::system::exec::find_tool;
use safe_upgrade::verify::{Against, Request, verify};
use trees::Change;

/// A tool that makes copies.
struct Copier {
    name: &'static str,
    tools: &'static [&'static str],
    /// Copies the first into the second, which is an empty directory; says how the copy is named.
    copy: fn(&Path, &Path) -> Source,
    /// What such a copy cannot hold, of the trees that are made here.
    loses: &'static [&'static str],
}

const COPIERS: [Copier; 3] = [
    Copier { name: "cp", tools: &["cp"], copy: by_cp, loses: &[] },
    Copier { name: "rsync", tools: &["rsync"], copy: by_rsync, loses: &[] },
    Copier { name: "tar", tools: &["tar"], copy: by_tar, loses: &["sockets"] },
];

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn by_cp(tree: &Path, to: &Path) -> Source {
    run(Command::new("cp").args(["-a", "--sparse=always"]).arg(tree).arg(to.join("copy")));
    Source::Path(to.join("copy"))
}

fn by_rsync(tree: &Path, to: &Path) -> Source {
    let mut from = tree.as_os_str().to_owned();
    from.push("/");
    // rsync 3.5.0 takes permissions out of the access control list of a sticky directory; a second pass mends it.
    for _ in 0..2 {
        run(Command::new("rsync").args(["-aHAXS", "--modify-window=-1"]).arg(&from).arg(to.join("copy")));
    }
    Source::Path(to.join("copy"))
}

fn by_tar(tree: &Path, to: &Path) -> Source {
    let archive = to.join("copy.tar.zst");
    let options =
        ["--format=pax", "--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--zstd", "--warning=none"];
    run(Command::new("tar").args(options).arg("-C").arg(tree).arg("-cf").arg(&archive).arg("."));
    Source::Tar(Input::File(archive))
}

fn compared(copy: Source, tree: &Path) -> Report {
    verify(&Request::new(copy, Against::Tree(tree.to_owned())), &|_| {}).unwrap()
}

fn usable(copier: &Copier) -> bool {
    if !trees::is_root() {
        println!("skipped: {}: owners and devices need root", copier.name);
        return false;
    }
    match copier.tools.iter().find(|tool| find_tool(tool).is_err()) {
        Some(tool) => {
            println!("skipped: {}: {tool} is not installed", copier.name);
            false
        }
        None => true,
    }
}

#[test]
fn any_tree_is_the_same_in_a_copy_that_was_just_made() {
    for copier in COPIERS.iter().filter(|copier| usable(copier)) {
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) };
        proptest!(config, |(things in trees::things())| {
            let lab = tempfile::tempdir_in("/var/tmp").unwrap();
            let tree = lab.path().join("tree");
            trees::make(&tree, &things);
            std::fs::create_dir(lab.path().join("to")).unwrap();
            let report = compared((copier.copy)(&tree, &lab.path().join("to")), &tree);
            let lost: Vec<&str> = report.lost().keys().copied().collect();
            let known = lost.iter().all(|fact| copier.loses.contains(fact));
            prop_assert!(known, "{} loses {lost:?}", copier.name);
            let wanted = if lost.is_empty() { Verdict::Same } else { Verdict::SameButLost };
            prop_assert_eq!(report.verdict(), wanted, "{}: {:?}", copier.name, report.differences());
        });
    }
}

#[test]
fn one_change_is_named_and_nothing_else() {
    for copier in COPIERS.iter().filter(|copier| usable(copier)) {
        let lab = tempfile::tempdir_in("/var/tmp").unwrap();
        let original = lab.path().join("original");
        trees::standard(&original);
        let to = lab.path().join("to");
        std::fs::create_dir(&to).unwrap();
        let copy = (copier.copy)(&original, &to);
        for change in Change::ALL {
            let tree = fresh(lab.path(), &original);
            let path = change.make(&tree);
            let report = compared(copy.clone(), &tree);
            let damage: Vec<(Class, String)> = report
                .differences()
                .iter()
                .filter(|difference| difference.class.meaning() == Meaning::Damage)
                .map(|difference| (difference.class, String::from_utf8_lossy(&difference.path).into_owned()))
                .collect();
            assert_eq!(damage, [(change.class(), path.to_owned())], "{} {change:?}", copier.name);
        }
    }
}

/// The tree as it was before any change.
fn fresh(lab: &Path, original: &Path) -> PathBuf {
    let tree = lab.join("tree");
    if tree.exists() {
        std::fs::remove_dir_all(&tree).unwrap();
    }
    run(Command::new("cp").arg("-a").arg(original).arg(&tree));
    tree
}
