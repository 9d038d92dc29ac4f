//! Listening sockets, judged by protocol and port: who answers may change, that somebody answers may not.

use std::collections::{BTreeMap, BTreeSet};

use super::ChangeKind::{Socket, UnixSocket};
use super::Severity::{Noted, Required};
use super::{Change, change};
use crate::health::baseline::Baseline;
use crate::health::known;
use crate::health::sockets::{Listener, Owner, Protocol};

type Port = (Protocol, u16);

/// Everything about sockets.
pub(super) fn compare(before: &Baseline, after: &Baseline) -> Vec<Change> {
    let (old, new) = (by_port(before), by_port(after));
    let mut changes = Vec::new();
    for (port, listeners) in &old {
        changes.extend(match new.get(port) {
            Some(now) => changed(*port, listeners, now),
            None => Some(lost(*port, listeners, before, after)),
        });
    }
    for (port, listeners) in new.iter().filter(|(port, _)| !old.contains_key(*port)) {
        if !(port.0 == Protocol::Udp && is_ephemeral(after, port.1)) {
            let (name, who) = (name(*port), describe(listeners));
            let sentence = format!("{name} is new: {who}");
            changes.push(change(Noted, Socket, &name, (None, Some(&who)), &sentence));
        }
    }
    changes.extend(unix(before, after));
    changes
}

fn by_port(baseline: &Baseline) -> BTreeMap<Port, Vec<&Listener>> {
    let mut map: BTreeMap<Port, Vec<&Listener>> = BTreeMap::new();
    for listener in &baseline.listeners {
        map.entry((listener.protocol, listener.port)).or_default().push(listener);
    }
    map
}

/// A port that nobody listens on any more.
fn lost(port: Port, listeners: &[&Listener], before: &Baseline, after: &Baseline) -> Change {
    let (name, who) = (name(port), describe(listeners));
    let tell = |severity, sentence: String| change(severity, Socket, &name, (Some(&who), None), &sentence);
    if port.0 == Protocol::Udp && known::CLIENT_PORTS.contains(&port.1) {
        return tell(
            Noted,
            format!("{name} ({who}) is closed: a client of the network configuration, no service"),
        );
    }
    if listeners.iter().all(|one| belongs_to_a_login(&one.owner)) {
        return tell(Noted, format!("{name} ({who}) is closed: it belonged to somebody's login"));
    }
    if is_ephemeral(before, port.1) {
        let by_process = listeners.iter().all(|one| one.owner.program.is_some());
        if port.0 == Protocol::Udp && by_process {
            return tell(
                Noted,
                format!("{name} ({who}) is closed: a port that the kernel hands out to clients"),
            );
        }
        if listeners.iter().all(|one| listens_elsewhere(one, after)) {
            return tell(Noted, format!("{name} ({who}) moved: its owner lets the kernel choose the port"));
        }
    }
    tell(Required, format!("nobody listens on {name} any more; before it was {who}"))
}

/// A port on which somebody listens before and after.
fn changed(port: Port, before: &[&Listener], after: &[&Listener]) -> Option<Change> {
    let name = name(port);
    let (was, is) = (describe(before), describe(after));
    let tell = |severity, sentence: String| {
        Some(change(severity, Socket, &name, (Some(&was), Some(&is)), &sentence))
    };
    let from_outside = |listeners: &[&Listener]| listeners.iter().any(|one| !one.address.is_loopback());
    if from_outside(before) && !from_outside(after) {
        return tell(Required, format!("{name} ({is}) is reachable only from this machine now"));
    }
    let programs = |listeners: &[&Listener]| -> BTreeSet<Option<String>> {
        listeners.iter().map(|one| one.owner.program.clone()).collect()
    };
    if programs(before) != programs(after) {
        return tell(Noted, format!("{name} was served by {was} and is now served by {is}"));
    }
    let addresses =
        |listeners: &[&Listener]| -> BTreeSet<_> { listeners.iter().map(|one| one.address).collect() };
    if addresses(before) != addresses(after) && !covers(after, before) {
        return tell(Noted, format!("{name} listens on other addresses: {was} before, {is} now"));
    }
    None
}

/// Whether each address of before is still served, by itself or by a socket for all addresses.
fn covers(after: &[&Listener], before: &[&Listener]) -> bool {
    before.iter().all(|one| {
        after.iter().any(|now| {
            now.address == one.address
                || (now.address.is_unspecified() && now.address.is_ipv4() == one.address.is_ipv4())
        })
    })
}

fn listens_elsewhere(listener: &Listener, after: &Baseline) -> bool {
    after.listeners.iter().any(|now| {
        now.protocol == listener.protocol
            && now.owner.program == listener.owner.program
            && is_ephemeral(after, now.port)
    })
}

fn belongs_to_a_login(owner: &Owner) -> bool {
    owner.unit.as_deref().is_some_and(|unit| {
        (unit.starts_with("session-") && unit.ends_with(".scope")) || unit.starts_with("user@")
    })
}

fn is_ephemeral(baseline: &Baseline, port: u16) -> bool {
    (baseline.ephemeral_ports.0..=baseline.ephemeral_ports.1).contains(&port)
}

/// UNIX sockets are noted only: their path belongs to a version (`/run/php/php8.2-fpm.sock`), and what matters of them
/// shows in the unit and in the checks.
fn unix(before: &Baseline, after: &Baseline) -> Vec<Change> {
    let now: BTreeSet<&str> = after.unix_listeners.iter().map(|one| one.path.as_str()).collect();
    before
        .unix_listeners
        .iter()
        .filter(|one| !now.contains(one.path.as_str()) && !belongs_to_a_login(&one.owner))
        .map(|one| {
            let who = owner(&one.owner);
            let sentence = format!("nobody listens on {} any more; before it was {who}", one.path);
            change(Noted, UnixSocket, &one.path, (Some(&who), None), &sentence)
        })
        .collect()
}

fn name(port: Port) -> String {
    format!("{}/{}", port.0.name(), port.1)
}

fn describe(listeners: &[&Listener]) -> String {
    let owners: BTreeSet<String> = listeners.iter().map(|one| owner(&one.owner)).collect();
    let addresses: BTreeSet<String> = listeners.iter().map(|one| one.address.to_string()).collect();
    let join = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(", ");
    format!("{} on {}", join(owners), join(addresses))
}

fn owner(owner: &Owner) -> String {
    match (&owner.program, &owner.unit) {
        (Some(program), Some(unit)) => format!("{program} of {unit}"),
        (Some(program), None) => program.clone(),
        _ => "the kernel".to_owned(),
    }
}
