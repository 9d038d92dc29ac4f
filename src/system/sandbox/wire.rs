//! What the caller and the stages of the trampoline tell each other, over the socket that is the stages' stdin.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::barriers::{Barrier, Barriers};

/// Longer than any honest frame: a million arguments would not fit an `execve` either.
const LONGEST_FRAME: u32 = 64 << 20;

/// What stands in an argument or a variable for the number of the descriptor that holds the secret.
pub const SECRET: &str = "{secret}";

/// Which of root's powers an engine keeps. Nobody keeps more than root has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Powers {
    /// Reading files of other owners.
    Read,
    /// Also giving restored files their owner, mode, capabilities and flags, and making device nodes (which it can't open).
    /// Not among them: what the kernel wants CAP_SYS_ADMIN for, such as extended attributes that begin with `trusted.`.
    Restore,
}

/// Limits of the kernel on what an engine may use; `None` leaves the caller's own limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ceilings {
    /// Open files.
    pub files: Option<u64>,
    /// Address space in bytes. Programs in Go reserve far more than they use: less than 2 GiB ends them.
    pub memory: Option<u64>,
    /// Seconds of processor time.
    pub cpu: Option<u64>,
    /// The largest file that may be written, in bytes.
    pub file_size: Option<u64>,
}

/// A secret on its way to the engine; never shown.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub(super) Vec<u8>);

impl Secret {
    /// Takes the bytes as they are: no line end is cut.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Everything that the stages need to know. It goes through the socket, so that nothing of it shows in a list of processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Spec {
    pub program: OsString,
    pub args: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    pub secret: Option<Secret>,
    /// Why the engine may use the network; `None`: it may not.
    pub network: Option<String>,
    pub powers: Powers,
    pub read: Vec<OsString>,
    pub write: Vec<OsString>,
    /// An empty directory: the engine's root directory is put together on it.
    pub root: OsString,
    /// Its `HOME`.
    pub home: OsString,
    /// Where it starts, if not there.
    pub directory: Option<OsString>,
    pub ceilings: Ceilings,
    /// Barriers that may be missing.
    pub spared: Vec<Barrier>,
}

/// What a stage says to the caller.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Said {
    /// The barriers stand; the next thing that happens is that the engine runs.
    Ready(Barriers),
    /// The engine was not started.
    Refused { what: String, why: String },
    /// The engine ended with this exit code, or by this signal.
    Ended { code: Option<i32>, signal: Option<i32> },
}

/// Writes one frame: its length (four bytes, little end first), then JSON.
pub(super) fn send(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(value)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= LONGEST_FRAME);
    let length = length.ok_or_else(|| io::Error::other("what the engine is told is too long"))?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&body)
}

/// Reads one frame and not a byte more; `None` at the end.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0_u8; 4];
    match from.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_le_bytes(length);
    if length > LONGEST_FRAME {
        return Err(io::Error::other("a frame of the sandbox is too long"));
    }
    let mut body = vec![0; length as usize];
    from.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_one_at_a_time() {
        let mut pipe = Vec::new();
        send(&mut pipe, &Said::Ended { code: Some(3), signal: None }).unwrap();
        send(&mut pipe, &7_u8).unwrap();
        let mut from = pipe.as_slice();
        let first: Option<Said> = receive(&mut from).unwrap();
        assert!(matches!(first, Some(Said::Ended { code: Some(3), signal: None })), "{first:?}");
        assert_eq!(receive::<u8>(&mut from).unwrap(), Some(7));
        assert_eq!(receive::<u8>(&mut from).unwrap(), None);
    }

    #[test]
    fn a_cut_or_endless_frame_is_an_error() {
        let mut pipe = Vec::new();
        send(&mut pipe, &"four").unwrap();
        assert!(receive::<String>(&mut &pipe[..pipe.len() - 1]).is_err());
        assert!(receive::<String>(&mut &[255_u8, 255, 255, 255, 0][..]).is_err());
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert_eq!(format!("{:?}", Secret::new(b"hunter2".to_vec())), "Secret(..)");
    }
}
