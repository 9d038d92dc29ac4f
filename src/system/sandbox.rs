//! Runs somebody else's program (restic, borg, tar, ...) on somebody else's bytes where neither can do harm.
//!
//! What an engine reads is a backup that may be damaged or made to attack. So it gets no network, sees no files but its own, no
//! processes but its own, none of the caller's environment, and ends when we end. [`Barriers`] says which of this holds.
//!
//! The way in is a trampoline: the caller starts our own program once more, which sets itself up and then becomes the engine.

mod barriers;
mod inside;
mod landlocked;
mod room;
mod wire;

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

use crate::system::exec::{ExecError, find_tool, kill_group, wait_until};
use wire::{Said, Spec, receive, send};

pub use barriers::{Barrier, Barriers, Standing};
pub use inside::{StageError, stage_of};
pub use wire::{Ceilings, Powers, SECRET, Secret};

/// The first argument of our own program when it is started as a stage of the trampoline.
pub const WORD: &str = "__sandbox";

/// How long setting the barriers up may take.
const SETTING_UP: Duration = Duration::from_secs(60);

/// How long an engine that is no longer wanted may take to go.
const GOING: Duration = Duration::from_secs(10);

/// How much the pipe of stdout holds, in bytes: what any user may have (proc_sys_fs(5), pipe-max-size).
const PIPE: usize = 1 << 20;

/// How much of the engine's stderr is kept: the beginning and the end of it, each this long.
const KEPT: usize = 32 << 10;

