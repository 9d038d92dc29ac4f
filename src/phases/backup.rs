//! The backup: copies made, really restored, and compared; and the look at it after a restart.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Machine, Result, ground, trouble};
use crate::backup::{self, BackupOptions, BackupProgress, Place, VerifyOptions, VerifyProgress};
use crate::config::Config;
use crate::driver::Trouble;
use crate::evidence::{BackupProof, Plan, RestoreReport, SampleFacts, TreeReport, backup::TreeProof};
use crate::manifest::exclude::Excludes;
use crate::manifest::{self, Report};
use crate::places::StateDirectory;
use crate::progress::Progress;
use crate::system::{durable, show};

/// How many differences of a tree the journal keeps.
const KEPT_LINES: usize = 100;

/// Makes the copies (unless somebody else does) and verifies them by restoring. Repeatable.
pub(super) fn back_up(machine: &Machine, _: &Plan) -> Result<RestoreReport> {
    back_up_all(&machine.config, &machine.places, &machine.progress)
}

/// The same, outside of a run.
///
/// # Errors
/// When a copy cannot be made, or it cannot be found out whether it is good.
pub fn back_up_all(config: &Config, places: &StateDirectory, progress: &Progress) -> Result<RestoreReport> {
    let configured = config.backup.scratch.as_ref().map(|path| path.as_path().to_owned());
    let scratch = configured.unwrap_or_else(|| default_scratch(config, places));
    durable::private_directory(&scratch).map_err(trouble)?;
    // A verification that lost power has left a whole restored tree here.
    backup::remove_leftovers(&scratch).map_err(trouble)?;
    let count = config.backup.trees.len();
    let mut trees = Vec::with_capacity(count);
    for (index, tree) in config.backup.trees.iter().enumerate() {
        let share = Share { progress, index, count };
        trees.push(one_tree((config, places), tree.as_path(), &scratch, &share)?);
    }
    Ok(RestoreReport { trees, ended: now() })
}

/// Beside the journal, or, on a machine that has no place for one, in the store.
fn default_scratch(config: &Config, places: &StateDirectory) -> PathBuf {
    match ground::is_there(places) {
        Ok(true) => places.scratch(),
        _ => config.backup.store.as_path().join(".safe-upgrade-scratch"),
    }
}

/// Where a restored tree may stay for as long as it is used: chosen, or beside the state of this program.
pub(super) fn own_scratch(config: &Config, places: &StateDirectory) -> PathBuf {
    config.backup.scratch.as_ref().map_or_else(|| places.scratch(), |path| path.as_path().to_owned())
}

/// What no copy of a tree needs: what the configuration says, and where trees are restored to, which may be inside.
fn left_out(config: &Config, places: &StateDirectory, tree: &Path) -> Vec<Vec<u8>> {
    let mut patterns: Vec<Vec<u8>> =
        config.backup.exclude.iter().map(|pattern| pattern.clone().into_bytes()).collect();
    let inside = own_scratch(config, places);
    if let Ok(inside) = inside.strip_prefix(tree)
        && inside != Path::new("")
    {
        // In a pattern a star is any text; there is no way to say it plainly.
        let plain = |byte: &u8| if *byte == b'*' { b'?' } else { *byte };
        patterns.push(inside.as_os_str().as_bytes().iter().map(plain).collect());
    }
    patterns
}

fn one_tree(
    (config, places): (&Config, &StateDirectory),
    tree: &Path,
    scratch: &Path,
    share: &Share<'_>,
) -> Result<TreeReport> {
    let store = config.backup.store.as_path();
    let shown = show::path(tree);
    if config.backup.copy {
        let excludes = Excludes::parse(&left_out(config, places, tree)).map_err(trouble)?;
        let options = BackupOptions { excludes, ..BackupOptions::default() };
        let told = |state: BackupProgress| match state {
            BackupProgress::Scanning(seen) | BackupProgress::Checking(seen) => {
                share.told(0.1, &format!("{shown}: {} entries read", seen.entries));
            }
            BackupProgress::Copying(bytes) => share.told(0.3, &format!("{shown}: {bytes} bytes copied")),
        };
        backup::back_up(tree, store, &options, &told).map_err(trouble)?;
    }
    let place = Place::of(store, tree).map_err(trouble)?;
    let told = |state: VerifyProgress| match state {
        VerifyProgress::Listing => share.told(0.5, &format!("{shown}: listing the copy")),
        VerifyProgress::Restoring { done, total } => {
            share.told(0.7, &format!("{shown}: {done} of {total} bytes restored"));
        }
        VerifyProgress::Reading(seen) => {
            share.told(0.9, &format!("{shown}: {} entries compared", seen.entries))
        }
    };
    // rsync cannot restore the flags of chattr; the snapshot, which leads back first, has them.
    let options =
        VerifyOptions { kept: KEPT_LINES, accept_lost: manifest::Facts::FLAGS, ..VerifyOptions::default() };
    let report = backup::verify_restored(&place.copy(), &place.manifest(), scratch, &options, &told)
        .map_err(trouble)?;
    share.progress.line(&format!("{shown}: {}", report.sentence()));
    tree_report(tree, &report)
}

