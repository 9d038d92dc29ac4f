//! What proofs are about: the run, its plan, and the names of things that two proofs must agree on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::backup::ReattestRule;
use super::fallback::Promise;
use super::preflight::Waiver;
use super::rehearsal::RehearsalRule;

/// A text that is not a name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {kind}")]
pub struct NameError {
    kind: &'static str,
    text: String,
}

/// One run: the time at which it was planned and four hexadecimal digits, such as `20261126T163000Z-4f2a`.
///
/// Names of snapshots derive from it, so its form is checked wherever one is read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

impl RunId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RunId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let pattern = |index: usize, byte: u8| match index {
            8 => byte == b'T',
            15 => byte == b'Z',
            16 => byte == b'-',
            17..=20 => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            _ => byte.is_ascii_digit(),
        };
        if text.len() == 21 && text.bytes().enumerate().all(|(index, byte)| pattern(index, byte)) {
            return Ok(Self(text.to_owned()));
        }
        Err(NameError { kind: "the id of a run, such as 20261126T163000Z-4f2a", text: text.to_owned() })
    }
}

/// A lower-case hexadecimal number of 32 bytes: the id of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ManifestId(String);

impl FromStr for ManifestId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(text.to_owned()));
        }
        Err(NameError { kind: "the id of a manifest (64 hexadecimal digits)", text: text.to_owned() })
    }
}

/// The UUID of a subvolume. The nil UUID, which btrfs shows for "none", is not one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeId(String);

impl FromStr for VolumeId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let well_formed = text.len() == 36
            && text.bytes().enumerate().all(|(index, byte)| match index {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            });
        if well_formed && text.bytes().any(|byte| !matches!(byte, b'0' | b'-')) {
            return Ok(Self(text.to_owned()));
        }
        Err(NameError { kind: "the UUID of a subvolume", text: text.to_owned() })
    }
}

/// Which boot of the machine made an observation: an opaque text that differs from boot to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(String);

impl BootId {
    /// Wraps the text that the kernel gave.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

macro_rules! text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    )*};
}
macro_rules! parsed {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
    )*};
}
text!(RunId, ManifestId, VolumeId, BootId);
parsed!(RunId, ManifestId, VolumeId);

/// A subvolume and the one that it was snapshotted from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its own UUID.
    pub uuid: VolumeId,
    /// The UUID of its origin, for snapshots.
    pub parent: Option<VolumeId>,
}

/// A release of the distribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// `bookworm`.
    pub codename: String,
    /// `12`.
    pub version_id: String,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.codename, self.version_id)
    }
}

/// The root filesystem before the upgrade: the name by which it is booted, and the subvolume that holds that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootVolume {
    /// `@`, `@rootfs`, ...
    pub name: String,
    /// Its UUID; the upgrade runs in this very subvolume.
    pub uuid: VolumeId,
}

/// Who ends a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitRule {
    /// Passed health checks commit the run.
    Automatic,
    /// An operator commits it, after passed health checks.
    Manual,
    /// After passed health checks the machine goes back, unless somebody outside confirms in time.
    Confirm,
}

/// What a run is going to do. It is written once, before anything else, and never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The run.
    pub run: RunId,
    /// The machine's name.
    pub host: String,
    /// The release that it runs now.
    pub from: Release,
    /// The release that it shall run.
    pub to: Release,
    /// The root filesystem.
    pub root: RootVolume,
    /// The trees that must be backed up and proven restorable.
    pub trees: Vec<String>,
    /// When a backup that was proven before a restart may count again.
    pub reattest: ReattestRule,
    /// Whether it wants a rehearsal, and how old that may be.
    #[serde(default, skip_serializing_if = "RehearsalRule::is_nothing")]
    pub rehearsal: RehearsalRule,
    /// Who ends the trial.
    pub commit: CommitRule,
    /// For [`CommitRule::Confirm`]: how long the machine waits for the word, in seconds.
    #[serde(default)]
    pub confirm_seconds: u64,
    /// How often the trial may be booted in all, by whomever: the budget that ends every loop.
    pub trial_boots: u8,
    /// How the trial is booted, and what comes back by itself.
    #[serde(default)]
    pub promise: Promise,
    /// The overrides that the operator has written down.
    pub waivers: Vec<Waiver>,
    /// BLAKE3 of the configuration that the run uses; a copy of it is kept with the run.
    pub config: ManifestId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for text in ["", "../../etc/passwd-----", "20261126T163000Z-4F2A", "20261126T163000Z-4f2a/"] {
            assert!(text.parse::<RunId>().is_err(), "{text}");
        }
        assert_eq!("20261126T163000Z-4f2a".parse::<RunId>().unwrap().as_str(), "20261126T163000Z-4f2a");
    }

    #[test]
    fn the_nil_uuid_names_no_subvolume() {
        assert!("00000000-0000-0000-0000-000000000000".parse::<VolumeId>().is_err());
        assert!("12345678-1234-1234-1234-123456789abc".parse::<VolumeId>().is_ok());
    }
}
