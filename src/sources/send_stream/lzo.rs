//! LZO as btrfs stores it: a total length, then one segment for each sector, each with its length.
//!
//! The segments are LZO1X, as the kernel's documentation describes it (`staging/lzo.rst`, version 0 of the bit stream): copies of
//! literal bytes, and copies of bytes that were written before.

/// Lengths are four bytes.
const LENGTH: usize = 4;

/// Expands an extent; says how many bytes came out, when they are whole and fit the buffer. Its end may fill less than a sector.
pub(super) fn expand(data: &[u8], sector: usize, out: &mut [u8]) -> Option<usize> {
    let data = data.get(..length_at(data, 0)?)?;
    let (mut at, mut filled) = (LENGTH, 0);
    for piece in out.chunks_mut(sector) {
        // A length does not cross from one sector to the next.
        let left = sector - at % sector;
        if left < LENGTH {
            at += left;
        }
        let length = length_at(data, at)?;
        at += LENGTH;
        let segment = data.get(at..at.checked_add(length)?)?;
        at += length;
        let written = expand_segment(segment, piece)?;
        filled += written;
        if written < sector {
            break;
        }
    }
    (at == data.len()).then_some(filled)
}

fn length_at(data: &[u8], at: usize) -> Option<usize> {
    let four: [u8; LENGTH] = data.get(at..at.checked_add(LENGTH)?)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(four)).ok()
}

/// How many bytes one segment holds, when it is whole.
fn expand_segment(segment: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut work = Work { input: segment, out, filled: 0 };
    // How many literals the last instruction copied; 4 stands for more than three.
    let mut state = 0;
    if let [first @ 18..=255, ..] = segment {
        let count = usize::from(first - 17);
        work.input = &work.input[1..];
        work.literals(count)?;
        state = count.min(4);
    }
    loop {
        let instruction = usize::from(work.byte()?);
        let (distance, length, literals) = match instruction {
            0..=15 if state == 0 => {
                let count = work.long_length(instruction, 15)? + 3;
                work.literals(count)?;
                state = 4;
                continue;
            }
            0..=15 => {
                let high = usize::from(work.byte()?);
                let (base, length) = if state == 4 { (2049, 3) } else { (1, 2) };
                ((high << 2) + (instruction >> 2) + base, length, instruction & 3)
            }
            16..=31 => {
                let length = work.long_length(instruction & 7, 7)? + 2;
                let (low, literals) = work.distance()?;
                let distance = 16_384 + ((instruction & 8) << 11) + low;
                if distance == 16_384 {
                    // The end, and nothing may follow.
                    return work.input.is_empty().then_some(work.filled);
                }
                (distance, length, literals)
            }
            32..=63 => {
                let length = work.long_length(instruction & 31, 31)? + 2;
                let (low, literals) = work.distance()?;
                (low + 1, length, literals)
            }
            _ => {
                let high = usize::from(work.byte()?);
                let length = if instruction < 128 {
                    3 + ((instruction >> 5) & 1)
                } else {
                    5 + ((instruction >> 5) & 3)
                };
                ((high << 3) + ((instruction >> 2) & 7) + 1, length, instruction & 3)
            }
        };
        work.repeat(distance, length)?;
        work.literals(literals)?;
        state = literals;
    }
}

/// What is still to be read and where the result goes.
struct Work<'w> {
    input: &'w [u8],
    out: &'w mut [u8],
    filled: usize,
}

impl Work<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.input.split_first()?;
        self.input = rest;
        Some(first)
    }

    /// A length that did not fit its bits is 0 there: `most`, 255 for each zero that follows, and the first other byte.
    fn long_length(&mut self, bits: usize, most: usize) -> Option<usize> {
        if bits != 0 {
            return Some(bits);
        }
        let mut length = most;
        loop {
            match self.byte()? {
                0 => length += 255,
                last => return Some(length + usize::from(last)),
            }
        }
    }

    /// Fourteen bits of distance and two of how many literals follow.
    fn distance(&mut self) -> Option<(usize, usize)> {
        let both = usize::from(self.byte()?) | usize::from(self.byte()?) << 8;
        Some((both >> 2, both & 3))
    }

    fn literals(&mut self, count: usize) -> Option<()> {
        let (literals, rest) = self.input.split_at_checked(count)?;
        self.out.get_mut(self.filled..self.filled + count)?.copy_from_slice(literals);
        self.input = rest;
        self.filled += count;
        Some(())
    }

    /// Copies from what was written before; the two may overlap, and then repeat.
    fn repeat(&mut self, distance: usize, length: usize) -> Option<()> {
        let from = self.filled.checked_sub(distance)?;
        let end = self.filled.checked_add(length)?;
        if end > self.out.len() {
            return None;
        }
        for at in 0..length {
            self.out[self.filled + at] = self.out[from + at];
        }
        self.filled = end;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(segments: &[&[u8]]) -> Vec<u8> {
        let mut extent = vec![0; LENGTH];
        for segment in segments {
            extent.extend_from_slice(&u32::try_from(segment.len()).unwrap().to_le_bytes());
            extent.extend_from_slice(segment);
        }
        let total = u32::try_from(extent.len()).unwrap().to_le_bytes();
        extent[..LENGTH].copy_from_slice(&total);
        extent
    }

    /// Four literals, then copies of each kind, then the end. Written by hand from the description; real extents are read in
    /// `tests/send_stream.rs`.
    const SEGMENT: [u8; 17] = [
        17 + 4,
        b'a',
        b'b',
        b'c',
        b'd', // literals
        0b0100_1100,
        0, // three from four back
        0b1010_0001,
        0,
        b'x', // six from one back, one literal
        0b0010_0011,
        0,
        0, // five from one back
        0b0001_0001,
        0,
        0, // the end: distance 16384
        0,
    ];
    const EXPANDED: &[u8] = b"abcdabcccccccxxxxxx";

    #[test]
    fn literals_and_copies_make_the_sector() {
        let segment = &SEGMENT[..16];
        let mut out = vec![0; EXPANDED.len()];
        assert_eq!(expand(&extent(&[segment]), 4096, &mut out), Some(EXPANDED.len()));
        assert_eq!(out, EXPANDED);
        assert_eq!(None, expand(&extent(&[segment]), 4096, &mut vec![0; EXPANDED.len() - 1]));
        assert_eq!(
            None,
            expand(&extent(&[segment, segment]), 4096, &mut vec![0; 8192]),
            "a short sector is the last"
        );
        assert_eq!(expand(&extent(&[segment]), 4096, &mut vec![0; 4096]), Some(EXPANDED.len()));
        assert_eq!(None, expand(&extent(&[&SEGMENT]), 4096, &mut out), "something follows the end");
    }

    #[test]
    fn no_cut_and_no_distance_before_the_beginning_is_taken() {
        let segment = &SEGMENT[..16];
        let mut out = vec![0; EXPANDED.len()];
        for length in 0..segment.len() {
            assert_eq!(None, expand(&extent(&[&segment[..length]]), 4096, &mut out), "{length}");
        }
        let whole = extent(&[segment]);
        for length in 0..whole.len() {
            assert_eq!(None, expand(&whole[..length], 4096, &mut out), "{length}");
        }
        let mut before = SEGMENT;
        before[6] = 1;
        assert_eq!(None, expand(&extent(&[&before[..16]]), 4096, &mut out));
    }
}
