//! Which tree runs, which one boots next, and the reboot between them.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::SIGTERM;

use super::loader::Loader;
use super::{Machine, Result, trouble};
use crate::driver::Trouble;
use crate::evidence::{BootFacts, BootId, FallbackMethod, Plan, Release, RunId, Volume, VolumeId};
use crate::machine::Destination;
use crate::snapshot::{Subvolume, TopLevel, Uuid};
use crate::system::exec::Exec;
use crate::system::identity;
use crate::system::told_to_stop::ToldToStop;

/// How long a machine may take to go down before somebody is told that it does not.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(900);

/// Looks at the running root and at the one that boots next.
pub(super) fn facts(machine: &Machine, plan: &Plan) -> Result<BootFacts> {
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let running = top.running_root().map_err(trouble)?;
    let name = &plan.root.name;
    let named = top.find(name).map_err(trouble)?;
    let named =
        named.ok_or_else(|| Trouble::new(format!("no subvolume is named {name}: nothing would boot")))?;
    Ok(BootFacts {
        boot: BootId::new(identity::boot_id().map_err(trouble)?),
        running: volume(&running)?,
        named: volume(&named)?,
        release: running_release()?,
        token: trial_token()?,
        one_shot: one_shot(machine, plan, &top),
        uptime: uptime(),
    })
}

/// Whether the trial boots next, once. Which root runs must be known even when this can't be.
fn one_shot(machine: &Machine, plan: &Plan, top: &TopLevel) -> Option<bool> {
    if !plan.promise.method.is_one_shot() {
        return Some(false);
    }
    let ready = Loader::of(plan, &machine.names, &machine.directory, top)
        .and_then(|loader| loader.map_or(Ok(false), |loader| loader.is_ready()));
    match ready {
        Ok(ready) => Some(ready),
        Err(trouble) => {
            tracing::warn!(%trouble, "whether the trial boots next could not be found out");
            None
        }
    }
}

/// The release that runs.
pub(super) fn running_release() -> Result<Release> {
    let release = identity::os_release(Path::new("/")).map_err(trouble)?;
    Ok(Release { codename: release.codename, version_id: release.version_id })
}

/// What a trial's command line carries, with the run's id behind it.
const TOKEN: &str = "safe_upgrade.trial=";

/// The run whose trial this boot was started as.
fn trial_token() -> Result<Option<RunId>> {
    let line = std::fs::read_to_string("/proc/cmdline").map_err(trouble)?;
    Ok(token_in(&line))
}

fn token_in(command_line: &str) -> Option<RunId> {
    command_line.split_whitespace().find_map(|word| word.strip_prefix(TOKEN)?.parse().ok())
}

/// Seconds since the kernel started, those that it slept included.
pub(super) fn uptime() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0)
}

pub(super) fn volume_id(uuid: Uuid) -> Result<VolumeId> {
    uuid.to_string().parse().map_err(trouble)
}

pub(super) fn volume(subvolume: &Subvolume) -> Result<Volume> {
    Ok(Volume { uuid: volume_id(subvolume.uuid)?, parent: subvolume.parent_uuid.map(volume_id).transpose()? })
}

/// Asks systemd for a reboot, or for the kernel that is loaded as the trial's, and waits for the end. Repeatable.
pub(super) fn reboot(machine: &Machine, plan: &Plan, into: Destination) -> Result<Infallible> {
    let progress = &machine.progress;
    let verb = match (into, plan.promise.method) {
        (Destination::Trial, FallbackMethod::Kexec) => {
            let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
            if let Some(loader) = Loader::of(plan, &machine.names, &machine.directory, &top)? {
                loader.load_trial()?;
            }
            "kexec"
        }
        _ => "reboot",
    };
    progress.reboot();
    go_down(verb)
}

/// Asks systemd for a reboot or for kexec and waits for the end.
pub(super) fn go_down(verb: &str) -> Result<Infallible> {
    // An upgrade in this process may have taken SIGTERM for itself.
    let stop = ToldToStop::by_signals().map_err(trouble)?;
    rustix::fs::sync();
    if let Err(error) = bound_the_shutdown(verb) {
        tracing::warn!(%error, "a service that does not stop may hold the reboot up for long");
    }
    let ask = |args: &[&str]| Exec::new("systemctl").and_then(|exec| exec.args(args).success());
    // A job that hangs must not keep a half-finished run alive; systemd still stops everything that it can.
    ask(&[verb]).or_else(|_| ask(&[verb, "--force"])).map_err(trouble)?;
    wait_for_the_end(&stop).map_err(trouble)?;
    Err(Trouble::new(format!("the machine did not go down within {} minutes", SHUTDOWN_LIMIT.as_secs() / 60)))
}

/// For as long as this boot lives: a database that is asked to stop in the middle of its start has been seen to keep the old system
/// waiting for a quarter of an hour (its unit's own limit). Then systemd gives up, and reboots by force.
fn bound_the_shutdown(verb: &str) -> Result<()> {
    const TEXT: &str = "[Unit]\nJobTimeoutSec=4min\nJobTimeoutAction=reboot-force\n";
    const RELOAD: Duration = Duration::from_secs(30);
    // systemctl(1): each verb has the target of its name. A forced reboot in the place of a kexec boots the old system.
    let directory = PathBuf::from(format!("/run/systemd/system/{verb}.target.d"));
    std::fs::create_dir_all(&directory).map_err(trouble)?;
    std::fs::write(directory.join("safe-upgrade.conf"), TEXT).map_err(trouble)?;
    let reload = Exec::new("systemctl").and_then(|exec| exec.arg("daemon-reload").limit(RELOAD).success());
    reload.map(drop).map_err(trouble)
}

/// Returns only when nobody asked this process to end for the whole limit.
fn wait_for_the_end(stop: &ToldToStop) -> std::io::Result<()> {
    let limit = Timespec { tv_sec: SHUTDOWN_LIMIT.as_secs().cast_signed(), tv_nsec: 0 };
    match poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&limit)) {
        Ok(0) => Ok(()),
        Ok(_) | Err(rustix::io::Errno::INTR) => signal_hook::low_level::emulate_default_handler(SIGTERM),
        Err(errno) => Err(errno.into()),
    }
}
