//! Snapshots of the root, and where things lie on its filesystem. So far on btrfs; other backends stand beside [`top`].
//!
//! | file | what it is |
//! |---|---|
//! | [`names`] | what a run calls its subvolumes |
//! | [`top`] | the top level of a filesystem: find, create, snapshot, clone, exchange, delete |
//! | [`subvolume`] | one subvolume's facts, and what is nested in it |
//! | [`layout`], [`findings`] | how the root is laid out, and what of that stops a run |
//! | [`divergence`] | what was written since a snapshot, by metadata |
//! | [`state_volume`] | the place of the journal, outside of what a rollback takes back |
//!
//! Effects go through btrfsutil, by the few of its calls that are sound; facts are read by open file (`ioctl`):
//! docs/adr/0004.

mod attach;
pub mod divergence;
pub mod error;
pub mod findings;
pub mod fstab;
mod ioctl;
pub mod layout;
pub mod names;
pub mod state_volume;
pub mod stubs;
pub mod subvolume;
pub mod top;
mod unit;
mod uuid;

pub use error::SnapshotError;
pub use subvolume::{Nested, Subvolume};
pub use top::{Change, Made, TopLevel};
pub use uuid::{NotUuid, Uuid};
