//! Units: active, failed, enabled.

use std::collections::{BTreeMap, BTreeSet};

use super::ChangeKind::{Enablement, FailedUnit, Unit as UnitChange};
use super::Severity::{Noted, Required};
use super::{Change, change};
use crate::health::baseline::{Baseline, is_enabled};
use crate::health::known;
use crate::health::units::Unit;

/// Mounts are judged by the mount table.
const JUDGED_SUFFIXES: [&str; 6] = [".service", ".socket", ".timer", ".path", ".swap", ".automount"];

/// Everything about units.
pub(super) fn compare(
    before: &Baseline,
    after: &Baseline,
    renames: &BTreeMap<String, String>,
) -> Vec<Change> {
    let pair = Pair { before, after, renames, loaded: by_name(after) };
    let mut changes = pair.failed();
    let mut told: BTreeSet<String> = changes.iter().map(|change| change.name.clone()).collect();
    for unit in before.units.iter().filter(|unit| unit.is_active() && !told.contains(&unit.name)) {
        changes.extend(pair.inactive(unit));
    }
    told.extend(changes.iter().map(|change| change.name.clone()));
    for (name, state) in before.unit_files.iter().filter(|(_, state)| is_enabled(state)) {
        if !told.contains(name) {
            changes.extend(pair.not_enabled(name, state));
        }
    }
    changes.extend(pair.appeared());
    changes
}

struct Pair<'b> {
    before: &'b Baseline,
    after: &'b Baseline,
    renames: &'b BTreeMap<String, String>,
    loaded: BTreeMap<&'b str, &'b Unit>,
}

/// Units by each of their names: an old name that became an alias still finds its unit.
fn by_name(baseline: &Baseline) -> BTreeMap<&str, &Unit> {
    let mut map = BTreeMap::new();
    for unit in &baseline.units {
        for alias in &unit.aliases {
            map.entry(alias.as_str()).or_insert(unit);
        }
    }
    // A unit's own name counts more than another's alias, unless nothing is behind it.
    for unit in &baseline.units {
        if unit.load == "loaded" || !map.contains_key(unit.name.as_str()) {
            map.insert(unit.name.as_str(), unit);
        }
    }
    map
}

fn state(unit: &Unit) -> String {
    if unit.load == "loaded" {
        format!("{} ({})", unit.active, unit.sub)
    } else {
        format!("{} ({})", unit.active, unit.load)
    }
}

