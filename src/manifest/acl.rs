//! POSIX access control lists: the bytes that the kernel keeps, and the text that people and archives use.
//!
//! The raw form is that of Linux's `posix_acl_xattr.h`: version 2 as u32, then entries of tag u16, permissions u16, id u32,
//! all little-endian, in the order of tags and ids. The text is that of acl(5), one form only: entries separated by commas, ids
//! as numbers, permissions as three characters.

use std::fmt::Write;

const VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;

/// The most entries that are understood; a raw list of 64 KiB could hold 8191.
const MAX_ENTRIES: usize = 8191;

/// An access control list in its one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    entries: Vec<AclEntry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct AclEntry {
    tag: u16,
    id: u32,
    permissions: u16,
}

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// What is no access control list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an access control list: {0}")]
pub struct InvalidAcl(&'static str);

/// Whose name is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A user's.
    User,
    /// A group's.
    Group,
}

impl Acl {
    /// Reads the kernel's form.
    ///
    /// # Errors
    /// When it is of another version, cut short, or holds unknown tags or permissions.
    pub fn from_xattr(raw: &[u8]) -> Result<Self, InvalidAcl> {
        let (version, rest) = raw.split_at_checked(4).ok_or(InvalidAcl("it is cut short"))?;
        if version != VERSION.to_le_bytes() {
            return Err(InvalidAcl("it has an unknown version"));
        }
        if rest.len() % 8 != 0 || rest.len() / 8 > MAX_ENTRIES {
            return Err(InvalidAcl("it has an impossible length"));
        }
        let entries = rest
            .chunks_exact(8)
            .map(|bytes| {
                let tag = u16::from_le_bytes([bytes[0], bytes[1]]);
                let permissions = u16::from_le_bytes([bytes[2], bytes[3]]);
                let id = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
                let id = if has_id(tag) { id } else { NO_ID };
                AclEntry { tag, id, permissions }
            })
            .collect();
        Self::sorted(entries)
    }

    /// Reads the text form: entries separated by commas or line ends, long or short words, ids as numbers or names. A fourth
    /// field, as archives write it, is the number of a name in the second. Comments after `#` are left out.
    ///
    /// # Errors
    /// When an entry is not understood, or a name is not known.
    pub fn parse_text(text: &[u8], lookup: &dyn Fn(Who, &[u8]) -> Option<u32>) -> Result<Self, InvalidAcl> {
        let mut entries = Vec::new();
        for line in text.split(|byte| matches!(byte, b'\n' | b',')) {
            let line = line.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
            if line.is_empty() {
                continue;
            }
            if entries.len() == MAX_ENTRIES {
                return Err(InvalidAcl("it has too many entries"));
            }
            entries.push(entry_of_text(line, lookup)?);
        }
        Self::sorted(entries)
    }

    /// The kernel's form.
    #[must_use]
    pub fn to_xattr(&self) -> Vec<u8> {
        let mut raw = VERSION.to_le_bytes().to_vec();
        for AclEntry { tag, id, permissions } in &self.entries {
            raw.extend_from_slice(&tag.to_le_bytes());
            raw.extend_from_slice(&permissions.to_le_bytes());
            raw.extend_from_slice(&id.to_le_bytes());
        }
        raw
    }

    /// The text, in its one form.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for AclEntry { tag, id, permissions } in &self.entries {
            let word = match *tag {
                USER_OBJ | USER => "user",
                GROUP_OBJ | GROUP => "group",
                MASK => "mask",
                _ => "other",
            };
            let id = if has_id(*tag) { id.to_string() } else { String::new() };
            let bit = |bit: u16, letter: char| if permissions & bit != 0 { letter } else { '-' };
            let comma = if text.is_empty() { "" } else { "," };
            // Writing to a String does not fail.
            let _ = write!(text, "{comma}{word}:{id}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x'));
        }
        text
    }

    /// Whether it says nothing at all: archives write that for "no default list".
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether it says no more than the permission bits do: such a list is not kept by filesystems.
    #[must_use]
    pub fn is_minimal(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    fn sorted(mut entries: Vec<AclEntry>) -> Result<Self, InvalidAcl> {
        let known = |tag| matches!(tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER);
        if entries.iter().any(|entry| !known(entry.tag)) {
            return Err(InvalidAcl("it has an unknown tag"));
        }
        if entries.iter().any(|entry| entry.permissions > 7) {
            return Err(InvalidAcl("it has unknown permissions"));
        }
        entries.sort_unstable();
        if entries.windows(2).any(|pair| (pair[0].tag, pair[0].id) == (pair[1].tag, pair[1].id)) {
            return Err(InvalidAcl("it names somebody twice"));
        }
        Ok(Self { entries })
    }
}

