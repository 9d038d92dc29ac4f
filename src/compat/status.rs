//! What dpkg and apt have written down about the packages: the status file and the marks of what was installed by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Error;
use crate::health::{self, HealthError};

/// dpkg's record of every package.
pub const STATUS: &str = "var/lib/dpkg/status";
/// apt's record of what was installed only because something needed it.
pub const EXTENDED_STATES: &str = "var/lib/apt/extended_states";

/// A package as dpkg's status file has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Package {
    /// Its name as apt shows it: with `:arch` for a foreign architecture only.
    pub name: String,
    /// Its architecture, or `all`.
    pub architecture: String,
    /// Its version; empty when only configuration files are left.
    pub version: String,
    /// What is wanted: `install`, `hold`, `deinstall`, `purge`.
    pub want: String,
    /// `ok`, or what is wrong.
    pub flag: String,
    /// `installed`, `config-files`, `half-configured`, ...
    pub state: String,
    /// `libs`, `web`, `non-free/net`, ...
    pub section: String,
    /// `required`, `important`, `standard`, `optional`, ...
    pub priority: String,
    /// Who packaged it.
    pub maintainer: String,
}

impl Package {
    /// Whether it is there, in whatever state of configuration.
    #[must_use]
    pub fn is_present(&self) -> bool {
        !matches!(self.state.as_str(), "not-installed" | "config-files" | "")
    }

    /// Whether it is a part that others need and nobody asks for by name, or belongs to every Debian system.
    #[must_use]
    pub fn is_part(&self) -> bool {
        const PARTS: [&str; 4] = ["libs", "oldlibs", "introspection", "debug"];
        let section = self.section.rsplit('/').next().unwrap_or_default();
        PARTS.contains(&section) || matches!(self.priority.as_str(), "required" | "important")
    }
}

/// Every package in the text of a status file, sorted.
///
/// # Errors
/// When a stanza has no name or no understandable status, or there is no installed package at all.
pub fn parse(text: &str) -> Result<Vec<Package>, Error> {
    let mut found = Vec::new();
    for stanza in text.split("\n\n").filter(|stanza| !stanza.trim().is_empty()) {
        let field = |name: &str| field(stanza, name).unwrap_or_default().to_owned();
        let wrong = || not_understood(stanza.lines().next().unwrap_or_default());
        let status = field("Status");
        let words: Vec<&str> = status.split_ascii_whitespace().collect();
        let [want, flag, state] = words[..] else { return Err(wrong()) };
        let name = field("Package");
        if name.is_empty() {
            return Err(wrong());
        }
        found.push(Package {
            name,
            architecture: field("Architecture"),
            version: field("Version"),
            want: want.to_owned(),
            flag: flag.to_owned(),
            state: state.to_owned(),
            section: field("Section"),
            priority: field("Priority"),
            maintainer: field("Maintainer"),
        });
    }
    let native = found.iter().find(|package| package.name == "dpkg" && package.is_present());
    let native = native
        .map(|package| package.architecture.clone())
        .ok_or_else(|| not_understood("dpkg itself is not in it"))?;
    for package in &mut found {
        if package.architecture != native && package.architecture != "all" && !package.architecture.is_empty()
        {
            package.name = format!("{}:{}", package.name, package.architecture);
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Reads the packages below a root.
///
/// # Errors
/// When the status file cannot be read or understood.
pub fn read(root: &Path) -> Result<Vec<Package>, Error> {
    parse(&text(&root.join(STATUS))?)
}

/// The names of packages that were installed only because others needed them.
#[must_use]
pub fn parse_automatic(text: &str) -> BTreeSet<String> {
    let automatic = |stanza: &&str| field(stanza, "Auto-Installed") == Some("1");
    let name = |stanza: &str| field(stanza, "Package").map(str::to_owned);
    text.split("\n\n").filter(automatic).filter_map(name).collect()
}

/// Reads [`parse_automatic`] below a root; without the file, nothing was.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read_automatic(root: &Path) -> Result<BTreeSet<String>, Error> {
    Ok(parse_automatic(&health::read_text_if_any(root.join(EXTENDED_STATES))?))
}

/// The installed packages and their versions, for [`crate::release::prediction::Foretold`].
///
/// # Errors
/// When the status file cannot be read or understood.
pub fn installed(root: &Path) -> Result<BTreeMap<String, String>, Error> {
    Ok(versions(read(root)?))
}

/// The names and versions of those that are installed.
#[must_use]
pub fn versions(packages: Vec<Package>) -> BTreeMap<String, String> {
    let present = packages.into_iter().filter(Package::is_present);
    present.map(|package| (package.name, package.version)).collect()
}

/// The first line of a field of a stanza.
pub(super) fn field<'s>(stanza: &'s str, name: &str) -> Option<&'s str> {
    stanza.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// Reads a file; bytes that are not UTF-8 are replaced.
pub(super) fn text(path: &Path) -> Result<String, Error> {
    Ok(health::read_text(path.to_owned())?)
}

fn not_understood(text: &str) -> Error {
    HealthError::Understand { what: "dpkg's status file", text: text.to_owned() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Package: dpkg\nStatus: install ok installed\nPriority: required\nSection: admin\nArchitecture: amd64\nVersion: 1.21\nMaintainer: D <d@lists.debian.org>\nDescription: x\n Package: not a field\n\n\
        Package: redis-server\nStatus: hold ok installed\nSection: database\nArchitecture: amd64\nVersion: 5:7.0\n\n\
        Package: libc6\nStatus: install ok installed\nSection: libs\nArchitecture: i386\nVersion: 2.36\n\n\
        Package: old\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n";

    #[test]
    fn names_as_apt_has_them() {
        let found = parse(TEXT).unwrap();
        let names: Vec<_> = found.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["dpkg", "libc6:i386", "old", "redis-server"]);
        assert!(found[0].is_part() && found[1].is_part() && !found[3].is_part());
        assert!(!found[2].is_present());
        assert!(parse("").is_err() && parse("Package: x\nStatus: installed\n").is_err());
    }

    #[test]
    fn installed_by_itself() {
        let text = "Package: a\nArchitecture: amd64\nAuto-Installed: 1\n\nPackage: b\nAuto-Installed: 0\n";
        assert_eq!(parse_automatic(text).into_iter().collect::<Vec<_>>(), ["a"]);
    }
}
