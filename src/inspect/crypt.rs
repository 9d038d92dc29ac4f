//! Encrypted disks: in trixie the part of systemd that opens them is a package of its own, `systemd-cryptsetup`.

use std::path::Path;

use super::Circumstances;
use super::reading::{self, InspectError};
use crate::finding::Finding;
use crate::system::show;

/// The disks of crypttab(5), by the names that they get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Opened at boot.
    at_boot: Vec<String>,
    /// Opened by hand: `noauto`.
    by_hand: Vec<String>,
}

pub(super) fn facts(root: &Path) -> Result<Facts, InspectError> {
    let text = reading::text(root, "etc/crypttab")?.unwrap_or_default();
    let mut found = Facts::default();
    for line in reading::settings(&text) {
        // Only the name is kept: the other fields may tell where keys are.
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let by_hand =
            fields.get(3).is_some_and(|options| options.split(',').any(|option| option == "noauto"));
        let list = if by_hand { &mut found.by_hand } else { &mut found.at_boot };
        list.extend(fields.first().map(|name| (*name).to_owned()));
    }
    Ok(found)
}

pub(super) fn findings(facts: &Facts, about: &Circumstances<'_>) -> Vec<Finding> {
    const PACKAGE: &str = "systemd-cryptsetup";
    if (facts.at_boot.is_empty() && facts.by_hand.is_empty()) || !about.reaches("trixie") {
        return Vec::new();
    }
    let finding = match about.will_be_installed.map(|installed| installed(PACKAGE)) {
        Some(true) => return Vec::new(),
        Some(false) if facts.at_boot.is_empty() => Finding::note(
            "cryptsetup-package-missing",
            "encrypted disks are opened by hand, and the upgrade would not install systemd-cryptsetup, which does that in the new release \
             for whoever mounts them (cryptsetup alone still opens them).",
            "apt-get install systemd-cryptsetup, after the upgrade",
        ),
        Some(false) => Finding::inhibitor(
            "cryptsetup-package-missing",
            "encrypted disks are opened at boot, and the upgrade would not install systemd-cryptsetup, which does that in the new \
             release: the machine would wait for its disks.",
            "let apt install what is recommended (APT::Install-Recommends \"true\"): systemd and cryptsetup recommend it",
        ),
        None => Finding::note(
            "cryptsetup-package-missing",
            "encrypted disks are opened at boot; in the new release a package of its own does that, systemd-cryptsetup, which comes as \
             a recommended one. Nothing was predicted, so whether it comes is not known.",
            "look for systemd-cryptsetup in the list of new packages",
        ),
    };
    let names = facts.at_boot.iter().chain(&facts.by_hand);
    vec![finding.with_evidence(names.map(|name| format!("/etc/crypttab: {}", show::line(name))))]
}

#[cfg(test)]
mod tests {
    use super::super::made_up::about_trixie;
    use super::super::reading::made_up::{ids, tree};
    use super::*;

    #[test]
    fn only_when_it_would_be_missing() {
        let dir =
            tree(&[("etc/crypttab", "# name source key options\nvdb_crypt UUID=x /etc/keys/secret luks\n")]);
        let facts = facts(dir.path()).unwrap();
        let with = |installed: Option<&dyn Fn(&str) -> bool>| {
            about_trixie(|about| findings(&facts, &Circumstances { will_be_installed: installed, ..about }))
        };
        assert!(with(Some(&|name| name == "systemd-cryptsetup")).is_empty());
        let found = with(Some(&|_| false));
        assert_eq!(ids(&found), ["inhibitor cryptsetup-package-missing"]);
        assert_eq!(found[0].evidence, ["/etc/crypttab: vdb_crypt"]);
        assert_eq!(ids(&with(None)), ["note cryptsetup-package-missing"]);

        let dir = tree(&[("etc/crypttab", "safe /srv/safe.img none luks,noauto,nofail\n")]);
        let facts = super::facts(dir.path()).unwrap();
        let found = about_trixie(|about| {
            findings(&facts, &Circumstances { will_be_installed: Some(&|_| false), ..about })
        });
        assert_eq!(ids(&found), ["note cryptsetup-package-missing"], "no boot waits for it");
    }
}
