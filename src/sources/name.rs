//! How a copy is named on the command line: what it is, and where.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::system::show;

/// A copy, as it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path: a directory, or a file whose first bytes say what it is.
    Path(PathBuf),
    /// A tar archive, compressed or not.
    Tar(Input),
    /// A btrfs send stream, compressed or not.
    SendStream(Input),
    /// `[USER@]HOST:PATH`, a directory on another machine.
    Ssh(OsString),
    /// A restic repository, as restic names it.
    Restic(OsString),
    /// A borg repository, with `::ARCHIVE` or without, as borg names it.
    Borg(OsString),
    /// `REMOTE:PATH`, as rclone names it.
    Rclone(OsString),
}

/// Where a stream comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A file.
    File(PathBuf),
    /// Standard input, named `-`.
    Stdin,
}

/// The words before the colon, as `--help` and errors list them.
pub const PREFIXES: &str = "dir, tar, send, ssh, restic, borg, rclone";

/// A name that says too little.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSource {
    /// Nothing follows the colon.
    #[error("nothing follows \"{0}:\"")]
    Empty(&'static str),
    /// Standard input could be anything.
    #[error("\"-\" does not say what comes: name it tar:- or send:-")]
    Stdin,
}

impl Source {
    /// Understands a name: `WORD:REST` for the words of [`PREFIXES`], otherwise a path. A path that begins with such a word is
    /// written `./WORD:...`.
    ///
    /// # Errors
    /// When nothing follows the colon, or it is a plain `-`.
    pub fn parse(name: &OsStr) -> Result<Self, InvalidSource> {
        if name == "-" {
            return Err(InvalidSource::Stdin);
        }
        let bytes = name.as_bytes();
        let Some(colon) = bytes.iter().position(|&byte| byte == b':') else {
            return Ok(Self::Path(name.into()));
        };
        let (word, rest) = (&bytes[..colon], OsStr::from_bytes(&bytes[colon + 1..]));
        let filled = |word: &'static str| match rest.is_empty() {
            true => Err(InvalidSource::Empty(word)),
            false => Ok(rest.to_owned()),
        };
        let input = |word| filled(word).map(Input::of);
        match word {
            b"dir" => Ok(Self::Path(filled("dir")?.into())),
            b"tar" => input("tar").map(Self::Tar),
            b"send" => input("send").map(Self::SendStream),
            b"ssh" => filled("ssh").map(Self::Ssh),
            b"restic" => filled("restic").map(Self::Restic),
            b"borg" => filled("borg").map(Self::Borg),
            b"rclone" => filled("rclone").map(Self::Rclone),
            _ => Ok(Self::Path(name.into())),
        }
    }
}

impl Input {
    fn of(name: OsString) -> Self {
        if name == "-" { Self::Stdin } else { Self::File(name.into()) }
    }
}

impl fmt::Display for Source {
    /// As it was typed, safe to show.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.write_str(&show::path(path)),
            Self::Tar(input) => write!(f, "tar:{input}"),
            Self::SendStream(input) => write!(f, "send:{input}"),
            Self::Ssh(rest) => write!(f, "ssh:{}", show::bytes(rest.as_bytes())),
            Self::Restic(rest) => write!(f, "restic:{}", show::bytes(rest.as_bytes())),
            Self::Borg(rest) => write!(f, "borg:{}", show::bytes(rest.as_bytes())),
            Self::Rclone(rest) => write!(f, "rclone:{}", show::bytes(rest.as_bytes())),
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(&show::path(path)),
            Self::Stdin => f.write_str("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_and_shown_as_they_were() {
        let file = |path: &str| Input::File(path.into());
        let table = [
            ("/srv/copy", Source::Path("/srv/copy".into())),
            ("a:b", Source::Path("a:b".into())),
            ("./tar:x", Source::Path("./tar:x".into())),
            ("tar:/a.tar.zst", Source::Tar(file("/a.tar.zst"))),
            ("tar:-", Source::Tar(Input::Stdin)),
            ("send:-", Source::SendStream(Input::Stdin)),
            ("restic:sftp:host:/repo", Source::Restic("sftp:host:/repo".into())),
            ("borg:/repo::latest", Source::Borg("/repo::latest".into())),
            ("rclone:remote:path", Source::Rclone("remote:path".into())),
            ("ssh:root@host:/srv", Source::Ssh("root@host:/srv".into())),
        ];
        for (name, wanted) in table {
            let source = Source::parse(OsStr::new(name)).unwrap();
            assert_eq!(source, wanted);
            assert_eq!(source.to_string(), name);
        }
        assert_eq!(Source::parse(OsStr::new("dir:tar:x")).unwrap(), Source::Path("tar:x".into()));
        assert_eq!(Source::parse(OsStr::new("-")), Err(InvalidSource::Stdin));
        assert_eq!(Source::parse(OsStr::new("tar:")), Err(InvalidSource::Empty("tar")));
    }
}
