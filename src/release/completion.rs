//! Facts that say whether the upgrade is complete. apt's exit code is none of them: it ends with 0 while held packages stay behind.

use std::path::Path;

use crate::release::simulation::{self, Simulation, SimulationError};
use crate::system::exec::{Exec, ExecError};
use crate::system::identity::{self, IdentityError, OsRelease};

/// What was measured after an upgrade. Judged elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletionFacts {
    /// What os-release says now.
    pub os_release: OsRelease,
    /// What `dpkg --audit` says; nothing is good.
    pub audit: String,
    /// What `apt-get check` says against; `None` is good. With a complaint nobody can say what would be upgraded: apt calculates
    /// nothing on broken dependencies, and `pending` and `kept_back` are empty.
    pub check: Option<String>,
    /// Packages that are neither fully installed nor gone, with dpkg's words (`nginx: half-configured`).
    pub unfinished: Vec<String>,
    /// Packages for which the sources have a newer version, without the held ones.
    pub pending: Vec<String>,
    /// Packages that apt would leave although they could be upgraded, without the held ones.
    pub kept_back: Vec<String>,
    /// Packages that an administrator holds.
    pub held: Vec<String>,
    /// Installed kernel metapackages (`linux-image-amd64`); none in a container.
    pub kernel_metapackages: Vec<String>,
    /// Installed kernels (`linux-image-6.12.48-amd64`); none in a container.
    pub kernels: Vec<String>,
}

/// A fact that could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum CompletionError {
    /// os-release.
    #[error("failed to find out which release runs")]
    Identity(#[from] IdentityError),
    /// A package tool.
    #[error("failed to ask about the packages")]
    Ask(#[from] ExecError),
    /// What it said.
    #[error("failed to understand what apt would do")]
    Understand(#[from] SimulationError),
    /// dpkg-query.
    #[error("dpkg-query's line {0:?} was not understood")]
    Status(String),
}

/// Measures the system below a root with the package tools of the running one. Changes nothing, takes no lock.
///
/// # Errors
/// When a fact could not be measured: never an empty answer instead.
pub fn completion_facts(root: &Path) -> Result<CompletionFacts, CompletionError> {
    let os_release = identity::os_release(root)?;
    let admin = root.join("var/lib/dpkg");
    let admin = format!("--admindir={}", admin.display());
    let audit = Exec::new("dpkg")?.args([admin.as_str(), "--audit"]).output()?;
    let check = apt_get(root)?.arg("check").output()?;
    let listed = Exec::new("dpkg-query")?
        .args([
            admin.as_str(),
            "-W",
            "-f",
            "${binary:Package} ${db:Status-Want} ${db:Status-Eflag} ${db:Status-Status}\\n",
        ])
        .text()?;
    let states = parse_states(&listed)?;
    let check = (!check.status.success()).then(|| both(&check.stdout, &check.stderr));
    let simulated = match check {
        None => simulation::parse_simulation(&apt_get(root)?.args(["-s", "full-upgrade"]).text()?)?,
        Some(_) => Simulation::default(),
    };
    let held = states.held;
    let free = |name: &String| !held.iter().any(|hold| same_package(hold, name));
    Ok(CompletionFacts {
        os_release,
        audit: both(&audit.stdout, &audit.stderr),
        check,
        unfinished: states.unfinished,
        pending: simulated.upgraded.into_iter().map(|change| change.package).filter(free).collect(),
        kept_back: simulated.kept_back.into_iter().filter(free).collect(),
        kernel_metapackages: states.kernel_metapackages,
        kernels: states.kernels,
        held,
    })
}

fn apt_get(root: &Path) -> Result<Exec, ExecError> {
    let exec = Exec::new("apt-get")?.args([
        "-o",
        "Debug::NoLocking=true",
        "-o",
        "quiet::NoProgress=true",
        "-o",
        "APT::Get::Show-User-Simulation-Note=false",
        "-o",
        "APT::Default-Release=",
        // A simulation by root would leave its planner's log in /var/log/apt.
        "-o",
        "Dir::Log::Planner=",
    ]);
    if root == Path::new("/") {
        return Ok(exec);
    }
    let at = |below: &str| root.join(below).display().to_string();
    Ok(exec.args([
        "-o".to_owned(),
        format!("Dir={}", root.display()),
        "-o".to_owned(),
        format!("Dir::State::status={}", at("var/lib/dpkg/status")),
    ]))
}

fn both(stdout: &[u8], stderr: &[u8]) -> String {
    let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned());
    text.join("\n").trim().to_owned()
}

#[derive(Debug, Default, PartialEq, Eq)]
struct States {
    held: Vec<String>,
    unfinished: Vec<String>,
    kernel_metapackages: Vec<String>,
    kernels: Vec<String>,
}

/// Understands `package want error status` lines.
fn parse_states(text: &str) -> Result<States, CompletionError> {
    let mut states = States::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [package, want, flag, status] = words[..] else {
            return Err(CompletionError::Status(line.to_owned()));
        };
        if want == "hold" {
            states.held.push(package.to_owned());
        }
        let settled = matches!(status, "installed" | "config-files" | "not-installed");
        if flag != "ok" || !settled {
            let flag = if flag == "ok" { String::new() } else { format!(" ({flag})") };
            states.unfinished.push(format!("{package}: {status}{flag}"));
        }
        if let Some(rest) = package.strip_prefix("linux-image-").filter(|_| status == "installed") {
            let versioned = rest.starts_with(|character: char| character.is_ascii_digit());
            let list = if versioned { &mut states.kernels } else { &mut states.kernel_metapackages };
            list.push(package.to_owned());
        }
    }
    Ok(states)
}

