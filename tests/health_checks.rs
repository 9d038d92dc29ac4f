//! Checks against real servers on the loopback interface and real programs; baselines of real machines compared.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use safe_upgrade::health::baseline::{Baseline, capture};
use safe_upgrade::health::checks::{CheckConfig, CheckResult, CheckState, Phase, run_all};
use safe_upgrade::health::clock::Cancel;
use safe_upgrade::health::diff::{Change, compare};
use safe_upgrade::health::report::HealthReport;
use safe_upgrade::health::settle::{Settled, wait_until_settled};

/// A server that treats each connection with `answer`; it lives as long as the test program.
fn serve(answer: impl Fn(TcpStream, usize) + Send + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), seen.fetch_add(1, Ordering::SeqCst));
        }
    });
    (address, count)
}

/// A web server with one answer; hands the request's head to `look`.
fn web(status: &'static str, body: &'static str, look: impl Fn(&str) + Send + 'static) -> SocketAddr {
    let (address, _) = serve(move |stream, _| look(&respond(stream, status, body)));
    address
}

fn respond(mut stream: TcpStream, status: &str, body: &str) -> String {
    let mut head = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .unwrap();
    head
}

fn check(rest: &str) -> CheckConfig {
    let text = format!("name = 'it'\nretries = 0\ninterval = '1s'\n{rest}");
    toml::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn run(rest: &str) -> CheckResult {
    run_all(&[check(rest)], Phase::Trial, &Cancel::new()).remove(0)
}

fn script(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn tcp_accepts_or_not() {
    let (address, _) = serve(|_, _| {});
    let result = run(&format!("kind = 'tcp'\naddress = '{address}'"));
    assert!(result.passed, "{result:?}");
    let result = run(&format!("kind = 'tcp'\naddress = 'localhost:{}'", address.port()));
    assert!(result.passed, "{result:?}");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let result = run(&format!("kind = 'tcp'\naddress = '{free}'"));
    assert_eq!((result.state, result.passed), (CheckState::Critical, false));
    assert!(result.detail.contains("refused"), "{result:?}");
}

#[test]
fn http_wants_its_status_and_its_text() {
    let shop = web("200 OK", "<h1>The shop is open</h1>", |_| {});
    let moved = web("301 Moved Permanently\r\nLocation: http://127.0.0.1:1/", "", |_| {});
    let broken = web("502 Bad Gateway", "sorry", |_| {});
    let ask =
        |address: SocketAddr, rest: &str| run(&format!("kind = 'http'\nurl = 'http://{address}/'\n{rest}"));
    assert!(ask(shop, "").passed);
    assert!(ask(shop, "body = 'shop is open'").passed);
    let result = ask(shop, "body = 'shop is shut'");
    assert_eq!(result.detail, "status 200, but \"shop is shut\" is not in the 25 bytes of the body");
    let result = ask(broken, "");
    assert_eq!((result.state, &*result.detail), (CheckState::Critical, "status 502 instead of 200"));
    assert!(ask(broken, "status = 502\nbody = 'sorry'").passed);
    assert!(ask(moved, "status = 301").passed, "redirections are not followed");
}

#[test]
fn http_names_itself() {
    // The answer may be read before the server's thread has come to hand the head on.
    let (hand_on, heads) = std::sync::mpsc::channel();
    let address = web("200 OK", "", move |head| hand_on.send(head.to_owned()).unwrap());
    assert!(run(&format!("kind = 'http'\nurl = 'http://{address}/health?a=b'")).passed);
    let head = heads.recv_timeout(Duration::from_secs(60)).unwrap().to_lowercase();
    assert!(head.starts_with("get /health?a=b http/1.1"), "{head}");
    assert!(head.contains("user-agent: safe-upgrade-health/"), "{head}");
}

#[test]
fn a_server_that_hangs_is_given_up() {
    // Accepts and reads, never answers: the connection ends when the client gives up.
    let (address, _) = serve(|mut stream, _| drop(stream.read_to_end(&mut Vec::new())));
    let result = run(&format!("kind = 'http'\nurl = 'http://{address}/'\ntimeout = '1s'"));
    assert_eq!(result.state, CheckState::Critical);
    assert!(result.detail.contains("timeout"), "{result:?}");
    // Sends the head and never the body that it announced.
    let (address, _) = serve(|mut stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    });
    let result = run(&format!("kind = 'http'\nurl = 'http://{address}/'\ntimeout = '1s'\nbody = 'whole'"));
    assert!(!result.passed && result.detail.contains("broke off"), "{result:?}");
}

#[test]
fn plain_http_on_a_https_url_fails() {
    let address = web("200 OK", "", |_| {});
    for rest in ["", "insecure = true"] {
        let result = run(&format!("kind = 'http'\nurl = 'https://{address}/'\ntimeout = '5s'\n{rest}"));
        assert_eq!(result.state, CheckState::Critical, "{result:?}");
    }
    let result = run(&format!("kind = 'http'\nurl = 'https://{address}/'\nca_file = '/no/such/file'"));
    assert_eq!(result.state, CheckState::Unknown);
    assert!(result.detail.contains("/no/such/file"), "{result:?}");
}

#[test]
fn https_is_verified() {
    let directory = tempfile::tempdir().unwrap();
    let Some((mut server, port, certificate)) = tls_server(directory.path()) else {
        println!("skipped: openssl is not installed, so there is no HTTPS server to ask");
        return;
    };
    let patient = |rest: &str| {
        let mut check = check(&format!("kind = 'http'\nurl = 'https://localhost:{port}/'\n{rest}"));
        check.retries = 20;
        run_all(&[check], Phase::Trial, &Cancel::new()).remove(0)
    };
    let trusted = patient(&format!("ca_file = '{}'", certificate.display()));
    let insecure = patient("insecure = true");
    let unknown = run(&format!("kind = 'http'\nurl = 'https://localhost:{port}/'"));
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(trusted.passed, "{trusted:?}");
    assert!(insecure.passed, "{insecure:?}");
    assert!(!unknown.passed && unknown.detail.to_lowercase().contains("cert"), "{unknown:?}");
}

/// `openssl s_server` with a certificate of its own for localhost.
fn tls_server(directory: &Path) -> Option<(std::process::Child, u16, PathBuf)> {
    use std::process::{Command, Stdio};
    let (key, certificate) = (directory.join("key.pem"), directory.join("cert.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext"])
        .arg("basicConstraints=critical,CA:FALSE")
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status()
        .ok()?;
    assert!(made.success());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Command::new("openssl")
        .args(["s_server", "-quiet", "-www", "-accept", &format!("127.0.0.1:{port}")])
        .arg("-key")
        .arg(&key)
        .arg("-cert")
        .arg(&certificate)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    Some((server, port, certificate))
}

#[test]
fn commands_speak_nagios() {
    let directory = tempfile::tempdir().unwrap();
    for (code, state) in [
        (0, CheckState::Ok),
        (1, CheckState::Warning),
        (2, CheckState::Critical),
        (3, CheckState::Unknown),
        (77, CheckState::Unknown),
    ] {
        let text = format!("echo \"SHOP $SAFE_UPGRADE_PHASE $1|time=1\"; echo more; exit {code}");
        let path = script(directory.path(), &format!("check-{code}"), &text);
        let result = run(&format!("kind = 'command'\nargv = ['{}', 'a b']", path.display()));
        assert_eq!((result.state, result.passed), (state, code == 0), "{result:?}");
        assert_eq!(result.detail, "SHOP trial a b|time=1");
    }
    let warning = directory.path().join("check-1");
    let result = run(&format!("kind = 'command'\nargv = ['{}']\nwarning_passes = true", warning.display()));
    assert!(result.passed && result.state == CheckState::Warning);
}

#[test]
fn commands_have_a_clean_environment_and_an_end() {
    let result = run("kind = 'command'\nargv = ['env', '-0']");
    assert!(result.passed && !result.detail.contains("CARGO"), "{result:?}");
    let result = run("kind = 'command'\nargv = ['sleep', '600']\ntimeout = '1s'");
    assert_eq!(result.state, CheckState::Unknown);
    assert!(result.detail.contains("no result within 1s"), "{result:?}");
    let result = run("kind = 'command'\nargv = ['no-such-program-here']");
    assert!(result.detail.contains("was not found"), "{result:?}");
    let directory = tempfile::tempdir().unwrap();
    let evil = script(directory.path(), "evil", "printf 'all \\033[2J good\\n'");
    let result = run(&format!("kind = 'command'\nargv = ['{}']", evil.display()));
    assert_eq!(result.detail, "all \\x1b[2J good");
}

#[test]
fn all_checks_run_at_the_same_time() {
    // Each connection is answered only when all four are there: one after another they would never pass.
    let together = Arc::new(Barrier::new(4));
    let (address, count) = serve(move |stream, _| {
        let together = Arc::clone(&together);
        thread::spawn(move || {
            together.wait();
            respond(stream, "200 OK", "");
        });
    });
    let checks: Vec<CheckConfig> = (0..4)
        .map(|number| {
            let mut check = check(&format!("kind = 'http'\nurl = 'http://{address}/'\ntimeout = '30s'"));
            check.name = format!("check {number}");
            check
        })
        .collect();
    let results = run_all(&checks, Phase::Trial, &Cancel::new());
    assert!(results.iter().all(|result| result.passed), "{results:?}");
    assert_eq!(count.load(Ordering::SeqCst), 4);
    let names: Vec<&str> = results.iter().map(|result| &*result.name).collect();
    assert_eq!(names, ["check 0", "check 1", "check 2", "check 3"]);
}

#[test]
fn a_check_is_tried_again_until_it_passes() {
    let (address, count) = serve(|stream, number| {
        respond(stream, if number == 0 { "503 Service Unavailable" } else { "200 OK" }, "");
    });
    let mut patient = check(&format!("kind = 'http'\nurl = 'http://{address}/'"));
    patient.retries = 3;
    let result = run_all(&[patient], Phase::Trial, &Cancel::new()).remove(0);
    assert!(result.passed, "{result:?}");
    assert_eq!((result.tries, count.load(Ordering::SeqCst)), (2, 2));
}

#[test]
fn cancelling_ends_the_waiting() {
    let cancel = Cancel::new();
    let word = cancel.clone();
    let (address, _) = serve(move |stream, _| {
        respond(stream, "503 Service Unavailable", "");
        word.cancel();
    });
    let mut patient = check(&format!("kind = 'http'\nurl = 'http://{address}/'"));
    patient.retries = 3;
    patient.interval = "1d".parse().unwrap();
    let result = run_all(&[patient], Phase::Trial, &cancel).remove(0);
    assert_eq!((result.passed, result.tries), (false, 1));
}

#[test]
fn a_unit_that_does_not_exist_does_not_pass() {
    let result = run("kind = 'unit'\nunit = 'no-such-unit-here.service'");
    assert!(!result.passed, "{result:?}");
}

fn stored(name: &str) -> Baseline {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/health").join(name);
    Baseline::decode(&std::fs::read(path).unwrap()).unwrap()
}

fn required(before: &Baseline, after: &Baseline) -> Vec<String> {
    let changes = compare(before, after, &BTreeMap::new());
    changes.into_iter().filter(Change::is_required).map(|change| change.sentence).collect()
}

/// The plain server of nginx and PostgreSQL: the same machine without anything of PHP.
fn without_php(mut machine: Baseline) -> Baseline {
    machine.units.retain(|unit| !unit.name.contains("php"));
    machine.unit_files.retain(|name, _| !name.contains("php"));
    machine.unix_listeners.retain(|one| !one.path.contains("php"));
    machine
}

#[test]
fn a_plain_server_upgraded_to_trixie_is_healthy() {
    let (before, after) =
        (without_php(stored("bookworm.json")), without_php(stored("trixie-without-php.json")));
    assert_eq!(required(&before, &after), Vec::<String>::new());
    assert!(before.watched() > 20, "{}", before.watched());
}

#[test]
fn php_removed_without_a_successor_is_found_and_a_successor_counts() {
    let before = stored("bookworm.json");
    let lost = "php8.2-fpm.service was active and is gone: its package php8.2-fpm is no longer installed";
    let after = stored("trixie-without-php.json");
    // systemd itself sees nothing wrong.
    assert_eq!((&*after.system_state, after.failed().count()), ("running", 0));
    assert_eq!(required(&before, &after), [lost]);
    assert_eq!(required(&before, &stored("trixie-with-php.json")), Vec::<String>::new());
}

#[test]
fn nginx_that_does_not_start_is_found_by_unit_and_port() {
    let before = stored("bookworm.json");
    let mut after = stored("trixie-with-php.json");
    for unit in after.units.iter_mut().filter(|unit| unit.name == "nginx.service") {
        unit.active = "failed".to_owned();
        unit.sub = "failed".to_owned();
    }
    after.listeners.retain(|one| one.port != 80);
    let told = required(&before, &after);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("nginx.service failed"));
    assert_eq!(
        told[1],
        "nobody listens on tcp/80 any more; before it was nginx of nginx.service on 0.0.0.0, ::"
    );
    let report = HealthReport::new(Vec::new(), compare(&before, &after, &BTreeMap::new()), &before);
    assert!(!report.is_healthy() && report.required_failed.len() == 2);
}

