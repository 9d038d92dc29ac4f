//! What a comparison amounts to: differences by class, never a bool alone.

use std::collections::BTreeMap;
use std::fmt;

use super::coverage::{Coverage, Reach};
use super::entry::path_order;
use super::facts::Facts;
use super::format::Summary;

/// How many differences a report keeps in full; all are counted.
pub const DEFAULT_KEPT: usize = 10_000;

/// What kind of difference. One finding has one class; one entry may have several findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Same size, other bytes.
    Content,
    /// Another size; the bytes then differ too and are not named again.
    Size,
    /// A file where a directory should be, and the like; nothing else of that entry is named.
    Type,
    /// The twelve permission bits.
    Mode,
    /// User or group.
    Owner,
    /// The modification time, to the nanosecond.
    Mtime,
    /// The bytes of a symlink.
    LinkTarget,
    /// A device's number.
    Device,
    /// Names that should be one inode are not, or the other way round.
    HardLinks,
    /// Extended attributes, capabilities among them.
    Xattrs,
    /// POSIX access control lists.
    Acl,
    /// The flags of `chattr`.
    Flags,
    /// In the manifest, not in the copy.
    Missing,
    /// In the copy, not in the manifest.
    Extra,
    /// It was read twice, and not the same: the disk, its cable or the memory cannot be trusted.
    FlakyRead,
    /// Something that no honest archive holds; it was not followed.
    Hostile,
    /// The archive or stream as a whole is cut or damaged.
    Broken,
    /// The source itself changed while the backup was made: what it should be is not known.
    UnstableSource,
    /// It could not be read, then or now.
    Unreadable,
    /// It was there but not compared.
    NotChecked,
    /// The way of copying or restoring cannot carry this.
    LostByFormat,
    /// A sparse file takes more room than in the source; its content is the same.
    Holes,
}

/// What a class says about the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The copy is not what it should be.
    Damage,
    /// It could not be found out whether it is.
    Unknown,
    /// The copy is all that it can be, and a restore from it brings back less than the source had.
    Lost,
    /// Worth knowing; the copy is what it should be.
    Remark,
}

impl Class {
    /// All classes, in the order in which they are shown.
    pub const ALL: [Self; 22] = [
        Self::Content,
        Self::Size,
        Self::Type,
        Self::Mode,
        Self::Owner,
        Self::Mtime,
        Self::LinkTarget,
        Self::Device,
        Self::HardLinks,
        Self::Xattrs,
        Self::Acl,
        Self::Flags,
        Self::Missing,
        Self::Extra,
        Self::FlakyRead,
        Self::Hostile,
        Self::Broken,
        Self::UnstableSource,
        Self::Unreadable,
        Self::NotChecked,
        Self::LostByFormat,
        Self::Holes,
    ];

    /// The stable name, in text and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Size => "size",
            Self::Type => "type",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Mtime => "mtime",
            Self::LinkTarget => "link-target",
            Self::Device => "device",
            Self::HardLinks => "hard-links",
            Self::Xattrs => "xattrs",
            Self::Acl => "acl",
            Self::Flags => "flags",
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::FlakyRead => "flaky-read",
            Self::Hostile => "hostile",
            Self::Broken => "broken",
            Self::UnstableSource => "unstable-source",
            Self::Unreadable => "unreadable",
            Self::NotChecked => "not-checked",
            Self::LostByFormat => "lost-by-format",
            Self::Holes => "holes",
        }
    }

    /// What it says about the copy.
    #[must_use]
    pub fn meaning(self) -> Meaning {
        match self {
            Self::UnstableSource | Self::Unreadable | Self::NotChecked => Meaning::Unknown,
            Self::LostByFormat => Meaning::Lost,
            Self::Holes => Meaning::Remark,
            Self::Content
            | Self::Size
            | Self::Type
            | Self::Mode
            | Self::Owner
            | Self::Mtime
            | Self::LinkTarget
            | Self::Device
            | Self::HardLinks
            | Self::Xattrs
            | Self::Acl
            | Self::Flags
            | Self::Missing
            | Self::Extra
            | Self::FlakyRead
            | Self::Hostile
            | Self::Broken => Meaning::Damage,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What kind.
    pub class: Class,
    /// Bytes relative to the tree; not yet safe to show.
    pub path: Vec<u8>,
    /// What the manifest says; safe to show.
    pub expected: String,
    /// What was found; safe to show.
    pub found: String,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All of it was checked and equal.
    Same,
    /// All of it was checked, and equal but for what the format cannot carry.
    SameButLost,
    /// All metadata and a chosen part of the content were checked, and all of that was equal.
    SameInPart,
    /// Something differs.
    NotSame,
    /// Nothing was seen to differ, but not all could be checked, or nothing was.
    Unknown,
}

impl Verdict {
    /// The stable name, in text and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::SameButLost => "same-but-lost",
            Self::SameInPart => "same-in-part",
            Self::NotSame => "not-same",
            Self::Unknown => "unknown",
        }
    }
}

