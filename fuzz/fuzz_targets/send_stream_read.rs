//! Any bytes as a btrfs send stream: an error or a tree, never a panic, never memory without limit.
//!
//! Run with `cargo fuzz run -s none send_stream_read fuzz/corpus/send_stream_read fuzz/seeds/send_stream_read` (stable toolchain).

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use safe_upgrade::manifest::exclude::Excludes;
use safe_upgrade::manifest::{Collector, Facts, Hashing};
use safe_upgrade::sources::send_stream::{read, seal_commands};
use safe_upgrade::sources::{Limits, Reading};

fuzz_target!(|bytes: &[u8]| {
    let Some((&way, rest)) = bytes.split_first() else { return };
    let version = 1 + u32::from(way >> 7);
    match way % 3 {
        // As found on a disk. Nearly all of these fail at the first checksum.
        0 => follow(rest),
        // As made by somebody who knows how to compute checksums: each command is number, length (two bytes), attributes.
        1 => follow(&seal(version, sealed_by_hand(rest))),
        // As made by somebody who knows the format too.
        _ => follow(&seal(version, well_formed(version, rest))),
    }
});

fn seal(version: u32, commands: Vec<(u16, Vec<u8>)>) -> Vec<u8> {
    seal_commands(version, commands.iter().map(|(number, body)| (*number, &body[..])))
}

fn sealed_by_hand(mut rest: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut commands = Vec::new();
    while let [number, low, high, tail @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        commands.push((u16::from(*number % 28), tail[..length].to_vec()));
        rest = &tail[length..];
    }
    commands
}

const PATHS: [&str; 12] = ["", "a", "b", "a/a", "a/b", "b/a", "a/b/a", "c", "../c", "/c", "a/../b", "o257-7-0"];

/// One command from every four bytes: what, on which path, with which other path and number, and data from what follows.
fn well_formed(version: u32, rest: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let path = |byte: u8| PATHS[usize::from(byte) % PATHS.len()].as_bytes().to_vec();
    let mut commands = vec![(1, attributes(version, &[(15, b"s".to_vec()), (1, vec![7; 16]), (2, vec![0; 8])]))];
    let mut at = 0;
    while let Some([what, first, second, number]) = rest.get(at..at + 4) {
        at += 4;
        let data = rest.get(at..at + usize::from(number % 32)).unwrap_or_default().to_vec();
        let wide = |number: u64| number.to_le_bytes().to_vec();
        let offset = u64::from(*number) * u64::from(*second) * 16;
        let mut list = vec![(15, path(*first))];
        list.extend(match what % 27 {
            3..=8 => vec![(3, wide(0)), (8, wide(offset)), (5, wide(0o020_000)), (17, path(*second))],
            9 => vec![(16, path(*second))],
            10 => vec![(17, path(*second))],
            13 | 14 => vec![(13, b"user.x".to_vec()), (14, data)],
            15 => vec![(18, wide(offset)), (19, data)],
            16 => vec![(18, wide(offset)), (20, vec![7; 16]), (22, path(*second)), (23, wide(offset)), (24, wide(16))],
            17 => vec![(4, wide(offset))],
            18 => vec![(5, wide(offset))],
            19 => vec![(6, wide(1)), (7, wide(2))],
            20 => vec![(10, vec![1; 12])],
            22 => vec![(18, wide(offset)), (4, wide(16))],
            23 => vec![(25, vec![*second % 3, 0, 0, 0]), (18, wide(offset)), (4, wide(16))],
            25 => vec![
                (18, wide(offset)),
                (27, wide(u64::from(*number % 32))),
                (28, wide(4096)),
                (29, wide(u64::from(*second))),
                (30, vec![*second % 9, 0, 0, 0]),
                (19, data),
            ],
            _ => Vec::new(),
        });
        commands.push((u16::from(what % 27), attributes(version, &list)));
    }
    commands.push((21, Vec::new()));
    commands
}

fn attributes(version: u32, list: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (number, value) in list {
        body.extend_from_slice(&number.to_le_bytes());
        if version == 1 || *number != 19 {
            body.extend_from_slice(&(value.len() as u16).to_le_bytes());
        }
        body.extend_from_slice(value);
    }
    body
}

fn follow(stream: &[u8]) {
    let excludes = Excludes::default();
    let reading = Reading {
        hashing: Hashing::plain(),
        scratch: Path::new("/tmp"),
        excludes: &excludes,
        limits: Limits { entries: 1000, bytes: 1 << 20, name: 4096, depth: 64, xattrs: 4096 },
        progress: &|_| {},
    };
    let mut collector = Collector::new(reading.scratch);
    let Ok(gathered) = read(stream, &reading, &mut collector) else { return };
    assert!(gathered.findings.len() <= 1000);
    let sorted = collector.finish().expect("what was collected can be sorted");
    let mut directories = Vec::new();
    for found in sorted {
        let entry = found.expect("a small tree stays in memory").entry;
        assert!(found_is_sound(&entry, &gathered.carries));
        if let Some(parent) = entry.parent() {
            assert!(directories.iter().any(|directory| directory == parent), "an entry without its directory");
        }
        if entry.kind.name() == "directory" {
            directories.push(entry.path);
        }
    }
    assert!(!directories.is_empty());
}

/// Every rule of a manifest holds, but that a content may be unknown.
fn found_is_sound(entry: &safe_upgrade::manifest::Entry, carries: &Facts) -> bool {
    let unknown = matches!(entry.kind, safe_upgrade::manifest::Kind::File { content: None, .. });
    carries.has(Facts::CONTENT) && (unknown || entry.check().is_ok())
}
