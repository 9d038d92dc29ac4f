//! Real btrfs on loop devices: names, exchange, power cuts. Needs root; each test runs in a mount namespace of its own, so
//! that nothing stays mounted however it ends.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something unexpected happens, and says when it is skipped"
)]

#[path = "loop_btrfs/disk.rs"]
mod disk;

use std::fs;
use std::io::Write;
use std::path::Path;

use disk::{Disk, isolated, run};
use safe_upgrade::boot::{BootTree, Effect, NamedRoot, NamedRootError, Refusal, Wish};
use safe_upgrade::finding::Severity;
use safe_upgrade::snapshot::names::{RunNames, STATE_VOLUME};
use safe_upgrade::snapshot::state_volume::{self, Places};
use safe_upgrade::snapshot::{Change, SnapshotError, TopLevel, findings, layout};

const OLD: &str = "bookworm";
const NEW: &str = "trixie";

fn names() -> RunNames {
    RunNames::new("20261126T163000Z-4f2a").unwrap()
}

/// A machine with the old release, systemd's nested subvolumes, and the run's snapshot.
fn sealed(root: &str) -> Disk {
    let disk = Disk::new(root);
    disk.write("release", OLD);
    for path in ["var/lib/machines", "var/lib/portables"] {
        fs::create_dir_all(disk.mount().join("var/lib")).unwrap();
        run("btrfs", &["subvolume", "create", disk.mount().join(path).to_str().unwrap()]);
    }
    let top = TopLevel::open(disk.mount()).unwrap();
    top.snapshot_read_only(root, &names().before()).unwrap();
    disk
}

fn running_tree(disk: &Disk) -> BootTree {
    let top = TopLevel::open(disk.mount()).unwrap();
    NamedRoot::new(&top, disk.root(), &names()).facts().unwrap().running_tree()
}

#[test]
fn the_whole_story_on_every_layout() {
    if !isolated("the_whole_story_on_every_layout") {
        return;
    }
    for root in ["@", "@rootfs", "myroot"] {
        let disk = sealed(root);
        let mut log = fs::File::create(disk.mount().join("log")).unwrap();
        let top = TopLevel::open(disk.mount()).unwrap();
        let named = NamedRoot::new(&top, root, &names());
        let original = top.running_root().unwrap();

        assert_eq!(named.arm().unwrap(), Change::Changed);
        assert_eq!(named.arm().unwrap(), Change::Unchanged);
        let armed = named.facts().unwrap();
        assert_eq!(
            (armed.running_tree(), armed.next_boot_tree()),
            (BootTree::Original, Some(BootTree::Clone))
        );
        // What runs is untouched, open files included, but is now called by the other name.
        log.write_all(b"still here").unwrap();
        disk.write("release", NEW);
        assert_eq!(top.running_root().unwrap().uuid, original.uuid);
        assert_eq!(top.running_root().unwrap().name, names().other_root());

        assert_eq!(named.prepare_trial().unwrap(), Change::Changed);
        drop((log, top));
        let disk = disk.reboot();
        assert_eq!((disk.read("release"), disk.read("log")), (NEW.to_owned(), "still here".to_owned()));

        let top = TopLevel::open(disk.mount()).unwrap();
        assert_eq!(NamedRoot::new(&top, root, &names()).restore().unwrap(), Change::Changed);
        drop(top);
        let disk = disk.reboot();
        assert_eq!(disk.read("release"), OLD);
        assert_eq!(running_tree(&disk), BootTree::Clone);
        // systemd's empty subvolumes came back as directories that can be used.
        fs::write(disk.mount().join("var/lib/machines/x"), "").unwrap();

        let top = TopLevel::open(disk.mount()).unwrap();
        let failed = top.get(&names().other_root()).unwrap();
        assert_eq!(failed.uuid, original.uuid, "the failed root is kept");
        assert_eq!(top.delete(&names().other_root(), failed.uuid).unwrap(), Change::Changed);
        assert_eq!(NamedRoot::new(&top, root, &names()).restore().unwrap(), Change::Unchanged);
    }
}

