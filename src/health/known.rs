//! What may change between two looks at a healthy machine, and why. Pure tables; docs/health.md shows them.

use std::collections::BTreeMap;

use super::units::Unit;

/// Kinds of unit that say nothing about a service: hardware, grouping, login sessions, points of order.
const UNKEPT_SUFFIXES: [&str; 4] = [".device", ".slice", ".scope", ".target"];

/// Units that exist because somebody is logged in, a device is there or a client asked; their absence is no loss.
const COME_AND_GO: &[&str] = &[
    "user@*.service",
    "user-runtime-dir@*.service",
    "getty@*.service",
    "serial-getty@*.service",
    "console-getty.service",
    "container-getty@*.service",
    "autovt@*.service",
    "run-*",
    "dbus-:*.service",
    "ssh@*.service",
    "sshd@*.service",
    "ifup@*.service",
    "modprobe@*.service",
    "lvm2-pvscan@*.service",
    "snap-*.mount",
    "dev-*.swap",
    "dev-*.mount",
    "proc-*",
    "sys-*",
    "tmp.mount",
    "var-lib-docker-*",
    "var-lib-containers-*",
    "var-lib-kubelet-*",
    // Our own: they belong to the run, not to the machine.
    "safe-upgrade*",
    // Started on request over D-Bus, ended when idle.
    "packagekit.service",
    "fwupd.service",
    "polkit.service",
    "emergency.service",
    "rescue.service",
];

/// systemd's own units vary from version to version; of them only these do something that a server is missed for.
const SYSTEMD_SERVES: &[&str] = &[
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "systemd-journald.service",
    "systemd-journal-remote.*",
    "systemd-journal-upload.service",
    "systemd-journal-gatewayd.*",
    "systemd-udevd.service",
    "systemd-logind.service",
    "systemd-nspawn@*.service",
    "systemd-cryptsetup@*.service",
    "systemd-homed.service",
    "systemd-oomd.service",
];

/// Why a unit may be missing without anything being wrong.
const MAY_GO: &[(&str, &str)] = &[
    ("apt-daily*", "it is held off while a release upgrade is under way"),
    ("unattended-upgrades.service", "it is held off while a release upgrade is under way"),
    ("kmod-static-nodes.service", "it belongs to early boot"),
    ("keyboard-setup.service", "it only sets up the console"),
    ("console-setup.service", "it only sets up the console"),
    ("setvtrgb.service", "it only sets up the console"),
    ("plymouth-*", "it only paints the boot"),
    ("initrd-*", "it belongs to early boot"),
    ("dracut-*", "it belongs to early boot"),
    ("ldconfig.service", "it belongs to early boot"),
    ("finalrd.service", "it belongs to shutdown"),
    ("blk-availability.service", "it belongs to shutdown"),
    ("ifupdown-pre.service", "it belongs to early boot"),
    ("ifupdown-wait-online.service", "it belongs to early boot"),
    ("apt-news.service", "it only fetches news"),
    ("esm-cache.service", "it only fetches news"),
    ("motd-news.*", "it only fetches news"),
];

/// Services that carry on under another name in the next release, `#` standing for a version number.
const RENAMED: &[(&str, &str)] = &[
    // One package per PHP version; the newer one takes over when it is installed.
    ("php#-fpm.service", "php#-fpm.service"),
    // bookworm's ntp is an empty package that brings ntpsec.
    ("ntp.service", "ntpsec.service"),
    // Renamed by cloud-init 24.3, which trixie has.
    ("cloud-init.service", "cloud-init-network.service"),
];

/// Filesystems of the kernel, and of things that come and go.
const UNKEPT_FILESYSTEMS: &[&str] = &[
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "cgroup",
    "cgroup2",
    "securityfs",
    "debugfs",
    "tracefs",
    "configfs",
    "pstore",
    "efivarfs",
    "bpf",
    "mqueue",
    "hugetlbfs",
    "binfmt_misc",
    "fusectl",
    "nsfs",
    "ramfs",
    "rpc_pipefs",
    "fuse.lxcfs",
    "fuse.gvfsd-fuse",
    "fuse.portal",
];

/// Places whose mounts come and go.
const UNKEPT_PLACES: &[&str] = &[
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",
    "/var/tmp",
    "/media",
    "/snap",
    "/var/snap",
    "/var/lib/docker",
    "/var/lib/containers",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/lib/lxcfs",
    "/var/lib/snapd",
];

/// Places whose sockets come and go, or are systemd's own.
const UNKEPT_SOCKETS: &[&str] =
    &["/run/user/", "/run/systemd/", "/tmp/", "/var/tmp/", "/run/udev/", "/proc/"];

/// Ports on which a client of the network configuration waits for its server: DHCP and DHCPv6.
pub const CLIENT_PORTS: [u16; 2] = [68, 546];

