//! Somebody else's program in the sandbox: what it can't do, shown by trying.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on has failed")]
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use safe_upgrade::system::sandbox::{
    Barrier, Barriers, Ceilings, Outcome, Powers, SECRET, Sandbox, SandboxError, Secret,
};

struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["private", "repository", "target", "outside"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("repository/pack"), "pack").unwrap();
        fs::write(dir.path().join("outside/file"), "old").unwrap();
        Self { dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn shell(&self, script: &str) -> Sandbox {
        Sandbox::new(Path::new(env!("CARGO_BIN_EXE_safe-upgrade")), "bash", &self.at("private"))
            .and_then(|sandbox| sandbox.read(&self.at("repository")))
            .and_then(|sandbox| sandbox.write(&self.at("target")))
            .unwrap()
            .args(["-c", script, "engine", self.dir.path().to_str().unwrap()])
            .silence(Duration::from_secs(20))
    }

    fn run(&self, script: &str) -> (String, Outcome) {
        let (out, outcome) = self.shell(script).answer(1 << 20).unwrap();
        (String::from_utf8(out).unwrap(), outcome)
    }
}

fn needs_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    println!("skipped: needs root to hold every barrier");
    false
}

#[test]
fn every_barrier_holds_for_root() {
    if !needs_root() {
        return;
    }
    let (out, outcome) = Ground::new().run("echo hello; echo trouble >&2; exit 3");
    assert_eq!((out.as_str(), outcome.code, outcome.signal), ("hello\n", Some(3), None));
    assert_eq!(outcome.stderr, "trouble\n");
    let missing: Vec<_> = outcome.barriers.missing().collect();
    assert!(missing.is_empty(), "{missing:?}");
    println!("{}", outcome.barriers.words());
}

#[test]
fn a_signal_is_told_from_an_exit_code() {
    let (_, outcome) = Ground::new().run("kill -9 $$");
    assert_eq!((outcome.code, outcome.signal), (None, Some(9)));
}

#[test]
fn it_reaches_nobody() {
    if !needs_root() {
        return;
    }
    let ground = Ground::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = ground.at("outside/socket");
    let _keep = UnixListener::bind(&socket).unwrap();
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo connected");
    let (out, outcome) = ground.run(&script);
    assert!(out.is_empty() && !outcome.well(), "{outcome:?}");
    // Landlock refuses where the kernel has it, and behind it the network has nobody in it.
    let refused = ["unreachable", "Permission denied"].iter().any(|word| outcome.stderr.contains(word));
    assert!(refused, "{outcome:?}");
    let (out, _) =
        ground.run("tail -qn +2 /proc/net/tcp /proc/net/tcp6 /proc/net/route; tail -n +3 /proc/net/dev");
    assert!(out.trim_start().starts_with("lo:") && out.lines().count() == 1, "{out}");
    // A socket of the machine is a file: no network namespace hides it, the missing path does.
    let (out, _) = ground.run("ls $1/outside $1 2>&1; ls /run /root /home /var /sys /etc/shadow 2>&1");
    let names: Vec<&str> = out.lines().filter(|line| !line.contains("No such file")).collect();
    let seen = names.iter().any(|line| line.contains("socket") || line.contains("shadow"));
    assert!(!seen && names.contains(&"repository") && names.contains(&"target"), "{out}");
    // With leave it does reach the listener.
    let (out, outcome) = ground.shell(&script).network("the test wants it").answer(99).unwrap();
    let out = String::from_utf8(out).unwrap();
    assert_eq!(out, "connected\n", "{outcome:?}");
    assert!(outcome.barriers.words().contains("left out: no network (the test wants it)"));
}

