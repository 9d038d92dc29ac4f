//! A second way in while packages change: an sshd of its own on another port, which needs none of the files that the upgrade replaces to
//! accept a login.
//!
//! * `-r`: it does not start itself anew for each connection, so the new release's sshd is never asked to go on with the old one's.
//! * No PAM: its modules are loaded at the login, and may by then be of the new release. So only keys open it, and an account whose
//!   password is locked with `!` cannot use it.
//!
//! Off unless a port is configured: it listens where nobody expects it, and no firewall is opened for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::system::exec::{Exec, ExecError, find_tool};

/// Where ours writes its number.
const PID_FILE: &str = "/run/safe-upgrade-rescue-sshd.pid";
/// Where Ubuntu's upgrader has its own one write it; nobody else ends that one.
const UPGRADERS_PID_FILE: &str = "/run/release-upgrader-sshd.pid";
/// How long it may take to listen, and to end.
const LIMIT: Duration = Duration::from_secs(10);

/// It could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RescueError {
    /// sshd is not installed, or refused.
    #[error("failed to start a second sshd on port {port}")]
    Start {
        /// Where.
        port: u16,
        /// Why.
        source: ExecError,
    },
    /// It was started and is not there.
    #[error("the second sshd on port {port} is not there: is the port in use?")]
    Gone {
        /// Where.
        port: u16,
    },
}

/// It listens while this lives.
#[derive(Debug)]
pub struct RescueSshd {
    pid_file: PathBuf,
    pid: Pid,
}

impl RescueSshd {
    /// Starts it. One that an earlier process left is ended before.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn start(port: u16) -> Result<Self, RescueError> {
        Self::start_with(port, Path::new(PID_FILE), &[])
    }

    fn start_with(port: u16, pid_file: &Path, extra: &[&str]) -> Result<Self, RescueError> {
        end(pid_file);
        let failed = |source| RescueError::Start { port, source };
        // sshd wants its own name absolute, and its directory for privilege separation, which is gone when no other sshd runs.
        let program = find_tool("sshd").map_err(failed)?;
        let _ = fs::create_dir_all("/run/sshd");
        let exec = Exec::new(&program.display().to_string()).map_err(failed)?;
        exec.args(arguments(port, pid_file)).args(extra).limit(LIMIT).success().map_err(failed)?;
        // It writes the number when it listens; until then it may only just have been forked.
        let pid = wait_for(pid_file).ok_or(RescueError::Gone { port })?;
        Ok(Self { pid_file: pid_file.to_owned(), pid })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }
}

impl Drop for RescueSshd {
    /// Ends the listener; who is logged in stays so.
    fn drop(&mut self) {
        end(&self.pid_file);
    }
}

fn arguments(port: u16, pid_file: &Path) -> Vec<String> {
    let mut words = vec!["-r".to_owned(), "-p".into(), port.to_string()];
    for option in [
        format!("PidFile={}", pid_file.display()),
        "UsePAM=no".into(),
        "PasswordAuthentication=no".into(),
        "KbdInteractiveAuthentication=no".into(),
        "PubkeyAuthentication=yes".into(),
        "PermitRootLogin=prohibit-password".into(),
    ] {
        words.extend(["-o".to_owned(), option]);
    }
    words
}

/// Ends the one that Ubuntu's upgrader starts when somebody above it is called sshd. Says whether there was one.
pub fn end_upgraders_own() -> bool {
    end(Path::new(UPGRADERS_PID_FILE))
}

/// Ends what a pid file names, if that is an sshd. Says whether it was.
fn end(pid_file: &Path) -> bool {
    let Some(pid) = living(pid_file) else {
        return false;
    };
    let watch = pidfd_open(pid, PidfdFlags::empty());
    // ESRCH: it ended in the meantime, which is what was wanted.
    let _ = kill_process(pid, Signal::TERM);
    if let Ok(watch) = watch {
        let wait = Timespec { tv_sec: LIMIT.as_secs().cast_signed(), tv_nsec: 0 };
        let _ = poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&wait));
    }
    // It removes the file by itself, if it had the time.
    let _ = fs::remove_file(pid_file);
    true
}

/// The sshd that a pid file names. A number may have gone to somebody else since.
fn living(pid_file: &Path) -> Option<Pid> {
    let pid = fs::read_to_string(pid_file).ok()?.trim().parse().ok().and_then(Pid::from_raw)?;
    let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).ok()?;
    (name.trim() == "sshd").then_some(pid)
}

fn wait_for(pid_file: &Path) -> Option<Pid> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(pid) = living(pid_file) {
            return Some(pid);
        }
        if Instant::now() >= deadline {
            return None;
        }
        let wait = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let _ = poll(&mut [], Some(&wait));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn it_listens_and_ends() {
        let keygen = Exec::new("ssh-keygen");
        let (Ok(_), Ok(keygen)) = (find_tool("sshd"), keygen) else {
            println!("skipped: sshd and ssh-keygen are not both installed");
            return;
        };
        if !rustix::process::geteuid().is_root() {
            println!("skipped: sshd is started as root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", key.to_str().unwrap()]).success().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (address, key) = ("ListenAddress=127.0.0.1".to_owned(), format!("HostKey={}", key.display()));
        let pid_file = dir.path().join("pid");
        let extra = ["-f", "/dev/null", "-o", &address, "-o", &key];
        let sshd = RescueSshd::start_with(port, &pid_file, &extra).unwrap();
        let mut greeting = [0; 7];
        TcpStream::connect(("127.0.0.1", port)).unwrap().read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"SSH-2.0");
        let pid = sshd.pid();
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(words.contains("UsePAM=no") && words.contains(" -r -p "), "{words:?}");
        drop(sshd);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
        assert!(!pid_file.exists());
    }

    #[test]
    fn a_number_that_went_to_somebody_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        fs::write(&pid_file, format!("{}\n", std::process::id())).unwrap();
        assert!(!end(&pid_file));
        assert!(!end(&dir.path().join("none")));
    }
}
