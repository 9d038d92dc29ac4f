//! The last run of each verification, as one JSON file each.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::manifest::{Report, Verdict};
use crate::system::durable::{self, DurableError};
use crate::system::show;

/// Version of the files: raised when a field changes its meaning or goes away.
const SCHEMA: u32 = 1;

/// Only root may read what lies on a server and what is wrong with it.
const FILE_MODE: u32 = 0o600;

/// One run of a verification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastRun {
    /// Its name in the configuration.
    pub name: String,
    /// The copy that was looked at.
    pub copy: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// What came out.
    pub outcome: Outcome,
    /// When it was last found good, in this run or before.
    pub last_same: Option<Timestamp>,
}

/// What came out of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Outcome {
    /// There is a report.
    Answered(Answer),
    /// It could not even begin, or broke off.
    NoAnswer {
        /// Why, safe to show.
        error: String,
    },
}

/// A report without its list of differences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The stable name of the verdict, as in reports.
    pub verdict: String,
    /// The verdict, why, and how much was checked.
    pub sentence: String,
    /// Entries compared.
    pub entries: u64,
    /// Bytes of content compared.
    pub bytes: u64,
    /// Differences by class.
    pub counts: BTreeMap<String, u64>,
    /// The share of all bytes that is proven, from 0 to 1; `None` when the whole is not known.
    pub proven: Option<f64>,
    /// It was really restored.
    pub restored: bool,
    /// How long the restoring took, in seconds, without the reading afterwards.
    pub restore_seconds: Option<f64>,
}

impl Answer {
    /// What is kept of a report.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        Self {
            verdict: report.verdict().name().to_owned(),
            sentence: report.sentence(),
            entries: report.entries,
            bytes: report.bytes,
            counts: report.counts().map(|(class, count)| (class.name().to_owned(), count)).collect(),
            proven: proven(report),
            restored: report.levels.restored,
            restore_seconds: report.restore.map(|restore| restore.seconds),
        }
    }

    /// Everything that was to be checked was, and is as it should be.
    #[must_use]
    pub fn is_good(&self) -> bool {
        [Verdict::Same, Verdict::SameInPart].iter().any(|good| self.verdict == good.name())
    }
}

/// Where last results are kept.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

/// A last result that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be read.
    #[error("failed to read {}", show::path(.path))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says something else.
    #[error("{} is no result of a verification: delete it, and it will be made anew", show::path(.path))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where.
        source: serde_json::Error,
    },
    /// A newer program wrote it.
    #[error("{} was written by a newer safe-upgrade (schema {schema})", show::path(.path))]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        schema: u32,
    },
    /// It could not be written.
    #[error("failed to write a result")]
    Write(#[from] DurableError),
}

#[derive(Serialize, Deserialize)]
struct Written {
    schema: u32,
    #[serde(flatten)]
    run: LastRun,
}

impl Store {
    /// The directory need not be there yet.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Makes the directory.
    ///
    /// # Errors
    /// Names it.
    pub fn prepare(&self) -> Result<(), StoreError> {
        Ok(durable::private_directory(&self.directory)?)
    }

    /// The file that keeps two schedules from running at once.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.directory.join("lock")
    }

    /// The last run of a verification; `None` when it never ran.
    ///
    /// # Errors
    /// Names the file.
    pub fn read(&self, name: &str) -> Result<Option<LastRun>, StoreError> {
        let path = self.path(name);
        match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Read { path, source }),
            Ok(bytes) => parse(&bytes, &path).map(Some),
        }
    }

    /// Keeps a run in the place of the one before.
    ///
    /// # Errors
    /// Names the file; the old one is then still there.
    pub fn write(&self, run: &LastRun) -> Result<(), StoreError> {
        let path = self.path(&run.name);
        let written = Written { schema: SCHEMA, run: run.clone() };
        let mut bytes = serde_json::to_vec_pretty(&written)
            .map_err(|source| StoreError::Malformed { path: path.clone(), source })?;
        bytes.push(b'\n');
        Ok(durable::replace_file(&path, &bytes, FILE_MODE)?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }
}

fn parse(bytes: &[u8], path: &Path) -> Result<LastRun, StoreError> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let malformed = |source| StoreError::Malformed { path: path.to_owned(), source };
    let Version { schema } = serde_json::from_slice(bytes).map_err(malformed)?;
    if schema > SCHEMA {
        return Err(StoreError::Newer { path: path.to_owned(), schema });
    }
    Ok(serde_json::from_slice::<Written>(bytes).map_err(malformed)?.run)
}

/// The ledger's share where one is kept; otherwise this run proved all that it compared, or nothing.
#[expect(clippy::cast_precision_loss, reason = "a share for people and alarms")]
fn proven(report: &Report) -> Option<f64> {
    if let Some(coverage) = &report.coverage {
        return Some(coverage.proven_share() as f64 / 10_000.0);
    }
    let whole = report.manifest.filter(|_| report.verdict() == Verdict::Same)?;
    Some(if whole.bytes == 0 { 1.0 } else { (report.bytes as f64 / whole.bytes as f64).min(1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_what_is_newer_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("verify"));
        assert_eq!(store.read("x").unwrap(), None);
        store.prepare().unwrap();
        let started = Timestamp::from_second(1_800_000_000).unwrap();
        let mut report = Report::default();
        (report.entries, report.bytes) = (2, 7);
        for outcome in [Outcome::Answered(Answer::of(&report)), Outcome::NoAnswer { error: "no".to_owned() }]
        {
            let (name, copy) = ("x".to_owned(), "/c".to_owned());
            let run = LastRun { name, copy, started, ended: started, outcome, last_same: None };
            store.write(&run).unwrap();
            assert_eq!(store.read("x").unwrap(), Some(run));
        }
        std::fs::write(dir.path().join("verify/x.json"), "{\"schema\": 2}").unwrap();
        assert!(matches!(store.read("x"), Err(StoreError::Newer { schema: 2, .. })));
        std::fs::write(dir.path().join("verify/x.json"), "{\"sch").unwrap();
        assert!(matches!(store.read("x"), Err(StoreError::Malformed { .. })));
    }
}
