//! A file that is read several times and must be the same file each time, whatever is renamed over its name meanwhile.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// An open file with a place of its own in it.
#[derive(Debug)]
pub(super) struct Pinned {
    file: Arc<File>,
    at: u64,
}

impl Pinned {
    /// Opens a file.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: Arc::new(File::open(path)?), at: 0 })
    }

    /// The same file from its beginning.
    pub(super) fn again(&self) -> Self {
        Self { file: Arc::clone(&self.file), at: 0 }
    }
}

impl Read for Pinned {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(into, self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_the_same_file_and_places_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"old").unwrap();
        let mut one = Pinned::open(&path).unwrap();
        one.read_exact(&mut [0; 2]).unwrap();
        std::fs::write(dir.path().join("g"), b"new").unwrap();
        std::fs::rename(dir.path().join("g"), &path).unwrap();
        let (mut rest, mut all) = (String::new(), String::new());
        one.again().read_to_string(&mut all).unwrap();
        one.read_to_string(&mut rest).unwrap();
        assert_eq!((all.as_str(), rest.as_str()), ("old", "d"));
    }
}
