//! The product on real machines that boot through a real boot loader: under QEMU, one after another.
//!
//! `make test-vm` runs them; `docs/testing.md` tells what a machine is made of and how long it takes.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests, their common parts too")]

mod lab;
#[path = "vm/mod.rs"]
mod vm;

use std::path::Path;
use std::time::Duration;

use lab::{Timer, repo};
use vm::machine::{BINARY, BOOT_LIMIT};
use vm::packages::{self, Extent, Fault, TURNCOAT};
use vm::results::{self, Ended};
use vm::scenario::{self, End, Plug, Scenario, play, play_and_go_back};
use vm::{Layout, Options, Vm};

/// The small upgrade without the product: two initramfs images, the boot loader, a menu.
const UPGRADE_LIMIT: Duration = Duration::from_secs(1800);

/// The variable of the firmware that says whether Secure Boot is enforced; its last byte is the answer.
const SECURE_BOOT: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// The variable in which a boot loader tells its name.
const LOADER_INFO: &str = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// A machine of this layout boots, answers, reboots through its boot loader, and starts again after a pulled plug.
fn boots(test: &str, layout: Layout, options: Options) {
    if vm::skipped(test) {
        return;
    }
    let timer = Timer::start();
    let vm = Vm::start(layout.name(), layout, options).unwrap();
    timer.lap("a machine (with its golden disk, when it is the first of the week)");
    vm.wait_agent(BOOT_LIMIT).unwrap();
    timer.lap("first boot");
    assert_eq!(vm.sh("systemctl is-system-running --wait").unwrap(), "running\n");
    timer.lap("until systemd has started all");
    firmware(&vm, layout, options);
    assert_eq!(vm.sh("findmnt -no FSROOT /; findmnt -no FSROOT /home").unwrap(), "/@\n/@home\n");
    assert_eq!(vm.sh("findmnt -no FSTYPE /srv/backup").unwrap(), "ext4\n");
    assert_eq!(vm.run("exit 7").unwrap().code, 7);

    vm.sh("echo safe >/root/synced && sync -f /root/synced && echo lost >/root/unsynced").unwrap();
    vm.pull_plug().unwrap();
    vm.switch_on().unwrap();
    vm.wait_agent(BOOT_LIMIT).unwrap();
    assert_eq!(vm.sh("cat /root/synced").unwrap(), "safe\n");
    assert_eq!(vm.sh("cat /root/unsynced 2>/dev/null || true").unwrap(), "");

    timer.lap("plug pulled, boot");
    vm.reboot().unwrap();
    assert_eq!((vm.boots(), vm.resets()), (3, 1));
    if layout == Layout::SystemdBoot {
        let said = vm.sh(&format!("tr -d '\\000' <{LOADER_INFO}; bootctl status --no-pager")).unwrap();
        assert!(said.contains("systemd-boot"), "{said}");
        eprintln!("lab: {said}");
    } else {
        let log = vm.console_log();
        assert!(log.matches("GNU GRUB").count() + log.matches("Loading Linux").count() >= 3);
    }
    timer.lap("reboot");
    vm.power_off().unwrap();
    timer.lap("power off");
}

/// The firmware is the expected one, and Secure Boot is what it should be.
fn firmware(vm: &Vm, layout: Layout, options: Options) {
    let efi = vm.run("test -d /sys/firmware/efi").unwrap().code == 0;
    assert_eq!(efi, layout.is_uefi());
    if !efi {
        return;
    }
    assert_eq!(vm.sh("findmnt -no FSTYPE /boot/efi").unwrap(), "vfat\n");
    let last = vm
        .sh(&format!("mountpoint -q /sys/firmware/efi/efivars && tail -c 1 {SECURE_BOOT} | od -An -tu1"))
        .unwrap();
    assert_eq!(last.trim(), if options.secure_boot { "1" } else { "0" });
}

