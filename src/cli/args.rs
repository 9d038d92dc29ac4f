//! What was typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::{manifest::ManifestArgs, selftest::SelftestArgs, verify::VerifyArgs};
use crate::config::DEFAULT_PATH;

/// Takes a Debian server to its next release, proven healthy, or back to the old one, proven restored.
#[derive(Debug, Parser)]
#[command(name = "safe-upgrade", version, max_term_width = 110, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Write what the program does to stderr (twice: in detail).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

const EXIT_CODES: &str = "Exit codes: 0 done · 1 failed or could not find out · 2 usage or configuration · 3 refused, nothing \
changed · 4 rolled back · 5 stuck, a human is needed · 6 another run holds the lock · 7 verified, and not the same · \
8 verified, and the same but for what the format of the copy cannot carry";

/// The commands, in the order in which a person meets them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a commented configuration for this server, and give the journal its own subvolume.
    Init(InitArgs),
    /// Look at this machine and say what would stop a run; changes nothing.
    Check(CheckArgs),
    /// Copy the configured trees to the store, restore them and compare.
    Backup(ConfigArgs),
    /// Upgrade a disposable clone of this machine in a container that reaches nothing, and say what would come of it.
    ///
    /// The clone is a snapshot of the root; where there are no snapshots it is the backup of /, restored and verified first.
    Rehearse(RehearseArgs),
    /// Upgrade to the next release; ends there, proven healthy, or here, proven restored.
    Run(RunArgs),
    /// Where the run stands, on which evidence, what happens next, how to go back.
    Status(ShowArgs),
    /// Go on with a run that was interrupted; the unit safe-upgrade-resume.service calls this at boot.
    Resume(ResumeArgs),
    /// Bring the old system back.
    Rollback(RollbackArgs),
    /// Accept a healthy trial for good (with `rule = "manual"` or `rule = "confirm"`).
    Commit(DecideArgs),
    /// The whole story of the last run: what happened and when, what a rollback took back and kept, and the post-mortem.
    Report(ShowArgs),
    /// Every run that this machine has seen.
    History(ShowArgs),
    /// Delete snapshots and failed roots that are older than the retention.
    Prune(PruneArgs),
    /// Compare a copy with a manifest, where it is or really restored: needs no root, no configuration.
    Verify(VerifyArgs),
    /// Create, show, compare and export manifests.
    Manifest(ManifestArgs),
    /// Damage copies in every way it knows, and show that `verify` catches it on this machine.
    Selftest(SelftestArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
    /// Write the man pages into a directory.
    Man(ManArgs),
}

/// Where the configuration lies.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "the struct says it")]
    pub common: ConfigArgs,
    /// The directory for backups: on another device than the data.
    #[arg(long, value_name = "DIR", default_value = "/srv/backup")]
    pub store: PathBuf,
    /// Replace a configuration that is there.
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "the struct says it")]
    pub common: ConfigArgs,
    /// The release to go to; by default the next one.
    #[arg(long, value_name = "RELEASE")]
    pub to: Option<String>,
    /// Also show how configuration files that the upgrade will ask about differ from the new ones (may show secrets).
    #[arg(long, conflicts_with_all = ["json", "prove_boot"])]
    pub diff: bool,
    /// Also write what there is to answer about configuration files, for you to decide and to keep at /etc/safe-upgrade/answers.toml.
    #[arg(long, value_name = "FILE", conflicts_with = "prove_boot")]
    pub write_answers: Option<PathBuf>,
    /// Reboot through the boot chain, once into a kernel that dies, and see whether the machine comes back by itself.
    #[arg(long)]
    pub prove_boot: bool,
    /// With `--prove-boot`: do not ask.
    #[arg(long, requires = "prove_boot")]
    pub yes: bool,
}

/// Arguments of `rehearse`.
#[derive(Debug, Args)]
pub struct RehearseArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "the struct says it")]
    pub common: ConfigArgs,
    /// The release to go to; by default the next one.
    #[arg(long, value_name = "RELEASE")]
    pub to: Option<String>,
    /// Leave the upgraded clone running.
    #[arg(long)]
    pub keep: bool,
    /// Remove a clone that was left running, and whatever else a rehearsal has left behind; rehearse nothing.
    #[arg(long, conflicts_with_all = ["keep", "to"])]
    pub end: bool,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "the struct says it")]
    pub common: ConfigArgs,
    /// The release to go to; by default the next one.
    #[arg(long, value_name = "RELEASE")]
    pub to: Option<String>,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Drive the run in this very process instead of handing it to systemd.
    #[arg(long)]
    pub foreground: bool,
    /// Upgrade a disposable clone first; the run begins only when that goes well.
    #[arg(long)]
    pub rehearse: bool,
    /// Start a new run although the last one is stuck.
    #[arg(long)]
    pub leave_stuck: bool,
}

/// Arguments of commands that only show something.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// This boot has ended in emergency or rescue mode: a trial goes back. For safe-upgrade-emergency.service.
    #[arg(long, hide = true)]
    pub emergency: bool,
    /// The trial has had its time: without a verdict it goes back. For safe-upgrade-deadline.service.
    #[arg(long, hide = true, conflicts_with = "emergency")]
    pub overdue: bool,
    /// The machine goes down: say so, and drive nothing. For safe-upgrade-leave.service.
    #[arg(long, hide = true, conflicts_with_all = ["emergency", "overdue"])]
    pub leaving: bool,
}

/// Arguments of decisions about a run.
#[derive(Debug, Args)]
pub struct DecideArgs {
    /// The run, to be sure; by default the last one.
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
}

/// Arguments of `rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "the struct says it")]
    pub decide: DecideArgs,
    /// Drive the rollback in this very process instead of handing it to systemd.
    #[arg(long)]
    pub foreground: bool,
}

/// Arguments of `prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "the struct says it")]
    pub common: ConfigArgs,
    /// Say what would be deleted, and delete nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The directory.
    pub directory: PathBuf,
}
