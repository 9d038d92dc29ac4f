//! The configuration: `/etc/safe-upgrade/config.toml`, validated. Unknown keys are refused, and every error names its line.

pub mod configuration_files;
pub mod rehearsal;
pub mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::Failure;
use crate::evidence::{CommitRule, GuaranteeLevel, Waiver};
use crate::health::checks::CheckConfig;
use crate::system::show;
use crate::system::span::Span;

/// Where the configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/safe-upgrade/config.toml";

/// The whole configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is backed up, where, and when a proof of it counts.
    pub backup: Backup,
    /// How the packages are upgraded.
    #[serde(default)]
    pub upgrade: Upgrade,
    /// What is done about configuration files that both sides changed.
    #[serde(default)]
    pub configuration_files: configuration_files::ConfigurationFiles,
    /// What healthy means.
    #[serde(default)]
    pub health: Health,
    /// Who ends the trial.
    #[serde(default)]
    pub commit: Commit,
    /// What a rollback leaves as it is.
    #[serde(default)]
    pub rollback: Rollback,
    /// Upgrading a clone first.
    #[serde(default)]
    pub rehearsal: rehearsal::Rehearsal,
    /// How long the way back is kept.
    #[serde(default)]
    pub retention: Retention,
    /// Copies that are verified again and again.
    #[serde(default, rename = "verify")]
    pub scheduled: Vec<verify::Scheduled>,
    /// Overrides of inhibitors.
    #[serde(default, rename = "waiver")]
    pub waivers: Vec<Waiver>,
}

/// What is backed up.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// The directory that holds the copies: on another device than the trees.
    pub store: AbsolutePath,
    /// The trees that must be restorable.
    pub trees: Vec<AbsolutePath>,
    /// Patterns that are left out of every tree.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Whether a run makes the copies itself; otherwise it only verifies those that lie in the store.
    #[serde(default = "yes")]
    pub copy: bool,
    /// Where restored trees are put while they are compared, and where a rehearsal without snapshots has its clone; by default beside
    /// the journal.
    pub scratch: Option<AbsolutePath>,
    /// How old a proof from before a restart may be.
    #[serde(default = "one_day")]
    pub max_age: Span,
    /// How many entries are read again when such a proof is used.
    #[serde(default = "sample")]
    pub sample: u64,
}

/// How the packages are upgraded.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upgrade {
    /// How long the package tools may be silent before they are ended.
    pub silence: Span,
    /// The least guarantee level that a run starts with.
    pub minimum_level: GuaranteeLevel,
    /// How old the last `check --prove-boot` may be for a run to start; without it a run does not ask for one.
    pub boot_proof: Option<Span>,
    /// A port on which a second sshd listens while packages change; without it there is none.
    pub rescue_ssh_port: Option<u16>,
}

impl Default for Upgrade {
    fn default() -> Self {
        Self {
            silence: Span::seconds(30 * 60),
            minimum_level: GuaranteeLevel::B,
            boot_proof: None,
            rescue_ssh_port: None,
        }
    }
}

/// What healthy means.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// How long the machine must stay healthy.
    pub soak: Span,
    /// How long services may take to start after a boot.
    pub settle: Span,
    /// How long after its boot a trial must have a verdict; without one the machine goes back.
    pub deadline: Span,
    /// Units that go by another name on the new release.
    pub renames: BTreeMap<String, String>,
    /// Named checks.
    #[serde(rename = "check")]
    pub checks: Vec<CheckConfig>,
}

impl Default for Health {
    fn default() -> Self {
        let (soak, settle, deadline) = (Span::seconds(120), Span::seconds(300), Span::seconds(1800));
        Self { soak, settle, deadline, renames: BTreeMap::new(), checks: Vec::new() }
    }
}

/// Who ends the trial.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Commit {
    /// `automatic`, `manual` or `confirm`.
    pub rule: CommitRule,
    /// With `confirm`: how long a healthy trial waits for `safe-upgrade commit` before it goes back.
    pub confirm: Span,
    /// How often the trial may be booted in all, also by operators who reboot it.
    pub trial_boots: u8,
}

impl Default for Commit {
    fn default() -> Self {
        Self { rule: CommitRule::Automatic, confirm: Span::seconds(600), trial_boots: 3 }
    }
}

/// What a rollback leaves as it is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rollback {
    /// Directories whose new and changed files are copied from the failed root into the restored one.
    pub carry: Vec<AbsolutePath>,
}

impl Default for Rollback {
    /// Logs: whoever asks why the machine went back looks for them first, and no program reads them to find its own state.
    fn default() -> Self {
        Self { carry: AbsolutePath::try_from("/var/log".to_owned()).into_iter().collect() }
    }
}

