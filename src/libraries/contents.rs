//! A release's index of which package holds which file (`Contents-amd64`), asked about a few libraries. It is streamed: 12 MB
//! packed for Debian's main, 51 MB for Ubuntu, and nothing of it is kept but the answers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::sources::compressed::Decompressed;

/// Longer lines are no index: a path has at most 4096 bytes, and the longest line of trixie's main has 250.
const LONGEST_LINE: u64 = 1 << 20;

/// In every release for servers. An index without it is none, or only that of a small component.
const ALWAYS_THERE: &[u8] = b"libc.so.6";

/// The libraries that are asked for: for each soname the directories in which it counts, without the leading slash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted(HashMap<Vec<u8>, BTreeSet<Vec<u8>>>);

impl Wanted {
    /// Asks for a soname in one more directory.
    pub fn add(&mut self, soname: &str, directory: &Path) {
        use std::os::unix::ffi::OsStrExt;
        let directory = directory.strip_prefix("/").unwrap_or(directory).as_os_str().as_bytes();
        self.0.entry(soname.as_bytes().to_owned()).or_default().insert(directory.to_owned());
    }

    /// Whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What indexes said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provided {
    /// The packages that hold each soname, as `section/package` without the section.
    pub packages: BTreeMap<String, BTreeSet<String>>,
    /// An index listed the C library: it is that of a whole release.
    pub whole: bool,
    /// Lines that were read.
    pub lines: u64,
}

/// An index that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// It, or the directory that it should be in.
    #[error("failed to read {}", .path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The piece of apt's configuration that makes `apt-get update` fetch the index for one architecture, checked against the signed
/// Release file as everything else is. Use it in an update of its own: when a mirror has no good copy, the whole update fails.
///
/// Debian has an index for each component, and Ubuntu one for each suite: apt looks for that one only where the first is not named
/// by the Release file.
#[must_use]
pub fn index_target_configuration(architecture: &str) -> String {
    // The name of the architecture is written out: with a variable apt fetches the index of architecture "all" too, which is three
    // times as large and has no library in it.
    // A name of its own: `Contents-deb` is apt-file's, whose setting of the machine's the private apt turns off.
    let target = |name: &str, key: &str, more: &str| {
        format!(
            "Acquire::IndexTargets::deb::{name} {{\n  MetaKey \"{key}\";\n  \
             flatMetaKey \"Contents-{architecture}\";\n  ShortDescription \"Contents-{architecture}\";\n  \
             Description \"$(RELEASE)/$(COMPONENT) {architecture} Contents\";\n  flatDescription \"$(RELEASE) Contents\";\n  \
             KeepCompressed \"true\";\n  PDiffs \"false\";\n  DefaultEnabled \"true\";\n{more}}};\n"
        )
    };
    let of_component = format!("$(COMPONENT)/Contents-{architecture}");
    let fallback = "  Fallback-Of \"Contents-libraries\";\n  Identifier \"Contents-libraries\";\n";
    target("Contents-libraries", &of_component, "")
        + &target("Contents-libraries-of-suite", &format!("Contents-{architecture}"), fallback)
}

/// The indexes for one architecture among apt's lists, in whatever form apt keeps them.
///
/// # Errors
/// When the directory cannot be listed.
pub fn find_indexes(lists: &Path, architecture: &str) -> Result<Vec<PathBuf>, ContentsError> {
    let wrong = |source| ContentsError::Read { path: lists.to_owned(), source };
    let wanted = format!("_Contents-{architecture}");
    let mut found = Vec::new();
    for entry in fs::read_dir(lists).map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let after = name.rsplit_once(wanted.as_str()).map(|(_, after)| after);
        if matches!(after, Some("" | ".gz" | ".xz" | ".lz4" | ".zst" | ".bz2")) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Searches several indexes.
///
/// # Errors
/// When one cannot be read to its end.
pub fn search_files(paths: &[PathBuf], wanted: &Wanted) -> Result<Provided, ContentsError> {
    let mut provided = Provided::default();
    for path in paths {
        let wrong = |source| ContentsError::Read { path: path.clone(), source };
        let file = File::open(path).map_err(wrong)?;
        search(Decompressed::new(file).map_err(wrong)?, wanted, &mut provided).map_err(wrong)?;
    }
    Ok(provided)
}

/// Searches one index that is not compressed any more.
///
/// # Errors
/// When it cannot be read, or has a line that no index has.
pub fn search(input: impl Read, wanted: &Wanted, provided: &mut Provided) -> io::Result<()> {
    let mut input = BufReader::with_capacity(1 << 16, input);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut input).take(LONGEST_LINE).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if !line.ends_with(b"\n") && read as u64 == LONGEST_LINE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a line is too long for an index of files",
            ));
        }
        provided.lines += 1;
        if let Some((directory, name, packages)) = parts(line.trim_ascii_end()) {
            provided.whole |= name == ALWAYS_THERE;
            if wanted.0.get(name).is_some_and(|directories| directories.contains(directory)) {
                let found = provided.packages.entry(String::from_utf8_lossy(name).into_owned()).or_default();
                found.extend(packages.split(|byte| *byte == b',').map(package));
            }
        }
    }
}

