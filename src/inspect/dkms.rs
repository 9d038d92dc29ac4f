//! Kernel modules that are built on this machine: whether they can be built for the new kernel, nobody knows before.

use std::path::Path;

use super::reading::{self, InspectError};
use crate::finding::Finding;
use crate::health::packages::Packages;
use crate::system::show;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Module and version.
    modules: Vec<String>,
    /// Installed metapackages that bring the headers of every new kernel.
    headers: Vec<String>,
}

pub(super) fn facts(root: &Path, packages: &Packages) -> Result<Facts, InspectError> {
    let mut modules = Vec::new();
    for module in reading::names(root, "var/lib/dkms")? {
        for version in reading::names(root, &format!("var/lib/dkms/{module}"))? {
            // Beside the versions there are links named after kernels, and the key that modules are signed with.
            let source = format!("var/lib/dkms/{module}/{version}/source");
            if std::fs::symlink_metadata(reading::at(root, &source)).is_ok() {
                modules.push(format!("{module} {version}"));
            }
        }
    }
    let metapackage = |name: &&String| {
        name.strip_prefix("linux-headers-")
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    Ok(Facts { modules, headers: packages.installed.keys().filter(metapackage).cloned().collect() })
}

pub(super) fn findings(facts: &Facts, will_be_installed: Option<&dyn Fn(&str) -> bool>) -> Vec<Finding> {
    if facts.modules.is_empty() {
        return Vec::new();
    }
    let stays = |name: &String| {
        will_be_installed.is_none_or(|installed| installed(name.split(':').next().unwrap_or(name)))
    };
    let kept: Vec<&String> = facts.headers.iter().filter(|name| stays(name)).collect();
    let mut evidence: Vec<String> =
        facts.modules.iter().map(|module| format!("/var/lib/dkms: {}", show::line(module))).collect();
    let (what, remedy) = if kept.is_empty() {
        evidence.push("no package brings the headers of the new kernel".into());
        (
            "kernel modules are built on this machine, and nothing will bring what they need for the new kernel: they will be missing.",
            "apt-get install linux-headers-amd64, and look whether each module can be built for the new kernel",
        )
    } else {
        evidence.extend(kept.iter().map(|name| format!("{name} brings the headers of the new kernel")));
        (
            "kernel modules are built on this machine: whether these versions can be built for the new kernel is not known before.",
            "try it in a rehearsal, or get versions that are made for the new kernel",
        )
    };
    vec![Finding::warning("dkms-modules", what, remedy).with_evidence(evidence)]
}

#[cfg(test)]
mod tests {
    use super::super::reading::made_up::tree;
    use super::*;

    #[test]
    fn modules_with_and_without_headers() {
        let dir = tree(&[("var/lib/dkms/zfs/2.1.11/source/x", ""), ("var/lib/dkms/mok.key", "")]);
        let with = |name: &str| {
            let installed = [(name.to_owned(), "1".to_owned())].into();
            facts(dir.path(), &Packages { installed, ..Packages::default() }).unwrap()
        };
        let found = findings(&with("linux-headers-amd64"), None);
        assert_eq!(
            found[0].evidence,
            ["/var/lib/dkms: zfs 2.1.11", "linux-headers-amd64 brings the headers of the new kernel"]
        );
        for facts in [with("linux-headers-6.1.0-40-amd64"), with("bash")] {
            assert!(findings(&facts, None)[0].what.contains("will be missing"));
        }
        assert!(findings(&with("linux-headers-amd64"), Some(&|_| false))[0].what.contains("will be missing"));
        let none = tree(&[]);
        assert!(findings(&facts(none.path(), &Packages::default()).unwrap(), None).is_empty());
    }
}
