//! The next release as the machines see it: a kernel, os-release, and a package that breaks what a test wants broken.
//!
//! The kernel and `base-files` are trixie's own, and whatever they cannot do without on a bookworm; apt decides.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use safe_upgrade::system::exec::Exec;

use super::base::{self, KERNEL, PREFIX};
use crate::lab::place::lab_directory;
use crate::lab::repo::{self, Package};
use crate::lab::sources::Sources;
use crate::lab::{Result, told, tool};

/// The release that machines go to.
pub const NEXT: &str = "trixie";

/// The package that every machine has, and whose next version turns on it.
pub const TURNCOAT: &str = "lab-turncoat";

/// How much of the next release there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// A kernel and `base-files`, from the lab's own repository: two minutes under emulation.
    Small,
    /// All of trixie, from the machine's own mirror: half an hour and more.
    Full,
}

/// What is wrong with the next release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nothing.
    None,
    /// The page that the web server's check wants is gone.
    CheckFails,
    /// The first program of the new system ends at once: the kernel panics.
    Panics,
    /// The new initramfs looks for a root that is not there.
    RootNotFound,
    /// The new initramfs never goes on.
    Hangs,
    /// A line of fstab cannot be mounted: emergency.target.
    Emergency,
    /// All local checks are well, but the network is gone.
    NetworkGone,
    /// systemd stops in the middle of its boot, and with it whatever it should end in time; the hardware's watchdog starves.
    Freezes,
}

impl Fault {
    /// The name in the results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "healthy",
            Self::CheckFails => "check-fails",
            Self::Panics => "kernel-panics",
            Self::RootNotFound => "root-not-found",
            Self::Hangs => "boot-hangs",
            Self::Emergency => "emergency",
            Self::NetworkGone => "network-gone",
            Self::Freezes => "PID-1-freezes-with-a-watchdog",
        }
    }

    /// What the next version of the package does to the machine. `$new` is the version of the new kernel.
    const fn script(self) -> &'static str {
        match self {
            Self::None => "",
            Self::CheckFails => "rm /srv/www/index.html",
            Self::Panics => {
                "mkdir -p /etc/default/grub.d
echo 'GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX init=/bin/false\"' >/etc/default/grub.d/lab.cfg
if [ -e /etc/kernel/cmdline ]; then sed -i 's,$, init=/bin/false,' /etc/kernel/cmdline; fi"
            }
            Self::RootNotFound => {
                "in_initramfs 'echo ROOT=/dev/nope >>/conf/param.conf'
update-initramfs -u -k \"$new\""
            }
            Self::Hangs => {
                "in_initramfs 'echo lab: hanging; while :; do sleep 60; done'
update-initramfs -u -k \"$new\""
            }
            Self::Emergency => {
                "mkdir -p /srv/nowhere
echo 'UUID=5afe0000-0000-0000-0000-000000000000 /srv/nowhere ext4 defaults,x-systemd.device-timeout=5s 0 2' >>/etc/fstab"
            }
            Self::NetworkGone => "sed -i s/10.0.2.15/192.0.2.15/ /etc/systemd/network/lab.network",
            Self::Freezes => {
                "cat >/etc/systemd/system/lab-freeze.service <<'UNIT'
[Unit]
DefaultDependencies=no
[Service]
ExecStart=/bin/sh -c 'until grep -q ^active /sys/class/watchdog/watchdog0/state; do sleep 1; done; \\
    echo lab: freezing >/dev/console; echo 1 >/sys/fs/cgroup/init.scope/cgroup.freeze'
UNIT
mkdir -p /etc/systemd/system/sysinit.target.wants
ln -s ../lab-freeze.service /etc/systemd/system/sysinit.target.wants/"
            }
        }
    }
}

/// As an update of the boot loader would: it writes the boot code and the menu.
const BOOT_LOADER: &str = r#"
if [ -x /usr/bin/bootctl ]; then
    bootctl update --graceful
    kernel-install add "$new" "/boot/vmlinuz-$new"
    exit 0
