//! The 16 bytes by which btrfs knows a filesystem or a subvolume, whatever it is called at the moment.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A UUID; written as `01234567-89ab-cdef-0123-456789abcdef`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// From its bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// From bytes of which all zero means "none", as the kernel writes it.
    #[must_use]
    pub fn from_nullable(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a UUID.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a UUID (32 hexadecimal digits in five groups)")]
pub struct NotUuid(String);

impl FromStr for Uuid {
    type Err = NotUuid;

    fn from_str(text: &str) -> Result<Self, NotUuid> {
        parse(text).map(Self).ok_or_else(|| NotUuid(text.to_owned()))
    }
}

impl TryFrom<String> for Uuid {
    type Error = NotUuid;

    fn try_from(text: String) -> Result<Self, NotUuid> {
        text.parse()
    }
}

impl From<Uuid> for String {
    fn from(uuid: Uuid) -> Self {
        uuid.to_string()
    }
}

fn parse(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<&str> = text.split('-').collect();
    if groups.iter().map(|group| group.len()).ne([8, 4, 4, 4, 12]) {
        return None;
    }
    let digits = groups.concat();
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let number = u128::from_str_radix(&digits, 16).ok()?;
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_there_and_back() {
        let text = "0c8f2f4e-55d9-4d0c-9d3f-00a1b2c3d4e5";
        let uuid: Uuid = text.parse().unwrap();
        assert_eq!(uuid.to_string(), text);
        assert_eq!(serde_json::from_str::<Uuid>(&serde_json::to_string(&uuid).unwrap()).unwrap(), uuid);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "0c8f2f4e55d94d0c9d3f00a1b2c3d4e5",
            "0c8f2f4e-55d9-4d0c-9d3f-00a1b2c3d4eg",
            "+c8f2f4e-55d9-4d0c-9d3f-00a1b2c3d4e5",
        ] {
            assert!(text.parse::<Uuid>().is_err(), "{text}");
        }
    }
}
