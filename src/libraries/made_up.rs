//! Programs for tests, small enough to be written by hand: an ELF header, two program headers, a dynamic section, names.

use object::elf;

/// An x86-64 library that needs these sonames. Everything is mapped at its place in the file.
pub(crate) fn elf_file(needed: &[&str], runpath: Option<&str>, rpath: Option<&str>) -> Vec<u8> {
    const HEADER: usize = 64;
    const SEGMENT: usize = 56;
    let mut names = vec![0_u8];
    let mut add = |name: &str| {
        let at = names.len() as u64;
        names.extend(name.bytes().chain([0]));
        at
    };
    let mut entries: Vec<(i64, u64)> = needed.iter().map(|name| (elf::DT_NEEDED, add(name))).collect();
    entries.extend(runpath.map(|path| (elf::DT_RUNPATH, add(path))));
    entries.extend(rpath.map(|path| (elf::DT_RPATH, add(path))));
    let dynamic_at = HEADER + 2 * SEGMENT;
    let dynamic_length = (entries.len() + 3) * 16;
    let names_at = dynamic_at + dynamic_length;
    entries.push((elf::DT_STRTAB, names_at as u64));
    entries.push((elf::DT_STRSZ, names.len() as u64));
    entries.push((elf::DT_NULL, 0));

    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [elf::ET_DYN, elf::EM_X86_64] {
        bytes.extend(half.to_le_bytes());
    }
    bytes.extend(1_u32.to_le_bytes());
    for word in [0, HEADER as u64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0_u32.to_le_bytes());
    for half in [HEADER as u16, SEGMENT as u16, 2, 0, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    let whole = (names_at + names.len()) as u64;
    for (kind, at, length) in
        [(elf::PT_LOAD, 0, whole), (elf::PT_DYNAMIC, dynamic_at as u64, dynamic_length as u64)]
    {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(4_u32.to_le_bytes());
        for word in [at, at, at, length, length, 8] {
            bytes.extend(word.to_le_bytes());
        }
    }
    for (tag, value) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(names);
    bytes
}
