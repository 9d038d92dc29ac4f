//! Looks ahead without touching the system: an apt of its own with the target's sources says what would happen, and
//! downloads everything that the upgrade will need.

use std::io;
use std::path::{Path, PathBuf};

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
    let found = simulation::parse_simulation(&ask(&["-s", "full-upgrade"])?)?;
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

/// Updates a private apt to the planned sources, simulates the full upgrade and downloads everything into the archives directory of
/// `settings`; lists are kept below `directory`. Repeatable.
///
/// # Errors
/// See [`PreviewError`]; an unreachable mirror or a missing file is named.
pub fn prefetch(
    sources: &SourcesPlan,
    directory: &Path,
    settings: &AptSettings<'_>,
    progress: &dyn Fn(Progress),
) -> Result<Prediction, PreviewError> {
    durable::private_directory(directory)?;
    let private = PrivateApt::open(Some(directory))?;
    private.set_sources(&target_entries(sources))?;
    let outcome = private.update(settings.log, progress)?;
    if !outcome.well() {
        return Err(PreviewError::Failed { stage: Stage::PreviewUpdate, reason: outcome.reason() });
    }
    private.keep_lists()?;
    let prediction = predict(&private)?;
    download(private, settings, progress)?;
    Ok(prediction)
}
