//! A copy verified in parts: whatever the budget, in the end every byte was read, and nothing is believed that was not.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[path = "budget/lab.rs"]
mod lab;

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use lab::{DAY, Lab, Run};
use proptest::prelude::*;
use safe_upgrade::manifest::coverage::{Ended, Goal};
use safe_upgrade::manifest::{Class, Report, Verdict};
use safe_upgrade::system::lock::LockError;
use safe_upgrade::verify::book::BookError;
use safe_upgrade::verify::budget::{BudgetError, Seed, forget};
use safe_upgrade::verify::ledger::LedgerError;
use safe_upgrade::verify::select::Sample;

fn found(report: &Report) -> Vec<(Class, String)> {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    report.differences().iter().map(|found| (found.class, text(&found.path))).collect()
}

fn proven(report: &Report) -> (u64, u64) {
    let coverage = report.coverage.as_ref().unwrap();
    (coverage.proven.files, coverage.total.files)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn repeated_runs_reach_every_byte_and_find_what_is_planted(
        sizes in prop::collection::vec(0_usize..5000, 1..30),
        seed in any::<u64>(),
        budget in prop_oneof![
            (1_u32..1_000_000).prop_map(|share| (Some(Sample::Share(share)), None)),
            (1_u64..9).prop_map(|files| (Some(Sample::Files(files)), None)),
            (1_u64..9000).prop_map(|bytes| (Some(Sample::Bytes(bytes)), None)),
            (80_u64..200).prop_map(|seconds| (None, Some(seconds))),
        ],
        aged in any::<bool>(),
        planted in any::<prop::sample::Index>(),
    ) {
        let lab = Lab::of_sizes(&sizes);
        let holding: Vec<usize> = (0..sizes.len()).filter(|n| sizes[*n] > 0).collect();
        prop_assume!(!holding.is_empty());
        let bad = holding[planted.index(holding.len())];
        lab.flip(&Lab::name(bad), sizes[bad] / 2);
        let mut all = 0;
        for day in 0..=sizes.len() as i64 {
            // Each look at the clock takes a second of it.
            let ticks = AtomicU64::new(0);
            let elapsed = move || Duration::from_secs(ticks.fetch_add(1, SeqCst));
            let mut run = Run::at(day * DAY);
            (run.budget.sample, run.budget.max_duration) = (budget.0, budget.1.map(Duration::from_secs));
            (run.budget.seed, run.budget.oldest_first) = (Seed::Fresh(seed.wrapping_add(day as u64)), true);
            run.budget.max_age = aged.then(|| Duration::from_secs(1000 * DAY as u64));
            let report = lab.run_with(&run, &elapsed).unwrap();
            if report.verdict() == Verdict::NotSame {
                prop_assert_eq!(found(&report), [(Class::Content, Lab::name(bad))]);
                return Ok(());
            }
            let (now, total) = proven(&report);
            prop_assert!(now > all, "day {}: {} of {} as before", day, now, total);
            prop_assert!(now < total, "a damaged file was called proven");
            all = now;
        }
        prop_assert!(false, "never found");
    }
}

#[test]
fn each_way_of_ending_has_its_verdict() {
    let lab = Lab::of_sizes(&[1000; 40]);
    let mut run = Run::at(0);
    assert_eq!(lab.run(&run).unwrap().verdict(), Verdict::Same);
    lab.forget();
    run.budget.sample = Some(Sample::Files(4));
    let report = lab.run(&run).unwrap();
    assert_eq!(report.verdict(), Verdict::SameInPart);
    assert!(report.sentence().contains("4 files (3.9 KiB) of 40 files"), "{}", report.sentence());
    assert!(!report.levels.stored && !report.is_same());
    run.budget.sample = Some("100%".parse().unwrap());
    assert_eq!(lab.run(&run).unwrap().verdict(), Verdict::Same, "a sample of everything is everything");
    run.budget.sample = Some(Sample::Files(10));
    run.stop_after = Some(3);
    let report = lab.run(&run).unwrap();
    assert_eq!(report.verdict(), Verdict::Unknown);
    assert_eq!(report.coverage.as_ref().unwrap().ended, Ended::Stopped);
    assert!(report.sentence().contains("chosen not reached"), "{}", report.sentence());
    let mut run = Run::at(0);
    run.budget.max_duration = Some(Duration::ZERO);
    let report = lab.run(&run).unwrap();
    assert_eq!(report.verdict(), Verdict::Unknown);
    assert!(report.sentence().contains("the time was over: 40 files"), "{}", report.sentence());
}

