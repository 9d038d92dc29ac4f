//! Each finding by itself.

use std::path::PathBuf;

use super::*;
use crate::snapshot::layout::{ClassifiedMount, MountClass};
use crate::snapshot::top::Usage;
use crate::snapshot::{Nested, Subvolume, Uuid, fstab};

fn root(id: u64, held_by: u64) -> Subvolume {
    Subvolume {
        name: "@".into(),
        id,
        uuid: Uuid::from_bytes([1; 16]),
        parent_uuid: None,
        received_uuid: None,
        held_by,
        read_only: false,
        generation: 9,
        created_generation: 7,
        created: 0,
    }
}

fn good() -> Layout {
    let usage =
        Usage { total: 8 << 30, used: 1 << 30, free_estimate: 6 << 30, unallocated: 5 << 30, devices: 1 };
    Layout {
        root_fs: "btrfs".into(),
        container: false,
        mounts: Vec::new(),
        btrfs: Some(BtrfsLayout {
            filesystem: Uuid::from_bytes([2; 16]),
            devices: vec!["/dev/vda2".into()],
            root: root(256, 5),
            root_path: "@".into(),
            root_is_subvolume: true,
            default_subvolume: 5,
            fstab: fstab::Choice { name: Some("@".into()), id: None },
            cmdline: fstab::Choice::default(),
            nested: Vec::new(),
            names_taken: Vec::new(),
            usage,
        }),
    }
}

fn nested_at(path: &str, empty: bool) -> Nested {
    Nested { path: path.into(), subvolume: root(300, 256), empty }
}

/// The findings after one change to a good layout, each with its weight; every one has a remedy that names a command.
fn after(change: impl FnOnce(&mut BtrfsLayout)) -> Vec<(&'static str, Severity)> {
    let mut layout = good();
    change(layout.btrfs.as_mut().unwrap());
    judged(&layout)
}

fn judged(layout: &Layout) -> Vec<(&'static str, Severity)> {
    let found = findings(layout);
    for one in &found {
        assert!(one.remedy.contains('`') || one.remedy.starts_with("take "), "{}: {}", one.id, one.remedy);
    }
    found.into_iter().map(|one| (&*one.id.leak(), one.severity)).collect()
}

#[test]
fn a_good_layout_has_no_findings() {
    assert_eq!(judged(&good()), []);
}

#[test]
fn places_of_the_root() {
    use Severity::Inhibitor;
    let top = after(|layout| {
        layout.root = root(5, 0);
        layout.root_path = String::new();
        layout.fstab.name = None;
    });
    assert_eq!(top, [("root-on-top-level", Inhibitor)]);
    let deep = after(|layout| layout.root_path = "snapshots/7/root".into());
    assert_eq!(deep, [("root-below-top-level", Inhibitor)]);
    let directory = after(|layout| layout.root_is_subvolume = false);
    assert_eq!(directory, [("root-below-top-level", Inhibitor)]);
    let by_default = after(|layout| {
        layout.default_subvolume = 256;
        layout.fstab.name = None;
    });
    assert_eq!(by_default, [("root-by-default-subvolume", Inhibitor)]);
    let named_too = after(|layout| layout.default_subvolume = 256);
    assert_eq!(named_too, []);
    let other = after(|layout| layout.cmdline.name = Some("@old".into()));
    assert_eq!(other, [("root-name-differs", Inhibitor)]);
}

#[test]
fn mounts_by_id() {
    let id = Some("256".to_owned());
    let fstab = after(|layout| layout.fstab.id.clone_from(&id));
    assert_eq!(fstab, [("fstab-subvolid", Severity::Inhibitor)]);
    let cmdline = after(|layout| layout.cmdline.id.clone_from(&id));
    assert_eq!(cmdline, [("cmdline-subvolid", Severity::Inhibitor)]);
}

#[test]
fn nested_subvolumes_are_harmless_only_when_systemd_left_them_empty() {
    let unused = after(|layout| layout.nested = vec![nested_at("var/lib/machines", true)]);
    assert_eq!(unused, [("nested-subvolumes-unused", Severity::Note)]);
    for nested in [nested_at("var/lib/machines", false), nested_at("srv", true)] {
        let used = after(|layout| layout.nested = vec![nested]);
        assert_eq!(used, [("nested-subvolumes", Severity::Inhibitor)]);
    }
}

#[test]
fn space_devices_and_names() {
    let low = after(|layout| layout.usage.unallocated = LEAST_UNALLOCATED - 1);
    assert_eq!(low, [("btrfs-low-unallocated", Severity::Inhibitor)]);
    assert_eq!(after(|layout| layout.usage.unallocated = LEAST_UNALLOCATED), []);
    let devices = after(|layout| layout.usage.devices = 2);
    assert_eq!(devices, [("btrfs-multi-device", Severity::Warning)]);
    let taken = after(|layout| layout.names_taken = vec!["@safe-upgrade-r-before".into()]);
    assert_eq!(taken, [("snapshot-name-taken", Severity::Inhibitor)]);
}

#[test]
fn a_system_in_pieces() {
    let mut layout = good();
    let kept = |point: &str| ClassifiedMount {
        point: PathBuf::from(point),
        fs_type: "btrfs".into(),
        class: MountClass::Kept,
        reason: String::new(),
    };
    layout.mounts = vec![kept("/srv"), kept("/home"), kept("/var/lib/safe-upgrade"), kept("/var/www")];
    assert_eq!(judged(&layout), []);
    layout.mounts = vec![kept("/var"), kept("/var/lib/mysql")];
    let expected =
        [("system-on-other-volume", Severity::Inhibitor), ("data-on-other-volume", Severity::Warning)];
    assert_eq!(judged(&layout), expected);
}

#[test]
fn another_filesystem() {
    let layout = Layout { root_fs: "ext4".into(), btrfs: None, ..good() };
    assert_eq!(judged(&layout), [("root-not-btrfs", Severity::Inhibitor)]);
}

#[test]
fn names_from_the_disk_cannot_forge_lines() {
    let mut layout = good();
    let hostile = PathBuf::from("x\n\x1b[2Jnothing to see");
    layout.btrfs.as_mut().unwrap().nested = vec![Nested { path: hostile, ..nested_at("", false) }];
    let found = findings(&layout);
    assert!(!found[0].what.contains(['\n', '\x1b']) && !found[0].remedy.contains(['\n', '\x1b']));
}
