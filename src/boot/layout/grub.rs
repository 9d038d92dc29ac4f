//! Which boot loader there is, and what there is of GRUB.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{
    CoreImage, Firmware, Grub, LayoutError, Loader, Machine, Partition, at, core_image, menu_place,
    text_if_there, volumes,
};

/// Written by the boot loader that ran: the variable of the Boot Loader Interface (systemd.io).
const LOADER: &str = "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// The files of boot loaders that this program knows by name only.
const OTHERS: [(&str, &str); 7] = [
    ("boot/extlinux/extlinux.conf", "extlinux"),
    ("boot/syslinux/syslinux.cfg", "syslinux"),
    ("etc/zipl.conf", "zipl"),
    ("boot/boot.scr", "U-Boot"),
    ("boot/firmware/config.txt", "the Raspberry Pi firmware"),
    ("boot/efi/EFI/refind/refind.conf", "rEFInd"),
    ("etc/lilo.conf", "LILO"),
];

/// A GRUB for EFI has a few MiB.
const LONGEST_PROGRAM: u64 = 64 << 20;

/// Which boot loader starts this system. On UEFI its own word counts; where there is none, its files.
pub(super) fn loader(
    root: &Path,
    firmware: Firmware,
    esp: Option<&Partition>,
    machine: &Machine,
) -> Result<Loader, LayoutError> {
    let directory = PathBuf::from("/boot/grub");
    let here = volumes::below(root, &directory);
    let menu = here.join("grub.cfg").exists();
    let said = match firmware {
        Firmware::Uefi { .. } => said(root)?,
        Firmware::Bios => None,
    };
    let systemd_boot = match said.as_deref() {
        Some(word) if word.starts_with("systemd-boot") => true,
        Some(word) if word.starts_with("GRUB") => false,
        Some(word) if word.starts_with("rEFInd") => return Ok(Loader::Other("rEFInd")),
        // It always leaves its word, so without one its files are left over, unless nothing else is there.
        _ => !menu && matches!(firmware, Firmware::Uefi { .. }) && has_systemd_boot(root),
    };
    if systemd_boot {
        return Ok(Loader::SystemdBoot(super::systemd_boot::unknown()));
    }
    if !menu && !here.join("grubenv").exists() {
        let other = OTHERS.iter().find(|(file, _)| root.join(file).exists());
        return Ok(other.map_or(Loader::None, |(_, name)| Loader::Other(name)));
    }
    let core = match firmware {
        Firmware::Bios => (machine.core)(root)?,
        Firmware::Uefi { .. } => esp.map(|esp| on_esp(root, esp)).transpose()?.unwrap_or_default(),
    };
    let menu_place = menu_place::find(root, &directory, machine.uuid)?;
    Ok(Loader::Grub(Grub { version: version(root)?, core, directory, menu, menu_place }))
}

/// What the boot loader wrote about itself: UTF-16 behind four bytes of attributes.
fn said(root: &Path) -> Result<Option<String>, LayoutError> {
    let path = root.join(LOADER);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(utf16(bytes.get(4..).unwrap_or_default()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(&path)(error)),
    }
}

pub(super) fn utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned()
}

fn has_systemd_boot(root: &Path) -> bool {
    ["boot/efi", "efi", "boot"].iter().any(|point| root.join(point).join("loader/loader.conf").exists())
}

/// The GRUB programs on the ESP. A signed one looks for a `grub.cfg` in a directory of the ESP, which says where the real one is.
fn on_esp(root: &Path, esp: &Partition) -> Result<Vec<CoreImage>, LayoutError> {
    let point = volumes::below(root, &esp.point);
    let mut cores = Vec::new();
    for directory in sorted(&point.join("EFI"))? {
        if !directory.is_dir() {
            continue;
        }
        for program in sorted(&directory)? {
            if is_grub(&program) {
                let place = Path::new("/").join(program.strip_prefix(root).unwrap_or(&program));
                cores.push(CoreImage {
                    place: place.display().to_string(),
                    prefix: prefix(&program, &point)?,
                });
            }
        }
    }
    Ok(cores)
}

fn prefix(program: &Path, esp: &Path) -> Result<Option<String>, LayoutError> {
    let length = fs::metadata(program).map_err(at(program))?.len();
    let embedded = match length {
        0..=LONGEST_PROGRAM => core_image::prefix_of(&fs::read(program).map_err(at(program))?),
        _ => None,
    };
    match embedded {
        Some(prefix) if prefix.starts_with('(') => Ok(Some(prefix)),
        // A path without a device is on the ESP itself.
        Some(prefix) => {
            let stub = ignoring_case(esp, &format!("{}/grub.cfg", prefix.trim_matches('/')));
            let script = stub.map(|stub| text_if_there(&stub)).transpose()?.flatten();
            Ok(script.and_then(|script| core_image::prefix_in_script(&script)).or(Some(prefix)))
        }
        None => {
            let stub = text_if_there(&program.with_file_name("grub.cfg"))?;
            Ok(stub.and_then(|script| core_image::prefix_in_script(&script)))
        }
    }
}

/// `grubx64.efi`, `grubaa64.efi`, `GRUBX64.EFI`.
fn is_grub(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    name.starts_with("grub") && name.ends_with(".efi")
}

/// A file by its path from a directory, as vfat finds it.
fn ignoring_case(directory: &Path, path: &str) -> Option<PathBuf> {
    path.split('/').try_fold(directory.to_owned(), |here, name| {
        let entries = sorted(&here).ok()?;
        entries
            .into_iter()
            .find(|entry| entry.file_name().unwrap_or_default().to_string_lossy().eq_ignore_ascii_case(name))
    })
}

/// What is in a directory, in order; nothing when there is no such directory.
fn sorted(directory: &Path) -> Result<Vec<PathBuf>, LayoutError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at(directory)(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(at(directory))?.path());
    }
    paths.sort();
    Ok(paths)
}

/// By dpkg's own record: while a run is armed, grub-install is a stand-in that knows no version.
fn version(root: &Path) -> Result<Option<String>, LayoutError> {
    Ok(text_if_there(&root.join("var/lib/dpkg/status"))?
        .and_then(|status| package_version(&status, "grub-common")))
}

pub(super) fn package_version(status: &str, package: &str) -> Option<String> {
    let field = |stanza: &str, name: &str| {
        stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
    };
    let stanza = status.split("\n\n").find(|stanza| field(stanza, "Package").as_deref() == Some(package))?;
    let installed = field(stanza, "Status").is_some_and(|status| status.ends_with(" installed"));
    installed.then(|| field(stanza, "Version")).flatten()
}
