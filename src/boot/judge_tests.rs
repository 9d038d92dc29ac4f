use std::path::PathBuf;

use super::super::layout::{CoreImage, Grub, MenuPlace};
use super::*;

const UEFI: Firmware = Firmware::Uefi { secure_boot: Some(false) };

fn partition(point: &str, fs_type: &str) -> Partition {
    Partition {
        point: PathBuf::from(point),
        device: "/dev/vda2".into(),
        fs_type: fs_type.into(),
        uuid: Some("12AB-34CD".into()),
        plain: Ok(()),
        read_only: false,
    }
}

fn grub(core: Vec<CoreImage>, menu: bool) -> Loader {
    let place = MenuPlace { uuid: "0f-4e".into(), path: "/@/boot/grub".into(), partitions: vec![4] };
    let directory = "/boot/grub".into();
    Loader::Grub(Grub { version: None, core, directory, menu, menu_place: Ok(place) })
}

/// A server with GRUB, `/boot` inside btrfs, and everything that could be wished for.
fn layout(firmware: Firmware) -> BootLayout {
    let core = CoreImage {
        place: "disk /dev/vda, partition 1 (bios_grub)".into(),
        prefix: Some("(,gpt4)/@/boot/grub".into()),
    };
    BootLayout {
        container: false,
        firmware,
        loader: grub(vec![core], true),
        boot: BootPlace::Inside,
        esp: (firmware != Firmware::Bios).then(|| partition("/boot/efi", "vfat")),
        initramfs: Some(Initramfs::InitramfsTools),
        kexec: Kexec::Possible,
        watchdog: true,
        kernel: "6.1.0-40-amd64".into(),
        command_line: String::new(),
    }
}

fn found(layout: &BootLayout) -> (Method, GuaranteeLevel) {
    let verdict = judge(layout);
    (verdict.method, verdict.level)
}

/// Firmware, ESP, /boot and kexec in all combinations: the best method that each allows.
#[test]
fn every_combination_with_grub() {
    let boots = [None, Some("ext2"), Some("ext3"), Some("ext4"), Some("xfs"), Some("btrfs")];
    let mut seen = 0;
    for firmware in [Firmware::Bios, UEFI, Firmware::Uefi { secure_boot: None }] {
        for esp in [None, Some(partition("/boot/efi", "vfat"))] {
            for boot in boots {
                for possible in [true, false] {
                    let mut machine = layout(firmware);
                    machine.esp = esp.clone();
                    machine.boot = boot.map_or(BootPlace::Inside, |fs_type| {
                        BootPlace::Separate(partition("/boot", fs_type))
                    });
                    if !possible {
                        machine.kexec = Kexec::Impossible("no".into());
                    }
                    let wanted = if firmware != Firmware::Bios && esp.is_some() {
                        (Method::EnvFileEsp, GuaranteeLevel::A)
                    } else if boot.is_some_and(|fs_type| fs_type.starts_with("ext")) {
                        (Method::EnvFileBoot, GuaranteeLevel::A)
                    } else if possible {
                        (Method::Kexec, GuaranteeLevel::A)
                    } else {
                        (Method::ByName, GuaranteeLevel::B)
                    };
                    assert_eq!(found(&machine), wanted, "{machine:?}");
                    seen += 1;
                }
            }
        }
    }
    assert_eq!(seen, 72);
}

/// What cannot be held back is level C on any hardware; a container is its host's.
#[test]
fn every_other_loader() {
    for firmware in [Firmware::Bios, UEFI] {
        for (loader, words) in [
            (
                Loader::Other("extlinux"),
                "extlinux starts this machine, and what it boots next cannot be held back",
            ),
            (Loader::None, "no boot loader was found, so nobody can tell which kernel boots next"),
        ] {
            let mut machine = layout(firmware);
            machine.loader = loader;
            let verdict = judge(&machine);
            assert_eq!((verdict.method, verdict.level), (Method::ByName, GuaranteeLevel::C));
            assert_eq!(verdict.reason, words);
            machine.container = true;
            let verdict = judge(&machine);
            assert_eq!((verdict.method, verdict.level), (Method::ByName, GuaranteeLevel::B));
            assert_eq!(
                verdict.reason,
                "this is a container: whoever starts it mounts the root by name, and a dead kernel is the host's"
            );
            assert_eq!((verdict.better, verdict.remarks), (vec![], vec![]));
        }
    }
}