/// Brings a machine from "sealed" to where a wish is made.
fn prepare(wish: Wish) -> Disk {
    let disk = sealed("@");
    let top = TopLevel::open(disk.mount()).unwrap();
    let named = NamedRoot::new(&top, "@", &names());
    match wish {
        Wish::Armed => {}
        Wish::Disarmed | Wish::Trial => drop(named.arm().unwrap()),
        Wish::Restored => {
            named.arm().unwrap();
            named.prepare_trial().unwrap();
            // The longest way back: somebody deleted the clone.
            let clone = top.get(&names().other_root()).unwrap();
            top.delete(&names().other_root(), clone.uuid).unwrap();
        }
    }
    drop(top);
    disk
}

fn effects_of(wish: Wish) -> Vec<Effect> {
    match wish {
        Wish::Armed | Wish::Restored => vec![Effect::Clone, Effect::Mend, Effect::Exchange],
        Wish::Disarmed => vec![Effect::Exchange, Effect::DeleteClone],
        Wish::Trial => vec![Effect::Exchange],
    }
}

fn wanted(wish: Wish) -> BootTree {
    match wish {
        Wish::Armed | Wish::Restored => BootTree::Clone,
        Wish::Disarmed | Wish::Trial => BootTree::Original,
    }
}

#[test]
fn a_killed_program_is_finished_by_the_next_one() {
    if !isolated("a_killed_program_is_finished_by_the_next_one") {
        return;
    }
    for wish in [Wish::Armed, Wish::Disarmed, Wish::Trial, Wish::Restored] {
        for done in 0..=effects_of(wish).len() {
            let disk = prepare(wish);
            step_by_step(&disk, wish, done);
            let top = TopLevel::open(disk.mount()).unwrap();
            let named = NamedRoot::new(&top, "@", &names());
            while named.step(wish).unwrap().is_some() {}
            let facts = named.facts().unwrap();
            assert_eq!(facts.next_boot_tree(), Some(wanted(wish)), "{wish:?} after {done}");
            assert_eq!(facts.unmended, Vec::<String>::new());
            assert_eq!(facts.other.is_none(), wish == Wish::Disarmed);
        }
    }
}

#[test]
fn a_power_cut_after_any_effect_leaves_a_root_that_boots_and_the_wish_can_be_made_again() {
    if !isolated("a_power_cut_after_any_effect_leaves_a_root_that_boots_and_the_wish_can_be_made_again") {
        return;
    }
    for wish in [Wish::Armed, Wish::Disarmed, Wish::Trial, Wish::Restored] {
        for done in 0..=effects_of(wish).len() {
            let disk = prepare(wish);
            let before = running_tree(&disk);
            step_by_step(&disk, wish, done);
            // What was claimed is on disk; no sync of ours in between.
            let disk = disk.power_cut();
            assert_eq!(disk.read("release"), OLD);
            let top = TopLevel::open(disk.mount()).unwrap();
            let named = NamedRoot::new(&top, "@", &names());
            let facts = named.facts().unwrap();
            let exchanged = effects_of(wish)[..done].contains(&Effect::Exchange);
            let lands_on = match (wish, exchanged) {
                (Wish::Armed | Wish::Restored, true) | (Wish::Disarmed | Wish::Trial, false) => {
                    BootTree::Clone
                }
                _ => BootTree::Original,
            };
            assert_eq!(facts.running_tree(), lands_on, "{wish:?} after {done}, from {before:?}");
            match named.step(wish) {
                // It fell back to the old system: only `restore` makes sense there, and finds its work done.
                Err(NamedRootError::Refused(Refusal::NotOnOriginal(_))) => {
                    assert_eq!(lands_on, BootTree::Clone);
                    assert_eq!(named.restore().unwrap(), Change::Unchanged);
                }
                answer => {
                    answer.unwrap();
                    while named.step(wish).unwrap().is_some() {}
                    assert_eq!(named.facts().unwrap().next_boot_tree(), Some(wanted(wish)));
                }
            }
        }
    }
}

fn step_by_step(disk: &Disk, wish: Wish, done: usize) {
    for expected in effects_of(wish).into_iter().take(done) {
        // Opened anew each time, as a new process would.
        let top = TopLevel::open(disk.mount()).unwrap();
        let effect = NamedRoot::new(&top, "@", &names()).step(wish).unwrap();
        assert_eq!(effect, Some(expected));
    }
}

