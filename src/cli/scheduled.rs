//! `safe-upgrade verify --scheduled`, and what `status` says about it.

use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::verify::{VerifyArgs, exit_of, explain};
use super::{SCHEMA, keys, print_json, random_seed, sign, story, written};
use crate::config::verify::Scheduled;
use crate::config::{self, DEFAULT_PATH};
use crate::error::{Exit, Failure, chain};
use crate::manifest::signature::Signers;
use crate::manifest::{Facts, Report};
use crate::phases::ground;
use crate::places::StateDirectory;
use crate::scheduled::last::{LastRun, Outcome};
use crate::scheduled::{Due, Ran, Schedule, ScheduleError, is_stale};
use crate::sources::Source;
use crate::system::lock::LockError;
use crate::system::show;
use crate::verify::budget::{Budget, Seed};
use crate::verify::request::DEFAULT_SCRATCH;
use crate::verify::{Against, Engine, Request, verify};

/// Verifies what is due, one after another; ends as the worst of them did.
///
/// # Errors
/// When the configuration is wrong, another one is at it, or results could not be kept.
pub(super) fn run(
    names: &[String],
    args: &VerifyArgs,
    places: &StateDirectory,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let jobs = config::load_scheduled(&args.config)?;
    let directory = match &args.state {
        Some(directory) => directory.clone(),
        None => {
            // What is written below a mount point is not seen any more when it is mounted.
            ground::is_there(places)?;
            places.verifications()
        }
    };
    if jobs.is_empty() {
        let message = format!("{} has no [[verify]] section", show::path(&args.config));
        return Err(Failure::usage(message).hint("docs/scheduled.md shows one"));
    }
    let schedule = Schedule::new(&jobs, &directory);
    let worst = std::cell::Cell::new(Exit::Done);
    let work = |job: &Scheduled| {
        let answer = one(job, &directory);
        let exit = answer.as_ref().map_or(Exit::Failed, exit_of);
        worst.set(worse(worst.get(), exit));
        answer.map_err(|failure| show::line(&chain(&failure)))
    };
    let mut trouble = Ok(());
    let mut told = |ran: &Ran<'_>| {
        if !args.json && trouble.is_ok() {
            trouble = writeln!(out, "{}", ran_line(&ran.last));
        }
    };
    let all = schedule.run(names, &work, &mut told).map_err(|error| {
        let metrics = matches!(error, ScheduleError::Metrics(_));
        let failure = explain_schedule(error);
        // A copy that is not the same weighs more than a file of metrics.
        if metrics { failure.ending_with(worse(Exit::Failed, worst.get())) } else { failure }
    })?;
    written(trouble)?;
    if args.json {
        let runs: Vec<&LastRun> = all.iter().map(|ran| &ran.last).collect();
        print_json(out, &json!({"schema": SCHEMA, "command": "verify --scheduled", "runs": runs}))?;
    } else if all.is_empty() {
        written(writeln!(out, "Nothing is due."))?;
    }
    Ok(worst.get())
}

/// What `status` says of each configured verification; nothing when there is no configuration.
pub(super) fn status_lines(places: &StateDirectory) -> Vec<String> {
    let now = Timestamp::now();
    match look(Path::new(DEFAULT_PATH), places, now) {
        Ok(known) => known.iter().map(|known| status_line(known, now)).collect(),
        Err(failure) => vec![format!("verify    not known: {}", show::line(&chain(&failure)))],
    }
}

/// The same for JSON.
pub(super) fn status_json(places: &StateDirectory) -> Value {
    let now = Timestamp::now();
    match look(Path::new(DEFAULT_PATH), places, now) {
        Ok(known) => known.iter().map(|known| known_json(known, now)).collect(),
        Err(failure) => json!({ "error": chain(&failure) }),
    }
}

struct Known {
    job: Scheduled,
    last: Option<LastRun>,
    due: Due,
}

fn look(config: &Path, places: &StateDirectory, now: Timestamp) -> Result<Vec<Known>, Failure> {
    if !config.exists() {
        return Ok(Vec::new());
    }
    let jobs = config::load_scheduled(config)?;
    let found = Schedule::new(&jobs, places.verifications()).look(now).map_err(|error| {
        Failure::failed("could not read the last results of configured verifications", error)
    })?;
    Ok(found.into_iter().map(|(job, last, due)| Known { job: job.clone(), last, due }).collect())
}

fn status_line(Known { job, last, due }: &Known, now: Timestamp) -> String {
    let Some(last) = last else { return format!("verify    {}: never ran", job.name) };
    let stale = match (is_stale(job, Some(last), now), last.last_same) {
        (false, _) => String::new(),
        (true, None) => "; STALE: never found good".to_owned(),
        (true, Some(good)) => format!("; STALE: last found good {}", story::ago(good)),
    };
    let next = if *due == Due::Not { "" } else { "; due" };
    format!("verify    {}, {}{stale}{next}", ran_line(last), story::ago(last.ended))
}

