//! Whether this machine's own packages fit the target: known before anything is touched, from an apt of our own.
//!
//! [`look`] collects facts (all reading and asking is there), [`findings`] judges them and is pure.
//!
//! | module | what it is |
//! |---|---|
//! | [`removals`] [`uses`] | packages that go away, and what the machine does with them |
//! | [`jumps`] [`stacks`] [`services`] | services whose new version needs attention: the table, the special ones, what is on the disk |
//! | [`origins`] | third parties' repositories, with the target suite asked for, and local packages |
//! | [`holds`] | holds and pins |
//! | [`status`] | dpkg's record, and what happened to it |

pub mod holds;
pub mod jumps;
mod look;
pub mod origins;
pub mod removals;
pub mod services;
pub mod stacks;
pub mod status;
pub mod uses;

pub use look::{Ahead, look};
pub use status::{installed, versions};

use crate::finding::Finding;
use crate::health::HealthError;
use crate::release::hop::Hop;
pub use crate::release::prediction::Prediction;
use crate::release::preview::PreviewError;
use crate::release::sources::SourcesPlan;
use crate::system::exec::ExecError;

/// Everything that was found out about the packages.
#[derive(Debug, Clone)]
pub struct Facts {
    /// What the upgrade would do.
    pub prediction: Prediction,
    /// The packages as dpkg has them.
    pub packages: Vec<status::Package>,
    /// What goes away.
    pub removals: Vec<removals::Removal>,
    /// What is on the disk.
    pub services: services::Services,
    /// Repositories that are not Debian's.
    pub repositories: Vec<origins::Repository>,
    /// Installed packages that nobody has.
    pub local: Vec<origins::Local>,
    /// Pins of apt.
    pub pins: Vec<holds::Pin>,
    /// What the hop does to the sources.
    pub plan: SourcesPlan,
    /// The machine's own lists of packages are empty: where its packages come from is not known.
    pub no_lists: bool,
    /// What could not be found out, and why, with its causes.
    pub unknown: Vec<(&'static str, String)>,
}

/// A fact without which nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// apt could not look ahead.
    #[error("failed to look ahead with an apt of our own")]
    Ahead(#[from] PreviewError),
    /// A package tool did not answer.
    #[error("failed to ask about the packages")]
    Ask(#[from] ExecError),
    /// A file could not be read, or a text was not understood.
    #[error(transparent)]
    Machine(#[from] HealthError),
}

/// Judges the facts. Pure; on a plain Debian server there is neither a warning nor an inhibitor.
#[must_use]
pub fn findings(facts: &Facts, hop: &Hop) -> Vec<Finding> {
    let Facts { prediction, services, .. } = facts;
    let mut findings = holds::findings(prediction, &facts.pins, hop);
    findings.extend(removals::findings(&facts.removals, hop.to().codename));
    findings.extend(jumps::findings(prediction));
    findings.extend(stacks::findings(prediction, services, hop));
    findings.extend(origins::findings(&facts.repositories, &facts.local, &facts.plan, hop));
    findings.extend(facts.no_lists.then(|| {
        Finding::warning(
            "package-lists-empty",
            "the lists of packages are empty, so where the installed packages come from is not known.",
            "apt-get update",
        )
    }));
    findings.extend(facts.unknown.iter().map(|(what, why)| Finding::unknown(what, why)));
    findings
}

#[cfg(test)]
mod tests;
