//! Everything that no honest archive holds has a name, and nothing of it is followed.

use super::TarError;
use super::header::BLOCK;
use super::made_tests::{
    Outcome, Raw, directory, end, extended, file, limited, link, outcome, padded, pax, record, told_apart,
};
use crate::manifest::{Class, Content, Facts, Kind, Status};
use crate::sources::Limits;

/// The one thing that is wrong with an archive of the tree itself, these parts, and an end.
fn wrong(parts: Vec<Vec<u8>>) -> String {
    let outcome = outcome(&[vec![directory("./")], parts, vec![end()]].concat());
    let hostile = outcome.hostile();
    assert_eq!(hostile.len(), 1, "{hostile:?}");
    hostile[0].clone()
}

#[test]
fn an_honest_archive_has_no_findings() {
    let outcome = outcome(&[
        directory("./"),
        directory("./d/"),
        file("./d/f", b"content"),
        link("./s", b'2', "../../etc/passwd"),
        link("./h", b'1', "./d/f"),
        end(),
    ]);
    assert_eq!(outcome.gathered.findings, []);
    assert_eq!(outcome.entries.keys().collect::<Vec<_>>(), ["", "d", "d/f", "h", "s"]);
    assert_eq!(outcome.entries["h"].entry.kind, Kind::file(Content::of(b"content")));
    assert_eq!(outcome.entries["h"].entry.link_group, Some(1));
    for lost in [Facts::XATTRS, Facts::ACL, Facts::MTIME_NANOS, Facts::HOLES, Facts::SOCKETS, Facts::FLAGS] {
        assert!(!outcome.gathered.carries.has(lost));
    }
}

#[test]
fn names_that_lead_elsewhere_are_named_and_not_followed() {
    for (name, what) in
        [("/etc/x", "absolute"), ("a/../../x", "\"..\""), ("a//b", "empty component"), ("../x", "\"..\"")]
    {
        let outcome = outcome(&[directory("."), file(name, b"x"), end()]);
        assert!(outcome.hostile()[0].contains(what), "{:?}", outcome.hostile());
        assert_eq!(outcome.entries.len(), 1);
        assert!(wrong(vec![link("l", b'1', name)]).contains(what));
    }
    assert!(wrong(vec![pax(&[("path", b"a\0b")]), file("f", b"")]).contains("NUL"));
    assert!(wrong(vec![extended(b'L', b"long\0hidden"), file("f", b"")]).contains("NUL inside"));
    assert!(wrong(vec![pax(&[("path", b"/etc/x")]), file("f", b"")]).contains("absolute"));
}

#[test]
fn links_and_what_lies_below_them() {
    assert!(wrong(vec![link("l", b'1', "f"), file("f", b"")]).contains("does not come before it"));
    assert!(wrong(vec![directory("d"), link("l", b'1', "d")]).contains("is a directory"));
    let below = wrong(vec![link("s", b'2', "/etc"), file("s/passwd", b"")]);
    assert_eq!(below, "s/passwd: a member below s, which is a symlink");
    assert!(
        wrong(vec![
            file("f", b""),
            link("l", b'1', "f").into_iter().chain([]).collect(),
            link("m", b'1', "l")
        ])
        .contains("itself")
    );
}

#[test]
fn what_comes_twice() {
    assert!(wrong(vec![file("f", b""), link("f", b'2', "/etc")]).contains("a file and later as a symlink"));
    let outcome = outcome(&[directory("."), file("f", b"old"), file("f", b"new"), end()]);
    assert_eq!(outcome.gathered.findings, []);
    assert_eq!(outcome.gathered.remarks, ["1 paths came more than once; the last one counts"]);
    assert_eq!(outcome.entries["f"].entry.kind, Kind::file(Content::of(b"new")));
}

#[test]
fn a_size_in_a_pax_header_counts_and_a_second_one_is_named() {
    // The trick of CVE-2026-33055: who believes the header sees the member "hidden" inside the file.
    let inner = file("hidden", b"");
    let outcome = outcome(&[
        directory("."),
        pax(&[("size", inner.len().to_string().as_bytes())]),
        Raw::new("f", b'0', 1).sealed(),
        inner.clone(),
        end(),
    ]);
    assert_eq!(outcome.hostile(), ["f: two sizes: 1 in its header, 512 in its extended header"]);
    assert_eq!(outcome.entries.keys().collect::<Vec<_>>(), ["", "f"]);
    assert_eq!(outcome.entries["f"].entry.kind, Kind::file(Content::of(&inner)));
    let honest = outcome_of_size_zero(&inner);
    assert_eq!(honest.gathered.findings, []);
    assert!(
        wrong(vec![link("s", b'2', "t").into_iter().chain([]).collect(), sized_link()])
            .contains("readers disagree")
    );
}

