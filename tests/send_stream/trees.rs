//! Trees to be sent.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::run;

/// Small, and of every kind that Linux knows.
pub(crate) fn everything(tree: &Path) {
    let at = |name: &str| tree.join(name);
    let text = |name: &str| at(name).to_str().unwrap().to_owned();
    fs::create_dir_all(at("first/d/deep/er")).unwrap();
    fs::write(at("first/d/a"), "hello").unwrap();
    fs::hard_link(at("first/d/a"), at("first/d/deep/b")).unwrap();
    fs::hard_link(at("first/d/a"), at("z")).unwrap();
    let hole = fs::File::create(at("hole")).unwrap();
    hole.set_len(1 << 18).unwrap();
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(b"middle", 200_000).unwrap();
    sparse.set_len(300_000).unwrap();
    fs::write(at("empty"), "").unwrap();
    symlink("first/d/a", at("link")).unwrap();
    run("mkfifo", &[&text("fifo")]);
    run("mknod", &[&text("character"), "c", "1", "3"]);
    run("mknod", &[&text("block"), "b", "259", "70000"]);
    drop(UnixListener::bind(at("socket")).unwrap());
    fs::write(tree.join(OsStr::from_bytes(b"not\xffutf\n8")), "name").unwrap();
    // A directory with a lower number than the one that it ends up in.
    fs::create_dir(at("later")).unwrap();
    fs::rename(at("first"), at("later/first")).unwrap();

    run("setfattr", &["-n", "user.note", "-v", "hello", &text("z")]);
    run("setfacl", &["-m", "u:1000:rw,g:7:r", &text("z")]);
    run("setfacl", &["-d", "-m", "g:7:rx", &text("later")]);
    run("setcap", &["cap_net_raw+ep", &text("empty")]);
    fs::write(at("packed"), vec![b'y'; 9_000]).unwrap();
    run("btrfs", &["property", "set", &text("packed"), "compression", "zstd"]);
    fs::write(at("packed"), vec![b'q'; 9_000]).unwrap();
    run("chattr", &["+d", &text("hole")]);

    chown(at("sparse"), Some(5), Some(6)).unwrap();
    fs::set_permissions(at("sparse"), Permissions::from_mode(0o6751)).unwrap();
    lchown(at("link"), Some(7), Some(8)).unwrap();
    fs::set_permissions(at("later"), Permissions::from_mode(0o1777)).unwrap();
    run("touch", &["-d", "1960-01-01 00:00:00.5 UTC", &text("socket")]);
    run("touch", &["-h", "-d", "2040-01-01 00:00:00.123456789 UTC", &text("link")]);
    run("sync", &["-f", &text("")]);
}

/// Text that any compression makes much smaller, a small file among it, and one of which only the middle was written again.
pub(crate) fn compressible(tree: &Path) {
    let text: Vec<u8> = (0..2_000_000_u32).flat_map(|at| (at / 64).to_le_bytes()).collect();
    fs::write(tree.join("large"), &text).unwrap();
    fs::write(tree.join("small"), &text[..1500]).unwrap();
    fs::write(tree.join("odd"), &text[..100_001]).unwrap();
    run("sync", &["-f", tree.to_str().unwrap()]);
    let file = fs::OpenOptions::new().write(true).open(tree.join("large")).unwrap();
    file.write_all_at(b"new", 1_000_000).unwrap();
    run("sync", &["-f", tree.to_str().unwrap()]);
}

/// A file, a whole copy that shares its extents, one that was changed afterwards, and a copy of that that was changed too.
pub(crate) fn reflinks(tree: &Path) {
    let bytes: Vec<u8> = (0..500_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(tree.join("base"), &bytes).unwrap();
    run("sync", &["-f", tree.to_str().unwrap()]);
    let text = |name: &str| tree.join(name).to_str().unwrap().to_owned();
    for copy in ["changed", "copy"] {
        run("cp", &["--reflink=always", &text("base"), &text(copy)]);
    }
    fs::write(tree.join("small"), "small").unwrap();
    for (name, offset) in [("changed", 70_000), ("changed again", 300_000)] {
        if name != "changed" {
            run("cp", &["--reflink=always", &text("changed"), &text(name)]);
        }
        let file = fs::OpenOptions::new().write(true).open(tree.join(name)).unwrap();
        file.write_all_at(b"CHANGED", offset).unwrap();
        run("sync", &["-f", tree.to_str().unwrap()]);
    }
}

/// Random makes, writes, links, renames and removals. The same seed makes the same tree.
pub(crate) fn random(tree: &Path, seed: u64, steps: usize) {
    let mut random = Random(seed);
    let mut directories = vec![tree.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    for step in 0..steps {
        let parent = directories[random.below(directories.len())].clone();
        let new = parent.join(format!("n{step}"));
        match random.below(8) {
            0 => {
                fs::create_dir(&new).unwrap();
                directories.push(new);
            }
            1 | 2 => {
                fs::write(&new, vec![step as u8; random.below(20_000)]).unwrap();
                files.push(new);
            }
            3 if !files.is_empty() => {
                fs::hard_link(&files[random.below(files.len())], &new).unwrap();
                files.push(new);
            }
            4 if !files.is_empty() => {
                let chosen = random.below(files.len());
                fs::rename(&files[chosen], &new).unwrap();
                files[chosen] = new;
            }
            5 if directories.len() > 1 => {
                let moved = directories[1 + random.below(directories.len() - 1)].clone();
                if !parent.starts_with(&moved) {
                    fs::rename(&moved, &new).unwrap();
                    for path in directories.iter_mut().chain(&mut files) {
                        if let Ok(rest) = path.strip_prefix(&moved) {
                            *path = if rest.as_os_str().is_empty() { new.clone() } else { new.join(rest) };
                        }
                    }
                }
            }
            6 if !files.is_empty() => fs::remove_file(files.swap_remove(random.below(files.len()))).unwrap(),
            _ if !files.is_empty() => {
                let file =
                    fs::OpenOptions::new().write(true).open(&files[random.below(files.len())]).unwrap();
                file.write_all_at(&vec![b'w'; random.below(9000)], random.below(100_000) as u64).unwrap();
            }
            _ => symlink(format!("target{step}"), &new).unwrap(),
        }
    }
    run("sync", &["-f", tree.to_str().unwrap()]);
}

/// Numbers that look random (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}
