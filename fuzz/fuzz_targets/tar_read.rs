//! Any bytes as an archive: an error, findings or entries, never a panic, never memory or disk without limit; and what comes out is
//! a list that a manifest could hold.
//!
//! Run with `cargo fuzz run -s none tar_read fuzz/corpus/tar_read fuzz/seeds/tar_read` (stable toolchain).

#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use safe_upgrade::manifest::entry::path_order;
use safe_upgrade::manifest::exclude::Excludes;
use safe_upgrade::manifest::{Collector, Hashing};
use safe_upgrade::sources::compressed::Compression;
use safe_upgrade::sources::{Limits, Reading, tar};

const BLOCK: usize = 512;

fuzz_target!(|bytes: &[u8]| {
    if Compression::of(bytes) != Compression::None {
        // With its thread and its decompressor.
        return read(bytes, false);
    }
    // As found. Nearly all of these fail at the first checksum.
    read(bytes, true);
    // As made by somebody who knows how to add.
    read(&summed(bytes), true);
});

fn read(bytes: &[u8], unpacked: bool) {
    let excludes = Excludes::default();
    let reading = Reading {
        hashing: Hashing::plain(),
        scratch: &std::env::temp_dir(),
        excludes: &excludes,
        limits: Limits { entries: 1000, bytes: 1 << 20, name: 4096, depth: 64, xattrs: 1 << 16 },
        progress: &|_| {},
    };
    let mut collector = Collector::new(reading.scratch);
    let input = Cursor::new(bytes.to_vec());
    let gathered = if unpacked {
        tar::read_unpacked(input, b"", &reading, &mut collector)
    } else {
        tar::read(input, b"", &reading, &mut collector)
    };
    let Ok(gathered) = gathered else { return };
    assert!(gathered.findings.len() <= 10_000);
    let mut last: Option<Vec<u8>> = None;
    for found in collector.finish().expect("every alias has its target") {
        let entry = found.expect("what was written is read").entry;
        entry.check().expect("a manifest could hold it");
        if let Some(last) = &last {
            assert!(path_order(last, &entry.path).is_lt());
        }
        last = Some(entry.path);
    }
}

/// Gives every block that could be a header the sum that makes it one.
fn summed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(BLOCK) {
        if block[0] == 0 || !(block[156] == 0 || block[156].is_ascii_alphanumeric()) {
            continue;
        }
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
}
