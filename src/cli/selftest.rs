//! `safe-upgrade selftest`: damages copies in every way it knows and lets the installed program find it.
//!
//! Nothing here judges: each copy is given to the program itself, as a person would, and only what it printed and how it ended counts.

mod damages;
mod ground;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{SCHEMA, print_json, written};
use crate::error::{Exit, Failure};
use crate::manifest::Class;
use crate::manifest::verdict::Meaning;
use crate::system::exec::{Exec, ExecError, Output, find_tool};
use crate::system::{mounts, show};

use damages::{Damage, Expected, Victim};
use ground::Able;

/// Arguments of `selftest`.
#[derive(Debug, clap::Args)]
pub struct SelftestArgs {
    /// Where the private directory is made; about 10 MB for a moment. What can be tried depends on the filesystem.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub dir: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// The program to test; by default this one.
    #[arg(long, value_name = "FILE", hide = true)]
    pub program: Option<PathBuf>,
}

/// Tries every damage and prints what was found.
///
/// # Errors
/// When a copy could not be made or damaged, or the program could not be run. A damage that is not found is no error but the answer.
pub fn run(args: &SelftestArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let private =
        tempfile::Builder::new().prefix("safe-upgrade-selftest-").tempdir_in(&args.dir).map_err(|error| {
            Failure::failed(format!("could not make a directory in {}", show::path(&args.dir)), error)
        })?;
    let program = match &args.program {
        Some(program) => program.clone(),
        None => {
            std::env::current_exe().map_err(|error| Failure::failed("could not find this program", error))?
        }
    };
    let bench = Bench::set_up(private.path().to_owned(), program)?;
    let mut tried = Vec::new();
    if !args.json {
        written(writeln!(out, "{:<44} {:<14} {:<24} caught", "damage", "expected", "found"))?;
    }
    for damage in damages::all() {
        let row = bench.try_out(&damage)?;
        if !args.json {
            written(print_row(&row, out))?;
        }
        tried.push(row);
    }
    let passed = tried.iter().all(|row| !matches!(row.outcome, Outcome::Missed { .. }));
    if args.json {
        print_json(out, &bench.json(&tried, passed))?;
    } else {
        written(bench.print_end(&tried, passed, out))?;
    }
    private.close().map_err(|error| Failure::failed("could not remove the copies again", error))?;
    Ok(if passed { Exit::Done } else { Exit::Failed })
}

/// A damage and what became of it.
struct Row {
    name: &'static str,
    expected: Expected,
    outcome: Outcome,
}

enum Outcome {
    /// The program said what it should.
    Caught { found: String },
    /// The program said something else.
    Missed { found: String },
    /// It cannot be tried here.
    Skipped { why: String },
}

/// The private directory with what every trial needs.
struct Bench {
    directory: PathBuf,
    program: PathBuf,
    able: Able,
    /// Why there is no archive.
    archive: Result<(), String>,
}

impl Bench {
    fn set_up(directory: PathBuf, program: PathBuf) -> Result<Self, Failure> {
        let tree = directory.join("tree");
        let built = || -> io::Result<Able> {
            fs::create_dir(&tree)?;
            let able = Able::probe(&tree)?;
            fs::remove_dir(&tree)?;
            ground::build(&tree, &able)?;
            Ok(able)
        };
        let able =
            built().map_err(|error| Failure::failed("could not make the tree of the self-test", error))?;
        let mut bench = Self { directory, program, able, archive: Ok(()) };
        let manifest = bench.directory.join("tree.manifest");
        let created =
            bench.call(&["manifest".as_ref(), "create".as_ref(), &tree, "-o".as_ref(), &manifest])?;
        if !created.status.success() || !manifest.is_file() {
            let message = String::from_utf8_lossy(&created.stderr).trim().to_owned();
            return Err(Failure::new(Exit::Failed, "the program could not make a manifest")
                .hint(show::line(&message)));
        }
        bench.archive = bench.make_archive(&tree);
        Ok(bench)
    }

