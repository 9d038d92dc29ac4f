//! The VM lab: real machines under QEMU that boot through a real boot loader, die, and are started again.
//!
//! | file | what it is |
//! |---|---|
//! | `base` | the system that all images share, by mmdebstrap |
//! | `image` | one golden disk for each layout: partitions, file systems, boot loader |
//! | `packages` | the next release as the machines see it: a kernel, os-release, and a package that breaks what a test wants |
//! | `wire` | lines that come from a machine, and waiting for them |
//! | `qemu` | one start of QEMU, from power on to power off |
//! | `agent` | commands inside |
//! | `machine` | the machine: boots, records, console, the plug |
//! | `scenario` | what a test does to a machine with the product, and how it must end |
//! | `troubled` | a machine with everything wrong that `check` should name |
//! | `results` | what is kept of each scenario, and the table for docs/guarantees.md |
//!
//! What it models and what it does not: `docs/testing.md`.
#![allow(dead_code, reason = "a test takes what it needs of the lab")]
#![allow(clippy::print_stderr, reason = "whoever waits for a machine is told what the lab does")]
#![allow(unreachable_pub, reason = "the lab is a module of a test crate, a library of none")]

pub mod agent;
pub mod base;
pub mod image;
pub mod machine;
pub mod packages;
pub mod qemu;
pub mod results;
pub mod scenario;
pub mod troubled;
pub mod wire;

use std::path::Path;

pub use machine::{Options, Vm};
use safe_upgrade::system::exec::find_tool;

use crate::lab;

/// How a machine boots and where it keeps what it boots from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layout {
    /// BIOS, GRUB in the `bios_grub` partition, `/boot` inside the btrfs subvolume `@`.
    BiosInside,
    /// BIOS, GRUB in the `bios_grub` partition, `/boot` on an ext4 partition.
    BiosExt4,
    /// UEFI, signed shim and GRUB on the ESP, `/boot` inside the btrfs subvolume `@`.
    Uefi,
    /// UEFI, systemd-boot on the ESP with the kernels that kernel-install has put there, `/boot` inside the btrfs subvolume `@`.
    SystemdBoot,
}

impl Layout {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::BiosInside, Self::BiosExt4, Self::Uefi, Self::SystemdBoot];

    /// The name in file names and in the results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BiosInside => "bios-inside",
            Self::BiosExt4 => "bios-ext4",
            Self::Uefi => "uefi",
            Self::SystemdBoot => "uefi-systemd-boot",
        }
    }

    /// Whether UEFI starts it.
    pub const fn is_uefi(self) -> bool {
        matches!(self, Self::Uefi | Self::SystemdBoot)
    }

    /// What it is, for the published table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::BiosInside => "BIOS, `/boot` inside btrfs",
            Self::BiosExt4 => "BIOS, ext4 `/boot`",
            Self::Uefi => "UEFI, ESP, `/boot` inside btrfs",
            Self::SystemdBoot => "UEFI, systemd-boot",
        }
    }
}

/// The programs that the VM lab drives besides the lab's own, each with its Debian package.
const TOOLS: [(&str, &str); 8] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("sgdisk", "gdisk"),
    ("partx", "util-linux"),
    ("mkfs.vfat", "dosfstools"),
    ("mcopy", "mtools"),
    ("mkfs.ext4", "e2fsprogs"),
    ("chroot", "coreutils"),
];

/// The firmware of UEFI machines, from the package ovmf.
pub const FIRMWARE: &str = "/usr/share/OVMF";

/// Says on stderr why a test is skipped and returns true, or returns false when it can run.
pub fn skipped(test: &str) -> bool {
    if lab::skipped(test) {
        return true;
    }
    let mut missing: Vec<&str> =
        TOOLS.iter().filter(|(tool, _)| find_tool(tool).is_err()).map(|(_, package)| *package).collect();
    if !Path::new(FIRMWARE).join("OVMF_CODE_4M.fd").is_file() {
        missing.push("ovmf");
    }
    if missing.is_empty() {
        return false;
    }
    eprintln!("skipped: {test}: packages are missing: {}", missing.join(" "));
    true
}
