//! Which archives take part in the preview, as a real apt sees them: two of them in directories of the test.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::release::sources::SourceFile;
use crate::system::exec::find_tool;

/// An archive with nothing in it, in a directory that apt's user can read.
fn archive(place: &Path, name: &str, suite: &str) {
    let directory = place.join(name).join("dists").join(suite);
    fs::create_dir_all(directory.join("main/binary-amd64")).unwrap();
    fs::write(directory.join("main/binary-amd64/Packages"), "").unwrap();
    // The digest of nothing.
    let release = format!(
        "Origin: x\nSuite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\nDate: {}\nSHA256:\n \
         e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-amd64/Packages\n",
        jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S UTC")
    );
    fs::write(directory.join("Release"), release).unwrap();
}

/// The repositories that were found, and the sources that are left for the preview.
fn probed(hop: &Hop, archives: &[(&str, &str)]) -> Result<(Vec<Repository>, String), Error> {
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, suite) in archives {
        archive(place.path(), name, suite);
    }
    let uri = |name: &str| format!("file:{}/{name}", place.path().display());
    let (from, to) = (hop.from().codename, hop.to().codename);
    let before: String = ["own", "other"]
        .iter()
        .map(|name| format!("deb [trusted=yes] {} {from} main\n", uri(name)))
        .collect();
    let after = before.replace(&format!(" {from} "), &format!(" {to} "));
    let file = SourceFile { path: "/etc/apt/sources.list".into(), before, after, mode: 0o644 };
    let plan = SourcesPlan { files: vec![file], findings: Vec::new() };
    let origins = [("own", hop.distribution().name()), ("other", "Somebody")]
        .map(|(name, origin)| ((uri(name), from.to_owned()), origin.to_owned()))
        .into();
    let private = PrivateApt::open(None)?;
    let log = private.path().join("log/preview.log");
    let asked = Probe { plan: &plan, hop, origins: &origins, policies: &BTreeMap::new() };
    let repositories = probe(&private, &asked, &log, &|_| ())?;
    let left = fs::read_dir(private.path().join("etc/sources.list.d")).unwrap();
    let left = left.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    Ok((repositories, left))
}

#[test]
fn on_ubuntu_only_its_own_archives_count() {
    if !rustix::process::geteuid().is_root() || find_tool("apt-get").is_err() {
        println!("skipped: needs root and apt");
        return;
    }
    let ubuntu = Hop::between("noble", "resolute").unwrap();
    let debian = Hop::between("bookworm", "trixie").unwrap();
    for (hop, takes_along) in [(ubuntu, false), (debian, true)] {
        let to = hop.to().codename;
        let (found, left) = probed(&hop, &[("own", to), ("other", to)]).unwrap();
        assert_eq!((found.len(), found[0].in_plan), (1, takes_along), "{found:?}");
        assert_eq!(found[0].target, Target::Exists(vec![to.to_owned()]));
        assert!(left.contains("/own ") && left.contains("/other ") == takes_along, "{left}");

        let (found, left) = probed(&hop, &[("own", to)]).unwrap();
        assert!(matches!(found[0].target, Target::Missing(..)), "{found:?}");
        assert_eq!(found[0].in_plan, takes_along);
        assert!(left.contains("/own ") && !left.contains("/other "), "{left}");

        let error = probed(&hop, &[("other", to)]).unwrap_err();
        assert!(crate::error::chain(&error).contains("/own"), "{error:?}");
    }
}
