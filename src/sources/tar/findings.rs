//! What is wrong with an archive, as findings.

use crate::manifest::Class;
use crate::manifest::verdict::Difference;

/// Findings that are kept; more are counted in a remark. One archive may hold millions of them.
const MOST_FINDINGS: usize = 10_000;

/// What is wrong, in the order of the archive.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) kept: Vec<Difference>,
    pub(super) dropped: u64,
}

impl Findings {
    pub(super) fn hostile(&mut self, path: Vec<u8>, what: String) {
        self.add(Class::Hostile, path, "an honest archive", what);
    }

    pub(super) fn damaged(&mut self, difference: Difference) {
        self.keep(difference);
    }

    /// Those of another list, behind these.
    pub(super) fn extend(&mut self, more: Self) {
        self.dropped += more.dropped;
        more.kept.into_iter().for_each(|difference| self.keep(difference));
    }

    pub(super) fn unknown(&mut self, path: Vec<u8>, what: String) {
        self.add(Class::NotChecked, path, "content", what);
    }

    fn add(&mut self, class: Class, path: Vec<u8>, expected: &str, found: String) {
        self.keep(Difference { class, path, expected: expected.to_owned(), found });
    }

    fn keep(&mut self, difference: Difference) {
        if self.kept.len() >= MOST_FINDINGS {
            self.dropped += 1;
        } else {
            self.kept.push(difference);
        }
    }

    /// How many there are, kept or not.
    pub(super) fn count(&self) -> u64 {
        self.kept.len() as u64 + self.dropped
    }

    /// Whether all that is known is that no header was found.
    pub(super) fn nothing_of_an_archive(&self) -> bool {
        self.kept.iter().all(|finding| finding.path.is_empty())
    }
}

/// An archive that is not whole.
pub(super) fn damage(path: Vec<u8>, found: String) -> Difference {
    Difference { class: Class::Broken, path, expected: "a whole archive".to_owned(), found }
}
