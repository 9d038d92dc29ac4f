//! Compressed stretches of an initrd: one stream each, after which the file goes on.
//!
//! What a kernel cannot unpack is damage here, also where another program could: LZ4 frames (a kernel knows only the older form
//! that `lz4 -l` writes), and a second stream in the middle of an archive.

use std::error::Error;
use std::fmt;
use std::io::{self, BufRead, Cursor, ErrorKind, Read};

use super::Trouble;

/// The most memory for xz and lzma, in bytes: what `xz -9` needs.
const MEMORY: u64 = 128 << 20;

/// The largest window of zstd, as a power of two: 128 MiB, the kernel's own limit.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The largest block of the older LZ4 form, unpacked.
const LZ4_BLOCK: usize = 8 << 20;

const LZ4_MAGIC: u32 = 0x184c_2102;

/// Hands the unpacked stream that begins here to `read`, with a name for it, and leaves the input behind the stream's end.
/// `read` must read it to its end.
pub(super) fn unpacked<R: BufRead>(
    input: &mut R,
    mut read: impl FnMut(&mut dyn Read, &'static str) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let first = magic(input).map_err(|error| told(error, "file"))?;
    // The buffer below may end within those bytes, so they are put back in front.
    let input = Cursor::new(first.clone()).chain(input);
    let fresh = |error: io::Error| told(error, "decompressor");
    let mut fused = |stream: &mut dyn Read, name| read(&mut Fused { stream, ended: false }, name);
    match first.as_slice() {
        [0x1f, 0x8b, ..] => fused(&mut flate2::bufread::GzDecoder::new(input), "gzip stream"),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let mut decoder = zstd::Decoder::with_buffer(input).map_err(fresh)?.single_frame();
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(fresh)?;
            fused(&mut decoder, "zstd stream")
        }
        [0xfd, b'7', b'z', b'X'] => {
            let stream = liblzma::stream::Stream::new_stream_decoder(MEMORY, 0);
            let stream = stream.map_err(|error| fresh(error.into()))?;
            fused(&mut liblzma::bufread::XzDecoder::new_stream(input, stream), "xz stream")
        }
        [0x5d, 0, 0, _] => {
            let stream = liblzma::stream::Stream::new_lzma_decoder(MEMORY);
            let stream = stream.map_err(|error| fresh(error.into()))?;
            fused(&mut liblzma::bufread::XzDecoder::new_stream(input, stream), "lzma stream")
        }
        [b'B', b'Z', b'h', _] => fused(&mut bzip2::bufread::BzDecoder::new(input), "bzip2 stream"),
        [0x02, 0x21, 0x4c, 0x18] => fused(&mut Lz4::new(input), "lz4 stream"),
        [0x04, 0x22, 0x4d, 0x18] => {
            Err(damaged("an LZ4 frame, which no kernel unpacks: only what lz4 -l writes"))
        }
        [0x89, b'L', b'Z', b'O'] => Err(damaged("an lzop stream, which this program cannot read")),
        _ => Err(damaged("neither an archive nor a compressed stream begins here")),
    }
}

/// An error of the file below, so marked that no decompressor's error is taken for it.
#[derive(Debug)]
pub(super) struct Below(pub(super) io::Error);

impl fmt::Display for Below {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed to read the file")
    }
}

impl Error for Below {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// What an error of a stream means; `name` is what to call the stream.
pub(super) fn told(error: io::Error, name: &str) -> Trouble {
    if error.get_ref().is_some_and(|inner| inner.is::<Below>()) || name == "file" {
        return Trouble::Input(error);
    }
    let lzma = error.get_ref().and_then(|inner| inner.downcast_ref::<liblzma::stream::Error>());
    if matches!(lzma, Some(liblzma::stream::Error::MemLimit | liblzma::stream::Error::Mem)) {
        return Trouble::TooLarge;
    }
    match error.kind() {
        ErrorKind::UnexpectedEof => Trouble::Cut(format!("the {name} is not whole")),
        ErrorKind::OutOfMemory => Trouble::TooLarge,
        _ => Trouble::Damaged(format!("the {name} cannot be unpacked: {error}")),
    }
}

fn damaged(what: &str) -> Trouble {
    Trouble::Damaged(what.to_owned())
}

/// The first four bytes, fewer where the file ends.
fn magic(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut magic = Vec::with_capacity(4);
    input.take(4).read_to_end(&mut magic)?;
    Ok(magic)
}

/// Once at its end, always at its end: some decompressors take another call for a mistake, or for a wish to go on.
struct Fused<R> {
    stream: R,
    ended: bool,
}

impl<R: Read> Read for Fused<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let got = self.stream.read(buffer)?;
        self.ended = got == 0;
        Ok(got)
    }
}

/// The older form of LZ4: blocks with their lengths, and no mark at the end. It ends where the file does or zeros begin.
struct Lz4<R> {
    input: R,
    begun: bool,
    block: Vec<u8>,
    output: Vec<u8>,
    taken: usize,
}

impl<R: BufRead> Lz4<R> {
    fn new(input: R) -> Self {
        Self { input, begun: false, block: Vec::new(), output: Vec::new(), taken: 0 }
    }

    /// Unpacks the next block; false when there is none.
    fn fill(&mut self) -> io::Result<bool> {
        loop {
            let length = match self.length()? {
                None | Some(0) => return Ok(false),
                Some(LZ4_MAGIC) => {
                    self.begun = true;
                    continue;
                }
                Some(length) => length as usize,
            };
            if !self.begun || length > lz4_flex::block::get_maximum_output_size(LZ4_BLOCK) {
                return Err(io::Error::new(ErrorKind::InvalidData, "a block that is too long"));
            }
            self.block.clear();
            // At most some 8 MiB, and only as much as the file has.
            (&mut self.input).take(length as u64).read_to_end(&mut self.block)?;
            if self.block.len() < length {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.output.resize(LZ4_BLOCK, 0);
            let unpacked = lz4_flex::block::decompress_into(&self.block, &mut self.output)
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            self.output.truncate(unpacked);
            self.taken = 0;
            return Ok(true);
        }
    }

    /// The next block's length; `None` at the end of the file, also when only a few zeros are left.
    fn length(&mut self) -> io::Result<Option<u32>> {
        let mut bytes = Vec::with_capacity(4);
        (&mut self.input).take(4).read_to_end(&mut bytes)?;
        match <[u8; 4]>::try_from(bytes.as_slice()) {
            Ok(bytes) => Ok(Some(u32::from_le_bytes(bytes))),
            Err(_) if bytes.iter().all(|byte| *byte == 0) => Ok(None),
            Err(_) => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl<R: BufRead> Read for Lz4<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.output.len() {
            if buffer.is_empty() || !self.fill()? {
                return Ok(0);
            }
        }
        let length = buffer.len().min(self.output.len() - self.taken);
        buffer[..length].copy_from_slice(&self.output[self.taken..self.taken + length]);
        self.taken += length;
        Ok(length)
    }
}
