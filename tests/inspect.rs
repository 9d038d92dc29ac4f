//! The looks at the machine and at own programs, on real systems: this one, real programs of it, and a root that is named.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on has failed")]
#![allow(clippy::print_stderr, reason = "a skipped test says why")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use safe_upgrade::boot::layout;
use safe_upgrade::finding::{COULD_NOT_FIND_OUT, Finding, Severity};
use safe_upgrade::inspect::{self, Circumstances};
use safe_upgrade::libraries::NewRelease;
use safe_upgrade::libraries::{self, Limits, contents};
use safe_upgrade::release::hop::Hop;

fn show(findings: &[Finding]) {
    for finding in findings {
        eprintln!("{:?} {}: {}", finding.severity, finding.id, finding.what);
        for line in &finding.evidence {
            eprintln!("    {line}");
        }
    }
}

fn look(root: &Path) -> Vec<Finding> {
    let hop = Hop::between("bookworm", "trixie").unwrap();
    let boot = layout::read(root);
    let today = jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::now()).date();
    let boot = boot.as_ref().ok();
    let began = Instant::now();
    let found = inspect::look(
        root,
        &Circumstances { hop: Some(&hop), boot, today, will_be_installed: None, growth: None },
    );
    eprintln!("{} in {:?}", root.display(), began.elapsed());
    show(&found);
    found
}

/// Whatever this machine is: everything can be found out, quickly, and every finding says what to do.
#[test]
fn this_machine_can_be_looked_at() {
    let began = Instant::now();
    let found = look(Path::new("/"));
    assert!(began.elapsed() < Duration::from_secs(60));
    for finding in found {
        assert_ne!(finding.id, COULD_NOT_FIND_OUT, "{}", finding.what);
        assert!(!finding.remedy.is_empty() && finding.what.ends_with('.'), "{finding:?}");
    }
}

/// `mmdebstrap` made it, with a kernel, GRUB and an ssh server.
#[test]
fn a_plain_server_has_no_warning() {
    let Some(root) = std::env::var_os("SAFE_UPGRADE_PLAIN_ROOT") else {
        eprintln!("skipped: no root of a plain bookworm server is named by SAFE_UPGRADE_PLAIN_ROOT");
        return;
    };
    let loud: Vec<Finding> =
        look(Path::new(&root)).into_iter().filter(|finding| finding.severity != Severity::Note).collect();
    assert!(loud.is_empty(), "{loud:?}");
}

/// A program of this machine becomes one of somebody's own: what dpkg says about its libraries is the truth to compare with.
#[test]
fn a_real_program_and_an_index_without_its_library() {
    let program = Path::new("/usr/bin/grep");
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("app/bin/grep");
    fs::create_dir_all(copy.parent().unwrap()).unwrap();
    if fs::copy(program, &copy).is_err() || !Path::new("/var/lib/dpkg/info").is_dir() {
        eprintln!("skipped: no /usr/bin/grep of a package here");
        return;
    }
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let trees = [dir.path().to_owned()];
    let facts = libraries::look(Path::new("/"), &trees, Limits::default()).unwrap();
    let needs: Vec<&str> = facts.programs[0].needs.iter().map(|need| need.soname.as_str()).collect();
    assert!(needs.contains(&"libc.so.6") && needs.len() > 1, "{needs:?}");
    let gone = *needs.iter().find(|name| **name != "libc.so.6").unwrap();

    let index = |lines: String| {
        let path = dir.path().join("mirror.invalid_dists_trixie_main_Contents-amd64");
        fs::write(&path, lines).unwrap();
        let found = libraries::find_indexes(dir.path(), "amd64").unwrap();
        assert_eq!(found, [path]);
        contents::search_files(&found, &facts.wanted()).unwrap()
    };
    let line = |name: &str| format!("usr/lib/{}-linux-gnu/{name}   libs/some\n", std::env::consts::ARCH);
    let all: String = needs.iter().map(|name| line(name)).collect();
    assert!(libraries::findings(&facts, &NewRelease::Index(&index(all)), &|_| false).is_empty());

    let without: String = needs.iter().filter(|name| **name != gone).map(|name| line(name)).collect();
    let found = libraries::findings(&facts, &NewRelease::Index(&index(without)), &|_| false);
    show(&found);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].id.as_str(), found[0].severity), ("library-gone", Severity::Inhibitor));
    assert_eq!(found[0].evidence[0], format!("{} needs {gone}", copy.display()));
}

/// The programs of this machine against a real index, streamed in bounded memory and time.
#[test]
fn a_real_index() {
    let Some(index) = std::env::var_os("SAFE_UPGRADE_CONTENTS") else {
        eprintln!(
            "skipped: no index of files (Contents-amd64.gz of trixie's main) is named by SAFE_UPGRADE_CONTENTS"
        );
        return;
    };
    let trees: Vec<PathBuf> = match std::env::var_os("SAFE_UPGRADE_TREES") {
        Some(trees) => std::env::split_paths(&trees).collect(),
        None => libraries::TREES.iter().map(PathBuf::from).collect(),
    };
    let began = Instant::now();
    let facts = libraries::look(Path::new("/"), &trees, Limits::default()).unwrap();
    eprintln!("{} programs in {:?}", facts.programs.len(), began.elapsed());
    let began = Instant::now();
    let provided = contents::search_files(&[index.into()], &facts.wanted()).unwrap();
    eprintln!("{} lines in {:?}", provided.lines, began.elapsed());
    assert!(provided.whole && provided.lines > 1_000_000);
    show(&libraries::findings(&facts, &NewRelease::Index(&provided), &|_| false));
}
