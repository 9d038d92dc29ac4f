//! The product inside a machine: installing it, running it, how a run ended.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use safe_upgrade::system::exec::{Output, tail};
use serde_json::Value;

use super::machine::{BOOT_LIMIT, Machine, Started};
use super::{Result, told};

/// Names the binary to put into machines; `make test` and `make demo` name the released one.
pub const BINARY_VARIABLE: &str = "SAFE_UPGRADE_LAB_BINARY";

/// Where the configuration lies inside.
pub const CONFIG: &str = "/etc/safe-upgrade/config.toml";

/// What every server of the lab is configured with; more checks follow.
pub const SERVER: &str = r#"[backup]
store = "/srv/backup"
trees = ["/etc", "/srv/www", "/root"]

[health]
soak = "5s"

[[health.check]]
name = "site"
kind = "http"
url = "http://127.0.0.1:8080/"
body = "it works"

[[health.check]]
name = "database"
kind = "command"
argv = ["/usr/local/bin/site-check"]
"#;

/// Passes with Python 3.11 and fails with 3.13: as a script that uses a module which Python has dropped.
pub const OLD_PYTHON: &str = r#"
[[health.check]]
name = "report"
kind = "command"
argv = ["/usr/bin/python3", "-c", "import imp"]
retries = 1
"#;

/// The unit that drives a run.
pub const UNIT: &str = "safe-upgrade-resume.service";

/// The records after which a run makes no further step by itself.
pub const ENDS: [&str; 4] = ["Committed", "RolledBack", "Refused", "Stuck"];

/// A whole run with its reboots takes one to four minutes here, as busy as the machine is.
pub const RUN_LIMIT: Duration = Duration::from_secs(900);

/// How long to wait for a record before looking whether the command has given up.
const GLANCE: Duration = Duration::from_secs(5);

/// A run that goes on inside.
#[derive(Debug)]
pub struct Run {
    /// The command that started it and follows it until the first reboot.
    pub command: Started,
    /// How many records the journal held when it was started.
    pub begun: usize,
    /// How many of the journal's records are not looked at; at first those from before it.
    pub before: usize,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The state, as `status` names it.
    pub state: String,
    /// Why it turned back, when it did.
    pub why: String,
}

impl Machine {
    /// Installs the product, makes its ground, and writes this configuration.
    pub fn install_product(&self, config: &str) -> Result<()> {
        self.copy_in(&binary()?, "/usr/local/sbin/safe-upgrade", 0o755)?;
        self.sh("safe-upgrade init")?;
        self.write(CONFIG, 0o600, config.as_bytes())
    }

    /// Runs the product inside and returns what it left behind, whatever its exit code.
    pub fn product(&self, arguments: &[&str]) -> Result<Output> {
        self.run(&[&["safe-upgrade"], arguments].concat())
    }

    /// Starts an upgrade to trixie.
    pub fn start_run(&self) -> Result<Run> {
        self.follow(&["safe-upgrade", "run", "--to", "trixie", "--yes"])
    }

    /// Starts an operator's rollback.
    pub fn start_rollback(&self) -> Result<Run> {
        self.follow(&["safe-upgrade", "rollback", "--yes"])
    }

    /// Returns the first of these records that the run writes.
    ///
    /// Ends at once when the product refuses to plan a run at all, or when the run ends without such a record.
    pub fn wait_in_run(&self, run: &mut Run, wanted: &[&str]) -> Result<String> {
        let deadline = Instant::now() + RUN_LIMIT;
        let any: Vec<&str> = wanted.iter().chain(&ENDS).copied().collect();
        loop {
            match self.wait_for_record(run.before, &any, GLANCE) {
                Ok(found) if wanted.contains(&found.as_str()) => return Ok(found),
                Ok(end) => {
                    let why = self.status().map(|ended| ended.why).unwrap_or_else(|error| error.to_string());
                    let error = io::Error::other(format!("the run ended with {end} ({why})"));
                    return Err(with_log(&error, run));
                }
                Err(error) if error.kind() != io::ErrorKind::TimedOut || Instant::now() > deadline => {
                    return Err(with_log(&self.with_console(&error), run));
                }
                Err(_) => {}
            }
            let ended = run.command.ended()?;
            // Behind a reboot the command is gone whatever the run does; the journal alone tells.
            if ended.is_some() && self.records()?.len() == run.begun {
                return Err(with_log(&io::Error::other(format!("no run was planned ({ended:?})")), run));
            }
        }
    }

    /// Returns how the run ended, as soon as it has ended and the machine is up.
    pub fn settle(&self, run: &mut Run) -> Result<Ended> {
        let end = self.wait_in_run(run, &ENDS)?;
        self.wait_boot(self.boots(), BOOT_LIMIT)?;
        if end == "RolledBack" {
            // That is recorded first; what follows it holds the lock for a while.
            self.wait_looked_back(BOOT_LIMIT)?;
        }
        let ended = self.status()?;
        if ended.state == end {
            return Ok(ended);
        }
        Err(io::Error::other(format!("the journal ends with {end}, but status says {ended:?}")))
    }

