//! Troubles that are really there: programs of Debian's that a new release breaks, and what people and accidents do to a server.
//!
//! `check` names each of them, from the real thing and not from a tree that was made to look like one.

use super::knows::{checked, program_that_needs};
use super::lab::found::{Expected, assert_named, words};
use super::lab::product::SERVER;
use super::lab::{Machine, Timer, mirror::LOCAL_HOST, repo};
use super::{lab, repo::Package};

/// Programs of bookworm that trixie has in another version, which matters for each.
const PACKAGES: &str = "rabbitmq-server dovecot-core slapd redis-server haproxy apache2 bind9 postfix openssh-server \
    cryptsetup-bin cryptsetup python3 ruby dkms";

/// Its postinst fails when it is installed by hand, as people do it: no repository has it.
const BROKEN: Package =
    Package { name: "lab-broken", version: "1", depends: "", postinst: "echo no, thank you; exit 1" };

/// Its postinst does not end, so that dpkg holds its locks for as long as the test wants.
const ENDLESS: Package =
    Package { name: "lab-endless", version: "1", depends: "", postinst: "exec sleep infinity" };

/// What a stranger has for both releases.
const FOR_BOTH: Package = Package { name: "lab-agent", version: "1", depends: "", postinst: "exit 0" };

/// A library that nobody has.
const NOBODYS_LIBRARY: &str = "libnobody.so.7";

/// What people do to a server in the course of the years.
const YEARS: &str = r#"set -e
useradd --create-home --shell /bin/bash ann
echo 'EDITOR DEFAULT=vi' >/home/ann/.pam_environment
mkdir -m 700 /home/ann/.ssh
ssh-keygen -q -t dsa -N '' -f /home/ann/.ssh/id_dsa
cat /home/ann/.ssh/id_dsa.pub >/home/ann/.ssh/authorized_keys
printf 'Host old-switch\n  HostKeyAlgorithms +ssh-dss\n' >/home/ann/.ssh/config
chown -R ann: /home/ann
login() { ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
    -o PubkeyAcceptedAlgorithms=+ssh-dss -i /home/ann/.ssh/id_dsa ann@127.0.0.1 true; }
! login
echo 'PubkeyAcceptedAlgorithms +ssh-dss' >/etc/ssh/sshd_config.d/old.conf
systemctl restart ssh
login
mkdir -p /root/.ssh
mkfifo /root/.ssh/authorized_keys2
echo 'vm.swappiness = 10' >>/etc/sysctl.conf
chattr +i /etc/hosts /usr/bin/nstat
dpkg-divert --local --rename --add /usr/bin/ss >/dev/null
printf '#!/bin/sh\nexec /usr/bin/ss.distrib -n "$@"\n' >/usr/bin/ss
chmod 755 /usr/bin/ss
printf 'Package: haproxy\nPin: release n=bookworm\nPin-Priority: 1001\n' >/etc/apt/preferences.d/haproxy
python3 -m venv --without-pip /opt/report/venv
mkdir -p /usr/local/lib/python3.11/dist-packages
echo 'answer = 42' >/usr/local/lib/python3.11/dist-packages/ours.py
truncate -s 32M /srv/secret.img
printf secret | cryptsetup -q luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /srv/secret.img -
cryptsetup isLuks /srv/secret.img
printf '%s /srv/secret.img /etc/keys/secret luks,nofail%s\n' secret '' by-hand ,noauto >>/etc/crypttab
mkdir -p /usr/src/lab-module-1.0
echo 'int nothing;' >/usr/src/lab-module-1.0/lab-module.c
printf 'PACKAGE_NAME=lab-module\nPACKAGE_VERSION=1.0\nBUILT_MODULE_NAME[0]=lab-module\nDEST_MODULE_LOCATION[0]=/extra\n' \
    >/usr/src/lab-module-1.0/dkms.conf
dkms add lab-module/1.0
echo 'APT::Install-Recommends "false";' >/etc/apt/apt.conf.d/90lean
touch /var/lib/mysql/debian-99.9.flag
"#;

/// What happens to the mounts of a server, and to a library that PID 1 runs from.
const ACCIDENTS: &str = r#"set -e
for point in /boot /opt; do mount --bind $point $point && mount -o remount,bind,ro $point; done
mountpoint -q /tmp || mount -t tmpfs tmpfs /tmp
mount -o remount,noexec /tmp
apt-get -qy install --reinstall libsystemd-shared
grep -q 'libsystemd-shared.*(deleted)' /proc/1/maps
"#;

/// Moves `/var` to a filesystem that is too small for an upgrade, has no inodes left, and runs no scripts.
const SMALL_VAR: &str = r#"set -e
apt-get clean
mkdir -p /mnt/var
files=$(find /var -xdev | wc -l)
mount -t tmpfs -o noexec,size=$(($(du -smx /var | cut -f1) + 300))m,nr_inodes=$((files + 4000)) tmpfs /mnt/var
cp -a --one-file-system /var/. /mnt/var
mount --bind /var/lib/safe-upgrade /mnt/var/lib/safe-upgrade
mount --rbind /mnt/var /var
"#;

#[test]
#[ignore = "some minutes: make test-long"]
fn long_check_names_real_troubles() {
    if lab::skipped("long_check_names_real_troubles") {
        return;
    }
    let timer = Timer::start();
    let machine = troubled();
    timer.lap("a machine with its troubles");
    let (_, report) = checked(&machine);
    timer.lap("check");
    assert_named(&report, &EXPECTED);
    let read_only = words(&report, "mounted-read-only");
    assert!(!read_only.contains("/opt"), "no package has files there: {read_only}");

    machine.sh(SMALL_VAR).unwrap();
    let (_, report) = checked(&machine);
    timer.lap("check with a small /var");
    assert_named(&report, &EXPECTED_OF_VAR);
}

