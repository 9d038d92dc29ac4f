//! Manifests of version 1 that must be read for ever, whatever is written by then.
//!
//! `tests/fixtures/manifest/v1/` holds them, and `ids` what they are. A new one is added with `SAFE_UPGRADE_BLESS=1`; one that is
//! there is never changed.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use safe_upgrade::manifest::entry::{Device, Edge, Extent, Noted, path_order};
use safe_upgrade::manifest::root::ManifestId;
use safe_upgrade::manifest::xattr::{ACL_ACCESS, CAPABILITY, Xattr};
use safe_upgrade::manifest::{
    Content, ContentHasher, Entry, Hashing, Header, Kind, Manifest, Mtime, Status, Trailer, read_file_with,
};

fn directory_of_fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/manifest/v1")
}

fn key_for(name: &str) -> Hashing {
    if name.starts_with("keyed") { Hashing::keyed(&[0x5a; 32]) } else { Hashing::plain() }
}

fn directory(path: impl Into<Vec<u8>>) -> Entry {
    Entry { mode: 0o755, ..Entry::new(path, Kind::Directory { edge: Edge::Inside }) }
}

fn content(hashing: &Hashing, bytes: &[u8]) -> Content {
    let mut hasher = ContentHasher::new(hashing);
    hasher.update(bytes);
    hasher.finish()
}

/// One of each thing that an entry can be.
fn everything(hashing: &Hashing) -> Vec<Entry> {
    let file = |path: &[u8], bytes: &[u8]| Entry {
        mode: 0o4711,
        ..Entry::new(path, Kind::file(content(hashing, bytes)))
    };
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 7) as u8).collect();
    let mut sparse = file(b"sparse", &large);
    if let Kind::File { extents, .. } = &mut sparse.kind {
        *extents = Some(vec![Extent { offset: 0, length: 4096 }, Extent { offset: 1 << 20, length: 9 }]);
    }
    let mut labelled = file(b"labelled", b"x");
    labelled.xattrs = vec![
        Xattr::new(CAPABILITY, &[1, 0, 0, 2, 0, 4, 0, 0]),
        Xattr::new(ACL_ACCESS, &[2, 0, 0, 0]),
        Xattr::new("user.large", &[7; 60_000]),
        Xattr::new("user.small", b""),
    ];
    labelled.flags = Some(0x30);
    labelled.noted = Some(Noted {
        ctime: Mtime { seconds: 5, nanoseconds: 6 },
        inode: u64::MAX,
        links: 3,
        ..Noted::default()
    });
    let device =
        |path: &str, kind: fn(Device) -> Kind| Entry::new(path, kind(Device { major: 8, minor: 0xf_ffff }));
    let mut entries = vec![
        directory(""),
        Entry {
            mtime: Mtime { seconds: i64::MIN, nanoseconds: 999_999_999 },
            uid: u32::MAX,
            ..directory("d")
        },
        Entry { link_group: Some(1), ..file(b"d/one name", b"same") },
        Entry { link_group: Some(1), ..file(b"d/other name", b"same") },
        Entry { status: Status::Unstable, ..file(b"moving", b"m") },
        Entry { status: Status::Unreadable(13), ..Entry::new("secret", Kind::unread_file(9)) },
        Entry::new(&b"not \xff utf-8\n"[..], Kind::Symlink { target: b"../\xfe\n".to_vec() }),
        Entry::new("fifo", Kind::Fifo),
        Entry::new("socket", Kind::Socket),
        device("block", Kind::BlockDevice),
        device("character", Kind::CharDevice),
        Entry::new("mount", Kind::Directory { edge: Edge::Mount }),
        Entry::new("stub", Kind::Directory { edge: Edge::Stub }),
        sparse,
        labelled,
    ];
    entries.sort_by(|l, r| path_order(&l.path, &r.path));
    entries
}

/// Several blocks of entries, and of directories.
fn many(hashing: &Hashing) -> Vec<Entry> {
    let mut entries = vec![directory("")];
    for number in 0..1500 {
        entries.push(directory(format!("{number:04}")));
        entries.push(Entry::new(format!("{number:04}/file"), Kind::file(content(hashing, &[1]))));
    }
    entries
}

