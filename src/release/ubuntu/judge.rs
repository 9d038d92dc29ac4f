//! Whether Ubuntu's upgrader did what it was started for. Its exit code is one sign among many: it ends with 0 when its tool cannot be
//! fetched, when a signature is wrong, and when packages stay at the old release. Pure.

use super::log::{Marker, Story};
use crate::system::watched::Ended;

/// What the upgrader itself told, after it had ended.
#[derive(Debug, Clone)]
pub struct Told<'o> {
    /// How its program ended.
    pub ended: Ended,
    /// What `main.log` told.
    pub story: &'o Story,
    /// What the program printed.
    pub output: &'o str,
    /// The exception at the end of the last traceback in `apt.log`.
    pub traceback: Option<String>,
}

/// What the machine is afterwards.
#[derive(Debug, Clone)]
pub struct Measured<'o> {
    /// `VERSION_ID` of os-release now.
    pub version: &'o str,
    /// `VERSION_ID` that it should be.
    pub target: &'o str,
    /// What `dpkg --audit` says; nothing is good.
    pub audit: &'o str,
    /// What `apt-get check` says against; `None` is good.
    pub check: Option<&'o str>,
    /// Packages that an administrator holds: they stay by his will.
    pub held: &'o [String],
}

/// The judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The machine is on the new release, as far as packages can tell.
    Complete,
    /// It is not.
    Failed {
        /// Whether packages had been changed; the upgrader puts nothing back then.
        past_no_return: bool,
        /// Why, in one sentence.
        why: String,
    },
}

/// Judges by what it told. Only where that is complete, the machine needs to be measured: after a crash in the middle, the package
/// tools may not even answer.
#[must_use]
pub fn judge(told: &Told<'_>) -> Verdict {
    verdict(told.story, objection(told))
}

/// Judges by the machine, where it told that all was done.
#[must_use]
pub fn judge_machine(story: &Story, measured: &Measured<'_>) -> Verdict {
    verdict(story, objection_of_machine(story, measured))
}

fn verdict(story: &Story, objection: Option<String>) -> Verdict {
    match objection {
        None => Verdict::Complete,
        Some(why) => Verdict::Failed { past_no_return: story.past_no_return(), why },
    }
}

/// The first thing that speaks against it, the most telling first.
fn objection(seen: &Told<'_>) -> Option<String> {
    let story = seen.story;
    match seen.ended {
        Ended::Silent(span) => {
            return Some(format!(
                "it was silent for {} s in the phase \"{}\" and was ended",
                span.as_secs(),
                at(story)
            ));
        }
        Ended::Stopped => return Some(format!("it was told to stop in the phase \"{}\"", at(story))),
        Ended::NoRoom(_) => {
            return Some(format!("it was ended for want of room in the phase \"{}\"", at(story)));
        }
        Ended::Signal(signal) => {
            return Some(format!("signal {signal} ended it in the phase \"{}\"", at(story)));
        }
        Ended::Exit(_) => {}
    }
    if story.phase.is_none() {
        return Some(never_started(seen));
    }
    if let Some(marker) = most_telling(&story.markers) {
        return Some(marker.sentence());
    }
    (!story.finished() || seen.ended != Ended::Exit(0)).then(|| ended_early(seen))
}

fn objection_of_machine(story: &Story, seen: &Measured<'_>) -> Option<String> {
    if seen.version != seen.target {
        return Some(format!("os-release says {:?} and not {:?}", seen.version, seen.target));
    }
    if let Some(line) = seen.audit.lines().find(|line| !line.trim().is_empty()) {
        return Some(format!("dpkg --audit complains: {line}"));
    }
    if let Some(complaint) = seen.check {
        return Some(format!("apt-get check complains: {complaint}"));
    }
    let free: Vec<&str> = story
        .kept_back
        .iter()
        .map(String::as_str)
        .filter(|name| !seen.held.iter().any(|held| held.split(':').next() == name.split(':').next()))
        .collect();
    (!free.is_empty()).then(|| format!("packages stayed at the old release: {}", free.join(" ")))
}

fn at(story: &Story) -> &'static str {
    story.phase.map_or("before it started", |phase| phase.name())
}

/// A crash says more than the abort that follows it, and a package more than the commit that it broke.
fn most_telling(markers: &[Marker]) -> Option<&Marker> {
    let rank = |marker: &Marker| match marker {
        Marker::Uncaught(_) => 0,
        Marker::Dpkg { .. } => 1,
        Marker::Space(_) | Marker::Resolver(_) | Marker::Unavailable(_) | Marker::Download(_) => 2,
        Marker::Commit(_) => 3,
        Marker::Abort => 4,
    };
    markers.iter().min_by_key(|marker| rank(marker)).filter(|marker| **marker != Marker::Abort)
}

fn ended_early(seen: &Told<'_>) -> String {
    if let Some(traceback) = &seen.traceback {
        return format!("the upgrader crashed in the phase \"{}\": {traceback}", at(seen.story));
    }
    let code = match seen.ended {
        Ended::Exit(code) => format!("exit code {code}"),
        other => format!("{other:?}"),
    };
    let gave_up = format!("it ended in the phase \"{}\" with {code}", at(seen.story));
    match seen.story.errors.iter().rev().find(|error| *error != "view.abort called") {
        Some(error) => format!("{gave_up}: {}", one_line(error)),
        None => gave_up,
    }
}

/// What the old release's program prints when it does not come to start the new one's, and what that means.
const REFUSALS: [(&str, &str); 9] = [
    (
        "Please install all available updates",
        "updates of the old release are missing, or a held package has one",
    ),
    ("You have not rebooted after updating", "a reboot is pending"),
    ("Failed to connect to", "the list of Ubuntu's releases could not be fetched"),
    ("Failed to fetch", "the upgrade tool could not be fetched"),
    ("Authentication failed", "the signature of the upgrade tool is wrong"),
    ("Could not run the upgrade tool", "the upgrade tool could not be run: is /tmp mounted noexec?"),
    ("There is no development version", "no newer release is offered"),
    ("No new release found", "no newer release is offered"),
    ("Upgrades to the development release", "only a development release is offered"),
];

fn never_started(seen: &Told<'_>) -> String {
    let known = REFUSALS.iter().find(|(text, _)| seen.output.contains(text));
    match known {
        Some((_, meaning)) => format!("the upgrader never started: {meaning}"),
        None => {
            let last = seen.output.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("nothing");
            format!("the upgrader never started; the last that was said is: {last}")
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
