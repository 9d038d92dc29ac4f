//! Proving a copy: by reading it where it is, or by really restoring it and reading what came out.
//!
//! The restore is done by rsync, several at once, for two reasons: it is the tool with which a person would restore this copy
//! at 3 a.m., so it is its restore that must be proven; and it already keeps links, holes, ACLs and attributes. The paths are
//! shared out by size, names of one inode always to the same worker. Directories are made first, and get their owners, modes
//! and times last, when nobody writes into them any more.
//!
//! What is read comes from the disk as far as the kernel lets us: the copy and the restored tree are synced and dropped from
//! the cache before they are read. Only the listing that is shared out is held in memory, some hundred bytes for each entry and
//! no contents; the reading is bounded.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::restore::{self, Work};
use super::rsync::RsyncError;
use crate::manifest::compare::Rules;
use crate::manifest::exclude::{Excludes, InvalidPattern};
use crate::manifest::format::{FormatError, Header};
use crate::manifest::judge::judge;
use crate::manifest::scan::{ScanError, gather, survey};
use crate::manifest::verdict::{Meaning, Restore};
use crate::manifest::{Facts, Hashing, Progress, Report, ScanOptions, open_file_with};
use crate::system::durable::{self, DurableError};

/// How a copy is verified.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// How many rsyncs restore at once.
    pub workers: usize,
    /// How many differences are kept in full.
    pub kept: usize,
    /// Losses that are known and wanted.
    pub accept_lost: Facts,
    /// How the manifest's hashes were made.
    pub hashing: Hashing,
    /// Where what is read is sorted, when it is too much for the memory; `None` does it beside the restored tree.
    pub sorting: Option<PathBuf>,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        // Reading small cold files is mostly waiting, so more than cores. Beyond four on two cores the gain was within the noise.
        Self {
            workers: (2 * cores).clamp(4, 12),
            kept: crate::manifest::verdict::DEFAULT_KEPT,
            accept_lost: Facts::NONE,
            hashing: Hashing::plain(),
            sorting: None,
        }
    }
}