fn deep() -> Vec<Entry> {
    (0..64).map(|depth| directory(vec![&b"d"[..]; depth].join(&b'/'))).collect()
}

fn manifests() -> Vec<(&'static str, Manifest)> {
    let header = Header {
        tree: b"/srv/\xff".to_vec(),
        host: "host".into(),
        machine: "0123456789abcdef0123456789abcdef".into(),
        tool: "safe-upgrade 0.1.0".into(),
        filesystem: "btrfs".into(),
        started: Mtime { seconds: 1, nanoseconds: 2 },
        ended: Mtime { seconds: 3, nanoseconds: 4 },
        excludes: vec![b"var/cache".to_vec(), b"**/*.tmp".to_vec()],
        one_filesystem: true,
        previous: Some(ManifestId::from_bytes([3; 32])),
        ..Header::default()
    };
    let trailer = Trailer {
        users: [(0, b"root".to_vec()), (33, b"www-data".to_vec())].into(),
        groups: [(0, b"root".to_vec())].into(),
        left_out: vec![b"var/cache".to_vec()],
        left_out_total: 1,
    };
    let of = |name: &'static str, entries: fn(&Hashing) -> Vec<Entry>, header: &Header, trailer: &Trailer| {
        let hashing = key_for(name);
        let mut manifest = Manifest::with(header.clone(), entries(&hashing), &hashing).unwrap();
        manifest.trailer = trailer.clone();
        (name, manifest)
    };
    let (bare, nothing) = (Header::default(), Trailer::default());
    vec![
        of("empty-tree", |_| vec![directory("")], &bare, &nothing),
        of("everything", everything, &header, &trailer),
        of("keyed-everything", everything, &header, &trailer),
        of("many", many, &bare, &nothing),
        of("deep", |_| deep(), &bare, &nothing),
    ]
}

#[test]
fn every_manifest_of_version_1_reads_as_it_did() {
    let directory = directory_of_fixtures();
    if std::env::var_os("SAFE_UPGRADE_BLESS").is_some() {
        bless(&directory);
    }
    let ids = std::fs::read_to_string(directory.join("ids")).unwrap();
    let mut seen = 0;
    for line in ids.lines() {
        let (id, name) = line.split_once("  ").unwrap();
        let path = directory.join(format!("{name}.manifest"));
        let hashing = key_for(name);
        let manifest = read_file_with(&path, &hashing).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(manifest.id().to_string(), id, "{name}");
        let again = manifest.write(Vec::new(), &path, &hashing).unwrap();
        assert_eq!(again, std::fs::read(&path).unwrap(), "{name} is written as it was");
        seen += 1;
    }
    let files = std::fs::read_dir(&directory).unwrap().count();
    assert_eq!(files, seen + 1, "every file of {} has its line in `ids`", directory.display());
    assert!(seen >= 5);
}

#[test]
fn what_is_made_today_is_what_the_corpus_holds() {
    for (name, manifest) in manifests() {
        let path = directory_of_fixtures().join(format!("{name}.manifest"));
        assert_eq!(read_file_with(&path, &key_for(name)).unwrap(), with_key(name, manifest), "{name}");
    }
}

/// A reader sees the check of the key in the header; who makes a manifest in memory does not put it there.
fn with_key(name: &str, manifest: Manifest) -> Manifest {
    let path = Path::new("memory");
    let bytes = manifest.write(Vec::new(), path, &key_for(name)).unwrap();
    let header =
        safe_upgrade::manifest::Reader::new(&bytes[..], path, &key_for(name)).unwrap().header().clone();
    Manifest { header, ..manifest }
}

fn bless(directory: &Path) {
    let mut ids = std::fs::read_to_string(directory.join("ids")).unwrap_or_default();
    for (name, manifest) in manifests() {
        let path = directory.join(format!("{name}.manifest"));
        if path.exists() {
            continue;
        }
        std::fs::write(&path, manifest.write(Vec::new(), &path, &key_for(name)).unwrap()).unwrap();
        ids.push_str(&format!("{}  {name}\n", manifest.id()));
    }
    std::fs::write(directory.join("ids"), ids).unwrap();
}
