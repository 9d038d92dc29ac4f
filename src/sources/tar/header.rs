//! One header block of 512 bytes: its fields as bytes and numbers, and whether its sum is right.

use crate::manifest::Mtime;

/// Everything in a tar archive comes in blocks of this many bytes.
pub(super) const BLOCK: usize = 512;

/// Bytes of one block.
pub(super) type Block = [u8; BLOCK];

/// A field that holds no number, or one that does not fit its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadNumber;

/// Who wrote the header: the fields after byte 345 mean different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavour {
    /// No magic: names of 100 bytes, no owners by name, no devices.
    V7,
    /// POSIX, also the headers of a pax archive.
    Ustar,
    /// GNU: no name prefix, sparse maps in the header.
    Gnu,
}

/// What an old GNU header says of a sparse file.
#[derive(Debug)]
pub(super) struct SparseHeader {
    /// Offset and length of its first pieces.
    pub(super) pairs: Vec<(u64, u64)>,
    /// More of them follow in the next block.
    pub(super) more: bool,
    /// The size with holes.
    pub(super) real_size: u64,
}

/// A block whose sum was found right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header<'b>(&'b Block);

impl<'b> Header<'b> {
    /// The block as a header; `None` when the sum is wrong.
    ///
    /// Both ways to add are accepted: some old writers took the bytes as signed.
    pub(super) fn checked(block: &'b Block) -> Option<Self> {
        let stored = octal(&block[148..156]).ok()?;
        // The sum is taken as if its own field held spaces.
        let spaces = 8 * i64::from(b' ');
        let unsigned = |bytes: &[u8]| i64::from(bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>());
        if stored == unsigned(block) - unsigned(&block[148..156]) + spaces {
            return Some(Self(block));
        }
        let signed = |bytes: &[u8]| bytes.iter().map(|&byte| i64::from(byte.cast_signed())).sum::<i64>();
        (stored == signed(block) - signed(&block[148..156]) + spaces).then_some(Self(block))
    }

    pub(super) fn flavour(self) -> Flavour {
        match &self.0[257..263] {
            b"ustar\0" => Flavour::Ustar,
            b"ustar " => Flavour::Gnu,
            _ => Flavour::V7,
        }
    }

    pub(super) fn type_flag(self) -> u8 {
        self.0[156]
    }

    /// Prefix and name put together, as the flavour says.
    pub(super) fn name(self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        if self.flavour() != Flavour::Ustar {
            return name.to_vec();
        }
        // star keeps times where others keep the end of the prefix.
        let end = if &self.0[508..] == b"tar\0" { 476 } else { 500 };
        let prefix = until_nul(&self.0[345..end]);
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub(super) fn link_name(self) -> &'b [u8] {
        until_nul(&self.0[157..257])
    }

    /// The twelve bits; old writers put the file type above them.
    pub(super) fn mode(self) -> Result<u16, BadNumber> {
        let mode = number(&self.0[100..108])? & 0o7777;
        u16::try_from(mode).map_err(|_| BadNumber)
    }

    pub(super) fn uid(self) -> Result<u32, BadNumber> {
        owner(&self.0[108..116])
    }

    pub(super) fn gid(self) -> Result<u32, BadNumber> {
        owner(&self.0[116..124])
    }

    pub(super) fn size(self) -> Result<u64, BadNumber> {
        u64::try_from(number(&self.0[124..136])?).map_err(|_| BadNumber)
    }

    /// Whether the size is the largest that octal digits can say: a writer's "see elsewhere".
    pub(super) fn size_is_saturated(self) -> bool {
        self.0[124..135] == *b"77777777777"
    }

    pub(super) fn mtime(self) -> Result<Mtime, BadNumber> {
        Ok(Mtime { seconds: number(&self.0[136..148])?, nanoseconds: 0 })
    }

    /// Major and minor; the fields exist only where there is a magic.
    pub(super) fn device(self) -> Result<(u32, u32), BadNumber> {
        if self.flavour() == Flavour::V7 {
            return Err(BadNumber);
        }
        Ok((owner(&self.0[329..337])?, owner(&self.0[337..345])?))
    }

