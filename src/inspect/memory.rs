//! Memory: apt needs some for its decisions, and compressing an initrd needs some.

use std::path::Path;

use super::reading::{self, InspectError};
use crate::finding::Finding;

/// What apt and the largest step beside it need at least, in KiB. An assumption: apt takes 150 MiB for a release, and
/// `mkinitramfs` about as much for compressing with zstd.
const LEAST_KIB: u64 = 350 << 10;

/// Memory and swap space, in KiB; `None` where the kernel does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts(Option<(u64, u64)>);

pub(super) fn facts(root: &Path) -> Result<Facts, InspectError> {
    let Some(text) = reading::text(root, "proc/meminfo")? else { return Ok(Facts(None)) };
    let value = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?.strip_prefix(':')?;
        rest.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    match (value("MemAvailable"), value("SwapFree")) {
        (Some(memory), Some(swap)) => Ok(Facts(Some((memory, swap)))),
        _ => Err(InspectError::Understand {
            path: reading::at(root, "proc/meminfo"),
            what: "no MemAvailable".into(),
        }),
    }
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let Some((memory, swap)) = facts.0.filter(|(memory, swap)| memory + swap < LEAST_KIB) else {
        return Vec::new();
    };
    let what = format!(
        "there is little memory: the upgrade needs about {} MiB, and the kernel may end it in the middle.",
        LEAST_KIB >> 10
    );
    vec![
        Finding::warning("memory-low", what, "stop services that can wait, or add swap space").with_evidence(
            [format!("/proc/meminfo: {} MiB available, {} MiB of swap space free", memory >> 10, swap >> 10)],
        ),
    ]
}

/// The machine's memory in bytes, when the kernel says.
pub(super) fn total(root: &Path) -> Result<Option<u64>, InspectError> {
    let text = reading::text(root, "proc/meminfo")?.unwrap_or_default();
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    Ok(kib.map(|kib| kib << 10))
}

#[cfg(test)]
mod tests {
    use super::super::reading::made_up::{ids, tree};
    use super::*;

    #[test]
    fn little_and_enough() {
        let of = |available: u64| {
            let text = format!("MemTotal: 512000 kB\nMemAvailable: {available} kB\nSwapFree: 1000 kB\n");
            let dir = tree(&[("proc/meminfo", &text)]);
            ids(&findings(&facts(dir.path()).unwrap()))
        };
        assert_eq!(of(200_000), ["warning memory-low"]);
        assert!(of(400_000).is_empty());
        let dir = tree(&[("proc/meminfo", "x\n")]);
        assert!(facts(dir.path()).is_err());
    }
}
