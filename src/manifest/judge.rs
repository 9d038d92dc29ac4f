//! A manifest on disk against whatever was found.

use std::path::Path;

use super::compare::{Rules, compare};
use super::facts::Found;
use super::format::{FormatError, open_file_with};
use super::hashing::Hashing;
use super::sorter::SortError;
use super::verdict::{Class, Difference, Report};

/// Compares all of a manifest with what was found, in order, and adds the differences to the report. That nothing was checked at
/// all is a finding too.
///
/// # Errors
/// When the manifest is damaged, or what was found cannot be read; the report must then not be used.
pub fn judge(
    manifest: &Path,
    hashing: &Hashing,
    found: impl IntoIterator<Item = Result<Found, SortError>>,
    rules: &Rules<'_>,
    report: &mut Report,
) -> Result<(), FormatError> {
    let mut reader = open_file_with(manifest, hashing)?;
    let found = found.into_iter().map(|found| found.map_err(FormatError::from));
    compare(&mut reader, found, rules, report)?;
    report.manifest = reader.summary();
    if report.entries == 0 {
        report.add(Difference {
            class: Class::NotChecked,
            path: Vec::new(),
            expected: "something to check".to_owned(),
            found: "nothing was checked".to_owned(),
        });
    }
    Ok(())
}
