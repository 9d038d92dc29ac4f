//! Any bytes as a manifest: an error or a manifest, never a panic, never memory without limit.
//!
//! Run with `cargo fuzz run -s none manifest_decode` (stable toolchain).

#![no_main]

use std::hint::black_box;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use safe_upgrade::manifest::Hashing;
use safe_upgrade::manifest::format::{Manifest, Reader, seal_frames};

fuzz_target!(|bytes: &[u8]| {
    // As found on a disk. Nearly all of these fail at the first digest.
    decode(bytes);
    // As made by somebody who knows how to compute digests: each frame is kind, length (two bytes), payload.
    let mut frames = Vec::new();
    let mut rest = bytes;
    while let [kind, low, high, tail @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        frames.push((*kind % 8, &tail[..length]));
        rest = &tail[length..];
    }
    if let Ok(sealed) = seal_frames(frames) {
        decode(&sealed);
    }
});

fn decode(bytes: &[u8]) {
    let Ok(mut reader) = Reader::new(bytes, Path::new("fuzz"), &Hashing::plain()) else { return };
    let mut entries = Vec::new();
    for entry in &mut reader {
        let Ok(entry) = entry else { return };
        entries.push(entry);
    }
    let summary = reader.summary().expect("the end was reached without an error");
    // What was accepted obeys all rules, and says the same again.
    let again = Manifest::new(reader.header().clone(), entries).expect("accepted entries are valid");
    assert_eq!(again.summary, summary);
    black_box(again);
}