fn known_json(Known { job, last, due }: &Known, now: Timestamp) -> Value {
    json!({
        "name": job.name.as_str(),
        "copy": job.copy.as_str(),
        "last": last,
        "stale": is_stale(job, last.as_ref(), now),
        "due": *due != Due::Not,
    })
}

fn ran_line(last: &LastRun) -> String {
    match &last.outcome {
        Outcome::Answered(answer) => format!("{}: {}", last.name, answer.sentence),
        Outcome::NoAnswer { error } => format!("{}: no answer: {error}", last.name),
    }
}

/// One verification, as it is configured.
fn one(job: &Scheduled, directory: &Path) -> Result<Report, Failure> {
    let mut request = request(job, directory)?;
    let mut believed = None;
    if let (Some(manifest), Some(allowed)) = (&job.manifest, &job.signers) {
        let allowed = allowed.as_path().to_owned();
        let signers = Signers { allowed, identity: None, revoked: None };
        let held = believed.insert(sign::demand(manifest.as_path(), &signers)?);
        request.against = Against::Manifest(held.path());
    }
    let report = verify(&request, &|_| {}).map_err(|error| explain(&request, error));
    drop(believed);
    report
}

fn request(job: &Scheduled, directory: &Path) -> Result<Request, Failure> {
    let owned = |path: &Option<config::AbsolutePath>| path.as_ref().map(|path| path.as_path().to_owned());
    let against = match (owned(&job.manifest), owned(&job.against)) {
        (Some(manifest), _) => Against::Manifest(manifest),
        (None, Some(tree)) => Against::Tree(tree),
        // The configuration was validated.
        (None, None) => return Err(Failure::usage(format!("{} has nothing to compare with", job.name))),
    };
    let key_file = owned(&job.key_file);
    let budget = budget(job)?;
    Ok(Request {
        hashing: keys::hashing(key_file.as_deref())?,
        restore_to: owned(&job.restore_to),
        scratch: owned(&job.scratch).unwrap_or_else(|| PathBuf::from(DEFAULT_SCRATCH)),
        accept_lost: job.accept_lost.iter().fold(Facts::NONE, |all, one| all.with(one.fact())),
        strip: job.strip.as_ref().map(|strip| strip.clone().into_bytes()).unwrap_or_default(),
        ledger: budget.is_some().then(|| directory.join(format!("{}.ledger", job.name))),
        budget,
        engine: Engine {
            snapshot: job.snapshot.clone(),
            inside: owned(&job.inside),
            password_file: owned(&job.password_file),
            config: owned(&job.engine_config),
            options: job.engine_options.iter().map(Into::into).collect(),
        },
        ..Request::new(job.copy.source().clone(), against)
    })
}

/// A directory that is read where it is, is read within a budget: with a ledger, so that each run goes on where the last one
/// ended. Other copies are read as a whole; for them `max_age` is only when an alarm goes off.
fn budget(job: &Scheduled) -> Result<Option<Budget>, Failure> {
    let is_directory = matches!(job.copy.source(), Source::Path(path) if !path.is_file());
    let wanted = job.sample.is_some() || job.max_duration.is_some() || job.max_age.is_some();
    if !is_directory || !wanted || job.restore_to.is_some() {
        return Ok(None);
    }
    Ok(Some(Budget {
        sample: job.sample.map(config::verify::SampleText::sample),
        seed: Seed::Fresh(random_seed()?),
        oldest_first: true,
        max_duration: job.max_duration.map(|span| span.duration()),
        max_age: job.max_age.map(|span| span.duration()),
    }))
}

/// Damage that was seen is worse than what could not be found out, which is worse than a known loss.
fn worse(one: Exit, other: Exit) -> Exit {
    let rank = |exit: Exit| match exit {
        Exit::Done => 0,
        Exit::Lost => 1,
        Exit::NotSame => 3,
        _ => 2,
    };
    if rank(other) > rank(one) { other } else { one }
}

fn explain_schedule(error: ScheduleError) -> Failure {
    match error {
        ScheduleError::Lock(LockError::Held(path)) => Failure::new(
            Exit::Locked,
            format!("another scheduled verification is at work (it holds {})", show::path(&path)),
        ),
        ScheduleError::Unknown(_) => Failure::usage(show::line(&error.to_string())),
        ScheduleError::Metrics(_) => Failure::failed("the metrics are not up to date", error),
        error => Failure::failed("could not verify what is scheduled", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_exit_counts() {
        let all = [Exit::Done, Exit::Lost, Exit::Failed, Exit::NotSame];
        for (n, one) in all.iter().enumerate() {
            for other in &all[..=n] {
                assert_eq!((worse(*one, *other), worse(*other, *one)), (*one, *one));
            }
        }
    }
}
