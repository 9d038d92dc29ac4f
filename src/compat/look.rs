//! Collecting the facts: the private apt is asked about the machine as it is, then about the target.

use std::collections::BTreeMap;
use std::path::Path;

use super::origins::{self, Origins, Policy, Repository, Target};
use super::removals::{self, Removal};
use super::status::{self, Package};
use super::{Error, Facts, holds, services, uses};
use crate::release::apt::{Progress, Stage, StageOutcome};
use crate::release::hop::{Distribution, Hop};
use crate::release::preview::{self, PreviewError};
use crate::release::private_apt::{Lists, PrivateApt};
use crate::release::sources::entries::{Entry, shown};
use crate::release::sources::{SourcesPlan, SuiteChange, judge_suite};
use crate::system::durable;

/// The facts, and the private apt that they are from: it can go on to download what was predicted.
#[derive(Debug)]
pub struct Ahead {
    /// What was found.
    pub facts: Facts,
    /// With the target's lists, and the sources that answered.
    pub private: PrivateApt,
}

/// Looks at the packages of this machine and at what the hop would do to them. Nothing of the machine's changes and no package is
/// downloaded; only lists are, which are kept below `directory` when there is one, so that the second time is fast. A directory of
/// its own under `/var/tmp` is gone again when the result is dropped.
///
/// # Errors
/// When the distribution's own repositories do not answer, or dpkg's record cannot be read. Everything else that could not be found out is
/// listed in the facts.
pub fn look(
    hop: &Hop,
    plan: &SourcesPlan,
    directory: Option<&Path>,
    progress: &dyn Fn(Progress),
) -> Result<Ahead, Error> {
    let root = Path::new("/");
    let packages = status::read(root)?;
    let automatic = status::read_automatic(root)?;
    if let Some(directory) = directory {
        durable::private_directory(directory).map_err(PreviewError::from)?;
    }
    let private = PrivateApt::open(directory)?;
    let (origins, policies) = present(&private, plan, &packages)?;
    let mut unknown = Vec::new();
    let log = directory.map_or(private.log("preview.log"), |kept| kept.join("preview.log"));
    let repositories =
        probe(&private, &Probe { plan, hop, origins: &origins, policies: &policies }, &log, progress)?;
    private.keep_lists()?;
    let prediction = preview::predict(&private)?;
    let mut removals = removed(&private, &prediction, &packages, &automatic)?;
    add_uses(&mut removals, &mut unknown);
    let local = if origins.is_empty() {
        Vec::new()
    } else {
        origins::local(&packages, &policies, hop.distribution())
    };
    let services = services::read(root).unwrap_or_else(|error| {
        unknown.push(("which services have something on the disk", crate::error::chain(&error)));
        services::Services::default()
    });
    let pins = holds::read(root)?;
    let facts = Facts {
        prediction,
        packages,
        removals,
        services,
        repositories,
        local,
        pins,
        plan: plan.clone(),
        no_lists: origins.is_empty(),
        unknown,
    };
    Ok(Ahead { facts, private })
}

/// Asks about the machine as it is, with its own lists.
fn present(
    private: &PrivateApt,
    plan: &SourcesPlan,
    packages: &[Package],
) -> Result<(Origins, BTreeMap<String, Policy>), Error> {
    private.set_sources(&preview::present_entries(plan))?;
    let words = ["indextargets", "--format", origins::TARGETS_FORMAT, "Created-By: Packages"];
    let origins = origins::parse_origins(&private.ask("apt-get", Lists::Machine, &words)?);
    let names = packages.iter().filter(|package| package.is_present()).map(|package| package.name.as_str());
    let words: Vec<&str> = std::iter::once("policy").chain(names).collect();
    let policies = origins::parse_policy(&private.ask("apt-cache", Lists::Machine, &words)?);
    Ok((origins, policies))
}

struct Probe<'p> {
    plan: &'p SourcesPlan,
    hop: &'p Hop,
    origins: &'p Origins,
    policies: &'p BTreeMap<String, Policy>,
}

/// One of somebody else's entries, and what is asked for in its place.
struct Question {
    present: Entry,
    asked: Option<Entry>,
    /// The entry that the run will have; none when it switches it off.
    planned: Option<Entry>,
}

/// Fetches the target's lists, with everybody's suite for the target among the sources. Afterwards the sources are the planned
/// ones that answered.
fn probe(
    private: &PrivateApt,
    probe: &Probe<'_>,
    log: &Path,
    progress: &dyn Fn(Progress),
) -> Result<Vec<Repository>, Error> {
    let planned = preview::target_entries(probe.plan);
    let questions = questions(probe, &planned);
    let others = |entry: &Entry| questions.iter().any(|one| one.planned.as_ref() == Some(entry));
    let own: Vec<&Entry> = planned.iter().filter(|entry| !others(entry)).collect();
    let mut all = own.clone();
    for entry in questions.iter().flat_map(|one| one.planned.iter().chain(&one.asked)) {
        if !all.contains(&entry) {
            all.push(entry);
        }
    }
    let failed = update_without_failing(private, all, &own, log, progress)?;
    let why = |entry: &Entry| failed.iter().find(|(one, _)| one == entry).map(|(_, why)| why.clone());
    let answered =
        questions.iter().filter_map(|one| one.planned.as_ref()).filter(|entry| why(entry).is_none());
    // Ubuntu's upgrader switches everybody else's off: nothing will come from there.
    let answered = answered.filter(|_| probe.hop.distribution() == Distribution::Debian);
    private.set_sources(own.into_iter().chain(answered))?;
    Ok(questions.iter().map(|one| repository(one, probe, &why)).collect())
}

