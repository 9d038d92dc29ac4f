//! Being told to stop, as a descriptor that becomes readable: by a signal, or by another part of the program.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Once told, it stays told.
#[derive(Debug)]
pub struct ToldToStop {
    read: UnixStream,
    write: UnixStream,
}

impl ToldToStop {
    /// Makes one that only [`ToldToStop::tell`] reaches.
    ///
    /// # Errors
    /// When the system is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        write.set_nonblocking(true)?;
        Ok(Self { read, write })
    }

    /// Makes one that SIGTERM, SIGINT and SIGHUP tell; from then on these signals do not end the program by themselves.
    ///
    /// # Errors
    /// When the signals cannot be registered.
    pub fn by_signals() -> io::Result<Self> {
        let told = Self::new()?;
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            signal_hook::low_level::pipe::register(signal, told.write.try_clone()?)?;
        }
        Ok(told)
    }

    /// Tells it.
    pub fn tell(&self) {
        // A full buffer means that it has been told often enough.
        drop((&self.write).write(b"x"));
    }

    /// Whether it has been told.
    #[must_use]
    pub fn is_told(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut watched = [PollFd::new(&self.read, PollFlags::IN)];
        loop {
            match poll(&mut watched, Some(&now)) {
                Ok(ready) => return ready > 0,
                Err(rustix::io::Errno::INTR) => {}
                // Without an answer the careful one is to stop.
                Err(_) => return true,
            }
        }
    }
}

impl AsFd for ToldToStop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_told_it_stays_told() {
        let stop = ToldToStop::new().unwrap();
        assert!(!stop.is_told());
        stop.tell();
        assert!(stop.is_told() && stop.is_told());
    }

    #[test]
    fn a_signal_tells_it() {
        let stop = ToldToStop::by_signals().unwrap();
        signal_hook::low_level::raise(SIGHUP).unwrap();
        assert!(stop.is_told());
    }
}
