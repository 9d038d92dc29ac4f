//! The style that a person would otherwise have to watch: sizes, layers, words, and who may touch what.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;

/// Which module may use which, top down; `lib.rs` says it in words.
const LAYERS: &[(&str, &[&str])] = &[
    ("main", &["cli", "error", "system"]),
    (
        "cli",
        &[
            "backup",
            "boot",
            "compat",
            "conffiles",
            "config",
            "driver",
            "error",
            "evidence",
            "finding",
            "health",
            "journal",
            "machine",
            "manifest",
            "phases",
            "places",
            "progress",
            "rehearsal",
            "release",
            "scheduled",
            "snapshot",
            "sources",
            "system",
            "verify",
        ],
    ),
    ("sim", &["driver", "evidence", "finding", "machine"]),
    ("driver", &["error", "evidence", "machine"]),
    ("libraries", &["finding", "sources", "system"]),
    ("inspect", &["boot", "finding", "health", "release", "snapshot", "system", "version"]),
    (
        "phases",
        &[
            "backup",
            "boot",
            "compat",
            "conffiles",
            "config",
            "driver",
            "error",
            "evidence",
            "finding",
            "health",
            "inspect",
            "journal",
            "libraries",
            "machine",
            "manifest",
            "places",
            "progress",
            "rehearsal",
            "release",
            "snapshot",
            "system",
        ],
    ),
    ("compat", &["error", "finding", "health", "release", "system", "version"]),
    ("journal", &["machine", "system", "evidence", "sim"]),
    ("machine", &["evidence"]),
    ("evidence", &["finding"]),
    ("finding", &[]),
    ("version", &[]),
    ("conffiles", &["finding", "manifest", "sources", "system", "version"]),
    ("config", &["conffiles", "error", "evidence", "health", "manifest", "sources", "system", "verify"]),
    ("places", &["evidence"]),
    ("progress", &[]),
    (
        "rehearsal",
        &[
            "backup",
            "boot",
            "compat",
            "conffiles",
            "error",
            "health",
            "manifest",
            "release",
            "snapshot",
            "system",
        ],
    ),
    ("backup", &["manifest", "sources", "system"]),
    ("sources", &["manifest", "system"]),
    ("scheduled", &["config", "manifest", "system"]),
    ("verify", &["backup", "manifest", "sources", "system"]),
    ("manifest", &["system"]),
    ("boot", &["manifest", "snapshot", "system"]),
    ("snapshot", &["finding", "system"]),
    ("release", &["conffiles", "error", "finding", "system"]),
    ("health", &["error", "system"]),
    ("error", &[]),
    ("system", &[]),
];

/// Pure modules name no file system, process, clock or environment.
const PURE: [&str; 3] = ["machine", "evidence", "finding"];
const IMPURE: [&str; 8] =
    ["std::fs", "std::process", "std::env", "std::time", "std::net", "rustix", "jiff", "crate::system"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("the directory is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn sources() -> BTreeMap<PathBuf, String> {
    let is_tests =
        |path: &PathBuf| path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("tests"));
    rust_files(&root().join("src"))
        .into_iter()
        .filter(|path| !is_tests(path))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("sources are UTF-8");
            (path.strip_prefix(root()).expect("below the root").to_owned(), text)
        })
        .collect()
}

/// The module that a file belongs to: the first name below `src`.
fn module(path: &Path) -> String {
    let first = path.components().nth(1).expect("src/...").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The part that ships: unit tests stand at the end.
fn shipped(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

fn complain(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn files_are_small() {
    let mut complaints = Vec::new();
    let tests = rust_files(&root().join("tests"));
    let all = rust_files(&root().join("src")).into_iter().chain(tests);
    for path in all {
        let lines = fs::read_to_string(&path).expect("UTF-8").lines().count();
        if lines > FILE_LINES {
            complaints.push(format!("{}: {lines} lines, at most {FILE_LINES}", path.display()));
        }
    }
    complain(&complaints);
}

#[test]
fn functions_fit_a_screen() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        let mut open: Option<(usize, usize)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_fn = line.trim_start().starts_with("fn ") || line.contains(" fn ");
            if open.is_none()
                && is_fn
                && line.trim_end().ends_with('{')
                && !line.trim_start().starts_with("//")
            {
                open = Some((number, indent));
            }
            if let Some((start, depth)) = open
                && number > start
                && indent == depth
                && line.trim() == "}"
            {
                if number - start + 1 > FUNCTION_LINES {
                    complaints.push(format!(
                        "{}:{}: {} lines",
                        path.display(),
                        start + 1,
                        number - start + 1
                    ));
                }
                open = None;
            }
        }
    }
    complain(&complaints);
}

