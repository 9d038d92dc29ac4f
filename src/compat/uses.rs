//! What the machine does with the packages that go away: enabled units, sockets, running programs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::Error;
use super::removals::{Removal, bare};
use super::status::text;
use crate::health::HealthError;
use crate::health::sockets::{self, Protocol};
use crate::health::{packages, units};

/// More running programs than this are not listed for one package.
const MOST_PROGRAMS: usize = 8;

/// A running program and what it listens at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its number.
    pub pid: u32,
    /// Its file, as the kernel names it.
    pub file: String,
    /// What it listens at: `tcp 0.0.0.0:80`, `unix /run/x.sock`.
    pub listens: BTreeSet<String>,
}

/// Adds to each removal what its units and programs do.
///
/// # Errors
/// When systemd, the processes or dpkg's lists cannot be read.
pub fn add(removals: &mut [Removal], root: &Path) -> Result<(), Error> {
    let enabled = enabled_units()?;
    let programs = programs(&root.join("proc"))?;
    for removal in removals {
        let list = file_list(root, &removal.package)?;
        judge(removal, &list, &enabled, &programs);
    }
    Ok(())
}

/// Finds the units and programs of a package in its list of files. Pure.
pub fn judge(removal: &mut Removal, list: &str, units: &BTreeSet<String>, programs: &[Program]) {
    removal.units = packages::units_in(list, units);
    let files: BTreeSet<String> = list.lines().map(merged).collect();
    let own: Vec<&Program> =
        programs.iter().filter(|program| files.contains(&merged(&program.file))).collect();
    let listens: BTreeSet<&String> = own.iter().flat_map(|program| &program.listens).collect();
    removal.listens = listens.into_iter().cloned().collect();
    let shown = own.iter().take(MOST_PROGRAMS);
    removal.running = shown.map(|program| format!("{} (process {})", program.file, program.pid)).collect();
}

/// Units that a boot starts, and services that are active now.
fn enabled_units() -> Result<BTreeSet<String>, Error> {
    let found = units::read()?;
    let starts = |state: &str| matches!(state, "enabled" | "enabled-runtime" | "linked" | "linked-runtime");
    let enabled = found.files.iter().filter(|(_, state)| starts(state)).map(|(name, _)| name.clone());
    let active = found.units.iter().filter(|unit| unit.is_active() && !unit.transient);
    let active = active.filter(|unit| unit.name.ends_with(".service")).map(|unit| unit.name.clone());
    Ok(enabled.chain(active).collect())
}

/// Every program that runs, with the sockets at which it listens.
fn programs(proc: &Path) -> Result<Vec<Program>, Error> {
    let sockets = listening(proc)?;
    let mut found = Vec::new();
    for pid in sockets::list(proc)?.iter().filter_map(|name| name.parse::<u32>().ok()) {
        let own = proc.join(pid.to_string());
        // Kernel threads have no file; others may have ended.
        let Ok(file) = std::fs::read_link(own.join("exe")) else { continue };
        let Some(inodes) = sockets::unless_gone(sockets::read_socket_inodes(&own))? else { continue };
        found.push(Program {
            pid,
            file: file.to_string_lossy().trim_end_matches(" (deleted)").to_owned(),
            listens: inodes.iter().filter_map(|inode| sockets.get(inode).cloned()).collect(),
        });
    }
    Ok(found)
}

/// Every listening socket by its inode.
fn listening(proc: &Path) -> Result<BTreeMap<u64, String>, Error> {
    let mut found = BTreeMap::new();
    for (table, protocol) in
        [("tcp", Protocol::Tcp), ("tcp6", Protocol::Tcp), ("udp", Protocol::Udp), ("udp6", Protocol::Udp)]
    {
        let path = proc.join("net").join(table);
        if !path.exists() {
            continue;
        }
        for row in sockets::parse_inet(&text(&path)?, protocol)? {
            let at = std::net::SocketAddr::new(row.address, row.port);
            found.insert(row.inode, format!("{} {at}", row.protocol.name()));
        }
    }
    for (path, inode) in sockets::parse_unix(&text(&proc.join("net/unix"))?)? {
        found.insert(inode, format!("unix {path}"));
    }
    Ok(found)
}

/// dpkg's list of a package's files; its name has the architecture where several can be installed at once.
fn file_list(root: &Path, package: &str) -> Result<String, Error> {
    let directory = root.join("var/lib/dpkg/info");
    let plain = directory.join(format!("{package}.list"));
    if plain.exists() {
        return text(&plain);
    }
    let of_package = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.strip_suffix(".list").is_some_and(|name| name.contains(':') && bare(name) == bare(package))
    };
    let entries = std::fs::read_dir(&directory)
        .map_err(|source| HealthError::Read { path: directory.clone(), source })?;
    let found = entries.flatten().map(|entry| entry.path()).find(of_package);
    text(&found.unwrap_or(plain))
}

/// `/bin/x` and `/usr/bin/x` are one file: the kernel names the second, package lists the first.
fn merged(path: &str) -> String {
    const MERGED: [&str; 6] = ["/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/"];
    if MERGED.iter().any(|directory| path.starts_with(directory)) {
        format!("/usr{path}")
    } else {
        path.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_sockets_and_programs_of_a_package() {
        let list =
            "/.\n/lib/systemd/system/php8.2-fpm.service\n/sbin/php-fpm8.2\n/usr/share/doc/php8.2-fpm\n";
        let units: BTreeSet<String> = ["php8.2-fpm.service".to_owned(), "nginx.service".to_owned()].into();
        let program = |pid, file: &str, listens: &[&str]| Program {
            pid,
            file: file.into(),
            listens: listens.iter().map(|one| (*one).to_owned()).collect(),
        };
        let programs = [
            program(7, "/usr/sbin/php-fpm8.2", &["unix /run/php/php8.2-fpm.sock"]),
            program(8, "/usr/sbin/php-fpm8.2", &["unix /run/php/php8.2-fpm.sock"]),
            program(9, "/usr/sbin/nginx", &["tcp 0.0.0.0:80"]),
        ];
        let mut removal = Removal { package: "php8.2-fpm".into(), ..Removal::default() };
        judge(&mut removal, list, &units, &programs);
        assert_eq!(removal.units, ["php8.2-fpm.service"]);
        assert_eq!(removal.listens, ["unix /run/php/php8.2-fpm.sock"]);
        assert_eq!(removal.running.len(), 2);
        assert!(removal.is_missed());
    }

    #[test]
    fn sees_this_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = format!("tcp {}", listener.local_addr().unwrap());
        match programs(Path::new("/proc")) {
            Ok(found) => {
                let mine = found.iter().find(|program| program.pid == std::process::id()).unwrap();
                assert!(mine.listens.contains(&at), "{mine:?}");
            }
            Err(error) => println!("skipped: needs root to look at other processes: {error}"),
        }
    }
}
