//! Taking a manifest, against the tools that hash trees. All in one run, so that the ratios hold whatever the machine does.
//!
//! The tree is `BENCH_TREE`, or 2000 files of 4 to 16 KiB made for the purpose. Peers that are not installed are left out.

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use criterion::{Criterion, criterion_group, criterion_main};
use safe_upgrade::backup::{BackupOptions, VerifyOptions, back_up, verify_restored};
use safe_upgrade::manifest::{ScanOptions, scan};
use safe_upgrade::system::exec::find_tool;

/// A tree to read; made once.
struct Tree {
    path: PathBuf,
    _made: Option<tempfile::TempDir>,
}

impl Tree {
    fn new() -> Self {
        if let Some(path) = std::env::var_os("BENCH_TREE") {
            return Self { path: path.into(), _made: None };
        }
        let made = tempfile::tempdir().unwrap();
        for n in 0..2000_usize {
            let directory = made.path().join((n / 100).to_string());
            std::fs::create_dir_all(&directory).unwrap();
            let content: Vec<u8> = (0..4096 + n * 6).map(|at| (at * n) as u8).collect();
            std::fs::write(directory.join(n.to_string()), content).unwrap();
        }
        Self { path: made.path().to_owned(), _made: Some(made) }
    }
}

fn hash_a_tree(criterion: &mut Criterion) {
    let tree = Tree::new();
    let mut group = criterion.benchmark_group("hash a tree");
    group.sample_size(10);
    group.bench_function("manifest create", |bencher| {
        bencher.iter(|| black_box(scan(&tree.path, &ScanOptions::default(), &|_| {}).unwrap().id()));
    });
    for peer in ["b3sum", "sha256sum"] {
        if find_tool(peer).is_ok() {
            group.bench_function(peer, |bencher| bencher.iter(|| by_xargs(&tree.path, peer)));
        }
    }
    group.finish();
}

fn restore_and_compare(criterion: &mut Criterion) {
    if find_tool("rsync").is_err() {
        return;
    }
    let (tree, lab) = (Tree::new(), tempfile::tempdir().unwrap());
    let (store, scratch) = (lab.path().join("store"), lab.path().join("scratch"));
    let backup = back_up(&tree.path, &store, &BackupOptions::default(), &|_| {}).unwrap();
    let mut group = criterion.benchmark_group("restore and compare");
    group.sample_size(10);
    for workers in [1, 2, 4] {
        group.bench_function(format!("{workers} workers"), |bencher| {
            let options = VerifyOptions { workers, ..VerifyOptions::default() };
            let (copy, manifest) = (backup.place.copy(), backup.place.manifest());
            bencher.iter(|| {
                assert!(verify_restored(&copy, &manifest, &scratch, &options, &|_| {}).unwrap().is_same())
            });
        });
    }
    group.finish();
}

/// As a person would do it, with as many processes as cores.
fn by_xargs(tree: &Path, tool: &str) {
    let mut find = Command::new("find")
        .arg(tree)
        .args(["-xdev", "-type", "f", "-print0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let cores = std::thread::available_parallelism().unwrap().to_string();
    let hashed = Command::new("xargs")
        .args(["-0", "-n256", "-P", &cores, tool])
        .stdin(find.stdout.take().unwrap())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(hashed.success() && find.wait().unwrap().success());
}

criterion_group!(benches, hash_a_tree, restore_and_compare);
criterion_main!(benches);
