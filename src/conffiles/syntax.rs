//! Configuration that was kept may hold what the new program refuses: each program is asked about its own. One that refused it
//! before the upgrade already is no news.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::pam;
use super::stock::StockError;
use crate::system::exec::{Exec, ExecError, Output};
use crate::system::own_run::{OwnRunError, with_own_run};
use crate::system::show;

/// A program that can say whether it takes its configuration.
#[derive(Debug, Clone, Copy)]
struct Test {
    /// Its name where one is installed; a trailing `*` stands for versions.
    program: &'static str,
    arguments: &'static [&'static str],
    /// As a person would name it.
    what: &'static str,
    /// Without it nobody comes in to mend anything: the upgrade is judged failed. For the others the health checks decide.
    stops: bool,
    /// Its configuration; without one there is nothing to ask about.
    file: &'static str,
}

const TESTS: [Test; 8] = [
    Test {
        program: "/usr/sbin/sshd",
        arguments: &["-t"],
        what: "sshd",
        stops: true,
        file: "/etc/ssh/sshd_config",
    },
    Test { program: "/usr/sbin/visudo", arguments: &["-c"], what: "sudo", stops: true, file: "/etc/sudoers" },
    Test {
        program: "/usr/sbin/nginx",
        arguments: &["-t", "-q"],
        what: "nginx",
        stops: false,
        file: "/etc/nginx/nginx.conf",
    },
    Test {
        program: "/usr/sbin/apache2ctl",
        arguments: &["configtest"],
        what: "Apache",
        stops: false,
        file: "/etc/apache2/apache2.conf",
    },
    Test { program: "/usr/sbin/php-fpm*", arguments: &["-t"], what: "PHP", stops: false, file: "/etc/php" },
    Test {
        program: "/usr/bin/named-checkconf",
        arguments: &[],
        what: "BIND",
        stops: false,
        file: "/etc/bind/named.conf",
    },
    Test {
        program: "/usr/sbin/haproxy",
        arguments: &["-c", "-q", "-f", "/etc/haproxy/haproxy.cfg"],
        what: "HAProxy",
        stops: false,
        file: "/etc/haproxy/haproxy.cfg",
    },
    Test {
        program: "/usr/sbin/postfix",
        arguments: &["check"],
        what: "Postfix",
        stops: false,
        file: "/etc/postfix/main.cf",
    },
];

/// Made by the unit of sshd's service; without it even a good configuration is refused.
const WANTED: [&str; 1] = ["sshd"];

/// How long a program may think about its configuration. Names that no server resolves make some slow.
const LIMIT: Duration = Duration::from_secs(60);

/// A configuration that its program refuses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// Whose, as a person would name it.
    pub what: String,
    /// The program's own words: the first line that says something.
    pub line: String,
    /// Without it nobody comes in to mend anything.
    pub stops: bool,
    /// It has not refused, but gave no answer in time.
    pub unknown: bool,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let does = if self.unknown { "does not say whether it takes" } else { "refuses" };
        write!(f, "{} {does} its configuration: {}", self.what, self.line)
    }
}

/// A program that could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum SyntaxError {
    /// It could not be run, or gave no answer.
    #[error("failed to ask a program about its configuration")]
    Ask(#[from] ExecError),
    /// The place where they are asked could not be made.
    #[error(transparent)]
    Place(#[from] OwnRunError),
    /// PAM's configuration could not be read.
    #[error("failed to look at the configuration of PAM")]
    Pam(#[from] StockError),
}

/// Asks the installed programs of the running system, in a `/run` that nobody else sees: some make a file or a directory there when they
/// are asked.
///
/// # Errors
/// When a program could not be asked: its silence is no yes.
pub fn look() -> Result<Vec<Refused>, SyntaxError> {
    let mut refused = with_own_run(&WANTED, ask)??;
    refused.extend(pam::missing(Path::new("/"))?.into_iter().map(|missing| Refused {
        what: "PAM".to_owned(),
        line: missing.to_string(),
        stops: missing.keeps_people_out(),
        unknown: false,
    }));
    Ok(refused)
}

fn ask() -> Result<Vec<Refused>, SyntaxError> {
    let mut refused = Vec::new();
    for test in TESTS.iter().filter(|test| Path::new(test.file).exists()) {
        for program in installed(test.program) {
            refused.extend(ask_one(test, &program, LIMIT)?);
        }
    }
    Ok(refused)
}

/// A program that stops nothing and is too slow to say has not refused: the health checks see whether it works.
fn ask_one(test: &Test, program: &Path, limit: Duration) -> Result<Option<Refused>, SyntaxError> {
    let name = program.display().to_string();
    match Exec::new(&name)?.args(test.arguments).limit(limit).output() {
        Ok(output) if output.status.success() => Ok(None),
        Ok(output) => {
            let line = first_words(&output);
            Ok(Some(Refused { what: test.what.to_owned(), line, stops: test.stops, unknown: false }))
        }
        Err(error @ ExecError::TimedOut { .. }) if !test.stops => {
            let (what, line) = (test.what.to_owned(), error.to_string());
            Ok(Some(Refused { what, line, stops: false, unknown: true }))
        }
        Err(error) => Err(error.into()),
    }
}

/// What is refused now and was not before. A program that was refused before and is for another reason now stays so.
#[must_use]
pub fn news(before: &[Refused], after: Vec<Refused>) -> Vec<Refused> {
    // Every line of PAM's stands for itself; the others say the first mistake only.
    let key =
        |one: &Refused| (one.what.clone(), if one.what == "PAM" { one.line.clone() } else { String::new() });
    // Who gave no answer before may have been content.
    let known: BTreeSet<_> = before.iter().filter(|one| !one.unknown).map(key).collect();
    after.into_iter().filter(|one| !known.contains(&key(one))).collect()
}

fn installed(program: &str) -> Vec<PathBuf> {
    let path = Path::new(program);
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return Vec::new();
    };
    let Some(stem) = name.strip_suffix('*') else {
        return if path.is_file() { vec![path.to_owned()] } else { Vec::new() };
    };
    let names =
        std::fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()));
    let mut found: Vec<PathBuf> = names
        .filter(|name| {
            let rest = name.to_str().and_then(|name| name.strip_prefix(stem));
            // `php-fpm8.2`, not some `php-fpm-exporter` of another package.
            rest.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
        })
        .map(|name| directory.join(name))
        .collect();
    found.sort();
    found
}

