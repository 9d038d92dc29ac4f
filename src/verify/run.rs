//! The way to an answer: what should be, what is, and the difference.

use std::ffi::OsStr;
use std::iter;
use std::os::unix::ffi::OsStrExt;
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
use crate::system::fresh::{self, FreshDirectory};
use crate::system::show;
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
    refuse_what_cannot_be(request)?;
    keep_apart(request)?;
    let mut remarks = remove_dead(request);
    let mut private = FreshDirectory::create(&request.scratch, fresh::TEMPORARY)
        .map_err(|source| VerifyError::Scratch { scratch: request.scratch.clone(), source })?;
    let mut report = answer(request, private.path(), told)?;
    if let Err(error) = private.remove() {
        let at = show::path(private.path());
        remarks.push(format!("the temporary files in {at} could not be removed: {error}"));
    }
    report.remarks.extend(remarks);
    Ok(report)
}

/// Before anything is read: a live tree may take hours.
fn refuse_what_cannot_be(request: &Request) -> Result<(), VerifyError> {
    let (in_part, restores) = match &request.copy {
        // Whoever reads it says better that it is not there.
        Source::Path(path) => (path.is_dir() || !path.exists(), path.is_dir()),
        Source::Restic(_) | Source::Borg(_) => (false, true),
        _ => (false, false),
    };
    if request.budget.is_some() && !in_part {
        return Err(VerifyError::NoBudget(request.copy.to_string()));
    }
    if request.restore_to.is_some() && request.budget.is_none() && !restores {
        return Err(VerifyError::NoRestore(request.copy.to_string()));
    }
    Ok(())
}

/// Removes what verifications have left that were killed; whatever stays is worth a remark and no more.
fn remove_dead(request: &Request) -> Vec<String> {
    let mut remarks = Vec::new();
    for directory in iter::once(&request.scratch).chain(&request.restore_to) {
        let dead =
            fresh::remove_dead(directory).unwrap_or_else(|error| vec![(directory.clone(), Err(error))]);
        remarks.extend(dead.into_iter().map(|(path, removed)| match removed {
            Ok(()) => format!("removed what a verification left that was killed: {}", show::path(&path)),
            Err(error) => format!("leftovers could not be removed: {}: {error}", show::path(&path)),
        }));
    }
    remarks
}

fn answer(request: &Request, private: &Path, told: Told<'_>) -> Result<Report, VerifyError> {
    let expected = expected(request, private, told)?;
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
        options.sorting = Some(private.to_owned());
        return Ok(backup::verify_restored(path, &expected, to, &options, told)?);
    }
    if let Some(budget) = &request.budget {
        return within(request, budget, &expected, private, told);
    }
    let excludes = Excludes::parse(&header.excludes)?;
    let reading = Reading {
        hashing: request.hashing.clone(),
        scratch: private,
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
        scratch: private.to_owned(),
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
    let Source::Path(copy) = &request.copy else {
        return Err(VerifyError::NoBudget(request.copy.to_string()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{scan, write_file};
    use std::os::unix::fs::PermissionsExt;

    /// As after a crash: there, ours, and locked by nobody.
    fn left(below: &Path, prefix: &str) {
        let path = below.join(format!("{prefix}left"));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("f"), b"f").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn what_a_killed_verification_left_is_removed_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["copy", "scratch", "to"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at("copy/f"), b"f").unwrap();
        write_file(&scan(&at("copy"), &ScanOptions::default(), &|_| {}).unwrap(), &at("manifest")).unwrap();
        left(&at("scratch"), fresh::TEMPORARY);
        left(&at("to"), fresh::RESTORED);
        let living = FreshDirectory::create(&at("to"), fresh::RESTORED).unwrap();
        let against = Against::Manifest(at("manifest"));
        let budget = Some(Budget::default());
        let (scratch, restore_to) = (at("scratch"), Some(at("to")));
        let copy = Source::Path(at("copy"));
        let mut request = Request { scratch, restore_to, budget, ..Request::new(copy, against) };
        if crate::system::exec::find_tool("rsync").is_err() {
            println!("skipped: rsync is not installed, so it is not restored");
            request.restore_to = None;
            std::fs::remove_dir_all(at("to/safe-upgrade-restore-left")).unwrap();
        }
        let report = verify(&request, &|_| {}).unwrap();
        assert!(report.is_same(), "{report:?}");
        let told = report.remarks.iter().filter(|remark| remark.contains("that was killed")).count();
        assert_eq!(told, 1 + usize::from(request.restore_to.is_some()));
        assert_eq!(std::fs::read_dir(at("scratch")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(at("to")).unwrap().count(), 1);
        assert!(living.path().is_dir());
    }
}
