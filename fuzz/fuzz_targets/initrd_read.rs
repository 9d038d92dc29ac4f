//! Any bytes as an initrd: an error or a summary, never a panic, never memory without limit; and the summary holds together.
//!
//! Run with `cargo fuzz run -s none initrd_read fuzz/corpus/initrd_read fuzz/seeds/initrd_read` (stable toolchain).

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use safe_upgrade::boot::initrd::{self, MOST_BYTES};

fuzz_target!(|bytes: &[u8]| {
    let Ok(found) = initrd::read_from(bytes, Path::new("initrd")) else { return };
    assert!(found.segments > 0);
    assert!(found.bytes <= MOST_BYTES);
    // An entry has a header of 110 bytes.
    assert!(found.bytes >= 110 * found.entries);
    assert!(found.modules.is_empty() || !found.kernels.is_empty());
    // Zeros behind it change nothing; what follows a whole one and is none makes it none.
    let more = |after: &[u8]| initrd::read_from([bytes, after].concat().as_slice(), Path::new("initrd"));
    assert_eq!(more(&[0; 512]).expect("zeros may follow"), found);
    assert!(more(b"\0\0\0\0x").is_err());
});