#[test]
fn snapshots_are_found_again_and_never_mistaken() {
    if !isolated("snapshots_are_found_again_and_never_mistaken") {
        return;
    }
    let disk = Disk::new("@");
    disk.write("release", OLD);
    let top = TopLevel::open(disk.mount()).unwrap();
    let root = top.running_root().unwrap();
    let first = top.snapshot_read_only("@", &names().before()).unwrap();
    assert_eq!((first.change, first.subvolume.parent_uuid), (Change::Changed, Some(root.uuid)));
    assert!(first.subvolume.read_only && first.subvolume.on_top_level());
    let again = top.snapshot_read_only("@", &names().before()).unwrap();
    assert_eq!((again.change, again.subvolume.uuid), (Change::Unchanged, first.subvolume.uuid));
    // Un-synced data of the moment is in it.
    let sealed = top.path(Path::new(&names().before())).join("release");
    assert_eq!(fs::read_to_string(sealed).unwrap(), OLD);

    top.create("other").unwrap();
    let taken = top.snapshot_read_only("other", &names().before()).unwrap_err();
    assert!(matches!(taken, SnapshotError::NotTheOne { .. }), "{taken}");
    let writable = top.clone_writable("@", "clone").unwrap();
    assert!(!writable.subvolume.read_only);
    assert!(matches!(top.snapshot_read_only("@", "clone"), Err(SnapshotError::NotTheOne { .. })));
    fs::create_dir(top.path(Path::new("plain"))).unwrap();
    std::os::unix::fs::symlink("@", top.path(Path::new("link"))).unwrap();
    for name in ["plain", "link"] {
        assert!(matches!(top.find(name), Err(SnapshotError::NotSubvolume(_))), "{name}");
    }
    for name in ["", ".", "..", "a/b", "@/../@"] {
        assert!(matches!(top.exchange("@", name), Err(SnapshotError::BadName(_))), "{name:?}");
    }
    assert!(matches!(top.exchange("@", "gone"), Err(SnapshotError::Gone(_))));
    let listed: Vec<String> = top.list().unwrap().into_iter().map(|subvolume| subvolume.name).collect();
    assert_eq!(listed, ["@", &names().before(), "clone", "other"]);
}

#[test]
fn delete_refuses_what_it_was_not_asked_for() {
    if !isolated("delete_refuses_what_it_was_not_asked_for") {
        return;
    }
    let disk = sealed("@");
    let top = TopLevel::open(disk.mount()).unwrap();
    let root = top.running_root().unwrap();
    let snapshot = top.get(&names().before()).unwrap();
    let wrong = top.delete(&names().before(), root.uuid).unwrap_err();
    assert!(matches!(wrong, SnapshotError::NotTheOne { .. }), "{wrong}");
    let mounted = top.delete("@", root.uuid).unwrap_err();
    assert!(matches!(mounted, SnapshotError::Mounted { .. }), "{mounted}");

    let holder = top.create("holder").unwrap().subvolume;
    run("btrfs", &["subvolume", "create", top_path(&disk, "holder/deep").to_str().unwrap()]);
    run("btrfs", &["subvolume", "create", top_path(&disk, "holder/deep/er").to_str().unwrap()]);
    let nested: Vec<_> =
        top.nested(Path::new("holder")).unwrap().into_iter().map(|n| (n.path, n.empty)).collect();
    assert_eq!(nested, [("deep".into(), false), ("deep/er".into(), true)]);
    let holds = top.delete("holder", holder.uuid).unwrap_err();
    assert!(
        matches!(&holds, SnapshotError::HoldsOthers { nested, .. } if nested == &["deep", "deep/er"]),
        "{holds}"
    );

    assert_eq!(top.delete(&names().before(), snapshot.uuid).unwrap(), Change::Changed);
    drop(top);
    let disk = disk.power_cut();
    let top = TopLevel::open(disk.mount()).unwrap();
    assert_eq!(top.find(&names().before()).unwrap(), None, "a deleted subvolume came back after a power cut");
    assert_eq!(top.delete(&names().before(), snapshot.uuid).unwrap(), Change::Unchanged);
    assert!(top.find("holder").unwrap().is_some(), "a created subvolume was gone after a power cut");
}

