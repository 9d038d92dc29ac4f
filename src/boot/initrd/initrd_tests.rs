//! Initial RAM disks as real tools make them, whole, cut and damaged.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;

/// What an initrd of initramfs-tools holds, in small.
const FILES: [(&str, &[u8]); 6] = [
    ("init", b"#!/bin/sh\n"),
    ("conf/initramfs.conf", b"MODULES=most\n"),
    ("scripts/functions", b"# functions"),
    ("usr/lib/modules/6.1.0-40-amd64/kernel/fs/btrfs/btrfs.ko", b"module"),
    ("usr/lib/modules/6.1.0-40-amd64/kernel/drivers/block/virtio-blk.ko.xz", b"module!"),
    ("usr/lib/modules/6.1.0-40-amd64/modules.dep", b"dep"),
];

/// Runs a program of the machine on bytes; `None` when it is not installed.
fn piped(program: &str, arguments: &[&str], dir: &Path, input: &[u8]) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut child) = command.stderr(Stdio::null()).spawn() else {
        println!("skipped: {program} is not installed");
        return None;
    };
    let (mut pipe, input) = (child.stdin.take().unwrap(), input.to_vec());
    let feeder = std::thread::spawn(move || std::io::Write::write_all(&mut pipe, &input));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success(), "{program}");
    Some(output.stdout)
}

fn archive_of(files: &[(&str, &[u8])], format: &str) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let mut names = String::new();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.strip_prefix(b"-> ") {
            Some(target) => symlink(OsStr::from_bytes(target), path).unwrap(),
            None => fs::write(path, content).unwrap(),
        }
        names.push_str(name);
        names.push('\n');
    }
    piped("cpio", &["-o", "-H", format], dir.path(), names.as_bytes())
}

fn archive() -> Option<Vec<u8>> {
    archive_of(&FILES, "newc")
}

fn microcode() -> Option<Vec<u8>> {
    archive_of(&[("kernel/x86/microcode/GenuineIntel.bin", &[0x42; 3000])], "newc")
}

fn read_bytes(bytes: &[u8]) -> Result<Initrd, InitrdError> {
    read_from(bytes, Path::new("/boot/initrd.img"))
}

const COMPRESSORS: [(&str, &[&str]); 7] = [
    ("gzip", &["-9n"]),
    ("zstd", &["-q", "-19"]),
    ("zstd", &["-q", "--no-check"]),
    ("xz", &["--check=crc32"]),
    ("xz", &["--format=lzma"]),
    ("bzip2", &[]),
    ("lz4", &["-l", "-9"]),
];

fn pack(compressor: (&str, &[&str]), bytes: &[u8]) -> Option<Vec<u8>> {
    piped(compressor.0, compressor.1, Path::new("/"), bytes)
}

#[test]
fn what_real_tools_make_is_read_to_its_end() {
    let (Some(archive), Some(microcode)) = (archive(), microcode()) else { return };
    let plain = read_bytes(&archive).unwrap();
    assert_eq!((plain.segments, plain.entries), (1, 6));
    assert_eq!(plain.kernels, ["6.1.0-40-amd64".to_owned()].into());
    assert_eq!(plain.modules, ["btrfs".to_owned(), "virtio_blk".to_owned()].into());
    assert_eq!(plain.generator, Some(Generator::InitramfsTools));
    assert!(plain.has_module("6.1.0-40-amd64", "virtio-blk") && !plain.has_module("6.1", "btrfs"));
    for compressor in COMPRESSORS {
        let Some(packed) = pack(compressor, &archive) else { continue };
        let with_microcode = read_bytes(&[&microcode[..], &packed].concat()).unwrap();
        assert_eq!((with_microcode.segments, with_microcode.entries), (2, 7), "{compressor:?}");
        assert_eq!(with_microcode.modules, plain.modules);
        // As written for a device: filled up to whole sectors.
        let padded = [&microcode[..], &packed, &[0; 700]].concat();
        assert_eq!(read_bytes(&padded).unwrap(), with_microcode, "{compressor:?}");
    }
}

#[test]
fn segments_follow_each_other_as_the_kernel_takes_them() {
    let (Some(archive), Some(microcode)) = (archive(), microcode()) else { return };
    let Some(packed) = pack(COMPRESSORS[0], &archive) else { return };
    // Two early archives, the main one, and one more behind it that begins at a multiple of four.
    let fill = vec![0; packed.len().wrapping_neg() % 4];
    let four = [&microcode[..], &microcode, &packed, &fill, &microcode].concat();
    assert_eq!(read_bytes(&four).unwrap().segments, 4);
    let askew = [&microcode[..], &packed, &fill, &[0], &microcode].concat();
    let error = read_bytes(&askew).unwrap_err();
    let place = (microcode.len() + packed.len() + fill.len() + 1) as u64;
    assert!(matches!(error, InitrdError::Damaged { offset, .. } if offset == place), "{error}");
    // Two archives in one stream.
    let twice = pack(COMPRESSORS[0], &[&archive[..], &microcode].concat()).unwrap();
    let twice = read_bytes(&twice).unwrap();
    assert_eq!((twice.segments, twice.entries), (1, 7));
    // With sums.
    let with_link = [&FILES[..], &[("lib", b"-> usr/lib")]].concat();
    let summed = archive_of(&with_link, "crc").unwrap();
    assert_eq!(read_bytes(&summed).unwrap().entries, 7);
    let place = summed.windows(6).position(|bytes| bytes == b"module").unwrap();
    let mut damaged = summed;
    damaged[place] ^= 1;
    // The first one is in a name, whose directory is then another one; the next is content.
    let content = damaged.windows(7).position(|bytes| bytes == b"module!").unwrap();
    damaged[content] ^= 1;
    assert!(matches!(read_bytes(&damaged), Err(InitrdError::Damaged { .. })));
}

