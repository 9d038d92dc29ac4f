//! Keeps everything else that installs packages away while the upgrade runs: apt's daily timers, unattended-upgrades, PackageKit.
//!
//! The units are stopped and masked for this boot only (`mask --runtime`): a reboot lifts the masks by itself, also when the
//! program dies. After a death without a reboot, [`release_all`] lifts them.

use std::path::Path;
use std::time::Duration;

use crate::system::exec::{Exec, ExecError};

/// What is held off; timers first, so that nothing starts a service that was just stopped.
pub const UNITS: [&str; 6] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "apt-daily.service",
    "apt-daily-upgrade.service",
    "unattended-upgrades.service",
    "packagekit.service",
];

/// Units that run all the time when they are enabled; the others are started by something when they are needed.
const STANDING: [&str; 3] = ["apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades.service"];

/// How systemd calls a unit file that is masked for this boot only.
const MASKED_BY_US: &str = "masked-runtime";

/// Stopping waits for an installation that has begun: the units themselves allow up to 15 minutes for it
/// (`TimeoutStopSec=900` of apt-daily-upgrade.service).
const STOP_LIMIT: Duration = Duration::from_secs(1000);

/// Holding off or releasing that did not work.
#[derive(Debug, thiserror::Error)]
pub enum HoldOffError {
    /// No systemd, so nothing could be held off by it.
    #[error("systemd does not run here, so apt's timers cannot be held off")]
    NoSystemd,
    /// systemctl failed.
    #[error("failed to hold off or release other package tools")]
    Systemctl(#[from] ExecError),
    /// systemctl's answer was not understood.
    #[error("systemctl says about {unit}: {answer:?}, which was not understood")]
    Answer {
        /// Which unit.
        unit: String,
        /// What was said.
        answer: String,
    },
}

/// Other package tools are held off while this lives. Dropping releases them as well, but cannot say whether it worked.
#[derive(Debug)]
pub struct HoldOff {
    masked: Vec<&'static str>,
    stopped: Vec<&'static str>,
    /// Masked when we came, by an earlier process that died: what ran before it is not known.
    inherited: Vec<&'static str>,
    released: bool,
}

impl HoldOff {
    /// Stops and masks those of [`UNITS`] that exist and are not already masked by somebody else. Repeatable.
    ///
    /// # Errors
    /// When systemd does not run or refuses; what was masked until then is released again.
    pub fn begin() -> Result<Self, HoldOffError> {
        let mut hold =
            Self { masked: Vec::new(), stopped: Vec::new(), inherited: Vec::new(), released: false };
        for unit in UNITS {
            let facts = show(unit)?;
            let steps = hold_steps(&facts);
            if facts.file_state == MASKED_BY_US {
                hold.inherited.push(unit);
            }
            if steps.stop {
                hold.stopped.push(unit);
                systemctl().and_then(|exec| exec.args(["stop", unit]).limit(STOP_LIMIT).success())?;
            }
            if steps.mask {
                hold.masked.push(unit);
                systemctl().and_then(|exec| exec.args(["mask", "--runtime", unit]).success())?;
            }
        }
        Ok(hold)
    }

    /// The units that are masked by this.
    #[must_use]
    pub fn masked(&self) -> &[&'static str] {
        &self.masked
    }

    /// Unmasks, and starts what ran before.
    ///
    /// # Errors
    /// The first failure, after everything was tried; [`release_all`] may be tried later.
    pub fn release(mut self) -> Result<(), HoldOffError> {
        self.let_go()
    }

