//! What can go wrong with systemd-boot's entries and variables.

use std::io;
use std::path::{Path, PathBuf};

use super::variables::VariableError;
use crate::boot::frozen::FrozenError;
use crate::boot::kernels::Unproven;
use crate::boot::one_shot::OneShotError;
use crate::system::durable::DurableError;
use crate::system::exec::ExecError;
use crate::system::mounts::MountsError;

/// A step that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum SystemdBootError {
    /// A variable of the firmware.
    #[error(transparent)]
    Variable(#[from] VariableError),
    /// The mount table could not be read.
    #[error(transparent)]
    Mounts(#[from] MountsError),
    /// A volume could not be mounted with other options.
    #[error(transparent)]
    Program(#[from] ExecError),
    /// A file could not be written for good.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// Another boot loader's installers could not be held off or let go.
    #[error(transparent)]
    Frozen(#[from] FrozenError),
    /// A record or a kept copy.
    #[error(transparent)]
    OneShot(#[from] OneShotError),
    /// A kernel that would not start.
    #[error(transparent)]
    Kernel(#[from] Unproven),
    /// A file could not be read, written or removed.
    #[error("failed to {action} {}", .path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// No entry boots this kernel.
    #[error("no entry of systemd-boot boots the running kernel {kernel}{}", reason(.why))]
    NoEntry {
        /// `uname -r`.
        kernel: String,
        /// What was wrong with the first entry that was not understood; may be empty.
        why: String,
    },
    /// Nothing would be booted.
    #[error("systemd-boot would have no entry to boot by default")]
    NoDefault,
    /// The entry that would be booted by default can't be.
    #[error("the entry {entry}, which systemd-boot would boot by default, does not do: {why}")]
    WrongDefault {
        /// Its file.
        entry: String,
        /// Why not.
        why: String,
    },
    /// An entry does not mount the root that it should.
    #[error("the entry {entry} does not mount {wanted} as its root: {arguments}")]
    WrongRoot {
        /// Its file.
        entry: String,
        /// The subvolume's name.
        wanted: String,
        /// The kernel's arguments.
        arguments: String,
    },
    /// Nothing is armed.
    #[error("{} is missing: the trial was never armed", .path.display())]
    NotArmed {
        /// The record.
        path: PathBuf,
    },
}

fn reason(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({why})") }
}

/// Names a file and what was attempted.
pub(super) fn at<'p>(
    action: &'static str,
    path: &'p Path,
) -> impl FnOnce(io::Error) -> SystemdBootError + use<'p> {
    move |source| SystemdBootError::File { action, path: path.to_owned(), source }
}
