//! Takes the manifest of a tree.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::slice::ParallelSliceMut;
use rustix::io::Errno;

use super::entry::{Entry, Kind, Mtime, path_order};
use super::exclude::Excludes;
use super::format::{FormatError, Header, Manifest};
use super::hashing::Hashing;
use super::walk::{self, Stamp};
use crate::system::identity;

/// How far a scan has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries seen.
    pub entries: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// What a scan reads and how.
#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    /// What is left out.
    pub excludes: Excludes,
    /// Enter other filesystems and subvolumes. Otherwise each is recorded as [`super::entry::Edge::Mount`] and not entered.
    pub cross_mounts: bool,
    /// Threads that read; `None` takes [`default_threads`].
    pub threads: Option<NonZeroUsize>,
    /// Ask the kernel to drop each file from its cache before it is read, so that the disk is read and not the memory.
    /// Only what was synced can be dropped.
    pub evict: bool,
    /// How content is hashed.
    pub hashing: Hashing,
}

/// A tree that could not be scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The tree itself is not there, no directory, or not readable.
    #[error("failed to open the tree {}", .tree.display())]
    Tree {
        /// The tree.
        tree: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The machine ran out of something; the entry itself may be fine.
    #[error("failed to read {}", crate::system::show::path(.path))]
    Resources {
        /// Where.
        path: PathBuf,
        /// Of what.
        source: std::io::Error,
    },
    /// No threads.
    #[error("failed to start the reading threads")]
    Threads(#[source] rayon::ThreadPoolBuildError),
    /// Entries that no manifest can hold.
    #[error("the tree cannot be described")]
    Format(#[from] FormatError),
}

/// Threads when nothing else was asked for: reading small cold files is waiting, so more than cores. 16 threads read 31 000
/// cold files a second where 2 read 11 000 (measured on two cores).
#[must_use]
pub fn default_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    (4 * cores).clamp(16, 64)
}

/// Reads a tree and makes its manifest.
///
/// A file or directory that changes while it is read is read once more and then marked unstable; one that cannot be read is
/// marked with its errno. Nothing is followed, nothing is opened but directories and regular files.
///
/// # Errors
/// When the tree itself cannot be read, or the machine runs out of memory or descriptors.
pub fn scan(
    tree: &Path,
    options: &ScanOptions,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Manifest, ScanError> {
    Ok(scan_again(tree, options, None, progress)?.manifest)
}

/// A manifest together with what stat said of each entry.
#[derive(Debug)]
pub struct Scan {
    /// The manifest.
    pub manifest: Manifest,
    pub(crate) stamps: Vec<Stamp>,
}

/// As [`scan`]; the content of files whose inode has not changed since `before` (same inode, size, mtime and ctime) is taken
/// from there and not read again.
///
/// # Errors
/// As [`scan`].
pub fn scan_again(
    tree: &Path,
    options: &ScanOptions,
    before: Option<&Scan>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Scan, ScanError> {
    let started = now();
    let known = before.map(Known::new);
    let reading = walk::Reading::All { known: known.as_ref() };
    let walked = walk_sorted(tree, options, reading, progress)?;
    let header = Header {
        tree: absolute(tree).as_os_str().as_bytes().to_vec(),
        host: identity::host_name(),
        tool: concat!("safe-upgrade ", env!("CARGO_PKG_VERSION")).to_owned(),
        started,
        ended: now(),
        excludes: options.excludes.written().to_vec(),
        one_filesystem: !options.cross_mounts,
        crossed_mounts: walked.crossed,
        ..Header::default()
    };
    let manifest = Manifest::with(header, walked.entries, &options.hashing)?;
    Ok(Scan { manifest, stamps: walked.stamps })
}

/// What stat says of a tree, without reading any content.
#[derive(Debug)]
pub(crate) struct Walked {
    pub(crate) entries: Vec<Entry>,
    pub(crate) stamps: Vec<Stamp>,
    pub(crate) crossed: bool,
}

/// Lists a tree in order; files have no content hash. With [`ScanOptions::evict`] each file is dropped from the cache.
pub(crate) fn survey(tree: &Path, options: &ScanOptions) -> Result<Walked, ScanError> {
    walk_sorted(tree, options, walk::Reading::Nothing, &|_| {})
}

/// The content of files that were read before, by path.
#[derive(Debug)]
pub(crate) struct Known<'s> {
    by_path: HashMap<&'s [u8], (&'s Entry, &'s Stamp)>,
    /// When the reading of them began, in seconds since 1970.
    started: i64,
}

/// Filesystem times move in steps (4 ms on many kernels, 2 s on FAT). A file last changed within this many seconds before it
/// was read could have been changed once more without its times showing it.
const RACY_SECONDS: i64 = 3;

impl<'s> Known<'s> {
    fn new(scan: &'s Scan) -> Self {
        let pairs = scan.manifest.entries.iter().zip(&scan.stamps);
        let by_path = pairs.map(|(entry, stamp)| (entry.path.as_slice(), (entry, stamp))).collect();
        Self { by_path, started: scan.manifest.header.started.seconds }
    }

    /// The kind with its hash, when the file was read well and certainly has not changed since.
    pub(crate) fn unchanged(&self, path: &[u8], stamp: &Stamp) -> Option<&Kind> {
        let (entry, then) = self.by_path.get(path)?;
        let stable = entry.status == super::entry::Status::Stable;
        let settled = stamp.ctime.0.saturating_add(RACY_SECONDS) < self.started;
        (stable && settled && *then == stamp).then_some(&entry.kind)
    }
}

fn walk_sorted(
    tree: &Path,
    options: &ScanOptions,
    reading: walk::Reading<'_>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Walked, ScanError> {
    let threads = options.threads.map_or_else(default_threads, NonZeroUsize::get);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|n| format!("scan-{n}"))
        .build()
        .map_err(ScanError::Threads)?;
    pool.install(|| {
        let (mut nodes, crossed) = walk::walk(tree, options, reading, progress)?;
        nodes.par_sort_unstable_by(|l, r| path_order(&l.entry.path, &r.entry.path));
        let (mut entries, stamps): (Vec<Entry>, Vec<Stamp>) =
            nodes.into_iter().map(|node| (node.entry, node.stamp)).unzip();
        number_links(&mut entries, &stamps);
        Ok(Walked { entries, stamps, crossed })
    })
}

/// Gives entries of the same inode a common number, counted in the order of the entries.
fn number_links(entries: &mut [Entry], stamps: &[Stamp]) {
    let linked =
        |entry: &Entry, stamp: &Stamp| stamp.links > 1 && !matches!(entry.kind, Kind::Directory { .. });
    let mut members: HashMap<(u64, u64), (u64, Option<u64>)> = HashMap::new();
    for (entry, stamp) in entries.iter().zip(stamps) {
        if linked(entry, stamp) {
            members.entry((stamp.device, stamp.inode)).or_default().0 += 1;
        }
    }
    let mut last = 0;
    for (entry, stamp) in entries.iter_mut().zip(stamps) {
        let Some((count, number)) = members.get_mut(&(stamp.device, stamp.inode)) else { continue };
        if *count > 1 && linked(entry, stamp) {
            entry.link_group = Some(*number.get_or_insert_with(|| {
                last += 1;
                last
            }));
        }
    }
}

/// Errors that speak of this process or machine and not of the entry that was opened.
pub(crate) fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}

fn absolute(tree: &Path) -> PathBuf {
    std::fs::canonicalize(tree).unwrap_or_else(|_| tree.to_owned())
}

/// The wall clock.
pub(crate) fn now() -> Mtime {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Mtime { seconds: since.as_secs().cast_signed(), nanoseconds: since.subsec_nanos() },
        // A clock before 1970 is wrong; the time of a manifest is a remark.
        Err(_) => Mtime::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Edge, Status};
    use super::super::facts::Facts;
    use super::super::hashing::Content;
    use super::super::verdict::Report;
    use super::super::{attest, compare};
    use super::*;
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
        let manifest =
            scan(dir.path(), &ScanOptions { excludes, ..ScanOptions::default() }, &|_| {}).unwrap();
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
}