/// The upgrade as a person would type it: the lab's next release installs, boots, and is another kernel.
fn plain_upgrade(test: &str, layout: Layout) {
    if vm::skipped(test) {
        return;
    }
    let vm = Vm::start("plain", layout, Options::default()).unwrap();
    packages::publish(&vm.repo_directory(), Fault::None, Extent::Small).unwrap();
    vm.wait_agent(BOOT_LIMIT).unwrap();
    let timer = Timer::start();
    let proxy = format!("Acquire::http::Proxy \"{}\";\n", vm.proxy());
    vm.write("/etc/apt/apt.conf.d/01lab-proxy", 0o644, &proxy).unwrap();
    vm.write("/etc/apt/sources.list.d/lab.sources", 0o644, &repo::deb822("bookworm")).unwrap();
    vm.sh(&format!("apt-get -q update && apt-get -qy install {TURNCOAT}")).unwrap();
    timer.lap("the package that will turn, installed");
    vm.write("/etc/apt/sources.list.d/lab.sources", 0o644, &repo::deb822("trixie")).unwrap();
    let options = "-qy -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold";
    let job = vm
        .begin(&format!(
            "export DEBIAN_FRONTEND=noninteractive; apt-get -q update && apt-get {options} full-upgrade"
        ))
        .unwrap();
    let output = vm.end(job, UPGRADE_LIMIT).unwrap();
    assert_eq!(output.code, 0, "{output:?}");
    timer.lap("upgrade");
    eprintln!("lab: {}", vm.sh("ls -s /boot | grep initrd; dpkg --audit").unwrap());
    vm.reboot().unwrap();
    assert!(vm.sh("uname -r").unwrap().starts_with("6.12."));
    assert_eq!(vm.sh(". /etc/os-release; echo $VERSION_CODENAME").unwrap(), "trixie\n");
    assert_eq!(vm.sh("systemctl is-system-running --wait").unwrap(), "running\n");
    timer.lap("reboot into it");
}

/// `check --prove-boot` on a machine that obeys: one marked boot, one that dies, and nothing is left of it.
fn proves_its_boot_chain(test: &str, layout: Layout, options: Options) {
    if vm::skipped(test) {
        return;
    }
    let vm = Vm::start("prove-boot", layout, options).unwrap();
    vm.wait_agent(BOOT_LIMIT).unwrap();
    vm.sh(&format!("install -m 755 {BINARY} /usr/local/sbin/safe-upgrade && safe-upgrade init")).unwrap();
    // systemd-boot draws a new random seed at each boot.
    let places = match layout {
        Layout::SystemdBoot => "$(find /boot/efi -type f -not -name random-seed | sort)",
        _ => "/boot/grub/grub.cfg",
    };
    let (menu, before) = (vm.sh(&format!("sha256sum {places}")).unwrap(), vm.boots());
    vm.begin("safe-upgrade check --prove-boot --yes").unwrap();
    vm.wait_boot(before + 1, BOOT_LIMIT).unwrap();
    vm.wait_boot(before + 2, BOOT_LIMIT).unwrap();
    vm.sh("systemctl is-system-running --wait").unwrap();
    // That it was started is not that it has ended.
    vm.sh("systemctl start --wait safe-upgrade-resume.service").unwrap();
    let proof = vm.sh("cat /var/lib/safe-upgrade/boot-proof.json").unwrap();
    let proof: serde_json::Value = serde_json::from_str(&proof).unwrap();
    assert_eq!(proof["stage"]["stage"], "proven", "{proof:#}");
    assert!(
        proof["marked_seconds"].as_u64() > Some(5) && proof["return_seconds"].as_u64() > Some(5),
        "{proof:#}"
    );
    assert!(vm.console_log().contains("Kernel panic"), "no kernel has died");
    assert_eq!(vm.sh(&format!("sha256sum {places}")).unwrap(), menu);
    assert_eq!(
        vm.sh("find /boot -name '*safe-upgrade*'; grep -c safe_upgrade /proc/cmdline || true").unwrap(),
        "0\n"
    );
    let said = vm.run("safe-upgrade check").unwrap();
    assert!(said.stdout.contains("Guarantee level A") && said.stdout.contains("boot-proof"), "{said:?}");
    results::keep(Ended {
        layout: Scenario { options, ..Scenario::new(layout, Fault::None, End::Committed) }.machine(),
        scenario: "boot-proof".into(),
        end: "proven".into(),
        seconds: proof["return_seconds"].as_u64().map_or(0.0, |seconds| seconds as f64),
        packages: 0.0,
        resets: vm.resets(),
    })
    .unwrap();
}

