//! btrfs send streams: real ones from a btrfs on a loop device (needs root), captured ones, and ones that no kernel would send.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something unexpected happens, and says when it is skipped"
)]

#[path = "loop_btrfs/disk.rs"]
#[allow(dead_code, reason = "shared with another test, which uses all of it")]
mod disk;
#[path = "send_stream/made.rs"]
mod made;
#[path = "send_stream/trees.rs"]
mod trees;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use disk::{Disk, isolated, run};
use made::{Stream, path};
use safe_upgrade::manifest::compare::{Rules, compare};
use safe_upgrade::manifest::exclude::Excludes;
use safe_upgrade::manifest::format::FormatError;
use safe_upgrade::manifest::{
    Class, Collector, Facts, Found, Hashing, Kind, Manifest, Report, ScanOptions, read_file, scan, write_file,
};
use safe_upgrade::sources::send_stream::{self, SendStreamError};
use safe_upgrade::sources::{Gathered, Limits, Reading};

/// What a stream holds, in order.
fn told(stream: &[u8], limits: Limits) -> Result<(Vec<Found>, Gathered), SendStreamError> {
    collected(limits, |reading, collector| send_stream::read(stream, reading, collector))
}

fn collected(
    limits: Limits,
    read: impl FnOnce(&Reading<'_>, &mut Collector) -> Result<Gathered, SendStreamError>,
) -> Result<(Vec<Found>, Gathered), SendStreamError> {
    let scratch = tempfile::tempdir().unwrap();
    let excludes = Excludes::default();
    let hashing = Hashing::plain();
    let reading =
        Reading { hashing, scratch: scratch.path(), excludes: &excludes, limits, progress: &|_| {} };
    let mut collector = Collector::new(scratch.path());
    let gathered = read(&reading, &mut collector)?;
    let found = collector.finish()?.collect::<Result<_, _>>()?;
    Ok((found, gathered))
}

/// A stream against a manifest. The flags of `chattr` are known not to be sent.
fn judged(manifest: &Manifest, stream: &[u8]) -> Result<Report, SendStreamError> {
    Ok(compared(manifest, told(stream, Limits::default())?))
}

/// As [`judged`], with a second look where files share parts.
fn twice(manifest: &Manifest, stream: &[u8]) -> Report {
    let read = |reading: &Reading<'_>, collector: &mut Collector| {
        send_stream::read_twice(|| Ok(stream), reading, collector)
    };
    compared(manifest, collected(Limits::default(), read).unwrap())
}

fn compared(manifest: &Manifest, (found, gathered): (Vec<Found>, Gathered)) -> Report {
    let mut report = Report::default();
    gathered.findings.into_iter().for_each(|finding| report.add(finding));
    report.remarks = gathered.remarks;
    let rules = Rules { accept_lost: Facts::FLAGS, carries: gathered.carries, ..Rules::default() };
    let expected = manifest.entries.iter().map(Ok::<_, FormatError>);
    compare(expected, found.into_iter().map(Ok::<_, FormatError>), &rules, &mut report).unwrap();
    report
}

fn scanned(tree: &Path) -> Manifest {
    scan(tree, &ScanOptions::default(), &|_| {}).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/send_stream").join(name)
}

fn snapshot(disk: &Disk, name: &str) -> PathBuf {
    let snapshot = disk.top_level().join(name);
    let tree = disk.mount().to_str().unwrap();
    run("btrfs", &["subvolume", "snapshot", "-r", tree, snapshot.to_str().unwrap()]);
    snapshot
}

