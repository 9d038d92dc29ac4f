//! The dead man: a shell that starts in the trial's initial RAM disk and resets the machine unless somebody ends it.
//!
//! It covers what no unit of the trial's own can: an initial RAM disk that waits for ever, a PID 1 that hangs, a userspace
//! that never gets as far as our service. It rides in a second initial RAM disk, so the system's own one stays as it is.
//!
//! Read in initramfs-tools 0.142 (bookworm) and 0.148 (trixie), `init`: proc, sysfs and devtmpfs are mounted, then each
//! file in `conf/conf.d` is sourced by PID 1, then the command line is read. So the snippet
//! * does everything in a background process of a background process: PID 1 has no job that it could ever wait for;
//! * opens the trigger at once and keeps it: after the switch to the real root its own `/proc` is gone, and so are all
//!   programs, so both sleeps are started at once too, and the rest is built into any shell;
//! * lets go of the console;
//! * acts only on a sleep that ran to its end: one that was killed at a shutdown resets nothing;
//! * ignores hang-ups, but not SIGTERM: a shutdown of the trial would wait 90 s for it.
//!
//! Other generators (dracut) do not look into `conf/conf.d`: there it does nothing, and `rd.*` arguments must do.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// What the kernel resets the machine for, whatever `kernel.sysrq` says.
const TRIGGER: &str = "/proc/sysrq-trigger";
/// Where the snippet lies in the archive.
const SNIPPET: &str = "conf/conf.d/safe-upgrade";
/// Between syncing (for the post-mortem) and the reset.
const SYNC_SECONDS: u32 = 2;
/// A process that was killed is gone within this, or something is very wrong.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Shells of the initial RAM disks of Debian and Ubuntu, klibc's among them.
const SHELLS: [&str; 6] = ["sh", "sh.shared", "dash", "ash", "busybox", "bash"];

/// The dead man could not be found out about or ended.
#[derive(Debug, thiserror::Error)]
pub enum DeadmanError {
    /// `/proc` could not be read.
    #[error("failed to read {}", .path.display())]
    Read {
        /// What of it.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A process could not be ended.
    #[error("failed to end process {pid}, which resets the machine when its time is over")]
    End {
        /// Its id.
        pid: i32,
        /// Why not.
        source: io::Error,
    },
}

/// The archive for GRUB's or kexec's initial RAM disks: the last of them. `seconds` counts from the start of the initial
/// RAM disk. Its length is a multiple of 4.
#[must_use]
pub fn cpio(seconds: u32) -> Vec<u8> {
    let mut archive = Vec::new();
    let directory = 0o040_755;
    for (name, mode, content) in [
        ("conf", directory, String::new()),
        ("conf/conf.d", directory, String::new()),
        (SNIPPET, 0o100_644, snippet(seconds, TRIGGER)),
    ] {
        member(&mut archive, name, mode, content.as_bytes());
    }
    member(&mut archive, "TRAILER!!!", 0, b"");
    archive
}

/// Ends every dead man of this boot. Returns how many there were: 0 in a boot that has none. Repeatable.
///
/// # Errors
/// When the list of processes cannot be read, or one does not end.
pub fn stand_down() -> Result<usize, DeadmanError> {
    end_all("/sysrq-trigger")
}

/// `seconds` of silence, then sync, then reset.
fn snippet(seconds: u32, trigger: &str) -> String {
    let late = seconds.saturating_add(SYNC_SECONDS);
    format!(
        "# safe-upgrade: a trial that nobody ends is reset after {seconds} seconds
( (
exec 9>{trigger} </dev/null >/dev/null 2>&1 || exit 0
trap '' HUP INT
echo -1000 >/proc/self/oom_score_adj || :
sleep {seconds} 9>&- &
first=$!
sleep {late} 9>&- &
second=$!
wait $first && echo s >&9 && wait $second && echo b >&9
) & ) || :
"
    )
}

/// One member in the "newc" format: a header of hexadecimal fields, the name, the content, each filled up to 4 bytes.
fn member(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let links = if mode & 0o040_000 == 0 { 1 } else { 2 };
    let (name_length, length) = (name.len() + 1, content.len());
    // inode, mode, owner, group, links, mtime, size, four device numbers, length of the name, checksum
    let header = format!(
        "070701{:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{length:08x}{:08x}{:08x}{:08x}{:08x}{name_length:08x}{:08x}",
        archive.len() + 1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    );
    archive.extend(header.bytes().chain(name.bytes()).chain([0]));
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

fn end_all(trigger: &str) -> Result<usize, DeadmanError> {
    let all = processes()?;
    let mut ended = 0;
    for pid in all.iter().copied().filter(|pid| is_deadman(*pid, trigger)) {
        // Its sleeps hold nothing, but are told by their parent only as long as that lives.
        let sleeps: Vec<_> =
            all.iter().copied().filter(|child| parent(*child) == Some(pid)).filter_map(open).collect();
        let Some(shell) = open(pid) else { continue };
        // Looked at again through the number that can no longer change its owner.
        if !is_deadman(pid, trigger) {
            continue;
        }
        // The shell first: one whose sleep ends goes on with what comes after it.
        kill(&shell).map_err(|source| DeadmanError::End { pid: pid.as_raw_nonzero().get(), source })?;
        ended += 1;
        for sleep in &sleeps {
            kill(sleep)
                .map_err(|source| DeadmanError::End { pid: sleep.0.as_raw_nonzero().get(), source })?;
        }
    }
    Ok(ended)
}

type Process = (Pid, rustix::fd::OwnedFd);

/// `None` when it ended in the meantime.
fn open(pid: Pid) -> Option<Process> {
    Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?))
}

