//! How everything in a manifest is hashed: plain or with a key, and large files also block by block.
//!
//! BLAKE3 is a tree, so the values of its subtrees come for free while a file is hashed. A file larger than one block keeps
//! them: they say where in the file damage is, and let several threads hash one file. The content hash is always the plain
//! BLAKE3 of the whole, whatever the blocks.

use std::fmt;
use std::sync::Arc;

use blake3::Hasher;
use blake3::hazmat::{self, HasherExt, Mode};

use super::entry::ContentHash;

/// The smallest block, in bytes; a power of two, so that every block is a subtree.
pub const MIN_BLOCK: u64 = 1 << 20;

/// The most blocks of one file. A file that would have more has blocks of twice the size, and so on.
pub const MAX_BLOCKS: usize = 4096;

/// What a hash is of; each has its own domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Domain {
    Frame,
    Entry,
    Directory,
    Links,
    Root,
    Key,
}

const CONTEXTS: [&str; 6] = [
    "safe-upgrade 2026 manifest v1 frame",
    "safe-upgrade 2026 manifest v1 entry",
    "safe-upgrade 2026 manifest v1 directory",
    "safe-upgrade 2026 manifest v1 hard links",
    "safe-upgrade 2026 manifest v1 root",
    "safe-upgrade 2026 manifest v1 key check",
];
const CONTENT_CONTEXT: &str = "safe-upgrade 2026 manifest v1 keyed content";

/// Plain or keyed. Who does not have the key can neither make a manifest that passes nor guess at small secrets by their hashes.
#[derive(Clone)]
pub struct Hashing {
    domains: Arc<[[u8; 32]; CONTEXTS.len()]>,
    content: Option<[u8; 32]>,
}

impl Hashing {
    /// Without a key: content hashes are those of b3sum.
    #[must_use]
    pub fn plain() -> Self {
        Self { domains: Arc::new(CONTEXTS.map(hazmat::hash_derive_key_context)), content: None }
    }

    /// With a key; every domain has a key of its own, derived from it.
    #[must_use]
    pub fn keyed(key: &[u8; 32]) -> Self {
        let domains = Arc::new(CONTEXTS.map(|context| blake3::derive_key(context, key)));
        Self { domains, content: Some(blake3::derive_key(CONTENT_CONTEXT, key)) }
    }

    /// Whether there is a key.
    #[must_use]
    pub fn is_keyed(&self) -> bool {
        self.content.is_some()
    }

    /// Tells keys apart without telling them: what a keyed manifest's header holds.
    #[must_use]
    pub(super) fn key_check(&self) -> [u8; 32] {
        *self.hasher(Domain::Key).finalize().as_bytes()
    }

    pub(super) fn hasher(&self, domain: Domain) -> Hasher {
        let key = &self.domains[domain as usize];
        if self.is_keyed() { Hasher::new_keyed(key) } else { Hasher::new_from_context_key(key) }
    }

    fn content_hasher(&self) -> Hasher {
        self.content.as_ref().map_or_else(Hasher::new, Hasher::new_keyed)
    }

    fn content_mode(&self) -> Mode<'_> {
        self.content.as_ref().map_or(Mode::Hash, Mode::KeyedHash)
    }

    /// The hash of a whole file from the values of its blocks.
    pub(crate) fn join(&self, size: u64, blocks: &[ContentHash]) -> Option<ContentHash> {
        let block = block_size(size);
        if size <= block || blocks.len() as u64 != size.div_ceil(block) {
            return None;
        }
        let left = hazmat::left_subtree_len(size);
        let (l, r) = blocks.split_at((left / block) as usize);
        let (l, r) = (self.subtree(left, block, l), self.subtree(size - left, block, r));
        Some(*hazmat::merge_subtrees_root(&l, &r, self.content_mode()).as_bytes())
    }

    /// The value of a subtree of `size` bytes; `blocks` are all of its blocks.
    fn subtree(&self, size: u64, block: u64, blocks: &[ContentHash]) -> ContentHash {
        if size <= block {
            return blocks[0];
        }
        let left = hazmat::left_subtree_len(size);
        let (l, r) = blocks.split_at((left / block) as usize);
        let (l, r) = (self.subtree(left, block, l), self.subtree(size - left, block, r));
        hazmat::merge_subtrees_non_root(&l, &r, self.content_mode())
    }

    /// The value of one block that begins at `offset` and is not the whole file. `bytes` is not empty, and not longer than
    /// the block size of the file.
    pub(crate) fn block(&self, offset: u64) -> BlockHasher {
        let mut hasher = self.content_hasher();
        hasher.set_input_offset(offset);
        BlockHasher(hasher)
    }
}

