//! A run in plain sentences: what a state means, what happens next, how to go back. Pure.

use crate::evidence::{CommitRule, Plan};
use crate::machine::{State, Undo};
use crate::phases::divergence::MountDivergence;
use crate::system::show;

/// What a person wants to know about a state.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Story {
    /// What it means.
    pub now: String,
    /// What happens next, and who does it.
    pub next: String,
    /// How to go back.
    pub back: String,
}

const BY_ITSELF_NOTHING_CHANGED: &str = "nothing is changed yet: `systemctl stop safe-upgrade-resume` interrupts it, then `safe-upgrade rollback` calls it off";
const ROLLBACK_NOW: &str = "`systemctl stop safe-upgrade-resume`, then `safe-upgrade rollback` brings the old system back (with a reboot)";
const ROLLBACK: &str = "`safe-upgrade rollback` brings the old system back (with a reboot)";

/// Tells a state.
#[must_use]
pub fn tell(state: &State) -> Story {
    let (now, next, back) = match state {
        State::New => (
            "this machine has never seen a run".to_owned(),
            "nothing, until somebody types `safe-upgrade run`",
            "there is nothing to go back from",
        ),
        State::Planned { .. } => {
            preparing("the machine is looked at: findings, baseline, download", "the backup")
        }
        State::Checked { .. } => preparing("the backup is made and really restored", "the rehearsal"),
        State::BackupVerified { .. } => {
            preparing("the backup is proven restorable", "the rehearsal, or a reason to leave it out")
        }
        State::Rehearsed { .. } => {
            preparing("the rehearsal is passed", "draining the load balancer, or a reason to leave it out")
        }
        State::Drained { .. } => {
            preparing("the machine gets no more traffic from a load balancer", "the snapshot")
        }
        State::Snapshotted { .. } => preparing("the snapshot is sealed", "arming the fallback"),
        State::Armed { .. } => {
            preparing("the next boot is the old system, whatever happens", "the gate, then the upgrade")
        }
        State::Refusing { left, .. } => (
            match left {
                Undo::Nothing => "the run is refused".to_owned(),
                left => format!("the run is refused; still to take back: {}", undo_words(*left)),
            },
            "everything that was prepared is taken back, then the run ends as refused",
            "nothing was changed",
        ),
        State::Refused { .. } => {
            ("the run was refused and changed nothing".to_owned(), "nothing", "nothing was changed")
        }
        _ => return tell_changed(state),
    };
    Story { now, next: next.to_owned(), back: back.to_owned() }
}

fn preparing(now: &str, next: &'static str) -> (String, &'static str, &'static str) {
    (now.to_owned(), next, BY_ITSELF_NOTHING_CHANGED)
}

fn undo_words(left: Undo) -> &'static str {
    match left {
        Undo::Disarm => "the fallback, the snapshot, the drain",
        Undo::ReleaseSnapshots => "the snapshot, the drain",
        Undo::Undrain => "the drain",
        Undo::Nothing => "nothing",
    }
}

/// Once the system is being changed.
fn tell_changed(state: &State) -> Story {
    const LANDS_ON_OLD: &str = "any reboot now lands on the old system and rolls back by itself";
    let (now, next, back): (&str, &str, &str) = match state {
        State::Upgrading { .. } => (
            "packages are being upgraded",
            "the upgrade is judged, then a reboot into the trial",
            LANDS_ON_OLD,
        ),
        State::Upgraded { .. } => {
            ("the upgrade is complete", "the upgraded root becomes the next boot", LANDS_ON_OLD)
        }
        State::Rebooting { .. } => {
            ("the machine reboots into the trial", "the trial is recognised and its health checked", ROLLBACK)
        }
        State::Trial { health: None, .. } => (
            "the upgraded system runs on trial; its health is being checked",
            "healthy: commit; not healthy: rollback, by itself",
            ROLLBACK_NOW,
        ),
        State::Trial { plan: Plan { commit: CommitRule::Manual, .. }, .. } => (
            "the trial is healthy and waits for an operator",
            "nothing, until `safe-upgrade commit` or `safe-upgrade rollback`; after `trial_boots` boots of a waiting trial it goes back",
            ROLLBACK,
        ),
        State::Trial { plan: Plan { commit: CommitRule::Confirm, .. }, .. } => (
            "the trial is healthy and waits for somebody outside to confirm it",
            "`safe-upgrade commit` in time: the new release stays; no word in time: the old system comes back by itself",
            ROLLBACK_NOW,
        ),
        State::Trial { .. } => ("the trial is healthy", "commit", ROLLBACK),
        State::Committed { snapshot: Some(_), .. } => (
            "the new release stays",
            "nothing; `safe-upgrade prune` deletes the snapshot when the retention is over",
            ROLLBACK,
        ),
        State::Committed { .. } => {
            ("the new release stays", "nothing", "the snapshot is deleted: only the backup leads back")
        }
        State::RollingBack { .. } => {
            ("the old system is being brought back", "a reboot into it", "this is the way back")
        }
        State::RollbackRebooting { .. } => (
            "the machine reboots into the old system",
            "a second proof that the old system runs and will run again",
            "this is the way back",
        ),
        State::RolledBack { .. } => (
            "the old system is back, proven after the reboot",
            "nothing; `safe-upgrade report` tells what went wrong, and the failed root is kept for a look until `safe-upgrade prune`",
            "there is nothing to go back from",
        ),
        State::Stuck { snapshot: None, .. } => (
            "a human is needed",
            "nothing by itself; read why, mend it, then `safe-upgrade run --leave-stuck`",
            "the run had changed nothing that a snapshot could bring back",
        ),
        _ => (
            "a human is needed",
            "nothing by itself; until then grub-install and update-grub may be held off. Read why, mend it, then `safe-upgrade rollback`, or `safe-upgrade run --leave-stuck`",
            ROLLBACK,
        ),
    };
    Story { now: now.to_owned(), next: next.to_owned(), back: back.to_owned() }
}

