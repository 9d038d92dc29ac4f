//! The new release's index of files, as a real apt fetches and keeps it: an archive of one suite, with a real web server.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::thread;

use super::*;
use crate::libraries::made_up::elf_file;
use crate::libraries::{Facts as Libraries, Found};
use crate::release::sources::entries::entries;
use crate::system::exec::{Exec, find_tool};

const SUITE: &str = "dists/trixie";
const ARCHITECTURE: &str = "amd64";

/// What trixie has: another libicu, and the same C library.
const INDEX: &str = "usr/lib/x86_64-linux-gnu/libc.so.6          libs/libc6\n\
    usr/lib/x86_64-linux-gnu/libicuuc.so.76     libs/libicu76\n\
    usr/share/doc/libicu76/copyright            libs/libicu76\n";

/// An archive in a directory that apt's user can read.
struct Archive(tempfile::TempDir);

impl Archive {
    /// `by_hash`: files lie where Debian's mirrors have them for whoever asks by their digest, and nowhere else.
    fn new(by_hash: bool) -> Self {
        Self::with_index(by_hash, "main/Contents-amd64")
    }

    /// `index`: its name below the suite.
    fn with_index(by_hash: bool, index: &str) -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let archive = Self(dir);
        let packages = "Package: libicu76\nVersion: 76.1-4\nArchitecture: amd64\nMaintainer: x <x@mirror.invalid>\n\
                        Filename: pool/x.deb\nSize: 1\nDescription: x\n";
        let mut lines = String::new();
        for (name, text) in [
            ("main/binary-amd64/Packages", packages),
            (index, INDEX),
            ("universe/binary-amd64/Packages", ""),
            // Three times as large in Debian, and asked for by nobody.
            ("main/Contents-all", "usr/share/x  doc/x\n"),
        ] {
            let plain = archive.path(name);
            fs::create_dir_all(plain.parent().unwrap()).unwrap();
            fs::write(&plain, text).unwrap();
            let packed = plain.with_file_name(format!("{}.gz", plain.file_name().unwrap().display()));
            let mut encoder =
                flate2::write::GzEncoder::new(File::create(&packed).unwrap(), flate2::Compression::fast());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap();
            let line = |path: &Path, name: &str| {
                let sum = Exec::new("sha256sum").unwrap().arg(path).text().unwrap();
                let sum = sum.split(' ').next().unwrap().to_owned();
                (format!(" {sum} {} {name}\n", fs::metadata(path).unwrap().len()), sum)
            };
            // The Release file names both, and a mirror has the packed one only.
            lines.push_str(&line(&plain, name).0);
            fs::remove_file(&plain).unwrap();
            let (of_packed, sum) = line(&packed, &format!("{name}.gz"));
            lines.push_str(&of_packed);
            if by_hash {
                let directory = packed.parent().unwrap().join("by-hash/SHA256");
                fs::create_dir_all(&directory).unwrap();
                fs::rename(&packed, directory.join(sum)).unwrap();
            }
        }
        let release = format!(
            "Origin: Debian\nSuite: stable\nCodename: trixie\nArchitectures: all amd64\nComponents: main universe\nDate: {}\n\
             Acquire-By-Hash: {}\nSHA256:\n{lines}",
            jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S UTC"),
            if by_hash { "yes" } else { "no" }
        );
        fs::write(archive.path("Release"), release).unwrap();
        archive
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(SUITE).join(name)
    }

    fn by_file(&self) -> String {
        format!("file:{}", self.0.path().display())
    }
}

/// Serves an archive until the test's process ends, and remembers what was asked for.
fn serve(root: PathBuf) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (root, heard) = (root.clone(), Arc::clone(&heard));
            thread::spawn(move || answer(stream, &root, &heard));
        }
    });
    (address, asked)
}

fn answer(mut stream: TcpStream, root: &Path, heard: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(first) = lines.next().transpose()? {
        while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        let path = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        let found = fs::read(root.join(&path));
        heard.lock().unwrap().push(path);
        let (status, bytes) = match found {
            Ok(bytes) => ("200 OK", bytes),
            Err(_) => ("404 Not Found", Vec::new()),
        };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", bytes.len())?;
        stream.write_all(&bytes)?;
    }
    Ok(())
}

