//! Mounts, default routes, packages.

use super::ChangeKind::{Mount, Package, Route};
use super::Severity::{Noted, Required};
use super::{Change, change};
use crate::health::baseline::{Baseline, MountFact};
use crate::health::routes::DefaultRoute;

/// Mounts that are gone, became read-only, or hold something else.
pub(super) fn mounts(before: &Baseline, after: &Baseline) -> Vec<Change> {
    let mut changes = Vec::new();
    for old in &before.mounts {
        let now = after.mounts.iter().find(|mount| mount.point == old.point);
        changes.extend(mount(old, now));
    }
    let is_new = |new: &&MountFact| !before.mounts.iter().any(|old| old.point == new.point);
    for new in after.mounts.iter().filter(is_new) {
        let sentence = format!("{} is mounted and was not before", new.point);
        changes.push(change(Noted, Mount, &new.point, (None, Some(&describe_mount(new))), &sentence));
    }
    changes
}

fn mount(old: &MountFact, now: Option<&MountFact>) -> Option<Change> {
    let point = &old.point;
    let was = describe_mount(old);
    let is = now.map(describe_mount);
    let tell = |severity, sentence: String| {
        Some(change(severity, Mount, point, (Some(&was), is.as_deref()), &sentence))
    };
    let Some(now) = now else {
        return tell(Required, format!("{point} ({was}) is not mounted any more"));
    };
    if now.read_only && !old.read_only {
        return tell(Required, format!("{point} became read-only"));
    }
    if now.fs_type == old.fs_type {
        return None;
    }
    match (old.fs_type.as_str(), now.fs_type.as_str()) {
        (_, "autofs") => tell(Noted, format!("{point} is mounted when somebody looks at it")),
        ("autofs", _) => None,
        _ => tell(Noted, format!("{point} holds {} and held {was} before", describe_mount(now))),
    }
}

fn describe_mount(mount: &MountFact) -> String {
    format!("{} from {}", mount.fs_type, mount.source)
}

/// Ways out, for each version of IP.
pub(super) fn routes(before: &Baseline, after: &Baseline) -> Vec<Change> {
    let mut changes = Vec::new();
    for ip_version in [4, 6] {
        let of = |baseline: &Baseline| describe_routes(&baseline.default_routes, ip_version);
        let name = format!("default route (IPv{ip_version})");
        let (was, is) = (of(before), of(after));
        let (severity, sentence) = match (&was, &is) {
            (Some(was), None) => (Required, format!("there is no {name} any more; it was {was}")),
            (Some(was), Some(is)) if was != is => (Noted, format!("the {name} was {was} and is {is}")),
            (None, Some(is)) => (Noted, format!("there is a {name} now: {is}")),
            _ => continue,
        };
        changes.push(change(severity, Route, &name, (was.as_deref(), is.as_deref()), &sentence));
    }
    changes
}

fn describe_routes(routes: &[DefaultRoute], ip_version: u8) -> Option<String> {
    let mut texts: Vec<String> = routes
        .iter()
        .filter(|route| route.ip_version == ip_version)
        .map(|route| match route.gateway {
            Some(gateway) => format!("{gateway} through {}", route.device),
            None => format!("through {}", route.device),
        })
        .collect();
    texts.sort();
    texts.dedup();
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// Packages that are not fully installed, and holds.
pub(super) fn packages(before: &Baseline, after: &Baseline) -> Vec<Change> {
    let mut changes = Vec::new();
    for (name, is) in &after.packages.unfinished {
        let was = before.packages.unfinished.get(name).map(String::as_str);
        let (severity, sentence) = match was {
            None => (Required, format!("package {name} is not fully installed: {is}")),
            Some(was) => {
                (Noted, format!("package {name} is not fully installed: {is}, and was {was} before"))
            }
        };
        changes.push(change(severity, Package, name, (was, Some(is)), &sentence));
    }
    for name in before.packages.held.difference(&after.packages.held) {
        let sentence = format!("package {name} is not on hold any more");
        changes.push(change(Noted, Package, name, (Some("held"), None), &sentence));
    }
    for name in after.packages.held.difference(&before.packages.held) {
        let sentence = format!("package {name} is on hold and was not before");
        changes.push(change(Noted, Package, name, (None, Some("held")), &sentence));
    }
    changes
}
