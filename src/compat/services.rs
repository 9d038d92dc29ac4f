//! What of big services lies on the disk: PostgreSQL clusters, the directory of MariaDB, environments of Python.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use walkdir::WalkDir;

use super::Error;
use crate::health::HealthError;

/// Where people put programs of their own.
const OWN_PLACES: [&str; 4] = ["opt", "srv", "home", "usr/local"];
/// `/srv/app/venvs/name/pyvenv.cfg` and two levels more.
const VENV_DEPTH: usize = 6;
/// More directories than this are not looked at below one place.
const MOST_DIRECTORIES: usize = 100_000;
/// Longer than this, all places together, is not looked: `check` has to be done within a minute.
const LIMIT: Duration = Duration::from_secs(15);
/// A `pyvenv.cfg` has some hundred bytes.
const MOST_OF_A_CONFIGURATION: u64 = 64 << 10;
/// Directories without environments, but with very many files.
const SKIPPED: [&str; 4] = ["node_modules", ".git", "site-packages", "__pycache__"];

/// A PostgreSQL cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cluster {
    /// The major version that its files have: `15`.
    pub version: String,
    /// Its name: `main`.
    pub name: String,
    /// Where it was found.
    pub path: PathBuf,
}

/// The directory of MariaDB or MySQL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MysqlDirectory {
    /// Where.
    pub path: PathBuf,
    /// The versions `X.Y` of the files `debian-X.Y.flag`, which Debian's packages leave there.
    pub flags: Vec<String>,
    /// Whether MySQL 8.0 or newer wrote it (`undo_001`).
    pub of_mysql: bool,
}

/// An environment of Python, with the version that made it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Environment {
    /// Its directory.
    pub path: PathBuf,
    /// `3.11.2`.
    pub version: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    /// PostgreSQL.
    pub clusters: Vec<Cluster>,
    /// MariaDB or MySQL.
    pub mysql: Option<MysqlDirectory>,
    /// Python.
    pub environments: Vec<Environment>,
    /// Directories `/usr/local/lib/python3.N/dist-packages` with something in them.
    pub python_modules: Vec<PathBuf>,
    /// Places of people that were not searched, or not to the end, and why.
    pub not_searched: Vec<String>,
}

/// Looks below a root.
///
/// # Errors
/// When a directory of a service is there and cannot be read. In places of people it is what they make it, and may be a mount that
/// root cannot enter: that is in the answer.
pub fn read(root: &Path) -> Result<Services, Error> {
    let mut found = Services { mysql: mysql(root)?, clusters: clusters(root)?, ..Services::default() };
    let deadline = Instant::now() + LIMIT;
    for place in OWN_PLACES {
        environments(root, place, deadline, &mut found);
    }
    if let Err(error) = python_modules(root, &mut found) {
        found.not_searched.push(crate::error::chain(&error));
    }
    found.environments.sort();
    Ok(found)
}

fn python_modules(root: &Path, found: &mut Services) -> Result<(), Error> {
    for entry in list(&root.join("usr/local/lib"))? {
        let modules = entry.join("dist-packages");
        let python = entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3."));
        if python && !list(&modules)?.is_empty() {
            found.python_modules.push(below(root, &modules));
        }
    }
    Ok(())
}