impl Pair<'_> {
    /// Units that failed and had not failed before.
    fn failed(&self) -> Vec<Change> {
        let already: BTreeSet<&str> = self.before.failed().collect();
        let mut changes = Vec::new();
        for unit in self.after.units.iter().filter(|unit| unit.is_failed() && !already.contains(&*unit.name))
        {
            let before = self.before.units.iter().find(|one| one.name == unit.name).map(state);
            let states = (before.as_deref(), Some("failed"));
            let name = &unit.name;
            changes.push(if known::comes_and_goes(unit) {
                change(Noted, FailedUnit, name, states, &format!("{name} failed; such units come and go"))
            } else {
                let sentence = format!("{name} failed, and it had not failed before the upgrade");
                change(Required, FailedUnit, name, states, &sentence)
            });
        }
        changes
    }

    /// A unit that was active: whether and why it is not.
    fn inactive(&self, unit: &Unit) -> Option<Change> {
        let name = unit.name.as_str();
        if !JUDGED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) || known::comes_and_goes(unit) {
            return None;
        }
        let now = self.loaded.get(name).copied();
        let was = state(unit);
        let is = now.map(state);
        let tell = |severity, sentence: String| {
            Some(change(severity, UnitChange, name, (Some(&was), is.as_deref()), &sentence))
        };
        if let Some(now) = now.filter(|now| now.is_active()) {
            return match (unit.sub.as_str(), now.sub.as_str(), now.service_type.as_deref()) {
                ("running", "exited", Some("oneshot")) => {
                    tell(Noted, format!("{name} ran all the time and is now a task that ends"))
                }
                ("running", "exited", _) => {
                    tell(Required, format!("{name} is called active, but its program has ended"))
                }
                _ => None,
            };
        }
        if let Some(successor) = self.successor(name) {
            return tell(Noted, format!("{name} is now {successor}, which is active"));
        }
        if !now.is_some_and(Unit::is_failed) && self.waits_behind_socket(name) {
            return tell(Noted, format!("{name} is started by its socket when somebody connects"));
        }
        if let Some(why) = known::why_it_may_go(name) {
            return tell(Noted, format!("{name} is not active any more: {why}"));
        }
        if unit.service_type.as_deref() == Some("dbus") && unit.enablement.as_deref() == Some("static") {
            return tell(Noted, format!("{name} is started by D-Bus when somebody asks for it"));
        }
        tell(Required, self.loss(unit, now))
    }

    fn loss(&self, unit: &Unit, now: Option<&Unit>) -> String {
        let name = &unit.name;
        let package = self.before.unit_packages.get(name);
        let removed = package.filter(|package| !self.after.packages.installed.contains_key(*package));
        let file = self.after.unit_files.get(name);
        match (removed, now.filter(|now| now.load == "loaded"), file) {
            (Some(package), _, _) => {
                format!("{name} was active and is gone: its package {package} is no longer installed")
            }
            (None, Some(now), _) => format!("{name} was active and is now {}", state(now)),
            // systemd lists only what it has loaded; a unit that nothing asks for is not.
            (None, None, Some(file)) => format!("{name} was active and is not running now ({file})"),
            (None, None, None) => format!("{name} was active and does not exist any more"),
        }
    }

    /// The active unit that carries on under another name.
    fn successor(&self, name: &str) -> Option<&str> {
        let mut active = self.after.units.iter().filter(|unit| unit.is_active());
        active.find(|unit| known::is_successor(name, &unit.name, self.renames)).map(|unit| unit.name.as_str())
    }

    fn waits_behind_socket(&self, name: &str) -> bool {
        name.strip_suffix(".service").is_some_and(|stem| {
            self.loaded.get(&*format!("{stem}.socket")).is_some_and(|unit| unit.is_active())
        })
    }

    /// A unit file that was enabled and may not be any more.
    fn not_enabled(&self, name: &str, was: &str) -> Option<Change> {
        let is = self.after.unit_files.get(name).map(String::as_str);
        if is.is_some_and(|state| !matches!(state, "disabled" | "masked" | "masked-runtime" | "bad")) {
            return None;
        }
        let tell =
            |severity, sentence: String| Some(change(severity, Enablement, name, (Some(was), is), &sentence));
        if let Some(unit) = self.loaded.get(name).filter(|unit| unit.is_active() && is.is_none()) {
            return tell(Noted, format!("{name} is now {}, which is active", unit.name));
        }
        if let Some(successor) = self.successor(name) {
            return tell(Noted, format!("{name} is now {successor}, which is active"));
        }
        if let Some(why) = known::why_it_may_go(name) {
            return tell(Noted, format!("{name} is not enabled any more: {why}"));
        }
        if is == Some("disabled") && self.waits_behind_socket(name) {
            return tell(Noted, format!("{name} is started by its socket when somebody connects"));
        }
        tell(
            Required,
            match is {
                Some(state) => format!("{name} was enabled and is now {state}"),
                None => format!("{name} was enabled and does not exist any more"),
            },
        )
    }

    /// Services that nobody had before.
    fn appeared(&self) -> Vec<Change> {
        let known = by_name(self.before);
        let is_new = |unit: &&Unit| {
            let was_active = |name: &String| known.get(name.as_str()).is_some_and(|unit| unit.is_active());
            unit.sub == "running"
                && unit.name.ends_with(".service")
                && !known::comes_and_goes(unit)
                && !was_active(&unit.name)
                && !unit.aliases.iter().any(was_active)
        };
        let tell = |unit: &Unit| {
            let sentence = format!("{} runs and did not run before", unit.name);
            change(Noted, UnitChange, &unit.name, (None, Some(&state(unit))), &sentence)
        };
        self.after.units.iter().filter(is_new).map(tell).collect()
    }
}
