//! Bugs planted on purpose: each is put into a copy of the source, and the tests or the compiler must catch it.
//!
//! `make planted-bugs` runs this; it compiles the crate a dozen times, so the default suite leaves it out.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;

struct Bug {
    name: &'static str,
    file: &'static str,
    good: &'static str,
    bad: &'static str,
}

const BUGS: [Bug; 12] = [
    Bug {
        name: "an interrupted upgrade counts as finished",
        file: "src/machine/step.rs",
        good: "Self::Upgrading { .. } => interrupted(\"upgrading\"),",
        bad: "Self::Upgrading { plan, boot, .. } => Step::PrepareTrial { plan: plan.clone(), boot: boot.clone() },",
    },
    Bug {
        name: "the intent is written after the effect",
        file: "src/driver.rs",
        good: "    host.append(Entry::upgrade_started(&gate, now))?;\n    let judged = host.upgrade(plan, gate).map(|facts| UpgradeEvidence::judge(plan, facts));",
        bad: "    let judged = host.upgrade(plan, gate).map(|facts| UpgradeEvidence::judge(plan, facts));\n    host.append(Entry::upgrade_started(&gate, now))?;",
    },
    Bug {
        name: "a store that has rotted is attested again",
        file: "src/evidence/backup.rs",
        good: "if facts.differing > 0 {",
        bad: "if facts.differing > u64::MAX - 1 {",
    },
    Bug {
        name: "differences of the restored backup are ignored",
        file: "src/evidence/backup.rs",
        good: "if differences > 0 {",
        bad: "if differences > u64::MAX - 1 {",
    },
    Bug {
        name: "an unhealthy trial is committed",
        file: "src/evidence/health.rs",
        good: "if let Some(first) = facts.failed.first() {",
        bad: "if let Some(first) = facts.failed.get(9) {",
    },
    Bug {
        name: "a rollback is proven in the boot that prepared it",
        file: "src/machine/transition.rs",
        good: "if from.as_ref() != Some(boot) =>",
        bad: "if from.as_ref() != Some(boot) || from.is_some() =>",
    },
    Bug {
        name: "a restored root is proven without a reboot",
        file: "src/machine/step.rs",
        good: "            Self::RollbackRebooting { plan, from, .. } if from.as_ref() == Some(now) => {",
        bad: "            Self::RollbackRebooting { plan, volume, from, .. } if from.as_ref() == Some(now) && !volume.to_string().is_empty() => {\n                return Step::ProveRollback { plan: plan.clone(), volume: volume.clone() };\n            }\n            Self::RollbackRebooting { plan, from, .. } if from.as_ref() == Some(now) => {",
    },
    Bug {
        name: "a refusal forgets to disarm",
        file: "src/machine/transition.rs",
        good: "(plan, Undo::Disarm, Some(snapshot))",
        bad: "(plan, Undo::ReleaseSnapshots, Some(snapshot))",
    },
    Bug {
        name: "a snapshot that was taken but not yet recorded is forgotten",
        file: "src/machine/transition.rs",
        good: "(plan, Undo::ReleaseSnapshots, None)",
        bad: "(plan, Undo::Undrain, None)",
    },
    Bug {
        name: "a machine that fell back goes on with its trial",
        file: "src/machine/step.rs",
        good: "            _ => Step::StartRollback { why: Why::FellBack },",
        bad: "            Self::Rebooting { plan, .. } => Step::EnterTrial { plan: plan.clone() },\n            Self::Trial { plan, .. } => Step::CheckHealth { plan: plan.clone() },\n            _ => Step::StartRollback { why: Why::FellBack },",
    },
    Bug {
        name: "a torn tail stays in the journal",
        file: "src/journal/store.rs",
        good: "if reading.torn_bytes > 0 {",
        bad: "if reading.torn_bytes > usize::MAX - 1 {",
    },
    Bug {
        name: "a digest does not depend on the line before",
        file: "src/journal/frame.rs",
        good: ".update(&self.0)",
        bad: ".update(&[])",
    },
];

fn copy_tree(from: &Path, to: &Path) {
    for name in [
        "src",
        "tests",
        "docs",
        "benches",
        "fuzz",
        "packaging",
        "Cargo.toml",
        "Cargo.lock",
        "build.rs",
        "clippy.toml",
        "README.md",
    ] {
        let status = Command::new("cp").arg("-a").arg(from.join(name)).arg(to).status().expect("cp runs");
        assert!(status.success(), "{name}");
    }
}

/// Whether the tests pass on a tree; otherwise what they said.
fn passes(tree: &Path, target: &Path) -> Result<(), String> {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--quiet", "--lib", "--test", "crash", "--test", "machine"])
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", target)
        .output()
        .expect("cargo runs");
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
#[ignore = "compiles the crate a dozen times: make planted-bugs"]
fn every_planted_bug_is_caught() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let target = root.join("target/planted");
    // Always the same place: cargo takes an unchanged file at another place for one that it has compiled already.
    let tree = root.join("target/planted-tree");
    if tree.exists() {
        std::fs::remove_dir_all(&tree).expect("an earlier copy can go");
    }
    std::fs::create_dir_all(&tree).expect("a directory");
    copy_tree(&root, &tree);
    passes(&tree, &target).unwrap_or_else(|said| panic!("the tests do not even pass without a bug:\n{said}"));
    let mut escaped = Vec::new();
    // One alone, by a part of its name.
    let wanted = std::env::var("PLANTED").unwrap_or_default();
    for bug in BUGS.iter().filter(|bug| bug.name.contains(&wanted)) {
        let path = tree.join(bug.file);
        let text = std::fs::read_to_string(&path).expect("the file is there");
        assert_eq!(
            text.matches(bug.good).count(),
            1,
            "{}: the place to plant it is not there once",
            bug.name
        );
        std::fs::write(&path, text.replace(bug.good, bug.bad)).expect("the copy is writable");
        let caught = passes(&tree, &target).is_err();
        println!("{}: {}", bug.name, if caught { "caught" } else { "ESCAPED" });
        if !caught {
            escaped.push(bug.name);
        }
        std::fs::write(&path, text).expect("the copy is writable");
    }
    assert!(escaped.is_empty(), "{escaped:?}");
}
