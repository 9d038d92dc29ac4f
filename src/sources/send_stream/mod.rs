//! A btrfs send stream, read and understood without receiving it anywhere.
//!
//! A stream is a list of commands ("make a file", "write these bytes", "rename", ...) that a receiver would carry out as root.
//! Here they are carried out on paper: names and inodes are kept in memory, content is hashed as it passes, and at the end the tree
//! that a receiver would have made is handed on.
//!
//! | file | what |
//! |---|---|
//! | `frame` | header, lengths, checksums |
//! | `attributes`, `command` | what a command says |
//! | `interpreter` | following the commands |
//! | `tree` | inodes and names |
//! | `draft` | the content of the file being written |
//! | `spool` | contents that files share, kept for a second reading |
//! | `encoded`, `lzo` | compressed extents |
//! | `tell` | the finished tree, entry by entry |
//!
//! Memory: one record for each inode, 270 bytes for a small file with a name of 27 bytes (measured at a million of them); content is
//! never kept.

use std::io::{self, BufReader, Read};

mod attributes;
mod command;
mod draft;
mod encoded;
mod frame;
mod interpreter;
mod lzo;
mod spool;
mod tell;
mod tree;

pub use frame::{MAGIC, seal_commands};

use frame::Frames;
use interpreter::{Interpreter, Next};
use spool::Spool;

use super::{Gathered, Reading};
use crate::manifest::collect::Collector;
use crate::manifest::facts::Facts;
use crate::manifest::sorter::SortError;
use crate::sources::compressed::Trouble;

/// Bytes read at once.
const BUFFER: usize = 256 << 10;

/// What a send stream can carry. The command for the flags of `chattr` is defined in version 2, but the kernel does not send it (as
/// of 6.18) and receive ignores it.
pub const CARRIES: Facts = Facts::ALL.without(Facts::FLAGS);

/// A stream that could not be read to its end, or that no receiver could have followed. `at` is always the number of bytes before.
#[derive(Debug, thiserror::Error)]
pub enum SendStreamError {
    /// The input failed.
    #[error("failed to read the send stream at byte {at}")]
    Read {
        /// Bytes before.
        at: u64,
        /// Why.
        source: io::Error,
    },
    /// It does not begin as every send stream does.
    #[error("this is no btrfs send stream")]
    NotAStream,
    /// A version that is not read here.
    #[error("the send stream has version {version}; versions 1 and 2 are read, as `btrfs receive` does")]
    Version {
        /// As in the header.
        version: u32,
    },
    /// It ends before its end command.
    #[error("the send stream is cut off at byte {at}: its end command is missing")]
    Truncated {
        /// Bytes before.
        at: u64,
    },
    /// A command's checksum is not that of its bytes.
    #[error("the send stream is damaged: the command at byte {at} has a wrong checksum")]
    Checksum {
        /// Bytes before.
        at: u64,
    },
    /// A command is longer than any kernel makes.
    #[error("the send stream is damaged: the command at byte {at} claims {length} bytes")]
    TooLong {
        /// Bytes before.
        at: u64,
        /// As it says.
        length: u32,
    },
    /// A command that this version of the format does not have.
    #[error("the send stream has an unknown command ({number}) at byte {at}")]
    UnknownCommand {
        /// Bytes before.
        at: u64,
        /// As it says.
        number: u16,
    },
    /// A command breaks the format.
    #[error("the send stream breaks its format in the {command} command at byte {at}: {what}")]
    Malformed {
        /// Bytes before.
        at: u64,
        /// Its name.
        command: &'static str,
        /// How.
        what: &'static str,
    },
    /// It holds only what changed since another snapshot.
    #[error(
        "the send stream is incremental: without its parent it does not say what the files hold. Verify a full stream \
         (`btrfs send` without -p), or receive the chain and verify the received subvolume as a directory"
    )]
    Incremental,
    /// The commands come in an order in which no subvolume is sent.
    #[error(
        "the send stream does not begin with one subvolume, or has more than one (the {command} command at byte {at})"
    )]
    Order {
        /// Bytes before.
        at: u64,
        /// Its name.
        command: &'static str,
    },
    /// There is more after the end command.
    #[error(
        "something follows the end of the send stream at byte {at}: send each subvolume into a stream of its own"
    )]
    MoreFollows {
        /// Bytes before.
        at: u64,
    },
    /// A command that a receiver could not carry out.
    #[error("the send stream cannot be received: {command} of {path} at byte {at}: {what}")]
    Impossible {
        /// Bytes before.
        at: u64,
        /// Its name.
        command: &'static str,
        /// Of what; safe to show.
        path: String,
        /// Why.
        what: &'static str,
    },
    /// More than was allowed.
    #[error("the send stream goes beyond a limit at byte {at}: {what}")]
    Limit {
        /// Bytes before.
        at: u64,
        /// Which.
        what: &'static str,
    },
    /// Contents that files share could not be kept for the second reading.
    #[error("failed to keep the content that files of the send stream share")]
    Spool {
        /// Why.
        source: io::Error,
    },
    /// What was found could not be kept for sorting.
    #[error("failed to keep what the send stream holds")]
    Sort(#[from] SortError),
}

