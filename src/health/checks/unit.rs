//! A systemd unit that is active.

use std::time::Duration;

use super::{CheckState, Seen};
use crate::error;
use crate::system::exec::Exec;

/// Asks systemd once.
pub(super) fn try_once(unit: &str, limit: Duration) -> Seen {
    let answer = Exec::new("systemctl").and_then(|exec| {
        exec.args(["show", "--property=LoadState,ActiveState,SubState,Result", "--", unit])
            .limit(limit)
            .text()
    });
    match answer {
        Ok(text) => judge(&text),
        Err(error) => Seen::new(CheckState::Unknown, error::chain(&error)),
    }
}

fn judge(text: &str) -> Seen {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let (Some(load), Some(active), Some(sub)) = (value("LoadState"), value("ActiveState"), value("SubState"))
    else {
        return Seen::new(CheckState::Unknown, "systemd's answer was not understood");
    };
    if load != "loaded" {
        return Seen::new(CheckState::Critical, format!("the unit is {load}"));
    }
    let result = value("Result").filter(|result| !result.is_empty() && *result != "success");
    let detail = match result {
        Some(result) => format!("{active} ({sub}): {result}"),
        None => format!("{active} ({sub})"),
    };
    let state = if matches!(active, "active" | "reloading" | "refreshing") {
        CheckState::Ok
    } else {
        CheckState::Critical
    };
    Seen::new(state, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_active_unit_is_ok() {
        let seen = judge("Result=success\nLoadState=loaded\nActiveState=active\nSubState=running\n");
        assert_eq!((seen.state, seen.detail.as_str()), (CheckState::Ok, "active (running)"));
        let seen = judge("Result=exit-code\nLoadState=loaded\nActiveState=failed\nSubState=failed\n");
        assert_eq!((seen.state, seen.detail.as_str()), (CheckState::Critical, "failed (failed): exit-code"));
        let seen = judge("LoadState=not-found\nActiveState=inactive\nSubState=dead\n");
        assert_eq!((seen.state, seen.detail.as_str()), (CheckState::Critical, "the unit is not-found"));
        assert_eq!(judge("").state, CheckState::Unknown);
    }
}
