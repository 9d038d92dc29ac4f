//! Looks ahead without touching the system: an apt of its own with the target's sources says what would happen, and
//! downloads everything that the upgrade will need.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use crate::release::apt::{AptSettings, Progress, Stage, StageError};
use crate::release::prediction::Prediction;
use crate::release::private_apt::{Lists, PrivateApt};
use crate::release::simulation::{self, SimulationError};
use crate::release::sources::SourcesPlan;
use crate::release::sources::entries::{self, Entry};
use crate::system::durable::{self, DurableError};
use crate::system::exec::ExecError;

/// A preview that could not be made. The system's own apt and dpkg are as before.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// A file could not be copied into the private apt directory.
    #[error("failed to prepare {}", .path.display())]
    Prepare {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// apt's own user is not there.
    #[error("/etc/passwd has no user _apt, which the package apt creates")]
    NoUser,
    /// A file could not be written there.
    #[error("failed to prepare the private apt directory")]
    Write(#[from] DurableError),
    /// A stage could not be run.
    #[error("failed to look ahead")]
    Stage(#[from] StageError),
    /// A stage ran and failed.
    #[error("{stage} failed: {reason}")]
    Failed {
        /// Which.
        stage: Stage,
        /// Why, in one sentence; names the URL or host as apt said it.
        reason: String,
    },
    /// apt could not be asked what it would do.
    #[error("failed to ask apt what it would do")]
    Ask(#[from] ExecError),
    /// Its answer was not understood.
    #[error("failed to understand what apt would do")]
    Understand(#[from] SimulationError),
    /// apt said that all is downloaded, and it is not.
    #[error("{count} packages are still missing after the download, {first} among them")]
    Incomplete {
        /// How many.
        count: usize,
        /// One of them.
        first: String,
    },
}

/// Every entry that is in use, as the sources will be after the hop.
#[must_use]
pub fn target_entries(sources: &SourcesPlan) -> Vec<Entry> {
    sources.files.iter().flat_map(|file| entries::entries(&file.path, &file.after)).collect()
}

/// Every entry that is in use now.
#[must_use]
pub fn present_entries(sources: &SourcesPlan) -> Vec<Entry> {
    sources.files.iter().flat_map(|file| entries::entries(&file.path, &file.before)).collect()
}

/// Asks the private apt, whose lists have been fetched, what a full upgrade would do. Downloads nothing.
///
/// # Errors
/// When apt does not answer or is not understood.
pub fn predict(private: &PrivateApt) -> Result<Prediction, PreviewError> {
    let ask = |words: &[&str]| private.ask("apt-get", Lists::Own, words);
    let found = simulation::parse_simulation(&simulate(private)?)?;
    // Answering no ends with 1, after the sizes were said.
    let refused = private.exec("apt-get", Lists::Own)?.args(["--assume-no", "full-upgrade"]).output()?;
    let wanted = simulation::parse_uris(&ask(&["--print-uris", "-qq", "-y", "full-upgrade"])?);
    let held = private.ask("apt-mark", Lists::Own, &["showhold"])?;
    Ok(Prediction {
        upgraded: found.upgraded,
        new: found.new,
        removed: found.removed,
        kept_back: found.kept_back,
        held: held.split_ascii_whitespace().map(str::to_owned).collect(),
        download_bytes: wanted.iter().map(|fetch| fetch.bytes).sum(),
        disk_bytes: simulation::parse_space_after(&String::from_utf8_lossy(&refused.stdout)),
    })
}

/// On the way to Ubuntu 26.04, apt 2.8 complains about the order in which it would configure packages ("Conf Broken"), lists all
/// the same, and ends with 100. The real order is found later and by another apt, and whether the list is whole is checked
/// against its sum.
fn simulate(private: &PrivateApt) -> Result<String, ExecError> {
    let words = ["-s", "full-upgrade"];
    let output = private.exec("apt-get", Lists::Own)?.args(words).output()?;
    if output.status.success() || only_about_the_order(&String::from_utf8_lossy(&output.stderr)) {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    private.ask("apt-get", Lists::Own, &words)
}

fn only_about_the_order(stderr: &str) -> bool {
    let mut errors = stderr.lines().filter(|line| line.starts_with("E: ")).peekable();
    errors.peek().is_some() && errors.all(|line| line.starts_with("E: Conf Broken "))
}

/// The file names of everything that was predicted, whether it is downloaded already or not.
///
/// # Errors
/// When apt does not answer.
pub fn archives(private: &PrivateApt) -> Result<BTreeSet<String>, PreviewError> {
    // The private apt has no archives of its own, so all of them are missing there.
    let text = private.ask("apt-get", Lists::Own, &["--print-uris", "-qq", "-y", "full-upgrade"])?;
    Ok(simulation::parse_uris(&text).into_iter().map(|fetch| fetch.file).collect())
}

/// Downloads everything that was predicted into the archives directory of `settings`, and sees to it that nothing is missing.
/// Repeatable: what is already downloaded stays.
///
/// # Errors
/// See [`PreviewError`]; an unreachable mirror or a missing file is named.
pub fn download(
    private: PrivateApt,
    settings: &AptSettings<'_>,
    progress: &dyn Fn(Progress),
) -> Result<(), PreviewError> {
    let partial = settings.archives.join("partial");
    std::fs::create_dir_all(&partial).map_err(|source| PreviewError::Prepare { path: partial, source })?;
    let words = ["-y", "--download-only", "full-upgrade"];
    let (outcome, missing) = private.stage_as_root(Stage::Download, &words, settings, progress)?;
    if !outcome.well() {
        return Err(PreviewError::Failed { stage: Stage::Download, reason: outcome.reason() });
    }
    let missing = simulation::parse_uris(&missing);
    if let Some(first) = missing.first() {
        return Err(PreviewError::Incomplete { count: missing.len(), first: first.file.clone() });
    }
    durable::sync_filesystem(settings.archives)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_about_the_order_is_not_any_error() {
        // Seen: noble to resolute, apt 2.8.3.
        let seen = "E: Conf Broken coreutils-from-uutils:amd64\nE: Conf Broken sudo-common:amd64\n";
        assert!(only_about_the_order(seen));
        assert!(!only_about_the_order(&format!("{seen}E: Unable to correct problems\n")));
        assert!(!only_about_the_order("") && !only_about_the_order("W: something\n"));
    }
}
