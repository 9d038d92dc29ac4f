//! What Ubuntu's upgrader leaves out because obsolete packages are kept: with `RemoveObsoletes=no` it ends before its last scripts. The one
//! that matters is Ubuntu Pro's, which brings the contract and its sources to the new release.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::system::durable;
use crate::system::exec::Exec;

const DIRECTORY: &str = "etc/update-manager/release-upgrades.d";
/// Crash reports that the upgrader switches off for its time, and would switch on again in what is left out.
const IGNORED_CRASHES: &str = "etc/apport/blacklist.d/upgrade-quirks-ignore-list";
/// How long one script may take.
const LIMIT: Duration = Duration::from_secs(600);

/// The scripts that overrides name by an absolute path, in the order of the files; the last file counts.
///
/// # Errors
/// When a file cannot be read.
pub fn named(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = match fs::read_dir(root.join(DIRECTORY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?,
    };
    files.retain(|path| path.extension().is_some_and(|extension| extension == "cfg"));
    files.sort();
    let mut scripts = Vec::new();
    for file in files {
        if let Some(found) = value(&fs::read_to_string(file)?, "PostInstallScripts") {
            scripts = found
                .split([',', ' ', '\n'])
                .map(str::trim)
                .filter(|one| one.starts_with('/'))
                .map(Into::into)
                .collect();
        }
    }
    Ok(scripts)
}

/// The value of a key in a file of Python's configparser, lines that go on joined.
#[must_use]
pub fn value(text: &str, key: &str) -> Option<String> {
    let mut found: Option<String> = None;
    let mut open = false;
    for line in text.lines() {
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        if open && line.starts_with([' ', '\t']) {
            if let Some(value) = &mut found {
                value.push(' ');
                value.push_str(line.trim());
            }
            continue;
        }
        open = false;
        if let Some((name, rest)) = line.split_once(['=', ':'])
            && name.trim().eq_ignore_ascii_case(key)
        {
            found = Some(rest.trim().to_owned());
            open = true;
        }
    }
    found
}

/// Runs those of the scripts that are there, and switches crash reports on again. What does not work is told; packages are not at stake.
pub fn finish(root: &Path, scripts: &[PathBuf]) -> Vec<String> {
    let mut troubles = Vec::new();
    for script in scripts.iter().filter(|script| script.is_file()) {
        let ran = Exec::new(&script.display().to_string())
            .and_then(|exec| exec.env("RELEASE_UPGRADE_IN_PROGRESS", "1").limit(LIMIT).success());
        if let Err(error) = ran {
            troubles.push(crate::error::chain(&error));
        }
    }
    if let Err(error) = durable::remove_file(&root.join(IGNORED_CRASHES))
        && root.join(IGNORED_CRASHES).exists()
    {
        troubles.push(crate::error::chain(&error));
    }
    troubles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_file_names_the_scripts() {
        let dir = tempfile::tempdir().unwrap();
        assert!(named(dir.path()).unwrap().is_empty());
        let at = dir.path().join(DIRECTORY);
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join("a.cfg"), "[Distro]\nPostInstallScripts=/a/one\n").unwrap();
        fs::write(at.join("ubuntu-advantage-upgrades.cfg"), "[Sources]\nPockets=updates,security,\n # no\n\tesm\n[Distro]\nPostInstallScripts=./xorg_fix_proprietary.py, /usr/lib/x/upgrade_lts_contract.py\n").unwrap();
        fs::write(at.join("z.txt"), "PostInstallScripts=/no\n").unwrap();
        assert_eq!(named(dir.path()).unwrap(), [PathBuf::from("/usr/lib/x/upgrade_lts_contract.py")]);
        let text = fs::read_to_string(at.join("ubuntu-advantage-upgrades.cfg")).unwrap();
        assert_eq!(value(&text, "pockets").as_deref(), Some("updates,security, esm"));
    }

    #[test]
    fn a_script_that_fails_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let none = finish(dir.path(), &["/no/such/script".into(), "/bin/true".into()]);
        assert!(none.is_empty(), "{none:?}");
        let told = finish(dir.path(), &["/bin/false".into()]);
        assert!(told.len() == 1 && told[0].contains("/bin/false"), "{told:?}");
    }
}
