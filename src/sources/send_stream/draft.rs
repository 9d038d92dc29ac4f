//! The content of the file that is being written.

use crate::manifest::entry::{ContentHash, Extent, MAX_EXTENTS};
use crate::manifest::hashing::{Content, ContentHasher, Hashing};

use super::tree::Id;

/// Holes are hashed in pieces of this size.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What is known about a file's content.
#[derive(Debug, Clone)]
pub(super) enum Bytes {
    /// Nothing was said yet.
    Empty,
    /// It is the one that is being written.
    Drafted,
    /// All of it.
    Known(Box<Known>),
    /// Only the size.
    Unknown {
        /// Bytes.
        size: u64,
        why: Why,
    },
}

/// A content that was hashed to its end. There is one for each file, so it is small.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) size: u64,
    pub(super) hash: ContentHash,
    pub(super) blocks: Box<[ContentHash]>,
    pub(super) layout: Layout,
}

/// Where the bytes of a file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layout {
    /// Everywhere.
    Full,
    /// Only here; the rest are holes.
    Sparse(Box<[Extent]>),
    /// In more places than a manifest keeps.
    Scattered,
}

/// Why a content is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// A part of it is that of another file, and the stream holds only a pointer.
    Shared,
    /// It was written other than from its beginning to its end.
    Order,
    /// The stream was made without data.
    NoData,
    /// It is compressed in a way that is not read here.
    Compression,
}

/// The file that is being written: hashed as its bytes come.
#[derive(Debug)]
pub(super) struct Draft {
    filling: Filling,
    /// The end of what came so far.
    size: u64,
    extents: Extents,
}

#[derive(Debug)]
enum Filling {
    Hashed(Box<ContentHasher>),
    /// Every part so far is the same part of this other file.
    Copied {
        source: Id,
        known: Box<Known>,
    },
    Lost(Why),
}

impl Draft {
    /// An empty file.
    pub(super) fn new(hashing: &Hashing) -> Self {
        let filling = Filling::Hashed(Box::new(ContentHasher::new(hashing)));
        Self { filling, size: 0, extents: Extents::default() }
    }

    /// The end of what came so far, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes at an offset. What was skipped since the last are zeros.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset.saturating_add(data.len() as u64);
        if offset < self.size {
            self.lose(Why::Order);
        }
        self.skip_to(offset);
        match &mut self.filling {
            Filling::Hashed(hasher) => hasher.update(data),
            Filling::Copied { .. } => self.lose(Why::Shared),
            Filling::Lost(_) => {}
        }
        self.size = self.size.max(end);
        self.extents.add(offset, data.len() as u64);
    }

    /// Bytes of another file. `source` has its number and its content, where that is known.
    pub(super) fn copy(&mut self, offset: u64, length: u64, source: Option<(Id, &Known)>, from: u64) {
        let end = offset.saturating_add(length);
        let follows = offset >= self.size && offset == from;
        match (&self.filling, source) {
            (Filling::Lost(_), _) => {}
            (Filling::Hashed(_), Some((source, known))) if follows && self.extents.is_empty() => {
                self.filling = Filling::Copied { source, known: Box::new(known.clone()) };
            }
            (Filling::Copied { source, .. }, Some((same, _))) if follows && *source == same => {}
            _ => self.lose(Why::Shared),
        }
        self.size = self.size.max(end);
        self.extents.add(offset, length);
    }

    /// Sets the size: a hole up to it, or an end before it.
    pub(super) fn truncate(&mut self, size: u64) {
        if size < self.size {
            self.lose(Why::Order);
        }
        self.skip_to(size);
        self.size = size;
    }

    /// From here on only the size is known.
    pub(super) fn lose(&mut self, why: Why) {
        if !matches!(self.filling, Filling::Lost(_)) {
            self.filling = Filling::Lost(why);
        }
    }

    /// What the file came to hold.
    pub(super) fn seal(self) -> Bytes {
        let size = self.size;
        match self.filling {
            Filling::Hashed(hasher) => {
                let Content { size, hash, blocks } = hasher.finish();
                let layout = self.extents.layout(size);
                Bytes::Known(Box::new(Known { size, hash, blocks: blocks.into(), layout }))
            }
            // The same parts of the same file, and zeros between them in both: the same bytes.
            Filling::Copied { known, .. }
                if known.size == size && known.layout == self.extents.layout(size) =>
            {
                match known.layout {
                    Layout::Scattered => Bytes::Unknown { size, why: Why::Shared },
                    Layout::Full | Layout::Sparse(_) => Bytes::Known(known),
                }
            }
            Filling::Copied { .. } => Bytes::Unknown { size, why: Why::Shared },
            Filling::Lost(why) => Bytes::Unknown { size, why },
        }
    }

    fn skip_to(&mut self, offset: u64) {
        if let Filling::Hashed(hasher) = &mut self.filling {
            let mut left = offset.saturating_sub(self.size);
            while left > 0 {
                let piece = usize::try_from(left).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
                hasher.update(&ZEROS[..piece]);
                left -= piece as u64;
            }
        }
        self.size = self.size.max(offset);
    }
}

