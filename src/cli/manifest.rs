//! `safe-upgrade manifest`: take, show, compare and export manifests.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::export::{self, ExportFormat};
use super::keys::hashing;
use super::meter::Meter;
use super::report::{print_json, print_text, put_bytes};
use super::sign::{self, CheckSignatureArgs, SignArgs};
use super::verify::exit_of;
use crate::error::{Exit, Failure};
use crate::manifest::compare::Rules;
use crate::manifest::diff::diff as compare_manifests;
use crate::manifest::entry::{Edge, Entry, Kind, Mtime, Status};
use crate::manifest::exclude::Excludes;
use crate::manifest::format::{FormatError, NewFile};
use crate::manifest::indexed::Indexed;
use crate::manifest::root::ManifestId;
use crate::manifest::scan::{Described, ScanError, describe};
use crate::manifest::{Hashing, Header, Report, ScanOptions, Summary, open_file_with};
use crate::system::{identity, show};
use crate::verify::request::DEFAULT_SCRATCH;

/// Takes, shows, compares and exports manifests. Needs no root and no configuration.
#[derive(Debug, clap::Args)]
pub struct ManifestArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ManifestCommand,
}

/// What can be done with manifests.
#[derive(Debug, clap::Subcommand)]
pub enum ManifestCommand {
    /// Reads a tree and writes its manifest.
    Create(CreateArgs),
    /// Says what a manifest is of, and that it is whole.
    Show {
        /// The manifest.
        file: PathBuf,
        /// The key of a keyed manifest.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Says whether each manifest follows the one before it.
    Chain {
        /// The manifests of one tree, the oldest first.
        #[arg(required = true, num_args = 2..)]
        files: Vec<PathBuf>,
        /// The key of keyed manifests.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
    },
    /// Compares two manifests, without reading what is equal in both.
    Diff {
        /// What should be.
        a: PathBuf,
        /// What is.
        b: PathBuf,
        /// The key of keyed manifests.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Signs a manifest with an ssh key.
    Sign(SignArgs),
    /// Says whose signature a manifest carries, and whether it counts (exit code 7 when not).
    CheckSignature(CheckSignatureArgs),
    /// Prints the entries of a manifest; if the exit code is not 0, what was printed is not all of it.
    Export {
        /// The manifest.
        file: PathBuf,
        /// How.
        #[arg(long, value_enum)]
        format: ExportFormat,
        /// The key of a keyed manifest.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
    },
}

/// Options of `manifest create`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The tree, a directory.
    pub tree: PathBuf,
    /// Where the manifest is written, or - for standard output; an existing one is replaced at once.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// The manifest of the same tree that this one follows; its id becomes part of this one.
    #[arg(long, value_name = "FILE")]
    pub previous: Option<PathBuf>,
    /// Where temporary files go, for large trees.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_SCRATCH)]
    pub scratch: PathBuf,
    /// Make all hashes with a key: a file of 32 bytes, or of 64 hexadecimal digits.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Leave out what matches, with all below: a path in the tree, with `?`, `*` and `**` (may be given several times).
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<OsString>,
    /// Enter other filesystems and subvolumes below the tree.
    #[arg(long)]
    pub cross_mounts: bool,
}

/// Runs one of the commands.
///
/// # Errors
/// When the answer could not be found out or written.
pub fn run(args: &ManifestArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    match &args.command {
        ManifestCommand::Create(args) => create(args, out),
        ManifestCommand::Show { file, key_file, json } => {
            show_file(file, &hashing(key_file.as_deref())?, *json, out)
        }
        ManifestCommand::Chain { files, key_file } => chain(files, &hashing(key_file.as_deref())?, out),
        ManifestCommand::Diff { a, b, key_file, json } => {
            diff([a, b], &hashing(key_file.as_deref())?, *json, out)
        }
        ManifestCommand::Sign(args) => sign::sign(args, out),
        ManifestCommand::CheckSignature(args) => sign::check_signature(args, out),
        ManifestCommand::Export { file, format, key_file } => {
            export::export(file, *format, &hashing(key_file.as_deref())?, out)
        }
    }
}

fn create(args: &CreateArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let patterns: Vec<Vec<u8>> = args.exclude.iter().map(|pattern| pattern.clone().into_vec()).collect();
    let excludes = Excludes::parse(&patterns).map_err(|error| Failure::usage(error.to_string()))?;
    let hashing = hashing(args.key_file.as_deref())?;
    let to_stdout = args.output.as_os_str() == "-";
    if !to_stdout {
        refuse_output_inside(args, &excludes)?;
    }
    let previous = args.previous.as_deref().map(|file| previous(file, &args.tree, &hashing)).transpose()?;
    let options = ScanOptions {
        excludes,
        cross_mounts: args.cross_mounts,
        hashing: hashing.clone(),
        // What the server had in memory stays there.
        tidy: true,
        ..ScanOptions::default()
    };
    let begun = Instant::now();
    let tree = show::path(&args.tree);
    let meter = Meter::new();
    let told = |state| meter.read(state);
    let described = if to_stdout {
        describe(&args.tree, &options, &args.scratch, previous, &mut *out, &told)
    } else {
        NewFile::begin(&args.output).map_err(ScanError::from).and_then(|mut file| {
            let described = describe(&args.tree, &options, &args.scratch, previous, file.to()?, &told)?;
            file.commit()?;
            Ok(described)
        })
    };
    drop(meter);
    let Described { summary: Summary { entries, bytes, id }, unstable, unreadable } = described
        .map_err(|error| Failure::failed(format!("could not make the manifest of {tree}"), error))?;
    let mut text = format!(
        "{entries} entries, {bytes} bytes of content, in {:.1} s\nid {id}\n",
        begun.elapsed().as_secs_f64()
    );
    if unstable > 0 {
        text.push_str(&format!("{unstable} entries changed while they were read, and are marked unstable\n"));
    }
    if unreadable > 0 {
        text.push_str(&format!("{unreadable} entries could not be read, and are marked so\n"));
    }
    // Where the manifest itself goes there is no place for words about it.
    if !to_stdout {
        out.write_all(text.as_bytes()).map_err(no_output)?;
    }
    Ok(if unreadable > 0 { Exit::Failed } else { Exit::Done })
}

/// The id of the manifest that the new one follows; it must be of the same tree of the same machine.
fn previous(file: &Path, tree: &Path, hashing: &Hashing) -> Result<ManifestId, Failure> {
    let indexed = Indexed::open(file, hashing).map_err(|error| unusable(file, error))?;
    let before = indexed.header();
    let now = std::fs::canonicalize(tree)
        .map_err(|error| Failure::failed(format!("could not look at {}", show::path(tree)), error))?;
    if before.tree != now.as_os_str().as_bytes() {
        let message = format!("{} is of {}, not of this tree", show::path(file), show::bytes(&before.tree));
        return Err(Failure::usage(message));
    }
    if !before.machine.is_empty() && before.machine != identity::machine_id() {
        return Err(Failure::usage(format!("{} is of another machine", show::path(file))));
    }
    Ok(indexed.summary().id)
}

fn chain(files: &[PathBuf], hashing: &Hashing, out: &mut dyn Write) -> Result<Exit, Failure> {
    let mut before: Option<(&Path, Header, ManifestId)> = None;
    let mut broken = 0;
    for file in files {
        let indexed = Indexed::open(file, hashing).map_err(|error| unusable(file, error))?;
        let (header, id) = (indexed.header().clone(), indexed.summary().id);
        let verdict = match &before {
            None => format!("first, taken {}", time(header.started)),
            Some((name, last, _)) if last.tree != header.tree || last.machine != header.machine => {
                broken += 1;
                format!("BROKEN: not of the same tree and machine as {}", show::path(name))
            }
            Some((name, _, last)) if header.previous != Some(*last) => {
                broken += 1;
                format!("BROKEN: does not follow {}", show::path(name))
            }
            Some((name, ..)) => format!("follows {}, taken {}", show::path(name), time(header.started)),
        };
        writeln!(out, "{}  {id}  {verdict}", show::path(file)).map_err(no_output)?;
        before = Some((file, header, id));
    }
    Ok(if broken > 0 { Exit::NotSame } else { Exit::Done })
}

/// A manifest in its own tree would be an entry that changes whenever it is written.
fn refuse_output_inside(args: &CreateArgs, excludes: &Excludes) -> Result<(), Failure> {
    let look = |path: &Path| {
        std::fs::canonicalize(path)
            .map_err(|error| Failure::failed(format!("could not look at {}", show::path(path)), error))
    };
    let tree = look(&args.tree)?;
    let parent = args.output.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = look(parent.unwrap_or(Path::new(".")))?;
    let Some(name) = args.output.file_name() else {
        return Err(Failure::usage(format!("{} is no file name", show::path(&args.output))));
    };
    let output = directory.join(name);
    let Ok(inside) = output.strip_prefix(&tree) else { return Ok(()) };
    if excludes.covers(inside.as_os_str().as_bytes()) {
        return Ok(());
    }
    let message = format!("{} is inside the tree {}", show::path(&output), show::path(&tree));
    Err(Failure::usage(message).hint("write it elsewhere, or leave it out with --exclude"))
}

/// What is counted while a manifest is read to its end.
#[derive(Default)]
struct Seen {
    kinds: std::collections::BTreeMap<&'static str, u64>,
    edges: u64,
    unstable: u64,
    unreadable: u64,
}

impl Seen {
    fn add(&mut self, entry: &Entry) {
        *self.kinds.entry(entry.kind.name()).or_default() += 1;
        self.edges += u64::from(matches!(entry.kind, Kind::Directory { edge: Edge::Mount | Edge::Stub }));
        self.unstable += u64::from(entry.status == Status::Unstable);
        self.unreadable += u64::from(matches!(entry.status, Status::Unreadable(_)));
    }
}

fn show_file(file: &Path, hashing: &Hashing, json: bool, out: &mut dyn Write) -> Result<Exit, Failure> {
    let mut reader = open_file_with(file, hashing).map_err(|error| unusable(file, error))?;
    let mut seen = Seen::default();
    for entry in &mut reader {
        seen.add(&entry.map_err(|error| unusable(file, error))?);
    }
    // The loop ended without an error, so the footer was found.
    let Some(summary) = reader.summary() else { return Err(Failure::new(Exit::Failed, "no footer")) };
    let text = match json {
        true => format!("{}\n", header_json(reader.header(), &summary, &seen)),
        false => header_text(reader.header(), &summary, &seen),
    };
    out.write_all(text.as_bytes()).map_err(no_output)?;
    Ok(Exit::Done)
}

fn header_text(header: &Header, summary: &Summary, seen: &Seen) -> String {
    let patterns: Vec<String> = header.excludes.iter().map(|pattern| show::bytes(pattern)).collect();
    let kinds: Vec<String> = seen.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let mounts = match (header.one_filesystem, header.crossed_mounts) {
        (true, _) => format!("not entered ({} left out)", seen.edges),
        (false, true) => "entered".to_owned(),
        (false, false) => "none met".to_owned(),
    };
    format!(
        "id        {}\nprevious  {}\ntree      {}\nhost      {}\ntaken     {} to {} by {}\nentries   {} ({})\nbytes     {}\n\
         excludes  {}\nmounts    {mounts}\nunstable  {}\nunreadable {}\nthe manifest is whole\n",
        summary.id,
        header.previous.map_or_else(|| "none named".to_owned(), |id| id.to_string()),
        show::bytes(&header.tree),
        show::line(&header.host),
        time(header.started),
        time(header.ended),
        show::line(&header.tool),
        summary.entries,
        kinds.join(", "),
        summary.bytes,
        if patterns.is_empty() { "none".to_owned() } else { patterns.join("  ") },
        seen.unstable,
        seen.unreadable,
    )
}

fn header_json(header: &Header, summary: &Summary, seen: &Seen) -> Value {
    let mut object = Map::new();
    object.insert("schema".to_owned(), 1.into());
    object.insert("id".to_owned(), summary.id.to_string().into());
    put_bytes(&mut object, "tree", &header.tree);
    let excludes: Vec<Value> = header.excludes.iter().map(|pattern| show::bytes(pattern).into()).collect();
    let more = json!({
        "host": header.host,
        "machine": header.machine,
        "filesystem": header.filesystem,
        "previous": header.previous.map(|id| id.to_string()),
        "keyed": header.key_check.is_some(),
        "tool": header.tool,
        "started": time(header.started),
        "ended": time(header.ended),
        "excludes": excludes,
        "one_filesystem": header.one_filesystem,
        "crossed_mounts": header.crossed_mounts,
        "entries": summary.entries,
        "bytes": summary.bytes,
        "kinds": seen.kinds,
        "edges": seen.edges,
        "unstable": seen.unstable,
        "unreadable": seen.unreadable,
    });
    if let Value::Object(more) = more {
        object.extend(more);
    }
    Value::Object(object)
}

fn diff([a, b]: [&Path; 2], hashing: &Hashing, json: bool, out: &mut dyn Write) -> Result<Exit, Failure> {
    let expected = Indexed::open(a, hashing).map_err(|error| unusable(a, error))?;
    let found = Indexed::open(b, hashing).map_err(|error| unusable(b, error))?;
    let mut report = Report::default();
    compare_manifests(&expected, &found, &Rules::default(), &mut report).map_err(|error| {
        let message = format!("could not compare {} with {}", show::path(a), show::path(b));
        Failure::failed(message, error)
    })?;
    let printed = if json { print_json(&report, out) } else { print_text(&report, out) };
    printed.map_err(no_output)?;
    Ok(exit_of(&report))
}

fn time(Mtime { seconds, nanoseconds }: Mtime) -> String {
    let nanoseconds = i32::try_from(nanoseconds).unwrap_or(0);
    match jiff::Timestamp::new(seconds, nanoseconds) {
        Ok(timestamp) => timestamp.to_string(),
        Err(_) => format!("{seconds} s after 1970"),
    }
}

pub(super) fn unusable(file: &Path, error: FormatError) -> Failure {
    Failure::failed(format!("could not use {}", show::path(file)), error)
}

pub(super) fn no_output(error: io::Error) -> Failure {
    Failure::failed("could not write the output", error)
}
