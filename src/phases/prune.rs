//! Retention: what ended runs have left behind, and what of it may go.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::{Result, boot_set, packages, trouble};
use crate::driver::Trouble;
use crate::evidence::RunId;
use crate::journal::{Frame, Journal};
use crate::machine::{Entry, Record};
use crate::places::StateDirectory;
use crate::snapshot::{SnapshotError, Subvolume, TopLevel, names};

/// What a run has left behind.
#[derive(Debug, Clone)]
pub struct Leftover {
    /// The run.
    pub run: RunId,
    /// When it ended.
    pub ended: jiff::Timestamp,
    /// Its snapshot and its failed root, as far as they are there.
    pub volumes: Vec<Subvolume>,
    /// Whether the retention is over.
    pub due: bool,
}

/// Finds what ended runs have left behind, oldest first. What belongs to no run of the journal is left alone. Where the root is not on
/// btrfs there are no snapshots.
///
/// # Errors
/// When the subvolumes cannot be listed.
pub fn leftovers(journal: &Journal, keep: Duration) -> Result<Vec<Leftover>> {
    let top = match TopLevel::open(Path::new("/")) {
        Err(SnapshotError::NotBtrfs { .. }) => return Ok(Vec::new()),
        opened => opened.map_err(trouble)?,
    };
    let running = top.running_root().map_err(trouble)?;
    let ended = ends(journal.frames());
    let mut found: BTreeMap<RunId, Vec<Subvolume>> = BTreeMap::new();
    for volume in top.list().map_err(trouble)? {
        let Some((run, _)) = names::parse(&volume.name) else { continue };
        // The running root must never be somebody's leftover, whatever its name says.
        if volume.uuid != running.uuid {
            found.entry(run.run().parse().map_err(trouble)?).or_default().push(volume);
        }
    }
    let now = jiff::Timestamp::now();
    let due =
        |ended: jiff::Timestamp| Duration::try_from(now.duration_since(ended)).is_ok_and(|age| age >= keep);
    Ok(found
        .into_iter()
        .filter_map(|(run, volumes)| {
            ended.get(&run).map(|at| Leftover { run, ended: *at, volumes, due: due(*at) })
        })
        .collect())
}

/// When each run ended; a run that has not is not in the list.
fn ends(frames: &[Frame]) -> BTreeMap<RunId, jiff::Timestamp> {
    let mut ends = BTreeMap::new();
    let mut run: Option<&RunId> = None;
    for frame in frames {
        match (&frame.entry, run) {
            (Record::Planned { plan }, before) => {
                // A run that was stuck has ended when the next one begins.
                if let Some(before) = before {
                    ends.entry(before.clone()).or_insert(frame.time);
                }
                run = Some(&plan.run);
            }
            (Record::Committed { .. } | Record::RolledBack { .. } | Record::Refused, Some(run)) => {
                ends.insert(run.clone(), frame.time);
            }
            // A committed run that is rolled back by hand has not ended after all.
            (Record::RollbackStarted { .. } | Record::Stuck { .. }, Some(run)) => drop(ends.remove(run)),
            _ => {}
        }
    }
    ends
}

/// No run is under way that has fetched packages for itself.
fn is_quiet(frames: &[Frame]) -> bool {
    let last = frames.iter().rev().find_map(|frame| match &frame.entry {
        Record::Planned { plan } => Some(&plan.run),
        _ => None,
    });
    let ended = ends(frames);
    last.is_none_or(|run| ended.contains_key(run))
}

/// Deletes what a run has left behind, and writes down that it can't be rolled back any more. The record comes first: a way
/// back that is half deleted must not be offered.
///
/// # Errors
/// Names what could not be deleted; it may be tried again.
pub fn prune(places: &StateDirectory, journal: &mut Journal, leftover: &Leftover) -> Result<()> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let said = |frame: &Frame| matches!(&frame.entry, Record::Pruned { run } if *run == leftover.run);
    if !journal.frames().iter().any(said) {
        journal.append(&Entry::pruned(leftover.run.clone())).map_err(trouble)?;
    }
    // Before the volumes: what belongs to a run is only found by them.
    forget_boot(&places.run(&leftover.run))?;
    for volume in &leftover.volumes {
        top.delete(&volume.name, volume.uuid)
            .map_err(|error| Trouble::new(format!("{}: {}", volume.name, crate::error::chain(&error))))?;
    }
    Ok(())
}

/// Deletes downloaded packages that nobody has needed for that long: a rehearsal leaves them for the run that follows.
///
/// # Errors
/// When their age cannot be found out.
pub fn packages(places: &StateDirectory, frames: &[Frame], keep: Duration) -> Result<()> {
    let downloaded = match std::fs::metadata(packages::archives(places)).and_then(|found| found.modified()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        downloaded => downloaded.map_err(trouble)?,
    };
    let age = std::time::SystemTime::now().duration_since(downloaded);
    if is_quiet(frames) && age.is_ok_and(|age| age >= keep) {
        packages::drop_archives(places);
    }
    Ok(())
}

/// Deletes a run's copies of `/boot`, the ESP and the boot code: without its snapshot nothing is brought back from them. Repeatable.
fn forget_boot(directory: &Path) -> Result<()> {
    let copies = directory.join(boot_set::DIRECTORY);
    match std::fs::remove_dir_all(&copies) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => {
            removed.map_err(|error| Trouble::new(format!("{}: {error}", crate::system::show::path(&copies))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_the_boot_loader_go_and_the_story_stays() {
        let run = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(run.path().join("boot/esp/tree/EFI")).unwrap();
        std::fs::write(run.path().join("boot/boot-set.json"), "{}").unwrap();
        std::fs::write(run.path().join("carried.json"), "{}").unwrap();
        for _ in 0..2 {
            forget_boot(run.path()).unwrap();
        }
        assert!(!run.path().join("boot").exists() && run.path().join("carried.json").exists());
    }
}
