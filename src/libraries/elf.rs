//! What the header of a program says about the libraries that it needs. Any bytes may come: damage is an error, never a panic,
//! and never more memory than a few megabytes.

use std::io::{Read, Seek};

use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, ReadCache, ReadRef};

/// The most bytes of a dynamic section that are read. Real ones have a few hundred entries of 16 bytes.
const MOST_DYNAMIC: u64 = 1 << 20;
/// The longest name of a library or search path, in bytes.
const LONGEST_NAME: u64 = 4096;
/// The most libraries that one program may need: more is no program.
const MOST_NEEDED: usize = 4096;

/// Of what kind a program is: a library is only taken when both are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// 64 bits, or 32.
    pub wide: bool,
    /// `e_machine` of the header, e.g. 62 for x86-64.
    pub machine: u16,
}

impl Kind {
    /// Debian's name of the architecture; `None` for one that this program has no name for.
    #[must_use]
    pub fn debian_architecture(self) -> Option<&'static str> {
        match (self.machine, self.wide) {
            (elf::EM_X86_64, true) => Some("amd64"),
            (elf::EM_386, false) => Some("i386"),
            (elf::EM_AARCH64, true) => Some("arm64"),
            (elf::EM_ARM, false) => Some("armhf"),
            (elf::EM_PPC64, true) => Some("ppc64el"),
            (elf::EM_S390, true) => Some("s390x"),
            (elf::EM_RISCV, true) => Some("riscv64"),
            _ => None,
        }
    }
}

/// What a program or a library needs, as its dynamic section says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Of what kind it is.
    pub kind: Kind,
    /// The sonames that it needs (`DT_NEEDED`), in order.
    pub needed: Vec<String>,
    /// Where to look for them before anywhere else (`DT_RPATH`), as written.
    pub rpath: Vec<String>,
    /// Where to look for them before the system's places (`DT_RUNPATH`), as written.
    pub runpath: Vec<String>,
    /// It names an interpreter: it is a program, not a library.
    pub is_program: bool,
}

/// It begins like a program, and then holds what no program does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no complete ELF file: {0}")]
pub struct NoElf(&'static str);

/// Whether a file begins like an ELF file.
#[must_use]
pub fn is_elf(first: &[u8]) -> bool {
    first.starts_with(b"\x7fELF")
}

/// Understands an ELF file; `None` for one that is linked with nothing (static programs, object files, core dumps). Only the parts
/// that matter are read.
///
/// # Errors
/// When it is damaged or cut before what is needed.
pub fn read_from(file: impl Read + Seek) -> Result<Option<Needs>, NoElf> {
    let cache = ReadCache::new(file);
    parse(&cache)
}

/// As [`read_from`], for bytes in memory.
///
/// # Errors
/// As [`read_from`].
pub fn parse<'d, R: ReadRef<'d>>(bytes: R) -> Result<Option<Needs>, NoElf> {
    let ident = bytes.read_bytes_at(0, 16).map_err(|()| NoElf("it ends within its first 16 bytes"))?;
    if !is_elf(ident) {
        return Err(NoElf("its first bytes are others"));
    }
    match ident[4] {
        elf::ELFCLASS32 => parse_as::<FileHeader32<Endianness>, R>(bytes),
        elf::ELFCLASS64 => parse_as::<FileHeader64<Endianness>, R>(bytes),
        _ => Err(NoElf("it has neither 32 nor 64 bits")),
    }
}

fn parse_as<'d, Elf: FileHeader<Endian = Endianness>, R: ReadRef<'d>>(
    bytes: R,
) -> Result<Option<Needs>, NoElf> {
    let header = Elf::parse(bytes).map_err(|_| NoElf("its header is damaged"))?;
    let endian = header.endian().map_err(|_| NoElf("its byte order is unknown"))?;
    // This count stands for "more than 65534, look elsewhere": no program has that many.
    if header.e_phnum(endian) == elf::PN_XNUM {
        return Err(NoElf("it has too many program headers"));
    }
    let segments = header.program_headers(endian, bytes).map_err(|_| NoElf("its program headers are cut"))?;
    let kind = Kind { wide: header.is_class_64(), machine: header.e_machine(endian) };
    let is_program = segments.iter().any(|segment| segment.p_type(endian) == elf::PT_INTERP);
    let Some(dynamic) = segments.iter().find(|segment| segment.p_type(endian) == elf::PT_DYNAMIC) else {
        return Ok(None);
    };
    // Separated debug symbols keep the header of the section, but not its bytes.
    let length: u64 = dynamic.p_filesz(endian).into();
    if length == 0 {
        return Ok(None);
    }
    if length > MOST_DYNAMIC {
        return Err(NoElf("its dynamic section is too long"));
    }
    let entries = dynamic
        .dynamic(endian, bytes)
        .map_err(|_| NoElf("its dynamic section is cut"))?
        .ok_or(NoElf("it has no dynamic section"))?;
    let mut needs = Needs { kind, needed: Vec::new(), rpath: Vec::new(), runpath: Vec::new(), is_program };
    let strings = Strings { bytes, range: string_table::<Elf>(endian, segments, entries) };
    for entry in entries.iter().take_while(|entry| tag(*entry, endian) != elf::DT_NULL) {
        let value: u64 = entry.d_val(endian).into();
        match tag(entry, endian) {
            elf::DT_NEEDED if needs.needed.len() >= MOST_NEEDED => {
                return Err(NoElf("it needs too many libraries"));
            }
            elf::DT_NEEDED => needs.needed.push(strings.at(value)?),
            elf::DT_RPATH => needs.rpath = split(&strings.at(value)?),
            elf::DT_RUNPATH => needs.runpath = split(&strings.at(value)?),
            _ => {}
        }
    }
    Ok(Some(needs))
}

fn tag<D: Dyn<Endian = Endianness>>(entry: &D, endian: Endianness) -> i64 {
    entry.d_tag(endian).into()
}

/// Where in the file the table of strings lies, by the address that the dynamic section gives.
fn string_table<Elf: FileHeader<Endian = Endianness>>(
    endian: Endianness,
    segments: &[Elf::ProgramHeader],
    entries: &[Elf::Dyn],
) -> Option<(u64, u64)> {
    let value = |wanted: i64| {
        let entry = entries.iter().find(|entry| tag(*entry, endian) == wanted)?;
        Some(entry.d_val(endian).into())
    };
    let (address, length): (u64, u64) = (value(elf::DT_STRTAB)?, value(elf::DT_STRSZ)?);
    segments.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD).find_map(|segment| {
        let (start, size): (u64, u64) = (segment.p_vaddr(endian).into(), segment.p_filesz(endian).into());
        let within = address.checked_sub(start).filter(|within| *within < size)?;
        let offset = within.checked_add(segment.p_offset(endian).into())?;
        Some((offset, length.min(size - within)))
    })
}

