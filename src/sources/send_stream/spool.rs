//! Contents that other files share parts of, kept on disk while a stream is read for the second time.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tempfile::TempDir;

use super::tree::Id;

/// One sparse file for each content that is wanted; all go when this goes.
#[derive(Debug)]
pub(super) struct Spool {
    directory: TempDir,
    wanted: BTreeSet<Id>,
    /// The one that was used last.
    open: Option<(Id, File)>,
}

impl Spool {
    /// A private directory in `scratch`.
    pub(super) fn new(scratch: &Path, wanted: BTreeSet<Id>) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("shared-").tempdir_in(scratch)?;
        Ok(Self { directory, wanted, open: None })
    }

    /// Whether the content of this file is kept.
    pub(super) fn wants(&self, id: Id) -> bool {
        self.wanted.contains(&id)
    }

    /// Keeps bytes of a file.
    pub(super) fn write(&mut self, id: Id, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(id)?.write_all_at(bytes, offset)
    }

    /// Reads bytes of a file; what was never written are zeros.
    pub(super) fn read(&mut self, id: Id, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        let file = self.file(id)?;
        while !buffer.is_empty() {
            match file.read_at(buffer, offset) {
                Ok(0) => {
                    buffer.fill(0);
                    break;
                }
                Ok(count) => {
                    offset += count as u64;
                    buffer = &mut buffer[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn file(&mut self, id: Id) -> io::Result<&File> {
        let open = match self.open.take() {
            Some((last, file)) if last == id => file,
            _ => OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(self.directory.path().join(id.to_string()))?,
        };
        Ok(&self.open.insert((id, open)).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_written_are_zeros() {
        let scratch = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(scratch.path(), BTreeSet::from([1, 2])).unwrap();
        spool.write(1, 3, b"abc").unwrap();
        spool.write(2, 0, b"xyz").unwrap();
        let mut buffer = [9; 8];
        spool.read(1, 1, &mut buffer).unwrap();
        assert_eq!(&buffer, b"\0\0abc\0\0\0");
        assert!(spool.wants(2) && !spool.wants(3));
        drop(spool);
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