/// Directory, name and packages of a line: `usr/lib/x86_64-linux-gnu/libssl.so.3   libs/libssl3t64`. The path may hold spaces.
fn parts(line: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let gap = line.iter().rposition(u8::is_ascii_whitespace)?;
    let (path, packages) = (line[..gap].trim_ascii_end(), &line[gap + 1..]);
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    Some((&path[..slash], &path[slash + 1..], packages))
}

fn package(qualified: &[u8]) -> String {
    let name = qualified.rsplit(|byte| *byte == b'/').next().unwrap_or(qualified);
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Lines of trixie's own index.
    const INDEX: &str = "usr/lib/x86_64-linux-gnu/libssl.so.3\t\t\t    libs/libssl3t64\n\
        usr/lib/x86_64-linux-gnu/libc.so.6                      libs/libc6\n\
        usr/lib/x86_64-linux-gnu/blas/libblas.so.3              libs/libblas3\n\
        usr/lib/x86_64-linux-gnu/openblas-pthread/libblas.so.3  libs/libopenblas0-pthread\n\
        usr/share/doc/a file with spaces/libssl.so.3            doc/x,non-free/doc/y\n\
        usr/aarch64-linux-gnu/lib/libaio.so.1                   libdevel/libaio-arm64-cross\n";

    fn wanted() -> Wanted {
        let mut wanted = Wanted::default();
        for name in ["libssl.so.3", "libaio.so.1", "libblas.so.3"] {
            wanted.add(name, Path::new("/usr/lib/x86_64-linux-gnu"));
        }
        wanted.add("libblas.so.3", Path::new("/usr/lib/x86_64-linux-gnu/blas"));
        wanted
    }

    fn packages(provided: &Provided, soname: &str) -> Vec<String> {
        provided.packages.get(soname).into_iter().flatten().cloned().collect()
    }

    #[test]
    fn a_library_counts_in_its_directories_only() {
        let mut provided = Provided::default();
        search(INDEX.as_bytes(), &wanted(), &mut provided).unwrap();
        assert_eq!(packages(&provided, "libssl.so.3"), ["libssl3t64"]);
        assert_eq!(packages(&provided, "libblas.so.3"), ["libblas3"]);
        assert!(packages(&provided, "libaio.so.1").is_empty(), "it is for another machine");
        assert!(provided.whole && provided.lines == 6);
    }

    #[test]
    fn whatever_form_apt_keeps() {
        let dir = tempfile::tempdir().unwrap();
        let gz = dir.path().join("mirror.invalid_debian_dists_trixie_main_Contents-amd64.gz");
        let mut encoder =
            flate2::write::GzEncoder::new(File::create(&gz).unwrap(), flate2::Compression::fast());
        encoder.write_all(INDEX.as_bytes()).unwrap();
        encoder.finish().unwrap();
        let plain = dir.path().join("mirror.invalid_debian_dists_trixie_contrib_Contents-amd64");
        fs::write(&plain, "").unwrap();
        fs::write(dir.path().join("mirror.invalid_debian_dists_trixie_main_Contents-i386.gz"), "").unwrap();
        fs::write(dir.path().join("mirror.invalid_debian_dists_trixie_InRelease"), "").unwrap();
        let found = find_indexes(dir.path(), "amd64").unwrap();
        assert_eq!(found, [plain, gz.clone()]);
        assert_eq!(packages(&search_files(&found, &wanted()).unwrap(), "libssl.so.3"), ["libssl3t64"]);

        let whole = fs::read(&gz).unwrap();
        fs::write(&gz, &whole[..whole.len() - 9]).unwrap();
        assert!(search_files(&found, &wanted()).is_err(), "a cut index is no answer");
        assert!(find_indexes(&dir.path().join("none"), "amd64").is_err());
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let endless = io::repeat(b'x').take(1 << 24);
        assert!(search(endless, &wanted(), &mut Provided::default()).is_err());
    }

    #[test]
    fn the_configuration_names_one_architecture() {
        let text = index_target_configuration("amd64");
        assert!(text.contains("$(COMPONENT)/Contents-amd64") && !text.contains("$(ARCHITECTURE)"));
        assert!(!text.contains("Contents-deb"), "that one is turned off");
    }
}