/// How far the proof goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Levels {
    /// The copy in the store was read in full.
    pub stored: bool,
    /// The copy was really restored to another place, and what was restored was read.
    pub restored: bool,
}

/// What a restore took: the engine alone, without the reading afterwards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Restore {
    /// Wall clock.
    pub seconds: f64,
    /// Bytes of content that came out.
    pub bytes: u64,
}

/// What was compared and what was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    counts: BTreeMap<Class, u64>,
    differences: Vec<Difference>,
    kept: usize,
    /// Entries of the manifest that were compared with something.
    pub entries: u64,
    /// Bytes of content that were compared.
    pub bytes: u64,
    /// Places where another filesystem or subvolume begins, into which the manifest does not look.
    pub edges: u64,
    lost: BTreeMap<&'static str, u64>,
    accepted: BTreeMap<&'static str, u64>,
    /// How far the proof goes; "same" is [`Report::is_same`].
    pub levels: Levels,
    /// The manifest that it was compared with, read to its end; `None` for a sample.
    pub manifest: Option<Summary>,
    /// How long the restoring took, when there was one.
    pub restore: Option<Restore>,
    /// How much of the content was read and is proven, when not all was to be read.
    pub coverage: Option<Coverage>,
    /// Remarks of the tools that did the work, safe to show.
    pub remarks: Vec<String>,
}

impl Report {
    /// An empty report that keeps at most `kept` differences in full.
    #[must_use]
    pub fn keeping(kept: usize) -> Self {
        Self {
            counts: BTreeMap::new(),
            differences: Vec::new(),
            kept,
            entries: 0,
            bytes: 0,
            edges: 0,
            lost: BTreeMap::new(),
            accepted: BTreeMap::new(),
            levels: Levels::default(),
            manifest: None,
            restore: None,
            coverage: None,
            remarks: Vec::new(),
        }
    }

    /// Counts a finding, and keeps it while there is room.
    pub fn add(&mut self, difference: Difference) {
        *self.counts.entry(difference.class).or_default() += 1;
        if self.differences.len() < self.kept {
            self.differences.push(difference);
        }
    }

    /// Counts a fact of an entry that the copy cannot hold.
    pub fn lose(&mut self, fact: Facts) {
        fact.names().for_each(|name| *self.lost.entry(name).or_default() += 1);
    }

    /// The same, where the loss was accepted beforehand: no finding.
    pub fn accept(&mut self, fact: Facts) {
        fact.names().for_each(|name| *self.accepted.entry(name).or_default() += 1);
    }

