//! Doing: one file for each phase, in the order of the story. [`Machine`] is the real [`Host`].

pub mod aftermath;
mod ahead;
pub mod announce;
mod backup;
mod boot;
pub mod boot_proof;
mod boot_set;
pub mod carry;
mod check;
pub mod confirmation;
pub mod deadline;
pub mod divergence;
mod drain;
mod fallback;
pub mod foretold;
pub mod ground;
mod health;
mod loader;
mod packages;
pub mod plan;
pub mod post_mortem;
mod preflight;
pub mod prune;
pub mod rehearsal;
mod restore;
mod snapshot;
mod store;
mod trial;
mod ubuntu;
pub mod upgrade;

use std::convert::Infallible;
use std::path::{Path, PathBuf};

pub use backup::{back_up_all, verdict_lines};
pub use check::{Outlook, look, look_ahead, stops};
pub use fallback::let_go_of_stuck;

use crate::config::{self, Config};
use crate::driver::{Host, Trouble};
use crate::error::{Exit, Failure};
use crate::evidence::{
    BackupProof, BootFacts, CommitRule, Confirmation, FallbackFacts, Gate, HealthFacts, JournalFacts, Plan,
    PreflightFacts, RehearsalFacts, RestoreReport, RestoredFacts, SampleFacts, SnapshotFacts, SnapshotSet,
    UpgradeFacts,
};
use crate::journal::Journal;
use crate::machine::{Destination, Entry, Passage, Record, State, Undo};
use crate::places::StateDirectory;
use crate::progress::Progress;
use crate::release::holdoff::{self, HoldOff};
use crate::snapshot::names::RunNames;

type Result<T> = std::result::Result<T, Trouble>;

/// The real machine, in the middle of one run.
#[derive(Debug)]
pub struct Machine {
    places: StateDirectory,
    journal: Journal,
    config: Config,
    names: RunNames,
    directory: PathBuf,
    progress: Progress,
    held_off: Option<HoldOff>,
}

impl Machine {
    /// Opens the run that the journal is in, with the copy of the configuration that it was planned with.
    ///
    /// # Errors
    /// When there is no run, or its configuration is not the one that the plan names.
    pub fn open(places: StateDirectory, journal: Journal) -> std::result::Result<Self, Failure> {
        let Some(plan) = journal.state().plan() else {
            return Err(Failure::usage("there is no run to drive"));
        };
        let directory = places.run(&plan.run);
        let path = directory.join(plan::CONFIG_NAME);
        let (config, bytes) = config::load(&path)?;
        if plan::digest(&bytes) != plan.config {
            return Err(Failure::new(
                Exit::Failed,
                format!("{} is not the configuration that the run was planned with", path.display()),
            )
            .hint("put the original back; its BLAKE3 digest is in the journal's last Planned record"));
        }
        let names = RunNames::new(plan.run.as_str())
            .map_err(|error| Failure::failed("failed to name the run's snapshots", error))?;
        let progress = Progress::in_directory(&directory);
        Ok(Self { places, journal, config, names, directory, progress, held_off: None })
    }

    /// Keeps other package tools away from here on, until [`Machine::let_go`] or the end of this process. Repeatable.
    fn hold_off(&mut self) -> Result<()> {
        if self.held_off.is_none() {
            self.held_off = Some(HoldOff::begin().map_err(trouble)?);
        }
        Ok(())
    }

    /// Lets other package tools work again, also those that an earlier process held off. Repeatable.
    fn let_go(&mut self) -> Result<()> {
        match self.held_off.take() {
            Some(held_off) => held_off.release().map_err(trouble),
            None => holdoff::release_all().map_err(trouble),
        }
    }

    /// Once a rollback is recorded: counts what it took back, carries forward, looks at what went wrong. Does nothing where that
    /// is done already, or where there was no rollback. What does not work is told; it never fails.
    pub fn look_back(&self) {
        aftermath::of_rollback(self);
    }

    /// What belongs to the run.
    #[must_use]
    pub fn run_directory(&self) -> &Path {
        &self.directory
    }

    /// Where progress is written.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }
}

/// Turns an error of a layer below into "could not find out", with its causes.
fn trouble<E: std::error::Error + 'static>(error: E) -> Trouble {
    Trouble::from_error(&error)
}

impl Host for Machine {
    fn replay(&mut self) -> Result<State> {
        Ok(self.journal.state().clone())
    }

