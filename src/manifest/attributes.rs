//! What stat does not say: extended attributes, the flags of `chattr`, and where a sparse file has its data.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{IFlags, SeekFrom};
use rustix::io::Errno;

use super::entry::{Extent, MAX_EXTENTS};
use super::flags;
use super::xattr::{MAX_COUNT, MAX_VALUE, MAX_WHOLE_TOTAL, Xattr, XattrValue};

/// The longest list of names, in bytes (`XATTR_LIST_MAX`, linux/limits.h).
const MAX_LIST: usize = 65_536;

/// What is asked for first, in bytes: the kernel allocates as much as is asked for, whatever there is.
const FIRST: usize = 512;

thread_local! {
    static LIST: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static VALUE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Whose attributes.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    /// Of an open file or directory.
    Open(BorrowedFd<'a>),
    /// Of what has this name; it is neither opened nor followed.
    Named(&'a CStr),
}

/// All attributes that this process may list, sorted by name. None where the filesystem has none.
///
/// # Errors
/// When they could not be read, or are more than a manifest keeps (`E2BIG`).
pub(super) fn xattrs(of: Of<'_>) -> Result<Vec<Xattr>, Errno> {
    match try_xattrs(of) {
        // One vanished between the list and the value.
        Err(Errno::NODATA) => match try_xattrs(of) {
            // Some filesystems list names that have no value.
            Err(Errno::NODATA) => try_values(of, true),
            result => result,
        },
        result => result,
    }
}

/// The attributes of something that is not opened, as a link or a device: through the descriptor of its directory, because no
/// older kernel than 6.13 takes a descriptor and a name.
///
/// # Errors
/// As [`xattrs`]; `ENOSYS` when `/proc` is not there.
pub(super) fn xattrs_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Vec<Xattr>, Errno> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    match xattrs(Of::Named(&path)) {
        Err(Errno::NOENT) if !has_proc() => Err(Errno::NOSYS),
        result => result,
    }
}

/// The flags that a person can set; `None` where the filesystem has none.
///
/// # Errors
/// When they could not be read.
pub(super) fn flags_of(open: BorrowedFd<'_>) -> Result<Option<u32>, Errno> {
    match rustix::fs::ioctl_getflags(open) {
        Ok(all) => Ok(Some(IFlags::bits(&all) & flags::KEPT)),
        // A filesystem of the kernel's FUSE says ENOSYS.
        Err(Errno::NOTTY | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Where the data of a file of `size` bytes are. `None` when it has no hole, has more extents than a manifest keeps, or the
/// filesystem does not tell. Moves the position of the descriptor.
pub(super) fn extents(open: BorrowedFd<'_>, size: u64) -> Option<Vec<Extent>> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = 0;
    while at < size {
        let begin = match rustix::fs::seek(open, SeekFrom::Data(at)) {
            // No data up to the end.
            Err(Errno::NXIO) => break,
            begin => begin.ok()?.min(size),
        };
        let end = rustix::fs::seek(open, SeekFrom::Hole(begin)).ok()?.min(size);
        if end <= begin || extents.len() == MAX_EXTENTS {
            // The file changes, which its times will tell; or it has too many.
            return None;
        }
        match extents.last_mut() {
            Some(last) if last.offset + last.length == begin => last.length += end - begin,
            _ => extents.push(Extent { offset: begin, length: end - begin }),
        }
        at = end;
    }
    let whole = matches!(extents.as_slice(), [Extent { offset: 0, length }] if *length == size);
    (!whole).then_some(extents)
}

fn try_xattrs(of: Of<'_>) -> Result<Vec<Xattr>, Errno> {
    try_values(of, false)
}

fn try_values(of: Of<'_>, skip_empty_names: bool) -> Result<Vec<Xattr>, Errno> {
    LIST.with_borrow_mut(|list| {
        let length = in_room(list, MAX_LIST, |list| match of {
            Of::Open(fd) => rustix::fs::flistxattr(fd, list),
            Of::Named(path) => rustix::fs::llistxattr(path, list),
        });
        let length = match length {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
            length => length?,
        };
        let mut found: Vec<Xattr> = Vec::new();
        for name in list[..length].split_inclusive(|&byte| byte == 0) {
            let name = CStr::from_bytes_with_nul(name).map_err(|_| Errno::INVAL)?;
            match value(of, name) {
                Ok(xattr) => found.push(xattr),
                Err(Errno::NODATA | Errno::NOTSUP) if skip_empty_names => {}
                Err(errno) => return Err(errno),
            }
        }
        found.sort_unstable_by(|l, r| l.name.cmp(&r.name));
        found.dedup_by(|l, r| l.name == r.name);
        let whole = found.iter().map(|xattr| match &xattr.value {
            XattrValue::Bytes(bytes) => bytes.len(),
            XattrValue::Hashed { .. } => 0,
        });
        let fits = whole.sum::<usize>() <= MAX_WHOLE_TOTAL && found.len() <= MAX_COUNT;
        if fits { Ok(found) } else { Err(Errno::TOOBIG) }
    })
}

fn value(of: Of<'_>, name: &CStr) -> Result<Xattr, Errno> {
    VALUE.with_borrow_mut(|value| {
        let length = in_room(value, MAX_VALUE, |value| match of {
            Of::Open(fd) => rustix::fs::fgetxattr(fd, name, value),
            Of::Named(path) => rustix::fs::lgetxattr(path, name, value),
        })?;
        Ok(Xattr::new(name.to_bytes(), &value[..length]))
    })
}

/// Calls with a little room first, and then with all that Linux knows. `E2BIG`: not even that was enough.
fn in_room(
    room: &mut Vec<u8>,
    most: usize,
    call: impl Fn(&mut [u8]) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    for size in [FIRST, most] {
        if room.len() < size {
            room.resize(size, 0);
        }
        match call(&mut room[..size]) {
            Err(Errno::RANGE) => {}
            length => return length,
        }
    }
    Err(Errno::TOOBIG)
}

fn has_proc() -> bool {
    rustix::fs::access("/proc/self/fd", rustix::fs::Access::EXISTS).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn attributes_come_sorted_and_large_values_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("f")).unwrap();
        let set = |name: &str, value: &[u8]| {
            rustix::fs::fsetxattr(&file, name, value, rustix::fs::XattrFlags::empty())
        };
        if set("user.b", b"2").is_err() {
            return println!("skipped: no extended attributes in the temporary directory");
        }
        set("user.a", b"").unwrap();
        // ext4 keeps less than one block in all.
        let large = set("user.large", &[7; 5000]).is_ok();
        let names = |xattrs: &[Xattr]| -> Vec<String> {
            xattrs.iter().map(|xattr| String::from_utf8(xattr.name.clone()).unwrap()).collect()
        };
        let found = xattrs(Of::Open(file.as_fd())).unwrap();
        let expected = if large { &["user.a", "user.b", "user.large"][..] } else { &["user.a", "user.b"] };
        assert_eq!(names(&found), expected);
        assert_eq!(found[1], Xattr::new("user.b", b"2"));
        let top = super::super::opening::open_top(dir.path()).unwrap();
        assert_eq!(xattrs_at(top.as_fd(), c"f").unwrap(), found);
        assert_eq!(xattrs_at(top.as_fd(), c"none"), Err(Errno::NOENT));
    }

    #[test]
    fn holes_are_seen_and_a_full_file_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create_new(dir.path().join("f")).unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(extents(file.as_fd(), 1 << 20), Some(vec![]));
        file.write_all_at(&[1; 4096], 256 << 10).unwrap();
        let found = extents(file.as_fd(), 1 << 20).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].offset <= 256 << 10 && found[0].length < 1 << 20, "{found:?}");
        file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
        assert_eq!(extents(file.as_fd(), 1 << 20), None);
    }
}