#[test]
fn a_kernel_that_cannot_be_proven_promises_nothing() {
    let verdict = judge(&layout(UEFI)).without_proof("/boot/vmlinuz-1 is an arm64 image");
    assert_eq!((verdict.method, verdict.level), (Method::ByName, GuaranteeLevel::C));
    assert_eq!(
        verdict.reason,
        "no kernel of this machine can be proven before it is tried: /boot/vmlinuz-1 is an arm64 image"
    );
    assert_eq!(verdict.better, ["a mark on the ESP: /boot/vmlinuz-1 is an arm64 image"]);
    let mut machine = layout(Firmware::Bios);
    machine.kexec = Kexec::Impossible("no".into());
    let by_name = judge(&machine).without_proof("x");
    assert_eq!((by_name.level, &by_name.better), (GuaranteeLevel::C, &judge(&machine).better));
    machine.loader = Loader::Other("extlinux");
    assert_eq!(judge(&machine).without_proof("x"), judge(&machine));
}

#[test]
fn without_an_entry_that_is_understood_the_root_goes_by_name() {
    let why = "/boot/grub/grub.cfg: line 7: a second kernel in one entry";
    let verdict = judge(&layout(UEFI)).without_entry(why);
    assert_eq!((verdict.method, verdict.level), (Method::ByName, GuaranteeLevel::B));
    assert_eq!(verdict.better, [format!("a mark on the ESP: {why}")]);
    let kernel_too = verdict.clone().without_proof("x");
    assert_eq!((kernel_too.level, kernel_too.better), (GuaranteeLevel::C, verdict.better));
    let boot = SystemdBoot { one_shot: true, variables: Ok(()), entry: Ok("a-6.1.conf".into()), fsck: true };
    let other = judge(&BootLayout {
        loader: Loader::SystemdBoot(boot),
        esp: Some(partition("/efi", "vfat")),
        ..layout(UEFI)
    });
    assert_eq!(other.clone().without_entry(why), other);
}

#[test]
fn systemd_boot_and_what_it_needs() {
    let boot = SystemdBoot { one_shot: true, variables: Ok(()), entry: Ok("a-6.1.conf".into()), fsck: true };
    let judged = |found: &SystemdBoot, esp: Option<Partition>| {
        judge(&BootLayout { loader: Loader::SystemdBoot(found.clone()), esp, ..layout(UEFI) })
    };
    let esp = partition("/efi", "vfat");
    let verdict = judged(&boot, Some(esp.clone()));
    assert_eq!((verdict.method, verdict.level), (Method::LoaderOneShot, GuaranteeLevel::A));
    assert_eq!(
        verdict.reason,
        "systemd-boot deletes the trial's mark in the firmware before it starts the new system, and a copy of a-6.1.conf \
         stays its default, so any reset boots the old one"
    );
    assert!(verdict.better.is_empty() && verdict.remarks.is_empty());
    let bare = SystemdBoot { fsck: false, ..boot.clone() };
    assert!(judged(&bare, Some(esp.clone())).remarks[0].contains("dosfstools is not installed"));
    let old = SystemdBoot { one_shot: false, ..boot.clone() };
    let locked = SystemdBoot { variables: Err("efivars is mounted read-only".into()), ..boot.clone() };
    let unified = SystemdBoot { entry: Err("x.efi is a unified kernel image".into()), ..boot.clone() };
    for (found, esp, word) in [
        (&old, Some(esp.clone()), "does not say that it boots an entry once"),
        (&locked, Some(esp.clone()), "efivars is mounted read-only"),
        (&unified, Some(esp.clone()), "unified kernel image"),
        (&boot, None, "no ESP is mounted"),
        (&boot, Some(Partition { read_only: true, ..esp }), "/efi is mounted read-only"),
    ] {
        let verdict = judged(found, esp);
        assert_eq!((verdict.method, verdict.level), (Method::ByName, GuaranteeLevel::C));
        assert!(verdict.reason.contains(word) && verdict.better[0].contains(word), "{verdict:?}");
    }
}

