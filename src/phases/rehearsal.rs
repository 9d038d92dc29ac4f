//! Rehearsal: upgrading a disposable clone first.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::plan::new_run_id;
use super::{Result, ahead, backup, check, loader, packages, trouble};
use crate::conffiles;
use crate::conffiles::answers::{Answer, Answers, FileAnswer};
use crate::conffiles::debconf::Question;
use crate::conffiles::policy::{Action, Decisions, Policy};
use crate::config::Config;
use crate::config::rehearsal::Test;
use crate::driver::Trouble;
use crate::evidence::{LastRehearsal, RehearsalFacts, RehearsalProof};
use crate::finding::{COULD_NOT_FIND_OUT, Finding};
use crate::health::baseline;
use crate::places::StateDirectory;
use crate::progress::Progress;
use crate::rehearsal::clone::Origin;
use crate::rehearsal::names::Names;
use crate::rehearsal::play::{self, FunctionalTest, Script};
use crate::rehearsal::record::{self, Outcome, RehearsalRecord};
use crate::rehearsal::restored::Backup;
use crate::rehearsal::sweep::{self, Claim};
use crate::rehearsal::{RehearsalError, container, volumes};
use crate::release::hop::{Distribution, Hop};
use crate::release::package_state::{ADMIN, package_state};
use crate::release::prediction::Foretold;
use crate::snapshot::layout;
use crate::system::room::Room;
use crate::system::show;
use crate::system::told_to_stop::ToldToStop;

/// What is known about the last rehearsal, and about the packages now. Repeatable.
pub(super) fn last(config: &Config, places: &StateDirectory) -> Result<RehearsalFacts> {
    let answers = Answers::read(config.configuration_files.answers.as_path()).map_err(trouble)?;
    let record = record::read(places.path()).map_err(trouble)?;
    let (kept, taken) = record.as_ref().map_or((&[][..], &[][..]), |it| (&it.unanswered, &it.questions));
    let decided_by = decided_by(&config.configuration_files.policy(), &answers, kept, taken)?;
    let last = record.map(|record| LastRehearsal {
        from: record.from,
        decided_by: record.decided_by,
        failed: match (record.outcome, record.failed) {
            (Outcome::Passed, _) => answered_otherwise(&record.unanswered, &answers),
            // A failure that gives no reason is one all the same.
            (Outcome::Failed, failed) if failed.is_empty() => vec!["no reason is known".into()],
            (Outcome::Failed, failed) => failed,
        },
        proof: RehearsalProof {
            id: record.id,
            to: record.to,
            package_state: record.package_state,
            ended: record.ended,
            outage: record.predicted_outage,
        },
    });
    let package_state = package_state(Path::new(ADMIN)).map_err(trouble)?;
    let now = SystemTime::UNIX_EPOCH.elapsed().map_err(trouble)?.as_secs();
    Ok(RehearsalFacts { now, package_state, decided_by, last })
}

/// A file that the clone kept for want of an answer, and that a run would now replace: that was not rehearsed.
fn answered_otherwise(kept: &[PathBuf], answers: &Answers) -> Vec<String> {
    let taken = |path: &&PathBuf| {
        answers.files.iter().any(|answer| answer.path == **path && answer.answer == Answer::Take)
    };
    let sentence = |path: &PathBuf| {
        format!("it kept {}, and the answer of since then takes the package's", show::path(path))
    };
    kept.iter().filter(taken).map(sentence).collect()
}

/// The rules about configuration files and the answers that a run heeds, as one number (BLAKE3, in hexadecimal). Not in it are
/// answers that change nothing about what the clone did: to files that it kept for want of one ([`answered_otherwise`] looks at those),
/// and to debconf's questions as the clone took them.
fn decided_by(policy: &Policy, answers: &Answers, kept: &[PathBuf], taken: &[Question]) -> Result<String> {
    let mut files: Vec<&FileAnswer> = answers.files.iter().collect();
    files.retain(|one| policy.action(&one.path) == Action::Ask && one.answer != Answer::Undecided);
    files.retain(|one| !kept.contains(&one.path));
    files.sort_by(|one, other| one.path.cmp(&other.path));
    let was_taken = |one: &Question| {
        taken.iter().any(|other| (&one.question, &one.value) == (&other.question, &other.value))
    };
    let mut debconf: Vec<&Question> = answers.debconf.iter().filter(|one| !was_taken(one)).collect();
    debconf.sort();
    let text = serde_json::to_vec(&(policy, files, debconf)).map_err(trouble)?;
    Ok(blake3::hash(&text).to_hex().to_string())
}

