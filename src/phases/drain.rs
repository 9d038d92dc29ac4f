//! Draining: taking the machine out of a load balancer. Not built yet: passed with the reason in the journal.

use super::Result;
use crate::machine::Passage;

pub(super) fn pass() -> Passage {
    Passage::Waived {
        reason: "this version drives no load balancer; take the machine out of yours by hand".into(),
    }
}

/// Nothing was drained, so nothing is to be taken back.
#[expect(clippy::unnecessary_wraps, reason = "a load balancer that does not answer will be trouble")]
pub(super) fn take_back() -> Result<()> {
    Ok(())
}
