//! What can go wrong with a one-shot trial.

use std::io;
use std::path::{Path, PathBuf};

use crate::boot::block::NotQuotable;
use crate::boot::for_grub::ForGrubError;
use crate::boot::frozen::FrozenError;
use crate::boot::kexec::KexecError;
use crate::boot::menu::MenuError;
use crate::system::durable::DurableError;
use crate::system::exec::ExecError;

/// A step that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum OneShotError {
    /// The installers could not be held off or let go.
    #[error(transparent)]
    Frozen(#[from] FrozenError),
    /// The menu or the env file.
    #[error(transparent)]
    ForGrub(#[from] ForGrubError),
    /// A loaded kernel could not be taken back.
    #[error(transparent)]
    Kexec(#[from] KexecError),
    /// A menu that we do not understand.
    #[error(transparent)]
    Menu(#[from] MenuError),
    /// A value that GRUB could not be given.
    #[error(transparent)]
    NotQuotable(#[from] NotQuotable),
    /// grub-mkconfig failed.
    #[error(transparent)]
    Program(#[from] ExecError),
    /// A file could not be written for good.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// A file could not be read, copied or removed.
    #[error("failed to {action} {}", .path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is no GRUB to write a menu with.
    #[error("grub-mkconfig is not installed")]
    NoGrub,
    /// The menu does not boot the kernel that runs.
    #[error("{} has no entry that boots {kernel}", .menu.display())]
    NoEntry {
        /// The menu.
        menu: PathBuf,
        /// `uname -r`, or what else was looked for.
        kernel: String,
    },
    /// An entry's root is not the one that it should be.
    #[error("the new menu's first entry does not mount {wanted} as its root: {arguments}")]
    WrongRoot {
        /// The subvolume's name.
        wanted: String,
        /// The kernel's arguments.
        arguments: String,
    },
    /// A path of GRUB's that leads to no file of ours.
    #[error("the menu names {grub}, which is not below {expected}")]
    Elsewhere {
        /// The path as GRUB sees it.
        grub: String,
        /// Where it should be.
        expected: String,
    },
    /// A kernel or initial RAM disk that is not there, or is empty.
    #[error("{} should be booted, and is no file with anything in it", .path.display())]
    NoFile {
        /// The file.
        path: PathBuf,
    },
    /// A kept copy is not what was kept.
    #[error("{} is not what was copied there", .path.display())]
    CopyDiffers {
        /// The copy.
        path: PathBuf,
    },
    /// Nothing is armed.
    #[error("{} is missing: the trial was never armed", .path.display())]
    NotArmed {
        /// The record.
        path: PathBuf,
    },
    /// The file in which the choice is stored is gone, so nobody knows what boots next.
    #[error("{} is missing: is its filesystem mounted?", .path.display())]
    EnvFileGone {
        /// The file.
        path: PathBuf,
    },
    /// A menu that would boot a tree that is going to lose its name.
    #[error("line {line} of the new menu still names {name}")]
    StillNamed {
        /// The line, from 1.
        line: usize,
        /// The name.
        name: String,
    },
    /// A record of ours is damaged.
    #[error("{} is damaged", .path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// Why it cannot be read.
        source: serde_json::Error,
    },
}

/// Names a file and what was attempted.
pub(super) fn at<'p>(
    action: &'static str,
    path: &'p Path,
) -> impl FnOnce(io::Error) -> OneShotError + use<'p> {
    move |source| OneShotError::File { action, path: path.to_owned(), source }
}