/// Where bytes came, in order and merged.
#[derive(Debug, Default)]
struct Extents {
    list: Vec<Extent>,
    /// There are more than a manifest keeps.
    overflowed: bool,
}

impl Extents {
    /// What they amount to in a file of this size.
    fn layout(&self, size: u64) -> Layout {
        match self.list[..] {
            _ if self.overflowed => Layout::Scattered,
            [] if size == 0 => Layout::Full,
            [Extent { offset: 0, length }] if length == size => Layout::Full,
            _ => Layout::Sparse(self.list.clone().into()),
        }
    }

    fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn add(&mut self, offset: u64, length: u64) {
        if length == 0 {
            return;
        }
        if let Some(last) = self.list.last_mut()
            && last.offset.saturating_add(last.length) == offset
        {
            last.length = last.length.saturating_add(length);
        } else if self.list.len() == MAX_EXTENTS {
            self.overflowed = true;
        } else {
            self.list.push(Extent { offset, length });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(bytes: Bytes) -> Known {
        match bytes {
            Bytes::Known(known) => *known,
            other => panic!("{other:?}"),
        }
    }

    fn has(known: &Known, bytes: &[u8]) -> bool {
        let content = Content::of(bytes);
        (known.size, known.hash, &known.blocks[..]) == (content.size, content.hash, &content.blocks[..])
    }

    fn draft() -> Draft {
        Draft::new(&Hashing::plain())
    }

    fn sparse() -> Known {
        let mut draft = draft();
        draft.write(0, b"ab");
        draft.write(2, b"cd");
        draft.write(100_000, b"ef");
        draft.truncate(200_000);
        known(draft.seal())
    }

    #[test]
    fn holes_are_zeros() {
        let mut whole = vec![0; 200_000];
        whole[..4].copy_from_slice(b"abcd");
        whole[100_000..100_002].copy_from_slice(b"ef");
        let known = sparse();
        assert!(has(&known, &whole));
        let wanted = [Extent { offset: 0, length: 4 }, Extent { offset: 100_000, length: 2 }];
        assert_eq!(known.layout, Layout::Sparse(wanted.into()));
    }

    #[test]
    fn a_file_without_holes_is_not_sparse_and_one_without_data_is() {
        assert_eq!(known(draft().seal()).layout, Layout::Full);
        let mut plain = draft();
        plain.write(0, b"abc");
        plain.truncate(3);
        assert_eq!(known(plain.seal()).layout, Layout::Full);
        let mut hole = draft();
        hole.truncate(10);
        let hole = known(hole.seal());
        assert_eq!(hole.layout, Layout::Sparse(Box::default()));
        assert!(has(&hole, &[0; 10]));
    }

    #[test]
    fn a_clone_of_all_of_a_file_has_its_content() {
        let source = sparse();
        let mut copy = draft();
        copy.copy(0, 4, Some((7, &source)), 0);
        copy.copy(100_000, 2, Some((7, &source)), 100_000);
        copy.truncate(200_000);
        assert_eq!(known(copy.seal()).hash, source.hash);
    }

    #[test]
    fn any_other_clone_is_not_known() {
        type Change = fn(&mut Draft, &Known);
        let changes: [Change; 7] = [
            |draft, source| draft.copy(0, 4, Some((7, source)), 0),
            |draft, source| draft.copy(0, 200_000, Some((7, source)), 0),
            |draft, source| draft.copy(4, 4, Some((7, source)), 0),
            |draft, _| draft.copy(0, 4, None, 0),
            |draft, source| {
                draft.copy(0, 4, Some((7, source)), 0);
                draft.copy(100_000, 2, Some((8, source)), 100_000);
                draft.truncate(200_000);
            },
            |draft, source| {
                draft.copy(0, 4, Some((7, source)), 0);
                draft.write(100_000, b"ef");
                draft.truncate(200_000);
            },
            |draft, source| {
                draft.write(0, b"abcd");
                draft.copy(100_000, 2, Some((7, source)), 100_000);
                draft.truncate(200_000);
            },
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut draft = draft();
            change(&mut draft, &sparse());
            assert!(matches!(draft.seal(), Bytes::Unknown { why: Why::Shared, .. }), "{number}");
        }
    }

    #[test]
    fn what_is_not_written_in_order_is_not_known_but_its_size_is() {
        let mut again = draft();
        again.write(0, b"abc");
        again.write(1, b"x");
        assert!(matches!(again.seal(), Bytes::Unknown { size: 3, why: Why::Order }));
        let mut cut = draft();
        cut.write(0, b"abc");
        cut.truncate(1);
        assert!(matches!(cut.seal(), Bytes::Unknown { size: 1, why: Why::Order }));
    }
}
