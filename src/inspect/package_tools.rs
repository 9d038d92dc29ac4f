//! Who else works with packages: tools that run now, locks that are held, and diversions that somebody made.

use std::fs::{self, File};
use std::path::Path;

use rustix::process::{Flock, FlockType, fcntl_getlk};

use super::reading::{self, InspectError};
use crate::finding::Finding;
use crate::system::show;

/// Locks of dpkg and apt.
const LOCKS: [&str; 4] = [
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/lock",
    "var/lib/apt/lists/lock",
    "var/cache/apt/archives/lock",
];
/// Programs that change packages, by the names that the kernel keeps (15 characters).
const TOOLS: [&str; 8] =
    ["apt", "apt-get", "aptitude", "dpkg", "unattended-upgr", "do-release-upgr", "packagekitd", "synaptic"];
/// Words by which such a program changes nothing. The first is what `unattended-upgrades` leaves running for the shutdown.
const HARMLESS: [&str; 5] = ["--wait-for-signal", "-s", "--simulate", "--dry-run", "--print-uris"];

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Held locks and by whom.
    locks: Vec<String>,
    /// Running tools.
    running: Vec<String>,
    /// Files that were diverted by hand: which, and where to.
    diversions: Vec<(String, String)>,
}

pub(super) fn facts(root: &Path) -> Result<Facts, InspectError> {
    let mut locks = Vec::new();
    for lock in LOCKS {
        if let Some(pid) = holder(root, lock)? {
            let name = reading::text(root, &format!("proc/{pid}/comm"))?.unwrap_or_default();
            locks.push(format!("/{lock} is held by {} (process {pid})", show::line(name.trim())));
        }
    }
    let diversions = reading::text(root, "var/lib/dpkg/diversions")?.unwrap_or_default();
    Ok(Facts { locks, running: running(root)?, diversions: by_hand(&diversions) })
}

/// Who holds the lock on a file, by the kernel's own word.
fn holder(root: &Path, lock: &str) -> Result<Option<i32>, InspectError> {
    let path = reading::at(root, lock);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(InspectError::Read { path, source }),
    };
    let held = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock))
        .map_err(|source| InspectError::Read { path, source: source.into() })?;
    Ok(held.map(|lock| lock.pid.map_or(0, |pid| pid.as_raw_nonzero().get())))
}

fn running(root: &Path) -> Result<Vec<String>, InspectError> {
    // What runs in a container, or in a root of its own, works with other packages.
    let world = |pid: &str| {
        ["ns/mnt", "root"].map(|link| fs::read_link(reading::at(root, &format!("proc/{pid}/{link}"))).ok())
    };
    let own = world("self");
    let mut found = Vec::new();
    for pid in
        reading::names(root, "proc")?.iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    {
        // Programs end while they are counted.
        let Ok(Some(name)) = reading::text(root, &format!("proc/{pid}/comm")) else { continue };
        if !TOOLS.contains(&name.trim()) {
            continue;
        }
        let line = reading::text(root, &format!("proc/{pid}/cmdline")).ok().flatten().unwrap_or_default();
        let harmless = line.split('\0').any(|word| HARMLESS.contains(&word));
        if !harmless && world(pid) == own {
            let words = line.replace('\0', " ");
            found.push(format!("process {pid}: {}", show::line(words.trim())));
        }
    }
    Ok(found)
}

/// Three lines each: the file, where it is diverted to, and by which package; a colon for an administrator.
fn by_hand(text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .chunks_exact(3)
        .filter(|lines| lines[2] == ":")
        .map(|lines| (lines[0].to_owned(), lines[1].to_owned()))
        .collect()
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let busy: Vec<String> = facts.locks.iter().chain(&facts.running).cloned().collect();
    if !busy.is_empty() {
        let what = "somebody else works with packages now: what is found here may change while it is read.";
        found.push(
            Finding::warning("package-tool-running", what, "wait until it has ended, then check again")
                .with_evidence(busy),
        );
    }
    if !facts.diversions.is_empty() {
        let what = "files of packages were diverted by hand: the new release's go where the old ones went, and the file in their place stays old.";
        let remedy = "dpkg-divert --rename --remove FILE, for each that is not wanted any more";
        found.push(
            Finding::note("local-diversions", what, remedy).with_evidence(
                facts
                    .diversions
                    .iter()
                    .map(|(from, to)| format!("{} is diverted to {}", show::line(from), show::line(to))),
            ),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::reading::made_up::{ids, tree};
    use super::*;

    #[test]
    fn who_is_at_work() {
        let dir = tree(&[
            ("proc/7/comm", "unattended-upgr\n"),
            (
                "proc/7/cmdline",
                "/usr/bin/python3\0/usr/share/unattended-upgrades/unattended-upgrade-shutdown\0--wait-for-signal\0",
            ),
            ("proc/8/comm", "bash\n"),
            ("proc/meminfo", ""),
            ("var/lib/dpkg/lock", ""),
        ]);
        assert!(findings(&facts(dir.path()).unwrap()).is_empty());
        super::super::reading::made_up::put(dir.path(), "proc/9/comm", "apt-get\n");
        super::super::reading::made_up::put(dir.path(), "proc/9/cmdline", "apt-get\0install\0x\0");
        let found = findings(&facts(dir.path()).unwrap());
        assert_eq!(ids(&found), ["warning package-tool-running"]);
        assert_eq!(found[0].evidence, ["process 9: apt-get install x"]);
        std::os::unix::fs::symlink("/srv/chroot", dir.path().join("proc/9/root")).unwrap();
        assert!(findings(&facts(dir.path()).unwrap()).is_empty(), "in a root of its own");
    }

    #[test]
    fn diversions_of_packages_are_their_own_matter() {
        let text = "/usr/bin/a\n/usr/bin/a.distrib\n:\n/lib64/ld.so\n/lib64/ld.so.usr-is-merged\nlibc6\n";
        let found = findings(&Facts { diversions: by_hand(text), ..Facts::default() });
        assert_eq!(ids(&found), ["note local-diversions"]);
        assert_eq!(found[0].evidence, ["/usr/bin/a is diverted to /usr/bin/a.distrib"]);
    }
}
