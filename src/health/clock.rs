//! Time as the waiting parts of this module see it, so that their tests need none; and the word to stop.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A word to stop, given from another thread; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<(Mutex<bool>, Condvar)>);

impl Cancel {
    /// Nothing to stop yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the word; everything that waits wakes up. Cannot be taken back.
    pub fn cancel(&self) {
        // A poisoned lock holds a bool all the same.
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Whether the word was given.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the whole time, or until the word is given; says whether it was.
    #[must_use]
    pub fn wait(&self, time: Duration) -> bool {
        let said = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (said, _) =
            self.0.1.wait_timeout_while(said, time, |said| !*said).unwrap_or_else(PoisonError::into_inner);
        *said
    }
}

/// Time that passes.
pub trait Clock {
    /// Time since the clock was made; never goes back.
    fn elapsed(&self) -> Duration;

    /// Waits; says whether the waiting was cancelled.
    fn wait(&mut self, time: Duration) -> bool;
}

/// The machine's own time.
#[derive(Debug)]
pub struct RealClock {
    start: Instant,
    cancel: Cancel,
}

impl RealClock {
    /// Starts now; waits end early when `cancel` says so.
    #[must_use]
    pub fn new(cancel: Cancel) -> Self {
        Self { start: Instant::now(), cancel }
    }
}

impl Clock for RealClock {
    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn wait(&mut self, time: Duration) -> bool {
        self.cancel.wait(time)
    }
}

#[cfg(test)]
pub(crate) mod made_up {
    use super::{Clock, Duration};

    /// A clock that moves only by being waited on; cancels at a moment when told to.
    #[derive(Debug, Default)]
    pub(crate) struct MadeUpClock {
        pub(crate) now: Duration,
        pub(crate) cancel_at: Option<Duration>,
    }

    impl Clock for MadeUpClock {
        fn elapsed(&self) -> Duration {
            self.now
        }

        fn wait(&mut self, time: Duration) -> bool {
            self.now += time;
            self.cancel_at.is_some_and(|at| self.now >= at)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_wait_ends_at_once() {
        let cancel = Cancel::new();
        assert!(!cancel.wait(Duration::ZERO));
        let other = cancel.clone();
        let thread = std::thread::spawn(move || other.wait(Duration::from_secs(3600)));
        cancel.cancel();
        assert!(thread.join().unwrap() && cancel.is_cancelled());
        assert!(RealClock::new(cancel).wait(Duration::from_secs(3600)));
    }
}