/// An engine that could not be run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The engine is not installed.
    #[error(transparent)]
    Missing(#[from] ExecError),
    /// A path that the engine was to see.
    #[error("failed to find {}", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The sandbox could not be started or listened to.
    #[error("failed to run {} in the sandbox", .program.display())]
    Run {
        /// The engine.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A barrier does not hold, so the engine was not started.
    #[error("{} was not run: {what}: {why}", .program.display())]
    Refused {
        /// The engine.
        program: PathBuf,
        /// What failed.
        what: String,
        /// Why.
        why: String,
    },
    /// It gave no sign of life.
    #[error("{} gave no sign of life for {limit:?} and was ended", .program.display())]
    Silent {
        /// The engine.
        program: PathBuf,
        /// How long.
        limit: Duration,
    },
    /// The sandbox itself ended before it could tell how the engine did.
    #[error("the sandbox around {} ended early: {stderr}", .program.display())]
    Lost {
        /// The engine.
        program: PathBuf,
        /// The end of what was written to stderr.
        stderr: String,
    },
}

/// An engine about to run.
#[derive(Debug)]
pub struct Sandbox {
    trampoline: PathBuf,
    spec: Spec,
    room: TempDir,
    silence: Duration,
}

impl Sandbox {
    /// Prepares an engine. `trampoline` is our own program (in it: [`own_program`]); `private` is a directory of ours where the
    /// engine's home is made.
    ///
    /// # Errors
    /// When the engine is not installed or the directory cannot be used.
    pub fn new(trampoline: &Path, engine: &str, private: &Path) -> Result<Self, SandboxError> {
        let program = real(&find_tool(engine)?)?;
        let wrong = |source| SandboxError::Path { path: private.to_owned(), source };
        let room = tempfile::Builder::new().prefix("sandbox-").tempdir_in(real(private)?).map_err(wrong)?;
        let (root, home) = (room.path().join("root"), room.path().join("home"));
        room::private(&root).map_err(wrong)?;
        room::private(&home).map_err(wrong)?;
        let spec = Spec {
            program: program.into(),
            args: Vec::new(),
            environment: Vec::new(),
            secret: None,
            network: None,
            powers: Powers::Read,
            read: Vec::new(),
            write: Vec::new(),
            root: root.into(),
            home: home.into(),
            directory: None,
            ceilings: Ceilings { files: Some(4096), ..Ceilings::default() },
            spared: Vec::new(),
        };
        Ok(Self { trampoline: trampoline.to_owned(), spec, room, silence: Duration::from_secs(600) })
    }

    /// Adds an argument. The first [`SECRET`] in it becomes the number of the descriptor that holds the secret.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.spec.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.spec.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets one variable of the engine's environment, which is otherwise empty but for the ordinary ones. [`SECRET`] as in [`Sandbox::arg`].
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.spec.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Gives the engine a secret, in memory: it is in no argument, no variable and no file.
    #[must_use]
    pub fn secret(mut self, secret: Secret) -> Self {
        self.spec.secret = Some(secret);
        self
    }

    /// Lets the engine read a file or directory.
    ///
    /// # Errors
    /// When it is not there.
    pub fn read(mut self, path: &Path) -> Result<Self, SandboxError> {
        self.spec.read.push(real(path)?.into());
        Ok(self)
    }

    /// Lets the engine write below a directory.
    ///
    /// # Errors
    /// When it is not there.
    pub fn write(mut self, path: &Path) -> Result<Self, SandboxError> {
        self.spec.write.push(real(path)?.into());
        Ok(self)
    }

    /// Lets the engine use the network; the words say why, for the report.
    #[must_use]
    pub fn network(mut self, why: &str) -> Self {
        self.spec.network = Some(why.to_owned());
        self
    }

    /// Starts the engine in a directory that it may see; by default in its home.
    ///
    /// # Errors
    /// When it is not there.
    pub fn directory(mut self, path: &Path) -> Result<Self, SandboxError> {
        self.spec.directory = Some(real(path)?.into());
        Ok(self)
    }

    /// Says which of root's powers the engine keeps; by default [`Powers::Read`].
    #[must_use]
    pub fn powers(mut self, powers: Powers) -> Self {
        self.spec.powers = powers;
        self
    }

    /// Sets limits; by default 4096 open files and nothing else.
    #[must_use]
    pub fn ceilings(mut self, ceilings: Ceilings) -> Self {
        self.spec.ceilings = ceilings;
        self
    }

    /// Lets the engine run although one barrier does not hold.
    #[must_use]
    pub fn spare(mut self, barrier: Barrier) -> Self {
        self.spec.spared.push(barrier);
        self
    }

    /// Sets how long the engine's stdout may be silent; by default ten minutes.
    #[must_use]
    pub fn silence(mut self, limit: Duration) -> Self {
        self.silence = limit;
        self
    }

    /// The engine's home: private, empty, writable. What is put here before the start is there for the engine.
    #[must_use]
    pub fn home(&self) -> &Path {
        Path::new(&self.spec.home)
    }

    /// Sets the barriers up and starts the engine behind them.
    ///
    /// # Errors
    /// [`SandboxError::Refused`] when a barrier does not hold that should.
    pub fn start(self) -> Result<Running, SandboxError> {
        let program = PathBuf::from(&self.spec.program);
        let failed = |source| SandboxError::Run { program: program.clone(), source };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mut child = Command::new(&self.trampoline)
            .args([WORD, "namespaces"])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        if let Some(pipe) = &child.stdout {
            // Fewer, larger pieces. Without it the stream is only slower.
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE);
        }
        let stdout = Stream { pipe: child.stdout.take(), silence: self.silence, silent: false };
        let stderr = child.stderr.take().map(|pipe| thread::spawn(move || keep_ends(pipe)));
        let mut running = Running {
            program: program.clone(),
            child,
            control: Some(ours),
            stdout,
            stderr,
            barriers: Barriers::default(),
            silence: self.silence,
            _room: self.room,
        };
        running.barriers = running.set_up(&self.spec)?;
        Ok(running)
    }

    /// Starts the engine and reads its stdout to the end. For short answers: at most `most` bytes are kept.
    ///
    /// # Errors
    /// As [`Sandbox::start`], and when the answer is longer or does not come.
    pub fn answer(self, most: u64) -> Result<(Vec<u8>, Outcome), SandboxError> {
        let mut running = self.start()?;
        let mut answer = Vec::new();
        let read = running.stdout().take(most + 1).read_to_end(&mut answer);
        let failed = |source| SandboxError::Run { program: running.program.clone(), source };
        match read {
            Ok(length) if length as u64 > most => {
                return Err(failed(io::Error::other(format!("its answer is longer than {most} bytes"))));
            }
            Ok(_) => {}
            // Told better by the end.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            Err(error) => return Err(failed(error)),
        }
        let outcome = running.finish()?;
        Ok((answer, outcome))
    }
}

/// Our own program, for the trampoline: by its inode, so that an upgrade of the package does not come between.
#[must_use]
pub fn own_program() -> &'static Path {
    Path::new("/proc/self/exe")
}

fn real(path: &Path) -> Result<PathBuf, SandboxError> {
    path.canonicalize().map_err(|source| SandboxError::Path { path: path.to_owned(), source })
}

/// An engine that runs. Letting go of it ends it, with all that it started.
#[derive(Debug)]
pub struct Running {
    program: PathBuf,
    child: Child,
    control: Option<UnixStream>,
    stdout: Stream,
    stderr: Option<JoinHandle<Vec<u8>>>,
    barriers: Barriers,
    silence: Duration,
    _room: TempDir,
}

/// How an engine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it wrote to stderr; the middle is left out when it is long.
    pub stderr: String,
    /// What stood around it.
    pub barriers: Barriers,
}

impl Outcome {
    /// Exit code 0.
    #[must_use]
    pub fn well(&self) -> bool {
        self.code == Some(0)
    }
}

