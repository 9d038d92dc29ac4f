//! What would stop Ubuntu's upgrader, or be answered with yes where a person should have been asked. The upgrader's unattended view agrees to
//! everything, so its questions are asked here, before anything begins.
//!
//! [`facts`] collects and changes nothing; [`judge`] is pure.

pub mod facts;
pub mod meta_release;
pub mod sources;

use facts::{Asked, Esp, Facts};

use crate::finding::Finding;
use crate::release::hop::Hop;
use crate::release::simulation::Change;

/// Judges what was found for a hop of Ubuntu. A plain healthy server has no inhibitor and no warning here.
#[must_use]
pub fn judge(facts: &Facts, hop: &Hop) -> Vec<Finding> {
    let mut findings = Vec::new();
    offered(facts, hop, &mut findings);
    up_to_date(facts, &mut findings);
    places(facts, &mut findings);
    sources_of(facts, &mut findings);
    quirks(facts, hop, &mut findings);
    companions(facts, &mut findings);
    findings
}

/// Whether the target is to be had at all.
fn offered(facts: &Facts, hop: &Hop, findings: &mut Vec<Finding>) {
    match facts.prompt.as_deref() {
        Some("never") => findings.push(Finding::inhibitor(
            "ubuntu-prompt-never",
            "Prompt=never in /etc/update-manager/release-upgrades: somebody decided that this machine is not upgraded.",
            "set Prompt=lts there, if that decision is over",
        )),
        Some("normal") => findings.push(Finding::note(
            "ubuntu-prompt-normal",
            format!(
                "Prompt=normal would lead to the next interim release; for the time of the run it is set to lts, which leads to {}.",
                hop.to()
            ),
            "nothing, if you can live with it",
        )),
        _ => {}
    }
    match &facts.offer {
        Asked::Answer(stanzas) => findings.extend(meta_release::judge(stanzas, hop)),
        Asked::Unknown(why) => findings.push(Finding::inhibitor(
            "ubuntu-meta-release-unreachable",
            format!(
                "the list of Ubuntu's releases could not be fetched: {why}. The upgrader would say that there is no new release."
            ),
            "look at the network, the proxy, and the URI in /etc/update-manager/meta-release",
        )),
        Asked::NotAsked => {}
    }
}

/// The upgrader refuses to start on a machine that is not.
fn up_to_date(facts: &Facts, findings: &mut Vec<Finding>) {
    if facts.lists_age.is_none_or(|age| age > facts::FRESH) {
        let age = facts.lists_age.map_or_else(
            || "nothing says when they were fetched".to_owned(),
            |age| format!("{} days ago", age.as_secs() / 86_400),
        );
        findings.push(
            Finding::inhibitor(
                "ubuntu-lists-old",
                "apt's lists of packages are old, so nobody knows which updates of this release are missing. The run installs such updates \
                 first; when the kernel or the C library is among them, the upgrader then refuses to start before a reboot.",
                "apt-get update, then check again",
            )
            .with_evidence([age]),
        );
    }
    if !facts.reboot_packages.is_empty() {
        findings.push(
            Finding::inhibitor(
                "ubuntu-reboot-pending",
                "a reboot is pending for the kernel or the C library, and the upgrader refuses to start before it.",
                "reboot, then check again",
            )
            .with_evidence(&facts.reboot_packages),
        );
    }
    let reboots: Vec<&String> =
        facts.pending.iter().filter(|name| wants_reboot(name.split(':').next().unwrap_or(name))).collect();
    if !reboots.is_empty() {
        findings.push(
            Finding::inhibitor(
                "ubuntu-updates-want-reboot",
                "the kernel or the C library has an update of this release. The run installs such updates first, and the upgrader then \
                 refuses to start before a reboot: the run would end there.",
                "apt-get update && apt-get upgrade --with-new-pkgs, then reboot",
            )
            .with_evidence(reboots),
        );
    }
    if !facts.kept_back.is_empty() {
        findings.push(
            Finding::inhibitor(
                "ubuntu-updates-kept-back",
                "updates of this release need something to be removed, or something that is not there. The run does not install such \
                 updates by itself, and the upgrader refuses to start while there is one.",
                "apt-get full-upgrade, after reading what it would remove; apt-get -s install PACKAGE says what is missing",
            )
            .with_evidence(&facts.kept_back),
        );
    }
    if !facts.held_with_updates.is_empty() {
        findings.push(
            Finding::inhibitor(
                "ubuntu-held-with-updates",
                "held packages have updates of this release, and the upgrader refuses to start while one has.",
                format!(
                    "apt-mark unhold {0} && apt-get install {0}; hold them again if you must",
                    facts.held_with_updates.join(" ")
                ),
            )
            .with_evidence(&facts.held_with_updates),
        );
    }
}

