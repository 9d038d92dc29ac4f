//! Facts for the findings about Ubuntu. Collects, and changes nothing on the machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::meta_release::{self, Stanza};
use super::sources::{self, Source};
use crate::error::chain;
use crate::release::completion::CompletionFacts;
use crate::release::simulation;
use crate::release::ubuntu::{environment, prepare, scripts, settings};
use crate::system::exec::{Exec, ExecError, find_tool};

/// How long a service may take to answer a question.
const LIMIT: Duration = Duration::from_secs(60);

/// Lists of packages that are older than this are not believed. Ubuntu publishes updates daily, and `apt-daily.timer` fetches twice a day.
pub const FRESH: Duration = Duration::from_secs(3 * 86_400);

/// The answer of something that may not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked<T> {
    /// There was nobody to ask.
    NotAsked,
    /// This.
    Answer(T),
    /// It could not be found out, and why.
    Unknown(String),
}

impl<T> Asked<T> {
    fn of(result: Result<T, String>) -> Self {
        match result {
            Ok(answer) => Self::Answer(answer),
            Err(why) => Self::Unknown(why),
        }
    }
}

/// The EFI system partition, as far as the upgrader cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Esp {
    /// No UEFI, or no boot loader that writes there.
    NotNeeded,
    /// Mounted at `/boot/efi`, writable.
    Writable,
    /// Mounted there, read-only.
    ReadOnly,
    /// Not mounted there.
    NotMounted,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `Prompt=` of `/etc/update-manager/release-upgrades`.
    pub prompt: Option<String>,
    /// Ubuntu's list of releases.
    pub offer: Asked<Vec<Stanza>>,
    /// Packages for whose sake the upgrader wants a reboot first.
    pub reboot_packages: Vec<String>,
    /// How old apt's lists of packages are at most; `None` when nothing says.
    pub lists_age: Option<Duration>,
    /// Packages with updates of this release, without the held ones.
    pub pending: Vec<String>,
    /// Packages whose updates `apt-get upgrade --with-new-pkgs` leaves, although nobody holds them; without those that are still
    /// handed out to a part of all machines only, which the upgrader passes over.
    pub kept_back: Vec<String>,
    /// Held packages with updates of this release.
    pub held_with_updates: Vec<String>,
    /// Whether nothing can be started from `/tmp`.
    pub tmp_noexec: bool,
    /// The EFI system partition.
    pub esp: Esp,
    /// The apt sources in use.
    pub sources: Vec<Source>,
    /// Whether `/bin`, `/sbin` and `/lib` are links into `/usr`.
    pub merged_usr: bool,
    /// Whether `/sys/fs/cgroup` is cgroup2.
    pub cgroup2: bool,
    /// Whether rabbitmq-server is installed.
    pub rabbitmq: bool,
    /// RabbitMQ's feature flags that are not enabled.
    pub rabbitmq_flags: Asked<Vec<String>>,
    /// MySQL accounts that log in by `mysql_native_password`.
    pub native_accounts: Asked<Vec<String>>,
    /// Installed packages of the Robot Operating System's core.
    pub ros: Vec<String>,
    /// Whether the snap store answers.
    pub snap_store: Asked<bool>,
    /// Whether lxd is installed as a package.
    pub lxd_package: bool,
    /// The pockets that Ubuntu Pro's overrides set.
    pub pro_pockets: Option<String>,
    /// Whether needrestart is installed.
    pub needrestart: bool,
    /// Whether do-release-upgrade is installed.
    pub upgrader_installed: bool,
}

