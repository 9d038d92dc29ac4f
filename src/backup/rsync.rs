//! Running rsync: its options, its progress, and what its exit codes mean to us.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread;

use crate::manifest::xattr::Xattr;
use crate::manifest::{Entry, Kind};
use crate::system::exec::{Exec, ExecError, tail};
use crate::system::show;

/// What a copy must keep: all of `-a`, hard links, ACLs, extended attributes, holes, and numbers instead of names.
///
/// Without `--modify-window=-1` rsync compares times in whole seconds: it then does not set the time of a directory or symlink
/// that was just made when the second is right (seen with 3.5.0), and takes a file of the same size and second for copied.
pub const KEEP_ALL: [&str; 3] = ["-aHAXS", "--numeric-ids", "--modify-window=-1"];

/// Seconds without a byte moved after which rsync gives up: longer than any disk needs to answer.
const STALL_SECONDS: u32 = 900;

/// How an rsync ended that did at least most of its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// All of it.
    Complete,
    /// Files vanished between being listed and being copied (24).
    Vanished,
    /// Some entries could not be copied in full (23); the text is the end of its stderr, safe to show.
    Partial(String),
}

/// An rsync that did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum RsyncError {
    /// It is not installed or could not be started.
    #[error("failed to start rsync")]
    Start(#[from] ExecError),
    /// Talking to it failed.
    #[error("failed to run rsync from {}", show::path(.from))]
    Io {
        /// What it should copy.
        from: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There was no room left where it wrote.
    #[error("no space was left in {}", show::path(.to))]
    NoSpace {
        /// Where it wrote.
        to: PathBuf,
    },
    /// It ended otherwise.
    #[error("rsync from {} ended with {status}: {stderr}", show::path(.from))]
    Failed {
        /// What it should copy.
        from: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to stderr, safe to show.
        stderr: String,
    },
}

/// Copies the content of one directory into another; `list`, when given, names the paths to take.
///
/// `on_bytes` is told how many bytes have been transferred so far.
///
/// # Errors
/// When rsync is missing, ends with anything but 0, 23 or 24, or ran out of space.
pub fn run(
    from: &Path,
    to: &Path,
    arguments: &[OsString],
    list: Option<&[u8]>,
    on_bytes: &(dyn Fn(u64) + Sync),
) -> Result<Ended, RsyncError> {
    let mut exec = Exec::new("rsync")?
        .args(KEEP_ALL)
        .args(["--info=progress2", "--outbuf=L"])
        .arg(format!("--timeout={STALL_SECONDS}"))
        .args(arguments);
    if list.is_some() {
        exec = exec.args(["--files-from=-", "--from0"]);
    }
    // Both are absolute, so a colon in them cannot be taken for a host.
    let (_, mut command) = exec.arg("--").arg(with_slash(from)).arg(with_slash(to)).into_command();
    command.stdin(if list.is_some() { Stdio::piped() } else { Stdio::null() });
    let io = |source| RsyncError::Io { from: from.to_owned(), source };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(io)?;
    let stderr = attend(&mut child, list, on_bytes);
    let status = child.wait().map_err(io)?;
    judge(from, to, status, &stderr.map_err(io)?)
}

/// What an exit status and the words on stderr mean.
fn judge(from: &Path, to: &Path, status: ExitStatus, stderr: &[u8]) -> Result<Ended, RsyncError> {
    let text = show::line(tail(stderr).trim());
    // rsync ends with 11 on a failed write, but with 23 when it could not create something.
    let full = ["No space left on device", "Disk quota exceeded"];
    if !status.success() && full.iter().any(|words| text.contains(words)) {
        return Err(RsyncError::NoSpace { to: to.to_owned() });
    }
    match status.code() {
        Some(0) => Ok(Ended::Complete),
        Some(24) => Ok(Ended::Vanished),
        Some(23) => Ok(Ended::Partial(text)),
        _ => Err(RsyncError::Failed { from: from.to_owned(), status, stderr: text }),
    }
}

/// Feeds and reads the child until it closes its output; returns its stderr.
fn attend(child: &mut Child, list: Option<&[u8]>, on_bytes: &(dyn Fn(u64) + Sync)) -> io::Result<Vec<u8>> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        if let (Some(mut pipe), Some(list)) = (stdin, list) {
            // An rsync that does not read its list to the end tells why by its exit code.
            scope.spawn(move || drop(pipe.write_all(list)));
        }
        let words = scope.spawn(move || {
            let mut bytes = Vec::new();
            stderr.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes)).map(|_| bytes)
        });
        if let Some(pipe) = stdout {
            follow(pipe, on_bytes)?;
        }
        words.join().unwrap_or_else(|_| Err(io::Error::other("the thread that reads stderr panicked")))
    })
}

