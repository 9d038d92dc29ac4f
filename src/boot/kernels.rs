//! The kernels in `/boot`: what each is, and whether it can bring up a given root.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::initrd::{self, Initrd, InitrdError, module_name};
use crate::system::show;

/// What the image of an x86 kernel says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The version, as `uname -r` will say it.
    pub version: String,
    /// Bytes that the image must have at least; a signature may follow.
    pub length: u64,
}

/// A kernel in `/boot`, as far as a quick look tells; [`prove`] looks closer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The version in its file name.
    pub version: String,
    /// Its image.
    pub kernel: PathBuf,
    /// Its initrd, when there is one.
    pub initrd: Option<PathBuf>,
    /// The root has modules for it, and their list of dependencies.
    pub has_modules: bool,
    /// The image says that it is this version, and is as long as it says.
    pub is_what_it_says: bool,
}

impl Kernel {
    /// Everything that a boot needs is there, at first sight.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.initrd.is_some() && self.has_modules && self.is_what_it_says
    }
}

/// A kernel, its initrd and a root that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The kernel's version.
    pub version: String,
    /// What its initrd holds; it was read to its end.
    pub initrd: Initrd,
    /// Where the driver of the root's filesystem is.
    pub driver: Driver,
}

/// Where a driver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// In the kernel itself.
    BuiltIn,
    /// A module in the initrd, with all modules that it needs.
    InInitrd,
}

