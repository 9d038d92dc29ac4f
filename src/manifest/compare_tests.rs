//! Each change has its class; partitions, edges, losses; the merge against a map.

use super::super::entry::tests::{directory, file};
use super::super::xattr::ACL_ACCESS;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn judged(expected: &[Entry], found: &[Entry], carries: Facts) -> Report {
    let mut report = Report::default();
    let found = found.iter().map(|entry| Ok((entry, carries)));
    let rules = Rules { carries, ..Rules::default() };
    compare(expected.iter().map(Ok), found, &rules, &mut report).unwrap();
    report
}

fn found(report: &Report) -> Vec<(Class, String)> {
    report.differences().iter().map(|d| (d.class, show::bytes(&d.path))).collect()
}

fn tree() -> Vec<Entry> {
    vec![directory(""), directory("d"), file("d/x", b"x"), file("f", b"f")]
}

#[test]
fn each_change_has_its_class() {
    type Change = fn(&mut Entry);
    let table: [(Change, Class); 8] = [
        (|e| e.xattrs = vec![Xattr::new("user.a", b"1")], Class::Xattrs),
        (|e| e.xattrs = vec![Xattr::new(ACL_ACCESS, b"1")], Class::Acl),
        (|e| e.kind = file("", b"y").kind, Class::Content),
        (|e| e.kind = file("", b"longer").kind, Class::Size),
        (|e| e.kind = Kind::Fifo, Class::Type),
        (|e| e.mode = 0o600, Class::Mode),
        (|e| e.gid = 7, Class::Owner),
        (|e| e.mtime.nanoseconds += 1, Class::Mtime),
    ];
    for (change, class) in table {
        let mut copy = tree();
        change(&mut copy[2]);
        let report = judged(&tree(), &copy, Facts::ALL);
        assert_eq!(found(&report), [(class, "d/x".to_owned())]);
    }
    assert!(judged(&tree(), &tree(), Facts::ALL).is_same());
}

#[test]
fn missing_and_extra_are_told_apart() {
    let mut copy = tree();
    copy[3] = file("g", b"f");
    let report = judged(&tree(), &copy, Facts::ALL);
    assert_eq!(found(&report), [(Class::Missing, "f".to_owned()), (Class::Extra, "g".to_owned())]);
}

#[test]
fn only_what_was_unstable_is_excused() {
    let mut source = tree();
    source[1].status = Status::Unstable;
    let mut copy = tree();
    copy.insert(2, directory("d/new"));
    copy.insert(3, file("d/new/deep", b""));
    copy[4].mode = 0o600;
    copy.pop();
    let report = judged(&source, &copy, Facts::ALL);
    let wanted = [
        (Class::UnstableSource, "d/new"),
        (Class::UnstableSource, "d/new/deep"),
        (Class::Mode, "d/x"),
        (Class::Missing, "f"),
    ];
    assert_eq!(found(&report), wanted.map(|(class, path)| (class, path.to_owned())));
}

#[test]
fn owners_that_could_not_be_given_are_lost_by_format() {
    let mut copy = tree();
    copy[2].uid = 1000;
    let report = judged(&tree(), &copy, Facts::restored_by(false));
    assert_eq!(found(&report), [(Class::LostByFormat, "d/x".to_owned())]);
    assert!(!report.is_same());
}

#[test]
fn what_is_beyond_an_edge_is_not_judged_but_an_edge_hides_what_should_be_seen() {
    let edge = |edge| {
        let mut entries = tree();
        (entries[1].kind, entries[1].mode) = (Kind::Directory { edge }, 0o1777);
        entries.remove(2);
        entries
    };
    assert!(judged(&edge(Edge::Mount), &edge(Edge::Stub), Facts::ALL).is_same());
    let mut plain = tree();
    plain.remove(2);
    assert!(judged(&edge(Edge::Mount), &plain, Facts::ALL).is_same());
    let report = judged(&plain, &edge(Edge::Mount), Facts::ALL);
    assert_eq!(found(&report), [(Class::NotChecked, "d".to_owned())]);
}

#[test]
fn equal_counts_of_links_with_other_partners_differ() {
    let linked = |groups: [u64; 4]| {
        let mut entries = vec![directory("")];
        for (name, group) in ["a", "b", "c", "d"].iter().zip(groups) {
            entries.push(Entry { link_group: Some(group), ..file(name, b"same") });
        }
        entries
    };
    let report = judged(&linked([1, 1, 2, 2]), &linked([1, 2, 1, 2]), Facts::ALL);
    assert!(report.count(Class::HardLinks) >= 2);
}

