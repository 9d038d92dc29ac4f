//! Verification without anybody watching: what is due, what came out last, and how a monitoring system learns of it.
//!
//! | file | what |
//! |---|---|
//! | [`last`] | the last run of each, on disk |
//! | [`metrics`] | the same for Prometheus |

pub mod last;
pub mod metrics;

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use crate::config::verify::Scheduled;
use crate::manifest::Report;
use crate::system::durable::DurableError;
use crate::system::lock::{ExclusiveLock, LockError};
use last::{Answer, LastRun, Outcome, Store, StoreError};

/// A timer fires a little early or late; without this, `every = "1d"` would run an hour later each day under an hourly timer.
const EARLY: Duration = Duration::from_secs(15 * 60);

/// What kept a schedule from being followed. That a copy is bad, or that one verification failed, does not.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// Another one is at it.
    #[error("failed to begin a scheduled verification")]
    Lock(#[from] LockError),
    /// Last results could not be read or kept.
    #[error("failed to keep the results of scheduled verifications")]
    Store(#[from] StoreError),
    /// The metrics of a file could not be written; the verifications themselves were made.
    #[error("failed to write metrics")]
    Metrics(#[from] DurableError),
    /// A name that no verification has.
    #[error("no verification is named {0:?} in the configuration")]
    Unknown(String),
}

/// Why a verification runs, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// It never ran.
    Never,
    /// The last run gave no answer.
    NoAnswer,
    /// The last run is long enough ago.
    Again,
    /// Its name was given.
    Named,
    /// It is not due.
    Not,
}

/// The verifications of a configuration and what is known of them.
#[derive(Debug)]
pub struct Schedule<'j> {
    jobs: &'j [Scheduled],
    store: Store,
}

/// A verification, its last run, and whether it is due.
pub type Standing<'j> = (&'j Scheduled, Option<LastRun>, Due);

/// What one verification came to.
#[derive(Debug)]
pub struct Ran<'j> {
    /// Which.
    pub job: &'j Scheduled,
    /// With the time it took.
    pub last: LastRun,
}

impl<'j> Schedule<'j> {
    /// `directory` is where last results are kept.
    #[must_use]
    pub fn new(jobs: &'j [Scheduled], directory: impl Into<PathBuf>) -> Self {
        Self { jobs, store: Store::new(directory) }
    }

    /// Each verification, its last run, and whether it is due at `now`.
    ///
    /// # Errors
    /// When a last result cannot be read.
    pub fn look(&self, now: Timestamp) -> Result<Vec<Standing<'j>>, StoreError> {
        self.jobs
            .iter()
            .map(|job| {
                let last = self.store.read(job.name.as_str())?;
                let due = due(job, last.as_ref(), now);
                Ok((job, last, due))
            })
            .collect()
    }

    /// Runs what is due, or those that are named whether due or not, one after another, and keeps what came out.
    ///
    /// `verify` does the work; its error, as text that is safe to show, is a result like any other. `told` hears of each as it
    /// ends. Results and metrics are written after each, so that a power cut costs one of them.
    ///
    /// # Errors
    /// When another one is at it, a name is unknown, or results cannot be kept.
    pub fn run(
        &self,
        names: &[String],
        verify: &dyn Fn(&Scheduled) -> Result<Report, String>,
        told: &mut dyn FnMut(&Ran<'j>),
    ) -> Result<Vec<Ran<'j>>, ScheduleError> {
        if let Some(name) = names.iter().find(|name| self.jobs.iter().all(|job| job.name.as_str() != **name))
        {
            return Err(ScheduleError::Unknown(name.clone()));
        }
        self.store.prepare()?;
        let _only = ExclusiveLock::try_acquire(&self.store.lock())?;
        let (mut all, mut unwritten) = (Vec::new(), None);
        for (job, before, due) in self.look(Timestamp::now())? {
            let named = names.iter().any(|name| name == job.name.as_str());
            if !named && (!names.is_empty() || due == Due::Not) {
                continue;
            }
            let last = run_one(job, before.as_ref(), verify);
            self.store.write(&last)?;
            if let Err(error) = self.write_metrics(job) {
                // That must not keep the other copies from being verified.
                unwritten.get_or_insert(error);
            }
            let ran = Ran { job, last };
            told(&ran);
            all.push(ran);
        }
        unwritten.map_or(Ok(all), Err)
    }

    /// Writes the file of metrics that `of` names, with all that share it.
    fn write_metrics(&self, of: &Scheduled) -> Result<(), ScheduleError> {
        let Some(file) = &of.metrics else { return Ok(()) };
        let mut rows = Vec::new();
        for job in self.jobs.iter().filter(|job| job.metrics.as_ref() == Some(file)) {
            rows.push((job, self.store.read(job.name.as_str())?));
        }
        let rows: Vec<_> = rows.iter().map(|(job, last)| (*job, last.as_ref())).collect();
        Ok(metrics::write(file.as_path(), &rows)?)
    }
}

/// Whether a verification is due.
#[must_use]
pub fn due(job: &Scheduled, last: Option<&LastRun>, now: Timestamp) -> Due {
    match last {
        None => Due::Never,
        Some(last) if matches!(last.outcome, Outcome::NoAnswer { .. }) => Due::NoAnswer,
        Some(last) => {
            let every = job.every.duration();
            let wait = every - EARLY.min(every / 10);
            // A clock that was set back must not keep us from verifying.
            let passed = Duration::try_from(now.duration_since(last.started));
            if passed.is_ok_and(|passed| passed < wait) { Due::Not } else { Due::Again }
        }
    }
}

