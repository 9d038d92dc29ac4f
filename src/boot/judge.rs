//! What the way in which a machine boots can promise: the method for the trial, and the guarantee level. Pure.

use super::layout::{BootLayout, BootPlace, Firmware, Initramfs, Kexec, Loader, Partition, SystemdBoot};
use super::menu_place::{self, Looks};

/// How the trial is booted once, and only once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A variable in a file on the ESP, which GRUB clears before it starts the trial.
    EnvFileEsp,
    /// The same in a file on an ext4 `/boot`.
    EnvFileBoot,
    /// systemd-boot's variable for one boot, which it deletes before it starts the trial.
    LoaderOneShot,
    /// The running kernel starts the trial's; nothing that outlives a reset is written.
    Kexec,
    /// The root's name is given to the new system for the trial.
    ByName,
}

/// How much of the way back needs no hand. The order is that of the level in a run's evidence: the better one is the smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuaranteeLevel {
    /// The machine comes back by itself even when the new kernel dies.
    A,
    /// It comes back by itself while a userspace of the new system lives.
    B,
    /// A human must.
    C,
}

/// What this machine's way of booting can promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The best method that works here.
    pub method: Method,
    /// What it guarantees.
    pub level: GuaranteeLevel,
    /// Why this method and this level, in one sentence.
    pub reason: String,
    /// Each better method, and why it does not work here.
    pub better: Vec<String>,
    /// What an operator should know besides.
    pub remarks: Vec<String>,
}

/// Judges what a machine's way of booting can promise.
#[must_use]
pub fn judge(layout: &BootLayout) -> Verdict {
    let grub = match &layout.loader {
        _ if layout.container => {
            return by_name(
                GuaranteeLevel::B,
                "this is a container: whoever starts it mounts the root by name, and a dead kernel is the host's",
            );
        }
        Loader::Grub(grub) => grub,
        Loader::SystemdBoot(found) => return with_systemd_boot(layout, found),
        Loader::Other(name) => {
            let reason = format!("{name} starts this machine, and what it boots next cannot be held back");
            return by_name(GuaranteeLevel::C, &reason);
        }
        Loader::None => {
            return by_name(
                GuaranteeLevel::C,
                "no boot loader was found, so nobody can tell which kernel boots next",
            );
        }
    };
    if layout.firmware == Firmware::Bios && grub.core.is_empty() {
        return by_name(
            GuaranteeLevel::C,
            "GRUB's files are there, but no disk of this system starts GRUB, so something else boots it",
        );
    }
    if !grub.menu {
        return by_name(
            GuaranteeLevel::C,
            "GRUB has no menu here, so nobody can tell which kernel boots next",
        );
    }
    match menu_place::look(grub) {
        Looks::Here(remarks) => {
            let mut verdict = with_grub(layout);
            verdict.remarks.extend(remarks);
            verdict
        }
        Looks::Elsewhere(why) => Verdict {
            better: vec!["grub-install makes GRUB look for the menu of this system".into()],
            ..by_name(GuaranteeLevel::C, &format!("what GRUB boots next is not this system's to say: {why}"))
        },
    }
}

/// The first method that nothing speaks against.
fn with_grub(layout: &BootLayout) -> Verdict {
    let mut better = Vec::new();
    let methods = [
        (Method::EnvFileEsp, env_file_esp(layout)),
        (Method::EnvFileBoot, env_file_boot(layout)),
        (Method::Kexec, kexec(layout)),
    ];
    for (method, found) in methods {
        match found {
            Ok(reason) => {
                let remarks = remarks(layout, method);
                return Verdict { method, level: GuaranteeLevel::A, reason, better, remarks };
            }
            Err(why) => better.push(format!("{}: {why}", title(method))),
        }
    }
    let reason = "GRUB cannot be told to try the new system only once, so a trial whose kernel dies is booted again and again \
                  until somebody chooses the old one";
    Verdict {
        method: Method::ByName,
        level: GuaranteeLevel::B,
        reason: reason.into(),
        better,
        remarks: remarks(layout, Method::ByName),
    }
}

fn with_systemd_boot(layout: &BootLayout, found: &SystemdBoot) -> Verdict {
    let method = Method::LoaderOneShot;
    match loader_one_shot(layout, found) {
        Ok(reason) => {
            let mut remarks = remarks(layout, method);
            if !found.fsck {
                remarks.push(
                    "dosfstools is not installed: the ESP, which has no journal, is repaired by nobody after a power cut".into(),
                );
            }
            Verdict { method, level: GuaranteeLevel::A, reason, better: Vec::new(), remarks }
        }
        Err(why) => {
            let reason = format!(
                "systemd-boot starts this machine, and each new kernel becomes its default during the upgrade, which can't be \
                 held back: {why}"
            );
            let better = vec![format!("{}: {why}", title(method))];
            Verdict { better, ..by_name(GuaranteeLevel::C, &reason) }
        }
    }
}

