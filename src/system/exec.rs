//! Running programs: found in fixed directories, a clean environment, a time limit, never a shell.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// Where programs are looked for. `$PATH` is never asked: it belongs to whoever called us.
pub const TOOL_DIRECTORIES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The `PATH` that children see.
pub const CLEAN_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a pipe may stay open after its program has ended.
const LEFT_BEHIND: Duration = Duration::from_secs(2);

/// How much of a failed program's stderr an error carries: its last bytes say why it gave up.
const STDERR_TAIL: usize = 2048;

/// A program that did not run to its end, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The program is not installed.
    #[error("{tool} was not found in {}", TOOL_DIRECTORIES.join(", "))]
    Missing {
        /// The program's name.
        tool: String,
    },
    /// The program could not be started, or its output could not be read.
    #[error("failed to run {}", .program.display())]
    Start {
        /// The program's path.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The time limit passed; the program and its process group were killed.
    #[error("{} gave no result within {limit:?} and was ended", .program.display())]
    TimedOut {
        /// The program's path.
        program: PathBuf,
        /// The limit that it was given.
        limit: Duration,
    },
    /// The program ended with an exit code other than 0, or by a signal.
    #[error("{} ended with {status}: {}", .program.display(), stderr.trim())]
    Failed {
        /// The program's path.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The last part of what it wrote to stderr.
        stderr: String,
    },
}

/// What a program left behind.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// All that it wrote to stdout.
    pub stdout: Vec<u8>,
    /// All that it wrote to stderr.
    pub stderr: Vec<u8>,
}

/// Finds an installed program by name in [`TOOL_DIRECTORIES`]; an absolute path is only checked.
///
/// # Errors
/// [`ExecError::Missing`] names the program.
pub fn find_tool(tool: &str) -> Result<PathBuf, ExecError> {
    let candidates: Vec<PathBuf> = if tool.starts_with('/') {
        vec![PathBuf::from(tool)]
    } else {
        TOOL_DIRECTORIES.iter().map(|dir| Path::new(dir).join(tool)).collect()
    };
    candidates
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| ExecError::Missing { tool: tool.to_owned() })
}

/// Whom a program runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The number of its group; it gets no other.
    pub gid: u32,
}

impl User {
    /// std drops the supplementary groups of whoever changes the user as root.
    pub(super) fn take_on(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid).env("HOME", "/nonexistent");
    }
}

/// A program about to run.
#[derive(Debug)]
pub struct Exec {
    program: PathBuf,
    command: Command,
    stdin: Option<Vec<u8>>,
    limit: Duration,
}

impl Exec {
    /// Prepares a program with a clean environment, its own process group and a limit of ten minutes.
    ///
    /// # Errors
    /// [`ExecError::Missing`] when it is not installed.
    pub fn new(tool: &str) -> Result<Self, ExecError> {
        let program = find_tool(tool)?;
        let mut command = Command::new(&program);
        command
            .env_clear()
            .env("PATH", CLEAN_PATH)
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", "/root")
            .current_dir("/")
            .stdin(Stdio::null())
            .process_group(0);
        Ok(Self { program, command, stdin: None, limit: Duration::from_secs(600) })
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets where the program works; otherwise in `/`.
    #[must_use]
    pub fn directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Sets one variable of the child's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Feeds these bytes to the program's stdin (otherwise it reads `/dev/null`).
    #[must_use]
    pub fn stdin(mut self, bytes: Vec<u8>) -> Self {
        self.stdin = Some(bytes);
        self
    }

    /// Sets how long the program may take.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs the program as another user, with that user's group and no supplementary groups. Only root can.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        user.take_on(&mut self.command);
        self
    }

    /// Hands out the prepared command, for the few callers that must watch the child while it lives.
    #[must_use]
    pub fn into_command(self) -> (PathBuf, Command) {
        (self.program, self.command)
    }

    /// Runs to the end and returns what was written, whatever the exit code.
    ///
    /// # Errors
    /// When it cannot be started or passes its limit.
    pub fn output(mut self) -> Result<Output, ExecError> {
        let start = |source| ExecError::Start { program: self.program.clone(), source };
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.stdin.is_some() {
            self.command.stdin(Stdio::piped());
        }
        let mut child = self.command.spawn().map_err(start)?;
        let feeder = child.stdin.take().map(|pipe| feed(pipe, self.stdin.take().unwrap_or_default()));
        let stdout = drain(child.stdout.take());
        let stderr = drain(child.stderr.take());
        let ended = wait_until(&mut child, Instant::now() + self.limit).map_err(start)?;
        if ended.is_none() {
            kill_group(&mut child);
        }
        let (stdout, stderr) =
            (collect(stdout, &child).map_err(start)?, collect(stderr, &child).map_err(start)?);
        if let Some(thread) = feeder {
            // A program that does not read its input to the end is no error of ours: its exit code tells.
            drop(thread.join());
        }
        match ended {
            Some(status) => Ok(Output { status, stdout, stderr }),
            None => Err(ExecError::TimedOut { program: self.program, limit: self.limit }),
        }
    }

    /// Runs to the end and wants exit code 0.
    ///
    /// # Errors
    /// Also when the exit code is not 0; the error carries the end of stderr.
    pub fn success(self) -> Result<Output, ExecError> {
        let program = self.program.clone();
        let output = self.output()?;
        if output.status.success() {
            return Ok(output);
        }
        Err(ExecError::Failed { program, status: output.status, stderr: tail(&output.stderr) })
    }