fn outcome_of_size_zero(inner: &[u8]) -> Outcome {
    let size = inner.len().to_string();
    outcome(&[
        directory("."),
        pax(&[("size", size.as_bytes())]),
        Raw::new("f", b'0', 0).sealed(),
        inner.to_vec(),
        end(),
    ])
}

fn sized_link() -> Vec<u8> {
    Raw::new("t", b'2', 700).with(157, b"x").sealed()
}

#[test]
fn two_names_for_one_member() {
    let long = extended(b'L', b"one\0");
    assert!(wrong(vec![long.clone(), pax(&[("path", b"two")]), file("f", b"")]).contains("two names"));
    assert!(wrong(vec![long, extended(b'L', b"two\0"), file("f", b"")]).contains("two long names"));
    assert!(wrong(vec![pax(&[("path", b"a"), ("path", b"b")]), file("f", b"")]).contains("two paths"));
    assert!(wrong(vec![extended(b'g', &record("path", b"a")), file("f", b"")]).contains("global header"));
}

#[test]
fn nothing_may_follow_the_end() {
    for (after, what) in [
        (file("late", b"x"), "2 more members"),
        (padded(b"garbage"), "1 blocks that are not zero"),
        (b"x".to_vec(), "middle of a block"),
    ] {
        // The content of the late member is no header.
        let what = what.replace("2 more", "1 more");
        let outcome = outcome(&[directory("."), end(), after]);
        assert!(outcome.hostile()[0].contains(&what), "{:?}", outcome.hostile());
        assert_eq!(outcome.entries.len(), 1);
    }
    assert!(wrong(vec![pax(&[("uid", b"1")])]).contains("no member follows"));
    assert!(wrong(vec![file("a", b""), vec![0; BLOCK], file("b", b"")]).contains("single block of zeros"));
    assert_eq!(outcome(&[directory("."), end(), vec![0; 7 * BLOCK]]).gathered.findings, []);
}

#[test]
fn a_broken_header_loses_its_member_only() {
    let mut broken = file("b", b"content");
    broken[3] ^= 1;
    let outcome = outcome(&[directory("."), file("a", b""), broken, file("c", b""), end()]);
    assert_eq!(outcome.hostile().len(), 1);
    assert!(
        outcome.hostile()[0]
            .contains("at byte 1024 a header with a wrong checksum; the next good one follows 2 blocks")
    );
    assert_eq!(outcome.entries.keys().collect::<Vec<_>>(), ["", "a", "c"]);
}

#[test]
fn strange_members_are_named() {
    assert!(wrong(vec![Raw::new("f", b'Q', 0).sealed()]).contains("unknown type Q"));
    assert!(wrong(vec![Raw::new("f", b'M', 3).sealed(), padded(b"abc")]).contains("another volume"));
    assert!(wrong(vec![Raw::new("d", b'3', 0).with(329, b"zz").sealed()]).contains("without a number"));
    assert!(
        wrong(vec![Raw::new("f", b'0', 0).with(100, b"rw-r--r-").sealed()]).contains("mode is no number")
    );
    assert!(wrong(vec![link("s", b'2', "")]).contains("symlink to nothing"));
    let many: Vec<Vec<u8>> = (0..20).map(|_| pax(&[("uid", b"1")])).chain([file("f", b"")]).collect();
    assert!(wrong(many).contains("more than 16 extended headers"));
}

#[test]
fn sparse_maps_that_lie_leave_the_file_unread() {
    let records = |map: &'static [u8]| {
        pax(&[
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
            ("GNU.sparse.size", b"100"),
            ("GNU.sparse.map", map),
        ])
    };
    for (map, what) in
        [(&b"0,4,2,2"[..], "overlap"), (b"0,3", "a sparse map of 3 bytes"), (b"99,4", "behind the end")]
    {
        let outcome = outcome(&[directory("."), records(map), file("f", b"abcd"), file("g", b""), end()]);
        assert!(outcome.hostile()[0].contains(what), "{:?}", outcome.hostile());
        assert!(matches!(outcome.entries["f"].entry.status, Status::Unreadable(_)));
        assert!(outcome.entries.contains_key("g"));
    }
    let whole = outcome(&[directory("."), records(b"96,4"), file("f", b"abcd"), end()]);
    let content = [&[0; 96][..], b"abcd"].concat();
    assert_eq!(whole.entries["f"].entry.bytes(), 100);
    assert!(
        matches!(&whole.entries["f"].entry.kind, Kind::File { content: Some(hash), .. } if *hash == Content::of(&content).hash)
    );
    assert!(whole.gathered.carries.has(Facts::HOLES));
}

