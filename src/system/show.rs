//! Text from elsewhere, made safe to show: file names and tool output may carry control characters.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Escapes control characters (as `\xNN` or `\u{NNNN}`) and bytes that are not UTF-8, so that a name can neither move the
/// cursor nor forge a line.
#[must_use]
pub fn bytes(raw: &[u8]) -> String {
    let mut out = String::with_capacity(raw.len());
    for chunk in raw.utf8_chunks() {
        for c in chunk.valid().chars() {
            push(&mut out, c);
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// [`bytes`] for a path.
#[must_use]
pub fn path(path: &Path) -> String {
    bytes(path.as_os_str().as_bytes())
}

/// [`bytes`] for text; newlines too are escaped.
#[must_use]
pub fn line(text: &str) -> String {
    bytes(text.as_bytes())
}

fn push(out: &mut String, c: char) {
    // U+202A..E and U+2066..9 reorder what is shown ("Trojan Source", CVE-2021-42574).
    let reorders = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if c == '\\' {
        out.push_str("\\\\");
    } else if c.is_ascii_control() {
        let _ = write!(out, "\\x{:02x}", u32::from(c));
    } else if c.is_control() || reorders {
        let _ = write!(out, "\\u{{{:04x}}}", u32::from(c));
    } else {
        out.push(c);
    }
}

/// Several lines for a terminal: as [`line`], each ending with a newline.
#[must_use]
pub fn lines(text: &str) -> String {
    text.lines().map(|one| line(one) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_dangerous_passes() {
        assert_eq!(bytes(b"a\x1b[2Jb\n\xff\\"), "a\\x1b[2Jb\\x0a\\xff\\\\");
        assert_eq!(line("x\u{202e}y"), "x\\u{202e}y");
        assert_eq!(line("grün"), "grün");
    }
}