fn loader_one_shot(layout: &BootLayout, found: &SystemdBoot) -> Result<String, String> {
    let Some(esp) = &layout.esp else { return Err("no ESP is mounted".into()) };
    if esp.read_only {
        return Err(format!("{} is mounted read-only", esp.point.display()));
    }
    found.variables.clone()?;
    if !found.one_shot {
        return Err("this systemd-boot does not say that it boots an entry once".into());
    }
    let entry = found.entry.as_ref().map_err(Clone::clone)?;
    Ok(format!(
        "systemd-boot deletes the trial's mark in the firmware before it starts the new system, and a copy of {entry} stays its \
         default, so any reset boots the old one"
    ))
}

fn env_file_esp(layout: &BootLayout) -> Result<String, String> {
    if layout.firmware == Firmware::Bios {
        return Err("this machine was started by a BIOS".into());
    }
    let Some(esp) = &layout.esp else { return Err("no ESP is mounted".into()) };
    writable(esp, &["vfat"])?;
    Ok(format!(
        "GRUB clears the trial's mark on the ESP ({}) before it starts the new system, so any reset boots the old one",
        esp.point.display()
    ))
}

fn env_file_boot(layout: &BootLayout) -> Result<String, String> {
    let BootPlace::Separate(boot) = &layout.boot else {
        return Err("/boot lies inside the root's filesystem, to which GRUB cannot write".into());
    };
    writable(boot, &["ext2", "ext3", "ext4"])?;
    Ok(format!(
        "GRUB clears the trial's mark on {} ({}) before it starts the new system, so any reset boots the old one",
        boot.point.display(),
        boot.fs_type
    ))
}

fn kexec(layout: &BootLayout) -> Result<String, String> {
    match &layout.kexec {
        Kexec::Possible => Ok("the old system starts the new kernel itself (kexec) and GRUB keeps booting the old one, so any reset \
                               boots the old one"
            .into()),
        Kexec::Impossible(why) => Err(why.clone()),
    }
}

/// Whether GRUB can write to a filesystem, and we too.
fn writable(partition: &Partition, types: &[&str]) -> Result<(), String> {
    let point = partition.point.display();
    if !types.contains(&partition.fs_type.as_str()) {
        return Err(format!("{point} is {}, not {}", partition.fs_type, types.join(" or ")));
    }
    if partition.read_only {
        return Err(format!("{point} is mounted read-only"));
    }
    if partition.uuid.is_none() {
        return Err(format!("the filesystem of {point} has no UUID by which GRUB could find it"));
    }
    partition.plain.clone().map_err(|why| format!("GRUB cannot write to {point}: {why}"))
}

fn title(method: Method) -> &'static str {
    match method {
        Method::EnvFileEsp => "a mark on the ESP",
        Method::EnvFileBoot => "a mark on /boot",
        Method::LoaderOneShot => "a mark in the firmware",
        Method::Kexec => "kexec",
        Method::ByName => "by name",
    }
}

fn remarks(layout: &BootLayout, method: Method) -> Vec<String> {
    let mut remarks: Vec<&str> = Vec::new();
    match layout.initramfs {
        Some(Initramfs::InitramfsTools) => {}
        Some(Initramfs::Dracut) => remarks.push(
            "dracut makes the initial RAM disk: a new system that hangs in it, without a panic, waits for a reset from outside",
        ),
        None => remarks.push(
            "no tool for initial RAM disks is installed: a new system that hangs before it mounts its root waits for a reset \
             from outside",
        ),
    }
    if !layout.watchdog {
        remarks.push(
            "there is no hardware watchdog: a kernel that hangs without a panic needs a reset from outside",
        );
    }
    let uefi = layout.firmware != Firmware::Bios;
    if uefi && layout.esp.is_none() {
        remarks.push(
            "no ESP is mounted, so it can be neither kept nor put back; nothing of this run writes to it",
        );
    }
    if method == Method::Kexec && layout.firmware == (Firmware::Uefi { secure_boot: Some(true) }) {
        remarks.push(
            "Secure Boot is on: the running kernel must accept the new kernel's signature, which shows when it is loaded",
        );
    }
    remarks.into_iter().map(str::to_owned).collect()
}

fn by_name(level: GuaranteeLevel, reason: &str) -> Verdict {
    Verdict { method: Method::ByName, level, reason: reason.into(), better: Vec::new(), remarks: Vec::new() }
}

#[cfg(test)]
mod tests {
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
    fn systemd_boot_and_what_it_needs() {
        let boot =
            SystemdBoot { one_shot: true, variables: Ok(()), entry: Ok("a-6.1.conf".into()), fsck: true };
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
        assert_eq!(
            found(&machine),
            (Method::Kexec, GuaranteeLevel::A),
            "an ESP that is not mounted can hold it"
        );
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
                    "a mark on /boot: /boot lies inside the root's filesystem, to which GRUB cannot write"
                        .into(),
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
}
