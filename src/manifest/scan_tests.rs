//! Trees that hold everything, walked.

use super::super::entry::{Edge, Kind, Status, file_name, parent};
use super::super::facts::{Facts, Found};
use super::super::hashing::Content;
use super::super::verdict::Report;
use super::super::{attest, compare, single};
use super::*;
use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("d/deep/er")).unwrap();
    for n in 0..100 {
        std::fs::write(at(&format!("d/deep/{n}")), n.to_string()).unwrap();
    }
    std::fs::write(at("z"), b"zz").unwrap();
    std::fs::hard_link(at("z"), at("d/z2")).unwrap();
    std::fs::hard_link(at("d/deep/1"), at("alias")).unwrap();
    symlink("/nowhere\n", at("link")).unwrap();
    symlink(".", at("d/loop")).unwrap();
    std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    dir
}

fn of(tree: &Path) -> Manifest {
    scan(tree, &ScanOptions::default(), &|_| {}).unwrap()
}

#[test]
fn sees_every_kind_and_opens_no_pipe() {
    let dir = tree();
    let manifest = of(dir.path());
    let entry = |path: &str| manifest.entries.iter().find(|e| e.path == path.as_bytes()).unwrap();
    assert_eq!(manifest.entries.len(), 1 + 3 + 100 + 3 + 2 + 2);
    assert_eq!(entry("link").kind, Kind::Symlink { target: b"/nowhere\n".to_vec() });
    assert_eq!(entry("socket").kind, Kind::Socket);
    assert_eq!((&entry("fifo").kind, entry("fifo").mode), (&Kind::Fifo, 0o600));
    assert_eq!(entry("z").kind, Kind::file(Content::of(b"zz")));
    assert_eq!(entry("alias").link_group, Some(1));
    assert_eq!(entry("d/deep/1").link_group, Some(1));
    assert_eq!((entry("z").link_group, entry("d/z2").link_group), (Some(2), Some(2)));
    assert_eq!(entry("d/deep/2").link_group, None);
    assert!(manifest.entries.iter().all(|e| e.status == Status::Stable));
}

