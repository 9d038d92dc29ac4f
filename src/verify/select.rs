//! Which files are read, and in which order: pure, and in bounded memory however many files there are.
//!
//! Every file has a key. Files are chosen from the smallest key on until the sample is full; the key up to which they are chosen
//! is found by counting keys in buckets, not by sorting them. With a time limit the keys also part the files into waves,
//! so that what is more urgent is read first although each wave is read in the order of the manifest, which is near that of the disk.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::fmt;
use std::str::FromStr;

use crate::manifest::coverage::Amount;
use crate::manifest::{Entry, Mtime};

/// How many of the largest and of the newest files a sample always has, where it is large enough.
pub const ALWAYS: usize = 10;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sample {
    /// So many millionths of the files, rounded up.
    Share(u32),
    /// So many files.
    Files(u64),
    /// Files until they hold so many bytes.
    Bytes(u64),
}

/// A text that is not a sample.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a sample: write a share of the files, a number of files, or bytes, such as \"5%\", \"200\" or \"10GiB\""
)]
pub struct SampleError(String);

const MILLION: u32 = 1_000_000;

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl FromStr for Sample {
    type Err = SampleError;

    fn from_str(text: &str) -> Result<Self, SampleError> {
        let sample = if let Some(percent) = text.strip_suffix('%') {
            share(percent).map(Self::Share)
        } else {
            let unit = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
            match unit {
                Some((digits, factor)) => {
                    number(digits).and_then(|count| count.checked_mul(*factor)).map(Self::Bytes)
                }
                None => number(text).map(Self::Files),
            }
        };
        let nothing = [Self::Share(0), Self::Files(0), Self::Bytes(0)];
        sample.filter(|sample| !nothing.contains(sample)).ok_or_else(|| SampleError(text.to_owned()))
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(millionths) => {
                let (whole, rest) = (millionths / 10_000, millionths % 10_000);
                match format!("{rest:04}").trim_end_matches('0') {
                    "" => write!(f, "{whole}%"),
                    rest => write!(f, "{whole}.{rest}%"),
                }
            }
            Self::Files(count) => write!(f, "{count}"),
            Self::Bytes(bytes) => write!(f, "{bytes}B"),
        }
    }
}

impl Sample {
    /// How much that is of so many files.
    #[must_use]
    pub fn of(self, files: u64) -> Limit {
        match self {
            // At most as many as there are.
            Self::Share(millionths) => {
                let product = u128::from(files) * u128::from(millionths.min(MILLION));
                Limit::Files(product.div_ceil(u128::from(MILLION)) as u64)
            }
            Self::Files(count) => Limit::Files(count),
            Self::Bytes(bytes) => Limit::Bytes(bytes),
        }
    }
}

fn number(digits: &str) -> Option<u64> {
    // `parse` alone would take a leading `+`.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Percent, with up to four digits behind the point, in millionths.
fn share(percent: &str) -> Option<u32> {
    let (whole, rest) = percent.split_once('.').unwrap_or((percent, "0"));
    if rest.is_empty() || rest.len() > 4 {
        return None;
    }
    let whole = u32::try_from(number(whole)?).ok()?;
    let rest = u32::try_from(number(rest)?).ok()? * 10_u32.pow(4 - rest.len() as u32);
    let millionths = whole.checked_mul(10_000)?.checked_add(rest)?;
    (millionths <= MILLION).then_some(millionths)
}

/// Where a choice ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// With so many files.
    Files(u64),
    /// With the file that brings the bytes to this many, so that any limit makes headway.
    Bytes(u64),
}

impl Limit {
    fn is_reached_by(self, amount: Amount) -> bool {
        match self {
            Self::Files(files) => amount.files >= files,
            Self::Bytes(bytes) => amount.bytes >= bytes,
        }
    }

    /// What of it is left after so much.
    #[must_use]
    pub fn less(self, amount: Amount) -> Self {
        match self {
            Self::Files(files) => Self::Files(files.saturating_sub(amount.files)),
            Self::Bytes(bytes) => Self::Bytes(bytes.saturating_sub(amount.bytes)),
        }
    }

