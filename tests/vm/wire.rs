//! Lines that come from a machine, and waiting for them.
//!
//! Each wire is one end of a socket pair whose other end QEMU inherits: there is no path, and nobody has to wait until QEMU listens.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};

use crate::lab::Result;

/// All that came from a machine over one wire, and the way back.
#[derive(Debug)]
pub struct Wire {
    shared: Arc<Shared>,
    stream: UnixStream,
}

/// What is to be done with each whole line as it comes.
pub type OnLine = Box<dyn FnMut(&str) + Send>;

#[derive(Debug, Default)]
struct Shared {
    heard: Mutex<Heard>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Heard {
    bytes: Vec<u8>,
    closed: bool,
}

/// The end of a wire that QEMU inherits; to be dropped once it runs.
#[derive(Debug)]
pub struct FarEnd(OwnedFd);

impl FarEnd {
    /// Its number, for QEMU's command line.
    pub fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl Wire {
    /// Makes a wire and listens to it: what comes is appended to a log, and each line is told.
    pub fn open(log: Option<File>, on_line: OnLine) -> Result<(Self, FarEnd)> {
        let (near, far) = UnixStream::pair()?;
        let far = OwnedFd::from(far);
        fcntl_setfd(&far, FdFlags::empty())?;
        let shared = Arc::new(Shared::default());
        let (listener, heard) = (near.try_clone()?, Arc::clone(&shared));
        thread::spawn(move || listen(listener, &heard, log, on_line));
        Ok((Self { shared, stream: near }, FarEnd(far)))
    }

    /// Sends one line.
    pub fn send(&self, line: &str) -> Result<()> {
        (&self.stream).write_all(format!("{line}\n").as_bytes())
    }

    /// All that came so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.heard().bytes).into_owned()
    }

    /// Returns what `look` finds in all that came, as soon as it finds something.
    ///
    /// Ends at once when QEMU has gone; a limit that passes is an error of the kind `TimedOut`.
    pub fn wait<T>(&self, limit: Duration, mut look: impl FnMut(&str) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + limit;
        let mut heard = self.heard();
        loop {
            if let Some(found) = look(&String::from_utf8_lossy(&heard.bytes)) {
                return Ok(found);
            }
            if heard.closed {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the machine has gone off"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("waited {limit:?}")));
            }
            heard = self.shared.changed.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Ends the listening thread; a wire whose other end has gone is shut already.
        drop(self.stream.shutdown(std::net::Shutdown::Both));
    }
}

/// Whole lines only: what has no newline yet may go on.
pub fn whole_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::trim)
}

fn listen(mut stream: UnixStream, shared: &Shared, mut log: Option<File>, mut on_line: OnLine) {
    let mut buffer = vec![0; 65_536];
    let mut line = Vec::new();
    loop {
        let count = stream.read(&mut buffer).unwrap_or(0);
        let new = &buffer[..count];
        if let Some(log) = &mut log {
            // The log is for people; what is waited for is in memory.
            drop(log.write_all(new));
        }
        for byte in new {
            if *byte == b'\n' {
                on_line(String::from_utf8_lossy(&line).trim());
                line.clear();
            } else {
                line.push(*byte);
            }
        }
        let mut heard = shared.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.bytes.extend_from_slice(new);
        heard.closed = count == 0;
        drop(heard);
        shared.changed.notify_all();
        if count == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_once_it_is_whole() {
        let lines: Vec<&str> = whole_lines("one\r\ntwo\nthr").collect();
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn a_wire_hears_waits_and_notices_the_end() {
        let (wire, far) = Wire::open(None, Box::new(|_| {})).unwrap();
        let mut other = UnixStream::from(far.0);
        other.write_all(b"hello\n").unwrap();
        let limit = Duration::from_secs(10);
        wire.wait(limit, |text| text.contains("hello").then_some(())).unwrap();
        let late = wire.wait(Duration::ZERO, |text| text.contains("bye").then_some(())).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        drop(other);
        let gone = wire.wait(limit, |text| text.contains("bye").then_some(())).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::ConnectionAborted);
    }
}
