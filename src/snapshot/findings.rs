//! What of a layout stops a run, or is worth knowing. Pure.

use std::path::Path;

use super::layout::{BtrfsLayout, Layout, MountClass};
use crate::finding::{Finding, Severity};
use crate::system::show;

/// Below this much unallocated space (bytes) a release upgrade can run out of room for metadata although `df` shows free
/// space: one gibibyte is one chunk of data, or two of metadata twice over (`btrfs` allocates in such chunks).
pub const LEAST_UNALLOCATED: u64 = 1 << 30;

/// Judges a layout.
#[must_use]
pub fn findings(layout: &Layout) -> Vec<Finding> {
    let Some(btrfs) = &layout.btrfs else { return vec![root_not_btrfs(layout)] };
    [
        root_place(btrfs),
        by_default_subvolume(btrfs),
        other_name(btrfs),
        fstab_subvolid(btrfs),
        cmdline_subvolid(btrfs),
        nested(btrfs),
        unused_nested(btrfs),
        multi_device(btrfs),
        low_unallocated(btrfs),
        system_elsewhere(layout),
        data_elsewhere(layout),
        name_taken(btrfs),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn finding(id: &'static str, severity: Severity, what: String, remedy: String) -> Finding {
    Finding::new(id, severity, what, remedy)
}

fn root_not_btrfs(layout: &Layout) -> Finding {
    finding(
        "root-not-btrfs",
        Severity::Inhibitor,
        format!("the root is on {}, of which this version can take no snapshot", layout.root_fs),
        "move the machine to a btrfs root in a subvolume; `findmnt -no FSTYPE,FSROOT /` then shows btrfs and its name"
            .to_owned(),
    )
}

fn root_place(btrfs: &BtrfsLayout) -> Option<Finding> {
    if btrfs.root_name().is_some() {
        return None;
    }
    let device = btrfs.devices.first().map_or_else(|| "DEVICE".to_owned(), |device| show::path(device));
    let make = format!(
        "from a rescue system: `mount -o subvolid=5 {device} /mnt && btrfs subvolume snapshot /mnt/{} /mnt/@`, \
         then put subvol=@ into /mnt/@/etc/fstab and run `grub-install` and `update-grub` in a chroot on it",
        show::line(&btrfs.root_path)
    );
    if btrfs.root_on_top_level() {
        let what = "the root is the top level of its filesystem: it has no name that could be exchanged";
        return Some(finding("root-on-top-level", Severity::Inhibitor, what.to_owned(), make));
    }
    let what = format!(
        "the root is {}, not a subvolume directly on the top level: it moves with what holds it",
        show::line(&btrfs.root_path)
    );
    Some(finding("root-below-top-level", Severity::Inhibitor, what, make))
}

fn by_default_subvolume(btrfs: &BtrfsLayout) -> Option<Finding> {
    let name = btrfs.root_name()?;
    (!btrfs.mounted_by_name()).then(|| {
        finding(
            "root-by-default-subvolume",
            Severity::Inhibitor,
            format!(
                "the root is mounted as the default subvolume ({}), not by its name, so an exchange of names would \
                 change nothing",
                btrfs.default_subvolume
            ),
            format!(
                "add subvol={name} to the options of / in /etc/fstab, run `update-grub`, then \
                 `btrfs subvolume set-default 5 /` and reboot"
            ),
        )
    })
}

fn other_name(btrfs: &BtrfsLayout) -> Option<Finding> {
    let name = btrfs.root_name()?;
    let (place, said) = [("/etc/fstab", &btrfs.fstab.name), ("the kernel command line", &btrfs.cmdline.name)]
        .into_iter()
        .find_map(|(place, said)| Some((place, said.as_ref().filter(|said| *said != name)?)))?;
    Some(finding(
        "root-name-differs",
        Severity::Inhibitor,
        format!(
            "{place} mounts the root by the name {}, but the running root is called {name}",
            show::line(said)
        ),
        format!("let both say subvol={name}: correct / in /etc/fstab, run `update-grub`, reboot"),
    ))
}

fn fstab_subvolid(btrfs: &BtrfsLayout) -> Option<Finding> {
    let id = btrfs.fstab.id.as_ref()?;
    Some(finding(
        "fstab-subvolid",
        Severity::Inhibitor,
        format!(
            "/etc/fstab mounts / with subvolid={}: a rolled-back root has another id, and the boot would end in an \
             emergency shell",
            show::line(id)
        ),
        "take subvolid=... out of the options of / in /etc/fstab (leave subvol=), then `findmnt --verify`"
            .to_owned(),
    ))
}

fn cmdline_subvolid(btrfs: &BtrfsLayout) -> Option<Finding> {
    let id = btrfs.cmdline.id.as_ref()?;
    Some(finding(
        "cmdline-subvolid",
        Severity::Inhibitor,
        format!(
            "the kernel command line has rootflags with subvolid={}: a rolled-back root has another id and would not \
             be found",
            show::line(id)
        ),
        "take subvolid=... out of GRUB_CMDLINE_LINUX in /etc/default/grub (leave subvol=), run `update-grub`, reboot"
            .to_owned(),
    ))
}

fn nested(btrfs: &BtrfsLayout) -> Option<Finding> {
    let others: Vec<&Path> = btrfs
        .nested
        .iter()
        .filter(|nested| !nested.is_unused_of_systemd())
        .map(|nested| nested.path.as_path())
        .collect();
    let example = format!("/{}", show::path(others.first()?));
    Some(finding(
        "nested-subvolumes",
        Severity::Inhibitor,
        format!(
            "a snapshot of the root does not contain the subvolumes inside it: {}; a rollback would leave them in \
             the failed root",
            list(&others)
        ),
        format!(
            "make each a plain directory: `mv {example} {example}.old && cp -a --reflink=auto {example}.old {example} \
             && btrfs subvolume delete {example}.old`; or delete those that are snapshots"
        ),
    ))
}

fn unused_nested(btrfs: &BtrfsLayout) -> Option<Finding> {
    let unused: Vec<&Path> = btrfs
        .nested
        .iter()
        .filter(|nested| nested.is_unused_of_systemd())
        .map(|nested| nested.path.as_path())
        .collect();
    (!unused.is_empty()).then(|| {
        finding(
            "nested-subvolumes-unused",
            Severity::Note,
            format!(
                "systemd's empty subvolumes {} come back as plain directories after a rollback",
                list(&unused)
            ),
            "nothing needs to be done; `btrfs subvolume list -o /` shows them".to_owned(),
        )
    })
}

fn multi_device(btrfs: &BtrfsLayout) -> Option<Finding> {
    (btrfs.usage.devices > 1).then(|| {
        finding(
            "btrfs-multi-device",
            Severity::Warning,
            format!(
                "the root's filesystem lies on {} devices: all must be healthy for the machine to boot",
                btrfs.usage.devices
            ),
            "see that `btrfs device stats /` shows no errors and `btrfs filesystem show /` no missing device"
                .to_owned(),
        )
    })
}

fn low_unallocated(btrfs: &BtrfsLayout) -> Option<Finding> {
    (btrfs.usage.unallocated < LEAST_UNALLOCATED).then(|| {
        finding(
            "btrfs-low-unallocated",
            Severity::Inhibitor,
            format!(
                "only {} MiB of the root's filesystem are not allocated ({} MiB are wanted): writing can fail in the \
                 middle of the upgrade although `df` shows free space",
                btrfs.usage.unallocated >> 20,
                LEAST_UNALLOCATED >> 20
            ),
            "run `btrfs balance start -dusage=50 /`, or free or add space; `btrfs filesystem usage /` shows the effect"
                .to_owned(),
        )
    })
}

/// The mount points that a rollback leaves as they are, as far as they are wanted.
fn kept(layout: &Layout, wanted: impl Fn(&Path) -> bool) -> Vec<&Path> {
    let kept = layout.mounts.iter().filter(|mount| mount.class == MountClass::Kept);
    kept.map(|mount| mount.point.as_path()).filter(|point| wanted(point)).collect()
}

/// Parts of the system that packages own: a rollback of the root alone would leave them new.
const OF_THE_SYSTEM: [&str; 6] = ["/usr", "/etc", "/var", "/var/lib", "/var/lib/dpkg", "/opt"];

fn system_elsewhere(layout: &Layout) -> Option<Finding> {
    let elsewhere = kept(layout, |point| OF_THE_SYSTEM.iter().any(|part| point == Path::new(part)));
    (!elsewhere.is_empty()).then(|| {
        finding(
            "system-on-other-volume",
            Severity::Inhibitor,
            format!(
                "{} is not part of the root's snapshot: a rollback would put an old root beside what the upgrade has \
                 made of it",
                list(&elsewhere)
            ),
            "from a rescue system move it into the root subvolume (`rsync -aHAXS OLD/ NEW/`) and take its line out of \
             /etc/fstab; waive this by its id only if no package changes anything there"
                .to_owned(),
        )
    })
}

fn data_elsewhere(layout: &Layout) -> Option<Finding> {
    let elsewhere = kept(layout, |point| {
        point.starts_with("/var/lib")
            && point.components().count() > 3
            && !point.starts_with("/var/lib/safe-upgrade")
            && point != Path::new("/var/lib/dpkg")
    });
    (!elsewhere.is_empty()).then(|| {
        finding(
            "data-on-other-volume",
            Severity::Warning,
            format!(
                "{} is kept as it is by a rollback: a database that the new release has migrated there may be too new \
                 for the old one",
                list(&elsewhere)
            ),
            "`systemctl stop` the service for the run, or keep a dump that you can load into the old version".to_owned(),
        )
    })
}

fn name_taken(btrfs: &BtrfsLayout) -> Option<Finding> {
    let first = btrfs.names_taken.first()?;
    Some(finding(
        "snapshot-name-taken",
        Severity::Inhibitor,
        format!("the run's names are taken on the top level: {}", btrfs.names_taken.join(", ")),
        format!("see what it is with `btrfs subvolume list /`, and move or delete {first}"),
    ))
}

fn list(paths: &[&Path]) -> String {
    paths.iter().map(|path| show::path(path)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "findings_tests.rs"]
mod tests;
