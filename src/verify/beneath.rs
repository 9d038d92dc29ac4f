//! Names looked up beneath a tree: never outside of it, and through no link, whatever the tree holds.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use crate::manifest::entry::{file_name, parent};
use crate::manifest::single::{descend, open_top};

/// A tree, and the directory that was looked up last: files come in order, so it is mostly the next one's too.
#[derive(Debug)]
pub(super) struct Beneath {
    top: Arc<OwnedFd>,
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl Beneath {
    /// Opens a tree.
    pub(super) fn open(tree: &Path) -> Result<Self, Errno> {
        Ok(Self { top: Arc::new(open_top(tree)?), last: None })
    }

    /// The same tree for another thread.
    pub(super) fn again(&self) -> Self {
        Self { top: Arc::clone(&self.top), last: None }
    }

    /// The directory that holds `path`, and its name in there.
    pub(super) fn parent_and_name(&mut self, path: &[u8]) -> Result<(BorrowedFd<'_>, CString), Errno> {
        let name = CString::new(file_name(path)).map_err(|_| Errno::INVAL)?;
        let directory = parent(path).unwrap_or_default();
        if self.last.as_ref().is_none_or(|(last, _)| last != directory) {
            self.last = Some((directory.to_vec(), descend(self.top.as_fd(), directory)?));
        }
        // It was put there just now, or was there.
        let fd = self.last.as_ref().map_or(self.top.as_fd(), |(_, fd)| fd.as_fd());
        Ok((fd, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_nowhere_and_the_last_directory_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("t");
        std::fs::create_dir_all(tree.join("d")).unwrap();
        std::os::unix::fs::symlink("d", tree.join("link")).unwrap();
        let mut beneath = Beneath::open(&tree).unwrap();
        let mut at = |path: &[u8]| {
            beneath.parent_and_name(path).map(|(dir, _)| {
                use std::os::fd::AsRawFd;
                dir.as_raw_fd()
            })
        };
        let first = at(b"d/f").unwrap();
        assert_eq!(at(b"d/g").unwrap(), first);
        assert!(matches!(at(b"link/f"), Err(Errno::LOOP | Errno::NOTDIR)));
        assert!(at(b"../t/f").is_err());
        assert_eq!(at(b"none/f").unwrap_err(), Errno::NOENT);
        assert_eq!(beneath.parent_and_name(b"f").unwrap().1.as_bytes(), b"f");
    }
}
