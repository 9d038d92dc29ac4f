//! Two baselines in, what changed out. Pure.

mod rest;
mod sockets;
mod units;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::baseline::Baseline;
use crate::system::show;

/// What a change means for the health of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that worked does not: the machine is not healthy.
    Required,
    /// For the report; does not decide.
    Noted,
}

/// What kind of thing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// A unit is no longer active, or newly active.
    Unit,
    /// A unit failed.
    FailedUnit,
    /// A unit is no longer enabled.
    Enablement,
    /// A TCP or UDP port.
    Socket,
    /// A UNIX socket.
    UnixSocket,
    /// A mounted filesystem.
    Mount,
    /// A default route.
    Route,
    /// A package.
    Package,
}

/// One difference between before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What kind of thing.
    pub kind: ChangeKind,
    /// Which: the unit's name, `tcp/443`, the mount point, `default route (IPv4)`, the package.
    pub name: String,
    /// How it was; none when it was not there.
    pub before: Option<String>,
    /// How it is; none when it is not there.
    pub after: Option<String>,
    /// Whether it decides.
    pub severity: Severity,
    /// The same for a person.
    pub sentence: String,
}

impl Change {
    /// Whether the machine is not healthy because of it.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.severity == Severity::Required
    }
}

/// What changed from `before` to `after`, what decides first. `renames` are the operator's own (old unit, new unit).
///
/// Required are: a unit that was active and is not; a unit newly failed; a unit that was enabled and is not; a port without its
/// listener, or reachable only from this machine; a mount that is gone or became read-only; a lost way out; a package that is
/// not fully installed. Everything else, and what [`super::known`] lists, is noted.
#[must_use]
pub fn compare(before: &Baseline, after: &Baseline, renames: &BTreeMap<String, String>) -> Vec<Change> {
    let mut changes = units::compare(before, after, renames);
    changes.extend(sockets::compare(before, after));
    changes.extend(rest::mounts(before, after));
    changes.extend(rest::routes(before, after));
    changes.extend(rest::packages(before, after));
    changes.sort_by(|one, other| {
        (one.severity, one.kind, &one.name).cmp(&(other.severity, other.kind, &other.name))
    });
    changes
}

/// A change whose names are made safe to show.
fn change(
    severity: Severity,
    kind: ChangeKind,
    name: &str,
    states: (Option<&str>, Option<&str>),
    sentence: &str,
) -> Change {
    Change {
        kind,
        name: show::line(name),
        before: states.0.map(show::line),
        after: states.1.map(show::line),
        severity,
        sentence: show::line(sentence),
    }
}

#[cfg(test)]
pub(crate) mod tests;
