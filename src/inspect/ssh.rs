//! The way in: an ssh server that refuses new logins in the middle of an upgrade, and keys that stop to be taken.

use std::path::Path;

use super::reading::{self, InspectError};
use super::settings::homes;
use crate::finding::Finding;
use crate::health::packages::Packages;
use crate::system::exec::Exec;
use crate::system::show;

/// From this version on an interrupted upgrade leaves a server that still takes logins. Source: Debian's release notes for trixie,
/// 5.1.1.
const SAFE_SERVER: &str = "1:9.2p1-2+deb12u7";

/// Lists of kinds of keys, for the server and for the client. A name in them that is not known is an error which ends the program,
/// also below a `Host` or `Match` that does not apply. Seen with OpenSSH 10.0p2, whose first release (10.0) has dropped DSA.
const LISTS: [&str; 7] = [
    "hostkeyalgorithms",
    "pubkeyacceptedalgorithms",
    "pubkeyacceptedkeytypes",
    "hostbasedacceptedalgorithms",
    "hostbasedacceptedkeytypes",
    "hostbasedkeytypes",
    "casignaturealgorithms",
];

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The version of the installed server, when it is one that refuses.
    fragile_server: Option<String>,
    /// Lines of the server's configuration that let it take DSA now, and that the new one does not start with.
    server: Vec<String>,
    /// The same for the client: the system's configuration and those of users.
    client: Vec<String>,
    /// Where DSA keys lie: files, and lines of the configuration.
    keys: Vec<String>,
    /// Files of users that could not be looked at.
    unseen: Vec<String>,
}

pub(super) fn facts(root: &Path, packages: &Packages) -> Result<Facts, InspectError> {
    let fragile_server = match reading::version(packages, "openssh-server") {
        Some(version) if older(version, SAFE_SERVER)? => Some(version.to_owned()),
        _ => None,
    };
    let mut found = Facts { fragile_server, ..Facts::default() };
    for (file, text) in configuration(root, "sshd_config")? {
        found.server.extend(listing_dsa(&file, &text));
        let key = |line: &&str| {
            words(line)
                .is_some_and(|(keyword, value)| keyword == "hostkey" && value.ends_with("ssh_host_dsa_key"))
        };
        found.keys.extend(reading::settings(&text).filter(key).map(|line| format!("{file}: {line}")));
    }
    for (file, text) in configuration(root, "ssh_config")? {
        found.client.extend(listing_dsa(&file, &text));
    }
    for home in homes(&reading::text(root, "etc/passwd")?.unwrap_or_default()) {
        of_home(root, &format!("{}/.ssh", home.trim_end_matches('/')), &mut found);
    }
    Ok(found)
}

/// A file of ssh's configuration, and the parts of the directory beside it.
fn configuration(root: &Path, name: &str) -> Result<Vec<(String, String)>, InspectError> {
    let parts = reading::names(root, &format!("etc/ssh/{name}.d"))?;
    let parts =
        parts.iter().filter(|part| part.ends_with(".conf")).map(|part| format!("/etc/ssh/{name}.d/{part}"));
    let mut found = Vec::new();
    for file in parts.chain([format!("/etc/ssh/{name}")]) {
        let text = reading::text(root, &file)?.unwrap_or_default();
        found.push((file, text));
    }
    Ok(found)
}

fn of_home(root: &Path, directory: &str, found: &mut Facts) {
    let file = format!("{directory}/config");
    let text = reading::of_user(root, &file, &mut found.unseen).unwrap_or_default();
    found.client.extend(listing_dsa(&file, &text));
    for name in ["authorized_keys", "authorized_keys2"] {
        let file = format!("{directory}/{name}");
        let text = reading::of_user(root, &file, &mut found.unseen).unwrap_or_default();
        let count = reading::settings(&text)
            .filter(|line| line.split_ascii_whitespace().any(|word| word == "ssh-dss"))
            .count();
        if count > 0 {
            found.keys.push(format!("{file}: {count} DSA keys"));
        }
    }
}

/// The lines that name DSA in a list of what is taken. A list that begins with a minus takes kinds away, and may name any.
fn listing_dsa(file: &str, text: &str) -> Vec<String> {
    let names = |line: &&str| {
        words(line).is_some_and(|(keyword, value)| {
            LISTS.contains(&keyword.as_str()) && value.contains("ssh-dss") && !value.starts_with('-')
        })
    };
    reading::settings(text).filter(names).map(|line| format!("{file}: {line}")).collect()
}

/// Keyword and value, both in lower case.
fn words(line: &str) -> Option<(String, String)> {
    let line = line.to_ascii_lowercase();
    let (keyword, value) = line.split_once([' ', '\t', '='])?;
    Some((keyword.to_owned(), value.trim_matches([' ', '\t', '=', '"']).to_owned()))
}

/// dpkg's own order of versions.
fn older(version: &str, than: &str) -> Result<bool, InspectError> {
    Ok(Exec::new("dpkg")?.args(["--compare-versions", version, "lt", than]).output()?.status.success())
}

