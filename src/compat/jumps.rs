//! Services whose new version needs a person's attention: a table, looked up with what apt predicts.

use crate::finding::{Finding, Severity};
use crate::release::prediction::Prediction;
use crate::version;

/// A service and what a new version of it means.
#[derive(Debug, Clone, Copy)]
pub struct Jump {
    /// The finding's id.
    pub id: &'static str,
    /// The packages that tell, by name.
    pub packages: &'static [&'static str],
    /// How many of the first numbers of the upstream version are looked at: a change in one of them is the jump.
    pub numbers: usize,
    /// How much it weighs.
    pub severity: Severity,
    /// What it means; follows `NAME goes from OLD to NEW: `.
    pub what: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

const STOP: Severity = Severity::Inhibitor;
const WARN: Severity = Severity::Warning;
const NOTE: Severity = Severity::Note;

/// The table. Numbers are compared, not named, so that it holds for other releases too; what is said of a version is said of its
/// upstream's own notes and Debian's release notes.
pub const JUMPS: &[Jump] = &[
    Jump {
        id: "rabbitmq-no-direct-upgrade",
        packages: &["rabbitmq-server"],
        numbers: 1,
        severity: STOP,
        what: "its directory cannot be taken over in one step, and the new server would not start",
        remedy: "export the definitions (rabbitmqctl export_definitions FILE), drain the queues, and plan a new node; or upgrade through \
                 the versions in between from RabbitMQ's own repository first",
    },
    Jump {
        id: "dovecot-configuration",
        packages: &["dovecot-core"],
        numbers: 2,
        severity: WARN,
        what: "the new version does not understand the old one's configuration, and does not start with it",
        remedy: "write the configuration for the new version beside the old one (doc.dovecot.org, \"Upgrading\"), put it in place \
                 in a rehearsal, and add a named check for IMAP",
    },
    Jump {
        id: "mariadb-one-way",
        packages: &["mariadb-server"],
        numbers: 2,
        severity: WARN,
        what: "its files are converted at the first start, and the old server cannot read them again; only a rollback brings them back",
        remedy: "make a dump that has been restored once; let the server end cleanly before the upgrade: \
                 mariadb -e 'SET GLOBAL innodb_fast_shutdown = 0'",
    },
    Jump {
        id: "mysql-one-way",
        packages: &["mysql-server", "mysql-community-server", "default-mysql-server"],
        numbers: 2,
        severity: WARN,
        what: "its files are converted at the first start, and the old server cannot read them again",
        remedy: "make a dump that has been restored once; look for accounts with mysql_native_password",
    },
    Jump {
        id: "openldap-major",
        packages: &["slapd"],
        numbers: 2,
        severity: WARN,
        what: "its libraries use another TLS implementation (TLSCipherSuite is read differently), and modules may be gone",
        remedy: "slapcat > backup.ldif; look at every olcTLS* and olcModuleLoad line; try slaptest in a rehearsal",
    },
    Jump {
        id: "samba-major",
        packages: &["samba"],
        numbers: 2,
        severity: WARN,
        what: "parts of it are packages of their own now (domain controller, VFS modules), and its databases are converted",
        remedy: "samba-tool domain backup offline, or a copy of /var/lib/samba; compare `vfs objects` with the installed modules afterwards",
    },
    Jump {
        id: "bacula-database",
        packages: &[
            "bacula-director",
            "bacula-director-pgsql",
            "bacula-director-mysql",
            "bacula-director-sqlite3",
        ],
        numbers: 1,
        severity: WARN,
        what: "the catalogue is converted, which takes long and needs room for a second copy of its largest table",
        remedy: "dump the catalogue, and see to it that the database's filesystem has as much room again",
    },
    Jump {
        id: "zabbix-database",
        packages: &["zabbix-server-mysql", "zabbix-server-pgsql", "zabbix-proxy-sqlite3"],
        numbers: 2,
        severity: WARN,
        what: "the database is converted at the first start, and the old server cannot use it again",
        remedy: "dump the database; upgrade proxies and server together",
    },
    Jump {
        id: "cyrus-database",
        packages: &["cyrus-imapd"],
        numbers: 2,
        severity: WARN,
        what: "mailboxes and indexes are converted, and the old server cannot read them again",
        remedy: "read its upgrade notes below /usr/share/doc/cyrus-common, and back up /var/lib/cyrus and the mail spool",
    },
    Jump {
        id: "libvirt-split",
        packages: &["libvirt-daemon-system"],
        numbers: 1,
        severity: WARN,
        what: "its drivers are packages of their own now, and one that is missing is only missed when a machine starts",
        remedy: "stop the guests before; afterwards `virsh list --all`, and install libvirt-daemon-driver-* for what is missing",
    },
    Jump {
        id: "redis-one-way",
        packages: &["redis-server"],
        numbers: 1,
        severity: NOTE,
        what: "its snapshot file is written in a form that the old server cannot read",
        remedy: "keep a copy of /var/lib/redis/dump.rdb",
    },
    Jump {
        id: "nginx-major",
        packages: &["nginx"],
        numbers: 2,
        severity: NOTE,
        what: "modules of third parties have to be of the same version",
        remedy: "nginx -t now and in the rehearsal; look at its warnings, which name directives that have changed",
    },
    Jump {
        id: "apache2-major",
        packages: &["apache2"],
        numbers: 2,
        severity: WARN,
        what: "directives for access and modules have changed",
        remedy: "apachectl configtest in a rehearsal",
    },
    Jump {
        id: "haproxy-major",
        packages: &["haproxy"],
        numbers: 2,
        severity: NOTE,
        what: "some directives are gone, and some defaults have changed",
        remedy: "haproxy -c -f /etc/haproxy/haproxy.cfg: its warnings name directives that go",
    },
    Jump {
        id: "bind9-major",
        packages: &["bind9"],
        numbers: 2,
        severity: NOTE,
        what: "options that were deprecated are errors in the new version",
        remedy: "named-checkconf -z now: its warnings name options that go",
    },
    Jump {
        id: "postfix-major",
        packages: &["postfix"],
        numbers: 2,
        severity: NOTE,
        what: "some defaults have changed, which compatibility_level keeps as they were",
        remedy: "postfix check, and send a message through it in the rehearsal",
    },
    Jump {
        id: "exim4-major",
        packages: &["exim4-base"],
        numbers: 2,
        severity: NOTE,
        what: "it refuses more of what it calls tainted: names of files that are made of parts of a message",
        remedy: "exim4 -bV, and send a message through it in the rehearsal",
    },
    Jump {
        id: "squid-major",
        packages: &["squid"],
        numbers: 1,
        severity: NOTE,
        what: "some directives are gone",
        remedy: "squid -k parse in the rehearsal",
    },
    Jump {
        id: "varnish-major",
        packages: &["varnish"],
        numbers: 1,
        severity: NOTE,
        what: "VCL and modules of third parties have to fit",
        remedy: "varnishd -C -f /etc/varnish/default.vcl in the rehearsal",
    },
    Jump {
        id: "docker-major",
        packages: &["docker.io"],
        numbers: 1,
        severity: NOTE,
        what: "containers are stopped while it is replaced, and its client may be a package of its own",
        remedy: "docker ps before and after; apt-get install docker-cli when the command is missing",
    },
    Jump {
        id: "nodejs-major",
        packages: &["nodejs"],
        numbers: 1,
        severity: NOTE,
        what: "programs with modules in machine code have to be installed anew",
        remedy: "npm rebuild in each program's directory after the upgrade",
    },
    Jump {
        id: "ruby-major",
        packages: &["ruby"],
        numbers: 2,
        severity: NOTE,
        what: "gems that were installed by hand are not found by the new one",
        remedy: "gem list > gems.txt, and install them anew after the upgrade",
    },
    Jump {
        id: "openssh-major",
        packages: &["openssh-server"],
        numbers: 1,
        severity: NOTE,
        what: "keys of the kind DSA and old algorithms are refused",
        remedy: "look for ssh-dss in authorized_keys and in /etc/ssh; log in with a second session before closing the first",
    },
];