/// The line that names the mistake: the first that speaks of an error, or the first at all.
fn first_words(output: &Output) -> String {
    let text =
        format!("{}\n{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let speaks = |line: &&str| {
        let small = line.to_lowercase();
        ["bad ", "error", "emerg", "unsupported", "unknown", "invalid", "missing", "fatal"]
            .iter()
            .any(|word| small.contains(word))
    };
    match lines().find(speaks).or_else(|| lines().next()) {
        Some(line) => show::line(line),
        None => format!("it ended with {} and said nothing", output.status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(what: &str, line: &str) -> Refused {
        Refused { what: what.into(), line: line.into(), stops: false, unknown: false }
    }

    #[test]
    fn what_was_refused_before_is_no_news() {
        let before = [refused("sshd", "x"), refused("PAM", "a")];
        let after =
            vec![refused("sshd", "y"), refused("sudo", "z"), refused("PAM", "a"), refused("PAM", "b")];
        assert_eq!(news(&before, after), [refused("sudo", "z"), refused("PAM", "b")]);
        let silent = Refused { unknown: true, ..refused("BIND", "slow") };
        assert_eq!(news(&[silent], vec![refused("BIND", "x")]), [refused("BIND", "x")]);
    }

    #[test]
    fn a_slow_program_stops_only_where_it_keeps_people_out() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("slow");
        std::fs::write(&program, "#!/bin/sh\nexec sleep 60\n").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let test = |stops| Test { program: "", arguments: &[], what: "BIND", stops, file: "" };
        let limit = Duration::from_millis(50);
        let told = ask_one(&test(false), &program, limit).unwrap().unwrap();
        assert!(told.unknown && !told.stops);
        assert!(told.line.contains("gave no result within"), "{}", told.line);
        let error = ask_one(&test(true), &program, limit).unwrap_err();
        assert!(matches!(error, SyntaxError::Ask(ExecError::TimedOut { .. })), "{error:?}");
    }

    /// This machine's own sshd, whether its service runs or not.
    #[test]
    fn asking_leaves_nothing_in_run() {
        if !rustix::process::geteuid().is_root() || !Path::new(TESTS[0].program).exists() {
            println!("skipped: needs root and sshd");
            return;
        }
        let directory = Path::new("/run/sshd");
        let before = directory.exists();
        let refused = || ask().unwrap().into_iter().find(|one| one.what == "sshd");
        let (bare, asked, there) = with_own_run(&[], || {
            // What covers the place in here is not the machine's own directory, which stays.
            let _ = Exec::new("umount").unwrap().arg(directory).success();
            let _ = std::fs::remove_dir(directory);
            (refused(), with_own_run(&WANTED, refused).unwrap(), directory.exists())
        })
        .unwrap();
        if Path::new(TESTS[0].file).exists() {
            assert!(bare.is_some_and(|one| one.line.contains("/run/sshd")), "sshd wants its directory");
        }
        assert!(!asked.is_some_and(|one| one.line.contains("privilege separation")));
        assert!(!there && directory.exists() == before);
    }

    #[test]
    fn the_line_that_names_the_mistake() {
        let output = |stderr: &str| Output {
            status: std::os::unix::process::ExitStatusExt::from_raw(255 << 8),
            stdout: Vec::new(),
            stderr: stderr.as_bytes().to_vec(),
        };
        let text = "hello\n/etc/ssh/sshd_config line 3: Bad configuration option: Colour\r\n/etc/ssh/sshd_config: terminating, 1 bad configuration options\n";
        assert_eq!(
            first_words(&output(text)),
            "/etc/ssh/sshd_config line 3: Bad configuration option: Colour"
        );
        assert!(first_words(&output("")).contains("said nothing"));
    }

    #[test]
    fn versions_of_a_program() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["php-fpm8.2", "php-fpm8.4", "php-fpm-exporter", "php"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = installed(&dir.path().join("php-fpm*").display().to_string());
        assert_eq!(found, [dir.path().join("php-fpm8.2"), dir.path().join("php-fpm8.4")]);
        assert!(installed("/none/at-all").is_empty());
    }
}