#[test]
fn an_age_is_answered_by_many_runs_together() {
    let lab = Lab::of_sizes(&[1000; 30]);
    let nightly = |day: i64| {
        let mut run = Run::at(day * DAY);
        run.budget.sample = Some(Sample::Files(10));
        run.budget.max_age = Some(Duration::from_secs(20 * DAY as u64));
        lab.run(&run).unwrap()
    };
    for (day, overdue) in [(0, 20), (1, 10), (2, 0)] {
        let report = nightly(day);
        let coverage = report.coverage.as_ref().unwrap();
        assert_eq!(coverage.overdue.files, overdue);
        let verdict = if overdue == 0 { Verdict::Same } else { Verdict::Unknown };
        assert_eq!(report.verdict(), verdict, "day {day}: {}", report.sentence());
    }
    let idle = nightly(3);
    let coverage = idle.coverage.unwrap();
    assert_eq!((coverage.read.files, coverage.oldest), (0, Some(3 * DAY as u64)));
    assert_eq!(coverage.goal, Goal::Age { seconds: 20 * DAY as u64 });
    for day in 19..60 {
        let report = nightly(day);
        assert_eq!(report.verdict(), Verdict::Same, "day {day}: renewed before it is overdue");
    }
    let late = nightly(100);
    assert_eq!(late.verdict(), Verdict::Unknown);
    assert!(late.sentence().contains("20 files (19.5 KiB) of 30 files (29.2 KiB) not proven within 20 days"));
}

#[test]
fn a_stopped_run_goes_on_where_it_was() {
    for sample in [None, Some(Sample::Files(20))] {
        let lab = Lab::of_sizes(&[1000; 50]);
        let mut run = Run::at(0);
        (run.budget.sample, run.budget.seed, run.stop_after) = (sample, Seed::Fresh(7), Some(8));
        let first = lab.run(&run).unwrap();
        let chosen = first.coverage.as_ref().unwrap().chosen.files;
        assert_eq!((first.verdict(), proven(&first).0), (Verdict::Unknown, 8));
        (run.wall, run.stop_after, run.budget.seed) = (3600, None, Seed::Fresh(8));
        let second = lab.run(&run).unwrap();
        assert_ne!(second.verdict(), Verdict::Unknown, "{}", second.sentence());
        assert_eq!(second.bytes, (chosen - 8) * 1000, "what was read is not read again");
        assert!(second.remarks[0].contains("began 3600 seconds ago"), "{:?}", second.remarks);
        let third = lab.run(&run).unwrap();
        assert_eq!(third.bytes, chosen * 1000, "a run that was ended is not gone on with");
        run.stop_after = Some(8);
        lab.run(&run).unwrap();
        (run.stop_after, run.budget.seed) = (None, Seed::Given(9));
        let other = lab.run(&run).unwrap();
        let whole = sample.is_none();
        assert_eq!(
            !other.remarks.is_empty(),
            whole,
            "another choice is another run; the whole has no choice"
        );
    }
}

#[test]
fn a_killed_run_loses_no_more_than_since_the_last_checkpoint() {
    let lab = Lab::of_sizes(&[1000; 300]);
    let mut run = Run::at(0);
    run.checkpoint = Duration::ZERO;
    let aside = lab.ledger().with_extension("aside");
    let report = lab
        .run_watched(&run, &|read| {
            // The thread that gives files out goes on meanwhile, and saves after each.
            let patience = Instant::now() + Duration::from_secs(60);
            while read.entries >= 128 && !aside.exists() {
                assert!(Instant::now() < patience, "nothing was saved on the way");
                if lab.ledger_paths().len() >= 64 {
                    std::fs::copy(lab.ledger(), &aside).unwrap();
                }
                std::thread::yield_now();
            }
        })
        .unwrap();
    assert_eq!(report.verdict(), Verdict::Same);
    std::fs::rename(&aside, lab.ledger()).unwrap();
    let before = lab.ledger_paths().len() as u64;
    assert!((64..300).contains(&before), "{before} files were saved on the way");
    let report = lab.run(&run).unwrap();
    assert_eq!((report.verdict(), report.bytes), (Verdict::Same, (300 - before) * 1000));
}