/// `libc6:amd64` of dpkg and `libc6` of apt are the same; a foreign architecture is named by both.
fn same_package(dpkg: &str, apt: &str) -> bool {
    dpkg == apt || dpkg.split(':').next() == Some(apt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_packages() {
        let text = "libc6:amd64 install ok installed\nnginx hold ok installed\nfoo install ok half-configured\nbar install reinstreq half-installed\nold deinstall ok config-files\nbaz install ok triggers-pending\nlinux-image-amd64 install ok installed\nlinux-image-6.12.48+deb13-amd64 install ok installed\nlinux-image-6.1.0-1-amd64 deinstall ok config-files\n";
        let states = parse_states(text).unwrap();
        assert_eq!(states.held, ["nginx"]);
        assert_eq!(
            states.unfinished,
            ["foo: half-configured", "bar: half-installed (reinstreq)", "baz: triggers-pending"]
        );
        assert_eq!(states.kernel_metapackages, ["linux-image-amd64"]);
        assert_eq!(states.kernels, ["linux-image-6.12.48+deb13-amd64"]);
        assert!(parse_states("a b\n").is_err());
    }

    #[test]
    fn names_of_dpkg_and_apt() {
        assert!(same_package("libc6:amd64", "libc6") && same_package("x:i386", "x:i386"));
        assert!(!same_package("x:amd64", "x:i386") && !same_package("xy", "x"));
    }

    /// A real apt on a made-up root: both questions end with 100 there.
    #[test]
    fn broken_dependencies_are_a_fact() {
        if ["apt-get", "dpkg", "dpkg-query"].iter().any(|tool| crate::system::exec::find_tool(tool).is_err())
        {
            println!("skipped: needs apt and dpkg");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let stanza = |name: &str, more: &str| {
            format!(
                "Package: {name}\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n{more}\
                 Maintainer: x <x@mirror.invalid>\nDescription: x\n\n"
            )
        };
        let status = dir.path().join("var/lib/dpkg/status");
        for directory in ["etc/apt", "var/lib/dpkg", "var/lib/apt/lists", "var/cache/apt/archives"] {
            std::fs::create_dir_all(dir.path().join(directory)).unwrap();
        }
        let release = "ID=debian\nVERSION_ID=12\nVERSION_CODENAME=bookworm\n";
        std::fs::write(dir.path().join("etc/os-release"), release).unwrap();
        std::fs::write(&status, stanza("dpkg", "")).unwrap();
        assert_eq!(completion_facts(dir.path()).unwrap().check, None);
        std::fs::write(&status, stanza("dpkg", "") + &stanza("broken", "Depends: not-there\n")).unwrap();
        let facts = completion_facts(dir.path()).unwrap();
        let complaint = facts.check.unwrap();
        assert!(complaint.contains("broken : Depends: not-there"), "{complaint}");
        assert!(facts.pending.is_empty() && facts.kept_back.is_empty());
    }
}