#[test]
fn layers_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        let module = module(&path);
        if module == "lib" {
            continue;
        }
        let may = allowed.get(module.as_str()).unwrap_or_else(|| panic!("{module} is in no layer"));
        for (number, line) in shipped(&text).lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for used in line.split("crate::").skip(1) {
                let name: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if name != module && name != "sim" && !name.is_empty() && !may.contains(&name.as_str()) {
                    complaints.push(format!("{}:{}: {module} uses {name}", path.display(), number + 1));
                }
            }
        }
    }
    complain(&complaints);
}

#[test]
fn pure_modules_touch_nothing() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        if !PURE.contains(&module(&path).as_str()) {
            continue;
        }
        for (number, line) in shipped(&text).lines().enumerate() {
            if let Some(name) =
                IMPURE.iter().find(|name| line.contains(**name) && !line.trim_start().starts_with("//"))
            {
                complaints.push(format!("{}:{}: names {name}", path.display(), number + 1));
            }
        }
    }
    complain(&complaints);
}

/// Only `system` spawns; whoever must watch a living child gets its command from there.
#[test]
fn only_system_makes_commands() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        if module(&path) != "system" && shipped(&text).contains("Command::new(") {
            complaints.push(format!("{}: makes a command", path.display()));
        }
    }
    complain(&complaints);
}

/// They name a shell without starting one: a stub that dpkg's scripts start, and the shell of an initial RAM disk.
const NAME_A_SHELL: [&str; 2] = ["boot/frozen.rs", "boot/deadman.rs"];

/// No shell, no sleeping, no printing outside `cli` and `main`.
#[test]
fn nothing_sleeps_or_shells_out() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        for (number, line) in shipped(&text).lines().enumerate() {
            let forbidden = [
                "thread::sleep",
                "\"sh\"",
                "\"bash\"",
                "/bin/sh",
                "println!",
                "eprintln!",
                "todo!(",
                "unimplemented!(",
            ];
            let allowed =
                |name: &str| name.contains("sh") && NAME_A_SHELL.iter().any(|file| path.ends_with(file));
            if let Some(name) =
                forbidden.iter().find(|name| line.contains(**name) && !line.trim_start().starts_with("//"))
                && !allowed(name)
            {
                complaints.push(format!("{}:{}: {name}", path.display(), number + 1));
            }
        }
    }
    complain(&complaints);
}

#[test]
fn names_say_something() {
    let banned = ["manager", "helper", "util", "handler", "handle", "process", "data", "info", "imp"];
    let mut complaints = Vec::new();
    for (path, _) in sources() {
        let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if stem.split('_').any(|word| banned.contains(&word)) {
            complaints.push(format!("{}: a name that says nothing", path.display()));
        }
    }
    complain(&complaints);
}

/// Observations become evidence in one place each: a second constructor would be a second judge.
#[test]
fn evidence_is_made_by_its_judges_only() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        let shipped = shipped(&text);
        if module(&path) != "evidence" && shipped.contains("Evidence {") {
            complaints.push(format!("{}: makes evidence", path.display()));
        }
        if module(&path) == "evidence" && shipped.contains("Evidence") {
            for derive in shipped.split("#[derive(").skip(1).filter(|part| {
                part.split_once(")]").is_some_and(|(_, after)| {
                    after.trim_start().starts_with("pub struct")
                        && after.trim_start().lines().next().unwrap_or("").contains("Evidence")
                })
            }) {
                let list = derive.split(')').next().unwrap_or("");
                if list.contains("Clone") || list.contains("Serialize") {
                    complaints.push(format!("{}: evidence derives {list}", path.display()));
                }
            }
        }
    }
    complain(&complaints);
}