    fn is_nothing(self) -> bool {
        matches!(self, Self::Files(0) | Self::Bytes(0))
    }
}

/// Gives every file its key: by a hash that nobody can foresee without the seed, below the day of its last proof when the oldest
/// come first.
#[derive(Debug, Clone)]
pub struct Ranking {
    key: [u8; 32],
    oldest_first: bool,
}

const DAY: i64 = 86_400;

impl Ranking {
    /// By this seed.
    #[must_use]
    pub fn new(seed: u64, oldest_first: bool) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Self { key, oldest_first }
    }

    /// The key of a file that was last proven then, in seconds since 1970. What was never proven comes first.
    #[must_use]
    pub fn key(&self, path: &[u8], proven: Option<i64>) -> u64 {
        let hash = blake3::keyed_hash(&self.key, path);
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        let rank = u64::from_le_bytes(first);
        if !self.oldest_first {
            return rank;
        }
        // Days until 2149 have sixteen bits.
        let day = proven.map_or(0, |at| at.div_euclid(DAY).clamp(0, 0xfffe) + 1);
        day.cast_unsigned() << 48 | rank >> 16
    }
}

/// How many keys are held at once. Below it they are sorted, above it they are counted.
const HELD: u64 = 4096;

const BUCKETS: usize = 1 << 16;

/// The last key that is chosen so that `limit` is reached; `None` when all are chosen. `pass` shows every key with its bytes, the
/// same ones each time it is called.
///
/// # Errors
/// Those of `pass`.
pub fn last_key<E>(
    limit: Limit,
    mut pass: impl FnMut(&mut dyn FnMut(u64, u64)) -> Result<(), E>,
) -> Result<Choice, E> {
    if limit.is_nothing() {
        return Ok(Choice::Nothing);
    }
    let (mut limit, mut prefix) = (limit, 0_u64);
    for shift in [48_u32, 32, 16, 0] {
        let within = |key: u64| shift == 48 || key >> (shift + 16) == prefix;
        let mut buckets = vec![Amount::default(); BUCKETS];
        pass(&mut |key, bytes| {
            if within(key) {
                // Sixteen bits.
                buckets[(key >> shift & 0xffff) as usize].add(bytes);
            }
        })?;
        let mut before = Amount::default();
        let Some(cut) = buckets.iter().position(|bucket| {
            let after = Amount { files: before.files + bucket.files, bytes: before.bytes + bucket.bytes };
            let reached = bucket.files > 0 && limit.is_reached_by(after);
            if !reached {
                before = after;
            }
            reached
        }) else {
            return Ok(Choice::All);
        };
        limit = limit.less(before);
        prefix = prefix << 16 | cut as u64;
        if shift == 0 {
            break;
        }
        if buckets[cut].files <= HELD {
            let mut held: Vec<(u64, u64)> = Vec::new();
            pass(&mut |key, bytes| {
                if key >> shift == prefix {
                    held.push((key, bytes));
                }
            })?;
            held.sort_unstable();
            return Ok(Choice::UpTo(last_of(&held, limit)));
        }
    }
    Ok(Choice::UpTo(prefix))
}

fn last_of(sorted: &[(u64, u64)], limit: Limit) -> u64 {
    let mut amount = Amount::default();
    let reached = sorted.iter().find(|(_, bytes)| {
        amount.add(*bytes);
        limit.is_reached_by(amount)
    });
    // The bucket reaches the limit, so one of its files does.
    reached.or(sorted.last()).map_or(u64::MAX, |(key, _)| *key)
}

/// Up to which key files are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// None.
    Nothing,
    /// Those up to this key.
    UpTo(u64),
    /// All.
    All,
}

impl Choice {
    /// Whether a file with this key is chosen.
    #[must_use]
    pub fn has(self, key: u64) -> bool {
        match self {
            Self::Nothing => false,
            Self::UpTo(last) => key <= last,
            Self::All => true,
        }
    }
}

