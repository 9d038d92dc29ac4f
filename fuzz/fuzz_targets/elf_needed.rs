//! Any bytes as a program: an error or what it needs, never a panic, never memory without limit; in memory and from a file alike.
//!
//! Run with `cargo fuzz run -s none elf_needed fuzz/corpus/elf_needed fuzz/seeds/elf_needed` (stable toolchain).

#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use safe_upgrade::libraries::elf;

fuzz_target!(|bytes: &[u8]| {
    let found = elf::parse(bytes);
    assert_eq!(elf::read_from(Cursor::new(bytes)), found);
    let Ok(Some(needs)) = found else { return };
    assert!(elf::is_elf(bytes));
    let names = needs.needed.iter().chain(&needs.rpath).chain(&needs.runpath);
    // A name that is no UTF-8 grows at most threefold when its bytes are replaced.
    assert!(names.into_iter().all(|name| name.len() <= 3 * 4096));
});
