//! Any bytes as a Debian package: an error or what it says, never a panic, never memory without limit; and what it says holds together.
//!
//! Run with `cargo fuzz run -s none deb_read fuzz/corpus/deb_read fuzz/seeds/deb_read` (stable toolchain).

#![no_main]

use libfuzzer_sys::fuzz_target;
use safe_upgrade::conffiles::deb::{self, KEPT_LIMIT};
use safe_upgrade::conffiles::stock::Md5Sum;

fuzz_target!(|bytes: &[u8]| {
    let Ok(control) = deb::control(bytes) else { return };
    assert!(!control.package.is_empty() && !control.version.is_empty());
    let Ok(found) = deb::contents(bytes, &control.conffiles) else { return };
    for (path, file) in found {
        assert!(control.conffiles.contains(&path));
        let Some(bytes) = file.bytes else { continue };
        assert!(bytes.len() as u64 <= KEPT_LIMIT);
        assert_eq!((Md5Sum::of(&bytes), blake3::hash(&bytes)), (file.md5, file.blake3));
    }
});
