//! A Debian package file, read as far as its configuration files go. Nothing is unpacked, and nothing in it is trusted: every size
//! has a limit, and whatever is not as `dpkg-deb` writes it is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::stock::Md5Sum;
use super::tarball::{Members, TarballError};
use crate::sources::compressed::Decompressed;
use crate::system::beneath;

/// The most that `control.tar` may hold, in bytes. The largest of Debian (templates in all languages) hold less than 8 MiB.
const CONTROL_LIMIT: u64 = 64 << 20;
/// The most that `data.tar` may hold, in bytes: a kernel with debug symbols takes 5 GiB.
const CONTENT_LIMIT: u64 = 16 << 30;
/// The largest file of `control.tar` that is read, in bytes.
const SCRIPT_LIMIT: u64 = 8 << 20;
/// The largest configuration file of which more than its digests is kept, in bytes.
pub const KEPT_LIMIT: u64 = 1 << 20;
/// The largest configuration file that is read at all, in bytes.
const FILE_LIMIT: u64 = 256 << 20;
/// The most members before `data.tar`; there are three in all.
const AR_MEMBERS: usize = 16;

/// What the control part of a package says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Control {
    /// Its name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
    /// The configuration files that it declares, without those that it asks dpkg to remove.
    pub conffiles: BTreeSet<PathBuf>,
    /// Those that go away when it is installed.
    pub removed: BTreeSet<PathBuf>,
    /// Old configuration files that its scripts rename, and their new names.
    pub renamed: BTreeMap<PathBuf, PathBuf>,
}

/// A file in a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// For dpkg's comparison.
    pub md5: Md5Sum,
    /// For ours.
    pub blake3: blake3::Hash,
    /// The content, unless it is larger than [`KEPT_LIMIT`].
    pub bytes: Option<Vec<u8>>,
}

/// A package file that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// It could not be opened or read.
    #[error("failed to read the package")]
    Read(#[from] io::Error),
    /// It is no package, or one of another kind.
    #[error("it is no Debian package: {0}")]
    Format(&'static str),
    /// A tar archive in it.
    #[error("failed to read the package's {part}")]
    Tarball {
        /// `control.tar` or `data.tar`.
        part: &'static str,
        /// Why.
        source: TarballError,
    },
}

/// Something that a package can be read from, more than once.
pub trait Open {
    /// What is read.
    type Reader: Read + Seek + Send + 'static;

    /// The beginning of it.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open(&self) -> io::Result<Self::Reader>;
}

impl Open for Path {
    type Reader = File;

    fn open(&self) -> io::Result<File> {
        // The directory may belong to apt's unprivileged user.
        Ok(beneath::regular(rustix::fs::CWD, self.as_os_str())?.0)
    }
}

impl Open for [u8] {
    type Reader = Cursor<Vec<u8>>;

    fn open(&self) -> io::Result<Cursor<Vec<u8>>> {
        Ok(Cursor::new(self.to_vec()))
    }
}

/// Reads a package's name, version and what it says about configuration files.
///
/// # Errors
/// When it cannot be read, or is no package.
pub fn control<O: Open + ?Sized>(package: &O) -> Result<Control, DebError> {
    let mut found = Control::default();
    let mut named = false;
    let failed = |source| DebError::Tarball { part: "control.tar", source };
    let mut members = part(package, "control.tar", CONTROL_LIMIT)?;
    while let Some(member) = members.next().map_err(failed)? {
        let name = member.path.to_str().unwrap_or_default().trim_start_matches('/').to_owned();
        if !member.is_file {
            continue;
        }
        match name.as_str() {
            "control" | "conffiles" | "preinst" | "postinst" | "prerm" | "postrm" => {}
            _ => continue,
        }
        let text = members.content(SCRIPT_LIMIT).map_err(failed)?;
        let text = String::from_utf8_lossy(&text);
        match name.as_str() {
            "control" => named = take_fields(&text, &mut found),
            "conffiles" => take_conffiles(&text, &mut found),
            _ => take_script(&text, &mut found),
        }
    }
    if !named {
        return Err(DebError::Format("its control file names no package"));
    }
    Ok(found)
}

/// Reads the wanted files of a package; those that it lacks, or that are no plain files in it, are not in the result.
///
/// # Errors
/// When it cannot be read, or is no package.
pub fn contents<O: Open + ?Sized>(
    package: &O,
    wanted: &BTreeSet<PathBuf>,
) -> Result<BTreeMap<PathBuf, NewFile>, DebError> {
    let failed = |source| DebError::Tarball { part: "data.tar", source };
    let mut found = BTreeMap::new();
    let mut members = part(package, "data.tar", CONTENT_LIMIT)?;
    while found.len() < wanted.len() {
        let Some(member) = members.next().map_err(failed)? else { break };
        if !member.is_file || !wanted.contains(&member.path) {
            continue;
        }
        let bytes = members.content(FILE_LIMIT).map_err(failed)?;
        let (md5, blake3) = (Md5Sum::of(&bytes), blake3::hash(&bytes));
        let kept = (bytes.len() as u64 <= KEPT_LIMIT).then_some(bytes);
        found.insert(member.path, NewFile { md5, blake3, bytes: kept });
    }
    Ok(found)
}

/// Opens one of the tar archives in it.
fn part<O: Open + ?Sized>(package: &O, name: &'static str, limit: u64) -> Result<Members, DebError> {
    let mut reader = package.open()?;
    let size = seek_to(&mut reader, name)?;
    let is_tar = |first: &[u8]| first.get(257..262) == Some(b"ustar");
    Ok(Members::of(Decompressed::unless(reader.take(size), is_tar)?, limit))
}

/// Puts a reader at the content of a member of an ar archive whose name is `name` or begins with `name.`; returns its size.
fn seek_to(reader: &mut (impl Read + Seek), name: &str) -> Result<u64, DebError> {
    let mut magic = [0; 8];
    exactly(reader, &mut magic)?;
    if &magic != b"!<arch>\n" {
        return Err(DebError::Format("it is no ar archive"));
    }
    for _ in 0..AR_MEMBERS {
        let mut header = [0; 60];
        exactly(reader, &mut header)?;
        if &header[58..] != b"`\n" {
            return Err(DebError::Format("a header of its ar archive is damaged"));
        }
        let text = |range: std::ops::Range<usize>| std::str::from_utf8(&header[range]).map(str::trim);
        let (Ok(member), Ok(size)) = (text(0..16), text(48..58)) else {
            return Err(DebError::Format("a header of its ar archive is damaged"));
        };
        let size: u64 =
            size.parse().map_err(|_| DebError::Format("a size in its ar archive is no number"))?;
        let member = member.trim_end_matches('/');
        if member == name || member.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')) {
            return Ok(size);
        }
        let padded = size.saturating_add(size % 2);
        reader.seek(SeekFrom::Current(i64::try_from(padded).map_err(|_| too_large())?))?;
    }
    Err(DebError::Format("it has too many members"))
}

