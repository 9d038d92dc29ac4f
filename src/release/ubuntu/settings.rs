//! What is written before Ubuntu's upgrader starts, and taken away after it, on every way out: a record of it lies on a filesystem that
//! outlives the process, so that a later one can sweep what a dead one left.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::release::apt::CONFFILE_POLICY;
use crate::system::durable::{self, DurableError};

/// Overrides of the upgrader's configuration; read after everybody else's in that directory, of which the last counts.
pub const OVERRIDES: &str = "etc/update-manager/release-upgrades.d/zz-safe-upgrade.cfg";
/// Options for every apt meanwhile.
pub const APT_OPTIONS: &str = "etc/apt/apt.conf.d/zz-safe-upgrade";
/// Which releases are offered. jammy and noble read only this file for it.
pub const PROMPT: &str = "etc/update-manager/release-upgrades";

/// The record's name, below the directory that was given.
const RECORD: &str = "ubuntu-settings.json";

/// Settings that could not be put in place or taken away.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file could not be read.
    #[error("failed to read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written or removed.
    #[error("failed to write the settings of the upgrade")]
    Write(#[from] DurableError),
    /// The record is not one.
    #[error("{} is no record of settings", .path.display())]
    Record {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// The upgrader's overrides. Obsolete packages stay: one of them may be the service that this machine is there for.
#[must_use]
pub fn overrides() -> &'static str {
    "# Written by safe-upgrade for the time of one upgrade, and removed after it.\n\
     [DEFAULT]\nPrompt=lts\n\
     [NonInteractive]\nRealReboot=no\nForceOverwrite=yes\nDebugBrokenScripts=no\nDpkgProgressLog=yes\n\
     [Distro]\nRemoveObsoletes=no\nPurgeObsoletes=no\nEnableApport=no\n"
}

/// apt's options: never ask about a configuration file, keep what is downloaded, and find there what was downloaded before.
#[must_use]
pub fn apt_options(archives: &Path) -> String {
    let policies = CONFFILE_POLICY.map(|policy| format!("  \"{policy}\";\n")).concat();
    format!(
        "// Written by safe-upgrade for the time of one upgrade, and removed after it.\n\
         Dpkg::Options {{\n{policies}}};\n\
         Dir::Cache::archives \"{}/\";\n\
         APT::Keep-Downloaded-Packages \"true\";\n\
         APT::Default-Release \"\";\n\
         DPkg::Lock::Timeout \"600\";\n",
        archives.display().to_string().trim_end_matches('/')
    )
}

/// What `Prompt=` says in the text of a release-upgrades file, in lower case; `None` where it says nothing.
#[must_use]
pub fn prompt(text: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.trim().split_once(['=', ':']))
        .rfind(|(name, _)| name.trim().eq_ignore_ascii_case("prompt"))
        .map(|(_, value)| value.trim().to_ascii_lowercase())
}

/// The text with `Prompt=lts`, the rest as it is.
#[must_use]
pub fn with_lts(text: &str) -> String {
    let is_prompt = |line: &&str| {
        line.split_once(['=', ':']).is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case("prompt"))
    };
    if !text.lines().any(|line| is_prompt(&line)) {
        return format!("[DEFAULT]\nPrompt=lts\n{text}");
    }
    text.lines()
        .map(|line| if is_prompt(&line) { "Prompt=lts\n".into() } else { format!("{line}\n") })
        .collect()
}

/// One file that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Changed {
    /// Below the root.
    path: PathBuf,
    /// What was there, with its mode; `None` where nothing was.
    before: Option<(Vec<u8>, u32)>,
    /// What was put there. Somebody else's change in the meantime is left alone.
    now: Vec<u8>,
}

/// Settings that are in place while this lives. Dropping takes them away as well, but cannot say whether it worked.
#[derive(Debug)]
pub struct Settings {
    root: PathBuf,
    record: PathBuf,
    gone: bool,
}

impl Settings {
    /// Puts them in place below a root; the record is written into `directory` first. Whatever an earlier process left is swept before.
    ///
    /// # Errors
    /// Names the file; what was written until then is taken away again.
    pub fn put(root: &Path, directory: &Path, archives: &Path) -> Result<Self, SettingsError> {
        sweep(root, directory)?;
        let mut wanted = vec![
            (PathBuf::from(OVERRIDES), overrides().to_owned().into_bytes()),
            (PathBuf::from(APT_OPTIONS), apt_options(archives).into_bytes()),
        ];
        let asked = read(&root.join(PROMPT))?.map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned());
        // Where somebody has deleted it, the upgrader takes the list with the interim releases.
        let text = asked.unwrap_or_default();
        if prompt(&text).as_deref() != Some("lts") {
            wanted.push((PathBuf::from(PROMPT), with_lts(&text).into_bytes()));
        }
        let changed = wanted
            .into_iter()
            .map(|(path, now)| Ok(Changed { before: read(&root.join(&path))?, path, now }))
            .collect::<Result<Vec<_>, SettingsError>>()?;
        durable::private_directory(directory)?;
        let record = directory.join(RECORD);
        let text = serde_json::to_vec(&changed)
            .map_err(|source| SettingsError::Record { path: record.clone(), source })?;
        durable::replace_file(&record, &text, 0o600)?;
        let settings = Self { root: root.to_owned(), record, gone: false };
        for file in &changed {
            let path = root.join(&file.path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)
                    .map_err(|source| SettingsError::Read { path: parent.to_owned(), source })?;
            }
            durable::replace_file(&path, &file.now, file.before.as_ref().map_or(0o644, |before| before.1))?;
        }
        Ok(settings)
    }

    /// Takes them away.
    ///
    /// # Errors
    /// Names the file; [`sweep`] may be tried later.
    pub fn take_away(mut self) -> Result<(), SettingsError> {
        self.gone = true;
        undo(&self.root, &self.record)
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        if !self.gone
            && let Err(error) = undo(&self.root, &self.record)
        {
            tracing::warn!("{}", crate::error::chain(&error));
        }
    }
}