/// A rehearsal on a machine that has what no container of the lab has: a kernel, initial RAM disks, a boot loader. The clone's packages
/// meet them without a disk, and nothing of the machine's own is touched.
fn rehearses(test: &str, layout: Layout) {
    if vm::skipped(test) {
        return;
    }
    let timer = Timer::start();
    let vm = Vm::start("rehearse", layout, Options::default()).unwrap();
    vm.wait_agent(BOOT_LIMIT).unwrap();
    let small = Scenario::new(layout, Fault::None, End::Committed);
    scenario::offer(&vm, &Scenario { extent: Extent::Full, ..small }).unwrap();
    let job = vm.begin("apt-get -qy install --no-install-recommends systemd-container iproute2").unwrap();
    assert_eq!(vm.end(job, UPGRADE_LIMIT).unwrap().code, 0);
    scenario::install(&vm, &small).unwrap();
    timer.lap("a machine that can rehearse");
    let loader = "find /boot /boot/efi -xdev -type f -not -name random-seed | sort | xargs sha256sum";
    let before = vm.sh(loader).unwrap();
    let job = vm.begin("safe-upgrade rehearse --to trixie --json").unwrap();
    let output = vm.end(job, UPGRADE_LIMIT).unwrap();
    timer.lap("rehearsal");
    let log = || vm.sh("tail -n 60 /var/lib/safe-upgrade/rehearsals/*/apt.log").unwrap_or_default();
    assert_eq!(output.code, 0, "{}\n{}\n{}", output.stdout, output.stderr, log());
    let told: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(told["rehearsal"]["outcome"], "passed", "{told:#}");
    assert_eq!(vm.sh(loader).unwrap(), before);
    assert_eq!(
        vm.sh(". /etc/os-release; echo $VERSION_CODENAME; ls -d /run/netns/* 2>/dev/null || true").unwrap(),
        "bookworm\n"
    );
}

/// Makes a test of each line: its name, its scenario.
macro_rules! machine_tests {
    ($($name:ident: $run:expr;)*) => {$(
        #[test]
        #[ignore = "boots a machine under emulation: make test-vm"]
        fn $name() {
            ($run)(stringify!($name));
        }
    )*};
}

machine_tests! {
    vm_bios_inside_boots: |test| boots(test, Layout::BiosInside, Options::default());
    vm_bios_ext4_boots: |test| boots(test, Layout::BiosExt4, Options::default());
    vm_uefi_boots: |test| boots(test, Layout::Uefi, Options::default());
    vm_uefi_secure_boot_boots: |test| boots(test, Layout::Uefi, SECURE);
    vm_uefi_sdboot_boots: |test| boots(test, Layout::SystemdBoot, Options::default());
    vm_uefi_sdboot_proves_its_boot_chain: |test| proves_its_boot_chain(test, Layout::SystemdBoot, Options::default());
    vm_bios_inside_proves_its_boot_chain: |test| proves_its_boot_chain(test, Layout::BiosInside, Options::default());
    vm_bios_ext4_proves_its_boot_chain: |test| proves_its_boot_chain(test, Layout::BiosExt4, Options::default());
    vm_uefi_proves_its_boot_chain: |test| proves_its_boot_chain(test, Layout::Uefi, Options::default());
    vm_uefi_secure_boot_proves_its_boot_chain: |test| proves_its_boot_chain(test, Layout::Uefi, SECURE);
    vm_uefi_check_names_what_is_wrong: |test| {
        if !vm::skipped(test) {
            vm::troubled::check_names_what_is_wrong().unwrap();
        }
    };
    vm_bios_ext4_rehearses: |test| rehearses(test, Layout::BiosExt4);
    vm_uefi_rehearses: |test| rehearses(test, Layout::Uefi);
    vm_uefi_sdboot_rehearses: |test| rehearses(test, Layout::SystemdBoot);
    vm_bios_inside_plain_upgrade: |test| plain_upgrade(test, Layout::BiosInside);
    vm_bios_ext4_plain_upgrade: |test| plain_upgrade(test, Layout::BiosExt4);
    vm_uefi_plain_upgrade: |test| plain_upgrade(test, Layout::Uefi);
}