    fn make_archive(&self, tree: &Path) -> Result<(), String> {
        if find_tool("tar").is_err() {
            return Err("tar is not installed".to_owned());
        }
        let made = Exec::new("tar").and_then(|tar| {
            tar.args([
                "--create",
                "--format=posix",
                "--sparse",
                "--xattrs",
                "--xattrs-include=*",
                "--acls",
                "--file",
            ])
            .arg(self.directory.join("tree.tar"))
            .arg("--directory")
            .arg(tree)
            .arg(".")
            .success()
        });
        made.map(drop).map_err(|error| show::line(&error.to_string()))
    }

    fn try_out(&self, damage: &Damage) -> Result<Row, Failure> {
        let possible = match damage.victim {
            Victim::Archive => &self.archive,
            Victim::Copy | Victim::Manifest => (damage.needs)(&self.able),
        };
        let outcome = match possible {
            Err(why) => Outcome::Skipped { why: why.clone() },
            Ok(()) => {
                let (copy, manifest) = self.spoil(damage).map_err(|error| {
                    Failure::failed(format!("could not try out \"{}\"", damage.name), error)
                })?;
                let output = self.call(&[
                    "verify".as_ref(),
                    &copy,
                    "--manifest".as_ref(),
                    &manifest,
                    "--json".as_ref(),
                ])?;
                judge(damage.expected, damage.victim, &Answer::of(&output))
            }
        };
        Ok(Row { name: damage.name, expected: damage.expected, outcome })
    }

    /// A fresh copy and the manifest, one of them damaged.
    fn spoil(&self, damage: &Damage) -> io::Result<(PathBuf, PathBuf)> {
        let (copy, manifest) = (self.directory.join("copy"), self.directory.join("copy.manifest"));
        if copy.exists() {
            fs::remove_dir_all(&copy)?;
        }
        fs::copy(self.directory.join("tree.manifest"), &manifest)?;
        match damage.victim {
            Victim::Copy => {
                ground::build(&copy, &self.able)?;
                (damage.damage)(&copy)?;
                ground::stamp(&copy)?;
                (damage.last)(&copy)?;
            }
            Victim::Manifest => {
                ground::build(&copy, &self.able)?;
                (damage.damage)(&manifest)?;
            }
            Victim::Archive => {
                let archive = self.directory.join("copy.tar");
                fs::copy(self.directory.join("tree.tar"), &archive)?;
                (damage.damage)(&archive)?;
                let mut name = std::ffi::OsString::from("tar:");
                name.push(archive);
                return Ok((name.into(), manifest));
            }
        }
        Ok((copy, manifest))
    }

    fn call(&self, arguments: &[&Path]) -> Result<Output, Failure> {
        // Absolute, so it is not looked for.
        let program = self.program.to_string_lossy().into_owned();
        let ran: Result<Output, ExecError> =
            Exec::new(&program).and_then(|exec| exec.args(arguments).output());
        ran.map_err(|error| Failure::failed("could not run the program that is tested", error))
    }

    fn filesystem(&self) -> String {
        let known = mounts::read()
            .ok()
            .and_then(|all| mounts::holding(&all, &self.directory).ok().map(|mount| mount.fs_type.clone()));
        known.unwrap_or_else(|| "an unknown filesystem".to_owned())
    }

    fn json(&self, rows: &[Row], passed: bool) -> Value {
        let damages: Vec<Value> = rows.iter().map(row_json).collect();
        json!({
            "schema": SCHEMA,
            "passed": passed,
            "program": show::path(&self.program),
            "version": env!("CARGO_PKG_VERSION"),
            "filesystem": self.filesystem(),
            "caught": count(rows, |outcome| matches!(outcome, Outcome::Caught { .. })),
            "missed": count(rows, |outcome| matches!(outcome, Outcome::Missed { .. })),
            "skipped": count(rows, |outcome| matches!(outcome, Outcome::Skipped { .. })),
            "damages": damages,
        })
    }

