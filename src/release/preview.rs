//! Looks ahead without touching the system: an apt of its own with the target's sources says what would happen, and
//! downloads everything that the upgrade will need.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::release::apt::{self, AptSettings, Progress, Stage, StageError};
use crate::release::hop::{Distribution, Hop};
use crate::release::simulation::{self, Change, SimulationError};
use crate::release::sources::SourcesPlan;
use crate::system::durable::{self, DurableError};
use crate::system::exec::{Exec, ExecError};

/// What the upgrade would do, and what it needs. All archives have been downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewFacts {
    /// Installed packages that get a new version.
    pub upgraded: Vec<Change>,
    /// New packages.
    pub new: Vec<Change>,
    /// Packages that go away.
    pub removed: Vec<Change>,
    /// Packages that could be upgraded but would be left.
    pub kept_back: Vec<String>,
    /// Packages that an administrator holds.
    pub held: Vec<String>,
    /// Bytes that were to download when the preview began.
    pub download_bytes: u64,
    /// Bytes that the installed system grows by (negative: shrinks), as apt says it rounded; `None` when apt did not say it.
    /// dpkg needs more for a while: it unpacks the new files of a package beside the old ones.
    pub disk_bytes: Option<i64>,
    /// Whether the download ran as apt's own user; not when the directory is closed to it.
    pub sandboxed: bool,
}

impl PreviewFacts {
    /// Whether the machine would be on the target afterwards: `base-files` brings os-release. When it would not, holds or pins
    /// (`/etc/apt/preferences`) keep the machine where it is.
    ///
    /// Debian's version of it begins with the release's number. Ubuntu's does not (`13ubuntu10` is of 24.04), but what apt says of
    /// its origin ends with the codename (`Ubuntu:24.04/noble`).
    #[must_use]
    pub fn reaches(&self, hop: &Hop) -> bool {
        let target = hop.to();
        let of_target = |change: &Change| match hop.distribution() {
            Distribution::Debian => {
                change.new.strip_prefix(target.version).is_some_and(|rest| rest.starts_with('.'))
            }
            Distribution::Ubuntu => change.origin.split(", ").any(|origin| {
                origin.split_once('/').is_some_and(|(_, suite)| {
                    suite
                        .strip_prefix(target.codename)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
                })
            }),
        };
        self.upgraded.iter().any(|change| change.package == "base-files" && of_target(change))
    }
}