    fn append(&mut self, entry: Entry) -> Result<()> {
        self.journal.append(&entry).map_err(trouble)?;
        self.progress.line(&format!("recorded: {}", entry.record().name()));
        announce::tell(&self.places, self.journal.state(), self.journal.frames());
        if matches!(entry.record(), Record::HealthPassed { .. })
            && let Err(trouble) = deadline::met()
        {
            // When it runs out it finds the verdict, and does nothing.
            tracing::warn!(%trouble, "the deadline of the trial still runs");
        }
        if matches!(entry.record(), Record::Stuck { .. }) {
            trial::leave_to_a_human();
        }
        Ok(())
    }

    fn boot(&mut self) -> Result<BootFacts> {
        let plan = self.journal.state().plan().ok_or_else(|| Trouble::new("there is no run"))?;
        boot::facts(self, plan)
    }

    fn preflight(&mut self, plan: &Plan) -> Result<PreflightFacts> {
        self.progress.phase("preflight");
        preflight::look(self, plan)
    }

    fn journal_location(&mut self, plan: &Plan) -> Result<JournalFacts> {
        ground::journal_facts(&self.places, plan)
    }

    fn sample_backup(&mut self, plan: &Plan, claim: &BackupProof) -> Result<SampleFacts> {
        self.progress.phase("looking at the backup again");
        backup::sample(self, plan, claim)
    }

    fn inspect_snapshots(&mut self, plan: &Plan) -> Result<SnapshotFacts> {
        snapshot::facts(self, plan)
    }

    fn inspect_fallback(&mut self, plan: &Plan, _: &SnapshotSet) -> Result<FallbackFacts> {
        fallback::facts(self, plan)
    }

    fn check_health(&mut self, plan: &Plan) -> Result<HealthFacts> {
        self.progress.phase("health");
        let facts = health::of_trial(self)?;
        // Who waits for a word from outside stays under the dead man: nobody may be able to reach this machine.
        if facts.failed.is_empty() && plan.commit != CommitRule::Confirm {
            trial::stand_down()?;
        }
        Ok(facts)
    }

    fn back_up(&mut self, plan: &Plan) -> Result<RestoreReport> {
        self.progress.phase("backup");
        backup::back_up(self, plan)
    }

    fn rehearsal(&mut self, _: &Plan) -> Result<RehearsalFacts> {
        rehearsal::last(&self.config, &self.places)
    }

    fn drain(&mut self, _: &Plan) -> Result<Passage> {
        Ok(drain::pass())
    }

    fn take_snapshots(&mut self, plan: &Plan) -> Result<SnapshotFacts> {
        self.progress.phase("snapshot");
        snapshot::take(self, plan)
    }

    fn arm(&mut self, plan: &Plan, _: &SnapshotSet) -> Result<FallbackFacts> {
        self.progress.phase("fallback");
        fallback::arm(self, plan)
    }

    fn take_back(&mut self, plan: &Plan, what: Undo) -> Result<()> {
        match what {
            Undo::Disarm => fallback::disarm(self, plan),
            Undo::ReleaseSnapshots => snapshot::release(self),
            Undo::Undrain => drain::take_back(),
            Undo::Nothing => Ok(()),
        }
    }

    fn upgrade(&mut self, plan: &Plan, gate: Gate) -> Result<UpgradeFacts> {
        self.progress.phase("upgrade");
        upgrade::upgrade(self, plan, gate)
    }

    fn prepare_trial(&mut self, plan: &Plan) -> Result<BootFacts> {
        self.progress.phase("trial");
        deadline::set(self)?;
        trial::prepare(self, plan)
    }

    fn reboot(&mut self, plan: &Plan, into: Destination) -> Result<Infallible> {
        boot::reboot(self, plan, into)
    }

    fn trial_again(&mut self, plan: &Plan) -> Result<()> {
        trial::again(self, plan)
    }

    fn await_confirmation(&mut self, plan: &Plan, until: u64) -> Result<Confirmation> {
        self.progress.phase("waiting for the confirmation");
        confirmation::wait(self, plan, until)
    }

    fn settle_committed(&mut self, plan: &Plan) -> Result<()> {
        trial::settle(self, plan)?;
        deadline::lift()
    }

    fn restore(&mut self, plan: &Plan, _: &SnapshotSet) -> Result<RestoredFacts> {
        self.progress.phase("rollback");
        restore::restore(self, plan)
    }

    fn settle_restored(&mut self, _: &Plan) -> HealthFacts {
        self.progress.phase("health of the restored system");
        restore::settle(self)
    }
}
