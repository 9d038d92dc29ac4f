//! The loop: replay, ask for the next step, do it, record it, again.
//!
//! There is no second path for recovery: after a crash or a reboot the same loop starts from the same journal. Only evidence
//! that was earned in this very process counts; what the journal says about an earlier process is a claim.

use std::convert::Infallible;

use crate::evidence::{
    BackupEvidence, BackupProof, Boot, BootFacts, BootId, CommitRule, Confirmation, FallbackEvidence,
    FallbackFacts, Gate, HealthEvidence, HealthFacts, JournalEvidence, JournalFacts, Place, Plan,
    PreflightEvidence, PreflightFacts, Refusal, RehearsalEvidence, RehearsalFacts, RestoreReport,
    RestoredEvidence, RestoredFacts, RolledBackEvidence, SampleFacts, SnapshotEvidence, SnapshotFacts,
    SnapshotSet, SwitchEvidence, TrialEvidence, UpgradeEvidence, UpgradeFacts, VolumeId, gate::Proofs,
};
use crate::machine::{CommittedBy, Destination, Entry, Passage, ROLLBACK_TRIES, State, Step, Undo, Why};

/// "Could not find out" or "could not do it": never a yes, and never a no.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(String);

impl Trouble {
    /// From a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// From an error, with its whole chain of causes.
    pub fn from_error(error: &(dyn std::error::Error + 'static)) -> Self {
        Self(crate::error::chain(error))
    }
}

type Result<T> = std::result::Result<T, Trouble>;
type Judged<T> = Result<std::result::Result<T, Refusal>>;

/// The single seam to the world: everything that a run asks of a machine and of its journal.
///
/// `R` repeatable, `P` probes first whether it already happened, `O` once.
#[expect(
    missing_docs,
    reason = "one line each, in the order of the story; the step of the same name says more"
)]
pub trait Host {
    // The journal.
    fn replay(&mut self) -> Result<State>;
    fn append(&mut self, entry: Entry) -> Result<()>;

    // Looking, R.
    fn boot(&mut self) -> Result<BootFacts>;
    fn preflight(&mut self, plan: &Plan) -> Result<PreflightFacts>;
    fn journal_location(&mut self, plan: &Plan) -> Result<JournalFacts>;
    fn sample_backup(&mut self, plan: &Plan, claim: &BackupProof) -> Result<SampleFacts>;
    fn inspect_snapshots(&mut self, plan: &Plan) -> Result<SnapshotFacts>;
    fn inspect_fallback(&mut self, plan: &Plan, snapshot: &SnapshotSet) -> Result<FallbackFacts>;
    fn check_health(&mut self, plan: &Plan) -> Result<HealthFacts>;

    // Preparing.
    fn back_up(&mut self, plan: &Plan) -> Result<RestoreReport>; // R
    fn rehearsal(&mut self, plan: &Plan) -> Result<RehearsalFacts>; // R
    fn drain(&mut self, plan: &Plan) -> Result<Passage>; // R
    fn take_snapshots(&mut self, plan: &Plan) -> Result<SnapshotFacts>; // P
    fn arm(&mut self, plan: &Plan, snapshot: &SnapshotSet) -> Result<FallbackFacts>; // P

    // Taking the preparations back.
    fn take_back(&mut self, plan: &Plan, what: Undo) -> Result<()>; // P

    // Changing.
    fn upgrade(&mut self, plan: &Plan, gate: Gate) -> Result<UpgradeFacts>; // O
    fn prepare_trial(&mut self, plan: &Plan) -> Result<BootFacts>; // P
    fn reboot(&mut self, plan: &Plan, into: Destination) -> Result<Infallible>; // R
    /// The trial's boot ends in an orderly way: the next one is the trial again. P.
    fn trial_again(&mut self, plan: &Plan) -> Result<()>;
    /// Waits for a word from outside until an uptime in seconds. R.
    fn await_confirmation(&mut self, plan: &Plan, until: u64) -> Result<Confirmation>;
    /// What must be true before a run counts as committed: the new release boots by default, traffic comes back. P.
    fn settle_committed(&mut self, plan: &Plan) -> Result<()>;

    // Restoring.
    fn restore(&mut self, plan: &Plan, snapshot: &SnapshotSet) -> Result<RestoredFacts>; // P
    /// What ends a proven rollback: traffic comes back, and health is looked at; it is reported, it does not decide. P.
    fn settle_restored(&mut self, plan: &Plan) -> HealthFacts;
}

/// Why the loop stopped.
#[derive(Debug)]
pub enum Stop {
    /// The run has ended, or there is none.
    Final(State),
    /// A healthy trial waits for an operator's word.
    AwaitsCommit(State),
}