    /// Which facts are lost, of how many entries.
    #[must_use]
    pub fn lost(&self) -> &BTreeMap<&'static str, u64> {
        &self.lost
    }

    /// Which facts are lost and were accepted to be, of how many entries.
    #[must_use]
    pub fn accepted(&self) -> &BTreeMap<&'static str, u64> {
        &self.accepted
    }

    /// The answer. Zero entries checked is never "same".
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let any = |meaning| self.counts.keys().any(|class| class.meaning() == meaning);
        let reach = self.coverage.as_ref().map_or(Reach::Whole, Coverage::reach);
        if any(Meaning::Damage) {
            Verdict::NotSame
        } else if self.entries == 0 || any(Meaning::Unknown) || reach == Reach::Short {
            Verdict::Unknown
        } else if any(Meaning::Lost) {
            Verdict::SameButLost
        } else if reach == Reach::Part {
            Verdict::SameInPart
        } else {
            Verdict::Same
        }
    }

    /// Everything was checked, at least one entry, and nothing differs or is lost.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.verdict() == Verdict::Same
    }

    /// How many findings of a class.
    #[must_use]
    pub fn count(&self, class: Class) -> u64 {
        self.counts.get(&class).copied().unwrap_or(0)
    }

    /// All classes that were found, with how many.
    pub fn counts(&self) -> impl Iterator<Item = (Class, u64)> {
        self.counts.iter().map(|(&class, &count)| (class, count))
    }

    /// All findings, also those that were not kept.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The findings that were kept: the first ones, in the order of their paths.
    #[must_use]
    pub fn differences(&self) -> &[Difference] {
        &self.differences
    }

    /// Takes in the findings of another report, found in any order; of all, the first ones by their paths are kept. What was
    /// compared, how far, and the remarks stay this report's own.
    pub fn absorb(&mut self, other: Self) {
        for (class, count) in other.counts {
            *self.counts.entry(class).or_default() += count;
        }
        self.differences.extend(other.differences);
        self.differences.sort_by(|l, r| path_order(&l.path, &r.path).then_with(|| l.class.cmp(&r.class)));
        self.differences.truncate(self.kept);
    }

    /// One line: the verdict, why, and how much was checked.
    #[must_use]
    pub fn sentence(&self) -> String {
        let checked = format!("{} entries, {} bytes checked", self.entries, self.bytes);
        let mut found: Vec<String> = self.counts().map(|(class, count)| format!("{count} {class}")).collect();
        found.extend(self.coverage.as_ref().and_then(Coverage::shortfall));
        match self.verdict() {
            Verdict::Same if found.is_empty() => format!("same: {checked}"),
            Verdict::Same => format!("same: {checked}; {}", found.join(", ")),
            Verdict::SameButLost => format!("same but for what is lost: {} ({checked})", found.join(", ")),
            Verdict::SameInPart => {
                let read = self.coverage.as_ref().map(|coverage| coverage.read).unwrap_or_default();
                let total = self.coverage.as_ref().map(|coverage| coverage.total).unwrap_or_default();
                format!("the same in the part that was read: {read} of {total}, and all metadata ({checked})")
            }
            Verdict::NotSame => format!("not the same: {} ({checked})", found.join(", ")),
            Verdict::Unknown if self.entries == 0 => format!("unknown: nothing was checked ({checked})"),
            Verdict::Unknown => format!("unknown: {} ({checked})", found.join(", ")),
        }
    }
}

impl Default for Report {
    fn default() -> Self {
        Self::keeping(DEFAULT_KEPT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(class: Class) -> Difference {
        Difference { class, path: b"p".to_vec(), expected: String::new(), found: String::new() }
    }

    #[test]
    fn nothing_checked_is_not_the_same() {
        let mut report = Report::default();
        assert_eq!(report.verdict(), Verdict::Unknown);
        report.entries = 1;
        assert!(report.is_same());
    }

    #[test]
    fn doubt_is_no_yes_and_damage_outweighs_it() {
        for class in Class::ALL {
            let mut report = Report { entries: 1, ..Report::default() };
            report.add(difference(class));
            assert_eq!(report.is_same(), class.meaning() == Meaning::Remark, "{class}");
            report.add(difference(Class::Mode));
            assert_eq!(report.verdict(), Verdict::NotSame);
        }
    }

    #[test]
    fn more_than_is_kept_is_counted() {
        let mut report = Report::keeping(2);
        for _ in 0..5 {
            report.add(difference(Class::Extra));
        }
        assert_eq!((report.differences().len(), report.total(), report.count(Class::Extra)), (2, 5, 5));
    }
}
