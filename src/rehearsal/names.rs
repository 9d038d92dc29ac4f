//! What a rehearsal calls what it makes. All names derive from its id, so that whoever comes after a crash finds it, and
//! nothing else.

use std::path::{Path, PathBuf};

const VOLUME: &str = "@safe-upgrade-rehearsal-";
const UNIT: &str = "safe-upgrade-rehearsal-";
const NETWORK: &str = "safe-upgrade-rehearsal-";
const RESTORED: &str = "safe-upgrade-rehearsal-";

/// Where the clone is mounted while it lives.
pub const MOUNTS: &str = "/run/safe-upgrade";

/// Where iproute2 keeps names of network namespaces.
pub const NETWORKS: &str = "/run/netns";

/// The length of `20261127T034800Z-4f2a`.
const ID: usize = 21;

/// The names of one rehearsal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Names {
    id: String,
}

impl Names {
    /// For an id such as `20261127T034800Z-4f2a`; `None` for any other text.
    #[must_use]
    pub fn new(id: &str) -> Option<Self> {
        let fits = |(index, byte): (usize, u8)| match index {
            8 => byte == b'T',
            15 => byte == b'Z',
            16 => byte == b'-',
            17..ID => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            _ => byte.is_ascii_digit(),
        };
        (id.len() == ID && id.bytes().enumerate().all(fits)).then(|| Self { id: id.to_owned() })
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The clone of the root.
    #[must_use]
    pub fn root(&self) -> String {
        format!("{VOLUME}{}", self.id)
    }

    /// The clone of another subvolume of the same filesystem.
    #[must_use]
    pub fn volume(&self, number: usize) -> String {
        format!("{VOLUME}{}-{number}", self.id)
    }

    /// The unit in which the clone runs.
    #[must_use]
    pub fn unit(&self) -> String {
        format!("{UNIT}{}.service", self.id)
    }

    /// The network namespace of the clone.
    #[must_use]
    pub fn network(&self) -> String {
        format!("{NETWORK}{}-clone", self.id)
    }

    /// The network namespace at the other end of its cable, where functional tests run.
    #[must_use]
    pub fn test_network(&self) -> String {
        format!("{NETWORK}{}-test", self.id)
    }

    /// The directory that the backup is restored into, where there are no snapshots.
    #[must_use]
    pub fn restored(&self) -> String {
        format!("{RESTORED}{}", self.id)
    }

    /// Below this everything is mounted.
    #[must_use]
    pub fn mounts(&self) -> PathBuf {
        Path::new(MOUNTS).join(format!("rehearsal-{}", self.id))
    }
}

/// The rehearsal that a subvolume on the top level belongs to.
#[must_use]
pub fn of_volume(name: &str) -> Option<Names> {
    let (id, rest) = name.strip_prefix(VOLUME)?.split_at_checked(ID)?;
    let number = |rest: &str| rest.strip_prefix('-').is_some_and(|number| number.parse::<u16>().is_ok());
    Names::new(id).filter(|_| rest.is_empty() || number(rest))
}

/// The rehearsal that a unit belongs to.
#[must_use]
pub fn of_unit(name: &str) -> Option<Names> {
    Names::new(name.strip_prefix(UNIT)?.strip_suffix(".service")?)
}

/// The rehearsal that a network namespace belongs to.
#[must_use]
pub fn of_network(name: &str) -> Option<Names> {
    let rest = name.strip_prefix(NETWORK)?;
    Names::new(rest.strip_suffix("-clone").or_else(|| rest.strip_suffix("-test"))?)
}

/// The rehearsal that a directory in [`MOUNTS`] belongs to.
#[must_use]
pub fn of_mounts(name: &str) -> Option<Names> {
    Names::new(name.strip_prefix("rehearsal-")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_rehearsal() {
        let names = Names::new("20261127T034800Z-4f2a").unwrap();
        let all = [
            of_volume(&names.root()),
            of_volume(&names.volume(12)),
            of_unit(&names.unit()),
            of_network(&names.network()),
            of_network(&names.test_network()),
            of_mounts(&names.mounts().file_name().unwrap().to_string_lossy()),
        ];
        assert!(all.iter().all(|found| found.as_ref() == Some(&names)), "{all:?}");
    }

    #[test]
    fn what_is_not_ours_is_nobodys() {
        for name in
            ["@", "@safe-upgrade", "@safe-upgrade-rehearsal-x", "@safe-upgrade-20261127T034800Z-4f2a-root"]
        {
            assert_eq!(of_volume(name), None, "{name}");
        }
        for name in [
            "@safe-upgrade-rehearsal-20261127T034800Z-4f2a-",
            "@safe-upgrade-rehearsal-20261127T034800Z-4f2a-x",
        ] {
            assert_eq!(of_volume(name), None, "{name}");
        }
        assert_eq!(of_unit("safe-upgrade-resume.service"), None);
        assert_eq!(of_network("safe-upgrade-rehearsal-20261127T034800Z-4f2a"), None);
        // Nothing of a run is mistaken for something of a rehearsal, and the other way round.
        let names = Names::new("20261127T034800Z-4f2a").unwrap();
        assert_eq!(crate::snapshot::names::parse(&names.root()), None);
    }
}
