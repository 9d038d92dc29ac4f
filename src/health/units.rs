//! Units as systemd shows them: `list-units`, `list-unit-files`, `show`. The JSON is the same from systemd 252 to 259.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::HealthError;
use crate::system::exec::Exec;

/// systemd answers in milliseconds; a machine in trouble may need a while.
const LIMIT: Duration = Duration::from_secs(60);

/// The properties that [`parse_show`] understands.
const PROPERTIES: &str = "--property=Id,Names,Type,RemainAfterExit,Transient,NRestarts,FragmentPath,Where,WantedBy,\
RequiredBy,RequisiteOf,TriggeredBy,UpheldBy,BoundBy";

/// The kinds of unit whose properties matter here.
const PATTERNS: [&str; 5] = ["*.service", "*.socket", "*.timer", "*.path", "*.mount"];

/// One unit that systemd has loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Its name with suffix.
    pub name: String,
    /// `loaded`, `not-found`, `masked`, ...
    pub load: String,
    /// `active`, `inactive`, `failed`, `activating`, ...
    pub active: String,
    /// `running`, `exited`, `dead`, `listening`, ...
    pub sub: String,
    /// What `list-unit-files` says of its file: `enabled`, `static`, ...; none for units without a file of that name, such as
    /// instances of templates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enablement: Option<String>,
    /// Other names of the same unit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// A service's type: `simple`, `oneshot`, `dbus`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_type: Option<String>,
    /// A oneshot that stays active when its program has ended.
    #[serde(default)]
    pub stays_active: bool,
    /// Made at run time; gone after a reboot.
    #[serde(default)]
    pub transient: bool,
    /// How often systemd restarted it by itself.
    #[serde(default)]
    pub restarts: u32,
    /// Whether another unit wants, requires or triggers it.
    #[serde(default)]
    pub pulled_in: bool,
}

impl Unit {
    /// Whether it does its work now.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading" | "refreshing")
    }

    /// Whether it failed.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.active == "failed"
    }
}

/// Properties of one unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// Every name of the unit.
    pub names: Vec<String>,
    /// A service's type.
    pub service_type: Option<String>,
    /// A oneshot that stays active.
    pub stays_active: bool,
    /// Made at run time.
    pub transient: bool,
    /// Restarts by systemd itself.
    pub restarts: u32,
    /// The file that defines it; none for mounts made by hand.
    pub fragment: Option<String>,
    /// Where a mount unit mounts.
    pub mount_point: Option<String>,
    /// Whether another unit wants, requires or triggers it.
    pub pulled_in: bool,
}

/// Everything that systemd says of its units.
#[derive(Debug, Clone, Default)]
pub struct Units {
    /// Loaded units, by name.
    pub units: Vec<Unit>,
    /// Unit files and their states.
    pub files: BTreeMap<String, String>,
    /// Mount points that a unit file or fstab defines.
    pub configured_mounts: Vec<String>,
}

/// Asks systemd for all units.
///
/// # Errors
/// When systemd does not answer, or not in the expected form.
pub fn read() -> Result<Units, HealthError> {
    let listed = ask("the list of units", &["list-units", "--all", "--plain", "--output=json"])?;
    let files = ask("the list of unit files", &["list-unit-files", "--output=json"])?;
    combine(parse_list(&listed)?, parse_files(&files)?, &read_properties()?)
}

/// Asks systemd for the properties of all loaded services, sockets, timers, paths and mounts.
///
/// # Errors
/// When systemd does not answer, or not in the expected form.
pub fn read_properties() -> Result<BTreeMap<String, Properties>, HealthError> {
    let mut arguments = vec!["show", "--all", PROPERTIES];
    arguments.extend(PATTERNS);
    parse_show(&ask("the properties of units", &arguments)?)
}

/// Asks `systemctl is-system-running`; the answer is one word, whatever the exit code.
///
/// # Errors
/// When systemd does not answer.
pub fn read_system_state() -> Result<String, HealthError> {
    let what = "the state of the system";
    let output = Exec::new("systemctl")
        .and_then(|exec| exec.arg("is-system-running").limit(LIMIT).output())
        .map_err(|source| HealthError::Ask { what, source })?;
    parse_system_state(&String::from_utf8_lossy(&output.stdout))
}

/// The one word that `is-system-running` prints.
///
/// # Errors
/// When it is not one of the words that it can print.
pub fn parse_system_state(text: &str) -> Result<String, HealthError> {
    const WORDS: [&str; 8] =
        ["initializing", "starting", "running", "degraded", "maintenance", "stopping", "offline", "unknown"];
    let word = text.trim();
    if WORDS.contains(&word) {
        return Ok(word.to_owned());
    }
    Err(HealthError::Understand { what: "systemctl is-system-running", text: word.to_owned() })
}

/// Understands `list-units --output=json`.
///
/// # Errors
/// When it is not that.
pub fn parse_list(text: &str) -> Result<Vec<Unit>, HealthError> {
    #[derive(Deserialize)]
    struct Row {
        unit: String,
        load: String,
        active: String,
        sub: String,
    }
    let rows: Vec<Row> = serde_json::from_str(text)
        .map_err(|source| HealthError::Json { what: "systemctl list-units", source })?;
    let unit = |row: Row| Unit {
        name: row.unit,
        load: row.load,
        active: row.active,
        sub: row.sub,
        ..Unit::default()
    };
    Ok(rows.into_iter().map(unit).collect())
}

