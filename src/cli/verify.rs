//! `safe-upgrade verify`: is this copy what it should be?

use std::ffi::OsString;
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::meter::Meter;
use super::report::{print_json, print_json_lines, print_text};
use crate::config::DEFAULT_PATH;
use crate::error::{Exit, Failure};
use crate::manifest::signature::Signers;
use crate::manifest::verdict::DEFAULT_KEPT;
use crate::manifest::{Facts, Report, Verdict};
use crate::places::StateDirectory;
use crate::sources::Source;
use crate::system::show;
use crate::system::span::Span;
use crate::verify::book::BookError;
use crate::verify::budget::{Budget, BudgetError, Seed, forget};
use crate::verify::select::Sample;
use crate::verify::{Against, Engine, Request, VerifyError, request::DEFAULT_SCRATCH, verify};

const COPIES: &str = "COPY is a path (a directory, a tar archive or a btrfs send stream, compressed or not), or one of
  tar:FILE  tar:-  send:FILE  send:-         an archive or stream, from standard input with -
  ssh:[USER@]HOST[:PORT]:/PATH               a directory on another machine
  restic:REPO  borg:REPO[::ARCHIVE]          a repository
  rclone:REMOTE:PATH                         whatever rclone reaches
Exit codes: 0 the same · 3 the manifest is not signed as --signers demands · 8 the same but for what such a copy cannot hold · 7 not the same · 1 could not find out";

/// Compares a copy with a manifest, or with a live tree. Needs no root and no configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = COPIES)]
pub struct VerifyArgs {
    /// The copy.
    #[arg(required_unless_present = "scheduled", conflicts_with = "scheduled")]
    pub copy: Option<OsString>,
    /// Verify what the configuration names in its [[verify]] sections and is due, or those of these names whether due or not.
    #[arg(long, value_name = "NAME", num_args = 0.., conflicts_with_all = ["manifest", "against"])]
    pub scheduled: Option<Vec<String>>,
    /// The configuration, for --scheduled.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
    /// Where the results of --scheduled are kept; by default with the journal.
    #[arg(long, value_name = "DIR", requires = "scheduled")]
    pub state: Option<PathBuf>,
    /// The manifest of what it should be.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["against", "scheduled"])]
    pub manifest: Option<PathBuf>,
    /// A live tree that it should be equal to, instead of a manifest.
    #[arg(long, value_name = "TREE", conflicts_with = "manifest")]
    pub against: Option<PathBuf>,
    /// With --against: enter other filesystems and subvolumes of the tree.
    #[arg(long, requires = "against")]
    pub cross_mounts: bool,
    /// The key of a keyed manifest: a file of 32 bytes, or of 64 hexadecimal digits.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Believe the manifest only when one of these keys signed it: a file in the form ALLOWED SIGNERS of ssh-keygen(1).
    #[arg(long, value_name = "FILE", conflicts_with = "against")]
    pub signers: Option<PathBuf>,
    /// Only this one of the signers.
    #[arg(long, value_name = "WHO", requires = "signers")]
    pub identity: Option<String>,
    /// Keys that do not count any more: a key revocation list, or public keys, one a line.
    #[arg(long, value_name = "FILE", requires = "signers")]
    pub revoked: Option<PathBuf>,
    /// Really restore the copy into a fresh private directory in DIR, compare what came out, and remove it again.
    #[arg(long, value_name = "DIR")]
    pub restore_to: Option<PathBuf>,
    /// Where temporary files go.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_SCRATCH)]
    pub scratch: PathBuf,
    /// A loss that is known and wanted, and not held against the copy (may be given several times): mode, owner, mtime,
    /// mtime-nanoseconds, xattrs, acl, flags, holes, hard-links, symlinks, devices, fifos, sockets, directories.
    #[arg(long, value_name = "FACT", value_parser = fact)]
    pub accept_lost: Vec<Facts>,
    /// What an archive has in front of the manifest's paths, as srv/www; with a leading slash when it was made with absolute
    /// names (tar -P).
    #[arg(long, value_name = "PATH")]
    pub strip: Option<OsString>,
    /// Which snapshot or archive of a repository; by default the latest.
    #[arg(long, value_name = "ID")]
    pub snapshot: Option<String>,
    /// Where in the snapshot the tree is; by default where the manifest was taken.
    #[arg(long, value_name = "PATH")]
    pub inside: Option<PathBuf>,
    /// A file that holds the repository's password.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// A configuration file of the engine, as rclone's.
    #[arg(long, value_name = "FILE")]
    pub engine_config: Option<PathBuf>,
    /// An option for the engine (may be given several times). For ssh its own, as -p2222, and --sudo and --program=PATH for the
    /// other machine. For rclone --links and --metadata, if the copy was made so.
    #[arg(long, visible_alias = "engine-option", value_name = "OPTION", allow_hyphen_values = true)]
    pub ssh_option: Vec<OsString>,
    /// Read only a part of a directory's content, chosen by chance and always with the largest and the newest: a share, a
    /// number of files, or bytes, as 5%, 200 or 10GiB. All metadata are compared.
    #[arg(long, value_name = "AMOUNT", conflicts_with = "restore_to")]
    pub sample: Option<Sample>,
    /// Repeats the choice of an earlier run.
    #[arg(long, value_name = "N", requires = "sample")]
    pub seed: Option<u64>,
    /// Begin no file later than this after the beginning, as 2h.
    #[arg(long, value_name = "SPAN", conflicts_with = "restore_to")]
    pub max_duration: Option<Span>,
    /// Read what was not proven within this, as 30d; the copy is the same when every byte is. Needs --ledger.
    #[arg(long, value_name = "SPAN", requires = "ledger", conflicts_with = "restore_to")]
    pub max_age: Option<Span>,
    /// Read first what was never proven, then what was proven longest ago. Needs --ledger.
    #[arg(long, requires = "ledger")]
    pub oldest_first: bool,
    /// The file that keeps what was proven when; made when it is not there.
    #[arg(long, value_name = "FILE", conflicts_with = "restore_to")]
    pub ledger: Option<PathBuf>,
    /// Begin the ledger anew.
    #[arg(long, requires = "ledger")]
    pub forget: bool,
    /// How many rsyncs restore a directory at once.
    #[arg(long, value_name = "N", requires = "restore_to")]
    pub workers: Option<NonZeroUsize>,
    /// How many differences are listed in full; all are counted.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_KEPT)]
    pub max_differences: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Print one JSON object per difference, and the summary as the last.
    #[arg(long, conflicts_with = "json")]
    pub jsonl: bool,
}