#[test]
fn it_writes_only_where_it_may() {
    if !needs_root() {
        return;
    }
    let ground = Ground::new();
    let script = r#"
        cd /; for place in $1/outside/file $1/outside/new $1/repository/pack $1/repository/new /new /etc/passwd /usr/new \
            /dev/new /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/1/root$1/outside/file /proc/self/root$1/repository/new \
            /proc/1/cwd/new; do
            (echo x > $place) 2>/dev/null && echo "wrote $place"
        done
        umount $1/repository 2>/dev/null && echo unmounted
        mount -o remount,rw,bind $1/repository 2>/dev/null && echo remounted
        mount -t tmpfs none $1/target 2>/dev/null && echo mounted
        ls /proc/1/root/ >/dev/null 2>&1 && echo "looked into its keeper"
        echo in > $1/target/in; echo tmp > /tmp/tmp; echo home > $HOME/home; cat $1/repository/pack
    "#;
    let core_pattern = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let (out, outcome) = ground.run(script);
    assert_eq!(out, "pack", "{outcome:?}");
    assert!(outcome.well(), "{outcome:?}");
    assert_eq!(fs::read_to_string(ground.at("outside/file")).unwrap(), "old");
    assert_eq!(fs::read_to_string(ground.at("target/in")).unwrap(), "in\n");
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), core_pattern);
    assert_eq!(fs::read_dir(ground.at("repository")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(ground.at("private")).unwrap().count(), 0, "the private directory is gone");
}

#[test]
fn devices_can_be_made_but_not_opened() {
    if !needs_root() {
        return;
    }
    let ground = Ground::new();
    let script = r#"
        mknod $1/target/zero c 1 5 && echo made; head -c1 $1/target/zero | wc -c
        mknod /tmp/zero c 1 5; head -c1 /tmp/zero | wc -c
        head -c1 /dev/zero | wc -c; echo x > /dev/null && echo thrown; chown 12:34 $1/target/zero && echo given
        ls /dev/[hsvx]d* 2>/dev/null
    "#;
    let (out, outcome) = ground.shell(script).powers(Powers::Restore).answer(999).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "made\n0\n0\n1\nthrown\ngiven\n", "{outcome:?}");
    let (out, _) = ground.run("mknod $1/target/other c 1 5 && echo made; chown 1 $1/target && echo given");
    assert_eq!(out, "", "a reader has no power to make devices or to give files away");
}

#[test]
fn it_sees_no_processes_and_leaves_none() {
    if !needs_root() {
        return;
    }
    let ground = Ground::new();
    let (out, _) = ground.run("ls -d /proc/[0-9]* | wc -l; kill -0 -1 && echo somebody; hostname");
    let mut lines = out.lines();
    let count: u32 = lines.next().unwrap().trim().parse().unwrap();
    assert!(count <= 4, "its keeper, itself, ls and wc: {out}");
    assert_eq!(lines.last(), Some("sandbox"), "{out}");
    // What it leaves behind holds the pipe open; the end of its keeper ends it.
    let (out, outcome) = ground.run("setsid sleep 600 & echo started");
    assert!(outcome.well() && out == "started\n", "{outcome:?}");
}

