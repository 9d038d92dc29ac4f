//! How a check is written in the config.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::http::HttpCheck;
use super::tcp;
use crate::system::span::Span;

/// A fool's guard: more tries than this are a mistake in the config.
const MOST_RETRIES: u32 = 1000;

/// When the checks run; commands see it as `SAFE_UPGRADE_PHASE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Before anything was changed.
    Before,
    /// On the upgraded system, before the decision.
    Trial,
    /// While watching after everything was green.
    Soak,
    /// On the old system after a rollback.
    Rollback,
}

impl Phase {
    /// The word that commands see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Trial => "trial",
            Self::Soak => "soak",
            Self::Rollback => "rollback",
        }
    }
}

/// A check that the operator named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct CheckConfig {
    /// Its name in reports; unique.
    pub name: String,
    /// Whether the machine is unhealthy when it does not pass; otherwise it is only wanted.
    pub required: bool,
    /// How long one try may take.
    pub timeout: Span,
    /// How often it is tried again when it does not pass.
    pub retries: u32,
    /// How long to wait between tries.
    pub interval: Span,
    /// What it looks at.
    pub kind: CheckKind,
}

impl CheckConfig {
    /// How long all tries of a check that never passes take together, with the waiting between them.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let tries = self.timeout.duration().saturating_mul(self.retries.saturating_add(1));
        tries.saturating_add(self.interval.duration().saturating_mul(self.retries))
    }
}

/// What a check looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// A program with the exit codes of nagios.
    Command {
        /// The program and its arguments; no shell.
        argv: Vec<String>,
        /// Whether exit code 1, a warning, passes. Many programs say "failed" with 1, so it does not unless asked for.
        warning_passes: bool,
    },
    /// A TCP port that accepts a connection.
    Tcp {
        /// `HOST:PORT`.
        address: String,
    },
    /// A URL with its answer.
    Http(HttpCheck),
    /// A systemd unit that is active.
    Unit {
        /// The unit's name.
        unit: String,
    },
}

impl CheckKind {
    /// The word of the config.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Command { .. } => "command",
            Self::Tcp { .. } => "tcp",
            Self::Http(_) => "http",
            Self::Unit { .. } => "unit",
        }
    }
}

/// A check that is written wrongly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("check {name:?}: {problem}")]
pub struct CheckError {
    name: String,
    problem: String,
}

/// Looks at all checks together; each one alone was looked at when it was read.
///
/// # Errors
/// When two checks have one name.
pub fn validate(checks: &[CheckConfig]) -> Result<(), CheckError> {
    let mut names = BTreeSet::new();
    for check in checks {
        if !names.insert(&check.name) {
            let problem = "there is another check of this name".to_owned();
            return Err(CheckError { name: check.name.clone(), problem });
        }
    }
    Ok(())
}

/// The flat table that is written; flat so that the reader of the config can name the line of a wrong key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    kind: Word,
    #[serde(default = "yes")]
    required: bool,
    #[serde(default = "ten_seconds")]
    timeout: Span,
    #[serde(default = "three")]
    retries: u32,
    #[serde(default = "two_seconds")]
    interval: Span,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    argv: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warning_passes: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    insecure: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Command,
    Tcp,
    Http,
    Unit,
}

fn yes() -> bool {
    true
}

fn three() -> u32 {
    3
}

fn ten_seconds() -> Span {
    Span::seconds(10)
}

fn two_seconds() -> Span {
    Span::seconds(2)
}

impl TryFrom<Written> for CheckConfig {
    type Error = CheckError;

    fn try_from(written: Written) -> Result<Self, CheckError> {
        let wrong = |problem: String| CheckError { name: written.name.clone(), problem };
        if written.name.trim().is_empty() {
            return Err(wrong("it needs a name".to_owned()));
        }
        if written.timeout == Span::seconds(0) {
            return Err(wrong("a timeout of 0 can never pass".to_owned()));
        }
        if written.retries > MOST_RETRIES {
            return Err(wrong(format!("at most {MOST_RETRIES} retries")));
        }
        written.only_own_keys().map_err(wrong)?;
        Ok(Self {
            kind: written.kind().map_err(wrong)?,
            name: written.name,
            required: written.required,
            timeout: written.timeout,
            retries: written.retries,
            interval: written.interval,
        })
    }
}