#[test]
fn the_id_depends_on_the_tree_and_not_on_the_threads() {
    let dir = tree();
    let one = ScanOptions { threads: NonZeroUsize::new(1), ..ScanOptions::default() };
    let id = scan(dir.path(), &one, &|_| {}).unwrap().id();
    assert_eq!(of(dir.path()).id(), id);
    std::fs::set_permissions(dir.path().join("d"), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_ne!(of(dir.path()).id(), id);
}

#[test]
fn excluded_trees_are_not_entered() {
    let dir = tree();
    let excludes = Excludes::parse(&["d/deep", "**/z*"]).unwrap();
    let manifest = scan(dir.path(), &ScanOptions { excludes, ..ScanOptions::default() }, &|_| {}).unwrap();
    let paths: Vec<_> = manifest.entries.iter().map(|e| show_path(&e.path)).collect();
    assert_eq!(paths, ["", "alias", "d", "d/loop", "fifo", "link", "socket"]);
    assert_eq!(manifest.header.excludes, [b"d/deep".to_vec(), b"**/z*".to_vec()]);
}

#[test]
fn what_has_not_changed_is_not_read_again_unless_it_is_too_young_to_tell() {
    let dir = tree();
    let options = ScanOptions::default();
    let mut first = scan_again(dir.path(), &options, None, &|_| {}).unwrap();
    let truth = first.manifest.id();
    let place = first.manifest.entries.iter().position(|e| e.path == b"d/deep/2").unwrap();
    let forged = Kind::file(Content { hash: [9; 32], ..Content::of(b"x") });
    first.manifest.entries[place].kind = forged.clone();
    let again = |first: &Scan| scan_again(dir.path(), &options, Some(first), &|_| {}).unwrap().manifest;
    assert_eq!(again(&first).id(), truth, "young files are read");
    first.manifest.header.started.seconds += 100;
    assert_eq!(again(&first).entries[place].kind, forged, "settled files are not");
    std::fs::write(dir.path().join("d/deep/2"), b"2").unwrap();
    assert_ne!(again(&first).entries[place].kind, forged, "changed files are");
}

#[test]
fn a_tree_that_is_not_there_is_an_error() {
    assert!(matches!(
        scan(Path::new("/no/such"), &ScanOptions::default(), &|_| {}),
        Err(ScanError::Tree { .. })
    ));
    assert!(scan(Path::new("/etc/passwd"), &ScanOptions::default(), &|_| {}).is_err());
}

#[test]
fn another_filesystem_is_recorded_and_not_entered() {
    let manifest = scan(Path::new("/dev"), &ScanOptions::default(), &|_| {}).unwrap();
    let Some(shm) = manifest.entries.iter().find(|e| e.path == b"shm") else {
        return println!("skipped: there is no /dev/shm");
    };
    assert_eq!(shm.kind, Kind::Directory { edge: Edge::Mount });
    assert!(manifest.entries.iter().any(|e| matches!(e.kind, Kind::CharDevice(_))));
    assert!(!manifest.entries.iter().any(|e| e.path.starts_with(b"shm/")));
}

#[test]
fn deeper_than_a_path_can_name() {
    use rustix::fs::{CWD, Mode, OFlags};
    let dir = tempfile::tempdir().unwrap();
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(CWD, dir.path(), flags, Mode::empty()).unwrap();
    let name = "n".repeat(200);
    for _ in 0..40 {
        rustix::fs::mkdirat(&at, &name, Mode::from_raw_mode(0o700)).unwrap();
        at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap();
    }
    let manifest = of(dir.path());
    assert_eq!(manifest.entries.len(), 41);
    assert_eq!(manifest.entries[40].path.len(), 40 * 201 - 1);
}

#[test]
fn a_sample_is_seeded_and_sees_damage() {
    let dir = tree();
    let manifest = of(dir.path());
    let ask = |seed, count| {
        let entries = manifest.entries.iter().cloned().map(Ok);
        attest::attest_sample(dir.path(), entries, seed, count).unwrap()
    };
    let report: Report = ask(1, 10);
    assert!(report.is_same());
    assert_eq!(report.entries, 10);
    assert!(!ask(1, 0).is_same());
    std::fs::write(dir.path().join("d/deep/7"), b"X").unwrap();
    std::fs::remove_file(dir.path().join("d/deep/9")).unwrap();
    let all = ask(1, 1000);
    let classes: Vec<_> = all.counts().map(|(class, _)| class.name()).collect();
    assert_eq!(classes, ["content", "mtime", "missing"]);
    assert_eq!(ask(2, 5), ask(2, 5));
}

#[test]
fn a_copy_of_the_tree_compares_equal_to_itself() {
    let dir = tree();
    let (left, right) = (of(dir.path()), of(dir.path()));
    let mut report = Report::default();
    compare::compare(
        left.entries.iter().map(Ok),
        right.entries.iter().map(|entry| Ok((entry, Facts::ALL))),
        &compare::Rules::default(),
        &mut report,
    )
    .unwrap();
    assert!(report.is_same());
    assert_eq!(report.entries, left.summary.entries);
}

fn show_path(path: &[u8]) -> String {
    crate::system::show::bytes(path)
}

#[test]
fn a_gathered_tree_is_the_scanned_tree() {
    let dir = tree();
    let excludes = Excludes::parse(&["d/deep/5*", "socket"]).unwrap();
    let options = ScanOptions { excludes, ..ScanOptions::default() };
    let scanned = scan(dir.path(), &options, &|_| {}).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let gathering = gather(dir.path(), &options, scratch.path(), &|_| {}).unwrap();
    assert_eq!(gathering.entries, scanned.summary.entries);
    assert_eq!((gathering.unstable, gathering.unreadable), (0, 0));
    assert_eq!(gathering.header.tree, scanned.header.tree);
    assert_eq!(gathering.trailer.left_out_total, 12);
    assert_eq!(gathering.trailer.left_out.len(), 12);
    assert_eq!(gathering.trailer.left_out[0], b"d/deep/5");
    let mut sorted = gathering.sorted;
    let found: Vec<Found> = sorted.by_ref().map(Result::unwrap).collect();
    assert!(found.iter().all(|found| found.carries == Facts::ALL));
    // Who reads a file without being allowed to keep its access time moves it.
    let without_atime = |entry: &Entry| {
        let mut entry = entry.clone();
        entry.noted.as_mut().unwrap().atime = Mtime::default();
        entry
    };
    let found: Vec<Entry> = found.iter().map(|found| without_atime(&found.entry)).collect();
    assert_eq!(found, scanned.entries.iter().map(without_atime).collect::<Vec<_>>());
    assert_eq!(sorted.repeated(), 0);
}

#[test]
fn a_described_tree_has_the_id_of_the_scanned_one() {
    let dir = tree();
    let (scratch, mut file) = (tempfile::tempdir().unwrap(), Vec::new());
    let options = ScanOptions { hashing: Hashing::keyed(&[5; 32]), tidy: true, ..ScanOptions::default() };
    let previous = Some(scan(dir.path(), &ScanOptions::default(), &|_| {}).unwrap().id());
    let told = std::sync::Mutex::new(Progress::default());
    let progress = |now| *told.lock().unwrap() = now;
    let described = describe(dir.path(), &options, scratch.path(), previous, &mut file, &progress).unwrap();
    let reader = super::super::Reader::new(&file[..], Path::new("memory"), &options.hashing).unwrap();
    let manifest = reader.into_manifest().unwrap();
    assert_eq!(manifest.summary, described.summary);
    assert_eq!(manifest.header.previous, previous);
    assert_eq!(Some(manifest.summary.entries), Some(told.lock().unwrap().entries));
    assert_eq!(told.lock().unwrap().bytes, manifest.summary.bytes);
    let user = rustix::process::geteuid().as_raw();
    assert!(manifest.entries.iter().all(|entry| entry.uid == user));
    assert!(manifest.trailer.users.len() <= 1);
}

#[test]
fn without_content_everything_else_is_there() {
    let dir = tree();
    let options = ScanOptions { metadata_only: true, ..ScanOptions::default() };
    let scratch = tempfile::tempdir().unwrap();
    let gathering = gather(dir.path(), &options, scratch.path(), &|_| {}).unwrap();
    assert_eq!(gathering.bytes, 0);
    let whole = of(dir.path());
    let found: Vec<Found> = gathering.sorted.map(Result::unwrap).collect();
    let mut report = Report::default();
    let rules = compare::Rules { metadata_only: true, ..compare::Rules::default() };
    compare::compare(whole.entries.iter().map(Ok), found.iter().cloned().map(Ok), &rules, &mut report)
        .unwrap();
    assert_eq!(report.differences(), []);
    assert_eq!(report.entries, whole.summary.entries);
    assert!(found.iter().all(|found| !found.carries.has(Facts::CONTENT)));
}

#[test]
fn attributes_and_flags_are_part_of_it_and_move_the_id() {
    let dir = tree();
    let (file, at) = (std::fs::File::open(dir.path().join("z")).unwrap(), |name: &str| dir.path().join(name));
    let before = of(dir.path());
    let set = |path: &Path, name: &str| {
        rustix::fs::lsetxattr(path, name, b"value", rustix::fs::XattrFlags::empty())
    };
    if set(&at("d"), "user.on-a-directory").is_err() {
        return println!("skipped: no extended attributes in the temporary directory");
    }
    let link = set(&at("link"), "trusted.on-a-link").is_ok();
    if !link {
        println!("skipped: attributes of links need root");
    }
    let flagged = rustix::fs::ioctl_setflags(&file, rustix::fs::IFlags::NODUMP).is_ok();
    let after = of(dir.path());
    assert_ne!(before.id(), after.id());
    let entry = |path: &str| after.entries.iter().find(|e| e.path == path.as_bytes()).unwrap();
    assert_eq!(entry("d").xattrs, [super::super::xattr::Xattr::new("user.on-a-directory", b"value")]);
    assert_eq!(entry("link").xattrs.len(), usize::from(link));
    if flagged {
        assert_eq!(entry("z").flags, Some(0x40));
        assert_eq!(entry("d/z2").flags, Some(0x40));
    }
    assert_eq!(entry("z").noted.unwrap().links, 2);
}

#[test]
fn a_large_file_is_shared_and_a_sparse_one_keeps_its_holes() {
    let dir = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..40 << 20).map(|n: u32| (n / 3 % 255) as u8).collect();
    std::fs::write(dir.path().join("large"), &large).unwrap();
    let sparse = std::fs::File::create(dir.path().join("sparse")).unwrap();
    sparse.set_len(100 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 50 << 20).unwrap();
    let manifest = of(dir.path());
    assert_eq!(manifest.entries[1].kind, Kind::file(Content::of(&large)));
    let Kind::File { extents: Some(extents), blocks, .. } = &manifest.entries[2].kind else {
        panic!("{:?}", manifest.entries[2].kind)
    };
    assert_eq!((extents.len(), blocks.len()), (1, 100));
}

