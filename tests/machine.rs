//! The two tables, looked at from outside: every pair is enumerated and written to docs/state-machine.md, and random records
//! never break what must always hold.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::BTreeSet;
use std::fmt::Write;

use proptest::prelude::*;
use safe_upgrade::driver;
use safe_upgrade::evidence::{Boot, BootId, CommitRule, HealthFacts, Place};
use safe_upgrade::machine::{Record, State, Step, Undo, Why};
use safe_upgrade::sim::{Sim, World, plan};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/state-machine.md");

/// Records of real (simulated) runs, so that they fit one another, and those that only operators and trouble make.
fn records() -> Vec<Record> {
    let mut all: Vec<Record> = Vec::new();
    let unhealthy = World { healthy: false, ..World::FINE };
    let manual = World { commit: CommitRule::Manual, ..World::FINE };
    let inhibited = World { inhibited: true, ..World::FINE };
    let confirmed = World { commit: CommitRule::Confirm, ..World::FINE };
    for world in [World::FINE, unhealthy, manual, confirmed, inhibited] {
        let mut sim = Sim::planned(world);
        while driver::run(&mut sim).is_err() {
            sim.power_on();
        }
        all.extend(sim.journal);
    }
    all.push(Record::HealthPassed {
        facts: HealthFacts { checked: 1, failed: vec![], noted: vec![], soaked: 0 },
        uptime: 60,
    });
    all.push(Record::TrialLeft { boot: BootId::new("2") });
    all.extend([Undo::Disarm, Undo::ReleaseSnapshots, Undo::Undrain].map(|what| Record::Undone { what }));
    all.extend(
        [Why::Operator, Why::FellBack, Why::NotConfirmed, Why::NotRestored]
            .map(|why| Record::RollbackStarted { why }),
    );
    all.push(Record::Stuck { why: Why::UnknownRoot });
    all.push(Record::Pruned { run: plan(CommitRule::Automatic).run });
    all.push(Record::TrialBooted { boot: BootId::new("7") });
    let mut unique: Vec<Record> = Vec::new();
    for record in all {
        if !unique.contains(&record) {
            unique.push(record);
        }
    }
    unique
}

/// Every state that any order of these records can reach, in the order of discovery.
fn reachable(records: &[Record]) -> Vec<State> {
    let mut states = vec![State::New];
    let mut next = 0;
    while let Some(state) = states.get(next).cloned() {
        for record in records {
            if let Ok(after) = state.clone().apply(record)
                && !states.contains(&after)
            {
                states.push(after);
            }
        }
        next += 1;
    }
    states
}

const ORDER: [&str; 19] = [
    "New",
    "Planned",
    "Checked",
    "BackupVerified",
    "Rehearsed",
    "Drained",
    "Snapshotted",
    "Armed",
    "Upgrading",
    "Upgraded",
    "Rebooting",
    "Trial",
    "Committed",
    "Refusing",
    "Refused",
    "RollingBack",
    "RollbackRebooting",
    "RolledBack",
    "Stuck",
];

fn order_table(states: &[State], records: &[Record]) -> String {
    let names: BTreeSet<&str> = records.iter().map(Record::name).collect();
    let mut table = String::from("| state | record | leads to |\n|---|---|---|\n");
    for from in ORDER {
        for name in &names {
            let ends: BTreeSet<&str> = states
                .iter()
                .filter(|state| state.name() == from)
                .flat_map(|state| {
                    records.iter().filter(|r| r.name() == *name).map(|r| state.clone().apply(r))
                })
                .filter_map(Result::ok)
                .map(|state| state.name())
                .collect();
            for end in ends {
                writeln!(table, "| {from} | {name} | {end} |").unwrap();
            }
        }
    }
    table
}

fn step_name(step: &Step) -> String {
    let text = format!("{step:?}");
    let name: String = text.chars().take_while(|c| c.is_alphanumeric()).collect();
    match step {
        Step::TakeBack { what, .. } => format!("{name} {what:?}"),
        Step::StartRollback { why } | Step::StartRefusal { why } | Step::GiveUp { why } => {
            let why = format!("{why:?}");
            format!("{name}: {}", why.chars().take_while(|c| c.is_alphanumeric()).collect::<String>())
        }
        _ => name,
    }
}

/// The boots in which a state was reached, and one that it has never seen.
fn boots(place: Place) -> Vec<Boot> {
    ["1", "2", "3", "99"].into_iter().map(|id| Boot { id: BootId::new(id), place }).collect()
}

fn step_table(states: &[State]) -> String {
    let mut table = String::from(
        "| state | planned root runs | old system runs | unknown root runs |\n|---|---|---|---|\n",
    );
    for name in ORDER {
        let steps = |place: Place| {
            let names: BTreeSet<String> = states
                .iter()
                .filter(|state| state.name() == name)
                .flat_map(|state| boots(place).into_iter().map(|boot| step_name(&state.next_step(&boot))))
                .collect();
            names.into_iter().collect::<Vec<_>>().join(", ")
        };
        writeln!(
            table,
            "| {name} | {} | {} | {} |",
            steps(Place::PlannedRoot),
            steps(Place::OldSystem),
            steps(Place::Unknown)
        )
        .unwrap();
    }
    table
}