    /// Where the last run stands.
    pub fn status(&self) -> Result<Ended> {
        let run = self.status_of_run()?;
        let text = |field: &str| run[field].as_str().unwrap_or_default().to_owned();
        Ok(Ended { state: text("state"), why: text("why") })
    }

    /// What the last run's status adds to its reason, one finding a line.
    pub fn details(&self) -> Result<Vec<String>> {
        let run = self.status_of_run()?;
        let lines = run["details"].as_array().into_iter().flatten();
        Ok(lines.filter_map(|line| line.as_str().map(str::to_owned)).collect())
    }

    fn status_of_run(&self) -> Result<Value> {
        let output = self.product(&["status", "--json"])?;
        let status: Value = serde_json::from_slice(&output.stdout).map_err(|error| {
            io::Error::other(format!("status is no JSON ({error}): {}", tail(&output.stderr)))
        })?;
        Ok(status["run"].clone())
    }

    fn follow(&self, command: &[&str]) -> Result<Run> {
        let begun = self.records()?.len();
        Ok(Run { begun, before: begun, command: self.start(command)? })
    }
}

/// One difference between two trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What differs, as the product names it: `content`, `mode`, `missing`, ...
    pub class: String,
    /// Where, from the top of the tree.
    pub path: String,
}

/// Compares two trees of the host by the product's own manifests.
pub fn differences(before: &Path, after: &Path, scratch: &Path) -> Result<Vec<Difference>> {
    let program = binary()?;
    let safe_upgrade = |arguments: &[&str]| {
        let exec = safe_upgrade::system::exec::Exec::new(&program.to_string_lossy()).map_err(told)?;
        exec.args(arguments).output().map_err(told)
    };
    let files =
        ["before.manifest", "after.manifest"].map(|name| scratch.join(name).to_string_lossy().into_owned());
    for (tree, file) in [before, after].iter().zip(&files) {
        let made = safe_upgrade(&["manifest", "create", &tree.to_string_lossy(), "-o", file])?;
        if !made.status.success() {
            return Err(io::Error::other(format!(
                "no manifest of {}: {}",
                tree.display(),
                tail(&made.stderr)
            )));
        }
    }
    let compared = safe_upgrade(&["manifest", "diff", &files[0], &files[1], "--json"])?;
    let found = parse_differences(&compared.stdout)
        .ok_or_else(|| io::Error::other(format!("manifest diff: {}", tail(&compared.stderr))))?;
    match compared.status.code() {
        Some(0) if found.is_empty() => Ok(found),
        Some(7) if !found.is_empty() => Ok(found),
        code => Err(io::Error::other(format!("manifest diff ended with {code:?} and {found:?}"))),
    }
}

/// Nothing unless the report is complete: something was checked, and every difference that was counted is listed.
fn parse_differences(report: &[u8]) -> Option<Vec<Difference>> {
    let report: Value = serde_json::from_slice(report).ok()?;
    let listed = report["differences"].as_array()?;
    let complete = report["differences_total"].as_u64()? == listed.len() as u64;
    if !complete || report["checked"]["entries"].as_u64()? == 0 {
        return None;
    }
    let difference = |one: &Value| {
        Some(Difference { class: one["class"].as_str()?.into(), path: one["path"].as_str()?.into() })
    };
    listed.iter().map(difference).collect()
}

/// The binary that machines get.
pub fn binary() -> Result<PathBuf> {
    let named = std::env::var_os(BINARY_VARIABLE).map(PathBuf::from);
    let built = option_env!("CARGO_BIN_EXE_safe-upgrade").map(PathBuf::from);
    let released = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/safe-upgrade");
    let chosen = named.or(built).unwrap_or(released);
    if chosen.is_file() {
        return chosen.canonicalize();
    }
    Err(io::Error::other(format!("{} is not there: make build", chosen.display())))
}

fn with_log(error: &io::Error, run: &Run) -> io::Error {
    io::Error::new(error.kind(), format!("{error}; the command wrote:\n{}", run.command.log()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_is_cut_short_or_checked_nothing_is_none() {
        let report = |total: u64, entries: u64| {
            format!(
                r#"{{"checked":{{"entries":{entries}}},"differences":[{{"class":"mode","path":"etc/x"}}],"differences_total":{total}}}"#
            )
        };
        let found = parse_differences(report(1, 5).as_bytes()).unwrap();
        assert_eq!(found, [Difference { class: "mode".into(), path: "etc/x".into() }]);
        assert_eq!(parse_differences(report(2, 5).as_bytes()), None);
        assert_eq!(parse_differences(report(1, 0).as_bytes()), None);
    }
}
