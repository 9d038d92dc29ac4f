//! Looking ahead: what the new release will make of this machine, before anything of it is changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Result, packages, trouble};
use crate::boot::layout::BootLayout;
use crate::compat;
use crate::conffiles::answers::Answers;
use crate::conffiles::{self, Facts, predict, stock};
use crate::config::Config;
use crate::driver::Trouble;
use crate::error::chain;
use crate::finding::Finding;
use crate::inspect::{self, Circumstances};
use crate::libraries::{self, Limits, NewRelease, contents};
use crate::places::StateDirectory;
use crate::progress::Progress;
use crate::release::apt;
use crate::release::hop::Hop;
use crate::release::prediction::{Foretold, Prediction};
use crate::release::private_apt::{Lists, PrivateApt};
use crate::release::sources::entries::Entry;
use crate::system::durable;

/// Who hears how far it is.
pub(super) type Told<'t> = &'t dyn Fn(apt::Progress);

/// What was foreseen.
#[derive(Debug)]
pub(super) struct Foresight {
    /// What it means.
    pub(super) findings: Vec<Finding>,
    /// The packages; `None` when nobody could be asked about them, which is a finding.
    pub(super) packages: Option<compat::Ahead>,
}

/// Looks at packages, at the machine, and at programs that no package brought. Changes nothing; lists of packages are kept on the
/// state volume where there is one. What cannot be found out is a finding.
pub(super) fn look(places: &StateDirectory, hop: &Hop, boot: &BootLayout, told: Told<'_>) -> Foresight {
    let mut findings = Vec::new();
    let packages = match packages::look(places, hop, told) {
        Ok((ahead, found)) => {
            findings.extend(found);
            Some(ahead)
        }
        Err(why) => {
            findings.push(Finding::unknown("what the new release's packages would do", why));
            None
        }
    };
    let prediction = packages.as_ref().map(|ahead| &ahead.facts.prediction);
    findings.extend(machine(hop, boot, packages.as_ref()));
    findings.extend(own_programs(places, hop, prediction, told));
    Foresight { findings, packages }
}

/// What of the machine itself stands in the way.
fn machine(hop: &Hop, boot: &BootLayout, packages: Option<&compat::Ahead>) -> Vec<Finding> {
    let remains = packages.map(remains);
    inspect::look(
        Path::new("/"),
        &Circumstances {
            hop: Some(hop),
            boot: Some(boot),
            today: jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::now()).date(),
            will_be_installed: remains.as_ref().map(|remains| remains as &dyn Fn(&str) -> bool),
            growth: packages.and_then(|ahead| ahead.facts.prediction.growth()),
        },
    )
}

/// Whether a package is there after the upgrade.
fn remains(ahead: &compat::Ahead) -> impl Fn(&str) -> bool + use<'_> {
    let installed: BTreeSet<&str> = ahead.facts.packages.iter().map(|one| one.name.as_str()).collect();
    let prediction = &ahead.facts.prediction;
    move |package| {
        prediction.arriving(package).is_some()
            || (installed.contains(package) && !prediction.removes(package))
    }
}

/// Programs that no package brought: whether the new release has their libraries.
fn own_programs(
    places: &StateDirectory,
    hop: &Hop,
    prediction: Option<&Prediction>,
    told: Told<'_>,
) -> Vec<Finding> {
    let trees: Vec<PathBuf> = libraries::TREES.iter().map(PathBuf::from).collect();
    let facts = match libraries::look(Path::new("/"), &trees, Limits::default()) {
        Ok(facts) => facts,
        Err(error) => {
            return vec![Finding::unknown("which libraries programs of your own need", chain(&error))];
        }
    };
    let wanted = facts.wanted();
    if wanted.is_empty() {
        return libraries::findings(&facts, &NewRelease::Unknown, &|_| false);
    }
    let Some(prediction) = prediction else {
        return libraries::findings(&facts, &NewRelease::Unknown, &|_| false);
    };
    let stays = |package: &str| !prediction.removes(package) && prediction.arriving(package).is_none();
    match index(places, hop, &wanted, told) {
        Ok(provided) if provided.whole => libraries::findings(&facts, &NewRelease::Index(&provided), &stays),
        index => {
            let why = index.err().map_or("the index is not whole".into(), |error| error.to_string());
            // A transition to 64-bit times gives a library's package another name, and the library its own.
            let goes = |package: &str| {
                prediction.removes(package) && prediction.arriving(&format!("{package}t64")).is_none()
            };
            libraries::findings(&facts, &NewRelease::Packages { goes: &goes, why }, &stays)
        }
    }
}

