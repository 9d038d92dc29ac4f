//! What the commands of a send stream say.

use super::attributes::{Attribute, Attributes};
use crate::manifest::Mtime;
use crate::manifest::entry::Device;

/// One command, with the paths as they stand in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command<'b> {
    /// A whole subvolume follows.
    Subvolume {
        uuid: &'b [u8],
    },
    /// Only what changed since another snapshot follows.
    Snapshot,
    /// A new inode under a new name.
    Make {
        path: &'b [u8],
        made: Made<'b>,
    },
    Rename {
        from: &'b [u8],
        to: &'b [u8],
    },
    /// `path` becomes another name of `target`.
    Link {
        path: &'b [u8],
        target: &'b [u8],
    },
    Unlink {
        path: &'b [u8],
    },
    RemoveDirectory {
        path: &'b [u8],
    },
    SetXattr {
        path: &'b [u8],
        name: &'b [u8],
        value: &'b [u8],
    },
    RemoveXattr {
        path: &'b [u8],
        name: &'b [u8],
    },
    Write {
        path: &'b [u8],
        offset: u64,
        data: &'b [u8],
    },
    EncodedWrite {
        path: &'b [u8],
        offset: u64,
        encoded: Encoded<'b>,
    },
    /// Bytes that are those of another file.
    Clone {
        path: &'b [u8],
        offset: u64,
        length: u64,
        from: CloneFrom<'b>,
    },
    Truncate {
        path: &'b [u8],
        size: u64,
    },
    Mode {
        path: &'b [u8],
        mode: u64,
    },
    Owner {
        path: &'b [u8],
        uid: u64,
        gid: u64,
    },
    Times {
        path: &'b [u8],
        mtime: Mtime,
    },
    /// There are bytes here that the stream does not hold (`--no-data`).
    WithoutData {
        path: &'b [u8],
        offset: u64,
        length: u64,
    },
    Allocate {
        path: &'b [u8],
        mode: u64,
        offset: u64,
        length: u64,
    },
    /// Flags of an inode. The kernel defines the command and, as of 6.18, never sends it; receive ignores it.
    Flags {
        path: &'b [u8],
    },
    End,
}

/// What a new inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made<'b> {
    File,
    Directory,
    Fifo,
    Socket,
    CharDevice(Device),
    BlockDevice(Device),
    Symlink(&'b [u8]),
}

/// A compressed extent and the part of it that belongs to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Encoded<'b> {
    pub(super) data: &'b [u8],
    pub(super) compression: u64,
    pub(super) encryption: u64,
    /// Bytes that it holds when expanded.
    pub(super) expanded: u64,
    /// Where the file's part begins in those.
    pub(super) skip: u64,
    /// How long the file's part is.
    pub(super) length: u64,
}

/// Where the bytes of a clone are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CloneFrom<'b> {
    pub(super) uuid: &'b [u8],
    pub(super) path: &'b [u8],
    pub(super) offset: u64,
}

/// Why a command was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unclear {
    /// The number is not one of this version's.
    Unknown,
    /// It breaks the format.
    Malformed(&'static str),
}

impl From<&'static str> for Unclear {
    fn from(what: &'static str) -> Self {
        Self::Malformed(what)
    }
}

/// The words for the commands, by number; the last that version 1 knows is 22.
const NAMES: [&str; 26] = [
    "unspec",
    "subvol",
    "snapshot",
    "mkfile",
    "mkdir",
    "mknod",
    "mkfifo",
    "mksock",
    "symlink",
    "rename",
    "link",
    "unlink",
    "rmdir",
    "set_xattr",
    "remove_xattr",
    "write",
    "clone",
    "truncate",
    "chmod",
    "chown",
    "utimes",
    "end",
    "update_extent",
    "fallocate",
    "fileattr",
    "encoded_write",
];

/// The last command of version 1.
const LAST_OF_VERSION_1: u16 = 22;

/// The word for a command.
pub(super) fn name(number: u16) -> &'static str {
    NAMES.get(usize::from(number)).copied().unwrap_or("unknown")
}

