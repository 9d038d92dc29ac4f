//! Power is cut before and after every effect and every append, twice in a row, in every world; then the machine is left to
//! itself. Whatever happens, the promises hold.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on has failed")]

use rayon::prelude::*;
use safe_upgrade::driver::{self, Stop};
use safe_upgrade::evidence::{CommitRule, FallbackMethod};
use safe_upgrade::machine::{Record, State, Why};
use safe_upgrade::sim::{Content, Rehearsals, Sim, Store, World};

/// More effects than any run has: beyond it a cut never comes.
const MOMENTS: u32 = 90;
/// Rebooting into the trial, back out of it, and once more for each of the two cuts.
const MOST_BOOTS: u32 = 8;

/// Every world by every way to boot a trial that the machine can tell apart.
fn worlds() -> Vec<World> {
    [FallbackMethod::ByName, FallbackMethod::EnvFileEsp]
        .into_iter()
        .flat_map(|method| worlds_by_name().into_iter().map(move |world| World { method, ..world }))
        .collect()
}

fn worlds_by_name() -> Vec<World> {
    let mut worlds = Vec::new();
    for healthy in [true, false] {
        for upgrades in [true, false] {
            for restores in [true, false] {
                for store in [Store::Good, Store::Bad, Store::Unreadable] {
                    for falls_back in [true, false] {
                        worlds.push(World { healthy, upgrades, restores, store, falls_back, ..World::FINE });
                    }
                }
            }
        }
    }
    for rehearsals in [Rehearsals::Passed, Rehearsals::Failed, Rehearsals::Stale] {
        worlds.push(World { rehearsals, ..World::FINE });
    }
    worlds.push(World { inhibited: true, ..World::FINE });
    worlds.push(World { seals: false, ..World::FINE });
    worlds.push(World { commit: CommitRule::Manual, ..World::FINE });
    worlds.push(World { commit: CommitRule::Manual, healthy: false, ..World::FINE });
    worlds.push(World { commit: CommitRule::Confirm, ..World::FINE });
    worlds.push(World { commit: CommitRule::Confirm, confirms: false, ..World::FINE });
    worlds.push(World { commit: CommitRule::Confirm, healthy: false, ..World::FINE });
    worlds
}

/// Lets the machine run, with the given moments at which its power goes, until it stops by itself.
fn settle(sim: &mut Sim, cuts: &[u32]) -> Stop {
    let mut cuts = cuts.iter();
    sim.power = cuts.next().copied();
    loop {
        match driver::run(sim) {
            Ok(stop) => return stop,
            Err(trouble) => {
                assert!(
                    !sim.is_on(),
                    "the driver gave up on a living machine: {trouble}\n{:#?}",
                    sim.journal
                );
                assert!(sim.boots < MOST_BOOTS, "it does not settle: {:#?}", sim.journal);
                sim.power_on();
                sim.power = cuts.next().copied();
            }
        }
    }
}