/// Whether an update of it asks for a reboot for which the upgrader waits ([`super::prepare::blocking_packages`]): kernels, the
/// packages that bring the newest one, and the C library. Others of the kernel's names (`linux-libc-dev`, `linux-firmware`,
/// `linux-tools-*`, `linux-headers-*`) do not.
fn wants_reboot(package: &str) -> bool {
    const FLAVOURS: [&str; 15] = [
        "generic",
        "virtual",
        "server",
        "lowlatency",
        "kvm",
        "aws",
        "azure",
        "gcp",
        "gke",
        "ibm",
        "oracle",
        "raspi",
        "nvidia",
        "oem",
        "realtime",
    ];
    if package == "libc6" || package == "linux-base" || package.starts_with("linux-image-") {
        return true;
    }
    let parts = ["headers", "tools", "modules"];
    package.strip_prefix("linux-").is_some_and(|rest| {
        let mut words = rest.split('-');
        words.next().is_some_and(|first| FLAVOURS.contains(&first))
            && !words.any(|word| parts.contains(&word))
    })
}

/// Directories that the upgrader needs in a certain way.
fn places(facts: &Facts, findings: &mut Vec<Finding>) {
    if facts.tmp_noexec {
        findings.push(Finding::inhibitor(
            "ubuntu-tmp-noexec",
            "/tmp is mounted noexec, and the upgrader is started from there: it would end with exit code 0 and do nothing.",
            "mount -o remount,exec /tmp, or TMPDIR in the unit's environment",
        ));
    }
    match facts.esp {
        Esp::NotMounted => findings.push(Finding::inhibitor(
            "ubuntu-esp-not-mounted",
            "this machine boots by UEFI with GRUB, and no EFI system partition is mounted at /boot/efi: the upgrader gives up.",
            "mount it, and add it to /etc/fstab",
        )),
        Esp::ReadOnly => findings.push(Finding::inhibitor(
            "ubuntu-esp-read-only",
            "the EFI system partition at /boot/efi is mounted read-only: the upgrader gives up.",
            "mount -o remount,rw /boot/efi; if that fails, fsck.vfat on its device",
        )),
        Esp::NotNeeded | Esp::Writable => {}
    }
}

/// Where packages come from.
fn sources_of(facts: &Facts, findings: &mut Vec<Finding>) {
    let known = facts.sources.iter().any(|source| source.known && source.of_release);
    if !known {
        findings.push(
            Finding::inhibitor(
                "ubuntu-no-known-mirror",
                "no apt source of this release is at a mirror that the upgrader knows. It would write sources of its own and go on, \
                 or crash while it does.",
                "use a mirror of the list in python-apt-common, or one of Ubuntu's own hosts",
            )
            .with_evidence(facts.sources.iter().map(|source| source.line())),
        );
    }
    let third: Vec<_> = facts.sources.iter().filter(|source| !source.known).collect();
    if known && !third.is_empty() {
        findings.push(
            Finding::warning(
                "ubuntu-third-party-disabled",
                "sources that are not Ubuntu's are switched off by the upgrader, and what came from them stays at its version.",
                "see whether each has packages for the new release, and switch it on again after the commit",
            )
            .with_evidence(third.iter().map(|source| source.line())),
        );
    }
}

/// What the new release's upgrader refuses, and what it only finds out half-way.
fn quirks(facts: &Facts, hop: &Hop, findings: &mut Vec<Finding>) {
    if !facts.merged_usr {
        findings.push(Finding::inhibitor(
            "ubuntu-usr-not-merged",
            "/bin, /sbin or /lib is a directory and no link into /usr: the upgrader refuses.",
            "apt-get install usrmerge",
        ));
    }
    let resolute = hop.to().codename == "resolute";
    if resolute && !facts.cgroup2 {
        findings.push(Finding::inhibitor(
            "ubuntu-no-cgroup2",
            "/sys/fs/cgroup is not a cgroup2 filesystem, and 26.04's systemd runs on nothing else: the upgrader refuses.",
            "remove systemd.unified_cgroup_hierarchy=0 from the kernel's command line, update-grub, reboot",
        ));
    }
    if hop.to().codename == "noble" && facts.rabbitmq {
        findings.push(Finding::inhibitor(
            "ubuntu-rabbitmq",
            "rabbitmq-server is installed, and the upgrader to 24.04 refuses: its versions cannot be jumped over.",
            "upgrade RabbitMQ by its own means first, or move it to another machine",
        ));
    }
    if resolute {
        let what = "whether RabbitMQ's feature flags are enabled";
        asked(&facts.rabbitmq_flags, (what, "systemctl start rabbitmq-server"), findings, |flags| {
            Finding::inhibitor(
                "ubuntu-rabbitmq-feature-flags",
                "feature flags of RabbitMQ are not enabled, and the version of 26.04 does not start without them.",
                "rabbitmqctl enable_feature_flag all",
            )
            .with_evidence(flags)
        });
        asked(
            &facts.native_accounts,
            (
                "whether MySQL accounts use mysql_native_password",
                "put root's credentials into /root/.my.cnf (mode 0600), and see that mysql answers root",
            ),
            findings,
            |accounts| {
                Finding::inhibitor(
                "ubuntu-mysql-native-password",
                "MySQL accounts log in by mysql_native_password, which MySQL 8.4 of 26.04 has switched off: the upgrader refuses, \
                 and nobody could log in with them.",
                "ALTER USER ... IDENTIFIED WITH caching_sha2_password BY '...', and see that the clients know it",
            )
            .with_evidence(accounts)
            },
        );
    }
}

