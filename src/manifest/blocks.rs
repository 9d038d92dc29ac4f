//! One large file that several threads hash: whoever has nothing else to do takes the next run of its blocks.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, Stat};
use rustix::io::Errno;

use super::content::{self, ReadFile, STRIDE};
use super::entry::ContentHash;
use super::hashing::{Content, Hashing, block_size};
use super::node::Stamp;

/// Files from this size on, in bytes, are shared: below, one thread is through before another has begun.
pub(super) const SHARED_FROM: u64 = 2 * STRIDE;

/// A file that is being hashed. `O` is what its last thread needs to go on with it.
pub(super) struct SharedFile<O> {
    file: OwnedFd,
    before: Stat,
    size: u64,
    hashing: Hashing,
    /// What this reading brings into the cache is dropped.
    cold: bool,
    pub(super) name: CString,
    pub(super) owner: Mutex<Option<O>>,
    /// The next run.
    next: AtomicU64,
    /// Runs that are not done.
    left: AtomicUsize,
    outcome: Mutex<Outcome>,
}

struct Outcome {
    blocks: Vec<ContentHash>,
    failed: Option<Errno>,
}

impl<O> SharedFile<O> {
    /// The file must have at least [`SHARED_FROM`] bytes.
    pub(super) fn new(
        file: OwnedFd,
        before: Stat,
        how: &content::How,
        hashing: &Hashing,
        name: CString,
        owner: O,
    ) -> Self {
        let size = before.st_size.cast_unsigned();
        if how.evict {
            content::drop_cached(&file, 0, size);
        }
        let cold = how.evict || (how.tidy && content::is_cold(&file, size));
        // At most 4096, see `hashing::MAX_BLOCKS`.
        let count = size.div_ceil(block_size(size)) as usize;
        let outcome = Outcome { blocks: vec![[0; 32]; count], failed: None };
        let left = AtomicUsize::new(size.div_ceil(run(size)) as usize);
        let (hashing, outcome) = (hashing.clone(), Mutex::new(outcome));
        let (owner, next) = (Mutex::new(Some(owner)), AtomicU64::new(0));
        Self { file, before, size, hashing, cold, name, owner, next, left, outcome }
    }

    /// Whether a run can still be taken.
    pub(super) fn has_more(&self) -> bool {
        self.next.load(Relaxed).saturating_mul(run(self.size)) < self.size
    }

    /// Hashes the next run. `None` when all were taken; otherwise whether it was the last to be done, and then
    /// [`SharedFile::finish`] is for the caller to call.
    pub(super) fn work(&self) -> Option<bool> {
        let run = run(self.size);
        let from = self.next.fetch_add(1, Relaxed).checked_mul(run).filter(|&from| from < self.size)?;
        let length = run.min(self.size - from);
        let failed = self.lock().failed.is_some();
        if !failed && let Err(errno) = self.hash(from, length) {
            self.lock().failed = Some(errno);
        }
        Some(self.left.fetch_sub(1, AcqRel) == 1)
    }

    /// Puts the file together; what was read is stable when nothing changed since it was opened.
    ///
    /// # Errors
    /// What went wrong with the first part that could not be read. `ESTALE` is a file that became shorter.
    pub(super) fn finish(&self) -> Result<ReadFile, Errno> {
        let outcome = self.lock();
        if let Some(errno) = outcome.failed {
            return Err(errno);
        }
        let more = content::more(&self.file, &self.before)?;
        let after = rustix::fs::fstat(&self.file)?;
        let blocks = outcome.blocks.clone();
        // A file of two strides has more than one block.
        let hash = self.hashing.join(self.size, &blocks).ok_or(Errno::STALE)?;
        let stable = Stamp::of(&self.before) == Stamp::of(&after);
        let content = Some(Content { size: self.size, hash, blocks });
        Ok(ReadFile { stat: content::with_atime_of(after, &self.before), content, more, stable })
    }

    fn hash(&self, from: u64, length: u64) -> Result<(), Errno> {
        if self.cold {
            // Several threads in one file look like random reads, for which the kernel does not read ahead.
            let _ = rustix::fs::fadvise(&self.file, from, length.try_into().ok(), Advice::WillNeed);
        }
        let block = block_size(self.size);
        let mut values = Vec::new();
        let mut at = from;
        while at < from + length {
            let size = block.min(from + length - at);
            let mut hasher = self.hashing.block(at);
            content::read_part(&self.file, at, size, |bytes| hasher.update(bytes))?;
            values.push(hasher.finish());
            at += size;
        }
        if self.cold {
            content::drop_cached(&self.file, from, length);
        }
        let first = (from / block) as usize;
        self.lock().blocks[first..first + values.len()].copy_from_slice(&values);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one thread takes at a time, in bytes: whole blocks.
fn run(size: u64) -> u64 {
    block_size(size).max(STRIDE)
}

#[cfg(test)]
mod tests {
    use super::super::content::{How, Use};
    use super::super::opening::{open_regular, open_top};
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn many_threads_make_the_hash_of_one() {
        let dir = tempfile::tempdir().unwrap();
        let size = SHARED_FROM as usize + 12_345;
        let bytes: Vec<u8> = (0..size).map(|n| (n / 7 % 253) as u8).collect();
        std::fs::write(dir.path().join("f"), &bytes).unwrap();
        let top = open_top(dir.path()).unwrap();
        let (file, before) = open_regular(top.as_fd(), c"f").unwrap();
        let how = How { content: Use::Nothing, evict: false, tidy: true };
        for hashing in [Hashing::plain(), Hashing::keyed(&[3; 32])] {
            let file = file.try_clone().unwrap();
            let shared = SharedFile::new(file, before, &how, &hashing, c"f".to_owned(), ());
            let lasts = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        while let Some(last) = shared.work() {
                            lasts.fetch_add(usize::from(last), Relaxed);
                        }
                    });
                }
            });
            assert_eq!(lasts.into_inner(), 1);
            let read = shared.finish().unwrap();
            let alone = How { content: Use::Hash(hashing), ..how.clone() };
            let expected = content::read_file(top.as_fd(), c"f", &alone).unwrap();
            assert_eq!(read.content, expected.content);
            assert!(read.stable);
        }
    }

    #[test]
    fn a_file_that_became_shorter_fails() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, vec![0; SHARED_FROM as usize]).unwrap();
        let top = open_top(dir.path()).unwrap();
        let (file, before) = open_regular(top.as_fd(), c"f").unwrap();
        let how = How { content: Use::Nothing, evict: false, tidy: false };
        let shared = SharedFile::new(file, before, &how, &Hashing::plain(), c"f".to_owned(), ());
        std::fs::File::options().write(true).open(&path).unwrap().set_len(1).unwrap();
        while shared.work().is_some() {}
        assert_eq!(shared.finish().unwrap_err(), Errno::STALE);
    }
}
