//! Which machine, which boot, which release.

use std::path::Path;

/// A fact about this machine that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {what}: {why}")]
pub struct IdentityError {
    what: String,
    why: String,
}

fn unreadable(what: &str, why: impl ToString) -> IdentityError {
    IdentityError { what: what.to_owned(), why: why.to_string() }
}

/// The kernel's random id of the current boot. A container shares its host's, so a container's own start is told by the
/// start time of its PID 1, which is appended.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn boot_id() -> Result<String, IdentityError> {
    const ID: &str = "/proc/sys/kernel/random/boot_id";
    const INIT: &str = "/proc/1/stat";
    let id = std::fs::read_to_string(ID).map_err(|error| unreadable(ID, error))?;
    let stat = std::fs::read_to_string(INIT).map_err(|error| unreadable(INIT, error))?;
    let start = start_time(&stat).ok_or_else(|| unreadable(INIT, "it has no start time"))?;
    Ok(format!("{}-{start}", id.trim()))
}

/// Field 22 of proc_pid_stat(5), in clock ticks since the kernel started. The second field is a name in parentheses that may
/// itself contain spaces and parentheses.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// What an os-release(5) file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsRelease {
    /// `debian`, `ubuntu`, ...
    pub id: String,
    /// `12`; empty on testing and unstable.
    pub version_id: String,
    /// `bookworm`; empty where there is none.
    pub codename: String,
}

/// Reads `/etc/os-release`, or below another root.
///
/// # Errors
/// When it cannot be read or has no `ID`.
pub fn os_release(root: &Path) -> Result<OsRelease, IdentityError> {
    let etc = root.join("etc/os-release");
    // The link in /etc is relative; below another root it is followed by hand, never out of that root.
    let path = if etc.is_symlink() { root.join("usr/lib/os-release") } else { etc };
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&shown, error))?;
    let release = parse_os_release(&text);
    if release.id.is_empty() {
        return Err(unreadable(&shown, "it has no ID="));
    }
    Ok(release)
}

/// Understands the text of an os-release file; what is missing is empty.
#[must_use]
pub fn parse_os_release(text: &str) -> OsRelease {
    let value = |name: &str| {
        text.lines()
            .filter_map(|line| line.trim().split_once('='))
            .rfind(|(key, _)| *key == name)
            .map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
            .unwrap_or_default()
    };
    OsRelease { id: value("ID"), version_id: value("VERSION_ID"), codename: value("VERSION_CODENAME") }
}

/// The machine's name.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// machine-id(5), at most 64 characters; empty on a machine without one.
#[must_use]
pub fn machine_id() -> String {
    std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_in_debian_form() {
        let release = parse_os_release(
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n",
        );
        assert_eq!(release.id, "debian");
        assert_eq!(release.version_id, "12");
        assert_eq!(release.codename, "bookworm");
    }

    #[test]
    fn start_time_survives_a_hostile_name() {
        let stat = "1 (a b) c) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 100 200";
        assert_eq!(start_time(stat), Some(4711));
    }

    #[test]
    fn the_boot_id_is_stable_within_a_boot() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }
}