/// How long the way back is kept.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// `prune` keeps the snapshots and failed roots of runs that ended less than this ago.
    pub keep: Span,
}

impl Default for Retention {
    fn default() -> Self {
        Self { keep: Span::seconds(14 * 86_400) }
    }
}

fn yes() -> bool {
    true
}

fn one_day() -> Span {
    Span::seconds(86_400)
}

fn sample() -> u64 {
    64
}

/// A path from `/`, without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct AbsolutePath(PathBuf);

impl AbsolutePath {
    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl TryFrom<String> for AbsolutePath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let path = PathBuf::from(&text);
        let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if path.is_absolute() && plain && !text.contains('\0') {
            // Collected anew, so that `/etc/` and `/etc` are one.
            return Ok(Self(path.components().collect()));
        }
        Err(format!("{text:?} is not a path from / without \"..\""))
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show::path(&self.0))
    }
}

/// Reads a configuration; also returns its bytes, of which a run keeps a copy.
///
/// # Errors
/// A usage failure that names the file, the line and what is wrong there.
pub fn load(path: &Path) -> Result<(Config, Vec<u8>), Failure> {
    let (text, shown) = (read(path)?, show::path(path));
    let config = parse(&text).map_err(|wrong| Failure::usage(format!("{shown}:{wrong}")))?;
    Ok((config, text.into_bytes()))
}

fn read(path: &Path) -> Result<String, Failure> {
    let shown = show::path(path);
    let bytes = std::fs::read(path).map_err(|error| {
        Failure::usage(format!("failed to read the configuration {shown}: {error}"))
            .hint("safe-upgrade init writes one for this server")
    })?;
    String::from_utf8(bytes).map_err(|error| {
        Failure::usage(format!("{shown} is not UTF-8 from byte {} on", error.utf8_error().valid_up_to()))
    })
}

/// Reads only what is verified again and again: the rest of a configuration may be missing, but not wrong.
///
/// # Errors
/// As [`load`].
pub fn load_scheduled(path: &Path) -> Result<Vec<verify::Scheduled>, Failure> {
    let (text, shown) = (read(path)?, show::path(path));
    parse_scheduled(&text).map_err(|wrong| Failure::usage(format!("{shown}:{wrong}")))
}

/// Understands the text of a configuration.
///
/// # Errors
/// `LINE:COLUMN: what is wrong`.
pub fn parse(text: &str) -> Result<Config, String> {
    let config: Config = from_toml(text)?;
    validate(&config).map_err(|wrong| located(text, &wrong))?;
    Ok(config)
}

/// Understands the `[[verify]]` of a configuration, also of one that has nothing else.
///
/// # Errors
/// As [`parse`].
pub fn parse_scheduled(text: &str) -> Result<Vec<verify::Scheduled>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Only {
        #[serde(default)]
        verify: Vec<verify::Scheduled>,
    }
    if from_toml::<toml::Table>(text)?.contains_key("backup") {
        return Ok(parse(text)?.scheduled);
    }
    let Only { verify } = from_toml(text)?;
    verify::validate(&verify).map_err(|wrong| located(text, &wrong))?;
    Ok(verify)
}

fn from_toml<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|error| {
        let (line, column) = position(text, error.span().map_or(0, |span| span.start));
        format!("{line}:{column}: {}", error.message().replace('\n', " "))
    })
}

fn located(text: &str, (key, wrong): &(String, String)) -> String {
    let (line, column) = position(text, line_of(text, key).or_else(|| text.find(key)).unwrap_or(0));
    format!("{line}:{column}: {wrong}")
}

/// Where a line begins that gives a key its value; comments and values may hold the same word.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        if line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('=')) {
            return Some(offset + indent);
        }
        offset += line.len();
    }
    None
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// What the types cannot say. The first text is something to find the place by.
fn validate(config: &Config) -> Result<(), (String, String)> {
    let backup = &config.backup;
    if backup.trees.is_empty() {
        return Err(("trees".into(), "trees must name at least one directory".into()));
    }
    let mut trees = BTreeSet::new();
    for tree in &backup.trees {
        if !trees.insert(tree) {
            return Err((format!("{tree}"), format!("the tree {tree} is named twice")));
        }
        // Everything lies inside the root; whether its copy would hold the store depends on what is mounted where.
        let is_root = tree.as_path() == Path::new("/");
        if !is_root && backup.store.as_path().starts_with(tree.as_path()) {
            return Err((
                format!("{}", backup.store),
                format!("the store {} lies inside the tree {tree}", backup.store),
            ));
        }
    }
    if let Some(all) = config.rollback.carry.iter().find(|path| path.as_path() == Path::new("/")) {
        return Err(("carry".into(), format!("carry = [\"{all}\"] would undo the rollback")));
    }
    verify::validate(&config.scheduled)?;
    enough_time(&config.health)?;
    let mut names = BTreeSet::new();
    for check in &config.health.checks {
        if !names.insert(&check.name) {
            return Err((check.name.clone(), format!("two checks are named {:?}", check.name)));
        }
    }
    rehearsal::validate(&config.rehearsal, &names)?;
    for waiver in &config.waivers {
        let is_day = |day: &str| day.parse::<jiff::civil::Date>().is_ok() && day.len() == 10;
        if let Some(day) = waiver.expires.as_deref().filter(|day| !is_day(day)) {
            return Err((day.into(), format!("expires = {day:?} is not a day such as \"2027-01-31\"")));
        }
        if waiver.reason.trim().is_empty() {
            return Err((waiver.id.clone(), format!("the waiver of {} gives no reason", waiver.id)));
        }
    }
    Ok(())
}