#[test]
fn one_file_is_read_again_and_nothing_else_is() {
    let dir = tree();
    let reread = |path: &[u8]| -> Result<Content, Errno> {
        let top = single::open_top(dir.path())?;
        let parent = single::descend(top.as_fd(), parent(path).ok_or(Errno::ISDIR)?)?;
        let name = CString::new(file_name(path)).map_err(|_| Errno::INVAL)?;
        let read = single::read(parent.as_fd(), &name, &Hashing::plain())?;
        Some(read.content).filter(|_| read.stable).ok_or(Errno::STALE)
    };
    assert_eq!(reread(b"d/deep/7"), Ok(Content::of(b"7")));
    assert_eq!(reread(b"link"), Err(Errno::LOOP));
    assert_eq!(reread(b"d/loop/z2"), Err(Errno::NOTDIR));
    assert_eq!(reread(b"fifo"), Err(Errno::STALE));
    assert_eq!(reread(b"none"), Err(Errno::NOENT));
}

#[test]
fn directories_are_opened_again_when_too_many_are_open() {
    let dir = tree();
    let options = ScanOptions::default();
    let ids: Vec<_> = [0, 1, 1000]
        .map(|most_open| {
            let order = Order { most_open, ..Order::new(dir.path(), &options, Reading::All { known: None }) };
            let mut paths = Vec::new();
            walk::walk(&order, |haul| {
                assert!(haul.nodes.iter().all(|node| node.entry.status == Status::Stable));
                paths.extend(haul.nodes.into_iter().map(|node| (node.entry.path, node.entry.kind)));
                Ok(())
            })
            .unwrap();
            paths.sort_by(|l, r| path_order(&l.0, &r.0));
            paths
        })
        .into();
    assert_eq!(ids[0], ids[2]);
    assert_eq!(ids[1], ids[2]);
    assert_eq!(ids[0].len(), 111);
}

