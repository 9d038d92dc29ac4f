//! Programs that another program left running, known by a variable in their environment: they inherit it wherever they go, also into a
//! session of their own, where neither a process group nor a parent says whose they are.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// Everything that runs with `NAME=value` in the environment that it was started with.
///
/// # Errors
/// When `/proc` cannot be read; a program that ended meanwhile is none.
pub fn bearing(name: &str, value: &str) -> io::Result<Vec<Pid>> {
    let wanted = format!("{name}={value}").into_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|entry| entry == wanted) {
            found.extend(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// Asks all of them to end, gives them `grace`, kills the rest and waits as long again. Returns how many there were.
///
/// # Errors
/// As [`bearing`], and when some are there even then.
pub fn end(name: &str, value: &str, grace: Duration) -> io::Result<usize> {
    let all = bearing(name, value)?;
    for signal in [Signal::TERM, Signal::KILL] {
        let deadline = Instant::now() + grace;
        let left = bearing(name, value)?;
        if left.is_empty() {
            return Ok(all.len());
        }
        let watches: Vec<_> =
            left.iter().filter_map(|pid| pidfd_open(*pid, PidfdFlags::empty()).ok()).collect();
        for pid in left {
            // ESRCH: it ended in the meantime, which is what was wanted. One that was stopped would not notice otherwise.
            let _ = kill_process(pid, signal);
            let _ = kill_process(pid, Signal::CONT);
        }
        for watch in &watches {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            // Interrupted or not: who is left is asked again.
            let _ = poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&wait));
        }
    }
    match bearing(name, value)?.len() {
        0 => Ok(all.len()),
        left => Err(io::Error::other(format!("{left} programs did not end when they were killed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::exec::Exec;

    #[test]
    fn what_left_its_session_is_found_and_ended() {
        let value = format!("{}-{:?}", std::process::id(), Instant::now());
        let script = "setsid sleep 600 & setsid sleep 601 & exit 0";
        let out = Exec::new("sh").unwrap().env("SU_MARK", &value).args(["-c", script]).output().unwrap();
        assert!(out.status.success());
        assert_eq!(end("SU_MARK", &value, Duration::from_secs(5)).unwrap(), 2);
        assert!(bearing("SU_MARK", &value).unwrap().is_empty());
        assert_eq!(end("SU_MARK", &value, Duration::from_secs(5)).unwrap(), 0);
    }

    #[test]
    fn who_does_not_listen_is_killed() {
        let value = format!("{}-{:?}", std::process::id(), Instant::now());
        // Tells us when it does not listen any more.
        let script = "trap '' TERM; echo ready; exec sleep 600";
        let exec = Exec::new("sh").unwrap().env("SU_MARK", &value).args(["-c", script]);
        let (_, mut command) = exec.into_command();
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        // Its zombie has no environment: gone is gone, collected or not.
        assert_eq!(end("SU_MARK", &value, Duration::from_millis(200)).unwrap(), 1);
        assert!(!child.wait().unwrap().success());
    }
}