/// A trial that takes the time that it is allowed must not be ended by its deadline: waiting for the end of the boot and
/// waiting for slow services may each take `settle`, and then it soaks.
fn enough_time(health: &Health) -> Result<(), (String, String)> {
    let needed = health.settle.duration().saturating_mul(2).saturating_add(health.soak.duration());
    if health.deadline.duration() > needed {
        return Ok(());
    }
    let (deadline, needed) = (health.deadline, Span::seconds(needed.as_secs()));
    let keys = [("deadline", Health::default().deadline), ("settle", Health::default().settle)];
    let set = |(key, default): &(&str, Span)| match *key {
        "deadline" => health.deadline != *default,
        _ => health.settle != *default,
    };
    let key = keys.iter().find(|key| set(key)).map_or("soak", |(key, _)| key);
    Err((
        key.into(),
        format!("health.deadline ({deadline}) must be more than twice settle and soak together ({needed})"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "[backup]\nstore = \"/srv/backup\"\ntrees = [\"/etc/\", \"/srv/www\"]\n";

    #[test]
    fn a_small_one_has_sane_defaults() {
        let config = parse(SMALL).unwrap();
        assert_eq!(config.backup.trees[0].as_path(), Path::new("/etc"));
        assert!(config.backup.copy);
        assert_eq!(config.retention.keep.to_string(), "14d");
        assert_eq!(config.rollback.carry[0].as_path(), Path::new("/var/log"));
        assert_eq!(config.commit.rule, CommitRule::Automatic);
        assert_eq!(config.rehearsal.max_age.to_string(), "7d");
    }

    #[test]
    fn a_deadline_leaves_time_for_a_verdict() {
        let wrong = |text: &str| parse(&format!("# deadline\n{SMALL}[health]\n{text}")).unwrap_err();
        let error = wrong("soak = \"10s\"\ndeadline = \"610s\"\n");
        assert_eq!(
            error,
            "7:1: health.deadline (610s) must be more than twice settle and soak together (610s)"
        );
        assert!(wrong("settle = \"20m\"\n").starts_with("6:1: health.deadline (30m)"));
        assert!(wrong("soak = \"1h\"\n").starts_with("6:1: "));
        let good = parse(&format!("{SMALL}[health]\nsettle = \"20m\"\ndeadline = \"1h\"\n")).unwrap();
        assert_eq!(good.health.deadline.to_string(), "1h");
        assert_eq!(parse(SMALL).unwrap().health.deadline.to_string(), "30m");
    }

    #[test]
    fn every_error_names_its_line() {
        let wrong = |text: &str| parse(text).unwrap_err();
        assert!(wrong(&format!("{SMALL}colour = 1\n")).starts_with("4:1: unknown field `colour`"));
        assert!(wrong("[backup]\nstore = 5\ntrees = []\n").starts_with("2:9: "));
        assert!(wrong("[backup]\nstore = \"relative\"\ntrees = [\"/etc\"]\n").starts_with("2:9: "));
        assert!(
            wrong("[backup]\nstore = \"/etc/x\"\ntrees = [\"/etc\"]\n")
                .starts_with("2:10: the store /etc/x lies")
        );
        assert!(parse("[backup]\nstore = \"/etc/x\"\ntrees = [\"/\"]\n").is_ok());
        assert!(wrong(&format!("{SMALL}[health]\nsoak = \"soon\"\n")).starts_with("5:8: "));
        assert!(wrong(&format!("{SMALL}[rollback]\ncarry = [\"/\"]\n")).starts_with("5:1: carry"));
        assert!(wrong("[backup]\nstore = \"/a\"\n").contains("missing field `trees`"));
        assert!(
            wrong(&format!("{SMALL}[[waiver]]\nid = \"x\"\nreason = \"y\"\nexpires = \"soon\"\n"))
                .starts_with("7:12: ")
        );
    }
}