/// From the configuration, and from the data where the configuration is elsewhere.
fn clusters(root: &Path) -> Result<Vec<Cluster>, Error> {
    let mut found: Vec<Cluster> = Vec::new();
    for (place, mark) in [("etc/postgresql", "postgresql.conf"), ("var/lib/postgresql", "PG_VERSION")] {
        for version in list(&root.join(place))? {
            for cluster in list(&version)?.into_iter().filter(|cluster| cluster.join(mark).exists()) {
                let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let (version, name) = (name(&version), name(&cluster));
                if !found.iter().any(|one| one.version == version && one.name == name) {
                    found.push(Cluster { version, name, path: below(root, &cluster) });
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

fn mysql(root: &Path) -> Result<Option<MysqlDirectory>, Error> {
    let directory = root.join("var/lib/mysql");
    let files = list(&directory)?;
    if files.is_empty() {
        return Ok(None);
    }
    let names = files.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let mut found = MysqlDirectory { path: below(root, &directory), ..MysqlDirectory::default() };
    for name in names {
        found.of_mysql |= name == "undo_001";
        let flag = name.strip_prefix("debian-").and_then(|name| name.strip_suffix(".flag"));
        found.flags.extend(flag.map(str::to_owned));
    }
    found.flags.sort();
    Ok(Some(found))
}

fn environments(root: &Path, place: &str, deadline: Instant, found: &mut Services) {
    let directory = root.join(place);
    let wanted = |entry: &walkdir::DirEntry| {
        entry.file_type().is_dir() && !SKIPPED.iter().any(|skipped| entry.file_name() == *skipped)
            || entry.file_name() == "pyvenv.cfg"
    };
    let mut not = |path: &Path, why: &dyn std::fmt::Display| {
        found.not_searched.push(format!("{}: {why}", below(root, path).display()));
    };
    // The link on the place itself is followed: `/home` may be one.
    let walk = WalkDir::new(&directory).max_depth(VENV_DEPTH).same_file_system(true);
    for (number, entry) in walk.into_iter().filter_entry(wanted).enumerate() {
        if number > MOST_DIRECTORIES || Instant::now() >= deadline {
            not(&directory, &"there are too many directories");
            break;
        }
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                // It went away meanwhile, or was never there.
                if error.io_error().is_none_or(|io| io.kind() != io::ErrorKind::NotFound) {
                    let why = error.io_error().map_or_else(|| "a loop of links".into(), ToString::to_string);
                    not(error.path().unwrap_or(&directory), &why);
                }
                continue;
            }
        };
        if !entry.file_type().is_file() {
            continue;
        }
        match configuration(entry.path()) {
            Ok(text) => {
                let path = below(root, entry.path().parent().unwrap_or(&directory));
                let version = environment_version(&text);
                found.environments.extend(version.map(|version| Environment { path, version }));
            }
            Err(error) => not(entry.path(), &error),
        }
    }
}

/// The text of a file that was an ordinary one a moment ago; its owner may have put something else there since.
fn configuration(path: &Path) -> io::Result<String> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no ordinary file"));
    }
    let mut bytes = Vec::new();
    file.take(MOST_OF_A_CONFIGURATION).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `version = 3.11.2` of pyvenv.cfg, or `version_info = 3.11.2.final.0` of virtualenv's.
fn environment_version(text: &str) -> Option<String> {
    let value = |wanted: &str| {
        let pair = |line: &'_ str| {
            line.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        };
        text.lines().filter_map(pair).find(|(key, _)| key == wanted).map(|(_, value)| value)
    };
    value("version").or_else(|| value("version_info"))
}

/// The paths in a directory, sorted; none when it is not there.
fn list(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = |source| HealthError::Read { path: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        other => other.map_err(read)?,
    };
    let mut found =
        entries.map(|entry| entry.map(|entry| entry.path()).map_err(read)).collect::<Result<Vec<_>, _>>()?;
    found.sort();
    Ok(found)
}

fn below(root: &Path, path: &Path) -> PathBuf {
    Path::new("/").join(path.strip_prefix(root).unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn finds_what_is_there() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(read(root.path()).unwrap(), Services::default());
        write("etc/postgresql/15/main/postgresql.conf", "");
        write("var/lib/postgresql/15/main/PG_VERSION", "15\n");
        write("var/lib/postgresql/13/old/PG_VERSION", "13\n");
        write("var/lib/mysql/debian-10.11.flag", "");
        write("var/lib/mysql/ibdata1", "");
        write("srv/app/venv/pyvenv.cfg", "home = /usr/bin\nversion = 3.11.2\n");
        write("srv/app/node_modules/x/pyvenv.cfg", "version = 3.11.2\n");
        write("home/x/env/pyvenv.cfg", "version_info = 3.11.2.final.0\n");
        write("usr/local/lib/python3.11/dist-packages/thing.py", "");
        fs::create_dir_all(root.path().join("usr/local/lib/python3.9/dist-packages")).unwrap();
        let found = read(root.path()).unwrap();
        let clusters: Vec<_> = found.clusters.iter().map(|one| (&*one.version, &*one.name)).collect();
        assert_eq!(clusters, [("13", "old"), ("15", "main")]);
        assert_eq!(found.clusters[1].path, Path::new("/etc/postgresql/15/main"));
        let mysql = found.mysql.unwrap();
        assert_eq!((mysql.flags, mysql.of_mysql), (vec!["10.11".to_owned()], false));
        let paths: Vec<_> = found.environments.iter().map(|one| one.path.display().to_string()).collect();
        assert_eq!(paths, ["/home/x/env", "/srv/app/venv"]);
        assert_eq!(found.python_modules, [Path::new("/usr/local/lib/python3.11/dist-packages")]);
    }
    #[test]
    fn what_people_have_put_there_neither_blocks_nor_stops() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for directory in ["home/ann/a", "home/bob/b", "srv/c"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        symlink("/dev/zero", at("home/ann/a/pyvenv.cfg")).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, at("home/bob/b/pyvenv.cfg"), fifo, mode, 0).unwrap();
        fs::write(at("srv/c/pyvenv.cfg"), "version = 3.12.3\n".to_owned() + &"x".repeat(1 << 20)).unwrap();
        let found = read(root.path()).unwrap();
        assert_eq!((found.environments.len(), &found.not_searched[..]), (1, &[][..]));
        assert!(configuration(&at("home/ann/a/pyvenv.cfg")).is_err(), "a link that came in between");
        assert!(configuration(&at("home/bob/b/pyvenv.cfg")).is_err(), "a pipe that came in between");

        let mut late = Services::default();
        environments(root.path(), "home", Instant::now(), &mut late);
        assert_eq!(late.not_searched, ["/home: there are too many directories"]);
        // Stands for a home that root cannot enter.
        symlink("opt", at("opt")).unwrap();
        let found = read(root.path()).unwrap();
        assert!(found.not_searched.len() == 1 && found.not_searched[0].starts_with("/opt: "), "{found:?}");
    }
}