#[test]
fn a_tree_in_motion_makes_a_manifest_all_the_same() {
    let dir = tree();
    let (at, over) =
        (|name: String| dir.path().join("d").join(name), std::sync::atomic::AtomicBool::new(false));
    let busy = || {
        let mut n = 0_u32;
        while !over.load(std::sync::atomic::Ordering::Relaxed) {
            n += 1;
            let (one, other) = (at(format!("moving-{}", n % 7)), at(format!("moving-{}", n % 5)));
            // Whatever cannot be done with what is there by now is not done.
            let _ = match n % 6 {
                0 => std::fs::write(one, n.to_string()),
                1 => std::fs::rename(one, other),
                2 => std::fs::remove_file(one).or_else(|_| std::fs::remove_dir_all(other)),
                3 => std::fs::create_dir_all(one.join("below")),
                4 => symlink("deep", one),
                _ => std::fs::hard_link(one, other),
            };
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(busy);
        for _ in 0..40 {
            let manifest = scan(dir.path(), &ScanOptions::default(), &|_| {});
            let paths = manifest.map(|manifest| manifest.entries.len());
            if paths.is_err() {
                over.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            assert!(paths.unwrap() >= 110);
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(of(dir.path()).entries.iter().all(|entry| entry.status == Status::Stable));
}
