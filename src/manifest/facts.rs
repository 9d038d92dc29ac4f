//! What a way of copying can carry, and an entry of a copy together with what could be learned about it.

use super::entry::Entry;

/// A set of facts about an entry that a source can tell. What it cannot tell is *lost by format*, not different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts(u32);

impl Facts {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// The twelve permission bits.
    pub const MODE: Self = Self(1);
    /// User and group of any file, and set-id bits of files that are somebody else's.
    pub const OWNER: Self = Self(1 << 1);
    /// The modification time in whole seconds.
    pub const MTIME: Self = Self(1 << 2);
    /// Its nanoseconds.
    pub const MTIME_NANOS: Self = Self(1 << 3);
    /// Extended attributes, capabilities and labels among them, POSIX ACLs not.
    pub const XATTRS: Self = Self(1 << 4);
    /// POSIX ACLs.
    pub const ACL: Self = Self(1 << 5);
    /// The flags of `chattr`.
    pub const FLAGS: Self = Self(1 << 6);
    /// Where a sparse file has holes.
    pub const HOLES: Self = Self(1 << 7);
    /// Which names are one inode.
    pub const HARD_LINKS: Self = Self(1 << 8);
    /// Symbolic links.
    pub const SYMLINKS: Self = Self(1 << 9);
    /// Devices.
    pub const DEVICES: Self = Self(1 << 10);
    /// Named pipes.
    pub const FIFOS: Self = Self(1 << 11);
    /// Sockets.
    pub const SOCKETS: Self = Self(1 << 12);
    /// Directories, also empty ones.
    pub const DIRECTORIES: Self = Self(1 << 13);
    /// The content of files.
    pub const CONTENT: Self = Self(1 << 14);
    /// Attributes of the `trusted` namespace, which only a privileged process sees.
    pub const TRUSTED_XATTRS: Self = Self(1 << 15);
    /// Everything.
    pub const ALL: Self = Self((1 << 16) - 1);

    /// The names, in the order of the bits.
    const NAMES: [(Self, &'static str); 16] = [
        (Self::MODE, "mode"),
        (Self::OWNER, "owner"),
        (Self::MTIME, "mtime"),
        (Self::MTIME_NANOS, "mtime-nanoseconds"),
        (Self::XATTRS, "xattrs"),
        (Self::ACL, "acl"),
        (Self::FLAGS, "flags"),
        (Self::HOLES, "holes"),
        (Self::HARD_LINKS, "hard-links"),
        (Self::SYMLINKS, "symlinks"),
        (Self::DEVICES, "devices"),
        (Self::FIFOS, "fifos"),
        (Self::SOCKETS, "sockets"),
        (Self::DIRECTORIES, "directories"),
        (Self::CONTENT, "content"),
        (Self::TRUSTED_XATTRS, "trusted-xattrs"),
    ];

    /// Both.
    #[must_use]
    pub const fn with(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// This without those.
    #[must_use]
    pub const fn without(self, less: Self) -> Self {
        Self(self.0 & !less.0)
    }

    /// What both have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of those are here.
    #[must_use]
    pub const fn has(self, those: Self) -> bool {
        self.0 & those.0 == those.0
    }

    /// As a number, for storing.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// From a number; unknown bits are dropped.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// The stable names of those that are here, as in `--accept-lost` and JSON.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(fact, _)| self.has(*fact)).map(|(_, name)| name)
    }

    /// The fact with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(_, known)| *known == name).map(|(fact, _)| fact)
    }

    /// What a process with these rights can restore to a directory: only root can give files away and make devices.
    #[must_use]
    pub fn restored_by(root: bool) -> Self {
        if root {
            Self::ALL
        } else {
            Self::ALL.without(Self::OWNER.with(Self::DEVICES).with(Self::TRUSTED_XATTRS))
        }
    }
}

/// One entry of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// As far as it could be learned; fields that are not carried hold nothing.
    pub entry: Entry,
    /// What the source could say about this entry.
    pub carries: Facts,
}

impl Found {
    /// An entry about which everything is known.
    #[must_use]
    pub fn whole(entry: Entry) -> Self {
        Self { entry, carries: Facts::ALL }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_has_one_bit_and_one_name() {
        let all = Facts::NAMES.iter().fold(Facts::NONE, |all, (fact, name)| {
            assert_eq!(Facts::named(name), Some(*fact));
            assert_eq!(all.and(*fact), Facts::NONE, "{name}");
            all.with(*fact)
        });
        assert_eq!(all, Facts::ALL);
        assert_eq!(Facts::ALL.without(Facts::ACL).names().count(), 15);
        assert_eq!(Facts::named("colour"), None);
        assert_eq!(Facts::from_bits(u32::MAX), Facts::ALL);
    }
}