/// On the way to trixie or to Ubuntu 26.04; other releases change nothing of this.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let shown = |lines: &[String]| lines.iter().map(|line| show::line(line)).collect::<Vec<_>>();
    if let Some(version) = &facts.fragile_server {
        let what = "this version of the ssh server may refuse new logins while an upgrade is interrupted.";
        found.push(
            Finding::warning("openssh-server-old", what, "apt-get update && apt-get install openssh-server")
                .with_evidence([format!(
                    "openssh-server {} is older than {SAFE_SERVER}",
                    show::line(version)
                )]),
        );
    }
    if !facts.server.is_empty() {
        let what = "the ssh server of the new release does not start with these lines: they name DSA keys (ssh-dss), which it does not \
                    know any more. Nobody could log in by ssh.";
        let remedy = "take ssh-dss out of these lines, systemctl reload ssh, and see that you can still log in; for those who cannot, \
                      new keys first: ssh-keygen -t ed25519";
        found.push(
            Finding::inhibitor("sshd-will-not-start", what, remedy).with_evidence(shown(&facts.server)),
        );
    }
    if !facts.client.is_empty() {
        let what = "the ssh of the new release ends with an error at these lines, whoever is to be reached: they name DSA keys (ssh-dss), \
                    which it does not know any more. scp, rsync and backups over ssh end with it.";
        let remedy = "take ssh-dss out of these lines; a device that has nothing else is reached from an older system only";
        found
            .push(Finding::warning("ssh-will-not-connect", what, remedy).with_evidence(shown(&facts.client)));
    }
    if !facts.keys.is_empty() {
        let remedy = "replace them: ssh-keygen -t ed25519";
        let what = "DSA keys are in use, and the ssh of the new release does not know them any more: those logins end.";
        let unused = "DSA keys are kept, which the ssh of the new release does not know any more. Nothing in /etc/ssh/sshd_config makes \
                      the server take them now: it refuses them already.";
        let finding = match facts.server.is_empty() {
            false => Finding::warning("ssh-dsa-keys", what, remedy),
            true => Finding::note("ssh-dsa-keys", unused, remedy),
        };
        found.push(finding.with_evidence(shown(&facts.keys)));
    }
    found.extend(reading::unseen_note(&facts.unseen));
    found
}

#[cfg(test)]
mod tests {
    use super::super::reading::made_up::{ids, tree};
    use super::*;

    fn of(version: &str, files: &[(&str, &str)]) -> Vec<Finding> {
        let dir = tree(files);
        let installed = [("openssh-server".to_owned(), version.to_owned())].into();
        let facts = facts(dir.path(), &Packages { installed, ..Packages::default() }).unwrap();
        findings(&facts)
    }

    #[test]
    fn versions_are_compared_as_dpkg_does() {
        assert_eq!(ids(&of("1:9.2p1-2+deb12u3", &[])), ["warning openssh-server-old"]);
        assert!(of("1:9.2p1-2+deb12u7", &[]).is_empty());
        assert!(of("1:9.2p1-2+deb12u10", &[]).is_empty());
    }

    const PASSWD: (&str, &str) = ("etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    const KEYS: (&str, &str) =
        ("root/.ssh/authorized_keys", "ssh-ed25519 AAAA me\nfrom=\"10.0.0.0/8\" ssh-dss AAAA old\n");

    #[test]
    fn keys_that_the_server_takes_and_keys_that_it_refuses() {
        let host_key = ("etc/ssh/sshd_config", "#HostKey /etc/ssh/x\nHostKey /etc/ssh/ssh_host_dsa_key\n");
        let found = of("1:10.0p1-7", &[PASSWD, KEYS, host_key]);
        assert_eq!(ids(&found), ["note ssh-dsa-keys"]);
        assert_eq!(
            found[0].evidence,
            [
                "/etc/ssh/sshd_config: HostKey /etc/ssh/ssh_host_dsa_key",
                "/root/.ssh/authorized_keys: 1 DSA keys"
            ]
        );
        let line = "Match User old\n\tPubkeyAcceptedAlgorithms +ssh-dss\n";
        let found = of("1:10.0p1-7", &[PASSWD, KEYS, ("etc/ssh/sshd_config.d/old.conf", line)]);
        assert_eq!(ids(&found), ["inhibitor sshd-will-not-start", "warning ssh-dsa-keys"]);
        assert_eq!(found[0].evidence, ["/etc/ssh/sshd_config.d/old.conf: PubkeyAcceptedAlgorithms +ssh-dss"]);
    }

    /// What sshd and ssh 10.0p2 of trixie refuse, and what they take.
    #[test]
    fn lines_that_the_new_ssh_refuses() {
        for (line, refused) in [
            ("HostKeyAlgorithms=+ssh-rsa,ssh-dss", true),
            ("PubkeyAcceptedKeyTypes ssh-dss,ssh-rsa", true),
            ("CASignatureAlgorithms +ssh-dss", true),
            ("HostbasedAcceptedAlgorithms \"^ssh-dss\"", true),
            ("HostKeyAlgorithms -ssh-dss", false),
            ("HostKeyAlgorithms\t-ssh-dss", false),
            ("PubkeyAcceptedAlgorithms +ssh-rsa", false),
            ("KexAlgorithms +diffie-hellman-group1-sha1", false),
            ("DSAAuthentication yes", false),
            ("#HostKeyAlgorithms +ssh-dss", false),
        ] {
            let server = of("1:9.2p1-2+deb12u9", &[("etc/ssh/sshd_config", line)]);
            assert_eq!(server.len(), usize::from(refused), "{line}");
            let text = format!("Host old-switch\n  {line}\n");
            let own = of("1:9.2p1-2+deb12u9", &[PASSWD, ("root/.ssh/config", &text)]);
            assert_eq!(ids(&own), vec!["warning ssh-will-not-connect"; usize::from(refused)], "{line}");
            let all = of("1:9.2p1-2+deb12u9", &[("etc/ssh/ssh_config.d/old.conf", &text)]);
            assert_eq!(all.len(), usize::from(refused), "{line}");
        }
    }
}
