//! The clone, running: a unit of its own with everything in it, and the way in.

use std::path::{Path, PathBuf};

use super::clone::{Bind, Clone};
use super::inside::{self, Said};
use super::names::Names;
use super::network::Network;
use super::{RehearsalError, Result};
use crate::system::exec::Exec;
use crate::system::room::Room;
use crate::system::show;
use crate::system::watched::{self, Ended, Watch};

/// How long the clone may take to shut down in an orderly way; then it is killed.
const STOP: &str = "TimeoutStopSec=120";

/// What keeps production from feeling it: the least share of processors and (where the disk's scheduler knows weights) of disks
/// whenever somebody else wants them, no swap space, and the first to go when memory runs out all the same. No device of the host,
/// whatever is made in there.
const LIMITS: [&str; 6] = [
    "CPUWeight=1",
    "IOWeight=1",
    "MemorySwapMax=0",
    "OOMScoreAdjust=800",
    "TasksMax=16384",
    "DevicePolicy=closed",
];

/// Less than this available, and the clone could not even upgrade: apt and the largest step beside it take 350 MiB, and its services
/// some. An assumption, in KiB.
const LEAST_AVAILABLE: u64 = 512 << 10;

/// Everything that the unit of a clone is limited by, with its share of the memory that is available now: three quarters of it.
///
/// # Errors
/// [`RehearsalError::Impossible`] when there is too little.
pub fn limits() -> Result<Vec<String>> {
    let path = "/proc/meminfo";
    let text = std::fs::read_to_string(path).map_err(RehearsalError::path("read", path))?;
    let memory = share_of_memory(&text)?;
    Ok(LIMITS.into_iter().map(str::to_owned).chain([format!("MemoryMax={memory}K")]).collect())
}

fn share_of_memory(meminfo: &str) -> Result<u64> {
    let available = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.split_whitespace().next()?.parse::<u64>().ok())
        .ok_or_else(|| {
            let why = std::io::Error::other("it names no MemAvailable");
            RehearsalError::path("understand", "/proc/meminfo")(why)
        })?;
    if available < LEAST_AVAILABLE {
        return Err(RehearsalError::Impossible(format!(
            "{} MiB of memory are available, and a clone beside this machine's services needs {} MiB: rehearse when less is going on, \
             or stop what can wait",
            available >> 10,
            LEAST_AVAILABLE >> 10
        )));
    }
    Ok(available / 4 * 3)
}

/// A clone that runs.
#[derive(Debug)]
pub struct Running {
    leader: u32,
    program: PathBuf,
}

/// Boots the clone. Returns when its first process has been started.
///
/// # Errors
/// When systemd or `systemd-nspawn` refuse.
pub fn boot(
    names: &Names,
    clone: &Clone,
    network: &Network,
    (masked, limits): (&[String], &[String]),
    program: &Path,
) -> Result<Running> {
    let failed = || RehearsalError::exec("boot the clone");
    let mut start = Exec::new("systemd-run")
        .map_err(failed())?
        .args(["--quiet", "--collect", &format!("--unit={}", names.unit())])
        .arg(format!("--description=Rehearsal {} of safe-upgrade", names.id()))
        .args(["--setenv=SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1"]);
    let own = ["Type=notify", "Delegate=yes", "KillMode=mixed", STOP, "DeviceAllow=char-pts rwm"];
    for property in own.into_iter().chain(limits.iter().map(String::as_str)) {
        start = start.arg(format!("--property={property}"));
    }
    let start = start
        .arg("--")
        .args(nspawn(names, clone, network)?)
        .args(masked.iter().map(|unit| format!("systemd.mask={unit}")));
    start.success().map_err(failed())?;
    Ok(Running { leader: leader(names)?, program: program.to_owned() })
}

/// Shuts the clone down in an orderly way, and kills what does not go. Probes first.
///
/// # Errors
/// When its unit is still there afterwards.
pub fn stop(names: &Names) -> Result<()> {
    let unit = names.unit();
    if state(&unit)? == "inactive" {
        return Ok(());
    }
    let systemctl = |words: &[&str]| {
        Exec::new("systemctl")
            .and_then(|exec| exec.args(words).output())
            .map_err(RehearsalError::exec("stop the clone"))
    };
    systemctl(&["stop", &unit])?;
    if !matches!(state(&unit)?.as_str(), "inactive" | "failed") {
        systemctl(&["kill", "--signal=KILL", &unit])?;
        systemctl(&["stop", &unit])?;
    }
    systemctl(&["reset-failed", &unit])?;
    match state(&unit)?.as_str() {
        "inactive" | "failed" => Ok(()),
        other => Err(RehearsalError::Silent { stage: "stop", why: format!("{unit} is still {other}") }),
    }
}

/// Whether the clone runs.
///
/// # Errors
/// When systemd does not say.
pub fn runs(names: &Names) -> Result<bool> {
    Ok(state(&names.unit())? == "active")
}

/// The console of the clone, as the journal has it, for the logs.
#[must_use]
pub fn console(names: &Names) -> Vec<u8> {
    let words = ["--no-pager", "--output=cat", &format!("--unit={}", names.unit())];
    Exec::new("journalctl")
        .and_then(|exec| exec.args(words).success())
        .map_or_else(|_| Vec::new(), |output| output.stdout)
}

