//! GRUB's menu, as far as the exchange of roots concerns it.
//!
//! `update-grub` writes the name that the running root has at that moment into each entry. While a run is armed that is
//! the run's other name, and after the next exchange such an entry boots the wrong tree. So the menu is written again
//! after the last exchange before a reboot, and read back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::system::exec::{Exec, ExecError, find_tool};

/// Where Debian and Ubuntu have the menu.
pub const MENU: &str = "boot/grub/grub.cfg";

/// os-prober looks into every disk; ten minutes are generous for that.
const LIMIT: Duration = Duration::from_secs(600);

/// What there is of GRUB on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrubFacts {
    /// `update-grub` is installed.
    pub tool: bool,
    /// There is a menu.
    pub menu: bool,
}

/// What became of the menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MenuOutcome {
    /// It was written, and names no tree but the root's.
    Written,
    /// There is no GRUB here (a container), so there is no menu to write.
    NoGrub,
}

/// The menu could not be written, or would boot the wrong tree.
#[derive(Debug, thiserror::Error)]
pub enum GrubError {
    /// `update-grub` failed.
    #[error(transparent)]
    Update(#[from] ExecError),
    /// The menu could not be read back.
    #[error("failed to read {}", .path.display())]
    Read {
        /// The menu.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// An entry names the run's other root.
    #[error("line {line} of {} still names {name}, so that entry would boot the wrong root", .path.display())]
    WrongTree {
        /// The menu.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The name that it should not mention.
        name: String,
    },
}

/// Looks for GRUB on a root.
#[must_use]
pub fn facts(root: &Path) -> GrubFacts {
    GrubFacts { tool: find_tool("update-grub").is_ok(), menu: root.join(MENU).is_file() }
}

/// Writes the menu of the running system again and reads it back: no entry may name `unwanted`, the run's other root.
/// A machine without a menu gets none. Repeatable; to be called after [`super::NamedRoot::prepare_trial`].
///
/// # Errors
/// When `update-grub` fails, or an entry names the wrong tree.
pub fn regenerate_menu(unwanted: &str) -> Result<MenuOutcome, GrubError> {
    let root = Path::new("/");
    let found = facts(root);
    if !found.menu {
        return Ok(MenuOutcome::NoGrub);
    }
    Exec::new("update-grub")?.limit(LIMIT).success()?;
    let path = root.join(MENU);
    let menu = std::fs::read(&path).map_err(|source| GrubError::Read { path: path.clone(), source })?;
    match line_with(&menu, unwanted) {
        Some(line) => Err(GrubError::WrongTree { path, line, name: unwanted.to_owned() }),
        None => Ok(MenuOutcome::Written),
    }
}

/// The number (from 1) of the first line of a menu that mentions a subvolume.
#[must_use]
pub fn line_with(menu: &[u8], name: &str) -> Option<usize> {
    let mentions = |line: &[u8]| line.windows(name.len()).any(|part| part == name.as_bytes());
    menu.split(|byte| *byte == b'\n').position(mentions).map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MENU_TEXT: &[u8] = include_bytes!("../../tests/fixtures/snapshot/grub.cfg");

    #[test]
    fn a_menu_that_was_written_while_armed_is_told() {
        assert_eq!(line_with(MENU_TEXT, "@safe-upgrade-r1-root"), Some(9));
        assert_eq!(line_with(MENU_TEXT, "@safe-upgrade-r2-root"), None);
        assert_eq!(line_with(b"", "@x"), None);
    }
}
