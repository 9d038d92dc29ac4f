//! GRUB's environment block: 1024 bytes that the boot loader reads and can write itself.
//!
//! GRUB has no file system code that writes. It overwrites the disk blocks that the file has at that moment, so the file
//! must be there in full, and must never be replaced by rename while GRUB may know it. The format is the one that the
//! GRUB manual's chapter on `grub-editenv` describes, and `grub-editenv` reads it in a test.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::system::durable::{DurableError, sync_directory};

/// The size of a block in bytes; GRUB takes any, `grub-editenv` writes this one.
pub const SIZE: usize = 1024;

const SIGNATURE: &[u8] = b"# GRUB Environment Block\n";

/// The variables of a block, in their order.
pub type Variables = Vec<(String, String)>;

/// Bytes that are no environment block, or values that fit into none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The signature or the size is wrong.
    #[error("not a GRUB environment block: {0}")]
    NotABlock(&'static str),
    /// A line is no assignment.
    #[error("line {0} of the environment block is not NAME=VALUE")]
    Line(usize),
    /// It cannot be a variable's name.
    #[error("{0:?} cannot be a name in an environment block")]
    Name(String),
    /// It cannot be a variable's value: GRUB's texts end at a NUL.
    #[error("{0:?} cannot be a value in an environment block")]
    Value(String),
    /// Too much for [`SIZE`] bytes.
    #[error("the variables do not fit into an environment block of {SIZE} bytes")]
    TooLong,
}

/// An environment file that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum EnvFileError {
    /// The file.
    #[error("failed to {action} {}", .path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// What is in the file.
    #[error("{} is damaged: {block}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        block: BlockError,
    },
    /// What should be written.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The directory.
    #[error(transparent)]
    Durable(#[from] DurableError),
}

/// The bytes of a block.
///
/// # Errors
/// When a name is none, or all of it is too long.
pub fn encode(variables: &[(String, String)]) -> Result<Vec<u8>, BlockError> {
    let mut bytes = SIGNATURE.to_vec();
    for (name, value) in variables {
        if !is_name(name) {
            return Err(BlockError::Name(name.clone()));
        }
        if value.contains('\0') {
            return Err(BlockError::Value(value.clone()));
        }
        bytes.extend(name.bytes());
        bytes.push(b'=');
        for byte in value.bytes() {
            if matches!(byte, b'\\' | b'\n') {
                bytes.push(b'\\');
            }
            bytes.push(byte);
        }
        bytes.push(b'\n');
    }
    if bytes.len() > SIZE {
        return Err(BlockError::TooLong);
    }
    bytes.resize(SIZE, b'#');
    Ok(bytes)
}

/// The variables of a block.
///
/// # Errors
/// When it is not exactly what GRUB or [`encode`] would have written.
pub fn decode(bytes: &[u8]) -> Result<Variables, BlockError> {
    if bytes.len() != SIZE {
        return Err(BlockError::NotABlock("it is not 1024 bytes long"));
    }
    let mut rest = bytes
        .strip_prefix(SIGNATURE)
        .ok_or(BlockError::NotABlock("it does not begin with GRUB's signature"))?;
    let mut variables = Variables::new();
    let mut line = 2;
    while let Some(first) = rest.first() {
        if *first == b'#' {
            // GRUB leaves nothing but padding behind the last variable; comments would be lost at its first write.
            return match rest.iter().all(|byte| *byte == b'#') {
                true => Ok(variables),
                false => Err(BlockError::NotABlock("something stands behind the padding")),
            };
        }
        let (variable, length) = assignment(rest).ok_or(BlockError::Line(line))?;
        variables.push(variable);
        rest = &rest[length..];
        line += 1;
    }
    Ok(variables)
}

/// The variables of a file.
///
/// # Errors
/// When it cannot be read or is damaged. A file that is not there is an error too.
pub fn read(path: &Path) -> Result<Variables, EnvFileError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SIZE as u64 + 1).read_to_end(&mut bytes))
        .map_err(at("read", path))?;
    decode(&bytes).map_err(|block| EnvFileError::Damaged { path: path.to_owned(), block })
}