/// Takes away what an earlier process, now dead, left behind. Repeatable; says whether there was something.
///
/// # Errors
/// Names the file.
pub fn sweep(root: &Path, directory: &Path) -> Result<bool, SettingsError> {
    let record = directory.join(RECORD);
    let found = record.exists();
    if found {
        undo(root, &record)?;
    }
    Ok(found)
}

fn undo(root: &Path, record: &Path) -> Result<(), SettingsError> {
    let Some((bytes, _)) = read(record)? else { return Ok(()) };
    let changed: Vec<Changed> = serde_json::from_slice(&bytes)
        .map_err(|source| SettingsError::Record { path: record.to_owned(), source })?;
    for file in &changed {
        let path = root.join(&file.path);
        if read(&path)?.is_none_or(|(bytes, _)| bytes != file.now) {
            continue;
        }
        match &file.before {
            Some((bytes, mode)) => durable::replace_file(&path, bytes, *mode)?,
            None => durable::remove_file(&path)?,
        }
    }
    durable::remove_file(record)?;
    Ok(())
}

fn read(path: &Path) -> Result<Option<(Vec<u8>, u32)>, SettingsError> {
    let failed = |source| SettingsError::Read { path: path.to_owned(), source };
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
        Ok(bytes) => {
            let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o7777;
            Ok(Some((bytes, mode)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(prompt: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for part in ["etc/update-manager", "etc/apt/apt.conf.d"] {
            fs::create_dir_all(root.join(part)).unwrap();
        }
        fs::write(root.join(PROMPT), prompt).unwrap();
        (dir, root)
    }

    #[test]
    fn they_are_there_and_then_they_are_not() {
        let text = "# which releases\n[DEFAULT]\nPrompt = normal\n";
        let (dir, root) = machine(text);
        let record = dir.path().join("run");
        let settings = Settings::put(&root, &record, Path::new("/state/archives")).unwrap();
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
        assert_eq!(read(PROMPT), "# which releases\n[DEFAULT]\nPrompt=lts\n");
        assert!(
            read(OVERRIDES).contains("RealReboot=no\n") && read(OVERRIDES).contains("RemoveObsoletes=no\n")
        );
        assert!(
            read(APT_OPTIONS).contains("\"--force-confold\";")
                && read(APT_OPTIONS).contains("\"/state/archives/\";")
        );
        settings.take_away().unwrap();
        assert_eq!(read(PROMPT), text);
        assert!(!root.join(OVERRIDES).exists() && !root.join(APT_OPTIONS).exists());
        assert_eq!(fs::read_dir(&record).unwrap().count(), 0);
    }

    #[test]
    fn dropping_and_sweeping_take_them_away_too() {
        let (dir, root) = machine("[DEFAULT]\nPrompt=lts\n");
        let record = dir.path().join("run");
        drop(Settings::put(&root, &record, Path::new("/a")).unwrap());
        assert!(!root.join(OVERRIDES).exists());
        std::mem::forget(Settings::put(&root, &record, Path::new("/a")).unwrap());
        assert!(root.join(OVERRIDES).exists());
        // A second one begins by sweeping: what is kept as the original is never our own.
        std::mem::forget(Settings::put(&root, &record, Path::new("/b")).unwrap());
        assert!(sweep(&root, &record).unwrap());
        assert!(!root.join(OVERRIDES).exists() && !root.join(APT_OPTIONS).exists());
        assert!(!sweep(&root, &record).unwrap());
    }

    #[test]
    fn what_somebody_else_wrote_meanwhile_stays() {
        let (dir, root) = machine("[DEFAULT]\nPrompt=never\n");
        let settings = Settings::put(&root, &dir.path().join("run"), Path::new("/a")).unwrap();
        fs::write(root.join(PROMPT), "[DEFAULT]\nPrompt=normal\n").unwrap();
        settings.take_away().unwrap();
        assert_eq!(fs::read_to_string(root.join(PROMPT)).unwrap(), "[DEFAULT]\nPrompt=normal\n");
    }

    #[test]
    fn a_deleted_prompt_leads_to_no_interim_release() {
        let (dir, root) = machine("");
        fs::remove_file(root.join(PROMPT)).unwrap();
        let settings = Settings::put(&root, &dir.path().join("run"), Path::new("/a")).unwrap();
        assert_eq!(fs::read_to_string(root.join(PROMPT)).unwrap(), "[DEFAULT]\nPrompt=lts\n");
        settings.take_away().unwrap();
        assert!(!root.join(PROMPT).exists());
    }

    #[test]
    fn apt_understands_the_options() {
        let Ok(exec) = crate::system::exec::Exec::new("apt-config") else { return };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("options");
        fs::write(&file, apt_options(Path::new("/state/archives"))).unwrap();
        let text = exec.args(["-c", file.to_str().unwrap(), "dump"]).text().unwrap();
        for line in ["Dpkg::Options:: \"--force-confold\";", "Dir::Cache::archives \"/state/archives/\";"] {
            assert!(text.lines().any(|found| found.eq_ignore_ascii_case(line)), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn prompts() {
        assert_eq!(prompt("[DEFAULT]\n# Prompt=never\nPrompt=LTS\n").as_deref(), Some("lts"));
        assert_eq!(prompt("[DEFAULT]\n"), None);
        assert_eq!(with_lts("# x\n"), "[DEFAULT]\nPrompt=lts\n# x\n");
    }
}
