//! The configuration files that installed packages declare, and which of them are not as they came.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// An MD5 digest: the only one that dpkg and ucf record. It tells versions of a file apart; it proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Md5Sum([u8; 16]);

impl Md5Sum {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Md5::digest(bytes).into())
    }

    /// From 32 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut sum = [0; 16];
        for (byte, pair) in sum.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(sum))
    }
}

impl fmt::Display for Md5Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Md5Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Who asks about a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keeper {
    /// dpkg: a package declares it.
    Dpkg,
    /// ucf: a maintainer script makes it.
    Ucf,
}

/// A configuration file as it lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// As the package brought it.
    Unchanged,
    /// Changed by somebody.
    Changed(Md5Sum),
    /// Deleted by somebody.
    Missing,
    /// A directory or something else that is no file: neither dpkg nor ucf touches it.
    NoFile,
}

/// A declared configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conffile {
    /// On the system, such as `/etc/nginx/nginx.conf`.
    pub path: PathBuf,
    /// The package; empty where ucf does not know it.
    pub package: String,
    /// Who asks about it.
    pub keeper: Keeper,
    /// What the installed version brought.
    pub recorded: Md5Sum,
    /// The installed version no longer has it.
    pub obsolete: bool,
    /// How it lies there.
    pub local: Local,
}

impl Conffile {
    /// Somebody changed or deleted it.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        matches!(self.local, Local::Changed(_) | Local::Missing)
    }
}

/// All declared configuration files of a system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stock {
    /// In the order of packages.
    pub conffiles: Vec<Conffile>,
    /// Every installed package, with its version.
    pub versions: BTreeMap<String, String>,
}

/// Configuration files that could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum StockError {
    /// A file could not be read.
    #[error("failed to read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// dpkg's or ucf's list is not as they write it.
    #[error("{} line {line} was not understood", .path.display())]
    Line {
        /// Which list.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
}

/// dpkg's list of packages.
const STATUS: &str = "/var/lib/dpkg/status";
/// What ucf last brought, and for which package.
const HASHFILE: &str = "/var/lib/ucf/hashfile";
const REGISTRY: &str = "/var/lib/ucf/registry";

/// Looks at the system below a root. Links are followed as dpkg does, and never out of the root.
///
/// # Errors
/// When a list or a file cannot be read: a file that was not looked at would pass for an unchanged one.
pub fn look(root: &Path) -> Result<Stock, StockError> {
    let below = Below::open(root)?;
    let status = below.text(STATUS)?.ok_or_else(|| read_failed(STATUS, Errno::NOENT.into()))?;
    let mut stock = parse_status(&status)?;
    if let Some(hashes) = below.text(HASHFILE)? {
        let registry = below.text(REGISTRY)?.unwrap_or_default();
        stock.conffiles.extend(parse_ucf(&hashes, &registry)?);
    }
    for conffile in &mut stock.conffiles {
        conffile.local = below.local(&conffile.path, conffile.recorded)?;
    }
    Ok(stock)
}

/// Understands dpkg's status file; every file counts as unchanged until it was looked at.
///
/// # Errors
/// When a line of `Conffiles` has no digest.
pub fn parse_status(text: &str) -> Result<Stock, StockError> {
    let mut stock = Stock::default();
    let mut stanza = Stanza::default();
    for (at, line) in text.lines().enumerate() {
        if line.is_empty() {
            std::mem::take(&mut stanza).into_stock(&mut stock);
        } else if !stanza.take(line) {
            return Err(StockError::Line { path: STATUS.into(), line: at + 1 });
        }
    }
    stanza.into_stock(&mut stock);
    Ok(stock)
}

