//! What the clone must not do, decided from what is there. Pure.

/// Units that act on their own, on a schedule or on somebody's order, whatever brought them: cron and its kin, and our own.
const SILENCED: [&str; 15] = [
    "cron.service",
    "cronie.service",
    "crond.service",
    "anacron.service",
    "anacron.timer",
    "atd.service",
    "systemd-cron.target",
    "cron.target",
    "fcron.service",
    "unattended-upgrades.service",
    "snapd.service",
    "snapd.socket",
    // They would wait, in each boot, for a network that never comes.
    "ifupdown-wait-online.service",
    "NetworkManager-wait-online.service",
    "systemd-networkd-wait-online.service",
];

/// Users that linger have services and timers of their own. A template that is masked has no instances.
const USERS: &str = "user@.service";

/// Directories in which mail waits to be sent. The clone's copies of it are deleted in the clone.
pub const MAIL_QUEUES: [&str; 10] = [
    "var/spool/postfix/active",
    "var/spool/postfix/deferred",
    "var/spool/postfix/incoming",
    "var/spool/postfix/maildrop",
    "var/spool/postfix/hold",
    "var/spool/exim4/input",
    "var/spool/exim4/msglog",
    "var/spool/mqueue",
    "var/spool/mqueue-client",
    "var/spool/nullmailer/queue",
];

/// What a line that is switched off begins with.
const MARK: &str = "# not in the rehearsal: ";

/// The units that are masked for a boot of the clone, given the names of all unit files that it has: everything with a schedule, every
/// mount and swap that a file of the administrator defines, and whatever is of this program.
#[must_use]
pub fn masked<'n>(
    system: impl Iterator<Item = &'n str>,
    of_administrator: impl Iterator<Item = &'n str>,
) -> Vec<String> {
    let ours = |name: &str| name.starts_with("safe-upgrade") || name.starts_with("var-lib-safe\\x2dupgrade");
    let timer = |name: &str| name.ends_with(".timer") && !name.starts_with("systemd-tmpfiles");
    let mount = |name: &str| [".mount", ".automount", ".swap"].iter().any(|kind| name.ends_with(kind));
    let mut names: Vec<String> = system
        .filter(|name| timer(name) || ours(name) || SILENCED.contains(name))
        .map(str::to_owned)
        .chain(of_administrator.filter(|name| mount(name) || timer(name) || ours(name)).map(str::to_owned))
        .filter(|name| !name.contains("@."))
        .chain([USERS.to_owned()])
        .collect();
    names.sort();
    names.dedup();
    names
}

/// A table such as fstab or crypttab with every entry switched off.
#[must_use]
pub fn without_entries(table: &str) -> String {
    table
        .lines()
        .map(|line| {
            let entry = !line.trim().is_empty() && !line.trim_start().starts_with('#');
            if entry { format!("{MARK}{line}\n") } else { format!("{line}\n") }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_mounts_and_our_own_units_are_masked() {
        let system = ["cron.service", "nginx.service", "apt-daily.timer", "home.mount", "fstrim@.timer"];
        let administrator = [
            "sync@shop.timer",
            "sync@.timer",
            "srv-data.mount",
            "backup.timer",
            "shop.service",
            "safe-upgrade-resume.service",
        ];
        assert_eq!(
            masked(system.into_iter(), administrator.into_iter()),
            [
                "apt-daily.timer",
                "backup.timer",
                "cron.service",
                "safe-upgrade-resume.service",
                "srv-data.mount",
                "sync@shop.timer",
                "user@.service"
            ]
        );
    }

    #[test]
    fn a_table_keeps_its_comments_only() {
        let table = "# <file system>\nUUID=1 / btrfs subvol=@ 0 0\n\n  nas:/x /srv nfs _netdev 0 0\n";
        let quiet = without_entries(table);
        assert!(quiet.lines().all(|line| line.is_empty() || line.starts_with('#')), "{quiet}");
        assert_eq!(quiet.lines().count(), 4);
        assert_eq!(without_entries(&quiet), quiet);
    }
}