fn check(sim: &Sim, stop: &Stop, schedule: &str) {
    let journal = || format!("{schedule}: {:#?}", sim.journal);
    assert!(sim.upgrades <= 1, "the upgrade ran twice: {}", journal());
    let intents = sim.journal.iter().filter(|record| matches!(record, Record::UpgradeStarted { .. })).count();
    assert!(
        intents <= 1 && sim.upgrades as usize <= intents,
        "the upgrade ran without its intent: {}",
        journal()
    );
    if sim.upgrades == 1 {
        assert!(sim.proven_at_upgrade, "the upgrade ran on an unproven backup: {}", journal());
        assert_eq!(sim.world.store, Store::Good, "{}", journal());
        assert!(!sim.world.inhibited && sim.world.rehearsals != Rehearsals::Failed, "{}", journal());
    }
    match stop {
        Stop::AwaitsCommit(state) => {
            assert!(
                matches!(state, State::Trial { .. }) && sim.world.commit == CommitRule::Manual,
                "{}",
                journal()
            );
            assert!(sim.world.healthy, "an unhealthy trial waits for a commit: {}", journal());
        }
        Stop::Final(State::Refused { .. }) => {
            assert_eq!(sim.upgrades, 0, "a refusal after the upgrade: {}", journal());
            assert_eq!(sim.leftovers(), 0, "a refusal left something behind: {}", journal());
            assert!(sim.in_traffic, "a refusal left the machine drained: {}", journal());
            assert_eq!(sim.running_content(), Some(Content::Old), "{}", journal());
            assert_eq!(sim.next_content(), Some(Content::Old), "{}", journal());
        }
        Stop::Final(State::Committed { .. }) => {
            assert!(sim.world.healthy && sim.world.upgrades && sim.upgrades == 1, "{}", journal());
            assert_eq!(sim.running_content(), Some(Content::New), "{}", journal());
            assert_eq!(sim.next_content(), Some(Content::New), "{}", journal());
            assert!(sim.in_traffic, "{}", journal());
            assert!(sim.world.commit != CommitRule::Confirm || sim.world.confirms, "{}", journal());
            boots_nothing_else(sim, &journal());
        }
        Stop::Final(State::RolledBack { .. }) => {
            boots_nothing_else(sim, &journal());
            assert!(sim.world.restores || fell_back(sim), "{}", journal());
            assert_eq!(
                sim.running_content(),
                Some(Content::Old),
                "rolled back, but not restored: {}",
                journal()
            );
            assert_eq!(
                sim.next_content(),
                Some(Content::Old),
                "the next boot is not the old system: {}",
                journal()
            );
            proven_after_a_reboot(sim, &journal());
        }
        Stop::Final(State::Stuck { .. }) => {
            assert!(!sim.world.restores, "stuck without a reason: {}", journal())
        }
        Stop::Final(state) => panic!("stopped in {}: {}", state.name(), journal()),
    }
}

/// A run that has ended leaves nothing armed: a power cut years later boots what runs now.
fn boots_nothing_else(sim: &Sim, journal: &str) {
    let mut later = sim.clone();
    later.power_on();
    assert_eq!(later.running_content(), sim.running_content(), "another system boots later: {journal}");
}

fn fell_back(sim: &Sim) -> bool {
    sim.journal.iter().any(|record| matches!(record, Record::RollbackStarted { why: Why::FellBack }))
}

/// The second proof comes from another boot than the one that prepared it.
fn proven_after_a_reboot(sim: &Sim, journal: &str) {
    let prepared = sim.journal.iter().rev().find_map(|record| match record {
        Record::RollbackPrepared { from, .. } => Some(from.clone()),
        _ => None,
    });
    let Some(Record::RolledBack { boot, .. }) = sim.journal.last() else {
        panic!("no proof at the end: {journal}")
    };
    assert_ne!(prepared.expect("it was prepared"), Some(boot.clone()), "{journal}");
}

#[test]
fn every_moment_twice_in_every_world() {
    let schedules: u64 = worlds()
        .into_par_iter()
        .map(|world| {
            let mut count = 0;
            for first in 0..MOMENTS {
                for second in 0..MOMENTS {
                    let mut sim = Sim::planned(world);
                    let stop = settle(&mut sim, &[first, second]);
                    check(&sim, &stop, &format!("cuts at {first} and {second}, {world:?}"));
                    count += 1;
                }
            }
            count
        })
        .sum();
    println!("{schedules} schedules");
    assert_eq!(schedules, 2 * 58 * u64::from(MOMENTS) * u64::from(MOMENTS));
}

