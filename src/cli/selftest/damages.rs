//! Every damage that is tried, one function each.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{IFlags, XattrFlags, removexattr, setxattr};

use super::ground::{self, Able};
use crate::manifest::Class;

/// What `verify` must say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// Nothing: it is the same. Only the control is.
    Same,
    /// A finding of this class, and the verdict that goes with it.
    Class(Class),
    /// That it cannot be used.
    Refused,
    /// Anything but that it is the same: the damage may hit any part of an archive.
    NotSame,
}

/// What is damaged, for each damage a fresh one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    /// The copy, a directory.
    Copy,
    /// The manifest.
    Manifest,
    /// A tar archive of the tree.
    Archive,
}

/// One damage.
pub(super) struct Damage {
    /// What is done, for a person; the stable name in JSON.
    pub(super) name: &'static str,
    pub(super) victim: Victim,
    pub(super) expected: Expected,
    /// What it needs: `Err` says why it cannot be tried here.
    pub(super) needs: fn(&Able) -> &Result<(), String>,
    /// Does it. All times are set back afterwards, so that nothing but this is to be seen.
    pub(super) damage: fn(&Path) -> io::Result<()>,
    /// Done after the times were set back.
    pub(super) last: fn(&Path) -> io::Result<()>,
}

/// The control first, then every damage.
pub(super) fn all() -> Vec<Damage> {
    let mut all = vec![Damage { expected: Expected::Same, ..content("none (control)", |_| Ok(())) }];
    all.extend(contents());
    all.extend(metadata());
    all.extend(names());
    all.extend(manifests_and_archives());
    all
}

fn contents() -> Vec<Damage> {
    vec![
        content("one bit flipped", |copy| flip(&copy.join("one"), 12_345)),
        content("one bit flipped in a large file", |copy| {
            flip(&copy.join("large"), ground::LARGE as u64 - 1)
        }),
        content("contents of two files swapped", |copy| {
            let (one, two) = (fs::read(copy.join("one"))?, fs::read(copy.join("two"))?);
            overwrite(&copy.join("one"), &two)?;
            overwrite(&copy.join("two"), &one)
        }),
        content("content replaced by zeros", |copy| {
            let length = fs::metadata(copy.join("one"))?.len();
            // Files are far smaller than memory here.
            overwrite(&copy.join("one"), &vec![0; length as usize])
        }),
        of(Class::Size, "file truncated", |copy| open(&copy.join("one"))?.set_len(1000)),
        of(Class::Size, "file emptied", |copy| open(&copy.join("one"))?.set_len(0)),
        of(Class::Size, "byte appended", |copy| {
            let file = open(&copy.join("one"))?;
            file.write_all_at(b"x", file.metadata()?.len())
        }),
        Damage {
            needs: |able| &able.holes,
            ..of(Class::Holes, "hole filled", |copy| {
                // Nothing but zeros, so that not even the content differs.
                let middle = vec![0; ground::SPARSE as usize / 2];
                open(&copy.join("sparse"))?.write_all_at(&middle, ground::SPARSE / 4)?;
                File::open(copy.join("sparse"))?.sync_all()
            })
        },
    ]
}

fn metadata() -> Vec<Damage> {
    vec![
        of(Class::Mode, "permissions changed", |copy| mode(&copy.join("one"), 0o666)),
        of(Class::Mode, "set-id bit added", |copy| mode(&copy.join("directory/program"), 0o4755)),
        of(Class::Mode, "permissions of a directory changed", |copy| mode(&copy.join("directory"), 0o777)),
        Damage {
            needs: |able| &able.root,
            ..of(Class::Owner, "owner changed", |copy| {
                std::os::unix::fs::chown(copy.join("two"), Some(2), None)
            })
        },
        Damage {
            needs: |able| &able.root,
            ..of(Class::Owner, "group changed", |copy| {
                std::os::unix::fs::chown(copy.join("one"), None, Some(2))
            })
        },
        Damage {
            last: |copy| ground::set_time(&copy.join("one"), (ground::TIME.0, ground::TIME.1 + 1)),
            ..of(Class::Mtime, "time moved by a nanosecond", |_| Ok(()))
        },
        Damage {
            last: |copy| {
                ground::set_time(&copy.join("directory/empty"), (ground::TIME.0 + 1, ground::TIME.1))
            },
            ..of(Class::Mtime, "time of a directory moved", |_| Ok(()))
        },
        Damage {
            needs: |able| &able.xattrs,
            ..of(Class::Xattrs, "extended attribute changed", |copy| {
                Ok(setxattr(copy.join("attributes"), ground::XATTR, b"VALUE", XattrFlags::REPLACE)?)
            })
        },
        Damage {
            needs: |able| &able.xattrs,
            ..of(Class::Xattrs, "extended attribute removed", |copy| {
                Ok(removexattr(copy.join("attributes"), ground::XATTR)?)
            })
        },
        Damage {
            needs: |able| &able.xattrs,
            ..of(Class::Xattrs, "extended attribute added", |copy| {
                Ok(setxattr(copy.join("one"), ground::XATTR, b"new", XattrFlags::CREATE)?)
            })
        },
        Damage {
            needs: |able| &able.acls,
            ..of(Class::Acl, "access control list changed", |copy| {
                let wider = "user::rw-,user:2:r--,group::r--,mask::r--,other::---";
                Ok(ground::set_acl(&copy.join("attributes"), wider)?)
            })
        },
        Damage {
            needs: |able| &able.flags,
            // What copies a directory does not copy flags, so `verify` calls it a loss and no damage; it must say so all the same.
            ..of(Class::LostByFormat, "flag removed", |copy| {
                Ok(ground::set_flags(&copy.join("flags"), IFlags::empty())?)
            })
        },
    ]
}