impl Written {
    /// A key that belongs to another kind is a mistake, not something to ignore.
    fn only_own_keys(&self) -> Result<(), String> {
        let keys = [
            ("argv", self.argv.is_some(), Word::Command),
            ("warning_passes", self.warning_passes.is_some(), Word::Command),
            ("address", self.address.is_some(), Word::Tcp),
            ("url", self.url.is_some(), Word::Http),
            ("status", self.status.is_some(), Word::Http),
            ("body", self.body.is_some(), Word::Http),
            ("ca_file", self.ca_file.is_some(), Word::Http),
            ("insecure", self.insecure.is_some(), Word::Http),
            ("unit", self.unit.is_some(), Word::Unit),
        ];
        match keys.iter().find(|(_, present, word)| *present && *word != self.kind) {
            Some((key, _, word)) => {
                Err(format!("the key {key:?} belongs to checks of another kind ({word:?})").to_lowercase())
            }
            None => Ok(()),
        }
    }

    fn kind(&self) -> Result<CheckKind, String> {
        match self.kind {
            Word::Command => {
                let argv = self.argv.clone().filter(|argv| !argv.is_empty());
                let argv =
                    argv.ok_or("it needs argv, such as [\"/usr/local/bin/check-shop\", \"--fast\"]")?;
                if argv[0].is_empty() || (argv[0].contains('/') && !argv[0].starts_with('/')) {
                    return Err(format!("write the absolute path of the program instead of {:?}", argv[0]));
                }
                Ok(CheckKind::Command { argv, warning_passes: self.warning_passes.unwrap_or(false) })
            }
            Word::Tcp => {
                let address =
                    self.address.clone().ok_or("it needs an address, such as \"localhost:5432\"")?;
                tcp::split(&address)?;
                Ok(CheckKind::Tcp { address })
            }
            Word::Http => self.http().map(CheckKind::Http),
            Word::Unit => {
                let unit = self.unit.clone().ok_or("it needs a unit, such as \"nginx.service\"")?;
                if unit.is_empty() || unit.starts_with('-') || unit.contains(['/', ' ', '*', '?', '[']) {
                    return Err(format!("{unit:?} is not the name of one unit"));
                }
                Ok(CheckKind::Unit { unit })
            }
        }
    }

    fn http(&self) -> Result<HttpCheck, String> {
        let url = self.url.clone().ok_or("it needs a url, such as \"https://localhost/\"")?;
        let status = self.status.unwrap_or(200);
        let insecure = self.insecure.unwrap_or(false);
        let secure = url.starts_with("https://");
        if !secure && !url.starts_with("http://") {
            return Err(format!("{url:?} does not begin with http:// or https://"));
        }
        if !(100..=599).contains(&status) {
            return Err(format!("{status} is not an HTTP status"));
        }
        if !secure && (insecure || self.ca_file.is_some()) {
            return Err("ca_file and insecure are for https only".to_owned());
        }
        if insecure && self.ca_file.is_some() {
            return Err("with insecure = true nothing is verified, and ca_file would mean nothing".to_owned());
        }
        if self.ca_file.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err("write the absolute path of ca_file".to_owned());
        }
        HttpCheck { url, status, body: self.body.clone(), ca_file: self.ca_file.clone(), insecure }.checked()
    }
}

