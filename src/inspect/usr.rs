//! Whether `/bin`, `/sbin` and `/lib` are links into `/usr`: packages of newer releases count on it.

use std::fs;
use std::path::Path;

use super::reading::{self, InspectError};
use crate::finding::Finding;

/// The top directories that are real ones instead of links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts(Vec<String>);

pub(super) fn facts(root: &Path) -> Result<Facts, InspectError> {
    let mut real = Vec::new();
    for name in ["bin", "sbin", "lib"] {
        let path = reading::at(root, name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => real.push(format!("/{name}")),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(InspectError::Read { path, source }),
        }
    }
    Ok(Facts(real))
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    if facts.0.is_empty() {
        return Vec::new();
    }
    let what = "the top directories are not merged into /usr: packages of the new release refuse to be installed like that.";
    vec![
        Finding::inhibitor("usr-not-merged", what, "apt-get install usrmerge")
            .with_evidence(facts.0.iter().map(|path| format!("{path} is a directory, not a link into /usr"))),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::reading::made_up::{ids, tree};
    use super::*;

    #[test]
    fn merged_or_not() {
        let merged = tree(&[("usr/bin/x", "")]);
        std::os::unix::fs::symlink("usr/bin", merged.path().join("bin")).unwrap();
        assert!(findings(&facts(merged.path()).unwrap()).is_empty());
        let old = tree(&[("bin/x", ""), ("lib/x", "")]);
        let found = findings(&facts(old.path()).unwrap());
        assert_eq!((ids(&found), found[0].evidence.len()), (vec!["inhibitor usr-not-merged".into()], 2));
    }
}