#[test]
fn without_a_cut_each_world_ends_as_it_should() {
    let end = |world: World| {
        let mut sim = Sim::planned(world);
        let stop = settle(&mut sim, &[]);
        check(&sim, &stop, "no cut");
        match stop {
            Stop::Final(state) | Stop::AwaitsCommit(state) => state.name(),
        }
    };
    let fine = World::FINE;
    assert_eq!(end(fine), "Committed");
    assert_eq!(end(World { healthy: false, ..fine }), "RolledBack");
    assert_eq!(end(World { upgrades: false, ..fine }), "RolledBack");
    assert_eq!(end(World { falls_back: true, ..fine }), "RolledBack");
    assert_eq!(end(World { store: Store::Bad, ..fine }), "Refused");
    assert_eq!(end(World { store: Store::Unreadable, ..fine }), "Refused");
    assert_eq!(end(World { inhibited: true, ..fine }), "Refused");
    assert_eq!(end(World { rehearsals: Rehearsals::Failed, ..fine }), "Refused");
    assert_eq!(end(World { rehearsals: Rehearsals::Passed, ..fine }), "Committed");
    assert_eq!(end(World { rehearsals: Rehearsals::Stale, ..fine }), "Committed");
    assert_eq!(end(World { seals: false, ..fine }), "Refused");
    assert_eq!(end(World { healthy: false, restores: false, ..fine }), "Stuck");
    assert_eq!(end(World { commit: CommitRule::Manual, ..fine }), "Trial");
    let confirm = World { commit: CommitRule::Confirm, ..fine };
    assert_eq!(end(confirm), "Committed");
    assert_eq!(end(World { confirms: false, ..confirm }), "RolledBack");
    let once = World { method: FallbackMethod::EnvFileEsp, ..fine };
    assert_eq!(end(once), "Committed");
    assert_eq!(end(World { healthy: false, ..once }), "RolledBack");
    assert_eq!(end(World { falls_back: true, ..once }), "RolledBack");
    assert_eq!(end(World { falls_back: true, restores: false, ..once }), "Stuck");
}

#[test]
fn moments_cover_the_longest_run() {
    let mut sim = Sim::planned(World { healthy: false, ..World::FINE });
    sim.power = Some(u32::MAX);
    let mut used = 0;
    while let Err(trouble) = driver::run(&mut sim) {
        assert!(!sim.is_on(), "{trouble}");
        used += u32::MAX - sim.power.expect("it was given");
        sim.power_on();
        sim.power = Some(u32::MAX);
    }
    assert!(used < MOMENTS, "a boot has {used} moments, but only {MOMENTS} are cut");
}

#[test]
fn a_claim_about_the_backup_is_not_enough_after_a_restart() {
    // Stop when the fallback is armed: the proof of the backup dies with the process.
    let mut sim = Sim::planned(World::FINE);
    let armed = |sim: &Sim| matches!(sim.journal.last(), Some(Record::FallbackArmed { .. }));
    let moment = (0..MOMENTS)
        .find(|moment| {
            let mut probe = Sim::planned(World::FINE);
            probe.power = Some(*moment);
            driver::run(&mut probe).is_err() && armed(&probe)
        })
        .expect("some cut comes right after arming");
    sim.power = Some(moment);
    driver::run(&mut sim).expect_err("the power goes");
    // In the same boot (the process died, the machine did not) the run goes on. The store has rotted in the meantime.
    sim.power_on_same_boot();
    sim.world.store = Store::Bad;
    let stop = driver::run(&mut sim).expect("it settles");
    check(&sim, &stop, "the store rots after arming");
    assert!(matches!(stop, Stop::Final(State::Refused { .. })), "{:#?}", sim.journal);
}

#[test]
fn an_old_claim_means_a_full_restore_again() {
    let mut sim = Sim::planned(World::FINE);
    sim.power = (0..MOMENTS).find(|moment| {
        let mut probe = Sim::planned(World::FINE);
        probe.power = Some(*moment);
        driver::run(&mut probe).is_err() && matches!(probe.journal.last(), Some(Record::FallbackArmed { .. }))
    });
    driver::run(&mut sim).expect_err("the power goes");
    let restores = sim.full_restores;
    sim.power_on_same_boot();
    sim.clock += 7200;
    let stop = settle(&mut sim, &[]);
    check(&sim, &stop, "the claim is too old");
    assert_eq!(sim.full_restores, restores + 1);
    assert!(matches!(stop, Stop::Final(State::Committed { .. })));
}

