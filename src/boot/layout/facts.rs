//! Single facts: container, firmware, kexec, watchdog, what makes the initial RAM disks.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::{Firmware, Initramfs, Kexec, LayoutError, at, text, text_if_there};

/// The variable of the UEFI specification (global variable GUID).
const SECURE_BOOT: &str = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// A kernel's configuration is some 250 KiB; what is longer is none.
const LONGEST_CONFIG: u64 = 4 << 20;

/// As systemd tells it: its own mark, or what whoever started PID 1 put into its environment.
pub(super) fn is_container(root: &Path) -> Result<bool, LayoutError> {
    if root.join("run/systemd/container").exists() {
        return Ok(true);
    }
    let path = root.join("proc/1/environ");
    match fs::read(&path) {
        Ok(environment) => Ok(says_container(&environment)),
        // A systemd that is PID 1 leaves its mark for the same variable, and there is none.
        Err(_) if root.join("run/systemd/system").exists() => Ok(false),
        Err(error) => Err(at(&path)(error)),
    }
}

fn says_container(environment: &[u8]) -> bool {
    environment
        .split(|byte| *byte == 0)
        .any(|word| word.strip_prefix(b"container=").is_some_and(|value| !value.is_empty()))
}

pub(super) fn firmware(root: &Path) -> Result<Firmware, LayoutError> {
    if !root.join("sys/firmware/efi").exists() {
        return Ok(Firmware::Bios);
    }
    let path = root.join(SECURE_BOOT);
    match fs::read(&path) {
        Ok(bytes) => Ok(Firmware::Uefi { secure_boot: secure_boot(&bytes) }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Firmware::Uefi { secure_boot: None }),
        Err(error) => Err(at(&path)(error)),
    }
}

/// efivarfs puts four bytes of attributes before the value.
pub(super) fn secure_boot(variable: &[u8]) -> Option<bool> {
    match variable {
        [_, _, _, _, value] => Some(*value == 1),
        _ => None,
    }
}

/// By the hooks that a new kernel calls, together with the tools that they call: a removed package leaves its hook behind, and both
/// generators can have their tools installed.
pub(super) fn initramfs(root: &Path) -> Option<Initramfs> {
    let there = |path: &str| root.join(path).exists();
    let dracut = there("usr/bin/dracut");
    let tools = there("usr/sbin/mkinitramfs");
    let hook = |name: &str| there(&format!("etc/kernel/postinst.d/{name}"));
    if dracut && (hook("dracut") || !tools) {
        return Some(Initramfs::Dracut);
    }
    tools.then_some(Initramfs::InitramfsTools)
}

/// A watchdog that works without the kernel: softdog is a timer of the kernel that it should watch. One that does
/// not say what it is may be just that.
pub(super) fn watchdog(root: &Path) -> Result<bool, LayoutError> {
    let class = root.join("sys/class/watchdog");
    let entries = match fs::read_dir(&class) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(at(&class)(error)),
    };
    for entry in entries {
        let identity = entry.map_err(at(&class))?.path().join("identity");
        if text_if_there(&identity)?.is_some_and(|name| name.trim() != "Software Watchdog") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The files say why not, the call itself has the last word.
pub(super) fn kexec(
    root: &Path,
    kernel: &str,
    probe: fn() -> std::io::Result<()>,
) -> Result<Kexec, LayoutError> {
    let disabled = text_if_there(&root.join("proc/sys/kernel/kexec_load_disabled"))?;
    let lockdown = text_if_there(&root.join("sys/kernel/security/lockdown"))?;
    let config = kernel_config(root, kernel)?;
    let by_files = judge_kexec(disabled.as_deref(), lockdown.as_deref(), config.as_deref());
    Ok(match (by_files, probe()) {
        (Kexec::Possible, Err(error)) => Kexec::Impossible(match error.raw_os_error() {
            Some(libc::ENOSYS) => "the running kernel has no kexec_file_load (CONFIG_KEXEC_FILE)".into(),
            Some(libc::EPERM) => "the running kernel does not permit it here".into(),
            _ => format!("the running kernel does not answer as expected: {error}"),
        }),
        (found, _) => found,
    })
}

pub(super) fn judge_kexec(disabled: Option<&str>, lockdown: Option<&str>, config: Option<&str>) -> Kexec {
    let is_set = |name: &str| {
        config.map(|text| text.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest == "=y")))
    };
    let no = |why: &str| Kexec::Impossible(why.to_owned());
    if is_set("CONFIG_KEXEC_FILE") == Some(false) {
        return no("the running kernel was built without CONFIG_KEXEC_FILE");
    }
    if disabled.is_some_and(|value| value.trim() != "0") {
        return no("kernel.kexec_load_disabled is set, and stays set until the next boot");
    }
    let locked = lockdown.is_some_and(|modes| !modes.contains("[none]"));
    if locked && is_set("CONFIG_KEXEC_SIG") != Some(true) {
        return no("the kernel is locked down and cannot check another kernel's signature");
    }
    Kexec::Possible
}

/// The running kernel's configuration, as its package or the kernel itself shows it.
fn kernel_config(root: &Path, kernel: &str) -> Result<Option<String>, LayoutError> {
    let beside = root.join("boot").join(format!("config-{kernel}"));
    if beside.exists() {
        return text(&beside).map(Some);
    }
    let packed = root.join("proc/config.gz");
    let file = match fs::File::open(&packed) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(&packed)(error)),
    };
    let mut config = String::new();
    flate2::read::GzDecoder::new(file)
        .take(LONGEST_CONFIG)
        .read_to_string(&mut config)
        .map_err(at(&packed))?;
    Ok(Some(config))
}
