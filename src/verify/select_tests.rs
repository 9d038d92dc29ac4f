use super::*;
use crate::manifest::{Content, Kind};
use proptest::prelude::*;
use std::convert::Infallible;

fn file(path: &str, bytes: usize, mtime: i64) -> Entry {
    let mtime = Mtime { seconds: mtime, nanoseconds: 0 };
    Entry { mtime, ..Entry::new(path, Kind::file(Content::of(&vec![0; bytes]))) }
}

#[test]
fn samples_are_written_as_people_write_them() {
    let good = [
        ("5%", Sample::Share(50_000), "5%"),
        ("0.5%", Sample::Share(5_000), "0.5%"),
        ("0.0001%", Sample::Share(1), "0.0001%"),
        ("100%", Sample::Share(MILLION), "100%"),
        ("200", Sample::Files(200), "200"),
        ("10GiB", Sample::Bytes(10 << 30), "10737418240B"),
        ("3kB", Sample::Bytes(3000), "3000B"),
    ];
    for (text, sample, shown) in good {
        assert_eq!(text.parse(), Ok(sample));
        assert_eq!(sample.to_string(), shown);
        assert_eq!(shown.parse(), Ok(sample));
    }
    for text in
        ["", "%", "0", "0%", "0B", "101%", "-5%", "+5", "5.%", "1.00001%", "10G", "5 %", "99999999TiB"]
    {
        assert_eq!(text.parse::<Sample>(), Err(SampleError(text.to_owned())));
    }
    assert_eq!(Sample::Share(1).of(10), Limit::Files(1));
    assert_eq!(Sample::Share(MILLION).of(u64::MAX), Limit::Files(u64::MAX));
}

proptest! {
    #[test]
    fn counting_finds_what_sorting_would(
        keys in prop::collection::btree_map(
            prop_oneof![any::<u64>(), 0_u64..50, (0_u64..3).prop_map(|high| high << 48 | 7)], 0_u64..100, 0..60),
        files in 0_u64..70,
        bytes in 0_u64..3000,
        by_bytes in any::<bool>(),
    ) {
        let limit = if by_bytes { Limit::Bytes(bytes) } else { Limit::Files(files) };
        let choice = last_key(limit, |see| {
            keys.iter().for_each(|(key, bytes)| see(*key, *bytes));
            Ok::<_, Infallible>(())
        }).unwrap();
        let mut wanted = Vec::new();
        let mut amount = Amount::default();
        for (key, bytes) in &keys {
            if limit.is_reached_by(amount) {
                break;
            }
            wanted.push(*key);
            amount.add(*bytes);
        }
        let chosen: Vec<u64> = keys.keys().copied().filter(|key| choice.has(*key)).collect();
        prop_assert_eq!(chosen, wanted);
    }

    #[test]
    fn waves_part_all_keys_and_keep_their_order(keys in prop::collection::vec((any::<u64>(), 0_u64..1 << 40), 0..200)) {
        let mut waves = Waves::default();
        keys.iter().for_each(|(key, bytes)| waves.add(*key, *bytes));
        let bounds = waves.bounds();
        prop_assert!(bounds.len() as u64 <= WAVES && bounds.is_sorted());
        for (key, _) in keys {
            prop_assert!(bounds.last().is_some_and(|last| key <= *last));
        }
    }
}

#[test]
fn many_keys_in_one_bucket_are_narrowed_down() {
    let keys = |see: &mut dyn FnMut(u64, u64)| {
        (0..3 * HELD).rev().for_each(|key| see(5 << 48 | key << 20, 1));
        Ok::<_, Infallible>(())
    };
    let choice = last_key(Limit::Files(HELD + 7), keys).unwrap();
    assert_eq!(choice, Choice::UpTo(5 << 48 | (HELD + 6) << 20));
}

#[test]
fn never_proven_comes_first_then_the_oldest_then_chance() {
    let ranking = Ranking::new(1, true);
    let mut files: Vec<(u64, &str)> =
        [("a", Some(40 * DAY)), ("b", Some(3 * DAY)), ("c", None), ("d", Some(-DAY))]
            .map(|(path, proven)| (ranking.key(path.as_bytes(), proven), path))
            .to_vec();
    files.sort_unstable();
    assert_eq!(files.iter().map(|(_, path)| *path).collect::<String>(), "cdba");
    let by_chance = Ranking::new(1, false);
    assert_eq!(by_chance.key(b"a", None), by_chance.key(b"a", Some(9)));
    assert_ne!(by_chance.key(b"a", None), Ranking::new(2, false).key(b"a", None));
}

#[test]
fn the_largest_and_the_newest_are_always_there() {
    let extremes = || {
        let mut extremes = Extremes::default();
        for n in 0..100 {
            extremes.see(&file(&format!("f{n:02}"), n, 1000 - n as i64));
        }
        extremes
    };
    let (one, amount) = extremes().within(Limit::Files(1));
    assert_eq!(one, HashSet::from([b"f99".to_vec(), b"f00".to_vec()]));
    assert_eq!(amount, Amount { files: 2, bytes: 99 });
    let (some, _) = extremes().within(Limit::Files(8));
    assert_eq!(some.len(), 4);
    assert!(some.contains(&b"f98"[..]) && some.contains(&b"f01"[..]));
    assert_eq!(extremes().within(Limit::Files(1000)).0.len(), 2 * ALWAYS);
    let (bytes, amount) = extremes().within(Limit::Bytes(500));
    assert_eq!(amount.bytes, 99 + 98 + 1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9);
    assert_eq!(bytes.len(), 12);
}