#[test]
fn a_cut_at_any_place_is_found() {
    let (Some(archive), Some(microcode)) = (archive(), microcode()) else { return };
    for compressor in COMPRESSORS {
        let Some(packed) = pack(compressor, &archive) else { continue };
        for length in 0..packed.len() {
            let cut = [&microcode[..], &packed[..length]].concat();
            let result = read_bytes(&cut);
            // Nothing at all of the main archive is left: the early one alone is whole.
            if length == 0 {
                assert_eq!(result.unwrap().entries, 1);
                continue;
            }
            // The older LZ4 form has no mark at its end: without the last block, the archive has none.
            let error = result.expect_err(&format!("{compressor:?} cut at {length}"));
            let found = matches!(error, InitrdError::Cut { .. } | InitrdError::Damaged { .. });
            assert!(found, "{compressor:?} {length}: {error:?}");
            assert!(error.to_string().contains("/boot/initrd.img"), "{error}");
        }
    }
    let end = archive.windows(10).position(|bytes| bytes == b"TRAILER!!!").unwrap();
    for length in 0..end + 10 {
        let error = read_bytes(&archive[..length]).unwrap_err();
        assert!(
            matches!(error, InitrdError::Cut { offset, .. } if offset == length as u64),
            "{length} {error}"
        );
    }
    assert_eq!(read_bytes(&archive[..end + 11]).unwrap().entries, 6, "the padding may be missing");
}

#[test]
fn a_flipped_bit_in_a_stream_with_a_checksum_is_found() {
    let Some(archive) = archive() else { return };
    for compressor in [COMPRESSORS[0], COMPRESSORS[1], COMPRESSORS[3], COMPRESSORS[5]] {
        let Some(packed) = pack(compressor, &archive) else { continue };
        let (whole, mut undetected) = (read_bytes(&packed).unwrap(), 0);
        // The header of gzip has bytes that mean nothing (time, system).
        for place in 10..packed.len() {
            let mut damaged = packed.clone();
            damaged[place] ^= 0x10;
            // The last byte of a deflate stream has bits that mean nothing, and so have codes that nothing uses.
            let harmless = read_bytes(&damaged).is_ok_and(|found| found == whole);
            undetected += u32::from(harmless);
            assert!(harmless || read_bytes(&damaged).is_err(), "{compressor:?} at {place}");
        }
        assert!(undetected <= 4, "{compressor:?}: {undetected}");
    }
}

#[test]
fn what_no_kernel_takes_is_named() {
    let (Some(archive), Some(microcode)) = (archive(), microcode()) else { return };
    for (bytes, words) in [
        (Vec::new(), "empty"),
        (vec![0; 5000], "empty"),
        ([&archive[..], b"garbage"].concat(), "neither an archive"),
        ([&archive[..], b"0garbage"].concat(), "no TRAILER!!!"),
        (b"\x89LZO\0\r\n\x1a\n".to_vec(), "lzop"),
    ] {
        let error = read_bytes(&bytes).unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    if let Some(frame) = pack(("lz4", &[]), &archive) {
        let error = read_bytes(&[&microcode[..], &frame].concat()).unwrap_err();
        assert!(error.to_string().contains("LZ4 frame"), "{error}");
    }
    // One archive in two streams: each stream must end with an archive of its own.
    let (left, right) = archive.split_at(archive.len() / 2);
    if let (Some(left), Some(right)) = (pack(COMPRESSORS[0], left), pack(COMPRESSORS[0], right)) {
        assert!(matches!(read_bytes(&[left, right].concat()), Err(InitrdError::Cut { .. })));
    }
    if let Some(packed) = pack(COMPRESSORS[0], &[&archive[..], b"abcd"].concat()) {
        assert!(read_bytes(&packed).is_err());
    }
}

#[test]
fn a_bomb_is_not_unpacked_to_its_end() {
    let Some(archive) = archive() else { return };
    // 12 MiB of zeros behind the archive, 12 KiB packed.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &archive).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..12 {
        std::io::Write::write_all(&mut encoder, &zeros).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    let read = |most| read_within(bomb.as_slice(), Path::new("x"), most);
    assert!(matches!(read(12 << 20), Err(InitrdError::TooLarge { .. })));
    assert!(matches!(read(100), Err(InitrdError::TooLarge { .. })));
    let whole = read(13 << 20).unwrap();
    assert_eq!(whole.bytes, (12 << 20) + archive.len() as u64);
}

#[test]
fn dracut_is_known_by_its_files_and_links_are_entries() {
    let files: [(&str, &[u8]); 2] =
        [("usr/lib/dracut/build-parameter.txt", b"x"), ("lib/modules/6.12/m.ko", b"")];
    let Some(archive) = archive_of(&files, "newc") else { return };
    let found = read_bytes(&archive).unwrap();
    assert_eq!(found.generator, Some(Generator::Dracut));
    assert!(found.has_module("6.12", "m"));
}

#[test]
fn small_buffers_change_nothing() {
    let (Some(archive), Some(microcode)) = (archive(), microcode()) else { return };
    for compressor in COMPRESSORS {
        let Some(packed) = pack(compressor, &archive) else { continue };
        let whole = [&microcode[..], &packed].concat();
        let expected = read_bytes(&whole).unwrap();
        for size in [1, 3, 7] {
            let input = BufReader::with_capacity(size, whole.as_slice());
            assert_eq!(read_from(input, Path::new("x")).unwrap(), expected, "{compressor:?} {size}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_says_nothing_about_it() {
    assert!(matches!(read(Path::new("/no/such/initrd")), Err(InitrdError::Read { .. })));
    assert!(matches!(read(Path::new("/")), Err(InitrdError::Read { .. })));
}
