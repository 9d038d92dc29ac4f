//! Packages before the upgrade: what it will do, and everything that it needs, fetched before anything is changed.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Result, trouble};
use crate::compat;
use crate::compat::origins::{Origins, is_own};
use crate::finding::Finding;
use crate::places::StateDirectory;
use crate::progress::Progress;
use crate::release::apt::{self, AptSettings};
use crate::release::hop::{Distribution, Hop};
use crate::release::prediction::Foretold;
use crate::release::preview;
use crate::release::sources::{self, entries::Entry};
use crate::release::ubuntu;
use crate::system::durable;
use crate::system::room;
use crate::system::span::Span;

/// Room that an upgrade needs besides its packages: logs and databases grow meanwhile. A rehearsal leaves it to the machine.
pub(super) const SPARE_BYTES: u64 = 1 << 30;

/// How long another apt may hold its lock.
pub(super) const LOCK_WAIT: Span = Span::seconds(600);

/// How silent a download may be.
const DOWNLOAD_SILENCE: Span = Span::seconds(300);

/// Where archives lie: on the state volume, so that neither a rollback nor a second try downloads them again.
pub(super) fn archives(places: &StateDirectory) -> std::path::PathBuf {
    places.apt().join("archives")
}

/// What is known of the packages before an upgrade, without the system's apt being touched or a package downloaded. Lists are kept on
/// the state volume where there is one.
pub(super) fn look(
    places: &StateDirectory,
    hop: &Hop,
    told: &dyn Fn(apt::Progress),
) -> Result<(compat::Ahead, Vec<Finding>)> {
    let plan = sources::plan_sources(Path::new("/"), hop).map_err(trouble)?;
    // Without the state volume nothing is left behind, not even its directory.
    let directory = places.path().is_dir().then(|| places.apt());
    let ahead = compat::look(hop, &plan, directory.as_deref(), told).map_err(trouble)?;
    let mut findings = compat::findings(&ahead.facts, hop);
    let prediction = &ahead.facts.prediction;
    if hop.distribution() == Distribution::Ubuntu {
        findings.extend(ubuntu::findings::denied_removals(&prediction.removed));
    }
    findings.extend(space(free_on_root()?, prediction.download_bytes, prediction.growth()));
    Ok((ahead, findings))
}

/// Downloads everything that the upgrade will need. Repeatable; the system's apt is not touched. Returns what was found, and what was
/// foretold.
pub(super) fn download(
    ahead: compat::Ahead,
    places: &StateDirectory,
    progress: &Progress,
    told: &dyn Fn(apt::Progress),
) -> Result<(Vec<Finding>, Foretold)> {
    let (directory, archives) = (places.apt(), archives(places));
    durable::private_directory(&archives).map_err(trouble)?;
    let log = directory.join("preview.log");
    let settings = AptSettings {
        log: &log,
        archives: &archives,
        silence: DOWNLOAD_SILENCE,
        lock_wait: LOCK_WAIT,
        stop: None,
        user: None,
    };
    let prediction = ahead.facts.prediction;
    delete_unnamed(&archives, &preview::archives(&ahead.private).map_err(trouble)?).map_err(trouble)?;
    preview::download(ahead.private, &settings, told).map_err(trouble)?;
    progress.line(&format!(
        "the upgrade will change {} packages, install {} and remove {}; their archives of {} bytes are here",
        prediction.upgraded.len(),
        prediction.new.len(),
        prediction.removed.len(),
        prediction.download_bytes
    ));
    // Once more: the archives themselves may lie on the same disk.
    let packed = packed_bytes(&archives).map_err(trouble)?;
    let findings = space(free_on_root()?, packed, prediction.growth()).into_iter().collect();
    Ok((findings, Foretold { prediction, before: compat::versions(ahead.facts.packages) }))
}

/// The distribution's own repositories as the hop leaves them: those that this program knows to rewrite.
pub(super) fn own_sources(hop: &Hop) -> Result<Vec<Entry>> {
    let plan = sources::plan_sources(Path::new("/"), hop).map_err(trouble)?;
    Ok(own_among(preview::target_entries(&plan), hop))
}

/// Others name their suites after releases too: they are left out, unless every address is unknown, as it is with a mirror of one's own.
fn own_among(mut entries: Vec<Entry>, hop: &Hop) -> Vec<Entry> {
    entries.retain(|entry| entry.suites.iter().any(|suite| suite == hop.to().codename));
    let by_address = |entry: &Entry| is_own(entry, hop.distribution(), &Origins::new());
    if entries.iter().any(by_address) {
        entries.retain(by_address);
    }
    entries
}

pub(super) fn shown(state: &apt::Progress) -> String {
    match &state.package {
        Some(package) => format!("{}: {} {package}", state.stage.name(), state.detail),
        None => format!("{}: {}", state.stage.name(), state.detail),
    }
}

