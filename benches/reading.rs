//! How fast a tree becomes a manifest, against the tools that hash or read trees. Everything in one run and in turns, so that the
//! ratios hold whatever else the machine does; medians of [`rounds`]. `docs/performance.md` says how to repeat it.
//!
//! | variable | what | default |
//! |---|---|---|
//! | `BENCH_FILES` | small files, 4 to 16 KiB each | 10 000 |
//! | `BENCH_LARGE` | MiB of each of four large files | 128 |
//! | `BENCH_ROUNDS` | rounds | 5 |
//! | `BENCH_COLD` | `1`: also cold, on a filesystem of its own that is mounted anew each time; needs root | off |

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rayon::iter::{ParallelBridge, ParallelIterator};
use safe_upgrade::manifest::ScanOptions;
use safe_upgrade::manifest::scan::{describe, read_without_hashing};
use safe_upgrade::system::exec::find_tool;

fn main() {
    // `cargo test --benches` calls it too.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let lab = Lab::new();
    println!("{} small files, 4 large files of {} MiB, {} rounds", files(), large(), rounds());
    compare("small files, warm", &lab, small_cases(), || {});
    compare("large files, warm", &lab, large_cases(), || {});
    if number("BENCH_COLD", 0) == 1 {
        match Cold::new(&lab) {
            Some(cold) => {
                compare("small files, cold", &cold.lab, small_cases(), || cold.mount_anew());
                compare("large files, cold", &cold.lab, large_cases(), || cold.mount_anew());
            }
            None => println!("skipped: cold reading needs root, mkfs.ext4 and loop devices"),
        }
    }
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn files() -> usize {
    number("BENCH_FILES", 10_000)
}

fn large() -> usize {
    number("BENCH_LARGE", 128)
}

fn rounds() -> usize {
    number("BENCH_ROUNDS", 5)
}

/// Two trees, and b3sum's list of each.
struct Lab {
    top: PathBuf,
    lists: PathBuf,
    _made: Option<tempfile::TempDir>,
}

impl Lab {
    fn new() -> Self {
        // Not in /tmp, which may be memory.
        let made = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (top, lists) = (made.path().join("tree"), made.path().join("lists"));
        std::fs::create_dir(&lists).unwrap();
        fill(&top);
        let lab = Self { top, lists, _made: Some(made) };
        if find_tool("b3sum").is_ok() {
            for tree in ["small", "large"] {
                let list = File::create(lab.list(tree)).unwrap();
                run(shell(&lab.tree(tree), "find . -type f -print0 | xargs -0 b3sum").stdout(list));
            }
        }
        lab
    }

    fn tree(&self, name: &str) -> PathBuf {
        self.top.join(name)
    }

    fn list(&self, name: &str) -> PathBuf {
        self.lists.join(name)
    }
}

/// Content that does not compress, the same in each run.
fn fill(top: &Path) {
    let mut noise = vec![0; 1 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    for number in 0..files() {
        let directory = top.join(format!("small/{}/{}", number / 1000, number / 100 % 10));
        if number % 100 == 0 {
            std::fs::create_dir_all(&directory).unwrap();
        }
        let (from, length) = (number * 7919 % (1 << 19), 4096 + number * 104_729 % 12_288);
        std::fs::write(directory.join(format!("file-{number}")), &noise[from..from + length]).unwrap();
    }
    std::fs::create_dir_all(top.join("large")).unwrap();
    for number in 0..4_u8 {
        let mut file = File::create(top.join(format!("large/{number}"))).unwrap();
        for part in 0..large() {
            noise[0] = number ^ part as u8;
            file.write_all(&noise).unwrap();
        }
    }
}

type Case = (&'static str, fn(&Lab));

fn small_cases() -> Vec<Case> {
    let mut cases: Vec<Case> = vec![
        ("manifest", |lab| ours(&lab.tree("small"))),
        ("manifest, read only", |lab| {
            read_without_hashing(&lab.tree("small"), &ScanOptions::default()).unwrap();
        }),
    ];
    cases.push(("walkdir and rayon", |lab| walkdir_and_rayon(&lab.tree("small"))));
    if find_tool("b3sum").is_ok() {
        cases.push(("b3sum --check", |lab| check(lab, "small")));
        cases.push(("xargs -P b3sum", |lab| xargs(&lab.tree("small"), "b3sum")));
    }
    if find_tool("hashdeep").is_ok() {
        cases.push(("hashdeep -r", |lab| run(&mut shell(&lab.tree("small"), "hashdeep -c sha256 -r ."))));
    }
    cases.push(("xargs -P sha256sum", |lab| xargs(&lab.tree("small"), "sha256sum")));
    // tar does not read anything when it writes to /dev/null.
    cases.push(("tar | cat", |lab| run(&mut shell(&lab.tree("small"), "tar -cf - . | cat"))));
    cases
}

fn large_cases() -> Vec<Case> {
    let mut cases: Vec<Case> = vec![("manifest", |lab| ours(&lab.tree("large")))];
    if find_tool("b3sum").is_ok() {
        cases.push(("b3sum", |lab| run(&mut shell(&lab.tree("large"), "b3sum *"))));
    }
    cases.push(("cat", |lab| run(&mut shell(&lab.tree("large"), "cat * | cat"))));
    cases
}

fn ours(tree: &Path) {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    describe(tree, &ScanOptions::default(), scratch, None, io::sink(), &|_| {}).unwrap();
}

/// What one would write first: paths from one thread, files by all cores; content and stat only, and nothing is sorted.
fn walkdir_and_rayon(tree: &Path) {
    walkdir::WalkDir::new(tree).into_iter().par_bridge().for_each(|item| {
        let item = item.unwrap();
        item.metadata().unwrap();
        if item.file_type().is_file() {
            let file = File::open(item.path()).unwrap();
            std::hint::black_box(blake3::Hasher::new().update_reader(file).unwrap().finalize());
        }
    });
}

fn check(lab: &Lab, tree: &str) {
    let list = lab.list(tree);
    run(Command::new("b3sum").args(["--check", "--quiet"]).arg(list).current_dir(lab.tree(tree)));
}

/// As a person would do it, with as many processes as cores.
fn xargs(tree: &Path, tool: &str) {
    let cores = std::thread::available_parallelism().unwrap();
    let words = format!("find . -type f -print0 | xargs -0 -n256 -P{cores} {tool}");
    run(&mut shell(tree, &words));
}

fn shell(directory: &Path, words: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", words]).current_dir(directory).stdout(Stdio::null());
    command
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// Runs the cases in turns and prints how long each took, as a multiple of the first.
fn compare(title: &str, lab: &Lab, cases: Vec<Case>, before: impl Fn()) {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); cases.len()];
    for round in 0..=rounds() {
        for ((_, case), times) in cases.iter().zip(&mut times) {
            before();
            let begun = Instant::now();
            case(lab);
            // The first warms up.
            if round > 0 {
                times.push(begun.elapsed());
            }
        }
    }
    println!("\n{title}");
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times).as_secs_f64()).collect();
    for ((name, _), median) in cases.iter().zip(&medians) {
        println!("  {name:<22} {:>9.1} ms   {:>6.2}", median * 1000.0, median / medians[0]);
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The same trees on a filesystem of their own, behind a loop device that does not use the page cache.
struct Cold {
    lab: Lab,
    device: String,
    _image: tempfile::TempDir,
}

impl Cold {
    fn new(warm: &Lab) -> Option<Self> {
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (image, mounted) = (place.path().join("image"), place.path().join("mounted"));
        std::fs::create_dir(&mounted).unwrap();
        let bytes = (files() as u64 * 20_480 + large() as u64 * (4 << 20)) * 5 / 4 + (64 << 20);
        File::create(&image).unwrap().set_len(bytes).unwrap();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-i", "8192", "-d"])
            .args([&warm.top, &image])
            .status()
            .is_ok_and(|status| status.success());
        let losetup =
            Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(&image).output();
        let losetup = losetup.ok().filter(|output| made && output.status.success())?;
        let device = String::from_utf8(losetup.stdout).unwrap().trim().to_owned();
        let lab = Lab { top: mounted, lists: warm.lists.clone(), _made: None };
        run(Command::new("mount").args(["-o", "noatime", &device]).arg(&lab.top));
        Some(Self { lab, device, _image: place })
    }

    fn mount_anew(&self) {
        run(Command::new("umount").arg(&self.lab.top));
        run(Command::new("mount").args(["-o", "noatime", &self.device]).arg(&self.lab.top));
    }
}

impl Drop for Cold {
    fn drop(&mut self) {
        // On the way out, perhaps of a panic: what fails here is told by the commands themselves.
        let _ = Command::new("umount").arg(&self.lab.top).status();
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}