    /// Runs to the end, wants exit code 0, and returns stdout as text (bytes that are not UTF-8 are replaced).
    ///
    /// # Errors
    /// As [`Exec::success`].
    pub fn text(self) -> Result<String, ExecError> {
        Ok(String::from_utf8_lossy(&self.success()?.stdout).into_owned())
    }

    /// The command line as a person would read it.
    #[must_use]
    pub fn display(&self) -> String {
        let words: Vec<OsString> = std::iter::once(self.program.as_os_str())
            .chain(self.command.get_args())
            .map(OsStr::to_owned)
            .collect();
        words.join(OsStr::new(" ")).to_string_lossy().into_owned()
    }
}

/// The last part of a program's output, as text.
#[must_use]
pub fn tail(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(STDERR_TAIL)..]).into_owned()
}

/// Waits for a child until a moment; `None` when it still runs then.
///
/// # Errors
/// When the kernel refuses to watch or wait for the child.
pub fn wait_until(child: &mut Child, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
    let Some(pid) = Pid::from_raw(child.id().cast_signed()) else { return child.wait().map(Some) };
    let watch = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&wait)) {
            Ok(0) => return child.try_wait(),
            Ok(_) => return child.wait().map(Some),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Kills a child that leads its own process group, and all that it started there.
pub fn kill_group(child: &mut Child) {
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        // ESRCH: the group ended in the meantime, which is what was wanted.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    drop(child.wait());
}

/// What is read from a pipe, chunk by chunk, until its end.
type Reader = Option<Receiver<std::io::Result<Vec<u8>>>>;

fn drain(pipe: Option<impl Read + Send + 'static>) -> Reader {
    pipe.map(|mut pipe| {
        let (sender, receiver) = channel();
        thread::spawn(move || {
            let mut chunk = [0_u8; 65_536];
            loop {
                let read = pipe.read(&mut chunk).map(|length| chunk[..length].to_vec());
                let over = read.as_ref().map_or(true, Vec::is_empty);
                // Nobody listens any more when the program has ended and only what it left behind holds the pipe.
                if sender.send(read).is_err() || over {
                    return;
                }
            }
        });
        receiver
    })
}

/// Everything that was written. The program has ended; what it left running in its group is ended too, and what left the group
/// is not waited for: a daemon that keeps the pipe open would keep us for ever.
fn collect(reader: Reader, child: &Child) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let Some(reader) = reader else { return Ok(bytes) };
    let mut ended_group = false;
    loop {
        match reader.recv_timeout(LEFT_BEHIND) {
            Ok(read) => match read? {
                chunk if chunk.is_empty() => return Ok(bytes),
                chunk => bytes.extend(chunk),
            },
            Err(RecvTimeoutError::Timeout) if !ended_group => {
                ended_group = true;
                if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
                    // ESRCH: nobody was left.
                    let _ = kill_process_group(pid, Signal::KILL);
                }
            }
            Err(_) => return Ok(bytes),
        }
    }
}

fn feed(mut pipe: impl Write + Send + 'static, bytes: Vec<u8>) -> thread::JoinHandle<std::io::Result<()>> {
    thread::spawn(move || pipe.write_all(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_with_a_clean_environment() {
        let text = Exec::new("env").unwrap().env("ONE", "1").text().unwrap();
        let mut names: Vec<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
        names.sort_unstable();
        assert_eq!(names, ["HOME", "LC_ALL", "ONE", "PATH"]);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Exec::new("no-such-tool-here").unwrap_err();
        assert!(error.to_string().starts_with("no-such-tool-here was not found in /usr/sbin"), "{error}");
    }

    #[test]
    fn a_failure_carries_its_stderr() {
        let error = Exec::new("ls").unwrap().arg("/no/such/place").success().unwrap_err();
        assert!(error.to_string().contains("/no/such/place"), "{error}");
    }

    #[test]
    fn a_limit_ends_the_whole_group() {
        let error =
            Exec::new("sleep").unwrap().arg("600").limit(Duration::from_millis(50)).output().unwrap_err();
        assert!(matches!(error, ExecError::TimedOut { .. }), "{error}");
    }

    /// One stays in the group, the other leaves it.
    #[test]
    fn what_a_program_leaves_running_does_not_keep_us() {
        for script in ["sleep 600 & echo out", "setsid sleep 600 & echo $!"] {
            let out = Exec::new("sh").unwrap().args(["-c", script]).output().unwrap();
            assert!(out.status.success() && out.stdout.len() > 1, "{out:?}");
            if let Some(pid) =
                std::str::from_utf8(&out.stdout).unwrap().trim().parse().ok().and_then(Pid::from_raw)
            {
                rustix::process::kill_process(pid, Signal::KILL).unwrap();
            }
        }
    }

    #[test]
    fn another_user_keeps_none_of_our_groups() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root to become somebody else");
            return;
        }
        let nobody = User { uid: 65_534, gid: 65_534 };
        let text = Exec::new("cat").unwrap().arg("/proc/self/status").user(nobody).text().unwrap();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(field("Uid:"), "65534 65534 65534 65534");
        assert_eq!((field("Gid:").as_str(), field("Groups:").as_str()), ("65534 65534 65534 65534", ""));
        assert_eq!(field("CapEff:"), "0000000000000000");
    }

    #[test]
    fn stdin_reaches_the_program() {
        let out = Exec::new("cat").unwrap().stdin(b"hello".to_vec()).output().unwrap();
        assert_eq!(out.stdout, b"hello");
    }
}
