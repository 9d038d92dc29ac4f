//! A directory on another machine, fetched by rsync over ssh into a private directory and read there.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use super::remote_shell::{Address, Transport, said};
use super::{Gathered, Reading, SourceError, directory};
use crate::manifest::collect::Collector;
use crate::manifest::entry::Edge;
use crate::manifest::sorter::SortError;
use crate::manifest::{Entry, Facts, Found, Kind, Status};
use crate::system::durable::{self, DurableError};
use crate::system::exec::{Exec, ExecError};

/// All that rsync can keep, numbers instead of names, and names that no shell takes apart (`-s`). Without `--modify-window=-1` it
/// compares times in whole seconds and does not set that of a directory whose second is right.
const KEEP_ALL: [&str; 4] = ["-aHAXSs", "--numeric-ids", "--modify-window=-1", "--outbuf=L"];

/// Seconds without a byte moved after which rsync gives up: longer than any disk needs to answer.
const STALL_SECONDS: u32 = 900;

/// A copy that could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum RsyncError {
    /// It is not installed.
    #[error("failed to start rsync")]
    Start(#[from] ExecError),
    /// It could not be run.
    #[error("failed to run rsync")]
    Run(#[source] io::Error),
    /// The directory for the copy could not be made.
    #[error("failed to make room for the copy")]
    Place(#[from] DurableError),
    /// It ended badly, or could not do something other than read an entry there.
    #[error("rsync ended with {status}: {says}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote, safe to show.
        says: String,
    },
    /// The copy could not be read.
    #[error("failed to read the copy that was fetched")]
    Read(#[source] Box<SourceError>),
    /// What was found could not be sorted.
    #[error("failed to put in order what was found")]
    Sort(#[from] SortError),
}

/// Fetches and reads a directory. What could not be read there is marked with the errno.
///
/// # Errors
/// When rsync could not do its work, for any other reason than that entries were unreadable or vanished.
pub fn read(
    address: &Address,
    transport: &Transport,
    cross_mounts: bool,
    reading: &Reading<'_>,
    into: &mut Collector,
) -> Result<Gathered, RsyncError> {
    let root = rustix::process::geteuid().is_root();
    let place = reading.scratch.join("fetched");
    durable::private_directory(&place)?;
    let unreadable = fetch(address, transport, reading, &place, root)?;
    durable::sync_filesystem(&place)?;
    let mut gathered = directory::read_into(&place, cross_mounts, reading, into)
        .map_err(|source| RsyncError::Read(Box::new(source)))?;
    for Unreadable { path, directory, errno } in &unreadable {
        let kind = if *directory { Kind::Directory { edge: Edge::Inside } } else { Kind::unread_file(0) };
        let entry = Entry { status: Status::Unreadable(*errno), ..Entry::new(path.clone(), kind) };
        into.push(&Found { entry, carries: Facts::NONE })?;
    }
    gathered.carries = gathered.carries.and(carried(root));
    Ok(gathered)
}

/// What rsync brings: not flags, never sockets of others, and to a user who is not root only what such a user can make. It then
/// leaves out all attributes but `user.*`, among them capabilities.
fn carried(root: bool) -> Facts {
    let all = Facts::ALL.without(Facts::FLAGS);
    if root { all } else { all.and(Facts::restored_by(false)).without(Facts::XATTRS) }
}

fn fetch(
    address: &Address,
    transport: &Transport,
    reading: &Reading<'_>,
    place: &Path,
    root: bool,
) -> Result<Vec<Unreadable>, RsyncError> {
    let mut from = address.for_rsync();
    from.push("/");
    let mut exec = Exec::new("rsync")?.args(KEEP_ALL).arg(format!("--timeout={STALL_SECONDS}"));
    exec = exec.arg("-e").arg(transport.for_rsync(address));
    if transport.sudo {
        exec = exec.arg("--rsync-path=sudo -n rsync");
    }
    if !root {
        exec = exec.arg("--no-devices");
    }
    exec = exec.args(reading.excludes.rsync_arguments());
    if let Some(agent) = &transport.agent {
        exec = exec.env("SSH_AUTH_SOCK", agent);
    }
    let (_, mut command) = exec.arg("--").arg(from).arg(place).into_command();
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(RsyncError::Run)?;
    judge(output.status, &output.stderr, address.path().as_bytes())
}

/// An entry that the other side could not read.
#[derive(Debug, PartialEq, Eq)]
struct Unreadable {
    path: Vec<u8>,
    directory: bool,
    errno: u32,
}

/// What an exit status and the words on stderr mean. 23: some of it could not be copied; 24: some of it vanished meanwhile.
fn judge(status: ExitStatus, stderr: &[u8], top: &[u8]) -> Result<Vec<Unreadable>, RsyncError> {
    let failed = || RsyncError::Failed { status, says: said(stderr) };
    match status.code() {
        Some(0 | 24) => Ok(Vec::new()),
        Some(23) => {
            let lines = stderr.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"rsync: "));
            let all: Option<Vec<Unreadable>> = lines.map(|line| unreadable(line, top)).collect();
            // Without a word about what it was, or with one that we do not understand, nothing is known.
            all.filter(|all| !all.is_empty()).ok_or_else(failed)
        }
        _ => Err(failed()),
    }
}

/// The entry in a line such as `rsync: [sender] opendir "/srv/x" failed: Permission denied (13)`, when it lies below `top`.
fn unreadable(line: &[u8], top: &[u8]) -> Option<Unreadable> {
    let rest = line.strip_prefix(b"rsync: [sender] ")?;
    let open = rest.iter().position(|&byte| byte == b'"')?;
    let close = rest.iter().rposition(|&byte| byte == b'"').filter(|close| *close > open)?;
    let directory = match &rest[..open] {
        b"opendir " => true,
        b"send_files failed to open " | b"read errors mapping " => false,
        _ => return None,
    };
    let path = unescaped(&rest[open + 1..close]);
    let top = top.strip_suffix(b"/").unwrap_or(top);
    let path = path.strip_prefix(top)?.strip_prefix(b"/").unwrap_or_default();
    let path = path.strip_suffix(b"/.").unwrap_or(path);
    let path = if path == b"." { b"" } else { path };
    let after = std::str::from_utf8(&rest[close + 1..]).ok()?.trim_end().strip_suffix(')')?;
    let errno = after.rsplit_once('(')?.1.parse().ok()?;
    Some(Unreadable { path: path.to_vec(), directory, errno })
}

/// rsync shows bytes that a terminal should not get as `\#` and three octal digits.
fn unescaped(shown: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(shown.len());
    let mut rest = shown;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = rest.strip_prefix(b"\\#").and_then(|digits| digits.get(..3));
        let value = octal.and_then(|octal| u8::from_str_radix(std::str::from_utf8(octal).ok()?, 8).ok());
        path.push(value.unwrap_or(byte));
        rest = if value.is_some() { &rest[5..] } else { after };
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    /// What rsync 3.5.0 wrote when it was not let into a directory and two files.
    const REFUSED: &[u8] = include_bytes!("../../tests/fixtures/ssh/rsync-refused");

    #[test]
    fn what_could_not_be_read_is_named_with_its_errno() {
        let all = judge(ExitStatus::from_raw(23 << 8), REFUSED, b"/srv/a").unwrap();
        let found = |path: &[u8], directory| Unreadable { path: path.to_vec(), directory, errno: 13 };
        assert_eq!(all, [found(b"dir", true), found(b"secret", false), found(b"q\"uo\nte/f", false)]);
    }

    #[test]
    fn what_is_not_understood_is_no_answer() {
        let judge = |code: i32, words: &[u8]| judge(ExitStatus::from_raw(code << 8), words, b"/srv/a");
        for (code, words) in [
            (23, &b""[..]),
            (23, b"rsync: [generator] mknod \"/x\" failed: Operation not permitted (1)\n"),
            (23, b"rsync: [sender] opendir \"/elsewhere\" failed: Permission denied (13)\n"),
            (23, b"rsync: [sender] link_stat \"/srv/a/.\" failed: No such file or directory (2)\n"),
            (12, b"rsync: connection unexpectedly closed\n"),
            (255, b"Permission denied (publickey).\n"),
        ] {
            assert!(judge(code, words).is_err(), "{}", String::from_utf8_lossy(words));
        }
        assert_eq!(judge(24, b"").unwrap(), []);
    }
}