/// A program that needs what bookworm has, in a root where it comes from packages.
fn own_program() -> (tempfile::TempDir, Libraries) {
    let dir = tempfile::tempdir().unwrap();
    let put = |path: &str, bytes: &[u8]| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let library = "usr/lib/x86_64-linux-gnu";
    for (soname, package) in [("libc.so.6", "libc6"), ("libicuuc.so.72", "libicu72")] {
        put(&format!("{library}/{soname}"), &elf_file(&[], None, None));
        put(&format!("var/lib/dpkg/info/{package}:amd64.list"), format!("/{library}/{soname}\n").as_bytes());
    }
    put("var/lib/dpkg/status", b"");
    put("etc/ld.so.conf", b"/usr/lib/x86_64-linux-gnu\n");
    put("opt/shop/tool", &elf_file(&["libc.so.6", "libicuuc.so.72"], None, None));
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.path().join("opt/shop/tool"), executable).unwrap();
    let facts = libraries::look(dir.path(), &[PathBuf::from("/opt")], Limits::default()).unwrap();
    let from_packages =
        facts.programs[0].needs.iter().all(|need| matches!(need.found, Found::Package { .. }));
    assert!(facts.programs.len() == 1 && from_packages, "{facts:?}");
    (dir, facts)
}

fn can_run() -> bool {
    let lacks = ["apt-get", "sha256sum"].into_iter().find(|tool| find_tool(tool).is_err());
    if !rustix::process::geteuid().is_root()
        || lacks.is_some()
        || libraries::native_architecture() != ARCHITECTURE
    {
        println!("skipped: needs root, apt and an amd64 machine (not found: {lacks:?})");
        return false;
    }
    true
}

fn ask(kept: Option<&Path>, uri: &str, wanted: &contents::Wanted) -> Result<contents::Provided> {
    let line = format!("deb [trusted=yes] {uri} trixie main universe\n");
    ask_index(kept, &entries(Path::new("/etc/apt/sources.list"), &line), wanted, &|_| {})
}

/// The library that trixie lacks is named by the index, whichever way a mirror hands it out, and with what was kept from the time before.
#[test]
fn a_good_index_names_what_is_gone() {
    if !can_run() {
        return;
    }
    let (_root, facts) = own_program();
    let wanted = facts.wanted();
    let judged = |provided: &contents::Provided| {
        assert!(provided.whole && provided.lines == 3, "{provided:?}");
        let found = libraries::findings(&facts, &NewRelease::Index(provided), &|_| false);
        let [gone] = &found[..] else { panic!("{found:?}") };
        assert_eq!(gone.id, "library-gone");
        assert_eq!(
            gone.evidence,
            ["/opt/shop/tool needs libicuuc.so.72", "libicuuc.so.72 comes from libicu72 now"]
        );
    };
    for by_hash in [false, true] {
        let archive = Archive::new(by_hash);
        if !by_hash {
            judged(&ask(None, &archive.by_file(), &wanted).unwrap());
        }
        let (uri, asked) = serve(archive.0.path().to_owned());
        let kept = tempfile::tempdir().unwrap();
        for again in [false, true] {
            judged(&ask(Some(kept.path()), &uri, &wanted).unwrap());
            let asked = std::mem::take(&mut *asked.lock().unwrap());
            println!("by hash {by_hash}, again {again}: {asked:?}");
            let named = |name: &str| asked.iter().any(|path| path.ends_with(name));
            let hashed = asked.iter().filter(|path| path.contains("/main/by-hash/SHA256/")).count();
            assert!(!named("Contents-all.gz"));
            assert_eq!(
                named("Contents-amd64.gz") || hashed == 1,
                !again,
                "what was kept is not fetched again"
            );
        }
    }
}

/// Ubuntu has one index for all components of a suite. It is fetched once.
#[test]
fn an_index_of_a_whole_suite_is_found() {
    if !can_run() {
        return;
    }
    let (_root, facts) = own_program();
    let archive = Archive::with_index(false, "Contents-amd64");
    let (uri, asked) = serve(archive.0.path().to_owned());
    let kept = tempfile::tempdir().unwrap();
    for again in [false, true] {
        let provided = ask(Some(kept.path()), &uri, &facts.wanted()).unwrap();
        assert!(provided.whole && provided.lines == 3, "{provided:?}");
        let asked = std::mem::take(&mut *asked.lock().unwrap());
        println!("again {again}: {asked:?}");
        let indexes: Vec<_> = asked.iter().filter(|path| path.contains("Contents-")).collect();
        let expected = if again { vec![] } else { vec!["dists/trixie/Contents-amd64.gz"] };
        assert_eq!(indexes, expected);
    }
}

/// What a mirror has that is not what its Release file says is no answer: neither a yes nor a no.
#[test]
fn an_index_that_does_not_match_is_refused() {
    if !can_run() {
        return;
    }
    let (_root, facts) = own_program();
    let archive = Archive::new(false);
    let index = archive.path("main/Contents-amd64.gz");
    let mut bytes = fs::read(&index).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&index, bytes).unwrap();
    let (uri, _) = serve(archive.0.path().to_owned());
    let error = ask(None, &uri, &facts.wanted()).unwrap_err().to_string();
    println!("{error}");
    assert!(error.contains("Contents-amd64"), "{error}");
}
