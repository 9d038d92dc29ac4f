//! Whether an upgrade will renew the boot loader: GRUB's old core with GRUB's new modules does not boot.

use std::path::Path;

use super::Circumstances;
use super::reading::{self, InspectError};
use crate::boot::layout::{Firmware, Loader};
use crate::finding::Finding;
use crate::health::packages::Packages;
use crate::system::show;

/// The packages whose scripts install GRUB when it is upgraded.
const INSTALLERS: [&str; 5] =
    ["grub-pc", "grub-efi-amd64", "grub-efi-arm64", "grub-efi-ia32", "grub-cloud-amd64"];

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Those of [`INSTALLERS`] that are installed.
    installers: Vec<String>,
    /// A signed GRUB and shim are installed.
    signed: bool,
    /// The ESP holds a boot loader in the place for removable disks, and whose it is.
    removable: Option<Removable>,
    /// debconf says that the place for removable disks is written too.
    writes_removable: bool,
    /// Disks that debconf says GRUB is installed to, and that are not there.
    disks_gone: Vec<String>,
}

/// Whose boot loader the one in the place for removable disks is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removable {
    /// There is a directory of GRUB's own beside it, which firmware starts by its entry.
    Beside,
    /// It is the only one.
    Only,
}

pub(super) fn facts(root: &Path, packages: &Packages) -> Result<Facts, InspectError> {
    let there = |name: &str| reading::version(packages, name).is_some();
    // config.dat is readable for everybody; passwords are in a file of their own.
    let answers = reading::text(root, "var/cache/debconf/config.dat")?.unwrap_or_default();
    let disks = answer(&answers, "grub-pc/install_devices").unwrap_or_default();
    let gone = disks
        .split(',')
        .map(str::trim)
        .filter(|disk| disk.starts_with("/dev/") && !reading::at(root, disk).exists())
        .map(str::to_owned)
        .collect();
    Ok(Facts {
        installers: INSTALLERS.into_iter().filter(|name| there(name)).map(str::to_owned).collect(),
        signed: ["grub-efi-amd64-signed", "grub-efi-arm64-signed"].into_iter().any(there)
            && there("shim-signed"),
        removable: removable(root)?,
        writes_removable: ["grub2/force_efi_extra_removable", "grub-efi/force_efi_extra_removable"]
            .iter()
            .any(|question| answer(&answers, question) == Some("true")),
        disks_gone: if there("grub-pc") { gone } else { Vec::new() },
    })
}

/// FAT does not care for the case of names, and both cases are found in the wild.
fn removable(root: &Path) -> Result<Option<Removable>, InspectError> {
    let efi = "boot/efi/EFI";
    let directories = reading::names(root, efi)?;
    let Some(boot) = directories.iter().find(|name| name.eq_ignore_ascii_case("boot")) else {
        return Ok(None);
    };
    let files = reading::names(root, &format!("{efi}/{boot}"))?;
    let loader = |name: &String| {
        ["bootx64.efi", "bootaa64.efi"].iter().any(|wanted| name.eq_ignore_ascii_case(wanted))
    };
    let Some(loader) = files.iter().find(|name| loader(name)) else { return Ok(None) };
    // systemd-boot and others put theirs there as well, and renew it themselves.
    let path = format!("{efi}/{boot}/{loader}");
    let bytes = reading::bytes(root, &path)?.unwrap_or_default();
    let grub_beside = files.iter().any(|name| name.to_ascii_lowercase().starts_with("grub"));
    if !grub_beside && !contains(&bytes, b"GRUB") {
        return Ok(None);
    }
    let own =
        directories.iter().any(|name| ["debian", "ubuntu"].iter().any(|id| name.eq_ignore_ascii_case(id)));
    Ok(Some(if own { Removable::Beside } else { Removable::Only }))
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// debconf's answer to a question, from the text of its database.
fn answer<'t>(database: &'t str, question: &str) -> Option<&'t str> {
    let mut stanza = database.lines().skip_while(|line| line.strip_prefix("Name: ") != Some(question));
    stanza.by_ref().take_while(|line| !line.is_empty()).find_map(|line| line.strip_prefix("Value: "))
}

