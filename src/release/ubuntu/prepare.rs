//! What comes before Ubuntu's upgrader: it refuses to start while the old release has updates, and while a reboot is pending.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::environment::PROGRAM;
use crate::release::apt::{self, AptSettings, Progress, Stage, StageError, StageOutcome};
use crate::system::exec;

/// The package that brings the upgrader. `update-manager-core` only depends on it.
pub const PACKAGE: &str = "ubuntu-release-upgrader-core";

/// Where packages say that they want a reboot. `/var/run` is the same directory.
const REBOOT_PACKAGES: &str = "run/reboot-required.pkgs";

/// Why it cannot go on; the stages that were run say more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotPrepared {
    /// The stage.
    pub stage: Stage,
    /// Why, in one sentence.
    pub reason: String,
}

/// Preparing that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A stage could not be run.
    #[error("failed to bring the old release up to date")]
    Stage(#[from] StageError),
    /// Whether a reboot is pending is not known.
    #[error("failed to read {}", .path.display())]
    Reboot {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Brings the old release up to date and installs the upgrader where it is missing. `None` when the upgrader may start.
///
/// # Errors
/// When a stage could not be run; one that failed is an answer.
pub fn prepare(
    done: &mut Vec<StageOutcome>,
    settings: &AptSettings<'_>,
    progress: &dyn Fn(Progress),
) -> Result<Option<NotPrepared>, PrepareError> {
    let mut steps: Vec<(Stage, Vec<&str>)> = vec![
        (Stage::Update, vec!["update"]),
        // A new kernel is a new package, and the upgrader counts it as an update.
        (Stage::OldUpdates, vec!["-y", "upgrade", "--with-new-pkgs"]),
    ];
    if exec::find_tool(PROGRAM).is_err() {
        steps.push((Stage::OldUpdates, vec!["-y", "install", PACKAGE]));
    }
    for (stage, words) in steps {
        let outcome = apt::apt_get(stage, &words, &[], settings, progress)?;
        let failed = (!outcome.well()).then(|| outcome.reason());
        done.push(outcome);
        if let Some(reason) = failed {
            return Ok(Some(NotPrepared { stage, reason }));
        }
    }
    let waiting = reboot_packages(Path::new("/"))
        .map_err(|source| PrepareError::Reboot { path: Path::new("/").join(REBOOT_PACKAGES), source })?;
    Ok((!waiting.is_empty()).then(|| NotPrepared {
        stage: Stage::OldUpdates,
        reason: format!(
            "{} wants a reboot first, and the upgrader refuses until then",
            waiting.join(" and ")
        ),
    }))
}

/// The packages for whose sake the upgrader refuses to start before a reboot. Others that want one do not matter to it.
///
/// # Errors
/// When the list is there and cannot be read.
pub fn reboot_packages(root: &Path) -> io::Result<Vec<String>> {
    match fs::read_to_string(root.join(REBOOT_PACKAGES)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => Ok(blocking_packages(&other?)),
    }
}

/// Of the lines of `reboot-required.pkgs` those that block, once each.
#[must_use]
pub fn blocking_packages(text: &str) -> Vec<String> {
    let mut found: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|name| matches!(*name, "libc6" | "linux-base") || name.starts_with("linux-image-"))
        .map(str::to_owned)
        .collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_libc_and_kernels_block() {
        let text = "linux-image-6.8.0-60-generic\nlibssl3t64\nlinux-base\nlinux-base\ndbus\n";
        assert_eq!(blocking_packages(text), ["linux-base", "linux-image-6.8.0-60-generic"]);
        let dir = tempfile::tempdir().unwrap();
        assert!(reboot_packages(dir.path()).unwrap().is_empty());
        fs::create_dir(dir.path().join("run")).unwrap();
        fs::write(dir.path().join(REBOOT_PACKAGES), "libc6\n").unwrap();
        assert_eq!(reboot_packages(dir.path()).unwrap(), ["libc6"]);
    }
}
