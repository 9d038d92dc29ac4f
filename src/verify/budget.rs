//! A directory copy verified within a budget: all metadata, and content by share, size, time or age of proof.
//!
//! ```text
//! manifest × ledger ── survey ── choose ── wave by wave: read, note ── save ── coverage
//! manifest × metadata of the copy ── compare ─────────────────────────────────────┘
//! ```

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicU8;
use std::time::{Duration, Instant};

use super::beneath::Beneath;
use super::book::{Book, BookError};
use super::crew::{Crew, CrewError, Notes, Told};
use super::plan::Plan;
use super::select::Sample;
use crate::manifest::compare::{Rules, compare};
use crate::manifest::coverage::{Coverage, Ended, Goal};
use crate::manifest::exclude::{Excludes, InvalidPattern};
use crate::manifest::format::FormatError;
use crate::manifest::scan::{ScanError, gather, threads_for};
use crate::manifest::{Facts, Hashing, Progress, Report, ScanOptions};
use crate::sources::directory;

pub use super::book::forget;

/// How much is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Budget {
    /// How much at most; `None`: all.
    pub sample: Option<Sample>,
    /// Chooses the sample; the same seed chooses the same of the same manifest.
    pub seed: Seed,
    /// What was never proven is chosen first, then what was proven longest ago; chance decides only among equals. Needs a ledger.
    pub oldest_first: bool,
    /// No file is begun later than this after the beginning.
    pub max_duration: Option<Duration>,
    /// Only what was not proven within this is read, and all of it must be proven within it in the end. Needs a ledger.
    pub max_age: Option<Duration>,
}

/// What a sample is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seed {
    /// Asked for, to repeat a choice.
    Given(u64),
    /// Any will do: a run that was not ended is gone on with by its own.
    Fresh(u64),
}

impl Default for Seed {
    fn default() -> Self {
        Self::Given(0)
    }
}

/// What is verified, and how.
#[derive(Clone)]
pub struct Task<'t> {
    /// The copy.
    pub copy: &'t Path,
    /// What it should be.
    pub manifest: &'t Path,
    /// How the manifest's hashes were made.
    pub hashing: Hashing,
    /// How much is read.
    pub budget: Budget,
    /// The file in which it is kept what was proven when; it is made when it is not there.
    pub ledger: Option<&'t Path>,
    /// The live tree, to say where in a file damage is.
    pub against: Option<&'t Path>,
    /// A directory for temporary files.
    pub scratch: &'t Path,
    /// Losses that are known and wanted.
    pub accept_lost: Facts,
    /// How many differences are kept in full.
    pub kept: usize,
    /// Threads that read; `None` takes the default.
    pub threads: Option<NonZeroUsize>,
    /// How often the ledger is saved; what was read since is read again after a crash.
    pub checkpoint: Duration,
    /// The time.
    pub clock: &'t Clock<'t>,
    /// Whether to stop before the next file.
    pub stop: &'t (dyn Fn() -> bool + Sync),
    /// Told now and then: files and bytes read.
    pub progress: &'t (dyn Fn(Progress) + Sync),
}

/// How often the ledger is saved when nothing else was asked for.
pub const CHECKPOINT: Duration = Duration::from_secs(300);

/// Saving takes at most about one part in so many of the time.
const SAVING_SHARE: u32 = 20;

/// The time: what the clock on the wall said at the beginning, and how long ago that was. A clock that is set during a run
/// changes nothing.
pub struct Clock<'c> {
    wall: i64,
    elapsed: &'c (dyn Fn() -> Duration + Sync),
}

impl<'c> Clock<'c> {
    /// `wall` is in seconds since 1970 when `elapsed` was zero.
    #[must_use]
    pub fn new(wall: i64, elapsed: &'c (dyn Fn() -> Duration + Sync)) -> Self {
        Self { wall, elapsed }
    }

    /// Calls `run` with the clock of this machine.
    pub fn of_machine<R>(run: impl FnOnce(&Clock<'_>) -> R) -> R {
        let (wall, began) = (crate::manifest::scan::now().seconds, Instant::now());
        run(&Clock { wall, elapsed: &move || began.elapsed() })
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.wall.saturating_add_unsigned(self.elapsed().as_secs())
    }

    /// Since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        (self.elapsed)()
    }
}

