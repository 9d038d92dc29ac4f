use super::*;

fn subject() -> Subject {
    Subject::new(Path::new("/copy"), &Header { tree: b"/srv".to_vec(), ..Header::default() })
}

fn opening() -> Opening {
    let open_run = Some(OpenRun { asked: [7; MARK], seed: u64::MAX, began: 900 });
    Opening { subject: subject(), saved: 1000, open_run }
}

fn proofs(count: usize) -> Vec<Proof> {
    let proof = |n: usize| Proof {
        path: format!("some/directory/{n:06}").into_bytes(),
        mark: [n as u8; MARK],
        proven: n as i64 % 1000,
    };
    (0..count).map(proof).collect()
}

fn write(path: &Path, opening: &Opening, proofs: &[Proof]) {
    let mut writer = LedgerWriter::begin(path, opening).unwrap();
    proofs.iter().for_each(|proof| writer.push(proof).unwrap());
    writer.commit().unwrap();
}

fn read(path: &Path) -> Result<(Opening, Vec<Proof>), LedgerError> {
    let mut reader = LedgerReader::open(path, &subject())?.expect("the file is there");
    let mut proofs = Vec::new();
    while let Some(proof) = reader.next_proof()? {
        proofs.push(proof);
    }
    Ok((*reader.opening(), proofs))
}

#[test]
fn what_is_read_is_what_was_written_over_many_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("l");
    assert!(LedgerReader::open(&path, &subject()).unwrap().is_none());
    for count in [0, 1, 20_000] {
        let proofs = proofs(count);
        write(&path, &opening(), &proofs);
        assert_eq!(read(&path).unwrap(), (opening(), proofs));
    }
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert!(bytes < 20_000 * 40, "paths share their beginnings: {bytes}");
}

#[test]
fn cut_or_flipped_at_any_byte_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("l");
    write(&path, &opening(), &proofs(5));
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(read(&path).is_err(), "cut at {at}");
        for bit in [0, 7] {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            std::fs::write(&path, &flipped).unwrap();
            assert!(read(&path).is_err(), "bit {bit} of byte {at} flipped");
        }
    }
    std::fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert!(matches!(read(&path), Err(LedgerError::Damaged { what: "bytes follow the footer", .. })));
}

#[test]
fn frames_of_another_ledger_do_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("l");
    let frames = |bytes: &[u8]| {
        let mut at = PREAMBLE;
        let mut frames = Vec::new();
        while at < bytes.len() {
            let length = u32::from_le_bytes(bytes[at + 1..at + 5].try_into().unwrap()) as usize + 37;
            frames.push(bytes[at..at + length].to_vec());
            at += length;
        }
        frames
    };
    write(&path, &opening(), &proofs(5));
    let one = std::fs::read(&path).unwrap();
    write(&path, &Opening { saved: 2000, ..opening() }, &proofs(5));
    let two = frames(&std::fs::read(&path).unwrap());
    let mut spliced = one[..PREAMBLE].to_vec();
    let ones = frames(&one);
    spliced.extend([&ones[0], &two[1], &two[2]].into_iter().flatten());
    std::fs::write(&path, spliced).unwrap();
    assert!(matches!(read(&path), Err(LedgerError::Damaged { what: "the digest does not match", .. })));
}

#[test]
fn that_of_another_copy_or_tree_or_a_newer_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("l");
    let header = |tree: &[u8], machine: &str| Header {
        tree: tree.to_vec(),
        machine: machine.to_owned(),
        ..Header::default()
    };
    let mine = Subject::new(Path::new("/copy"), &header(b"/srv", "m"));
    let others = [
        Subject::new(Path::new("/copy2"), &header(b"/srv", "m")),
        Subject::new(Path::new("/copy"), &header(b"/srv2", "m")),
        Subject::new(Path::new("/copy"), &header(b"/srv", "n")),
    ];
    for other in others {
        write(&path, &Opening { subject: other, ..opening() }, &proofs(1));
        assert!(matches!(LedgerReader::open(&path, &mine), Err(LedgerError::Foreign(_))));
        assert_ne!(other.file_name(), mine.file_name());
    }
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8..12].copy_from_slice(&[9, 0, 9, 0]);
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(read(&path), Err(LedgerError::Newer { version: 9, .. })));
}

#[test]
fn no_proof_is_later_than_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("l");
    write(&path, &opening(), &[Proof { proven: i64::MAX, ..proofs(1)[0].clone() }]);
    assert_eq!(read(&path).unwrap().1[0].proven, 1000);
}