impl SendStreamError {
    /// Whether it says that the stream is bad, and not that it could not be read or is of another kind.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Truncated { .. }
            | Self::Checksum { .. }
            | Self::TooLong { .. }
            | Self::UnknownCommand { .. }
            | Self::Malformed { .. }
            | Self::Impossible { .. } => true,
            Self::Read { source, .. } => {
                matches!(Trouble::of(source), Some(Trouble::Cut(_) | Trouble::Damaged(..)))
            }
            _ => false,
        }
    }
}

/// Reads a full send stream once and hands on the tree that a receiver would have made.
///
/// Nothing is written but what `into` needs for sorting. Content is hashed while it passes. Where a file shares all of its bytes with
/// another, it has that one's hash; where it shares only a part, the stream has a pointer where the bytes should be, and its entry
/// comes without content. [`read_twice`] can do better.
///
/// # Errors
/// When the stream is damaged, cut off, incremental, or could not be received. What was collected until then must not be used.
pub fn read(
    stream: impl Read,
    reading: &Reading<'_>,
    into: &mut Collector,
) -> Result<Gathered, SendStreamError> {
    let (interpreter, at) = follow(stream, reading, None)?;
    interpreter.tell(at, into)
}

/// As [`read`], from a stream that can be opened again. When files share only parts of their bytes with others, it is read a second
/// time, and the contents that they share are kept in [`Reading::scratch`] meanwhile: their full size is needed there.
///
/// # Errors
/// As [`read`]; also when a temporary file cannot be written.
pub fn read_twice<R: Read>(
    mut open: impl FnMut() -> io::Result<R>,
    reading: &Reading<'_>,
    into: &mut Collector,
) -> Result<Gathered, SendStreamError> {
    let mut opened = || open().map_err(|source| SendStreamError::Read { at: 0, source });
    let (interpreter, at) = follow(opened()?, reading, None)?;
    let wanted = interpreter.wanted_for_shared();
    if wanted.is_empty() {
        return interpreter.tell(at, into);
    }
    drop(interpreter);
    let spool = Spool::new(reading.scratch, wanted).map_err(|source| SendStreamError::Spool { source })?;
    let (interpreter, at) = follow(opened()?, reading, Some(spool))?;
    let mut gathered = interpreter.tell(at, into)?;
    gathered.remarks.push(
        "the send stream was read twice: some files share a part of their content with others".to_owned(),
    );
    Ok(gathered)
}

/// Follows a stream to its end; also says how long it is.
fn follow<'r>(
    stream: impl Read,
    reading: &'r Reading<'r>,
    spool: Option<Spool>,
) -> Result<(Interpreter<'r>, u64), SendStreamError> {
    // A command is mostly a few dozen bytes.
    let mut frames = Frames::open(BufReader::with_capacity(BUFFER, stream))?;
    let mut interpreter = Interpreter::new(frames.version(), reading, spool);
    loop {
        let at = frames.at();
        let frame = frames.next()?.ok_or(SendStreamError::Truncated { at })?;
        if interpreter.follow(frame)? == Next::End {
            break;
        }
    }
    if !frames.is_at_end()? {
        return Err(SendStreamError::MoreFollows { at: frames.at() });
    }
    Ok((interpreter, frames.at()))
}
