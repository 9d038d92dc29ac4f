//! Going back after a commit, where old and new system share `/boot`: its menu and kernels are the new system's by then, and bringing
//! the old ones back takes seconds. So the old system becomes the default first, with kernels of its own.

use std::path::Path;

use super::error::OneShotError;
use super::files::read;
use super::record::Record;
use super::{BootPlace, OneShot, arguments};
use crate::boot::menu::Boots;
use crate::boot::{block, grub};

impl OneShot {
    /// From one moment to the next the old system boots by default, with the kernel and initrd that lie in `boot_copy`, the
    /// set's copy of `/boot`. Does nothing where the menu goes with the root's name, or where the old system is the default already.
    ///
    /// # Errors
    /// When the copy has no entry that boots a whole system, or a file can't be written; the new system boots then.
    pub fn arm_way_back(&self, boot_copy: &Path, subvolume: u64) -> Result<(), OneShotError> {
        if self.boot == BootPlace::InRoot {
            return Ok(());
        }
        let record = match Record::read(&self.run_directory)? {
            Some(record) if record.verify_kept().is_ok() => record,
            // Never armed, or a try before this one has already taken the kept copies away with the rest.
            _ => self.keep_from(boot_copy, subvolume)?,
        };
        self.write_block(&record.old, None)
    }

    fn keep_from(&self, boot_copy: &Path, subvolume: u64) -> Result<Record, OneShotError> {
        let menu_copy = boot_copy.join(grub::MENU.trim_start_matches("boot/"));
        let text = String::from_utf8_lossy(&block::strip(&read(&menu_copy)?)).into_owned();
        let boots = self.entry_of(&text, &menu_copy, &self.root_name)?;
        let mut old = Boots { arguments: arguments::by_subvolume_id(&boots.arguments, subvolume), ..boots };
        let kept = self.keep_copies(&mut old, boot_copy)?;
        let record = Record { old, kept, trial: None };
        record.write(&self.run_directory)?;
        Ok(record)
    }
}
