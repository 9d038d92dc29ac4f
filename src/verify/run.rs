//! The way to an answer: what should be, what is, and the difference.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::apart::keep_apart;
use super::budget::{Budget, BudgetError, CHECKPOINT, Clock, Task, verify_within};
use super::gather::gather;
use super::request::{Against, Request};
use super::reread::SecondReading;
use crate::backup::{self, VerifyOptions, VerifyProgress};
use crate::manifest::compare::Rules;
use crate::manifest::exclude::{Excludes, InvalidPattern};
use crate::manifest::format::{FormatError, NewFile};
use crate::manifest::indexed::Indexed;
use crate::manifest::judge::judge;
use crate::manifest::scan::{ScanError, describe};
use crate::manifest::verdict::{Class, Difference};
use crate::manifest::{Content, Entry, Facts, Report, ScanOptions};
use crate::sources::{Gathered, Limits, Reading, Source, SourceError};
use crate::system::told_to_stop::ToldToStop;

/// It could not be found out whether the copy is good.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The manifest cannot be used.
    #[error("failed to read the manifest {}", .path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        source: FormatError,
    },
    /// The manifest's own exclude patterns make no sense.
    #[error("the manifest's exclude patterns are not usable")]
    Excludes(#[from] InvalidPattern),
    /// The live tree could not be read.
    #[error("failed to read {}", .tree.display())]
    Tree {
        /// The tree.
        tree: PathBuf,
        /// Why.
        source: ScanError,
    },
    /// What is written would lie in what is read.
    #[error("{option} {} lies in {}, which is to be read: it would find what it writes itself", .directory.display(), .tree.display())]
    Inside {
        /// What named the directory.
        option: &'static str,
        /// The directory.
        directory: PathBuf,
        /// The tree.
        tree: PathBuf,
    },
    /// The directory for temporary files could not be used.
    #[error("failed to use the directory {} for temporary files", .scratch.display())]
    Scratch {
        /// The directory.
        scratch: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The copy cannot be read, or not this way.
    #[error("failed to read the copy")]
    Copy(#[from] SourceError),
    /// Only directories can be read in part.
    #[error("{0} can only be read as a whole: --sample, --max-duration and --max-age are for directories")]
    NoBudget(String),
    /// Only what a tool restores can be restored here.
    #[error("{0} is read without a restore: --restore-to is for directories, restic and borg")]
    NoRestore(String),
    /// Being told to stop could not be arranged.
    #[error("failed to listen for signals")]
    Signals(#[source] std::io::Error),
    /// A part of it could not be verified.
    #[error("failed to verify within the budget")]
    Budget(#[from] BudgetError),
    /// It could not be restored.
    #[error("failed to verify by restoring")]
    Restore(#[from] backup::VerifyError),
}

/// Told what a verification is doing.
pub type Told<'p> = &'p (dyn Fn(VerifyProgress) + Sync);

/// Verifies.
///
/// # Errors
/// When it could not be found out; never because of what the copy holds.
pub fn verify(request: &Request, told: Told<'_>) -> Result<Report, VerifyError> {
    keep_apart(request)?;
    let private = private_directory(&request.scratch)?;
    let expected = expected(request, private.path(), told)?;
    let trouble = |source| VerifyError::Manifest { path: expected.clone(), source };
    let indexed = Indexed::open(&expected, &request.hashing).map_err(trouble)?;
    let (header, summary) = (indexed.header().clone(), indexed.summary());
    drop(indexed);
    if let (Source::Path(path), Some(to)) = (&request.copy, &request.restore_to)
        && path.is_dir()
    {
        let mut options = VerifyOptions { kept: request.kept, ..VerifyOptions::default() };
        options.workers = request.workers.unwrap_or(options.workers);
        options.accept_lost = request.accept_lost;
        options.hashing = request.hashing.clone();
        options.sorting = Some(private.path().to_owned());
        return Ok(backup::verify_restored(path, &expected, to, &options, told)?);
    }
    if let Some(budget) = &request.budget {
        return within(request, budget, &expected, private.path(), told);
    }
    if request.restore_to.is_some() && !matches!(request.copy, Source::Restic(_) | Source::Borg(_)) {
        return Err(VerifyError::NoRestore(request.copy.to_string()));
    }
    let excludes = Excludes::parse(&header.excludes)?;
    let reading = Reading {
        hashing: request.hashing.clone(),
        scratch: private.path(),
        excludes: &excludes,
        limits: Limits::around(&summary),
        progress: &|state| told(VerifyProgress::Reading(state)),
    };
    let second = SecondReading::of(&request.copy, &request.hashing);
    let look = |expected: &Entry, first: &Content| second.look(expected, first);
    let tree = Path::new(OsStr::from_bytes(&header.tree));
    let brought = match gather(request, !header.one_filesystem, tree, &reading) {
        Err(error) => return broken(error, request),
        Ok(brought) => brought,
    };
    let (mut sorted, gathered, restore) = brought;
    let rules = Rules {
        accept_lost: request.accept_lost,
        carries: gathered.carries,
        metadata_only: false,
        scratch: private.path().to_owned(),
        second_look: second.is_possible().then_some(&look),
    };
    let mut report = Report::keeping(request.kept);
    report.restore = restore;
    judge(&expected, &request.hashing, sorted.by_ref(), &rules, &mut report).map_err(trouble)?;
    let named = |path: &[u8]| {
        gathered.findings.iter().any(|finding| finding.class == Class::Hostile && finding.path == path)
    };
    for path in sorted.clashes().iter().filter(|path| !named(path)) {
        report.add(Difference {
            class: Class::Hostile,
            path: path.clone(),
            expected: "one thing of this name".to_owned(),
            found: "two of different types".to_owned(),
        });
    }
    add(gathered, &mut report);
    Ok(report)
}

/// A copy that could not be read because it is damaged as a whole is known not to be the same; nothing else is known about it.
fn broken(error: SourceError, request: &Request) -> Result<Report, VerifyError> {
    let Some(found) = error.damage() else { return Err(error.into()) };
    let mut report = Report::keeping(request.kept);
    let expected = "a whole copy".to_owned();
    report.add(Difference { class: Class::Broken, path: Vec::new(), expected, found });
    report.remarks.push("because of that, nothing in it was compared".to_owned());
    Ok(report)
}

/// A directory, and only so much of its content.
fn within(
    request: &Request,
    budget: &Budget,
    expected: &Path,
    scratch: &Path,
    told: Told<'_>,
) -> Result<Report, VerifyError> {
    let copy = match &request.copy {
        Source::Path(copy) if copy.is_dir() || !copy.exists() => copy,
        other => return Err(VerifyError::NoBudget(other.to_string())),
    };
    let against = match &request.against {
        Against::Tree(tree) => Some(tree.as_path()),
        Against::Manifest(_) => None,
    };
    let stop = ToldToStop::by_signals().map_err(VerifyError::Signals)?;
    Clock::of_machine(|clock| {
        let task = Task {
            copy,
            manifest: expected,
            hashing: request.hashing.clone(),
            budget: *budget,
            ledger: request.ledger.as_deref(),
            against,
            scratch,
            accept_lost: request.accept_lost,
            kept: request.kept,
            threads: request.threads,
            checkpoint: CHECKPOINT,
            clock,
            stop: &|| stop.is_told(),
            progress: &|state| told(VerifyProgress::Reading(state)),
        };
        Ok(verify_within(&task)?)
    })
}

/// The manifest that the copy is compared with; that of a live tree is taken first.
fn expected(request: &Request, private: &Path, told: Told<'_>) -> Result<PathBuf, VerifyError> {
    let tree = match &request.against {
        Against::Manifest(path) => return Ok(path.clone()),
        Against::Tree(tree) => tree,
    };
    let path = private.join("manifest");
    let told = |state| told(VerifyProgress::Reading(state));
    let options = ScanOptions {
        hashing: request.hashing.clone(),
        cross_mounts: request.cross_mounts,
        ..ScanOptions::default()
    };
    let made = NewFile::begin(&path).map_err(ScanError::from).and_then(|mut file| {
        describe(tree, &options, private, None, file.to()?, &told)?;
        Ok(file.commit()?)
    });
    made.map_err(|source| VerifyError::Tree { tree: tree.clone(), source })?;
    Ok(path)
}

fn add(gathered: Gathered, report: &mut Report) {
    for finding in gathered.findings {
        report.add(finding);
    }
    report.remarks.extend(gathered.remarks);
    report.levels.stored = true;
    report.levels.restored |= gathered.restored;
    if gathered.carries != Facts::ALL {
        let lacks: Vec<&str> = Facts::ALL.without(gathered.carries).names().collect();
        report.remarks.push(format!("this kind of copy cannot hold: {}", lacks.join(", ")));
    }
}

/// Removed when it is dropped.
fn private_directory(scratch: &Path) -> Result<tempfile::TempDir, VerifyError> {
    tempfile::Builder::new()
        .prefix(".safe-upgrade-verify-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(scratch)
        .map_err(|source| VerifyError::Scratch { scratch: scratch.to_owned(), source })
}