/// The rule by which a claim about the backup counts again after a restart.
#[must_use]
pub fn reattest_rule(plan: &Plan) -> String {
    format!(
        "after a restart the backup's proof counts again when it is at most {} old, the store holds the same manifests, and {} \
         entries that are read again are equal; otherwise everything is restored and compared again",
        duration(plan.reattest.max_age_seconds),
        plan.reattest.sample
    )
}

/// Seconds as a person says them: `45 s`, `12 min`, `3 h`, `2 d`.
#[must_use]
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Bytes as a person says them, in powers of 1024.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut unit = 0;
    let mut size = count / 1024;
    let mut rest = count % 1024;
    while size >= 1024 && unit + 1 < UNITS.len() {
        rest = size % 1024;
        size /= 1024;
        unit += 1;
    }
    format!("{size}.{} {}", rest * 10 / 1024, UNITS[unit])
}

/// A number as a person reads it: `12,345`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// What was written since the snapshot, in lines: one sentence for each mount, then the largest files.
#[must_use]
pub fn divergence(mounts: &[MountDivergence]) -> Vec<String> {
    let mut lines = Vec::new();
    for MountDivergence { mount, since_snapshot: found } in mounts {
        let written = found.added.files + found.changed.files;
        let size = found.added.bytes.saturating_add(found.changed.bytes);
        lines.push(format!(
            "{}: {} files ({}) were added or changed and {} deleted since the snapshot.",
            show::line(mount),
            count(written),
            bytes(size),
            count(found.removed.files)
        ));
        // These are escaped already.
        let place = show::line(mount.trim_end_matches('/'));
        lines.extend(
            found.largest.iter().map(|file| format!("  {:>10}  {place}/{}", bytes(file.bytes), file.path)),
        );
    }
    lines
}

/// How long ago a moment was.
pub(super) fn ago(time: jiff::Timestamp) -> String {
    let seconds = jiff::Timestamp::now().duration_since(time).as_secs();
    u64::try_from(seconds)
        .map_or_else(|_| "in the future".into(), |seconds| format!("{} ago", duration(seconds)))
}

/// Until when a trial waits for its confirmation: the moment, and how long that is.
pub(super) fn until(time: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let shown = time.strftime("%Y-%m-%d %H:%M:%S UTC");
    match u64::try_from(time.duration_since(now).as_secs()) {
        Ok(left) => format!("until {shown} ({} left) for `safe-upgrade commit`", duration(left)),
        Err(_) => format!("until {shown} for `safe-upgrade commit`: that is over"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 * 1024 * 1024 * 1024), "5.0 GiB");
        assert_eq!(
            (duration(45), duration(600), duration(86_400)),
            ("45 s".into(), "10 min".into(), "24 h".into())
        );
    }

    #[test]
    fn what_was_written_is_told() {
        use crate::snapshot::divergence::{Amount, Divergence, Written};
        let since_snapshot = Divergence {
            added: Amount { files: 12_000, bytes: 1 << 30 },
            changed: Amount { files: 345, bytes: 1 << 28 },
            removed: Amount { files: 17, bytes: 5 },
            largest: vec![Written { bytes: 1 << 20, path: "var/lib/x".into() }],
        };
        let esp = MountDivergence { mount: "/boot/efi".into(), since_snapshot: since_snapshot.clone() };
        let told = divergence(&[MountDivergence { mount: "/".into(), since_snapshot }, esp]);
        let (lines, of_esp) = told.split_at(2);
        assert_eq!(of_esp[1], "     1.0 MiB  /boot/efi/var/lib/x");
        assert_eq!(
            lines,
            [
                "/: 12,345 files (1.2 GiB) were added or changed and 17 deleted since the snapshot.",
                "     1.0 MiB  /var/lib/x"
            ]
        );
        assert_eq!((count(0), count(999), count(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
    }

    #[test]
    fn a_waiting_trial_says_until_when() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        let time = at("2026-11-26T12:10:00Z");
        let before = until(time, at("2026-11-26T12:00:00Z"));
        assert_eq!(before, "until 2026-11-26 12:10:00 UTC (10 min left) for `safe-upgrade commit`");
        assert!(until(time, at("2026-11-26T12:11:00Z")).ends_with("that is over"));
    }

    #[test]
    fn the_first_state_has_a_story() {
        assert!(tell(&State::New).next.contains("safe-upgrade run"));
    }
}
