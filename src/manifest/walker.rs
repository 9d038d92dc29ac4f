//! One thread of a walk: what it does with each task.

use std::cmp::Reverse;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::attributes::{self, Of};
use super::blocks::{SHARED_FROM, SharedFile};
use super::content::{self, ReadFile, Use};
use super::entry::{Edge, Entry, Kind, MAX_DEPTH, MAX_PATH, Status};
use super::names::{ListError, Name, Names};
use super::node::{self, Node, Stamp, file_type, stat_at, unreadable};
use super::opening::{open_directory, open_regular};
use super::scan::{ScanError, is_shortage};
use super::walk::{Dir, Haul, LeftOut, Reading, Task, Walk, filesystem_magic};

/// Files of one directory that are read by one task: enough to make a task worth it, few enough to share a large directory.
const BATCH: usize = 32;

/// Entries that are handed over at once.
const HAUL: usize = 64;

/// Paths left out that a haul names.
const LEFT_OUT: usize = super::format::Trailer::MAX_LEFT_OUT;

/// btrfs shows a subvolume that was nested in a snapshot's original as an empty directory with this inode number.
const BTRFS_STUB_INODE: u64 = 2;

/// `BTRFS_SUPER_MAGIC` of statfs(2).
const BTRFS_MAGIC: u64 = 0x9123_683e;

/// A thread and what it has found.
pub(super) struct Walker<'w> {
    walk: &'w Walk<'w>,
    haul: Haul,
    sender: SyncSender<Haul>,
}

impl<'w> Walker<'w> {
    pub(super) fn new(walk: &'w Walk<'w>, sender: SyncSender<Haul>) -> Self {
        Self { walk, haul: Haul::default(), sender }
    }

    /// Hands over what was found.
    pub(super) fn flush(&mut self) {
        let haul = std::mem::take(&mut self.haul);
        if (haul.nodes.is_empty() && haul.left_out.total == 0) || self.sender.send(haul).is_ok() {
            return;
        }
        // Nobody takes it any more.
        self.walk.crew.stop();
    }

    pub(super) fn work(&mut self, task: Task) {
        match task {
            Task::Top => self.top(),
            Task::Directory { parent, name } => {
                self.directory(&parent, name);
                self.release(parent);
            }
            Task::Names { dir, names } => self.names(dir, names),
            Task::Files { dir, batch } => {
                match self.walk.at(&dir) {
                    Ok(at) => self.files(&dir, at.as_fd(), batch),
                    Err(errno) => self.lost(&dir, errno),
                }
                self.release(dir);
            }
            Task::Help(file) => {
                if let Some(file) = file.upgrade() {
                    self.share(&file);
                }
            }
        }
    }

    fn top(&mut self) {
        let walk = self.walk;
        // An unreadable top would make a manifest of one unreadable entry: that is "could not find out".
        if let Err(errno) =
            walk.top.try_clone().map_err(|_| Errno::MFILE).and_then(|fd| self.list(fd, Vec::new(), 0))
        {
            let tree = walk.order.tree.to_owned();
            walk.fail(ScanError::Tree { tree, source: errno.into() });
        }
    }

    fn directory(&mut self, parent: &Arc<Dir>, name: Name) {
        let walk = self.walk;
        let at = match walk.at(parent) {
            Ok(at) => at,
            Err(errno) => return self.lost(parent, errno),
        };
        let stat = match stat_at(at.as_fd(), &name.name) {
            Ok(stat) => stat,
            Err(errno) => return self.lost(parent, errno),
        };
        if file_type(&stat) != FileType::Directory {
            // It was one when it was listed.
            parent.has_moved();
            return self.child(parent, at.as_fd(), &name.name, stat);
        }
        let path = parent.child(&name.name);
        let edge = if is_stub(at.as_fd(), &name.name, &stat) {
            Some(Edge::Stub)
        } else if stat.st_dev != parent.node.stamp.device && !walk.order.options.cross_mounts {
            // Not opened: that could make an automounter mount it.
            Some(Edge::Mount)
        } else {
            None
        };
        if let Some(edge) = edge {
            return self.record(Node::new(path, Kind::Directory { edge }, &stat, Status::Stable), 0);
        }
        if stat.st_dev != parent.node.stamp.device {
            walk.crossed.store(true, Relaxed);
        }
        let opened = open_directory(at.as_fd(), &name.name);
        drop(at);
        let listed = opened.and_then(|fd| self.list(fd, path.clone(), parent.depth + 1));
        match listed {
            Ok(()) => {}
            Err(Errno::NOENT) => parent.has_moved(),
            Err(errno) if is_shortage(errno) => walk.fail_at(&path, errno),
            Err(errno) => {
                let kind = Kind::Directory { edge: Edge::Inside };
                self.record(Node::new(path, kind, &stat, unreadable(errno)), 0);
            }
        }
    }