/// A preview that could not be made. The system's own apt and dpkg are as before.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// A file could not be copied into the private apt directory.
    #[error("failed to prepare {}", .path.display())]
    Prepare {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written there.
    #[error("failed to prepare the private apt directory")]
    Write(#[from] DurableError),
    /// A stage could not be run.
    #[error("failed to look ahead")]
    Stage(#[from] StageError),
    /// A stage ran and failed.
    #[error("{stage} failed: {reason}")]
    Failed {
        /// Which.
        stage: Stage,
        /// Why, in one sentence; names the URL or host as apt said it.
        reason: String,
    },
    /// apt could not be asked what it would do.
    #[error("failed to ask apt what it would do")]
    Ask(#[from] ExecError),
    /// Its answer was not understood.
    #[error("failed to understand what apt would do")]
    Understand(#[from] SimulationError),
    /// apt said that all is downloaded, and it is not.
    #[error("{count} packages are still missing after the download, {first} among them")]
    Incomplete {
        /// How many.
        count: usize,
        /// One of them.
        first: String,
    },
}

/// Updates a private apt below `directory` to the planned sources, simulates the full upgrade and downloads everything into the
/// archives directory of `settings`. Repeatable: what is already downloaded stays.
///
/// # Errors
/// See [`PreviewError`]; an unreachable mirror or a missing file is named.
pub fn prefetch(
    sources: &SourcesPlan,
    directory: &Path,
    settings: &AptSettings<'_>,
    progress: &dyn Fn(Progress),
) -> Result<PreviewFacts, PreviewError> {
    let private = PrivateApt::prepare(sources, directory, settings.archives)?;
    private.stage(Stage::PreviewUpdate, &["update"], settings, progress)?;

    let found = simulation::parse_simulation(&private.simulate(settings)?)?;
    // Answering no ends with 1, after the sizes were said.
    let refused = private.exec("apt-get", &["--assume-no", "full-upgrade"], settings)?.output()?;
    let disk_bytes = simulation::parse_space_after(&String::from_utf8_lossy(&refused.stdout));
    let wanted = private.missing(settings)?;
    let held = private.ask("apt-mark", &["showhold"], settings)?;

    private.stage(Stage::Download, &["-y", "--download-only", "full-upgrade"], settings, progress)?;
    let missing = private.missing(settings)?;
    if let Some(first) = missing.first() {
        return Err(PreviewError::Incomplete { count: missing.len(), first: first.file.clone() });
    }
    durable::sync_filesystem(settings.archives)?;
    Ok(PreviewFacts {
        upgraded: found.upgraded,
        new: found.new,
        removed: found.removed,
        kept_back: found.kept_back,
        held: held.split_ascii_whitespace().map(str::to_owned).collect(),
        download_bytes: wanted.iter().map(|fetch| fetch.bytes).sum(),
        disk_bytes,
        sandboxed: private.sandboxed,
    })
}

/// An apt whose lists, caches, status and sources are all below one directory.
struct PrivateApt {
    configuration: PathBuf,
    sandboxed: bool,
}

impl PrivateApt {
    fn prepare(sources: &SourcesPlan, directory: &Path, archives: &Path) -> Result<Self, PreviewError> {
        let sandboxed = open_to_all(directory) && open_to_all(archives);
        for name in ["state/lists/partial", "cache", "log", "etc/parts"] {
            make_directory(&directory.join(name))?;
        }
        make_directory(&archives.join("partial"))?;
        copy(Path::new("/var/lib/dpkg/status"), &directory.join("status"))?;
        let extended = Path::new("/var/lib/apt/extended_states");
        if extended.exists() {
            copy(extended, &directory.join("state/extended_states"))?;
        }
        write_sources(sources, &directory.join("etc"))?;
        copy_configuration(&directory.join("etc/parts"))?;
        let configuration = directory.join("apt.conf");
        durable::replace_file(&configuration, configuration_text(directory, sandboxed).as_bytes(), 0o644)?;
        Ok(Self { configuration, sandboxed })
    }

    fn stage(
        &self,
        stage: Stage,
        words: &[&str],
        settings: &AptSettings<'_>,
        progress: &dyn Fn(Progress),
    ) -> Result<(), PreviewError> {
        let configuration = self.configuration.to_string_lossy();
        let outcome = apt::apt_get(stage, words, &[("APT_CONFIG", &configuration)], settings, progress)?;
        if outcome.well() {
            return Ok(());
        }
        Err(PreviewError::Failed { stage, reason: outcome.reason() })
    }

    fn exec(&self, tool: &str, words: &[&str], settings: &AptSettings<'_>) -> Result<Exec, ExecError> {
        let exec = Exec::new(tool)?.args(apt::options(settings)).args(words);
        Ok(exec.env("APT_CONFIG", &self.configuration).env("DEBIAN_FRONTEND", "noninteractive"))
    }

    fn ask(&self, tool: &str, words: &[&str], settings: &AptSettings<'_>) -> Result<String, ExecError> {
        self.exec(tool, words, settings)?.text()
    }

    /// On the way to Ubuntu 26.04, apt 2.8 complains about the order in which it would configure packages ("Conf Broken"), lists all
    /// the same, and ends with 100. The real order is found later and by another apt, and whether the list is whole is checked
    /// against its sum.
    fn simulate(&self, settings: &AptSettings<'_>) -> Result<String, ExecError> {
        let words = ["-s", "full-upgrade"];
        let output = self.exec("apt-get", &words, settings)?.output()?;
        if output.status.success() || only_about_the_order(&String::from_utf8_lossy(&output.stderr)) {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        self.ask("apt-get", &words, settings)
    }

    fn missing(&self, settings: &AptSettings<'_>) -> Result<Vec<simulation::Fetch>, ExecError> {
        let words = ["--print-uris", "-qq", "-y", "full-upgrade"];
        Ok(simulation::parse_uris(&self.ask("apt-get", &words, settings)?))
    }
}

fn only_about_the_order(stderr: &str) -> bool {
    let mut errors = stderr.lines().filter(|line| line.starts_with("E: ")).peekable();
    errors.peek().is_some() && errors.all(|line| line.starts_with("E: Conf Broken "))
}

/// Keys, proxies, credentials, preferences and the rest of the configuration stay the machine's own.
fn configuration_text(directory: &Path, sandboxed: bool) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    let mut text = format!(
        "Dir::State \"{}\";\nDir::State::status \"{}\";\nDir::State::extended_states \"{}\";\n\
         Dir::Cache \"{}\";\nDir::Log \"{}\";\n\
         Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"{}\";\n\
         Dir::Etc::parts \"{}\";\nDir::Etc::main \"/dev/null\";\n\
         Debug::NoLocking \"true\";\n",
        at("state"),
        at("status"),
        at("state/extended_states"),
        at("cache"),
        at("log"),
        at("etc/sources.list"),
        at("etc/sources.list.d"),
        at("etc/parts"),
    );
    if !sandboxed {
        text.push_str("APT::Sandbox::User \"root\";\n");
    }
    text
}

fn write_sources(sources: &SourcesPlan, etc: &Path) -> Result<(), PreviewError> {
    let parts = etc.join("sources.list.d");
    // From an earlier preview, whose sources may have been others.
    match fs::remove_dir_all(&parts) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(PreviewError::Prepare { path: parts, source });
        }
        _ => make_directory(&parts)?,
    }
    durable::replace_file(&etc.join("sources.list"), b"", 0o644)?;
    for file in &sources.files {
        let below = file.path.strip_prefix("/etc/apt").unwrap_or(&file.path);
        // Its own mode, because a URI may hold a password.
        durable::replace_file(&etc.join(below), file.after.as_bytes(), file.mode)?;
    }
    Ok(())
}

/// Read last, so that the machine's own hooks (which clean its cache, or wake up other services) do not run for a preview.
const WITHOUT_HOOKS: &str = "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n\
     #clear APT::Update::Post-Invoke-Success;\n#clear APT::Update::Post-Invoke-Stats;\n\
     #clear DPkg::Pre-Invoke;\n#clear DPkg::Post-Invoke;\n#clear DPkg::Pre-Install-Pkgs;\n";

fn copy_configuration(parts: &Path) -> Result<(), PreviewError> {
    let host = Path::new("/etc/apt/apt.conf.d");
    let prepare = |path: &Path| {
        let path = path.to_owned();
        move |source| PreviewError::Prepare { path, source }
    };
    fs::remove_dir_all(parts).map_err(prepare(parts))?;
    make_directory(parts)?;
    match fs::read_dir(host) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(prepare(host)(error)),
        Ok(entries) => {
            for entry in entries {
                let path = entry.map_err(prepare(host))?.path();
                if let Some(name) = path.file_name().filter(|_| path.is_file()) {
                    copy(&path, &parts.join(name))?;
                }
            }
        }
    }
    let main = Path::new("/etc/apt/apt.conf");
    if main.exists() {
        copy(main, &parts.join("zz-main.conf"))?;
    }
    durable::replace_file(&parts.join("zzz-safe-upgrade.conf"), WITHOUT_HOOKS.as_bytes(), 0o644)?;
    Ok(())
}

fn make_directory(path: &Path) -> Result<(), PreviewError> {
    fs::create_dir_all(path).map_err(|source| PreviewError::Prepare { path: path.to_owned(), source })
}

fn copy(from: &Path, to: &Path) -> Result<(), PreviewError> {
    fs::copy(from, to).map(drop).map_err(|source| PreviewError::Prepare { path: from.to_owned(), source })
}

/// Whether apt's unprivileged user can enter: every existing directory on the way lets others pass.
fn open_to_all(path: &Path) -> bool {
    path.ancestors()
        .filter_map(|dir| fs::metadata(dir).ok())
        .all(|facts| facts.permissions().mode() & 0o001 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_about_the_order_is_not_any_error() {
        // Seen: noble to resolute, apt 2.8.3.
        let seen = "E: Conf Broken coreutils-from-uutils:amd64\nE: Conf Broken sudo-common:amd64\n";
        assert!(only_about_the_order(seen));
        assert!(!only_about_the_order(&format!("{seen}E: Unable to correct problems\n")));
        assert!(!only_about_the_order("") && !only_about_the_order("W: something\n"));
    }

    #[test]
    fn ubuntus_base_files_is_known_by_its_origin() {
        let facts = |new: &str, origin: &str| PreviewFacts {
            upgraded: vec![Change {
                package: "base-files".into(),
                old: Some("13ubuntu10".into()),
                new: new.into(),
                origin: origin.into(),
            }],
            new: vec![],
            removed: vec![],
            kept_back: vec![],
            held: vec![],
            download_bytes: 0,
            disk_bytes: None,
            sandboxed: true,
        };
        let hop = Hop::between("noble", "resolute").unwrap();
        assert!(facts("14ubuntu6", "Ubuntu:26.04/resolute").reaches(&hop));
        assert!(facts("14ubuntu6.1", "Other:1/x, Ubuntu:26.04/resolute-updates").reaches(&hop));
        assert!(!facts("13ubuntu10.3", "Ubuntu:24.04/noble-updates").reaches(&hop));
        let debian = Hop::between("bookworm", "trixie").unwrap();
        assert!(facts("13.8+deb13u1", "Debian:13.8/stable").reaches(&debian));
        assert!(!facts("130", "Debian:13.8/stable").reaches(&debian));
    }

    #[test]
    fn a_closed_directory_cannot_be_entered_by_apt() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!open_to_all(&dir.path().join("not/yet/there")));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(open_to_all(&dir.path().join("x")), open_to_all(dir.path().parent().unwrap()));
        assert!(configuration_text(Path::new("/x"), false).contains("APT::Sandbox::User \"root\""));
    }
}