/// What came of the wish to rehearse.
#[derive(Debug)]
pub enum Rehearsed {
    /// It was done.
    Done(Box<RehearsalRecord>),
    /// This machine cannot rehearse, or not now, and why. Nothing was changed.
    Refused(String),
    /// Another rehearsal is at work on this machine. Nothing was changed.
    Busy,
}

/// Fetches what the upgrade needs, upgrades a clone, and keeps what came of it. Nothing outside the state directory is changed.
///
/// # Errors
/// When something could not be done or found out; nothing of the clone is left then.
pub fn rehearse(
    config: &Config,
    places: &StateDirectory,
    hop: &Hop,
    keep: bool,
    told: &dyn Fn(f32, &str),
) -> Result<Rehearsed> {
    if hop.distribution() == Distribution::Ubuntu {
        return Ok(Rehearsed::Refused(NOT_UBUNTU.into()));
    }
    let rehearsals = places.rehearsals();
    let Some(claim) = Claim::take(&rehearsals).map_err(trouble)? else {
        return Ok(Rehearsed::Busy);
    };
    // What another one has left, and cannot be removed, has names of its own.
    let left = sweep::sweep(&rehearsals, &claim).err().map(|error| crate::error::chain(&error));
    let mut origin = origin(config, places)?;
    if let Some(why) = in_its_way(&rehearsals, &origin)? {
        return Ok(Rehearsed::Refused(why));
    }
    let (boot, _) = match loader::verdict() {
        Ok(known) => known,
        Err(why) => return Ok(refused(&Finding::unknown("how this machine boots", why))),
    };
    told(0.0, "fetching the packages of the new release");
    let stops = |finding: &Finding| stops(config, finding);
    let fetched = ahead::fetch(config, places, hop, &boot, &Progress::nowhere(), &stops)?;
    if let Some(stops) = fetched.findings.iter().find(|finding| stops(finding)) {
        return Ok(refused(stops));
    }
    let before = Answers::read(config.configuration_files.answers.as_path()).map_err(trouble)?;
    let facts = fetched.configuration.unwrap_or_default();
    let policy = config.configuration_files.policy();
    let decided = match &origin {
        Origin::Subvolume(_) => Some(Decisions::rehearsed(&facts, &policy, &before)),
        // Its files are those of the backup, which may be others.
        Origin::Backup(_) => None,
    };
    make_known(&mut origin, fetched.foretold.as_ref());
    let tests: Vec<FunctionalTest> = config.rehearsal.tests.iter().map(functional).collect();
    let (archives, lists) = (packages::archives(places), places.apt().join("lists"));
    let id = new_run_id().map_err(|failure| Trouble::new(failure.to_string()))?;
    // Without it SIGTERM would leave the clone for the next sweep.
    let stop = ToldToStop::by_signals().ok();
    let script = Script {
        names: Names::new(id.as_str()).ok_or_else(|| Trouble::new("the rehearsal has no name"))?,
        origin: &origin,
        rehearsals: &rehearsals,
        archives: &archives,
        lists: &lists,
        package_state: package_state(Path::new(ADMIN)).map_err(trouble)?,
        hop: (hop.from().codename.into(), hop.to().codename.into()),
        checks: taking_part(config),
        foretold: fetched.foretold,
        renames: config.health.renames.clone(),
        policy,
        decided,
        answers: &before,
        settle: config.health.settle,
        silence: config.upgrade.silence,
        soak: config.health.soak,
        show: &shown(config),
        host: baseline::capture(Path::new("/")).map_err(trouble)?,
        tests: &tests,
        keep,
        stop: stop.as_ref(),
        room: &room(&origin, &rehearsals),
    };
    match play_and_keep(places, &script, &claim, told) {
        Ok(mut played) => {
            played.noted.extend(left.as_deref().map(not_removed));
            played.answers = Some(draft_answers(config, &facts, &before, &played)?);
            let policy = &config.configuration_files.policy();
            played.decided_by = Some(decided_by(policy, &before, &played.unanswered, &played.questions)?);
            record::write(places.path(), &played).map_err(trouble)?;
            Ok(Rehearsed::Done(Box::new(played)))
        }
        Err(RehearsalError::Impossible(why)) => Ok(Rehearsed::Refused(why)),
        Err(error) => Err(trouble(error)),
    }
}

