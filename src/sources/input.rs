//! Where the bytes of an archive or stream come from, and which of the two they are.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::compressed::Decompressed;
use super::{Input, SourceError};

/// The first bytes of a btrfs send stream (btrfs-progs, `send.h`).
const SEND_MAGIC: &[u8] = b"btrfs-stream\0";

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// A btrfs send stream, compressed or not.
    SendStream,
    /// Anything else: whoever reads it will say whether it is a tar archive.
    Archive,
}

/// Opens it.
///
/// # Errors
/// When there is no such file, or it may not be read.
pub fn open(input: &Input) -> Result<Box<dyn Read + Send>, SourceError> {
    match input {
        Input::Stdin => Ok(Box::new(io::stdin())),
        Input::File(path) => {
            let file = File::open(path).map_err(|source| trouble(path, source))?;
            Ok(Box::new(file))
        }
    }
}

/// Whether it can be opened again and gives the same bytes; a pipe does not.
#[must_use]
pub fn reopens(input: &Input) -> bool {
    matches!(input, Input::File(path) if path.is_file())
}

/// Looks at the first bytes of a file.
///
/// # Errors
/// When it cannot be read, or is a pipe or device, from which the first bytes would be lost.
pub fn holds(path: &Path) -> Result<Holds, SourceError> {
    let found = std::fs::metadata(path).map_err(|source| trouble(path, source))?;
    if !found.is_file() {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(|source| trouble(path, source))?;
    let mut first = Vec::with_capacity(SEND_MAGIC.len());
    let unpacked = Decompressed::new(file).map_err(|source| trouble(path, source))?;
    // What does not unpack is no send stream; the reader of archives says what is wrong with it.
    let read = unpacked.take(SEND_MAGIC.len() as u64).read_to_end(&mut first);
    Ok(if read.is_ok() && first == SEND_MAGIC { Holds::SendStream } else { Holds::Archive })
}

fn trouble(path: &Path, source: io::Error) -> SourceError {
    SourceError::Open { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_stream_is_known_by_its_first_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (bytes, wanted) in [
            (&b"btrfs-stream\0\x01\0\0\0"[..], Holds::SendStream),
            (b"btrfs-stream", Holds::Archive),
            (b"", Holds::Archive),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(holds(&path).unwrap(), wanted);
        }
        assert!(matches!(holds(Path::new("/no/such")), Err(SourceError::Open { .. })));
        assert!(reopens(&Input::File(path)) && !reopens(&Input::Stdin));
    }

    #[test]
    fn a_pipe_is_not_looked_at() {
        use std::io::Write;
        use std::os::fd::AsRawFd;
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"btrfs-stream\0").unwrap();
        drop(writer);
        // As a shell's <( ) names it.
        let path = std::path::PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
        let error = holds(&path).unwrap_err();
        assert!(error.to_string().contains(&format!("tar:{}", path.display())), "{error}");
        assert!(!reopens(&Input::File(path)));
        assert_eq!(io::read_to_string(reader).unwrap(), "btrfs-stream\0");
    }
}
