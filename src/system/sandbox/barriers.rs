//! What stands between an engine and the machine, and which of it holds.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that keeps an engine where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Barrier {
    /// It has a network of its own, with nobody in it.
    Network,
    /// It sees only the system's programs, what it reads and what it writes; only the last can be written.
    Files,
    /// It sees only processes that it started, and all of them end with it.
    Processes,
    /// It shares no memory or queues with other processes.
    Memory,
    /// It can't rename the machine.
    Hostname,
    /// It can't gain rights by running a program that is set-user-id.
    NoNewRights,
    /// It has only those of root's powers that reading or restoring files takes.
    Powers,
    /// It ends when we end.
    Lifetime,
    /// It leaves no core file and is held to the limits that were asked for.
    Ceilings,
    /// The kernel's Landlock holds it to the same files once more.
    Landlock,
}

impl Barrier {
    /// All of them, in the order in which reports list them.
    pub const ALL: [Self; 10] = [
        Self::Network,
        Self::Files,
        Self::Processes,
        Self::Memory,
        Self::Hostname,
        Self::NoNewRights,
        Self::Powers,
        Self::Lifetime,
        Self::Ceilings,
        Self::Landlock,
    ];

    /// Whether it takes root, or a user namespace.
    #[must_use]
    pub fn takes_root(self) -> bool {
        matches!(self, Self::Network | Self::Files | Self::Processes | Self::Memory | Self::Hostname)
    }

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Network => "no network",
            Self::Files => "only its own files",
            Self::Processes => "only its own processes",
            Self::Memory => "no shared memory",
            Self::Hostname => "own host name",
            Self::NoNewRights => "no new rights",
            Self::Powers => "few powers of root",
            Self::Lifetime => "ends with us",
            Self::Ceilings => "limits",
            Self::Landlock => "Landlock",
        }
    }
}

impl fmt::Display for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a barrier holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is", content = "why")]
pub enum Standing {
    /// It holds.
    Held,
    /// It was left out on purpose: the words say why.
    Waived(String),
    /// It does not hold: the words say why.
    Missing(String),
}

/// The barriers around one engine. What is not in the list was never tried, and so does not hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Barriers(BTreeMap<Barrier, Standing>);

impl Barriers {
    /// Notes how one stands.
    pub fn note(&mut self, barrier: Barrier, standing: Standing) {
        self.0.insert(barrier, standing);
    }

    /// Notes the outcome of setting one up.
    pub fn tried<E: fmt::Display>(&mut self, barrier: Barrier, outcome: Result<(), E>) {
        let standing = match outcome {
            Ok(()) => Standing::Held,
            Err(error) => Standing::Missing(error.to_string()),
        };
        self.note(barrier, standing);
    }

    /// Whether one holds.
    #[must_use]
    pub fn hold(&self, barrier: Barrier) -> bool {
        self.0.get(&barrier) == Some(&Standing::Held)
    }

    /// How one stands, when it was tried.
    #[must_use]
    pub fn standing(&self, barrier: Barrier) -> Option<&Standing> {
        self.0.get(&barrier)
    }

    /// Those that should hold and do not, with the reason. Landlock is never among them: many kernels lack it.
    pub fn missing(&self) -> impl Iterator<Item = (Barrier, &str)> {
        Barrier::ALL.into_iter().filter(|barrier| *barrier != Barrier::Landlock).filter_map(|barrier| {
            match self.0.get(&barrier) {
                Some(Standing::Held | Standing::Waived(_)) => None,
                Some(Standing::Missing(why)) => Some((barrier, why.as_str())),
                None => Some((barrier, "it was not tried")),
            }
        })
    }

    /// One line for a report: what holds, then what does not and why.
    #[must_use]
    pub fn words(&self) -> String {
        let held: Vec<&str> =
            Barrier::ALL.into_iter().filter(|barrier| self.hold(*barrier)).map(Barrier::name).collect();
        let mut words = match held.as_slice() {
            [] => "no barrier holds".to_owned(),
            held => held.join(", "),
        };
        for barrier in Barrier::ALL {
            match self.0.get(&barrier) {
                Some(Standing::Held) => {}
                Some(Standing::Waived(why)) => words.push_str(&format!("; left out: {barrier} ({why})")),
                Some(Standing::Missing(why)) => words.push_str(&format!("; missing: {barrier} ({why})")),
                None => words.push_str(&format!("; missing: {barrier}")),
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_tried_is_missing() {
        let mut barriers = Barriers::default();
        barriers.note(Barrier::Network, Standing::Waived("the repository is on the network".into()));
        barriers.tried(Barrier::Files, Err("EPERM"));
        barriers.tried::<&str>(Barrier::Lifetime, Ok(()));
        let missing: Vec<_> = barriers.missing().map(|(barrier, _)| barrier).collect();
        assert!(!missing.contains(&Barrier::Network) && !missing.contains(&Barrier::Lifetime));
        assert!(missing.contains(&Barrier::Files) && missing.contains(&Barrier::Powers));
        let words = barriers.words();
        assert!(words.starts_with("ends with us; left out: no network (the repository"), "{words}");
        assert!(words.contains("missing: only its own files (EPERM)"), "{words}");
    }

    #[test]
    fn json_reads_back() {
        let mut barriers = Barriers::default();
        barriers.tried::<&str>(Barrier::NoNewRights, Ok(()));
        barriers.tried(Barrier::Landlock, Err("not in this kernel"));
        let text = serde_json::to_string(&barriers).unwrap();
        assert_eq!(
            text,
            r#"{"no-new-rights":{"is":"held"},"landlock":{"is":"missing","why":"not in this kernel"}}"#
        );
        assert_eq!(serde_json::from_str::<Barriers>(&text).unwrap(), barriers);
    }
}