/// Understands ucf's two lists.
///
/// # Errors
/// When a line holds no digest and path.
pub fn parse_ucf(hashes: &str, registry: &str) -> Result<Vec<Conffile>, StockError> {
    let owners: BTreeMap<&str, &str> = registry
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(package, path)| (path.trim(), package))
        .collect();
    let lines = hashes.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(at, line)| {
            let wrong = || StockError::Line { path: HASHFILE.into(), line: at + 1 };
            let (sum, path) = line.split_once(char::is_whitespace).ok_or_else(wrong)?;
            let path = path.trim();
            Ok(Conffile {
                path: path.into(),
                package: owners.get(path).map_or(String::new(), |package| (*package).to_owned()),
                keeper: Keeper::Ucf,
                recorded: Md5Sum::parse(sum).ok_or_else(wrong)?,
                obsolete: false,
                local: Local::Unchanged,
            })
        })
        .collect()
}

fn read_failed(path: impl Into<PathBuf>, source: io::Error) -> StockError {
    StockError::Read { path: path.into(), source }
}

#[derive(Debug, Default)]
struct Stanza {
    package: String,
    installed: bool,
    version: String,
    conffiles: Vec<(PathBuf, Md5Sum, bool)>,
    in_conffiles: bool,
}

impl Stanza {
    /// Whether the line was understood; of what is not needed nothing is asked.
    fn take(&mut self, line: &str) -> bool {
        if line.starts_with([' ', '\t']) {
            return !self.in_conffiles || self.take_conffile(line.trim());
        }
        let Some((key, value)) = line.split_once(':') else { return false };
        let value = value.trim();
        self.in_conffiles = key == "Conffiles";
        match key {
            "Package" => value.clone_into(&mut self.package),
            "Version" => value.clone_into(&mut self.version),
            // What was removed and left its configuration is not upgraded.
            "Status" => {
                self.installed = !value.ends_with("config-files") && !value.ends_with("not-installed")
            }
            _ => {}
        }
        true
    }

    /// `PATH DIGEST [obsolete] [remove-on-upgrade]`; a path may hold spaces.
    fn take_conffile(&mut self, line: &str) -> bool {
        let mut rest = line;
        let mut obsolete = false;
        while let Some((before, flag)) = rest.rsplit_once(' ') {
            match flag {
                "obsolete" => obsolete = true,
                "remove-on-upgrade" => {}
                _ => break,
            }
            rest = before;
        }
        let Some((path, sum)) = rest.rsplit_once(' ') else { return false };
        match Md5Sum::parse(sum) {
            Some(sum) => self.conffiles.push((path.into(), sum, obsolete)),
            // dpkg was interrupted before it ever decided: nothing of before is known.
            None if matches!(sum, "newconffile" | "nonexistent" | "-") => {}
            None => return false,
        }
        true
    }

    fn into_stock(self, stock: &mut Stock) {
        if !self.installed {
            return;
        }
        stock.conffiles.extend(self.conffiles.into_iter().map(|(path, recorded, obsolete)| Conffile {
            path,
            package: self.package.clone(),
            keeper: Keeper::Dpkg,
            recorded,
            obsolete,
            local: Local::Unchanged,
        }));
        stock.versions.insert(self.package, self.version);
    }
}

/// A system below a root: its own links lead nowhere else.
#[derive(Debug)]
pub(super) struct Below(File);

