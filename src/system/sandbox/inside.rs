//! The trampoline: our own program, started again, walks through three stages, each in a process of its own.
//!
//! 1. *Namespaces* leaves the machine's namespaces. It stays outside the new process namespace and ends the rest when the caller ends.
//! 2. *Room* is the first process in there. It puts the engine's root directory together, starts the engine and tells how it
//!    ended; when it ends, the kernel ends whatever the engine left running.
//! 3. *Engine* gives up all rights, lowers the limits, says which barriers stand, and becomes the engine.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::MemfdFlags;
use rustix::io::{Errno, FdFlags};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Resource, Rlimit, Signal, pidfd_open, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs, unshare_unsafe,
};

use super::barriers::{Barrier, Barriers, Standing};
use super::wire::{Powers, SECRET, Said, Spec, receive, send};
use super::{WORD, landlocked, room};
use crate::system::exec::CLEAN_PATH;

/// One more than the highest capability that a kernel has had so far, with room to grow; numbers that it does not know are passed over.
const CAPABILITIES: u32 = 64;

/// A stage that could not do its part. The caller hears of it through the socket; this is for whoever starts one by hand.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// It was not started by us.
    #[error("this command is a part of safe-upgrade's sandbox and is not meant to be typed")]
    NotOurs,
    /// What it does.
    #[error("{what}: {why}")]
    Refused {
        /// What failed.
        what: String,
        /// Why.
        why: String,
    },
}

fn refused(what: impl Into<String>, why: impl ToString) -> StageError {
    StageError::Refused { what: what.into(), why: why.to_string() }
}

/// Walks through the stage that the program's arguments ask for; `None` when they ask for something else. The last stage does not
/// return when all goes well.
pub fn stage_of(arguments: impl Iterator<Item = OsString>) -> Option<Result<(), StageError>> {
    let words: Vec<OsString> = arguments.skip(1).take(4).collect();
    match words.as_slice() {
        [word, name @ ..] if word == WORD => Some(match name {
            [name] => stage(&name.to_string_lossy(), None),
            [name, so_far] => stage(&name.to_string_lossy(), Some(&so_far.to_string_lossy())),
            _ => Err(StageError::NotOurs),
        }),
        _ => None,
    }
}

/// `so_far` is what the stages before this one achieved.
fn stage(name: &str, so_far: Option<&str>) -> Result<(), StageError> {
    let stdin = io::stdin();
    let socket = stdin.as_fd();
    let spec: Spec = receive(&mut Socket(socket)).ok().flatten().ok_or(StageError::NotOurs)?;
    let barriers = match so_far {
        None => Barriers::default(),
        Some(text) => serde_json::from_str(text).map_err(|_| StageError::NotOurs)?,
    };
    let ended = match name {
        "namespaces" => leave_namespaces(&spec, barriers, socket),
        "room" => run_in_room(&spec, barriers, socket),
        "engine" => become_engine(&spec, barriers, socket),
        _ => Err(StageError::NotOurs),
    };
    if let Err(StageError::Refused { what, why }) = &ended {
        // When the caller is gone there is nobody to tell.
        let _ = send(&mut Socket(socket), &Said::Refused { what: what.clone(), why: why.clone() });
    }
    ended
}

/// The socket to the caller, without a buffer: what one stage does not read is for the next.
struct Socket<'s>(BorrowedFd<'s>);

impl io::Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.0, buffer)?)
    }
}

impl io::Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn leave_namespaces(spec: &Spec, mut barriers: Barriers, socket: BorrowedFd<'_>) -> Result<(), StageError> {
    if !rustix::process::geteuid().is_root() {
        let entered = enter_user_namespace();
        if let Err(error) = &entered {
            let why = format!("this needs root, and no user namespace could be made: {error}");
            for barrier in Barrier::ALL.into_iter().filter(|barrier| barrier.takes_root()) {
                barriers.note(barrier, Standing::Missing(why.clone()));
            }
            return watch(start("room", &barriers)?, socket).map(drop);
        }
    }
    match &spec.network {
        Some(why) => barriers.note(Barrier::Network, Standing::Waived(why.clone())),
        None => barriers.tried(Barrier::Network, leave(UnshareFlags::NEWNET)),
    }
    barriers.tried(Barrier::Files, leave(UnshareFlags::NEWNS));
    barriers.tried(Barrier::Memory, leave(UnshareFlags::NEWIPC));
    barriers.tried(Barrier::Hostname, leave(UnshareFlags::NEWUTS));
    barriers.tried(Barrier::Processes, leave(UnshareFlags::NEWPID));
    watch(start("room", &barriers)?, socket).map(drop)
}