/// Facts without which nothing can be judged.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// A file.
    #[error("failed to read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A package tool.
    #[error("failed to ask about the packages")]
    Ask(#[from] ExecError),
    /// What it said.
    #[error("failed to understand what apt would do")]
    Understand(#[from] simulation::SimulationError),
}

/// Looks at the running system. `packages` are the facts that everybody looks at.
///
/// # Errors
/// When a file or the package tools cannot be read; a service or the network that does not answer is a fact.
pub fn collect(packages: &CompletionFacts) -> Result<Facts, FactsError> {
    let root = Path::new("/");
    let codename = &packages.os_release.codename;
    let installed = installed()?;
    let has = |name: &str| installed.iter().any(|package| package == name);
    let mounts = read(&root.join("proc/self/mounts"))?.unwrap_or_default();
    let reboot = root.join("run/reboot-required.pkgs");
    Ok(Facts {
        prompt: read(&root.join(settings::PROMPT))?.and_then(|text| settings::prompt(&text)),
        offer: Asked::of(meta_release::fetch(root)),
        reboot_packages: prepare::reboot_packages(root)
            .map_err(|source| FactsError::Read { path: reboot, source })?,
        lists_age: lists_age(root, SystemTime::now())?,
        pending: packages.pending.clone(),
        // On broken dependencies apt calculates nothing, and somebody else says so.
        kept_back: if packages.check.is_none() { kept_back(&packages.held)? } else { Vec::new() },
        held_with_updates: if packages.check.is_none() {
            held_with_updates(&packages.held)?
        } else {
            Vec::new()
        },
        tmp_noexec: mount_option(&mounts, "/tmp", "noexec") == Some(true),
        esp: esp(
            root.join("sys/firmware/efi").is_dir(),
            installed.iter().any(|name| writes_esp(name)),
            &mounts,
        ),
        sources: sources_in_use(root, codename)?,
        merged_usr: ["bin", "sbin", "lib"].iter().all(|name| root.join(name).is_symlink()),
        cgroup2: has_type(&mounts, "/sys/fs/cgroup", "cgroup2"),
        rabbitmq: has("rabbitmq-server"),
        rabbitmq_flags: if has("rabbitmq-server") { Asked::of(rabbitmq_flags()) } else { Asked::NotAsked },
        native_accounts: if installed.iter().any(|name| name.starts_with("mysql-server-8")) {
            Asked::of(native_accounts())
        } else {
            Asked::NotAsked
        },
        ros: installed.iter().filter(|name| is_ros(name)).cloned().collect(),
        snap_store: snap_store(root, has("snapd")),
        lxd_package: has("lxd"),
        pro_pockets: read(&root.join("etc/update-manager/release-upgrades.d/ubuntu-advantage-upgrades.cfg"))?
            .and_then(|text| scripts::value(&text, "Pockets")),
        needrestart: has("needrestart"),
        upgrader_installed: find_tool(environment::PROGRAM).is_ok(),
    })
}

/// When the lists were last fetched, or made: the youngest sign of both. apt gives its files the time that the server says.
fn lists_age(root: &Path, now: SystemTime) -> Result<Option<Duration>, FactsError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| FactsError::Read { path, source }
    };
    let lists = root.join("var/lib/apt/lists");
    // Written by update-notifier-common after each successful update.
    let mut signs = vec![root.join("var/lib/apt/periodic/update-success-stamp")];
    for entry in fs::read_dir(&lists).map_err(failed(&lists))? {
        let path = entry.map_err(failed(&lists))?.path();
        let name = path.to_string_lossy();
        if name.ends_with("InRelease") || name.ends_with("_Release") {
            signs.push(path);
        }
    }
    let mut youngest = None;
    for sign in signs {
        match fs::metadata(&sign).and_then(|found| found.modified()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // What seems to come from the future says nothing.
            Ok(time) => youngest = youngest.max(Some(time).filter(|time| *time <= now)),
            Err(source) => return Err(failed(&sign)(source)),
        }
    }
    Ok(youngest.and_then(|time| now.duration_since(time).ok()))
}

fn read(path: &Path) -> Result<Option<String>, FactsError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FactsError::Read { path: path.to_owned(), source }),
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
    }
}

/// The names of all installed packages, without architectures.
fn installed() -> Result<Vec<String>, FactsError> {
    let listed = Exec::new("dpkg-query")?.args(["-W", "-f", "${Package} ${db:Status-Status}\\n"]).text()?;
    Ok(listed.lines().filter_map(|line| line.strip_suffix(" installed")).map(str::to_owned).collect())
}

