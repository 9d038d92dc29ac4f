//! systemd-boot: a trial that it boots once, while the old system stays the default.
//!
//! ```text
//!   arm             old kernel and initrd kept beside, an entry of ours boots them with the old system by subvolume id,
//!                   and loader.conf (and LoaderEntryDefault, where it is set) names that entry
//!   prepare_trial   an entry of ours boots what will be the default, with the trial's arguments; LoaderEntryOneShot names it
//!   (reset)         systemd-boot deletes LoaderEntryOneShot, and only then boots the trial
//!   clean_up        the pins go first, so that from one moment to the next the machine's own entries count again; then the rest
//! ```
//!
//! Packages may write entries and kernels meanwhile: as long as the pins hold, none of them is the default. [`order`] knows which is.

mod entry;
mod error;
mod one_shot;
mod order;
mod places;
mod proof;
mod record;
mod variables;
mod way_back;

pub use entry::Entry;
pub use error::SystemdBootError;
pub use one_shot::LoaderOneShot;
pub use order::{Pins, compare_versions, default, sort};
pub use places::{DIRECTORY, ENTRIES, LOADER_CONF, Places};
pub use proof::Marked;
pub use variables::{EFIVARS, VariableError, Variables};

/// The file in [`ENTRIES`] of a run's entry for the old system.
#[must_use]
pub fn old_entry(run: &str) -> String {
    file(run, "old")
}

/// FAT and the boot loader know no upper case.
fn file(run: &str, role: &str) -> String {
    format!("{}{}-{role}.conf", entry::OURS, run.to_lowercase())
}