/// Writes the variables: into a new file, fully allocated, or over the bytes of the one that is there, on the blocks that it
/// has. Synced; the caller still has to make the filesystem's own journal empty, because GRUB does not read journals.
///
/// # Errors
/// When the file cannot be written, or reads back as something else. A file of another size is replaced.
pub fn write_in_place(path: &Path, variables: &[(String, String)]) -> Result<(), EnvFileError> {
    let bytes = encode(variables)?;
    let usable = match std::fs::symlink_metadata(path) {
        Ok(found) => found.is_file() && found.len() == SIZE as u64,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(at("look at", path)(error)),
    };
    if usable {
        let file = OpenOptions::new().write(true).open(path).map_err(at("open", path))?;
        file.write_all_at(&bytes, 0).and_then(|()| file.sync_all()).map_err(at("write", path))?;
    } else {
        crate::system::durable::remove_file(path)?;
        let mut file =
            OpenOptions::new().write(true).create_new(true).open(path).map_err(at("create", path))?;
        // Written, not only reserved: GRUB takes a hole or an unwritten extent for a sparse file.
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(at("write", path))?;
        sync_directory(path.parent().unwrap_or(Path::new("/")))?;
    }
    match read(path)? == variables {
        true => Ok(()),
        false => Err(at("read back", path)(io::Error::other("it does not hold what was written"))),
    }
}

fn at<'p>(action: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> EnvFileError + use<'p> {
    move |source| EnvFileError::File { action, path: path.to_owned(), source }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The first assignment and how many bytes it takes with its newline.
fn assignment(bytes: &[u8]) -> Option<((String, String), usize)> {
    let equals = bytes.iter().position(|byte| *byte == b'=')?;
    let name = std::str::from_utf8(&bytes[..equals]).ok().filter(|name| is_name(name))?;
    let mut value = Vec::new();
    let mut at = equals + 1;
    loop {
        match bytes.get(at)? {
            b'\n' => break,
            0 => return None,
            b'\\' => {
                value.push(*bytes.get(at + 1).filter(|byte| **byte != 0)?);
                at += 2;
            }
            byte => {
                value.push(*byte);
                at += 1;
            }
        }
    }
    Some(((name.to_owned(), String::from_utf8(value).ok()?), at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::exec::{Exec, find_tool};
    use proptest::prelude::*;
    use std::os::unix::fs::MetadataExt;

    fn one(name: &str, value: &str) -> Variables {
        vec![(name.to_owned(), value.to_owned())]
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(variables in proptest::collection::vec(("[a-z_][a-z0-9_]{0,8}", "\\PC{0,20}|[a\\\\\n#=]{0,9}"), 0..8)) {
            let bytes = encode(&variables).unwrap();
            prop_assert_eq!(bytes.len(), SIZE);
            prop_assert_eq!(decode(&bytes).unwrap(), variables);
        }

        #[test]
        fn decoding_never_panics(tail in proptest::collection::vec(any::<u8>(), SIZE - SIGNATURE.len())) {
            let bytes = [SIGNATURE, &tail].concat();
            if let Ok(variables) = decode(&bytes) {
                prop_assert_eq!(encode(&variables).unwrap().len(), SIZE);
            }
        }
    }

    #[test]
    fn refuses_what_is_no_block() {
        assert_eq!(encode(&one("a b", "")), Err(BlockError::Name("a b".into())));
        assert_eq!(encode(&one("a", &"x".repeat(SIZE))), Err(BlockError::TooLong));
        let good = encode(&one("a", "b")).unwrap();
        assert!(decode(&good[1..]).is_err());
        assert!(matches!(decode(&vec![0; SIZE]), Err(BlockError::NotABlock(_))));
        let mut torn = good.clone();
        torn[27] = 0;
        assert_eq!(decode(&torn), Err(BlockError::Line(2)));
        let mut trailing = good;
        trailing[1000] = b'x';
        assert!(matches!(decode(&trailing), Err(BlockError::NotABlock(_))));
    }

    #[test]
    fn is_rewritten_where_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        assert!(read(&path).is_err());
        write_in_place(&path, &one("su_trial", "r1")).unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        write_in_place(&path, &one("su_trial", "")).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
        assert_eq!(read(&path).unwrap(), one("su_trial", ""));
        std::fs::write(&path, "short").unwrap();
        assert!(matches!(read(&path), Err(EnvFileError::Damaged { .. })));
        write_in_place(&path, &one("su_trial", "r2")).unwrap();
        assert_eq!(read(&path).unwrap(), one("su_trial", "r2"));
    }

    #[test]
    fn grub_editenv_agrees() {
        if find_tool("grub-editenv").is_err() {
            println!("skipped: grub-editenv is not installed");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        let editenv =
            |args: &[&str]| Exec::new("grub-editenv").unwrap().arg(&path).args(args).text().unwrap();
        write_in_place(&path, &one("su_trial", "a\\b #=c")).unwrap();
        assert_eq!(editenv(&["list"]), "su_trial=a\\b #=c\n");
        editenv(&["set", "su_trial=", "other=x\\y"]);
        let both = [one("su_trial", ""), one("other", "x\\y")].concat();
        assert_eq!(read(&path).unwrap(), both);
        assert_eq!(std::fs::read(&path).unwrap(), encode(&both).unwrap());
    }
}
