//! An initial RAM disk, read to its end, as the kernel would: archives one after another, each plain or compressed, with zeros
//! between them.
//!
//! Nothing is unpacked. What the kernel would stumble over is an error here, with the place where it stands: a file that was cut
//! when `/boot` was full boots into a panic, and looks like any other in a directory listing.

mod cpio;
mod packed;
#[cfg(test)]
#[path = "initrd_tests.rs"]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::system::show;

/// The most that an initrd may hold unpacked, in bytes: it must fit into memory, and the largest (all modules, firmware of
/// graphics cards) have some 500 MiB.
pub const MOST_BYTES: u64 = 1 << 30;

/// The most entries: some 3,000 are usual.
const MOST_ENTRIES: u64 = 1 << 20;

/// What an initrd holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Initrd {
    /// Stretches of the file: plain archives, and compressed streams with one or more archives in them.
    pub segments: u32,
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of all archives, unpacked.
    pub bytes: u64,
    /// The kernel versions below `lib/modules` or `usr/lib/modules`.
    pub kernels: BTreeSet<String>,
    /// Names of kernel modules, without suffix and with `-` as `_`, whatever version they are for.
    pub modules: BTreeSet<String>,
    /// What made it, by the files that it leaves in there.
    pub generator: Option<Generator>,
    by_kernel: BTreeMap<String, BTreeSet<String>>,
}

/// What makes initial RAM disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generator {
    /// initramfs-tools.
    InitramfsTools,
    /// dracut.
    Dracut,
}

/// An initrd that could not be read to its end. But for [`InitrdError::Read`] and [`InitrdError::TooLarge`], the kernel cannot
/// either.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// The file could not be read; nothing is known about its content.
    #[error("failed to read {}", show::path(.path))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in it is not what it should be.
    #[error("{} is damaged at byte {offset}: {what}", show::path(.path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How far the file was read when it was found: inside a compressed stream, where the stream was then.
        offset: u64,
        /// What.
        what: String,
    },
    /// It ends too early.
    #[error("{} ends too early, at byte {offset}: {what}", show::path(.path))]
    Cut {
        /// The file.
        path: PathBuf,
        /// Its length.
        offset: u64,
        /// What is missing.
        what: String,
    },
    /// It holds more than [`MOST_BYTES`] or a million entries. It may be good.
    #[error("{} holds too much to be looked through", show::path(.path))]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

impl Initrd {
    /// Whether the module is there for this very kernel version.
    #[must_use]
    pub fn has_module(&self, version: &str, module: &str) -> bool {
        self.by_kernel.get(version).is_some_and(|modules| modules.contains(&module_name(module)))
    }

    fn note(&mut self, path: &[u8]) {
        let path = String::from_utf8_lossy(path);
        let path = path.trim_start_matches("./").trim_start_matches('/');
        let inside = path.strip_prefix("usr/").unwrap_or(path);
        if let Some(below) = inside.strip_prefix("lib/modules/") {
            self.note_module(below);
        }
        let by = match inside {
            "conf/initramfs.conf" | "scripts/functions" => Some(Generator::InitramfsTools),
            "lib/dracut/build-parameter.txt" | "lib/dracut-lib.sh" => Some(Generator::Dracut),
            _ => None,
        };
        self.generator = self.generator.or(by);
    }

    fn note_module(&mut self, below: &str) {
        let (version, file) = below.split_once('/').unwrap_or((below, ""));
        if version.is_empty() {
            return;
        }
        self.kernels.insert(version.to_owned());
        let name = file.rsplit('/').next().unwrap_or_default();
        let plain = [".xz", ".zst", ".gz"].iter().find_map(|suffix| name.strip_suffix(suffix));
        if let Some(module) = plain.unwrap_or(name).strip_suffix(".ko") {
            let module = module_name(module);
            self.modules.insert(module.clone());
            self.by_kernel.entry(version.to_owned()).or_default().insert(module);
        }
    }
}