impl Running {
    /// Runs one stage of this program inside and returns the last that it said.
    ///
    /// # Errors
    /// When it cannot be started, falls silent, or ends without an answer; [`RehearsalError::Impossible`] when there was no room.
    pub fn stage(&self, stage: &'static str, watch: &Watch<'_>, told: &dyn Fn(f32, &str)) -> Result<Said> {
        let mut heard = Vec::new();
        let words = |fd: i32| {
            let program = format!("{}/{}", inside::HOME, inside::PROGRAM);
            let mut words = vec![inside::ENTER.to_owned(), self.leader.to_string(), program];
            words.extend([inside::WORD.to_owned(), stage.to_owned(), fd.to_string()]);
            words
        };
        let mut answer = None;
        let ended = watched::run(&self.program.to_string_lossy(), words, &[], watch, &mut |bytes| {
            heard.extend_from_slice(bytes);
            while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = heard.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(Said::Progress { percent, text }) => told(percent, &text),
                    Ok(said) => answer = Some(said),
                    Err(error) => {
                        tracing::warn!(%error, "the clone said something that was not understood")
                    }
                }
            }
        });
        let silent = |why: String| RehearsalError::Silent { stage, why };
        let ended = ended.map_err(|error| silent(crate::error::chain(&error)))?;
        match (answer, ended) {
            (Some(said), ended) if ended.well() => Ok(said),
            (_, Ended::NoRoom(place)) => Err(no_room(watch.room, place)),
            _ => Err(silent(format!("it ended with {ended:?}; its log is {}", watch.log.display()))),
        }
    }
}

/// The clone and the machine write to the same disk.
fn no_room(room: Option<&Room>, place: usize) -> RehearsalError {
    let place = room.and_then(|room| room.place(place)).map(show::path);
    RehearsalError::Impossible(format!(
        "the rehearsal was ended because less than {} MiB were left on the filesystem of {}, and this machine's own services need them: \
         make room there",
        room.map_or(0, Room::least) >> 20,
        place.unwrap_or_default()
    ))
}

/// The words of `systemd-nspawn`. Its own private network would have its other end in the host.
fn nspawn(names: &Names, clone: &Clone, network: &Network) -> Result<Vec<String>> {
    let tool = crate::system::exec::find_tool("systemd-nspawn").map_err(|_| missing())?;
    let mut words: Vec<String> = vec![tool.to_string_lossy().into_owned()];
    let fixed = ["--quiet", "--boot", "--register=no", "--keep-unit", "--link-journal=no", "--console=pipe"];
    words.extend(fixed.map(str::to_owned));
    words.extend(["--resolv-conf=off", "--timezone=off", "--drop-capability=CAP_MKNOD"].map(str::to_owned));
    words.push(format!("--machine=rehearsal-{}", names.id()));
    words.push(format!("--hostname={}", crate::system::identity::host_name()));
    words.push(format!("--network-namespace-path={}", network.path));
    words.push(format!("--directory={}", clone.root.display()));
    words.extend(clone.binds.iter().map(bind));
    Ok(words)
}

/// A colon or a backslash in a path would be read as something else.
fn bind(bind: &Bind) -> String {
    let quoted = |path: &Path| path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:");
    let option = if bind.writable { "--bind" } else { "--bind-ro" };
    format!("{option}={}:{}:norbind", quoted(&bind.from), quoted(&bind.to))
}

fn missing() -> RehearsalError {
    RehearsalError::Impossible(
        "systemd-nspawn is not installed, and the clone is booted by it: apt-get install systemd-container"
            .into(),
    )
}

/// Whether this machine has what a rehearsal needs.
///
/// # Errors
/// [`RehearsalError::Impossible`] names what is missing.
pub fn needed() -> Result<()> {
    nspawn_tool()?;
    for (tool, package) in [("ip", "iproute2"), ("nsenter", "util-linux"), ("systemd-run", "systemd")] {
        crate::system::exec::find_tool(tool).map_err(|_| {
            RehearsalError::Impossible(format!("{tool} is not installed: apt-get install {package}"))
        })?;
    }
    limits().map(drop)
}

fn nspawn_tool() -> Result<()> {
    crate::system::exec::find_tool("systemd-nspawn").map(drop).map_err(|_| missing())
}

/// The process that is the first one inside: the only child of `systemd-nspawn`.
fn leader(names: &Names) -> Result<u32> {
    let silent = |why: String| RehearsalError::Silent { stage: "boot", why };
    let main = property(&names.unit(), "MainPID")?;
    let path = format!("/proc/{main}/task/{main}/children");
    let children = std::fs::read_to_string(&path).map_err(RehearsalError::path("read", &path))?;
    let mut pids = children.split_whitespace();
    match (pids.next().and_then(|pid| pid.parse().ok()), pids.next()) {
        (Some(pid), None) => Ok(pid),
        _ => Err(silent(format!("systemd-nspawn (process {main}) has the children {children:?}"))),
    }
}

fn state(unit: &str) -> Result<String> {
    property(unit, "ActiveState")
}

fn property(unit: &str, property: &str) -> Result<String> {
    let words = ["show", "--value", &format!("--property={property}"), unit];
    let text = Exec::new("systemctl")
        .and_then(|exec| exec.args(words).text())
        .map_err(RehearsalError::exec("ask systemd about the clone"))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gets_three_quarters_of_what_is_available() {
        let text = |kib: u64| format!("MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable:    {kib} kB\n");
        assert_eq!(share_of_memory(&text(4 << 20)).unwrap(), 3 << 20);
        let RehearsalError::Impossible(why) = share_of_memory(&text(511 << 10)).unwrap_err() else {
            panic!()
        };
        assert!(why.contains("511 MiB") && why.contains("512 MiB"), "{why}");
        assert!(matches!(share_of_memory("MemTotal: 9 kB\n"), Err(RehearsalError::Path { .. })));
    }

    #[test]
    fn a_colon_in_a_path_is_part_of_it() {
        let one = Bind { from: "/srv/a:b".into(), to: "/srv/a:b".into(), writable: false };
        assert_eq!(bind(&one), "--bind-ro=/srv/a\\:b:/srv/a\\:b:norbind");
    }
}