/// A finding for each row whose package jumps.
#[must_use]
pub fn findings(prediction: &Prediction) -> Vec<Finding> {
    JUMPS.iter().filter_map(|jump| finding(jump, prediction)).collect()
}

fn finding(jump: &Jump, prediction: &Prediction) -> Option<Finding> {
    let jumping: Vec<_> = prediction
        .upgraded
        .iter()
        .filter(|change| jump.packages.contains(&super::removals::bare(&change.package)))
        .filter_map(|change| {
            let (old, new) = jumps(change.old.as_deref()?, &change.new, jump.numbers)?;
            Some((change, old, new))
        })
        .collect();
    let (first, old, new) = jumping.first()?;
    let evidence = jumping.iter().map(|(change, ..)| arrow(change));
    Some(
        Finding::new(
            jump.id,
            jump.severity,
            format!("{} goes from {old} to {new}: {}.", first.package, jump.what),
            jump.remedy,
        )
        .with_evidence(evidence),
    )
}

/// Both versions, as far as they are looked at, when they differ there.
#[must_use]
pub fn jumps(old: &str, new: &str, numbers: usize) -> Option<(String, String)> {
    let differ = version::leading(old, numbers) != version::leading(new, numbers);
    differ.then(|| (version::short(old, numbers), version::short(new, numbers)))
}

/// `nginx: 1.22.1-9 -> 1.26.3-3`
pub(super) fn arrow(change: &crate::release::simulation::Change) -> String {
    let old = change.old.as_deref().unwrap_or("not installed");
    format!("{}: {old} -> {} ({})", change.package, change.new, change.origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_in_order() {
        let ids: BTreeSet<_> = JUMPS.iter().map(|jump| jump.id).collect();
        assert_eq!(ids.len(), JUMPS.len());
        for jump in JUMPS {
            assert!(!jump.packages.is_empty() && jump.numbers > 0 && !jump.remedy.is_empty());
            assert!(!jump.what.ends_with('.'), "{}", jump.id);
        }
        let docs = include_str!("../../docs/findings.md");
        for jump in JUMPS {
            assert!(docs.contains(&format!("`{}`", jump.id)), "docs/findings.md lacks {}", jump.id);
        }
    }

    #[test]
    fn what_counts_as_a_jump() {
        assert_eq!(jumps("1:2.3.19.1+dfsg1-2", "1:2.4.1+dfsg1-6", 2), Some(("2.3".into(), "2.4".into())));
        assert_eq!(jumps("3.10.8-1.1+deb12u1", "4.0.5-6", 1), Some(("3".into(), "4".into())));
        assert_eq!(jumps("2.4.71-1~deb12u1", "2.4.71-1~deb13u1", 2), None);
        assert_eq!(jumps("1:10.11.19-0+deb12u1", "1:11.8.9+ds-0", 2).unwrap().1, "11.8");
    }
}
