//! The real prediction for this machine, by its own apt sources, as apt's unprivileged user. It needs root, apt, Debian's old release
//! and its mirror; without one of them it says so and returns. `SAFE_UPGRADE_COMPAT_SHOW=1` prints everything that was found.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it does, and fails by panicking"
)]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use safe_upgrade::compat;
use safe_upgrade::error::chain;
use safe_upgrade::finding::{COULD_NOT_FIND_OUT, Finding};
use safe_upgrade::release::hop::Hop;
use safe_upgrade::release::prediction::Foretold;
use safe_upgrade::release::sources::plan_sources;
use safe_upgrade::system::identity::os_release;

/// What must stay as it is: size and times of everything below.
const PLACES: [&str; 5] = ["/var/lib/apt", "/var/lib/dpkg", "/etc/apt", "/var/cache/apt", "/var/log/apt"];

#[test]
fn the_packages_of_this_machine_without_touching_it() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, to look at other programs and to become apt's user");
        return;
    }
    let hop = match os_release(Path::new("/")).map(|release| Hop::next(&release)) {
        Ok(Ok(hop)) => hop,
        other => {
            println!("skipped: this machine has no next release that is known: {other:?}");
            return;
        }
    };
    let plan = match plan_sources(Path::new("/"), &hop) {
        Ok(plan) => plan,
        Err(error) => {
            println!("skipped: the apt sources do not name the release: {}", chain(&error));
            return;
        }
    };
    let kept = tempfile::tempdir().unwrap();
    let (before, left_before) = (stock(), left_behind());
    let mut seconds = Vec::new();
    for _ in 0..2 {
        let began = Instant::now();
        let ahead = match compat::look(&hop, &plan, Some(kept.path()), &|_| {}) {
            Ok(ahead) => ahead,
            Err(error) => {
                let why = chain(&error);
                assert!(why.contains("could not be reached"), "{why}");
                println!("skipped: no package mirror: {why}");
                return;
            }
        };
        seconds.push(began.elapsed().as_secs_f64());
        let mode = std::fs::metadata(ahead.private.path()).unwrap();
        assert!(mode.uid() == 0 && mode.mode() & 0o777 == 0o711, "{mode:?}");
        look_closer(&ahead, &hop);
    }
    println!("first {:.1} s, second {:.1} s", seconds[0], seconds[1]);
    assert_eq!(stock(), before, "looking ahead touched the system");
    assert_eq!(left_behind(), left_before, "something was left behind");
}

fn look_closer(ahead: &compat::Ahead, hop: &Hop) {
    let prediction = &ahead.facts.prediction;
    assert!(prediction.reaches(hop), "{:?}", prediction.kept_back);
    assert!(prediction.upgraded.len() > 50 && prediction.download_bytes > 10_000_000);
    assert!(prediction.upgraded.iter().any(|change| change.origin.starts_with("Debian:")));
    let before = compat::installed(Path::new("/")).unwrap();
    let foretold = Foretold { prediction: prediction.clone(), before: before.clone() };
    let compared = foretold.compare(before);
    let changes = prediction.upgraded.len() + prediction.new.len() + prediction.removed.len();
    assert_eq!(
        (compared.foretold, compared.came_true, compared.deviations.len()),
        (changes as u64, 0, changes),
        "nothing has happened yet"
    );
    let findings = compat::findings(&ahead.facts, hop);
    assert!(!findings.iter().any(|one| one.id == "target-not-reached"));
    for one in &findings {
        assert!(!one.what.is_empty() && !one.remedy.is_empty(), "{one:?}");
        assert!(one.id == COULD_NOT_FIND_OUT || !one.evidence.is_empty(), "{one:?}");
    }
    if std::env::var_os("SAFE_UPGRADE_COMPAT_SHOW").is_some() {
        show(ahead, &findings);
    }
}

fn show(ahead: &compat::Ahead, findings: &[Finding]) {
    let prediction = &ahead.facts.prediction;
    println!(
        "{} upgraded, {} new, {} removed, {} kept back, {} bytes, disk {:?}",
        prediction.upgraded.len(),
        prediction.new.len(),
        prediction.removed.len(),
        prediction.kept_back.len(),
        prediction.download_bytes,
        prediction.disk_bytes
    );
    for one in findings {
        println!("{:?} {}: {}\n    remedy: {}", one.severity, one.id, one.what, one.remedy);
        for line in one.evidence.iter().take(12) {
            println!("    - {line}");
        }
    }
}

fn stock() -> BTreeMap<PathBuf, (u64, i64, i64, i64)> {
    PLACES
        .iter()
        .flat_map(|place| walkdir::WalkDir::new(place).into_iter().flatten())
        .map(|entry| {
            let facts = entry.metadata().unwrap();
            (entry.path().to_owned(), (facts.size(), facts.mtime(), facts.mtime_nsec(), facts.ctime()))
        })
        .collect()
}

fn left_behind() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/var/tmp").unwrap().flatten().map(|entry| entry.path());
    entries.filter(|path| path.to_string_lossy().contains("safe-upgrade-apt-")).collect()
}
