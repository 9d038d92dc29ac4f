//! A long-running program under watch: its output goes into a log, its progress comes through a pipe of its own, and when it falls
//! silent, or we are told to stop, all of it is ended.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

use crate::system::answered::{Input, PAUSE, Waits};
use crate::system::exec::{CLEAN_PATH, ExecError, User, find_tool};
use crate::system::room::Room;
use crate::system::told_to_stop::ToldToStop;

/// How long an ended program may take to give up by itself before it is killed: dpkg finishes writing its status file in that time.
const GRACE: Duration = Duration::from_secs(10);

/// Between two looks at the room that is left: a disk writes less than the last GiB in that time.
const ROOM_PAUSE: Duration = Duration::from_millis(500);

/// How a watched program came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this exit code.
    Exit(i32),
    /// By a signal that was not ours.
    Signal(i32),
    /// It was silent for so long and was ended.
    Silent(Duration),
    /// We were told to stop, and it was ended.
    Stopped,
    /// There was less than [`Watch::room`] left in the place with this number, and it was ended.
    NoRoom(usize),
}

impl Ended {
    /// Exit code 0.
    #[must_use]
    pub fn well(self) -> bool {
        self == Self::Exit(0)
    }
}

/// What a watched program needs around it.
#[derive(Debug, Clone, Copy)]
pub struct Watch<'w> {
    /// Where stdout and stderr go; appended to.
    pub log: &'w Path,
    /// How long neither the log nor the progress pipe may be silent.
    pub silence: Duration,
    /// Ends the program when it says so.
    pub stop: Option<&'w ToldToStop>,
    /// What it reads instead of `/dev/null`.
    pub input: Option<&'w Input>,
    /// Ends the program when less is left.
    pub room: Option<&'w Room>,
}

