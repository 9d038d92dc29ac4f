//! A directory on another machine, by a real sshd on the loopback that this test starts and ends, as the user who runs it.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

struct Lab {
    dir: tempfile::TempDir,
    port: u16,
    sshd: Child,
}

impl Drop for Lab {
    fn drop(&mut self) {
        // It may have ended by itself; the lines below then fail and nothing is left to do.
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

impl Lab {
    /// A tree, its manifest, a copy, and an sshd that finds safe-upgrade or does not.
    fn new(installed: bool) -> Option<Self> {
        for tool in ["/usr/sbin/sshd", "/usr/bin/ssh", "/usr/bin/rsync"] {
            if !Path::new(tool).exists() {
                eprintln!("skipped: {tool} is not installed");
                return None;
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for key in ["host", "user", "stranger"] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(root.join(key)));
        }
        fs::copy(root.join("user.pub"), root.join("authorized")).unwrap();
        fs::create_dir(root.join("bin")).unwrap();
        if installed {
            symlink(env!("CARGO_BIN_EXE_safe-upgrade"), root.join("bin/safe-upgrade")).unwrap();
        }
        let (sshd, port) = sshd(root)?;
        let lab = Self { dir, port, sshd };
        lab.configure("user");
        lab.make_tree();
        Some(lab)
    }

    /// What ssh is told here: which key, which host key, nothing of this user's own.
    fn configure(&self, key: &str) {
        let host = fs::read_to_string(self.path("host.pub")).unwrap();
        fs::write(self.path("known"), format!("[127.0.0.1]:{} {host}", self.port)).unwrap();
        let show = |name: &str| self.path(name).display().to_string();
        let text = format!(
            "IdentityFile {}\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {}\nGlobalKnownHostsFile none\n",
            show(key),
            show("known")
        );
        fs::write(self.path("config"), text).unwrap();
    }

    /// With names that a shell would take apart, hard links, a fifo and a hole.
    fn make_tree(&self) {
        let tree = self.path("tree");
        fs::create_dir_all(tree.join("sub dir")).unwrap();
        for (n, name) in [&b"plain"[..], b"$(id) `id`", b"two\nlines", b"\xff\xfe", b"it's \"it\"", b"-rf"]
            .iter()
            .enumerate()
        {
            fs::write(tree.join(OsStr::from_bytes(name)), format!("content {n}")).unwrap();
        }
        fs::write(tree.join("sub dir/big"), vec![7; 3 << 20]).unwrap();
        fs::hard_link(tree.join("plain"), tree.join("sub dir/same")).unwrap();
        symlink("plain", tree.join("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, tree.join("fifo"), rustix::fs::FileType::Fifo, 0o644.into(), 0)
            .unwrap();
        let copy = self.copy();
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        run(Command::new("cp").arg("-a").arg(&tree).arg(&copy));
        run(Command::new(env!("CARGO_BIN_EXE_safe-upgrade"))
            .args(["manifest", "create"])
            .arg(&tree)
            .arg("-o")
            .arg(self.path("m")));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The copy has a name that means much to shells.
    fn copy(&self) -> PathBuf {
        self.path("it's $HOME; \"the\" copy\\n/tree")
    }

    fn verify(&self, at: &Path) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_safe-upgrade"))
            .arg("verify")
            .arg(format!("ssh:127.0.0.1:{}:{}", self.port, at.display()))
            .arg("--manifest")
            .arg(self.path("m"))
            .arg("--engine-config")
            .arg(self.path("config"))
            .env_remove("SSH_AUTH_SOCK")
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Starts sshd on a free port and waits until it says that it listens.
fn sshd(root: &Path) -> Option<(Child, u16)> {
    if rustix::process::geteuid().is_root() {
        // Where the package puts it; a container without a running sshd may lack it.
        fs::create_dir_all("/run/sshd").unwrap();
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let root = root.display();
    let text = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {root}/host\nPidFile none\nStrictModes no\nUsePAM no\n\
         AuthorizedKeysFile {root}/authorized\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n\
         SetEnv PATH={root}/bin:/usr/bin:/bin\nLogLevel INFO\n"
    );
    let config = format!("{root}/sshd_config");
    fs::write(&config, text).unwrap();
    let mut child = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f", &config])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("Server listening") {
        if lines.read_line(&mut said).unwrap() == 0 {
            eprintln!("skipped: sshd does not start here: {said}");
            let _ = child.wait();
            return None;
        }
    }
    // A pipe that nobody reads would stop it.
    std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    Some((child, port))
}

/// The same questions, whichever way the directory is read.
fn the_copy_is_judged(lab: &Lab, how: &str) {
    let (code, text) = lab.verify(&lab.copy());
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(how), "{text}");
    let plain = lab.copy().join("plain");
    fs::remove_file(&plain).unwrap();
    fs::write(&plain, "Content 0").unwrap();
    run(Command::new("touch").arg("-r").arg(lab.path("tree/plain")).arg(&plain));
    fs::remove_file(lab.copy().join(OsStr::from_bytes(b"\xff\xfe"))).unwrap();
    fs::set_permissions(lab.copy().join("-rf"), fs::Permissions::from_mode(0o600)).unwrap();
    run(Command::new("touch").arg("-r").arg(lab.path("tree")).arg(lab.copy()));
    let (code, text) = lab.verify(&lab.copy());
    assert_eq!(code, 7, "{text}");
    for found in ["content         plain", "missing         \\xff\\xfe", "mode            -rf", "hard-links"]
    {
        assert!(text.contains(found), "{found:?} is not in {text}");
    }
    assert_eq!(text.lines().filter(|line| line.contains("(expected ")).count(), 4, "{text}");
}

#[test]
fn where_the_program_is_installed_nothing_is_copied() {
    let Some(lab) = Lab::new(true) else { return };
    the_copy_is_judged(&lab, "its word was taken");
}

#[test]
fn where_it_is_not_rsync_fetches_a_copy() {
    let Some(lab) = Lab::new(false) else { return };
    the_copy_is_judged(&lab, "was copied from 127.0.0.1 by rsync");
}

#[test]
fn a_machine_that_does_not_let_us_in_and_a_directory_that_is_not_there_are_no_answers() {
    for installed in [true, false] {
        let Some(lab) = Lab::new(installed) else { return };
        let (code, text) = lab.verify(&lab.path("nowhere"));
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("No such file"), "{text}");
        lab.configure("stranger");
        let (code, text) = lab.verify(&lab.copy());
        assert_eq!(code, 1, "{text}");
        assert!(
            text.contains("ssh could not enter 127.0.0.1: ") && text.contains("Permission denied"),
            "{text}"
        );
    }
}

#[test]
fn another_host_key_is_not_accepted() {
    let Some(lab) = Lab::new(true) else { return };
    let other = fs::read_to_string(lab.path("stranger.pub")).unwrap();
    fs::write(lab.path("known"), format!("[127.0.0.1]:{} {other}", lab.port)).unwrap();
    let (code, text) = lab.verify(&lab.copy());
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("Host key verification failed"), "{text}");
}
