//! The boot loader's variables in the firmware, through efivarfs (kernel: Documentation/filesystems/efivarfs.rst).

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

/// Where the kernel shows the firmware's variables.
pub const EFIVARS: &str = "/sys/firmware/efi/efivars";

/// The vendor id of the Boot Loader Interface (systemd.io/BOOT_LOADER_INTERFACE).
const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// The attributes of a variable that outlives a reset, and that boot loader and system may both read and write: non-volatile, boot
/// services, runtime (UEFI specification, `SetVariable`).
const ATTRIBUTES: u32 = 0x7;

/// The bit of `LoaderFeatures` that says that the boot loader knows `LoaderEntryOneShot`.
const KNOWS_ONE_SHOT: u64 = 1 << 3;

/// The entry that boots next, once: the boot loader deletes the variable before it starts the entry.
pub(super) const ONE_SHOT: &str = "LoaderEntryOneShot";
/// The entry that boots by default, whatever `loader.conf` says.
pub(super) const DEFAULT: &str = "LoaderEntryDefault";
/// The entry that was booted.
pub(super) const SELECTED: &str = "LoaderEntrySelected";
/// The entry that was booted last, where the boot loader remembers that.
pub(super) const LAST_BOOTED: &str = "LoaderEntryLastBooted";
/// The names of all entries that the boot loader has found.
pub(super) const ENTRIES: &str = "LoaderEntries";
/// What the boot loader can do.
const FEATURES: &str = "LoaderFeatures";

/// A variable that could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} the firmware's variable {name}")]
pub struct VariableError {
    action: &'static str,
    name: String,
    source: io::Error,
}

/// The variables of the boot loader interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variables {
    directory: PathBuf,
}

impl Variables {
    /// Those of a system: [`EFIVARS`] below its root.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self { directory: root.join(EFIVARS.trim_start_matches('/')) }
    }

    /// The text of a variable; `None` when it is not set, or empty.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn get(&self, name: &str) -> Result<Option<String>, VariableError> {
        let value = self.value(name)?;
        // The text ends with the first zero.
        let text = value.map(|value| utf16(&value).split('\0').next().unwrap_or_default().to_owned());
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// The texts of a variable that holds several, each with a zero behind it.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn list(&self, name: &str) -> Result<Vec<String>, VariableError> {
        let value = self.value(name)?.unwrap_or_default();
        let text = utf16(&value);
        Ok(text.split('\0').filter(|one| !one.is_empty()).map(str::to_owned).collect())
    }

    /// Whether the boot loader says that it boots an entry once by [`ONE_SHOT`].
    ///
    /// # Errors
    /// When its word can't be read.
    pub fn knows_one_shot(&self) -> Result<bool, VariableError> {
        let value = self.value(FEATURES)?;
        let bits = value.and_then(|value| value.try_into().ok()).map_or(0, u64::from_le_bytes);
        Ok(bits & KNOWS_ONE_SHOT != 0)
    }

    /// Sets a variable and reads it back. The firmware has it when this returns.
    ///
    /// # Errors
    /// When it can't be written, or is not what was written.
    pub fn set(&self, name: &str, text: &str) -> Result<(), VariableError> {
        if self.get(name)?.as_deref() == Some(text) {
            return Ok(());
        }
        let units = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
        let bytes: Vec<u8> = ATTRIBUTES.to_le_bytes().into_iter().chain(units).collect();
        let path = self.path(name);
        let at = |source| VariableError { action: "write", name: name.to_owned(), source };
        make_mutable(&path).map_err(at)?;
        // The kernel hands each write over whole, so there must be one only.
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(at)?;
        file.write(&bytes).map_err(at)?;
        drop(file);
        match self.get(name)? {
            Some(found) if found == text => Ok(()),
            found => Err(at(io::Error::other(format!("it holds {found:?} after {text:?} was written")))),
        }
    }

    /// Deletes a variable, and looks whether it is gone. Repeatable.
    ///
    /// # Errors
    /// When it can't be deleted.
    pub fn unset(&self, name: &str) -> Result<(), VariableError> {
        let path = self.path(name);
        let at = |source| VariableError { action: "delete", name: name.to_owned(), source };
        make_mutable(&path).map_err(at)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(at(error)),
            _ => {}
        }
        match self.get(name)? {
            None => Ok(()),
            Some(found) => Err(at(io::Error::other(format!("it still holds {found:?}")))),
        }
    }

    /// Four bytes of attributes, then the value.
    fn value(&self, name: &str) -> Result<Option<Vec<u8>>, VariableError> {
        match std::fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(bytes.get(4..).unwrap_or_default().to_vec())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(VariableError { action: "read", name: name.to_owned(), source }),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}-{VENDOR}"))
    }
}

/// The kernel protects variables that it does not know against being deleted by mistake: it shows them as immutable.
fn make_mutable(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    match ioctl_getflags(&file) {
        Ok(flags) if flags.contains(IFlags::IMMUTABLE) => {
            Ok(ioctl_setflags(&file, flags.difference(IFlags::IMMUTABLE))?)
        }
        // A filesystem without such flags protects nothing.
        Ok(_) | Err(Errno::NOTTY | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_set_replaced_and_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("sys/firmware/efi/efivars");
        std::fs::create_dir_all(&directory).unwrap();
        let variables = Variables::below(dir.path());
        assert_eq!(variables.get(ONE_SHOT).unwrap(), None);
        variables.unset(ONE_SHOT).unwrap();
        variables.set(ONE_SHOT, "safe-upgrade-x.conf").unwrap();
        assert_eq!(variables.get(ONE_SHOT).unwrap().as_deref(), Some("safe-upgrade-x.conf"));
        let bytes = std::fs::read(variables.path(ONE_SHOT)).unwrap();
        assert_eq!((&bytes[..6], bytes.len()), (&[7, 0, 0, 0, b's', 0][..], 4 + 2 * 20));
        variables.unset(ONE_SHOT).unwrap();
        assert_eq!(variables.get(ONE_SHOT).unwrap(), None);
        assert!(Variables::below(Path::new("/nowhere")).set(ONE_SHOT, "x").is_err());
    }

    #[test]
    fn what_the_boot_loader_says() {
        let dir = tempfile::tempdir().unwrap();
        let variables = Variables::below(dir.path());
        std::fs::create_dir_all(&variables.directory).unwrap();
        assert!(!variables.knows_one_shot().unwrap());
        // As systemd-boot 252 has it.
        std::fs::write(variables.path(FEATURES), [6, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert!(variables.knows_one_shot().unwrap());
        std::fs::write(variables.path(FEATURES), [6, 0, 0, 0, 0x7, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert!(!variables.knows_one_shot().unwrap());
        let entries: Vec<u8> = "a.conf\0b.conf\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        std::fs::write(variables.path(ENTRIES), [&[6, 0, 0, 0][..], &entries].concat()).unwrap();
        assert_eq!(variables.list(ENTRIES).unwrap(), ["a.conf", "b.conf"]);
    }
}
