//! The boot loader's part in a run: what this machine promises, and the trial that a reset ends.
//!
//! ```text
//!   arm        installers held off; by default the old system boots
//!   prepare    the trial boots once: by GRUB's environment file, by systemd-boot's variable, by kexec, or by the root's name
//!   restore    the trial can't boot any more; /boot, ESP and boot code are brought back
//!   settle     the new system's own menu, the root's name, and the boot code that was held off
//! ```

use std::path::{Path, PathBuf};

use super::{Result, boot_set, trouble};
use crate::boot::block::{self, EnvPlace};
use crate::boot::default_entry::Setting;
use crate::boot::judge::{self, Method, Verdict};
use crate::boot::kernels::Unproven;
use crate::boot::layout::{self, BootLayout, BootPlace, Loader as Kind, Partition};
use crate::boot::named_root::NamedRoot;
use crate::boot::one_shot::{self, OldSystem, OneShot, OneShotError, Trial};
use crate::boot::systemd_boot::{LoaderOneShot, Places};
use crate::boot::{default_entry, grub, kernels, kexec, menu};
use crate::driver::Trouble;
use crate::error::chain;
use crate::evidence::{FallbackMethod, GuaranteeLevel, Plan, Promise};
use crate::finding::Finding;
use crate::snapshot::TopLevel;
use crate::snapshot::names::RunNames;

/// Our directory on the ESP and on `/boot`.
const ESP_ENV: &str = "EFI/safe-upgrade/env";
const BOOT_ENV: &str = "safe-upgrade/env";

/// What this machine can promise, and why not more.
pub(super) fn verdict() -> Result<(BootLayout, Verdict)> {
    let layout = layout::read(Path::new("/")).map_err(trouble)?;
    let verdict = judge::judge(&layout);
    let verdict = match no_entry(&layout)? {
        Some(why) => verdict.without_entry(&why),
        None => verdict,
    };
    let verdict = match unproven(&layout)? {
        Some(why) => verdict.without_proof(&why),
        None => verdict,
    };
    Ok((layout, verdict))
}

/// What GRUB boots by default when the operator has chosen something else than its first entry.
pub(super) fn default_entry(layout: &BootLayout) -> Option<Finding> {
    if !matches!(layout.loader, Kind::Grub(_)) {
        return None;
    }
    match default_entry::read(Path::new("/")) {
        Ok(setting) => setting.as_ref().and_then(of_setting),
        Err(error) => Some(Finding::unknown("which entry GRUB boots by default", chain(&error))),
    }
}

fn of_setting(setting: &Setting) -> Option<Finding> {
    if setting.is_first() {
        return None;
    }
    let what = format!(
        "GRUB boots what GRUB_DEFAULT={} names, not the first entry of its menu. While a run lasts its own entries count; after the \
         commit this setting does again, and it may name an entry that the upgrade has moved, or a kernel that is gone.",
        setting.value
    );
    let remedy = "after the commit see that it names an entry of the new kernel, or set GRUB_DEFAULT=0 and run update-grub";
    Some(
        Finding::warning("grub-default-entry", what, remedy)
            .with_evidence([setting.file.display().to_string()]),
    )
}

/// Why the kernel that runs could not be proven, as a trial's will have to be; `None` when it could be.
fn unproven(layout: &BootLayout) -> Result<Option<String>> {
    if layout.container {
        return Ok(None);
    }
    let kernel = match &layout.loader {
        Kind::SystemdBoot(_) => {
            let entry = Places::of(layout).map(|places| places.running(&layout.kernel));
            // What has no entry of its own promises nothing anyway.
            let files = entry.and_then(std::result::Result::ok).and_then(|entry| entry.files().ok());
            files.map(|(kernel, _)| kernel)
        }
        _ => Some(Path::new("/boot").join(format!("vmlinuz-{}", layout.kernel))),
    };
    match kernel.map(|kernel| kernels::image(&kernel)) {
        Some(Err(Unproven::No(why))) => Ok(Some(why.to_string())),
        Some(Err(error)) => Err(trouble(error)),
        Some(Ok(_)) | None => Ok(None),
    }
}

/// Why GRUB's menu has nothing that could be kept as the old system's entry; `None` when it has, or where GRUB is not asked.
fn no_entry(layout: &BootLayout) -> Result<Option<String>> {
    match &layout.loader {
        Kind::Grub(grub) if grub.menu && !layout.container => {}
        _ => return Ok(None),
    }
    let path = Path::new("/").join(grub::MENU);
    let menu = block::strip(&std::fs::read(&path).map_err(trouble)?);
    let lacking = menu::lacks_entry(&layout.kernel, &String::from_utf8_lossy(&menu));
    Ok(lacking.map(|why| format!("{}: {why}", path.display())))
}

