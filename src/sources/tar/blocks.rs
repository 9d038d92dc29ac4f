//! The archive as a stream of blocks: where it stands, where it was cut, and no further than allowed.

use std::io::{self, BufRead};

use super::header::{BLOCK, Block};

/// Why reading cannot go on.
#[derive(Debug)]
pub(super) enum Broken {
    /// The archive ends where more must come.
    Cut {
        /// In what it ends.
        inside: &'static str,
    },
    /// The stream itself failed: the decompressor, or the reading below it.
    Stream(io::Error),
    /// More bytes than were allowed.
    TooLong,
}

/// Reads blocks and runs of bytes, and counts them.
#[derive(Debug)]
pub(super) struct Blocks<R> {
    input: R,
    offset: u64,
    most: u64,
    /// A block that was looked at and is still to be read.
    held: Option<Block>,
}

impl<R: BufRead> Blocks<R> {
    /// Reads at most `most` bytes, so that a small compressed file cannot keep us busy for ever.
    pub(super) fn new(input: R, most: u64) -> Self {
        Self { input, offset: 0, most, held: None }
    }

    /// Bytes read so far, of the archive as it was before compression.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Lets the archive be longer by so many bytes.
    pub(super) fn allow(&mut self, more: u64) {
        self.most = self.most.saturating_add(more);
    }

    /// The next block; `None` when the archive ended right before it.
    pub(super) fn block(&mut self) -> Result<Option<Block>, Broken> {
        if let Some(block) = self.held.take() {
            self.offset += BLOCK as u64;
            return Ok(Some(block));
        }
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let taken = self.some(BLOCK - filled, |bytes| {
                block[filled..filled + bytes.len()].copy_from_slice(bytes);
            })?;
            match (taken, filled) {
                (0, 0) => return Ok(None),
                (0, _) => return Err(Broken::Cut { inside: "a block" }),
                _ => filled += taken,
            }
        }
        Ok(Some(block))
    }

    /// Takes back the block that was read last.
    pub(super) fn unread(&mut self, block: Block) {
        self.offset -= BLOCK as u64;
        self.held = Some(block);
    }

    /// Passes on exactly this many bytes, in pieces as they come.
    pub(super) fn bytes(
        &mut self,
        mut count: u64,
        inside: &'static str,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Broken> {
        while count > 0 {
            let most = usize::try_from(count).unwrap_or(usize::MAX);
            match self.some(most, &mut each)? {
                0 => return Err(Broken::Cut { inside }),
                taken => count -= taken as u64,
            }
        }
        Ok(())
    }

    /// Passes on at least one and at most `most` bytes; 0 at the end.
    pub(super) fn some(&mut self, most: usize, each: impl FnOnce(&[u8])) -> Result<usize, Broken> {
        let bytes = loop {
            match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Broken::Stream(error)),
                // Asked again, because the borrow checker cannot let this one out of the loop.
                Ok(_) => break self.input.fill_buf().map_err(Broken::Stream)?,
            }
        };
        let taken = bytes.len().min(most);
        if taken as u64 > self.most - self.offset {
            return Err(Broken::TooLong);
        }
        each(&bytes[..taken]);
        self.input.consume(taken);
        self.offset += taken as u64;
        Ok(taken)
    }
}

/// How many bytes fill the last block of so many bytes.
pub(super) fn padding(length: u64) -> u64 {
    let block = BLOCK as u64;
    (block - length % block) % block
}