/// How old the last good result may grow before somebody should look: `max_age`, otherwise twice the time between runs.
#[must_use]
pub fn patience(job: &Scheduled) -> Duration {
    job.max_age.map_or_else(|| job.every.duration().saturating_mul(2), |age| age.duration())
}

/// Whether the last good result is older than it may be, or there never was one.
#[must_use]
pub fn is_stale(job: &Scheduled, last: Option<&LastRun>, now: Timestamp) -> bool {
    let good = last.and_then(|last| last.last_same);
    good.is_none_or(|good| now.duration_since(good).as_secs_f64() > patience(job).as_secs_f64())
}

fn run_one(
    job: &Scheduled,
    before: Option<&LastRun>,
    verify: &dyn Fn(&Scheduled) -> Result<Report, String>,
) -> LastRun {
    let started = Timestamp::now();
    let outcome = match verify(job) {
        Ok(report) => Outcome::Answered(Answer::of(&report)),
        Err(error) => Outcome::NoAnswer { error },
    };
    let ended = Timestamp::now();
    let last_same = match &outcome {
        Outcome::Answered(answer) if answer.is_good() => Some(ended),
        _ => before.and_then(|before| before.last_same),
    };
    LastRun {
        name: job.name.to_string(),
        copy: job.copy.as_str().to_owned(),
        started,
        ended,
        outcome,
        last_same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_scheduled;
    use crate::manifest::Class;
    use crate::manifest::verdict::Difference;

    const JOBS: &str = "[[verify]]\nname = \"a\"\ncopy = \"/a\"\nagainst = \"/x\"\nevery = \"1d\"\n\
        [[verify]]\nname = \"b\"\ncopy = \"/b\"\nagainst = \"/x\"\nmax_age = \"7d\"\n";

    fn good() -> Report {
        let mut report = Report::default();
        (report.entries, report.bytes) = (3, 10);
        report
    }

    #[test]
    fn what_is_due_runs_and_what_came_out_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let jobs = parse_scheduled(JOBS).unwrap();
        let schedule = Schedule::new(&jobs, dir.path().join("verify"));
        let verify = |job: &Scheduled| match job.name.as_str() {
            "a" => Ok(good()),
            _ => Err("the disk is on fire".to_owned()),
        };
        let run = |names: &[String]| {
            let ran = schedule.run(names, &verify, &mut |_| {}).unwrap();
            ran.iter().map(|ran| ran.job.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(run(&[]), ["a", "b"]);
        // `a` gave an answer a moment ago; `b` gave none.
        assert_eq!(run(&[]), ["b"]);
        assert_eq!(run(&["a".to_owned()]), ["a"]);
        let found = schedule.look(Timestamp::now()).unwrap();
        assert!(found[0].1.as_ref().unwrap().last_same.is_some());
        assert!(found[1].1.as_ref().unwrap().last_same.is_none());
        assert!(!is_stale(&jobs[0], found[0].1.as_ref(), Timestamp::now()));
        assert!(is_stale(&jobs[1], found[1].1.as_ref(), Timestamp::now()));
        let unknown = schedule.run(&["c".to_owned()], &verify, &mut |_| {}).unwrap_err();
        assert!(matches!(unknown, ScheduleError::Unknown(_)));
    }

    #[test]
    fn a_bad_result_keeps_the_time_of_the_last_good_one() {
        let dir = tempfile::tempdir().unwrap();
        let jobs = parse_scheduled(JOBS).unwrap();
        let schedule = Schedule::new(&jobs[..1], dir.path());
        let good_time = schedule.run(&[], &|_| Ok(good()), &mut |_| {}).unwrap()[0].last.last_same;
        let bad = |_: &Scheduled| {
            let mut report = good();
            let (path, expected, found) = (b"p".to_vec(), String::new(), String::new());
            report.add(Difference { class: Class::Content, path, expected, found });
            Ok(report)
        };
        let ran = schedule.run(&["a".to_owned()], &bad, &mut |_| {}).unwrap();
        assert_eq!(ran[0].last.last_same, good_time);
        assert!(good_time.is_some());
    }

    #[test]
    fn only_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let jobs = parse_scheduled(JOBS).unwrap();
        let schedule = Schedule::new(&jobs, dir.path());
        let inner = std::cell::RefCell::new(None);
        let verify = |_: &Scheduled| {
            let second = schedule.run(&[], &|_| Ok(good()), &mut |_| {});
            *inner.borrow_mut() = Some(second.map(|ran| ran.len()));
            Ok(good())
        };
        schedule.run(&["a".to_owned()], &verify, &mut |_| {}).unwrap();
        assert!(matches!(inner.into_inner(), Some(Err(ScheduleError::Lock(LockError::Held(_))))));
    }

    #[test]
    fn a_daily_timer_that_is_a_little_early_still_runs_it() {
        let jobs = parse_scheduled(JOBS).unwrap();
        let started = Timestamp::from_second(1_800_000_000).unwrap();
        let outcome = Outcome::Answered(Answer::of(&good()));
        let (name, copy) = ("a".to_owned(), "/a".to_owned());
        let last = LastRun { name, copy, started, ended: started, outcome, last_same: Some(started) };
        let after = |seconds: i64| {
            due(&jobs[0], Some(&last), Timestamp::from_second(1_800_000_000 + seconds).unwrap())
        };
        assert_eq!(after(3_600), Due::Not);
        assert_eq!(after(85_000), Due::Not);
        assert_eq!(after(86_000), Due::Again);
        assert_eq!(after(-10), Due::Again);
        assert_eq!(due(&jobs[0], None, started), Due::Never);
    }
}
