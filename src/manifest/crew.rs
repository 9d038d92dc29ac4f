//! Threads that share one stack of work. The last that was put on it is taken first, so a walk goes deep before it goes wide, and
//! neither the stack nor what its tasks hold open grows with the tree.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The stack, and who waits for it.
pub(super) struct Crew<T> {
    shared: Mutex<Shared<T>>,
    changed: Condvar,
    idle: AtomicUsize,
    stopped: AtomicBool,
}

struct Shared<T> {
    tasks: Vec<T>,
    /// On the stack or being worked on. At zero there will never be more.
    unfinished: usize,
}

impl<T> Crew<T> {
    pub(super) fn new() -> Self {
        Self {
            shared: Mutex::new(Shared { tasks: Vec::new(), unfinished: 0 }),
            changed: Condvar::new(),
            idle: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    /// Puts tasks on the stack; the last of them is taken first.
    pub(super) fn push(&self, tasks: impl IntoIterator<Item = T>) {
        let mut shared = self.lock();
        let before = shared.tasks.len();
        shared.tasks.extend(tasks);
        let more = shared.tasks.len() - before;
        shared.unfinished += more;
        drop(shared);
        match self.idle.load(Relaxed) {
            0 => {}
            _ if more == 1 => self.changed.notify_one(),
            _ if more > 1 => self.changed.notify_all(),
            _ => {}
        }
    }

    /// Takes tasks and works on them until none is left, here or with another thread, or somebody stops. `pause` is called before
    /// waiting, and at the end.
    pub(super) fn work<W>(&self, worker: &mut W, pause: fn(&mut W), task: fn(&mut W, T)) {
        loop {
            let next = self.try_take().or_else(|| {
                pause(worker);
                self.take()
            });
            let Some(next) = next else { return pause(worker) };
            let finished = Finished(self);
            task(worker, next);
            drop(finished);
        }
    }

    /// No more tasks are taken; those in work come to their end.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Relaxed);
        // Under the lock, so that nobody is between looking and waiting.
        drop(self.lock());
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    /// How many threads wait for work: roughly, for deciding whether sharing is worth it.
    pub(super) fn idle(&self) -> usize {
        self.idle.load(Relaxed)
    }

    fn try_take(&self) -> Option<T> {
        if self.is_stopped() { None } else { self.lock().tasks.pop() }
    }

    fn take(&self) -> Option<T> {
        let mut shared = self.lock();
        loop {
            if self.is_stopped() || shared.unfinished == 0 {
                return None;
            }
            if let Some(task) = shared.tasks.pop() {
                return Some(task);
            }
            self.idle.fetch_add(1, Relaxed);
            shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
            self.idle.fetch_sub(1, Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared<T>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that a task is done, also when it panics: the others must not wait for it for ever.
struct Finished<'c, T>(&'c Crew<T>);

impl<T> Drop for Finished<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
        let mut shared = self.0.lock();
        shared.unfinished -= 1;
        if shared.unfinished == 0 {
            drop(shared);
            self.0.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Worker<'c> {
        crew: &'c Crew<u32>,
        done: &'c AtomicUsize,
    }

    fn split(worker: &mut Worker<'_>, task: u32) {
        worker.done.fetch_add(1, Relaxed);
        worker.crew.push((0..task).map(|_| task - 1));
    }

    fn run(crew: &Crew<u32>, done: &AtomicUsize, task: fn(&mut Worker<'_>, u32)) {
        std::thread::scope(|scope| {
            for _ in 0..7 {
                scope.spawn(|| crew.work(&mut Worker { crew, done }, |_| {}, task));
            }
        });
    }

    #[test]
    fn every_task_is_done_once_and_all_threads_come_home() {
        let (crew, done) = (Crew::new(), AtomicUsize::new(0));
        crew.push([6]);
        run(&crew, &done, split);
        // 1 + 6 + 6*5 + ... + 6!
        assert_eq!(done.into_inner(), 1957);
    }

    #[test]
    fn a_stop_ends_it_with_work_left() {
        let (crew, done) = (Crew::new(), AtomicUsize::new(0));
        crew.push([1, 2, 3]);
        run(&crew, &done, |worker, _| {
            worker.done.fetch_add(1, Relaxed);
            worker.crew.push([1, 1]);
            if worker.done.load(Relaxed) > 1000 {
                worker.crew.stop();
            }
        });
        assert!(done.into_inner() > 1000);
    }
}