const SECURE: Options = Options { secure_boot: true, watchdog: false, spare: false };

/// The dead network is noticed by nobody inside: only a confirmation that does not come turns the machine back.
const CONFIRM: &str = "\n[commit]\nrule = \"confirm\"\nconfirm = \"60s\"\n";

/// Plays a scenario that ends on the old system, unless nothing is wrong.
fn scenario(test: &str, layout: Layout, fault: Fault, plug: Plug) {
    if vm::skipped(test) {
        return;
    }
    let healthy = fault == Fault::None && plug == Plug::Stays;
    let end = if healthy { End::Committed } else { End::RolledBack };
    let config = if fault == Fault::NetworkGone { CONFIRM } else { "" };
    play(&Scenario { plug, config, ..Scenario::new(layout, fault, end) }).unwrap();
}

/// The same scenarios for each layout.
macro_rules! scenarios {
    ($layout:expr, $($name:ident: $fault:ident, $plug:ident;)*) => {
        machine_tests! { $($name: |test| scenario(test, $layout, Fault::$fault, Plug::$plug);)* }
    };
}

scenarios! { Layout::BiosInside,
    vm_bios_inside_healthy: None, Stays;
    vm_bios_inside_check_fails: CheckFails, Stays;
    vm_bios_inside_kernel_panics: Panics, Stays;
    vm_bios_inside_root_not_found: RootNotFound, Stays;
    vm_bios_inside_boot_hangs: Hangs, Stays;
    vm_bios_inside_emergency: Emergency, Stays;
    vm_bios_inside_network_gone: NetworkGone, Stays;
    vm_bios_inside_plug_while_upgrading: None, WhileUpgrading;
    vm_bios_inside_plug_in_trial: None, InTrial;
    vm_bios_inside_plug_while_rolling_back: CheckFails, WhileRollingBack;
}

scenarios! { Layout::BiosExt4,
    vm_bios_ext4_healthy: None, Stays;
    vm_bios_ext4_check_fails: CheckFails, Stays;
    vm_bios_ext4_kernel_panics: Panics, Stays;
    vm_bios_ext4_root_not_found: RootNotFound, Stays;
    vm_bios_ext4_boot_hangs: Hangs, Stays;
    vm_bios_ext4_emergency: Emergency, Stays;
    vm_bios_ext4_network_gone: NetworkGone, Stays;
    vm_bios_ext4_plug_while_upgrading: None, WhileUpgrading;
    vm_bios_ext4_plug_in_trial: None, InTrial;
    vm_bios_ext4_plug_while_rolling_back: CheckFails, WhileRollingBack;
}

scenarios! { Layout::Uefi,
    vm_uefi_healthy: None, Stays;
    vm_uefi_check_fails: CheckFails, Stays;
    vm_uefi_kernel_panics: Panics, Stays;
    vm_uefi_root_not_found: RootNotFound, Stays;
    vm_uefi_boot_hangs: Hangs, Stays;
    vm_uefi_emergency: Emergency, Stays;
    vm_uefi_network_gone: NetworkGone, Stays;
    vm_uefi_plug_while_upgrading: None, WhileUpgrading;
    vm_uefi_plug_in_trial: None, InTrial;
    vm_uefi_plug_while_rolling_back: CheckFails, WhileRollingBack;
}