impl Running {
    /// What stands around the engine.
    #[must_use]
    pub fn barriers(&self) -> &Barriers {
        &self.barriers
    }

    /// What the engine writes to its stdout. Silence that is too long is an error of kind `TimedOut`.
    pub fn stdout(&mut self) -> &mut (dyn Read + Send) {
        &mut self.stdout
    }

    /// Waits for the engine's end; whatever it still writes is thrown away.
    ///
    /// # Errors
    /// When it falls silent, or the sandbox broke. However the engine ended is no error.
    pub fn finish(mut self) -> Result<Outcome, SandboxError> {
        let drained = io::copy(&mut self.stdout, &mut io::sink());
        if self.stdout.silent {
            return Err(SandboxError::Silent { program: self.program.clone(), limit: self.silence });
        }
        drained.map_err(|source| self.failed(source))?;
        let said = self.hear(self.silence)?;
        self.end();
        match said {
            Some(Said::Ended { code, signal }) => {
                Ok(Outcome { code, signal, stderr: self.stderr_text(), barriers: self.barriers.clone() })
            }
            Some(Said::Refused { what, why }) => {
                Err(SandboxError::Refused { program: self.program.clone(), what, why })
            }
            _ => Err(self.lost()),
        }
    }

    fn set_up(&mut self, spec: &Spec) -> Result<Barriers, SandboxError> {
        // One for each stage.
        for _ in 0..3 {
            if let Some(control) = &mut self.control
                && let Err(source) = send(control, spec)
            {
                // It refused before it read everything; the reason is in what it says.
                if source.kind() != io::ErrorKind::BrokenPipe {
                    return Err(self.failed(source));
                }
            }
        }
        match self.hear(SETTING_UP)? {
            Some(Said::Ready(barriers)) => Ok(barriers),
            Some(Said::Refused { what, why }) => {
                Err(SandboxError::Refused { program: self.program.clone(), what, why })
            }
            Some(Said::Ended { .. }) | None => Err(self.lost()),
        }
    }

    /// The next thing that a stage says; `None` when none is left to say anything.
    fn hear(&mut self, limit: Duration) -> Result<Option<Said>, SandboxError> {
        let Some(control) = &mut self.control else { return Ok(None) };
        let heard = control.set_read_timeout(Some(limit)).and_then(|()| receive(control));
        match heard {
            Ok(said) => Ok(said),
            // Those who had not read all that they were told.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(SandboxError::Silent { program: self.program.clone(), limit })
            }
            Err(source) => Err(self.failed(source)),
        }
    }

    fn failed(&self, source: io::Error) -> SandboxError {
        SandboxError::Run { program: self.program.clone(), source }
    }

    fn lost(&mut self) -> SandboxError {
        self.end();
        SandboxError::Lost { program: self.program.clone(), stderr: self.stderr_text().trim().to_owned() }
    }

    fn stderr_text(&mut self) -> String {
        let kept = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        String::from_utf8_lossy(&kept).into_owned()
    }

    /// Hangs up, which ends all stages, and waits for the first of them; then nothing of the engine is left.
    fn end(&mut self) {
        drop(self.control.take());
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if !matches!(wait_until(&mut self.child, Instant::now() + GOING), Ok(Some(_))) {
            kill_group(&mut self.child);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// The engine's stdout.
#[derive(Debug)]
struct Stream {
    /// Always there: std hands it out as an option.
    pipe: Option<ChildStdout>,
    silence: Duration,
    silent: bool,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(pipe) = &mut self.pipe else { return Ok(0) };
        let wait = Timespec {
            tv_sec: self.silence.as_secs().cast_signed(),
            tv_nsec: self.silence.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)], Some(&wait)) {
            Ok(0) => {
                self.silent = true;
                Err(io::Error::from(io::ErrorKind::TimedOut))
            }
            Ok(_) => pipe.read(buffer),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Reads to the end and keeps the beginning and the end: the first error is as telling as the last.
fn keep_ends(mut pipe: ChildStderr) -> Vec<u8> {
    let (mut first, mut last, mut left_out) = (Vec::new(), Vec::new(), false);
    let mut chunk = [0_u8; 8192];
    // An error ends it as the end does: what there is is kept.
    while let Ok(length @ 1..) = pipe.read(&mut chunk) {
        let fits = length.min(KEPT - first.len());
        first.extend_from_slice(&chunk[..fits]);
        last.extend_from_slice(&chunk[fits..length]);
        if last.len() > 2 * KEPT {
            last.drain(..last.len() - KEPT);
            left_out = true;
        }
    }
    if left_out {
        first.extend_from_slice(b"\n[...]\n");
    }
    first.extend_from_slice(&last);
    first
}