/// The upgrader counts a held package's update as missing. apt names it only when it is told to ignore holds.
fn held_with_updates(held: &[String]) -> Result<Vec<String>, FactsError> {
    if held.is_empty() {
        return Ok(Vec::new());
    }
    let options = ["-s", "-o", "Debug::NoLocking=true", "--ignore-hold", "full-upgrade"];
    let simulated = simulation::parse_simulation(&Exec::new("apt-get")?.args(options).text()?)?;
    let bare = |name: &str| name.split(':').next().unwrap_or(name).to_owned();
    let held: Vec<String> = held.iter().map(|name| bare(name)).collect();
    Ok(simulated
        .upgraded
        .into_iter()
        .map(|change| bare(&change.package))
        .filter(|name| held.contains(name))
        .collect())
}

/// What the run's own updates would leave.
fn kept_back(held: &[String]) -> Result<Vec<String>, FactsError> {
    let phased = "APT::Get::Always-Include-Phased-Updates=true";
    let options = ["-s", "-o", "Debug::NoLocking=true", "-o", phased, "upgrade", "--with-new-pkgs"];
    let simulated = simulation::parse_simulation(&Exec::new("apt-get")?.args(options).text()?)?;
    let bare = |name: &str| name.split(':').next().unwrap_or(name).to_owned();
    let is_held = |name: &String| held.iter().any(|held| bare(held) == bare(name));
    Ok(simulated.kept_back.into_iter().filter(|name| !is_held(name)).collect())
}

fn writes_esp(package: &str) -> bool {
    package == "shim-signed" || package.starts_with("grub-efi-") && !package.contains("-bin")
}

/// The last mount at a place counts: it hides the ones before.
fn mount_at<'m>(mounts: &'m str, point: &str) -> Option<(&'m str, &'m str)> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            Some((words.next()?, words.next()?, words.next()?))
        })
        .rfind(|(at, ..)| *at == point)
        .map(|(_, kind, options)| (kind, options))
}

fn mount_option(mounts: &str, point: &str, option: &str) -> Option<bool> {
    mount_at(mounts, point).map(|(_, options)| options.split(',').any(|one| one == option))
}

fn has_type(mounts: &str, point: &str, kind: &str) -> bool {
    mount_at(mounts, point).is_some_and(|(found, _)| found == kind)
}

fn esp(uefi: bool, needed: bool, mounts: &str) -> Esp {
    if !uefi || !needed {
        return Esp::NotNeeded;
    }
    match mount_option(mounts, "/boot/efi", "rw") {
        Some(true) => Esp::Writable,
        Some(false) => Esp::ReadOnly,
        None => Esp::NotMounted,
    }
}

fn sources_in_use(root: &Path, codename: &str) -> Result<Vec<Source>, FactsError> {
    let mirrors = read(&root.join("usr/share/python-apt/templates/Ubuntu.mirrors"))?.unwrap_or_default();
    let directory = root.join("etc/apt/sources.list.d");
    let mut files = vec![root.join("etc/apt/sources.list")];
    let failed = |source| FactsError::Read { path: directory.clone(), source };
    match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => {
            for entry in other.map_err(failed)? {
                files.push(entry.map_err(failed)?.path());
            }
        }
    }
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let known = file.extension().is_some_and(|extension| extension == "list" || extension == "sources");
        if known && let Some(text) = read(&file)? {
            found.extend(sources::parse(&file, &text, codename, &mirrors));
        }
    }
    Ok(found)
}

/// `ros-noetic-catkin`, `ros-jazzy-ros-workspace`: one of the packages on which all others stand.
fn is_ros(package: &str) -> bool {
    const CORE: [&str; 5] = ["catkin", "rosboost-cfg", "rosclean", "ros-environment", "ros-workspace"];
    package
        .strip_prefix("ros-")
        .and_then(|rest| rest.split_once('-'))
        .is_some_and(|(_, core)| CORE.contains(&core))
}

fn rabbitmq_flags() -> Result<Vec<String>, String> {
    let exec = Exec::new("rabbitmqctl").map_err(|error| chain(&error))?;
    let exec = exec.args(["-q", "list_feature_flags", "name", "state"]).limit(LIMIT);
    exec.text().map(|text| disabled_flags(&text)).map_err(|error| chain(&error))
}

