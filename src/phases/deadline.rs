//! The deadline of a trial: an upgraded system that lives but never comes to a verdict goes back.
//!
//! A timer of systemd's, so that it runs whatever else of the boot does not. Its files are written into the upgraded root when
//! that goes on trial: the old system never has them, and no boot of it is ever ended by them.

use std::path::Path;

use super::ground::{UNIT_DIRECTORY, install_file};
use super::{Machine, Result, trouble};
use crate::places::{DEADLINE_TIMER, DEADLINE_UNIT};
use crate::system::durable;
use crate::system::exec::Exec;
use crate::system::span::Span;

const TIMER: &str = include_str!("../../packaging/safe-upgrade-deadline.timer");
const SERVICE: &str = include_str!("../../packaging/safe-upgrade-deadline.service");

/// What starts the timer: any way in which a boot can go.
const WANTED_BY: [&str; 3] = ["sysinit.target.wants", "emergency.target.wants", "rescue.target.wants"];

/// The unit files, by name.
pub(super) fn files(deadline: Span) -> [(&'static str, String); 2] {
    let timer = TIMER.replace("@SECONDS@", &deadline.duration().as_secs().to_string());
    [(DEADLINE_TIMER, timer), (DEADLINE_UNIT, SERVICE.to_owned())]
}

/// Puts every later boot of the running root under the deadline, until [`lift`]. Repeatable; durable when it returns.
pub(super) fn set(machine: &Machine) -> Result<()> {
    set_in(Path::new("/"), machine.config.health.deadline)
}

fn set_in(root: &Path, deadline: Span) -> Result<()> {
    let units = root.join(UNIT_DIRECTORY);
    for (name, text) in files(deadline) {
        install_file(&units, name, &text)?;
    }
    for wanted_by in WANTED_BY {
        let directory = units.join(wanted_by);
        std::fs::create_dir_all(&directory).map_err(trouble)?;
        let link = directory.join(DEADLINE_TIMER);
        match std::os::unix::fs::symlink(Path::new("/").join(UNIT_DIRECTORY).join(DEADLINE_TIMER), &link) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(trouble(error)),
            _ => durable::sync_directory(&directory).map_err(trouble)?,
        }
    }
    durable::sync_directory(&units).map_err(trouble)
}

/// There is a verdict: the timer of this boot stops; a later boot of the trial has one of its own. Repeatable.
pub(super) fn met() -> Result<()> {
    if !Path::new("/").join(UNIT_DIRECTORY).join(DEADLINE_TIMER).exists() {
        return Ok(());
    }
    Exec::new("systemctl").and_then(|exec| exec.args(["stop", DEADLINE_TIMER]).success()).map_err(trouble)?;
    Ok(())
}

/// No deadline any more: the new release stays, or this root is not on trial at all. Repeatable; durable when it returns.
///
/// # Errors
/// When the timer can't be stopped or its files can't be removed.
pub fn lift() -> Result<()> {
    met()?;
    lift_in(Path::new("/"))
}

fn lift_in(root: &Path) -> Result<()> {
    let units = root.join(UNIT_DIRECTORY);
    let links = WANTED_BY.map(|wanted_by| units.join(wanted_by).join(DEADLINE_TIMER));
    // The links first: without them nothing starts the timer.
    for path in links.into_iter().chain([units.join(DEADLINE_TIMER), units.join(DEADLINE_UNIT)]) {
        durable::remove_file(&path).map_err(trouble)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_set_lifted_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let units = root.path().join(UNIT_DIRECTORY);
        for _ in 0..2 {
            set_in(root.path(), Span::seconds(1234)).unwrap();
        }
        let timer = std::fs::read_to_string(units.join(DEADLINE_TIMER)).unwrap();
        assert!(timer.contains("\nOnBootSec=1234s\n"), "{timer}");
        for wanted_by in WANTED_BY {
            let link = std::fs::read_link(units.join(wanted_by).join(DEADLINE_TIMER)).unwrap();
            assert_eq!(link, Path::new("/etc/systemd/system").join(DEADLINE_TIMER));
        }
        for _ in 0..2 {
            lift_in(root.path()).unwrap();
        }
        let left: Vec<_> = std::fs::read_dir(&units)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().is_file())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
