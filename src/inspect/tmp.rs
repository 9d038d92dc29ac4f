//! `/tmp` lies in memory from trixie on: what is large there does not fit any more, and nothing there survives a reboot.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use walkdir::WalkDir;

use super::memory;
use super::reading::{self, InspectError};
use crate::finding::Finding;

/// More files than this are not counted, nor for longer than this.
const MOST_FILES: usize = 200_000;
const LIMIT: Duration = Duration::from_secs(3);

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Bytes that files in `/tmp` take, when it will become one in memory.
    bytes: Option<u64>,
    /// The machine's memory in bytes.
    memory: Option<u64>,
}

pub(super) fn facts(root: &Path) -> Result<Facts, InspectError> {
    let own = reading::mounted(root)?.iter().any(|mount| mount.point == Path::new("/tmp"));
    // An administrator's own unit, or the link that masks it, decides over the package's.
    let unit: PathBuf = reading::at(root, "etc/systemd/system/tmp.mount");
    let decided = own || std::fs::symlink_metadata(unit).is_ok();
    let deadline = Instant::now() + LIMIT;
    let bytes = (!decided).then(|| {
        WalkDir::new(reading::at(root, "tmp"))
            .same_file_system(true)
            .into_iter()
            .take(MOST_FILES)
            .take_while(|_| Instant::now() < deadline)
            // Files come and go here while they are counted.
            .filter_map(|entry| entry.ok()?.metadata().ok())
            .filter(|facts| facts.is_file())
            .fold(0_u64, |sum, facts| sum.saturating_add(facts.blocks().saturating_mul(512)))
    });
    Ok(Facts { bytes, memory: memory::total(root)? })
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let (Some(bytes), Some(memory)) = (facts.bytes, facts.memory) else { return Vec::new() };
    // It may take half of the memory; a half of that is much for something temporary.
    if bytes < memory / 4 {
        return Vec::new();
    }
    let what = "/tmp lies in memory in the new release, and may take half of it: what lies there now is large for that.";
    let remedy = "systemctl mask tmp.mount keeps /tmp on the disk; or move large files to /var/tmp";
    vec![Finding::note("tmp-becomes-tmpfs", what, remedy).with_evidence([format!(
        "/tmp holds at least {} MiB, the machine has {} MiB of memory",
        bytes >> 20,
        memory >> 20
    )])]
}

#[cfg(test)]
mod tests {
    use super::super::reading::made_up::{ids, put, tree};
    use super::*;

    #[test]
    fn only_when_much_lies_there() {
        let large = "x".repeat(300 << 10);
        let dir = tree(&[("proc/meminfo", "MemTotal: 1024 kB\n"), ("tmp/a", &large)]);
        let of = || ids(&findings(&facts(dir.path()).unwrap()));
        assert_eq!(of(), ["note tmp-becomes-tmpfs"]);
        put(dir.path(), "etc/systemd/system/tmp.mount", "");
        assert!(of().is_empty());
        let small = tree(&[("proc/meminfo", "MemTotal: 1024 kB\n"), ("tmp/a", "x")]);
        assert!(findings(&facts(small.path()).unwrap()).is_empty());
    }
}
