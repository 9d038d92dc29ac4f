//! Power on to power off: boots the machine again whenever it asks for it, and knows where it stands.

use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::disk::{Disk, HOME_SUBVOLUME, ROOT_SUBVOLUME};
use super::payload::{Payload, REBOOT};
use super::place::{CGROUP_PREFIX, unmount_below};
use super::{Result, context};

/// More reboots than any run of the product may make: a machine that passes this reboots in circles.
const MOST_REBOOTS: u32 = 12;

/// What is known about the machine; all that wait for it are woken by each change.
#[derive(Debug, Default)]
pub struct Life {
    facts: Mutex<Facts>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Facts {
    on: bool,
    may_boot: bool,
    boots: u32,
    ready: u32,
    child: Option<Pid>,
    leader: Option<u32>,
    trouble: Option<String>,
}

impl Life {
    /// The machine is being switched on.
    pub fn switch_on(&self) {
        self.change(|facts| (facts.on, facts.may_boot, facts.trouble) = (true, true, None));
    }

    /// From now on the machine stays off once it is off.
    pub fn forbid_reboot(&self) {
        self.change(|facts| facts.may_boot = false);
    }

    /// How often it was started.
    pub fn boots(&self) -> u32 {
        self.facts().boots
    }

    /// The process that is PID 1 inside, while the machine is on.
    pub fn leader(&self) -> Option<u32> {
        self.facts().leader
    }

    /// The process that holds the machine, while it is on.
    pub fn child(&self) -> Option<Pid> {
        self.facts().child
    }

    /// Returns when the n-th boot has come up.
    pub fn wait_ready(&self, number: u32, limit: Duration) -> Result<()> {
        self.wait(limit, |facts| {
            if facts.ready >= number {
                return Some(Ok(()));
            }
            let off = || {
                format!("boot {number} never came up: {}", facts.trouble.as_deref().unwrap_or("it is off"))
            };
            (!facts.on).then(|| Err(std::io::Error::other(off())))
        })
    }

    /// Returns when the machine is off.
    pub fn wait_off(&self, limit: Duration) -> Result<()> {
        self.wait(limit, |facts| (!facts.on).then_some(Ok(())))
    }

    fn wait(&self, limit: Duration, done: impl Fn(&Facts) -> Option<Result<()>>) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut facts = self.facts();
        loop {
            if let Some(result) = done(&facts) {
                return result;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(std::io::Error::other(format!("nothing came of it within {limit:?}: {facts:?}")));
            }
            facts = self.changed.wait_timeout(facts, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn change(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts());
        self.changed.notify_all();
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the supervisor needs to start the machine again and again.
#[derive(Debug)]
pub struct Supervised {
    /// The name of the run directory.
    pub name: String,
    /// The run directory.
    pub run: PathBuf,
    /// The disk.
    pub disk: Disk,
    /// The path of the network namespace.
    pub network: PathBuf,
}

/// Boots the machine until it is off for good.
pub fn supervise(machine: &Supervised, life: &Life) {
    let result = boot_until_off(machine, life);
    life.change(|facts| {
        (facts.on, facts.child, facts.leader) = (false, None, None);
        facts.trouble = result.err().map(|error| error.to_string());
    });
}

/// Listens to what `systemd-nspawn` tells about the machine, until it is dropped.
#[derive(Debug)]
pub struct Ear {
    socket: UnixDatagram,
    thread: Option<JoinHandle<()>>,
}

impl Ear {
    /// Listens at an abstract address.
    pub fn open(name: &str, life: Arc<Life>) -> Result<Self> {
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
        let heard = socket.try_clone()?;
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A message of no bytes: the socket was shut down below.
            while let Ok(length @ 1..) = heard.recv(&mut buffer) {
                for line in String::from_utf8_lossy(&buffer[..length]).lines() {
                    hear(line, &life);
                }
            }
        });
        Ok(Self { socket, thread: Some(thread) })
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        // The address is free for the next machine only when the thread has let go of it as well.
        if self.socket.shutdown(Shutdown::Both).is_ok()
            && let Some(thread) = self.thread.take()
        {
            drop(thread.join());
        }
    }
}

fn hear(line: &str, life: &Life) {
    match line.split_once('=') {
        Some(("X_NSPAWN_LEADER_PID", pid)) => life.change(|facts| facts.leader = pid.parse().ok()),
        Some(("READY", "1")) => life.change(|facts| facts.ready = facts.boots),
        _ => {}
    }
}

fn boot_until_off(machine: &Supervised, life: &Life) -> Result<()> {
    let root = machine.run.join("root");
    for _ in 0..=MOST_REBOOTS {
        machine.disk.mount(ROOT_SUBVOLUME, &root)?;
        if machine.disk.has_subvolumes() {
            machine.disk.mount(HOME_SUBVOLUME, &root.join("home"))?;
        }
        let ended = match start(machine, life)? {
            Some(mut child) => child.wait()?,
            None => return unmount_below(&root),
        };
        life.change(|facts| (facts.child, facts.leader) = (None, None));
        unmount_below(&root)?;
        match ended.code() {
            Some(REBOOT) => {}
            Some(0) => return Ok(()),
            _ => return Err(std::io::Error::other(format!("systemd-nspawn ended with {ended}"))),
        }
    }
    Err(std::io::Error::other(format!("it rebooted more than {MOST_REBOOTS} times")))
}

/// Starts the machine unless that was forbidden; both under one lock, so that nothing starts after the plug was pulled.
fn start(machine: &Supervised, life: &Life) -> Result<Option<Child>> {
    let mut facts = life.facts();
    if !facts.may_boot {
        return Ok(None);
    }
    let payload = Payload {
        name: &machine.name,
        run: &machine.run,
        root: &machine.run.join("root"),
        device: machine.disk.device(),
        backup: &machine.run.join("backup"),
        network: &machine.network,
        notify: &format!("{CGROUP_PREFIX}{}", machine.name),
        console: &machine.run.join("console.log"),
    };
    let child = context(payload.start(), "start systemd-nspawn")?;
    facts.boots += 1;
    facts.child = Pid::from_raw(child.id().cast_signed());
    drop(facts);
    life.changed.notify_all();
    Ok(Some(child))
}