/// Asks the new release's index of files.
fn index(
    places: &StateDirectory,
    hop: &Hop,
    wanted: &contents::Wanted,
    told: Told<'_>,
) -> Result<contents::Provided> {
    let kept = places.path().is_dir().then(|| places.apt().join("index"));
    if let Some(kept) = &kept {
        durable::private_directory(kept).map_err(trouble)?;
    }
    ask_index(kept.as_deref(), &packages::own_sources(hop)?, wanted, told)
}

/// The index is fetched by an apt of its own: where a mirror has no good copy, apt throws away all lists.
fn ask_index(
    kept: Option<&Path>,
    sources: &[Entry],
    wanted: &contents::Wanted,
    told: Told<'_>,
) -> Result<contents::Provided> {
    let architecture = libraries::native_architecture();
    let private = PrivateApt::open(kept).map_err(trouble)?;
    let snippet = libraries::index_target_configuration(architecture);
    private.configure("contents.conf", &snippet).map_err(trouble)?;
    private.set_sources(sources).map_err(trouble)?;
    let outcome = private.update(&private.log("index.log"), told).map_err(trouble)?;
    if !outcome.well() {
        return Err(Trouble::new(outcome.reason()));
    }
    private.keep_lists().map_err(trouble)?;
    let files = contents::find_indexes(&private.lists(), architecture).map_err(trouble)?;
    contents::search_files(&files, wanted).map_err(trouble)
}

/// What was fetched for an upgrade, and found on the way.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    /// What it means.
    pub(super) findings: Vec<Finding>,
    /// The configuration files that will be asked about; `None` when that is not known, which is a finding, or nothing was fetched.
    pub(super) configuration: Option<Facts>,
    /// What the packages will do; `None` when something stopped it before they were fetched.
    pub(super) foretold: Option<Foretold>,
}

/// Looks ahead, and downloads everything that the upgrade will need, unless what was found stops it. Repeatable; the system's apt is
/// not touched.
///
/// # Errors
/// When something could not be downloaded.
pub(super) fn fetch(
    config: &Config,
    places: &StateDirectory,
    hop: &Hop,
    boot: &BootLayout,
    progress: &Progress,
    stops: &dyn Fn(&Finding) -> bool,
) -> Result<Fetched> {
    let told = |state: apt::Progress| {
        progress.percent(10.0 + f64::from(state.percent) * 0.8, &packages::shown(&state));
    };
    let Foresight { mut findings, packages } = look(places, hop, boot, &told);
    let Some(ahead) = packages.filter(|_| !findings.iter().any(stops)) else {
        return Ok(Fetched { findings, ..Fetched::default() });
    };
    let (found, foretold) = packages::download(ahead, places, progress, &told)?;
    findings.extend(found);
    let configuration = configuration(&packages::archives(places));
    findings.extend(of_configuration(config, &configuration));
    Ok(Fetched { findings, configuration: configuration.ok(), foretold: Some(foretold) })
}

/// Which configuration files the packages in a directory will ask about.
fn configuration(archives: &Path) -> Result<Facts> {
    conffiles::look(Path::new("/"), archives).map_err(trouble)
}

/// The same for `check`, which downloads only those packages whose files somebody has changed.
///
/// # Errors
/// When they cannot be downloaded or read.
pub(super) fn predict_configuration(ahead: &compat::Ahead) -> Result<Facts> {
    let stock = stock::look(Path::new("/")).map_err(trouble)?;
    let arriving = |package: &String| ahead.facts.prediction.arriving(package).is_some();
    let wanted: Vec<String> = predict::wanted(&stock).into_iter().filter(arriving).collect();
    let directory = ahead.private.scratch("packages").map_err(trouble)?;
    if !wanted.is_empty() {
        let download = ahead.private.exec("apt-get", Lists::Own).map_err(trouble)?;
        download.directory(&directory).arg("download").args(&wanted).success().map_err(trouble)?;
    }
    configuration(&directory)
}

/// What it means by the rules and the recorded answers.
pub(super) fn of_configuration(config: &Config, facts: &Result<Facts>) -> Vec<Finding> {
    let section = &config.configuration_files;
    let unknown = |why: String| vec![Finding::unknown("which configuration files will be asked about", why)];
    let facts = match facts {
        Ok(facts) => facts,
        Err(why) => return unknown(why.to_string()),
    };
    match Answers::read(section.answers.as_path()) {
        Ok(answers) => conffiles::findings(facts, &section.policy(), &answers),
        Err(error) => unknown(chain(&error)),
    }
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
