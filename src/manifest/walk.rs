//! The parallel walk under a scan: directory descriptors, never a path from the top, so that nobody can swap a directory for a
//! link under it, and paths may be longer than one system call takes.
//!
//! ```text
//! directory ─→ names, in pieces ─→ batches of files ─→ hauls ─→ whoever called
//!     ↑                │
//!     └── directories ─┘        all on one stack (super::crew): deep before wide
//! ```
//!
//! Memory does not grow with the tree: names wait in pieces ([`super::names`]), and hauls go through a channel that holds few. Nor
//! do descriptors: when many directories are open, the others are opened again, from the top, when they are needed.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Resource;

use super::blocks::SharedFile;
use super::content::{How, Use};
use super::crew::Crew;
use super::entry::Status;
use super::names::{Name, Names, Spill};
use super::node::{Node, unreadable};
use super::opening::{descend, open_top};
use super::scan::{Known, ScanError, ScanOptions, threads_for};
use super::walker::Walker;

/// What is done with the content of files.
#[derive(Clone, Copy)]
pub(super) enum Reading<'k> {
    /// Hash it, except where it is known.
    All { known: Option<&'k Known<'k>> },
    /// Read it and throw it away: for measuring.
    Count,
    /// Everything but the content.
    Metadata,
    /// Only what stat says.
    Nothing,
}

/// What a walk is to do.
pub(super) struct Order<'o> {
    pub(super) tree: &'o Path,
    pub(super) options: &'o ScanOptions,
    pub(super) reading: Reading<'o>,
    pub(super) threads: usize,
    /// Where names of large directories go; `None` keeps them in memory.
    pub(super) scratch: Option<&'o Path>,
    /// How many descriptors of directories are kept.
    pub(super) most_open: usize,
}

impl<'o> Order<'o> {
    pub(super) fn new(tree: &'o Path, options: &'o ScanOptions, reading: Reading<'o>) -> Self {
        let threads = threads_for(tree, options);
        Self { tree, options, reading, threads, scratch: None, most_open: most_open() }
    }
}

/// Entries that were found, in no order.
#[derive(Default)]
pub(super) struct Haul {
    pub(super) nodes: Vec<Node>,
    /// Bytes of content that were read.
    pub(super) bytes: u64,
    pub(super) left_out: LeftOut,
}

/// What patterns left out.
#[derive(Default)]
pub(super) struct LeftOut {
    /// Some of the paths.
    pub(super) paths: Vec<Vec<u8>>,
    pub(super) total: u64,
}

/// Hauls on their way to the caller: a few, so that a short wait there does not stop the reading here.
const HAULS: usize = 32;

/// Walks a tree and hands over what it finds; also says whether another filesystem was entered.
pub(super) fn walk(
    order: &Order<'_>,
    mut take: impl FnMut(Haul) -> Result<(), ScanError>,
) -> Result<bool, ScanError> {
    let at_tree = |errno: Errno| ScanError::Tree { tree: order.tree.to_owned(), source: errno.into() };
    let walk = Walk::new(order, open_top(order.tree).map_err(at_tree)?);
    walk.crew.push([Task::Top]);
    let taken = std::thread::scope(|scope| {
        let (sender, hauls) = sync_channel::<Haul>(HAULS);
        for number in 0..order.threads {
            let (walk, sender) = (&walk, sender.clone());
            let work = move || {
                walk.crew.work(&mut Walker::new(walk, sender), Walker::flush, Walker::work);
            };
            let thread = std::thread::Builder::new().name(format!("scan-{number}"));
            if let Err(source) = thread.spawn_scoped(scope, work) {
                walk.crew.stop();
                return Err(ScanError::Threads(source));
            }
        }
        drop(sender);
        // Dropping the receiver on an error makes the walkers stop.
        hauls.into_iter().try_for_each(&mut take)
    });
    taken?;
    match walk.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(walk.crossed.load(Relaxed)),
    }
}

/// What all threads of a walk share.
pub(super) struct Walk<'w> {
    pub(super) order: &'w Order<'w>,
    pub(super) top: OwnedFd,
    pub(super) how: How,
    pub(super) crew: Crew<Task>,
    pub(super) spill: Spill,
    pub(super) crossed: AtomicBool,
    failed: Mutex<Option<ScanError>>,
    open: Arc<AtomicUsize>,
}

/// One thing to do.
pub(super) enum Task {
    /// List the top of the tree.
    Top,
    /// Open and list a directory.
    Directory { parent: Arc<Dir>, name: Name },
    /// Look at the next names of a directory.
    Names { dir: Arc<Dir>, names: Names },
    /// Read files of a directory.
    Files { dir: Arc<Dir>, batch: Vec<Name> },
    /// Help with a large file, if it is still there.
    Help(Weak<SharedFile<Arc<Dir>>>),
}