pub(super) fn findings(facts: &Facts, about: &Circumstances<'_>) -> Vec<Finding> {
    let Some(boot) = about.boot.filter(|boot| !boot.container) else { return Vec::new() };
    if !matches!(boot.loader, Loader::Grub(_)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    if facts.installers.is_empty() {
        let (what, remedy) = match boot.firmware {
            Firmware::Uefi { .. } => ("UEFI", "apt-get install grub-efi-amd64"),
            Firmware::Bios => ("the BIOS", "apt-get install grub-pc"),
        };
        found.push(Finding::warning(
            "grub-metapackage-missing",
            format!("{what} starts GRUB here, but no package is installed that renews it: it stays as old as it is."),
            remedy,
        ));
    }
    if let Firmware::Uefi { secure_boot } = boot.firmware {
        if secure_boot == Some(true) && !facts.signed {
            found.push(Finding::warning(
                "secure-boot-unsigned",
                "Secure Boot is on, and no signed boot loader is installed as a package: the next GRUB may not be started by the firmware.",
                "apt-get install grub-efi-amd64-signed shim-signed",
            ));
        }
        found.extend(of_removable(facts));
    }
    if !facts.disks_gone.is_empty() && boot.firmware == Firmware::Bios {
        found.push(
            Finding::warning(
                "grub-install-device-gone",
                "GRUB's package is told to install to disks that are not there: its upgrade fails, or leaves an old GRUB that does not fit.",
                "dpkg-reconfigure grub-pc",
            )
            .with_evidence(facts.disks_gone.iter().map(|disk| format!("grub-pc/install_devices: {}", show::line(disk)))),
        );
    }
    found
}

fn of_removable(facts: &Facts) -> Option<Finding> {
    let place = facts.removable.filter(|_| !facts.writes_removable && !facts.installers.is_empty())?;
    let remedy =
        "echo 'grub-efi-amd64 grub2/force_efi_extra_removable boolean true' | debconf-set-selections";
    let evidence = ["boot/efi/EFI/BOOT holds GRUB", "debconf: grub2/force_efi_extra_removable is not true"];
    Some(match place {
        Removable::Only => Finding::warning(
            "grub-removable-path",
            "GRUB is started from the place for removable disks only, which its package will not renew: the old GRUB would meet the \
             new modules, and not boot.",
            remedy,
        ),
        Removable::Beside => Finding::note(
            "grub-removable-path",
            "a second GRUB lies in the place for removable disks, which its package will not renew: firmware that starts that one \
             gets an old GRUB.",
            remedy,
        ),
    }
    .with_evidence(evidence))
}

#[cfg(test)]
mod tests {
    use super::super::made_up::{about, boot};
    use super::super::reading::made_up::{ids, tree};
    use super::*;

    fn packages(names: &[&str]) -> Packages {
        let installed = names.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect();
        Packages { installed, ..Packages::default() }
    }

    fn of(files: &[(&str, &str)], names: &[&str], firmware: Firmware) -> Vec<String> {
        let dir = tree(files);
        let boot = boot(firmware);
        ids(&findings(&facts(dir.path(), &packages(names)).unwrap(), &about(Some(&boot))))
    }

    const UEFI: Firmware = Firmware::Uefi { secure_boot: Some(true) };
    const SIGNED: [&str; 3] = ["grub-efi-amd64", "grub-efi-amd64-signed", "shim-signed:amd64"];

    #[test]
    fn as_the_installer_leaves_it() {
        assert!(of(&[("boot/efi/EFI/debian/shimx64.efi", "GRUB")], &SIGNED, UEFI).is_empty());
        let answers = "Name: grub-pc/install_devices\nTemplate: x\nValue: /dev/vda\nOwners: grub-pc\n";
        let files = [("var/cache/debconf/config.dat", answers), ("dev/vda", "")];
        assert!(of(&files, &["grub-pc"], Firmware::Bios).is_empty());
    }

    #[test]
    fn nobody_renews_it() {
        assert_eq!(of(&[], &["grub-pc-bin"], Firmware::Bios), ["warning grub-metapackage-missing"]);
        assert_eq!(of(&[], &["grub-efi-amd64"], UEFI), ["warning secure-boot-unsigned"]);
        let answers =
            "Name: other\nValue: /dev/vda\n\nName: grub-pc/install_devices\nValue: /dev/sda, /dev/vda\n";
        let files = [("var/cache/debconf/config.dat", answers), ("dev/vda", "")];
        assert_eq!(of(&files, &["grub-pc"], Firmware::Bios), ["warning grub-install-device-gone"]);
    }

    #[test]
    fn the_place_for_removable_disks() {
        let only = ("boot/efi/EFI/BOOT/BOOTX64.EFI", "..GRUB..");
        assert_eq!(of(&[only], &SIGNED, UEFI), ["warning grub-removable-path"]);
        let beside = ("boot/efi/EFI/debian/grubx64.efi", "");
        assert_eq!(of(&[only, beside], &SIGNED, UEFI), ["note grub-removable-path"]);
        let answers = "Name: grub2/force_efi_extra_removable\nTemplate: x\nValue: true\n";
        assert!(of(&[only, ("var/cache/debconf/config.dat", answers)], &SIGNED, UEFI).is_empty());
        let other = ("boot/efi/EFI/BOOT/BOOTX64.EFI", "#### LoaderInfo: systemd-boot 252 ####");
        assert!(of(&[other, beside], &SIGNED, UEFI).is_empty());
    }
}