fn sent(options: &[&str], snapshot: &Path) -> Vec<u8> {
    let output = Command::new("btrfs").args(["send", "-q"]).args(options).arg(snapshot).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

const WAYS: [&[&str]; 3] = [&[], &["--proto", "2"], &["--proto", "2", "--compressed-data"]];

#[test]
fn a_real_stream_of_any_version_is_the_snapshot() {
    if !isolated("a_real_stream_of_any_version_is_the_snapshot") {
        return;
    }
    let disk = Disk::new("@");
    trees::everything(disk.mount());
    let before = scanned(&snapshot(&disk, "before"));
    let streams = WAYS.map(|options| sent(options, &disk.top_level().join("before")));
    if let Some(directory) = std::env::var_os("CAPTURE_SEND_STREAMS") {
        let directory = Path::new(&directory);
        write_file(&before, &directory.join("everything.manifest")).unwrap();
        for (number, stream) in streams.iter().enumerate() {
            fs::write(directory.join(format!("everything.{number}.stream")), stream).unwrap();
        }
    }
    for (stream, options) in streams.iter().zip(WAYS) {
        let report = judged(&before, stream).unwrap();
        assert!(report.is_same(), "{options:?}: {} {:?}", report.sentence(), report.differences());
        assert_eq!(report.entries, before.entries.len() as u64);
        assert_eq!(report.remarks, Vec::<String>::new());
    }
}

/// Five hundred random changes, renames across directories among them, so that the kernel needs its temporary names.
#[test]
fn what_a_receiver_makes_is_what_was_understood() {
    if !isolated("what_a_receiver_makes_is_what_was_understood") {
        return;
    }
    for seed in 1..4 {
        let disk = Disk::new("@");
        trees::random(disk.mount(), seed, 500);
        let source = scanned(&snapshot(&disk, "source"));
        for options in WAYS {
            let stream = sent(options, &disk.top_level().join("source"));
            let report = judged(&source, &stream).unwrap();
            assert!(report.is_same(), "seed {seed}: {} {:?}", report.sentence(), report.differences());
        }
        let (file, to) = (disk.top_level().join("stream"), disk.top_level().join("received"));
        let stream = sent(&[], &disk.top_level().join("source"));
        fs::write(&file, &stream).unwrap();
        fs::create_dir(&to).unwrap();
        run("btrfs", &["receive", "-q", "-f", file.to_str().unwrap(), to.to_str().unwrap()]);
        let report = judged(&scanned(&to.join("source")), &stream).unwrap();
        assert!(report.is_same(), "seed {seed}: {} {:?}", report.sentence(), report.differences());
    }
}

#[test]
fn every_compression_of_btrfs_is_read() {
    if !isolated("every_compression_of_btrfs_is_read") {
        return;
    }
    for compression in ["zlib", "lzo", "zstd"] {
        let disk = Disk::new("@");
        let point = disk.mount().to_str().unwrap();
        run("mount", &["-o", &format!("remount,compress-force={compression}"), point]);
        trees::compressible(disk.mount());
        let source = snapshot(&disk, "source");
        let (whole, packed) = (sent(WAYS[1], &source), sent(WAYS[2], &source));
        assert!(packed.len() * 2 < whole.len(), "{compression}: {} of {}", packed.len(), whole.len());
        let report = judged(&scanned(&source), &packed).unwrap();
        assert!(report.is_same(), "{compression}: {} {:?}", report.sentence(), report.differences());
    }
}

#[test]
fn a_file_that_shares_a_part_is_named_and_one_that_shares_all_is_proven() {
    if !isolated("a_file_that_shares_a_part_is_named_and_one_that_shares_all_is_proven") {
        return;
    }
    let disk = Disk::new("@");
    trees::reflinks(disk.mount());
    let source = snapshot(&disk, "source");
    let (before, stream) = (scanned(&source), sent(&[], &source));
    let report = judged(&before, &stream).unwrap();
    let found: Vec<_> = report.differences().iter().map(|d| (d.class, d.path.as_slice())).collect();
    assert_eq!(found, [(Class::NotChecked, &b"changed"[..]), (Class::NotChecked, b"changed again")]);
    assert!(report.remarks[0].contains("2 file(s) with 1000000 bytes"), "{:?}", report.remarks);
    assert!(twice(&before, &stream).is_same());
}

/// Parts of files that were put together from parts of others and of themselves.
#[test]
fn shared_parts_are_followed_through_several_files() {
    let bytes = |from: u8, count: u8| (from..from + count).collect::<Vec<u8>>();
    let wide = |number: u64| number.to_le_bytes().to_vec();
    let clone = |to: &str, offset: u64, from: &str, at: u64, length: u64| {
        let from = (22, from.as_bytes().to_vec());
        [path(to), (18, wide(offset)), (20, vec![7; 16]), from, (23, wide(at)), (24, wide(length))]
    };
    let stream = Stream::full()
        .make(3, "a")
        .command(15, &[path("a"), (18, wide(0)), (19, bytes(0, 100))])
        .command(16, &clone("a", 100, "a", 50, 50))
        .make(3, "b")
        .command(16, &clone("b", 10, "a", 120, 20))
        .command(17, &[path("b"), (4, wide(40))])
        .make(3, "c")
        .command(16, &clone("c", 0, "b", 5, 30))
        .command(15, &[path("c"), (18, wide(30)), (19, b"end".to_vec())])
        .end();
    let a = [bytes(0, 100), bytes(50, 50)].concat();
    let b = [vec![0; 10], a[120..140].to_vec(), vec![0; 10]].concat();
    let c = [&b[5..35], b"end"].concat();
    let content = |found: &[Found]| -> Vec<Option<[u8; 32]>> {
        let of = |found: &Found| match &found.entry.kind {
            Kind::File { content, .. } => *content,
            _ => None,
        };
        found.iter().skip(1).map(of).collect()
    };
    let once = told(&stream, Limits::default()).unwrap();
    assert_eq!(content(&once.0), [None; 3]);
    let read = |reading: &Reading<'_>, collector: &mut Collector| {
        send_stream::read_twice(|| Ok(&stream[..]), reading, collector)
    };
    let again = collected(Limits::default(), read).unwrap();
    assert_eq!(content(&again.0), [a, b, c].map(|bytes| Some(*blake3::hash(&bytes).as_bytes())));
}