scenarios! { Layout::SystemdBoot,
    vm_uefi_sdboot_healthy: None, Stays;
    vm_uefi_sdboot_check_fails: CheckFails, Stays;
    vm_uefi_sdboot_kernel_panics: Panics, Stays;
    vm_uefi_sdboot_root_not_found: RootNotFound, Stays;
    vm_uefi_sdboot_boot_hangs: Hangs, Stays;
    vm_uefi_sdboot_emergency: Emergency, Stays;
    vm_uefi_sdboot_network_gone: NetworkGone, Stays;
    vm_uefi_sdboot_plug_while_upgrading: None, WhileUpgrading;
    vm_uefi_sdboot_plug_in_trial: None, InTrial;
    vm_uefi_sdboot_plug_while_rolling_back: CheckFails, WhileRollingBack;
}

/// The firmware starts nothing but what the distribution has signed: shim, GRUB, both kernels.
fn secure_boot(test: &str, fault: Fault, end: End) {
    if !vm::skipped(test) {
        play(&Scenario { options: SECURE, ..Scenario::new(Layout::Uefi, fault, end) }).unwrap();
    }
}

/// systemd itself stops. Its watchdog resets the machine a minute later, long before the dead man would.
fn watchdog(test: &str, layout: Layout) {
    if vm::skipped(test) {
        return;
    }
    let options = Options { watchdog: true, ..Options::default() };
    let scenario = Scenario { options, ..Scenario::new(layout, Fault::Freezes, End::RolledBack) };
    let vm = play(&scenario).unwrap();
    assert!(vm.console_log().contains("lab: freezing"), "nothing froze");
    assert_eq!(vm.watchdogs(), 1);
}

/// Both endings on one machine: committed, with the boot code of the new release; then an operator wants the old one back.
fn back_after_commit(test: &str, layout: Layout, extent: Extent) {
    if !vm::skipped(test) {
        play_and_go_back(&Scenario { extent, ..Scenario::new(layout, Fault::None, End::Committed) }).unwrap();
    }
}

/// A whole release upgrade, with a new GRUB in it.
fn whole_release(test: &str, layout: Layout, fault: Fault, end: End) {
    if !vm::skipped(test) {
        play(&Scenario { extent: Extent::Full, ..Scenario::new(layout, fault, end) }).unwrap();
    }
}

machine_tests! {
    vm_bios_inside_back_after_commit: |test| back_after_commit(test, Layout::BiosInside, Extent::Small);
    vm_bios_ext4_back_after_commit: |test| back_after_commit(test, Layout::BiosExt4, Extent::Small);
    vm_uefi_back_after_commit: |test| back_after_commit(test, Layout::Uefi, Extent::Small);
    vm_uefi_sdboot_back_after_commit: |test| back_after_commit(test, Layout::SystemdBoot, Extent::Small);
    vm_bios_inside_whole_release_and_back: |test| back_after_commit(test, Layout::BiosInside, Extent::Full);
    vm_bios_inside_whole_release: |test| whole_release(test, Layout::BiosInside, Fault::None, End::Committed);
    vm_bios_inside_whole_release_check_fails:
        |test| whole_release(test, Layout::BiosInside, Fault::CheckFails, End::RolledBack);
    vm_uefi_watchdog: |test| watchdog(test, Layout::Uefi);
    vm_uefi_secure_boot_healthy: |test| secure_boot(test, Fault::None, End::Committed);
    vm_uefi_secure_boot_kernel_panics: |test| secure_boot(test, Fault::Panics, End::RolledBack);
}

/// Writes the table of docs/guarantees.md from what the tests above have kept: the last step of `make test-vm`.
#[test]
#[ignore = "changes docs/guarantees.md: make test-vm"]
fn write_the_table() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guarantees.md");
    if !results::write_table(&document).unwrap() {
        eprintln!("skipped: write_the_table: no scenario has been played yet");
    }
}
