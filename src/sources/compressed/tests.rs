use super::*;
use std::io::Write;

/// What was in the fixtures: the numbers below a thousand, again and again.
fn lines() -> Vec<u8> {
    let once: String = (0..1000).map(|n| format!("{n}\n")).collect();
    once.repeat(39).into_bytes()[..150_000].to_vec()
}

fn unpacked(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    Decompressed::new(Cursor::new(bytes.to_vec()))?.read_to_end(&mut out)?;
    Ok(out)
}

fn packed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 3);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        // No encoder here: made by the lz4 program, see `lz4_of_the_program`.
        Compression::Lz4 => include_bytes!("../../../tests/fixtures/tar/linked.lz4").to_vec(),
    }
}

const KINDS: [Compression; 5] =
    [Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Bzip2, Compression::Lz4];

/// The fixture is larger than what is packed here: not every byte of it is tried.
fn step(kind: Compression) -> usize {
    if kind == Compression::Lz4 { 13 } else { 1 }
}

#[test]
fn streams_one_after_another_are_one() {
    for kind in KINDS {
        let once = packed(kind, &lines());
        assert_eq!(Compression::of(&once), kind);
        assert_eq!(unpacked(&once).unwrap(), lines(), "{kind:?}");
        assert_eq!(unpacked(&once.repeat(3)).unwrap(), lines().repeat(3), "{kind:?}");
    }
    for kind in [Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Bzip2] {
        assert_eq!(unpacked(&packed(kind, b"")).unwrap(), b"", "{kind:?}");
    }
    assert_eq!(unpacked(b"plain").unwrap(), b"plain");
    assert_eq!(unpacked(b"").unwrap(), b"");
}

#[test]
fn lz4_of_the_program() {
    let independent = include_bytes!("../../../tests/fixtures/tar/independent.lz4");
    assert_eq!(unpacked(independent).unwrap(), lines());
    let skipped = [&0x184d_2a55_u32.to_le_bytes()[..], &[3, 0, 0, 0, 1, 2, 3]].concat();
    assert_eq!(unpacked(&[&independent[..], &skipped, independent].concat()).unwrap(), lines().repeat(2));
}

#[test]
fn a_stream_cut_anywhere_is_cut() {
    for kind in KINDS {
        let whole = packed(kind, &lines()[..20_000]);
        // Shorter, and nothing tells what it should have been.
        for cut in (10..whole.len()).step_by(step(kind)) {
            let error = unpacked(&whole[..cut]).expect_err("it is cut");
            assert!(
                matches!(Trouble::of(&error), Some(Trouble::Cut(found)) if *found == kind),
                "{kind:?} {cut} {error:?}"
            );
        }
    }
}

#[test]
fn a_flipped_bit_is_never_overlooked() {
    for kind in KINDS {
        let content = if kind == Compression::Lz4 { lines() } else { lines()[..5000].to_vec() };
        let whole = packed(kind, &content);
        let mut overlooked = Vec::new();
        for at in (10..whole.len()).step_by(step(kind)) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            // A flip that changes nothing is no damage: an unused field, or a part that is skipped.
            match unpacked(&flipped) {
                Err(error) => assert!(Trouble::of(&error).is_some(), "{kind:?} {at}: {error:?}"),
                Ok(out) if out == content => {}
                Ok(_) => overlooked.push(at),
            }
        }
        assert_eq!(overlooked, [0; 0], "{kind:?}");
    }
}

#[test]
fn what_follows_a_stream_is_not_passed_over() {
    for kind in KINDS {
        let error = unpacked(&[&packed(kind, b"x")[..], b"something else"].concat()).expect_err("garbage");
        assert!(matches!(Trouble::of(&error), Some(Trouble::Damaged(..))), "{kind:?}: {error:?}");
    }
    // Tapes and some tools fill up with zeros.
    let filled = [packed(Compression::Gzip, b"x"), vec![0; 700]].concat();
    assert_eq!(unpacked(&filled).unwrap(), b"x");
    assert!(unpacked(&[&filled[..], b"x"].concat()).is_err());
}

#[test]
fn what_needs_too_much_memory_is_said_so() {
    let mut wide = zstd::Encoder::new(Vec::new(), 1).unwrap();
    wide.long_distance_matching(true).unwrap();
    wide.window_log(28).unwrap();
    // Without a known size the window is what was asked for.
    wide.write_all(&lines()).unwrap();
    let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
    options.dict_size(256 << 20);
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(&options);
    let stream =
        liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32).unwrap();
    let mut large = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    large.write_all(&lines()).unwrap();
    for bytes in [wide.finish().unwrap(), large.finish().unwrap()] {
        let error = unpacked(&bytes).expect_err("too much");
        assert!(matches!(Trouble::of(&error), Some(Trouble::Memory(_))), "{error:?}");
    }
}

#[test]
fn a_disk_that_fails_is_not_a_damaged_stream() {
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(5))
        }
    }
    for kind in KINDS {
        let whole = packed(kind, &lines());
        let half = Cursor::new(whole[..whole.len() / 2].to_vec());
        let error =
            Decompressed::new(half.chain(Fails)).and_then(|mut stream| stream.read_to_end(&mut Vec::new()));
        let error = error.expect_err("it fails");
        assert!(matches!(Trouble::of(&error), Some(Trouble::Input(_))), "{kind:?}: {error:?}");
    }
}
