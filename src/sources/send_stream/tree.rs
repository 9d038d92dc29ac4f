//! The tree that a send stream builds, kept as inodes and names.
//!
//! The kernel sends in the order of inode numbers: a directory first has a name like `o257-7-0` and is renamed when the place
//! where it belongs is there, with all that it holds. So a name is kept only in the directory that holds it, and paths are made
//! at the end.

use std::collections::{BTreeMap, btree_map};

use super::command::Made;
use super::draft::{Bytes, Why};
use crate::manifest::Mtime;
use crate::manifest::entry::{Device, MAX_DEPTH};
use crate::manifest::xattr::{self, Xattr};

/// The longest name that btrfs can hold.
const LONGEST_NAME: usize = 255;

/// An inode, by its place in [`Tree`].
pub(super) type Id = u32;

/// The names in a directory, taken out of it.
pub(super) type Children = btree_map::IntoIter<Box<[u8]>, Id>;

/// The top of the tree.
pub(super) const TOP: Id = 0;

/// Why a command cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No honest stream says this: it leads out of the tree.
    Hostile(&'static str),
    /// A receive would fail here.
    Impossible(&'static str),
    /// More than was allowed.
    Limit(&'static str),
    /// A temporary file failed.
    Spool,
}

/// Inodes and their names.
#[derive(Debug)]
pub(super) struct Tree {
    inodes: Vec<Inode>,
    /// Names in all directories.
    names: u64,
    most_names: u64,
    /// The path that was looked up last: several commands in a row are about the same.
    last: Option<(Vec<u8>, Id)>,
}

/// What a stream said about one inode.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) body: Body,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) mtime: Mtime,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u16,
    /// How many names it has.
    pub(super) names: u32,
}

/// What an inode is.
#[derive(Debug)]
pub(super) enum Body {
    Directory {
        parent: Id,
        children: BTreeMap<Box<[u8]>, Id>,
    },
    File(Bytes),
    Symlink(Box<[u8]>),
    Fifo,
    Socket,
    CharDevice(Device),
    BlockDevice(Device),
    /// It has no name any more.
    Gone,
}

impl Tree {
    /// An empty tree that may come to hold so many names.
    pub(super) fn new(most_names: u64) -> Self {
        let top = Inode::new(Body::Directory { parent: TOP, children: BTreeMap::new() }, 0o755);
        Self { inodes: vec![top], names: 0, most_names, last: None }
    }

    pub(super) fn inode(&self, id: Id) -> &Inode {
        &self.inodes[id as usize]
    }

    pub(super) fn inode_mut(&mut self, id: Id) -> &mut Inode {
        &mut self.inodes[id as usize]
    }

    /// How many names there are.
    pub(super) fn names(&self) -> u64 {
        self.names
    }

    /// The inode that has this path; the empty path is the top.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Id, Trouble> {
        if let Some((last, id)) = &self.last
            && last == path
        {
            return Ok(*id);
        }
        let mut id = TOP;
        if !path.is_empty() {
            for name in path.split(|&byte| byte == b'/') {
                sound_name(name)?;
                id = *self.children(id)?.get(name).ok_or(Trouble::Impossible("there is no such path"))?;
            }
        }
        match &mut self.last {
            Some((last, known)) => {
                path.clone_into(last);
                *known = id;
            }
            none => *none = Some((path.to_vec(), id)),
        }
        Ok(id)
    }

    /// What is known of a file's content; `None` when it is no file, or has no name any more.
    pub(super) fn bytes(&self, id: Id) -> Option<&Bytes> {
        match &self.inode(id).body {
            Body::File(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// As [`Self::bytes`].
    pub(super) fn bytes_mut(&mut self, id: Id) -> Option<&mut Bytes> {
        match &mut self.inode_mut(id).body {
            Body::File(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The files whose content is not known for this reason.
    pub(super) fn files_unknown_by(&self, reason: Why) -> impl Iterator<Item = Id> {
        let unknown = move |inode: &Inode| match inode.body {
            Body::File(Bytes::Unknown { why, .. }) => why == reason,
            _ => false,
        };
        // There are never more inodes than numbers for them.
        (0..).zip(&self.inodes).filter(move |(_, inode)| unknown(inode)).map(|(id, _)| id)
    }

    /// The regular file that has this path.
    pub(super) fn find_file(&mut self, path: &[u8]) -> Result<Id, Trouble> {
        let id = self.find(path)?;
        match self.inode(id).body {
            Body::File(_) => Ok(id),
            _ => Err(Trouble::Impossible("that is no regular file")),
        }
    }

    /// A new inode with one name.
    pub(super) fn make(&mut self, path: &[u8], made: Made<'_>) -> Result<(), Trouble> {
        let (parent, name) = self.place(path)?;
        // What receive gives it until the stream says otherwise.
        let (body, mode) = match made {
            Made::Directory => (Body::Directory { parent, children: BTreeMap::new() }, 0o700),
            Made::File => (Body::File(Bytes::Empty), 0o600),
            Made::Symlink(target) => (Body::Symlink(sound_target(target)?.into()), 0o777),
            Made::Fifo => (Body::Fifo, 0o600),
            Made::Socket => (Body::Socket, 0o600),
            Made::CharDevice(device) => (Body::CharDevice(device), 0o600),
            Made::BlockDevice(device) => (Body::BlockDevice(device), 0o600),
        };
        let Ok(id) = Id::try_from(self.inodes.len()) else {
            return Err(Trouble::Limit("it holds more than four thousand million inodes"));
        };
        // Made and removed again costs as well.
        if self.inodes.len() as u64 > self.most_names {
            return Err(TOO_MANY);
        }
        if self.children(parent)?.contains_key(name) {
            return Err(TAKEN);
        }
        self.inodes.push(Inode::new(body, mode));
        self.add_name(parent, name, id)
    }

    /// Another name for an inode that is no directory.
    pub(super) fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Trouble> {
        let id = self.find(target)?;
        if matches!(self.inode(id).body, Body::Directory { .. }) {
            return Err(Trouble::Impossible("a directory has only one name"));
        }
        let (parent, name) = self.place(path)?;
        if self.children(parent)?.contains_key(name) {
            return Err(TAKEN);
        }
        self.add_name(parent, name, id)
    }

    /// Takes a name away from what is no directory.
    pub(super) fn unlink(&mut self, path: &[u8]) -> Result<(), Trouble> {
        let id = self.find(path)?;
        if matches!(self.inode(id).body, Body::Directory { .. }) {
            return Err(Trouble::Impossible("that is a directory"));
        }
        let (parent, name) = self.place(path)?;
        self.drop_name(parent, name)
    }

    /// Removes an empty directory.
    pub(super) fn remove_directory(&mut self, path: &[u8]) -> Result<(), Trouble> {
        let id = self.find(path)?;
        if !self.children(id)?.is_empty() {
            return Err(Trouble::Impossible("the directory is not empty"));
        }
        let (parent, name) = self.place(path)?;
        self.drop_name(parent, name)
    }

    /// Moves a name, as rename(2) does: what stood in the new place goes if it may.
    pub(super) fn rename(&mut self, from: &[u8], to: &[u8]) -> Result<(), Trouble> {
        let id = self.find(from)?;
        let (old_parent, old_name) = self.place(from)?;
        let (parent, name) = self.place(to)?;
        let directory = matches!(self.inode(id).body, Body::Directory { .. });
        if directory {
            self.refuse_inside(id, parent)?;
        }
        if let Some(&there) = self.children(parent)?.get(name) {
            if there == id {
                return Ok(());
            }
            match &self.inode(there).body {
                Body::Directory { children, .. } if !directory || !children.is_empty() => return Err(TAKEN),
                Body::Directory { .. } => {}
                _ if directory => return Err(TAKEN),
                _ => {}
            }
            self.drop_name(parent, name)?;
        }
        self.last = None;
        self.children_mut(old_parent)?.remove(old_name);
        self.children_mut(parent)?.insert(name.into(), id);
        if let Body::Directory { parent: up, .. } = &mut self.inode_mut(id).body {
            *up = parent;
        }
        Ok(())
    }

    /// Takes what a directory holds, for the last pass over the tree.
    pub(super) fn take_children(&mut self, id: Id) -> Children {
        match &mut self.inode_mut(id).body {
            Body::Directory { children, .. } => std::mem::take(children).into_iter(),
            _ => BTreeMap::new().into_iter(),
        }
    }

    fn children(&self, id: Id) -> Result<&BTreeMap<Box<[u8]>, Id>, Trouble> {
        match &self.inode(id).body {
            Body::Directory { children, .. } => Ok(children),
            _ => Err(NO_DIRECTORY),
        }
    }

    fn children_mut(&mut self, id: Id) -> Result<&mut BTreeMap<Box<[u8]>, Id>, Trouble> {
        match &mut self.inode_mut(id).body {
            Body::Directory { children, .. } => Ok(children),
            _ => Err(NO_DIRECTORY),
        }
    }

    /// The directory that a path is in, and its last name.
    fn place<'p>(&mut self, path: &'p [u8]) -> Result<(Id, &'p [u8]), Trouble> {
        let (above, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(0) => return Err(Trouble::Hostile("the path is absolute")),
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&[][..], path),
        };
        sound_name(name)?;
        Ok((self.find(above)?, name))
    }

    fn add_name(&mut self, parent: Id, name: &[u8], id: Id) -> Result<(), Trouble> {
        if self.names >= self.most_names {
            return Err(TOO_MANY);
        }
        self.children_mut(parent)?.insert(name.into(), id);
        self.names += 1;
        self.inode_mut(id).names += 1;
        Ok(())
    }

    fn drop_name(&mut self, parent: Id, name: &[u8]) -> Result<(), Trouble> {
        self.last = None;
        if let Some(id) = self.children_mut(parent)?.remove(name) {
            self.names -= 1;
            let inode = self.inode_mut(id);
            inode.names -= 1;
            if inode.names == 0 {
                *inode = Inode::new(Body::Gone, 0);
            }
        }
        Ok(())
    }

    /// A directory cannot move into itself, and no climb is longer than a manifest's deepest path.
    fn refuse_inside(&self, id: Id, parent: Id) -> Result<(), Trouble> {
        let mut at = parent;
        for _ in 0..=MAX_DEPTH {
            if at == id {
                return Err(Trouble::Impossible("a directory would be inside itself"));
            }
            match self.inode(at).body {
                _ if at == TOP => return Ok(()),
                Body::Directory { parent, .. } => at = parent,
                _ => return Err(NO_DIRECTORY),
            }
        }
        Err(Trouble::Limit("the directories are nested too deeply"))
    }
}

const TOO_MANY: Trouble = Trouble::Limit("it holds more entries than are allowed");
const TAKEN: Trouble = Trouble::Impossible("something is in that place already");
const NO_DIRECTORY: Trouble = Trouble::Impossible("a part of the path is no directory");

impl Inode {
    fn new(body: Body, mode: u16) -> Self {
        Self { body, xattrs: Vec::new(), mtime: Mtime::default(), uid: 0, gid: 0, mode, names: 0 }
    }

    /// Gives it an owner. As in the kernel, a file loses its set-id bits and capabilities with that.
    pub(super) fn give_to(&mut self, uid: u32, gid: u32) {
        (self.uid, self.gid) = (uid, gid);
        if matches!(self.body, Body::Directory { .. } | Body::Symlink(_)) {
            return;
        }
        self.mode &= !0o4000;
        if self.mode & 0o010 != 0 {
            self.mode &= !0o2000;
        }
        self.remove_xattr(xattr::CAPABILITY);
    }

    /// Sets an extended attribute; all of them together may have so many bytes.
    pub(super) fn set_xattr(&mut self, name: &[u8], value: &[u8], most: usize) -> Result<(), Trouble> {
        /// An ACL's version and no entries: the kernel sends it for an ACL that was taken away.
        const NO_ACL_LENGTH: usize = 4;
        if name.is_empty() || name.len() > xattr::MAX_NAME || name.contains(&0) {
            return Err(Trouble::Hostile("the name of an extended attribute is impossible"));
        }
        self.remove_xattr(name);
        let xattr = Xattr::new(name, value);
        if xattr.is_acl() && value.len() <= NO_ACL_LENGTH {
            return Ok(());
        }
        let all: usize = self.xattrs.iter().map(size_of).sum();
        if value.len() > xattr::MAX_VALUE
            || self.xattrs.len() >= xattr::MAX_COUNT
            || all + size_of(&xattr) > most
        {
            return Err(Trouble::Limit("it has more or larger extended attributes than are allowed"));
        }
        let at = self.xattrs.partition_point(|other| other.name.as_slice() < name);
        self.xattrs.insert(at, xattr);
        Ok(())
    }

    /// Removes an extended attribute; says whether it was there.
    pub(super) fn remove_xattr(&mut self, name: &[u8]) -> bool {
        let before = self.xattrs.len();
        self.xattrs.retain(|xattr| xattr.name != name);
        self.xattrs.len() < before
    }
}

fn size_of(xattr: &Xattr) -> usize {
    let value = match &xattr.value {
        xattr::XattrValue::Bytes(bytes) => bytes.len(),
        xattr::XattrValue::Hashed { size, .. } => *size as usize,
    };
    xattr.name.len() + value
}

fn sound_name(name: &[u8]) -> Result<(), Trouble> {
    match name {
        b"" => Err(Trouble::Hostile("the path is absolute or has an empty part")),
        b"." | b".." => Err(Trouble::Hostile("the path has '.' or '..' in it")),
        _ if name.contains(&0) => Err(Trouble::Hostile("the path holds a NUL")),
        _ if name.len() > LONGEST_NAME => Err(Trouble::Hostile("a name in the path is too long")),
        _ => Ok(()),
    }
}

fn sound_target(target: &[u8]) -> Result<&[u8], Trouble> {
    if target.is_empty() || target.contains(&0) {
        return Err(Trouble::Hostile("the symlink's target is empty or holds a NUL"));
    }
    Ok(target)
}
