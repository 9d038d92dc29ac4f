//! How long the machine's services are not what they should be: predicted before anything begins, measured afterwards.

use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use crate::evidence::Plan;
use crate::journal::Frame;
use crate::machine::Record;
use crate::places::StateDirectory;
use crate::rehearsal::record::{self, Outcome};

/// Seconds for each installed package where nothing better is known: 199 packages took 179 s on two busy processors.
const SECONDS_PER_PACKAGE: u64 = 1;

/// Seconds for shutting down and booting, where nothing better is known.
const SECONDS_PER_BOOT: u64 = 120;

/// An outage to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Predicted {
    /// In seconds.
    pub(super) seconds: u64,
    /// How good the number is.
    pub(super) basis: Basis,
    /// What the number is from.
    pub(super) from: String,
}

/// What a prediction rests on, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Basis {
    /// A rehearsal of the same way that passed.
    Rehearsal,
    /// The last run of this machine.
    LastRun,
    /// The number of packages.
    Estimate,
}

/// An outage that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Measured {
    /// From the first changed package until the new release was accepted or the old one was back, in seconds.
    pub(super) seconds: u64,
    /// Of that: while the machine went down and came up again, in seconds.
    pub(super) rebooting: u64,
}

/// From the last rehearsal of the same way that passed; else from the last run; else an estimate.
pub(super) fn predict(places: &StateDirectory, plan: &Plan, frames: &[Frame], soak: u64) -> Predicted {
    // In one that failed, what was lost was waited for. What cannot be read predicts nothing; whether it counts as a proof is judged elsewhere.
    let rehearsed = record::read(places.path()).ok().flatten();
    if let Some(last) = rehearsed.filter(|last| last.outcome == Outcome::Passed)
        && (&last.from, &last.to) == (&plan.from.codename, &plan.to.codename)
    {
        let from = format!("from the rehearsal {}", last.id);
        return Predicted { seconds: last.predicted_outage, basis: Basis::Rehearsal, from };
    }
    if let Some(last) = runs(frames).rev().find_map(measure) {
        let from = "from the last run of this machine".into();
        return Predicted { seconds: last.seconds, basis: Basis::LastRun, from };
    }
    let packages = installed(Path::new("/"));
    let seconds = packages * SECONDS_PER_PACKAGE + SECONDS_PER_BOOT + soak;
    Predicted {
        seconds,
        basis: Basis::Estimate,
        from: format!("an estimate from {packages} packages; `safe-upgrade rehearse` measures it"),
    }
}

impl Predicted {
    /// One line for a person.
    pub(super) fn line(&self) -> String {
        format!("Predicted outage: {} ({}).", span(self.seconds), self.from)
    }

    /// One line among those of a run's progress.
    pub(super) fn event(&self) -> Value {
        json!({"event": "predicted-outage", "seconds": self.seconds, "basis": self.basis, "from": self.from})
    }
}

impl Measured {
    /// For a person.
    pub(super) fn text(self) -> String {
        format!("{}, of which {} s were spent rebooting", span(self.seconds), self.rebooting)
    }
}

/// The outage of one run, from its records; nothing when nothing was changed, or it has not ended.
pub(super) fn measure(frames: &[Frame]) -> Option<Measured> {
    let between =
        |from: &Frame, to: &Frame| u64::try_from(to.time.duration_since(from.time).as_secs()).unwrap_or(0);
    let begin = frames.iter().find(|frame| matches!(frame.entry, Record::UpgradeStarted { .. }))?;
    let end = frames
        .iter()
        .find(|frame| matches!(frame.entry, Record::Committed { .. } | Record::RolledBack { .. }))?;
    let mut rebooting = 0;
    let mut down: Option<&Frame> = None;
    for frame in frames.iter().take_while(|frame| frame.seq <= end.seq) {
        match frame.entry {
            Record::RebootStarted { .. } | Record::RollbackPrepared { .. } | Record::TrialLeft { .. } => {
                down = Some(frame);
            }
            _ => rebooting += down.take().map_or(0, |down| between(down, frame)),
        }
    }
    Some(Measured { seconds: between(begin, end), rebooting })
}

/// Minutes and seconds.
pub(super) fn span(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds} s"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}

/// The frames of each run, oldest first.
pub(super) fn runs(frames: &[Frame]) -> impl DoubleEndedIterator<Item = &[Frame]> {
    let begins: Vec<usize> = (0..frames.len())
        .filter(|index| matches!(frames[*index].entry, Record::Planned { .. }))
        .chain([frames.len()])
        .collect();
    let pairs: Vec<(usize, usize)> = begins.windows(2).map(|pair| (pair[0], pair[1])).collect();
    pairs.into_iter().map(|(from, to)| &frames[from..to])
}

fn installed(root: &Path) -> u64 {
    let status = std::fs::read(root.join("var/lib/dpkg/status")).unwrap_or_default();
    status.split(|byte| *byte == b'\n').filter(|line| *line == b"Status: install ok installed").count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::{BootId, HealthFacts};
    use crate::machine::CommittedBy;

    fn frame(seq: u64, second: i64, entry: Record) -> Frame {
        let time = jiff::Timestamp::from_second(1_800_000_000 + second).unwrap();
        Frame { v: 1, seq, time, boot: "b".into(), tool: "0".into(), entry }
    }

    #[test]
    fn an_outage_is_from_the_first_package_to_the_end() {
        let facts = HealthFacts { checked: 1, failed: vec![], noted: vec![], soaked: 5 };
        let frames = [
            frame(0, 0, Record::UpgradeStarted { boot: BootId::new("1") }),
            frame(1, 100, Record::RebootStarted { from: BootId::new("1") }),
            frame(2, 130, Record::TrialBooted { boot: BootId::new("2") }),
            frame(3, 150, Record::Committed { by: CommittedBy::Rule, facts }),
            frame(4, 999, Record::RollbackStarted { why: crate::machine::Why::Operator }),
        ];
        assert_eq!(measure(&frames), Some(Measured { seconds: 150, rebooting: 30 }));
        assert_eq!(measure(&frames[..3]), None, "it has not ended");
        assert_eq!(measure(&frames[1..]), None, "nothing was changed");
        let predicted = Predicted { seconds: 61, basis: Basis::LastRun, from: "from the last run".into() };
        assert_eq!(
            predicted.event().to_string(),
            r#"{"basis":"last-run","event":"predicted-outage","from":"from the last run","seconds":61}"#
        );
        assert_eq!(measure(&frames).unwrap().text(), "2 min 30 s, of which 30 s were spent rebooting");
    }
}
