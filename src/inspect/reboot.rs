//! Whether something waits for a reboot: an upgrade is better begun by a system that runs what is installed.

use std::path::Path;

use super::reading::{self, InspectError};
use crate::finding::{Finding, Severity};
use crate::system::show;

/// Packages for which Ubuntu's upgrader refuses to begin before the reboot.
const UBUNTU_REFUSES: [&str; 3] = ["libc6", "linux-base", "linux-image-"];

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// `/run/reboot-required` is there.
    asked: bool,
    /// The packages that asked for it.
    packages: Vec<String>,
    /// The running kernel, when it has no modules although others have.
    kernel_without_modules: Option<String>,
    /// Files that PID 1 runs from and that were replaced since.
    replaced: Vec<String>,
}

pub(super) fn facts(root: &Path, container: bool) -> Result<Facts, InspectError> {
    let packages = reading::text(root, "run/reboot-required.pkgs")?.unwrap_or_default();
    let mut packages: Vec<String> = packages.split_ascii_whitespace().map(str::to_owned).collect();
    packages.sort();
    packages.dedup();
    let release = reading::text(root, "proc/sys/kernel/osrelease")?.unwrap_or_default().trim().to_owned();
    let modules = reading::names(root, "lib/modules")?;
    // A kernel that comes from outside (a host, a provider) has no modules here, and neither has any other.
    let without = !container && !release.is_empty() && !modules.is_empty() && !modules.contains(&release);
    // Another init may be closed to us, and does not run from what packages replace.
    let systemd = reading::text(root, "proc/1/comm")?.is_some_and(|name| name.trim() == "systemd");
    let replaced = match systemd {
        true => replaced(&reading::text(root, "proc/1/maps")?.unwrap_or_default()),
        false => Vec::new(),
    };
    Ok(Facts {
        asked: reading::at(root, "run/reboot-required").exists(),
        packages,
        kernel_without_modules: without.then_some(release),
        replaced,
    })
}

/// The C library and systemd's own parts, where the running ones were deleted.
fn replaced(maps: &str) -> Vec<String> {
    let mut files: Vec<String> = maps
        .lines()
        .filter_map(|line| line.strip_suffix(" (deleted)"))
        .filter_map(|line| line.find('/').map(|at| &line[at..]))
        .filter(|path| path.starts_with("/usr/") || path.starts_with("/lib"))
        .filter(|path| {
            let name = path.rsplit('/').next().unwrap_or_default();
            ["libc.so", "libc-", "ld-linux", "libsystemd", "systemd"]
                .iter()
                .any(|start| name.starts_with(start))
        })
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    files
}

pub(super) fn findings(facts: &Facts, distribution: &str) -> Vec<Finding> {
    let mut evidence = Vec::new();
    if facts.asked {
        evidence.push(format!("/run/reboot-required: {}", facts.packages.join(" ")));
    }
    if let Some(kernel) = &facts.kernel_without_modules {
        evidence.push(format!(
            "the running kernel {} has no modules in /lib/modules any more",
            show::line(kernel)
        ));
    }
    evidence
        .extend(facts.replaced.iter().map(|file| format!("PID 1 runs from a deleted {}", show::line(file))));
    if evidence.is_empty() {
        return Vec::new();
    }
    let refused = distribution == "ubuntu"
        && facts.packages.iter().any(|package| UBUNTU_REFUSES.iter().any(|start| package.starts_with(start)));
    let (severity, more) = if refused {
        (Severity::Inhibitor, "; Ubuntu's upgrader refuses to begin before that")
    } else {
        (Severity::Warning, "")
    };
    let what = format!("the machine waits for a reboot: it does not run what is installed{more}.");
    vec![Finding::new("reboot-pending", severity, what, "reboot, then check again").with_evidence(evidence)]
}

#[cfg(test)]
mod tests {
    use super::super::reading::made_up::{ids, tree};
    use super::*;

    const MAPS: &str = "7f00-7f01 r-xp 00000000 fe:00 1 /usr/lib/x86_64-linux-gnu/libc.so.6 (deleted)\n\
        7f02-7f03 r-xp 00000000 fe:00 2 /usr/lib/x86_64-linux-gnu/libm.so.6\n\
        7f04-7f05 rw-s 00000000 00:01 3 /memfd:x (deleted)\n";

    #[test]
    fn each_sign_counts() {
        let cases: [(&[(&str, &str)], usize); 5] = [
            (&[("proc/1/comm", "runit\n"), ("proc/1/maps", MAPS)], 0),
            (
                &[
                    ("run/reboot-required", ""),
                    ("run/reboot-required.pkgs", "linux-image-6.1.0-40-amd64\nlibc6\nlibc6\n"),
                ],
                1,
            ),
            (
                &[
                    ("proc/sys/kernel/osrelease", "6.1.0-30-amd64\n"),
                    ("lib/modules/6.1.0-40-amd64/modules.dep", ""),
                ],
                1,
            ),
            (&[("proc/1/comm", "systemd\n"), ("proc/1/maps", MAPS)], 1),
            (&[("proc/sys/kernel/osrelease", "6.18-host\n"), ("etc/x", "")], 0),
        ];
        for (files, count) in cases {
            let dir = tree(files);
            let facts = facts(dir.path(), false).unwrap();
            let found = findings(&facts, "debian");
            assert_eq!(found.iter().map(|finding| finding.evidence.len()).sum::<usize>(), count, "{files:?}");
            assert!(found.iter().all(|finding| finding.severity == Severity::Warning));
        }
    }

    #[test]
    fn ubuntu_refuses_and_a_container_has_no_kernel() {
        let dir = tree(&[("run/reboot-required", ""), ("run/reboot-required.pkgs", "libc6\n")]);
        assert_eq!(
            ids(&findings(&facts(dir.path(), false).unwrap(), "ubuntu")),
            ["inhibitor reboot-pending"]
        );
        let dir = tree(&[("proc/sys/kernel/osrelease", "6.18-host\n"), ("lib/modules/6.1/x", "")]);
        assert!(findings(&facts(dir.path(), true).unwrap(), "debian").is_empty());
    }
}