/// Drives a run until it ends, the machine reboots, or nothing more can be written down.
///
/// # Errors
/// When the journal or the boot cannot be read, when a record cannot be appended, or when the machine does not reboot. The
/// journal then says where the run stands, and calling this again goes on from there.
pub fn run(host: &mut dyn Host) -> Result<Stop> {
    let mut earned = Earned::default();
    loop {
        let state = host.replay()?;
        let Some(plan) = state.plan() else { return Ok(Stop::Final(state)) };
        if state.is_final() {
            return Ok(Stop::Final(state));
        }
        let boot = Boot::judge(plan, state.snapshot(), &host.boot()?);
        let entry = match state.next_step(&boot) {
            Step::Stop => return Ok(Stop::Final(state)),
            Step::AwaitCommit { .. } => return Ok(Stop::AwaitsCommit(state)),
            step => perform(host, step, boot.id, &mut earned)?,
        };
        host.append(entry)?;
    }
}

/// Evidence that was earned in this process and is not yet used.
#[derive(Default)]
struct Earned {
    backup: Option<BackupEvidence>,
    health: Option<HealthEvidence>,
}

/// Says that the trial's boot ends in an orderly way, by somebody else than the run: the next boot is the trial again. Returns
/// whether there was anything to say.
///
/// # Errors
/// When the boot cannot be judged, the trial cannot be booted again, or the record cannot be written.
pub fn leave(host: &mut dyn Host) -> Result<bool> {
    let state = host.replay()?;
    let State::Trial { plan, boot: trial, left: false, .. } = &state else { return Ok(false) };
    if !plan.promise.method.survives_a_reboot() {
        return Ok(false);
    }
    let boot = Boot::judge(plan, state.snapshot(), &host.boot()?);
    if boot.place != Place::PlannedRoot || boot.id != *trial {
        return Ok(false);
    }
    // In this order: cut in between, the trial boots and is taken for interrupted, which leads back.
    host.trial_again(plan)?;
    host.append(Entry::trial_left(boot.id))?;
    Ok(true)
}

/// Turns a trial back that this boot is, because it can't come to a verdict any more. Returns whether there was one; `healthy` says
/// whether one that has passed its checks in this very boot counts too.
///
/// # Errors
/// When the boot cannot be judged or the record cannot be written.
pub fn give_up_trial(host: &mut dyn Host, cause: &str, healthy: bool) -> Result<bool> {
    let state = host.replay()?;
    let Some(plan) = state.plan() else { return Ok(false) };
    let boot = Boot::judge(plan, state.snapshot(), &host.boot()?);
    let on_trial = match &state {
        State::Rebooting { from, .. } => *from != boot.id,
        State::Trial { boot: trial, health, .. } => healthy || health.is_none() || *trial != boot.id,
        _ => false,
    };
    if !on_trial || boot.place != Place::PlannedRoot {
        return Ok(false);
    }
    host.append(Entry::rollback_started(Why::Trouble { during: "the trial".into(), cause: cause.into() }))?;
    Ok(true)
}

/// Commits a healthy trial by an operator's word: health is judged once more, in this process.
///
/// # Errors
/// When health cannot be found out or the record cannot be written.
pub fn commit(host: &mut dyn Host, plan: &Plan) -> Judged<()> {
    let state = host.replay()?;
    let boot = Boot::judge(plan, state.snapshot(), &host.boot()?);
    if boot.place != Place::PlannedRoot
        || !matches!(&state, State::Trial { boot: trial, .. } if *trial == boot.id)
    {
        return Err(Trouble::new("the machine is not in the boot whose health was proven"));
    }
    let evidence = match HealthEvidence::judge(host.check_health(plan)?) {
        Ok(evidence) => evidence,
        Err(refusal) => return Ok(Err(refusal)),
    };
    host.settle_committed(plan)?;
    host.append(Entry::committed(&evidence, CommittedBy::Operator))?;
    Ok(Ok(()))
}

