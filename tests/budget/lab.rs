//! A tree, its manifest, and runs over it at any time of any clock.

#![allow(unreachable_pub, reason = "shared by the parts of one test")]

use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, SystemTime};

use safe_upgrade::manifest::format::Header;
use safe_upgrade::manifest::{Facts, Hashing, Progress, Report, ScanOptions, open_file, scan, write_file};
use safe_upgrade::verify::budget::{Budget, BudgetError, Clock, Task, verify_within};
use safe_upgrade::verify::ledger::{LedgerReader, Subject};

/// In seconds.
pub(crate) const DAY: i64 = 86_400;

pub(crate) struct Lab {
    dir: tempfile::TempDir,
}

/// What differs from run to run.
pub(crate) struct Run {
    pub(crate) wall: i64,
    pub(crate) budget: Budget,
    pub(crate) checkpoint: Duration,
    /// Told to stop when so many files were begun.
    pub(crate) stop_after: Option<u64>,
    pub(crate) against: bool,
    pub(crate) without_ledger: bool,
}

impl Run {
    pub(crate) fn at(wall: i64) -> Self {
        let (budget, checkpoint) = (Budget::default(), Duration::from_secs(1 << 40));
        Self { wall, budget, checkpoint, stop_after: None, against: false, without_ledger: false }
    }
}

impl Lab {
    /// Files of these sizes, some of them in a directory.
    pub(crate) fn of_sizes(sizes: &[usize]) -> Self {
        let lab = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(lab.path("d")).unwrap();
        for (number, size) in sizes.iter().enumerate() {
            let bytes: Vec<u8> = (0..*size).map(|at| (at / 3 + number) as u8).collect();
            std::fs::write(lab.path(&Self::name(number)), bytes).unwrap();
        }
        lab.take_manifest();
        lab
    }

    pub(crate) fn name(number: usize) -> String {
        if number.is_multiple_of(2) { format!("d/{number:03}") } else { format!("{number:03}") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.copy().join(name)
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.dir.path().join("ledger")
    }

    pub(crate) fn forget(&self) {
        safe_upgrade::verify::budget::forget(&self.ledger()).unwrap();
    }

    pub(crate) fn take_manifest(&self) {
        let manifest = scan(&self.copy(), &ScanOptions::default(), &|_| {}).unwrap();
        write_file(&manifest, &self.manifest()).unwrap();
    }

    /// Flips a bit, as a disk does: no time of the file says so.
    pub(crate) fn flip(&self, name: &str, at: usize) {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(self.path(name)).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at as u64).unwrap();
        file.set_modified(modified).unwrap();
    }

    pub(crate) fn touch(&self, name: &str, seconds: u64) {
        let file = std::fs::OpenOptions::new().write(true).open(self.path(name)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    }

    pub(crate) fn keep_live_copy(&self) {
        std::fs::create_dir_all(self.live().join("d")).unwrap();
        for name in std::fs::read_dir(self.path("d")).unwrap() {
            let path = name.unwrap().path();
            std::fs::copy(&path, self.live().join("d").join(path.file_name().unwrap())).unwrap();
        }
    }

    /// The files that have a proof.
    pub(crate) fn ledger_paths(&self) -> Vec<String> {
        let subject = Subject::new(&self.copy().canonicalize().unwrap(), &self.header());
        let mut ledger = LedgerReader::open(&self.ledger(), &subject).unwrap();
        let mut paths = Vec::new();
        while let Some(proof) = ledger.as_mut().and_then(|ledger| ledger.next_proof().unwrap()) {
            paths.push(String::from_utf8(proof.path).unwrap());
        }
        paths
    }

    pub(crate) fn run(&self, run: &Run) -> Result<Report, BudgetError> {
        self.run_watched(run, &|_| {})
    }

    pub(crate) fn run_watched(
        &self,
        run: &Run,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Report, BudgetError> {
        self.verify(run, &Clock::new(run.wall, &|| Duration::ZERO), progress)
    }

    pub(crate) fn run_with(
        &self,
        run: &Run,
        elapsed: &(dyn Fn() -> Duration + Sync),
    ) -> Result<Report, BudgetError> {
        self.verify(run, &Clock::new(run.wall, elapsed), &|_| {})
    }

    fn verify(
        &self,
        run: &Run,
        clock: &Clock<'_>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Report, BudgetError> {
        let begun = AtomicU64::new(0);
        let feeding = std::thread::current().id();
        let (copy, manifest, ledger, live) = (self.copy(), self.manifest(), self.ledger(), self.live());
        verify_within(&Task {
            copy: &copy,
            manifest: &manifest,
            hashing: Hashing::plain(),
            budget: run.budget,
            ledger: (!run.without_ledger).then_some(ledger.as_path()),
            against: run.against.then_some(live.as_path()),
            scratch: self.dir.path(),
            accept_lost: Facts::NONE,
            kept: 100,
            threads: NonZeroUsize::new(1),
            checkpoint: run.checkpoint,
            clock,
            stop: &|| {
                // Each reading thread asks before each file; the thread that gives them out asks too.
                let reads = std::thread::current().id() != feeding;
                reads && run.stop_after.is_some_and(|after| begun.fetch_add(1, SeqCst) >= after)
            },
            progress,
        })
    }

    fn copy(&self) -> PathBuf {
        self.dir.path().join("copy")
    }

    fn live(&self) -> PathBuf {
        self.dir.path().join("live")
    }

    fn manifest(&self) -> PathBuf {
        self.dir.path().join("manifest")
    }

    fn header(&self) -> Header {
        open_file(Path::new(&self.manifest())).unwrap().header().clone()
    }
}
