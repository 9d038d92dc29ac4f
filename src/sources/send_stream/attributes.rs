//! The attributes of a command: number, length, bytes.

/// Their numbers, as `fs/btrfs/send.h` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Attribute {
    Uuid = 1,
    Size = 4,
    Mode = 5,
    Uid = 6,
    Gid = 7,
    Rdev = 8,
    Mtime = 10,
    XattrName = 13,
    XattrData = 14,
    Path = 15,
    PathTo = 16,
    PathLink = 17,
    FileOffset = 18,
    Data = 19,
    CloneUuid = 20,
    ClonePath = 22,
    CloneOffset = 23,
    CloneLength = 24,
    AllocateMode = 25,
    UnencodedFileLength = 27,
    UnencodedLength = 28,
    UnencodedOffset = 29,
    Compression = 30,
    Encryption = 31,
}

/// The highest number that each version knows.
const HIGHEST: [u16; 2] = [24, 31];

/// One more than the highest of all.
const COUNT: usize = 32;

/// The attributes of one command, by number.
#[derive(Debug)]
pub(super) struct Attributes<'b> {
    values: [Option<&'b [u8]>; COUNT],
}

impl<'b> Attributes<'b> {
    /// Takes the body of a command apart. From version 2 on, data has no length: it goes on to the end.
    pub(super) fn parse(version: u32, body: &'b [u8]) -> Result<Self, &'static str> {
        let mut values = [None; COUNT];
        let mut rest = body;
        while !rest.is_empty() {
            let number;
            (number, rest) = take_u16(rest)?;
            let highest = HIGHEST[(version.clamp(1, 2) - 1) as usize];
            if number == 0 || number > highest {
                return Err("it has an attribute that this version of the format does not know");
            }
            let value;
            if version >= 2 && number == Attribute::Data as u16 {
                (value, rest) = (rest, &[][..]);
            } else {
                let length;
                (length, rest) = take_u16(rest)?;
                (value, rest) = rest
                    .split_at_checked(usize::from(length))
                    .ok_or("an attribute is longer than its command")?;
            }
            if values[usize::from(number)].replace(value).is_some() {
                return Err("it has the same attribute twice");
            }
        }
        Ok(Self { values })
    }

    /// The bytes of an attribute that must be there.
    pub(super) fn bytes(&self, attribute: Attribute) -> Result<&'b [u8], &'static str> {
        self.values[attribute as usize].ok_or("an attribute is missing")
    }

    /// A number that must be there, of any of the widths that the format uses.
    pub(super) fn number(&self, attribute: Attribute) -> Result<u64, &'static str> {
        let bytes = self.bytes(attribute)?;
        if !matches!(bytes.len(), 1 | 2 | 4 | 8) {
            return Err("a number has an odd width");
        }
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        Ok(u64::from_le_bytes(wide))
    }

    /// A number that may be left out, and is 0 then.
    pub(super) fn number_or_zero(&self, attribute: Attribute) -> Result<u64, &'static str> {
        match self.values[attribute as usize] {
            None => Ok(0),
            Some(_) => self.number(attribute),
        }
    }

    /// Seconds and nanoseconds since 1970.
    pub(super) fn time(&self, attribute: Attribute) -> Result<(i64, u32), &'static str> {
        let bytes: &[u8; 12] =
            self.bytes(attribute)?.try_into().map_err(|_| "a time has not twelve bytes")?;
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3] = *bytes;
        let nanoseconds = u32::from_le_bytes([n0, n1, n2, n3]);
        if nanoseconds >= 1_000_000_000 {
            return Err("a time has more than a second of nanoseconds");
        }
        Ok((i64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]), nanoseconds))
    }
}

fn take_u16(bytes: &[u8]) -> Result<(u16, &[u8]), &'static str> {
    match bytes {
        [low, high, rest @ ..] => Ok((u16::from_le_bytes([*low, *high]), rest)),
        _ => Err("an attribute is cut off"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_has_a_length_in_version_1_only() {
        let path = [15, 0, 1, 0, b'p'];
        let first = [&path[..], &[19, 0, 2, 0, b'a', b'b']].concat();
        assert_eq!(Attributes::parse(1, &first).unwrap().bytes(Attribute::Data), Ok(&b"ab"[..]));
        let second = [&path[..], &[19, 0, 2, 0, b'a', b'b']].concat();
        assert_eq!(Attributes::parse(2, &second).unwrap().bytes(Attribute::Data), Ok(&b"\x02\0ab"[..]));
        assert_eq!(Attributes::parse(2, &path).unwrap().bytes(Attribute::Path), Ok(&b"p"[..]));
    }

    #[test]
    fn what_is_not_whole_or_not_known_is_refused() {
        for (version, body) in [
            (1, &[15][..]),
            (1, &[15, 0]),
            (1, &[15, 0, 2, 0, b'p']),
            (1, &[25, 0, 0, 0]),
            (2, &[32, 0, 0, 0]),
            (2, &[0, 1, 0, 0]),
            (1, &[0, 0, 0, 0]),
            (1, &[15, 0, 0, 0, 15, 0, 0, 0]),
        ] {
            assert!(Attributes::parse(version, body).is_err(), "{body:?}");
        }
        let odd = [4, 0, 3, 0, 1, 2, 3];
        assert!(Attributes::parse(1, &odd).unwrap().number(Attribute::Size).is_err());
    }

    #[test]
    fn times_before_1970_count_forwards() {
        let mut body = vec![10, 0, 12, 0];
        body.extend_from_slice(&(-5_i64).to_le_bytes());
        body.extend_from_slice(&500_u32.to_le_bytes());
        assert_eq!(Attributes::parse(1, &body).unwrap().time(Attribute::Mtime), Ok((-5, 500)));
        body[12..].copy_from_slice(&1_000_000_000_u32.to_le_bytes());
        assert!(Attributes::parse(1, &body).unwrap().time(Attribute::Mtime).is_err());
    }
}