impl fmt::Debug for Hashing {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_keyed() { "Hashing(keyed)" } else { "Hashing(plain)" })
    }
}

impl Default for Hashing {
    fn default() -> Self {
        Self::plain()
    }
}

/// The block size of a file, in bytes: the smallest power of two from [`MIN_BLOCK`] on that makes at most [`MAX_BLOCKS`].
#[must_use]
pub fn block_size(size: u64) -> u64 {
    let mut block = MIN_BLOCK;
    while size.div_ceil(block) > MAX_BLOCKS as u64 {
        block *= 2;
    }
    block
}

/// How many block values a file keeps: none when it is one block.
#[must_use]
pub fn block_count(size: u64) -> usize {
    let block = block_size(size);
    // At most MAX_BLOCKS.
    if size <= block { 0 } else { size.div_ceil(block) as usize }
}

/// What is wrong with the number of blocks of a file.
pub(super) fn bad_blocks(
    size: u64,
    content: Option<&ContentHash>,
    blocks: &[ContentHash],
) -> Option<&'static str> {
    let wanted = if content.is_some() { block_count(size) } else { 0 };
    (blocks.len() != wanted).then_some("the number of block hashes does not fit the file's size")
}

/// In words, which blocks of a file differ; `None` when the blocks are not known on both sides.
#[must_use]
pub fn where_differing(size: u64, expected: &[ContentHash], found: &[ContentHash]) -> Option<String> {
    if expected.is_empty() || expected.len() != found.len() {
        return None;
    }
    let block = block_size(size);
    let differs = |(l, r): (&ContentHash, &ContentHash)| l != r;
    let first = expected.iter().zip(found).position(differs)? as u64;
    let last = expected.iter().zip(found).rposition(differs)? as u64;
    let count = expected.iter().zip(found).filter(|pair| differs(*pair)).count();
    let (begin, end) = (first * block, ((last + 1) * block).min(size));
    Some(format!("bytes {begin} to {end}: {count} of {} blocks differ", expected.len()))
}

/// A hash as people see it.
pub(crate) fn hex(hash: &ContentHash) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}

/// One block being hashed.
pub(crate) struct BlockHasher(Hasher);

impl BlockHasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The value; at least one byte was hashed.
    pub(crate) fn finish(&self) -> ContentHash {
        self.0.finalize_non_root()
    }
}

/// A file's content, hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of all of them.
    pub hash: ContentHash,
    /// Values of the blocks; empty when there is only one.
    pub blocks: Vec<ContentHash>,
}

impl Content {
    /// Of these bytes, without a key.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = ContentHasher::new(&Hashing::plain());
        hasher.update(bytes);
        hasher.finish()
    }
}

/// Hashes a file as its bytes come, whatever its size turns out to be.
#[derive(Debug)]
pub struct ContentHasher {
    hashing: Hashing,
    /// Of the block that is being filled.
    hasher: Hasher,
    filled: u64,
    block: u64,
    blocks: Vec<ContentHash>,
}

impl ContentHasher {
    /// Begins a file.
    #[must_use]
    pub fn new(hashing: &Hashing) -> Self {
        let hasher = hashing.content_hasher();
        Self { hashing: hashing.clone(), hasher, filled: 0, block: MIN_BLOCK, blocks: Vec::new() }
    }