/// A watched program that could not be started or watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// A program is not installed.
    #[error(transparent)]
    Missing(#[from] ExecError),
    /// The log cannot be written.
    #[error("failed to open the log {}", .path.display())]
    Log {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be started or watched.
    #[error("failed to run {}", .program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Runs a program to its end in a session of its own (no terminal, own process group), with stdin from `/dev/null` or
/// from [`Watch::input`].
///
/// `arguments` gets the number of the progress pipe's descriptor; what arrives there is passed on to `progress` as it comes. The
/// environment holds only `PATH`, `HOME`, `LC_ALL` and `environment`.
///
/// # Errors
/// When it could not be started or watched; however it ended is no error.
pub fn run(
    tool: &str,
    arguments: impl FnOnce(i32) -> Vec<String>,
    environment: &[(&str, &str)],
    watch: &Watch<'_>,
    progress: &mut dyn FnMut(&[u8]),
) -> Result<Ended, WatchError> {
    run_as(None, tool, arguments, environment, watch, progress)
}

/// [`run`] as another user; only root can. The log is opened by us, so that user need not be able to.
///
/// # Errors
/// As [`run`].
pub fn run_as(
    user: Option<User>,
    tool: &str,
    arguments: impl FnOnce(i32) -> Vec<String>,
    environment: &[(&str, &str)],
    watch: &Watch<'_>,
    progress: &mut dyn FnMut(&[u8]),
) -> Result<Ended, WatchError> {
    let program = find_tool(tool)?;
    let failed = |source: io::Error| WatchError::Run { program: program.clone(), source };
    let log = open_log(watch.log)?;
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        .map_err(|errno| failed(errno.into()))?;
    make_inheritable(&writer).map_err(failed)?;
    let words = arguments(writer.as_raw_fd());
    write_header(&log, &program, &words).map_err(|source| log_failed(watch.log, source))?;
    // setsid(1) needs no fork to lead a new session, because std starts it in our own group: the pid stays the same.
    let mut command = Command::new(find_tool("setsid")?);
    let stdin = match watch.input {
        Some(input) => Stdio::from(input.reading_end().map_err(failed)?),
        None => Stdio::null(),
    };
    command.arg(&program).args(&words).current_dir("/").stdin(stdin);
    command.env_clear().env("PATH", CLEAN_PATH).env("LC_ALL", "C.UTF-8").env("HOME", "/root");
    if let Some(user) = user {
        user.take_on(&mut command);
    }
    command.envs(environment.iter().copied());
    command.stdout(log.try_clone().map_err(failed)?).stderr(log.try_clone().map_err(failed)?);
    let mut child = command.spawn().map_err(failed)?;
    drop(writer);
    let ended = follow(&mut child, &reader, &log, watch, progress);
    if ended.is_err() {
        end_group(&mut child);
    }
    ended.map_err(failed)
}

fn open_log(path: &Path) -> Result<File, WatchError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(|source| log_failed(path, source))
}

fn log_failed(path: &Path, source: io::Error) -> WatchError {
    WatchError::Log { path: path.to_owned(), source }
}

/// Lets the child keep the pipe's writing end, which then blocks when we are slow. Only the read end stays ours.
fn make_inheritable(writer: &OwnedFd) -> io::Result<()> {
    rustix::io::fcntl_setfd(writer, FdFlags::empty())?;
    let flags = rustix::fs::fcntl_getfl(writer)? - rustix::fs::OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(writer, flags)?;
    Ok(())
}

fn write_header(mut log: &File, program: &Path, words: &[String]) -> io::Result<()> {
    writeln!(log, "\n== {} {}", program.display(), words.join(" "))
}

/// Why the watch ended before the child did.
enum Cut {
    Silent,
    Stopped,
    NoRoom(usize),
}

fn follow(
    child: &mut Child,
    reader: &OwnedFd,
    log: &File,
    watch: &Watch<'_>,
    progress: &mut dyn FnMut(&[u8]),
) -> io::Result<Ended> {
    let Some(pid) = Pid::from_raw(child.id().cast_signed()) else {
        return child.wait().map(ended_by_itself);
    };
    let exit = pidfd_open(pid, PidfdFlags::empty())?;
    let mut activity = Activity::start(log)?;
    let mut pipe_open = true;
    let mut waits = Waits::default();
    let mut room = watch.room.map(RoomWatch::new);
    let cut = loop {
        let mut watched = vec![PollFd::new(&exit, PollFlags::IN)];
        if let Some(stop) = watch.stop {
            watched.push(PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN));
        }
        if pipe_open {
            watched.push(PollFd::new(reader, PollFlags::IN));
        }
        let mut left = watch.silence.saturating_sub(activity.quiet_for());
        if watch.input.is_some() {
            left = left.min(PAUSE);
        }
        if watch.room.is_some() {
            left = left.min(ROOM_PAUSE);
        }
        let wait = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut watched, Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let exited = !watched[0].revents().is_empty();
        if pipe_open {
            let mut heard = |bytes: &[u8]| {
                activity.hear(bytes);
                progress(bytes);
            };
            match read_all(reader, &mut heard)? {
                Read::Some => {}
                Read::Nothing => {}
                Read::Closed => pipe_open = false,
            }
        }
        if exited {
            return child.wait().map(ended_by_itself);
        }
        if watch.stop.is_some_and(ToldToStop::is_told) {
            break Cut::Stopped;
        }
        if let Some(place) = room.as_mut().map_or(Ok(None), RoomWatch::look)? {
            break Cut::NoRoom(place);
        }
        if let Some(input) = watch.input {
            waits.look(input, || session_members(pid).into_iter().chain([pid]).collect());
        }
        if activity.quiet_for() >= watch.silence && !activity.log_grew(log)? {
            break Cut::Silent;
        }
    };
    end_group(child);
    Ok(match cut {
        Cut::Silent => Ended::Silent(watch.silence),
        Cut::Stopped => Ended::Stopped,
        Cut::NoRoom(place) => Ended::NoRoom(place),
    })
}

/// Looks at the room once in a while, however much is heard.
struct RoomWatch<'r> {
    room: &'r Room,
    looked: Option<Instant>,
}

impl<'r> RoomWatch<'r> {
    fn new(room: &'r Room) -> Self {
        Self { room, looked: None }
    }

