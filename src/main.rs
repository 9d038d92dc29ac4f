//! The program: parse, do, say how it ended.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use safe_upgrade::cli::{self, args::Cli};
use safe_upgrade::error::{Exit, Failure};
use safe_upgrade::system::{sandbox, show};

fn main() -> ExitCode {
    // Before anything else: a stage of the sandbox is no command, so that no help and no completion offers it.
    if let Some(ended) = sandbox::stage_of(std::env::args_os()) {
        return ended.map_or_else(
            |error| {
                tell(&Failure::failed("the sandbox could not be set up", error));
                ExitCode::from(Exit::Failed.code())
            },
            |()| ExitCode::SUCCESS,
        );
    }
    if let Some(ended) = cli::rehearsal_stage_of(std::env::args_os()) {
        return ended.map_or_else(
            |failure| {
                tell(&failure);
                ExitCode::from(failure.exit().code())
            },
            |()| ExitCode::SUCCESS,
        );
    }
    let cli = Cli::parse();
    log_to_stderr(cli.verbose);
    match cli::run(&cli, &mut std::io::stdout().lock()) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(failure) => {
            tell(&failure);
            ExitCode::from(failure.exit().code())
        }
    }
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false).init();
}

/// The whole chain of causes once, then what to do.
fn tell(failure: &Failure) {
    let mut stderr = std::io::stderr().lock();
    // If stderr is closed there is nobody to tell.
    let _ = writeln!(stderr, "safe-upgrade: {}", show::line(&failure.to_string()));
    let mut cause = failure.source();
    while let Some(error) = cause {
        let _ = writeln!(stderr, "  because: {}", show::line(&error.to_string()));
        cause = error.source();
    }
    if let Some(hint) = failure.hint_text() {
        let _ = writeln!(stderr, "  hint: {hint}");
    }
}
