//! The administrator's configuration file against the package's, for a person.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use similar::{ChangeTag, TextDiff};

use crate::system::show;

/// The longest text of one diff, in lines.
const LONGEST: usize = 2000;
/// The longest line that is shown, in characters.
const WIDEST: usize = 500;
/// After so long the comparison takes a coarser one.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many lines two files differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lines {
    /// Only in the package's file.
    pub added: usize,
    /// Only in the administrator's file.
    pub removed: usize,
}

/// What is different. The text may hold secrets: it goes where only root reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    /// How much.
    pub lines: Lines,
    /// As `diff -u` would say it; control characters are replaced, and what is too long is cut.
    pub text: String,
}

/// Compares two files; `None` when one of them is no text.
#[must_use]
pub fn unified(path: &Path, mine: &[u8], new: &[u8]) -> Option<Diff> {
    if mine.contains(&0) || new.contains(&0) {
        return None;
    }
    let (mine, new) = (String::from_utf8_lossy(mine), String::from_utf8_lossy(new));
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(&*mine, &*new);
    let mut lines = Lines { added: 0, removed: 0 };
    for change in diff.iter_all_changes() {
        match change.tag() {
            ChangeTag::Insert => lines.added += 1,
            ChangeTag::Delete => lines.removed += 1,
            ChangeTag::Equal => {}
        }
    }
    let shown = show::path(path);
    let header = (format!("{shown} (as it is)"), format!("{shown} (of the new package)"));
    let mut unified = diff.unified_diff();
    unified.context_radius(3).header(&header.0, &header.1);
    let whole = unified.to_string();
    let mut text = String::new();
    for line in whole.lines().take(LONGEST) {
        text.extend(line.chars().take(WIDEST).map(printable));
        text.push('\n');
    }
    let all = whole.lines().count();
    if all > LONGEST {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "... and {} more lines", all - LONGEST);
    }
    Some(Diff { lines, text })
}

/// Neither moves the cursor nor turns the order of what is read around.
fn printable(c: char) -> char {
    match c {
        '\t' => c,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '?',
        c if c.is_control() => '?',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_and_counted() {
        let diff = unified(Path::new("/etc/x"), b"a\nb\nc\x1b[2J\n", b"a\nB\nnew\nc\x1b[2J\n").unwrap();
        assert_eq!(diff.lines, Lines { added: 2, removed: 1 });
        assert!(diff.text.contains("\n-b\n+B\n+new\n c?[2J\n"), "{}", diff.text);
        assert!(diff.text.starts_with("--- /etc/x (as it is)\n+++ /etc/x (of the new package)\n"));
        assert!(unified(Path::new("/x"), b"a\0", b"a").is_none());
    }

    #[test]
    fn it_has_an_end() {
        let long = "x\n".repeat(10 * LONGEST);
        let diff = unified(Path::new("/x"), b"", long.as_bytes()).unwrap();
        assert_eq!(diff.text.lines().count(), LONGEST + 1);
        assert_eq!(diff.lines.added, 10 * LONGEST);
    }
}