/// Why a kernel does not bring up a root, for certain.
#[derive(Debug, thiserror::Error)]
pub enum NotBootable {
    /// The file is not there.
    #[error("{} is not there", show::path(.0))]
    Missing(PathBuf),
    /// The file is no image of an x86 kernel.
    #[error("{} is no kernel image", show::path(.0))]
    NoImage(PathBuf),
    /// The image is of a kind that says neither its version nor its length.
    #[error("{} is {kind}; safe-upgrade understands images of x86 kernels only", show::path(.kernel))]
    Foreign {
        /// The image.
        kernel: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The image ends too early.
    #[error("{} has {length} bytes, but its header says {expected}", show::path(.kernel))]
    CutImage {
        /// The image.
        kernel: PathBuf,
        /// What it has.
        length: u64,
        /// What it must have.
        expected: u64,
    },
    /// The kernel cannot unpack the initrd.
    #[error("{} cannot be unpacked by a kernel", show::path(.path))]
    Initrd {
        /// The initrd.
        path: PathBuf,
        /// Why.
        source: InitrdError,
    },
    /// The initrd was made for another kernel.
    #[error("{} has modules for {}, the kernel is {version}", show::path(.path), .has.join(" and "))]
    OtherKernel {
        /// The initrd.
        path: PathBuf,
        /// Versions that it has modules for.
        has: Vec<String>,
        /// The kernel's.
        version: String,
    },
    /// A module without which the root cannot be mounted is neither in the kernel nor in the initrd.
    #[error("{} lacks the module {module}, which mounting the root needs", show::path(.path))]
    NoDriver {
        /// The initrd.
        path: PathBuf,
        /// The module.
        module: String,
    },
    /// The root has no modules for this kernel.
    #[error("the root {} has no modules for the kernel {version}", show::path(.root))]
    NoModules {
        /// The root.
        root: PathBuf,
        /// The kernel's version.
        version: String,
    },
}

/// No proof: because it is not so, or because it could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum Unproven {
    /// It does not boot.
    #[error("this kernel does not bring up this root")]
    No(#[from] NotBootable),
    /// The initrd could not be read, or holds too much to be looked through.
    #[error("failed to look through the initrd")]
    Initrd(#[source] InitrdError),
    /// A file could not be read.
    #[error("failed to read {}", show::path(.path))]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Lists the kernels in `/boot` (`vmlinuz-VERSION`), in the order of their names.
///
/// # Errors
/// [`Unproven::Read`], when something could not be found out.
pub fn bootable(boot: &Path, root: &Path) -> Result<Vec<Kernel>, Unproven> {
    let failed = |source| Unproven::Read { path: boot.to_owned(), source };
    let mut versions = BTreeSet::new();
    for entry in std::fs::read_dir(boot).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if let Some(version) = name.as_bytes().strip_prefix(b"vmlinuz-") {
            // Kernel versions are plain text; another file does not boot by name.
            versions.extend(std::str::from_utf8(version).ok().filter(|v| !v.is_empty()).map(str::to_owned));
        }
    }
    versions.into_iter().map(|version| look(boot, root, version)).collect()
}

/// Proves that a kernel with this initrd can bring up this root, whose filesystem is called `root_fs` (`btrfs`, `ext4`).
///
/// # Errors
/// [`Unproven::No`] when it cannot; others when that could not be found out.
pub fn prove(kernel: &Path, initrd: &Path, root: &Path, root_fs: &str) -> Result<Proof, Unproven> {
    let version = image(kernel)?.version;
    let modules = modules(root, &version)?;
    let modules =
        modules.ok_or_else(|| NotBootable::NoModules { root: root.to_owned(), version: version.clone() })?;
    let held = initrd::read(initrd).map_err(|error| judged(initrd, error))?;
    let builtin = read(&modules.join("modules.builtin"))?.unwrap_or_default();
    let dependencies = read(&modules.join("modules.dep"))?.unwrap_or_default();
    if !held.kernels.is_empty() && !held.kernels.contains(&version) {
        let has = held.kernels.iter().cloned().collect();
        return Err(NotBootable::OtherKernel { path: initrd.to_owned(), has, version }.into());
    }
    let builtin = parse_builtin(&builtin);
    if builtin.contains(&module_name(root_fs)) {
        return Ok(Proof { version, initrd: held, driver: Driver::BuiltIn });
    }
    for module in parse_needs(&dependencies, root_fs) {
        if !builtin.contains(&module) && !held.has_module(&version, &module) {
            return Err(NotBootable::NoDriver { path: initrd.to_owned(), module }.into());
        }
    }
    Ok(Proof { version, initrd: held, driver: Driver::InInitrd })
}

/// Reads the image of an x86 kernel, and checks that it is as long as it says.
///
/// # Errors
/// [`Unproven::No`] when it is none or was cut; [`Unproven::Read`] when it cannot be read.
pub fn image(kernel: &Path) -> Result<Image, Unproven> {
    let failed = |source| Unproven::Read { path: kernel.to_owned(), source };
    let file = match File::open(kernel) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(NotBootable::Missing(kernel.to_owned()).into());
        }
        other => other.map_err(failed)?,
    };
    let length = file.metadata().map_err(failed)?.len();
    // The version may stand anywhere in the first 64 KiB.
    let mut head = vec![0; usize::try_from(length.min(0x200 + 0x1_0000 + 256)).unwrap_or_default()];
    file.read_exact_at(&mut head, 0).map_err(failed)?;
    let image = parse_image(&head).ok_or_else(|| match foreign(&head) {
        Some(kind) => NotBootable::Foreign { kernel: kernel.to_owned(), kind },
        None => NotBootable::NoImage(kernel.to_owned()),
    })?;
    if length < image.length {
        let kernel = kernel.to_owned();
        return Err(NotBootable::CutImage { kernel, length, expected: image.length }.into());
    }
    Ok(image)
}

/// Understands the first bytes of an x86 kernel image (Documentation/arch/x86/boot.rst of the kernel): at 0x202 `HdrS`, at 0x20e
/// where the version is, less 0x200; at 0x1f1 the sectors of the setup code, at 0x1f4 the rest in units of 16 bytes.
#[must_use]
pub fn parse_image(head: &[u8]) -> Option<Image> {
    let bytes = |at: usize, count: usize| head.get(at..at + count);
    if bytes(0x202, 4)? != b"HdrS" {
        return None;
    }
    let start = 0x200 + usize::from(u16::from_le_bytes(bytes(0x20e, 2)?.try_into().ok()?));
    let text = head.get(start..)?;
    let text = &text[..text.iter().position(|&byte| byte == 0)?];
    let version = std::str::from_utf8(text).ok()?.split_ascii_whitespace().next()?;
    // Zero stands for four.
    let setup = match *head.get(0x1f1)? {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let rest = u64::from(u32::from_le_bytes(bytes(0x1f4, 4)?.try_into().ok()?));
    Some(Image { version: version.to_owned(), length: (setup + 1) * 512 + rest * 16 })
}

/// What the first bytes are of, when they are no x86 kernel: `ARM\x64` at 56 (Documentation/arch/arm64/booting.rst of the kernel),
/// `zimg` at 4 of an EFI program that unpacks a kernel (drivers/firmware/efi/libstub/zboot-header.S), or something packed.
#[must_use]
pub fn foreign(head: &[u8]) -> Option<&'static str> {
    let has = |at: usize, bytes: &[u8]| head.get(at..at + bytes.len()) == Some(bytes);
    match () {
        () if has(0, b"MZ") && has(4, b"zimg") => Some("an EFI program that unpacks a kernel (zboot)"),
        () if has(56, b"ARM\x64") => Some("the image of an arm64 kernel"),
        () if has(0, b"\x1f\x8b") => Some("a kernel packed with gzip"),
        () if has(0, b"\x7fELF") => Some("an ELF file"),
        () => None,
    }
}

