//! Switching roots by name: Debian and Ubuntu mount the root with `subvol=NAME`, so a boot lands on the tree that has the
//! name, and exchanging names is all it takes. Why not the default subvolume: docs/adr/0005.
//!
//! ```text
//!                 root's name      the run's other name
//!   before        original         -
//!   armed         clone            original (running, being upgraded)     any boot lands on the old system
//!   trial         original         clone                                  the next boot tries the new one
//!   restored      clone            original (the failed root, kept)
//! ```
//!
//! *Original* is the subvolume that the run's snapshot was taken of, *clone* a writable clone of that snapshot: both are
//! told by UUIDs alone, never by names or by a memory of what was done. So each wish may be made again after a crash
//! at any point: it does what is missing. The root's name is always given by the caller (it is in the plan): after an
//! exchange the mount table shows the *other* name for `/`.

use serde::{Deserialize, Serialize};

use crate::snapshot::names::RunNames;
use crate::snapshot::{Change, SnapshotError, Subvolume, TopLevel, stubs};

/// More effects than any wish takes; a machine that needs more is being changed by somebody else.
const MOST_EFFECTS: usize = 8;

/// What the next boot should land on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The old system, while the original is upgraded under the other name.
    Armed,
    /// The original, as before the run; the clone is gone.
    Disarmed,
    /// The original; the clone stays at hand.
    Trial,
    /// The old system for good; the failed root is kept under the other name.
    Restored,
}

/// One durable step towards a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Makes the writable clone under the other name.
    Clone,
    /// Replaces what systemd's empty subvolumes left behind in the clone.
    Mend,
    /// Swaps the two names.
    Exchange,
    /// Deletes the clone.
    DeleteClone,
}

/// Which tree a subvolume is, told by UUIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootTree {
    /// The subvolume that the snapshot was taken of.
    Original,
    /// A writable clone of the snapshot.
    Clone,
    /// Neither.
    Foreign,
}

/// What is there at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// What is mounted as the root now.
    pub running: Subvolume,
    /// What has the root's name: the next boot lands on it.
    pub named: Option<Subvolume>,
    /// What has the run's other name.
    pub other: Option<Subvolume>,
    /// The run's read-only snapshot.
    pub snapshot: Option<Subvolume>,
    /// Where the clone still has unusable stubs instead of directories.
    pub unmended: Vec<String>,
}

/// Why a wish cannot be granted: we looked, and the answer is no. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Without the snapshot nobody can tell the trees apart.
    #[error("the snapshot {0} is gone, so the old system cannot be told from the new one")]
    NoSnapshot(String),
    /// The snapshot can have been changed.
    #[error("the snapshot {0} is writable, so it proves nothing")]
    WritableSnapshot(String),
    /// The wish is for a machine that runs the original.
    #[error("the machine does not run the root that the snapshot was taken of (it runs {0})")]
    NotOnOriginal(String),
    /// The two names hold something that no step of ours leaves behind.
    #[error("{root} holds {named} and {other} holds {beside}: nothing that this run left behind")]
    Unexpected {
        /// The root's name.
        root: String,
        /// What has it.
        named: String,
        /// The run's other name.
        other: String,
        /// What has that.
        beside: String,
    },
}

/// A wish that was not fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum NamedRootError {
    /// It could not be found out or done.
    #[error(transparent)]
    Failed(#[from] SnapshotError),
    /// The machine is in no state for it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Somebody else changes the same names.
    #[error("the subvolume names do not settle: is another program changing them?")]
    Unsettled,
}

/// The root of one run, by name.
#[derive(Debug)]
pub struct NamedRoot<'t> {
    top: &'t TopLevel,
    root: String,
    names: RunNames,
}

impl<'t> NamedRoot<'t> {
    /// `root` is the name by which the boot loader and fstab mount the root, as the plan has it. Never read it from the
    /// mount table after the run began.
    #[must_use]
    pub fn new(top: &'t TopLevel, root: &str, names: &RunNames) -> Self {
        Self { top, root: root.to_owned(), names: names.clone() }
    }

    /// From now on any boot lands on a clone of the snapshot, and what runs goes on under the other name.
    /// Repeatable; on disk when it returns.
    ///
    /// # Errors
    /// [`NamedRootError::Refused`] when the machine is in no state for it; [`NamedRootError::Failed`] when a step failed.
    pub fn arm(&self) -> Result<Change, NamedRootError> {
        self.fulfil(Wish::Armed)
    }