/// The same, as a plan keeps it.
pub(super) fn promise(verdict: &Verdict) -> Promise {
    let method = match verdict.method {
        Method::EnvFileEsp => FallbackMethod::EnvFileEsp,
        Method::EnvFileBoot => FallbackMethod::EnvFileBoot,
        Method::LoaderOneShot => FallbackMethod::LoaderOneShot,
        Method::Kexec => FallbackMethod::Kexec,
        Method::ByName => FallbackMethod::ByName,
    };
    let level = match verdict.level {
        judge::GuaranteeLevel::A => GuaranteeLevel::A,
        judge::GuaranteeLevel::B => GuaranteeLevel::B,
        judge::GuaranteeLevel::C => GuaranteeLevel::C,
    };
    Promise { method, level, reason: verdict.reason.clone() }
}

/// The boot loader, as one run uses it.
#[derive(Debug)]
pub(super) struct Loader {
    method: FallbackMethod,
    kernel: String,
    way: Way,
}

/// Who boots the trial once.
#[derive(Debug)]
enum Way {
    Grub(OneShot),
    SystemdBoot(LoaderOneShot),
}

impl Loader {
    /// The machine's boot loader; `None` where there is none to care for (a container, or a boot loader that the plan has waived).
    pub(super) fn of(
        plan: &Plan,
        names: &RunNames,
        directory: &Path,
        top: &TopLevel,
    ) -> Result<Option<Self>> {
        let layout = layout::read(Path::new("/")).map_err(trouble)?;
        let method = plan.promise.method;
        let way = match (&layout.loader, method) {
            _ if layout.container => None,
            (Kind::Grub(_), FallbackMethod::LoaderOneShot) => None,
            (Kind::Grub(_), _) => Some(Way::Grub(grub(plan, names, directory, top, &layout)?)),
            (Kind::SystemdBoot(_), FallbackMethod::LoaderOneShot) => {
                Some(Way::SystemdBoot(systemd_boot(plan, names, directory, &layout)?))
            }
            _ => None,
        };
        match way {
            Some(way) => Ok(Some(Self { method, kernel: layout.kernel, way })),
            None if method == FallbackMethod::ByName => Ok(None),
            None => Err(Trouble::new(format!(
                "the boot loader that the plan relies on is gone ({})",
                method.words()
            ))),
        }
    }

    /// By default the old system boots, and nothing that packages run changes that. Probes first.
    pub(super) fn arm(&self, clone: u64) -> Result<()> {
        match &self.way {
            Way::Grub(one_shot) => {
                let old = OldSystem { kernel: self.kernel.clone(), subvolume: clone };
                one_shot.arm(&old).map_err(trouble)
            }
            Way::SystemdBoot(one_shot) => one_shot.arm(&self.kernel, clone).map_err(trouble),
        }
    }

    /// What is wrong with the armed loader, if anything.
    pub(super) fn fault(&self) -> Result<Option<String>> {
        match &self.way {
            Way::Grub(one_shot) => one_shot.fault().map_err(trouble),
            Way::SystemdBoot(one_shot) => one_shot.fault().map_err(trouble),
        }
    }

    /// The trial boots next, once; without a one-shot method, by the root's name. Probes first.
    pub(super) fn prepare_trial(&self, root: &NamedRoot<'_>, deadline: u32) -> Result<()> {
        if !self.method.is_one_shot() {
            return self.switch(root);
        }
        let trial = match &self.way {
            Way::Grub(one_shot) => one_shot.prepare_trial(deadline).map_err(trouble)?,
            Way::SystemdBoot(one_shot) => one_shot.prepare_trial(deadline).map_err(trouble)?,
        };
        // Power that is lost until here boots the old system.
        prove(&trial)?;
        match &self.way {
            Way::Grub(one_shot) => one_shot.choose_trial(&trial).map_err(trouble)?,
            Way::SystemdBoot(one_shot) => one_shot.choose_trial(&trial).map_err(trouble)?,
        }
        if self.method == FallbackMethod::Kexec { load(&trial) } else { Ok(()) }
    }