fi
if [ -d /sys/firmware/efi ]; then grub-install --target=x86_64-efi; else grub-install /dev/vda; fi
update-grub
"#;

const PROLOGUE: &str = r#"set -e
[ "$1" = configure ] || exit 0
new=$(ls -v /boot/vmlinuz-* | tail -n 1); new=${new#/boot/vmlinuz-}
in_initramfs() {
    script=/etc/initramfs-tools/scripts/init-premount/lab
    mkdir -p "${script%/*}"
    printf '#!/bin/sh\n[ "$1" = prereqs ] && exit 0\n%s\n' "$1" >"$script"
    chmod 755 "$script"
}
"#;

/// Fills a machine's repository: bookworm as it is, and a trixie with this fault.
pub fn publish(repository: &Path, fault: Fault, extent: Extent) -> Result<()> {
    let good = Package { name: TURNCOAT, version: "1", depends: "", postinst: "exit 0" };
    let postinst = format!("{PROLOGUE}{}{BOOT_LOADER}", fault.script());
    let after = format!("{KERNEL} (>= 6.12)");
    let turned = Package { name: TURNCOAT, version: "2", depends: &after, postinst: &postinst };
    repo::publish(repository, base::RELEASE, &[good])?;
    let archives = if extent == Extent::Small { archives()? } else { Vec::new() };
    repo::publish_with(repository, NEXT, &[turned], &archives)
}

/// The apt entries of a machine before its upgrade, one-line style.
pub fn entries(extent: Extent) -> Result<String> {
    let mut lines = vec![repo::one_line(base::RELEASE).trim_end().to_owned()];
    if extent == Extent::Full {
        lines.extend(Sources::of_this_machine()?.one_line(base::RELEASE));
    }
    Ok(lines.join("\n") + "\n")
}

/// Trixie's kernel and os-release: fetched on the first call in a week. The lab's lock is held.
fn archives() -> Result<Vec<PathBuf>> {
    let lab = lab_directory();
    let kept = lab.join(format!("{PREFIX}packages-{}", base::key(NEXT)?));
    if !kept.exists() {
        base::forget(&lab, "packages-")?;
        let part = tempfile::tempdir_in(&lab)?;
        fetch(part.path())?;
        fs::rename(part.path().join("cache/archives"), &kept)?;
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&kept)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Lets an apt of its own choose what a machine as the base system needs, by that system's own list of packages.
fn fetch(work: &Path) -> Result<()> {
    let started = Instant::now();
    for directory in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(work.join(directory))?;
    }
    let tarball = base::tarball()?;
    let status = tool("tar", &["-xOf", &tarball.to_string_lossy(), "./var/lib/dpkg/status"])?;
    fs::write(work.join("status"), status)?;
    let sources = Sources::of_this_machine()?;
    let lines = sources.one_line(NEXT).join("\n");
    let signed = format!("deb [signed-by={}] ", sources.keyring);
    fs::write(work.join("sources.list"), lines.replace("deb ", &signed) + "\n")?;
    let at = |name: &str| work.join(name).display().to_string();
    let configuration = format!(
        "Dir::State \"{}\";\nDir::State::status \"{}\";\nDir::Cache \"{}\";\nDir::Etc::sourcelist \"{}\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\nAPT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\n\
         APT::Sandbox::User \"root\";\nDebug::NoLocking \"true\";\n",
        at("state"),
        at("status"),
        at("cache"),
        at("sources.list"),
    );
    fs::write(work.join("apt.conf"), configuration)?;
    let (_mirror, proxy) = base::mirror()?;
    let install = ["-qy", "--download-only", "install", "base-files", KERNEL];
    for words in [&["-q", "update"][..], &install] {
        let exec = Exec::new("apt-get").map_err(told)?.args(words);
        let exec = exec.env("APT_CONFIG", at("apt.conf")).env("http_proxy", &proxy);
        exec.success().map_err(told)?;
    }
    eprintln!("lab: packages of {NEXT} in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}
