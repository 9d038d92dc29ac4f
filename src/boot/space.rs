//! How much room an upgrade needs in `/boot` and on the ESP. Pure, but for [`free`] and [`stock`].

use std::io;
use std::path::{Path, PathBuf};

use super::kernels::Kernel;

/// Room that is left over for menus, environment blocks and what nobody thought of, in bytes.
pub const SLACK: u64 = 8 << 20;

/// The part by which what is new may be larger than what is old. An assumption, not measured: it also has to cover the temporary
/// file beside an initrd that is made again.
const GROWTH_DIVISOR: u64 = 2;

/// A kernel and its initrd, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The kernel.
    pub kernel: u64,
    /// The initrd.
    pub initrd: u64,
}

/// What an upgrade will write to one filesystem, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed {
    /// New kernels with their initrds, or new boot loader files.
    pub fresh: u64,
    /// Copies of the old kernel and initrd that are kept until the verdict.
    pub kept: u64,
    /// All together, with [`SLACK`].
    pub total: u64,
}

/// What `/boot` needs: room for so many new kernels as large as the largest of now and half as much again, and for the kept copy
/// of the pair that boots the old system, when the method keeps one there.
#[must_use]
pub fn needed(pairs: &[Pair], fresh_kernels: u64, kept: Option<Pair>) -> Needed {
    let sum = |pair: &Pair| pair.kernel.saturating_add(pair.initrd);
    let largest = pairs.iter().map(sum).max().unwrap_or(0);
    of(largest.saturating_mul(fresh_kernels), kept.as_ref().map_or(0, sum))
}

/// What the ESP needs: the boot loader's files once more, as they may be written beside the old ones, and half as much again.
#[must_use]
pub fn needed_on_esp(loader: u64) -> Needed {
    of(loader, 0)
}

impl Needed {
    /// The sentence for a finding, when there is less room than that: where, how much there is, how much is missing and what for.
    #[must_use]
    pub fn shortage(&self, point: &Path, free: u64) -> Option<String> {
        let missing = self.total.checked_sub(free).filter(|missing| *missing > 0)?;
        let kept = match self.kept {
            0 => String::new(),
            kept => format!(", {} for copies of the old ones", mebibytes(kept)),
        };
        Some(format!(
            "{} has {} MiB free, the upgrade needs {} ({} for what is new{kept}, {} to spare): make room for {} more",
            crate::system::show::path(point),
            free >> 20,
            mebibytes(self.total),
            mebibytes(self.fresh),
            mebibytes(SLACK),
            mebibytes(missing),
        ))
    }
}

/// The sizes of kernels and initrds, and of what has no initrd yet.
///
/// # Errors
/// When the size of one cannot be learned; the path is named.
pub fn stock(kernels: &[Kernel]) -> Result<Vec<Pair>, (PathBuf, io::Error)> {
    let size = |path: &Path| {
        std::fs::metadata(path).map(|found| found.len()).map_err(|error| (path.to_owned(), error))
    };
    kernels
        .iter()
        .map(|kernel| {
            let initrd = kernel.initrd.as_deref().map_or(Ok(0), size)?;
            Ok(Pair { kernel: size(&kernel.kernel)?, initrd })
        })
        .collect()
}

/// Bytes that root can still write to the filesystem at this path.
///
/// # Errors
/// When the kernel does not say.
pub fn free(point: &Path) -> io::Result<u64> {
    let room = rustix::fs::statvfs(point)?;
    Ok(room.f_bfree.saturating_mul(room.f_frsize))
}

fn of(fresh: u64, kept: u64) -> Needed {
    let fresh = fresh.saturating_add(fresh / GROWTH_DIVISOR);
    Needed { fresh, kept, total: fresh.saturating_add(kept).saturating_add(SLACK) }
}

/// Rounded up: who makes that much room has enough.
fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_largest_pair_counts() {
        let small = Pair { kernel: 8 * MIB, initrd: 20 * MIB };
        let large = Pair { kernel: 8 * MIB, initrd: 40 * MIB };
        let needed_now = needed(&[small, large, small], 1, None);
        assert_eq!(needed_now, Needed { fresh: 72 * MIB, kept: 0, total: 80 * MIB });
        assert_eq!(needed(&[large], 1, Some(small)).total, 108 * MIB);
        assert_eq!(needed(&[large], 0, None).total, SLACK);
        assert_eq!(needed(&[], 1, None).total, SLACK);
        assert_eq!(needed_on_esp(4 * MIB).total, 14 * MIB);
        assert_eq!(needed(&[Pair { kernel: u64::MAX, initrd: 1 }], 2, Some(large)).total, u64::MAX);
    }

    #[test]
    fn a_shortage_says_what_to_do() {
        let large = Pair { kernel: 8 * MIB, initrd: 40 * MIB };
        let needed = needed(&[large], 1, Some(large));
        assert_eq!(needed.shortage(Path::new("/boot"), 128 * MIB), None);
        assert_eq!(
            needed.shortage(Path::new("/boot"), 127 * MIB + 1).unwrap(),
            "/boot has 127 MiB free, the upgrade needs 128 MiB (72 MiB for what is new, 48 MiB for copies of the old ones, \
             8 MiB to spare): make room for 1 MiB more"
        );
    }

    #[test]
    fn this_machine_has_room_somewhere() {
        assert!(free(Path::new("/")).unwrap() > 0);
        assert!(free(Path::new("/no/such")).is_err());
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("vmlinuz-1"), [0; 10]).unwrap();
        let kernels = crate::boot::kernels::bootable(dir.path(), dir.path()).unwrap();
        assert_eq!(stock(&kernels).unwrap(), [Pair { kernel: 10, initrd: 0 }]);
        std::fs::remove_file(dir.path().join("vmlinuz-1")).unwrap();
        assert!(stock(&kernels).is_err());
    }
}