    /// Takes [`NamedRoot::arm`] back: the name is the original again and the clone is deleted. Repeatable; on disk when it
    /// returns. Refused on a machine that already boots the clone: it *is* the old system; use [`NamedRoot::restore`].
    ///
    /// # Errors
    /// As [`NamedRoot::arm`].
    pub fn disarm(&self) -> Result<Change, NamedRootError> {
        self.fulfil(Wish::Disarmed)
    }

    /// The next boot by name lands on the upgraded root. A boot menu that was written while the root had the other name must be
    /// made to fit ([`crate::boot::one_shot::OneShot::commit_menu`]). Repeatable; on disk when it returns.
    ///
    /// # Errors
    /// As [`NamedRoot::arm`].
    pub fn prepare_trial(&self) -> Result<Change, NamedRootError> {
        self.fulfil(Wish::Trial)
    }

    /// The next boot lands on the old system: the clone, made anew from the snapshot when it is gone. What had the name stays
    /// under the run's other name. Repeatable; on disk when it returns.
    ///
    /// # Errors
    /// As [`NamedRoot::arm`].
    pub fn restore(&self) -> Result<Change, NamedRootError> {
        self.fulfil(Wish::Restored)
    }

    /// Makes everything that [`NamedRoot::restore`] needs but the exchange itself, and returns the clone. Repeatable.
    ///
    /// # Errors
    /// As [`NamedRoot::arm`].
    pub fn before_restore(&self) -> Result<Subvolume, NamedRootError> {
        for _ in 0..MOST_EFFECTS {
            let facts = self.facts()?;
            match next_effect(&facts, Wish::Restored, &self.root, &self.names)? {
                Some(effect) if effect != Effect::Exchange => self.perform(effect, &facts)?,
                _ => {
                    let trees = [facts.named.clone(), facts.other.clone()];
                    let clone = trees.into_iter().flatten().find(|tree| facts.tree(tree) == BootTree::Clone);
                    return clone.ok_or(NamedRootError::Unsettled);
                }
            }
        }
        Err(NamedRootError::Unsettled)
    }

    /// Looks at what is there. Changes nothing.
    ///
    /// # Errors
    /// When something cannot be found out.
    pub fn facts(&self) -> Result<Facts, SnapshotError> {
        let (before, beside) = (self.names.before(), self.names.other_root());
        let mut facts = Facts {
            running: self.top.running_root()?,
            named: self.top.find(&self.root)?,
            other: self.top.find(&beside)?,
            snapshot: self.top.find(&before)?,
            unmended: Vec::new(),
        };
        if let Some(clone) = self.clone_name(&facts) {
            facts.unmended = stubs::unmended(self.top, &before, &clone)?;
        }
        Ok(facts)
    }

    /// Looks what is missing and does the first of it; `None` when the wish is fulfilled. [`NamedRoot::arm`] and its sisters
    /// are this in a loop; a test that cuts the power after each effect calls it directly.
    ///
    /// # Errors
    /// As [`NamedRoot::arm`].
    pub fn step(&self, wish: Wish) -> Result<Option<Effect>, NamedRootError> {
        let facts = self.facts()?;
        let effect = next_effect(&facts, wish, &self.root, &self.names)?;
        if let Some(effect) = effect {
            self.perform(effect, &facts)?;
        }
        Ok(effect)
    }

    fn fulfil(&self, wish: Wish) -> Result<Change, NamedRootError> {
        let mut change = Change::Unchanged;
        for _ in 0..MOST_EFFECTS {
            match self.step(wish)? {
                None => return Ok(change),
                Some(_) => change = Change::Changed,
            }
        }
        Err(NamedRootError::Unsettled)
    }

    fn perform(&self, effect: Effect, facts: &Facts) -> Result<(), SnapshotError> {
        let beside = self.names.other_root();
        match effect {
            Effect::Clone => self.top.clone_writable(&self.names.before(), &beside).map(drop),
            Effect::Exchange => self.top.exchange(&self.root, &beside),
            Effect::DeleteClone => match &facts.other {
                Some(clone) => self.top.delete(&beside, clone.uuid).map(drop),
                None => Ok(()),
            },
            Effect::Mend => match self.clone_name(facts) {
                Some(clone) => facts.unmended.iter().try_for_each(|path| stubs::mend(self.top, &clone, path)),
                None => Ok(()),
            },
        }
    }

