//! How much of a copy's content is proven, since when, and what that amounts to.
//!
//! Only regular files of at least one byte count here: everything else is proven by the metadata, which every verification
//! compares as a whole.

use std::fmt;

/// Files, and the bytes in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
}

/// What a verification was to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// All content, in this run.
    All,
    /// A part of it, chosen with this seed.
    Sample {
        /// Repeats the choice, with the same manifest and the same ledger.
        seed: u64,
    },
    /// Every byte proven within so many seconds, by this run and those before it.
    Age {
        /// How old a proof may be, in seconds.
        seconds: u64,
    },
}

/// Why the reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All that was chosen was read.
    Complete,
    /// The time was over.
    Deadline,
    /// It was told to stop.
    Stopped,
}

/// What was to be read, what was, and what is proven now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// What was to be reached.
    pub goal: Goal,
    /// Why the reading ended.
    pub ended: Ended,
    /// Content of the manifest.
    pub total: Amount,
    /// What was chosen to be read.
    pub chosen: Amount,
    /// What of it was read, equal or not.
    pub read: Amount,
    /// What of the whole has a proof, however old.
    pub proven: Amount,
    /// What has no proof, or one that is older than the goal allows.
    pub overdue: Amount,
    /// The age of the oldest proof, in seconds.
    pub oldest: Option<u64>,
}

/// What a coverage adds to a comparison without differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All content is proven, as the goal demands.
    Whole,
    /// All that was chosen was read, and it is a part.
    Part,
    /// Less than the goal demands.
    Short,
}

impl Amount {
    /// One more file.
    pub fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }

    /// Both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { files: self.files + other.files, bytes: self.bytes + other.bytes }
    }

    /// What is left when the other is taken away; nothing when that is more.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self { files: self.files.saturating_sub(other.files), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = if self.files == 1 { "file" } else { "files" };
        write!(f, "{} {files} ({})", self.files, size(self.bytes))
    }
}

impl Ended {
    /// The stable name, in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Deadline => "deadline",
            Self::Stopped => "stopped",
        }
    }
}

impl Goal {
    /// The stable name, in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Sample { .. } => "sample",
            Self::Age { .. } => "age",
        }
    }
}

impl Coverage {
    /// What it amounts to.
    #[must_use]
    pub fn reach(&self) -> Reach {
        let all_read = self.chosen == self.total && self.read == self.total;
        match self.goal {
            Goal::Age { .. } if self.overdue.files == 0 => Reach::Whole,
            Goal::Age { .. } => Reach::Short,
            _ if self.ended != Ended::Complete || self.read != self.chosen => Reach::Short,
            _ if all_read => Reach::Whole,
            Goal::All => Reach::Short,
            Goal::Sample { .. } => Reach::Part,
        }
    }

    /// Whether all content is proven as the goal demands.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.reach() == Reach::Whole
    }

    /// The proven share of all bytes in hundredths of a percent, rounded down: 10 000 only when nothing is missing.
    #[must_use]
    pub fn proven_share(&self) -> u64 {
        share(self.proven.bytes, self.total.bytes)
    }

    /// What is missing, in words; `None` when nothing is.
    #[must_use]
    pub fn shortfall(&self) -> Option<String> {
        if self.reach() != Reach::Short {
            return None;
        }
        let why = match self.ended {
            Ended::Complete => "",
            Ended::Deadline => "the time was over: ",
            Ended::Stopped => "it was told to stop: ",
        };
        Some(match self.goal {
            Goal::Age { seconds } => {
                format!("{why}{} of {} not proven within {}", self.overdue, self.total, span(seconds))
            }
            _ => format!("{why}{} of {} chosen not reached", self.chosen.less(self.read), self.chosen),
        })
    }

    /// Lines for a person: what was read now, what is proven in all, and what is overdue.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let percent = percent(self.proven_share());
        let mut lines = Vec::new();
        let seed = match self.goal {
            Goal::Sample { seed } => format!(", sample with --seed {seed}"),
            _ => String::new(),
        };
        lines.push(format!("read now: {} of {} chosen{seed}", self.read, self.chosen));
        let oldest = match self.oldest {
            Some(seconds) => format!("; oldest proof {} ago", span(seconds)),
            None => String::new(),
        };
        lines.push(format!("proven: {} of {}, {percent} of the bytes{oldest}", self.proven, self.total));
        if let Goal::Age { seconds } = self.goal {
            let within = span(seconds);
            lines.push(match self.overdue.files {
                0 => format!("every byte proven within {within}: yes"),
                _ => format!("every byte proven within {within}: no, overdue: {}", self.overdue),
            });
        }
        lines
    }
}

fn share(part: u64, of: u64) -> u64 {
    if of == 0 {
        return 10_000;
    }
    // At most 10 000.
    (u128::from(part.min(of)) * 10_000 / u128::from(of)) as u64
}

fn percent(hundredths: u64) -> String {
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = 0;
    tenths /= 1024;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A span of time in its largest whole unit.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn amount(files: u64, bytes: u64) -> Amount {
        Amount { files, bytes }
    }

    pub(crate) fn complete(goal: Goal) -> Coverage {
        let all = amount(10, 10_000);
        Coverage {
            goal,
            ended: Ended::Complete,
            total: all,
            chosen: all,
            read: all,
            proven: all,
            overdue: Amount::default(),
            oldest: Some(5),
        }
    }

    #[test]
    fn a_sample_is_a_part_and_the_whole_of_it_is_whole() {
        let sample = complete(Goal::Sample { seed: 1 });
        assert_eq!(sample.reach(), Reach::Whole);
        let part = Coverage { chosen: amount(2, 20), read: amount(2, 20), ..sample.clone() };
        assert_eq!((part.reach(), part.shortfall()), (Reach::Part, None));
        let cut = Coverage { read: amount(1, 10), ended: Ended::Deadline, ..part };
        assert_eq!(cut.reach(), Reach::Short);
        let words = "the time was over: 1 file (10 B) of 2 files (20 B) chosen not reached";
        assert_eq!(cut.shortfall().as_deref(), Some(words));
    }

    #[test]
    fn an_age_is_reached_when_nothing_is_overdue_however_little_was_read() {
        let age = complete(Goal::Age { seconds: 30 * 86_400 });
        let idle = Coverage { chosen: amount(0, 0), read: amount(0, 0), ..age };
        assert_eq!(idle.reach(), Reach::Whole);
        let late = Coverage { overdue: amount(1, 2048), proven: amount(9, 9_999), ..idle };
        assert_eq!(late.reach(), Reach::Short);
        assert_eq!(
            late.shortfall().unwrap(),
            "1 file (2.0 KiB) of 10 files (9.7 KiB) not proven within 30 days"
        );
        assert!(late.lines()[1].contains("99.99 % of the bytes"), "{:?}", late.lines());
        assert!(late.lines()[2].ends_with("no, overdue: 1 file (2.0 KiB)"));
    }

    #[test]
    fn a_hundred_percent_is_never_rounded_up_to() {
        assert_eq!(share(u64::MAX - 1, u64::MAX), 9_999);
        assert_eq!((share(7, 7), share(0, 0)), (10_000, 10_000));
    }
}