/// Kills and waits for the end.
fn kill((_, pidfd): &Process) -> io::Result<()> {
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    }
    let limit = Timespec { tv_sec: END_LIMIT.as_secs().cast_signed(), tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn processes() -> Result<Vec<Pid>, DeadmanError> {
    let path = Path::new("/proc");
    let failed = |source| DeadmanError::Read { path: path.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw));
    }
    Ok(found)
}

/// A shell that holds the trigger open. A process that ended, or hides its files from root (a kernel thread), is none.
fn is_deadman(pid: Pid, trigger: &str) -> bool {
    let place = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let Ok(program) = std::fs::read_link(place.join("exe")) else { return false };
    let program = program.to_string_lossy();
    // The initial RAM disk was emptied behind it.
    let program = program.trim_end_matches(" (deleted)").rsplit('/').next().unwrap_or_default();
    if !SHELLS.contains(&program) {
        return false;
    }
    let Ok(files) = std::fs::read_dir(place.join("fd")) else { return false };
    files
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .any(|target| target.to_string_lossy().ends_with(trigger))
}

fn parent(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name stands in parentheses and may contain any.
    let (_, rest) = stat.rsplit_once(") ")?;
    Pid::from_raw(rest.split_whitespace().nth(1)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::exec::{Exec, find_tool};

    /// Runs the snippet as PID 1 would: sourced by a shell that goes on.
    fn start(shell: &[&str], seconds: u32, trigger: &Path) -> std::time::Duration {
        let text = snippet(seconds, trigger.to_str().unwrap());
        let beside = trigger.with_extension("conf");
        std::fs::write(&beside, &text).unwrap();
        let began = std::time::Instant::now();
        let script = format!(". {}; wait; echo went on", beside.display());
        let said = Exec::new(shell[0]).unwrap().args(&shell[1..]).args(["-c", &script]).text().unwrap();
        assert_eq!(said, "went on\n");
        began.elapsed()
    }

    fn shells() -> Vec<Vec<&'static str>> {
        let mut shells = vec![vec!["sh"]];
        match find_tool("busybox") {
            Ok(_) => shells.push(vec!["busybox", "sh"]),
            Err(_) => println!("skipped: busybox is not installed"),
        }
        shells
    }

    fn wait_for(what: impl Fn() -> bool) {
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while !what() {
            assert!(std::time::Instant::now() < until, "it never happened");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_archive_is_one_that_cpio_reads() {
        if find_tool("cpio").is_err() {
            println!("skipped: cpio is not installed");
            return;
        }
        let archive = cpio(900);
        assert_eq!(archive.len() % 4, 0);
        let list = Exec::new("cpio").unwrap().args(["-t", "--quiet"]).stdin(archive.clone()).text().unwrap();
        assert_eq!(list, "conf\nconf/conf.d\nconf/conf.d/safe-upgrade\n");
        let dir = tempfile::tempdir().unwrap();
        let unpack =
            Exec::new("cpio").unwrap().args(["-i", "-d", "--quiet", "-D"]).arg(dir.path()).stdin(archive);
        unpack.success().unwrap();
        let text = std::fs::read_to_string(dir.path().join(SNIPPET)).unwrap();
        assert_eq!(text, snippet(900, TRIGGER));
        for shell in shells() {
            let check =
                Exec::new(shell[0]).unwrap().args(&shell[1..]).arg("-n").arg(dir.path().join(SNIPPET));
            check.success().unwrap();
        }
    }

    #[test]
    fn it_syncs_and_resets_when_nobody_ends_it() {
        for shell in shells() {
            let dir = tempfile::tempdir().unwrap();
            let trigger = dir.path().join("sysrq-trigger");
            let took = start(&shell, 1, &trigger);
            assert!(took < Duration::from_secs(1), "PID 1 was kept for {took:?}");
            wait_for(|| std::fs::read(&trigger).is_ok_and(|bytes| bytes == b"s\nb\n"));
        }
    }

    #[test]
    fn it_is_ended_with_its_sleeps_and_resets_nothing() {
        for shell in shells() {
            let dir = tempfile::tempdir().unwrap();
            let trigger = dir.path().join("sysrq-trigger");
            start(&shell, 600, &trigger);
            let name = trigger.to_str().unwrap();
            let of_it = || -> Vec<Pid> {
                let all = processes().unwrap();
                let shell = all.iter().copied().find(|pid| is_deadman(*pid, name));
                all.into_iter().filter(|pid| shell.is_some() && parent(*pid) == shell).collect()
            };
            wait_for(|| of_it().len() == 2);
            let sleeps = of_it();
            assert_eq!(end_all(name).unwrap(), 1);
            assert_eq!(end_all(name).unwrap(), 0);
            // Whoever inherited them may still have to take note of their end.
            wait_for(|| {
                sleeps.iter().all(|pid| {
                    parent(*pid).is_none()
                        || std::fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).is_err()
                })
            });
            assert_eq!(std::fs::read(&trigger).unwrap(), b"");
        }
    }

    #[test]
    fn without_a_trigger_the_boot_goes_on() {
        for shell in shells() {
            let took = start_without(&shell);
            assert!(took.contains("went on"), "{took}");
        }
    }

    fn start_without(shell: &[&str]) -> String {
        let script = format!("{}\necho went on", snippet(1, "/no/such/place/sysrq-trigger"));
        Exec::new(shell[0]).unwrap().args(&shell[1..]).args(["-e", "-c", &script]).text().unwrap()
    }
}
