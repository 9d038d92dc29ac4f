//! Packages as dpkg knows them: held, not fully installed, and which one brought which unit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{HealthError, read_text};
use crate::system::exec::Exec;

/// dpkg-query reads one file; a cold disk may take a while.
const LIMIT: Duration = Duration::from_secs(120);

/// Where packages put unit files. Before the merge of `/usr` in bookworm's packages they were listed below `/lib`.
const UNIT_DIRECTORIES: [&str; 2] = ["/usr/lib/systemd/system/", "/lib/systemd/system/"];
/// Where init scripts are, for which systemd makes services.
const INIT_DIRECTORY: &str = "/etc/init.d/";

/// The packages of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packages {
    /// Fully installed packages (`name`, or `name:arch` for a foreign one of several) and their versions.
    pub installed: BTreeMap<String, String>,
    /// Packages on hold.
    pub held: BTreeSet<String>,
    /// Packages that are neither fully installed nor gone, with dpkg's word for their state.
    pub unfinished: BTreeMap<String, String>,
}

/// Asks dpkg for all packages.
///
/// # Errors
/// When dpkg-query does not answer or is not understood.
pub fn read(root: &Path) -> Result<Packages, HealthError> {
    let format = "--showformat=${binary:Package}\\t${Version}\\t${db:Status-Want}\\t${db:Status-Eflag}\\t${db:Status-Status}\\n";
    let text = Exec::new("dpkg-query")
        .and_then(|exec| {
            let admin = format!("--admindir={}", root.join("var/lib/dpkg").display());
            exec.args([admin.as_str(), "--show", format]).limit(LIMIT).text()
        })
        .map_err(|source| HealthError::Ask { what: "the installed packages", source })?;
    parse(&text)
}

/// Understands lines of name, version, wanted state, error flag and state.
///
/// # Errors
/// With the first line that is not understood, or when there is no package at all.
pub fn parse(text: &str) -> Result<Packages, HealthError> {
    let mut packages = Packages::default();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, version, want, flag, status] = fields[..] else {
            return Err(HealthError::Understand { what: "dpkg-query", text: line.to_owned() });
        };
        let name = name.to_owned();
        if want == "hold" {
            packages.held.insert(name.clone());
        }
        match (flag, status) {
            ("ok", "installed") => drop(packages.installed.insert(name, version.to_owned())),
            ("ok", "not-installed" | "config-files") => {}
            ("ok", status) => drop(packages.unfinished.insert(name, status.to_owned())),
            (flag, _) => drop(packages.unfinished.insert(name, flag.to_owned())),
        }
    }
    if packages.installed.is_empty() {
        return Err(HealthError::Understand {
            what: "dpkg-query",
            text: "no package is installed".to_owned(),
        });
    }
    Ok(packages)
}

/// Finds the package that brought each of the units, in dpkg's file lists.
///
/// # Errors
/// When the lists cannot be read.
pub fn read_unit_owners(
    root: &Path,
    units: &BTreeSet<String>,
) -> Result<BTreeMap<String, String>, HealthError> {
    let directory = root.join("var/lib/dpkg/info");
    let wrong = |source| HealthError::Read { path: directory.clone(), source };
    let mut owners = BTreeMap::new();
    for entry in std::fs::read_dir(&directory).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        if path.extension().is_some_and(|extension| extension == "list") {
            let package = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            for unit in units_in(&read_text(path)?, units) {
                owners.insert(unit, package.clone());
            }
        }
    }
    Ok(owners)
}

/// Which of the units come from a package with this list of files. An instance comes from its template.
#[must_use]
pub fn units_in(list: &str, units: &BTreeSet<String>) -> Vec<String> {
    let files: BTreeSet<&str> = list
        .lines()
        .filter_map(|line| UNIT_DIRECTORIES.iter().find_map(|directory| line.strip_prefix(directory)))
        .collect();
    let scripts: BTreeSet<&str> = list.lines().filter_map(|line| line.strip_prefix(INIT_DIRECTORY)).collect();
    let brought = |unit: &&String| {
        files.contains(unit.as_str())
            || template(unit).is_some_and(|template| files.contains(template.as_str()))
            || unit.strip_suffix(".service").is_some_and(|name| scripts.contains(name))
    };
    units.iter().filter(brought).cloned().collect()
}

/// `postgresql@15-main.service` is made from `postgresql@.service`.
fn template(unit: &str) -> Option<String> {
    let (name, rest) = unit.split_once('@')?;
    let (_, suffix) = rest.rsplit_once('.')?;
    Some(format!("{name}@.{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_and_unfinished_packages_are_told_apart() {
        let text = "bash\t5.2\tinstall\tok\tinstalled\nredis-server\t7.0\thold\tok\tinstalled\n\
            nginx-common\t1.22\tinstall\tok\thalf-configured\nold\t1\tdeinstall\tok\tconfig-files\n\
            bad\t1\tinstall\treinstreq\tinstalled\nman-db\t2\tinstall\tok\ttriggers-pending\n";
        let packages = parse(text).unwrap();
        assert_eq!(packages.installed.len(), 2);
        assert!(packages.held.contains("redis-server") && packages.held.len() == 1);
        assert_eq!(packages.unfinished["nginx-common"], "half-configured");
        assert_eq!(packages.unfinished["bad"], "reinstreq");
        assert_eq!(packages.unfinished.len(), 3);
    }

    #[test]
    fn no_package_at_all_is_no_answer() {
        assert!(parse("").is_err());
        assert!(parse("bash 5.2").is_err());
    }

    #[test]
    fn units_come_from_files_templates_and_init_scripts() {
        let units = ["nginx.service", "postgresql@15-main.service", "exim4.service", "x.service"];
        let units: BTreeSet<String> = units.iter().map(|unit| (*unit).to_owned()).collect();
        let list = "/.\n/lib/systemd/system/nginx.service\n/usr/lib/systemd/system/postgresql@.service\n/etc/init.d/exim4\n";
        assert_eq!(units_in(list, &units), ["exim4.service", "nginx.service", "postgresql@15-main.service"]);
    }
}
