//! Programs that no package brought, and the libraries that they need: what the target release does not have any more breaks them,
//! although apt says that all is well.
//!
//! [`walk`] finds the programs, [`elf`] reads what they need, [`resolve`] finds the libraries as the dynamic linker does, [`owners`]
//! says which package brought them, [`contents`] asks the target's index, and [`findings`] judges.

pub mod contents;
pub mod elf;
#[cfg(test)]
pub(crate) mod made_up;
pub mod owners;
pub mod resolve;
pub mod walk;

mod judge;

use std::path::{Path, PathBuf};

pub use contents::{find_indexes, index_target_configuration};
pub use judge::{NewRelease, findings};
pub use walk::Limits;

use contents::Wanted;
use owners::Owners;
use resolve::Linker;

/// Where programs lie that no package brought.
pub const TREES: [&str; 3] = ["/usr/local", "/opt", "/srv"];

/// The libraries of own programs could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LibrariesError {
    /// A file or directory could not be read.
    #[error("failed to read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Where a program gets a library from now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// From its own files, or from a file that belongs to no package: no upgrade takes it away.
    Bundled,
    /// From a package.
    Package {
        /// The package.
        package: String,
        /// The file, all links followed.
        file: PathBuf,
    },
    /// From nowhere.
    Missing,
}

/// A library that a program needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Its name, as the program asks for it.
    pub soname: String,
    /// Where it is now.
    pub found: Found,
}

/// A program or library that no package brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// It can be started; otherwise it is a library or a module.
    pub is_program: bool,
    /// Debian's name of its architecture; `None` when there is none.
    pub architecture: Option<&'static str>,
    /// The libraries that it needs.
    pub needs: Vec<Need>,
}

/// What was found out about own programs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The programs, in the order of their paths.
    pub programs: Vec<Program>,
    /// Debian's name of this machine's architecture.
    pub architecture: &'static str,
    /// The linker's directories.
    pub directories: Vec<PathBuf>,
    /// What could not be read, one line each.
    pub unreadable: Vec<String>,
    /// Files that begin like programs and are damaged.
    pub damaged: Vec<PathBuf>,
    /// Not everything was looked at: there was too much.
    pub cut_off: bool,
}

impl Facts {
    /// What to ask the target's index: every library that comes from a package now, in every directory in which the linker would
    /// find it.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        for need in self.native().flat_map(|program| &program.needs) {
            let Found::Package { file, .. } = &need.found else { continue };
            let own = file.parent().map(Path::to_owned);
            for directory in self.directories.iter().cloned().chain(own) {
                wanted.add(&need.soname, &directory);
                wanted.add(&need.soname, &other_name(&directory));
            }
        }
        wanted
    }

    /// The programs of this machine's own architecture.
    fn native(&self) -> impl Iterator<Item = &Program> {
        self.programs.iter().filter(|program| program.architecture == Some(self.architecture))
    }
}

/// Looks at the programs in the trees below `root`. Changes nothing, follows no links.
///
/// # Errors
/// When dpkg's lists or the linker's configuration cannot be read. A single file that cannot be read is in the facts.
pub fn look(root: &Path, trees: &[PathBuf], limits: Limits) -> Result<Facts, LibrariesError> {
    let owners = Owners::read(root, trees)?;
    let linker = Linker::read(root)?;
    let found = walk::look(root, trees, &|path| owners.of(path).is_some(), limits);
    let mut programs: Vec<Program> = found
        .own
        .iter()
        .map(|own| {
            let tree = trees.iter().find(|tree| own.path.starts_with(tree));
            let application = tree.map(|tree| walk::application(tree, &own.path)).unwrap_or_default();
            let brought = |soname: &str| found.bundled.contains(&(application.clone(), soname.to_owned()));
            program(own, &linker, &owners, trees, &brought)
        })
        .collect();
    programs.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(Facts {
        programs,
        architecture: native_architecture(),
        directories: linker.directories().to_vec(),
        unreadable: found.unreadable,
        damaged: found.damaged,
        cut_off: found.cut_off,
    })
}

/// Debian's name of the architecture that this program was made for.
#[must_use]
pub fn native_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "i386",
        "aarch64" => "arm64",
        "arm" => "armhf",
        "powerpc64" => "ppc64el",
        other => other,
    }
}

fn program(
    own: &walk::Own,
    linker: &Linker,
    owners: &Owners,
    trees: &[PathBuf],
    brought: &dyn Fn(&str) -> bool,
) -> Program {
    let find = |soname: &String| {
        let Some(library) = linker.find(&own.path, &own.needs, soname) else {
            // A start script may set LD_LIBRARY_PATH, and a library finds others by the search path of its program.
            return if brought(soname) { Found::Bundled } else { Found::Missing };
        };
        if trees.iter().any(|tree| library.real.starts_with(tree)) || brought(soname) {
            return Found::Bundled;
        }
        match owners.of(&library.real).or_else(|| owners.of(&library.path)) {
            Some(package) => Found::Package { package: package.to_owned(), file: library.real },
            None => Found::Bundled,
        }
    };
    let needs = own.needs.needed.iter().map(|soname| Need { soname: soname.clone(), found: find(soname) });
    Program {
        path: own.path.clone(),
        is_program: own.needs.is_program,
        architecture: own.needs.kind.debian_architecture(),
        needs: needs.collect(),
    }
}

/// On a merged `/usr`, packages list a library as `/lib/x` or as `/usr/lib/x`.
fn other_name(directory: &Path) -> PathBuf {
    match directory.strip_prefix("/usr") {
        Ok(rest) => Path::new("/").join(rest),
        Err(_) => Path::new("/usr").join(directory.strip_prefix("/").unwrap_or(directory)),
    }
}