#[test]
fn more_nested_subvolumes_than_one_answer_of_the_kernel_holds() {
    if !isolated("more_nested_subvolumes_than_one_answer_of_the_kernel_holds") {
        return;
    }
    let disk = Disk::new("@");
    let paths: Vec<String> =
        (0..300).map(|number| disk.mount().join(format!("n{number:03}")).display().to_string()).collect();
    for some in paths.chunks(100) {
        for path in some {
            run("btrfs", &["subvolume", "create", path]);
        }
    }
    let top = TopLevel::open(disk.mount()).unwrap();
    let nested = top.nested(Path::new("@")).unwrap();
    assert_eq!(nested.len(), 300);
    assert_eq!(nested[299].path, Path::new("n299"));
}

#[test]
fn the_state_volume_is_outside_of_the_rollback() {
    if !isolated("the_state_volume_is_outside_of_the_rollback") {
        return;
    }
    let disk = Disk::new("@");
    let point = disk.mount().join("var/lib/safe-upgrade");
    let units = disk.mount().join("etc/systemd/system");
    fs::create_dir_all(&units).unwrap();
    fs::create_dir_all(&point).unwrap();
    let places = Places { mount_point: point.clone(), unit_directory: units.clone(), by_systemd: false };
    let top = TopLevel::open(disk.mount()).unwrap();

    let inside = state_volume::location_facts(&point, disk.mount()).unwrap();
    assert!(inside.in_rollback_scope && !inside.own_top_level);
    fs::write(point.join("journal"), "old").unwrap();
    let hide = state_volume::ensure(&top, &places).unwrap_err();
    assert!(matches!(&hide, SnapshotError::WouldHide { entries, .. } if entries == &["journal"]), "{hide}");
    assert_eq!(top.find(STATE_VOLUME).unwrap(), None, "a refusal changed something");
    fs::remove_file(point.join("journal")).unwrap();

    let (change, volume) = state_volume::ensure(&top, &places).unwrap();
    assert_eq!(change, Change::Changed);
    assert_eq!(state_volume::ensure(&top, &places).unwrap(), (Change::Unchanged, volume.clone()));
    let outside = state_volume::location_facts(&point, disk.mount()).unwrap();
    assert!(outside.own_top_level && outside.same_filesystem && !outside.in_rollback_scope);
    assert_eq!(outside.subvolume.unwrap().uuid, volume.uuid);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&point).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o700);
    let wanted = fs::read_dir(units.join("local-fs.target.wants")).unwrap().next().unwrap().unwrap();
    let unit = fs::read_to_string(wanted.path().canonicalize().unwrap()).unwrap();
    assert!(unit.contains(&format!("Where={}\n", point.display())), "{unit}");

    // A bind mount of the root's own directory is told, and so is a nested subvolume.
    fs::create_dir_all(disk.mount().join("srv/bound")).unwrap();
    run(
        "mount",
        &[
            "--bind",
            disk.mount().join("etc").to_str().unwrap(),
            disk.mount().join("srv/bound").to_str().unwrap(),
        ],
    );
    let bound = state_volume::location_facts(&disk.mount().join("srv/bound"), disk.mount()).unwrap();
    assert!(bound.in_rollback_scope && !bound.own_top_level);
    run("btrfs", &["subvolume", "create", disk.mount().join("srv/nested").to_str().unwrap()]);
    let nested = state_volume::location_facts(&disk.mount().join("srv/nested"), disk.mount()).unwrap();
    assert!(nested.in_rollback_scope && !nested.own_top_level);
    assert!(!state_volume::location_facts(Path::new("/proc"), disk.mount()).unwrap().in_rollback_scope);

    // What the journal says survives the exchange; the root does not.
    fs::write(point.join("journal"), "armed").unwrap();
    top.snapshot_read_only("@", &names().before()).unwrap();
    NamedRoot::new(&top, "@", &names()).arm().unwrap();
    let still = state_volume::location_facts(&point, disk.mount()).unwrap();
    assert!(still.own_top_level && !still.in_rollback_scope);
    assert_eq!(fs::read_to_string(top.path(Path::new(STATE_VOLUME)).join("journal")).unwrap(), "armed");

    run("mount", &["-t", "tmpfs", "none", point.to_str().unwrap()]);
    assert!(matches!(state_volume::ensure(&top, &places), Err(SnapshotError::WrongMount { .. })));
}

