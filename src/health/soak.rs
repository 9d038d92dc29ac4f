//! Watching for a while after everything was green: a service that dies after a minute is not healthy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::checks::CheckResult;
use super::clock::Clock;
use super::report::sentence;
use super::units::{self, Unit};
use super::{HealthError, known};
use crate::system::span::Span;

/// How long to watch, and how closely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SoakConfig {
    /// How long everything must stay green.
    pub time: Span,
    /// How long between two looks.
    pub interval: Span,
    /// How often systemd may restart one service by itself in that time.
    pub restarts_allowed: u32,
}

impl Default for SoakConfig {
    fn default() -> Self {
        Self { time: Span::seconds(60), interval: Span::seconds(10), restarts_allowed: 0 }
    }
}

/// What one look saw.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// The checks.
    pub checks: Vec<CheckResult>,
    /// Failed units.
    pub failed: BTreeSet<String>,
    /// How often systemd restarted each service since the boot.
    pub restarts: BTreeMap<String, u32>,
}

impl Sample {
    /// Picks the units' part out of a list of units, without those that come and go.
    #[must_use]
    pub fn new(checks: Vec<CheckResult>, units: &[Unit]) -> Self {
        let kept = || units.iter().filter(|unit| known::is_kept(&unit.name) && !known::comes_and_goes(unit));
        Self {
            checks,
            failed: kept().filter(|unit| unit.is_failed()).map(|unit| unit.name.clone()).collect(),
            restarts: kept().map(|unit| (unit.name.clone(), unit.restarts)).collect(),
        }
    }

    /// Asks systemd now.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub fn take(checks: Vec<CheckResult>) -> Result<Self, HealthError> {
        Ok(Self::new(checks, &units::read()?.units))
    }
}

/// How the watching ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Soak {
    /// How long was watched; less than the soak time when something failed or it was cancelled.
    pub watched: Duration,
    /// How many looks.
    pub looks: u32,
    /// Whether the whole time was watched.
    pub complete: bool,
    /// One sentence for each thing that makes the machine unhealthy.
    pub required_failed: Vec<String>,
    /// One sentence for each wanted check that did not pass.
    pub wanted_failed: Vec<String>,
}

/// Looks again and again until the soak time is over, something required fails, or the clock is cancelled.
///
/// `first` is what was seen when everything was green. A look that fails to find anything out is repeated once: systemd may be
/// busy for a moment; the last look must succeed.
///
/// # Errors
/// When two looks in a row, or the last one, could not find out.
pub fn watch(
    config: SoakConfig,
    first: &Sample,
    clock: &mut dyn Clock,
    look: &mut dyn FnMut() -> Result<Sample, HealthError>,
) -> Result<Soak, HealthError> {
    let start = clock.elapsed();
    let end = config.time.duration();
    // An interval of 0 would spin.
    let interval = config.interval.duration().max(Duration::from_secs(1));
    let mut soak = Soak::default();
    let mut blind = false;
    loop {
        soak.watched = clock.elapsed().saturating_sub(start);
        if soak.watched >= end && !blind {
            // Not complete without a single look, unless no time was asked for.
            soak.complete = true;
            return Ok(soak);
        }
        let left = end.saturating_sub(soak.watched);
        if clock.wait(if left.is_zero() { interval } else { interval.min(left) }) {
            soak.watched = clock.elapsed().saturating_sub(start);
            let sentence = "the watching was interrupted before the soak time was over";
            soak.required_failed.push(sentence.to_owned());
            return Ok(soak);
        }
        match look() {
            Ok(sample) => {
                blind = false;
                soak.looks += 1;
                judge(first, &sample, config, &mut soak);
            }
            Err(error) if blind => return Err(error),
            Err(_) => blind = true,
        }
        if !soak.required_failed.is_empty() {
            soak.watched = clock.elapsed().saturating_sub(start);
            return Ok(soak);
        }
    }
}

