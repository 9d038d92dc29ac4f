//! A directory on another machine, reached by ssh.
//!
//! Where safe-upgrade is installed there, it reads the directory in its place and sends what it found, a manifest: nothing is
//! copied. Otherwise rsync fetches a copy into a private directory, and that is read here.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::thread;

use super::remote_shell::{Address, AddressError, Transport, said};
use super::rsync_from::{self, RsyncError};
use super::{Gathered, Reading};
use crate::manifest::collect::Collector;
use crate::manifest::entry::Status;
use crate::manifest::format::FormatError;
use crate::manifest::sorter::SortError;
use crate::manifest::{Facts, Found, Progress, Reader};
use crate::system::exec::ExecError;
use crate::system::show;

/// How the program is called on the other machine when nothing else is said.
const PROGRAM: &str = "safe-upgrade";

/// What ssh itself ends with when it could not reach or enter the machine.
const SSH_FAILED: i32 = 255;

/// What shells end with when a program cannot be started (126) or is not there (127), and ours when it does not know an option.
const NOT_THERE: [i32; 3] = [126, 127, 2];

/// How often progress is told: every so many entries.
const TELL_EVERY: u64 = 1000;

/// A directory on another machine about which nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// The address makes no sense.
    #[error("the address of the other machine is not usable")]
    Address(#[from] AddressError),
    /// ssh is not installed.
    #[error("failed to start ssh")]
    Start(#[from] ExecError),
    /// Talking to ssh failed.
    #[error("failed to talk to {host}")]
    Talk {
        /// The machine.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// ssh could not reach or enter the machine.
    #[error("ssh could not enter {host}: {says}")]
    NotEntered {
        /// The machine.
        host: String,
        /// The end of what ssh wrote, safe to show.
        says: String,
    },
    /// The program there gave up.
    #[error("safe-upgrade on {host} ended with {status}: {says}")]
    Failed {
        /// The machine.
        host: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote, safe to show.
        says: String,
    },
    /// What it sent is no whole manifest.
    #[error("{host} sent no whole manifest ({says})")]
    Broken {
        /// The machine.
        host: String,
        /// How the program there ended and the end of what it wrote, safe to show.
        says: String,
        /// What is wrong with it.
        source: FormatError,
    },
    /// It sent more than a copy of this tree can hold.
    #[error("{host} sent more than {most} entries, more than a copy of this tree can hold")]
    TooMany {
        /// The machine.
        host: String,
        /// The limit.
        most: u64,
    },
    /// The copy could not be fetched.
    #[error("failed to fetch a copy from {host}")]
    Fetch {
        /// The machine.
        host: String,
        /// Why.
        source: RsyncError,
    },
    /// What was found could not be sorted.
    #[error("failed to put in order what was found")]
    Sort(#[from] SortError),
}

/// Reads a directory on another machine.
///
/// # Errors
/// When the machine cannot be entered, or the directory cannot be read there.
pub fn read(
    address: &Address,
    transport: &Transport,
    cross_mounts: bool,
    reading: &Reading<'_>,
    into: &mut Collector,
) -> Result<Gathered, SshError> {
    let host = show::line(&address.login());
    let why_not = if reading.hashing.is_keyed() {
        // Who has the key can make manifests that pass; the machine that keeps the copy must not have it.
        "the manifest is keyed, and its key stays here".to_owned()
    } else {
        match ask(address, transport, cross_mounts, reading, into)? {
            Answer::Read(gathered) => return Ok(gathered),
            Answer::NotThere(why) => format!("safe-upgrade cannot be run there ({why})"),
        }
    };
    let fetched = rsync_from::read(address, transport, cross_mounts, reading, into);
    let mut gathered = fetched.map_err(|source| SshError::Fetch { host: host.clone(), source })?;
    let how = format!("{why_not}: the directory was copied from {host} by rsync, and the copy read here");
    gathered.remarks.insert(0, how);
    Ok(gathered)
}

enum Answer {
    Read(Gathered),
    NotThere(String),
}

/// Has the directory read by the program on the other machine.
fn ask(
    address: &Address,
    transport: &Transport,
    cross_mounts: bool,
    reading: &Reading<'_>,
    into: &mut Collector,
) -> Result<Answer, SshError> {
    let host = show::line(&address.login());
    let words = words(address, transport, cross_mounts, reading.excludes.written());
    let words: Vec<&OsStr> = words.iter().map(OsString::as_os_str).collect();
    let (_, mut command) = transport.command(address, &words)?.into_command();
    let talk = |source| SshError::Talk { host: host.clone(), source };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(talk)?;
    let (received, stderr) = listen(&mut child, |pipe| receive(pipe, &host, reading, into));
    if received.is_err() {
        // Nothing more is wanted from it; it may have ended by itself.
        let _ = child.kill();
    }
    let status = child.wait().map_err(talk)?;
    let says = said(&stderr.map_err(talk)?);
    judge(&host, received, status, says)
}

/// What was sent and how the other side ended, taken together.
fn judge(
    host: &str,
    received: Result<Option<Sent>, SshError>,
    status: ExitStatus,
    says: String,
) -> Result<Answer, SshError> {
    let host = host.to_owned();
    match (received, status.code()) {
        // Ends with 1 when some of what it read was unreadable, which the manifest says entry by entry.
        (Ok(Some(sent)), Some(0 | 1)) => Ok(Answer::Read(sent.gathered(&host))),
        (Ok(None), Some(SSH_FAILED)) => Err(SshError::NotEntered { host, says }),
        (Ok(None), Some(code)) if NOT_THERE.contains(&code) || says.contains("not found") => {
            Ok(Answer::NotThere(says))
        }
        (Ok(_), _) => Err(SshError::Failed { host, status, says }),
        (Err(SshError::Broken { source, .. }), _) => {
            Err(SshError::Broken { host, says: format!("{status}: {says}"), source })
        }
        (Err(error), _) => Err(error),
    }
}

/// What the other machine is told to do.
fn words(
    address: &Address,
    transport: &Transport,
    cross_mounts: bool,
    excludes: &[Vec<u8>],
) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    if transport.sudo {
        words.extend(["sudo".into(), "-n".into()]);
    }
    words.push(transport.program.clone().map_or_else(|| PROGRAM.into(), OsString::from));
    words.extend(["manifest".into(), "create".into(), "--output".into(), "-".into()]);
    if cross_mounts {
        words.push("--cross-mounts".into());
    }
    for pattern in excludes {
        // One word, so that a pattern that begins with a dash is no option.
        let mut word = OsString::from("--exclude=");
        word.push(OsStr::from_bytes(pattern));
        words.push(word);
    }
    words.extend(["--".into(), address.path().to_owned()]);
    words
}

/// Reads what a child writes, and its stderr beside.
fn listen<T>(child: &mut Child, take: impl FnOnce(&mut dyn Read) -> T) -> (T, io::Result<Vec<u8>>) {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let words = scope.spawn(move || {
            let mut bytes = Vec::new();
            stderr.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes)).map(|_| bytes)
        });
        let taken = match stdout {
            Some(mut pipe) => take(&mut pipe),
            None => take(&mut io::empty()),
        };
        let words =
            words.join().unwrap_or_else(|_| Err(io::Error::other("the thread that reads stderr panicked")));
        (taken, words)
    })
}