proptest! {
    #[test]
    fn the_merge_agrees_with_a_map(
        left in proptest::collection::btree_map("[ab.-]{1,3}", 0u8..3, 0..10),
        right in proptest::collection::btree_map("[ab.-]{1,3}", 0u8..3, 0..10),
    ) {
        let entries = |map: &BTreeMap<String, u8>| {
            let mut entries = vec![directory("")];
            entries.extend(map.iter().map(|(name, content)| file(name, &[*content])));
            entries.sort_by(|l, r| path_order(&l.path, &r.path));
            entries
        };
        let report = judged(&entries(&left), &entries(&right), Facts::ALL);
        let mut wanted = Vec::new();
        for (name, content) in &left {
            match right.get(name) {
                None => wanted.push((Class::Missing, name.clone())),
                Some(other) if other != content => wanted.push((Class::Content, name.clone())),
                Some(_) => {}
            }
        }
        wanted.extend(right.keys().filter(|n| !left.contains_key(*n)).map(|n| (Class::Extra, n.clone())));
        let mut got = found(&report);
        got.sort();
        wanted.sort();
        prop_assert_eq!(got, wanted);
    }
}

#[test]
fn what_lies_behind_an_unreadable_place_of_the_copy_is_not_called_missing() {
    let hidden = |change: fn(&mut Entry)| {
        let mut copy = tree();
        change(&mut copy[1]);
        copy.remove(2);
        found(&judged(&tree(), &copy, Facts::ALL))
    };
    let at = |class, path: &str| (class, path.to_owned());
    let unreadable = hidden(|entry| entry.status = Status::Unreadable(13));
    assert_eq!(unreadable, [at(Class::Unreadable, "d"), at(Class::Unreadable, "d/x")]);
    let edge = hidden(|entry| entry.kind = Kind::Directory { edge: Edge::Mount });
    assert_eq!(edge, [at(Class::NotChecked, "d"), at(Class::NotChecked, "d/x")]);
    assert_eq!(hidden(|_| {}), [at(Class::Missing, "d/x")]);
}

#[test]
fn what_a_copy_holds_beyond_an_edge_of_the_manifest_is_not_called_extra() {
    let mut source = tree();
    source[1].kind = Kind::Directory { edge: Edge::Mount };
    source.remove(2);
    let report = judged(&source, &tree(), Facts::ALL);
    assert_eq!(found(&report), [(Class::NotChecked, "d/x".to_owned())]);
    assert_eq!(report.edges, 1);
}

#[test]
fn a_stub_that_is_not_there_is_no_loss() {
    let mut source = tree();
    source[1].kind = Kind::Directory { edge: Edge::Stub };
    source.remove(2);
    let copy = vec![source[0].clone(), source[2].clone()];
    assert!(judged(&source, &copy, Facts::ALL).is_same());
}

#[test]
fn each_fact_that_is_not_carried_is_lost_only_where_there_is_one() {
    let mut rich = tree();
    rich[2].xattrs = vec![Xattr::new("trusted.t", b"1"), Xattr::new("user.u", b"1")];
    rich[2].flags = Some(0x10);
    rich[2].mtime.nanoseconds = 7;
    let plain = tree();
    let carries = |fact: Facts| Facts::ALL.without(fact);
    let lost = |expected: &[Entry], without: Facts| {
        let report = judged(expected, &plain, carries(without));
        (report.lost().clone(), report.verdict())
    };
    let all = Facts::XATTRS.with(Facts::TRUSTED_XATTRS).with(Facts::FLAGS).with(Facts::MTIME_NANOS);
    let (facts, verdict) = lost(&rich, all);
    assert_eq!(
        facts.keys().copied().collect::<Vec<_>>(),
        ["flags", "mtime-nanoseconds", "trusted-xattrs", "xattrs"]
    );
    assert_eq!(verdict, super::super::Verdict::SameButLost);
    assert_eq!(lost(&plain, all), (std::collections::BTreeMap::new(), super::super::Verdict::Same));
    assert_eq!(lost(&rich, Facts::FLAGS).1, super::super::Verdict::NotSame);
}

#[test]
fn content_that_could_not_be_learned_is_unknown_and_its_size_too() {
    let mut copy = tree();
    copy[2].kind = Kind::unread_file(0);
    let report = judged(&tree(), &copy, Facts::ALL.without(Facts::CONTENT));
    assert_eq!(found(&report), [(Class::NotChecked, "d/x".to_owned())]);
}
