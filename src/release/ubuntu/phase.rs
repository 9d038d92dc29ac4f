//! How far Ubuntu's upgrader is. It does not say so: the phases are read out of what it logs on the way.

/// The steps of one upgrade, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The new release's upgrader runs.
    Started,
    /// It said from which release to which.
    Planned,
    /// It fetches the package lists of the old release.
    OldLists,
    /// It looks for what it refuses to upgrade.
    BlockingChecks,
    /// It rewrites the apt sources.
    Sources,
    /// It fetches the package lists of the new release.
    NewLists,
    /// It looks for packages that are not Ubuntu's.
    Foreign,
    /// It has calculated what will change.
    Calculated,
    /// It has looked whether there is room.
    Space,
    /// It would now ask whether to go on, and answers yes.
    Confirmed,
    /// It downloads.
    Download,
    /// It goes through all of it once with a dpkg that does nothing.
    Simulation,
    /// It changes packages: from here on it puts nothing back.
    Install,
    /// Packages are changed; it tidies up.
    PostUpgrade,
    /// Its last scripts.
    Cleanup,
    /// It came to its end, where it would ask for a reboot.
    Finished,
}

/// With [`Phase::Install`] nothing can be put back any more by the upgrader itself.
pub const POINT_OF_NO_RETURN: Phase = Phase::Install;

impl Phase {
    /// Its number, from 1 to 16.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8 + 1
    }

    /// What happens in it, for a person.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Started => "the upgrader has started",
            Self::Planned => "planning",
            Self::OldLists => "package lists of the old release",
            Self::BlockingChecks => "looking for what stands in the way",
            Self::Sources => "rewriting the apt sources",
            Self::NewLists => "package lists of the new release",
            Self::Foreign => "looking for foreign packages",
            Self::Calculated => "calculating the changes",
            Self::Space => "looking for room",
            Self::Confirmed => "changes are settled",
            Self::Download => "download",
            Self::Simulation => "trying it without dpkg",
            Self::Install => "changing packages",
            Self::PostUpgrade => "tidying up",
            Self::Cleanup => "last scripts",
            Self::Finished => "finished",
        }
    }

    /// The part of the whole at which it begins and ends, in percent. Source: a real upgrade of 400 packages in 8.5 minutes, of which 6.3
    /// changed packages; what lies before depends on the network.
    #[must_use]
    pub fn span(self) -> (f32, f32) {
        match self {
            Self::Started => (0.0, 1.0),
            Self::Planned => (1.0, 2.0),
            Self::OldLists => (2.0, 3.0),
            Self::BlockingChecks => (3.0, 4.0),
            Self::Sources => (4.0, 5.0),
            Self::NewLists => (5.0, 8.0),
            Self::Foreign => (8.0, 9.0),
            Self::Calculated => (9.0, 10.0),
            Self::Space => (10.0, 11.0),
            Self::Confirmed => (11.0, 12.0),
            Self::Download => (12.0, 19.0),
            Self::Simulation => (19.0, 21.0),
            Self::Install => (21.0, 94.0),
            Self::PostUpgrade => (94.0, 97.0),
            Self::Cleanup => (97.0, 99.0),
            Self::Finished => (100.0, 100.0),
        }
    }

    /// Percent of the whole, with `within` percent of this phase done.
    #[must_use]
    pub fn percent(self, within: f32) -> f32 {
        let (from, to) = self.span();
        from + (to - from) * within.clamp(0.0, 100.0) / 100.0
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_phases_follow_each_other() {
        let all = [
            Phase::Started,
            Phase::Planned,
            Phase::OldLists,
            Phase::BlockingChecks,
            Phase::Sources,
            Phase::NewLists,
            Phase::Foreign,
            Phase::Calculated,
            Phase::Space,
            Phase::Confirmed,
            Phase::Download,
            Phase::Simulation,
            Phase::Install,
            Phase::PostUpgrade,
            Phase::Cleanup,
            Phase::Finished,
        ];
        assert_eq!(all.last().map(|phase| phase.number()), Some(16));
        for pair in all.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].span().1 <= pair[1].span().0, "{pair:?}");
        }
        assert_eq!(POINT_OF_NO_RETURN.number(), 13);
        assert_eq!(Phase::Install.percent(50.0), 57.5);
        assert_eq!(Phase::Download.percent(400.0), 19.0);
    }
}
