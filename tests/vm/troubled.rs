//! Troubles that no container can have: what the firmware starts, GRUB, the kernel and its command line, encrypted disks, network
//! cards, the clock, memory. `check` names each of them on a machine that has really booted with it.

use std::time::Duration;

use serde_json::Value;

use super::agent::Output;
use super::machine::BOOT_LIMIT;
use super::packages::{Extent, Fault};
use super::scenario::{self, End, Scenario};
use super::{Layout, Options, Vm};
use crate::lab::found::{Expected, not_named, pairs};
use crate::lab::{Result, Timer};

/// Packages are installed under emulation.
const LIMIT: Duration = Duration::from_secs(1800);

/// What the troubles are made of, from bookworm.
const PACKAGES: &str = "cryptsetup ifupdown systemd-timesyncd efibootmgr";

/// What a new machine is told of all the same: it has two cards, and most of it is in no repository that it asks.
const NEW: [&str; 2] = ["interface-names-by-kernel", "packages-local"];

/// All of it is there after the next boot only. The packages of the boot loader go, and GRUB's own trigger writes one that the
/// firmware denies; the signed one in the place for removable disks still starts.
const YEARS: &str = r#"set -e
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
apt-get -qy --allow-remove-essential remove grub-efi-amd64 grub-efi-amd64-signed shim-signed
printf 'GRUB_DEFAULT=saved\nGRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX systemd.unified_cgroup_hierarchy=0"\n' \
    >/etc/default/grub.d/90-years.cfg
update-grub

mkdir -m 700 /etc/keys
head -c 64 /dev/urandom >/etc/keys/secret
truncate -s 32M /srv/secret.img
cryptsetup -q luksFormat --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /srv/secret.img /etc/keys/secret
echo 'secret /srv/secret.img /etc/keys/secret luks,nofail' >>/etc/crypttab

printf 'auto eth7\niface eth7 inet manual\n' >/etc/network/interfaces.d/old-card
# Nobody answers there.
mkdir -p /etc/systemd/timesyncd.conf.d
printf '[Time]\nNTP=192.0.2.1\nFallbackNTP=\n' >/etc/systemd/timesyncd.conf.d/lab.conf
sed -i 's,/boot/efi vfat ,/boot/efi vfat ro\,,' /etc/fstab
sync
"#;

/// A second disk, which the firmware starts too; and a large file, because bookworm empties `/tmp` at each boot.
const SECOND_DISK: &str = r#"set -e
fallocate -l 500M /tmp/dump
mkdir -p /mnt/second
mount /dev/vdc1 /mnt/second
cp -r /boot/efi/EFI /mnt/second/
umount /mnt/second
efibootmgr -q --create --disk /dev/vdc --part 1 --label second --loader '\EFI\debian\shimx64.efi'
"#;

/// What happens to a machine that runs.
const ACCIDENTS: &str = r#"set -e
timedatectl set-ntp false
mv "/usr/lib/modules/$(uname -r)" /usr/lib/modules/6.1.0-0-lab-amd64
mount -o remount,rw /boot/efi
available=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo)
mount -o remount,size=100% /dev/shm
head -c "$((available / 1024 - 250))M" /dev/zero >/dev/shm/cache
"#;

/// After a battery has died.
const CLOCK: &str = r#"set -e
rm /dev/shm/cache
umount /boot/efi
date -s '2025-12-01 12:00'
"#;