#[test]
fn files_of_grub_alone_are_no_grub() {
    let mut machine = layout(Firmware::Bios);
    machine.loader = grub(vec![], true);
    assert_eq!(found(&machine), (Method::ByName, GuaranteeLevel::C));
    machine.firmware = UEFI;
    assert_eq!(found(&machine), (Method::Kexec, GuaranteeLevel::A), "an ESP that is not mounted can hold it");
    machine.loader = grub(vec![], false);
    assert_eq!(found(&machine), (Method::ByName, GuaranteeLevel::C));
}

/// No method of GRUB's is worth anything when it reads another menu; a prefix that could not be read takes nothing away.
#[test]
fn a_grub_that_looks_elsewhere() {
    for firmware in [Firmware::Bios, UEFI] {
        let with = |prefix: Option<&str>| {
            let core = CoreImage { place: "x".into(), prefix: prefix.map(str::to_owned) };
            judge(&BootLayout { loader: grub(vec![core], true), ..layout(firmware) })
        };
        let elsewhere = with(Some("(,gpt4)/@old/boot/grub"));
        assert_eq!((elsewhere.method, elsewhere.level), (Method::ByName, GuaranteeLevel::C));
        assert!(elsewhere.reason.contains("GRUB at x looks for its menu at (,gpt4)/@old/boot/grub"));
        assert!(elsewhere.better[0].starts_with("grub-install"));
        let unread = with(None);
        assert_eq!((unread.method, unread.level), (judge(&layout(firmware)).method, GuaranteeLevel::A));
        assert!(unread.remarks[0].contains("could not be read"), "{:?}", unread.remarks);
    }
}

#[test]
fn each_better_method_says_why_not() {
    type Spoil = fn(&mut Partition);
    let spoilt: [(Spoil, &str); 4] = [
        (|esp| esp.read_only = true, "/boot/efi is mounted read-only"),
        (|esp| esp.fs_type = "ext4".into(), "/boot/efi is ext4, not vfat"),
        (|esp| esp.uuid = None, "the filesystem of /boot/efi has no UUID by which GRUB could find it"),
        (
            |esp| esp.plain = Err("md0 is a software RAID".into()),
            "GRUB cannot write to /boot/efi: md0 is a software RAID",
        ),
    ];
    for (spoil, words) in spoilt {
        let mut machine = layout(UEFI);
        spoil(machine.esp.as_mut().unwrap());
        machine.kexec = Kexec::Impossible("kernel.kexec_load_disabled is set".into());
        let verdict = judge(&machine);
        assert_eq!((verdict.method, verdict.level), (Method::ByName, GuaranteeLevel::B));
        assert_eq!(
            verdict.better,
            [
                format!("a mark on the ESP: {words}"),
                "a mark on /boot: /boot lies inside the root's filesystem, to which GRUB cannot write".into(),
                "kexec: kernel.kexec_load_disabled is set".into(),
            ]
        );
    }
}

#[test]
fn reasons_and_remarks_in_words() {
    let mut machine = layout(UEFI);
    assert_eq!(
        judge(&machine).reason,
        "GRUB clears the trial's mark on the ESP (/boot/efi) before it starts the new system, so any reset boots the old one"
    );
    assert!(judge(&machine).remarks.is_empty() && judge(&machine).better.is_empty());
    machine.esp = None;
    machine.watchdog = false;
    machine.initramfs = Some(Initramfs::Dracut);
    machine.firmware = Firmware::Uefi { secure_boot: Some(true) };
    let verdict = judge(&machine);
    assert_eq!(
        verdict.reason,
        "the old system starts the new kernel itself (kexec) and GRUB keeps booting the old one, so any reset boots the old one"
    );
    assert_eq!(
        verdict.remarks,
        [
            "dracut makes the initial RAM disk: a new system that hangs in it, without a panic, waits for a reset from outside",
            "there is no hardware watchdog: a kernel that hangs without a panic needs a reset from outside",
            "no ESP is mounted, so it can be neither kept nor put back; nothing of this run writes to it",
            "Secure Boot is on: the running kernel must accept the new kernel's signature, which shows when it is loaded",
        ]
    );
    machine.boot = BootPlace::Separate(partition("/boot", "ext4"));
    assert_eq!(
        judge(&machine).reason,
        "GRUB clears the trial's mark on /boot (ext4) before it starts the new system, so any reset boots the old one"
    );
}