#[test]
fn the_document_is_what_the_code_does() {
    let records = records();
    let states = reachable(&records);
    let text = format!(
        "# The state machine\n\nGenerated by `tests/machine.rs` from every reachable state and every record; \
         `UPDATE_DOCS=1 cargo test --test machine` writes it anew.\n\n\
         ## The order: which record may follow (every pair that is not listed is refused)\n\n{}\n\
         ## What comes next (several: it depends on the boot, the plan, or on what was earned so far)\n\n{}",
        order_table(&states, &records),
        step_table(&states)
    );
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(DOCUMENT, &text).expect("the docs can be written");
    }
    let written = std::fs::read_to_string(DOCUMENT).expect("docs/state-machine.md is there");
    assert!(written == text, "docs/state-machine.md is out of date: UPDATE_DOCS=1 cargo test --test machine");
}

#[test]
fn every_state_is_reachable_and_named() {
    let states = reachable(&records());
    let names: BTreeSet<&str> = states.iter().map(State::name).collect();
    assert_eq!(names, ORDER.into_iter().collect());
}

#[test]
fn what_has_ended_does_nothing_by_itself() {
    for state in reachable(&records()) {
        for place in [Place::PlannedRoot, Place::OldSystem, Place::Unknown] {
            for boot in boots(place) {
                assert_eq!(state.is_final(), state.next_step(&boot) == Step::Stop, "{state:?}");
            }
        }
    }
}

/// The two tables agree: what the one tells the driver to write down, the other lets it write.
#[test]
fn every_announced_turn_may_be_written() {
    for state in reachable(&records()) {
        for place in [Place::PlannedRoot, Place::OldSystem, Place::Unknown] {
            for boot in boots(place) {
                let record = match state.next_step(&boot) {
                    Step::StartRollback { why } => Record::RollbackStarted { why },
                    Step::StartRefusal { why } => Record::RefusalStarted { why },
                    Step::GiveUp { why } => Record::Stuck { why },
                    Step::Refuse { .. } => Record::Refused,
                    Step::TakeBack { what, .. } => Record::Undone { what },
                    _ => continue,
                };
                state
                    .clone()
                    .apply(&record)
                    .unwrap_or_else(|illegal| panic!("{illegal}: {state:?} in {boot:?}"));
            }
        }
    }
}

#[test]
fn an_upgrade_that_was_interrupted_is_never_started_again() {
    for state in reachable(&records()) {
        let started = ["Upgrading", "Upgraded", "Rebooting", "Trial", "RollingBack", "RollbackRebooting"];
        if started.contains(&state.name()) {
            for place in [Place::PlannedRoot, Place::OldSystem, Place::Unknown] {
                for boot in boots(place) {
                    assert!(!matches!(state.next_step(&boot), Step::Upgrade { .. }), "{state:?}");
                }
            }
        }
    }
}

/// From every state an end is reachable without an operator: nothing can go round for ever.
#[test]
fn every_run_can_end() {
    let records = records();
    let states = reachable(&records);
    let mut ending: Vec<bool> = states.iter().map(State::is_final).collect();
    loop {
        let before = ending.iter().filter(|end| **end).count();
        for (index, state) in states.iter().enumerate() {
            ending[index] |= records
                .iter()
                .filter_map(|record| state.clone().apply(record).ok())
                .any(|after| states.iter().position(|s| *s == after).is_some_and(|at| ending[at]));
        }
        if ending.iter().filter(|end| **end).count() == before {
            break;
        }
    }
    assert!(ending.iter().all(|end| *end));
}

proptest! {
    #[test]
    fn random_records_never_panic_and_keep_the_invariants(picks in prop::collection::vec(0_usize..64, 0..60)) {
        let records = records();
        let mut state = State::New;
        let mut upgrades = 0;
        let mut runs = 0;
        for pick in picks {
            let record = &records[pick % records.len()];
            let before = state.clone();
            match state.apply(record) {
                Ok(after) => {
                    if matches!(record, Record::UpgradeStarted { .. }) { upgrades += 1; }
                    if matches!(record, Record::Planned { .. }) {
                        prop_assert!(before.is_final());
                        runs += 1;
                    }
                    if matches!(record, Record::RolledBack { .. }) {
                        prop_assert!(before.name() == "RollbackRebooting");
                    }
                    prop_assert!(after.plan().is_some());
                    state = after;
                }
                Err(illegal) => {
                    prop_assert_eq!(illegal.from, before.name());
                    state = before;
                }
            }
            prop_assert!(upgrades <= runs, "a run upgrades at most once");
        }
    }
}

#[test]
fn a_restored_root_is_proven_in_another_boot() {
    let mut sim = Sim::planned(World { healthy: false, ..World::FINE });
    while driver::run(&mut sim).is_err() {
        sim.power_on();
    }
    let before_proof: Vec<Record> = sim.journal[..sim.journal.len() - 1].to_vec();
    let state = before_proof.iter().try_fold(State::New, State::apply).expect("it replays");
    let State::RollbackRebooting { from: Some(boot), .. } = state.clone() else { panic!("{state:?}") };
    let health = HealthFacts { checked: 1, failed: vec![], noted: vec![], soaked: 0 };
    assert!(state.apply(&Record::RolledBack { boot, health }).is_err());
}
