//! What a run calls its subvolumes on the top level. Names derive from the run id, so that after a crash the same run
//! finds what it made, and `prune` finds what belongs to which run.

/// The subvolume that holds the journal, outside of what a rollback takes back.
pub const STATE_VOLUME: &str = "@safe-upgrade";

const PREFIX: &str = "@safe-upgrade-";
const BEFORE: &str = "-before";
const ROOT: &str = "-root";

/// The names of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunNames {
    run: String,
}

/// What a subvolume of a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The sealed, read-only snapshot of the root before the upgrade.
    Before,
    /// The root that does not have the root's name: first the fallback, after a rollback the failed root.
    OtherRoot,
}

/// A text that cannot be a run id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a run id (1 to 64 letters, digits and hyphens)")]
pub struct BadRunId(String);

impl RunNames {
    /// For a run id such as `20261126T163000Z-4f2a`.
    ///
    /// # Errors
    /// [`BadRunId`] for what could not be part of a file name without surprises.
    pub fn new(run: &str) -> Result<Self, BadRunId> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if run.is_empty() || run.len() > 64 || run.starts_with('-') || !run.bytes().all(plain) {
            return Err(BadRunId(run.to_owned()));
        }
        Ok(Self { run: run.to_owned() })
    }

    /// The run id.
    #[must_use]
    pub fn run(&self) -> &str {
        &self.run
    }

    /// The read-only snapshot of the root before the upgrade.
    #[must_use]
    pub fn before(&self) -> String {
        format!("{PREFIX}{}{BEFORE}", self.run)
    }

    /// The root that does not have the root's name at the moment: the fallback clone, later the failed root.
    #[must_use]
    pub fn other_root(&self) -> String {
        format!("{PREFIX}{}{ROOT}", self.run)
    }
}

/// Which run a subvolume on the top level belongs to, and what it is for; `None` when it is not ours.
#[must_use]
pub fn parse(name: &str) -> Option<(RunNames, Role)> {
    let rest = name.strip_prefix(PREFIX)?;
    let (run, role) = rest
        .strip_suffix(BEFORE)
        .map(|run| (run, Role::Before))
        .or_else(|| Some((rest.strip_suffix(ROOT)?, Role::OtherRoot)))?;
    Some((RunNames::new(run).ok()?, role))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again() {
        let names = RunNames::new("20261126T163000Z-4f2a").unwrap();
        assert_eq!(names.before(), "@safe-upgrade-20261126T163000Z-4f2a-before");
        assert_eq!(parse(&names.before()), Some((names.clone(), Role::Before)));
        assert_eq!(parse(&names.other_root()), Some((names, Role::OtherRoot)));
    }

    #[test]
    fn foreign_names_are_not_ours() {
        for name in [
            "@",
            "@home",
            STATE_VOLUME,
            "@safe-upgrade-",
            "@safe-upgrade--before",
            "@safe-upgrade-x",
            "x-root",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_run_id_cannot_leave_the_top_level() {
        for run in ["", "../x", "a/b", "-a", "a b", "a\0"] {
            assert!(RunNames::new(run).is_err(), "{run:?}");
        }
        assert!(RunNames::new(&"a".repeat(65)).is_err());
    }
}
