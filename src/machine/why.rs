//! Why a run turned back.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::evidence::Refusal;

/// Why a run turned back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Why {
    /// Facts were judged, and the answer was no.
    Judged {
        /// The refusal.
        refusal: Refusal,
    },
    /// It could not be found out, or could not be done.
    Trouble {
        /// What was being done.
        during: String,
        /// The chain of causes.
        cause: String,
    },
    /// The process or the machine ended in the middle.
    Interrupted {
        /// Where the run stood.
        during: String,
    },
    /// The machine booted the old system by itself.
    FellBack,
    /// Nobody outside confirmed the trial in time.
    NotConfirmed,
    /// The machine runs a root that this run does not know.
    UnknownRoot,
    /// The rollback did not bring the old system back.
    NotRestored,
    /// An operator asked for it.
    Operator,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Judged { refusal } => write!(f, "{refusal}"),
            Self::Trouble { during, cause } => write!(f, "{during} failed: {cause}"),
            Self::Interrupted { during } => write!(f, "the run was interrupted while it was {during}"),
            Self::FellBack => f.write_str("the machine booted the old system by itself"),
            Self::NotConfirmed => f.write_str("nobody confirmed the trial in time"),
            Self::UnknownRoot => f.write_str("the machine runs a root that this run does not know"),
            Self::NotRestored => f.write_str("the machine did not boot the restored root"),
            Self::Operator => f.write_str("an operator asked for it"),
        }
    }
}