/// Does one step and returns what to write down about it. Trouble becomes a turn back wherever there is a way back.
fn perform(host: &mut dyn Host, step: Step, now: BootId, earned: &mut Earned) -> Result<Entry> {
    Ok(match step {
        Step::Preflight { plan } => {
            let judged = host.preflight(&plan).map(|facts| PreflightEvidence::judge(&plan, facts));
            or_refuse("preflight", judged, |evidence| Entry::checked(&evidence))
        }
        Step::BackUp { plan } => {
            let judged = host.back_up(&plan).map(|report| BackupEvidence::judge(&plan, &report));
            or_refuse("the backup", judged, |evidence| {
                let entry = Entry::backup_verified(&evidence);
                earned.backup = Some(evidence);
                entry
            })
        }
        Step::Rehearse { plan } => rehearse(host, &plan),
        Step::Drain { plan } => or_refuse("draining", host.drain(&plan).map(Ok), Entry::drained),
        Step::TakeSnapshots { plan } => {
            let judged = host.take_snapshots(&plan).map(|facts| SnapshotEvidence::judge(&plan, facts));
            or_refuse("taking the snapshot", judged, |evidence| Entry::snapshot_sealed(&evidence))
        }
        Step::Arm { plan, snapshot } => {
            let judged =
                host.arm(&plan, &snapshot).map(|facts| FallbackEvidence::judge(&plan, &snapshot, facts));
            or_refuse("arming the fallback", judged, |evidence| Entry::fallback_armed(&evidence))
        }
        Step::Upgrade { plan, backup: claim, snapshot } => {
            match open_gate(host, &plan, &claim, &snapshot, earned.backup.take()) {
                Ok(Ok(gate)) => upgrade(host, &plan, gate, now)?,
                Ok(Err(refusal)) => Entry::refusal_started(Why::Judged { refusal }),
                Err(trouble) => Entry::refusal_started(why("proving everything again", &trouble)),
            }
        }
        Step::PrepareTrial { plan, snapshot, boot } => {
            let judged =
                host.prepare_trial(&plan).map(|facts| SwitchEvidence::judge(&plan, &snapshot, &facts));
            or_roll_back("preparing the trial", judged, |evidence| Entry::reboot_started(&evidence, boot))
        }
        Step::Reboot { plan, into } => match host.reboot(&plan, into)? {},
        Step::EnterTrial { plan } => {
            let judged = host.boot().map(|facts| TrialEvidence::judge(&plan, &facts));
            or_roll_back("entering the trial", judged, |evidence| Entry::trial_booted(&evidence))
        }
        Step::CheckHealth { plan } => check_health(host, &plan, earned),
        Step::AwaitConfirmation { plan, until } => await_confirmation(host, &plan, until, earned),
        Step::TakeBack { plan, what } => match tried(|| host.take_back(&plan, what)) {
            Ok(()) => Entry::undone(what),
            Err(trouble) => Entry::stuck(why("taking the preparations back", &trouble)),
        },
        Step::Refuse { .. } => Entry::refused(),
        Step::StartRefusal { why } => Entry::refusal_started(why),
        Step::StartRollback { why } => Entry::rollback_started(why),
        Step::RollBack { plan, snapshot } => roll_back(host, &plan, &snapshot),
        Step::ProveRollback { plan, volume } => prove_rollback(host, &plan, &volume),
        Step::GiveUp { why } => Entry::stuck(why),
        Step::Stop | Step::AwaitCommit { .. } => {
            return Err(Trouble::new("nothing is to be done in this state"));
        }
    })
}

/// A rehearsal that counts is used; one that is wanted and missing ends the run; otherwise the journal says why there is none.
fn rehearse(host: &mut dyn Host, plan: &Plan) -> Entry {
    let judged = host.rehearsal(plan).map(|facts| RehearsalEvidence::judge(plan, &facts));
    match judged {
        Ok(Err(refusal)) if !plan.rehearsal.required => Entry::rehearsal_left_out(refusal.why),
        Err(trouble) if !plan.rehearsal.required => {
            Entry::rehearsal_left_out(format!("it could not be found out whether one counts: {trouble}"))
        }
        judged => or_refuse("looking for a rehearsal", judged, |evidence| Entry::rehearsed(&evidence)),
    }
}

/// Every proof, earned here and now.
fn open_gate(
    host: &mut dyn Host,
    plan: &Plan,
    claim: &BackupProof,
    snapshot: &SnapshotSet,
    held: Option<BackupEvidence>,
) -> Judged<Gate> {
    let backup = match held {
        Some(evidence) => Ok(evidence),
        None => backup_again(host, plan, claim)?,
    };
    let seen = SnapshotEvidence::judge(plan, host.inspect_snapshots(plan)?);
    let fallback = FallbackEvidence::judge(plan, snapshot, host.inspect_fallback(plan, snapshot)?);
    let journal = JournalEvidence::judge(plan, &host.journal_location(plan)?);
    Ok((|| {
        let proofs = Proofs { backup: backup?, snapshot: seen?, fallback: fallback?, journal: journal? };
        Gate::open(plan, claim, snapshot, proofs)
    })())
}

/// After a restart: a look at the store when the rule allows it, otherwise the whole verification again.
fn backup_again(host: &mut dyn Host, plan: &Plan, claim: &BackupProof) -> Judged<BackupEvidence> {
    let sample = host.sample_backup(plan, claim)?;
    match BackupEvidence::judge_again(plan, claim, &sample) {
        Ok(evidence) => Ok(Ok(evidence)),
        Err(_too_weak) => Ok(BackupEvidence::judge(plan, &host.back_up(plan)?)),
    }
}

