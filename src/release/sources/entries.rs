//! Apt sources one entry at a time: who is asked for what, and what the same repository would be called for the new release.

use std::path::{Path, PathBuf};

use super::{deb822, one_line};
use crate::release::hop::Hop;

/// One entry that is in use: a line of the one-line form, or a stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file that it stands in (`/etc/apt/sources.list`).
    pub file: PathBuf,
    /// Its line there, from 1; of a stanza, its first.
    pub line: usize,
    /// The whole line or stanza, ending with a newline.
    pub text: String,
    /// Where it points, as written: may hold a password, see [`shown`].
    pub uris: Vec<String>,
    /// The suites.
    pub suites: Vec<String>,
    /// The components; none for a flat repository.
    pub components: Vec<String>,
}

impl Entry {
    /// Whether it is a stanza of a `.sources` file.
    #[must_use]
    pub fn is_stanza(&self) -> bool {
        self.file.extension().is_some_and(|extension| extension == "sources")
    }

    /// Where it is written, for people.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }

    /// The same entry with the codename of the new release wherever a suite names the old one (`bookworm-pgdg` becomes
    /// `trixie-pgdg`); `None` when no suite names it.
    #[must_use]
    pub fn for_target(&self, hop: &Hop) -> Option<Self> {
        let (from, to) = (hop.from().codename, hop.to().codename);
        let suites: Vec<String> =
            self.suites.iter().map(|suite| with_token_replaced(suite, from, to)).collect();
        if suites == self.suites {
            return None;
        }
        let text = if self.is_stanza() {
            deb822::map_suite_lines(&self.text, |line| with_token_replaced(line, from, to))
        } else {
            one_line::map_suite(&self.text, |suite| with_token_replaced(suite, from, to))
        };
        Some(Self { text, suites, ..self.clone() })
    }
}

/// Finds the entries in the text of a sources file; its name says which form it has. What is switched off is none.
#[must_use]
pub fn entries(file: &Path, text: &str) -> Vec<Entry> {
    let stanzas = file.extension().is_some_and(|extension| extension == "sources");
    let found = if stanzas { deb822::entries(text) } else { one_line::entries(text) };
    found
        .into_iter()
        .map(|Parts { line, text, uris, suites, components }| Entry {
            file: file.to_owned(),
            line,
            text,
            uris,
            suites,
            components,
        })
        .collect()
}

/// What the parsers of both forms find.
pub(super) struct Parts {
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) uris: Vec<String>,
    pub(super) suites: Vec<String>,
    pub(super) components: Vec<String>,
}

/// A URI without user and password, and without the slash at its end: fit to be shown, and to be compared with what apt says.
#[must_use]
pub fn shown(uri: &str) -> String {
    let bare = match uri.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => uri.to_owned(),
    };
    bare.trim_end_matches('/').to_owned()
}

/// Replaces whole words: `bookworm` in `bookworm-pgdg`, not in `bookworms`.
fn with_token_replaced(text: &str, from: &str, to: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    for character in text.chars().chain(['\0']) {
        if character.is_ascii_alphanumeric() {
            word.push(character);
            continue;
        }
        out.push_str(if word == from { to } else { &word });
        word.clear();
        if character != '\0' {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop() -> Hop {
        Hop::between("bookworm", "trixie").unwrap()
    }

    #[test]
    fn lines_and_their_target() {
        let text = "# a comment\ndeb http://mirror.invalid/debian bookworm main # why\n\
            deb [arch=amd64 signed-by=/k.gpg] https://u:secret@repo.invalid/apt/ bookworm-pgdg main 15\n\
            deb-src http://mirror.invalid/debian bookworm main\n#deb http://off.invalid x y\n\
            deb https://flat.invalid/ ./\n";
        let found = entries(Path::new("/etc/apt/sources.list"), text);
        assert_eq!(found.iter().map(|entry| entry.line).collect::<Vec<_>>(), [2, 3, 4, 6]);
        assert_eq!(found[1].components, ["main", "15"]);
        assert_eq!(shown(&found[1].uris[0]), "https://repo.invalid/apt");
        let target = found[1].for_target(&hop()).unwrap();
        assert_eq!(target.suites, ["trixie-pgdg"]);
        assert!(target.text.ends_with("apt/ trixie-pgdg main 15\n"), "{}", target.text);
        assert_eq!(found[3].for_target(&hop()), None);
        assert_eq!(found[0].place(), "/etc/apt/sources.list:2");
    }

    #[test]
    fn stanzas_and_their_target() {
        let text = "# top\nTypes: deb\nURIs: https://a.invalid/x https://b.invalid/bookworm\nSuites: bookworm\n cloud-sdk-bookworm\n\
            Components: main\nSigned-By:\n -----BEGIN\n .\n bookworm\n\nEnabled: no\nTypes: deb\nURIs: https://off.invalid\nSuites: s\n";
        let found = entries(Path::new("/etc/apt/sources.list.d/x.sources"), text);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].line, found[0].suites.len(), found[0].uris.len()), (2, 2, 2));
        let target = found[0].for_target(&hop()).unwrap();
        assert!(target.text.contains("Suites: trixie\n cloud-sdk-trixie\n"), "{}", target.text);
        assert!(target.text.contains("b.invalid/bookworm\n") && target.text.ends_with(" bookworm\n"));
    }

    #[test]
    fn uris_for_people() {
        assert_eq!(shown("http://user@host.invalid:80/a@b/"), "http://host.invalid:80/a@b");
        assert_eq!(shown("file:/srv/repo"), "file:/srv/repo");
        assert_eq!(with_token_replaced("bookworms bookworm", "bookworm", "x"), "bookworms x");
    }
}