/// Reads progress lines, which end in a carriage return, until the end.
fn follow(mut pipe: impl Read, on_bytes: &(dyn Fn(u64) + Sync)) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let mut line = Vec::new();
    loop {
        let got = pipe.read(&mut buffer)?;
        if got == 0 {
            return Ok(());
        }
        for &byte in &buffer[..got] {
            if byte == b'\r' || byte == b'\n' {
                if let Some(bytes) = parse_progress(&line) {
                    on_bytes(bytes);
                }
                line.clear();
            } else if line.len() < 256 {
                line.push(byte);
            }
        }
    }
}

/// The bytes in a line such as `    1,234,567  45%   12.34MB/s    0:00:01`.
fn parse_progress(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split_ascii_whitespace();
    let number: String = words.next()?.chars().filter(|c| *c != ',').collect();
    words.next()?.ends_with('%').then(|| number.parse().ok())?
}

/// To rsync, `dir/` is what is in the directory and `dir` the directory itself.
fn with_slash(path: &Path) -> OsString {
    let mut text = path.as_os_str().to_owned();
    text.push("/");
    text
}

/// How often rsync must give directories their metadata: twice where one has the sticky bit and an access control list.
///
/// rsync 3.5.0 sets the list, then the sticky bit, and with that takes the owning group's own permissions out of the list (seen
/// with mode 1750 and a named user); a second pass finds the difference and mends it.
#[must_use]
pub(super) fn directory_passes(entries: &[Entry], lists_are_known: bool) -> usize {
    let sticky = |entry: &Entry| matches!(entry.kind, Kind::Directory { .. }) && entry.mode & 0o1000 != 0;
    let listed = |entry: &Entry| !lists_are_known || entry.xattrs.iter().any(Xattr::is_acl);
    if entries.iter().any(|entry| sticky(entry) && listed(entry)) { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn progress_is_read() {
        assert_eq!(parse_progress(b"      1,234,567  45%   12.34MB/s    0:00:01"), Some(1_234_567));
        assert_eq!(parse_progress(b"              0   0%    0.00kB/s    0:00:00 (xfr#0)"), Some(0));
        assert_eq!(parse_progress(b"sending incremental file list"), None);
        assert_eq!(parse_progress(b""), None);
    }

    #[test]
    fn exit_codes_are_judged() {
        let judge = |code: i32, words: &str| {
            judge(Path::new("/a"), Path::new("/b"), ExitStatus::from_raw(code << 8), words.as_bytes())
        };
        assert_eq!(judge(0, "").unwrap(), Ended::Complete);
        assert_eq!(judge(24, "").unwrap(), Ended::Vanished);
        assert_eq!(judge(23, "x\ny\n").unwrap(), Ended::Partial("x\\x0ay".to_owned()));
        let full = "rsync: [receiver] write failed on \"/b/f\": No space left on device (28)";
        assert!(matches!(judge(11, full), Err(RsyncError::NoSpace { .. })));
        assert!(matches!(judge(12, ""), Err(RsyncError::Failed { .. })));
    }
}
