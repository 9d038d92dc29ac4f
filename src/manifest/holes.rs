//! Holes of sparse files: advisory, because filesystems place them as they like.

use super::entry::Extent;

/// Filesystems place holes by their blocks, of up to this size in bytes; smaller differences mean nothing.
const HOLE_GRAIN: u64 = 64 << 10;

/// The first large hole of the source that holds data in the copy.
pub(super) fn filled(
    size: u64,
    expected: Option<&[Extent]>,
    found: Option<&[Extent]>,
) -> Option<(String, String)> {
    let expected = expected?;
    let all = [Extent { offset: 0, length: size }];
    let found = found.unwrap_or(&all);
    let ends = expected.iter().map(|extent| extent.offset).chain([size]);
    let begins = [0].into_iter().chain(expected.iter().map(|extent| extent.offset + extent.length));
    for (begin, end) in begins.zip(ends) {
        let (inner, outer) = (begin.next_multiple_of(HOLE_GRAIN), end / HOLE_GRAIN * HOLE_GRAIN);
        let filled = |extent: &Extent| extent.offset < outer && inner < extent.offset + extent.length;
        if inner < outer && found.iter().any(filled) {
            return Some((format!("a hole from byte {begin} to {end}"), "data in it".to_owned()));
        }
    }
    None
}
