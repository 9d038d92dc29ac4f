//! `verify` of archives and repositories against what a person would do instead: ratios of medians out of one run, warm.
//!
//! `BENCH_FILES` (20 000) files of 1 to 30 KB and eight of 12 MB; `BENCH_ROUNDS` (5) rounds in turns. Peers that are not installed are
//! left out.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use safe_upgrade::system::exec::find_tool;

const PROGRAM: &str = env!("CARGO_BIN_EXE_safe-upgrade");
const PASSWORD: &str = "bench";

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Text that compresses about as text does, from a fixed seed.
fn words(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let mut text = Vec::with_capacity(length + 10);
    while text.len() < length {
        // Two thousand words, each always the same letters.
        let (word, size) = (next() % 2000, 3 + next() % 6);
        text.extend((0..size).map(|at| b'a' + ((word * 31 + at * 7) % 26) as u8));
        text.push(b' ');
    }
    text.truncate(length);
    text
}

fn make_tree(tree: &Path) {
    let text = words(8 << 20);
    for file in 0..number("BENCH_FILES", 20_000) {
        let directory = tree.join((file / 100).to_string());
        fs::create_dir_all(&directory).unwrap();
        let size = 1000 + file * 7919 % 29_000;
        let at = file * 104_729 % (text.len() - size);
        fs::write(directory.join(file.to_string()), &text[at..at + size]).unwrap();
    }
    for file in 0..8_usize {
        let noise: Vec<u8> = blake3::hash(&[file as u8]).as_bytes().repeat(1 << 17);
        fs::write(tree.join(format!("large{file}")), [&text[..], &noise[..]].concat()).unwrap();
    }
}

fn run(command: &mut Command) -> f64 {
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    began.elapsed().as_secs_f64()
}

/// Prints both medians and their ratio.
fn in_turns(what: &str, peer: &str, mut theirs: impl FnMut() -> f64, mut ours: impl FnMut() -> f64) {
    let rounds = number("BENCH_ROUNDS", 5);
    let (mut l, mut r): (Vec<f64>, Vec<f64>) = (0..rounds).map(|_| (theirs(), ours())).unzip();
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let (theirs, ours) = (median(&mut l), median(&mut r));
    println!(
        "{what}: {:.2} of {peer} (verify {ours:.2} s, {peer} {theirs:.2} s; median of {rounds})",
        ours / theirs
    );
}

fn verify(copy: &str, lab: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("verify").arg(copy).arg("--manifest").arg(lab.join("manifest"));
    command.args(["--accept-lost", "flags"]).arg("--scratch").arg(lab);
    command
}

fn tar_and_zstd(lab: &Path, tree: &Path) {
    if find_tool("tar").is_err() || find_tool("zstd").is_err() {
        return println!("skipped: tar.zst: tar and zstd are not both installed");
    }
    let archive = lab.join("tree.tar.zst");
    run(Command::new("tar")
        .args(["--format=pax", "--zstd", "-C"])
        .arg(tree)
        .arg("-cf")
        .arg(&archive)
        .arg("."));
    in_turns(
        "tar.zst",
        "zstd -dc",
        || run(Command::new("zstd").arg("-dc").arg(&archive)),
        || run(&mut verify(&format!("tar:{}", archive.display()), lab)),
    );
}

fn restic(lab: &Path, tree: &Path) {
    if find_tool("restic").is_err() {
        return println!("skipped: restic is not installed");
    }
    let (repository, out, password) = (lab.join("restic"), lab.join("out"), lab.join("password"));
    fs::write(&password, PASSWORD).unwrap();
    let restic = |words: &[&str]| {
        let mut command = Command::new("restic");
        command.arg("--repo").arg(&repository).arg("--password-file").arg(&password).args(words);
        command.env("RESTIC_CACHE_DIR", lab.join("cache"));
        command
    };
    run(&mut restic(&["init"]));
    run(restic(&["backup"]).arg(tree));
    in_turns(
        "restic",
        "restic restore --verify",
        || {
            let took = run(restic(&["restore", "latest", "--verify", "--target"]).arg(&out));
            fs::remove_dir_all(&out).unwrap();
            took
        },
        || {
            run(verify(&format!("restic:{}", repository.display()), lab)
                .arg("--password-file")
                .arg(&password))
        },
    );
}

fn main() {
    let lab = tempfile::tempdir_in("/var/tmp").unwrap();
    let tree: PathBuf = lab.path().join("tree");
    make_tree(&tree);
    run(Command::new(PROGRAM).args(["manifest", "create", "-o"]).arg(lab.path().join("manifest")).arg(&tree));
    tar_and_zstd(lab.path(), &tree);
    restic(lab.path(), &tree);
}