/// Lines of a name and a state, with a heading or without.
fn disabled_flags(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (name, state) = (words.next()?, words.next()?);
            (state == "disabled").then(|| name.to_owned())
        })
        .collect()
}

fn native_accounts() -> Result<Vec<String>, String> {
    let question = "SELECT CONCAT(user,'@',host) FROM mysql.user WHERE plugin='mysql_native_password'";
    let exec = Exec::new("mysql").map_err(|error| chain(&error))?;
    let exec = exec.args(["--batch", "--skip-column-names", "-e", question]).limit(LIMIT);
    exec.text().map(|text| text.lines().map(str::to_owned).collect()).map_err(|error| chain(&error))
}

/// Asks as the upgrader does, and only where it would.
fn snap_store(root: &Path, installed: bool) -> Asked<bool> {
    if !installed || !root.join("run/snapd.socket").exists() {
        return Asked::NotAsked;
    }
    let asked = Exec::new("snap").and_then(|exec| exec.args(["debug", "connectivity"]).limit(LIMIT).output());
    match asked {
        Err(error) => Asked::Unknown(chain(&error)),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Asked::Answer(text.lines().any(|line| line.starts_with(" * PASS")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "tmpfs /tmp tmpfs rw,nosuid,noexec 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n/dev/vda15 /boot/efi vfat ro,relatime 0 0\n";

    #[test]
    fn the_youngest_sign_of_the_lists_counts() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str, days: u64, now: SystemTime| {
            let path = place.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = fs::File::create(path).unwrap();
            file.set_modified(now - Duration::from_secs(days * 86_400)).unwrap();
        };
        let now = SystemTime::now();
        let days = || lists_age(place.path(), now).unwrap().map(|age| age.as_secs() / 86_400);
        assert!(lists_age(place.path(), now).is_err());
        at("var/lib/apt/lists/lock", 0, now);
        assert_eq!(days(), None);
        at("var/lib/apt/lists/mirror.invalid_ubuntu_dists_noble_InRelease", 90, now);
        at("var/lib/apt/lists/mirror.invalid_ubuntu_dists_noble-updates_InRelease", 9, now);
        assert_eq!(days(), Some(9));
        at("var/lib/apt/periodic/update-success-stamp", 1, now);
        assert_eq!(days(), Some(1));
        at("var/lib/apt/periodic/update-success-stamp", 0, now + Duration::from_secs(600));
        assert_eq!(days(), Some(9));
    }

    #[test]
    fn mounts_are_understood() {
        assert_eq!(mount_option(MOUNTS, "/tmp", "noexec"), Some(true));
        let remounted = format!("{MOUNTS}tmpfs /tmp tmpfs rw 0 0\n");
        assert_eq!(mount_option(&remounted, "/tmp", "noexec"), Some(false));
        assert!(has_type(MOUNTS, "/sys/fs/cgroup", "cgroup2") && !has_type("", "/sys/fs/cgroup", "cgroup2"));
    }

    #[test]
    fn the_partition_matters_only_where_something_writes_it() {
        assert_eq!(esp(false, true, MOUNTS), Esp::NotNeeded);
        assert_eq!(esp(true, false, MOUNTS), Esp::NotNeeded);
        assert_eq!(esp(true, true, MOUNTS), Esp::ReadOnly);
        assert_eq!(esp(true, true, &MOUNTS.replace("vfat ro", "vfat rw")), Esp::Writable);
        assert_eq!(esp(true, true, ""), Esp::NotMounted);
        assert!(
            writes_esp("grub-efi-amd64")
                && writes_esp("grub-efi-amd64-signed")
                && !writes_esp("grub-efi-amd64-bin")
        );
    }

    #[test]
    fn answers_of_services() {
        assert_eq!(
            disabled_flags("name\tstate\nquorum_queue\tenabled\nkhepri_db\tdisabled\n"),
            ["khepri_db"]
        );
        assert!(
            is_ros("ros-noetic-catkin") && is_ros("ros-jazzy-ros-workspace") && !is_ros("ros-build-deps")
        );
    }
}
