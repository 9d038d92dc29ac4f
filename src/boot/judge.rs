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

impl Verdict {
    /// The same where the image of the running kernel is not understood, and so no trial's can be proven before it is tried: nothing is
    /// promised that the first proof would refuse, after everything has been upgraded.
    #[must_use]
    pub fn without_proof(self, why: &str) -> Self {
        if self.level == GuaranteeLevel::C {
            return self;
        }
        let lacking = (self.method != Method::ByName).then(|| format!("{}: {why}", title(self.method)));
        let better = self.better.into_iter().chain(lacking).collect();
        let reason = format!("no kernel of this machine can be proven before it is tried: {why}");
        Self { better, remarks: self.remarks, ..by_name(GuaranteeLevel::C, &reason) }
    }

    /// The same where GRUB's menu has no entry from which those of the old system and of the trial could be made: arming would be the
    /// first to learn it.
    #[must_use]
    pub fn without_entry(self, why: &str) -> Self {
        if !matches!(self.method, Method::EnvFileEsp | Method::EnvFileBoot | Method::Kexec) {
            return self;
        }
        let lacking = format!("{}: {why}", title(self.method));
        let better = self.better.into_iter().chain([lacking]).collect();
        Self { better, remarks: self.remarks, ..by_name(GuaranteeLevel::B, AGAIN_AND_AGAIN) }
    }
}

const AGAIN_AND_AGAIN: &str = "GRUB cannot be told to try the new system only once, so a trial whose kernel dies is booted again and \
    again until somebody chooses the old one";

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
    Verdict {
        better,
        remarks: remarks(layout, Method::ByName),
        ..by_name(GuaranteeLevel::B, AGAIN_AND_AGAIN)
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
#[path = "judge_tests.rs"]
mod tests;