    /// The map of an old GNU sparse header, which has room for four pieces.
    pub(super) fn sparse(self) -> Result<SparseHeader, BadNumber> {
        let pairs = sparse_pairs(&self.0[386..482])?;
        let real_size = u64::try_from(number(&self.0[483..495])?).map_err(|_| BadNumber)?;
        Ok(SparseHeader { pairs, more: self.0[482] != 0, real_size })
    }
}

/// The 21 map entries of a block that follows an old GNU sparse header, and whether another follows.
pub(super) fn sparse_block(block: &Block) -> Result<(Vec<(u64, u64)>, bool), BadNumber> {
    Ok((sparse_pairs(&block[..504])?, block[504] != 0))
}

/// Whether all of a block is zero.
pub(super) fn is_zero(block: &Block) -> bool {
    block.iter().all(|&byte| byte == 0)
}

/// The bytes before the first NUL.
pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.iter().position(|&byte| byte == 0).map_or(field, |end| &field[..end])
}

/// Pairs of offset and length; an unused place is filled with NUL and ends the list.
fn sparse_pairs(field: &[u8]) -> Result<Vec<(u64, u64)>, BadNumber> {
    let mut pairs = Vec::new();
    for pair in field.chunks_exact(24) {
        let (offset, length) = pair.split_at(12);
        if length[0] == 0 && offset[0] == 0 {
            break;
        }
        let value = |field| u64::try_from(number(field)?).map_err(|_| BadNumber);
        pairs.push((value(offset)?, value(length)?));
    }
    Ok(pairs)
}

fn owner(field: &[u8]) -> Result<u32, BadNumber> {
    u32::try_from(number(field)?).map_err(|_| BadNumber)
}

/// Octal digits, or GNU's binary when the highest bit is set.
fn number(field: &[u8]) -> Result<i64, BadNumber> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => binary(field),
        _ => octal(field),
    }
}

/// Two's complement, big-endian, below the mark in the highest bit: its neighbour is the sign.
fn binary(field: &[u8]) -> Result<i64, BadNumber> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] } else { field[0] & 0x7f };
    let mut value = if negative { -1_i64 } else { 0 };
    for byte in std::iter::once(first).chain(field[1..].iter().copied()) {
        let shifted = value.checked_mul(256).ok_or(BadNumber)?;
        value = shifted | i64::from(byte);
    }
    Ok(value)
}

/// Leading spaces, digits, then only spaces and NULs; nothing at all is zero.
fn octal(field: &[u8]) -> Result<i64, BadNumber> {
    let start = field.iter().position(|&byte| byte != b' ').unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(|byte| !(b'0'..=b'7').contains(byte)).unwrap_or(digits.len());
    if digits[end..].iter().any(|byte| !matches!(byte, b' ' | 0)) {
        return Err(BadNumber);
    }
    let add = |value: i64, digit: &u8| value.checked_mul(8)?.checked_add(i64::from(digit - b'0'));
    digits[..end].iter().try_fold(0, add).ok_or(BadNumber)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        let table: [(&[u8], Result<i64, BadNumber>); 11] = [
            (b"0000644\0", Ok(0o644)),
            (b"   644 \0", Ok(0o644)),
            (b"77777777", Ok(0o77_777_777)),
            (b"\0\0\0\0", Ok(0)),
            (b"", Ok(0)),
            (b"12x", Err(BadNumber)),
            (b"18", Err(BadNumber)),
            (b"7\x007", Err(BadNumber)),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\x02", Ok(0x102)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Ok(-2)),
            (b"\x80\x01\0\0\0\0\0\0\0\0\0\0", Err(BadNumber)),
        ];
        for (field, wanted) in table {
            assert_eq!(number(field), wanted, "{field:?}");
        }
        assert_eq!(owner(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Err(BadNumber));
        assert_eq!(owner(b"\x80\0\0\0\xff\xff\xff\xfe"), Ok(0xffff_fffe));
    }

    #[test]
    fn a_block_with_a_wrong_sum_is_no_header() {
        let mut block = [0; BLOCK];
        block[0] = b'a';
        block[148..156].copy_from_slice(b"000541\0 ");
        assert_eq!(Header::checked(&block).map(Header::name), Some(b"a".to_vec()));
        block[1] = b'b';
        assert!(Header::checked(&block).is_none());
        // As signed bytes: 0xff counts for -1.
        block[1] = 0xff;
        block[148..156].copy_from_slice(b"000540\0 ");
        assert!(Header::checked(&block).is_some());
    }
}