    /// The boot after this one is the trial again: by name it is already. Probes first.
    pub(super) fn trial_again(&self) -> Result<()> {
        match &self.way {
            Way::Grub(_) if !self.method.is_one_shot() => Ok(()),
            Way::Grub(one_shot) => one_shot.choose_again().map_err(trouble),
            Way::SystemdBoot(one_shot) => one_shot.choose_again().map_err(trouble),
        }
    }

    /// Whether the next boot is the trial, once.
    pub(super) fn is_ready(&self) -> Result<bool> {
        match (&self.way, self.method) {
            (_, FallbackMethod::ByName) => Ok(false),
            (Way::Grub(one_shot), FallbackMethod::Kexec) => {
                Ok(kexec::loaded().map_err(trouble)? && one_shot.is_ready().map_err(trouble)?)
            }
            (Way::Grub(one_shot), _) => one_shot.is_ready().map_err(trouble),
            (Way::SystemdBoot(one_shot), _) => one_shot.is_ready().map_err(trouble),
        }
    }

    /// Loads the trial's kernel again when it is not loaded (another process of this boot may have prepared it). Probes first.
    pub(super) fn load_trial(&self) -> Result<()> {
        match &self.way {
            Way::Grub(one_shot) if !kexec::loaded().map_err(trouble)? => {
                load(&one_shot.trial().map_err(trouble)?)
            }
            _ => Ok(()),
        }
    }

    /// The trial can't boot any more. The first act of every way back. Probes first.
    pub(super) fn disarm(&self) -> Result<()> {
        match &self.way {
            Way::Grub(one_shot) => match one_shot.disarm_trial() {
                // The filesystem is mounted ([`env_file`]): what is not there chooses nothing. An earlier try may have come this far.
                Ok(()) | Err(OneShotError::EnvFileGone { .. }) => Ok(()),
                Err(error) => Err(trouble(error)),
            },
            Way::SystemdBoot(one_shot) => one_shot.disarm_trial().map_err(trouble),
        }
    }

    /// Where both systems share what the boot loader reads: the old one is the default from here on, whatever else is brought back
    /// meanwhile. Probes first.
    pub(super) fn arm_way_back(&self, copies: &boot_set::Copies, clone: u64) -> Result<()> {
        match (&self.way, copies) {
            (Way::Grub(one_shot), boot_set::Copies { boot: Some(boot), .. }) => {
                one_shot.arm_way_back(boot, clone).map_err(trouble)
            }
            (Way::SystemdBoot(one_shot), boot_set::Copies { boot, esp }) => {
                // The ESP may be what is mounted at /boot.
                let Some(from) = esp.as_ref().or(boot.as_ref()) else { return Ok(()) };
                one_shot.arm_way_back(from, boot.as_deref(), clone).map_err(trouble)
            }
            (Way::Grub(_), _) => Ok(()),
        }
    }

    /// What is about to be brought back reaches a boot volume without a journal as it is written. Repeatable.
    pub(super) fn write_through(&self) -> Result<()> {
        match &self.way {
            Way::Grub(_) => Ok(()),
            Way::SystemdBoot(one_shot) => one_shot.write_through_again().map_err(trouble),
        }
    }

    /// The new system for good: its own menu, the root's name, then the boot code that was held off. Probes first.
    pub(super) fn settle(&self, root: &NamedRoot<'_>) -> Result<()> {
        self.switch(root)?;
        self.clean_up()?;
        match &self.way {
            Way::Grub(one_shot) => one_shot.run_held_off().map(drop).map_err(trouble),
            Way::SystemdBoot(_) => Ok(()),
        }
    }

    /// Takes [`Loader::arm`] and everything after it back. Probes first.
    pub(super) fn take_back(&self) -> Result<()> {
        self.disarm()?;
        self.clean_up()
    }

    /// Nothing of ours is left in the loader's places. Probes first.
    pub(super) fn clean_up(&self) -> Result<()> {
        match &self.way {
            Way::Grub(one_shot) => one_shot.clean_up().map_err(trouble),
            Way::SystemdBoot(one_shot) => one_shot.clean_up().map_err(trouble),
        }
    }

    /// The root's name leads to the upgraded root, and the menu says so. In this order each moment boots one whole system:
    /// a menu inside the root takes force with the name; a shared one would boot the old tree by the name until then. systemd-boot boots
    /// the old tree by its id until [`Loader::clean_up`] takes the pins away.
    fn switch(&self, root: &NamedRoot<'_>) -> Result<()> {
        match &self.way {
            Way::Grub(one_shot) if one_shot.menu_comes_before_exchange() => {
                one_shot.commit_menu().map_err(trouble)?;
                root.prepare_trial().map(drop).map_err(trouble)
            }
            Way::Grub(one_shot) => {
                root.prepare_trial().map_err(trouble)?;
                one_shot.commit_menu().map_err(trouble)
            }
            Way::SystemdBoot(one_shot) => {
                one_shot.prove_commit().map_err(trouble)?;
                root.prepare_trial().map(drop).map_err(trouble)
            }
        }
    }
}

