//! Finding programs in trees that anybody may have filled: links are not followed, nothing is waited for, and there is an end.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use walkdir::{DirEntry, WalkDir};

use super::elf::{self, Needs};

/// How far a look goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most files and directories that are looked at.
    pub entries: u64,
    /// How long it may take.
    pub time: Duration,
}

impl Default for Limits {
    /// A million entries, twenty seconds: `check` has to be done within a minute.
    fn default() -> Self {
        Self { entries: 1_000_000, time: Duration::from_secs(20) }
    }
}

/// A program or library of somebody's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Its absolute path, below the root.
    pub path: PathBuf,
    /// What it needs.
    pub needs: Needs,
}

/// What lies in the trees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trees {
    /// Programs and libraries that are linked with something.
    pub own: Vec<Own>,
    /// Names that libraries may have, by the application that they lie in.
    pub bundled: HashSet<(PathBuf, String)>,
    /// What could not be read, with the reason.
    pub unreadable: Vec<String>,
    /// Files that look like programs and are damaged.
    pub damaged: Vec<PathBuf>,
    /// A limit ended the look before the trees did.
    pub cut_off: bool,
}

/// Looks below `root` at the trees, which are absolute paths; one that is not there is empty. What `owned` says yes to belongs to
/// a package and is passed over.
#[must_use]
pub fn look(root: &Path, trees: &[PathBuf], owned: &dyn Fn(&Path) -> bool, limits: Limits) -> Trees {
    let mut found = Trees::default();
    let deadline = Instant::now() + limits.time;
    let mut left = limits.entries;
    for tree in trees {
        let top = root.join(tree.strip_prefix("/").unwrap_or(tree));
        if !top.is_dir() {
            continue;
        }
        for entry in WalkDir::new(&top).follow_links(false).max_open(32) {
            if left == 0 || Instant::now() > deadline {
                found.cut_off = true;
                return found;
            }
            left -= 1;
            match entry {
                Ok(entry) => of_entry(&entry, root, tree, owned, &mut found),
                Err(error) => found.unreadable.push(error.to_string()),
            }
        }
    }
    found
}

/// The application that a path below a tree belongs to: the first directory in it. `/usr/local` is one.
#[must_use]
pub fn application(tree: &Path, path: &Path) -> PathBuf {
    let first = path.strip_prefix(tree).ok().and_then(|rest| rest.components().next());
    match first {
        Some(first) if tree != Path::new("/usr/local") => tree.join(first),
        _ => tree.to_owned(),
    }
}

fn of_entry(entry: &DirEntry, root: &Path, tree: &Path, owned: &dyn Fn(&Path) -> bool, found: &mut Trees) {
    let kind = entry.file_type();
    if kind.is_dir() {
        return;
    }
    let Ok(below) = entry.path().strip_prefix(root) else { return };
    let path = Path::new("/").join(below);
    let name = entry.file_name().to_string_lossy();
    if name.contains(".so") {
        found.bundled.insert((application(tree, &path), name.clone().into_owned()));
    }
    if !kind.is_file() || owned(&path) {
        return;
    }
    let mode = match entry.metadata() {
        Ok(facts) => facts.mode(),
        Err(error) => return found.unreadable.push(error.to_string()),
    };
    // A program needs the permission; a library is loaded without it, and so is a module of Node.js.
    if mode & 0o111 == 0 && !name.contains(".so") && !name.ends_with(".node") {
        return;
    }
    match read(entry.path()) {
        Ok(Some(Ok(Some(needs)))) => found.own.push(Own { path, needs }),
        Ok(Some(Ok(None)) | None) => {}
        Ok(Some(Err(_))) => found.damaged.push(path),
        Err(error) => found.unreadable.push(format!("{}: {error}", path.display())),
    }
}

type Parsed = Result<Option<Needs>, elf::NoElf>;

/// `None` when it does not begin like a program.
fn read(path: &Path) -> std::io::Result<Option<Parsed>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut first = Vec::with_capacity(4);
    Read::by_ref(&mut file).take(4).read_to_end(&mut first)?;
    if !elf::is_elf(&first) {
        return Ok(None);
    }
    file.rewind()?;
    Ok(Some(elf::read_from(file)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libraries::made_up::elf_file;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_hostile_tree_is_walked_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().join("opt/app");
        fs::create_dir_all(app.join("lib")).unwrap();
        let put = |name: &str, bytes: &[u8], mode: u32| {
            fs::write(app.join(name), bytes).unwrap();
            fs::set_permissions(app.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        let program = elf_file(&["libx.so.1"], None, None);
        put("tool", &program, 0o755);
        put("lib/libown.so.2", &program, 0o644);
        put("not-a-program", &program, 0o644);
        put("script", b"#!/bin/sh\n", 0o755);
        put("cut", &program[..100], 0o755);
        put("empty", b"", 0o755);
        put("packaged", &program, 0o755);
        symlink("..", app.join("loop")).unwrap();
        symlink("/etc/passwd", app.join("out")).unwrap();
        symlink("libown.so.2", app.join("lib/libown.so")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            app.join("pipe.so"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o755),
            0,
        )
        .unwrap();

        let owned = |path: &Path| path.ends_with("packaged");
        let trees = ["/opt".into(), "/none".into()];
        let found = look(dir.path(), &trees, &owned, Limits::default());
        let mut paths: Vec<_> = found.own.iter().map(|own| own.path.clone()).collect();
        paths.sort();
        assert_eq!(paths, [Path::new("/opt/app/lib/libown.so.2"), Path::new("/opt/app/tool")]);
        assert_eq!(found.damaged, [Path::new("/opt/app/cut")]);
        assert!(found.bundled.contains(&("/opt/app".into(), "libown.so".into())));
        assert!(found.unreadable.is_empty() && !found.cut_off);

        let short = Limits { entries: 3, ..Limits::default() };
        assert!(look(dir.path(), &trees, &owned, short).cut_off);
    }

    #[test]
    fn applications() {
        let of = |tree: &str, path: &str| application(Path::new(tree), Path::new(path));
        assert_eq!(of("/opt", "/opt/app/bin/tool"), Path::new("/opt/app"));
        assert_eq!(of("/usr/local", "/usr/local/bin/tool"), Path::new("/usr/local"));
    }
}