/// The kernel does not send the empty place that a snapshot shows for a subvolume: nothing was ever in it, and nothing is missed.
#[test]
fn a_subvolume_inside_is_not_in_the_stream() {
    if !isolated("a_subvolume_inside_is_not_in_the_stream") {
        return;
    }
    let disk = Disk::new("@");
    disk.write("file", "file");
    run("btrfs", &["subvolume", "create", disk.mount().join("inside").to_str().unwrap()]);
    let source = snapshot(&disk, "source");
    let report = judged(&scanned(&source), &sent(&[], &source)).unwrap();
    assert!(report.is_same(), "{:?}", report.differences());
}

#[test]
fn what_is_no_full_stream_is_refused_with_the_reason() {
    if !isolated("what_is_no_full_stream_is_refused_with_the_reason") {
        return;
    }
    let disk = Disk::new("@");
    trees::reflinks(disk.mount());
    let first = snapshot(&disk, "first");
    disk.write("new", "new");
    let second = snapshot(&disk, "second");
    let incremental = sent(&["-p", first.to_str().unwrap()], &second);
    assert!(matches!(told(&incremental, Limits::default()), Err(SendStreamError::Incremental)));
    let twice = [sent(&[], &first), sent(&[], &second)].concat();
    assert!(matches!(told(&twice, Limits::default()), Err(SendStreamError::MoreFollows { .. })));
    let empty = sent(&["--no-data"], &first);
    let report = judged(&scanned(&first), &empty).unwrap();
    assert_eq!(report.count(Class::NotChecked), 5, "{:?}", report.differences());
    assert!(report.remarks.iter().any(|remark| remark.contains("--no-data")), "{:?}", report.remarks);
}

fn captured() -> (Manifest, Vec<Vec<u8>>) {
    let stream = |number| fs::read(fixture(&format!("everything.{number}.stream"))).unwrap();
    (read_file(&fixture("everything.manifest")).unwrap(), (0..3).map(stream).collect())
}

#[test]
fn captured_streams_are_what_the_kernel_had_sent() {
    let (manifest, streams) = captured();
    for stream in &streams {
        let report = judged(&manifest, stream).unwrap();
        assert!(report.is_same(), "{} {:?}", report.sentence(), report.differences());
        assert_eq!(report.entries, manifest.entries.len() as u64);
    }
}

/// As typed: a file, a packed file known by its first bytes, standard input, and one that was cut.
#[test]
fn the_program_verifies_a_stream_by_its_name() {
    let scratch = tempfile::tempdir().unwrap();
    let packed = scratch.path().join("packed");
    let stream = fs::read(fixture("everything.1.stream")).unwrap();
    fs::write(&packed, zstd::encode_all(&stream[..], 3).unwrap()).unwrap();
    let cut = scratch.path().join("cut");
    fs::write(&cut, &stream[..stream.len() - 1]).unwrap();
    let verify = |copy: &str, from: &Path, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_safe-upgrade"));
        command.args(["verify", copy, "--manifest"]).arg(fixture("everything.manifest")).args(more);
        let output = command.stdin(fs::File::open(from).unwrap()).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code().unwrap(), text)
    };
    let plain = fixture("everything.0.stream");
    let named = format!("send:{}", plain.to_str().unwrap());
    let accepted: &[&str] = &["--accept-lost", "flags"];
    for copy in [&named, packed.to_str().unwrap(), "send:-"] {
        let (code, text) = verify(copy, &plain, accepted);
        assert_eq!(code, 0, "{copy}: {text}");
        assert!(text.contains("\nsame: 19 entries"), "{text}");
    }
    let (code, text) = verify(&named, &plain, &[]);
    assert_eq!(code, 8, "{text}");
    let (code, text) = verify(cut.to_str().unwrap(), &plain, accepted);
    assert_eq!(code, 7, "{text}");
    assert!(text.contains("broken") && text.contains("cut off at byte"), "{text}");
}

