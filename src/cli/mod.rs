//! What was typed, and what is shown. No decisions.

pub mod args;
mod backup;
mod check;
mod commit;
mod confirm;
mod drive;
pub mod export;
mod follow;
mod history;
mod init;
mod keys;
pub mod manifest;
mod meter;
mod outage;
mod papers;
mod prune;
mod rehearse;
mod report;
mod resume;
mod rollback;
mod run;
mod run_report;
mod scheduled;
pub mod selftest;
pub mod sign;
mod status;
pub mod story;
pub mod verify;

use std::io::Write;

use args::{Cli, Command};
pub use rehearse::stage_of as rehearsal_stage_of;

use crate::error::{Exit, Failure};
use crate::journal::{Journal, JournalError, Reading};
use crate::machine::State;
use crate::phases::ground;
use crate::places::StateDirectory;
use crate::system::lock::LockError;

/// The version of everything that `--json` prints (docs/json.md).
pub const SCHEMA: u32 = 1;

/// Does what was typed.
///
/// # Errors
/// The failure says how the program ends and what to do.
pub fn run(cli: &Cli, out: &mut dyn Write) -> Result<Exit, Failure> {
    let places = StateDirectory::default();
    match &cli.command {
        Command::Init(args) => init::run(args, &places, out),
        Command::Check(args) => check::run(args, &places, out),
        Command::Backup(args) => backup::run(args, &places, out),
        Command::Rehearse(args) => rehearse::run(args, &places, out),
        Command::Run(args) => run::run(args, &places, out),
        Command::Status(args) => status::run(args, &places, out),
        Command::Resume(args) => resume::run(args, &places, out),
        Command::Rollback(args) => rollback::run(args, &places, out),
        Command::Commit(args) => commit::run(args, &places, out),
        Command::Report(args) => run_report::run(args, &places, out),
        Command::History(args) => history::run(args, &places, out),
        Command::Prune(args) => prune::run(args, &places, out),
        Command::Verify(args) => verify::run(args, &places, out),
        Command::Manifest(args) => manifest::run(args, out),
        Command::Selftest(args) => selftest::run(args, out),
        Command::Completions(args) => papers::completions(args, out),
        Command::Man(args) => papers::man(args),
    }
}

fn needs_root(what: &str) -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::usage(format!("{what} needs root")).hint("run it with sudo"))
}

fn written(result: std::io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| Failure::failed("failed to write the output", error))
}

fn print_json(out: &mut dyn Write, value: &serde_json::Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::failed("failed to write JSON", error))?;
    written(writeln!(out, "{text}"))
}

/// Reads the journal without its lock, for showing.
fn read_journal(places: &StateDirectory) -> Result<(Reading, State), Failure> {
    needs_root("reading the journal")?;
    ground::is_there(places)?;
    status::read(places).map_err(journal_failure)
}

/// Opens the journal of a machine that has seen a run; none is made here.
fn open_journal(places: &StateDirectory) -> Result<Journal, Failure> {
    journal_if_any(places)?.ok_or_else(|| Failure::new(Exit::Refused, "this machine has never seen a run"))
}

/// The same, where a machine without one has something to do all the same.
fn journal_if_any(places: &StateDirectory) -> Result<Option<Journal>, Failure> {
    let open = || Journal::open(places.path()).map_err(journal_failure);
    ground::is_there(places)?.then(open).transpose()
}

/// A journal that could not be used, with its own exit code where another run holds it.
fn journal_failure(error: JournalError) -> Failure {
    match error {
        JournalError::Lock(LockError::Held(path)) => Failure::new(
            Exit::Locked,
            format!("another safe-upgrade is at work here (it holds {})", path.display()),
        )
        .hint("`safe-upgrade status` shows what it does"),
        JournalError::Damaged { .. } | JournalError::Replay { .. } => {
            Failure::failed("the journal can't be used", error).hint(
                "nothing was touched; keep a copy of the file, compare it with its backup, and ask for help",
            )
        }
        error => Failure::failed("the journal can't be used", error),
    }
}

/// A number that nobody can know beforehand.
fn random_seed() -> Result<u64, Failure> {
    let mut seed = [0_u8; 8];
    rustix::rand::getrandom(&mut seed[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Failure::failed("could not get a random number", std::io::Error::from(errno)))?;
    Ok(u64::from_le_bytes(seed))
}