    fn look(&mut self) -> io::Result<Option<usize>> {
        if self.looked.is_some_and(|looked| looked.elapsed() < ROOM_PAUSE) {
            return Ok(None);
        }
        self.looked = Some(Instant::now());
        self.room.tight()
    }
}

/// When something was last heard. The log is looked at only when the pipe was silent for the whole time.
///
/// A line that only says the last one again is silence too: apt repeats its percentage twice a second while it waits for
/// something that never comes (seen on a full disk).
struct Activity {
    last: Instant,
    size: u64,
    line: Vec<u8>,
}

impl Activity {
    fn start(log: &File) -> io::Result<Self> {
        Ok(Self { last: Instant::now(), size: log.metadata()?.len(), line: Vec::new() })
    }

    fn hear(&mut self, bytes: &[u8]) {
        let lines = bytes.split(|byte| *byte == b'\n');
        let Some(line) = lines.rev().find(|line| !line.is_empty()) else { return };
        if line != self.line {
            self.line = line.to_vec();
            self.last = Instant::now();
        }
    }

    fn quiet_for(&self) -> Duration {
        self.last.elapsed()
    }

    /// Whether the log grew since the last look; if so the silence began when it was last written.
    fn log_grew(&mut self, log: &File) -> io::Result<bool> {
        let facts = log.metadata()?;
        if facts.len() == self.size {
            return Ok(false);
        }
        self.size = facts.len();
        // A clock that was set in the meantime makes this at worst one silence too generous.
        let written_ago = facts.modified()?.elapsed().unwrap_or_default();
        let now = Instant::now();
        self.last = now.checked_sub(written_ago).unwrap_or(now).max(self.last);
        Ok(true)
    }
}

enum Read {
    Some,
    Nothing,
    Closed,
}

fn read_all(reader: &OwnedFd, progress: &mut dyn FnMut(&[u8])) -> io::Result<Read> {
    let mut seen = Read::Nothing;
    let mut buffer = [0_u8; 8192];
    loop {
        match rustix::io::read(reader, &mut buffer) {
            Ok(0) => return Ok(Read::Closed),
            Ok(length) => {
                seen = Read::Some;
                progress(&buffer[..length]);
            }
            Err(Errno::AGAIN) => return Ok(seen),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn ended_by_itself(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exit(code),
        (None, signal) => Ended::Signal(signal.unwrap_or(0)),
    }
}

/// Asks the whole session to end, gives its leader a while, then kills what is left of it and sees it gone.
fn end_group(child: &mut Child) {
    let Some(leader) = Pid::from_raw(child.id().cast_signed()) else { return };
    // dpkg or a maintainer script may have made a process group of its own; the session is what they share.
    signal_session(leader, Signal::TERM);
    // A process that was stopped would not notice otherwise.
    signal_session(leader, Signal::CONT);
    let _ = crate::system::exec::wait_until(child, Instant::now() + GRACE);
    for pid in signal_session(leader, Signal::KILL) {
        wait_gone(pid, GRACE);
    }
    // The leader was sent SIGKILL above if it still lived.
    drop(child.wait());
}

/// Returns those that it signalled, without the leader.
fn signal_session(leader: Pid, signal: Signal) -> Vec<Pid> {
    // ESRCH, here and below: it ended in the meantime, which is what was wanted.
    let _ = kill_process_group(leader, signal);
    // In its first moments it has no group of its own yet.
    let _ = kill_process(leader, signal);
    let members = session_members(leader);
    for pid in &members {
        let _ = kill_process(*pid, signal);
    }
    members
}

/// A process that was killed needs a moment to go, longer when it hangs in the kernel.
fn wait_gone(pid: Pid, limit: Duration) {
    let Ok(watch) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    let wait = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
    let _ = poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&wait));
}

fn session_members(leader: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .filter(|pid| *pid != leader && session_of(*pid) == Some(leader))
        .collect()
}