    /// Lists an open directory until it holds still, at most twice, and begins with what it holds.
    fn list(&mut self, fd: OwnedFd, path: Vec<u8>, depth: usize) -> Result<(), Errno> {
        if depth > MAX_DEPTH {
            self.walk.fail_at(&path, Errno::NAMETOOLONG);
            return Ok(());
        }
        let only_stat = matches!(self.walk.order.reading, Reading::Nothing);
        let mut tries = 2;
        loop {
            let before = rustix::fs::fstat(&fd)?;
            let Some((names, left_out)) = self.list_names(&fd, &path)? else { return Ok(()) };
            let (xattrs, flags) = if only_stat {
                (Vec::new(), None)
            } else {
                (attributes::xattrs(Of::Open(fd.as_fd()))?, attributes::flags_of(fd.as_fd())?)
            };
            let after = rustix::fs::fstat(&fd)?;
            let stable = Stamp::of(&before) == Stamp::of(&after);
            tries -= 1;
            if !stable && tries > 0 {
                continue;
            }
            self.haul.left_out.total += left_out.total;
            self.haul.left_out.paths.extend(left_out.paths);
            let status = if stable { Status::Stable } else { Status::Unstable };
            let kind = Kind::Directory { edge: Edge::Inside };
            let mut node = Node::new(path, kind, &content::with_atime_of(after, &before), status);
            (node.entry.xattrs, node.entry.flags) = (xattrs, flags);
            if names.is_empty() {
                self.record(node, 0);
            } else {
                let dir = self.walk.keep(fd, node, depth);
                self.names(dir, names);
            }
            return Ok(());
        }
    }

    /// The names, and what patterns left out; `None` when the walk was ended.
    fn list_names(&self, fd: &OwnedFd, path: &[u8]) -> Result<Option<(Names, LeftOut)>, Errno> {
        let excludes = &self.walk.order.options.excludes;
        let some = !excludes.written().is_empty();
        let (mut left_out, mut too_long) = (LeftOut::default(), false);
        let mut whole = path.to_vec();
        if !path.is_empty() {
            whole.push(b'/');
        }
        let prefix = whole.len();
        let names = Names::list(fd, &self.walk.spill, |name| {
            too_long |= prefix + name.to_bytes().len() > MAX_PATH;
            if !some {
                return false;
            }
            whole.truncate(prefix);
            whole.extend_from_slice(name.to_bytes());
            let matched = excludes.matches(&whole);
            if matched {
                left_out.total += 1;
                if left_out.paths.len() < LEFT_OUT {
                    left_out.paths.push(whole.clone());
                }
            }
            matched
        });
        match names {
            Ok(_) if too_long => self.walk.fail_at(path, Errno::NAMETOOLONG),
            Ok(names) => return Ok(Some((names, left_out))),
            Err(ListError::Directory(errno)) => return Err(errno),
            Err(ListError::Spill(error)) => self.walk.fail(error.into()),
        }
        Ok(None)
    }

    /// Looks at the next names, and puts what they stand for on the stack: the rest of the names lowest, files on top.
    fn names(&mut self, dir: Arc<Dir>, mut names: Names) {
        let walk = self.walk;
        let piece = match names.next_piece(&walk.spill) {
            Ok(piece) => piece,
            Err(error) => return walk.fail(error.into()),
        };
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        let mut others = Vec::new();
        for name in piece {
            match name.file_type {
                FileType::RegularFile => files.push(name),
                FileType::Directory => directories.push(name),
                _ => others.push(name),
            }
        }
        if !others.is_empty() {
            match walk.at(&dir) {
                Ok(at) => self.others(&dir, at.as_fd(), others, &mut files, &mut directories),
                Err(errno) => self.lost(&dir, errno),
            }
        }
        // In the order of inodes, which on most filesystems is near the order on the disk; the last are taken first.
        let backwards = |names: &mut Vec<Name>| names.sort_unstable_by_key(|name| Reverse(name.inode));
        backwards(&mut files);
        backwards(&mut directories);
        let mut tasks = Vec::with_capacity(1 + directories.len() + files.len() / BATCH + 1);
        let last = names.is_empty();
        if !last {
            tasks.push(Task::Names { dir: Arc::clone(&dir), names });
        }
        tasks.extend(directories.into_iter().map(|name| Task::Directory { parent: Arc::clone(&dir), name }));
        let mut rest = files.into_iter().peekable();
        while rest.peek().is_some() {
            let batch: Vec<Name> = rest.by_ref().take(BATCH).collect();
            tasks.push(Task::Files { dir: Arc::clone(&dir), batch });
        }
        walk.crew.push(tasks);
        self.release(dir);
    }

