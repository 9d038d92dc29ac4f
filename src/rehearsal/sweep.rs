//! Removing what rehearsals have left behind: the unit with its processes, mounts, the network, the clones. What is there is found by
//! names that derive from ids, and by nothing else; each part is looked for first, so it may be cut off and begun again.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::made::Place;
use super::names::{self, Names};
use super::{RehearsalError, Result, clone, container, inside, made, network};
use crate::snapshot::{SnapshotError, TopLevel};
use crate::system::exec::Exec;
use crate::system::fresh;
use crate::system::identity;
use crate::system::lock::{ExclusiveLock, LockError};

/// The name of the lock in the directory of rehearsals: whoever holds it rehearses, or sweeps.
const LOCK: &str = "lock";

/// What of a rehearsal's directory goes with its clone; the logs stay.
const VOLUMES: &str = "volumes";

/// How many rehearsals keep their logs.
const KEPT_LOGS: usize = 5;

/// The right to rehearse, and to remove what another rehearsal has left.
#[derive(Debug)]
pub struct Claim {
    _lock: ExclusiveLock,
}

impl Claim {
    /// Takes it; `None` while somebody else rehearses.
    ///
    /// # Errors
    /// When it cannot be found out.
    pub fn take(rehearsals: &Path) -> Result<Option<Self>> {
        crate::system::durable::private_directory(rehearsals)?;
        match ExclusiveLock::try_acquire(&rehearsals.join(LOCK)) {
            Ok(lock) => Ok(Some(Self { _lock: lock })),
            Err(LockError::Held(_)) => Ok(None),
            Err(error) => Err(RehearsalError::Silent { stage: "lock", why: crate::error::chain(&error) }),
        }
    }
}

/// Removes everything that rehearsals have left behind, but for a clone that was kept and still runs. Returns the ids of what was removed.
///
/// # Errors
/// When something cannot be removed: the first such error, after all the others have been tried. It is found again by the next call.
pub fn sweep(rehearsals: &Path, _: &Claim) -> Result<Vec<String>> {
    let swept = each(found(rehearsals)?, |names| {
        if is_kept(rehearsals, names)? {
            return Ok(false);
        }
        remove(rehearsals, names).map(|()| true)
    });
    forget_old_logs(rehearsals)?;
    swept
}

/// Removes the clones that were kept and run. Returns their ids.
///
/// # Errors
/// As [`sweep`].
pub fn end_kept(rehearsals: &Path, _: &Claim) -> Result<Vec<String>> {
    each(kept(rehearsals)?, |names| remove(rehearsals, names).map(|()| true))
}

/// One that cannot be removed keeps none of the others. Returns the ids of what is gone, or the first error at the end.
fn each(
    all: impl IntoIterator<Item = Names>,
    mut remove: impl FnMut(&Names) -> Result<bool>,
) -> Result<Vec<String>> {
    let (mut swept, mut first) = (Vec::new(), None);
    for names in all {
        match remove(&names) {
            Ok(true) => swept.push(names.id().to_owned()),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(rehearsal = names.id(), why = %crate::error::chain(&error), "not all of it could be removed");
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(swept), Err)
}

/// The clones that were kept and run.
///
/// # Errors
/// When it cannot be found out.
pub fn kept(rehearsals: &Path) -> Result<Vec<Names>> {
    let mut kept = Vec::new();
    for names in noted(rehearsals)? {
        if is_kept(rehearsals, &names)? {
            kept.push(names);
        }
    }
    Ok(kept)
}

/// Removes everything of one rehearsal but its logs.
///
/// # Errors
/// When something cannot be removed.
pub fn remove(rehearsals: &Path, names: &Names) -> Result<()> {
    container::stop(names)?;
    clone::unmount_below(&names.mounts())?;
    remove_tree(&names.mounts())?;
    network::remove(names)?;
    if let Some(top) = top()? {
        let volumes = top.list().map_err(RehearsalError::snapshot("list subvolumes"))?;
        for volume in volumes.iter().filter(|volume| names::of_volume(&volume.name).as_ref() == Some(names)) {
            top.delete_with_nested(&volume.name, volume.uuid)
                .map_err(RehearsalError::snapshot("delete a clone"))?;
        }
    }
    let directory = made::directory(rehearsals, names);
    if let Some(place) = made::read(&directory)?.and_then(|made| made.restored) {
        remove_restored(&place, &made::file(&directory), names)?;
    }
    remove_tree(&directory.join(VOLUMES))?;
    crate::system::durable::remove_file(&directory.join(inside::PROGRAM))?;
    made::forget(&directory)
}

/// Every rehearsal of which anything is there.
fn found(rehearsals: &Path) -> Result<BTreeSet<Names>> {
    let mut all: BTreeSet<Names> = noted(rehearsals)?.into_iter().collect();
    for (place, of) in [
        (names::MOUNTS, names::of_mounts as fn(&str) -> Option<Names>),
        (names::NETWORKS, names::of_network as fn(&str) -> Option<Names>),
    ] {
        all.extend(listed(Path::new(place))?.iter().filter_map(|name| of(name)));
    }
    if let Some(top) = top()? {
        let volumes = top.list().map_err(RehearsalError::snapshot("list subvolumes"))?;
        all.extend(volumes.iter().filter_map(|volume| names::of_volume(&volume.name)));
    }
    all.extend(units()?);
    Ok(all)
}

/// Those that wrote down what they made, and did not take it back.
fn noted(rehearsals: &Path) -> Result<Vec<Names>> {
    let mut noted = Vec::new();
    for names in listed(rehearsals)?.iter().filter_map(|name| Names::new(name)) {
        if made::read(&made::directory(rehearsals, &names))?.is_some() {
            noted.push(names);
        }
    }
    Ok(noted)
}

/// A clone that somebody wants, in the boot in which it was wanted, while it runs.
fn is_kept(rehearsals: &Path, names: &Names) -> Result<bool> {
    let Some(made) = made::read(&made::directory(rehearsals, names))? else { return Ok(false) };
    let boot = identity::boot_id()
        .map_err(|error| RehearsalError::Silent { stage: "sweep", why: crate::error::chain(&error) })?;
    Ok(made.keep && made.boot == boot && container::runs(names)?)
}

fn units() -> Result<Vec<Names>> {
    let words =
        ["list-units", "--all", "--plain", "--no-legend", "--full", "safe-upgrade-rehearsal-*.service"];
    let text = Exec::new("systemctl")
        .and_then(|exec| exec.args(words).text())
        .map_err(RehearsalError::exec("list the units of rehearsals"))?;
    Ok(text.lines().filter_map(|line| names::of_unit(line.split_whitespace().next()?)).collect())
}

/// Where clones by snapshot are; `None` on a machine whose root has no snapshots.
fn top() -> Result<Option<TopLevel>> {
    match TopLevel::open(Path::new("/")) {
        Err(SnapshotError::NotBtrfs { .. }) => Ok(None),
        opened => opened.map(Some).map_err(RehearsalError::snapshot("open the filesystem of the root")),
    }
}

/// Removes what a backup was restored into. Only where its filesystem is mounted can be said that there is nothing (any more).
fn remove_restored(place: &Place, note: &Path, names: &Names) -> Result<()> {
    let ours = place.directory.file_name().is_some_and(|name| name == names.restored().as_str());
    let wrong = |why: String| Err(RehearsalError::path("remove", &place.directory)(io::Error::other(why)));
    if !ours {
        return wrong(format!("no rehearsal calls a directory so; {} is wrong", note.display()));
    }
    let table = crate::system::mounts::read()?;
    if crate::system::mounts::holding(&table, &place.directory)?.point != place.filesystem {
        return wrong(format!(
            "{} is not mounted: mount it, or delete {} when it will not come back",
            place.filesystem.display(),
            note.display()
        ));
    }
    remove_tree(&place.directory)
}

/// Removes a directory that nothing is mounted below: it was just unmounted, and this goes into no other filesystem. What the clone
/// has made read-only or immutable goes too.
fn remove_tree(directory: &Path) -> Result<()> {
    let table = crate::system::mounts::read()?;
    if let Some(mount) = table.iter().find(|mount| mount.point.starts_with(directory)) {
        let still = io::Error::other("something is still mounted there");
        return Err(RehearsalError::path("remove", &mount.point)(still));
    }
    match fresh::remove_tree(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RehearsalError::path("remove", directory)(error))
        }
        _ => Ok(()),
    }
}

