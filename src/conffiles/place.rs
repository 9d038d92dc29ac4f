//! Where the package tools were told to keep every file, decisions to take the new one are carried out afterwards: always for ucf, and
//! for dpkg too where another program drives it (Ubuntu's upgrader).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};

use super::left::{ConffileDecision, Decision};
use super::policy::{Choice, Decisions};
use crate::system::beneath;

/// What the tools call the new file that was not put in force, and what they call an old one that no longer is.
const ENDINGS: [(&str, &str); 2] = [(".ucf-dist", ".ucf-old"), (".dpkg-dist", ".dpkg-old")];

/// A file that could not be put in place.
#[derive(Debug, thiserror::Error)]
#[error("failed to put {} in place", .path.display())]
pub struct PlaceError {
    path: PathBuf,
    source: io::Error,
}

/// Takes every new file that the decisions want taken, and says so in the list. Returns the first about which nobody decided, or which
/// nobody wanted to be asked about: it is kept. Repeatable.
///
/// # Errors
/// As [`take_new`].
pub fn carry_out(
    root: &Path,
    decisions: &Decisions,
    found: &mut [ConffileDecision],
) -> Result<Option<PathBuf>, PlaceError> {
    let mut unwanted = None;
    for one in found.iter_mut().filter(|one| one.decision == Decision::Kept) {
        let Some(endings) = one.leftover.as_deref().and_then(endings_of) else { continue };
        match decisions.choice(&one.path) {
            Choice::Keep => {}
            Choice::Fail => unwanted = unwanted.or_else(|| Some(one.path.clone())),
            Choice::Take => {
                if let Taken::Yes { old_is_there } = take_new(root, &one.path, endings)? {
                    one.decision = Decision::Replaced;
                    one.leftover = old_is_there.then(|| with(one.path.as_os_str(), endings.1).into());
                }
            }
        }
    }
    Ok(unwanted)
}

type Endings = (&'static str, &'static str);

fn endings_of(leftover: &Path) -> Option<Endings> {
    let bytes = leftover.as_os_str().as_encoded_bytes();
    ENDINGS.into_iter().find(|(new, _)| bytes.ends_with(new.as_bytes()))
}

/// Whether a new file was taken.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    /// There is no new file (any more).
    No,
    /// It is in force.
    Yes {
        /// The old one lies beside it; not when the administrator had deleted it.
        old_is_there: bool,
    },
}

/// Puts the new file of `path` below a root in its place, with the owner and the mode of the old one, which is kept beside it.
///
/// # Errors
/// When the file or its directory is reached through a link, is no plain file, or cannot be replaced.
fn take_new(root: &Path, path: &Path, endings: Endings) -> Result<Taken, PlaceError> {
    let failed = |source: io::Error| PlaceError { path: path.to_owned(), source };
    let relative = path.strip_prefix("/").unwrap_or(path);
    let (Some(parent), Some(name)) = (relative.parent(), relative.file_name()) else {
        return Err(failed(io::Error::other("it is no path of a file")));
    };
    let top = File::open(root).map_err(failed)?;
    let directory = beneath::directory(&top, parent).map_err(|errno| failed(errno.into()))?;
    take(&directory, name, endings).map_err(failed)
}

