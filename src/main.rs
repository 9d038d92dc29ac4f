//! The program: everything is in the library.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use safe_upgrade::cli;
use safe_upgrade::error::{Exit, Failure, chain};

#[derive(Debug, Parser)]
#[command(version, about)]
enum Command {
    Manifest(cli::manifest::ManifestArgs),
    Verify(cli::verify::VerifyArgs),
}

fn main() -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let ended = match Command::parse() {
        Command::Manifest(args) => cli::manifest::run(&args, &mut out),
        Command::Verify(args) => cli::verify::run(&args, &mut out),
    };
    let ended = match (out.flush(), ended) {
        (Err(error), Ok(_)) => Err(Failure::failed("could not write the output", error)),
        (_, ended) => ended,
    };
    ExitCode::from(ended.unwrap_or_else(|failure| report(&failure)).code())
}

fn report(failure: &Failure) -> Exit {
    let mut err = io::stderr().lock();
    // There is nowhere left to tell.
    drop(writeln!(err, "safe-upgrade: {}", chain(failure)));
    if let Some(hint) = failure.hint_text() {
        drop(writeln!(err, "hint: {hint}"));
    }
    failure.exit()
}