#[test]
fn no_flipped_byte_and_no_cut_goes_unseen() {
    let (manifest, streams) = captured();
    for (number, stream) in streams.iter().enumerate() {
        // A few thousand bytes; no step divides the size of a block. Every bit of a short stream: in `frame`.
        for at in (0..stream.len()).step_by([11, 13, 7][number]) {
            let mut damaged = stream.clone();
            damaged[at] ^= 1 << (at % 8);
            let seen = judged(&manifest, &damaged).is_err();
            assert!(seen, "byte {at} of {}", stream.len());
        }
        for length in (0..stream.len()).step_by(101) {
            let cut = told(&stream[..length], Limits::default());
            assert!(
                matches!(cut, Err(SendStreamError::Truncated { .. } | SendStreamError::NotAStream)),
                "{length}"
            );
        }
        let longer = [stream, &b"x"[..]].concat();
        assert!(matches!(told(&longer, Limits::default()), Err(SendStreamError::MoreFollows { .. })));
    }
}

#[test]
fn what_leads_out_of_the_tree_is_named_and_not_followed() {
    for evil in ["/etc/cron.d/x", "../x", "a/../../x", "a//x", "./x", "a/.", "x\0y", "a/"] {
        let stream = Stream::full().make(4, "a").make(3, evil).mode(evil, 0o777).end();
        let (found, gathered) = told(&stream, Limits::default()).unwrap();
        let names: Vec<_> = found.iter().map(|found| found.entry.path.as_slice()).collect();
        assert_eq!(names, [&b""[..], b"a"], "{evil:?}");
        let [finding] = &gathered.findings[..] else { panic!("{evil:?}: {:?}", gathered.findings) };
        assert_eq!((finding.class, finding.path.as_slice()), (Class::Hostile, evil.as_bytes()));
    }
    let moved = Stream::full().make(3, "a").command(9, &[path("a"), (16, b"../b".to_vec())]).end();
    let (found, gathered) = told(&moved, Limits::default()).unwrap();
    assert_eq!((found.len(), gathered.findings.len()), (2, 1));
}

#[test]
fn what_no_receiver_could_follow_is_an_error() {
    let streams = [
        Stream::full().command(15, &[path("none"), (18, vec![0; 8]), (19, b"x".to_vec())]).end(),
        Stream::full().make(4, "d").command(15, &[path("d"), (18, vec![0; 8]), (19, b"x".to_vec())]).end(),
        Stream::full().make(3, "none/x").end(),
        Stream::full().make(3, "a").make(3, "a/x").end(),
        Stream::full().make(3, "a").make(4, "a").end(),
        Stream::full().make(4, "a").command(10, &[path("b"), (17, b"a".to_vec())]).end(),
        Stream::full().make(4, "a").make(4, "a/b").command(9, &[path("a"), (16, b"a/b/c".to_vec())]).end(),
        Stream::full().make(4, "a").make(4, "a/b").command(12, &[path("a")]).end(),
        Stream::full().make(4, "a").command(11, &[path("a")]).end(),
        Stream::full().command(11, &[path("a")]).end(),
        Stream::full().make(3, "a").command(14, &[path("a"), (13, b"user.x".to_vec())]).end(),
    ];
    for (number, stream) in streams.iter().enumerate() {
        let error = told(stream, Limits::default()).unwrap_err();
        assert!(matches!(error, SendStreamError::Impossible { .. }), "{number}: {error}");
    }
    let unknown = Stream::full().command(26, &[path("a")]).end();
    assert!(matches!(told(&unknown, Limits::default()), Err(SendStreamError::UnknownCommand { .. })));
    let missing = Stream::full().command(3, &[]).end();
    assert!(matches!(told(&missing, Limits::default()), Err(SendStreamError::Malformed { .. })));
    let again = Stream::full().begin().end();
    assert!(matches!(told(&again, Limits::default()), Err(SendStreamError::Order { .. })));
}

#[test]
fn limits_end_what_grows_without_end() {
    let size = |size: u64| (4, size.to_le_bytes().to_vec());
    let hole = Stream::full().make(3, "a").command(17, &[path("a"), size(u64::MAX)]).end();
    let xattr = [path("a"), (13, b"user.x".to_vec()), (14, vec![0; 100])];
    let attributes = Stream::full().make(3, "a").command(13, &xattr).end();
    let many = (0..20).fold(Stream::full(), |stream, number| stream.make(3, &number.to_string())).end();
    let deep = Stream::full().make(4, "a").make(4, "a/b").make(4, "a/b/c").end();
    let small = Limits { entries: 10, bytes: 1 << 20, name: 100, depth: 2, xattrs: 50 };
    for (name, stream) in [("hole", hole), ("attributes", attributes), ("many", many), ("deep", deep)] {
        let error = told(&stream, small).unwrap_err();
        assert!(matches!(error, SendStreamError::Limit { .. }), "{name}: {error}");
    }
}
