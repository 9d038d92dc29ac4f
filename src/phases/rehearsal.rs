//! Rehearsal: upgrading a disposable clone first. Not built yet: passed with the reason in the journal.

use crate::machine::Passage;

pub(super) fn pass() -> Passage {
    Passage::Waived {
        reason: "this version does not rehearse; the upgrade runs first on the machine itself".into(),
    }
}