#[test]
fn a_damaged_ledger_is_refused_and_can_be_dropped() {
    let lab = Lab::of_sizes(&[10, 20, 30]);
    let mut run = Run::at(0);
    run.budget.max_age = Some(Duration::from_secs(30 * DAY as u64));
    assert_eq!(lab.run(&run).unwrap().verdict(), Verdict::Same);
    let whole = std::fs::read(lab.ledger()).unwrap();
    // From now on a ledger that was believed would say "same".
    lab.flip(&Lab::name(1), 3);
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(lab.ledger(), bytes).unwrap();
        let error = lab.run(&run).err().unwrap_or_else(|| panic!("{what}: it was believed"));
        assert!(matches!(error, BudgetError::Book(BookError::Ledger(_))), "{what}: {error}");
    };
    for at in 0..whole.len() {
        refused(&whole[..at], &format!("cut at {at}"));
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        refused(&flipped, &format!("flipped at {at}"));
    }
    forget(&lab.ledger()).unwrap();
    forget(&lab.ledger()).unwrap();
    assert_eq!(found(&lab.run(&run).unwrap()), [(Class::Content, Lab::name(1))]);
    let other = Lab::of_sizes(&[10, 20, 30]);
    other.run(&run).unwrap();
    std::fs::copy(other.ledger(), lab.ledger()).unwrap();
    let error = lab.run(&run).unwrap_err();
    assert!(matches!(error, BudgetError::Book(BookError::Ledger(LedgerError::Foreign(_)))), "{error}");
}

#[test]
fn a_clock_that_goes_backwards_makes_no_proof_younger() {
    let lab = Lab::of_sizes(&[1000; 3]);
    let at = |day: i64| {
        let mut run = Run::at(day * DAY);
        run.budget.sample = Some(Sample::Files(1));
        run.budget.max_age = Some(Duration::from_secs(30 * DAY as u64));
        lab.run(&run).unwrap()
    };
    at(1000);
    at(1001);
    at(1002);
    let oldest = |report: &Report| report.coverage.as_ref().unwrap().oldest.unwrap() / DAY as u64;
    assert_eq!(oldest(&at(1020)), 20);
    let back = at(900);
    assert_eq!(oldest(&back), 20);
    assert!(back.remarks[0].contains("the clock is 10368000 seconds behind"), "{:?}", back.remarks);
    assert_eq!(oldest(&at(905)), 25);
    // A clock that was far ahead for a while does not keep proofs fresh for ever.
    at(20_000);
    let mended = at(906);
    assert_eq!(mended.verdict(), Verdict::Unknown);
    assert_eq!(mended.coverage.unwrap().overdue.files, 1, "two were read since, the third is overdue");
}

#[test]
fn a_failed_proof_takes_the_old_one_away_until_it_is_mended() {
    let lab = Lab::of_sizes(&[1000; 5]);
    let run = Run::at(0);
    assert_eq!(proven(&lab.run(&run).unwrap()), (5, 5));
    lab.flip(&Lab::name(2), 500);
    let report = lab.run(&run).unwrap();
    assert_eq!(found(&report), [(Class::Content, Lab::name(2))]);
    assert!(report.differences()[0].found.contains("read twice"), "{:?}", report.differences());
    assert_eq!(proven(&report), (4, 5));
    lab.flip(&Lab::name(2), 500);
    assert_eq!(proven(&lab.run(&run).unwrap()), (5, 5));
}