/// A whole manifest that was received.
struct Sent {
    tool: String,
    state: Progress,
    unreadable: u64,
}

impl Sent {
    fn gathered(self, host: &str) -> Gathered {
        let Self { tool, state, unreadable } = self;
        let tool = show::line(&tool);
        let mut remarks = vec![format!(
            "{} entries were read by {tool} on {host}, and its word was taken for what it found",
            state.entries
        )];
        if unreadable > 0 {
            remarks.push(format!("{unreadable} entries could not be read there"));
        }
        Gathered { remarks, carries: Facts::ALL.without(Facts::FLAGS), ..Gathered::plain() }
    }
}

/// Takes a manifest from a pipe; `None` when not a byte came.
fn receive(
    pipe: &mut dyn Read,
    host: &str,
    reading: &Reading<'_>,
    into: &mut Collector,
) -> Result<Option<Sent>, SshError> {
    let mut first = [0];
    let talk = |source| SshError::Talk { host: host.to_owned(), source };
    if pipe.read(&mut first).map_err(talk)? == 0 {
        return Ok(None);
    }
    let broken = |source| SshError::Broken { host: host.to_owned(), says: String::new(), source };
    let whole = io::BufReader::with_capacity(128 << 10, io::Cursor::new(first).chain(pipe));
    let mut reader = Reader::new(whole, Path::new("-"), &reading.hashing).map_err(broken)?;
    let mut state = Progress::default();
    let mut unreadable = 0;
    for entry in &mut reader {
        let mut entry = entry.map_err(broken)?;
        state.entries += 1;
        state.bytes = state.bytes.saturating_add(entry.bytes());
        if state.entries > reading.limits.entries {
            return Err(SshError::TooMany { host: host.to_owned(), most: reading.limits.entries });
        }
        unreadable += u64::from(matches!(entry.status, Status::Unreadable(_)));
        if let Some(group) = entry.link_group.take() {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&group.to_le_bytes());
            into.same_inode(key, &entry.path)?;
        }
        into.push(&Found::whole(entry))?;
        if state.entries % TELL_EVERY == 0 {
            (reading.progress)(state);
        }
    }
    let tool = reader.header().tool.clone();
    match reader.summary() {
        Some(_) => Ok(Some(Sent { tool, state, unreadable })),
        None => Err(broken(FormatError::Truncated(0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn what_the_other_machine_is_told() {
        let address: Address = "db1:/srv/a b".parse().unwrap();
        let transport = Transport { sudo: true, ..Transport::default() };
        let words = words(&address, &transport, true, &[b"-x*".to_vec()]);
        let wanted =
            "sudo -n safe-upgrade manifest create --output - --cross-mounts --exclude=-x* -- /srv/a b";
        assert_eq!(words.join(OsStr::new(" ")), wanted);
    }

    #[test]
    fn the_ways_it_can_end_are_told_apart() {
        let end =
            |code: i32, says: &str| judge("h", Ok(None), ExitStatus::from_raw(code << 8), says.to_owned());
        assert!(matches!(end(255, "Permission denied (publickey)."), Err(SshError::NotEntered { .. })));
        assert!(matches!(end(127, "sh: 1: safe-upgrade: not found"), Ok(Answer::NotThere(_))));
        assert!(matches!(end(1, "sudo: safe-upgrade: command not found"), Ok(Answer::NotThere(_))));
        assert!(matches!(end(2, "error: unexpected argument"), Ok(Answer::NotThere(_))));
        assert!(matches!(end(1, "could not read /srv"), Err(SshError::Failed { .. })));
        let sent = || Ok(Some(Sent { tool: "t".to_owned(), state: Progress::default(), unreadable: 1 }));
        let end = |code: i32| judge("h", sent(), ExitStatus::from_raw(code), String::new());
        assert!(matches!(end(1 << 8), Ok(Answer::Read(_))));
        assert!(matches!(end(9), Err(SshError::Failed { .. })));
    }
}
