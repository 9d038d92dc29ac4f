//! Settings that a new release does not read any more: `/etc/sysctl.conf` (trixie, and Ubuntu's resolute) and `~/.pam_environment`
//! (trixie).

use std::path::Path;

use super::reading::{self, InspectError};
use crate::finding::Finding;
use crate::system::show;

/// More users than this are not looked at.
const MOST_USERS: usize = 2000;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Settings in `/etc/sysctl.conf`.
    sysctl: Vec<String>,
    /// Files of users with settings in them.
    pam_environment: Vec<String>,
    /// Files of users that could not be looked at.
    unseen: Vec<String>,
}

/// Homes are looked into only for a release that does not read `~/.pam_environment`.
pub(super) fn facts(root: &Path, homes_too: bool) -> Result<Facts, InspectError> {
    let sysctl = reading::text(root, "etc/sysctl.conf")?.unwrap_or_default();
    let (mut pam_environment, mut unseen) = (Vec::new(), Vec::new());
    let passwd = if homes_too { reading::text(root, "etc/passwd")? } else { None };
    for home in homes(&passwd.unwrap_or_default()) {
        let path = format!("{}/.pam_environment", home.trim_end_matches('/'));
        if reading::of_user(root, &path, &mut unseen)
            .is_some_and(|text| reading::settings(&text).next().is_some())
        {
            pam_environment.push(path);
        }
    }
    Ok(Facts { sysctl: reading::settings(&sysctl).map(str::to_owned).collect(), pam_environment, unseen })
}

/// The home directories of root and of people; those of services lie below `/var`, `/run` or nowhere.
pub(super) fn homes(passwd: &str) -> Vec<String> {
    let mut homes: Vec<String> = passwd
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (id, home) = (fields.get(2)?.parse::<u32>().ok()?, *fields.get(5)?);
            ((id == 0 || (1000..65_000).contains(&id)) && home.starts_with('/') && home.len() > 1)
                .then(|| home.to_owned())
        })
        .take(MOST_USERS)
        .collect();
    homes.sort();
    homes.dedup();
    homes
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if !facts.sysctl.is_empty() {
        let what = "/etc/sysctl.conf holds settings: the new release does not read that file any more, and they stop to apply.";
        let remedy = "mv /etc/sysctl.conf /etc/sysctl.d/90-local.conf && sysctl --system";
        found.push(Finding::warning("sysctl-conf", what, remedy).with_evidence(
            facts.sysctl.iter().map(|line| format!("/etc/sysctl.conf: {}", show::line(line))),
        ));
    }
    if !facts.pam_environment.is_empty() {
        let what = "users set variables in ~/.pam_environment, which the new release does not read any more.";
        let remedy = "set them in the shell's own files, or in ~/.config/environment.d for services of users";
        found.push(
            Finding::warning("pam-environment", what, remedy)
                .with_evidence(facts.pam_environment.iter().map(|path| show::line(path))),
        );
    }
    found.extend(reading::unseen_note(&facts.unseen));
    found
}

#[cfg(test)]
mod tests {
    use super::super::reading::made_up::{ids, put, tree};
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/bash\n\
        nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\nwww-data:x:33:33::/var/www:/x\nbroken\n";

    #[test]
    fn only_what_says_something() {
        // As procps brings it: nothing but comments.
        let dir = tree(&[
            ("etc/passwd", PASSWD),
            ("etc/sysctl.conf", "#\n# /etc/sysctl.conf\n#net.ipv4.ip_forward=1\n"),
        ]);
        assert!(findings(&facts(dir.path(), true).unwrap()).is_empty());
        put(dir.path(), "etc/sysctl.conf", "#x\nnet.ipv4.ip_forward=1\n");
        put(dir.path(), "home/ann/.pam_environment", "PATH DEFAULT=/x\n");
        put(dir.path(), "var/www/.pam_environment", "X=1\n");
        assert_eq!(ids(&findings(&facts(dir.path(), false).unwrap())), ["warning sysctl-conf"]);
        let found = findings(&facts(dir.path(), true).unwrap());
        assert_eq!(ids(&found), ["warning sysctl-conf", "warning pam-environment"]);
        assert_eq!(found[0].evidence, ["/etc/sysctl.conf: net.ipv4.ip_forward=1"]);
        assert_eq!(found[1].evidence, ["/home/ann/.pam_environment"]);
    }

    #[test]
    fn homes_of_people() {
        assert_eq!(homes(PASSWD), ["/home/ann", "/root"]);
    }
}