    fn let_go(&mut self) -> Result<(), HoldOffError> {
        self.released = true;
        let mut result = unmask(&self.masked);
        for unit in self.stopped.iter().filter(|unit| STANDING.contains(unit)) {
            result = result.and(start(unit));
        }
        for unit in &self.inherited {
            result = result.and(start_if_enabled(unit));
        }
        result
    }
}

impl Drop for HoldOff {
    fn drop(&mut self) {
        if !self.released
            && let Err(error) = self.let_go()
        {
            tracing::warn!("{}", crate::error::chain(&error));
        }
    }
}

/// Releases whatever an earlier process, now dead, held off in this boot: lifts the runtime masks and starts what is enabled. Repeatable.
///
/// # Errors
/// The first failure, after everything was tried.
pub fn release_all() -> Result<(), HoldOffError> {
    let mut ours = Vec::new();
    let mut result = Ok(());
    for unit in UNITS {
        match show(unit) {
            Ok(facts) if facts.file_state == MASKED_BY_US => ours.push(unit),
            Ok(_) => {}
            Err(error) => result = result.and(Err(error)),
        }
    }
    // All of them first: a timer does not start while its service is masked.
    result = result.and(unmask(&ours));
    for unit in ours {
        result = result.and(start_if_enabled(unit));
    }
    result
}

fn unmask(units: &[&str]) -> Result<(), HoldOffError> {
    if units.is_empty() {
        return Ok(());
    }
    systemctl()?.args(["unmask", "--runtime"]).args(units).success()?;
    Ok(())
}

fn start_if_enabled(unit: &str) -> Result<(), HoldOffError> {
    let enabled = STANDING.contains(&unit) && show(unit)?.file_state == "enabled";
    if enabled { start(unit) } else { Ok(()) }
}

fn start(unit: &str) -> Result<(), HoldOffError> {
    systemctl()?.args(["start", unit]).success()?;
    Ok(())
}

fn systemctl() -> Result<Exec, ExecError> {
    Ok(Exec::new("systemctl")?.env("SYSTEMD_PAGER", ""))
}

fn show(unit: &str) -> Result<UnitFacts, HoldOffError> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Err(HoldOffError::NoSystemd);
    }
    let text = systemctl()?.args(["show", "-p", "LoadState,ActiveState,UnitFileState", unit]).text()?;
    parse_show(&text).ok_or_else(|| HoldOffError::Answer { unit: unit.to_owned(), answer: text })
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct UnitFacts {
    load: String,
    active: String,
    file_state: String,
}

fn parse_show(text: &str) -> Option<UnitFacts> {
    let value = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    };
    Some(UnitFacts {
        load: value("LoadState")?,
        active: value("ActiveState")?,
        file_state: value("UnitFileState")?,
    })
}

#[derive(Debug, PartialEq, Eq)]
struct HoldSteps {
    stop: bool,
    mask: bool,
}

/// A unit that is not there needs nothing; one that an administrator masked must not be unmasked by us later.
fn hold_steps(facts: &UnitFacts) -> HoldSteps {
    let running = !matches!(facts.active.as_str(), "inactive" | "failed");
    match (facts.load.as_str(), facts.file_state.as_str()) {
        ("not-found", _) => HoldSteps { stop: false, mask: false },
        // Ours, from a process that died: to be lifted by us.
        (_, MASKED_BY_US) => HoldSteps { stop: running, mask: true },
        ("masked", _) => HoldSteps { stop: running, mask: false },
        _ => HoldSteps { stop: running, mask: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(load: &str, active: &str, file_state: &str) -> UnitFacts {
        UnitFacts { load: load.into(), active: active.into(), file_state: file_state.into() }
    }

    #[test]
    fn what_is_done_to_a_unit() {
        let steps = |load, active, file| {
            let HoldSteps { stop, mask } = hold_steps(&facts(load, active, file));
            (stop, mask)
        };
        assert_eq!(steps("loaded", "active", "enabled"), (true, true));
        assert_eq!(steps("loaded", "inactive", "static"), (false, true));
        assert_eq!(steps("loaded", "activating", "static"), (true, true));
        assert_eq!(steps("not-found", "inactive", ""), (false, false));
        assert_eq!(steps("masked", "inactive", "masked"), (false, false));
        assert_eq!(steps("masked", "inactive", "masked-runtime"), (false, true));
    }

    #[test]
    fn the_answer_of_systemctl() {
        let text = "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\n";
        assert_eq!(parse_show(text), Some(facts("loaded", "active", "enabled")));
        assert_eq!(parse_show("LoadState=loaded\n"), None);
    }

    #[test]
    fn without_systemd_it_says_so() {
        if Path::new("/run/systemd/system").is_dir() {
            println!("skipped: systemd runs here");
            return;
        }
        assert!(matches!(HoldOff::begin(), Err(HoldOffError::NoSystemd)));
        assert!(matches!(release_all(), Err(HoldOffError::NoSystemd)));
    }
}
