//! One line of the journal: what it says, and the digest that chains it to the line before.

use serde::{Deserialize, Serialize};

use crate::machine::Record;

/// The format that this program writes.
pub const FORMAT: u32 = 1;

/// Separates our digests from every other use of BLAKE3.
const CONTEXT: &str = "safe-upgrade 2026-11 journal line v1";

/// What stands between a line's text and its digest, and after it.
const BEFORE_DIGEST: &[u8] = b",\"digest\":\"";
const AFTER_DIGEST: &[u8] = b"\"}";
const DIGEST_DIGITS: usize = 64;

/// One line, without its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// The format.
    pub v: u32,
    /// 0, 1, 2, ...
    pub seq: u64,
    /// When it was written, UTC.
    pub time: jiff::Timestamp,
    /// In which boot.
    pub boot: String,
    /// By which version of the program.
    pub tool: String,
    /// What it says.
    pub entry: Record,
}

/// A chain of digests, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain([u8; 32]);

impl Chain {
    /// Before the first line.
    pub(super) const START: Self = Self([0; 32]);

    fn then(self, text: &[u8]) -> Self {
        Self(*blake3::Hasher::new_derive_key(CONTEXT).update(&self.0).update(text).finalize().as_bytes())
    }
}

/// The bytes of a frame as a line, and the chain after it.
pub(super) fn encode(frame: &Frame, chain: Chain) -> Result<(Vec<u8>, Chain), serde_json::Error> {
    let mut text = serde_json::to_vec(frame)?;
    // The closing brace makes room for the digest.
    text.pop();
    let chain = chain.then(&text);
    let mut line = Vec::with_capacity(text.len() + 2 * DIGEST_DIGITS);
    close(&text, chain, &mut line);
    Ok((line, chain))
}

/// Gives any texts the digests of lines, one after the other: for tests and fuzzers that want to get past the digest.
#[must_use]
pub fn seal_lines<'t>(texts: impl IntoIterator<Item = &'t [u8]>) -> Vec<u8> {
    let (mut bytes, mut chain) = (Vec::new(), Chain::START);
    for text in texts {
        chain = chain.then(text);
        close(text, chain, &mut bytes);
    }
    bytes
}

fn close(text: &[u8], chain: Chain, line: &mut Vec<u8>) {
    line.extend_from_slice(text);
    line.extend_from_slice(BEFORE_DIGEST);
    line.extend_from_slice(blake3::Hash::from_bytes(chain.0).to_hex().as_bytes());
    line.extend_from_slice(AFTER_DIGEST);
    line.push(b'\n');
}

/// Why a journal is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A line is not what was written, or not the one that follows the line before.
    #[error("line {line} is damaged: {what}")]
    Line {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

/// What a journal's bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The lines that are understood.
    pub frames: Vec<Frame>,
    /// How many bytes they are; what follows is a torn tail, or written by a newer version.
    pub valid_bytes: usize,
    /// Whether the last of these bytes is the end of a line.
    pub ended: bool,
    /// Bytes of a last line whose writing was cut off. It was never acknowledged, so dropping it loses nothing.
    pub torn_bytes: usize,
    /// The format of the first line that a newer version of the program wrote: from there on nothing is understood.
    pub newer: Option<u32>,
    pub(super) chain: Chain,
}

/// Reads the bytes of a journal.
///
/// # Errors
/// [`Damage`] when a whole line is not what was written. Nothing is repaired.
pub fn read(bytes: &[u8]) -> Result<Reading, Damage> {
    let mut reading = Reading {
        frames: vec![],
        valid_bytes: 0,
        ended: true,
        torn_bytes: 0,
        newer: None,
        chain: Chain::START,
    };
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        match decode(&rest[..end], reading.chain, reading.frames.len())? {
            Line::Ours(frame, chain) => reading.push(frame, chain, end + 1),
            Line::Newer(format) => {
                reading.newer = Some(format);
                return Ok(reading);
            }
        }
        rest = &rest[end + 1..];
    }
    if !rest.is_empty() {
        reading.take_tail(rest)?;
    }
    Ok(reading)
}

impl Reading {
    fn push(&mut self, frame: Frame, chain: Chain, bytes: usize) {
        self.frames.push(frame);
        self.chain = chain;
        self.valid_bytes += bytes;
    }

    /// Bytes after the last newline. A whole line only lacks its newline; the beginning of a line was never acknowledged.
    /// A whole line followed by something else is neither: there a written newline was damaged.
    fn take_tail(&mut self, tail: &[u8]) -> Result<(), Damage> {
        let seq = self.frames.len();
        if let Ok(Line::Ours(frame, chain)) = decode(tail, self.chain, seq) {
            self.push(frame, chain, tail.len());
            self.ended = false;
            return Ok(());
        }
        let all_but_one = &tail[..tail.len() - 1];
        if decode(all_but_one, self.chain, seq).is_ok() || tail.iter().any(u8::is_ascii_control) {
            return Err(damaged(seq, "its end is not the end of a line"));
        }
        self.torn_bytes = tail.len();
        Ok(())
    }
}

enum Line {
    Ours(Frame, Chain),
    Newer(u32),
}

/// What every format keeps: this field, the digest at the end of the line, and how it is made.
#[derive(Deserialize)]
struct AnyFormat {
    v: u32,
}