    /// Names of which the listing did not say that they are files or directories.
    fn others(
        &mut self,
        dir: &Arc<Dir>,
        at: BorrowedFd<'_>,
        others: Vec<Name>,
        files: &mut Vec<Name>,
        directories: &mut Vec<Name>,
    ) {
        for name in others {
            match stat_at(at, &name.name) {
                Err(errno) => self.lost(dir, errno),
                Ok(stat) => match file_type(&stat) {
                    FileType::RegularFile => files.push(name),
                    FileType::Directory => directories.push(name),
                    _ => self.child(dir, at, &name.name, stat),
                },
            }
        }
    }

    /// Anything but a directory, looked at one by one.
    fn child(&mut self, dir: &Arc<Dir>, at: BorrowedFd<'_>, name: &CStr, stat: Stat) {
        let path = dir.child(name);
        match file_type(&stat) {
            // It came into being after the listing, which says that it is unstable.
            FileType::Directory => dir.has_moved(),
            FileType::RegularFile => self.file(dir, at, name),
            _ if matches!(self.walk.order.reading, Reading::Nothing) => {
                match node::special_without_attributes(at, name, path, stat) {
                    Ok(node) => self.record(node, 0),
                    Err(errno) => self.lost(dir, errno),
                }
            }
            _ => match node::special(at, name, path, stat) {
                Ok(node) => self.record(node, 0),
                Err(Errno::NOSYS) => self.walk.fail_at(b"/proc/self/fd", Errno::NOENT),
                Err(errno) => self.lost(dir, errno),
            },
        }
    }

    fn files(&mut self, dir: &Arc<Dir>, at: BorrowedFd<'_>, batch: Vec<Name>) {
        // They were sorted backwards.
        for name in batch.into_iter().rev() {
            if self.walk.crew.is_stopped() {
                return;
            }
            self.file(dir, at, &name.name);
        }
    }

    fn file(&mut self, dir: &Arc<Dir>, at: BorrowedFd<'_>, name: &CStr) {
        let done = match self.walk.order.reading {
            Reading::Nothing => self.only_look(dir, at, name),
            Reading::All { known: Some(known) } => match stat_at(at, name) {
                Ok(stat) => match known.unchanged(&dir.child(name), &Stamp::of(&stat)) {
                    Some(before) => {
                        let node = as_before(dir.child(name), before, &stat);
                        self.record(node, 0);
                        Ok(())
                    }
                    None => self.read(dir, at, name),
                },
                Err(errno) => Err(errno),
            },
            _ => self.read(dir, at, name),
        };
        if let Err(errno) = done {
            self.unread(dir, at, name, errno);
        }
    }

    fn only_look(&mut self, dir: &Arc<Dir>, at: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        let stat = stat_at(at, name)?;
        if self.walk.how.evict {
            // A file that cannot be opened will be told by whoever reads it.
            let _ = content::evict(at, name);
        }
        let kind = Kind::unread_file(stat.st_size.cast_unsigned());
        self.record(Node::new(dir.child(name), kind, &stat, Status::Stable), 0);
        Ok(())
    }

    fn read(&mut self, dir: &Arc<Dir>, at: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        let walk = self.walk;
        let (file, before) = open_regular(at, name)?;
        if let Use::Hash(hashing) = &walk.how.content
            && before.st_size.cast_unsigned() >= SHARED_FROM
            && walk.order.threads > 1
        {
            let shared = SharedFile::new(file, before, &walk.how, hashing, name.to_owned(), Arc::clone(dir));
            self.share(&Arc::new(shared));
            return Ok(());
        }
        let mut read = content::read_open(&file, &before, &walk.how)?;
        if !read.stable {
            read = content::read_again(at, name, &walk.how)?;
        }
        self.record_read(dir.child(name), read);
        Ok(())
    }