fn found(disk: &Disk) -> Vec<(&'static str, Severity)> {
    let layout = layout::read(disk.mount(), Some(&names())).unwrap();
    findings::findings(&layout).into_iter().map(|one| (&*one.id.leak(), one.severity)).collect()
}

#[test]
fn preflight_finds_what_a_real_filesystem_has() {
    use Severity::{Inhibitor, Note, Warning};
    if !isolated("preflight_finds_what_a_real_filesystem_has") {
        return;
    }
    let low = ("btrfs-low-unallocated", Inhibitor);
    let disk = Disk::sized("@rootfs", "5G");
    assert_eq!(found(&disk), []);
    assert_eq!(layout::read(disk.mount(), None).unwrap().btrfs.unwrap().root_name(), Some("@rootfs"));
    fs::create_dir_all(disk.mount().join("etc")).unwrap();
    disk.write("etc/fstab", "UUID=x / btrfs defaults,subvol=@rootfs,subvolid=256 0 0\n");
    assert_eq!(found(&disk), [("fstab-subvolid", Inhibitor)]);
    disk.write("etc/fstab", "UUID=x / btrfs defaults,subvol=@other 0 0\n");
    assert_eq!(found(&disk), [("root-name-differs", Inhibitor)]);
    disk.write("etc/fstab", "");
    run("btrfs", &["subvolume", "set-default", disk.mount().to_str().unwrap()]);
    assert_eq!(found(&disk), [("root-by-default-subvolume", Inhibitor)]);
    drop(disk);

    let disk = sealed("@");
    let taken = ("snapshot-name-taken", Inhibitor);
    assert_eq!(found(&disk), [("nested-subvolumes-unused", Note), low, taken]);
    fs::write(disk.mount().join("var/lib/machines/used"), "").unwrap();
    assert_eq!(
        found(&disk),
        [("nested-subvolumes", Inhibitor), ("nested-subvolumes-unused", Note), low, taken]
    );
    drop(disk);

    assert_eq!(found(&Disk::on_top_level()), [("root-on-top-level", Inhibitor), low]);
    assert_eq!(found(&Disk::on_two_devices("@")), [("btrfs-multi-device", Warning)]);
}

#[test]
fn usage_is_what_btrfs_says() {
    if !isolated("usage_is_what_btrfs_says") {
        return;
    }
    let disk = Disk::sized("@", "3G");
    let usage = TopLevel::open(disk.mount()).unwrap().usage().unwrap();
    let said = run("btrfs", &["filesystem", "usage", "-b", disk.mount().to_str().unwrap()]);
    let number = |label: &str| -> u64 {
        let line = said.lines().find(|line| line.trim_start().starts_with(label)).unwrap();
        line.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
    };
    assert_eq!(usage.total, number("Device size:"));
    assert_eq!(usage.unallocated, number("Device unallocated:"));
    assert_eq!(usage.devices, 1);
    assert!(usage.used > 0 && usage.free_estimate > 2 << 30, "{usage:?}");
}

#[test]
fn nothing_shows_in_the_mount_table() {
    if !isolated("nothing_shows_in_the_mount_table") {
        return;
    }
    let disk = Disk::new("@");
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let top = TopLevel::open(disk.mount()).unwrap();
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    assert_eq!(top.default_subvolume().unwrap(), 5);
    let not = TopLevel::open(Path::new("/proc")).unwrap_err();
    assert_eq!(not.to_string(), "/proc is on proc, not on btrfs");
}

fn top_path(disk: &Disk, below: &str) -> std::path::PathBuf {
    // Other programs cannot see our detached mount.
    disk.top_level().join(below)
}