fn damaged(seq: usize, what: impl Into<String>) -> Damage {
    Damage::Line { line: seq + 1, what: what.into() }
}

fn decode(line: &[u8], chain: Chain, seq: usize) -> Result<Line, Damage> {
    let (text, digest) = split_digest(line).ok_or_else(|| damaged(seq, "it does not end with a digest"))?;
    let next = chain.then(text);
    if blake3::Hash::from_bytes(next.0).to_hex().as_bytes() != digest {
        return Err(damaged(seq, "its digest does not match"));
    }
    let mut object = text.to_vec();
    object.push(b'}');
    let not_understood = |error| damaged(seq, format!("it is not understood: {error}"));
    let AnyFormat { v } = serde_json::from_slice(&object).map_err(not_understood)?;
    if v > FORMAT {
        return Ok(Line::Newer(v));
    }
    let frame: Frame = serde_json::from_slice(&object).map_err(not_understood)?;
    if frame.v != FORMAT || frame.seq != seq as u64 {
        return Err(damaged(seq, format!("it is line {} of format {}", frame.seq + 1, frame.v)));
    }
    Ok(Line::Ours(frame, next))
}

fn split_digest(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(AFTER_DIGEST)?;
    let (before, digest) = line.split_at_checked(line.len().checked_sub(DIGEST_DIGITS)?)?;
    Some((before.strip_suffix(BEFORE_DIGEST)?, digest))
}

/// A line as a newer version might write it.
#[cfg(test)]
pub(super) fn newer_line(format: u32, chain: Chain) -> Vec<u8> {
    let text = format!("{{\"v\":{format},\"what\":\"nobody knows yet\"");
    let digest = blake3::Hash::from_bytes(chain.then(text.as_bytes()).0).to_hex();
    format!("{text},\"digest\":\"{digest}\"}}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::CommitRule;
    use crate::machine::Why;

    fn journal() -> (Vec<u8>, Vec<usize>) {
        let records = [
            Record::Planned { plan: crate::sim::plan(CommitRule::Automatic) },
            Record::RefusalStarted { why: Why::Operator },
            Record::Refused,
        ];
        let (mut bytes, mut ends, mut chain) = (Vec::new(), vec![0], Chain::START);
        for (seq, entry) in records.into_iter().enumerate() {
            let time = "2026-11-26T16:30:00Z".parse().unwrap();
            let frame = Frame { v: FORMAT, seq: seq as u64, time, boot: "b".into(), tool: "t".into(), entry };
            let (line, next) = encode(&frame, chain).unwrap();
            bytes.extend(line);
            ends.push(bytes.len());
            chain = next;
        }
        (bytes, ends)
    }

    #[test]
    fn a_line_is_json_with_the_digest_last() {
        let (bytes, ends) = journal();
        let line: serde_json::Value = serde_json::from_slice(&bytes[..ends[1]]).unwrap();
        assert_eq!(line["entry"]["record"], "Planned");
        assert_eq!(line["digest"].as_str().unwrap().len(), 64);
    }

    #[test]
    fn torn_at_every_byte_nothing_acknowledged_is_lost() {
        let (bytes, ends) = journal();
        for cut in 0..=bytes.len() {
            let reading = read(&bytes[..cut]).unwrap();
            // A line whose newline alone is missing is whole.
            let whole = ends.iter().filter(|end| **end != 0 && **end <= cut + 1).count();
            assert_eq!(reading.frames.len(), whole, "cut at {cut}");
            assert_eq!(reading.valid_bytes + reading.torn_bytes, cut);
        }
    }

    #[test]
    fn a_flipped_bit_at_every_byte_is_refused() {
        let (bytes, _) = journal();
        for index in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[index] ^= 1 << bit;
                match read(&flipped) {
                    Err(Damage::Line { .. }) => {}
                    Ok(reading) => panic!("bit {bit} of byte {index} passed as {reading:?}"),
                }
            }
        }
    }

    #[test]
    fn a_missing_a_repeated_and_a_swapped_line_are_refused() {
        let (bytes, ends) = journal();
        let line = |index: usize| &bytes[ends[index]..ends[index + 1]];
        for order in [vec![1, 2], vec![0, 2], vec![0, 0, 1], vec![0, 2, 1]] {
            let lines: Vec<u8> = order.iter().flat_map(|index| line(*index).iter().copied()).collect();
            assert!(read(&lines).is_err(), "{order:?}");
        }
    }

    /// The same place, a digest of its own that holds, but another history.
    #[test]
    fn a_line_of_another_history_is_refused() {
        let (bytes, ends) = journal();
        let mut other = read(&bytes).unwrap().frames;
        other[0].boot = "another boot".into();
        let (mut spliced, mut chain) = (Vec::new(), Chain::START);
        for frame in &other {
            let (line, next) = encode(frame, chain).unwrap();
            if frame.seq == 0 {
                spliced.extend(line);
            }
            chain = next;
        }
        spliced.extend_from_slice(&bytes[ends[1]..]);
        assert_eq!(read(&spliced), Err(damaged(1, "its digest does not match")));
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let (mut bytes, ends) = journal();
        bytes.truncate(ends[1]);
        let chain = read(&bytes).unwrap().chain;
        bytes.extend(newer_line(2, chain));
        let reading = read(&bytes).unwrap();
        assert_eq!((reading.frames.len(), reading.newer), (1, Some(2)));
    }
}