/// Whether a unit is part of a baseline at all.
#[must_use]
pub fn is_kept(name: &str) -> bool {
    !UNKEPT_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// Whether a mount is part of a baseline: the root always, and what is neither the kernel's nor short-lived.
#[must_use]
pub fn is_kept_mount(point: &str, fs_type: &str) -> bool {
    let below = |place: &&str| {
        point.strip_prefix(*place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    point == "/" || !(UNKEPT_FILESYSTEMS.contains(&fs_type) || UNKEPT_PLACES.iter().any(below))
}

/// Whether a UNIX socket is part of a baseline.
#[must_use]
pub fn is_kept_socket(path: &str) -> bool {
    !UNKEPT_SOCKETS.iter().any(|place| path.starts_with(place))
}

/// Whether a unit's absence says nothing.
#[must_use]
pub fn comes_and_goes(unit: &Unit) -> bool {
    unit.transient || is_short_lived(&unit.name)
}

/// [`comes_and_goes`] by name alone.
#[must_use]
pub fn is_short_lived(name: &str) -> bool {
    COME_AND_GO.iter().any(|pattern| matches(pattern, name))
}

/// Why a unit may be missing, if there is a reason.
#[must_use]
pub fn why_it_may_go(name: &str) -> Option<&'static str> {
    if name.starts_with("systemd-") && !SYSTEMD_SERVES.iter().any(|pattern| matches(pattern, name)) {
        return Some("it is an inner part of systemd, which differs between releases");
    }
    MAY_GO.iter().find(|(pattern, _)| matches(pattern, name)).map(|(_, why)| *why)
}

/// Whether `after` is the successor of `before`, by the operator's table or by the built-in one.
#[must_use]
pub fn is_successor(before: &str, after: &str, renames: &BTreeMap<String, String>) -> bool {
    if before == after {
        return false;
    }
    let named = renames.iter().any(|(old, new)| with_suffix(old) == before && with_suffix(new) == after);
    named || RENAMED.iter().any(|(old, new)| is_newer(version(old, before), version(new, after)))
}

/// The built-in renames, for the documentation and `--help`: old and new name, `#` standing for a version.
pub fn built_in_renames() -> impl Iterator<Item = (&'static str, &'static str)> {
    RENAMED.iter().copied()
}

/// A name without a suffix means a service, as systemctl has it.
fn with_suffix(name: &str) -> String {
    const SUFFIXES: [&str; 7] = [".service", ".socket", ".timer", ".path", ".mount", ".swap", ".automount"];
    if SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
        name.to_owned()
    } else {
        format!("{name}.service")
    }
}

/// Both names fit, and where they carry versions the second is the higher one.
fn is_newer(before: Option<Vec<u32>>, after: Option<Vec<u32>>) -> bool {
    match (before, after) {
        (Some(before), Some(after)) => before.is_empty() || after > before,
        _ => false,
    }
}

/// The version that stands at the `#` of a pattern; empty for a pattern without one; none when the name does not fit.
fn version(pattern: &str, name: &str) -> Option<Vec<u32>> {
    let Some((head, tail)) = pattern.split_once('#') else { return (pattern == name).then(Vec::new) };
    let digits = name.strip_prefix(head)?.strip_suffix(tail)?;
    digits.split('.').map(|part| part.parse().ok()).collect()
}

/// Whether a name fits a pattern in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => {
            name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_newer_php_succeeds() {
        let none = BTreeMap::new();
        assert!(is_successor("php8.2-fpm.service", "php8.4-fpm.service", &none));
        assert!(is_successor("php8.2-fpm.service", "php8.10-fpm.service", &none));
        assert!(!is_successor("php8.4-fpm.service", "php8.2-fpm.service", &none));
        assert!(!is_successor("php8.2-fpm.service", "php8.2-fpm.service", &none));
        assert!(!is_successor("php8.2-fpm.service", "phpx-fpm.service", &none));
        assert!(!is_successor("nginx.service", "apache2.service", &none));
    }

    #[test]
    fn the_operator_may_name_more() {
        let renames = BTreeMap::from([("shop-v1".to_owned(), "shop-v2".to_owned())]);
        assert!(is_successor("shop-v1.service", "shop-v2.service", &renames));
        assert!(!is_successor("shop-v1.timer", "shop-v2.timer", &renames));
        assert!(is_successor("ntp.service", "ntpsec.service", &renames));
    }

    #[test]
    fn the_documentation_shows_the_tables() {
        let page = include_str!("../../docs/health.md");
        let renamed = RENAMED.iter().flat_map(|(old, new)| [*old, *new]);
        let listed = COME_AND_GO.iter().chain(SYSTEMD_SERVES).chain(UNKEPT_PLACES).copied();
        for word in listed.chain(MAY_GO.iter().map(|(unit, _)| *unit)).chain(renamed) {
            assert!(page.contains(&format!("`{word}`")), "docs/health.md does not name {word}");
        }
    }

    #[test]
    fn patterns_and_places() {
        assert!(is_short_lived("user@0.service") && !is_short_lived("user.service"));
        assert!(why_it_may_go("systemd-sysusers.service").is_some());
        assert!(why_it_may_go("systemd-networkd.service").is_none());
        assert!(why_it_may_go("nginx.service").is_none());
        assert!(is_kept_mount("/", "overlay") && is_kept_mount("/srv", "nfs4"));
        assert!(is_kept_mount("/runner", "ext4") && !is_kept_mount("/run/lock", "tmpfs"));
        assert!(!is_kept_mount("/srv/x", "nsfs"));
        assert!(!is_kept("dev-vda.device") && is_kept("nginx.service"));
        assert!(is_kept_socket("/run/php/php8.2-fpm.sock") && !is_kept_socket("/run/systemd/notify"));
    }
}