#[test]
fn nothing_looked_at_is_no_pass() {
    let mut empty = stored("bookworm.json");
    empty.units.clear();
    empty.listeners.clear();
    empty.mounts.clear();
    empty.default_routes.clear();
    let report = HealthReport::new(Vec::new(), Vec::new(), &empty);
    assert!(!report.is_healthy());
    assert_eq!(report.required_failed, ["nothing was looked at, so nothing is known to be healthy"]);
    assert!(HealthReport::new(Vec::new(), Vec::new(), &stored("bookworm.json")).is_healthy());
}

#[test]
fn a_required_check_decides_and_a_wanted_one_does_not() {
    let before = stored("bookworm.json");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!("kind = 'tcp'\naddress = '{free}'");
    let report = |rest: &str| HealthReport::new(vec![run(&format!("{text}\n{rest}"))], Vec::new(), &before);
    assert!(!report("").is_healthy());
    let wanted = report("required = false");
    assert!(wanted.is_healthy() && wanted.wanted_failed[0].starts_with("check it did not pass after 1 try"));
}

#[test]
fn a_stored_baseline_tolerates_more_and_refuses_newer() {
    let baseline = stored("bookworm.json");
    assert_eq!(Baseline::decode(&baseline.encode().unwrap()).unwrap(), baseline);
    let text = String::from_utf8(baseline.encode().unwrap()).unwrap();
    let more = text.replacen('{', "{\"colour\": 1,", 1);
    assert_eq!(Baseline::decode(more.as_bytes()).unwrap(), baseline);
    let newer = text.replacen("\"version\": 1", "\"version\": 2", 1);
    assert!(Baseline::decode(newer.as_bytes()).is_err());
    assert!(Baseline::decode(&text.as_bytes()[..text.len() / 2]).is_err());
}

#[test]
fn this_machine_can_be_captured() {
    match wait_until_settled(Duration::from_secs(1)) {
        Ok(Settled::Running | Settled::Degraded) if rustix::process::geteuid().is_root() => {}
        other => {
            println!("skipped: needs root and a running systemd to capture a baseline: {other:?}");
            return;
        }
    }
    let before = capture(Path::new("/")).unwrap();
    assert!(before.watched() > 0);
    assert_eq!(Baseline::decode(&before.encode().unwrap()).unwrap(), before);
}
