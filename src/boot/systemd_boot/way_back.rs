//! Going back after a commit: the entries are the new system's by then, and bringing the old ones back takes seconds. So the old system
//! becomes the default first, with a kernel of its own from the set's copies.

use std::path::Path;

use super::error::SystemdBootError;
use super::one_shot::{LoaderOneShot, is_ours};
use super::order;
use super::places::Places;
use super::record::Record;

impl LoaderOneShot {
    /// From one moment to the next the old system boots by default, with the kernel and the initial RAM disks in the set's copies of the
    /// ESP and of `/boot` (where that is the boot loader's too). Does nothing more where the old system is the default already.
    ///
    /// # Errors
    /// When the copies have no entry that could be booted, or a file can't be written; the new system boots then.
    pub fn arm_way_back(
        &self,
        esp: &Path,
        boot: Option<&Path>,
        subvolume: u64,
    ) -> Result<(), SystemdBootError> {
        // Before the first byte: a rollback may begin in a boot in which nobody has armed.
        let before = Record::read(&self.run_directory)?;
        let anew = self.places.write_through()?;
        let record = match before {
            Some(record) if record.verify_kept().is_ok() => self.made_sync(record, anew)?,
            // Never armed, or a try before this one has already taken the kept copies away with the rest.
            before => {
                let earlier = before.map(|record| record.made_sync).unwrap_or_default();
                let record = self.keep_from(esp, boot, subvolume)?;
                self.made_sync(record, [earlier, anew].concat())?
            }
        };
        self.pin(&record)
    }

    /// What is brought back reaches the volumes as it is written: they may have been unmounted and mounted anew since
    /// [`LoaderOneShot::arm_way_back`]. [`LoaderOneShot::clean_up`] takes it back.
    ///
    /// # Errors
    /// When a volume can't be mounted so.
    pub fn write_through_again(&self) -> Result<(), SystemdBootError> {
        match Record::read(&self.run_directory)? {
            Some(record) => self.write_through(record).map(drop),
            None => self.places.write_through().map(drop),
        }
    }

    fn keep_from(&self, esp: &Path, boot: Option<&Path>, subvolume: u64) -> Result<Record, SystemdBootError> {
        let copies = Places {
            esp: esp.to_owned(),
            extended: self.places.extended.as_ref().and(boot).map(Path::to_owned),
            variables: self.places.variables.clone(),
        };
        let mut pins = copies.pins()?;
        pins.variable = pins.variable.filter(|id| !is_ours(id));
        let entries = copies.entries()?;
        let old = order::default(&entries, &pins).ok_or(SystemdBootError::NoDefault)?;
        let volume = match &self.places.extended {
            Some(extended) if old.volume != esp => extended,
            _ => &self.places.esp,
        };
        self.keep_on(old, volume, subvolume)
    }
}