/// Understands `list-unit-files --output=json`.
///
/// # Errors
/// When it is not that.
pub fn parse_files(text: &str) -> Result<BTreeMap<String, String>, HealthError> {
    #[derive(Deserialize)]
    struct Row {
        unit_file: String,
        state: String,
    }
    let rows: Vec<Row> = serde_json::from_str(text)
        .map_err(|source| HealthError::Json { what: "systemctl list-unit-files", source })?;
    Ok(rows.into_iter().map(|row| (row.unit_file, row.state)).collect())
}

/// Understands the blocks of `systemctl show` for several units.
///
/// # Errors
/// On a line without `=`, a block without `Id`, or a restart counter that is no number.
pub fn parse_show(text: &str) -> Result<BTreeMap<String, Properties>, HealthError> {
    let mut all = BTreeMap::new();
    for block in text.split("\n\n").filter(|block| !block.trim().is_empty()) {
        let (id, properties) = parse_block(block)?;
        all.insert(id, properties);
    }
    Ok(all)
}

fn parse_block(block: &str) -> Result<(String, Properties), HealthError> {
    let wrong = |line: &str| HealthError::Understand { what: "systemctl show", text: line.to_owned() };
    let mut id = None;
    let mut found = Properties::default();
    for line in block.lines().filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once('=').ok_or_else(|| wrong(line))?;
        let some = || (!value.is_empty()).then(|| value.to_owned());
        match key {
            "Id" => id = some(),
            "Names" => found.names = value.split_whitespace().map(str::to_owned).collect(),
            "Type" => found.service_type = some(),
            "RemainAfterExit" => found.stays_active = value == "yes",
            "Transient" => found.transient = value == "yes",
            "NRestarts" => found.restarts = value.parse().map_err(|_| wrong(line))?,
            "FragmentPath" => found.fragment = some(),
            "Where" => found.mount_point = some(),
            _ => found.pulled_in |= !value.is_empty(),
        }
    }
    Ok((id.ok_or_else(|| wrong(block.lines().next().unwrap_or_default()))?, found))
}

/// Puts the three answers together.
///
/// # Errors
/// When systemd listed no unit at all: then it did not really answer.
pub fn combine(
    mut units: Vec<Unit>,
    files: BTreeMap<String, String>,
    properties: &BTreeMap<String, Properties>,
) -> Result<Units, HealthError> {
    if units.is_empty() || files.is_empty() {
        return Err(HealthError::Understand { what: "the list of units", text: "it is empty".to_owned() });
    }
    for unit in &mut units {
        unit.enablement = files.get(&unit.name).cloned();
        // A unit may come or go between the questions: it is then as it was listed.
        let Some(found) = properties.get(&unit.name) else { continue };
        unit.aliases = found.names.iter().filter(|name| **name != unit.name).cloned().collect();
        unit.service_type.clone_from(&found.service_type);
        unit.stays_active = found.stays_active;
        unit.transient = found.transient;
        unit.restarts = found.restarts;
        unit.pulled_in = found.pulled_in;
    }
    units.sort_by(|one, other| one.name.cmp(&other.name));
    let configured_mounts = properties
        .values()
        .filter(|found| found.fragment.is_some())
        .filter_map(|found| found.mount_point.clone())
        .collect();
    Ok(Units { units, files, configured_mounts })
}

fn ask(what: &'static str, arguments: &[&str]) -> Result<String, HealthError> {
    Exec::new("systemctl")
        .and_then(|exec| {
            // systemctl itself gives up after 25 seconds, which a busy machine may need for its list of unit files.
            let exec = exec.env("SYSTEMD_BUS_TIMEOUT", format!("{}s", LIMIT.as_secs()));
            exec.arg("--no-pager").args(arguments).limit(LIMIT).text()
        })
        .map_err(|source| HealthError::Ask { what, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"[{"unit":"nginx.service","load":"loaded","active":"active","sub":"running","description":"web"},
        {"unit":"gone.service","load":"not-found","active":"inactive","sub":"dead","description":"gone.service"}]"#;
    const FILES: &str = r#"[{"unit_file":"nginx.service","state":"enabled","preset":"enabled"}]"#;
    const SHOW: &str = "Type=forking\nNRestarts=2\nRemainAfterExit=no\nTransient=no\nId=nginx.service\n\
        Names=nginx.service web.service\nWantedBy=multi-user.target\nFragmentPath=/lib/x\n\n\
        Id=srv.mount\nNames=srv.mount\nWhere=/srv\nFragmentPath=/run/systemd/generator/srv.mount\nRequiredBy=\n\n\
        Id=mnt.mount\nNames=mnt.mount\nWhere=/mnt\nFragmentPath=\n";

    #[test]
    fn puts_the_answers_together() {
        let show = parse_show(SHOW).unwrap();
        let units = combine(parse_list(LIST).unwrap(), parse_files(FILES).unwrap(), &show).unwrap();
        let nginx = &units.units[1];
        assert_eq!((nginx.restarts, nginx.enablement.as_deref()), (2, Some("enabled")));
        assert_eq!(nginx.aliases, ["web.service"]);
        assert!(nginx.pulled_in && nginx.is_active() && !nginx.is_failed());
        assert_eq!(units.configured_mounts, ["/srv"]);
    }

    #[test]
    fn an_empty_answer_is_no_answer() {
        assert!(combine(parse_list("[]").unwrap(), parse_files("[]").unwrap(), &BTreeMap::new()).is_err());
        assert!(parse_list("").is_err());
        assert!(parse_system_state("").is_err());
        assert_eq!(parse_system_state("degraded\n").unwrap(), "degraded");
    }

    #[test]
    fn a_strange_answer_is_an_error() {
        assert!(parse_show("Id=a.service\nNRestarts=many\n").is_err());
        assert!(parse_show("NRestarts=1\n").is_err());
        assert!(parse_show("hello").is_err());
    }
}
