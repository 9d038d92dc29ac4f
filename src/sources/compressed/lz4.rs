//! LZ4 frames, after the format's own description. The frame reader of lz4_flex takes a file that ends between two blocks for a
//! whole one, so only its block decoder is used.

use std::hash::Hasher;
use std::io::{self, BufRead, ErrorKind, Read};

use twox_hash::XxHash32;

const MAGIC: u32 = 0x184d_2204;
const SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184d_2a50..=0x184d_2a5f;

/// How far back a block may refer.
const WINDOW: usize = 64 << 10;

/// One frame after another.
pub(super) struct Frames<R> {
    input: R,
    frame: Option<Frame>,
    /// The window, then what was decoded last.
    output: Vec<u8>,
    /// Where in the output the bytes begin that nobody took yet.
    taken: usize,
    block: Vec<u8>,
}

struct Frame {
    linked: bool,
    block_sums: bool,
    longest: usize,
    size: Option<u64>,
    sum: Option<XxHash32>,
    seen: u64,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, frame: None, output: Vec::new(), taken: 0, block: Vec::new() }
    }

    /// Decodes until there is something to take; false at the end of the last frame.
    fn fill(&mut self) -> io::Result<bool> {
        while self.taken == self.output.len() {
            match self.frame.take() {
                None => {
                    if self.input.fill_buf()?.is_empty() {
                        return Ok(false);
                    }
                    self.frame = self.begin()?;
                    self.output.clear();
                    self.taken = 0;
                }
                Some(frame) => self.frame = self.next_block(frame)?,
            }
        }
        Ok(true)
    }

    /// Reads a frame's descriptor; `None` when the frame is one to skip.
    fn begin(&mut self) -> io::Result<Option<Frame>> {
        let magic = self.number()?;
        if SKIPPABLE.contains(&magic) {
            let mut left = u64::from(self.number()?);
            while left > 0 {
                let here = self.input.fill_buf()?.len();
                if here == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                let step = here.min(usize::try_from(left).unwrap_or(usize::MAX));
                self.input.consume(step);
                left -= step as u64;
            }
            return Ok(None);
        }
        if magic != MAGIC {
            return Err(bad("something follows that is no LZ4 frame"));
        }
        let mut descriptor = vec![0; 2];
        self.input.read_exact(&mut descriptor)?;
        let (flags, sizes) = (descriptor[0], descriptor[1]);
        if flags >> 6 != 1 || flags & 2 != 0 || sizes & 0x8f != 0 {
            return Err(bad("an LZ4 frame of another version"));
        }
        if flags & 1 != 0 {
            return Err(bad("an LZ4 frame that needs a dictionary"));
        }
        let longest = match sizes >> 4 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            _ => return Err(bad("an LZ4 frame with unknown blocks")),
        };
        let mut size = None;
        if flags & 8 != 0 {
            let mut bytes = [0; 8];
            self.input.read_exact(&mut bytes)?;
            descriptor.extend_from_slice(&bytes);
            size = Some(u64::from_le_bytes(bytes));
        }
        let mut check = [0];
        self.input.read_exact(&mut check)?;
        if check[0] != XxHash32::oneshot(0, &descriptor).to_le_bytes()[1] {
            return Err(bad("an LZ4 frame whose descriptor fails its checksum"));
        }
        let sum = (flags & 4 != 0).then(|| XxHash32::with_seed(0));
        let (linked, block_sums) = (flags & 0x20 == 0, flags & 0x10 != 0);
        Ok(Some(Frame { linked, block_sums, longest, size, sum, seen: 0 }))
    }

    /// Decodes one block; `None` when it was the frame's end.
    fn next_block(&mut self, mut frame: Frame) -> io::Result<Option<Frame>> {
        let word = self.number()?;
        if word == 0 {
            self.end(&frame)?;
            return Ok(None);
        }
        let (plain, length) = (word >> 31 == 1, (word & 0x7fff_ffff) as usize);
        if length > frame.longest {
            return Err(bad("an LZ4 block that is too long"));
        }
        // At most 4 MiB, and read before anything is done with it.
        self.block.resize(length, 0);
        self.input.read_exact(&mut self.block)?;
        if frame.block_sums && self.number()? != XxHash32::oneshot(0, &self.block) {
            return Err(bad("an LZ4 block that fails its checksum"));
        }
        let window = if frame.linked { self.output.len().min(WINDOW) } else { 0 };
        self.output.drain(..self.output.len() - window);
        self.taken = window;
        if plain {
            self.output.extend_from_slice(&self.block);
        } else {
            self.output.resize(window + frame.longest, 0);
            let (before, room) = self.output.split_at_mut(window);
            let decoded = lz4_flex::block::decompress_into_with_dict(&self.block, room, before)
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            self.output.truncate(window + decoded);
        }
        let fresh = &self.output[window..];
        frame.seen += fresh.len() as u64;
        if let Some(sum) = &mut frame.sum {
            sum.write(fresh);
        }
        Ok(Some(frame))
    }

    fn end(&mut self, frame: &Frame) -> io::Result<()> {
        if frame.size.is_some_and(|size| size != frame.seen) {
            return Err(bad("an LZ4 frame that is not as long as it says"));
        }
        match &frame.sum {
            Some(sum) if self.number()? != sum.finish_32() => {
                Err(bad("an LZ4 frame that fails its checksum"))
            }
            _ => Ok(()),
        }
    }

    fn number(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.input.read_exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || !self.fill()? {
            return Ok(0);
        }
        let length = buffer.len().min(self.output.len() - self.taken);
        buffer[..length].copy_from_slice(&self.output[self.taken..self.taken + length]);
        self.taken += length;
        Ok(length)
    }
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