/// The names in a `modules.builtin` file: a path on each line.
#[must_use]
pub fn parse_builtin(text: &[u8]) -> BTreeSet<String> {
    String::from_utf8_lossy(text).lines().filter_map(named_by).collect()
}

/// A module and all that it needs, from a `modules.dep` file: `PATH: PATH PATH ...`. One that is not listed needs itself.
#[must_use]
pub fn parse_needs(text: &[u8], module: &str) -> BTreeSet<String> {
    let module = module_name(module);
    let text = String::from_utf8_lossy(text);
    let line = text.lines().filter_map(|line| line.split_once(':'));
    let needs = line.filter(|(path, _)| named_by(path).as_ref() == Some(&module)).map(|(_, needs)| needs);
    let mut all: BTreeSet<String> =
        needs.flat_map(str::split_ascii_whitespace).filter_map(named_by).collect();
    all.insert(module);
    all
}

/// The name of a module by its path: `kernel/fs/btrfs/btrfs.ko.xz` is `btrfs`.
fn named_by(path: &str) -> Option<String> {
    let name = path.trim().rsplit('/').next()?;
    Some(module_name(name.split_once(".ko")?.0))
}

fn look(boot: &Path, root: &Path, version: String) -> Result<Kernel, Unproven> {
    let kernel = boot.join(format!("vmlinuz-{version}"));
    let initrd = boot.join(format!("initrd.img-{version}"));
    let has_initrd = initrd.try_exists().map_err(|source| Unproven::Read { path: initrd.clone(), source })?;
    let is_what_it_says = match image(&kernel) {
        Ok(image) => image.version == version,
        Err(Unproven::No(_)) => false,
        Err(error) => return Err(error),
    };
    let has_modules = modules(root, &version)?.is_some();
    let initrd = has_initrd.then_some(initrd);
    Ok(Kernel { version, kernel, initrd, has_modules, is_what_it_says })
}

/// The directory of a kernel's modules in a root, when it has their dependencies.
fn modules(root: &Path, version: &str) -> Result<Option<PathBuf>, Unproven> {
    // A root that is mounted elsewhere may have an absolute link as `/lib`: it must not lead to the running system's.
    for lib in ["usr/lib/modules", "lib/modules"] {
        let directory = root.join(lib).join(version);
        if lib == "lib/modules" && root.join("lib").is_symlink() {
            continue;
        }
        if read(&directory.join("modules.dep"))?.is_some_and(|text| !text.is_empty()) {
            return Ok(Some(directory));
        }
    }
    Ok(None)
}

fn judged(path: &Path, error: InitrdError) -> Unproven {
    match error {
        InitrdError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            NotBootable::Missing(path.to_owned()).into()
        }
        InitrdError::Read { .. } | InitrdError::TooLarge { .. } => Unproven::Initrd(error),
        source => NotBootable::Initrd { path: path.to_owned(), source }.into(),
    }
}

/// `None` when the file is not there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, Unproven> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Unproven::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
pub(in crate::boot) mod made_up {
    /// The head of an image as the kernel's build makes it, and 100 times 16 bytes.
    pub(in crate::boot) fn kernel_image(version: &str) -> Vec<u8> {
        let mut image = vec![0; 512 * 4 + 1600];
        image[0x1f1] = 3;
        image[0x1f4..0x1f8].copy_from_slice(&100_u32.to_le_bytes());
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
        let text = format!("{version} (debian-kernel@lists.debian.org) #1 SMP");
        image[0x500..0x500 + text.len()].copy_from_slice(text.as_bytes());
        image
    }
}

#[cfg(test)]
#[path = "kernels_tests.rs"]
mod tests;
