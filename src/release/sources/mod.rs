//! Where packages come from: what would change for a hop, changing it with the originals kept, and putting it back.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::release::hop::Hop;
use crate::system::durable::{self, DurableError};

pub mod deb822;
pub mod entries;
pub mod one_line;

/// What a suite of an apt source becomes on a hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SuiteChange {
    /// Names the old release: becomes this.
    Rewrite(String),
    /// Backports or proposed updates of the old release: switched off, because the new release starts without them.
    Disable,
    /// Names the new release already.
    AlreadyTarget,
    /// `stable`, `testing`, ...: means another release as time goes by.
    Alias,
    /// Does not name the release: somebody else's repository.
    Other,
}

/// Something that a person should know about one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file, below the root (`/etc/apt/sources.list`).
    pub file: PathBuf,
    /// The line, from 1; of a stanza, its first.
    pub line: usize,
    /// Where the entry points (URIs, as written).
    pub uri: String,
    /// What it is.
    pub what: Note,
}

/// What was found about an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The suite was rewritten.
    Rewritten {
        /// The old suite.
        from: String,
        /// The new one.
        to: String,
    },
    /// The suite was switched off.
    Disabled {
        /// The suite.
        suite: String,
    },
    /// `non-free-firmware` was added, because `non-free` was there: firmware moved.
    FirmwareAdded,
    /// It names the new release already.
    AlreadyTarget {
        /// The suite.
        suite: String,
    },
    /// It is left as it is although its suite is a name that moves.
    AliasLeft {
        /// The suite.
        suite: String,
    },
    /// A third party's repository is left as it is: its suite does not name the release.
    ThirdPartyLeft {
        /// The suite.
        suite: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rewritten { from, to } => write!(f, "the suite {from} becomes {to}"),
            Self::Disabled { suite } => write!(f, "the suite {suite} is switched off"),
            Self::FirmwareAdded => f.write_str("non-free-firmware is added beside non-free"),
            Self::AlreadyTarget { suite } => write!(f, "the suite {suite} is of the new release already"),
            Self::AliasLeft { suite } => {
                write!(f, "the suite {suite} is a name that moves; it is left as it is")
            }
            Self::ThirdPartyLeft { suite } => {
                write!(f, "a third party's suite {suite} does not name the release; it is left as it is")
            }
        }
    }
}

/// The text of one file after rewriting, and what was found in it. Pure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The whole new text.
    pub text: String,
    /// What was found: line (from 1), URIs, note.
    pub notes: Vec<(usize, String, Note)>,
}

/// One file with entries that are in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path below the root, absolute (`/etc/apt/sources.list.d/x.sources`).
    pub path: PathBuf,
    /// Its text now.
    pub before: String,
    /// Its text for the target.
    pub after: String,
    /// Its permission bits.
    pub mode: u32,
}

impl SourceFile {
    /// Whether the hop changes this file.
    #[must_use]
    pub fn changes(&self) -> bool {
        self.before != self.after
    }
}

/// What a hop does to the apt sources. Nothing has been written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcesPlan {
    /// Every sources file that apt reads, also those that stay as they are.
    pub files: Vec<SourceFile>,
    /// What a person should know, in the order of the files.
    pub findings: Vec<Finding>,
}

/// Sources that cannot be read, rewritten or put back.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    /// A file or directory cannot be read.
    #[error("failed to read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that would be rewritten is a symbolic link.
    #[error("{} is a symbolic link, which the upgrade would have to write through: replace it by the file itself", .path.display())]
    Link {
        /// Which.
        path: PathBuf,
    },
    /// No entry names the release.
    #[error(
        "no apt source names {from}: nothing would be upgraded; name the release in /etc/apt/sources.list instead of \"stable\" or a bare path"
    )]
    NothingToRewrite {
        /// The codename of the release that runs.
        from: String,
    },
    /// The originals are not there.
    #[error("{} holds no kept apt sources", .path.display())]
    NothingKept {
        /// The directory that was given.
        path: PathBuf,
    },
    /// A file could not be written.
    #[error("failed to write the apt sources")]
    Write(#[from] DurableError),
}

const DIRECTORY: &str = "etc/apt";
/// Written last among the kept originals: with it, they are complete.
const COMPLETE: &str = "complete";

/// Reads all sources below a root and works out what the hop makes of them. Writes nothing.
///
/// # Errors
/// When a file cannot be read, would have to be written through a link, or no entry names the old or the new release.
pub fn plan_sources(root: &Path, hop: &Hop) -> Result<SourcesPlan, SourcesError> {
    let mut plan = SourcesPlan { files: Vec::new(), findings: Vec::new() };
    for relative in source_files(root)? {
        let real = root.join(&relative);
        let read = |source| SourcesError::Read { path: real.clone(), source };
        let before = fs::read_to_string(&real).map_err(read)?;
        let kind = fs::symlink_metadata(&real).map_err(read)?;
        let mode = fs::metadata(&real).map_err(read)?.permissions().mode() & 0o7777;
        let rewritten = match relative.extension() {
            Some(extension) if extension == "sources" => deb822::rewrite(&before, hop),
            _ => one_line::rewrite(&before, hop),
        };
        let path = Path::new("/").join(&relative);
        if kind.is_symlink() && rewritten.text != before {
            return Err(SourcesError::Link { path });
        }
        plan.findings.extend(rewritten.notes.into_iter().map(|(line, uri, what)| Finding {
            file: path.clone(),
            line,
            uri,
            what,
        }));
        plan.files.push(SourceFile { path, before, after: rewritten.text, mode });
    }
    let names_release =
        |finding: &Finding| matches!(finding.what, Note::Rewritten { .. } | Note::AlreadyTarget { .. });
    if !plan.findings.iter().any(names_release) {
        return Err(SourcesError::NothingToRewrite { from: hop.from().codename.to_owned() });
    }
    Ok(plan)
}

