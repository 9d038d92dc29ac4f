//! Waiting, with an end: until a boot is over, and until what was there before is there again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::baseline::{self, Baseline};
use super::clock::Clock;
use super::diff::{self, Change};
use super::{HealthError, units};
use crate::system::exec::{Exec, ExecError};

/// Between two looks at a machine whose services are still starting.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How a boot went, as systemd sees it. Not a judgement: a degraded machine may have been degraded before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Settled {
    /// Everything was started.
    Running,
    /// Everything was started, and some units failed.
    Degraded,
    /// Jobs were still waiting when the time was over.
    Timeout,
    /// Another word of systemd: `maintenance`, `stopping`, ...
    Other(String),
}

impl Settled {
    /// Whether the boot has ended in `emergency.target` or `rescue.target`: more than this will not be started.
    #[must_use]
    pub fn is_emergency(&self) -> bool {
        matches!(self, Self::Other(word) if word == "maintenance")
    }
}

/// Waits until systemd has worked off the jobs of the boot. The caller must not be such a job itself (a oneshot service that
/// the boot waits for), or it waits for its own end.
///
/// # Errors
/// When systemd does not answer in a way that is understood.
pub fn wait_until_settled(limit: Duration) -> Result<Settled, HealthError> {
    let what = "the end of the boot";
    let asked = Exec::new("systemctl")
        .and_then(|exec| exec.args(["is-system-running", "--wait"]).limit(limit).output());
    match asked {
        Ok(output) => {
            let word = units::parse_system_state(&String::from_utf8_lossy(&output.stdout))?;
            Ok(match word.as_str() {
                "running" => Settled::Running,
                "degraded" => Settled::Degraded,
                _ => Settled::Other(word),
            })
        }
        Err(ExecError::TimedOut { .. }) => Ok(Settled::Timeout),
        Err(source) => Err(HealthError::Ask { what, source }),
    }
}

/// The machine after a change, compared with before.
#[derive(Debug, Clone)]
pub struct Converged {
    /// The machine as it was last seen.
    pub after: Baseline,
    /// What changed; without required changes the machine does what it did.
    pub changes: Vec<Change>,
    /// How often it was looked at.
    pub looks: u32,
}

/// Captures and compares until nothing required is missing, or the time is over: services may be slow to start.
///
/// # Errors
/// When the last look could not find out.
pub fn converge(
    root: &Path,
    before: &Baseline,
    renames: &BTreeMap<String, String>,
    limit: Duration,
    clock: &mut dyn Clock,
) -> Result<Converged, HealthError> {
    converge_by(before, renames, limit, clock, &mut || baseline::capture(root))
}

/// [`converge`] with any way to look at the machine.
///
/// # Errors
/// When the last look could not find out.
pub fn converge_by(
    before: &Baseline,
    renames: &BTreeMap<String, String>,
    limit: Duration,
    clock: &mut dyn Clock,
    look: &mut dyn FnMut() -> Result<Baseline, HealthError>,
) -> Result<Converged, HealthError> {
    let end = clock.elapsed() + limit;
    let mut looks = 0;
    loop {
        let seen = look();
        looks += 1;
        let found = seen.map(|after| {
            let changes = diff::compare(before, &after, renames);
            Converged { after, changes, looks }
        });
        let good = found.as_ref().is_ok_and(|found| !found.changes.iter().any(Change::is_required));
        let left = end.saturating_sub(clock.elapsed());
        if good || left.is_zero() || clock.wait(LOOK_AGAIN.min(left)) {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::clock::made_up::MadeUpClock;
    use crate::health::diff::tests::{machine, service};

    fn run(looks: Vec<Result<Baseline, HealthError>>) -> (Result<Converged, HealthError>, Duration) {
        let before = machine(vec![service("db.service", "active", "running")]);
        let mut clock = MadeUpClock::default();
        let mut looks = looks.into_iter();
        let limit = Duration::from_secs(12);
        let found = converge_by(&before, &BTreeMap::new(), limit, &mut clock, &mut || looks.next().unwrap());
        (found, clock.now)
    }

    fn starting() -> Baseline {
        machine(vec![service("db.service", "activating", "start")])
    }

    fn started() -> Baseline {
        machine(vec![service("db.service", "active", "running")])
    }

    fn blind() -> Result<Baseline, HealthError> {
        Err(HealthError::Understand { what: "systemctl show", text: String::new() })
    }

    #[test]
    fn a_slow_service_is_waited_for() {
        let (found, now) = run(vec![Ok(starting()), blind(), Ok(started())]);
        let found = found.unwrap();
        assert_eq!((found.looks, now), (3, Duration::from_secs(10)));
        assert!(!found.changes.iter().any(Change::is_required));
    }

    #[test]
    fn the_waiting_has_an_end() {
        let (found, now) = run((0..4).map(|_| Ok(starting())).collect());
        assert!(found.unwrap().changes.iter().any(Change::is_required));
        assert_eq!(now, Duration::from_secs(12));
    }

    #[test]
    fn a_blind_last_look_is_no_answer() {
        let (found, _) = run(vec![Ok(starting()), Ok(starting()), Ok(starting()), blind()]);
        assert!(found.is_err());
    }
}
