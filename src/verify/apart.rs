//! What a verification writes must not lie in what it reads: it would find itself, and call it damage.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::request::{Against, Request};
use super::run::VerifyError;
use crate::sources::Source;

/// Refuses directories for temporary files and restored trees that lie in a tree which is to be read.
pub(super) fn keep_apart(request: &Request) -> Result<(), VerifyError> {
    if let Source::Path(copy) = &request.copy
        && copy.is_dir()
    {
        refuse("--scratch", &request.scratch, copy, Mounts::MayBeEntered)?;
        if let Some(to) = &request.restore_to {
            refuse("--restore-to", to, copy, Mounts::MayBeEntered)?;
        }
    }
    if let Against::Tree(tree) = &request.against {
        // Its manifest is taken before anything is restored, so only the temporary files can be seen.
        refuse("--scratch", &request.scratch, tree, Mounts::AreEdges)?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mounts {
    MayBeEntered,
    AreEdges,
}

fn refuse(option: &'static str, directory: &Path, tree: &Path, mounts: Mounts) -> Result<(), VerifyError> {
    // A tree that is not there is told where it is read.
    let (Ok(tree), Some(there)) = (tree.canonicalize(), nearest(directory)) else { return Ok(()) };
    let another = || {
        let device = |path: &Path| path.metadata().map(|found| found.dev()).ok();
        device(&there) != device(&tree)
    };
    if !there.starts_with(&tree) || (mounts == Mounts::AreEdges && another()) {
        return Ok(());
    }
    Err(VerifyError::Inside { option, directory: directory.to_owned(), tree })
}

/// The directory itself, or what is there of the way to it: one that is restored to may be made only later.
fn nearest(directory: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(directory).ok()?;
    absolute.ancestors().find_map(|path| path.canonicalize().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{ScanOptions, scan, write_file};
    use crate::verify::verify;

    struct Lab {
        dir: tempfile::TempDir,
    }

    impl Lab {
        fn new() -> Self {
            let lab = Self { dir: tempfile::tempdir().unwrap() };
            for name in ["copy", "copy/in", "copy-too", "out"] {
                std::fs::create_dir(lab.at(name)).unwrap();
            }
            std::fs::write(lab.at("copy/f"), b"f").unwrap();
            let manifest = scan(&lab.at("copy"), &ScanOptions::default(), &|_| {}).unwrap();
            write_file(&manifest, &lab.at("manifest")).unwrap();
            lab
        }

        fn at(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn request(&self, against: Against, scratch: &str) -> Request {
            let copy = Source::Path(self.at("copy"));
            Request { scratch: self.at(scratch), ..Request::new(copy, against) }
        }
    }

    fn refused(request: &Request) -> Option<&'static str> {
        match verify(request, &|_| {}) {
            Err(VerifyError::Inside { option, .. }) => Some(option),
            Err(error) => panic!("{error:?}"),
            Ok(report) => {
                assert!(report.is_same(), "{report:?}");
                None
            }
        }
    }

    #[test]
    fn what_is_written_does_not_lie_in_what_is_read() {
        let lab = Lab::new();
        let manifest = || Against::Manifest(lab.at("manifest"));
        assert_eq!(refused(&lab.request(manifest(), "copy/in")), Some("--scratch"));
        assert_eq!(refused(&lab.request(manifest(), "copy")), Some("--scratch"));
        std::os::unix::fs::symlink(lab.at("copy/in"), lab.at("link")).unwrap();
        assert_eq!(refused(&lab.request(manifest(), "link")), Some("--scratch"));
        assert_eq!(refused(&lab.request(manifest(), "copy-too")), None);
        for to in ["copy/in", "copy/not/yet"] {
            let restore_to = Some(lab.at(to));
            let request = Request { restore_to, ..lab.request(manifest(), "out") };
            assert_eq!(refused(&request), Some("--restore-to"));
            assert!(!lab.at("copy/not").exists());
        }
    }

    #[test]
    fn a_live_tree_does_not_hold_the_temporary_files() {
        let lab = Lab::new();
        let against = || Against::Tree(lab.at("copy"));
        let copy = Source::Path(lab.at("copy-too"));
        let request = Request { copy, ..lab.request(against(), "copy/in") };
        assert_eq!(refused(&request), Some("--scratch"));
        assert_eq!(refused(&lab.request(against(), "out")), None);
    }
}
