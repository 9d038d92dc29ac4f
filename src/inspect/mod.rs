//! The machine itself, before an upgrade: what would make it fail, or would not be as before afterwards.
//!
//! One file for each theme, with `facts` (reads, below any root) and `findings` (judges, touches nothing). Packages that are half
//! installed, the room on the root and in `/boot`, snapshots and checks are looked at elsewhere.

mod boot_options;
mod cgroups;
mod clock;
mod crypt;
mod databases;
mod dkms;
mod esp;
mod grub;
mod immutable;
mod interfaces;
mod memory;
mod mounts;
mod package_tools;
mod reading;
mod reboot;
mod room;
mod settings;
mod ssh;
mod support;
mod tmp;
mod usr;

use std::path::Path;

use jiff::civil::Date;

use crate::boot::layout::BootLayout;
use crate::finding::Finding;
use crate::health::packages::{self, Packages};
use crate::release::hop::Hop;
use crate::system::identity;

pub use reading::InspectError;

/// What is known about the upgrade that the machine is looked at for.
#[derive(Clone, Copy)]
pub struct Circumstances<'c> {
    /// Where it goes; `None` when no hop is possible from here.
    pub hop: Option<&'c Hop>,
    /// How the machine boots; `None` leaves out what depends on it.
    pub boot: Option<&'c BootLayout>,
    /// The day, in UTC.
    pub today: Date,
    /// Whether a package will be installed after the upgrade; `None` when nothing was predicted.
    pub will_be_installed: Option<&'c dyn Fn(&str) -> bool>,
    /// Bytes by which installed packages will grow; `None` when nothing was predicted.
    pub growth: Option<u64>,
}

impl std::fmt::Debug for Circumstances<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Circumstances")
            .field("hop", &self.hop)
            .field("today", &self.today)
            .field("growth", &self.growth)
            .finish_non_exhaustive()
    }
}

impl Circumstances<'_> {
    /// Whether the upgrade reaches this release.
    fn reaches(&self, codename: &str) -> bool {
        self.hop.is_some_and(|hop| hop.to().codename == codename)
    }

    /// A container has no kernel, no boot loader, no clock and no network card of its own. Unknown counts as none.
    fn container(&self) -> bool {
        self.boot.is_some_and(|boot| boot.container)
    }
}

/// Looks at the machine below `root` (`/` on a live one). Changes nothing. A part that cannot be found out is a finding that says so.
#[must_use]
pub fn look(root: &Path, about: &Circumstances<'_>) -> Vec<Finding> {
    let mut found = Findings::default();
    found.part(
        "which release this is and whether there is a way on",
        support::facts(root).map(|facts| support::findings(&facts, about)),
    );
    match packages::read(root) {
        Ok(installed) => of_packages(root, about, &installed, &mut found),
        Err(error) => found.part("which packages are installed", Err(error.into())),
    }
    of_system(root, about, &mut found);
    of_storage(root, about, &mut found);
    found.0
}

/// What depends on installed packages.
fn of_packages(root: &Path, about: &Circumstances<'_>, installed: &Packages, found: &mut Findings) {
    found.part(
        "whether the boot loader is kept up to date",
        grub::facts(root, installed).map(|facts| grub::findings(&facts, about)),
    );
    found.part(
        "which kernel modules are built here",
        dkms::facts(root, installed).map(|facts| dkms::findings(&facts, about.will_be_installed)),
    );
    found.part(
        "whether encrypted disks will be opened",
        crypt::facts(root).map(|facts| crypt::findings(&facts, about)),
    );
    // Both have an OpenSSH of 10.0 or later.
    if about.reaches("trixie") || about.reaches("resolute") {
        found.part(
            "the state of the ssh server",
            ssh::facts(root, installed).map(|facts| ssh::findings(&facts)),
        );
    }
    found.part(
        "how the accounts of MySQL log in",
        Ok(databases::findings(&databases::facts(root, installed))),
    );
}

fn of_system(root: &Path, about: &Circumstances<'_>, found: &mut Findings) {
    let id = identity::os_release(root).map(|release| release.id).unwrap_or_default();
    found.part(
        "whether a reboot is pending",
        reboot::facts(root, about.container()).map(|facts| reboot::findings(&facts, &id)),
    );
    found.part("whether /usr is merged", usr::facts(root).map(|facts| usr::findings(&facts)));
    found.part(
        "which control groups are used",
        cgroups::facts(root).map(|facts| cgroups::findings(&facts, about)),
    );
    // Source: trixie's release notes, 5.1; Ubuntu's resolute has procps as Debian packages it since.
    if about.reaches("trixie") || about.reaches("resolute") {
        found.part(
            "which settings stop to apply",
            settings::facts(root, about.reaches("trixie")).map(|facts| settings::findings(&facts)),
        );
    }
    if !about.container() {
        found.part(
            "whether network interfaces keep their names",
            interfaces::facts(root).map(|facts| interfaces::findings(&facts, about.reaches("trixie"))),
        );
        found.part("whether the clock is right", clock::facts(root).map(|facts| clock::findings(&facts)));
    }
    found.part(
        "whether package tools are running",
        package_tools::facts(root).map(|facts| package_tools::findings(&facts)),
    );
    found.part("how much memory there is", memory::facts(root).map(|facts| memory::findings(&facts)));
}