/// Deletes the packages that this plan does not name: those of an earlier plan would lie there for ever.
fn delete_unnamed(archives: &Path, named: &BTreeSet<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(archives)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_package = Path::new(&name).extension().is_some_and(|extension| extension == "deb");
        if is_package && !name.to_str().is_some_and(|name| named.contains(name)) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// After a run nobody needs them: a failure only leaves the disk as full.
pub(super) fn drop_archives(places: &StateDirectory) {
    match std::fs::remove_dir_all(archives(places)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, "the downloaded packages could not be deleted");
        }
        _ => {}
    }
}

/// Before the old system is booted on a full disk, the downloads go: they can be had again. A failure only leaves it as full.
pub(super) fn make_room(places: &StateDirectory) {
    let archives = archives(places);
    let tight = free_on_root().is_ok_and(|free| free < SPARE_BYTES);
    if !tight || !archives.exists() {
        return;
    }
    tracing::warn!("the disk is nearly full; the downloaded packages are deleted");
    let freed = std::fs::remove_dir_all(&archives).map(|()| durable::sync_filesystem(places.path()));
    if let Err(error) = freed {
        tracing::warn!(%error, "the downloaded packages could not be deleted");
    }
}

/// How much larger packages are unpacked. Source: the 173 packages of a small bookworm server: 77 MiB packed, 290 MiB unpacked.
const UNPACKED: u64 = 5;

fn free_on_root() -> Result<u64> {
    room::free(Path::new("/")).map_err(trouble)
}

/// Predicts whether the root has room for packages of so many bytes, by which the system grows as apt says: nothing that the upgrade
/// replaces is freed, because the snapshot keeps it.
fn space(free: u64, packed: u64, growth: Option<u64>) -> Option<Finding> {
    let needed = growth.unwrap_or(0).max(packed.saturating_mul(UNPACKED)).saturating_add(SPARE_BYTES);
    (free < needed).then(|| {
        Finding::inhibitor(
            "space-on-root",
            format!("the root has {} MiB free; the upgrade needs about {} MiB.", free >> 20, needed >> 20),
            "make room on /, for instance with apt-get clean, or `safe-upgrade prune` for earlier runs",
        )
    })
}

/// The size of everything that was downloaded.
fn packed_bytes(archives: &Path) -> std::io::Result<u64> {
    std::fs::read_dir(archives)?.try_fold(0, |sum, entry| Ok(sum + entry?.metadata()?.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::prediction::Prediction;

    #[test]
    fn packages_of_an_earlier_plan_go() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("partial")).unwrap();
        for name in ["a_1%3a2_amd64.deb", "a_1%3a1_amd64.deb", "lock"] {
            std::fs::write(dir.path().join(name), "12345").unwrap();
        }
        delete_unnamed(dir.path(), &["a_1%3a2_amd64.deb".to_owned()].into()).unwrap();
        let left = |name: &str| dir.path().join(name).exists();
        assert!(left("a_1%3a2_amd64.deb") && left("lock") && left("partial"));
        assert!(!left("a_1%3a1_amd64.deb"));
    }

    #[test]
    fn whose_index_is_asked_for() {
        let hop = Hop::between("noble", "resolute").unwrap();
        let of = |lines: &str| -> Vec<String> {
            let entries = sources::entries::entries(Path::new("/etc/apt/sources.list"), lines);
            own_among(entries, &hop).into_iter().flat_map(|entry| entry.uris).collect()
        };
        let ppa = "deb https://ppa.invalid/owner/name/ubuntu resolute main\n";
        let own = "deb http://mirror.invalid/ubuntu resolute main\n";
        let elsewhere = "deb http://mirror.invalid/copy resolute main\n";
        let old = "deb http://mirror.invalid/ubuntu noble main\n";
        assert_eq!(of(&format!("{ppa}{own}{old}")), ["http://mirror.invalid/ubuntu"]);
        assert_eq!(of(elsewhere), ["http://mirror.invalid/copy"]);
        assert!(of(old).is_empty());
    }

    #[test]
    fn room_for_what_was_foretold() {
        let gib = 1 << 30;
        assert_eq!(space(6 * gib, gib, None), None);
        let shrinks = Prediction { disk_bytes: Some(-5), ..Prediction::default() };
        assert_eq!(space(6 * gib, gib, shrinks.growth()), None, "what it frees, the snapshot keeps");
        let found = space(6 * gib - 1, gib, None).unwrap();
        assert_eq!(
            (found.id.as_str(), found.severity),
            ("space-on-root", crate::finding::Severity::Inhibitor)
        );
        assert!(found.what.contains("6143 MiB free"), "{}", found.what);
        assert!(space(6 * gib, 1, Some(7 << 30)).is_some());
        assert_eq!(space(gib, 0, None), None);
    }
}
