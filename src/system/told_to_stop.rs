//! Being told to stop, as a descriptor that becomes readable: by a signal, or by another part of the program.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

const SIGNALS: [i32; 3] = [SIGTERM, SIGINT, SIGHUP];

/// Whether these signals do what they do by themselves: once somebody has listened, the kernel would leave them to nobody.
static NOBODY_LISTENS: AtomicBool = AtomicBool::new(false);

static LISTENERS: Mutex<Listeners> = Mutex::new(Listeners { now: 0, ever: false });

struct Listeners {
    now: usize,
    ever: bool,
}

/// Once told, it stays told. When the last one is dropped, signals do again what they do by themselves.
#[derive(Debug)]
pub struct ToldToStop {
    read: UnixStream,
    write: UnixStream,
    heard: Vec<SigId>,
}

impl ToldToStop {
    /// Makes one that only [`ToldToStop::tell`] reaches.
    ///
    /// # Errors
    /// When the system is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        write.set_nonblocking(true)?;
        Ok(Self { read, write, heard: Vec::new() })
    }

    /// Makes one that SIGTERM, SIGINT and SIGHUP tell; while it is there these signals do not end the program by themselves.
    ///
    /// # Errors
    /// When the signals cannot be registered.
    pub fn by_signals() -> io::Result<Self> {
        let mut told = Self::new()?;
        let mut listeners = LISTENERS.lock().unwrap_or_else(PoisonError::into_inner);
        for signal in SIGNALS {
            if !listeners.ever {
                signal_hook::flag::register_conditional_default(signal, &NOBODY_LISTENS)?;
            }
            told.heard.push(signal_hook::low_level::pipe::register(signal, told.write.try_clone()?)?);
        }
        listeners.ever = true;
        listeners.now += 1;
        NOBODY_LISTENS.store(false, Ordering::SeqCst);
        drop(listeners);
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

impl Drop for ToldToStop {
    fn drop(&mut self) {
        if self.heard.is_empty() {
            return;
        }
        let mut listeners = LISTENERS.lock().unwrap_or_else(PoisonError::into_inner);
        for signal in self.heard.drain(..) {
            signal_hook::low_level::unregister(signal);
        }
        listeners.now = listeners.now.saturating_sub(1);
        NOBODY_LISTENS.store(listeners.now == 0, Ordering::SeqCst);
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

    #[test]
    fn once_it_is_dropped_a_signal_ends_the_program_again() {
        const INSIDE: &str = "SAFE_UPGRADE_TEST_DROPPED";
        if std::env::var_os(INSIDE).is_some() {
            drop(ToldToStop::by_signals().unwrap());
            let again = ToldToStop::by_signals().unwrap();
            signal_hook::low_level::raise(SIGTERM).unwrap();
            assert!(again.is_told());
            drop(again);
            signal_hook::low_level::raise(SIGTERM).unwrap();
            return;
        }
        let this = "system::told_to_stop::tests::once_it_is_dropped_a_signal_ends_the_program_again";
        let ended = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", this])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended.status), Some(SIGTERM), "{ended:?}");
    }
}
