//! Whether the machine does what it did: a baseline before, the same again after, the difference judged, and named checks.
//!
//! "running" is not healthy: an upgrade may remove a package with its service, and systemd then says `running` with no failed
//! unit. So the machine is compared with itself.
//!
//! | module | what it is |
//! |---|---|
//! | [`baseline`] | what the machine does: units, sockets, mounts, routes, packages; captured and stored |
//! | [`units`] [`sockets`] [`routes`] [`packages`] | pure parsers of what systemd, the kernel and dpkg say, and the reading |
//! | [`diff`] | pure: two baselines in, changes out, each required or noted |
//! | [`known`] | pure: the tables of what may change, and why |
//! | [`checks`] | the checks that the operator named: command, tcp, http, unit |
//! | [`settle`] | waiting until a boot is over, and until slow services are there |
//! | [`soak`] | watching for a while after everything was green |
//! | [`report`] | plain facts of all this, for a judgement elsewhere |

pub mod baseline;
pub mod checks;
pub mod clock;
pub mod diff;
pub mod known;
pub mod packages;
pub mod report;
pub mod routes;
pub mod settle;
pub mod soak;
pub mod sockets;
pub mod units;

use std::path::PathBuf;

use crate::system::exec::ExecError;
use crate::system::mounts::MountsError;

/// The state of the machine could not be found out. Never a statement about its health.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// A program that knows did not answer.
    #[error("failed to ask for {what}")]
    Ask {
        /// What was asked for.
        what: &'static str,
        /// Why there was no answer.
        source: ExecError,
    },
    /// A file could not be read.
    #[error("failed to read {}", .path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An answer was not understood.
    #[error("failed to understand {what}: {text:?}")]
    Understand {
        /// Where the text is from.
        what: &'static str,
        /// The first line that was not understood.
        text: String,
    },
    /// An answer or a stored baseline is not the JSON that was expected.
    #[error("failed to understand the JSON of {what}")]
    Json {
        /// Where it is from.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// A stored baseline was written by a newer version of this program.
    #[error("the baseline has format version {found}, and this program knows versions up to {known}")]
    Newer {
        /// The version found.
        found: u32,
        /// The newest version that is understood.
        known: u32,
    },
    /// The mount table could not be read.
    #[error("failed to find out what is mounted")]
    Mounts(#[from] MountsError),
}

/// Reads a file as text; bytes that are not UTF-8 are replaced.
pub(crate) fn read_text(path: PathBuf) -> Result<String, HealthError> {
    match std::fs::read(&path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(source) => Err(HealthError::Read { path, source }),
    }
}

/// [`read_text`] for a file that is there only when it has something to list (the kernel's, without the feature).
pub(crate) fn read_text_if_any(path: PathBuf) -> Result<String, HealthError> {
    match read_text(path) {
        Err(HealthError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(String::new())
        }
        other => other,
    }
}