    fn clone_name(&self, facts: &Facts) -> Option<String> {
        let is_clone =
            |tree: &Option<Subvolume>| tree.as_ref().is_some_and(|tree| facts.tree(tree) == BootTree::Clone);
        if is_clone(&facts.named) {
            return Some(self.root.clone());
        }
        is_clone(&facts.other).then(|| self.names.other_root())
    }
}

impl Facts {
    /// Which tree a subvolume is. Without the snapshot nobody can tell: then all are foreign.
    #[must_use]
    pub fn tree(&self, subvolume: &Subvolume) -> BootTree {
        match &self.snapshot {
            Some(snapshot) if snapshot.parent_uuid == Some(subvolume.uuid) => BootTree::Original,
            Some(snapshot) if subvolume.parent_uuid == Some(snapshot.uuid) && !subvolume.read_only => {
                BootTree::Clone
            }
            _ => BootTree::Foreign,
        }
    }

    /// Which tree the machine runs.
    #[must_use]
    pub fn running_tree(&self) -> BootTree {
        self.tree(&self.running)
    }

    /// Which tree the next boot lands on; `None` when nothing has the root's name.
    #[must_use]
    pub fn next_boot_tree(&self) -> Option<BootTree> {
        self.named.as_ref().map(|named| self.tree(named))
    }
}

/// What comes next on the way to a wish; `None` when it is fulfilled. Pure: the only table of these steps.
///
/// # Errors
/// Why the wish cannot be granted.
pub fn next_effect(
    facts: &Facts,
    wish: Wish,
    root: &str,
    names: &RunNames,
) -> Result<Option<Effect>, Refusal> {
    use BootTree::{Clone, Foreign, Original};
    match &facts.snapshot {
        // Nothing was ever made, or it was all taken back.
        None if wish == Wish::Disarmed && facts.other.is_none() => return Ok(None),
        None => return Err(Refusal::NoSnapshot(names.before())),
        Some(snapshot) if !snapshot.read_only => return Err(Refusal::WritableSnapshot(names.before())),
        Some(_) => {}
    }
    if wish != Wish::Restored && facts.running_tree() != Original {
        return Err(Refusal::NotOnOriginal(describe(facts, Some(&facts.running))));
    }
    let mended = facts.unmended.is_empty();
    let other = facts.other.as_ref().map(|other| facts.tree(other));
    match (wish, facts.next_boot_tree(), other) {
        (Wish::Armed | Wish::Trial, Some(Original), None)
        | (Wish::Restored, Some(Original | Foreign), None) => Ok(Some(Effect::Clone)),
        (Wish::Armed | Wish::Trial, Some(Original), Some(Clone))
        | (Wish::Restored, Some(Original | Foreign), Some(Clone))
            if !mended =>
        {
            Ok(Some(Effect::Mend))
        }
        (Wish::Armed, Some(Original), Some(Clone))
        | (Wish::Disarmed | Wish::Trial, Some(Clone), Some(Original))
        | (Wish::Restored, Some(Original | Foreign), Some(Clone)) => Ok(Some(Effect::Exchange)),
        (Wish::Disarmed, Some(Original), Some(Clone)) => Ok(Some(Effect::DeleteClone)),
        (Wish::Armed, Some(Clone), Some(Original))
        | (Wish::Disarmed, Some(Original), None)
        | (Wish::Trial, Some(Original), Some(Clone))
        | (Wish::Restored, Some(Clone), _) => Ok(None),
        _ => Err(Refusal::Unexpected {
            root: root.to_owned(),
            named: describe(facts, facts.named.as_ref()),
            other: names.other_root(),
            beside: describe(facts, facts.other.as_ref()),
        }),
    }
}

fn describe(facts: &Facts, tree: Option<&Subvolume>) -> String {
    let Some(tree) = tree else { return "nothing".to_owned() };
    let what = match facts.tree(tree) {
        BootTree::Original => "the original root",
        BootTree::Clone => "the clone of the snapshot",
        BootTree::Foreign => "a foreign subvolume",
    };
    format!("{what}, {} with UUID {}", tree.id, tree.uuid)
}

#[cfg(test)]
#[path = "named_root_tests.rs"]
mod tests;
