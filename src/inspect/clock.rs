//! The clock: with a wrong one certificates and signatures of packages are not valid, and a clock that jumps spoils every limit.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::reading::{self, InspectError};
use crate::finding::Finding;
use crate::system::exec::{Exec, ExecError};

/// Nobody runs this program before it was written, in seconds since 1970: 2026-01-01.
const BEFORE_US: i64 = 1_767_225_600;
/// A date after this is a mistake: 2050-01-01.
const FAR_AHEAD: i64 = 2_524_608_000;
/// A file of dpkg's that is newer than now by so many seconds: the clock went back.
const TOLERATED: i64 = 300;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Seconds since 1970.
    now: i64,
    /// When dpkg's list of packages was written.
    packages_written: Option<i64>,
    /// Whether a service that keeps time is on, and whether it does; `None` when nobody says.
    kept: Option<(bool, bool)>,
}

pub(super) fn facts(root: &Path) -> Result<Facts, InspectError> {
    use std::os::unix::fs::MetadataExt;
    let status = std::fs::metadata(reading::at(root, "var/lib/dpkg/status"));
    let kept = if root == Path::new("/") { ask()? } else { None };
    Ok(Facts {
        now: Timestamp::now().as_second(),
        packages_written: status.ok().map(|facts| facts.mtime()),
        kept,
    })
}

/// timedatectl knows every service that tells the kernel. Where there is none, or no bus, nobody says.
fn ask() -> Result<Option<(bool, bool)>, InspectError> {
    let asked = Exec::new("timedatectl").map(|exec| {
        exec.args(["show", "--property=NTP", "--property=NTPSynchronized"])
            .limit(Duration::from_secs(10))
            .output()
    });
    match asked {
        Err(ExecError::Missing { .. }) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(Err(ExecError::TimedOut { .. })) => Ok(None),
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(output)) => Ok(understand(&String::from_utf8_lossy(&output.stdout))),
    }
}

fn understand(text: &str) -> Option<(bool, bool)> {
    let value =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value == "yes");
    Some((value("NTP=")?, value("NTPSynchronized=")?))
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut wrong = Vec::new();
    let day = |seconds: i64| {
        Timestamp::from_second(seconds).map_or_else(|_| format!("second {seconds}"), |time| time.to_string())
    };
    if !(BEFORE_US..FAR_AHEAD).contains(&facts.now) {
        wrong.push(format!("the clock says {}", day(facts.now)));
    }
    if let Some(written) = facts.packages_written.filter(|written| *written > facts.now + TOLERATED) {
        wrong.push(format!(
            "/var/lib/dpkg/status was written at {}, the clock says {}",
            day(written),
            day(facts.now)
        ));
    }
    if !wrong.is_empty() {
        let what = "the clock is wrong: apt takes no package lists whose time lies ahead or has passed, and certificates are not valid.";
        let remedy = "set it (`timedatectl set-ntp true`), then check again";
        return vec![Finding::inhibitor("clock-wrong", what, remedy).with_evidence(wrong)];
    }
    match facts.kept {
        Some((true, false)) => vec![
            Finding::warning(
                "clock-not-synchronised",
                "a service is to keep the clock right and has not reached its time servers: it may jump later.",
                "systemctl status systemd-timesyncd; look whether NTP passes the firewall",
            )
            .with_evidence(["timedatectl: NTP=yes NTPSynchronized=no"]),
        ],
        Some((false, false)) => vec![
            Finding::note("clock-not-kept", "nobody keeps the clock right.", "apt-get install systemd-timesyncd")
                .with_evidence(["timedatectl: NTP=no NTPSynchronized=no"]),
        ],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::reading::made_up::ids;
    use super::*;

    const NOW: i64 = 1_795_000_000;

    #[test]
    fn clocks() {
        let of = |now, packages_written, kept| ids(&findings(&Facts { now, packages_written, kept }));
        assert!(of(NOW, Some(NOW - 9), Some((true, true))).is_empty());
        assert!(of(NOW, Some(NOW + 60), None).is_empty());
        // An NTP service that timedatectl does not count, such as a host's.
        assert!(of(NOW, None, Some((false, true))).is_empty());
        assert_eq!(of(0, None, None), ["inhibitor clock-wrong"]);
        assert_eq!(of(FAR_AHEAD, None, None), ["inhibitor clock-wrong"]);
        assert_eq!(of(NOW, Some(NOW + 86_400), Some((true, true))), ["inhibitor clock-wrong"]);
        assert_eq!(of(NOW, None, Some((true, false))), ["warning clock-not-synchronised"]);
        assert_eq!(of(NOW, None, Some((false, false))), ["note clock-not-kept"]);
    }

    #[test]
    fn what_timedatectl_says() {
        assert_eq!(understand("NTP=yes\nNTPSynchronized=no\n"), Some((true, false)));
        assert_eq!(understand("Failed to connect to bus"), None);
    }

    #[test]
    fn this_machine_can_be_asked() {
        let facts = facts(Path::new("/")).unwrap();
        assert!(facts.now > BEFORE_US && facts.packages_written.is_some(), "{facts:?}");
    }
}
