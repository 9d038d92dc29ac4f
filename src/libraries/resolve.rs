//! Which file the dynamic linker would take for a soname, on the system below a root: ld.so(8).

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::LibrariesError;
use super::elf::{self, Kind, Needs};

/// More files than this are not included into a linker configuration, nor as deep.
const MOST_INCLUDED: usize = 256;

/// Where the dynamic linker looks.
#[derive(Debug)]
pub struct Linker {
    root: PathBuf,
    top: OwnedFd,
    directories: Vec<PathBuf>,
    seen: RefCell<HashMap<PathBuf, Option<Library>>>,
}

/// A library that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Where it was found.
    pub path: PathBuf,
    /// Which file that is, all links followed.
    pub real: PathBuf,
    kind: Kind,
}

impl Linker {
    /// Reads the linker's configuration below `root`.
    ///
    /// # Errors
    /// When something that is there cannot be read.
    pub fn read(root: &Path) -> Result<Self, LibrariesError> {
        let wrong = |source: Errno| LibrariesError::Read { path: root.to_owned(), source: source.into() };
        let top = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(wrong)?;
        let mut directories = Vec::new();
        read_configuration(root, Path::new("etc/ld.so.conf"), &mut directories, &mut 0)?;
        directories.extend(system_directories());
        Ok(Self { root: root.to_owned(), top, directories, seen: RefCell::default() })
    }

    /// The directories of the whole system, in the linker's order.
    #[must_use]
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// The file for a soname that the program at `path` (absolute, below the root) needs.
    #[must_use]
    pub fn find(&self, path: &Path, needs: &Needs, soname: &str) -> Option<Library> {
        if soname.contains('/') {
            return self.library(&expand(soname, path)).filter(|library| library.kind == needs.kind);
        }
        // DT_RPATH is not looked at where DT_RUNPATH is.
        let own = if needs.runpath.is_empty() { &needs.rpath } else { &needs.runpath };
        own.iter()
            .map(|directory| expand(directory, path))
            .chain(self.directories.iter().cloned())
            .filter_map(|directory| self.library(&directory.join(soname)))
            .find(|library| library.kind == needs.kind)
    }

    /// The library at an absolute path, if there is one.
    fn library(&self, path: &Path) -> Option<Library> {
        if let Some(known) = self.seen.borrow().get(path) {
            return known.clone();
        }
        // A file that can't be opened or is no library is passed over by the linker too.
        let found = self.open(path).ok().flatten();
        self.seen.borrow_mut().insert(path.to_owned(), found.clone());
        found
    }

    fn open(&self, path: &Path) -> io::Result<Option<Library>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(&self.top, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        let mut file = File::from(file);
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut first = [0_u8; 20];
        file.read_exact(&mut first)?;
        let real = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let top = fs::read_link(format!("/proc/self/fd/{}", self.top.as_raw_fd()))?;
        let real = Path::new("/").join(real.strip_prefix(&top).unwrap_or(&real));
        Ok(kind_of(&first).map(|kind| Library { path: path.to_owned(), real, kind }))
    }