#[test]
fn nothing_of_ours_is_in_its_environment() {
    let ground = Ground::new();
    let (out, _) = ground.shell("env; cat; ls -A ~; pwd").env("ONE", "1").answer(9999).map(text).unwrap();
    let mut names: Vec<&str> = out.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.retain(|name| !["_", "SHLVL", "PWD", "OLDPWD"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["HOME", "LC_ALL", "ONE", "PATH", "TMPDIR", "TZ", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"]);
    let home = ground.at("private").canonicalize().unwrap();
    assert!(out.lines().last().unwrap().starts_with(home.to_str().unwrap()), "{out}");
}

fn text((out, outcome): (Vec<u8>, Outcome)) -> (String, Outcome) {
    (String::from_utf8(out).unwrap(), outcome)
}

#[test]
fn a_secret_is_in_memory_only() {
    let ground = Ground::new();
    let script = "cat /dev/fd/$FD | rev; cat /dev/fd/$FD; tr '\\0' ' ' </proc/$$/cmdline; env";
    let sandbox = ground.shell(script).env("FD", SECRET).secret(Secret::new(b"hunter2".to_vec()));
    let (out, outcome) = sandbox.answer(9999).map(text).unwrap();
    assert!(out.starts_with("2retnuh"), "it can be read twice: {out} {outcome:?}");
    assert_eq!(out.matches("hunter2").count(), 1, "neither in an argument nor in a variable: {out}");
}

#[test]
fn it_gains_nothing_from_a_set_user_id_program() {
    if !needs_root() {
        return;
    }
    let ground = Ground::new();
    let (out, outcome) = ground.run("grep -E 'NoNewPrivs|CapEff|CapBnd|CapPrm|CapAmb' /proc/self/status");
    assert!(out.contains("NoNewPrivs:\t1"), "{outcome:?}");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        // CAP_DAC_OVERRIDE is number 1.
        assert!(out.contains(&format!("{set}:\t0000000000000002")), "{out}");
    }
    let script = "cp /usr/bin/id $1/target/id && chmod 4755 $1/target/id; $1/target/id; echo $?";
    let (out, _) = ground.run(script);
    assert_eq!(out.trim(), "126", "what it wrote can't be run: {out}");
    let mode = fs::metadata(ground.at("target/id")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o4755, "though the bit is restored");
}

#[test]
fn limits_hold() {
    let ground = Ground::new();
    let ceilings = Ceilings { files: Some(50), memory: Some(1 << 30), cpu: Some(1), file_size: Some(1000) };
    let script = "ulimit -c -n -v -t; head -c 2000 /dev/zero > $1/target/big";
    let (out, _) = ground.shell(script).ceilings(ceilings).answer(999).map(text).unwrap();
    let numbers: Vec<&str> = out.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(numbers, ["0", "50", "1048576", "1"]);
    assert_eq!(fs::metadata(ground.at("target/big")).unwrap().len(), 1000);
    let (_, outcome) = ground.shell("while :; do :; done").ceilings(ceilings).answer(9).unwrap();
    assert_eq!(outcome.signal, Some(9), "the processor time is used up: {outcome:?}");
}

#[test]
fn silence_ends_it() {
    let ground = Ground::new();
    let sandbox = ground.shell("echo one; sleep 600").silence(Duration::from_millis(300));
    let error = sandbox.answer(99).unwrap_err();
    assert!(matches!(error, SandboxError::Silent { .. }), "{error}");
}

#[test]
fn letting_go_ends_it() {
    let ground = Ground::new();
    let mut running = ground.shell("echo going; exec sleep 600").start().unwrap();
    let mut line = [0; 6];
    running.stdout().read_exact(&mut line).unwrap();
    let at_work = engine_below(&ground);
    let watch = pidfd_open(at_work, PidfdFlags::empty()).unwrap();
    drop(running);
    assert!(gone(&watch));
    assert_eq!(fs::read_dir(ground.at("private")).unwrap().count(), 0);
}

/// The process outside whose arguments name this test's ground: the shell's script is known by its last argument.
fn engine_below(ground: &Ground) -> Pid {
    let name = ground.dir.path().to_str().unwrap().as_bytes().to_vec();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|text| text.windows(name.len()).any(|window| window == name))
        })
        .find_map(Pid::from_raw)
        .expect("the engine runs")
}