/// Verifies and prints the report.
///
/// # Errors
/// When it could not be found out whether the copy is what it should be.
pub fn run(args: &VerifyArgs, places: &StateDirectory, out: &mut dyn Write) -> Result<Exit, Failure> {
    if let Some(names) = &args.scheduled {
        return super::scheduled::run(names, args, places, out);
    }
    let mut request = request(args)?;
    let mut believed = None;
    if let (Some(manifest), Some(allowed)) = (&args.manifest, &args.signers) {
        let (identity, revoked) = (args.identity.clone(), args.revoked.clone());
        let signers = Signers { allowed: allowed.clone(), identity, revoked };
        let held = believed.insert(super::sign::demand(manifest, &signers)?);
        request.against = Against::Manifest(held.path());
    }
    let meter = Meter::new();
    let report =
        verify(&request, &|state| meter.verifying(state)).map_err(|error| explain(&request, error))?;
    drop((meter, believed));
    let printed = match (args.json, args.jsonl) {
        (true, _) => print_json(&report, out),
        (_, true) => print_json_lines(&report, out),
        _ => print_text(&report, out),
    };
    printed.map_err(|error| Failure::failed("failed to write the report", error))?;
    Ok(exit_of(&report))
}

fn request(args: &VerifyArgs) -> Result<Request, Failure> {
    // clap requires it.
    let copy = args.copy.as_ref().ok_or_else(|| Failure::usage("name a copy"))?;
    let copy = Source::parse(copy).map_err(|error| Failure::usage(error.to_string()))?;
    let against = match (&args.manifest, &args.against) {
        (Some(manifest), _) => Against::Manifest(manifest.clone()),
        (None, Some(tree)) => Against::Tree(tree.clone()),
        // clap requires one of them.
        (None, None) => return Err(Failure::usage("give --manifest or --against")),
    };
    Ok(Request {
        hashing: super::keys::hashing(args.key_file.as_deref())?,
        restore_to: args.restore_to.clone(),
        scratch: args.scratch.clone(),
        accept_lost: args.accept_lost.iter().fold(Facts::NONE, |all, one| all.with(*one)),
        strip: args.strip.as_ref().map(|strip| strip.as_bytes().to_vec()).unwrap_or_default(),
        kept: args.max_differences,
        workers: args.workers.map(NonZeroUsize::get),
        cross_mounts: args.cross_mounts,
        budget: budget(args)?,
        ledger: args.ledger.clone(),
        engine: Engine {
            snapshot: args.snapshot.clone(),
            inside: args.inside.clone(),
            password_file: args.password_file.clone(),
            config: args.engine_config.clone(),
            options: args.ssh_option.clone(),
        },
        ..Request::new(copy, against)
    })
}

