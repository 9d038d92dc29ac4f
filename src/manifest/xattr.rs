//! Extended attributes as a manifest keeps them: small values whole, large ones as a hash.

use super::acl::Acl;
use super::facts::Facts;
use crate::system::show;

/// The longest value that is kept whole, in bytes. ACLs, capabilities and labels are far below it.
pub const MAX_WHOLE: usize = 4096;

/// The longest value that Linux knows, in bytes (`XATTR_SIZE_MAX`, linux/limits.h).
pub const MAX_VALUE: usize = 65_536;

/// The longest name that Linux knows, in bytes (`XATTR_NAME_MAX`, linux/limits.h).
pub const MAX_NAME: usize = 255;

/// The most attributes of one entry. Linux lists at most 65 536 bytes of names.
pub const MAX_COUNT: usize = 1024;

/// All values of one entry that are kept whole, together, in bytes: bounds the size of an entry.
pub const MAX_WHOLE_TOTAL: usize = 65_536;

/// The name under which the kernel shows the ACL of a file.
pub const ACL_ACCESS: &[u8] = b"system.posix_acl_access";

/// The name under which the kernel shows the ACL that new files in a directory get.
pub const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// The name of a program's capabilities.
pub const CAPABILITY: &[u8] = b"security.capability";

const VALUE_CONTEXT: &str = "safe-upgrade 2026 manifest v1 extended attribute";

/// One extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// With its namespace, as `user.comment`.
    pub name: Vec<u8>,
    /// What it holds.
    pub value: XattrValue,
}

/// The value of an extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XattrValue {
    /// Up to [`MAX_WHOLE`] bytes.
    Bytes(Vec<u8>),
    /// More than that.
    Hashed {
        /// Bytes.
        size: u32,
        /// BLAKE3, with a context of its own.
        hash: [u8; 32],
    },
}

impl Xattr {
    /// An attribute with this value.
    pub fn new(name: impl Into<Vec<u8>>, value: &[u8]) -> Self {
        let value = match u32::try_from(value.len()) {
            Ok(size) if value.len() > MAX_WHOLE => {
                XattrValue::Hashed { size, hash: blake3::derive_key(VALUE_CONTEXT, value) }
            }
            _ => XattrValue::Bytes(value.to_vec()),
        };
        Self { name: name.into(), value }
    }

    /// What a copy must be able to hold to hold this one.
    pub(super) fn needs(&self) -> Facts {
        if self.is_acl() {
            Facts::ACL
        } else if self.name.starts_with(b"trusted.") {
            Facts::TRUSTED_XATTRS
        } else {
            Facts::XATTRS
        }
    }

    /// Whether it is a POSIX ACL.
    #[must_use]
    pub fn is_acl(&self) -> bool {
        self.name == ACL_ACCESS || self.name == ACL_DEFAULT
    }
}

/// Those that are not among the others.
pub(super) fn only_in(these: &[Xattr], those: &[Xattr]) -> Vec<Xattr> {
    these.iter().filter(|xattr| !those.contains(xattr)).cloned().collect()
}

/// How many attributes are spelled out in one line.
const SHOWN_XATTRS: usize = 3;

/// How many bytes of an attribute's value are shown.
const SHOWN_VALUE: usize = 48;

/// A few of them in words, safe to show.
pub(super) fn text(xattrs: &[Xattr]) -> String {
    if xattrs.is_empty() {
        return "nothing there".to_owned();
    }
    let one = |xattr: &Xattr| {
        let value = match &xattr.value {
            XattrValue::Hashed { size, .. } => format!("{size} bytes"),
            XattrValue::Bytes(raw) if xattr.is_acl() => {
                Acl::from_xattr(raw).map_or_else(|_| show::bytes(raw), |acl| acl.to_text())
            }
            XattrValue::Bytes(raw) => show::bytes(&raw[..raw.len().min(SHOWN_VALUE)]),
        };
        format!("{}={value}", show::bytes(&xattr.name))
    };
    let mut text = xattrs.iter().take(SHOWN_XATTRS).map(one).collect::<Vec<_>>().join(" ");
    if xattrs.len() > SHOWN_XATTRS {
        text.push_str(&format!(" and {} more", xattrs.len() - SHOWN_XATTRS));
    }
    text
}

/// What is wrong with the attributes of an entry.
pub(super) fn bad_list(xattrs: &[Xattr]) -> Option<&'static str> {
    if xattrs.len() > MAX_COUNT {
        return Some("there are too many extended attributes");
    }
    if xattrs.windows(2).any(|pair| pair[0].name >= pair[1].name) {
        return Some("the extended attributes are not sorted by name");
    }
    let mut whole = 0;
    for xattr in xattrs {
        if xattr.name.is_empty() || xattr.name.len() > MAX_NAME || xattr.name.contains(&0) {
            return Some("an extended attribute has an impossible name");
        }
        match &xattr.value {
            XattrValue::Bytes(value) if value.len() > MAX_WHOLE => {
                return Some("a large extended attribute is not hashed");
            }
            XattrValue::Bytes(value) => whole += value.len(),
            XattrValue::Hashed { size, .. } if *size as usize <= MAX_WHOLE || *size as usize > MAX_VALUE => {
                return Some("a hashed extended attribute has an impossible size");
            }
            XattrValue::Hashed { .. } => {}
        }
    }
    (whole > MAX_WHOLE_TOTAL).then_some("the extended attributes are too large together")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_values_are_hashed_and_lists_are_sorted_and_unique() {
        let small = Xattr::new("user.a", &[7; MAX_WHOLE]);
        let large = Xattr::new("user.b", &[7; MAX_WHOLE + 1]);
        assert!(matches!(small.value, XattrValue::Bytes(_)));
        assert!(matches!(large.value, XattrValue::Hashed { size: 4097, .. }));
        assert_eq!(bad_list(&[small.clone(), large.clone()]), None);
        assert!(bad_list(&[large.clone(), small.clone()]).is_some());
        assert!(bad_list(&[small.clone(), small]).is_some());
        assert!(bad_list(&[Xattr::new("", b"")]).is_some());
        let whole = XattrValue::Bytes(vec![0; MAX_WHOLE + 1]);
        assert!(bad_list(&[Xattr { value: whole, ..large }]).is_some());
    }
}
