use super::*;

fn hop() -> Hop {
    Hop::between("bookworm", "trixie").unwrap()
}

fn notes(rewritten: &Rewritten) -> Vec<Note> {
    rewritten.notes.iter().map(|(_, _, note)| note.clone()).collect()
}

#[test]
fn one_line_as_a_person_wrote_it() {
    let before = include_str!("../../../tests/fixtures/release/sources.list");
    let rewritten = one_line::rewrite(before, &hop());
    assert_eq!(rewritten.text, include_str!("../../../tests/fixtures/release/sources.list.trixie"));
    let third: Vec<&str> = rewritten
        .notes
        .iter()
        .filter(|(_, _, note)| matches!(note, Note::ThirdPartyLeft { .. }))
        .map(|(_, uri, _)| uri.as_str())
        .collect();
    assert_eq!(third, ["https://packages.example.org/apt", "file:/srv/local"]);
    assert!(notes(&rewritten).contains(&Note::Disabled { suite: "bookworm-backports".into() }));
    assert!(notes(&rewritten).contains(&Note::AliasLeft { suite: "stable".into() }));
    assert_eq!(notes(&rewritten).iter().filter(|note| **note == Note::FirmwareAdded).count(), 1);
}

#[test]
fn deb822_keeps_comments_and_options() {
    let before = include_str!("../../../tests/fixtures/release/debian.sources");
    let rewritten = deb822::rewrite(before, &hop());
    assert_eq!(rewritten.text, include_str!("../../../tests/fixtures/release/debian.sources.trixie"));
    assert!(notes(&rewritten).contains(&Note::ThirdPartyLeft { suite: "nodistro".into() }));
}

#[test]
fn rewriting_twice_changes_nothing_more() {
    let list = one_line::rewrite(include_str!("../../../tests/fixtures/release/sources.list"), &hop());
    assert_eq!(one_line::rewrite(&list.text, &hop()).text, list.text);
    let stanzas = deb822::rewrite(include_str!("../../../tests/fixtures/release/debian.sources"), &hop());
    assert_eq!(deb822::rewrite(&stanzas.text, &hop()).text, stanzas.text);
}

#[test]
fn suites_are_judged_by_their_whole_name() {
    let judged = |suite| judge_suite(suite, &hop());
    assert_eq!(judged("bookworm-security"), SuiteChange::Rewrite("trixie-security".into()));
    assert_eq!(judged("bookworm-backports-sloppy"), SuiteChange::Disable);
    assert_eq!(judged("trixie"), SuiteChange::AlreadyTarget);
    assert_eq!(judged("stable-updates"), SuiteChange::Alias);
    for other in ["bookwormish", "cloud-sdk-bookworm", "bookworm/", "bookworm-pgdg", "./", "stable/x"] {
        assert_eq!(judged(other), SuiteChange::Other, "{other}");
    }
}

#[test]
fn odd_texts_survive() {
    for text in [
        "",
        "\n",
        "deb",
        "deb [arch=amd64",
        "deb [a] http://x",
        "#deb http://x bookworm main",
        "rpm http://x bookworm",
    ] {
        assert_eq!(one_line::rewrite(text, &hop()).text, text);
    }
    for text in ["", "\n\n", "Suites", " bookworm\n", "# c\n", "Types: deb\nEnabled: no\nSuites: bookworm\n"]
    {
        assert_eq!(deb822::rewrite(text, &hop()).text, text);
    }
    assert_eq!(deb822::rewrite("Suites: bookworm", &hop()).text, "Suites: trixie");
    assert_eq!(
        deb822::rewrite("Suites: bookworm-backports", &hop()).text,
        "Suites: bookworm-backports\nEnabled: no\n"
    );
}

fn root_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("etc/apt/sources.list.d")).unwrap();
    for (name, text) in files {
        fs::write(root.path().join("etc/apt").join(name), text).unwrap();
    }
    root
}

#[test]
fn applied_and_put_back_byte_by_byte() {
    let before = include_str!("../../../tests/fixtures/release/sources.list");
    let stanzas = include_str!("../../../tests/fixtures/release/debian.sources");
    let root = root_with(&[
        ("sources.list", before),
        ("sources.list.d/debian.sources", stanzas),
        ("sources.list.d/old.list.save", "deb http://x bookworm main\n"),
        ("sources.list.d/other.list", "deb http://third.example ./\n"),
    ]);
    let list = root.path().join("etc/apt/sources.list");
    fs::set_permissions(&list, fs::Permissions::from_mode(0o640)).unwrap();
    let kept = root.path().join("var/kept");
    assert!(matches!(restore(root.path(), &kept), Err(SourcesError::NothingKept { .. })));

    let plan = plan_sources(root.path(), &hop()).unwrap();
    assert_eq!(plan.files.len(), 3);
    apply(&plan, root.path(), &kept).unwrap();
    assert!(fs::read_to_string(&list).unwrap().contains("trixie-updates"));
    // Again, as after a crash: the kept originals stay the originals.
    let again = plan_sources(root.path(), &hop()).unwrap();
    assert!(again.files.iter().all(|file| !file.changes()));
    apply(&again, root.path(), &kept).unwrap();

    restore(root.path(), &kept).unwrap();
    restore(root.path(), &kept).unwrap();
    assert_eq!(fs::read_to_string(&list).unwrap(), before);
    assert_eq!(fs::metadata(&list).unwrap().permissions().mode() & 0o777, 0o640);
    let back = fs::read_to_string(root.path().join("etc/apt/sources.list.d/debian.sources")).unwrap();
    assert_eq!(back, stanzas);
}

#[test]
fn nothing_that_names_the_release_is_an_error() {
    let root = root_with(&[("sources.list", "deb http://x stable main\n")]);
    let error = plan_sources(root.path(), &hop()).unwrap_err();
    assert!(error.to_string().starts_with("no apt source names bookworm"), "{error}");
}

#[test]
fn a_link_is_not_written_through() {
    let root = root_with(&[("real", "deb http://x bookworm main\n")]);
    std::os::unix::fs::symlink("real", root.path().join("etc/apt/sources.list")).unwrap();
    let error = plan_sources(root.path(), &hop()).unwrap_err();
    assert!(error.to_string().contains("/etc/apt/sources.list is a symbolic link"), "{error}");
}
