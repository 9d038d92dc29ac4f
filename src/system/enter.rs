//! Going into a container that runs: into its control group first, so that what is done there belongs to it, then into all of its
//! namespaces.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use super::exec::{CLEAN_PATH, ExecError, find_tool};

/// A container that could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// Its control group could not be joined.
    #[error("failed to join the control group {}", .path.display())]
    Group {
        /// The group's directory, or the file that names it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `nsenter` could not be started.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// `nsenter` could not take the place of this process.
    #[error("failed to become nsenter")]
    Become(#[source] io::Error),
}

/// Becomes a program inside the container whose first process is `leader`, seen from out here. Returns only when that fails.
///
/// # Errors
/// See [`EnterError`].
pub fn become_inside(leader: u32, words: &[OsString]) -> Result<Infallible, EnterError> {
    join(leader)?;
    // Not by `Exec`: whoever called leads a session already, and its child must not try to lead a group.
    let mut enter = Command::new(find_tool("nsenter")?);
    enter.args(["--all", "--target", &leader.to_string(), "--"]).args(words);
    enter.env_clear().env("PATH", CLEAN_PATH).env("LC_ALL", "C.UTF-8").env("HOME", "/root");
    Err(EnterError::Become(enter.exec()))
}

/// Gives up, for all programs that are started from here on, every capability that the first process of this container may not have:
/// `nsenter` brings those of the host along, with which a package could load kernel modules or set the host's clock.
///
/// # Errors
/// When it cannot be found out which those are, or the kernel refuses.
pub fn bind_like_first() -> io::Result<()> {
    let text = fs::read_to_string("/proc/1/status")?;
    let allowed = bounding_of(&text).ok_or_else(|| io::Error::other("/proc/1/status has no CapBnd"))?;
    for number in (0..u64::BITS).filter(|number| allowed & (1 << number) == 0) {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            // A number that this kernel does not know.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// From the text of a `/proc/PID/status`.
fn bounding_of(text: &str) -> Option<u64> {
    let digits = text.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

/// The leader sits in a scope of its own; beside it is the place for others.
fn join(leader: u32) -> Result<(), EnterError> {
    let named = PathBuf::from(format!("/proc/{leader}/cgroup"));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| EnterError::Group { path, source }
    };
    let text = fs::read_to_string(&named).map_err(failed(&named))?;
    let Some(payload) = payload_of(&text) else {
        return Err(failed(&named)(io::Error::other(
            "it names no group of its own in the unified hierarchy",
        )));
    };
    // Hosts with a hybrid hierarchy have the unified one a directory lower.
    let top = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let top = top.iter().find(|top| Path::new(top).join("cgroup.procs").exists()).unwrap_or(&top[0]);
    let group = Path::new(top).join(payload).join("safe-upgrade.scope");
    fs::create_dir_all(&group).map_err(failed(&group))?;
    fs::write(group.join("cgroup.procs"), std::process::id().to_string()).map_err(failed(&group))
}

/// The group above the leader's, from the text of its `/proc/PID/cgroup`.
fn payload_of(text: &str) -> Option<PathBuf> {
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let payload = Path::new(own).parent()?;
    (!payload.as_os_str().is_empty()).then(|| payload.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_stand_beside_the_leader() {
        let text = "1:name=systemd:/x\n0::/system.slice/reh.service/payload/init.scope\n";
        assert_eq!(payload_of(text).unwrap(), Path::new("system.slice/reh.service/payload"));
        assert_eq!(bounding_of("Name:\tx\nCapBnd:\t00000000f4ecafff\n"), Some(0xf4ec_afff));
        assert_eq!(bounding_of("Name:\tx\n"), None);
        // Never into the host's own group.
        assert_eq!(payload_of("0::/init.scope\n"), None);
        assert_eq!(payload_of("0::/\n"), None);
    }
}