    fn print_end(&self, rows: &[Row], passed: bool, out: &mut dyn Write) -> io::Result<()> {
        let skipped = count(rows, |outcome| matches!(outcome, Outcome::Skipped { .. }));
        let missed = count(rows, |outcome| matches!(outcome, Outcome::Missed { .. }));
        let program = show::path(&self.program);
        let place = format!("{program} {} on {}", env!("CARGO_PKG_VERSION"), self.filesystem());
        let tried = rows.len() - skipped;
        let not_tried =
            if skipped == 0 { String::new() } else { format!("; {skipped} could not be tried here") };
        match passed {
            true => writeln!(out, "passed: all {tried} trials ended as they should, with {place}{not_tried}"),
            false => {
                writeln!(out, "NOT passed: {missed} of {tried} trials ended wrongly, with {place}{not_tried}")
            }
        }
    }
}

/// What the program said.
struct Answer {
    code: Option<i32>,
    verdict: Option<String>,
    /// The classes that it counted.
    classes: Vec<String>,
}

impl Answer {
    fn of(output: &Output) -> Self {
        let object: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        let classes = object["counts"].as_object().map(|counts| {
            counts
                .iter()
                .filter(|(_, count)| count.as_u64() != Some(0))
                .map(|(class, _)| class.clone())
                .collect()
        });
        Self {
            code: output.status.code(),
            verdict: object["verdict"].as_str().map(str::to_owned),
            classes: classes.unwrap_or_default(),
        }
    }

    fn is(&self, exit: Exit, verdict: &str) -> bool {
        self.code == Some(i32::from(exit.code())) && self.verdict.as_deref() == Some(verdict)
    }

    fn text(&self) -> String {
        match (&self.verdict, self.code) {
            (Some(_), _) if !self.classes.is_empty() => self.classes.join(" "),
            (Some(verdict), _) => verdict.clone(),
            (None, Some(code)) if code == i32::from(Exit::Failed.code()) => "refused".to_owned(),
            (None, code) => format!(
                "no answer (exit code {})",
                code.map_or_else(|| "none".to_owned(), |code| code.to_string())
            ),
        }
    }
}

/// The exit code and the words must agree with each other and with what was done.
fn judge(expected: Expected, victim: Victim, answer: &Answer) -> Outcome {
    let has = |class: Class| answer.classes.iter().any(|name| name == class.name());
    let refused = answer.code == Some(i32::from(Exit::Failed.code())) && answer.verdict.is_none();
    let not_same = answer.is(Exit::NotSame, "not-same");
    let right = match expected {
        Expected::Same if victim == Victim::Archive => {
            // No archive holds sockets.
            answer.classes.iter().all(|class| class == Class::LostByFormat.name())
                && answer.verdict.is_some()
                && !not_same
        }
        Expected::Same => answer.is(Exit::Done, "same") && answer.classes.is_empty(),
        Expected::Class(class) if class.meaning() == Meaning::Damage => not_same && has(class),
        Expected::Class(class) => has(class),
        Expected::Refused => refused,
        Expected::NotSame => not_same || refused,
    };
    let found = answer.text();
    if right { Outcome::Caught { found } } else { Outcome::Missed { found } }
}

fn count(rows: &[Row], wanted: impl Fn(&Outcome) -> bool) -> usize {
    rows.iter().filter(|row| wanted(&row.outcome)).count()
}

fn expected_text(expected: Expected) -> &'static str {
    match expected {
        Expected::Same => "same",
        Expected::Class(class) => class.name(),
        Expected::Refused => "refused",
        Expected::NotSame => "not the same",
    }
}

fn print_row(row: &Row, out: &mut dyn Write) -> io::Result<()> {
    let expected = expected_text(row.expected);
    match &row.outcome {
        Outcome::Caught { found } => writeln!(out, "{:<44} {expected:<14} {found:<24} yes", row.name),
        Outcome::Missed { found } => writeln!(out, "{:<44} {expected:<14} {found:<24} NO", row.name),
        Outcome::Skipped { why } => writeln!(out, "{:<44} {expected:<14} skipped: {why}", row.name),
    }
}

fn row_json(row: &Row) -> Value {
    let expected = expected_text(row.expected);
    match &row.outcome {
        Outcome::Caught { found } | Outcome::Missed { found } => json!({
            "damage": row.name,
            "expected": expected,
            "found": found,
            "caught": matches!(row.outcome, Outcome::Caught { .. }),
        }),
        Outcome::Skipped { why } => json!({ "damage": row.name, "expected": expected, "skipped": why }),
    }
}