impl<'b> Command<'b> {
    /// Understands one command.
    pub(super) fn parse(version: u32, number: u16, body: &'b [u8]) -> Result<Self, Unclear> {
        if version < 2 && number > LAST_OF_VERSION_1 {
            return Err(Unclear::Unknown);
        }
        let attributes = Attributes::parse(version, body)?;
        let path = || attributes.bytes(Attribute::Path);
        Ok(match number {
            1 => Self::Subvolume { uuid: attributes.bytes(Attribute::Uuid)? },
            2 => Self::Snapshot,
            3..=8 => Self::Make { path: path()?, made: made(number, &attributes)? },
            9 => Self::Rename { from: path()?, to: attributes.bytes(Attribute::PathTo)? },
            10 => Self::Link { path: path()?, target: attributes.bytes(Attribute::PathLink)? },
            11 => Self::Unlink { path: path()? },
            12 => Self::RemoveDirectory { path: path()? },
            13 => Self::SetXattr {
                path: path()?,
                name: attributes.bytes(Attribute::XattrName)?,
                value: attributes.bytes(Attribute::XattrData)?,
            },
            14 => Self::RemoveXattr { path: path()?, name: attributes.bytes(Attribute::XattrName)? },
            15..=17 | 22 | 23 | 25 => content(number, &attributes)?,
            18 => Self::Mode { path: path()?, mode: attributes.number(Attribute::Mode)? },
            19 => Self::Owner {
                path: path()?,
                uid: attributes.number(Attribute::Uid)?,
                gid: attributes.number(Attribute::Gid)?,
            },
            20 => {
                let (seconds, nanoseconds) = attributes.time(Attribute::Mtime)?;
                Self::Times { path: path()?, mtime: Mtime { seconds, nanoseconds } }
            }
            21 => Self::End,
            24 => Self::Flags { path: path()? },
            _ => return Err(Unclear::Unknown),
        })
    }
}

/// The commands that say what a file holds.
fn content<'b>(number: u16, attributes: &Attributes<'b>) -> Result<Command<'b>, &'static str> {
    let path = attributes.bytes(Attribute::Path)?;
    if number == 17 {
        return Ok(Command::Truncate { path, size: attributes.number(Attribute::Size)? });
    }
    let offset = attributes.number(Attribute::FileOffset)?;
    Ok(match number {
        15 => Command::Write { path, offset, data: attributes.bytes(Attribute::Data)? },
        16 => Command::Clone {
            path,
            offset,
            length: attributes.number(Attribute::CloneLength)?,
            from: CloneFrom {
                uuid: attributes.bytes(Attribute::CloneUuid)?,
                path: attributes.bytes(Attribute::ClonePath)?,
                offset: attributes.number(Attribute::CloneOffset)?,
            },
        },
        22 => Command::WithoutData { path, offset, length: attributes.number(Attribute::Size)? },
        23 => Command::Allocate {
            path,
            mode: attributes.number(Attribute::AllocateMode)?,
            offset,
            length: attributes.number(Attribute::Size)?,
        },
        _ => Command::EncodedWrite {
            path,
            offset,
            encoded: Encoded {
                data: attributes.bytes(Attribute::Data)?,
                compression: attributes.number_or_zero(Attribute::Compression)?,
                encryption: attributes.number_or_zero(Attribute::Encryption)?,
                expanded: attributes.number(Attribute::UnencodedLength)?,
                skip: attributes.number_or_zero(Attribute::UnencodedOffset)?,
                length: attributes.number(Attribute::UnencodedFileLength)?,
            },
        },
    })
}

fn made<'b>(number: u16, attributes: &Attributes<'b>) -> Result<Made<'b>, &'static str> {
    const TYPE_BITS: u64 = 0o170_000;
    const CHARACTER: u64 = 0o020_000;
    const BLOCK: u64 = 0o060_000;
    Ok(match number {
        3 => Made::File,
        4 => Made::Directory,
        5 => {
            let device = device(attributes.number(Attribute::Rdev)?)?;
            match attributes.number(Attribute::Mode)? & TYPE_BITS {
                CHARACTER => Made::CharDevice(device),
                BLOCK => Made::BlockDevice(device),
                _ => return Err("its mode is not that of a device"),
            }
        }
        6 => Made::Fifo,
        7 => Made::Socket,
        _ => Made::Symlink(attributes.bytes(Attribute::PathLink)?),
    })
}

/// The kernel's way to write a device number: twelve bits of major around twenty of minor.
fn device(encoded: u64) -> Result<Device, &'static str> {
    let encoded = u32::try_from(encoded).map_err(|_| "its device number has more than 32 bits")?;
    Ok(Device { major: (encoded >> 8) & 0xfff, minor: (encoded & 0xff) | ((encoded >> 12) & 0xf_ff00) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_number_is_taken_apart() {
        // As sent for `mknod b 259 70000` and `mknod c 1 3`.
        assert_eq!(device(0x1111_0370), Ok(Device { major: 259, minor: 70_000 }));
        assert_eq!(device(0x103), Ok(Device { major: 1, minor: 3 }));
        assert!(device(1 << 32).is_err());
    }

    #[test]
    fn version_1_knows_no_later_command() {
        let path = [15, 0, 1, 0, b'p'];
        assert_eq!(Command::parse(1, 24, &path), Err(Unclear::Unknown));
        assert_eq!(Command::parse(2, 24, &path), Ok(Command::Flags { path: b"p" }));
        for number in [0, 26, u16::MAX] {
            assert_eq!(Command::parse(2, number, &path), Err(Unclear::Unknown));
        }
        assert!(matches!(Command::parse(1, 18, &path), Err(Unclear::Malformed(_))));
    }
}
