//! Logs that grow while we read them: by name, because the upgrader moves them away when it starts, and from the start again when they
//! are emptied.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// As many first bytes tell whether a file is still the one that was read.
const HEAD: usize = 64;

/// What came since the last look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fresh {
    /// More of the same file.
    More(Vec<u8>),
    /// Another file has the name now, or the same was emptied: the next bytes are its first.
    Renewed,
}

/// One log, followed by its name.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    open: Option<Reading>,
}

#[derive(Debug)]
struct Reading {
    file: File,
    identity: (u64, u64),
    offset: u64,
    head: Vec<u8>,
}

impl Tail {
    /// Follows from the end of what is there now: that belongs to an earlier run.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn from_end(path: &Path) -> io::Result<Self> {
        let mut tail = Self { path: path.to_owned(), open: reading(path)? };
        if let Some(open) = &mut tail.open {
            open.offset = open.file.metadata()?.len();
            open.head = open.read_head()?;
        }
        Ok(tail)
    }

    /// What is new, in order. Not there is nothing new.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&mut self) -> io::Result<Vec<Fresh>> {
        let mut fresh = Vec::new();
        let named = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other?),
        };
        if let Some(open) = &mut self.open {
            let same = named.as_ref().is_some_and(|facts| (facts.dev(), facts.ino()) == open.identity);
            if open.was_emptied()? {
                open.offset = 0;
                open.head.clear();
                fresh.push(Fresh::Renewed);
            }
            open.more(&mut fresh)?;
            if same || named.is_none() {
                return Ok(fresh);
            }
        }
        // The first file under that name is a new one only to somebody who had another before.
        let had_one = self.open.is_some();
        self.open = reading(&self.path)?;
        if let Some(open) = &mut self.open {
            if had_one {
                fresh.push(Fresh::Renewed);
            }
            open.more(&mut fresh)?;
        }
        Ok(fresh)
    }
}

fn reading(path: &Path) -> io::Result<Option<Reading>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let facts = file.metadata()?;
    Ok(Some(Reading { file, identity: (facts.dev(), facts.ino()), offset: 0, head: Vec::new() }))
}

impl Reading {
    fn more(&mut self, fresh: &mut Vec<Fresh>) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(self.offset))?;
        self.file.read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.offset += bytes.len() as u64;
        if self.head.len() < HEAD {
            self.head = self.read_head()?;
        }
        fresh.push(Fresh::More(bytes));
        Ok(())
    }

    /// Shorter than what was read, or with other first bytes: emptied and filled again between two looks.
    fn was_emptied(&self) -> io::Result<bool> {
        if self.file.metadata()?.len() < self.offset {
            return Ok(true);
        }
        Ok(!self.read_head()?.starts_with(&self.head))
    }

    fn read_head(&self) -> io::Result<Vec<u8>> {
        let mut head = vec![0; HEAD.min(usize::try_from(self.offset).unwrap_or(HEAD))];
        let mut length = 0;
        while length < head.len() {
            match self.file.read_at(&mut head[length..], length as u64)? {
                0 => break,
                more => length += more,
            }
        }
        head.truncate(length);
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn texts(fresh: Vec<Fresh>) -> Vec<String> {
        fresh
            .into_iter()
            .map(|one| match one {
                Fresh::More(bytes) => String::from_utf8(bytes).unwrap(),
                Fresh::Renewed => "RENEWED".into(),
            })
            .collect()
    }

    #[test]
    fn what_was_there_before_is_not_told_and_what_is_moved_away_is_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("main.log");
        fs::write(&path, "of an earlier run\n").unwrap();
        let mut tail = Tail::from_end(&path).unwrap();
        assert!(tail.read().unwrap().is_empty());
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"one\n").unwrap();
        assert_eq!(texts(tail.read().unwrap()), ["one\n"]);
        fs::create_dir(dir.path().join("20260423-1015")).unwrap();
        file.write_all(b"two\n").unwrap();
        fs::rename(&path, dir.path().join("20260423-1015/main.log")).unwrap();
        assert_eq!(texts(tail.read().unwrap()), ["two\n"]);
        file.write_all(b"three\n").unwrap();
        fs::write(&path, "first\n").unwrap();
        assert_eq!(texts(tail.read().unwrap()), ["three\n", "RENEWED", "first\n"]);
        assert!(tail.read().unwrap().is_empty());
    }

    #[test]
    fn emptied_is_noticed_also_when_it_grew_beyond() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("main.log");
        let mut tail = Tail::from_end(&path).unwrap();
        assert!(tail.read().unwrap().is_empty());
        fs::write(&path, "short\n").unwrap();
        assert_eq!(texts(tail.read().unwrap()), ["short\n"]);
        fs::write(&path, "x\n").unwrap();
        assert_eq!(texts(tail.read().unwrap()), ["RENEWED", "x\n"]);
        fs::write(&path, "another and longer\n").unwrap();
        assert_eq!(texts(tail.read().unwrap()), ["RENEWED", "another and longer\n"]);
    }
}
