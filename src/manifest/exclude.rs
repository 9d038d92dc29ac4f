//! Patterns that leave parts of a tree out.
//!
//! A pattern is a path relative to the tree; a leading or trailing slash means nothing. What it matches is left out with
//! all that lies below. `?` is any byte but the slash, `*` any run of bytes without a slash, `**` any run of bytes.
//! `**/name` matches `name` at any depth, the top included. There is no escape: a name that holds `*` or `?` is
//! matched by `?`.
//!
//! ```text
//! var/cache        var/cache and everything below
//! home/*/.cache    the caches of all users
//! **/*.sock        every name that ends in .sock
//! ```

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Patterns, ready to match.
#[derive(Debug, Clone, Default)]
pub struct Excludes {
    written: Vec<Vec<u8>>,
    patterns: Vec<Vec<Token>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Byte(u8),
    One,
    Run,
    DeepRun,
}

/// A pattern that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("exclude pattern {:?} {what}", crate::system::show::bytes(.pattern))]
pub struct InvalidPattern {
    pattern: Vec<u8>,
    what: &'static str,
}

impl Excludes {
    /// Parses patterns.
    ///
    /// # Errors
    /// Names the first that is empty, has `.`, `..`, an empty component or NUL, or three stars in a row.
    pub fn parse<P: AsRef<[u8]>>(written: &[P]) -> Result<Self, InvalidPattern> {
        let mut excludes = Self::default();
        for pattern in written {
            let pattern = trimmed(pattern.as_ref());
            if let Some(what) = mistake(pattern) {
                return Err(InvalidPattern { pattern: pattern.to_vec(), what });
            }
            for pattern in variants(pattern) {
                excludes.patterns.push(tokens(pattern));
            }
            excludes.written.push(pattern.to_vec());
        }
        Ok(excludes)
    }

    /// The patterns as they were written, without outer slashes.
    #[must_use]
    pub fn written(&self) -> &[Vec<u8>] {
        &self.written
    }

    /// Whether this path itself is matched. A walk asks from the top down and does not enter what is.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| matches(pattern, path))
    }

    /// Whether this path or a directory above it is matched.
    #[must_use]
    pub fn covers(&self, path: &[u8]) -> bool {
        self.matches(path)
            || path.iter().enumerate().any(|(at, &byte)| byte == b'/' && self.matches(&path[..at]))
    }

    /// The same rules for rsync, whose wildcards agree with ours except that it also knows `[` and the backslash.
    #[must_use]
    pub fn rsync_arguments(&self) -> Vec<OsString> {
        let patterns = self.written.iter().flat_map(|pattern| variants(pattern));
        patterns
            .map(|pattern| {
                let wild = pattern.iter().any(|byte| b"*?[".contains(byte));
                let mut argument = b"--exclude=/".to_vec();
                for &byte in pattern {
                    // rsync takes the backslash as an escape only in patterns with a wildcard.
                    if wild && (byte == b'[' || byte == b'\\') {
                        argument.push(b'\\');
                    }
                    argument.push(byte);
                }
                OsString::from_vec(argument)
            })
            .collect()
    }
}

fn trimmed(mut pattern: &[u8]) -> &[u8] {
    while let [b'/', rest @ ..] = pattern {
        pattern = rest;
    }
    while let [rest @ .., b'/'] = pattern {
        pattern = rest;
    }
    pattern
}

fn mistake(pattern: &[u8]) -> Option<&'static str> {
    if pattern.is_empty() {
        return Some("is empty: it would leave everything out");
    }
    if pattern.contains(&0) {
        return Some("holds a NUL");
    }
    if pattern.windows(3).any(|three| three == b"***") {
        return Some("has three stars in a row");
    }
    let odd = pattern.split(|&byte| byte == b'/').any(|part| matches!(part, b"" | b"." | b".."));
    odd.then_some("has an empty component, '.' or '..'")
}

/// `**/x` also means `x` at the top.
fn variants(pattern: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::once(pattern).chain(pattern.strip_prefix(b"**/"))
}

fn tokens(pattern: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(pattern.len());
    for &byte in pattern {
        match (byte, tokens.last()) {
            (b'*', Some(Token::Run)) => {
                tokens.pop();
                tokens.push(Token::DeepRun);
            }
            (b'*', _) => tokens.push(Token::Run),
            (b'?', _) => tokens.push(Token::One),
            _ => tokens.push(Token::Byte(byte)),
        }
    }
    tokens
}

/// Follows all readings of the pattern at once, so that no pattern takes more than its length times the path's.
fn matches(pattern: &[Token], path: &[u8]) -> bool {
    let mut at = vec![false; pattern.len() + 1];
    at[0] = true;
    skip_empty_runs(pattern, &mut at);
    for &byte in path {
        let mut next = vec![false; at.len()];
        for (place, token) in pattern.iter().enumerate().filter(|&(place, _)| at[place]) {
            match token {
                Token::Byte(wanted) => next[place + 1] |= *wanted == byte,
                Token::One => next[place + 1] |= byte != b'/',
                Token::Run => next[place] |= byte != b'/',
                Token::DeepRun => next[place] = true,
            }
        }
        at = next;
        skip_empty_runs(pattern, &mut at);
    }
    at[pattern.len()]
}

fn skip_empty_runs(pattern: &[Token], at: &mut [bool]) {
    for (place, token) in pattern.iter().enumerate() {
        if at[place] && matches!(token, Token::Run | Token::DeepRun) {
            at[place + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_the_page_says() {
        let table: [(&str, &str, bool); 16] = [
            ("var/cache", "var/cache", true),
            ("/var/cache/", "var/cache/apt/x", true),
            ("var/cache", "var/cache2", false),
            ("cache", "var/cache", false),
            ("home/*/.cache", "home/jo/.cache/x", true),
            ("home/*/.cache", "home/jo/x/.cache", false),
            ("**/*.sock", "a/b/c.sock", true),
            ("**/*.sock", "c.sock", true),
            ("**/*.sock", "c.sock2", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("a/**/c", "a/x/y/c", true),
            ("a/**/c", "a/c", false),
            ("a**", "ab/c", true),
            ("[ab]", "a", false),
            ("*", "anything/below", true),
        ];
        for (pattern, path, wanted) in table {
            let excludes = Excludes::parse(&[pattern]).unwrap();
            assert_eq!(excludes.covers(path.as_bytes()), wanted, "{pattern} on {path}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for pattern in ["", "/", "a//b", "../x", "a/./b", "a***"] {
            assert!(Excludes::parse(&[pattern]).is_err(), "{pattern}");
        }
    }

    #[test]
    fn rsync_gets_the_same_rules() {
        let excludes = Excludes::parse(&["**/x*[", "plain\\dir"]).unwrap();
        assert_eq!(
            excludes.rsync_arguments(),
            ["--exclude=/**/x*\\[", "--exclude=/x*\\[", "--exclude=/plain\\dir"]
        );
    }
}