fn too_large() -> DebError {
    DebError::Format("a size in its ar archive is too large")
}

fn exactly(reader: &mut impl Read, buffer: &mut [u8]) -> Result<(), DebError> {
    reader.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => DebError::Format("it ends too early"),
        _ => DebError::Read(error),
    })
}

/// Whether the package has a name and a version.
fn take_fields(text: &str, found: &mut Control) -> bool {
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        match key {
            "Package" => value.trim().clone_into(&mut found.package),
            "Version" => value.trim().clone_into(&mut found.version),
            "Architecture" => value.trim().clone_into(&mut found.architecture),
            _ => {}
        }
    }
    !found.package.is_empty() && !found.version.is_empty()
}

/// `[remove-on-upgrade] PATH` lines.
fn take_conffiles(text: &str, found: &mut Control) {
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.strip_prefix("remove-on-upgrade ") {
            Some(path) => found.removed.insert(path.trim().into()),
            None => found.conffiles.insert(line.into()),
        };
    }
}

/// What debhelper writes into maintainer scripts: `dpkg-maintscript-helper rm_conffile PATH ...` and `mv_conffile OLD NEW ...`.
fn take_script(text: &str, found: &mut Control) {
    for line in text.lines().filter(|line| line.contains("dpkg-maintscript-helper ")) {
        let mut words = line
            .split_whitespace()
            .map(|word| word.trim_matches(['"', '\'', '\\']))
            .skip_while(|word| !word.ends_with("dpkg-maintscript-helper"));
        match (words.nth(1), words.next(), words.next()) {
            (Some("rm_conffile"), Some(path), _) if path.starts_with('/') => {
                found.removed.insert(path.into());
            }
            (Some("mv_conffile"), Some(old), Some(new)) if old.starts_with('/') && new.starts_with('/') => {
                found.renamed.insert(old.into(), new.into());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conffiles::made::deb;

    #[test]
    fn a_package_in_every_compression() {
        let script = "#!/bin/sh\nset -e\ndpkg-maintscript-helper rm_conffile /etc/old.conf 2.0-1\\~ -- \"$@\"\ndpkg-maintscript-helper mv_conffile /etc/a /etc/b 3 p -- \"$@\"\n";
        let files = [("/etc/one.conf", "1\n"), ("/etc/two.conf", "2\n"), ("/usr/bin/x", "3\n")];
        for compression in ["none", "gzip", "xz", "zstd"] {
            let conffiles = "/etc/one.conf\n/etc/two.conf\nremove-on-upgrade /etc/three.conf\n";
            let package = deb("p", "1:2-3", conffiles, script, &files, compression);
            let found = control(&package[..]).unwrap();
            assert_eq!((found.package.as_str(), found.version.as_str()), ("p", "1:2-3"));
            assert_eq!(found.conffiles.len(), 2);
            assert_eq!(found.removed, ["/etc/old.conf", "/etc/three.conf"].map(PathBuf::from).into());
            assert_eq!(found.renamed[Path::new("/etc/a")], Path::new("/etc/b"));
            let wanted = ["/etc/two.conf", "/etc/none"].map(PathBuf::from).into();
            let contents = contents(&package[..], &wanted).unwrap();
            assert_eq!(contents.len(), 1);
            let file = &contents[Path::new("/etc/two.conf")];
            assert_eq!((file.bytes.as_deref(), file.md5), (Some(&b"2\n"[..]), Md5Sum::of(b"2\n")));
        }
    }

    #[test]
    fn a_cut_package_is_an_error_everywhere() {
        let package = deb("p", "1", "/etc/one\n", "", &[("/etc/one", "1\n")], "none");
        let wanted = [PathBuf::from("/etc/one")].into();
        let mut whole = 0;
        for cut in 0..package.len() {
            let (control, contents) = (control(&package[..cut]), contents(&package[..cut], &wanted));
            match contents {
                // The end of the archive behind the file is not needed.
                Ok(found) => {
                    assert_eq!(found.len(), 1, "cut at {cut}");
                    assert!(control.is_ok());
                    whole += 1;
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        assert!(whole > 0 && whole < package.len() / 2);
    }

    #[test]
    fn what_dpkg_deb_makes() {
        let seeds: [&[u8]; 4] = [
            include_bytes!("../../fuzz/seeds/deb_read/dpkg-none"),
            include_bytes!("../../fuzz/seeds/deb_read/dpkg-gzip"),
            include_bytes!("../../fuzz/seeds/deb_read/dpkg-xz"),
            include_bytes!("../../fuzz/seeds/deb_read/dpkg-zstd"),
        ];
        for seed in seeds {
            let found = control(seed).unwrap();
            assert_eq!((found.package.as_str(), found.architecture.as_str()), ("one", "all"));
            assert_eq!(found.removed, ["/etc/one/gone.conf", "/etc/one/old.conf"].map(PathBuf::from).into());
            let files = contents(seed, &found.conffiles).unwrap();
            assert_eq!(files[Path::new("/etc/one/main.conf")].bytes.as_deref(), Some(&b"new\n"[..]));
        }
        let mut understood = 0;
        for at in 0..seeds[2].len() {
            let mut broken = seeds[2].to_vec();
            broken[at] ^= 0x55;
            let found = control(&broken[..]).and_then(|found| contents(&broken[..], &found.conffiles));
            // Checksums of xz stand behind what they are for and are not always reached: that the whole file is the right one
            // was apt's to prove when it was fetched.
            understood += usize::from(found.is_ok());
        }
        assert!(understood < seeds[2].len(), "{understood}");
    }

    #[test]
    fn nothing_waits_for_the_writer_of_a_pipe() {
        let place = tempfile::tempdir().unwrap();
        let pipe = place.path().join("lab_1_all.deb");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        let link = place.path().join("lab_2_all.deb");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        for path in [&pipe, &link] {
            assert!(matches!(control(path.as_path()), Err(DebError::Read(_))), "{}", path.display());
        }
    }

    #[test]
    fn what_is_no_package() {
        let wrong = |bytes: &[u8]| control(bytes).unwrap_err().to_string();
        assert!(wrong(b"").contains("ends too early"));
        assert!(wrong(b"PK\x03\x04 and more").contains("no ar archive"));
        let nameless = deb("", "1", "", "", &[], "gzip");
        assert!(wrong(&nameless).contains("names no package"));
        let mut huge = b"!<arch>\n".to_vec();
        huge.extend(format!("{:<48}{:<10}`\n", "debian-binary", 9_999_999_999_u64).into_bytes());
        assert!(wrong(&huge).contains("ends too early"));
    }
}
