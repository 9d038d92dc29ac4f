//! Room on filesystems that somebody else needs too.

use std::io;
use std::path::{Path, PathBuf};

/// How much must stay free, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    places: Vec<PathBuf>,
    least: u64,
}

impl Room {
    /// So many bytes on the filesystem of each of these places.
    #[must_use]
    pub fn new(places: Vec<PathBuf>, least: u64) -> Self {
        Self { places, least }
    }

    /// In bytes.
    #[must_use]
    pub fn least(&self) -> u64 {
        self.least
    }

    /// A place by its number, as [`Room::tight`] gives it.
    #[must_use]
    pub fn place(&self, number: usize) -> Option<&Path> {
        self.places.get(number).map(PathBuf::as_path)
    }

    /// The number of the first place with less than that.
    ///
    /// # Errors
    /// When it cannot be found out.
    pub fn tight(&self) -> io::Result<Option<usize>> {
        for (number, place) in self.places.iter().enumerate() {
            if free(place)? < self.least {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }
}

/// What programs without root's reserve can still write to the filesystem of a place, in bytes.
///
/// # Errors
/// When it cannot be found out.
pub fn free(place: &Path) -> io::Result<u64> {
    let facts = rustix::fs::statvfs(place)?;
    Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_with_too_little_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let places = || vec![dir.path().to_owned(), "/".into()];
        assert_eq!(Room::new(places(), 1).tight().unwrap(), None);
        let tight = Room::new(places(), u64::MAX);
        assert_eq!(tight.tight().unwrap().and_then(|number| tight.place(number)), Some(dir.path()));
        assert!(Room::new(vec![dir.path().join("none")], 1).tight().is_err());
    }
}