fn names() -> Vec<Damage> {
    vec![
        of(Class::HardLinks, "hard link broken", |copy| {
            let name = copy.join("directory/linked");
            again(&name, |name| {
                fs::write(name, "two names")?;
                mode(name, 0o644)
            })
        }),
        of(Class::HardLinks, "hard link added", |copy| {
            again(&copy.join("alike too"), |name| fs::hard_link(name.with_file_name("alike"), name))
        }),
        of(Class::Extra, "file added", |copy| fs::write(copy.join("directory/new"), "new")),
        of(Class::Extra, "directory added", |copy| fs::create_dir(copy.join("new"))),
        of(Class::Missing, "file removed", |copy| fs::remove_file(copy.join("one"))),
        of(Class::Missing, "empty file removed", |copy| fs::remove_file(copy.join("nothing"))),
        of(Class::Missing, "directory removed", |copy| fs::remove_dir_all(copy.join("directory/deep"))),
        of(Class::Missing, "empty directory removed", |copy| fs::remove_dir(copy.join("directory/empty"))),
        of(Class::Missing, "named pipe removed", |copy| fs::remove_file(copy.join("pipe"))),
        of(Class::Missing, "socket removed", |copy| fs::remove_file(copy.join("directory/socket"))),
        of(Class::Missing, "file renamed", |copy| fs::rename(copy.join("one"), copy.join("One"))),
        of(Class::Missing, "everything removed", |copy| {
            fs::remove_dir_all(copy)?;
            fs::create_dir(copy)?;
            mode(copy, 0o755)
        }),
        of(Class::LinkTarget, "symbolic link to another place", |copy| {
            again(&copy.join("link"), |name| symlink("directory/Program", name))
        }),
        of(Class::Type, "symbolic link replaced by what it points to", |copy| {
            again(&copy.join("link"), |name| {
                fs::copy(name.with_file_name("directory/program"), name).map(drop)
            })
        }),
        of(Class::Type, "file replaced by a directory", |copy| {
            again(&copy.join("one"), |name| fs::create_dir(name))
        }),
        of(Class::Type, "named pipe replaced by an empty file", |copy| {
            again(&copy.join("pipe"), |name| {
                fs::write(name, "")?;
                mode(name, 0o600)
            })
        }),
        Damage {
            needs: |able| &able.root,
            ..of(Class::Device, "device number changed", |copy| {
                again(&copy.join("device"), |name| ground::make_device(name, 5))
            })
        },
    ]
}

fn manifests_and_archives() -> Vec<Damage> {
    let manifest = |name, damage| Damage {
        victim: Victim::Manifest,
        expected: Expected::Refused,
        ..content(name, damage)
    };
    let archive = |name, damage| Damage {
        victim: Victim::Archive,
        expected: Expected::NotSame,
        ..content(name, damage)
    };
    vec![
        manifest("one bit flipped in the manifest", |file| flip(file, fs::metadata(file)?.len() / 2)),
        manifest("one bit flipped at the manifest's end", |file| flip(file, fs::metadata(file)?.len() - 1)),
        manifest("manifest truncated", |file| open(file)?.set_len(fs::metadata(file)?.len() - 1)),
        manifest("manifest emptied", |file| open(file)?.set_len(0)),
        Damage { expected: Expected::Same, ..archive("none (control of a tar archive)", |_| Ok(())) },
        archive("one bit flipped in a tar archive", |file| flip(file, fs::metadata(file)?.len() / 2)),
        archive("tar archive truncated", |file| open(file)?.set_len(fs::metadata(file)?.len() / 2)),
    ]
}

/// A damage to the copy that is to be found as this class.
fn of(class: Class, name: &'static str, damage: fn(&Path) -> io::Result<()>) -> Damage {
    static POSSIBLE: Result<(), String> = Ok(());
    Damage {
        name,
        victim: Victim::Copy,
        expected: Expected::Class(class),
        needs: |_| &POSSIBLE,
        damage,
        last: |_| Ok(()),
    }
}

fn content(name: &'static str, damage: fn(&Path) -> io::Result<()>) -> Damage {
    of(Class::Content, name, damage)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    open(path)?.write_all_at(bytes, 0)
}

fn flip(path: &Path, at: u64) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 0x10], at)
}

fn mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Takes a name away and makes it again.
fn again(name: &Path, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    fs::remove_file(name)?;
    make(name)
}