/// What was asked for, if anything but all; a ledger alone asks for all, and for the proof to be kept.
fn budget(args: &VerifyArgs) -> Result<Option<Budget>, Failure> {
    if let (true, Some(ledger)) = (args.forget, &args.ledger) {
        forget(ledger).map_err(|error| {
            Failure::failed(format!("could not begin the ledger {} anew", show::path(ledger)), error)
        })?;
    }
    let wanted = args.sample.is_some()
        || args.max_duration.is_some()
        || args.max_age.is_some()
        || args.ledger.is_some();
    let seed = match args.seed {
        Some(seed) => Seed::Given(seed),
        None => Seed::Fresh(super::random_seed()?),
    };
    Ok(wanted.then(|| Budget {
        sample: args.sample,
        seed,
        oldest_first: args.oldest_first,
        max_duration: args.max_duration.map(Span::duration),
        max_age: args.max_age.map(Span::duration),
    }))
}

fn fact(name: &str) -> Result<Facts, String> {
    match Facts::named(name) {
        Some(Facts::CONTENT) => Err("the loss of content cannot be accepted".to_owned()),
        Some(fact) => Ok(fact),
        None => {
            let known: Vec<&str> = Facts::ALL.without(Facts::CONTENT).names().collect();
            Err(format!("known are {}", known.join(", ")))
        }
    }
}

/// The exit code of a verdict.
#[must_use]
pub fn exit_of(report: &Report) -> Exit {
    match report.verdict() {
        Verdict::Same | Verdict::SameInPart => Exit::Done,
        Verdict::SameButLost => Exit::Lost,
        Verdict::NotSame => Exit::NotSame,
        Verdict::Unknown => Exit::Failed,
    }
}

/// The failure for a person, with what to do about it.
pub(super) fn explain(request: &Request, error: VerifyError) -> Failure {
    if let VerifyError::Inside { option, .. } = &error {
        let hint = format!("name another directory with {option}, outside of what is read");
        return Failure::usage(error.to_string()).hint(hint);
    }
    let hint = match &error {
        VerifyError::Restore(
            crate::backup::VerifyError::TooSmall { .. }
            | crate::backup::VerifyError::Restore(crate::backup::rsync::RsyncError::NoSpace { .. }),
        ) => Some("make room there, or name another directory with --restore-to"),
        VerifyError::Budget(BudgetError::Book(BookError::Ledger(_))) => {
            Some("--forget begins the ledger anew")
        }
        VerifyError::Scratch { .. } => Some("name another directory with --scratch"),
        VerifyError::Manifest { .. } => Some("without a whole manifest nothing can be said about the copy"),
        _ => None,
    };
    if matches!(error, VerifyError::NoBudget(_) | VerifyError::NoRestore(_)) {
        return Failure::usage(error.to_string());
    }
    let message = format!("could not find out whether {} is good", request.copy);
    let failure = Failure::failed(message, error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