fn of_storage(root: &Path, about: &Circumstances<'_>, found: &mut Findings) {
    found.part(
        "how filesystems are mounted",
        mounts::facts(root).map(|facts| mounts::findings(&facts, &facts_id(root))),
    );
    found.part(
        "how much room there is on other filesystems than the root",
        room::facts(root).map(|facts| room::findings(&facts, about.growth)),
    );
    if let Some(boot) = about.boot.filter(|boot| !boot.container) {
        found.part(
            "whether the EFI system partition is mounted",
            esp::facts(root, boot).map(|facts| esp::findings(&facts)),
        );
    }
    if about.reaches("trixie") && !about.container() {
        found.part("what lies in /tmp", tmp::facts(root).map(|facts| tmp::findings(&facts)));
    }
    found.part(
        "which files cannot be replaced",
        immutable::facts(root).map(|facts| immutable::findings(&facts)),
    );
}

fn facts_id(root: &Path) -> String {
    identity::os_release(root).map(|release| release.id).unwrap_or_default()
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn part(&mut self, what: &str, result: Result<Vec<Finding>, InspectError>) {
        match result {
            Ok(findings) => self.0.extend(findings),
            Err(error) => self.0.push(Finding::unknown(what, with_causes(&error))),
        }
    }
}

fn with_causes(error: &InspectError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod made_up {
    use super::{BootLayout, Circumstances, Date, Hop};
    use crate::boot::layout::{BootPlace, Firmware, Grub, Initramfs, Kexec, Loader};

    /// A machine that GRUB starts.
    pub(super) fn boot(firmware: Firmware) -> BootLayout {
        BootLayout {
            container: false,
            firmware,
            loader: Loader::Grub(Grub {
                version: Some("2.06-13".into()),
                core: Vec::new(),
                directory: "/boot/grub".into(),
                menu: true,
                menu_place: Err("made up".into()),
            }),
            boot: BootPlace::Inside,
            esp: None,
            initramfs: Some(Initramfs::InitramfsTools),
            kexec: Kexec::Possible,
            watchdog: false,
            kernel: "6.1.0-40-amd64".into(),
            command_line: String::new(),
        }
    }

    /// A day in late 2026, and no upgrade in sight.
    pub(super) fn about(boot: Option<&BootLayout>) -> Circumstances<'_> {
        Circumstances {
            hop: None,
            boot,
            today: Date::constant(2026, 11, 27),
            will_be_installed: None,
            growth: None,
        }
    }

    /// The same on the way to trixie.
    pub(super) fn about_trixie<T>(with: impl FnOnce(Circumstances<'_>) -> T) -> T {
        let hop = Hop::between("bookworm", "trixie").unwrap();
        with(Circumstances { hop: Some(&hop), ..about(None) })
    }
}

#[cfg(test)]
mod tests {
    use super::reading::made_up::{ids, tree};
    use super::*;
    use crate::finding::COULD_NOT_FIND_OUT;

    const STATUS: &str = "Package: dpkg\nStatus: install ok installed\nVersion: 1.21.22\nArchitecture: amd64\n\
        Maintainer: x <x@mirror.invalid>\nDescription: x\n\n\
        Package: grub-pc\nStatus: install ok installed\nVersion: 2.06-13+deb12u1\nArchitecture: amd64\n\
        Maintainer: x <x@mirror.invalid>\nDescription: x\n";

    fn plain() -> tempfile::TempDir {
        let dir = tree(&[
            ("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n"),
            ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
            ("etc/sysctl.conf", "# nothing\n"),
            ("etc/crypttab", "# <target name>\t<source device>\t<key file>\t<options>\n"),
            ("etc/network/interfaces", "auto lo\nallow-hotplug ens3\niface ens3 inet dhcp\n"),
            ("sys/class/net/ens3/device/vendor", ""),
            ("proc/1/comm", "systemd\n"),
            ("proc/meminfo", "MemTotal: 2000000 kB\nMemAvailable: 1500000 kB\nSwapFree: 0 kB\n"),
            ("proc/sys/kernel/osrelease", "6.1.0-40-amd64\n"),
            ("usr/lib/modules/6.1.0-40-amd64/modules.dep", ""),
            ("var/lib/dpkg/status", STATUS),
            ("var/lib/dpkg/diversions", ""),
            ("tmp/x", ""),
            (
                "proc/self/mountinfo",
                "1 0 8:1 / / rw - ext4 /dev/vda1 rw\n2 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            ),
        ]);
        std::os::unix::fs::symlink("usr/lib", dir.path().join("lib")).unwrap();
        dir
    }

    #[test]
    fn a_plain_server_has_nothing_to_say_but_its_age() {
        let dir = plain();
        let boot = made_up::boot(crate::boot::layout::Firmware::Bios);
        let found =
            made_up::about_trixie(|about| look(dir.path(), &Circumstances { boot: Some(&boot), ..about }));
        assert_eq!(ids(&found), ["note support-by-lts"], "{found:?}");
    }

    #[test]
    fn what_cannot_be_found_out_is_said() {
        let dir = plain();
        std::fs::remove_file(dir.path().join("var/lib/dpkg/status")).unwrap();
        std::fs::create_dir(dir.path().join("var/lib/dpkg/status")).unwrap();
        std::fs::remove_file(dir.path().join("etc/crypttab")).unwrap();
        std::fs::remove_file(dir.path().join("proc/meminfo")).unwrap();
        std::fs::create_dir(dir.path().join("proc/meminfo")).unwrap();
        let found = made_up::about_trixie(|about| look(dir.path(), &about));
        let unknown: Vec<&str> = found
            .iter()
            .filter(|finding| finding.id == COULD_NOT_FIND_OUT)
            .map(|finding| finding.what.as_str())
            .collect();
        assert_eq!(unknown.len(), 3, "{unknown:?}");
        assert!(
            unknown[0].contains("packages") && unknown[1].contains("proc/meminfo: Is a directory"),
            "{unknown:?}"
        );
    }
}