    /// The root that it looks below.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Where the linker of Debian looks without being told, for the architecture of this program and the plain directories.
#[must_use]
pub fn system_directories() -> Vec<PathBuf> {
    let triplet = triplet();
    ["/lib", "/usr/lib"]
        .iter()
        .flat_map(|lib| {
            [format!("{lib}/{triplet}"), (*lib).to_owned(), format!("{lib}64"), format!("{lib}32")]
        })
        .map(PathBuf::from)
        .collect()
}

/// Debian's name of the directory for this architecture's libraries.
fn triplet() -> String {
    match std::env::consts::ARCH {
        "x86" => "i386-linux-gnu".into(),
        "arm" => "arm-linux-gnueabihf".into(),
        "powerpc64" => "powerpc64le-linux-gnu".into(),
        other => format!("{other}-linux-gnu"),
    }
}

/// Class and machine of an ELF header's first 20 bytes.
fn kind_of(first: &[u8; 20]) -> Option<Kind> {
    if !elf::is_elf(first) || !matches!(first[4], 1 | 2) {
        return None;
    }
    let machine = [first[18], first[19]];
    let machine = if first[5] == 2 { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
    Some(Kind { wide: first[4] == 2, machine })
}

/// Puts in what a search path leaves open: `$ORIGIN`, `$LIB`, `$PLATFORM`. Then `..` is taken back by the letters, which is right
/// unless a directory on the way is a link.
fn expand(directory: &str, program: &Path) -> PathBuf {
    let origin = program.parent().unwrap_or(Path::new("/")).to_string_lossy();
    let lib = format!("lib/{}", triplet());
    let values = [("ORIGIN", origin.as_ref()), ("LIB", lib.as_str()), ("PLATFORM", std::env::consts::ARCH)];
    let mut text = directory.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
    }
    let mut path = PathBuf::from("/");
    for component in Path::new(&text).components() {
        match component {
            Component::ParentDir => drop(path.pop()),
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    path
}

fn read_configuration(
    root: &Path,
    file: &Path,
    directories: &mut Vec<PathBuf>,
    included: &mut usize,
) -> Result<(), LibrariesError> {
    *included += 1;
    if *included > MOST_INCLUDED {
        return Ok(());
    }
    let path = root.join(file.strip_prefix("/").unwrap_or(file));
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(LibrariesError::Read { path, source }),
    };
    for line in text.lines().map(|line| line.split('#').next().unwrap_or("").trim()) {
        if let Some(pattern) = line.strip_prefix("include").map(str::trim) {
            for included_file in matching(root, pattern)? {
                read_configuration(root, &included_file, directories, included)?;
            }
        } else if line.starts_with('/') {
            directories.push(PathBuf::from(line));
        }
    }
    Ok(())
}

/// The files that `include /etc/ld.so.conf.d/*.conf` means. Other patterns than a star in the name are taken as they are.
fn matching(root: &Path, pattern: &str) -> Result<Vec<PathBuf>, LibrariesError> {
    let pattern = Path::new("/etc").join(pattern);
    let name = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (Some((before, after)), Some(directory)) = (name.split_once('*'), pattern.parent()) else {
        return Ok(vec![pattern]);
    };
    let listed = root.join(directory.strip_prefix("/").unwrap_or(directory));
    let wrong = |source| LibrariesError::Read { path: listed.clone(), source };
    let entries = match fs::read_dir(&listed) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(wrong(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let name = entry.map_err(wrong)?.file_name();
        let shown = name.to_string_lossy();
        if shown.len() >= before.len() + after.len() && shown.starts_with(before) && shown.ends_with(after) {
            files.push(directory.join(name));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libraries::made_up::elf_file;
    use std::os::unix::fs::symlink;

    fn needs(runpath: &[&str], rpath: &[&str]) -> Needs {
        let own = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
        let kind = Kind { wide: true, machine: object::elf::EM_X86_64 };
        Needs { kind, needed: Vec::new(), runpath: own(runpath), rpath: own(rpath), is_program: true }
    }

    #[test]
    fn as_the_linker_does() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, bytes: &[u8]| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        let library = elf_file(&[], None, None);
        put("etc/ld.so.conf", b"include /etc/ld.so.conf.d/*.conf\n");
        put("etc/ld.so.conf.d/own.conf", b"# mine\n/own\n");
        put("etc/ld.so.conf.d/off.conf.old", b"/off\n");
        put("own/libone.so.1", &library);
        put("usr/lib/libone.so.1", &library);
        put("opt/app/lib/libone.so.1", &library);
        put("off/liboff.so.1", &library);
        let mut other = library.clone();
        other[18] = 183;
        put("own/libtwo.so.1", &other);
        put("usr/lib/two/libtwo.so.1", &library);
        symlink("/etc/alternatives/libtwo", dir.path().join("usr/lib/libtwo.so.1")).unwrap();
        fs::create_dir_all(dir.path().join("etc/alternatives")).unwrap();
        symlink("/usr/lib/two/libtwo.so.1", dir.path().join("etc/alternatives/libtwo")).unwrap();

        let linker = Linker::read(dir.path()).unwrap();
        let program = Path::new("/opt/app/bin/tool");
        let find = |needs: &Needs, soname: &str| linker.find(program, needs, soname).map(|found| found.real);
        assert_eq!(find(&needs(&[], &[]), "libone.so.1"), Some("/own/libone.so.1".into()));
        let bundled = Some(PathBuf::from("/opt/app/lib/libone.so.1"));
        assert_eq!(find(&needs(&["$ORIGIN/../lib"], &[]), "libone.so.1"), bundled);
        assert_eq!(find(&needs(&[], &["${ORIGIN}/../lib"]), "libone.so.1"), bundled);
        assert_eq!(
            find(&needs(&["/none"], &["$ORIGIN/../lib"]), "libone.so.1"),
            Some("/own/libone.so.1".into())
        );
        // That of another machine is passed over, and a link is followed within the root.
        assert_eq!(find(&needs(&[], &[]), "libtwo.so.1"), Some("/usr/lib/two/libtwo.so.1".into()));
        assert_eq!(find(&needs(&[], &[]), "liboff.so.1"), None);
        assert_eq!(find(&needs(&[], &[]), "/opt/app/lib/libone.so.1"), bundled);
    }
}
