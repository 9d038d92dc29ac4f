//! The apt sources as they were before Ubuntu's upgrader, byte by byte. When it crashes it leaves them rewritten to the new release,
//! and the old system would then install packages of the new one.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::system::durable::{self, DurableError};

/// Sources that could not be kept or put back.
#[derive(Debug, thiserror::Error)]
pub enum OriginalsError {
    /// A file could not be read, made or removed.
    #[error("failed to {action} {}", .path.display())]
    File {
        /// What was to be done.
        action: &'static str,
        /// With which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A copy could not be written.
    #[error("failed to keep or put back the apt sources")]
    Write(#[from] DurableError),
    /// They were never kept.
    #[error("{} holds no kept apt sources", .path.display())]
    NothingKept {
        /// The directory.
        path: PathBuf,
    },
}

/// Below the root; files right in `etc/apt` by name, all of a directory.
const FILES: [&str; 2] = ["etc/apt/sources.list", "etc/apt/sources.list.distUpgrade"];
const DIRECTORY: &str = "etc/apt/sources.list.d";
/// Written last: with it, the copies are complete.
const COMPLETE: &str = "complete";

fn at<'p>(action: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> OriginalsError + use<'p> {
    move |source| OriginalsError::File { action, path: path.to_owned(), source }
}

/// Copies all sources below a root into `kept`, links as links. Not repeatable: an earlier copy is replaced.
///
/// # Errors
/// Names the file.
pub fn keep(root: &Path, kept: &Path) -> Result<(), OriginalsError> {
    durable::remove_file(&kept.join(COMPLETE))?;
    match fs::remove_dir_all(kept.join("etc")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(at("remove", &kept.join("etc"))(error));
        }
        _ => {}
    }
    durable::private_directory(&kept.join(DIRECTORY))?;
    for relative in present(root)? {
        copy(&root.join(&relative), &kept.join(&relative))?;
    }
    durable::replace_file(&kept.join(COMPLETE), b"", 0o600)?;
    durable::sync_filesystem(kept)?;
    Ok(())
}

/// Puts back what differs and removes what was not there. Returns the files that it touched, absolute; none when all was as before.
///
/// # Errors
/// Names the file; repeatable.
pub fn put_back(root: &Path, kept: &Path) -> Result<Vec<PathBuf>, OriginalsError> {
    if !kept.join(COMPLETE).exists() {
        return Err(OriginalsError::NothingKept { path: kept.to_owned() });
    }
    let (before, now) = (present(kept)?, present(root)?);
    let mut touched = Vec::new();
    for relative in &before {
        let (copy_of, real) = (kept.join(relative), root.join(relative));
        if !same(&copy_of, &real)? {
            durable::remove_file(&real)?;
            copy(&copy_of, &real)?;
            touched.push(Path::new("/").join(relative));
        }
    }
    for relative in now.difference(&before) {
        durable::remove_file(&root.join(relative))?;
        touched.push(Path::new("/").join(relative));
    }
    Ok(touched)
}

/// Every file and link that belongs to the sources, below a root. Directories in between are nobody's.
fn present(root: &Path) -> Result<BTreeSet<PathBuf>, OriginalsError> {
    let mut found: BTreeSet<PathBuf> =
        FILES.iter().map(PathBuf::from).filter(|file| root.join(file).symlink_metadata().is_ok()).collect();
    let directory = root.join(DIRECTORY);
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        other => other.map_err(at("read", &directory))?,
    };
    for entry in entries {
        let entry = entry.map_err(at("read", &directory))?;
        let kind = entry.file_type().map_err(at("read", &directory))?;
        let name: OsString = entry.file_name();
        if !kind.is_dir() {
            found.insert(Path::new(DIRECTORY).join(name));
        }
    }
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> Result<(), OriginalsError> {
    let facts = from.symlink_metadata().map_err(at("read", from))?;
    if facts.is_symlink() {
        let target = fs::read_link(from).map_err(at("read", from))?;
        return symlink(target, to).map_err(at("make the link", to));
    }
    let bytes = fs::read(from).map_err(at("read", from))?;
    durable::replace_file(to, &bytes, facts.permissions().mode() & 0o7777)?;
    Ok(())
}

fn same(one: &Path, other: &Path) -> Result<bool, OriginalsError> {
    let facts = |path: &Path| match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(at("read", path)),
    };
    let (Some(first), Some(second)) = (facts(one)?, facts(other)?) else { return Ok(false) };
    if first.is_symlink() || second.is_symlink() {
        let both = first.is_symlink() && second.is_symlink();
        return Ok(both && fs::read_link(one).ok() == fs::read_link(other).ok());
    }
    let mode = |facts: &fs::Metadata| facts.permissions().mode() & 0o7777;
    let content = |path: &Path| fs::read(path).map_err(at("read", path));
    Ok(mode(&first) == mode(&second) && content(one)? == content(other)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_leaves_no_trace_in_the_sources() {
        let dir = tempfile::tempdir().unwrap();
        let (root, kept) = (dir.path().join("root"), dir.path().join("kept"));
        let at = |name: &str| root.join("etc/apt").join(name);
        fs::create_dir_all(at("sources.list.d")).unwrap();
        fs::write(at("sources.list"), "deb http://mirror.invalid/ubuntu noble main\n").unwrap();
        fs::write(at("sources.list.d/ubuntu.sources"), "Suites: noble\n").unwrap();
        fs::write(at("sources.list.d/ppa.list"), "deb http://ppa.invalid noble main\n").unwrap();
        symlink("/opt/vendor.list", at("sources.list.d/vendor.list")).unwrap();
        assert!(put_back(&root, &kept).unwrap_err().to_string().contains("holds no kept"));
        keep(&root, &kept).unwrap();
        assert_eq!(put_back(&root, &kept).unwrap(), Vec::<PathBuf>::new());

        fs::write(at("sources.list.d/ubuntu.sources"), "Suites: resolute\n").unwrap();
        fs::rename(at("sources.list.d/ppa.list"), at("sources.list.d/ppa.list.migrate")).unwrap();
        fs::write(at("sources.list.d/ppa.sources"), "Enabled: no\n").unwrap();
        fs::write(at("sources.list.distUpgrade"), "x").unwrap();
        fs::remove_file(at("sources.list.d/vendor.list")).unwrap();
        fs::set_permissions(at("sources.list"), fs::Permissions::from_mode(0o600)).unwrap();
        let touched = put_back(&root, &kept).unwrap();
        assert_eq!(touched.len(), 7, "{touched:?}");
        assert_eq!(fs::read_to_string(at("sources.list.d/ubuntu.sources")).unwrap(), "Suites: noble\n");
        assert_eq!(fs::read_link(at("sources.list.d/vendor.list")).unwrap(), Path::new("/opt/vendor.list"));
        assert!(at("sources.list.d/ppa.list").exists() && !at("sources.list.d/ppa.sources").exists());
        assert_eq!(fs::metadata(at("sources.list")).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(put_back(&root, &kept).unwrap(), Vec::<PathBuf>::new());
    }
}
