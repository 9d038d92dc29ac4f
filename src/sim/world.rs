//! What the world does to a simulated machine, and the plan that it follows.

use crate::evidence::{
    CommitRule, FallbackMethod, ManifestId, Plan, Promise, ReattestRule, RehearsalRule, Release, RootVolume,
    VolumeId,
};

/// The name by which the simulated root boots.
pub(super) const ROOT: &str = "@";

/// What is in a subvolume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// The old release, whole.
    Old,
    /// An upgrade that has begun.
    Half,
    /// The new release, whole.
    New,
}

/// How the store behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// It holds what was put there.
    Good,
    /// One file came back different.
    Bad,
    /// It cannot be read.
    Unreadable,
}

/// What is there of a rehearsal, and whether the plan wants one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rehearsals {
    /// There is none, and none is wanted.
    None,
    /// One has passed, and one is wanted.
    Passed,
    /// One has failed, and one is wanted.
    Failed,
    /// One has passed, but packages have changed since; none is wanted.
    Stale,
}

/// What the world does in a run.
#[derive(Debug, Clone, Copy)]
pub struct World {
    /// Whether the new release passes its health checks.
    pub healthy: bool,
    /// Whether the upgrader completes.
    pub upgrades: bool,
    /// Whether exchanging the root for the clone works.
    pub restores: bool,
    /// How the store behaves.
    pub store: Store,
    /// Whether the boot loader goes back to the old system by itself when the trial is booted.
    pub falls_back: bool,
    /// Whether a snapshot that was taken can be looked at.
    pub seals: bool,
    /// What is there of a rehearsal.
    pub rehearsals: Rehearsals,
    /// Whether preflight finds an inhibitor.
    pub inhibited: bool,
    /// Who commits.
    pub commit: CommitRule,
    /// How the trial is booted.
    pub method: FallbackMethod,
    /// Whether somebody outside confirms in time.
    pub confirms: bool,
}

impl World {
    /// Everything goes well.
    pub const FINE: Self = Self {
        healthy: true,
        upgrades: true,
        restores: true,
        store: Store::Good,
        falls_back: false,
        seals: true,
        rehearsals: Rehearsals::None,
        inhibited: false,
        commit: CommitRule::Automatic,
        method: FallbackMethod::ByName,
        confirms: true,
    };
}

/// A volume id for tests and the simulation.
///
/// # Panics
/// Never: the text is well formed for every number but 0, which is not used.
#[must_use]
pub fn volume_id(number: u32) -> VolumeId {
    format!("00000000-0000-4000-8000-{number:012x}")
        .parse()
        .unwrap_or_else(|_| unreachable!("a well-formed UUID"))
}

/// A manifest id for tests and the simulation.
///
/// # Panics
/// Never: the text is well formed for every number.
#[must_use]
pub fn manifest_id(number: u64) -> ManifestId {
    format!("{number:064x}").parse().unwrap_or_else(|_| unreachable!("64 hexadecimal digits"))
}

/// The plan that the simulation runs.
///
/// # Panics
/// Never: the run's id is well formed.
#[must_use]
pub fn plan(commit: CommitRule) -> Plan {
    let release =
        |codename: &str, version: &str| Release { codename: codename.into(), version_id: version.into() };
    Plan {
        run: "20261126T163000Z-4f2a".parse().unwrap_or_else(|_| unreachable!("a well-formed id")),
        host: "sim".into(),
        from: release("bookworm", "12"),
        to: release("trixie", "13"),
        root: RootVolume { name: ROOT.into(), uuid: volume_id(1) },
        trees: vec!["/etc".into(), "/srv".into()],
        reattest: ReattestRule { max_age_seconds: 3600, sample: 2 },
        rehearsal: RehearsalRule::default(),
        commit,
        confirm_seconds: 600,
        trial_boots: 3,
        promise: Promise::default(),
        waivers: Vec::new(),
        config: manifest_id(9),
    }
}