impl From<CheckConfig> for Written {
    fn from(check: CheckConfig) -> Self {
        let mut written = Self {
            name: check.name,
            kind: Word::Unit,
            required: check.required,
            timeout: check.timeout,
            retries: check.retries,
            interval: check.interval,
            argv: None,
            warning_passes: None,
            address: None,
            url: None,
            status: None,
            body: None,
            ca_file: None,
            insecure: None,
            unit: None,
        };
        match check.kind {
            CheckKind::Command { argv, warning_passes } => {
                written.kind = Word::Command;
                (written.argv, written.warning_passes) = (Some(argv), Some(warning_passes));
            }
            CheckKind::Tcp { address } => {
                written.kind = Word::Tcp;
                written.address = Some(address);
            }
            CheckKind::Http(http) => {
                written.kind = Word::Http;
                (written.url, written.status) = (Some(http.url), Some(http.status));
                (written.body, written.ca_file) = (http.body, http.ca_file);
                written.insecure = http.insecure.then_some(true);
            }
            CheckKind::Unit { unit } => written.unit = Some(unit),
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<CheckConfig, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_as_documented() {
        let check = read("name = 'shop'\nkind = 'http'\nurl = 'https://localhost/'").unwrap();
        assert!(check.required);
        assert_eq!((check.timeout, check.retries, check.interval), (Span::seconds(10), 3, Span::seconds(2)));
        let CheckKind::Http(http) = &check.kind else { panic!("{check:?}") };
        assert_eq!((http.status, http.insecure), (200, false));
    }

    #[test]
    fn what_is_written_reads_back() {
        for text in [
            "name = 'a'\nkind = 'command'\nargv = ['true', '-x']\nwarning_passes = true\nrequired = false",
            "name = 'b'\nkind = 'tcp'\naddress = '[::1]:22'\ntimeout = '1m'",
            "name = 'c'\nkind = 'http'\nurl = 'https://x/'\nbody = 'ok'\nca_file = '/etc/ca.pem'\nstatus = 301",
            "name = 'd'\nkind = 'unit'\nunit = 'nginx.service'\nretries = 0",
        ] {
            let check = read(text).unwrap();
            assert_eq!(read(&toml::to_string(&check).unwrap()).unwrap(), check, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, told) in [
            ("kind = 'unit'\nunit = 'a'", "missing field `name`"),
            ("name = 'a'\nkind = 'ping'", "unknown variant `ping`"),
            ("name = 'a'\nkind = 'unit'\nunit = 'a'\ncolour = 1", "unknown field `colour`"),
            ("name = 'a'\nkind = 'unit'\nunit = 'a'\nurl = 'http://x'", "the key \"url\" belongs to"),
            ("name = 'a'\nkind = 'unit'\nunit = '*'", "not the name of one unit"),
            ("name = 'a'\nkind = 'unit'\nunit = 'a'\ntimeout = '10'", "is not a duration"),
            ("name = 'a'\nkind = 'unit'\nunit = 'a'\ntimeout = '0s'", "can never pass"),
            ("name = 'a'\nkind = 'command'\nargv = []", "it needs argv"),
            ("name = 'a'\nkind = 'command'\nargv = ['./x']", "absolute path"),
            ("name = 'a'\nkind = 'tcp'\naddress = 'localhost'", "HOST:PORT"),
            ("name = 'a'\nkind = 'http'\nurl = 'ftp://x'", "http:// or https://"),
            ("name = 'a'\nkind = 'http'\nurl = 'http://'", "is not a URL"),
            ("name = 'a'\nkind = 'http'\nurl = 'http://x'\ninsecure = true", "for https only"),
            ("name = 'a'\nkind = 'http'\nurl = 'https://x'\nstatus = 42", "not an HTTP status"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn the_line_of_an_unknown_key_is_named() {
        let error = read("name = 'a'\nkind = 'unit'\nunit = 'a'\ncolour = 1").unwrap_err();
        assert!(error.contains("line 4"), "{error}");
    }

    #[test]
    fn names_are_unique() {
        let check = read("name = 'a'\nkind = 'unit'\nunit = 'a'").unwrap();
        assert!(validate(std::slice::from_ref(&check)).is_ok());
        assert!(validate(&[check.clone(), check]).is_err());
    }
}