fn gone(watch: &rustix::fd::OwnedFd) -> bool {
    let wait = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    let mut watched = [rustix::event::PollFd::new(watch, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut watched, Some(&wait)).unwrap() == 1
}

const PARENT: &str = "SAFE_UPGRADE_TEST_PARENT";

/// Not a test by itself: the parent that the next one kills.
#[test]
fn a_parent() {
    if std::env::var_os(PARENT).is_none() {
        return;
    }
    let ground = Ground::new();
    let mut running = ground.shell("sleep 600 & echo going; exec sleep 600").start().unwrap();
    let mut line = [0; 6];
    running.stdout().read_exact(&mut line).unwrap();
    println!("\nengine {} {}", engine_below(&ground).as_raw_nonzero(), ground.dir.path().display());
    running.finish().unwrap();
}

#[test]
fn it_dies_with_its_parent() {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_parent", "--nocapture"])
        .env(PARENT, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(parent.stdout.take().unwrap());
    let line = out.lines().map(Result::unwrap).find(|line| line.starts_with("engine ")).unwrap();
    let mut words = line.split(' ').skip(1);
    let engine = Pid::from_raw(words.next().unwrap().parse().unwrap()).unwrap();
    let left: PathBuf = words.next().unwrap().into();
    let watch = pidfd_open(engine, PidfdFlags::empty()).unwrap();
    kill_process(Pid::from_raw(parent.id().cast_signed()).unwrap(), Signal::KILL).unwrap();
    parent.wait().unwrap();
    assert!(gone(&watch));
    fs::remove_dir_all(left).unwrap();
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let ground = Ground::new();
    let trampoline = Path::new(env!("CARGO_BIN_EXE_safe-upgrade"));
    let error = Sandbox::new(trampoline, "no-such-engine", &ground.at("private")).unwrap_err();
    assert!(error.to_string().contains("no-such-engine was not found"), "{error}");
    let gone = ground.shell("true").read(Path::new("/no/such/repository")).unwrap_err();
    assert_eq!(gone.to_string(), "failed to find /no/such/repository");
}

#[test]
fn its_stages_are_not_for_people() {
    let program = || Command::new(env!("CARGO_BIN_EXE_safe-upgrade"));
    let out = program().args(["__sandbox", "engine"]).stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.code() == Some(1) && stderr.contains("not meant to be typed"), "{stderr}");
    for papers in [["--help", "--verbose"], ["completions", "bash"]] {
        let out = program().args(papers).output().unwrap();
        assert!(out.status.success());
        assert!(!String::from_utf8(out.stdout).unwrap().contains("__sandbox"), "{papers:?}");
    }
}

/// A user without rights still gets what a user namespace gives, and is told what is missing otherwise.
#[test]
fn somebody_else_than_root_gets_what_there_is() {
    if !needs_root() {
        return;
    }
    let ground = Ground::new();
    fs::set_permissions(ground.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["private", "target"] {
        std::os::unix::fs::chown(ground.at(name), Some(65534), Some(65534)).unwrap();
    }
    let binary = ground.at("outside/safe-upgrade");
    fs::copy(env!("CARGO_BIN_EXE_safe-upgrade"), &binary).unwrap();
    let test = ground.at("outside/test");
    fs::copy(std::env::current_exe().unwrap(), &test).unwrap();
    let out = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&test)
        .args(["--exact", "as_nobody", "--nocapture"])
        .env(NOBODY, ground.dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success() && text.contains("barriers: "),
        "{text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    println!("{text}");
}

const NOBODY: &str = "SAFE_UPGRADE_TEST_NOBODY";

/// Not a test by itself: the one before runs it as `nobody`.
#[test]
fn as_nobody() {
    let Some(dir) = std::env::var_os(NOBODY).map(PathBuf::from) else { return };
    let script = "id -u; echo x > $1/repository/new || echo closed; echo y > $1/target/y; grep CapEff /proc/self/status";
    let (out, outcome) = Sandbox::new(&dir.join("outside/safe-upgrade"), "bash", &dir.join("private"))
        .and_then(|sandbox| sandbox.read(&dir.join("repository")))
        .and_then(|sandbox| sandbox.write(&dir.join("target")))
        .unwrap()
        .args(["-c", script, "engine", dir.to_str().unwrap()])
        .answer(999)
        .map(text)
        .unwrap();
    assert_eq!(out, "65534\nclosed\nCapEff:\t0000000000000000\n", "{outcome:?}");
    let barriers: &Barriers = &outcome.barriers;
    assert!(barriers.hold(Barrier::NoNewRights) && barriers.hold(Barrier::Lifetime), "{barriers:?}");
    println!("barriers: {}", barriers.words());
}