#[test]
fn limits_end_bombs() {
    let limits = Limits { entries: 4, bytes: 10_000, name: 50, depth: 3, xattrs: 100 };
    let deep = file("a/b/c/d", b"");
    let long = pax(&[("path", &[b'n'; 51])]);
    let hole: &[(&str, &[u8])] = &[("GNU.sparse.size", b"1099511627776"), ("GNU.sparse.map", b"0,4")];
    for (parts, what) in [
        (vec![deep], "4 components"),
        (vec![long, file("f", b"")], "a name of 51 bytes"),
        (vec![pax(&[("SCHILY.xattr.user.x", &[b'v'; 101])]), file("f", b"")], "bytes of attributes"),
        ((0..5).map(|n| file(&n.to_string(), b"")).collect(), "more than 4 members"),
        (vec![file("f", &[0; 10_001])], "more than 10000 bytes of content"),
        (vec![pax(hole), file("f", b"abcd")], "more than 10000 bytes of content"),
        ((0..40).map(|_| extended(b'g', &vec![0; 1 << 20])).collect(), "longer than it may be"),
    ] {
        let outcome = limited(&[vec![directory(".")], parts, vec![end()]].concat(), "", limits).unwrap();
        assert!(outcome.hostile()[0].contains(what), "{what}: {:?}", outcome.hostile());
    }
}

#[test]
fn an_extended_header_that_nobody_needs_is_not_read() {
    let what = wrong(vec![extended(b'x', &vec![b'1'; 12 << 20]), file("f", b"")]);
    assert!(what.starts_with("f: an extended header of 12582912 bytes"), "{what}");
}

#[test]
fn deep_names_in_an_order_made_for_it_do_not_flood_the_disk() {
    let name = |n: u32| format!("{}{n}/{}f", "a/".repeat(2000), "b/".repeat(2000));
    let parts: Vec<Vec<u8>> =
        (0..50).flat_map(|n| [pax(&[("path", name(n).as_bytes())]), file("f", b"")]).collect();
    let outcome = outcome(&parts);
    assert!(outcome.hostile()[0].contains("more work than the archive is worth"), "{:?}", outcome.hostile());
}

#[test]
fn only_the_part_that_is_asked_for_is_read() {
    let parts = [
        directory("srv/"),
        directory("srv/www/"),
        file("srv/www/f", b"f"),
        file("etc/passwd", b"p"),
        link("srv/www/l", b'1', "etc/passwd"),
        file("srv/www/left/out/x", b""),
        end(),
    ];
    let outcome = limited(&parts, "srv/www", Limits::default()).unwrap();
    assert_eq!(outcome.entries.keys().collect::<Vec<_>>(), ["", "f", "l"]);
    assert!(matches!(outcome.entries["l"].entry.status, Status::Unreadable(_)));
    assert_eq!(
        outcome.gathered.findings.iter().map(|finding| finding.class).collect::<Vec<_>>(),
        [Class::NotChecked]
    );
    assert_eq!(outcome.gathered.remarks.len(), 2, "{:?}", outcome.gathered.remarks);
    for unknown in [Facts::CONTENT, Facts::XATTRS, Facts::ACL, Facts::HARD_LINKS] {
        assert!(!outcome.entries["l"].carries.has(unknown), "{unknown:?}");
        assert!(unknown != Facts::CONTENT || outcome.entries["f"].carries.has(unknown));
    }
}

#[test]
fn what_does_not_belong_to_the_tree_does_not_use_up_its_limits() {
    let limits = Limits { entries: 2, bytes: 10, name: 50, depth: 9, xattrs: 100 };
    // More bytes than the archive of such a tree may have.
    let large = vec![0; 48 << 20];
    let mut parts: Vec<Vec<u8>> = (0..9).map(|n| file(&format!("etc/{n}"), b"outside")).collect();
    parts.extend([file("var", &large), directory("srv/"), directory("srv/www/")]);
    parts.extend((0..9).map(|n| file(&format!("srv/www/left/out/{n}"), b"excluded")));
    parts.extend([file("srv/www/left/out/large", &large), file("srv/www/f", b"f"), end()]);
    let outcome = limited(&parts, "srv/www", limits).unwrap();
    assert_eq!(outcome.gathered.findings, []);
    assert_eq!(outcome.entries.keys().collect::<Vec<_>>(), ["", "f"]);
    parts.insert(parts.len() - 1, file("srv/www/g", b"g"));
    assert!(limited(&parts, "srv/www", limits).unwrap().hostile()[0].contains("more than 2 members"));
    let endless = Raw::new("etc/endless", b'0', 0).with(124, b"\x80\0\0\0\0\x10\0\0\0\0\0\0").sealed();
    let read = limited(&[directory("srv/www/"), endless], "srv/www", limits);
    assert!(matches!(read, Err(TarError::TooMuchElse(_))));
}

