//! The boot proof with systemd-boot: an entry of ours that boots the running system, with more words on its command line.

use super::entry::Entry;
use super::error::{SystemdBootError, at};
use super::one_shot::{is_ours, write};
use super::places::{self, Places};
use super::{file, order, variables};
use crate::system::durable::remove_file;

/// A marked boot. Plain values: make it anew in each boot.
#[derive(Debug, Clone)]
pub struct Marked {
    /// The proof's id.
    pub id: String,
    /// Where the boot loader reads.
    pub places: Places,
    /// The kernel that runs, as `uname -r` says it.
    pub kernel: String,
}

impl Marked {
    /// The next boot is the running system, once, with these words.
    ///
    /// # Errors
    /// When there is no entry for it, or something can't be written.
    pub fn arm(&self, words: impl IntoIterator<Item = String>) -> Result<(), SystemdBootError> {
        let running = self.places.running(&self.kernel)?;
        let running_id = running.id();
        let marked = Entry {
            file: file(&self.id, "proof"),
            title: Some("safe-upgrade: proof of the boot chain".into()),
            sort_key: None,
            arguments: running.arguments.iter().cloned().chain(words).collect(),
            ..running
        };
        if self.would_stay(&marked)? {
            self.places.write_conf(&places::pinned(&self.places.conf()?, &running_id))?;
        }
        write(&marked)?;
        Ok(self.places.variables.set(variables::ONE_SHOT, &marked.id())?)
    }

    /// Whether it would be the default by its name, where entries are sorted by nothing else: a boot that dies would be booted for ever.
    fn would_stay(&self, marked: &Entry) -> Result<bool, SystemdBootError> {
        let mut entries = self.places.entries()?;
        entries.push(marked.clone());
        order::sort(&mut entries);
        Ok(order::default(&entries, &self.places.pins()?).is_some_and(Entry::is_ours))
    }

    /// Whether the choice is used up.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn is_cleared(&self) -> Result<bool, SystemdBootError> {
        Ok(self.places.variables.get(variables::ONE_SHOT)?.is_none())
    }

    /// Nothing of the proof is left. Repeatable.
    ///
    /// # Errors
    /// When something can't be taken away.
    pub fn disarm(&self) -> Result<(), SystemdBootError> {
        if self.places.variables.get(variables::ONE_SHOT)?.is_some_and(|id| is_ours(&id)) {
            self.places.variables.unset(variables::ONE_SHOT)?;
        }
        self.places.write_conf(&places::unpinned(&self.places.conf()?))?;
        for volume in self.places.volumes() {
            let path = volume.join(super::ENTRIES).join(file(&self.id, "proof"));
            if path.try_exists().map_err(at("look at", &path))? {
                remove_file(&path)?;
            }
        }
        Ok(())
    }
}