fn take(directory: &rustix::fd::OwnedFd, name: &OsStr, endings: Endings) -> io::Result<Taken> {
    let (new, old) = (with(name, endings.0), with(name, endings.1));
    if beneath::look(directory, &new)?.is_none() {
        return Ok(Taken::No);
    }
    let (new_file, _) = beneath::regular(directory, &new)?;
    let old_is_there = beneath::look(directory, name)?.is_some();
    if old_is_there {
        let (_, mine) = beneath::regular(directory, name)?;
        let owner = (Uid::from_raw(mine.st_uid), Gid::from_raw(mine.st_gid));
        rustix::fs::fchown(&new_file, Some(owner.0), Some(owner.1))?;
        rustix::fs::fchmod(&new_file, Mode::from_raw_mode(mine.st_mode & 0o7777))?;
        match rustix::fs::unlinkat(directory, &old, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        // A hard link: at no moment is there no file by this name.
        rustix::fs::linkat(directory, name, directory, &old, AtFlags::empty())?;
    }
    new_file.sync_all()?;
    rustix::fs::renameat(directory, &new, directory, name)?;
    // What was opened to look below it cannot be synced on every filesystem; opened as itself it can.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let itself = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    rustix::fs::fsync(itself)?;
    Ok(Taken::Yes { old_is_there })
}

fn with(name: &OsStr, ending: &str) -> OsString {
    let mut whole = name.to_owned();
    whole.push(ending);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use crate::conffiles::Facts;
    use crate::conffiles::answers::Answers;
    use crate::conffiles::policy::{Action, Policy, Rule};

    fn kept(path: &str, leftover: &str) -> ConffileDecision {
        ConffileDecision { path: path.into(), decision: Decision::Kept, leftover: Some(leftover.into()) }
    }

    /// Everything is taken but `/etc/asked`, which nobody answered, and `/etc/mine`.
    fn decisions() -> Decisions {
        let rule = |pattern, action| Rule::new(pattern, action).unwrap();
        let rules = vec![rule("/etc/asked", Action::Ask), rule("/etc/mine", Action::Keep)];
        Decisions::new(&Facts::default(), &Policy { otherwise: Action::Take, rules }, &Answers::default())
    }

    #[test]
    fn the_new_one_takes_the_place_of_the_old() {
        for (new, old) in ENDINGS {
            let root = tempfile::tempdir().unwrap();
            let at = |path: &str| root.path().join(path);
            fs::create_dir(at("etc")).unwrap();
            fs::write(at("etc/x"), "mine").unwrap();
            fs::set_permissions(at("etc/x"), fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(at(&format!("etc/x{new}")), "new").unwrap();
            let mut found = [kept("/etc/x", &format!("/etc/x{new}"))];
            assert_eq!(carry_out(root.path(), &decisions(), &mut found).unwrap(), None);
            assert_eq!(fs::read(at("etc/x")).unwrap(), b"new");
            assert_eq!(fs::read(at(&format!("etc/x{old}"))).unwrap(), b"mine");
            assert_eq!(fs::metadata(at("etc/x")).unwrap().permissions().mode() & 0o7777, 0o600);
            assert_eq!(found[0].decision, Decision::Replaced);
            assert_eq!(found[0].leftover.as_deref(), Some(Path::new(&format!("/etc/x{old}"))));
            // Once more, as after a crash between the file and the list.
            let mut again = [kept("/etc/x", &format!("/etc/x{new}"))];
            assert_eq!(carry_out(root.path(), &decisions(), &mut again).unwrap(), None);
            assert_eq!(again[0].decision, Decision::Kept);
            assert_eq!(fs::read_dir(at("etc")).unwrap().count(), 2);
        }
    }

    #[test]
    fn a_file_that_was_deleted_here_comes_back_when_it_shall() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/x.dpkg-dist"), "new").unwrap();
        let mut found = [kept("/etc/x", "/etc/x.dpkg-dist")];
        assert_eq!(carry_out(root.path(), &decisions(), &mut found).unwrap(), None);
        assert_eq!(fs::read(root.path().join("etc/x")).unwrap(), b"new");
        assert_eq!((found[0].decision, found[0].leftover.clone()), (Decision::Replaced, None));
    }

    #[test]
    fn what_nobody_decided_is_kept_and_named() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir(at("etc")).unwrap();
        for name in ["asked", "mine"] {
            fs::write(at(&format!("etc/{name}")), "mine").unwrap();
            fs::write(at(&format!("etc/{name}.dpkg-dist")), "new").unwrap();
        }
        let mut found = ["/etc/mine", "/etc/asked"].map(|path| kept(path, &format!("{path}.dpkg-dist")));
        let unwanted = carry_out(root.path(), &decisions(), &mut found).unwrap();
        assert_eq!(unwanted, Some(PathBuf::from("/etc/asked")));
        for name in ["asked", "mine"] {
            assert_eq!(fs::read(at(&format!("etc/{name}"))).unwrap(), b"mine");
        }
        assert!(found.iter().all(|one| one.decision == Decision::Kept));
    }

    #[test]
    fn a_link_is_not_replaced() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let take = |path: &str| take_new(root.path(), Path::new(path), ENDINGS[0]);
        fs::create_dir(at("etc")).unwrap();
        symlink("/elsewhere", at("etc/x")).unwrap();
        fs::write(at("etc/x.ucf-dist"), "new").unwrap();
        assert!(take("/etc/x").is_err());
        assert!(at("etc/x.ucf-dist").exists());
        symlink("etc", at("link")).unwrap();
        assert!(take("/link/x").is_err());
        assert!(take("/").is_err());
    }
}