#[test]
fn a_tree_that_is_not_where_it_was_said_to_be_is_no_answer() {
    let nothing = |parts: &[Vec<u8>], strip: &str| match limited(parts, strip, Limits::default()) {
        Err(TarError::NothingInside { example }) => String::from_utf8(example).unwrap(),
        Err(error) => panic!("{error}"),
        Ok(outcome) => panic!("{:?}", outcome.hostile()),
    };
    let relative = [directory("srv/"), directory("srv/www/"), file("srv/www/f", b""), end()];
    assert_eq!(nothing(&relative, "srv/wwww"), "srv/");
    let absolute = [directory("/srv/www/"), file("/srv/www/f", b""), end()];
    assert_eq!(nothing(&absolute, "srv/www"), "/srv/www/");
    assert_eq!(nothing(&absolute, ""), "/srv/www/");
    for parts in [&relative[..], &absolute] {
        let outcome = limited(parts, "/srv/www", Limits::default()).unwrap();
        assert_eq!((outcome.gathered.findings.len(), outcome.entries.len()), (0, 2));
    }
    // What is cut may have held the tree behind the cut: it is damaged whatever else.
    let cut = limited(&relative[..2], "srv/wwww", Limits::default()).unwrap();
    assert_eq!(cut.hostile().len(), 1);
}

#[test]
fn a_hard_link_is_another_name_of_what_was_there_before_it() {
    // As `tar -r` adds them again.
    let (old, new) = (file("m", b"old"), file("m", b"new"));
    let links = || [link("a", b'1', "m"), link("z", b'1', "m")].concat();
    for (parts, wanted) in [
        (vec![old.clone(), links(), new.clone(), links()], b"new"),
        (vec![old.clone(), new.clone(), links()], b"new"),
        (vec![old, links(), new], b"old"),
    ] {
        let outcome = outcome(&[vec![directory(".")], parts, vec![end()]].concat());
        assert_eq!(outcome.hostile(), [""; 0]);
        for name in ["a", "z"] {
            assert_eq!(outcome.entries[name].entry.kind, Kind::file(Content::of(wanted)), "{name}");
        }
    }
}

#[test]
fn only_a_cut_is_told_as_one() {
    let list =
        b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    let parts = [
        directory("."),
        pax(&[("SCHILY.xattr.system.posix_acl_access", list)]),
        file("a", b""),
        pax(&[("SCHILY.acl.access", b"user::rw-,group::r--,other::r--")]),
        file("b", b""),
        file("c", b"content"),
        end(),
    ];
    let all = parts.concat();
    let (whole, none) = told_apart(&all);
    assert_eq!(whole.iter().map(|finding| finding.class).collect::<Vec<_>>(), [Class::Broken]);
    assert_eq!(none, None);
    let (others, cut) = told_apart(&all[..all.len() - 3 * BLOCK]);
    assert_eq!((others, cut.map(|cut| cut.path)), (whole, Some(b"c".to_vec())));
}

#[test]
fn what_is_no_archive_is_an_error() {
    for bytes in [&b""[..], b"PK\x03\x04", &[7; 5000]] {
        assert!(matches!(limited(&[bytes.to_vec()], "", Limits::default()), Err(TarError::NotAnArchive)));
    }
    // An archive of nothing is one.
    assert!(outcome(&[end()]).entries.is_empty());
}

#[test]
fn an_archive_cut_anywhere_is_never_whole() {
    let archive = [
        directory("./"),
        pax(&[("SCHILY.xattr.user.x", b"value"), ("mtime", b"1.123456789")]),
        file("./f", &[b'x'; 600]),
        extended(b'L', b"a-long-name\0"),
        link("s", b'2', "t"),
        end(),
    ]
    .concat();
    assert_eq!(outcome(std::slice::from_ref(&archive)).gathered.findings, []);
    for cut in 0..archive.len() {
        match limited(&[archive[..cut].to_vec()], "", Limits::default()) {
            Err(TarError::NotAnArchive) => assert!(cut < BLOCK, "{cut}"),
            Err(error) => panic!("{cut}: {error}"),
            Ok(outcome) => assert!(!outcome.hostile().is_empty(), "{cut}"),
        }
    }
}