#[test]
fn an_operator_commits_only_what_is_healthy() {
    let mut sim = Sim::planned(World { commit: CommitRule::Manual, ..World::FINE });
    let Stop::AwaitsCommit(state) = settle(&mut sim, &[]) else { panic!("{:#?}", sim.journal) };
    let plan = state.plan().expect("a trial has a plan").clone();
    sim.world.healthy = false;
    driver::commit(&mut sim, &plan).expect("health can be found out").expect_err("it is not healthy");
    sim.world.healthy = true;
    driver::commit(&mut sim, &plan).expect("health can be found out").expect("it is healthy");
    assert!(matches!(sim.journal.last(), Some(Record::Committed { .. })));
}

/// Boots the machine into its trial and stops there, before health is judged.
fn in_trial(method: FallbackMethod) -> Sim {
    let at_trial = |sim: &Sim| matches!(sim.journal.last(), Some(Record::TrialBooted { .. }));
    (0..MOMENTS)
        .find_map(|moment| {
            let mut sim = Sim::planned(World { method, ..World::FINE });
            driver::run(&mut sim).expect_err("it reboots into the trial");
            sim.power_on();
            sim.power = Some(moment);
            driver::run(&mut sim).expect_err("the power goes");
            at_trial(&sim).then_some(sim)
        })
        .expect("some cut comes right after the trial was entered")
}

#[test]
fn an_orderly_reboot_of_a_trial_burns_no_try_but_the_budget_ends_it() {
    for method in [FallbackMethod::ByName, FallbackMethod::EnvFileEsp] {
        let mut sim = in_trial(method);
        sim.power_on_same_boot();
        assert!(driver::leave(&mut sim).expect("it can be said"), "{method:?}");
        sim.power_on();
        let stop = settle(&mut sim, &[]);
        check(&sim, &stop, "an orderly reboot");
        assert!(matches!(stop, Stop::Final(State::Committed { .. })), "{method:?}: {:#?}", sim.journal);

        let mut again = in_trial(method);
        let mut reboots = 0;
        loop {
            again.power_on_same_boot();
            if !driver::leave(&mut again).expect("it can be said") {
                break;
            }
            reboots += 1;
            assert!(reboots < 9, "nothing ends it: {:#?}", again.journal);
            again.power_on();
            again.power = Some(4);
            let _cut_or_ended = driver::run(&mut again);
        }
        let trials =
            again.journal.iter().filter(|record| matches!(record, Record::TrialBooted { .. })).count();
        assert!((2..=3).contains(&trials), "the plan allows three boots of the trial: {:#?}", again.journal);
    }
}

#[test]
fn a_trial_whose_power_is_cut_goes_back() {
    for method in [FallbackMethod::ByName, FallbackMethod::EnvFileEsp] {
        let mut sim = in_trial(method);
        sim.power_on();
        let stop = settle(&mut sim, &[]);
        check(&sim, &stop, "power cut on trial");
        assert!(matches!(stop, Stop::Final(State::RolledBack { .. })), "{method:?}: {:#?}", sim.journal);
    }
}

/// Emergency mode, or no verdict in time: the boot that is the trial turns back, once; no other boot does.
#[test]
fn a_trial_without_a_verdict_is_given_up() {
    for method in [FallbackMethod::ByName, FallbackMethod::EnvFileEsp] {
        let mut sim = in_trial(method);
        sim.power_on_same_boot();
        assert!(driver::give_up_trial(&mut sim, "it hangs", false).expect("it can be said"), "{method:?}");
        assert!(!driver::give_up_trial(&mut sim, "it hangs", true).expect("it can be said"), "{method:?}");
        let stop = settle(&mut sim, &[]);
        check(&sim, &stop, "given up");
        assert!(matches!(stop, Stop::Final(State::RolledBack { .. })), "{method:?}: {:#?}", sim.journal);
        let end = sim.journal.len();
        assert!(!driver::give_up_trial(&mut sim, "it hangs", true).expect("it can be said"), "{method:?}");
        assert_eq!(sim.journal.len(), end);
    }
    let mut before = Sim::planned(worlds()[0]);
    assert!(!driver::give_up_trial(&mut before, "it hangs", true).expect("it can be said"));
}