/// The logs of the last few rehearsals are kept.
fn forget_old_logs(rehearsals: &Path) -> Result<()> {
    let mut all: Vec<Names> = listed(rehearsals)?.iter().filter_map(|name| Names::new(name)).collect();
    all.sort();
    let many = all.len().saturating_sub(KEPT_LOGS);
    for names in &all[..many] {
        let directory = made::directory(rehearsals, names);
        if made::read(&directory)?.is_none() {
            remove_tree(&directory)?;
        }
    }
    Ok(())
}

fn listed(directory: &Path) -> Result<Vec<String>> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries
            .and_then(|entries| {
                entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
            })
            .map_err(RehearsalError::path("list", directory)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_cannot_be_removed_keeps_none_of_the_others() {
        let names = |end: &str| Names::new(&format!("20261127T034800Z-{end}")).unwrap();
        let all = ["0001", "0002", "0003", "0004"].map(names);
        let mut tried = Vec::new();
        let stuck = each(all.clone(), |one| {
            tried.push(one.clone());
            match one.id().ends_with(['2', '3']) {
                true => Err(RehearsalError::Impossible(one.id().into())),
                false => Ok(true),
            }
        });
        assert_eq!(stuck.unwrap_err().to_string(), all[1].id(), "the first error");
        assert_eq!(tried, all);
        let swept = each(all.clone(), |one| Ok(*one != all[0])).unwrap();
        assert_eq!(swept, all[1..].iter().map(|one| one.id().to_owned()).collect::<Vec<_>>());
    }

    #[test]
    fn a_restored_backup_goes_only_from_where_it_was_put() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = dir.path().canonicalize().unwrap();
        let names = Names::new("20261127T034800Z-4f2a").unwrap();
        let table = crate::system::mounts::read().unwrap();
        let filesystem = crate::system::mounts::holding(&table, &scratch).unwrap().point.clone();
        let place = Place { directory: scratch.join(names.restored()), filesystem };
        let note = Path::new("/state/made.json");
        let make = |name: &str| {
            fs::create_dir_all(scratch.join(name).join("root/etc")).unwrap();
            fs::write(scratch.join(name).join("root/etc/passwd"), "x").unwrap();
        };
        make(&names.restored());
        make("precious");
        let elsewhere = Place { directory: scratch.join("precious"), ..place.clone() };
        let wrong = remove_restored(&elsewhere, note, &names).unwrap_err();
        assert!(crate::error::chain(&wrong).contains("/state/made.json is wrong"), "{wrong:?}");
        let unplugged = Place { filesystem: "/mnt/not-there".into(), ..place.clone() };
        let away = remove_restored(&unplugged, note, &names).unwrap_err();
        assert!(crate::error::chain(&away).contains("/mnt/not-there is not mounted"), "{away:?}");
        assert!(place.directory.join("root/etc/passwd").exists());
        remove_restored(&place, note, &names).unwrap();
        remove_restored(&place, note, &names).unwrap();
        assert!(!place.directory.exists() && scratch.join("precious/root/etc/passwd").exists());
    }
}