/// Each namespace by itself, so that a report can name the one that the kernel or a container refuses.
fn leave(namespace: UnshareFlags) -> Result<(), Errno> {
    #[allow(unsafe_code)]
    // SAFETY: unshare is unsafe because of CLONE_FILES, which makes descriptors of other threads invalid. It is never passed here,
    // and this program has only one thread at this point.
    unsafe {
        unshare_unsafe(namespace)
    }
}

/// A user namespace where we keep our own user and group, with all capabilities, which are handed on to the next stage.
fn enter_user_namespace() -> io::Result<()> {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    leave(UnshareFlags::NEWUSER)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    let sets = rustix::thread::capabilities(None)?;
    set_capabilities(None, CapabilitySets { inheritable: sets.permitted, ..sets })?;
    for capability in each_capability().filter(|capability| sets.permitted.contains(*capability)) {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

fn each_capability() -> impl Iterator<Item = CapabilitySet> {
    (0..CAPABILITIES).map(|number| CapabilitySet::from_bits_retain(1 << number))
}

fn run_in_room(spec: &Spec, mut barriers: Barriers, socket: BorrowedFd<'_>) -> Result<(), StageError> {
    let die_with_parent = set_parent_process_death_signal(Some(Signal::KILL));
    // Otherwise the engine could look into this process, and through it at the old root directory.
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    barriers.tried(Barrier::Lifetime, die_with_parent.and(hidden));
    if barriers.hold(Barrier::Hostname) {
        barriers.tried(Barrier::Hostname, rustix::system::sethostname(b"sandbox"));
    }
    if barriers.hold(Barrier::Files) && barriers.hold(Barrier::Processes) {
        let entered = room::enter(spec).map_err(|error| error.to_string());
        if let Err(why) = &entered {
            // A root directory that is half put together is no place to run anything in.
            return Err(refused("could not put the sandbox's files together", why));
        }
        barriers.tried(Barrier::Files, entered);
    } else if barriers.hold(Barrier::Files) {
        let why = "it goes together with a process namespace, which could not be made".to_owned();
        barriers.note(Barrier::Files, Standing::Missing(why));
    }
    let status = watch(start("engine", &barriers)?, socket)?;
    let said = Said::Ended { code: status.code(), signal: status.signal() };
    send(&mut Socket(socket), &said).map_err(|error| refused("could not tell how the engine ended", error))
}

/// The program is named by its inode, which stays in reach when its path does not.
fn start(stage: &str, barriers: &Barriers) -> Result<Child, StageError> {
    let wrong = |error: &dyn ToString| refused("could not start the sandbox's next stage", error.to_string());
    let so_far = serde_json::to_string(barriers).map_err(|error| wrong(&error))?;
    Command::new("/proc/self/exe")
        .args([WORD, stage, &so_far])
        .stdin(Stdio::inherit())
        .spawn()
        .map_err(|error| wrong(&error))
}

/// Waits for the next stage, and ends it at once when the caller is gone.
fn watch(mut child: Child, socket: BorrowedFd<'_>) -> Result<ExitStatus, StageError> {
    let wrong = |error: io::Error| refused("could not wait for the engine", error);
    let pid = Pid::from_raw(child.id().cast_signed());
    let pid = pid.ok_or_else(|| refused("could not wait for the engine", "it has no process id"))?;
    let ended = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| wrong(errno.into()))?;
    loop {
        let mut watched =
            [PollFd::new(&ended, PollFlags::IN), PollFd::from_borrowed_fd(socket, PollFlags::empty())];
        match poll(&mut watched, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(wrong(errno.into())),
        }
        if watched[1].revents().contains(PollFlags::HUP) {
            // Fails only when it has just ended by itself.
            let _ = child.kill();
        }
        if !watched[0].revents().is_empty() || watched[1].revents().contains(PollFlags::HUP) {
            return child.wait().map_err(wrong);
        }
    }
}

fn become_engine(spec: &Spec, mut barriers: Barriers, socket: BorrowedFd<'_>) -> Result<(), StageError> {
    if barriers.hold(Barrier::Lifetime) {
        barriers.tried(Barrier::Lifetime, set_parent_process_death_signal(Some(Signal::KILL)));
    }
    let mut command = command(spec)?;
    barriers.tried(Barrier::Ceilings, lower_limits(spec));
    barriers.tried(Barrier::Powers, give_up_powers(spec.powers));
    barriers.tried(Barrier::NoNewRights, set_no_new_privs(true));
    barriers.note(Barrier::Landlock, landlocked::hold(spec));
    insist(spec, &barriers)?;
    send(&mut Socket(socket), &Said::Ready(barriers))
        .map_err(|error| refused("could not say that the sandbox stands", error))?;
    let error = command.exec();
    Err(refused(format!("could not run {}", spec.program.display()), error))
}

/// As root every barrier must stand, unless the caller spares it; as somebody else those that do not take root.
fn insist(spec: &Spec, barriers: &Barriers) -> Result<(), StageError> {
    let root = rustix::process::geteuid().is_root();
    let missing: Vec<String> = barriers
        .missing()
        .filter(|(barrier, _)| (root || !barrier.takes_root()) && !spec.spared.contains(barrier))
        .map(|(barrier, why)| format!("{barrier} ({why})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(refused("the sandbox does not hold", format!("missing: {}", missing.join(", "))))
}

fn command(spec: &Spec) -> Result<Command, StageError> {
    let number = spec.secret.as_ref().map(|secret| hand_over(&secret.0)).transpose()?;
    let fill = |text: &OsString| fill_in(text, number);
    let home = &spec.home;
    let below = |name: &str| std::path::Path::new(home).join(name);
    let mut command = Command::new(&spec.program);
    command
        .args(spec.args.iter().map(fill))
        .env_clear()
        .env("PATH", CLEAN_PATH)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .env("HOME", home)
        .env("XDG_CACHE_HOME", below(".cache"))
        .env("XDG_CONFIG_HOME", below(".config"))
        .env("TMPDIR", home)
        .envs(spec.environment.iter().map(|(name, value)| (name, fill(value))))
        .current_dir(spec.directory.as_ref().unwrap_or(home))
        .stdin(Stdio::null());
    Ok(command)
}

/// Puts the secret into memory that has a descriptor, and lets the engine inherit it.
fn hand_over(secret: &[u8]) -> Result<i32, StageError> {
    let wrong = |error: io::Error| refused("could not hand the secret over", error);
    let file =
        rustix::fs::memfd_create("secret", MemfdFlags::empty()).map_err(|errno| wrong(errno.into()))?;
    let mut file = std::fs::File::from(file);
    io::Write::write_all(&mut file, secret).map_err(wrong)?;
    io::Seek::rewind(&mut file).map_err(wrong)?;
    rustix::io::fcntl_setfd(&file, FdFlags::empty()).map_err(|errno| wrong(errno.into()))?;
    // Not closed here: it lives on in the engine.
    Ok(file.into_raw_fd())
}

fn fill_in(text: &OsStr, number: Option<i32>) -> OsString {
    let Some(number) = number else { return text.to_owned() };
    let (bytes, mark) = (text.as_bytes(), SECRET.as_bytes());
    let Some(at) = bytes.windows(mark.len()).position(|window| window == mark) else {
        return text.to_owned();
    };
    OsString::from_vec([&bytes[..at], number.to_string().as_bytes(), &bytes[at + mark.len()..]].concat())
}

fn lower_limits(spec: &Spec) -> Result<(), Errno> {
    let ceilings = &spec.ceilings;
    let all = [
        (Resource::Core, Some(0)),
        (Resource::Nofile, ceilings.files),
        (Resource::As, ceilings.memory),
        (Resource::Cpu, ceilings.cpu),
        (Resource::Fsize, ceilings.file_size),
    ];
    for (resource, ceiling) in all {
        if let Some(ceiling) = ceiling {
            // Never higher than the caller's own: somebody who is not root could not anyway.
            let own = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
            let ceiling = Some(ceiling.min(own));
            setrlimit(resource, Rlimit { current: ceiling, maximum: ceiling })?;
        }
    }
    Ok(())
}

/// Root keeps what the engine needs; everybody else keeps nothing, not even what a user namespace gave.
fn give_up_powers(powers: Powers) -> Result<(), Errno> {
    let keep = match (rustix::process::geteuid().is_root(), powers) {
        (false, _) => CapabilitySet::empty(),
        (true, Powers::Read) => CapabilitySet::DAC_OVERRIDE,
        // Not DAC_READ_SEARCH: it opens files by number, past every mount.
        (true, Powers::Restore) => {
            CapabilitySet::DAC_OVERRIDE
                | CapabilitySet::CHOWN
                | CapabilitySet::FOWNER
                | CapabilitySet::FSETID
                | CapabilitySet::SETFCAP
                | CapabilitySet::MKNOD
                | CapabilitySet::LINUX_IMMUTABLE
        }
    };
    let own = rustix::thread::capabilities(None)?.permitted;
    if own.contains(CapabilitySet::SETPCAP) {
        for capability in each_capability().filter(|capability| !keep.contains(*capability)) {
            match remove_capability_from_bounding_set(capability) {
                // This kernel has no such capability.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    clear_ambient_capability_set()?;
    let keep = keep & own;
    set_capabilities(
        None,
        CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_named_by_its_number() {
        assert_eq!(fill_in(OsStr::new("/dev/fd/{secret}"), Some(7)), "/dev/fd/7");
        assert_eq!(fill_in(OsStr::new("{secret}x"), Some(12)), "12x");
        assert_eq!(fill_in(OsStr::new("plain"), Some(7)), "plain");
        assert_eq!(fill_in(OsStr::new("{secret}"), None), "{secret}");
    }
}
