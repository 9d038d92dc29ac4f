//! As much of SFTP (version 3, draft-ietf-secsh-filexfer-02) as it takes to read files from a server at the other end of two
//! pipes, several at a time.

use std::io::{self, Read, Write};

use crate::manifest::{Content, ContentHasher, Hashing};
use crate::system::show;

const INIT: u8 = 1;
const VERSION: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;

const STATUS_OK: u32 = 0;
const STATUS_EOF: u32 = 1;

/// How many files are read at once: as many as rclone's server works on, and so few that their requests, of a path each, fit a
/// pipe (64 KiB), so that neither side waits for the other to read.
const AT_ONCE: usize = 8;

/// What is asked for at a time, in bytes; servers give less (32 KiB) as they like.
const READ_SIZE: u32 = 256 << 10;

/// The longest packet that is taken, in bytes: what was asked for, and room for its frame.
const MAX_PACKET: u32 = READ_SIZE + 1024;

/// The longest path that is asked for, in bytes.
const MAX_PATH: usize = 4096;

/// How much of a file is kept whole where that was wanted, in bytes: a link target is never longer.
const MAX_KEPT: usize = 65_536;

/// A server that cannot be talked to any more.
#[derive(Debug, thiserror::Error)]
pub enum SftpError {
    /// A pipe broke.
    #[error("the connection to the SFTP server broke")]
    Io(#[from] io::Error),
    /// It said something that no server says.
    #[error("the SFTP server said something that was not asked: {0}")]
    Unexpected(&'static str),
    /// More came than a copy can hold.
    #[error("more than {0} bytes came, more than a copy of this tree can hold")]
    TooMuch(u64),
}

/// A file that is wanted.
#[derive(Debug)]
pub struct Wanted<T> {
    /// Where it is on the server, from `/`.
    pub path: String,
    /// Keep its bytes too, when they are not too many.
    pub keep: bool,
    /// Given back with the content.
    pub item: T,
}

/// A file that was read.
#[derive(Debug)]
pub struct Fetched {
    /// Size and hashes.
    pub content: Content,
    /// The bytes, where that was wanted.
    pub bytes: Option<Vec<u8>>,
}

/// A server that answered.
#[derive(Debug)]
pub struct Sftp<R, W> {
    from: R,
    to: W,
    packet: Vec<u8>,
}

impl<R: Read, W: Write> Sftp<R, W> {
    /// Greets the server.
    ///
    /// # Errors
    /// When it does not answer as one.
    pub fn begin(from: R, to: W) -> Result<Self, SftpError> {
        let mut sftp = Self { from, to, packet: Vec::new() };
        sftp.send(INIT, &[&3_u32.to_be_bytes()])?;
        match sftp.receive()? {
            VERSION => Ok(sftp),
            _ => Err(SftpError::Unexpected("no version")),
        }
    }

    /// Reads all files that `next` names, several at a time, and tells `done` of each in the order in which they end. A file that
    /// cannot be read is told of with the server's words, safe to show.
    ///
    /// # Errors
    /// When the connection breaks, more than `most` bytes come, or `next` or `done` fails.
    pub fn read_all<T, E: From<SftpError>>(
        &mut self,
        hashing: &Hashing,
        most: u64,
        next: &mut dyn FnMut() -> Result<Option<Wanted<T>>, E>,
        done: &mut dyn FnMut(T, Result<Fetched, String>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut slots: [Option<Slot<T>>; AT_ONCE] = std::array::from_fn(|_| None);
        let (mut total, mut more) = (0_u64, true);
        loop {
            for (at, slot) in slots.iter_mut().enumerate() {
                while more && slot.is_none() {
                    let Some(wanted) = next()? else {
                        more = false;
                        break;
                    };
                    if wanted.path.len() > MAX_PATH {
                        done(wanted.item, Err("its path is too long".to_owned()))?;
                        continue;
                    }
                    self.open(at, &wanted.path)?;
                    *slot = Some(Slot::new(wanted, hashing));
                }
            }
            if slots.iter().all(Option::is_none) {
                return Ok(());
            }
            let kind = self.receive()?;
            let at = self.slot()?;
            let unasked = SftpError::Unexpected("an answer without a question");
            let mut slot = slots.get_mut(at).and_then(Option::take).ok_or(unasked)?;
            total = total.saturating_add(self.advance(at, kind, &mut slot)?);
            if total > most {
                return Err(SftpError::TooMuch(most).into());
            }
            match slot.state {
                State::Done => done(
                    slot.item,
                    slot.result.map(|()| Fetched { content: slot.hasher.finish(), bytes: slot.bytes }),
                )?,
                State::Opening | State::Reading | State::Closing => slots[at] = Some(slot),
            }
        }
    }

    /// Takes one answer about one file, and asks the next question; returns how many bytes of content came.
    fn advance<T>(&mut self, at: usize, kind: u8, slot: &mut Slot<T>) -> Result<u64, SftpError> {
        let packet = std::mem::take(&mut self.packet);
        let body = packet.get(4..).unwrap_or_default();
        let mut came = 0;
        match (kind, slot.state) {
            (HANDLE, State::Opening) => {
                slot.handle = string(body)?.to_vec();
                slot.state = State::Reading;
                self.ask(at, &slot.handle, slot.offset)?;
            }
            (DATA, State::Reading) => {
                let bytes = string(body)?;
                came = bytes.len() as u64;
                if came == 0 {
                    return Err(SftpError::Unexpected("no bytes, and no end"));
                }
                slot.take(bytes);
                self.ask(at, &slot.handle, slot.offset)?;
            }
            (STATUS, state) => {
                let (code, words) = status(body)?;
                let good = match state {
                    State::Reading => code == STATUS_EOF,
                    State::Closing => code == STATUS_OK,
                    State::Opening | State::Done => false,
                };
                if !good && slot.result.is_ok() {
                    slot.result = Err(words);
                }
                slot.state = State::Done;
                if state == State::Reading {
                    slot.state = State::Closing;
                    self.send(CLOSE, &[&number(at), &length(&slot.handle), &slot.handle])?;
                }
            }
            _ => return Err(SftpError::Unexpected("an answer to another question")),
        }
        self.packet = packet;
        Ok(came)
    }

    fn open(&mut self, at: usize, path: &str) -> Result<(), SftpError> {
        let (for_reading, no_attributes) = (1_u32.to_be_bytes(), 0_u32.to_be_bytes());
        let path = path.as_bytes();
        self.send(OPEN, &[&number(at), &length(path), path, &for_reading, &no_attributes])
    }

    fn ask(&mut self, at: usize, handle: &[u8], offset: u64) -> Result<(), SftpError> {
        let (offset, size) = (offset.to_be_bytes(), READ_SIZE.to_be_bytes());
        self.send(READ, &[&number(at), &length(handle), handle, &offset, &size])
    }

    fn send(&mut self, kind: u8, parts: &[&[u8]]) -> Result<(), SftpError> {
        let body: Vec<u8> = parts.concat();
        let mut packet = number(body.len() + 1).to_vec();
        packet.push(kind);
        packet.extend_from_slice(&body);
        self.to.write_all(&packet)?;
        Ok(self.to.flush()?)
    }

    /// The kind of the next packet; its body is in `packet`.
    fn receive(&mut self) -> Result<u8, SftpError> {
        let mut head = [0; 5];
        self.from.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        if length == 0 || length > MAX_PACKET {
            return Err(SftpError::Unexpected("a packet of impossible length"));
        }
        self.packet.resize(length as usize - 1, 0);
        self.from.read_exact(&mut self.packet)?;
        Ok(head[4])
    }

    /// Which file the packet is about: our request numbers are those of the slots.
    fn slot(&self) -> Result<usize, SftpError> {
        let number = self.packet.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        number.map(|number| number as usize).ok_or(SftpError::Unexpected("a packet without a number"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    Reading,
    Closing,
    Done,
}

/// A file that is being read.
struct Slot<T> {
    item: T,
    state: State,
    handle: Vec<u8>,
    offset: u64,
    hasher: ContentHasher,
    bytes: Option<Vec<u8>>,
    result: Result<(), String>,
}

impl<T> Slot<T> {
    fn new(wanted: Wanted<T>, hashing: &Hashing) -> Self {
        Self {
            item: wanted.item,
            state: State::Opening,
            handle: Vec::new(),
            offset: 0,
            hasher: ContentHasher::new(hashing),
            bytes: wanted.keep.then(Vec::new),
            result: Ok(()),
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        if let Some(kept) = &mut self.bytes {
            kept.extend_from_slice(bytes);
        }
        if self.bytes.as_ref().is_some_and(|kept| kept.len() > MAX_KEPT) {
            self.bytes = None;
        }
    }
}

fn number(value: usize) -> [u8; 4] {
    // Slots, and lengths of what this module makes: far below four GiB.
    (value as u32).to_be_bytes()
}

fn length(bytes: &[u8]) -> [u8; 4] {
    number(bytes.len())
}

fn string(body: &[u8]) -> Result<&[u8], SftpError> {
    let cut = SftpError::Unexpected("a string that is cut short");
    let Some((length, rest)) = body.split_first_chunk() else { return Err(cut) };
    rest.get(..u32::from_be_bytes(*length) as usize).ok_or(cut)
}

fn status(body: &[u8]) -> Result<(u32, String), SftpError> {
    let Some((code, rest)) = body.split_first_chunk() else {
        return Err(SftpError::Unexpected("a status without a code"));
    };
    let code = u32::from_be_bytes(*code);
    let words = string(rest).unwrap_or_default();
    Ok((code, format!("{} (status {code})", show::bytes(words))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        [&number(body.len() + 1)[..], &[kind], &body].concat()
    }

    fn text(bytes: &[u8]) -> Vec<u8> {
        [&length(bytes)[..], bytes].concat()
    }

    type Read = (String, Result<Vec<u8>, String>);

    fn run(answers: &[Vec<u8>], paths: &[&str]) -> Result<Vec<Read>, SftpError> {
        let stream = [vec![packet(VERSION, &[&[0, 0, 0, 3]])], answers.to_vec()].concat().concat();
        let mut sftp = Sftp::begin(io::Cursor::new(stream), Vec::new())?;
        let mut paths = paths.iter();
        let mut all = Vec::new();
        sftp.read_all::<_, SftpError>(
            &Hashing::plain(),
            100,
            &mut || {
                let path = paths.next().map(|path| (*path).to_owned());
                Ok(path.map(|path| Wanted { path: path.clone(), keep: true, item: path }))
            },
            &mut |item, read| {
                all.push((item, read.map(|fetched| fetched.bytes.unwrap())));
                Ok(())
            },
        )?;
        Ok(all)
    }

    fn ended(at: usize, code: u32) -> Vec<u8> {
        packet(STATUS, &[&number(at), &code.to_be_bytes(), &text(b"words"), &text(b"en")])
    }

    #[test]
    fn files_are_read_in_turns() {
        let data = |at, bytes: &[u8]| packet(DATA, &[&number(at), &text(bytes)]);
        let handle = |at| packet(HANDLE, &[&number(at), &text(b"h")]);
        let answers = [
            handle(1),
            handle(0),
            data(1, b"one"),
            data(0, b"no"),
            data(0, b"ught"),
            ended(1, STATUS_EOF),
            ended(0, STATUS_EOF),
            ended(1, STATUS_OK),
            ended(0, STATUS_OK),
        ];
        let read = run(&answers, &["/0", "/1"]).unwrap();
        assert_eq!(read[0], ("/1".to_owned(), Ok(b"one".to_vec())));
        assert_eq!(read[1], ("/0".to_owned(), Ok(b"nought".to_vec())));
    }

    #[test]
    fn a_file_that_cannot_be_read_stops_no_other() {
        let handle = packet(HANDLE, &[&number(1), &text(b"h")]);
        let answers = [ended(0, 3), handle, ended(1, 4), ended(1, STATUS_OK)];
        let read = run(&answers, &["/0", "/1"]).unwrap();
        assert_eq!(read[0].1, Err("words (status 3)".to_owned()));
        assert_eq!(read[1].1, Err("words (status 4)".to_owned()));
    }

    #[test]
    fn a_server_that_lies_or_stops_is_an_error() {
        let handle = packet(HANDLE, &[&number(0), &text(b"h")]);
        let data = packet(DATA, &[&number(0), &text(&[0; 101])]);
        assert!(matches!(run(&[handle.clone(), data], &["/0"]), Err(SftpError::TooMuch(100))));
        assert!(matches!(run(&[], &["/0"]), Err(SftpError::Io(_))));
        for answer in [
            packet(HANDLE, &[&number(5), &text(b"h")]),
            packet(HANDLE, &[&number(0), &[0, 0, 0, 9]]),
            packet(DATA, &[&number(0), &text(b"x")]),
            packet(STATUS, &[&[0, 0]]),
            vec![0xff; 5],
            vec![0; 5],
        ] {
            assert!(matches!(run(&[answer], &["/0"]), Err(SftpError::Unexpected(_))));
        }
        let empty = packet(DATA, &[&number(0), &text(b"")]);
        assert!(matches!(run(&[handle, empty], &["/0"]), Err(SftpError::Unexpected(_))));
    }
}
