//! Sets of what needs no root to stand in for: a directory as the ESP, files as disks.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::capture::{capture_from, verify};
use super::members::Ground;
use super::restore::{ready_for, restore_to};
use super::*;

/// A set of one "ESP" and one disk, on directories and files.
struct Lab {
    dir: tempfile::TempDir,
    ground: Ground,
}

const GAP: std::ops::Range<u64> = 512 * 40..512 * 40 + 5000;

impl Lab {
    /// `None` without rsync.
    fn new() -> Option<Self> {
        if crate::system::exec::find_tool("rsync").is_err() {
            println!("skipped: rsync is not installed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let ground = Ground { fs_type: "vfat".to_owned(), uuid: "ABCD-1234".to_owned(), read_only: false };
        let lab = Self { dir, ground };
        fs::create_dir_all(lab.esp().join("EFI/debian")).unwrap();
        fs::write(lab.esp().join("EFI/debian/grubx64.efi"), vec![7; 100_000]).unwrap();
        fs::write(lab.esp().join("EFI/debian/grub.cfg"), "old menu").unwrap();
        fs::write(lab.disk(), gpt_disk()).unwrap();
        Some(lab)
    }

    fn esp(&self) -> PathBuf {
        self.dir.path().join("esp")
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn set(&self) -> PathBuf {
        self.dir.path().join("set")
    }

    fn code(&self) -> Vec<BootCode> {
        let part = |name: &str, range: std::ops::Range<u64>| CodePart {
            name: name.to_owned(),
            offset: range.start,
            length: range.end - range.start,
        };
        vec![BootCode { disk: self.disk(), parts: vec![part("mbr", 0..440), part("bios-grub", GAP)] }]
    }

    fn capture(&self) -> Result<Captured, SetError> {
        let members = [Member { name: "esp".to_owned(), point: self.esp() }];
        capture_from(&members, &self.code(), &self.set(), &|_| Ok(self.ground.clone()))
    }

    fn restore(&self) -> Result<Restored, SetError> {
        self.restore_as(&RestoreOptions::default(), &self.ground)
    }

    fn restore_as(&self, options: &RestoreOptions, ground: &Ground) -> Result<Restored, SetError> {
        restore_to(&self.set(), options, &|_| Ok(ground.clone()), &mut |_| ControlFlow::Continue(()))
    }

    fn scribble(&self, offset: u64, bytes: &[u8]) {
        let disk = fs::File::options().write(true).open(self.disk()).unwrap();
        disk.write_all_at(bytes, offset).unwrap();
    }
}

/// 1 MiB: code, a protective MBR, a GUID partition table of one partition, its second copy.
fn gpt_disk() -> Vec<u8> {
    let mut disk: Vec<u8> = (0..1_u32 << 20).map(|n| (n / 7 % 251) as u8).collect();
    disk[440..512].fill(0);
    disk[446 + 4] = 0xee;
    disk[446 + 8..446 + 12].copy_from_slice(&1_u32.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[512..1024].fill(0);
    disk[512..520].copy_from_slice(b"EFI PART");
    disk[512 + 72..512 + 80].copy_from_slice(&2_u64.to_le_bytes());
    disk[512 + 80..512 + 84].copy_from_slice(&128_u32.to_le_bytes());
    disk[512 + 84..512 + 88].copy_from_slice(&128_u32.to_le_bytes());
    disk[1024..1024 + 128 * 128].fill(0);
    disk[1024..1024 + 16].copy_from_slice(b"kind of bios boo");
    disk[1024 + 32..1024 + 40].copy_from_slice(&40_u64.to_le_bytes());
    disk[1024 + 40..1024 + 48].copy_from_slice(&2000_u64.to_le_bytes());
    disk
}

fn snapshot(tree: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = walkdir::WalkDir::new(tree).into_iter().map(|entry| entry.unwrap());
    files
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| (entry.path().to_owned(), fs::read(entry.path()).unwrap()))
        .collect()
}

#[test]
fn a_fat_member_comes_back_whatever_was_done_to_it() {
    let Some(lab) = Lab::new() else { return };
    let captured = lab.capture().unwrap();
    assert_eq!((captured.members[0].entries, captured.members[0].bytes), (5, 100_008));
    let before = snapshot(&lab.esp());
    let at = |name: &str| lab.esp().join(name);
    // The same size and time: only content tells.
    let time = fs::metadata(at("EFI/debian/grubx64.efi")).unwrap().modified().unwrap();
    fs::write(at("EFI/debian/grubx64.efi"), vec![8; 100_000]).unwrap();
    let file = fs::File::options().write(true).open(at("EFI/debian/grubx64.efi")).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(time)).unwrap();
    fs::remove_file(at("EFI/debian/grub.cfg")).unwrap();
    fs::create_dir_all(at("EFI/extra")).unwrap();
    fs::write(at("EFI/extra/file"), "x").unwrap();
    // What the mount options make of it, and nothing that a FAT holds.
    fs::set_permissions(at("EFI"), fs::Permissions::from_mode(0o700)).unwrap();
    let restored = lab.restore().unwrap();
    assert_eq!(restored.differences(), Vec::<String>::new());
    assert_eq!(restored.members[0].1.bytes, 100_008);
    assert_eq!(snapshot(&lab.esp()), before);
    assert!(!at("EFI/extra").exists());
}

#[test]
fn boot_code_is_rewritten_where_it_differs_and_nowhere_else() {
    let Some(lab) = Lab::new() else { return };
    lab.capture().unwrap();
    let before = fs::read(lab.disk()).unwrap();
    assert_eq!(lab.restore().unwrap().code, [(lab.disk(), Vec::new())]);
    lab.scribble(GAP.start + 4999, b"!");
    assert_eq!(lab.restore().unwrap().code, [(lab.disk(), vec!["bios-grub".to_owned()])]);
    lab.scribble(0, b"another boot sector");
    lab.scribble(439, b"!");
    // Behind the part: not ours.
    lab.scribble(GAP.end, b"!");
    assert_eq!(lab.restore().unwrap().code, [(lab.disk(), vec!["mbr".to_owned()])]);
    let mut expected = before;
    expected[usize::try_from(GAP.end).unwrap()] = b'!';
    assert!(fs::read(lab.disk()).unwrap() == expected);
}

#[test]
fn another_disk_is_refused_before_anything_is_touched() {
    let Some(lab) = Lab::new() else { return };
    lab.capture().unwrap();
    fs::write(lab.esp().join("EFI/new"), "x").unwrap();
    let whole = fs::read(lab.disk()).unwrap();
    // The disk's id, the start of a partition, the MBR's signature, the size, no table at all.
    let damages: [&dyn Fn(); 5] = [
        &|| lab.scribble(512 + 56, b"!"),
        &|| lab.scribble(1024 + 32, b"!"),
        &|| lab.scribble(440, b"!"),
        &|| fs::write(lab.disk(), [&whole[..], &[0; 512]].concat()).unwrap(),
        &|| lab.scribble(510, &[0, 0]),
    ];
    for (number, damage) in damages.iter().enumerate() {
        damage();
        let error = lab.restore().unwrap_err();
        let refused = matches!(error, SetError::OtherDisk { .. } | SetError::Table { .. });
        assert!(refused, "{number}: {error:?}");
        assert!(lab.esp().join("EFI/new").exists(), "{number}");
        fs::write(lab.disk(), &whole).unwrap();
    }
    // What a boot may change by itself: the bootable flag, a partition's name.
    lab.scribble(446, &[0x80]);
    lab.scribble(1024 + 56, b"name");
    assert!(lab.restore().unwrap().differences().is_empty());
}

#[test]
fn code_never_reaches_into_a_partition_table() {
    let Some(lab) = Lab::new() else { return };
    let size = 1 << 20;
    for (offset, length) in [
        (0, 441),
        (0, 512),
        (500, 100),
        (512, 1),
        (1024, 5),
        (5000, 20_000),
        (size - 512, 512),
        (size, 1),
        (0, 0),
    ] {
        let parts = vec![CodePart { name: "part".to_owned(), offset, length }];
        let code = [BootCode { disk: lab.disk(), parts }];
        let result = capture_from(&[], &code, &lab.set(), &|_| Ok(lab.ground.clone()));
        assert!(matches!(result, Err(SetError::Asked(_))), "{offset} {length}: {result:?}");
        assert!(matches!(verify(&lab.set()), Err(SetError::NoSet(_))));
    }
}

#[test]
fn a_disk_with_a_plain_mbr_is_known_again() {
    let Some(lab) = Lab::new() else { return };
    let mut disk = gpt_disk();
    disk[446 + 4] = 0x83;
    disk[512..1024].fill(9);
    fs::write(lab.disk(), &disk).unwrap();
    lab.capture().unwrap();
    lab.scribble(1, b"!");
    assert_eq!(lab.restore().unwrap().code[0].1, ["mbr"]);
    lab.scribble(446 + 8, b"!");
    assert!(matches!(lab.restore(), Err(SetError::OtherDisk { .. })));
}

#[test]
fn a_damaged_set_is_refused_and_not_made_anew() {
    let Some(lab) = Lab::new() else { return };
    lab.capture().unwrap();
    fs::write(lab.esp().join("EFI/debian/grub.cfg"), "new menu").unwrap();
    let at = |name: &str| lab.set().join(name);
    let damaged = |path: &str, damage: &dyn Fn(&Path)| {
        let whole = fs::read(at(path)).unwrap();
        damage(&at(path));
        let seen = [verify(&lab.set()).map(drop), lab.restore().map(drop), lab.capture().map(drop)];
        for result in seen {
            let error = result.expect_err(path);
            assert!(matches!(error, SetError::Damaged { .. } | SetError::Manifest { .. }), "{error:?}");
        }
        assert_eq!(fs::read(lab.esp().join("EFI/debian/grub.cfg")).unwrap(), b"new menu");
        fs::write(at(path), whole).unwrap();
    };
    let shorten = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    };
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    for path in ["esp/tree/EFI/debian/grubx64.efi", "code/0-bios-grub", "esp/manifest"] {
        damaged(path, &shorten);
        damaged(path, &flip);
        damaged(path, &remove);
    }
}

#[test]
fn a_complete_set_is_kept_and_an_incomplete_one_made_anew() {
    let Some(lab) = Lab::new() else { return };
    let first = lab.capture().unwrap();
    let menu = lab.esp().join("EFI/debian/grub.cfg");
    fs::write(&menu, "new menu").unwrap();
    assert_eq!(lab.capture().unwrap(), first, "what was there before stays");
    let other = capture_from(&[], &lab.code(), &lab.set(), &|_| Ok(lab.ground.clone()));
    assert!(matches!(other, Err(SetError::OtherSet { .. })), "{other:?}");
    fs::remove_file(lab.set().join("boot-set.json")).unwrap();
    assert!(matches!(lab.restore(), Err(SetError::NoSet(_))));
    let second = lab.capture().unwrap();
    assert_ne!(second.members[0].manifest, first.members[0].manifest);
    assert_eq!(fs::read(lab.set().join("esp/tree/EFI/debian/grub.cfg")).unwrap(), b"new menu");
}

#[test]
fn a_place_that_is_not_the_one_is_refused() {
    let Some(lab) = Lab::new() else { return };
    lab.capture().unwrap();
    fs::write(lab.esp().join("new"), "x").unwrap();
    let restore = |ground: Ground| lab.restore_as(&RestoreOptions::default(), &ground);
    let other = restore(Ground { uuid: "ABCD-1235".to_owned(), ..lab.ground.clone() });
    assert!(matches!(other, Err(SetError::OtherFilesystem { .. })));
    let other = restore(Ground { fs_type: "ext4".to_owned(), ..lab.ground.clone() });
    assert!(matches!(other, Err(SetError::OtherFilesystem { .. })));
    let other = restore(Ground { read_only: true, ..lab.ground.clone() });
    assert!(matches!(other, Err(SetError::ReadOnly(_))));
    assert!(lab.esp().join("new").exists());
    let skip =
        RestoreOptions { skip: ["esp".to_owned()].into(), skip_code: true, ..RestoreOptions::default() };
    let skipped = lab.restore_as(&skip, &lab.ground).unwrap();
    assert_eq!(skipped, Restored { members: Vec::new(), code: Vec::new() });
    assert!(lab.esp().join("new").exists());
}

#[test]
fn options_that_name_nothing_are_mistakes() {
    let Some(lab) = Lab::new() else { return };
    lab.capture().unwrap();
    let last = |member: &str, path: &str| RestoreOptions {
        last: [(member.to_owned(), vec![PathBuf::from(path)])].into(),
        ..RestoreOptions::default()
    };
    let skip = RestoreOptions { skip: ["boot".to_owned()].into(), ..RestoreOptions::default() };
    for options in [skip, last("boot", "x"), last("esp", "/x"), last("esp", "../x"), last("esp", "")] {
        let result = lab.restore_as(&options, &lab.ground);
        assert!(matches!(result, Err(SetError::Asked(_))), "{options:?}: {result:?}");
    }
    for name in ["", "code", "a/b", "..", "Boot"] {
        let members = [Member { name: name.to_owned(), point: lab.esp() }];
        let result = capture_from(&members, &[], &lab.set(), &|_| Ok(lab.ground.clone()));
        assert!(matches!(result, Err(SetError::Asked(_))), "{name:?}: {result:?}");
    }
}

#[test]
fn being_ready_touches_nothing_and_refuses_what_a_restore_would() {
    let Some(lab) = Lab::new() else { return };
    lab.capture().unwrap();
    lab.scribble(0, b"another boot sector");
    let before = fs::read(lab.disk()).unwrap();
    ready_for(&lab.set(), &|_| Ok(lab.ground.clone())).unwrap();
    assert!(fs::read(lab.disk()).unwrap() == before);
    let other = Ground { uuid: "1234-ABCD".to_owned(), ..lab.ground.clone() };
    let refused = ready_for(&lab.set(), &|_| Ok(other.clone()));
    assert!(matches!(refused, Err(SetError::OtherFilesystem { .. })));
    fs::remove_file(lab.disk()).unwrap();
    let refused = ready_for(&lab.set(), &|_| Ok(lab.ground.clone()));
    assert!(matches!(refused, Err(SetError::DiskGone { .. })), "{refused:?}");
}