/// A directory whose children are still being looked at. It is recorded when the last of them was.
pub(super) struct Dir {
    /// `None` when too many are open.
    fd: Option<OpenSlot>,
    pub(super) node: Node,
    pub(super) depth: usize,
    /// What happened to it since it was listed: [`QUIET`], [`MOVED`] or an errno.
    since: AtomicU32,
}

const QUIET: u32 = 0;
const MOVED: u32 = u32::MAX;

/// A descriptor that counts.
struct OpenSlot {
    fd: OwnedFd,
    open: Arc<AtomicUsize>,
}

impl Drop for OpenSlot {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

/// The descriptor of a directory, its own or one for now.
pub(super) enum At<'d> {
    Kept(&'d OwnedFd),
    ForNow(OwnedFd),
}

impl AsFd for At<'_> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Kept(fd) => fd.as_fd(),
            Self::ForNow(fd) => fd.as_fd(),
        }
    }
}

impl<'w> Walk<'w> {
    fn new(order: &'w Order<'w>, top: OwnedFd) -> Self {
        let options = order.options;
        let content = match order.reading {
            Reading::All { .. } => Use::Hash(options.hashing.clone()),
            Reading::Count => Use::Count,
            Reading::Metadata | Reading::Nothing => Use::Nothing,
        };
        Self {
            order,
            top,
            how: How { content, evict: options.evict, tidy: options.tidy },
            crew: Crew::new(),
            spill: Spill::new(order.scratch),
            crossed: AtomicBool::new(false),
            failed: Mutex::default(),
            open: Arc::default(),
        }
    }

    /// Keeps a directory for its children; its descriptor too, unless there are too many.
    pub(super) fn keep(&self, fd: OwnedFd, node: Node, depth: usize) -> Arc<Dir> {
        let slot = OpenSlot { fd, open: Arc::clone(&self.open) };
        let fd = (self.open.fetch_add(1, Relaxed) < self.order.most_open).then_some(slot);
        Arc::new(Dir { fd, node, depth, since: AtomicU32::new(QUIET) })
    }

    /// The descriptor of a directory. `ESTALE` when its path has become another directory's.
    pub(super) fn at<'d>(&self, dir: &'d Dir) -> Result<At<'d>, Errno> {
        if let Some(slot) = &dir.fd {
            return Ok(At::Kept(&slot.fd));
        }
        let fd = descend(self.top.as_fd(), &dir.node.entry.path)?;
        let stat = rustix::fs::fstat(&fd)?;
        let same = (stat.st_dev, stat.st_ino) == (dir.node.stamp.device, dir.node.stamp.inode);
        if same { Ok(At::ForNow(fd)) } else { Err(Errno::STALE) }
    }

    /// Ends the walk with an error; the first one counts.
    pub(super) fn fail(&self, error: ScanError) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.crew.stop();
    }

    /// Ends the walk because the machine ran out of something, or the tree goes beyond what a manifest can say.
    pub(super) fn fail_at(&self, path: &[u8], errno: Errno) {
        use std::os::unix::ffi::OsStrExt;
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
        self.fail(ScanError::Resources { path, source: errno.into() });
    }
}

impl Dir {
    pub(super) fn path(&self) -> &[u8] {
        &self.node.entry.path
    }

    pub(super) fn child(&self, name: &CStr) -> Vec<u8> {
        let (directory, name) = (self.path(), name.to_bytes());
        let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
        path.extend_from_slice(directory);
        if !directory.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// A child that was listed is gone, or the directory itself is somewhere else.
    pub(super) fn has_moved(&self) {
        let _ = self.since.compare_exchange(QUIET, MOVED, Relaxed, Relaxed);
    }

    /// Its children could not be looked at.
    pub(super) fn has_failed(&self, errno: Errno) {
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE => self.has_moved(),
            _ => self.since.store(errno.raw_os_error().unsigned_abs(), Relaxed),
        }
    }

    /// The finished entry.
    pub(super) fn into_node(self) -> Node {
        let mut node = self.node;
        let told = self.since.into_inner();
        match told {
            QUIET => {}
            MOVED if node.entry.status == Status::Stable => node.entry.status = Status::Unstable,
            MOVED => {}
            errno => node.entry.status = unreadable(Errno::from_raw_os_error(errno.cast_signed())),
        }
        node
    }
}

/// How many descriptors of directories are kept: a share of what the process may open, for the threads, the sorting and the
/// rest of the program need some too.
fn most_open() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / 4).unwrap_or(usize::MAX).clamp(8, 4096)
}

/// Asks the filesystem itself what kind it is; does not make an automounter mount it.
pub(super) fn filesystem_magic(dir: impl AsFd, name: &CStr) -> Option<u64> {
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "a magic number, signed or not")]
    let magic = |f_type| f_type as u64 & 0xffff_ffff;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dir, name, flags, super::opening::NO_MODE);
    opened.and_then(rustix::fs::fstatfs).ok().map(|statfs| magic(statfs.f_type))
}
