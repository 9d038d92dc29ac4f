//! Which tree runs, which one boots next, and the reboot between them.

use std::convert::Infallible;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Result, trouble};
use crate::driver::Trouble;
use crate::evidence::{BootFacts, BootId, Plan, Release, Volume, VolumeId};
use crate::progress::Progress;
use crate::snapshot::{Subvolume, TopLevel, Uuid};
use crate::system::exec::Exec;
use crate::system::identity;

/// How long a machine may take to go down before somebody is told that it does not.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(900);

/// Looks at the running root and at the one that boots next.
pub(super) fn facts(plan: Option<&Plan>) -> Result<BootFacts> {
    let plan = plan.ok_or_else(|| Trouble::new("there is no run"))?;
    let top = TopLevel::open(Path::new("/")).map_err(trouble)?;
    let running = top.running_root().map_err(trouble)?;
    let name = &plan.root.name;
    let named = top.find(name).map_err(trouble)?;
    let named = named.ok_or_else(|| Trouble::new(format!("no subvolume is named {name}: nothing would boot")))?;
    Ok(BootFacts {
        boot: BootId::new(identity::boot_id().map_err(trouble)?),
        running: volume(&running)?,
        named: volume(&named)?,
        release: running_release()?,
    })
}

/// The release that runs.
pub(super) fn running_release() -> Result<Release> {
    let release = identity::os_release(Path::new("/")).map_err(trouble)?;
    Ok(Release { codename: release.codename, version_id: release.version_id })
}

pub(super) fn volume_id(uuid: Uuid) -> Result<VolumeId> {
    uuid.to_string().parse().map_err(trouble)
}

pub(super) fn volume(subvolume: &Subvolume) -> Result<Volume> {
    Ok(Volume { uuid: volume_id(subvolume.uuid)?, parent: subvolume.parent_uuid.map(volume_id).transpose()? })
}

/// Asks systemd for a reboot and waits for the end. Repeatable.
pub(super) fn reboot(progress: &Progress) -> Result<Infallible> {
    progress.reboot();
    rustix::fs::sync();
    let ask = |args: &[&str]| Exec::new("systemctl").and_then(|exec| exec.args(args).success());
    // A job that hangs must not keep a half-finished run alive; systemd still stops everything that it can.
    ask(&["reboot"]).or_else(|_| ask(&["reboot", "--force"])).map_err(trouble)?;
    let deadline = Instant::now() + SHUTDOWN_LIMIT;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        // SIGTERM ends this process; nothing else is waited for.
        std::thread::park_timeout(left);
    }
    Err(Trouble::new(format!("the machine did not go down within {} minutes", SHUTDOWN_LIMIT.as_secs() / 60)))
}