/// Where the clone writes: to its root, and to what stands in the place of other filesystems.
fn room(origin: &Origin, rehearsals: &Path) -> Room {
    let root = match origin {
        Origin::Subvolume(_) => Path::new("/"),
        Origin::Backup(backup) => &backup.scratch,
    };
    Room::new(vec![root.to_owned(), rehearsals.to_owned()], packages::SPARE_BYTES)
}

/// By how much what is restored grows, and what must stay free beside it.
fn make_known(origin: &mut Origin, foretold: Option<&Foretold>) {
    if let Origin::Backup(backup) = origin {
        let growth = foretold.and_then(|foretold| foretold.prediction.growth()).unwrap_or(0);
        backup.growth = growth.saturating_add(packages::SPARE_BYTES);
    }
}

fn not_removed(why: &str) -> String {
    format!(
        "what an earlier rehearsal has left could not all be removed: {why}; `safe-upgrade rehearse --end` tries again"
    )
}

fn refused(finding: &Finding) -> Rehearsed {
    Rehearsed::Refused(format!("{} ({})", finding.what, finding.id))
}

/// From here on the last rehearsal is this one, also when it is broken off.
fn play_and_keep(
    places: &StateDirectory,
    script: &Script<'_>,
    claim: &Claim,
    told: &dyn Fn(f32, &str),
) -> std::result::Result<RehearsalRecord, RehearsalError> {
    record::forget(places.path())?;
    let played = play::play(script, claim, told, &|played| record::write(places.path(), played))?;
    // Again: it may say by now that something could not be taken away.
    record::write(places.path(), &played)?;
    Ok(played)
}

/// Why this machine cannot rehearse now, as far as that is seen before anything is fetched.
fn in_its_way(rehearsals: &Path, origin: &Origin) -> Result<Option<String>> {
    if let Some(names) = sweep::kept(rehearsals).map_err(trouble)?.first() {
        let id = names.id();
        let why = format!("the clone of rehearsal {id} still runs: `safe-upgrade rehearse --end` removes it");
        return Ok(Some(why));
    }
    let backed_up = |()| match origin {
        Origin::Subvolume(_) => Ok(()),
        Origin::Backup(backup) => backup.ready(),
    };
    let ready = container::needed().and_then(|()| volumes::needed(origin)).and_then(backed_up);
    match ready {
        Err(RehearsalError::Impossible(why)) => Ok(Some(why)),
        ready => ready.map(|()| None).map_err(trouble),
    }
}

const NOT_UBUNTU: &str = "on Ubuntu nothing can be rehearsed: its own upgrader has to fetch from Ubuntu's servers, and a clone has no network; \
    `safe-upgrade check` says what it would ask";

/// By a snapshot where the root has a name for one, otherwise from the backup.
fn origin(config: &Config, places: &StateDirectory) -> Result<Origin> {
    let layout = layout::read(Path::new("/"), None).map_err(trouble)?;
    let named = layout.btrfs.as_ref().and_then(|btrfs| btrfs.root_name());
    Ok(match named {
        Some(name) => Origin::Subvolume(name.to_owned()),
        None => Origin::Backup(Backup {
            store: config.backup.store.as_path().to_owned(),
            trees: config.backup.trees.iter().map(|tree| tree.as_path().to_owned()).collect(),
            max_age: config.backup.max_age,
            scratch: backup::own_scratch(config, places),
            scratch_is_chosen: config.backup.scratch.is_some(),
            growth: 0,
        }),
    })
}

/// Writes the answers as far as they are known, for a person to look through: to files whose rule is `ask`, and to what scripts of
/// packages asked.
fn draft_answers(
    config: &Config,
    facts: &conffiles::Facts,
    before: &Answers,
    played: &RehearsalRecord,
) -> Result<PathBuf> {
    let mut draft = Answers::draft(facts, &config.configuration_files.policy(), before);
    let new = played.questions.iter().filter(|question| !before.debconf.contains(question));
    draft.debconf.extend(new.cloned());
    let path = played.logs.join("answers.toml");
    draft.write(&path, facts).map_err(trouble)?;
    Ok(path)
}