fn grub(
    plan: &Plan,
    names: &RunNames,
    directory: &Path,
    top: &TopLevel,
    layout: &BootLayout,
) -> Result<OneShot> {
    let boot = match layout.boot {
        BootPlace::Inside => one_shot::BootPlace::InRoot,
        BootPlace::Separate(_) => one_shot::BootPlace::Separate,
    };
    Ok(OneShot {
        run: plan.run.to_string(),
        method: choice(plan.promise.method, layout)?,
        boot,
        root_name: plan.root.name.clone(),
        other_name: names.other_root(),
        running: PathBuf::from("/"),
        old_tree: top.path(Path::new(&plan.root.name)),
        run_directory: directory.to_owned(),
    })
}

fn systemd_boot(
    plan: &Plan,
    names: &RunNames,
    directory: &Path,
    layout: &BootLayout,
) -> Result<LoaderOneShot> {
    Ok(LoaderOneShot {
        run: plan.run.to_string(),
        places: places(layout)?,
        root_name: plan.root.name.clone(),
        other_name: names.other_root(),
        running: PathBuf::from("/"),
        run_directory: directory.to_owned(),
    })
}

/// Where systemd-boot reads.
pub(super) fn places(layout: &BootLayout) -> Result<Places> {
    Places::of(layout).ok_or_else(|| Trouble::new("no ESP is mounted, from which systemd-boot reads"))
}

/// A kernel without its modules, or an initrd that was cut, is not tried.
fn prove(trial: &Trial) -> Result<()> {
    // The dead man is the last, and early microcode may come first: what holds the modules is before the dead man.
    let real = trial.initrds.len().checked_sub(2).and_then(|index| trial.initrds.get(index));
    let initrd = real.ok_or_else(|| Trouble::new("the trial's menu entry has no initrd"))?;
    kernels::prove(&trial.kernel, initrd, Path::new("/"), "btrfs").map(drop).map_err(trouble)
}

fn load(trial: &Trial) -> Result<()> {
    let initrds: Vec<kexec::Initrd<'_>> =
        trial.initrds.iter().map(|path| kexec::Initrd::File(path)).collect();
    kexec::load(&trial.kernel, &initrds, &trial.command_line).map_err(trouble)
}

fn choice(method: FallbackMethod, layout: &BootLayout) -> Result<one_shot::Method> {
    Ok(match env_file(method, layout)? {
        Some((file, place)) => one_shot::Method::EnvFile { file, place },
        None => one_shot::Method::Kexec,
    })
}

/// Where the environment file of a method lies, for us and for GRUB; `None` for methods without one.
pub(super) fn env_file(method: FallbackMethod, layout: &BootLayout) -> Result<Option<(PathBuf, EnvPlace)>> {
    let (partition, file) = match (method, &layout.boot) {
        (FallbackMethod::EnvFileEsp, _) => (layout.esp.as_ref(), ESP_ENV),
        (FallbackMethod::EnvFileBoot, BootPlace::Separate(partition)) => (Some(partition), BOOT_ENV),
        (FallbackMethod::EnvFileBoot, BootPlace::Inside) => (None, BOOT_ENV),
        (FallbackMethod::Kexec | FallbackMethod::LoaderOneShot | FallbackMethod::ByName, _) => {
            return Ok(None);
        }
    };
    let partition: &Partition = partition.ok_or_else(|| {
        Trouble::new(format!("the filesystem of {file} is not mounted ({})", method.words()))
    })?;
    let uuid = partition.uuid.clone().ok_or_else(|| {
        Trouble::new(format!("the filesystem at {} has no UUID", partition.point.display()))
    })?;
    Ok(Some((partition.point.join(file), EnvPlace { fs_uuid: uuid, path: format!("/{file}") })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_entry_than_the_first_is_told() {
        let setting = |value: &str| Setting { file: "/etc/default/grub".into(), value: value.into() };
        assert_eq!(of_setting(&setting("0")), None);
        let found = of_setting(&setting("saved")).unwrap();
        assert!(found.what.contains("GRUB_DEFAULT=saved") && found.evidence == ["/etc/default/grub"]);
    }
}
