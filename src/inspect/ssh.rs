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

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The version of the installed server, when it is one that refuses.
    fragile_server: Option<String>,
    /// Where DSA keys are relied on: files, and lines of the configuration.
    dsa: Vec<String>,
    /// Files of users that could not be looked at.
    unseen: Vec<String>,
}

pub(super) fn facts(root: &Path, packages: &Packages) -> Result<Facts, InspectError> {
    let fragile_server = match reading::version(packages, "openssh-server") {
        Some(version) if older(version, SAFE_SERVER)? => Some(version.to_owned()),
        _ => None,
    };
    let (mut dsa, mut unseen) = (Vec::new(), Vec::new());
    let parts = reading::names(root, "etc/ssh/sshd_config.d")?;
    let files = parts
        .iter()
        .filter(|name| name.ends_with(".conf"))
        .map(|name| format!("etc/ssh/sshd_config.d/{name}"));
    for file in files.chain(["etc/ssh/sshd_config".into()]) {
        let text = reading::text(root, &file)?.unwrap_or_default();
        dsa.extend(
            reading::settings(&text)
                .filter(|line| relies_on_dsa(line))
                .map(|line| format!("/{file}: {line}")),
        );
    }
    for home in homes(&reading::text(root, "etc/passwd")?.unwrap_or_default()) {
        for name in ["authorized_keys", "authorized_keys2"] {
            let file = format!("{}/.ssh/{name}", home.trim_end_matches('/'));
            let text = reading::of_user(root, &file, &mut unseen).unwrap_or_default();
            let count = reading::settings(&text)
                .filter(|line| line.split_ascii_whitespace().any(|word| word == "ssh-dss"))
                .count();
            if count > 0 {
                dsa.push(format!("{file}: {count} DSA keys"));
            }
        }
    }
    Ok(Facts { fragile_server, dsa, unseen })
}

fn relies_on_dsa(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    let (keyword, value) = line.split_once([' ', '\t', '=']).unwrap_or((&line, ""));
    match keyword {
        "hostkey" => value.trim().ends_with("ssh_host_dsa_key"),
        "hostkeyalgorithms" | "pubkeyacceptedalgorithms" | "pubkeyacceptedkeytypes" => {
            value.contains("ssh-dss") && !value.trim().starts_with('-')
        }
        _ => false,
    }
}

/// dpkg's own order of versions.
fn older(version: &str, than: &str) -> Result<bool, InspectError> {
    Ok(Exec::new("dpkg")?.args(["--compare-versions", version, "lt", than]).output()?.status.success())
}

/// On the way to trixie; other releases change nothing of this.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
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
    if !facts.dsa.is_empty() {
        let what = "DSA keys are relied on, and the ssh of the new release does not know them any more: those logins end.";
        found.push(
            Finding::warning("ssh-dsa-keys", what, "replace them: ssh-keygen -t ed25519")
                .with_evidence(facts.dsa.iter().map(|line| show::line(line))),
        );
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

    #[test]
    fn where_dsa_is_relied_on() {
        let found = of(
            "1:10.0p1-7",
            &[
                ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
                ("root/.ssh/authorized_keys", "ssh-ed25519 AAAA me\nfrom=\"10.0.0.0/8\" ssh-dss AAAA old\n"),
                (
                    "etc/ssh/sshd_config",
                    "#HostKey /etc/ssh/ssh_host_dsa_key\nHostKey /etc/ssh/ssh_host_rsa_key\n",
                ),
                (
                    "etc/ssh/sshd_config.d/old.conf",
                    "PubkeyAcceptedAlgorithms +ssh-dss\nHostKeyAlgorithms -ssh-dss\n",
                ),
            ],
        );
        assert_eq!(ids(&found), ["warning ssh-dsa-keys"]);
        assert_eq!(
            found[0].evidence,
            [
                "/etc/ssh/sshd_config.d/old.conf: PubkeyAcceptedAlgorithms +ssh-dss",
                "/root/.ssh/authorized_keys: 1 DSA keys"
            ]
        );
    }
}