struct Strings<R> {
    bytes: R,
    range: Option<(u64, u64)>,
}

impl<'d, R: ReadRef<'d>> Strings<R> {
    fn at(&self, index: u64) -> Result<String, NoElf> {
        const OUTSIDE: NoElf = NoElf("a name lies outside of its table of names");
        let (offset, length) = self.range.ok_or(NoElf("it has no table of names"))?;
        let left = length.checked_sub(index).ok_or(OUTSIDE)?;
        let start = offset.checked_add(index).ok_or(OUTSIDE)?;
        let end = start.checked_add(left.min(LONGEST_NAME)).ok_or(OUTSIDE)?;
        let name = self.bytes.read_bytes_at_until(start..end, 0).map_err(|()| OUTSIDE)?;
        Ok(String::from_utf8_lossy(name).into_owned())
    }
}

/// A list of directories; empty parts mean the directory of whoever starts the program, and are left out.
fn split(list: &str) -> Vec<String> {
    list.split(':').filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libraries::made_up::elf_file;
    use proptest::prelude::*;

    #[test]
    fn names_and_search_paths() {
        let bytes = elf_file(&["libssl.so.3", "libc.so.6"], Some("$ORIGIN/../lib:/opt/x"), None);
        let needs = parse(bytes.as_slice()).unwrap().unwrap();
        assert_eq!(needs.needed, ["libssl.so.3", "libc.so.6"]);
        assert_eq!(needs.runpath, ["$ORIGIN/../lib", "/opt/x"]);
        assert!(needs.rpath.is_empty());
        assert_eq!(needs.kind.debian_architecture(), Some("amd64"));
    }

    #[test]
    fn a_real_program() {
        let needs =
            read_from(std::fs::File::open(std::env::current_exe().unwrap()).unwrap()).unwrap().unwrap();
        assert!(needs.needed.iter().any(|name| name == "libc.so.6"), "{needs:?}");
        assert!(needs.is_program);
    }

    /// The seeds of the fuzz target: what they are is in their names.
    #[test]
    fn both_widths() {
        let seed = |name: &str| {
            let path =
                std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/elf_needed").join(name);
            read_from(std::fs::File::open(path).unwrap())
        };
        let (wide, narrow) = (seed("small64").unwrap().unwrap(), seed("small32").unwrap().unwrap());
        assert_eq!(
            (wide.kind.debian_architecture(), narrow.kind.debian_architecture()),
            (Some("amd64"), Some("i386"))
        );
        assert_eq!(narrow.needed, ["libssl.so.3", "libc.so.6"]);
        assert_eq!((wide.needed, wide.runpath), (narrow.needed, narrow.runpath));
        assert_eq!(seed("program").unwrap().unwrap().runpath, ["$ORIGIN/lib"]);
        assert!(seed("cut").is_err());
    }

    #[test]
    fn every_cut_is_an_error_or_nothing_more() {
        let bytes = elf_file(&["libssl.so.3"], None, Some("/x"));
        let whole = parse(bytes.as_slice()).unwrap().unwrap();
        for end in 0..bytes.len() {
            assert_ne!(parse(&bytes[..end]).ok().flatten(), Some(whole.clone()), "cut at {end}");
        }
    }

    #[test]
    fn what_no_program_holds() {
        let with = |at: usize, new: &[u8]| {
            let mut bytes = elf_file(&["a"], None, None);
            bytes[at..at + new.len()].copy_from_slice(new);
            parse(bytes.as_slice()).unwrap_err().to_string()
        };
        assert!(with(0, b"x").contains("others"));
        assert!(with(4, &[7]).contains("neither"));
        assert!(with(56, &[0xff, 0xff]).contains("too many program headers"));
        // The second program header is the dynamic section: its length in the file.
        assert!(with(64 + 56 + 32, &u64::MAX.to_le_bytes()).contains("too long"));
    }

    proptest! {
        #[test]
        fn no_damage_makes_it_panic(at in 0_usize..600, value: u8, more in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = elf_file(&["libssl.so.3", "libc.so.6"], Some("$ORIGIN"), Some("/y"));
            let length = bytes.len();
            bytes[at % length] = value;
            bytes.extend(more);
            if let Ok(Some(needs)) = parse(bytes.as_slice()) {
                prop_assert!(needs.needed.len() <= MOST_NEEDED);
            }
        }
    }
}