/// What a verification is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyProgress {
    /// Listing the copy.
    Listing,
    /// Restoring: bytes so far, of how many.
    Restoring {
        /// Bytes so far.
        done: u64,
        /// Of how many.
        total: u64,
    },
    /// Reading what is compared.
    Reading(Progress),
}

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
    /// The copy, or what was restored from it, could not be read.
    #[error("failed to read {}", .tree.display())]
    Read {
        /// Which.
        tree: PathBuf,
        /// Why.
        source: ScanError,
    },
    /// The scratch directory is too small, as far as can be known beforehand.
    #[error("restoring needs {needed} bytes and {} has {free}", .scratch.display())]
    TooSmall {
        /// The directory.
        scratch: PathBuf,
        /// Bytes on disk of the copy.
        needed: u64,
        /// Bytes free for us.
        free: u64,
    },
    /// The scratch directory could not be used.
    #[error("failed to use the scratch directory {}", .scratch.display())]
    Scratch {
        /// The directory.
        scratch: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The restoring failed.
    #[error("failed to restore the copy")]
    Restore(#[from] RsyncError),
    /// rsync complained, and nothing differs that would explain it.
    #[error("the restore was not complete: {words}")]
    Complaint {
        /// rsync's words.
        words: String,
    },
    /// What was written could not be made durable, so it cannot be read back from the disk.
    #[error("failed to sync")]
    Sync(#[from] DurableError),
}

/// Restores a copy into a fresh private directory below `scratch`, compares what came out with a manifest, and removes it
/// again. Reaches the levels "stored" and "restored".
///
/// Repeatable. After a crash a directory may be left in `scratch`: [`super::remove_leftovers`].
///
/// # Errors
/// When that could not be done, a full scratch included; never because of what the copy holds.
pub fn verify_restored(
    copy: &Path,
    manifest: &Path,
    scratch: &Path,
    options: &VerifyOptions,
    progress: &(dyn Fn(VerifyProgress) + Sync),
) -> Result<Report, VerifyError> {
    let listed = Listed::look(copy, manifest, options, progress)?;
    let private = restore::Private::create(scratch)
        .map_err(|source| VerifyError::Scratch { scratch: scratch.to_owned(), source })?;
    restore::check_room(scratch, listed.work.needed)?;
    let sorting = options.sorting.clone().unwrap_or_else(|| private.around());
    let mut report = listed.restore(&private.path(), manifest, &sorting, options, progress)?;
    if let Err(error) = private.remove() {
        report.remarks.push(format!("the restored tree could not be removed: {error}"));
    }
    Ok(report)
}

/// Restores a copy into a directory that is not there yet, in which it stays, and compares what came out with a manifest. The
/// directory around it must be one that only we can enter.
///
/// # Errors
/// As [`verify_restored`]; [`VerifyError::TooSmall`] also when fewer than `spare` bytes would be left. What was restored until then
/// stays.
pub fn restore_to_stay(
    copy: &Path,
    manifest: &Path,
    (to, spare): (&Path, u64),
    options: &VerifyOptions,
    progress: &(dyn Fn(VerifyProgress) + Sync),
) -> Result<Report, VerifyError> {
    let listed = Listed::look(copy, manifest, options, progress)?;
    let around = to.parent().unwrap_or(to);
    restore::check_room(around, listed.work.needed.saturating_add(listed.overhead).saturating_add(spare))?;
    std::fs::create_dir(to).map_err(|source| VerifyError::Scratch { scratch: to.to_owned(), source })?;
    let sorting = options.sorting.clone().unwrap_or_else(|| around.to_owned());
    listed.restore(to, manifest, &sorting, options, progress)
}

/// A copy that was listed, and how it is restored.
struct Listed {
    copy: PathBuf,
    scan_options: ScanOptions,
    work: Work,
    /// What names and inodes take besides the contents, in bytes.
    overhead: u64,
}

impl Listed {
    fn look(
        copy: &Path,
        manifest: &Path,
        options: &VerifyOptions,
        progress: &(dyn Fn(VerifyProgress) + Sync),
    ) -> Result<Self, VerifyError> {
        let scan_options = scan_options(&header(manifest, &options.hashing)?, &options.hashing)?;
        progress(VerifyProgress::Listing);
        let copy = std::fs::canonicalize(copy).map_err(|source| VerifyError::Read {
            tree: copy.to_owned(),
            source: ScanError::Tree { tree: copy.to_owned(), source },
        })?;
        // Only clean pages can be dropped from the cache.
        durable::sync_filesystem(&copy)?;
        let walked = survey(&copy, &scan_options)
            .map_err(|source| VerifyError::Read { tree: copy.clone(), source })?;
        let overhead = (walked.entries.len() as u64).saturating_mul(restore::BLOCK);
        Ok(Self { work: Work::of(&walked, options.workers), copy, scan_options, overhead })
    }

    /// Restores, and reads what came out.
    fn restore(
        self,
        to: &Path,
        manifest: &Path,
        sorting: &Path,
        options: &VerifyOptions,
        progress: &(dyn Fn(VerifyProgress) + Sync),
    ) -> Result<Report, VerifyError> {
        let began = Instant::now();
        let words = restore::restore_all(&self.copy, to, &self.work, progress)?;
        let seconds = began.elapsed().as_secs_f64();
        drop(self.work);
        durable::sync_filesystem(to)?;
        let reading = |state| progress(VerifyProgress::Reading(state));
        let found = gather(to, &self.scan_options, sorting, &reading)
            .map_err(|source| VerifyError::Read { tree: to.to_owned(), source })?;
        let mut report = Report::keeping(options.kept);
        report.restore = Some(Restore { seconds, bytes: found.bytes });
        // rsync does not restore the flags of chattr.
        let carries = Facts::restored_by(rustix::process::geteuid().is_root()).without(Facts::FLAGS);
        let scratch = sorting.to_owned();
        let rules = Rules { accept_lost: options.accept_lost, carries, scratch, ..Rules::default() };
        judge(manifest, &options.hashing, found.sorted, &rules, &mut report)
            .map_err(|source| VerifyError::Manifest { path: manifest.to_owned(), source })?;
        report.levels.stored = true;
        report.levels.restored = words.is_empty();
        explain(words, report)
    }
}

/// What rsync complained about must show as a difference; otherwise something was lost that is not compared.
fn explain(words: Vec<String>, mut report: Report) -> Result<Report, VerifyError> {
    // A remark, or a flag that no rsync restores, explains nothing.
    let explained =
        report.counts().any(|(class, _)| matches!(class.meaning(), Meaning::Damage | Meaning::Unknown));
    if !explained && !words.is_empty() {
        return Err(VerifyError::Complaint { words: words.join("; ") });
    }
    report.remarks.extend(words.into_iter().map(|words| format!("rsync: {words}")));
    Ok(report)
}

fn header(path: &Path, hashing: &Hashing) -> Result<Header, VerifyError> {
    let reader = open_file_with(path, hashing);
    reader
        .map(|reader| reader.header().clone())
        .map_err(|source| VerifyError::Manifest { path: path.to_owned(), source })
}

/// What the manifest left out is not looked for in the copy either.
fn scan_options(header: &Header, hashing: &Hashing) -> Result<ScanOptions, VerifyError> {
    Ok(ScanOptions {
        excludes: Excludes::parse(&header.excludes)?,
        cross_mounts: !header.one_filesystem,
        evict: true,
        hashing: hashing.clone(),
        ..ScanOptions::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::{BackupOptions, Place, back_up};
    use super::*;
    use crate::manifest::acl::Acl;
    use crate::manifest::verdict::Difference;
    use crate::manifest::{Class, Verdict};
    use crate::sources::Source;
    use crate::verify::{Against, Request, verify};
    use rustix::fs::XattrFlags;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// The copy read where it is.
    fn stored(copy: &Path, manifest: &Path) -> Report {
        let against = Against::Manifest(manifest.to_owned());
        verify(&Request::new(Source::Path(copy.to_owned()), against), &|_| {}).unwrap()
    }

    /// What rsync 3.5.0 needs two passes for.
    fn sticky_with_list(path: &Path) {
        std::fs::create_dir(path).unwrap();
        let list = Acl::parse_text(b"u::rwx,u:1234:r--,g::r-x,m::r-x,o::---", &|_, _| None).unwrap();
        let set =
            rustix::fs::setxattr(path, "system.posix_acl_access", &list.to_xattr(), XattrFlags::empty());
        if set == Err(rustix::io::Errno::OPNOTSUPP) {
            println!("skipped: no access control lists on this filesystem");
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o1750)).unwrap();
    }

    struct Lab {
        dir: tempfile::TempDir,
    }

    impl Lab {
        /// A source with every awkward thing, and its backup; `None` without rsync.
        fn new() -> Option<Self> {
            if crate::system::exec::find_tool("rsync").is_err() {
                println!("skipped: rsync is not installed");
                return None;
            }
            let dir = tempfile::tempdir().unwrap();
            let lab = Self { dir };
            let at = |name: &str| lab.source().join(name);
            std::fs::create_dir_all(at("d/locked")).unwrap();
            for n in 0..50 {
                std::fs::write(at(&format!("d/{n}")), vec![n; 1000 * usize::from(n)]).unwrap();
            }
            std::fs::write(at("#comment"), b"1").unwrap();
            std::fs::write(at(";comment\n with newline"), b"2").unwrap();
            std::fs::write(lab.source().join(std::ffi::OsStr::new("d/locked/x")), b"3").unwrap();
            std::fs::hard_link(at("d/7"), at("seven")).unwrap();
            std::fs::hard_link(at("d/8"), at("d/locked/eight")).unwrap();
            symlink("d/7", at("link")).unwrap();
            std::fs::File::create(at("holes")).unwrap().set_len(50 << 20).unwrap();
            std::fs::set_permissions(at("d/locked"), std::fs::Permissions::from_mode(0o555)).unwrap();
            sticky_with_list(&at("d/sticky"));
            std::fs::set_permissions(lab.source(), std::fs::Permissions::from_mode(0o755)).unwrap();
            lab.back_up();
            Some(lab)
        }

        fn source(&self) -> PathBuf {
            self.dir.path().join("source")
        }

        fn back_up(&self) -> super::super::Backup {
            let options = BackupOptions { by_content: true, ..BackupOptions::default() };
            back_up(&self.source(), &self.dir.path().join("store"), &options, &|_| {}).unwrap()
        }

        fn place(&self) -> Place {
            Place::of(&self.dir.path().join("store"), &self.source()).unwrap()
        }

        fn verify(&self) -> Result<Report, VerifyError> {
            let (place, scratch) = (self.place(), self.dir.path().join("scratch"));
            let restored = verify_restored(
                &place.copy(),
                &place.manifest(),
                &scratch,
                &VerifyOptions::default(),
                &|_| {},
            )?;
            assert_eq!(std::fs::read_dir(scratch).unwrap().count(), 0, "the scratch is empty again");
            let told = |report: &Report| -> Vec<_> {
                report.differences().iter().map(|found| (found.class, found.path.clone())).collect()
            };
            assert_eq!(told(&stored(&place.copy(), &place.manifest())), told(&restored));
            Ok(restored)
        }
    }

    #[test]
    fn a_remark_does_not_explain_a_complaint() {
        for class in Class::ALL {
            let mut report = Report::default();
            let (expected, found) = ("a".to_owned(), "b".to_owned());
            report.add(Difference { class, path: b"p".to_vec(), expected, found });
            let explains = matches!(class.meaning(), Meaning::Damage | Meaning::Unknown);
            assert_eq!(explain(vec!["code 23".to_owned()], report.clone()).is_ok(), explains, "{class}");
            assert!(explain(Vec::new(), report).is_ok());
        }
    }

    #[test]
    fn a_restored_backup_is_the_same() {
        let Some(lab) = Lab::new() else { return };
        let report = lab.verify().unwrap();
        assert_eq!(report.differences(), []);
        assert!(report.is_same());
        assert!(report.levels.restored);
        let restore = report.restore.unwrap();
        assert!(restore.seconds > 0.0);
        assert_eq!(restore.bytes, report.bytes);
        assert_eq!(Some(report.entries), report.manifest.map(|summary| summary.entries));
    }

    #[test]
    fn every_damage_is_named_and_a_second_backup_repairs_it() {
        let Some(lab) = Lab::new() else { return };
        let at = |name: &str| lab.place().copy().join(name);
        let keep_time = |path: &Path, change: &dyn Fn()| {
            let time = std::fs::metadata(path).unwrap().modified().unwrap();
            change();
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_times(std::fs::FileTimes::new().set_modified(time)).unwrap();
        };
        keep_time(&at("d/9"), &|| std::fs::write(at("d/9"), vec![0; 9000]).unwrap());
        std::fs::set_permissions(at("d/10"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let report = lab.verify().unwrap();
        let found: Vec<_> = report.differences().iter().map(|d| (d.class, d.path.as_slice())).collect();
        assert_eq!(found, [(Class::Mode, b"d/10".as_slice()), (Class::Content, b"d/9")]);
        assert_eq!(report.verdict(), Verdict::NotSame);
        lab.back_up();
        assert!(lab.verify().unwrap().is_same());
    }

    #[test]
    fn a_backup_that_was_not_finished_cannot_be_verified() {
        let Some(lab) = Lab::new() else { return };
        std::fs::remove_file(lab.place().manifest()).unwrap();
        assert!(matches!(lab.verify(), Err(VerifyError::Manifest { .. })));
    }

    #[test]
    fn an_empty_copy_is_not_the_same() {
        let Some(lab) = Lab::new() else { return };
        std::fs::remove_dir_all(lab.place().copy()).unwrap();
        assert!(matches!(lab.verify(), Err(VerifyError::Read { .. })));
        std::fs::create_dir(lab.place().copy()).unwrap();
        assert_eq!(lab.verify().unwrap().verdict(), Verdict::NotSame);
    }

    #[test]
    fn a_full_scratch_is_not_an_answer() {
        let Some(lab) = Lab::new() else { return };
        let scratch = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=400k,nodev,nosuid", "tmpfs"])
            .arg(scratch.path())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            return println!("skipped: mounting a tmpfs needs root");
        }
        let place = lab.place();
        let verify = |copy: &Path| {
            verify_restored(copy, &place.manifest(), scratch.path(), &VerifyOptions::default(), &|_| {})
        };
        let result = verify(&place.copy());
        // Compressible by holes only on the way in: many small files need more than their bytes.
        let small = lab.dir.path().join("small");
        std::fs::create_dir(&small).unwrap();
        for n in 0..3000 {
            std::os::unix::fs::symlink("t".repeat(200), small.join(n.to_string())).unwrap();
        }
        let full = verify(&small);
        let left = std::fs::read_dir(scratch.path()).unwrap().count();
        assert!(std::process::Command::new("umount").arg(scratch.path()).status().unwrap().success());
        assert!(matches!(result, Err(VerifyError::TooSmall { .. })), "{result:?}");
        assert!(matches!(full, Err(VerifyError::Restore(RsyncError::NoSpace { .. }))), "{full:?}");
        assert_eq!(left, 0);
    }

    #[test]
    fn a_store_inside_the_tree_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let options = BackupOptions::default();
        let result = back_up(dir.path(), &dir.path().join("store"), &options, &|_| {});
        assert!(matches!(result, Err(super::super::BackupError::StoreInsideTree { .. })), "{result:?}");
    }
}