/// Writes the planned texts, after keeping the originals of all changed files in `kept`. Repeatable: originals that are complete are
/// not overwritten. Durable when it returns.
///
/// # Errors
/// Names the file; some may have been written then: [`restore`] undoes it.
pub fn apply(plan: &SourcesPlan, root: &Path, kept: &Path) -> Result<(), SourcesError> {
    if !kept.join(COMPLETE).exists() {
        for file in plan.files.iter().filter(|file| file.changes()) {
            let copy = kept.join(below(&file.path));
            durable::private_directory(copy.parent().unwrap_or(kept))?;
            durable::replace_file(&copy, file.before.as_bytes(), file.mode)?;
        }
        durable::private_directory(kept)?;
        durable::replace_file(&kept.join(COMPLETE), b"", 0o600)?;
    }
    for file in plan.files.iter().filter(|file| file.changes()) {
        durable::replace_file(&root.join(below(&file.path)), file.after.as_bytes(), file.mode)?;
    }
    Ok(())
}

/// Puts the kept originals back, byte by byte with their modes. Repeatable.
///
/// # Errors
/// [`SourcesError::NothingKept`] when [`apply`] never got as far as changing anything; otherwise names the file.
pub fn restore(root: &Path, kept: &Path) -> Result<(), SourcesError> {
    if !kept.join(COMPLETE).exists() {
        return Err(SourcesError::NothingKept { path: kept.to_owned() });
    }
    for relative in source_files(kept)? {
        let copy = kept.join(&relative);
        let read = |source| SourcesError::Read { path: copy.clone(), source };
        let bytes = fs::read(&copy).map_err(read)?;
        let mode = fs::metadata(&copy).map_err(read)?.permissions().mode() & 0o7777;
        durable::replace_file(&root.join(&relative), &bytes, mode)?;
    }
    Ok(())
}

/// What becomes of a suite.
#[must_use]
pub fn judge_suite(suite: &str, hop: &Hop) -> SuiteChange {
    let (from, to) = (hop.from().codename, hop.to().codename);
    if let Some(pocket) = pocket_of(suite, from) {
        return match pocket {
            "" | "-updates" | "-security" => SuiteChange::Rewrite(format!("{to}{pocket}")),
            "-backports" | "-backports-sloppy" | "-proposed-updates" | "-proposed" => SuiteChange::Disable,
            _ => SuiteChange::Other,
        };
    }
    if matches!(pocket_of(suite, to), Some("" | "-updates" | "-security" | "-backports")) {
        return SuiteChange::AlreadyTarget;
    }
    const ALIASES: [&str; 6] = ["stable", "oldstable", "testing", "unstable", "sid", "experimental"];
    const POCKETS: [&str; 5] = ["", "-updates", "-security", "-backports", "-proposed-updates"];
    let alias = |name: &str| pocket_of(suite, name).is_some_and(|pocket| POCKETS.contains(&pocket));
    if ALIASES.iter().any(|name| alias(name)) { SuiteChange::Alias } else { SuiteChange::Other }
}

/// Whether `non-free` is there without `non-free-firmware`, which was part of it before bookworm.
fn firmware_missing<'c>(components: impl IntoIterator<Item = &'c str>) -> bool {
    let set: BTreeSet<&str> = components.into_iter().collect();
    set.contains("non-free") && !set.contains("non-free-firmware")
}

/// Turns a suite's change into the note about it.
fn note_of(suite: &str, change: &SuiteChange) -> Note {
    let suite = suite.to_owned();
    match change {
        SuiteChange::Rewrite(to) => Note::Rewritten { from: suite, to: to.clone() },
        SuiteChange::Disable => Note::Disabled { suite },
        SuiteChange::AlreadyTarget => Note::AlreadyTarget { suite },
        SuiteChange::Alias => Note::AliasLeft { suite },
        SuiteChange::Other => Note::ThirdPartyLeft { suite },
    }
}

fn pocket_of<'s>(suite: &'s str, codename: &str) -> Option<&'s str> {
    let pocket = suite.strip_prefix(codename)?;
    (pocket.is_empty() || pocket.starts_with('-')).then_some(pocket)
}

fn below(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// The files that apt reads, relative to the root, in apt's order: the rules for names are those of sources.list(5).
fn source_files(root: &Path) -> Result<Vec<PathBuf>, SourcesError> {
    let apt = PathBuf::from(DIRECTORY);
    let main = apt.join("sources.list");
    let mut files: Vec<PathBuf> = if root.join(&main).exists() { vec![main] } else { Vec::new() };
    let parts = apt.join("sources.list.d");
    let read = |source| SourcesError::Read { path: root.join(&parts), source };
    let entries = match fs::read_dir(root.join(&parts)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        other => other.map_err(read)?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(read)?.file_name();
        let Some(name) = name.to_str() else { continue };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let known = name.ends_with(".list") || name.ends_with(".sources");
        if known && !name.starts_with('.') && name.bytes().all(plain) {
            names.insert(name.to_owned());
        }
    }
    files.extend(names.into_iter().map(|name| parts.join(name)));
    Ok(files)
}

#[cfg(test)]
mod tests;