/// Updates until all that is left answers. In one go apt does not name every failure: what has no Release file hides what gave no
/// answer.
fn update_without_failing(
    private: &PrivateApt,
    mut left: Vec<&Entry>,
    needed: &[&Entry],
    log: &Path,
    progress: &dyn Fn(Progress),
) -> Result<Vec<(Entry, Target)>, Error> {
    let mut failed = Vec::new();
    loop {
        private.set_sources(left.iter().copied())?;
        let outcome = private.update(log, progress)?;
        if outcome.well() {
            return Ok(failed);
        }
        let found: Vec<(Entry, Target)> = left
            .iter()
            .filter_map(|entry| Some(((*entry).clone(), origins::failure(entry, &outcome.output)?)))
            .collect();
        let serious = found.iter().any(|(entry, _)| needed.contains(&entry));
        if found.is_empty() || serious {
            return Err(update_failed(&outcome).into());
        }
        left.retain(|entry| !found.iter().any(|(one, _)| one == *entry));
        failed.extend(found);
    }
}

fn questions(probe: &Probe<'_>, planned: &[Entry]) -> Vec<Question> {
    preview::present_entries(probe.plan)
        .into_iter()
        .filter(|entry| !origins::is_own(entry, probe.hop.distribution(), probe.origins))
        .map(|present| {
            // A stanza's line may have moved by a field that was added above; file and address have not.
            let same = |entry: &&Entry| {
                entry.file == present.file
                    && entry.uris == present.uris
                    && entry.components == present.components
            };
            let at_line = planned.iter().filter(same).min_by_key(|entry| entry.line.abs_diff(present.line));
            Question { asked: present.for_target(probe.hop), planned: at_line.cloned(), present }
        })
        .collect()
}

fn repository(
    question: &Question,
    probe: &Probe<'_>,
    failed: &dyn Fn(&Entry) -> Option<Target>,
) -> Repository {
    let Question { present, asked, planned } = question;
    let names_target = |entry: &&Entry| {
        entry.suites.iter().any(|suite| judge_suite(suite, probe.hop) == SuiteChange::AlreadyTarget)
    };
    let asked = asked.as_ref().or(planned.as_ref().filter(names_target));
    let target = match asked {
        Some(entry) => failed(entry).unwrap_or_else(|| Target::Exists(entry.suites.clone())),
        None => planned.as_ref().and_then(failed).unwrap_or(Target::Same),
    };
    Repository {
        place: present.place(),
        uris: present.uris.iter().map(|uri| shown(uri)).collect(),
        suites: present.suites.clone(),
        origin: origins::origin_of(present, probe.origins),
        packages: origins::packages_of(present, probe.policies),
        in_plan: probe.hop.distribution() == Distribution::Debian
            && planned.as_ref().is_some_and(|planned| match asked {
                Some(asked) => planned.suites == asked.suites,
                None => true,
            }),
        target,
    }
}

fn update_failed(outcome: &StageOutcome) -> PreviewError {
    PreviewError::Failed { stage: Stage::PreviewUpdate, reason: outcome.reason() }
}

/// What goes away, with what the target says of the packages that arrive, and the names that could carry on.
fn removed(
    private: &PrivateApt,
    prediction: &crate::release::prediction::Prediction,
    packages: &[Package],
    automatic: &std::collections::BTreeSet<String>,
) -> Result<Vec<Removal>, Error> {
    if prediction.removed.is_empty() {
        return Ok(Vec::new());
    }
    let arriving = prediction.new.iter().chain(&prediction.upgraded);
    let wanted: Vec<String> = arriving.map(|change| format!("{}={}", change.package, change.new)).collect();
    let words: Vec<&str> =
        ["show", "--no-all-versions"].into_iter().chain(wanted.iter().map(String::as_str)).collect();
    let relations = removals::parse_relations(&private.ask("apt-cache", Lists::Own, &words)?);
    let mut found = removals::known(prediction, packages, automatic, &relations);
    let names = private.ask("apt-cache", Lists::Own, &["pkgnames"])?;
    for removal in found.iter_mut().filter(|removal| removal.replaced_by.is_none()) {
        removal.successors = removals::successors(&removal.package, names.lines());
    }
    keep_real(private, &mut found)?;
    Ok(found)
}

/// Drops names that stand for no package that could be installed.
fn keep_real(private: &PrivateApt, removals: &mut [Removal]) -> Result<(), Error> {
    let all: Vec<&str> =
        removals.iter().flat_map(|removal| &removal.successors).map(String::as_str).collect();
    if all.is_empty() {
        return Ok(());
    }
    let words: Vec<&str> = std::iter::once("policy").chain(all).collect();
    let real = origins::parse_candidates(&private.ask("apt-cache", Lists::Own, &words)?);
    for removal in removals {
        removal.successors.retain(|name| real.contains(name));
    }
    Ok(())
}

fn add_uses(removals: &mut [Removal], unknown: &mut Vec<(&'static str, String)>) {
    if !removals.iter().any(|removal| removal.replaced_by.is_none()) {
        return;
    }
    if let Err(error) = uses::add(removals, Path::new("/")) {
        unknown.push(("what the packages do that go away", crate::error::chain(&error)));
    }
}

#[cfg(test)]
#[path = "look_tests.rs"]
mod tests;