/// Field 6 of proc_pid_stat(5). getsid(2) would answer 0 for kernel threads, which rustix cannot express.
fn session_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    Pid::from_raw(after_name.split_ascii_whitespace().nth(3)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, silence: Duration, stop: Option<&ToldToStop>) -> (Ended, String, String) {
        sh_in(None, script, silence, stop)
    }

    fn sh_in(
        room: Option<&Room>,
        script: &str,
        silence: Duration,
        stop: Option<&ToldToStop>,
    ) -> (Ended, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut heard = Vec::new();
        let ended = run(
            "sh",
            |fd| vec!["-c".into(), script.into(), "sh".into(), fd.to_string()],
            &[("ONE", "1")],
            &Watch { log: &log, silence, stop, input: None, room },
            &mut |bytes| heard.extend_from_slice(bytes),
        )
        .unwrap();
        (ended, fs::read_to_string(log).unwrap(), String::from_utf8(heard).unwrap())
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn output_goes_to_the_log_and_progress_to_us() {
        let (ended, log, heard) =
            sh("echo out$ONE; echo err >&2; echo hello >/dev/fd/$1; exit 3", LONG, None);
        assert_eq!(ended, Ended::Exit(3));
        assert!(log.starts_with("\n== /usr/bin/sh -c ") && log.ends_with("out1\nerr\n"), "{log}");
        assert_eq!(heard, "hello\n");
    }

    #[test]
    fn a_signal_is_told_from_an_exit_code() {
        assert_eq!(sh("kill -9 $$", LONG, None).0, Ended::Signal(9));
    }

    #[test]
    fn saying_the_same_again_is_silence() {
        let script =
            "while :; do echo 'dlstatus:7:15.1426:Retrieving file 1 of 3' >/dev/fd/$1; sleep 0.02; done";
        let silence = Duration::from_millis(300);
        let (ended, _, heard) = sh(script, silence, None);
        assert_eq!(ended, Ended::Silent(silence));
        assert!(heard.lines().count() > 1, "{heard}");
    }

    #[test]
    fn silence_ends_even_what_left_the_group() {
        let script = "set -m; sleep 600 & echo $! >/dev/fd/$1; wait";
        let silence = Duration::from_millis(300);
        let (ended, _, heard) = sh(script, silence, None);
        assert_eq!(ended, Ended::Silent(silence));
        let pid = Pid::from_raw(heard.trim().parse().unwrap()).unwrap();
        // Gone, or a zombie that whoever adopted it has not collected yet.
        let state = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        assert!(state.as_ref().map_or(true, |stat| stat.contains(") Z ")), "{state:?}");
    }

    #[test]
    fn output_alone_counts_as_life() {
        let script = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.1; done";
        assert_eq!(sh(script, Duration::from_millis(350), None).0, Ended::Exit(0));
    }

    #[test]
    fn being_told_to_stop_ends_it() {
        let stop = ToldToStop::new().unwrap();
        stop.tell();
        assert_eq!(sh("sleep 600", LONG, Some(&stop)).0, Ended::Stopped);
    }

    #[test]
    fn too_little_room_ends_it() {
        let busy = "while :; do echo $((n += 1)) >/dev/fd/$1; done";
        let room = |least| Room::new(vec!["/".into(), "/tmp".into()], least);
        assert_eq!(sh_in(Some(&room(u64::MAX)), busy, LONG, None).0, Ended::NoRoom(0));
        let enough = room(1);
        assert_eq!(sh_in(Some(&enough), "sleep 0.7; exit 3", LONG, None).0, Ended::Exit(3));
    }

    #[test]
    fn it_has_no_terminal_and_leads_its_session() {
        let (ended, log, _) = sh("test -t 0 || cat /proc/self/stat", LONG, None);
        assert_eq!(ended, Ended::Exit(0));
        let stat = log.lines().last().unwrap().rsplit_once(')').unwrap().1;
        let field = |at: usize| stat.split_whitespace().nth(at).unwrap().to_owned();
        // ppid, pgrp, session of the `cat`: its parent leads both.
        assert_eq!((field(1), field(1)), (field(2), field(3)));
    }
}