/// "Could not find out" (what, and how it can be mended) is a finding; an empty answer is none.
fn asked(
    answer: &Asked<Vec<String>>,
    (what, remedy): (&str, &str),
    findings: &mut Vec<Finding>,
    found: impl FnOnce(&Vec<String>) -> Finding,
) {
    match answer {
        Asked::Unknown(why) => {
            findings.push(Finding { remedy: remedy.into(), ..Finding::unknown(what, why) })
        }
        Asked::Answer(list) if !list.is_empty() => findings.push(found(list)),
        Asked::Answer(_) | Asked::NotAsked => {}
    }
}

/// Questions that would be answered with yes, and what is good to know.
fn companions(facts: &Facts, findings: &mut Vec<Finding>) {
    if !facts.ros.is_empty() {
        findings.push(
            Finding::inhibitor(
                "ubuntu-ros",
                "the Robot Operating System is installed, and each of its releases fits one release of Ubuntu only. The upgrader asks, \
                 and its unattended view says yes.",
                "remove it, or waive this when the release that you have fits the new Ubuntu",
            )
            .with_evidence(&facts.ros),
        );
    }
    if let Asked::Answer(false) | Asked::Unknown(_) = &facts.snap_store {
        let lxd = facts.lxd_package;
        let what = "the snap store cannot be reached. The upgrader asks whether to go on without it, and its unattended view says yes";
        findings.push(if lxd {
            Finding::inhibitor(
                "ubuntu-snap-store-unreachable",
                format!("{what}; with the package lxd installed, which becomes a snap, it gives up."),
                "snap debug connectivity names the hosts",
            )
        } else {
            Finding::warning(
                "ubuntu-snap-store-unreachable",
                format!("{what}."),
                "snap debug connectivity names the hosts",
            )
        });
    }
    if let Some(pockets) = &facts.pro_pockets {
        findings.push(
            Finding::note(
                "ubuntu-pro-overrides",
                "Ubuntu Pro replaces the list of pockets and adds a script for the time after the upgrade; the run starts that script.",
                "nothing, if you can live with it",
            )
            .with_evidence([pockets]),
        );
    }
    if facts.needrestart {
        findings.push(Finding::note(
            "ubuntu-needrestart",
            "needrestart is suspended while packages change: services run with their old libraries until the reboot of the trial.",
            "nothing: the run reboots",
        ));
    }
    if !facts.upgrader_installed {
        findings.push(Finding::note(
            "ubuntu-upgrader-missing",
            format!("do-release-upgrade is not installed; the run installs {}.", super::prepare::PACKAGE),
            "nothing, or install it now",
        ));
    }
}

/// Packages that the upgrader never removes: it gives up when the new release would make it. Source: `removal_denylist.cfg` of 22.04.21,
/// 24.04.29 and 26.04.27.
#[must_use]
pub fn denied_removals(removed: &[Change]) -> Vec<Finding> {
    let denied = |name: &str| {
        let name = name.split(':').next().unwrap_or(name);
        matches!(
            name,
            "ubuntu-standard"
                | "ubuntu-minimal"
                | "ubuntu-release-upgrader-core"
                | "screen"
                | "openssh-server"
                | "cryptsetup-initramfs"
        ) || name.ends_with("-desktop")
            || name.starts_with("update-manager")
            || (name.starts_with("postgresql-")
                && name.contains(|character: char| character.is_ascii_digit()))
    };
    let names: Vec<&str> =
        removed.iter().map(|change| change.package.as_str()).filter(|name| denied(name)).collect();
    if names.is_empty() {
        return Vec::new();
    }
    vec![
        Finding::inhibitor(
            "ubuntu-removal-denied",
            "the new release would remove packages that the upgrader never removes: it would give up.",
            "find out with apt-get -s what they conflict with; a package from elsewhere is the usual cause",
        )
        .with_evidence(names),
    ]
}

#[cfg(test)]
#[path = "findings_tests.rs"]
mod tests;
