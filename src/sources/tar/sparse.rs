//! Sparse maps: the three ways to write them in a pax archive, and the rules that any map obeys.

use super::header::BLOCK;
use crate::manifest::entry::Extent;

/// The most extents of one file; bounds the memory of a map (16 MiB), real files have a few thousand.
pub(super) const MAX_EXTENTS: usize = 1 << 20;

/// A map that cannot be meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadMap(pub(super) &'static str);

/// Where the stored bytes of a sparse file belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Map {
    /// In order, without overlap, none empty.
    pub(super) extents: Vec<Extent>,
    /// The size of the file with its holes.
    pub(super) real_size: u64,
}

impl Map {
    /// Checks pairs of offset and length.
    pub(super) fn new(pairs: &[(u64, u64)], real_size: u64) -> Result<Self, BadMap> {
        let mut extents = Vec::new();
        let mut end = 0;
        for &(offset, length) in pairs {
            if offset < end {
                return Err(BadMap("its pieces overlap or are out of order"));
            }
            end = offset.checked_add(length).ok_or(BadMap("a piece ends beyond any file"))?;
            if end > real_size {
                return Err(BadMap("a piece ends behind the end of the file"));
            }
            if length > 0 {
                extents.push(Extent { offset, length });
            }
        }
        Ok(Self { extents, real_size })
    }

    /// The bytes that are stored.
    pub(super) fn stored(&self) -> u64 {
        // Cannot overflow: the pieces do not overlap and end within a u64.
        self.extents.iter().map(|extent| extent.length).sum()
    }

    /// The extents as a manifest has them: neighbours joined, `None` when there is no hole.
    pub(super) fn joined(&self) -> Option<Vec<Extent>> {
        let mut joined: Vec<Extent> = Vec::with_capacity(self.extents.len());
        for extent in &self.extents {
            match joined.last_mut() {
                Some(last) if last.offset + last.length == extent.offset => last.length += extent.length,
                _ => joined.push(Extent { offset: extent.offset, length: extent.length }),
            }
        }
        let whole = match &joined[..] {
            [] => self.real_size == 0,
            [only] => only.offset == 0 && only.length == self.real_size,
            _ => false,
        };
        (!whole).then_some(joined)
    }
}

/// The map of format 0.1: numbers with commas between.
pub(super) fn parse_list(text: &[u8]) -> Result<Vec<(u64, u64)>, BadMap> {
    let mut pairs = Vec::new();
    if text.is_empty() {
        return Ok(pairs);
    }
    let mut numbers = text.split(|&byte| byte == b',');
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or(BadMap("it has an odd count of numbers"))?;
        push(&mut pairs, decimal(offset)?, decimal(length)?)?;
    }
    Ok(pairs)
}

/// Adds a pair, within [`MAX_EXTENTS`].
pub(super) fn push(pairs: &mut Vec<(u64, u64)>, offset: u64, length: u64) -> Result<(), BadMap> {
    if pairs.len() >= MAX_EXTENTS {
        return Err(BadMap("it has more than a million pieces"));
    }
    pairs.push((offset, length));
    Ok(())
}

/// Digits and nothing else.
pub(super) fn decimal(text: &[u8]) -> Result<u64, BadMap> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    // Only digits: the text is ASCII.
    let text = std::str::from_utf8(text).unwrap_or_default();
    text.parse().ok().filter(|_| digits).ok_or(BadMap("it holds something that is no number"))
}

/// Reads the map of format 1.0 from the front of the content: a count, then as many pairs, one number a line, padded to a
/// whole block.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    count: Option<u64>,
    offset: Option<u64>,
    line: Vec<u8>,
    pairs: Vec<(u64, u64)>,
}

impl MapReader {
    /// Takes one block; the pairs when the map ended in it.
    pub(super) fn block(&mut self, block: &[u8; BLOCK]) -> Result<Option<Vec<(u64, u64)>>, BadMap> {
        for &byte in block {
            if self.is_complete() {
                return Ok(Some(std::mem::take(&mut self.pairs)));
            }
            if byte != b'\n' {
                // 20 digits are the longest number.
                if self.line.len() >= 20 {
                    return Err(BadMap("it holds something that is no number"));
                }
                self.line.push(byte);
                continue;
            }
            let value = decimal(&self.line)?;
            self.line.clear();
            match (self.count, self.offset.take()) {
                (None, _) if value > MAX_EXTENTS as u64 => {
                    return Err(BadMap("it has more than a million pieces"));
                }
                (None, _) => self.count = Some(value),
                (Some(_), None) => self.offset = Some(value),
                (Some(_), Some(offset)) => push(&mut self.pairs, offset, value)?,
            }
        }
        Ok(self.is_complete().then(|| std::mem::take(&mut self.pairs)))
    }

    fn is_complete(&self) -> bool {
        self.count == Some(self.pairs.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_cannot_be_meant_are_refused() {
        for (pairs, size) in [
            (&[(0, 10), (5, 10)][..], 100),
            (&[(50, 10), (0, 10)], 100),
            (&[(0, 101)], 100),
            (&[(u64::MAX, 2)], u64::MAX),
        ] {
            assert!(Map::new(pairs, size).is_err(), "{pairs:?}");
        }
        assert!(parse_list(b"1,2,3").is_err());
        assert!(parse_list(b"1,-2").is_err());
        assert!(parse_list(b"1,+2").is_err());
    }

    #[test]
    fn neighbours_are_joined_and_no_hole_is_no_map() {
        let map = Map::new(&[(0, 4), (4, 4), (10, 2), (12, 0)], 12).unwrap();
        let wanted = vec![Extent { offset: 0, length: 8 }, Extent { offset: 10, length: 2 }];
        assert_eq!((map.joined(), map.stored()), (Some(wanted), 10));
        assert_eq!(Map::new(&[(0, 4), (4, 8)], 12).unwrap().joined(), None);
        assert_eq!(Map::new(&[(12, 0)], 12).unwrap().joined(), Some(vec![]));
    }

    #[test]
    fn a_map_may_end_anywhere_in_its_blocks() {
        let mut text = b"60\n".to_vec();
        for piece in 0..60_u64 {
            text.extend_from_slice(format!("{}\n{}\n", piece * 100_000, 512).as_bytes());
        }
        let mut reader = MapReader::default();
        let mut found = None;
        for chunk in text.chunks(BLOCK) {
            assert_eq!(found, None);
            let mut block = [0; BLOCK];
            block[..chunk.len()].copy_from_slice(chunk);
            found = reader.block(&block).unwrap();
        }
        let found = found.unwrap();
        assert_eq!((found.len(), found[59]), (60, (5_900_000, 512)));
        assert!(MapReader::default().block(&[b'1'; BLOCK]).is_err());
        assert_eq!(
            MapReader::default().block(&{
                let mut block = [0; BLOCK];
                block[..2].copy_from_slice(b"0\n");
                block
            }),
            Ok(Some(vec![]))
        );
    }
}