impl Below {
    pub(super) fn open(root: &Path) -> Result<Self, StockError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root_directory = rustix::fs::open(root, flags, Mode::empty());
        root_directory.map(|open| Self(open.into())).map_err(|errno| read_failed(root, errno.into()))
    }

    /// A file that is there; nothing is waited for, not for the writer of a pipe.
    pub(super) fn file(&self, path: &Path) -> Result<Option<File>, StockError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve) {
            Ok(open) => Ok(Some(open.into())),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(read_failed(path, errno.into())),
        }
    }

    pub(super) fn text(&self, path: &str) -> Result<Option<String>, StockError> {
        let Some(mut file) = self.file(Path::new(path))? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|source| read_failed(path, source))?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// At most `limit` bytes of a file; `None` when there is no such file.
    pub(super) fn bytes(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StockError> {
        let Some(file) = self.file(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(|source| read_failed(path, source))?;
        Ok(Some(bytes))
    }

    /// The digest of a plain file; `None` when there is none by this name.
    pub(super) fn sum(&self, path: &Path) -> Result<Option<Md5Sum>, StockError> {
        let Some(file) = self.file(path)? else { return Ok(None) };
        sum_of(file).map_err(|source| read_failed(path, source))
    }

    fn local(&self, path: &Path, recorded: Md5Sum) -> Result<Local, StockError> {
        let Some(file) = self.file(path)? else { return Ok(Local::Missing) };
        let sum = sum_of(file).map_err(|source| read_failed(path, source))?;
        Ok(match sum {
            None => Local::NoFile,
            Some(sum) if sum == recorded => Local::Unchanged,
            Some(sum) => Local::Changed(sum),
        })
    }
}

/// `None` when it is no plain file.
fn sum_of(mut file: File) -> io::Result<Option<Md5Sum>> {
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let mut hasher = Md5::new();
    io::copy(&mut file, &mut hasher)?;
    Ok(Some(Md5Sum(hasher.finalize().into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const SUM: &str = "60b725f10c9c85c70d97880dfe8191b3"; // of "a\n"

    #[test]
    fn a_status_file() {
        let text = format!(
            "Package: one\nStatus: install ok installed\nArchitecture: all\nVersion: 1:2-3\nConffiles:\n /etc/one {SUM}\n /etc/with a space {SUM} obsolete\n /etc/half newconffile\nDescription: x\n y z\n\nPackage: gone\nStatus: deinstall ok config-files\nConffiles:\n /etc/gone {SUM}\n\nPackage: none\nStatus: install ok installed\n"
        );
        let stock = parse_status(&text).unwrap();
        let found: Vec<_> =
            stock.conffiles.iter().map(|one| (one.path.to_str().unwrap(), one.obsolete)).collect();
        assert_eq!(found, [("/etc/one", false), ("/etc/with a space", true)]);
        assert_eq!(stock.versions["one"], "1:2-3");
        assert_eq!(stock.versions.len(), 2);
        let broken = "Package: x\nStatus: install ok installed\nConffiles:\n /etc/x 123\n";
        assert!(matches!(parse_status(broken), Err(StockError::Line { line: 4, .. })));
    }

    #[test]
    fn ucf_lists() {
        let hashes = format!("{SUM}  /etc/ssh/sshd_config\n{SUM}  /etc/default/grub\n");
        let found = parse_ucf(&hashes, "openssh-server \t /etc/ssh/sshd_config\n").unwrap();
        assert_eq!((found[0].package.as_str(), found[1].package.as_str()), ("openssh-server", ""));
        assert_eq!(found[1].path, Path::new("/etc/default/grub"));
        assert!(parse_ucf("zzz /etc/x\n", "").is_err());
    }

    #[test]
    fn what_lies_below_a_root() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir_all(at("var/lib/dpkg")).unwrap();
        std::fs::create_dir_all(at("etc/d")).unwrap();
        let mut status = "Package: p\nStatus: install ok installed\nConffiles:\n".to_owned();
        for name in ["same", "changed", "missing", "d", "link", "out"] {
            status.push_str(&format!(" /etc/{name} {SUM}\n"));
        }
        std::fs::write(at("var/lib/dpkg/status"), status).unwrap();
        std::fs::write(at("etc/same"), "a\n").unwrap();
        std::fs::write(at("etc/changed"), "b\n").unwrap();
        symlink("/etc/same", at("etc/link")).unwrap();
        symlink("/../../../../../../etc/hostname", at("etc/out")).unwrap();
        let stock = look(root.path()).unwrap();
        let local: Vec<Local> = stock.conffiles.iter().map(|one| one.local).collect();
        let changed = Local::Changed(Md5Sum::of(b"b\n"));
        assert_eq!(
            local,
            [Local::Unchanged, changed, Local::Missing, Local::NoFile, Local::Unchanged, Local::Missing]
        );
        assert!(look(&at("etc")).unwrap_err().to_string().contains("/var/lib/dpkg/status"));
    }
}