/// A bookworm with all of it. Its last package is being installed, for ever.
fn troubled() -> Machine {
    let machine = Machine::new("troubled").unwrap();
    machine.boot().unwrap();
    machine.install_product(SERVER).unwrap();
    let strangers = machine.repo_directory().join("thirdparty");
    for suite in ["bookworm", "trixie", "stable"] {
        repo::publish_foreign(&strangers, suite, "Example Corp", &[FOR_BOTH]).unwrap();
    }
    let source = |suite: &str| format!("deb [trusted=yes] http://{LOCAL_HOST}/thirdparty {suite} main\n");
    let sources = source("bookworm") + &source("stable");
    machine.write("/etc/apt/sources.list.d/example.list", 0o644, sources.as_bytes()).unwrap();
    let install = "apt-get -qy install --no-install-recommends";
    machine
        .sh(&format!(
            "export DEBIAN_FRONTEND=noninteractive; apt-get -q update && {install} {PACKAGES} lab-agent"
        ))
        .unwrap();
    machine.sh(YEARS).unwrap();
    let program = program_that_needs(NOBODYS_LIBRARY);
    machine.copy_in(&program.path().join("report"), "/opt/report/bin/report", 0o755).unwrap();
    machine.sh(ACCIDENTS).unwrap();
    by_hand(&machine);
    machine
}

/// Two packages by `dpkg -i`: one is left half configured, the other keeps dpkg at work.
fn by_hand(machine: &Machine) {
    let own = machine.repo_directory().join("by-hand");
    repo::publish(&own, "bookworm", &[BROKEN, ENDLESS]).unwrap();
    for Package { name, version, .. } in [BROKEN, ENDLESS] {
        let file = format!("{name}_{version}_all.deb");
        machine.copy_in(&own.join("pool/bookworm").join(&file), &format!("/root/{file}"), 0o644).unwrap();
    }
    assert!(!machine.run(&["dpkg", "-i", "/root/lab-broken_1_all.deb"]).unwrap().status.success());
    let old = machine.length("/var/log/dpkg.log").unwrap();
    let _endless = machine.start(&["dpkg", "-i", "/root/lab-endless_1_all.deb"]).unwrap();
    machine
        .wait_for_text("/var/log/dpkg.log", old, "status half-configured lab-endless", super::PATIENCE)
        .unwrap();
}

const EXPECTED: [Expected; 35] = [
    ("inhibitor", "rabbitmq-no-direct-upgrade", &["3.10", "4."]),
    ("inhibitor", "packages-unfinished", &["lab-broken"]),
    ("inhibitor", "dpkg-audit", &["half configured", "lab-broken"]),
    ("inhibitor", "immutable-files", &["/usr/bin/nstat"]),
    ("inhibitor", "cryptsetup-package-missing", &["/etc/crypttab: secret", "/etc/crypttab: by-hand"]),
    ("inhibitor", "mariadb-newer-on-disk", &["debian-99.9.flag"]),
    ("inhibitor", "mounted-read-only", &["/boot"]),
    ("inhibitor", "sshd-will-not-start", &["/etc/ssh/sshd_config.d/old.conf"]),
    ("warning", "dovecot-configuration", &["2.3", "2.4"]),
    ("warning", "openldap-major", &["2.5", "2.6"]),
    ("warning", "sysctl-conf", &["vm.swappiness = 10"]),
    ("warning", "pam-environment", &["/home/ann/.pam_environment"]),
    ("warning", "ssh-will-not-connect", &["/home/ann/.ssh/config"]),
    ("warning", "ssh-dsa-keys", &["/home/ann/.ssh/authorized_keys: 1 DSA"]),
    ("warning", "python-environments", &["/opt/report/venv", "3.11"]),
    ("warning", "python-local-modules", &["/usr/local/lib/python3.11/dist-packages"]),
    ("warning", "package-tool-running", &["lock-frontend is held by dpkg", "dpkg -i /root/lab-endless"]),
    ("warning", "dkms-modules", &["lab-module 1.0", "headers"]),
    ("warning", "reboot-pending", &["libsystemd-shared"]),
    ("warning", "packages-local", &["lab-broken"]),
    ("warning", "apt-pins", &["/etc/apt/preferences.d/haproxy", "haproxy"]),
    ("warning", "library-missing-now", &["/opt/report/bin/report", NOBODYS_LIBRARY]),
    ("note", "immutable-own-files", &["/etc/hosts"]),
    ("note", "local-diversions", &["/usr/bin/ss is diverted to /usr/bin/ss.distrib"]),
    ("note", "home-files-not-seen", &["/root/.ssh/authorized_keys2"]),
    ("note", "tmp-noexec", &["/tmp"]),
    ("note", "redis-one-way", &["redis-server"]),
    ("note", "haproxy-major", &["2.6", "3.0"]),
    ("note", "nginx-major", &["nginx"]),
    ("note", "bind9-major", &["bind9"]),
    ("note", "postfix-major", &["postfix"]),
    ("note", "openssh-major", &["openssh-server"]),
    ("note", "ruby-major", &["ruby"]),
    ("note", "repository-has-target", &["thirdparty"]),
    ("note", "repository-same-suite", &["thirdparty"]),
];

const EXPECTED_OF_VAR: [Expected; 3] = [
    ("inhibitor", "space", &["/var"]),
    ("inhibitor", "inodes", &["/var"]),
    ("inhibitor", "scripts-noexec", &["/var"]),
];