/// What is worse than at first.
fn judge(first: &Sample, now: &Sample, config: SoakConfig, soak: &mut Soak) {
    for check in now.checks.iter().filter(|check| !check.passed) {
        if check.required {
            soak.required_failed.push(sentence(check));
        } else if !soak.wanted_failed.iter().any(|told| told.starts_with(&format!("check {} ", check.name))) {
            soak.wanted_failed.push(sentence(check));
        }
    }
    for name in now.failed.difference(&first.failed) {
        soak.required_failed.push(format!("{name} failed while the machine was watched"));
    }
    for (name, restarts) in &now.restarts {
        let times = restarts.saturating_sub(first.restarts.get(name).copied().unwrap_or(0));
        if times > config.restarts_allowed {
            let sentence =
                format!("{name} was restarted {times} times by systemd while the machine was watched");
            soak.required_failed.push(sentence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::checks::CheckState;
    use crate::health::clock::made_up::MadeUpClock;

    fn check(name: &str, required: bool, passed: bool) -> CheckResult {
        let state = if passed { CheckState::Ok } else { CheckState::Critical };
        let (kind, detail) = ("tcp".to_owned(), "refused".to_owned());
        CheckResult { name: name.to_owned(), kind, required, state, passed, tries: 1, took_ms: 0, detail }
    }

    fn blind() -> Result<Sample, HealthError> {
        Err(HealthError::Understand { what: "systemctl show", text: String::new() })
    }

    fn soak(looks: Vec<Result<Sample, HealthError>>) -> Result<Soak, HealthError> {
        let first = Sample { restarts: BTreeMap::from([("a.service".to_owned(), 3)]), ..Sample::default() };
        let mut looks = looks.into_iter();
        watch(SoakConfig::default(), &first, &mut MadeUpClock::default(), &mut || looks.next().unwrap())
    }

    fn green() -> Sample {
        Sample { restarts: BTreeMap::from([("a.service".to_owned(), 3)]), ..Sample::default() }
    }

    #[test]
    fn a_quiet_machine_is_watched_for_the_whole_time() {
        let soak = soak((0..6).map(|_| Ok(green())).collect()).unwrap();
        assert_eq!((soak.watched, soak.looks, soak.complete), (Duration::from_secs(60), 6, true));
        assert!(soak.required_failed.is_empty());
    }

    #[test]
    fn a_restart_fails_the_soak() {
        let restarted =
            Sample { restarts: BTreeMap::from([("a.service".to_owned(), 5)]), ..Sample::default() };
        let soak = soak(vec![Ok(green()), Ok(restarted)]).unwrap();
        assert_eq!(
            soak.required_failed,
            ["a.service was restarted 2 times by systemd while the machine was watched"]
        );
        assert_eq!((soak.watched, soak.complete), (Duration::from_secs(20), false));
    }

    #[test]
    fn a_failed_unit_or_required_check_fails_the_soak() {
        let failed = Sample { failed: BTreeSet::from(["b.service".to_owned()]), ..green() };
        assert!(soak(vec![Ok(failed)]).unwrap().required_failed[0].starts_with("b.service failed"));
        let red = Sample { checks: vec![check("shop", true, false)], ..green() };
        let told = soak(vec![Ok(red)]).unwrap().required_failed;
        assert_eq!(told, ["check shop did not pass after 1 try: refused"]);
    }

    #[test]
    fn a_wanted_check_is_told_once_and_decides_nothing() {
        let looks = (0..6).map(|_| Ok(Sample { checks: vec![check("blog", false, false)], ..green() }));
        let soak = soak(looks.collect()).unwrap();
        assert!(soak.complete && soak.required_failed.is_empty());
        assert_eq!(soak.wanted_failed.len(), 1);
    }

    #[test]
    fn one_look_may_be_blind_two_may_not_and_the_last_may_not() {
        let one = vec![blind(), Ok(green()), Ok(green()), Ok(green()), Ok(green()), Ok(green())];
        assert!(soak(one).unwrap().complete);
        assert!(soak(vec![blind(), blind()]).is_err());
        let last = (0..5).map(|_| Ok(green())).chain([blind(), Ok(green())]);
        assert_eq!(soak(last.collect()).unwrap().looks, 6);
        let last = (0..5).map(|_| Ok(green())).chain([blind(), blind()]);
        assert!(soak(last.collect()).is_err());
    }

    #[test]
    fn an_interrupted_soak_is_no_pass() {
        let mut clock = MadeUpClock { cancel_at: Some(Duration::from_secs(20)), ..MadeUpClock::default() };
        let soak = watch(SoakConfig::default(), &green(), &mut clock, &mut || Ok(green())).unwrap();
        assert!(!soak.complete && soak.required_failed.len() == 1);
    }
}