    /// The next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == self.block {
                self.next_block();
            }
            let room = usize::try_from(self.block - self.filled).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.hasher.update(now);
            self.filled += now.len() as u64;
            bytes = later;
        }
    }

    /// The whole file.
    #[must_use]
    pub fn finish(mut self) -> Content {
        if self.blocks.is_empty() {
            let hash = *self.hasher.finalize().as_bytes();
            return Content { size: self.filled, hash, blocks: Vec::new() };
        }
        let size = self.blocks.len() as u64 * self.block + self.filled;
        self.blocks.push(self.hasher.finalize_non_root());
        // There are at least two blocks, of the size that belongs to the file's: the hash is there.
        let hash = self.hashing.join(size, &self.blocks).unwrap_or_default();
        Content { size, hash, blocks: self.blocks }
    }

    /// More bytes come after a full block.
    fn next_block(&mut self) {
        self.blocks.push(self.hasher.finalize_non_root());
        if self.blocks.len() == MAX_BLOCKS {
            let mode = self.hashing.content_mode();
            let merge = |pair: &[ContentHash]| hazmat::merge_subtrees_non_root(&pair[0], &pair[1], mode);
            self.blocks = self.blocks.chunks_exact(2).map(merge).collect();
            self.block *= 2;
        }
        let offset = self.blocks.len() as u64 * self.block;
        self.hasher = self.hashing.content_hasher();
        self.hasher.set_input_offset(offset);
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(size: usize) -> Vec<u8> {
        (0..size).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    #[test]
    fn the_hash_is_that_of_blake3_whatever_the_blocks() {
        let one = MIN_BLOCK as usize;
        for size in [0, 1, 1024, one - 1, one, one + 1, 2 * one, 3 * one + 7, 5 * one] {
            let bytes = bytes(size);
            let content = Content::of(&bytes);
            assert_eq!(content.hash, *blake3::hash(&bytes).as_bytes(), "{size}");
            assert_eq!(content.blocks.len(), block_count(size as u64), "{size}");
            assert_eq!(content.size, size as u64);
        }
    }

    #[test]
    fn blocks_double_when_there_would_be_too_many() {
        assert_eq!(block_size(MIN_BLOCK * MAX_BLOCKS as u64), MIN_BLOCK);
        assert_eq!(block_size(MIN_BLOCK * MAX_BLOCKS as u64 + 1), 2 * MIN_BLOCK);
        assert_eq!(block_count(MIN_BLOCK * MAX_BLOCKS as u64), MAX_BLOCKS);
        assert_eq!(block_count(MIN_BLOCK * MAX_BLOCKS as u64 + 1), MAX_BLOCKS / 2 + 1);
        assert!(block_count(u64::MAX) <= MAX_BLOCKS);
    }

    #[test]
    fn a_file_of_many_blocks_is_merged_on_the_way() {
        // 4096 blocks and a byte: the smallest file whose blocks are merged.
        let piece = bytes(MIN_BLOCK as usize);
        let mut ours = ContentHasher::new(&Hashing::plain());
        let mut theirs = blake3::Hasher::new();
        for _ in 0..MAX_BLOCKS {
            ours.update(&piece);
            theirs.update_rayon(&piece);
        }
        ours.update(b"x");
        theirs.update(b"x");
        let content = ours.finish();
        assert_eq!(content.blocks.len(), block_count(content.size));
        assert_eq!(content.hash, *theirs.finalize().as_bytes());
    }

    #[test]
    fn keys_make_other_hashes_and_are_not_shown() {
        let hashing = Hashing::keyed(&[1; 32]);
        let of = |hashing: &Hashing, bytes: &[u8]| {
            let mut hasher = ContentHasher::new(hashing);
            hasher.update(bytes);
            hasher.finish()
        };
        let large = bytes(3 * MIN_BLOCK as usize);
        for bytes in [&b"abc"[..], &large] {
            assert_ne!(of(&hashing, bytes).hash, of(&Hashing::plain(), bytes).hash);
            let derived = blake3::derive_key(CONTENT_CONTEXT, &[1; 32]);
            assert_eq!(of(&hashing, bytes).hash, *blake3::keyed_hash(&derived, bytes).as_bytes());
        }
        assert_ne!(hashing.key_check(), Hashing::keyed(&[2; 32]).key_check());
        assert_eq!(format!("{hashing:?}"), "Hashing(keyed)");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn pieces_of_any_size_and_single_blocks_agree(pieces in prop::collection::vec(0_usize..700_000, 1..8)) {
            let whole = bytes(pieces.iter().sum());
            let hashing = Hashing::plain();
            let mut hasher = ContentHasher::new(&hashing);
            let mut rest = &whole[..];
            for piece in pieces {
                let (now, later) = rest.split_at(piece);
                hasher.update(now);
                rest = later;
            }
            let content = hasher.finish();
            prop_assert_eq!(content.hash, *blake3::hash(&whole).as_bytes());
            for (number, value) in content.blocks.iter().enumerate() {
                let at = number * MIN_BLOCK as usize;
                let mut block = hashing.block(at as u64);
                block.update(&whole[at..whole.len().min(at + MIN_BLOCK as usize)]);
                prop_assert_eq!(*value, block.finish());
            }
        }
    }
}