fn tree_report(tree: &Path, report: &Report) -> Result<TreeReport> {
    let shown = tree.to_string_lossy().into_owned();
    let summary = report
        .manifest
        .ok_or_else(|| Trouble::new(format!("the manifest of {shown} was not read to its end")))?;
    // A verdict that is neither same nor different is not a yes: something could not be checked.
    let differences = if report.is_same() { 0 } else { report.total().max(1) };
    Ok(TreeReport {
        manifest: plan_id(&summary.id)?,
        entries: report.entries,
        bytes: report.bytes,
        differences,
        lines: verdict_lines(&shown, report),
        tree: shown,
    })
}

/// Every difference that was kept, one line each: class, path, what was expected and what was found.
#[must_use]
pub fn verdict_lines(tree: &str, report: &Report) -> Vec<String> {
    let line = |difference: &manifest::verdict::Difference| {
        format!(
            "{}: {}/{}: expected {}, found {}",
            difference.class,
            show::line(tree),
            show::bytes(&difference.path),
            difference.expected,
            difference.found
        )
    };
    report.differences().iter().map(line).collect()
}

fn plan_id(id: &manifest::ManifestId) -> Result<crate::evidence::ManifestId> {
    id.to_string().parse().map_err(trouble)
}

/// Reads a sample of every tree again. Repeatable.
pub(super) fn sample(machine: &Machine, plan: &Plan, claim: &BackupProof) -> Result<SampleFacts> {
    let store = machine.config.backup.store.as_path();
    let count = usize::try_from(plan.reattest.sample).map_err(trouble)?;
    let mut seed = [0_u8; 8];
    rustix::rand::getrandom(&mut seed[..], rustix::rand::GetRandomFlags::empty()).map_err(trouble)?;
    let mut facts = SampleFacts { now: now(), trees: vec![], read: 0, differing: 0 };
    for TreeProof { tree, .. } in &claim.trees {
        let place = Place::of(store, Path::new(tree)).map_err(trouble)?;
        let whole = manifest::read_file(&place.manifest()).map_err(trouble)?;
        let entries = whole.entries.into_iter().map(Ok);
        let report = manifest::attest::attest_sample(&place.copy(), entries, u64::from_le_bytes(seed), count)
            .map_err(trouble)?;
        facts.read += report.entries;
        facts.differing += report.total();
        facts.trees.push(TreeProof { tree: tree.clone(), manifest: plan_id(&whole.summary.id)? });
    }
    Ok(facts)
}

fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}

/// One tree's share of the whole phase.
struct Share<'p> {
    progress: &'p Progress,
    index: usize,
    count: usize,
}

impl Share<'_> {
    #[expect(clippy::cast_precision_loss, reason = "a handful of trees")]
    fn told(&self, part: f64, text: &str) {
        self.progress.percent((self.index as f64 + part) / self.count as f64 * 100.0, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_root_leaves_out_where_it_is_restored_to() {
        let config = |more: &str| {
            let text =
                format!("[backup]\nstore = \"/srv/backup\"\ntrees = [\"/\"]\nexclude = [\"tmp/*\"]\n{more}");
            crate::config::parse(&text).unwrap()
        };
        let left = |config: &Config, tree: &str| -> Vec<String> {
            let patterns = left_out(config, &StateDirectory::default(), Path::new(tree));
            patterns.into_iter().map(|pattern| String::from_utf8(pattern).unwrap()).collect()
        };
        assert_eq!(left(&config(""), "/"), ["tmp/*", "var/lib/safe-upgrade/scratch"]);
        assert_eq!(left(&config(""), "/etc"), ["tmp/*"]);
        let chosen = config("scratch = \"/mnt/a*b\"\n");
        assert_eq!(left(&chosen, "/"), ["tmp/*", "mnt/a?b"]);
        assert_eq!(left(&chosen, "/mnt/a*b"), ["tmp/*"]);
    }
}
