//! Keys of keyed manifests: read from files, never from arguments.

use std::path::Path;

use crate::error::Failure;
use crate::manifest::Hashing;
use crate::system::show;

/// The hashing of a manifest: with the key in `file`, or plain.
///
/// # Errors
/// When the file cannot be read or holds no key.
pub(super) fn hashing(file: Option<&Path>) -> Result<Hashing, Failure> {
    let Some(file) = file else { return Ok(Hashing::plain()) };
    let shown = show::path(file);
    let bytes = std::fs::read(file)
        .map_err(|error| Failure::failed(format!("could not read the key file {shown}"), error))?;
    match key(&bytes) {
        Some(key) => Ok(Hashing::keyed(&key)),
        None => Err(Failure::usage(format!("{shown} holds no key"))
            .hint("a key is 32 bytes, or 64 hexadecimal digits; make one with `openssl rand -hex 32`")),
    }
}

fn key(bytes: &[u8]) -> Option<[u8; 32]> {
    if let Ok(key) = bytes.try_into() {
        return Some(key);
    }
    let text = bytes.trim_ascii();
    blake3::Hash::from_hex(text).ok().map(|hash| *hash.as_bytes())
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_are_bytes_or_digits() {
        assert_eq!(super::key(&[7; 32]), Some([7; 32]));
        assert_eq!(super::key(format!("{}\n", "07".repeat(32)).as_bytes()), Some([7; 32]));
        for bad in [&b""[..], b"short", &[b'g'; 64], &[7; 33]] {
            assert_eq!(super::key(bad), None);
        }
    }
}
