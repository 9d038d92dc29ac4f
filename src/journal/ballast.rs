//! Room for the last words: a file that takes space away from everybody, and gives it to the journal when the disk is full.
//!
//! An upgrade that fills the disk must still be able to write down that it goes back.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FallocateFlags;

use crate::system::durable;

const NAME: &str = "ballast";

/// A run's records are some kilobytes; btrfs needs megabytes to be able to delete and write at all.
const BYTES: u64 = 64 << 20;

/// Sees to it that the ballast is there. Where it cannot be made the journal works without, and the log says so.
pub(super) fn keep(directory: &Path) {
    let path = directory.join(NAME);
    if path.exists() {
        return;
    }
    if let Err(error) = make(&path) {
        tracing::warn!(path = %path.display(), %error, "no space is set aside for the journal");
        // A half of it would pass for the whole next time.
        let _ = std::fs::remove_file(&path);
    }
}

fn make(path: &Path) -> io::Result<()> {
    let file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, BYTES)?;
    file.sync_all()
}

/// Gives the space back. Whether there was any.
pub(super) fn release(directory: &Path) -> bool {
    let path = directory.join(NAME);
    if !path.exists() {
        return false;
    }
    tracing::warn!("the disk is full; the space that was set aside for the journal is used now");
    let removed = durable::remove_file(&path).and_then(|()| durable::sync_filesystem(directory));
    if let Err(error) = &removed {
        tracing::error!(error = %error, "the space that was set aside could not be freed");
    }
    removed.is_ok()
}