/// Boots a machine with Secure Boot, a second disk and a second network card into its troubles.
///
/// # Errors
/// When the machine does not do what it should.
pub fn check_names_what_is_wrong() -> Result<()> {
    let timer = Timer::start();
    let options = Options { secure_boot: true, spare: true, ..Options::default() };
    let vm = Vm::start("troubled", Layout::Uefi, options)?;
    vm.wait_agent(BOOT_LIMIT)?;
    let small = Scenario::new(Layout::Uefi, Fault::None, End::Committed);
    scenario::install(&vm, &small)?;
    vm.sh("systemctl is-system-running --wait")?;
    timer.lap("a new machine");
    let report = checked(&vm)?;
    timer.lap("check of a new machine");
    let mut wrong = not_named(&report, &EXPECTED_NEW);
    let found = pairs(&report);
    let loud: Vec<_> =
        found.iter().filter(|(severity, id)| severity != "note" && !NEW.contains(&id.as_str())).collect();
    assert!(loud.is_empty(), "{loud:?}\n{report:#}");

    scenario::offer(&vm, &Scenario { extent: Extent::Full, ..small })?;
    long(&vm, &format!("apt-get -qy install {PACKAGES}"))?;
    long(&vm, YEARS)?;
    timer.lap("years");
    let next = vm.boots() + 1;
    vm.begin("systemctl reboot")?;
    vm.wait_boot(next, 3 * BOOT_LIMIT)?;
    // It may be degraded: a card is not there.
    vm.run("systemctl is-system-running --wait")?;
    // `nofail`: nothing of the boot waits for it.
    vm.sh("systemctl start systemd-cryptsetup@secret && udevadm settle && test -b /dev/mapper/secret")?;
    vm.sh("ip link show eth1 && mountpoint /sys/fs/cgroup/systemd")?;
    vm.sh(SECOND_DISK)?;
    scenario::offer(&vm, &small)?;
    timer.lap("boot");
    let report = checked(&vm)?;
    timer.lap("check after the years");
    wrong.extend(not_named(&report, &EXPECTED_AFTER_YEARS));

    long(&vm, ACCIDENTS)?;
    let report = checked(&vm)?;
    wrong.extend(not_named(&report, &EXPECTED_AFTER_ACCIDENTS));
    vm.sh(CLOCK)?;
    let report = checked(&vm)?;
    timer.lap("two checks");
    wrong.extend(not_named(&report, &EXPECTED_OF_CLOCK));
    // All of it is told at once: the machine takes half an hour to be asked again.
    assert!(wrong.is_empty(), "not named:\n{}", wrong.join("\n"));
    Ok(())
}

fn long(vm: &Vm, script: &str) -> Result<Output> {
    let job = vm.begin(script)?;
    let output = vm.end(job, LIMIT)?;
    assert_eq!(output.code, 0, "{script}: {}{}", output.stdout, output.stderr);
    Ok(output)
}

/// What `check` says; its exit code fits that.
fn checked(vm: &Vm) -> Result<Value> {
    let job = vm.begin("safe-upgrade check --to trixie --json")?;
    let output = vm.end(job, LIMIT)?;
    let report: Value = serde_json::from_str(&output.stdout)
        .map_err(|error| std::io::Error::other(format!("{error}: {}", output.stderr)))?;
    assert_eq!(output.code, if report["refused"] == true { 3 } else { 0 }, "{report:#}");
    Ok(report)
}

const EXPECTED_NEW: [Expected; 2] =
    [("note", "grub-removable-path", &["EFI/BOOT"]), ("note", "clock-not-kept", &["NTP=no"])];

const EXPECTED_AFTER_YEARS: [Expected; 11] = [
    ("inhibitor", "cgroup-v1", &["systemd.unified_cgroup_hierarchy=0"]),
    ("inhibitor", "esp-read-only", &["/boot/efi"]),
    ("inhibitor", "cryptsetup-package-missing", &["/etc/crypttab: secret"]),
    ("warning", "esp-second", &["(second)", "partition /dev/vdc1"]),
    ("warning", "grub-metapackage-missing", &["grub-efi-amd64"]),
    ("warning", "secure-boot-unsigned", &["shim-signed"]),
    ("warning", "grub-default-entry", &["90-years.cfg", "saved"]),
    ("warning", "interface-not-there", &["/etc/network/interfaces.d/old-card: eth7"]),
    ("warning", "interface-names-by-kernel", &["eth0", "eth1", "net.ifnames=0"]),
    ("warning", "clock-not-synchronised", &["NTPSynchronized=no"]),
    ("note", "tmp-becomes-tmpfs", &["/tmp holds at least 500 MiB"]),
];

const EXPECTED_AFTER_ACCIDENTS: [Expected; 3] = [
    ("warning", "memory-low", &["MiB available"]),
    ("warning", "reboot-pending", &["has no modules"]),
    ("note", "clock-not-kept", &["NTP=no"]),
];

const EXPECTED_OF_CLOCK: [Expected; 2] =
    [("inhibitor", "clock-wrong", &["2025-12-01"]), ("inhibitor", "esp-not-mounted", &["/boot/efi"])];
