//! Tiny packages that misbehave, in a repository of our own behind the lab's mirror.
//!
//! Its suites have Debian's names and its Release files say that they are Debian's, so whatever rewrites a machine's sources from one
//! release to the next takes them along.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::mirror::LOCAL_HOST;
use super::{Result, tool};

/// A package of the lab: no files, only a maintainer script.
#[derive(Debug, Clone, Copy)]
pub struct Package<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// What must be configured before it, as dpkg writes it; nothing when empty.
    pub depends: &'a str,
    /// What its postinst does, as the body of a shell script.
    pub postinst: &'a str,
}

/// Installs well.
pub const FRAGILE_GOOD: Package<'static> =
    Package { name: "lab-fragile", version: "1", depends: "", postinst: "exit 0" };

/// The next version of [`FRAGILE_GOOD`]: its maintainer script fails.
pub const FRAGILE_BAD: Package<'static> = Package {
    name: "lab-fragile",
    version: "2",
    depends: "",
    postinst: "echo 'lab-fragile: no, thank you' >&2; exit 1",
};

/// Installs well.
pub const STUBBORN_GOOD: Package<'static> =
    Package { name: "lab-stubborn", version: "1", depends: "", postinst: "exit 0" };

/// The next version of [`STUBBORN_GOOD`]: its maintainer script never ends.
pub const STUBBORN_BAD: Package<'static> =
    Package { name: "lab-stubborn", version: "2", depends: "", postinst: "exec sleep infinity" };

/// The apt entry of one suite of the repository, one-line style.
pub fn one_line(suite: &str) -> String {
    format!("deb [trusted=yes] http://{LOCAL_HOST}/ {suite} main\n")
}

/// The apt entry of one suite of the repository, deb822 style.
pub fn deb822(suite: &str) -> String {
    format!("Types: deb\nURIs: http://{LOCAL_HOST}/\nSuites: {suite}\nComponents: main\nTrusted: yes\n")
}

/// Builds the packages of one suite below a directory that the mirror serves.
pub fn publish(repository: &Path, suite: &str, packages: &[Package<'_>]) -> Result<()> {
    publish_with(repository, suite, packages, &[])
}

/// As [`publish`], as somebody whom Debian does not know.
pub fn publish_foreign(repository: &Path, suite: &str, origin: &str, packages: &[Package<'_>]) -> Result<()> {
    publish_of(origin, repository, suite, packages, &[])
}

/// As [`publish`], with packages that others have built.
pub fn publish_with(
    repository: &Path,
    suite: &str,
    packages: &[Package<'_>],
    archives: &[PathBuf],
) -> Result<()> {
    publish_of("Debian", repository, suite, packages, archives)
}

fn publish_of(
    origin: &str,
    repository: &Path,
    suite: &str,
    packages: &[Package<'_>],
    archives: &[PathBuf],
) -> Result<()> {
    let mut index = String::new();
    for package in packages {
        index.push_str(&build(repository, suite, package)?);
    }
    for archive in archives {
        index.push_str(&include(repository, suite, archive)?);
    }
    let dist = repository.join("dists").join(suite);
    let listed = dist.join("main/binary-amd64/Packages");
    fs::create_dir_all(listed.parent().unwrap_or(&dist))?;
    fs::write(&listed, &index)?;
    let sum = sha256(&listed)?;
    let release = format!(
        "Origin: {origin}\nLabel: {origin}\nSuite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\n\
         Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {sum} {} main/binary-amd64/Packages\n",
        index.len(),
    );
    fs::write(dist.join("Release"), release)
}

/// Builds one package and returns its paragraph of the index.
fn build(repository: &Path, suite: &str, package: &Package<'_>) -> Result<String> {
    let Package { name, version, depends, postinst } = package;
    let depends = if depends.is_empty() { String::new() } else { format!("Depends: {depends}\n") };
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: The lab <lab@lab.invalid>\nSection: misc\n\
         Priority: optional\n{depends}Description: a package of the lab\n",
    );
    let tree = tempfile::tempdir()?;
    let debian = tree.path().join("DEBIAN");
    fs::create_dir(&debian)?;
    fs::write(debian.join("control"), &control)?;
    fs::write(debian.join("postinst"), format!("#!/bin/sh\n{postinst}\n"))?;
    for (path, mode) in
        [(tree.path().to_owned(), 0o755), (debian.clone(), 0o755), (debian.join("postinst"), 0o755)]
    {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    let below = PathBuf::from("pool").join(suite).join(format!("{name}_{version}_all.deb"));
    let deb = repository.join(&below);
    fs::create_dir_all(deb.parent().unwrap_or(repository))?;
    let (from, to) = (tree.path().to_string_lossy(), deb.to_string_lossy());
    tool("dpkg-deb", &["--root-owner-group", "--build", &from, &to])?;
    let (size, sum) = (fs::metadata(&deb)?.len(), sha256(&deb)?);
    Ok(format!("{control}Filename: {}\nSize: {size}\nSHA256: {sum}\n\n", below.display()))
}

/// Takes a package in that others have built and returns its paragraph of the index.
fn include(repository: &Path, suite: &str, archive: &Path) -> Result<String> {
    // apt asks for a plus sign in a code of its own, which the mirror does not read.
    let name = archive.file_name().unwrap_or_default().to_string_lossy().replace(['+', '%'], "_");
    let below = PathBuf::from("pool").join(suite).join(name);
    let deb = repository.join(&below);
    fs::create_dir_all(deb.parent().unwrap_or(repository))?;
    fs::copy(archive, &deb)?;
    let control = tool("dpkg-deb", &["--field", &deb.to_string_lossy()])?;
    let (size, sum) = (fs::metadata(&deb)?.len(), sha256(&deb)?);
    let control = control.trim_end();
    Ok(format!("{control}\nFilename: {}\nSize: {size}\nSHA256: {sum}\n\n", below.display()))
}

fn sha256(file: &Path) -> Result<String> {
    let text = tool("sha256sum", &[&file.to_string_lossy()])?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}