#[test]
fn a_newer_manifest_keeps_the_proofs_of_what_did_not_change() {
    let lab = Lab::of_sizes(&[1000; 6]);
    lab.run(&Run::at(0)).unwrap();
    std::fs::write(lab.path(&Lab::name(1)), vec![b'n'; 1000]).unwrap();
    std::fs::write(lab.path("added"), b"added").unwrap();
    std::fs::remove_file(lab.path(&Lab::name(4))).unwrap();
    lab.take_manifest();
    let mut run = Run::at(DAY);
    run.budget.max_age = Some(Duration::from_secs(10 * DAY as u64));
    let report = lab.run(&run).unwrap();
    assert_eq!((report.verdict(), report.bytes), (Verdict::Same, 1005), "only what is new was read");
    assert_eq!(proven(&report), (6, 6));
}

#[test]
fn the_same_seed_reads_the_same_and_always_the_largest_and_the_newest() {
    let mut sizes = vec![1000; 100];
    (sizes[31], sizes[62]) = (1001, 999);
    let lab = Lab::of_sizes(&sizes);
    lab.touch(&Lab::name(62), 5_000_000_000);
    lab.take_manifest();
    let sample = |seed| {
        lab.forget();
        let mut run = Run::at(0);
        (run.budget.seed, run.budget.sample) = (Seed::Given(seed), Some(Sample::Files(8)));
        lab.run(&run).unwrap();
        lab.ledger_paths()
    };
    let one = sample(1);
    assert_eq!(one.len(), 8);
    assert_eq!(one, sample(1));
    let two = sample(2);
    assert_ne!(one, two);
    for chosen in [one, two] {
        assert!(chosen.contains(&Lab::name(31)) && chosen.contains(&Lab::name(62)), "{chosen:?}");
    }
}

#[test]
fn metadata_are_compared_whatever_is_read_and_nothing_is_named_twice() {
    let lab = Lab::of_sizes(&[1000; 20]);
    std::fs::remove_file(lab.path(&Lab::name(3))).unwrap();
    std::fs::write(lab.path(&Lab::name(5)), b"short").unwrap();
    std::fs::write(lab.path("extra"), b"extra").unwrap();
    let mut run = Run::at(0);
    run.budget.sample = Some(Sample::Files(1));
    let part = lab.run(&run).unwrap();
    assert_eq!(part.verdict(), Verdict::NotSame);
    run.budget.sample = None;
    let all = lab.run(&run).unwrap();
    for report in [part, all] {
        let content: Vec<_> =
            found(&report).into_iter().filter(|(class, _)| *class != Class::Mtime).collect();
        let wanted =
            [(Class::Missing, Lab::name(3)), (Class::Size, Lab::name(5)), (Class::Extra, "extra".to_owned())];
        assert_eq!(content, wanted);
    }
}

#[test]
fn damage_is_placed_by_blocks_and_by_the_live_tree() {
    let lab = Lab::of_sizes(&[3 << 20]);
    lab.keep_live_copy();
    lab.flip(&Lab::name(0), (2 << 20) + 17);
    let mut run = Run::at(0);
    let report = lab.run(&run).unwrap();
    let words = &report.differences()[0].found;
    assert!(words.ends_with("bytes 2097152 to 3145728: 1 of 3 blocks differ)"), "{words}");
    run.against = true;
    let report = lab.run(&run).unwrap();
    let words = &report.differences()[0].found;
    assert!(words.ends_with("1 byte differs from the live tree, the first at 2097169"), "{words}");
}

#[test]
fn two_runs_do_not_share_a_ledger_and_ages_need_one() {
    let lab = Lab::of_sizes(&[1000; 3]);
    let run = Run::at(0);
    lab.run_watched(&run, &|_| {
        let error = lab.run(&run).unwrap_err();
        assert!(matches!(error, BudgetError::Book(BookError::Lock(LockError::Held(_)))), "{error}");
    })
    .unwrap();
    let mut run = Run::at(0);
    run.without_ledger = true;
    let report = lab.run(&run).unwrap();
    assert_eq!((report.verdict(), proven(&report)), (Verdict::Same, (3, 3)));
    run.budget.max_age = Some(Duration::from_secs(1));
    assert!(matches!(lab.run(&run), Err(BudgetError::NoLedger)));
}
