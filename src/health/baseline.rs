//! What the machine does: captured before the upgrade, and again after it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::packages::{self, Packages};
use super::routes::{self, DefaultRoute};
use super::sockets::{self, Listener, UnixListener};
use super::units::{self, Unit};
use super::{HealthError, known};
use crate::system::mounts;

/// The newest format of a stored baseline. A field that is added with a default does not change it.
pub const VERSION: u32 = 1;

/// A mounted filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountFact {
    /// Where.
    pub point: String,
    /// `ext4`, `btrfs`, ...
    pub fs_type: String,
    /// The device or name.
    pub source: String,
    /// Whether a unit file or fstab defines it, so that a boot mounts it again.
    #[serde(default)]
    pub configured: bool,
    /// Whether it is mounted read-only.
    #[serde(default)]
    pub read_only: bool,
}

/// What a machine does at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// The format: [`VERSION`].
    pub version: u32,
    /// The answer of `systemctl is-system-running`.
    pub system_state: String,
    /// Loaded units, by name, without devices, slices and the like.
    pub units: Vec<Unit>,
    /// Unit files and their states (`enabled`, `disabled`, `masked`, ...).
    pub unit_files: BTreeMap<String, String>,
    /// Listening TCP and UDP sockets.
    pub listeners: Vec<Listener>,
    /// Listening UNIX sockets with a path.
    #[serde(default)]
    pub unix_listeners: Vec<UnixListener>,
    /// The ports that the kernel hands out by itself, first and last.
    pub ephemeral_ports: (u16, u16),
    /// Mounted filesystems without those that come and go.
    pub mounts: Vec<MountFact>,
    /// Default routes.
    pub default_routes: Vec<DefaultRoute>,
    /// Packages.
    pub packages: Packages,
    /// Enabled or active units and the package that brought each; a unit without an entry came from elsewhere.
    pub unit_packages: BTreeMap<String, String>,
}

impl Baseline {
    /// Names of the units that failed.
    pub fn failed(&self) -> impl Iterator<Item = &str> {
        self.units.iter().filter(|unit| unit.is_failed()).map(|unit| unit.name.as_str())
    }

    /// How many things a comparison with it looks at; 0 means that a comparison proves nothing.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.units.iter().filter(|unit| unit.is_active() && !known::comes_and_goes(unit)).count()
            + self.listeners.len()
            + self.mounts.len()
            + self.default_routes.len()
    }

    /// Active services that no boot starts again: nothing enables, wants or triggers them. They will be missing after the
    /// reboot, whatever the upgrade does; preflight should say so before it becomes a reason to roll back.
    #[must_use]
    pub fn started_by_hand(&self) -> Vec<&str> {
        self.units
            .iter()
            .filter(|unit| unit.is_active() && unit.name.ends_with(".service"))
            .filter(|unit| unit.enablement.as_deref() == Some("disabled") && !unit.pulled_in)
            .filter(|unit| unit.service_type.as_deref() != Some("dbus") && !known::comes_and_goes(unit))
            .map(|unit| unit.name.as_str())
            .collect()
    }

    /// Mounts that no boot makes again, as [`Baseline::started_by_hand`] for mounts. ZFS mounts its datasets without units,
    /// and the root is mounted by the boot itself.
    #[must_use]
    pub fn mounted_by_hand(&self) -> Vec<&str> {
        self.mounts
            .iter()
            .filter(|mount| !mount.configured && mount.fs_type != "zfs" && mount.point != "/")
            .map(|mount| mount.point.as_str())
            .collect()
    }

    /// The stored form.
    ///
    /// # Errors
    /// Never for a baseline that was captured; serde's signature allows it.
    pub fn encode(&self) -> Result<Vec<u8>, HealthError> {
        serde_json::to_vec_pretty(self).map_err(|source| HealthError::Json { what: "a baseline", source })
    }

    /// Reads the stored form. Unknown fields are ignored.
    ///
    /// # Errors
    /// When it is damaged, or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, HealthError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let wrong = |source| HealthError::Json { what: "a stored baseline", source };
        let head: Head = serde_json::from_slice(bytes).map_err(wrong)?;
        if head.version > VERSION {
            return Err(HealthError::Newer { found: head.version, known: VERSION });
        }
        serde_json::from_slice(bytes).map_err(wrong)
    }
}

/// Looks at the machine: units, sockets, mounts, routes, packages. Changes nothing; needs root for the owners of sockets.
///
/// `/proc` and dpkg's database are read below `root` (`/` but for tests); systemd is always the running one.
///
/// # Errors
/// When any part cannot be read: a part that is missing would look like health.
pub fn capture(root: &Path) -> Result<Baseline, HealthError> {
    let proc = root.join("proc");
    let found = units::read()?;
    let sockets = sockets::read(&proc)?;
    let packages = packages::read(root)?;
    let enabled = found.files.iter().filter(|(_, state)| is_enabled(state)).map(|(name, _)| name.clone());
    let active = found.units.iter().filter(|unit| unit.is_active()).map(|unit| unit.name.clone());
    let owned: BTreeSet<String> = enabled.chain(active).collect();
    Ok(Baseline {
        version: VERSION,
        system_state: units::read_system_state()?,
        units: found.units.into_iter().filter(|unit| known::is_kept(&unit.name)).collect(),
        unit_files: found.files,
        listeners: sockets.listeners,
        unix_listeners: sockets.unix.into_iter().filter(|one| known::is_kept_socket(&one.path)).collect(),
        ephemeral_ports: sockets::read_ephemeral_ports(&proc)?,
        mounts: read_mounts(&proc, &found.configured_mounts)?,
        default_routes: routes::read(&proc)?,
        unit_packages: packages::read_unit_owners(root, &owned)?,
        packages,
    })
}

/// Whether a unit file of this state is started at boot by being enabled.
#[must_use]
pub fn is_enabled(state: &str) -> bool {
    matches!(state, "enabled" | "enabled-runtime")
}

fn read_mounts(proc: &Path, configured: &[String]) -> Result<Vec<MountFact>, HealthError> {
    let path = proc.join("self/mountinfo");
    let bytes = std::fs::read(&path).map_err(|source| HealthError::Read { path, source })?;
    Ok(select_mounts(&mounts::parse(&bytes)?, configured))
}

/// The mounts that should still be there after a reboot; of several on one point the last, which covers the others.
#[must_use]
pub fn select_mounts(mounts: &[mounts::Mount], configured: &[String]) -> Vec<MountFact> {
    let mut kept = BTreeMap::new();
    for mount in mounts {
        let point = mount.point.to_string_lossy().into_owned();
        if known::is_kept_mount(&point, &mount.fs_type) {
            let fact = MountFact {
                configured: configured.contains(&point),
                read_only: mount.read_only(),
                fs_type: mount.fs_type.clone(),
                source: mount.source.to_string_lossy().into_owned(),
                point: point.clone(),
            };
            kept.insert(point, fact);
        }
    }
    kept.into_values().collect()
}