    /// Takes part in a large file until all of it is taken; whoever is last puts it together.
    fn share(&mut self, file: &Arc<SharedFile<Arc<Dir>>>) {
        loop {
            if file.has_more() {
                let idle = self.walk.crew.idle();
                self.walk.crew.push((0..idle).map(|_| Task::Help(Arc::downgrade(file))));
            }
            match file.work() {
                Some(false) => {}
                Some(true) => return self.put_together(file),
                None => return,
            }
        }
    }

    fn put_together(&mut self, file: &SharedFile<Arc<Dir>>) {
        let owner = file.owner.lock().unwrap_or_else(PoisonError::into_inner).take();
        // There is one owner, and one last thread.
        let Some(dir) = owner else { return };
        match file.finish() {
            Ok(read) if read.stable => self.record_read(dir.child(&file.name), read),
            Err(errno) if errno != Errno::STALE => match self.walk.at(&dir) {
                Ok(at) => self.unread(&dir, at.as_fd(), &file.name, errno),
                Err(errno) => self.lost(&dir, errno),
            },
            // It changed: once more, by one thread.
            _ => match self.walk.at(&dir) {
                Ok(at) => match content::read_again(at.as_fd(), &file.name, &self.walk.how) {
                    Ok(read) => self.record_read(dir.child(&file.name), read),
                    Err(errno) => self.unread(&dir, at.as_fd(), &file.name, errno),
                },
                Err(errno) => self.lost(&dir, errno),
            },
        }
        self.release(dir);
    }

    fn record_read(&mut self, path: Vec<u8>, read: ReadFile) {
        let ReadFile { stat, content, more, stable } = read;
        let status = if stable { Status::Stable } else { Status::Unstable };
        let bytes = content.as_ref().map_or(0, |content| content.size);
        let kind = ReadFile::kind(content, stat.st_size.cast_unsigned(), more.extents);
        let mut node = Node::new(path, kind, &stat, status);
        (node.entry.xattrs, node.entry.flags) = (more.xattrs, more.flags);
        self.record(node, bytes);
    }

    /// A file that could not be read, or is something else by now.
    fn unread(&mut self, dir: &Arc<Dir>, at: BorrowedFd<'_>, name: &CStr, errno: Errno) {
        let path = dir.child(name);
        if is_shortage(errno) {
            return self.walk.fail_at(&path, errno);
        }
        let stat = match stat_at(at, name) {
            Ok(stat) => stat,
            Err(errno) => return self.lost(dir, errno),
        };
        if file_type(&stat) != FileType::RegularFile {
            dir.has_moved();
            return self.child(dir, at, name, stat);
        }
        let kind = Kind::unread_file(stat.st_size.cast_unsigned());
        let mut node = Node::new(path, kind, &stat, unreadable(errno));
        // As far as they can be had: the entry is marked already.
        node.entry.xattrs = attributes::xattrs_at(at, name).unwrap_or_default();
        self.record(node, 0);
    }

    /// A child that was listed cannot be looked at.
    fn lost(&self, dir: &Dir, errno: Errno) {
        if is_shortage(errno) {
            return self.walk.fail_at(dir.path(), errno);
        }
        dir.has_failed(errno);
    }

    /// Gives up one hold on a directory; the last one records it.
    fn release(&mut self, dir: Arc<Dir>) {
        if let Some(dir) = Arc::into_inner(dir) {
            self.record(dir.into_node(), 0);
        }
    }

    fn record(&mut self, node: Node, bytes: u64) {
        self.haul.bytes += bytes;
        let large = matches!(&node.entry.kind, Kind::File { blocks, .. } if !blocks.is_empty());
        self.haul.nodes.push(node);
        if large || self.haul.nodes.len() >= HAUL {
            self.flush();
        }
    }
}

/// A file that has not changed since it was read before.
fn as_before(path: Vec<u8>, before: &Entry, stat: &Stat) -> Node {
    let mut node = Node::new(path, before.kind.clone(), stat, Status::Stable);
    (node.entry.xattrs, node.entry.flags) = (before.xattrs.clone(), before.flags);
    node
}

/// Whether a directory is btrfs's empty place for a nested subvolume. Its device number is unlike its parent's (seen with Linux
/// 6.18), and the root of an ext4 has the same inode number, so the filesystem itself is asked.
fn is_stub(at: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> bool {
    stat.st_ino == BTRFS_STUB_INODE && filesystem_magic(at, name) == Some(BTRFS_MAGIC)
}
