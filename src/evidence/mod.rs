//! Pure judgement: facts that somebody measured go in, evidence or a refusal comes out.
//!
//! *Evidence* means "these facts have just been judged, in this process, and they suffice". Each kind is a type with private
//! fields whose only constructor is its `judge`; it is not `Clone`, cannot be serialised, and is used up where it is needed.
//! A proof that was written to disk is only a claim: after a restart evidence is earned again.
//!
//! Nothing here reads a file, a clock or the environment.

pub mod backup;
pub mod boot;
pub mod fallback;
pub mod gate;
pub mod health;
pub mod preflight;
pub mod refusal;
pub mod rehearsal;
pub mod snapshot;
pub mod subject;
pub mod upgrade;

pub use backup::{BackupEvidence, BackupProof, ReattestRule, RestoreReport, SampleFacts, TreeReport};
pub use boot::{
    Boot, BootFacts, Place, RestoredEvidence, RestoredFacts, RestoredMember, RolledBackEvidence,
    SwitchEvidence, TrialEvidence,
};
pub use fallback::{FallbackEvidence, FallbackFacts, FallbackMethod, FallbackProof, GuaranteeLevel, Promise};
pub use gate::Gate;
pub use health::{Confirmation, HealthEvidence, HealthFacts};
pub use preflight::{
    JournalEvidence, JournalFacts, PreflightEvidence, PreflightFacts, PreflightProof, Waiver,
};
pub use refusal::{Missing, Refusal};
pub use rehearsal::{LastRehearsal, RehearsalEvidence, RehearsalFacts, RehearsalProof, RehearsalRule};
pub use snapshot::{BootMember, SnapshotEvidence, SnapshotFacts, SnapshotSet};
pub use subject::{BootId, CommitRule, ManifestId, Plan, Release, RootVolume, RunId, Volume, VolumeId};
pub use upgrade::{RefusedConfiguration, UpgradeEvidence, UpgradeFacts, UpgradeProof};
