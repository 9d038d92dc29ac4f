//! The trial: the upgraded root becomes the next boot; when it has proven healthy, it stays.

use super::{Machine, Result, boot, trouble};
use crate::boot::{grub, named_root::NamedRoot};
use crate::evidence::{BootFacts, Plan};
use crate::snapshot::TopLevel;
use std::path::Path;

/// Makes the upgraded root the next boot, with a boot menu that says so. Probes first.
pub(super) fn prepare(machine: &Machine, plan: &Plan) -> Result<BootFacts> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    NamedRoot::new(&top, &plan.root.name, &machine.names).prepare_trial().map_err(trouble)?;
    // While packages changed the root had another name, and their scripts have written that one into the menu.
    grub::regenerate_menu(&machine.names.other_root()).map_err(trouble)?;
    boot::facts(Some(plan))
}

/// The boot after this one is the trial again. Probes first.
#[expect(clippy::unnecessary_wraps, reason = "other methods can fail")]
pub(super) fn again(_: &Machine, _: &Plan) -> Result<()> {
    Ok(())
}

/// The upgraded root boots by its name; the armed clone is not needed any more, the snapshot is kept. Probes first.
pub(super) fn settle(machine: &Machine, plan: &Plan) -> Result<()> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    NamedRoot::new(&top, &plan.root.name, &machine.names).disarm().map_err(trouble)?;
    Ok(())
}
