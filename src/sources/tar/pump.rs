//! Reading and decompressing in a thread of its own, while another parses and hashes what came before.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

/// Bytes of one buffer. Several of them still fit into the second-level cache of a core.
const BUFFER: usize = 256 << 10;

/// Buffers on their way: enough to ride out a pause on either side.
const BUFFERS: usize = 8;

/// Runs `work` on what `input` holds, read ahead by another thread.
///
/// That thread ends when `work` does; it may first have to wait for a read that is under way.
///
/// # Errors
/// When no thread can be started.
pub(super) fn pumped<T>(input: impl Read + Send, work: impl FnOnce(Pumped) -> T) -> io::Result<T> {
    let (full, filled) = sync_channel(BUFFERS);
    let (empty, emptied) = channel();
    for _ in 0..BUFFERS {
        // The receiver is right here.
        let _ = empty.send(Vec::with_capacity(BUFFER));
    }
    thread::scope(|scope| {
        thread::Builder::new()
            .name("unpack".into())
            .spawn_scoped(scope, move || fill(input, &emptied, &full))?;
        Ok(work(Pumped { filled, empty, current: Vec::new(), at: 0, ended: false }))
    })
}

fn fill(mut input: impl Read, emptied: &Receiver<Vec<u8>>, full: &SyncSender<io::Result<Vec<u8>>>) {
    while let Ok(mut buffer) = emptied.recv() {
        buffer.resize(BUFFER, 0);
        let (length, error) = fill_one(&mut input, &mut buffer);
        buffer.truncate(length);
        // Nobody listens any more: the work is done.
        if length > 0 && full.send(Ok(buffer)).is_err() {
            return;
        }
        if let Some(error) = error {
            let _ = full.send(Err(error));
            return;
        }
        if length < BUFFER {
            return;
        }
    }
}

/// Fills all of a buffer but at the end. What came before an error is not lost.
fn fill_one(input: &mut impl Read, buffer: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut length = 0;
    while length < buffer.len() {
        match input.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(taken) => length += taken,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (length, Some(error)),
        }
    }
    (length, None)
}

/// The reading end.
#[derive(Debug)]
pub(super) struct Pumped {
    filled: Receiver<io::Result<Vec<u8>>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    ended: bool,
}

impl BufRead for Pumped {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() && !self.ended {
            self.at = 0;
            let used = std::mem::take(&mut self.current);
            if used.capacity() > 0 {
                // The other thread may have ended.
                let _ = self.empty.send(used);
            }
            match self.filled.recv() {
                Ok(Ok(buffer)) => self.current = buffer,
                Ok(Err(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                Err(_) => self.ended = true,
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.current.len());
    }
}

impl Read for Pumped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_before_an_error_is_not_lost() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let input = (&[7_u8; BUFFER + 5][..]).chain(Fails);
        let (count, error) = pumped(input, |mut pumped| {
            let mut count = 0;
            loop {
                match pumped.fill_buf() {
                    Ok(bytes) => {
                        let length = bytes.len();
                        count += length;
                        pumped.consume(length);
                    }
                    Err(error) => return (count, error.to_string()),
                }
            }
        })
        .unwrap();
        assert_eq!((count, &error[..]), (BUFFER + 5, "broken"));
    }

    #[test]
    fn work_may_stop_early() {
        let first = pumped(io::repeat(1), |mut pumped| pumped.fill_buf().unwrap()[0]).unwrap();
        assert_eq!(first, 1);
    }
}