/// Removes what rehearsals have left behind; with `kept`, also a clone that was left running. Returns the ids; `None`, and nothing is
/// removed, while a rehearsal is at work.
///
/// # Errors
/// When something cannot be removed.
pub fn sweep(places: &StateDirectory, kept: bool) -> Result<Option<Vec<String>>> {
    let rehearsals = places.rehearsals();
    if !rehearsals.exists() {
        return Ok(Some(Vec::new()));
    }
    let Some(claim) = Claim::take(&rehearsals).map_err(trouble)? else { return Ok(None) };
    let swept = sweep::sweep(&rehearsals, &claim);
    let ended = if kept { sweep::end_kept(&rehearsals, &claim) } else { Ok(Vec::new()) };
    Ok(Some([swept.map_err(trouble)?, ended.map_err(trouble)?].concat()))
}

/// What makes a rehearsal impossible or meaningless. Everything else that would stop a run is a reason to rehearse. With a repository
/// that gives no answer no upgrade comes further than to its lists.
const IN_ITS_WAY: [&str; 6] = [
    COULD_NOT_FIND_OUT,
    "target-not-reached",
    "space-on-root",
    "repository-without-target",
    "repository-distrusted",
    "repository-unreachable",
];

fn stops(config: &Config, finding: &Finding) -> bool {
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    IN_ITS_WAY.contains(&finding.id.as_str()) && check::stops(finding, &config.waivers, &today)
}

fn taking_part(config: &Config) -> Vec<crate::health::checks::CheckConfig> {
    let skipped = &config.rehearsal.skip_checks;
    config.health.checks.iter().filter(|check| !skipped.contains(&check.name)).cloned().collect()
}

fn shown(config: &Config) -> Vec<PathBuf> {
    config.rehearsal.show.iter().map(|point| point.as_path().to_owned()).collect()
}

fn functional(test: &Test) -> FunctionalTest {
    FunctionalTest { name: test.name.clone(), argv: test.argv.clone(), timeout: test.timeout }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conffiles::policy::Rule;

    #[test]
    fn what_a_run_would_do_otherwise_is_another_number() {
        let policy = |action| Policy {
            otherwise: Action::Keep,
            rules: vec![Rule::new("/etc/a", action).unwrap(), Rule::new("/etc/b", Action::Ask).unwrap()],
        };
        let answer = |path: &str, answer| FileAnswer {
            path: path.into(),
            answer,
            local_md5: "missing".into(),
            new_blake3: None,
        };
        let question = |value: &str| Question {
            package: "libc6".into(),
            question: "libraries/restart".into(),
            kind: "boolean".into(),
            value: value.into(),
            seen: true,
        };
        let (kept, taken) = (["/etc/b".into()], [question("false")]);
        let with =
            |policy, files, debconf| decided_by(&policy, &Answers { files, debconf }, &kept, &taken).unwrap();
        let ask = || policy(Action::Ask);
        let rehearsed = with(ask(), vec![answer("/etc/a", Answer::Take)], vec![]);
        // As the draft is filled in: what the clone kept is kept, what it took for an answer is the answer.
        let reviewed = vec![
            answer("/etc/b", Answer::Keep),
            answer("/etc/a", Answer::Take),
            answer("/etc/no-rule-asks", Answer::Take),
        ];
        assert_eq!(with(ask(), reviewed, vec![question("false")]), rehearsed);
        let take = || vec![answer("/etc/a", Answer::Take)];
        for other in [
            with(policy(Action::Take), take(), vec![]),
            with(ask(), vec![answer("/etc/a", Answer::Keep)], vec![]),
            with(ask(), vec![answer("/etc/a", Answer::Undecided)], vec![]),
            with(ask(), take(), vec![question("true")]),
        ] {
            assert_ne!(other, rehearsed);
        }
    }

    #[test]
    fn only_what_was_kept_and_is_taken_now_was_not_rehearsed() {
        let answer = |path: &str, answer| FileAnswer {
            path: path.into(),
            answer,
            local_md5: "missing".into(),
            new_blake3: None,
        };
        let answers = Answers {
            files: vec![
                answer("/etc/a", Answer::Take),
                answer("/etc/b", Answer::Keep),
                answer("/etc/c", Answer::Take),
            ],
            debconf: vec![],
        };
        let kept = ["/etc/a", "/etc/b", "/etc/d"].map(PathBuf::from);
        let found = answered_otherwise(&kept, &answers);
        assert_eq!(found, ["it kept /etc/a, and the answer of since then takes the package's"]);
    }
}