/// Intent, effect, fact.
fn upgrade(host: &mut dyn Host, plan: &Plan, gate: Gate, now: BootId) -> Result<Entry> {
    host.append(Entry::upgrade_started(&gate, now))?;
    let judged = host.upgrade(plan, gate).map(|facts| UpgradeEvidence::judge(plan, facts));
    Ok(or_roll_back("the upgrade", judged, |evidence| Entry::upgrade_finished(&evidence)))
}

fn check_health(host: &mut dyn Host, plan: &Plan, earned: &mut Earned) -> Entry {
    let judged = host.check_health(plan).map(HealthEvidence::judge);
    let Ok(Ok(evidence)) = judged else {
        return or_roll_back("checking health", judged, |evidence| Entry::health_passed(&evidence, 0));
    };
    match (plan.commit, host.boot()) {
        (CommitRule::Automatic, _) => settle(host, plan, &evidence, CommittedBy::Rule),
        (_, Ok(now)) => {
            let entry = Entry::health_passed(&evidence, now.uptime);
            earned.health = Some(evidence);
            entry
        }
        (_, Err(trouble)) => Entry::rollback_started(why("looking at the clock", &trouble)),
    }
}

/// A word from outside ends the trial well; no word in time means that nobody can reach the machine, and it goes back.
fn await_confirmation(host: &mut dyn Host, plan: &Plan, until: u64, earned: &mut Earned) -> Entry {
    match host.await_confirmation(plan, until) {
        Err(trouble) => return Entry::rollback_started(why("waiting for the confirmation", &trouble)),
        Ok(Confirmation::Missed) => return Entry::rollback_started(Why::NotConfirmed),
        Ok(Confirmation::Given) => {}
    }
    let judged = match earned.health.take() {
        Some(evidence) => Ok(Ok(evidence)),
        None => host.check_health(plan).map(HealthEvidence::judge),
    };
    let Ok(Ok(evidence)) = judged else {
        return or_roll_back("checking health", judged, |evidence| Entry::health_passed(&evidence, 0));
    };
    settle(host, plan, &evidence, CommittedBy::Operator)
}

fn settle(host: &mut dyn Host, plan: &Plan, evidence: &HealthEvidence, by: CommittedBy) -> Entry {
    match host.settle_committed(plan) {
        Ok(()) => Entry::committed(evidence, by),
        Err(trouble) => Entry::rollback_started(why("settling the new release", &trouble)),
    }
}

fn roll_back(host: &mut dyn Host, plan: &Plan, snapshot: &SnapshotSet) -> Entry {
    let judged =
        tried(|| host.restore(plan, snapshot)).map(|facts| RestoredEvidence::judge(plan, snapshot, &facts));
    or_stuck("restoring the old system", judged, |evidence| Entry::rollback_prepared(&evidence))
}

fn prove_rollback(host: &mut dyn Host, plan: &Plan, volume: &VolumeId) -> Entry {
    let judged = tried(|| host.boot()).map(|facts| RolledBackEvidence::judge(plan, volume, &facts));
    let Ok(Ok(evidence)) = judged else {
        return or_stuck("proving the rollback", judged, |_| Entry::stuck(Why::NotRestored));
    };
    Entry::rolled_back(&evidence, host.settle_restored(plan))
}

fn or_refuse<T>(during: &str, judged: Judged<T>, entry: impl FnOnce(T) -> Entry) -> Entry {
    or(during, judged, entry, Entry::refusal_started)
}

fn or_roll_back<T>(during: &str, judged: Judged<T>, entry: impl FnOnce(T) -> Entry) -> Entry {
    or(during, judged, entry, Entry::rollback_started)
}

fn or_stuck<T>(during: &str, judged: Judged<T>, entry: impl FnOnce(T) -> Entry) -> Entry {
    or(during, judged, entry, Entry::stuck)
}

fn or<T>(
    during: &str,
    judged: Judged<T>,
    yes: impl FnOnce(T) -> Entry,
    no: impl FnOnce(Why) -> Entry,
) -> Entry {
    match judged {
        Ok(Ok(evidence)) => yes(evidence),
        Ok(Err(refusal)) => no(Why::Judged { refusal }),
        Err(trouble) => no(why(during, &trouble)),
    }
}

fn why(during: &str, trouble: &Trouble) -> Why {
    Why::Trouble { during: during.to_owned(), cause: trouble.to_string() }
}

/// Where there is no way back but a human, an effect that probes first is tried again before one is called.
fn tried<T>(mut effect: impl FnMut() -> Result<T>) -> Result<T> {
    let mut last = effect();
    for _ in 1..ROLLBACK_TRIES {
        if last.is_ok() {
            break;
        }
        last = effect();
    }
    last
}
