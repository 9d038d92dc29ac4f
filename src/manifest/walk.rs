//! The parallel walk under a scan: directory descriptors, never a path from the top, so that nobody can swap a directory for a
//! link under it, and paths may be longer than one system call takes.
//!
//! One task per directory, one per batch of its files. A task holds the descriptor of its directory until its last file was
//! opened, so descriptors are bounded by threads times depth in practice.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::Scope;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::content::{self, ReadFile};
use super::entry::{Device, Edge, Entry, Kind, MAX_PATH, MODE_BITS, Mtime, Status};
use super::scan::{Known, Progress, ScanError, ScanOptions, is_shortage};

/// What is done with the content of files.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reading<'k> {
    /// Hash it, except where it is known.
    All { known: Option<&'k Known<'k>> },
    /// Only list.
    Nothing,
}

/// Files of one directory that are read by one task: enough to make a task worth it, few enough to share a large directory.
const BATCH: usize = 32;

/// btrfs shows a subvolume that was nested in a snapshot's original as an empty directory with this inode number.
const BTRFS_STUB_INODE: u64 = 2;

/// `BTRFS_SUPER_MAGIC` of statfs(2).
const BTRFS_MAGIC: u64 = 0x9123_683e;

/// What identifies an inode and shows that it changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) links: u64,
    size: u64,
    /// Bytes on disk: less than the size where there are holes.
    pub(crate) allocated: u64,
    mtime: (i64, u64),
    /// Moves with every change of content or metadata, and cannot be set.
    pub(crate) ctime: (i64, u64),
}

impl PartialEq for Stamp {
    /// The same inode in the same state. The allocated bytes do not count: a filesystem may place them long after the write.
    fn eq(&self, other: &Self) -> bool {
        let state =
            |stamp: &Self| (stamp.device, stamp.inode, stamp.links, stamp.size, stamp.mtime, stamp.ctime);
        state(self) == state(other)
    }
}

impl Stamp {
    pub(crate) fn of(stat: &Stat) -> Self {
        // The types of these fields differ between architectures; the conversions widen.
        #[allow(clippy::unnecessary_cast, reason = "u32 on some architectures")]
        let nanoseconds = |field| field as u64;
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            links: stat.st_nlink,
            size: stat.st_size.cast_unsigned(),
            allocated: stat.st_blocks.cast_unsigned() * 512,
            mtime: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            ctime: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        }
    }
}

/// An entry as the walk found it, not yet in order.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) entry: Entry,
    pub(crate) stamp: Stamp,
}

/// Walks a tree; also says whether another filesystem was entered.
pub(crate) fn walk(
    tree: &Path,
    options: &ScanOptions,
    reading: Reading<'_>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<(Vec<Node>, bool), ScanError> {
    let at_tree = |errno: Errno| ScanError::Tree { tree: tree.to_owned(), source: errno.into() };
    let fd = open_directory(CWD, tree, OFlags::empty()).map_err(at_tree)?;
    let stat = rustix::fs::fstat(&fd).map_err(at_tree)?;
    let walk = Walk {
        options,
        reading,
        progress,
        nodes: Mutex::default(),
        failed: Mutex::default(),
        stop: AtomicBool::new(false),
        crossed: AtomicBool::new(false),
        entries: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    };
    rayon::scope(|scope| {
        // An unreadable top would make a manifest of one unreadable entry: that is "could not find out".
        if let Err(errno) = walk.directory(scope, fd, Vec::new(), &stat) {
            walk.fail(ScanError::Tree { tree: tree.to_owned(), source: errno.into() });
        }
    });
    if let Some(error) = walk.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let nodes = walk.nodes.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((nodes, walk.crossed.load(Relaxed)))
}

struct Walk<'w> {
    options: &'w ScanOptions,
    reading: Reading<'w>,
    progress: &'w (dyn Fn(Progress) + Sync),
    nodes: Mutex<Vec<Node>>,
    failed: Mutex<Option<ScanError>>,
    stop: AtomicBool,
    crossed: AtomicBool,
    entries: AtomicU64,
    bytes: AtomicU64,
}

/// A directory whose children are still being read.
struct OpenDir {
    fd: OwnedFd,
    device: u64,
}

struct Child {
    name: CString,
    path: Vec<u8>,
    stat: Stat,
}

/// What a directory held, and whether it held still.
struct Listing {
    children: Vec<Child>,
    stat: Stat,
    status: Status,
}

