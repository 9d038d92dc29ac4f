//! Reading below a root: what is not there is no error, what can't be read is.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use crate::finding::Finding;
use crate::health::HealthError;
use crate::health::packages::Packages;
use crate::system::exec::ExecError;
use crate::system::identity::IdentityError;
use crate::system::mounts::{self, Mount, MountsError};
use crate::system::show;

/// A fact about the machine that could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A file or directory could not be read.
    #[error("failed to read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program could not be asked.
    #[error("failed to ask a program")]
    Ask(#[from] ExecError),
    /// The packages.
    #[error("failed to read the packages")]
    Packages(#[from] HealthError),
    /// The release.
    #[error("failed to find out which release this is")]
    Identity(#[from] IdentityError),
    /// The mounts.
    #[error("failed to read the mounts")]
    Mounts(#[from] MountsError),
    /// A file holds something else than expected.
    #[error("{} holds {what}, which is not understood", .path.display())]
    Understand {
        /// The file.
        path: PathBuf,
        /// What.
        what: String,
    },
}

/// Where something lies below a root.
pub(super) fn at(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// The text of a file; `None` when it is not there. Bytes that are no UTF-8 are replaced.
pub(super) fn text(root: &Path, path: &str) -> Result<Option<String>, InspectError> {
    Ok(bytes(root, path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The bytes of a file; `None` when it is not there.
pub(super) fn bytes(root: &Path, path: &str) -> Result<Option<Vec<u8>>, InspectError> {
    let path = at(root, path);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if absent(&error) => Ok(None),
        Err(source) => Err(InspectError::Read { path, source }),
    }
}

/// A file in a home that is larger is not looked at: nobody has that many keys.
const MOST_OF_A_HOME_FILE: u64 = 1 << 20;

/// The text of a file in somebody's home; `None` when it is not there, or could not be seen, which is added to `unseen`. Its owner
/// may have put anything there (a pipe, a link to a device), and root may not be let in at all (a home on NFS or FUSE): neither
/// stops or blocks a look at the machine.
pub(super) fn of_user(root: &Path, path: &str, unseen: &mut Vec<String>) -> Option<String> {
    match ordinary_file(&at(root, path)) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if absent(&error) => None,
        Err(error) => {
            unseen.push(format!("{path}: {error}"));
            None
        }
    }
}

/// Reads a file only when it is an ordinary one. What it is, is found out before it is opened: to open a device can have effects.
fn ordinary_file(path: &Path) -> io::Result<Vec<u8>> {
    let named = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let facts = rustix::fs::fstat(&named)?;
    if FileType::from_raw_mode(facts.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no ordinary file"));
    }
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let same = format!("/proc/self/fd/{}", named.as_raw_fd());
    let mut bytes = Vec::new();
    let file = fs::File::options().read(true).custom_flags(flags).open(same)?;
    file.take(MOST_OF_A_HOME_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_OF_A_HOME_FILE {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(bytes)
}

/// The note about what [`of_user`] could not see.
pub(super) fn unseen_note(unseen: &[String]) -> Option<Finding> {
    const LISTED: usize = 20;
    let more = unseen.len().saturating_sub(LISTED);
    (!unseen.is_empty()).then(|| {
        Finding::note(
            "home-files-not-seen",
            "files in homes could not be looked at: they are no ordinary files, or root is not let in.",
            "look yourself, as the user, whether the new release still takes what is in them",
        )
        .with_evidence(unseen.iter().take(LISTED).map(|line| show::line(line)))
        .with_evidence((more > 0).then(|| format!("and {more} more")))
    })
}

/// The names in a directory, sorted; empty when it is not there.
pub(super) fn names(root: &Path, path: &str) -> Result<Vec<String>, InspectError> {
    let path = at(root, path);
    let wrong = |source| InspectError::Read { path: path.clone(), source };
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(wrong(error)),
    };
    let names: io::Result<Vec<String>> =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
    let mut names = names.map_err(wrong)?;
    names.sort();
    Ok(names)
}

/// The mounts that the system below the root sees; none where it does not run.
pub(super) fn mounted(root: &Path) -> Result<Vec<Mount>, InspectError> {
    match bytes(root, "proc/self/mountinfo")? {
        Some(table) => Ok(mounts::parse(&table)?),
        None => Ok(Vec::new()),
    }
}

/// Lines that say something: without comments and empty ones, trimmed.
pub(super) fn settings(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
}

/// The version of an installed package, of whichever architecture.
pub(super) fn version<'p>(packages: &'p Packages, name: &str) -> Option<&'p str> {
    packages
        .installed
        .iter()
        .find(|(package, _)| package.split(':').next() == Some(name))
        .map(|(_, version)| version.as_str())
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
pub(crate) mod made_up {
    use super::{Path, fs};

    /// A root for tests, filled with these files.
    pub(crate) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            put(dir.path(), path, text);
        }
        dir
    }

    pub(crate) fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The ids of findings, with a letter for each weight.
    pub(crate) fn ids(findings: &[crate::finding::Finding]) -> Vec<String> {
        findings
            .iter()
            .map(|finding| format!("{:?} {}", finding.severity, finding.id).to_lowercase())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_no_error() {
        let dir = made_up::tree(&[("etc/x", "# c\n\n a = 1\n;d\n"), ("d/b", ""), ("d/a", "")]);
        assert_eq!(text(dir.path(), "etc/none").unwrap(), None);
        assert_eq!(text(dir.path(), "etc/x/below").unwrap(), None);
        assert_eq!(settings(&text(dir.path(), "/etc/x").unwrap().unwrap()).collect::<Vec<_>>(), ["a = 1"]);
        assert_eq!(names(dir.path(), "d").unwrap(), ["a", "b"]);
        assert!(names(dir.path(), "none").unwrap().is_empty());
        assert!(text(dir.path(), "d").is_err(), "a directory is no file");
        assert!(mounted(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn a_user_can_neither_block_nor_stop_a_look() {
        use std::os::unix::fs::symlink;
        let dir = made_up::tree(&[("h/.ssh/keys", "ssh-dss A\n"), ("h/d/x", ""), ("h/file", "")]);
        let at = |path: &str| dir.path().join(path);
        rustix::fs::mknodat(rustix::fs::CWD, at("h/pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        symlink("/dev/zero", at("h/zero")).unwrap();
        symlink("pipe", at("h/to-pipe")).unwrap();
        symlink("loop", at("h/loop")).unwrap();
        symlink(".ssh/keys", at("h/link")).unwrap();
        symlink("nowhere", at("h/dangling")).unwrap();
        fs::write(at("h/large"), vec![b'x'; (1 << 20) + 1]).unwrap();
        let mut unseen = Vec::new();
        let mut seen = |path: &str| of_user(dir.path(), path, &mut unseen);
        assert_eq!(seen("/h/link").as_deref(), Some("ssh-dss A\n"), "a link to an ordinary file is followed");
        for path in ["/h/none", "/h/dangling", "/h/file/below"] {
            assert_eq!(seen(path), None);
        }
        for path in ["/h/pipe", "/h/zero", "/h/to-pipe", "/h/d", "/h/loop", "/h/large"] {
            assert_eq!(seen(path), None, "{path}");
        }
        assert_eq!(unseen.len(), 6, "{unseen:?}");
        assert!(
            unseen[0].starts_with("/h/pipe: it is no ordinary") && unseen[5].contains("1 MiB"),
            "{unseen:?}"
        );
        assert_eq!(made_up::ids(&[unseen_note(&unseen).unwrap()]), ["note home-files-not-seen"]);
        assert_eq!(unseen_note(&vec![String::new(); 30]).unwrap().evidence.len(), 21);
        assert_eq!(unseen_note(&[]), None);
    }
}