/// The kernel takes `-` and `_` in the names of modules for the same.
pub(super) fn module_name(name: &str) -> String {
    name.replace('-', "_")
}

/// Reads an initrd to its end.
///
/// # Errors
/// When it cannot be read, or is not what a kernel could unpack.
pub fn read(path: &Path) -> Result<Initrd, InitrdError> {
    let file = File::open(path).map_err(|source| InitrdError::Read { path: path.to_owned(), source })?;
    read_from(BufReader::with_capacity(256 << 10, file), path)
}

/// As [`read`], of any bytes; the path is for errors.
///
/// # Errors
/// As [`read`].
pub fn read_from(input: impl BufRead, path: &Path) -> Result<Initrd, InitrdError> {
    read_within(input, path, MOST_BYTES)
}

fn read_within(input: impl BufRead, path: &Path, most: u64) -> Result<Initrd, InitrdError> {
    let mut input = Counted { input, offset: 0 };
    let mut tally = Tally { found: Initrd::default(), most };
    let result = segments(&mut input, &mut tally);
    let (path, offset) = (path.to_owned(), input.offset);
    match result {
        Ok(()) => Ok(tally.found),
        Err(Trouble::Input(source)) => Err(InitrdError::Read { path, source }),
        Err(Trouble::TooLarge) => Err(InitrdError::TooLarge { path }),
        Err(Trouble::Damaged(what)) => Err(InitrdError::Damaged { path, offset, what }),
        Err(Trouble::Cut(what)) => Err(InitrdError::Cut { path, offset, what }),
    }
}

/// Why reading ended before the end.
#[derive(Debug)]
enum Trouble {
    Input(io::Error),
    TooLarge,
    Damaged(String),
    Cut(String),
}

/// What was found so far, and how much that may be.
struct Tally {
    found: Initrd,
    most: u64,
}

impl Tally {
    fn add_bytes(&mut self, bytes: u64) -> Result<(), Trouble> {
        self.found.bytes = self.found.bytes.saturating_add(bytes);
        if self.found.bytes > self.most { Err(Trouble::TooLarge) } else { Ok(()) }
    }

    fn add_entry(&mut self, path: &[u8]) -> Result<(), Trouble> {
        self.found.entries += 1;
        self.found.note(path);
        if self.found.entries > MOST_ENTRIES { Err(Trouble::TooLarge) } else { Ok(()) }
    }
}

/// A file, and how far it was read.
struct Counted<R> {
    input: R,
    offset: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let here = self.fill_buf()?;
        let length = here.len().min(buffer.len());
        buffer[..length].copy_from_slice(&here[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        loop {
            match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Marked, so that it is not taken for an error of a decompressor that passes it on.
                Err(error) => return Err(io::Error::new(error.kind(), packed::Below(error))),
                Ok(_) => break,
            }
        }
        // The loop above has filled it: this asks for the same bytes again.
        self.input.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        self.offset += length as u64;
        self.input.consume(length);
    }
}

fn segments<R: BufRead>(input: &mut Counted<R>, tally: &mut Tally) -> Result<(), Trouble> {
    loop {
        cpio::skip_zeros(input, u64::MAX).map_err(|error| packed::told(error, "file"))?;
        let first = match input.fill_buf().map_err(|error| packed::told(error, "file"))?.first() {
            None if tally.found.segments == 0 => return Err(Trouble::Cut("it is empty".to_owned())),
            None => return Ok(()),
            Some(first) => *first,
        };
        tally.found.segments = tally.found.segments.saturating_add(1);
        if first == b'0' {
            // As in the kernel: an archive at another place is not even looked at.
            if !input.offset.is_multiple_of(4) {
                let what = "an archive begins at a place that is no multiple of four".to_owned();
                return Err(Trouble::Damaged(what));
            }
            cpio::archive(input, tally, "archive")?;
        } else {
            packed::unpacked(input, |stream, name| cpio::archives(stream, tally, name))?;
        }
    }
}