impl<'w> Walk<'w> {
    /// Lists an open directory, records it, and starts tasks for what it holds.
    fn directory<'s>(
        &'s self,
        scope: &Scope<'s>,
        fd: OwnedFd,
        path: Vec<u8>,
        stat: &Stat,
    ) -> Result<(), Errno> {
        let Some(listing) = self.list_steadily(&fd, &path, stat)? else { return Ok(()) };
        let kind = Kind::Directory { edge: Edge::Inside };
        self.record(vec![node(path, kind, &listing.stat, listing.status)], 0);
        let dir = Arc::new(OpenDir { fd, device: listing.stat.st_dev });
        let (mut files, mut others) = (Vec::new(), Vec::new());
        for child in listing.children {
            match file_type(&child.stat) {
                FileType::RegularFile => files.push(child),
                FileType::Directory => self.subdirectory(scope, &dir, child),
                _ => others.push(special(dir.fd.as_fd(), child)),
            }
        }
        self.record(others, 0);
        // In the order of inodes, which on most filesystems is near the order on the disk.
        files.sort_unstable_by_key(|child| child.stat.st_ino);
        while !files.is_empty() {
            let batch = files.split_off(files.len().saturating_sub(BATCH));
            let dir = Arc::clone(&dir);
            scope.spawn(move |_| self.files(&dir, batch));
        }
        Ok(())
    }

    fn subdirectory<'s>(&'s self, scope: &Scope<'s>, parent: &Arc<OpenDir>, child: Child) {
        if is_stub(parent, &child) {
            let kind = Kind::Directory { edge: Edge::Stub };
            return self.record(vec![node(child.path, kind, &child.stat, Status::Stable)], 0);
        }
        if child.stat.st_dev != parent.device {
            if !self.options.cross_mounts {
                // Not opened: that could make an automounter mount it.
                let kind = Kind::Directory { edge: Edge::Mount };
                return self.record(vec![node(child.path, kind, &child.stat, Status::Stable)], 0);
            }
            self.crossed.store(true, Relaxed);
        }
        let parent = Arc::clone(parent);
        scope.spawn(move |scope| {
            if self.stop.load(Relaxed) {
                return;
            }
            let opened = open_directory(parent.fd.as_fd(), &*child.name, OFlags::NOFOLLOW);
            drop(parent);
            let result = opened.and_then(|fd| {
                let stat = rustix::fs::fstat(&fd)?;
                self.directory(scope, fd, child.path.clone(), &stat)
            });
            if let Err(errno) = result {
                self.unreadable_directory(child, errno);
            }
        });
    }

    fn unreadable_directory(&self, child: Child, errno: Errno) {
        if is_shortage(errno) {
            return self.fail(shortage(&child.path, errno));
        }
        let kind = Kind::Directory { edge: Edge::Inside };
        self.record(vec![node(child.path, kind, &child.stat, unreadable(errno))], 0);
    }

    fn files(&self, dir: &OpenDir, batch: Vec<Child>) {
        let mut nodes = Vec::with_capacity(batch.len());
        let mut bytes = 0;
        for child in batch {
            if self.stop.load(Relaxed) {
                return;
            }
            match self.file(dir, child) {
                Ok(node) => {
                    bytes += node.entry.bytes();
                    nodes.push(node);
                }
                Err(error) => return self.fail(error),
            }
        }
        self.record(nodes, bytes);
    }

    fn file(&self, dir: &OpenDir, child: Child) -> Result<Node, ScanError> {
        let Reading::All { known } = self.reading else {
            if self.options.evict {
                // A file that cannot be opened will be told by whoever reads it.
                let _ = content::evict(dir.fd.as_fd(), &child.name);
            }
            let kind = Kind::unread_file(child.stat.st_size.cast_unsigned());
            return Ok(node(child.path, kind, &child.stat, Status::Stable));
        };
        if let Some(kind) = known.and_then(|known| known.unchanged(&child.path, &Stamp::of(&child.stat))) {
            return Ok(node(child.path, kind.clone(), &child.stat, Status::Stable));
        }
        match content::read_file(dir.fd.as_fd(), &child.name, self.options.evict, &self.options.hashing) {
            Ok(ReadFile { stat, content, stable }) => {
                let status = if stable { Status::Stable } else { Status::Unstable };
                Ok(node(child.path, Kind::file(content), &stat, status))
            }
            Err(errno) if is_shortage(errno) => Err(shortage(&child.path, errno)),
            Err(errno) => {
                let kind = Kind::unread_file(child.stat.st_size.cast_unsigned());
                Ok(node(child.path, kind, &child.stat, unreadable(errno)))
            }
        }
    }

    /// Lists a directory until it holds still, at most twice. `None` when the walk was stopped.
    fn list_steadily(&self, fd: &OwnedFd, path: &[u8], stat: &Stat) -> Result<Option<Listing>, Errno> {
        let mut before = *stat;
        let mut tries = 2;
        loop {
            let Some((children, vanished)) = self.list(fd, path)? else { return Ok(None) };
            let after = rustix::fs::fstat(fd)?;
            let stable = !vanished && Stamp::of(&before) == Stamp::of(&after);
            tries -= 1;
            if stable || tries == 0 {
                let status = if stable { Status::Stable } else { Status::Unstable };
                return Ok(Some(Listing { children, stat: after, status }));
            }
            before = after;
        }
    }

    /// The children, and whether one vanished between being named and being looked at.
    fn list(&self, fd: &OwnedFd, path: &[u8]) -> Result<Option<(Vec<Child>, bool)>, Errno> {
        let mut children = Vec::new();
        let mut vanished = false;
        for item in Dir::read_from(fd)? {
            let item = item?;
            let name = item.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = join(path, name);
            if path.len() > MAX_PATH {
                self.fail(shortage(&path, Errno::NAMETOOLONG));
                return Ok(None);
            }
            if self.options.excludes.matches(&path) {
                continue;
            }
            match rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT) {
                Ok(stat) => children.push(Child { name: name.to_owned(), path, stat }),
                Err(Errno::NOENT) => vanished = true,
                Err(errno) => return Err(errno),
            }
        }
        Ok(Some((children, vanished)))
    }

    fn record(&self, mut nodes: Vec<Node>, bytes: u64) {
        if nodes.is_empty() {
            return;
        }
        let entries = self.entries.fetch_add(nodes.len() as u64, Relaxed) + nodes.len() as u64;
        let bytes = self.bytes.fetch_add(bytes, Relaxed) + bytes;
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).append(&mut nodes);
        (self.progress)(Progress { entries, bytes });
    }

    fn fail(&self, error: ScanError) {
        self.stop.store(true, Relaxed);
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

fn open_directory(
    at: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    more: OFlags,
) -> Result<OwnedFd, Errno> {
    content::open_quietly(at, name, OFlags::DIRECTORY | more)
}

/// One name in a directory, without reading it; also says whether it is a regular file.
pub(super) fn node_at(dir: BorrowedFd<'_>, name: &CStr, path: Vec<u8>) -> Result<(Entry, bool), Errno> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)?;
    let plain = |kind, path| node(path, kind, &stat, Status::Stable).entry;
    match file_type(&stat) {
        FileType::RegularFile => Ok((plain(Kind::unread_file(stat.st_size.cast_unsigned()), path), true)),
        FileType::Directory => Ok((plain(Kind::Directory { edge: Edge::Inside }, path), false)),
        _ => Ok((special(dir, Child { name: name.to_owned(), path, stat }).entry, false)),
    }
}

/// Everything that is neither a directory nor a regular file: looked at, never opened.
fn special(dir: BorrowedFd<'_>, child: Child) -> Node {
    let device = || Device {
        major: rustix::fs::major(child.stat.st_rdev),
        minor: rustix::fs::minor(child.stat.st_rdev),
    };
    let kind = match file_type(&child.stat) {
        FileType::Symlink => match rustix::fs::readlinkat(dir, &*child.name, Vec::new()) {
            Ok(target) => Kind::Symlink { target: target.into_bytes() },
            Err(errno) => {
                let kind = Kind::Symlink { target: Vec::new() };
                return node(child.path, kind, &child.stat, unreadable(errno));
            }
        },
        FileType::CharacterDevice => Kind::CharDevice(device()),
        FileType::BlockDevice => Kind::BlockDevice(device()),
        FileType::Socket => Kind::Socket,
        _ => Kind::Fifo,
    };
    node(child.path, kind, &child.stat, Status::Stable)
}

fn node(path: Vec<u8>, kind: Kind, stat: &Stat, status: Status) -> Node {
    let stamp = Stamp::of(stat);
    let entry = Entry {
        // Twelve bits fit.
        mode: (stat.st_mode & MODE_BITS) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Mtime {
            seconds: stamp.mtime.0,
            // The kernel keeps it below 1 000 000 000; a filesystem that does not is refused by the manifest's own check.
            nanoseconds: u32::try_from(stamp.mtime.1).unwrap_or(u32::MAX),
        },
        status,
        ..Entry::new(path, kind)
    };
    Node { entry, stamp }
}

/// Whether a directory is btrfs's empty place for a nested subvolume. Its device number is unlike its parent's (seen with Linux
/// 6.18), and the root of an ext4 has the same inode number, so the filesystem itself is asked.
fn is_stub(parent: &OpenDir, child: &Child) -> bool {
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "a magic number, signed or not")]
    let magic = |f_type| f_type as u64 & 0xffff_ffff;
    if child.stat.st_ino != BTRFS_STUB_INODE {
        return false;
    }
    // O_PATH does not make an automounter mount it.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&parent.fd, &*child.name, flags, NO_MODE)
        .and_then(rustix::fs::fstatfs)
        .is_ok_and(|statfs| magic(statfs.f_type) == BTRFS_MAGIC)
}

fn join(directory: &[u8], name: &CStr) -> Vec<u8> {
    let name = name.to_bytes();
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if !directory.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn unreadable(errno: Errno) -> Status {
    Status::Unreadable(errno.raw_os_error().unsigned_abs())
}

fn shortage(path: &[u8], errno: Errno) -> ScanError {
    use std::os::unix::ffi::OsStrExt;
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
    ScanError::Resources { path, source: errno.into() }
}

/// No mode is needed to open what exists.
pub(super) const NO_MODE: Mode = Mode::empty();