/// It could not be found out whether the copy is good.
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    /// The manifest or the ledger.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The manifest's own exclude patterns make no sense.
    #[error("the manifest's exclude patterns are not usable")]
    Excludes(#[from] InvalidPattern),
    /// The copy or the live tree could not be read.
    #[error("failed to read {}", .tree.display())]
    Tree {
        /// Which.
        tree: PathBuf,
        /// Why.
        source: ScanError,
    },
    /// The reading failed.
    #[error(transparent)]
    Crew(#[from] CrewError),
    /// Ages were asked for, and nothing to know them from.
    #[error("the age of proofs can only be known from a ledger, and none is kept")]
    NoLedger,
}

/// Verifies within a budget.
///
/// All metadata are compared, whatever the budget. Proofs are in the ledger, durably, when this returns; those that were made
/// until [`Task::checkpoint`] before a crash are too.
///
/// # Errors
/// When it could not be found out, a damaged ledger included; never because of what the copy holds.
pub fn verify_within(task: &Task<'_>) -> Result<Report, BudgetError> {
    let needs_ledger = task.budget.max_age.is_some() || task.budget.oldest_first;
    if needs_ledger && task.ledger.is_none() {
        return Err(BudgetError::NoLedger);
    }
    let book = Book::open(task.copy, task.manifest, &task.hashing, task.ledger)?;
    let plan = Plan::make(&book, &task.budget, task.clock)?;
    let mut report = compare_metadata(task, &book)?;
    let crew = crew(task, &report)?;
    read_waves(task, &book, &plan, &crew)?;
    finish(task, &book, &plan, &crew, &mut report)?;
    Ok(report)
}

fn compare_metadata(task: &Task<'_>, book: &Book) -> Result<Report, BudgetError> {
    let header = book.header();
    let options = ScanOptions {
        excludes: Excludes::parse(&header.excludes)?,
        cross_mounts: !header.one_filesystem,
        threads: task.threads,
        metadata_only: true,
        hashing: task.hashing.clone(),
        ..ScanOptions::default()
    };
    let silent = |_| {};
    let found =
        gather(task.copy, &options, task.scratch, &silent).map_err(|source| in_tree(task.copy, source))?;
    let rules = Rules {
        accept_lost: task.accept_lost,
        carries: directory::carried(&found.header.filesystem),
        metadata_only: true,
        scratch: task.scratch.to_owned(),
        second_look: None,
    };
    let mut report = Report::keeping(task.kept);
    let mut manifest = book.manifest()?;
    let found = found.sorted.map(|found| found.map_err(FormatError::from));
    compare(&mut manifest, found, &rules, &mut report).map_err(|source| book.unusable(source))?;
    report.manifest = manifest.summary();
    Ok(report)
}

fn crew<'t>(task: &'t Task<'_>, report: &Report) -> Result<Crew<'t>, BudgetError> {
    let beneath = |tree: &Path| {
        Beneath::open(tree)
            .map_err(|errno| in_tree(tree, ScanError::Tree { tree: tree.to_owned(), source: errno.into() }))
    };
    Ok(Crew {
        copy: beneath(task.copy)?,
        live: task.against.map(beneath).transpose()?,
        hashing: &task.hashing,
        clock: task.clock,
        deadline: task.budget.max_duration,
        stop: task.stop,
        progress: task.progress,
        told: Told::of(report),
        ended: AtomicU8::default(),
        notes: Mutex::new(Notes::new(task.scratch, task.kept)),
    })
}

fn in_tree(tree: &Path, source: ScanError) -> BudgetError {
    BudgetError::Tree { tree: tree.to_owned(), source }
}

/// Reads what is chosen: each wave in the order of the manifest, the more urgent wave first.
fn read_waves(task: &Task<'_>, book: &Book, plan: &Plan, crew: &Crew<'_>) -> Result<(), BudgetError> {
    let options = ScanOptions { threads: task.threads, ..ScanOptions::default() };
    let threads = threads_for(task.copy, &options);
    let mut saved = Saved { at: task.clock.elapsed(), wait: task.checkpoint };
    for wave in 0..plan.waves() {
        crew.read(threads, |give| -> Result<(), BudgetError> {
            let mut files = book.candidates(plan.now)?;
            while let Some((entry, _, proven)) = files.next()? {
                if plan.wave_of(&entry, proven) != Some(wave) {
                    continue;
                }
                if !give(entry) {
                    break;
                }
                saved.when_due(task, book, plan, crew)?;
            }
            Ok(())
        })?;
        if crew.is_over() {
            break;
        }
    }
    Ok(())
}

/// When the ledger was saved last, and how long to wait for the next time.
struct Saved {
    at: Duration,
    wait: Duration,
}

impl Saved {
    fn when_due(
        &mut self,
        task: &Task<'_>,
        book: &Book,
        plan: &Plan,
        crew: &Crew<'_>,
    ) -> Result<(), BudgetError> {
        let began = task.clock.elapsed();
        if !book.is_kept() || began.saturating_sub(self.at) < self.wait {
            return Ok(());
        }
        let news = crew.notes().take_news(task.scratch);
        book.save(news, task.clock.now(), i64::MIN, plan.open_run())?;
        self.at = task.clock.elapsed();
        self.wait = task.checkpoint.max(self.at.saturating_sub(began) * SAVING_SHARE);
        Ok(())
    }
}

/// Saves the ledger, and adds to the report what it amounts to.
fn finish(
    task: &Task<'_>,
    book: &Book,
    plan: &Plan,
    crew: &Crew<'_>,
    report: &mut Report,
) -> Result<(), BudgetError> {
    let (news, mut read, findings) = {
        let mut notes = crew.notes();
        let findings = std::mem::replace(&mut notes.findings, Report::keeping(0));
        (notes.take_news(task.scratch), notes.read, findings)
    };
    let ended = if plan.chosen == plan.resumed.plus(read) { Ended::Complete } else { crew.ended() };
    let open_run = if ended == Ended::Complete { None } else { plan.open_run() };
    let now = task.clock.now();
    let age = task.budget.max_age.map(|age| age.as_secs());
    let since = age.map_or(i64::MIN, |age| now.saturating_sub_unsigned(age));
    let tally = book.save(news, now, since, open_run)?;
    read = read.plus(plan.resumed);
    report.bytes += findings.bytes;
    report.absorb(findings);
    report.remarks.extend(plan.remarks.iter().cloned());
    let goal = match (age, task.budget.sample) {
        (Some(seconds), _) => Goal::Age { seconds },
        (None, Some(_)) => Goal::Sample { seed: plan.seed },
        (None, None) => Goal::All,
    };
    let oldest = tally.oldest.map(|at| now.saturating_sub(at).max(0).unsigned_abs());
    let Plan { total, chosen, .. } = *plan;
    let (proven, overdue) = (tally.proven, tally.overdue);
    report.coverage = Some(Coverage { goal, ended, total, chosen, read, proven, overdue, oldest });
    report.levels.stored = report.coverage.as_ref().is_some_and(|coverage| coverage.is_whole());
    Ok(())
}
