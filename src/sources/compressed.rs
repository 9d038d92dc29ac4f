//! Compressed streams: which kind it is, by its first bytes, and what was in it.
//!
//! Every kind may consist of several streams one after another, as parallel compressors make them. A stream that ends too early,
//! fails its checksum or is followed by something else is an error, never a quiet end.

mod lz4;

use std::error::Error;
use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read};

/// The most memory that decompressing may take, in bytes: what `xz -9` (65 MiB) and `zstd --ultra -22` (128 MiB) need at most.
/// An archive made with `zstd --long=31` or a larger dictionary is refused with a clear error.
pub const MEMORY: u64 = 192 << 20;

/// The largest window of zstd, as a power of two: 128 MiB, what the `zstd` program accepts without being asked.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Bytes read at once from the compressed file.
const INPUT: usize = 256 << 10;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all, or in a way that is not known.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// xz, not the older lzma.
    Xz,
    /// bzip2.
    Bzip2,
    /// LZ4 frames.
    Lz4,
}

impl Compression {
    /// What these first bytes say. Ten are enough.
    #[must_use]
    pub fn of(first: &[u8]) -> Self {
        // A bzip2 stream begins with a block or, when it is empty, with its end.
        let bzip2 = [&b"\x31\x41\x59\x26\x53\x59"[..], b"\x17\x72\x45\x38\x50\x90"];
        match first {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A frame to skip, as pzstd writes it first; LZ4 has the same ones but no tool that begins with them.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', rest @ ..]
                if bzip2.iter().any(|magic| rest.starts_with(magic)) =>
            {
                Self::Bzip2
            }
            [0x04, 0x22, 0x4d, 0x18, ..] => Self::Lz4,
            _ => Self::None,
        }
    }

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "not compressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Lz4 => "lz4",
        }
    }
}

/// Why a compressed stream could not be read; the cause inside an [`io::Error`] of [`Decompressed`].
#[derive(Debug)]
pub enum Trouble {
    /// The file below could not be read; nothing is known about its content.
    Input(io::Error),
    /// It ends too early.
    Cut(Compression),
    /// It holds what the format forbids, or fails its checksum.
    Damaged(Compression, io::Error),
    /// It takes more than [`MEMORY`].
    Memory(Compression),
}

impl Trouble {
    /// The trouble behind an error of [`Decompressed`].
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(_) => f.write_str("failed to read the file"),
            Self::Cut(kind) => write!(f, "the {} stream ends too early", kind.name()),
            Self::Damaged(kind, _) => write!(f, "the {} stream is damaged", kind.name()),
            Self::Memory(kind) => {
                write!(f, "the {} stream needs more than {} MiB of memory", kind.name(), MEMORY >> 20)
            }
        }
    }
}

impl Error for Trouble {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Input(error) | Self::Damaged(_, error) => Some(error),
            Self::Cut(_) | Self::Memory(_) => None,
        }
    }
}

/// What was compressed, as it was before. Every error holds a [`Trouble`].
pub struct Decompressed {
    compression: Compression,
    stream: Box<dyn Read + Send>,
}

impl fmt::Debug for Decompressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressed").field("compression", &self.compression).finish_non_exhaustive()
    }
}

impl Decompressed {
    /// Looks at the first bytes of a file and reads on as they say.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn new(input: impl Read + Send + 'static) -> io::Result<Self> {
        Self::unless(input, |_| false)
    }

    /// As [`Decompressed::new`], but it is taken as it is when `is_plain` says so of its first 512 bytes (fewer only when there
    /// are no more): a format may begin with bytes that look like a compressor's.
    ///
    /// # Errors
    /// As [`Decompressed::new`].
    pub fn unless(input: impl Read + Send + 'static, is_plain: impl Fn(&[u8]) -> bool) -> io::Result<Self> {
        let mut input = Tagged(input);
        let mut first = Vec::with_capacity(512);
        (&mut input).take(512).read_to_end(&mut first)?;
        let compression = if is_plain(&first) { Compression::None } else { Compression::of(&first) };
        let whole = Cursor::new(first).chain(input);
        let stream = opened(compression, BufReader::with_capacity(INPUT, whole))?;
        Ok(Self { compression, stream })
    }

    /// How it is compressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }
}

impl Read for Decompressed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer).map_err(|error| told(self.compression, error))
    }
}

fn opened<R: BufRead + Send + 'static>(
    compression: Compression,
    input: R,
) -> io::Result<Box<dyn Read + Send>> {
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(Gzip { member: Some(flate2::bufread::GzDecoder::new(input)) }),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Compression::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(MEMORY, liblzma::stream::CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Compression::Lz4 => Box::new(lz4::Frames::new(input)),
    })
}

/// One gzip member after another. The reader of flate2 for several takes zeros at the end for a broken header; tapes have them.
struct Gzip<R> {
    member: Option<flate2::bufread::GzDecoder<R>>,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let taken = member.read(buffer)?;
            if taken > 0 || buffer.is_empty() {
                return Ok(taken);
            }
            let Some(member) = self.member.take() else { break };
            let mut input = member.into_inner();
            match input.fill_buf()?.first() {
                None => {}
                Some(0) => only_zeros(&mut input)?,
                Some(_) => self.member = Some(flate2::bufread::GzDecoder::new(input)),
            }
        }
        Ok(0)
    }
}

fn only_zeros(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.iter().any(|&byte| byte != 0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "something follows the compressed stream",
            ));
        }
        let all = bytes.len();
        input.consume(all);
    }
}

/// Marks errors of the file below, so that they are not taken for those of the decompressor.
struct Tagged<R>(R);

impl<R: Read> Read for Tagged<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map_err(|error| io::Error::new(error.kind(), Trouble::Input(error))),
            }
        }
    }
}

/// The decompressors have words of their own for the same things.
fn told(compression: Compression, error: io::Error) -> io::Error {
    if Trouble::of(&error).is_some() {
        return error;
    }
    let lzma = error.get_ref().and_then(|inner| inner.downcast_ref::<liblzma::stream::Error>());
    let memory = matches!(lzma, Some(liblzma::stream::Error::MemLimit | liblzma::stream::Error::Mem))
        || (compression == Compression::Zstd && error.to_string().contains("memory"));
    let cut = error.kind() == io::ErrorKind::UnexpectedEof;
    let (kind, trouble) = if memory {
        (io::ErrorKind::OutOfMemory, Trouble::Memory(compression))
    } else if cut {
        (io::ErrorKind::UnexpectedEof, Trouble::Cut(compression))
    } else {
        (io::ErrorKind::InvalidData, Trouble::Damaged(compression, error))
    };
    io::Error::new(kind, trouble)
}

#[cfg(test)]
mod tests;