fn has_id(tag: u16) -> bool {
    matches!(tag, USER | GROUP)
}

fn entry_of_text(line: &[u8], lookup: &dyn Fn(Who, &[u8]) -> Option<u32>) -> Result<AclEntry, InvalidAcl> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').map(<[u8]>::trim_ascii).collect();
    let (word, who, permissions, number) = match fields[..] {
        // As `other:r--` or `mask:rwx`, without the empty field.
        [word, permissions] => (word, &b""[..], permissions, None),
        [word, who, permissions] => (word, who, permissions, None),
        [word, who, permissions, number] => (word, who, permissions, Some(number)),
        _ => return Err(InvalidAcl("an entry does not have two to four fields")),
    };
    let tag = match (word, who.is_empty()) {
        (b"user" | b"u", true) => USER_OBJ,
        (b"user" | b"u", false) => USER,
        (b"group" | b"g", true) => GROUP_OBJ,
        (b"group" | b"g", false) => GROUP,
        (b"mask" | b"m", true) => MASK,
        (b"other" | b"o", true) => OTHER,
        _ => return Err(InvalidAcl("an entry begins with an unknown word")),
    };
    let id = match (has_id(tag), number.filter(|number| !number.is_empty())) {
        (false, _) => NO_ID,
        (true, Some(number)) => decimal(number).ok_or(InvalidAcl("an id is no number"))?,
        (true, None) => {
            let kind = if tag == USER { Who::User } else { Who::Group };
            decimal(who).or_else(|| lookup(kind, who)).ok_or(InvalidAcl("a name is not known"))?
        }
    };
    let mut bits = 0;
    for byte in permissions {
        bits |= match byte {
            b'r' => 4,
            b'w' => 2,
            b'x' => 1,
            b'-' => 0,
            _ => return Err(InvalidAcl("permissions are not made of r, w, x and -")),
        };
    }
    Ok(AclEntry { tag, id, permissions: bits })
}

fn decimal(text: &[u8]) -> Option<u32> {
    let plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Result<Acl, InvalidAcl> {
        Acl::parse_text(text.as_bytes(), &|who, name| (who == Who::User && name == b"www-data").then_some(33))
    }

    #[test]
    fn the_kernels_bytes_and_the_text_say_the_same() {
        // As `getfattr -e hex -n system.posix_acl_access` shows it after `setfacl -m u:1000:rw`.
        let raw = [
            2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 6, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255,
            255, 16, 0, 6, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
        ];
        let acl = Acl::from_xattr(&raw).unwrap();
        assert_eq!(acl.to_text(), "user::rw-,user:1000:rw-,group::r--,mask::rw-,other::r--");
        assert_eq!(acl.to_xattr(), raw);
        assert_eq!(parsed(&acl.to_text()).unwrap(), acl);
        assert!(!acl.is_minimal());
    }

    #[test]
    fn text_of_archives_is_understood() {
        let wanted = "user::rw-,user:33:r--,group::r--,mask::rw-,other::---";
        for text in [
            "other::---\nmask::rw-\nuser:www-data:r--\t#effective:r--\ngroup::r--\nuser::rw-\n",
            "u::rw-,u:www-data:r:33,g::r,m:rw,o:",
            "user::rw-,user:somebody:r--:33,group::r--,mask::rw-,other::---",
        ] {
            assert_eq!(parsed(text).unwrap().to_text(), wanted, "{text}");
        }
        assert!(parsed("user::rw-,group::r--,other::r--").unwrap().is_minimal());
        assert!(parsed("").unwrap().is_empty() && parsed("\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in
            ["user:nobody-here:rwx", "who::rwx", "user::rwz", "user", "user::r--,user::rw-", "a:b:c:d:e"]
        {
            assert!(parsed(text).is_err(), "{text}");
        }
        for raw in [&[][..], &[1, 0, 0, 0], &[2, 0, 0, 0, 1], &[2, 0, 0, 0, 3, 0, 6, 0, 0, 0, 0, 0]] {
            assert!(Acl::from_xattr(raw).is_err(), "{raw:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_list_or_an_error(raw in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(acl) = Acl::from_xattr(&raw) {
                prop_assert_eq!(Acl::from_xattr(&acl.to_xattr()).unwrap(), acl.clone());
                prop_assert_eq!(parsed(&acl.to_text()).unwrap(), acl);
            }
        }
    }
}
