//! Compressed extents, as `btrfs send --compressed-data` passes them on.

use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};
use zstd::bulk::Decompressor;
use zstd::zstd_safe;

use super::command::Encoded;

/// The most that one compressed extent holds when expanded, in bytes (`BTRFS_MAX_UNCOMPRESSED`).
const LARGEST: usize = 128 << 10;

/// Why there is no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unexpanded {
    /// Written in a way that is not read here: says in which.
    Unreadable(&'static str),
    /// A receive would fail: says why.
    Damaged(&'static str),
}

/// Expands extents; keeps its memory from one to the next.
pub(super) struct Expander {
    zlib: Decompress,
    /// Made when first needed.
    zstd: Option<Decompressor<'static>>,
    expanded: Vec<u8>,
}

impl fmt::Debug for Expander {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expander").finish_non_exhaustive()
    }
}

impl Expander {
    pub(super) fn new() -> Self {
        Self { zlib: Decompress::new(true), zstd: None, expanded: Vec::new() }
    }

    /// The part of the extent that belongs to the file.
    pub(super) fn expand<'s>(&'s mut self, encoded: &Encoded<'s>) -> Result<&'s [u8], Unexpanded> {
        if encoded.encryption != 0 {
            return Err(Unexpanded::Unreadable("encryption"));
        }
        let size = usize::try_from(encoded.expanded).unwrap_or(usize::MAX);
        let whole = match encoded.compression {
            0 if size == encoded.data.len() => encoded.data,
            0 => return Err(Unexpanded::Damaged("an extent has not the length that it should have")),
            _ if size > LARGEST => return Err(Unexpanded::Damaged("a compressed extent is too large")),
            compression @ 1..=7 => {
                self.expanded.clear();
                self.expanded.resize(size, 0);
                let filled = match compression {
                    1 => self.zlib(encoded.data),
                    2 => self.zstd(encoded.data),
                    // 3 to 7: 4 KiB to 64 KiB to a sector.
                    _ => super::lzo::expand(encoded.data, 1 << (compression + 9), &mut self.expanded),
                };
                let filled = filled.ok_or(Unexpanded::Damaged("a compressed extent does not expand"))?;
                // Expanders use what they have not filled yet as they like.
                self.expanded[filled..].fill(0);
                &self.expanded[..]
            }
            _ => return Err(Unexpanded::Unreadable("a compression that is not known")),
        };
        let part = || {
            let skip = usize::try_from(encoded.skip).ok()?;
            let length = usize::try_from(encoded.length).ok()?;
            whole.get(skip..skip.checked_add(length)?)
        };
        part().ok_or(Unexpanded::Damaged("a file's part is not within its extent"))
    }

    /// How many bytes came out, when they are whole and fit the buffer. What follows them in the data is the rest of a sector. They
    /// may be fewer than the buffer takes: the end of a file is compressed without the zeros that fill its last sector, but counted
    /// with them.
    fn zlib(&mut self, data: &[u8]) -> Option<usize> {
        self.zlib.reset(true);
        match self.zlib.decompress(data, &mut self.expanded, FlushDecompress::Finish) {
            Ok(Status::StreamEnd) => usize::try_from(self.zlib.total_out()).ok(),
            _ => None,
        }
    }

    /// As [`Self::zlib`].
    fn zstd(&mut self, data: &[u8]) -> Option<usize> {
        let frame = data.get(..zstd_safe::find_frame_compressed_size(data).ok()?)?;
        if self.zstd.is_none() {
            self.zstd = Some(Decompressor::new().ok()?);
        }
        self.zstd.as_mut()?.decompress_to_buffer(frame, &mut self.expanded[..]).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn text() -> Vec<u8> {
        (0..8192_u32).map(|at| (at / 97) as u8).collect()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(3));
        encoder.write_all(bytes).unwrap();
        padded(encoder.finish().unwrap())
    }

    fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        bytes
    }

    fn encoded(compression: u64, data: &[u8]) -> Encoded<'_> {
        Encoded { data, compression, encryption: 0, expanded: 8192, skip: 100, length: 8000 }
    }

    #[test]
    fn the_file_has_a_part_of_the_extent() {
        let text = text();
        let mut expander = Expander::new();
        let zstd = padded(zstd::bulk::compress(&text, 3).unwrap());
        for (compression, data) in
            [(0, text.clone()), (1, zlib(&text)), (2, zstd.clone()), (1, zlib(&text)), (2, zstd)]
        {
            assert_eq!(expander.expand(&encoded(compression, &data)), Ok(&text[100..8100]), "{compression}");
        }
    }

    #[test]
    fn the_last_sector_is_filled_with_zeros() {
        let text = text();
        for (compression, data) in [(1, zlib(&text)), (2, zstd::bulk::compress(&text, 3).unwrap())] {
            let extent = Encoded { expanded: 12_288, skip: 8190, length: 4, ..encoded(compression, &data) };
            assert_eq!(Expander::new().expand(&extent), Ok(&[text[8190], text[8191], 0, 0][..]));
        }
    }

    #[test]
    fn lengths_are_held_to() {
        let text = text();
        let data = zlib(&text);
        let good = encoded(1, &data);
        for bad in [
            Encoded { expanded: 8191, ..good },
            Encoded { expanded: u64::MAX, ..good },
            Encoded { skip: 193, ..good },
            Encoded { skip: u64::MAX, ..good },
            Encoded { length: u64::MAX, ..good },
            Encoded { data: &data[..20], ..good },
            Encoded { data: b"", ..good },
            Encoded { compression: 2, ..good },
            Encoded { compression: 3, ..good },
            Encoded { compression: 0, ..good },
        ] {
            assert!(matches!(Expander::new().expand(&bad), Err(Unexpanded::Damaged(_))), "{bad:?}");
        }
        for odd in [Encoded { encryption: 1, ..good }, Encoded { compression: 8, ..good }] {
            assert!(matches!(Expander::new().expand(&odd), Err(Unexpanded::Unreadable(_))), "{odd:?}");
        }
    }
}
