//! The standard input of a program that asks, and is answered.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::Pid;

/// The standard input of a program that is answered. Whoever waits in it for an answer that does not come gets its end, as from
/// `/dev/null`; then it is open again for the next.
#[derive(Debug)]
pub struct Input {
    reader: OwnedFd,
    writer: RefCell<Option<OwnedFd>>,
}

/// How long a program may wait for an answer. Ours come within moments.
const UNANSWERED: Duration = Duration::from_secs(10);

impl Input {
    /// An open input with nothing in it yet.
    ///
    /// # Errors
    /// When no pipe can be made.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self { reader, writer: RefCell::new(Some(writer)) })
    }

    /// Writes an answer. One that nobody can read any more is dropped.
    pub fn answer(&self, bytes: &[u8]) {
        // A pipe takes 4096 bytes at once; SIGPIPE is ignored, and an end of all readers is the end of the program.
        if let Some(writer) = self.writer.borrow().as_ref()
            && let Err(errno) = rustix::io::write(writer, bytes)
        {
            tracing::warn!(%errno, "an answer could not be given");
        }
    }

    /// What a program reads from.
    pub(super) fn reading_end(&self) -> io::Result<OwnedFd> {
        self.reader.try_clone()
    }

    /// Gives the end of the input to one who waits in it.
    fn end_for(&self, pid: Pid) {
        self.writer.replace(None);
        // It is woken at once, but must have run before there is a writer again. Who asks in this very moment gets the end too:
        // dpkg then leaves the package to a repair.
        let deadline = Instant::now() + LEAVING;
        let moment = Timespec { tv_sec: 0, tv_nsec: 100_000 };
        loop {
            let _ = poll(&mut [], Some(&moment));
            let seen = !is_running(pid) && self.waiting(vec![pid]).is_empty();
            if seen || Instant::now() >= deadline {
                break;
            }
        }
        let again = format!("/proc/self/fd/{}", self.reader.as_raw_fd());
        match rustix::fs::open(again, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(writer) => drop(self.writer.replace(Some(writer))),
            // Then dpkg's next question gets no answer, and what it leaves is configured in a repair.
            Err(errno) => tracing::warn!(%errno, "no more answers can be given"),
        }
    }

    /// Those of the given that wait in this input.
    fn waiting(&self, members: Vec<Pid>) -> Vec<Pid> {
        let pipe = rustix::fs::fstat(&self.reader).map(|stat| format!("pipe:[{}]", stat.st_ino));
        let Ok(pipe) = pipe else { return Vec::new() };
        members.into_iter().filter(|pid| reads_from(*pid, &pipe)).collect()
    }
}

/// How long one who got the end may take to see it.
const LEAVING: Duration = Duration::from_secs(1);

/// How long nobody is looked for again.
pub(super) const PAUSE: Duration = Duration::from_secs(2);

/// Who waits for an answer, and since when.
#[derive(Debug, Default)]
pub(super) struct Waits {
    since: HashMap<Pid, Instant>,
    looked: Option<Instant>,
}

impl Waits {
    /// Ends the input once one of the members waits too long in it.
    pub(super) fn look(&mut self, input: &Input, members: impl FnOnce() -> Vec<Pid>) {
        if self.looked.is_some_and(|looked| looked.elapsed() < PAUSE) {
            return;
        }
        self.looked = Some(Instant::now());
        let waiting = input.waiting(members());
        self.since.retain(|pid, _| waiting.contains(pid));
        for pid in waiting {
            let waited = self.since.entry(pid).or_insert_with(Instant::now).elapsed();
            if waited >= UNANSWERED {
                tracing::warn!(?pid, "a program waits for an answer that nobody has; its input ends");
                input.end_for(pid);
                self.since.remove(&pid);
            }
        }
    }
}

/// Whether a process is on its way out of a call or anywhere else: one that was woken has not yet seen why.
fn is_running(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{}/syscall", pid.as_raw_nonzero()))
        .is_ok_and(|call| call.starts_with("running"))
}

/// Whether a process waits in read(2) of this pipe. proc_pid_syscall(5): the call and its arguments.
fn reads_from(pid: Pid, pipe: &str) -> bool {
    let of = |name: &str| format!("/proc/{}/{name}", pid.as_raw_nonzero());
    let call = fs::read_to_string(of("syscall")).unwrap_or_default();
    let mut fields = call.split_ascii_whitespace();
    let is_read = fields.next().and_then(|number| number.parse().ok()) == Some(libc::SYS_read);
    let descriptor =
        fields.next().and_then(|field| u64::from_str_radix(field.trim_start_matches("0x"), 16).ok());
    let Some(descriptor) = descriptor.filter(|_| is_read) else { return false };
    fs::read_link(of(&format!("fd/{descriptor}"))).is_ok_and(|target| target == Path::new(pipe))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::watched::{self, Ended, Watch};

    fn sh(script: &str, heard: &mut dyn FnMut(&Input, &[u8])) -> (Ended, String, Duration) {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let input = Input::new().unwrap();
        let watch = Watch {
            log: &log,
            silence: Duration::from_secs(60),
            stop: None,
            input: Some(&input),
            room: None,
        };
        let begun = Instant::now();
        let words = |fd: i32| vec!["-c".into(), script.into(), "sh".into(), fd.to_string()];
        let ended = watched::run("sh", words, &[], &watch, &mut |bytes| heard(&input, bytes)).unwrap();
        (ended, std::fs::read_to_string(log).unwrap(), begun.elapsed())
    }

    #[test]
    fn every_question_gets_its_answer() {
        let script = "for i in 1 2 3; do echo $i >/dev/fd/$1; read x; echo got $x; done";
        let (ended, log, took) =
            sh(script, &mut |input, bytes| input.answer(&[bytes.trim_ascii(), b"!\n"].concat()));
        assert_eq!(ended, Ended::Exit(0));
        assert!(log.ends_with("got 1!\ngot 2!\ngot 3!\n"), "{log}");
        assert!(took < UNANSWERED, "{took:?}");
    }

    #[test]
    fn who_waits_for_nothing_gets_the_end() {
        // A question in the very moment in which the first gets the end may get it too, so it is asked again.
        let script = "(if read x; then echo read; else echo end; fi)
            echo a >/dev/fd/$1; until read x; do echo b >/dev/fd/$1; done; echo got $x";
        let (ended, log, took) = sh(script, &mut |input, _| input.answer(b"yes\n"));
        assert_eq!(ended, Ended::Exit(0));
        assert!(log.ends_with("\nend\ngot yes\n"), "{log}");
        assert!(took >= UNANSWERED && took < 4 * UNANSWERED, "{took:?}");
    }
}
