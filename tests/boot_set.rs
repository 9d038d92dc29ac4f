//! `/boot` on a real ext4 filesystem: copied, damaged in every way, brought back. Needs root, loop devices, mkfs.ext4 and rsync.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that can't go on has failed, and one that can't run says so"
)]

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::XattrFlags;
use safe_upgrade::boot::set::{Member, RestoreOptions, Restored, SetError, Step, capture, restore, verify};

/// A mounted image; unmounted when dropped.
struct Mounted {
    dir: tempfile::TempDir,
}

impl Mounted {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let lab = Self { dir };
        fs::create_dir(lab.boot()).unwrap();
        let image = lab.make_image("image");
        if !run(Command::new("mount").args(["-o", "loop"]).arg(image?).arg(lab.boot())) {
            println!("skipped: no loop devices here");
            return None;
        }
        lab.fill();
        Some(lab)
    }

    fn make_image(&self, name: &str) -> Option<PathBuf> {
        let image = self.dir.path().join(name);
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        if !run(Command::new("mkfs.ext4").arg("-q").arg(&image))
            || !run(Command::new("rsync").arg("--version"))
        {
            println!("skipped: mkfs.ext4 or rsync is not installed");
            return None;
        }
        Some(image)
    }

    /// What a `/boot` holds, and more than any does.
    fn fill(&self) {
        let at = |name: &str| self.boot().join(name);
        fs::create_dir_all(at("grub/i386-pc")).unwrap();
        fs::create_dir(at("safe-upgrade")).unwrap();
        fs::create_dir(at("efi")).unwrap();
        fs::write(at("vmlinuz-6.1"), pattern(3_000_000)).unwrap();
        fs::write(at("initrd.img-6.1"), pattern(5_000_001)).unwrap();
        fs::write(at("grub/grub.cfg"), "old menu").unwrap();
        fs::write(at("grub/i386-pc/core.img"), pattern(40_000)).unwrap();
        fs::hard_link(at("initrd.img-6.1"), at("initrd.img-6.1.bak")).unwrap();
        symlink("vmlinuz-6.1", at("vmlinuz")).unwrap();
        rustix::fs::setxattr(at("grub/grub.cfg"), "user.origin", b"admin", XattrFlags::empty()).unwrap();
        fs::set_permissions(at("initrd.img-6.1"), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn boot(&self) -> PathBuf {
        self.dir.path().join("boot")
    }

    fn set(&self) -> PathBuf {
        self.dir.path().join("state/boot")
    }

    fn members(&self) -> [Member; 1] {
        [Member { name: "boot".to_owned(), point: self.boot() }]
    }

    fn restore(&self) -> Result<Restored, SetError> {
        restore(&self.set(), &RestoreOptions::default(), &mut |_| ControlFlow::Continue(()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-R").arg(self.boot()));
    }
}

fn run(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn pattern(length: u32) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Another content; size and time stay.
fn swap_content(path: &Path) {
    let metadata = fs::metadata(path).unwrap();
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(metadata.modified().unwrap())).unwrap();
}

#[test]
fn every_damage_is_taken_back() {
    let Some(lab) = Mounted::new() else { return };
    let captured = capture(&lab.members(), &[], &lab.set()).unwrap();
    assert_eq!(captured.members[0].fs_type, "ext4");
    assert_eq!(captured.members[0].uuid.len(), 36);
    assert_eq!(captured.members[0].bytes, 3_000_000 + 2 * 5_000_001 + 8 + 40_000);
    let at = |name: &str| lab.boot().join(name);
    let damages: [&dyn Fn(); 10] = [
        &|| swap_content(&at("vmlinuz-6.1")),
        &|| fs::write(at("vmlinuz-6.12"), pattern(4_000_000)).unwrap(),
        &|| fs::remove_file(at("initrd.img-6.1")).unwrap(),
        &|| fs::set_permissions(at("initrd.img-6.1"), fs::Permissions::from_mode(0o644)).unwrap(),
        &|| std::os::unix::fs::chown(at("grub"), Some(1000), None).unwrap(),
        &|| {
            fs::remove_file(at("vmlinuz")).unwrap();
            symlink("vmlinuz-6.12", at("vmlinuz")).unwrap();
        },
        &|| {
            fs::remove_file(at("initrd.img-6.1.bak")).unwrap();
            fs::copy(at("initrd.img-6.1"), at("initrd.img-6.1.bak")).unwrap();
        },
        &|| rustix::fs::setxattr(at("grub/grub.cfg"), "user.origin", b"x", XattrFlags::empty()).unwrap(),
        &|| fs::remove_dir_all(at("grub")).unwrap(),
        &|| {
            fs::remove_file(at("vmlinuz-6.1")).unwrap();
            fs::create_dir(at("vmlinuz-6.1")).unwrap();
            fs::write(at("vmlinuz-6.1/x"), "x").unwrap();
        },
    ];
    for (number, damage) in damages.iter().enumerate() {
        damage();
        let restored = lab.restore().unwrap();
        assert_eq!(restored.differences(), Vec::<String>::new(), "{number}");
        assert_eq!(restored.members[0].1.bytes, captured.members[0].bytes, "{number}");
    }
    assert_eq!(fs::read(at("vmlinuz")).unwrap(), pattern(3_000_000));
    assert_eq!(fs::metadata(at("initrd.img-6.1")).unwrap().nlink(), 2);
    verify(&lab.set()).unwrap();
}

#[test]
fn what_comes_last_is_untouched_when_the_work_stops_before() {
    let Some(lab) = Mounted::new() else { return };
    capture(&lab.members(), &[], &lab.set()).unwrap();
    let at = |name: &str| lab.boot().join(name);
    fs::write(at("grub/grub.cfg"), "menu with the trial").unwrap();
    fs::write(at("safe-upgrade/vmlinuz"), "kept").unwrap();
    fs::write(at("vmlinuz-6.12"), pattern(9)).unwrap();
    swap_content(&at("vmlinuz-6.1"));
    let last = vec![PathBuf::from("grub/grub.cfg"), PathBuf::from("safe-upgrade")];
    let options = RestoreOptions { last: [("boot".to_owned(), last)].into(), ..RestoreOptions::default() };
    let menu = || fs::read_to_string(at("grub/grub.cfg")).unwrap();
    let kept = || at("safe-upgrade/vmlinuz").exists();

    let stopped = restore(&lab.set(), &options, &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(SetError::Stopped)), "{stopped:?}");
    assert_eq!((menu().as_str(), kept()), ("menu with the trial", true));
    assert_eq!(fs::read(at("vmlinuz-6.1")).unwrap(), pattern(3_000_000));
    assert!(!at("vmlinuz-6.12").exists());

    let mut steps = Vec::new();
    let restored = restore(&lab.set(), &options, &mut |step| {
        steps.push((step.clone(), menu(), kept()));
        ControlFlow::Continue(())
    });
    assert!(restored.unwrap().differences().is_empty());
    let last = |path: &str| Step::Last { member: "boot".to_owned(), path: path.into() };
    assert_eq!(
        steps,
        [
            (Step::Copied { member: "boot".to_owned() }, "menu with the trial".to_owned(), true),
            (last("grub/grub.cfg"), "old menu".to_owned(), true),
            (last("safe-upgrade"), "old menu".to_owned(), false),
        ]
    );
}

#[test]
fn a_filesystem_below_is_left_alone() {
    let Some(lab) = Mounted::new() else { return };
    let image = lab.make_image("esp").unwrap();
    let esp = lab.boot().join("efi");
    assert!(run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&esp)));
    fs::write(esp.join("loader"), "one").unwrap();
    capture(&lab.members(), &[], &lab.set()).unwrap();
    assert!(!lab.set().join("boot/tree/efi/loader").exists());
    fs::write(esp.join("loader"), "two").unwrap();
    fs::set_permissions(&esp, fs::Permissions::from_mode(0o710)).unwrap();
    swap_content(&lab.boot().join("vmlinuz-6.1"));
    assert!(lab.restore().unwrap().differences().is_empty());
    assert_eq!(fs::read_to_string(esp.join("loader")).unwrap(), "two");
    assert_eq!(fs::metadata(&esp).unwrap().mode() & 0o777, 0o710);
}

#[test]
fn another_or_no_or_a_read_only_filesystem_is_refused() {
    let Some(lab) = Mounted::new() else { return };
    capture(&lab.members(), &[], &lab.set()).unwrap();
    assert!(run(Command::new("mount").args(["-o", "remount,ro"]).arg(lab.boot())));
    assert!(matches!(lab.restore(), Err(SetError::ReadOnly(_))));
    assert!(run(Command::new("umount").arg(lab.boot())));
    fs::write(lab.boot().join("of the root"), "x").unwrap();
    assert!(matches!(lab.restore(), Err(SetError::NotMounted(_))));
    let other = lab.make_image("other").unwrap();
    assert!(run(Command::new("mount").args(["-o", "loop"]).arg(other).arg(lab.boot())));
    let refused = lab.restore();
    assert!(matches!(refused, Err(SetError::OtherFilesystem { .. })), "{refused:?}");
    assert!(!lab.boot().join("vmlinuz-6.1").exists());
    assert!(run(Command::new("umount").arg(lab.boot())));
    assert!(lab.boot().join("of the root").exists());
}
