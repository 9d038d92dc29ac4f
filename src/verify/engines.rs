//! Repositories that only their own engine can read: what the engine is told, and what it brought.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::request::Request;
use crate::manifest::collect::{Collector, Sorted};
use crate::manifest::verdict::Restore;
use crate::sources::borg::Borg;
use crate::sources::engine::{Confined, EngineError, Restored, read_restored};
use crate::sources::restic::Restic;
use crate::sources::{Gathered, Reading, SourceError};
use crate::system::exec::Exec;
use crate::system::sandbox::Secret;

/// Variables that hold the credentials of stores on the network; restic's manual lists them.
const CREDENTIALS: [&str; 7] = ["AWS_", "AZURE_", "B2_", "GOOGLE_", "OS_", "RESTIC_REST_", "ST_"];

/// What came out, in order, and what restoring it took.
pub(super) type Brought = (Sorted, Gathered, Option<Restore>);

/// A restic repository. `tree` is where the manifest was taken.
pub(super) fn restic(
    repository: OsString,
    request: &Request,
    tree: &Path,
    reading: &Reading<'_>,
) -> Result<Brought, SourceError> {
    let file = request.engine.password_file.clone();
    let file = file.or_else(|| std::env::var_os("RESTIC_PASSWORD_FILE").map(PathBuf::from));
    let mut confined = Confined { secret: file.as_deref().map(secret_in).transpose()?, ..Confined::new() };
    confined.environment = std::env::vars_os()
        .filter(|(name, _)| CREDENTIALS.iter().any(|start| name.to_string_lossy().starts_with(start)))
        .collect();
    let mut restic = Restic {
        repository,
        snapshot: request.engine.snapshot.clone().unwrap_or_else(|| "latest".to_owned()),
        path: Some(request.engine.inside.clone().unwrap_or_else(|| tree.to_owned())),
        confined,
    };
    if !restic.is_remote() {
        restic.confined.environment.clear();
    }
    match &request.restore_to {
        Some(below) => brought(restic.restore(below)?, reading),
        None => streamed(reading, |into| restic.read(reading, into)),
    }
}

/// A borg repository.
pub(super) fn borg(
    name: &OsStr,
    request: &Request,
    tree: &Path,
    reading: &Reading<'_>,
) -> Result<Brought, SourceError> {
    let mut confined = Confined::new();
    confined.secret = match (&request.engine.password_file, std::env::var("BORG_PASSCOMMAND")) {
        (Some(file), _) => Some(secret_in(file)?),
        (None, Ok(command)) => Some(secret_of(&command)?),
        (None, Err(_)) => None,
    };
    if let Some(keys) = borg_keys() {
        confined.environment.push(("BORG_KEYS_DIR".into(), keys.clone().into()));
        confined.read.push(keys);
    }
    let mut borg = Borg::named(name, confined);
    if let Some(archive) = request.engine.snapshot.as_ref().filter(|archive| *archive != "latest") {
        borg.archive = Some(archive.into());
    }
    borg.path = Some(request.engine.inside.clone().unwrap_or_else(|| tree.to_owned()));
    match &request.restore_to {
        Some(below) => brought(borg.restore(below)?, reading),
        None => streamed(reading, |into| borg.read(reading, into)),
    }
}

fn streamed(
    reading: &Reading<'_>,
    read: impl FnOnce(&mut Collector) -> Result<Gathered, EngineError>,
) -> Result<Brought, SourceError> {
    let mut into = Collector::new(reading.scratch);
    let gathered = read(&mut into)?;
    Ok((into.finish()?, gathered, None))
}

fn brought(restored: Restored, reading: &Reading<'_>) -> Result<Brought, SourceError> {
    let (sorted, mut gathered) = read_restored(&restored, reading)?;
    let restore = Restore { seconds: restored.seconds, bytes: restored.bytes };
    if let Err(error) = restored.remove() {
        gathered.remarks.push(format!("the restored tree could not be removed: {error}"));
    }
    Ok((sorted, gathered, Some(restore)))
}

fn secret_in(file: &Path) -> Result<Secret, SourceError> {
    let bytes = std::fs::read(file).map_err(|source| SourceError::Open { path: file.to_owned(), source })?;
    Ok(Secret::new(bytes))
}

/// What a command prints; it runs outside the sandbox, as the person who set it meant it to.
fn secret_of(command: &str) -> Result<Secret, SourceError> {
    let mut words = command.split_ascii_whitespace();
    let (Some(program), false) = (words.next(), command.contains(['\'', '"', '\\', '$', '|', ';'])) else {
        return Err(EngineError::PassCommand(command.to_owned()).into());
    };
    let output = Exec::new(program).and_then(|exec| exec.args(words).success());
    Ok(Secret::new(output.map_err(EngineError::from)?.stdout))
}

/// Where borg keeps the keys of repositories that do not hold their own.
fn borg_keys() -> Option<PathBuf> {
    let named = std::env::var_os("BORG_KEYS_DIR").map(PathBuf::from);
    let usual = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".config/borg/keys"));
    named.or_else(usual).filter(|keys| keys.is_dir())
}