/// At most so many waves: each costs a reading of the manifest, which is some twentieth of what reading its files costs when they
/// are small.
const WAVES: u64 = 4;

/// What opening a file costs, in bytes that could be read in that time: small files are not free.
const OPENING: u64 = 64 << 10;

/// Parts keys into waves of about the same work, smaller keys first.
#[derive(Debug, Clone)]
pub struct Waves {
    work: Vec<u64>,
}

impl Default for Waves {
    fn default() -> Self {
        Self { work: vec![0; BUCKETS] }
    }
}

impl Waves {
    /// A file that will be read.
    pub fn add(&mut self, key: u64, bytes: u64) {
        let bucket = &mut self.work[(key >> 48) as usize];
        *bucket = bucket.saturating_add(bytes.saturating_add(OPENING));
    }

    /// The last key of each wave, in order; the last wave has all the rest.
    #[must_use]
    pub fn bounds(&self) -> Vec<u64> {
        let all = self.work.iter().fold(0_u64, |all, work| all.saturating_add(*work));
        let each = all.div_ceil(WAVES).max(1);
        let (mut bounds, mut work) = (Vec::new(), 0_u64);
        for (number, bucket) in self.work.iter().enumerate() {
            work = work.saturating_add(*bucket);
            if work >= each {
                bounds.push((number as u64) << 48 | ((1 << 48) - 1));
                work = 0;
            }
        }
        if work > 0 || bounds.is_empty() {
            bounds.push(u64::MAX);
        }
        bounds
    }
}

/// The largest and the newest files seen.
#[derive(Debug, Default)]
pub struct Extremes {
    largest: Top<(u64, Reverse<Vec<u8>>)>,
    newest: Top<(Mtime, Reverse<Vec<u8>>, u64)>,
}

/// The least of those that are kept is at hand, to be replaced.
type Top<T> = BinaryHeap<Reverse<T>>;

impl Extremes {
    /// Looks at a file.
    pub fn see(&mut self, entry: &Entry) {
        let (bytes, path) = (entry.bytes(), &entry.path);
        if self.largest.len() < ALWAYS || self.largest.peek().is_some_and(|least| bytes > least.0.0) {
            self.largest.push(Reverse((bytes, Reverse(path.clone()))));
        }
        if self.newest.len() < ALWAYS || self.newest.peek().is_some_and(|least| entry.mtime > least.0.0) {
            self.newest.push(Reverse((entry.mtime, Reverse(path.clone()), bytes)));
        }
        if self.largest.len() > ALWAYS {
            self.largest.pop();
        }
        if self.newest.len() > ALWAYS {
            self.newest.pop();
        }
    }

    /// Those that belong to a sample of this size: the largest and the newest whatever it is, and more of them while they
    /// are no more than half of it.
    #[must_use]
    pub fn within(self, limit: Limit) -> (HashSet<Vec<u8>>, Amount) {
        let sized = |(bytes, Reverse(path))| (path, bytes);
        let largest = self.largest.into_sorted_vec().into_iter().map(|Reverse(one)| sized(one));
        let newest = self.newest.into_sorted_vec().into_iter();
        let newest = newest.map(|Reverse((_, path, bytes))| sized((bytes, path)));
        let (mut chosen, mut amount) = (HashSet::new(), Amount::default());
        for (turn, pair) in largest.zip(newest).enumerate() {
            for (path, bytes) in [pair.0, pair.1] {
                if chosen.contains(&path) {
                    continue;
                }
                let mut with = amount;
                with.add(bytes);
                let half = match limit {
                    Limit::Files(files) => with.files * 2 <= files,
                    Limit::Bytes(limit) => with.bytes.saturating_mul(2) <= limit,
                };
                if turn == 0 || half {
                    chosen.insert(path);
                    amount = with;
                }
            }
        }
        (chosen, amount)
    }
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
