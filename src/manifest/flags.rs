//! The flags of `chattr` that are kept: those that a person sets, not those that filesystems set for themselves.

/// Bits of `FS_IOC_GETFLAGS` (linux/fs.h) with the letters of lsattr(1).
const LETTERS: [(u32, char); 13] = [
    (0x0000_0001, 's'),
    (0x0000_0002, 'u'),
    (0x0000_0004, 'c'),
    (0x0000_0008, 'S'),
    (0x0000_0010, 'i'),
    (0x0000_0020, 'a'),
    (0x0000_0040, 'd'),
    (0x0000_0080, 'A'),
    (0x0000_4000, 'j'),
    (0x0001_0000, 'D'),
    (0x0002_0000, 'T'),
    (0x0080_0000, 'C'),
    (0x2000_0000, 'P'),
];

/// All bits that are kept.
pub const KEPT: u32 = {
    let (mut kept, mut at) = (0, 0);
    while at < LETTERS.len() {
        kept |= LETTERS[at].0;
        at += 1;
    }
    kept
};

/// As lsattr writes them, without the places that are not set; `-` when none is.
#[must_use]
pub fn text(flags: u32) -> String {
    let letters: String =
        LETTERS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| letter).collect();
    if letters.is_empty() { "-".to_owned() } else { letters }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_kept_flag_has_its_letter() {
        assert_eq!(super::text(0), "-");
        assert_eq!(super::text(0x10 | 0x0080_0000), "iC");
        assert_eq!(super::text(super::KEPT).len(), 13);
        // Extents, inline data, hashed directories: the filesystem's own.
        assert_eq!(super::KEPT & (0x0008_0000 | 0x1000_0000 | 0x1000), 0);
    }
}
