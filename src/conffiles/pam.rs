//! PAM's configuration: modules that are named and not there keep everybody out, and what was changed by hand is not kept up by
//! `pam-auth-update`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::stock::{Below, StockError};
use crate::system::show;

const DIRECTORY: &str = "/etc/pam.d";
/// Where modules lie, besides the directories of architectures below the first two.
const LIBRARIES: [&str; 3] = ["/usr/lib", "/lib", "/usr/local/lib"];
/// The largest file that is read, in bytes.
const LIMIT: u64 = 1 << 20;
/// The file of a stack, and the line that `pam-auth-update` ends its own part with.
const END_OF_GENERATED: &str = "# end of pam-auth-update config";
const GENERATED: [&str; 5] =
    ["common-auth", "common-account", "common-password", "common-session", "common-session-noninteractive"];

/// A module or stack that is named and is not there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    /// The file that names it.
    pub file: PathBuf,
    /// The module or stack.
    pub named: String,
}

impl Missing {
    /// Whether people come in, or get their rights, by this service.
    #[must_use]
    pub fn keeps_people_out(&self) -> bool {
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("common-")
            || ["login", "other", "sshd", "su", "su-l", "sudo", "sudo-i"].contains(&&*name)
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} names {}, which is not there", show::path(&self.file), show::line(&self.named))
    }
}

/// What `/etc/pam.d` names and the system below a root does not have, in order.
///
/// # Errors
/// When the directory or a file in it cannot be read.
pub fn missing(root: &Path) -> Result<Vec<Missing>, StockError> {
    let below = Below::open(root)?;
    let directory = root.join(&DIRECTORY[1..]);
    let failed = |source| StockError::Read { path: DIRECTORY.into(), source };
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut missing = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let path = Path::new(DIRECTORY).join(entry.file_name());
        // What package tools left beside others is not read by PAM under its service's name.
        let is_service = !entry.file_name().to_string_lossy().contains(".dpkg-")
            && !entry.file_name().to_string_lossy().contains(".ucf-");
        if !is_service || !entry.file_type().map_err(failed)?.is_file() {
            continue;
        }
        let text = below.bytes(&path, LIMIT)?.unwrap_or_default();
        for named in named(&String::from_utf8_lossy(&text)) {
            if !exists(&below, root, &named)? {
                missing.insert(Missing { file: path.clone(), named });
            }
        }
    }
    Ok(missing.into_iter().collect())
}

/// The files of `pam-auth-update` that it no longer keeps up, because its part was taken out of them.
///
/// # Errors
/// When one cannot be read.
pub fn local(root: &Path) -> Result<Vec<PathBuf>, StockError> {
    let below = Below::open(root)?;
    let mut found = Vec::new();
    for name in GENERATED {
        let path = Path::new(DIRECTORY).join(name);
        let Some(text) = below.bytes(&path, LIMIT)? else { continue };
        if !String::from_utf8_lossy(&text).contains(END_OF_GENERATED) {
            found.push(path);
        }
    }
    Ok(found)
}

/// The modules and stacks that a file of a service names and cannot do without.
fn named(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let of_line = |line: &str| {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(stack) = line.strip_prefix("@include") {
            return Some(stack.trim().to_owned());
        }
        // A dash: to be passed over in silence where the module is not there.
        let (kind, rest) = line.split_once(char::is_whitespace)?;
        if kind.starts_with('-') {
            return None;
        }
        let rest = rest.trim_start();
        let (control, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => rest.split_once(char::is_whitespace)?,
        };
        let module = rest.split_whitespace().next()?;
        (control != "optional").then(|| module.to_owned())
    };
    joined.lines().filter_map(of_line).collect()
}

fn exists(below: &Below, root: &Path, named: &str) -> Result<bool, StockError> {
    if named.starts_with('/') {
        return Ok(below.file(Path::new(named))?.is_some());
    }
    if !named.ends_with(".so") {
        return Ok(below.file(&Path::new(DIRECTORY).join(named))?.is_some());
    }
    for library in LIBRARIES {
        let mut directories = vec![PathBuf::from(library)];
        let below_library = std::fs::read_dir(root.join(&library[1..])).into_iter().flatten().flatten();
        let of_architecture = below_library.map(|entry| entry.file_name());
        let triplets = of_architecture.filter(|name| name.to_string_lossy().contains("-linux-"));
        directories.extend(triplets.map(|name| Path::new(library).join(name)));
        for directory in directories {
            if below.file(&directory.join("security").join(named))?.is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTH: &str = "# a comment\nauth\t[success=1 default=ignore]\tpam_unix.so nullok\n-auth optional pam_ecryptfs.so\nauth required \\\n pam_gone.so\nauth optional pam_cap.so\n@include common-account\naccount include other\n";

    #[test]
    fn what_a_service_names() {
        assert_eq!(named(AUTH), ["pam_unix.so", "pam_gone.so", "common-account", "other"]);
    }

    #[test]
    fn what_is_missing_below_a_root() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        assert!(missing(root.path()).unwrap().is_empty());
        std::fs::create_dir_all(at("etc/pam.d")).unwrap();
        std::fs::create_dir_all(at("usr/lib/x86_64-linux-gnu/security")).unwrap();
        std::fs::write(at("usr/lib/x86_64-linux-gnu/security/pam_unix.so"), "").unwrap();
        std::fs::write(at("etc/pam.d/login"), AUTH).unwrap();
        std::fs::write(at("etc/pam.d/login.dpkg-dist"), "auth required pam_new.so\n").unwrap();
        std::fs::write(at("etc/pam.d/common-account"), format!("{END_OF_GENERATED}\n")).unwrap();
        std::fs::write(at("etc/pam.d/common-auth"), "auth required pam_unix.so\n").unwrap();
        let found = missing(root.path()).unwrap();
        assert!(found.iter().all(Missing::keeps_people_out));
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "/etc/pam.d/login names other, which is not there",
                "/etc/pam.d/login names pam_gone.so, which is not there"
            ]
        );
        assert_eq!(local(root.path()).unwrap(), [PathBuf::from("/etc/pam.d/common-auth")]);
    }
}
