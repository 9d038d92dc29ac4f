//! Ubuntu's list of releases (`meta-release-lts`): whether the target is offered. Pure, but for [`fetch`].

use std::path::Path;
use std::time::Duration;

use crate::error::chain;
use crate::finding::Finding;
use crate::release::hop::Hop;
use crate::release::ubuntu::scripts;
use crate::system::exec::Exec;

/// Where the list is, unless `/etc/update-manager/meta-release` says otherwise.
pub const DEFAULT_URI: &str = "https://changelogs.ubuntu.com/meta-release-lts";
/// How long it may take; `check` is not a download.
const LIMIT: Duration = Duration::from_secs(60);
/// Part of apt itself.
const DOWNLOADER: &str = "/usr/lib/apt/apt-helper";

/// One release of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stanza {
    /// `noble`
    pub codename: String,
    /// `24.04.3 LTS`
    pub version: String,
    /// Whether it is supported.
    pub supported: bool,
    /// Where its upgrader is; without one there is no upgrade to it.
    pub tool: Option<String>,
    /// Why upgrades to it are switched off.
    pub broken: Option<String>,
}

/// Where this machine looks for the list: `URI_LTS` of its settings.
#[must_use]
pub fn uri(settings: Option<&str>) -> String {
    settings.and_then(|text| scripts::value(text, "URI_LTS")).unwrap_or_else(|| DEFAULT_URI.into())
}

/// Understands the list: `Name: value` lines, a blank line between releases.
///
/// # Errors
/// When it is something else, such as the page of a captive portal.
pub fn parse(text: &str) -> Result<Vec<Stanza>, String> {
    let mut stanzas = Vec::new();
    for block in text.replace("\r\n", "\n").split("\n\n") {
        let field = |name: &str| {
            block
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(|value| value.trim().to_owned())
        };
        let Some(codename) = field("Dist") else { continue };
        stanzas.push(Stanza {
            codename,
            version: field("Version").unwrap_or_default(),
            supported: field("Supported").as_deref() == Some("1"),
            tool: field("UpgradeTool").filter(|tool| !tool.is_empty()),
            broken: field("UpgradeBroken").filter(|why| !why.is_empty()),
        });
    }
    if stanzas.is_empty() { Err("it names no release".into()) } else { Ok(stanzas) }
}

/// Whether the target is offered.
#[must_use]
pub fn judge(stanzas: &[Stanza], hop: &Hop) -> Option<Finding> {
    let target = hop.to();
    let found = stanzas.iter().find(|stanza| stanza.codename == target.codename);
    let why = match found {
        None => format!("Ubuntu's list of releases does not have {target}"),
        Some(Stanza { broken: Some(why), .. }) => {
            format!("Ubuntu has switched off upgrades to {target}: {why}")
        }
        Some(Stanza { supported: false, .. }) => {
            format!("{target} is not, or no longer, a supported release")
        }
        Some(Stanza { tool: None, .. }) => format!("there is no upgrade tool for {target}"),
        Some(_) => return None,
    };
    Some(Finding::inhibitor(
        "ubuntu-target-not-offered",
        format!(
            "{why}. A long-term release is offered to the one before only from its first point release on."
        ),
        "wait; do-release-upgrade --check-dist-upgrade-only says when it is there",
    ))
}

/// Fetches the list into a directory that is gone afterwards, unlike what `do-release-upgrade -c` does. By apt's own means: they know the
/// machine's proxies, and use no resolver of ours.
///
/// # Errors
/// Why not, in words.
pub fn fetch(root: &Path) -> Result<Vec<Stanza>, String> {
    let settings = match std::fs::read_to_string(root.join("etc/update-manager/meta-release")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        other => Some(other.map_err(|error| error.to_string())?),
    };
    let uri = uri(settings.as_deref());
    let told = |why: String| format!("{uri}: {why}");
    let directory = tempfile::tempdir().map_err(|error| told(error.to_string()))?;
    let file = directory.path().join("meta-release");
    let exec = Exec::new(DOWNLOADER).map_err(|error| told(chain(&error)))?;
    exec.args([
        "-o",
        "Acquire::Retries=1",
        "-o",
        "Acquire::http::Timeout=20",
        "-o",
        "Acquire::https::Timeout=20",
    ])
    .args([Path::new("download-file"), Path::new(&uri), &file])
    .limit(LIMIT)
    .success()
    .map_err(|error| told(chain(&error)))?;
    let text = std::fs::read_to_string(&file).map_err(|error| told(error.to_string()))?;
    parse(&text).map_err(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "Dist: jammy\nName: Jammy Jellyfish\nVersion: 22.04.5 LTS\nSupported: 1\nUpgradeTool: http://mirror.invalid/jammy.tar.gz\n\nDist: noble\nVersion: 24.04.3 LTS\nSupported: 1\nUpgradeTool: http://mirror.invalid/noble.tar.gz\nUpgradeToolSignature: http://mirror.invalid/noble.tar.gz.gpg\n\nDist: resolute\nVersion: 26.04 LTS\nSupported: 0\nUpgradeTool: http://mirror.invalid/resolute.tar.gz\n";

    #[test]
    fn what_is_offered() {
        let stanzas = parse(LIST).unwrap();
        assert_eq!(stanzas.len(), 3);
        let hop = |from: &str, to: &str| Hop::between(from, to).unwrap();
        assert_eq!(judge(&stanzas, &hop("jammy", "noble")), None);
        let text = |stanzas: &[Stanza]| judge(stanzas, &hop("noble", "resolute")).unwrap().what;
        assert!(text(&stanzas).contains("not, or no longer, a supported"));
        assert!(text(&stanzas[..2]).contains("does not have resolute"));
        let with = |change: fn(&mut Stanza)| {
            let mut changed = stanzas.clone();
            changed[2].supported = true;
            change(&mut changed[2]);
            changed
        };
        assert!(text(&with(|stanza| stanza.broken = Some("PHP".into()))).contains("switched off upgrades"));
        assert!(text(&with(|stanza| stanza.tool = None)).contains("no upgrade tool"));
        assert_eq!(judge(&with(|_| ()), &hop("noble", "resolute")), None);
        assert!(parse("<html>log in</html>").is_err());
    }

    #[test]
    fn it_is_fetched_by_apts_own_means() {
        if !Path::new(DOWNLOADER).exists() {
            println!("skipped: {DOWNLOADER} is not there");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let settings = dir.path().join("etc/update-manager");
        std::fs::create_dir_all(&settings).unwrap();
        let list = dir.path().join("list");
        let text = format!("[METARELEASE]\nURI_LTS = file://{}\n", list.display());
        std::fs::write(settings.join("meta-release"), text).unwrap();
        assert!(fetch(dir.path()).unwrap_err().contains("apt-helper ended with"));
        std::fs::write(&list, LIST).unwrap();
        assert_eq!(fetch(dir.path()), parse(LIST));
        std::fs::write(&list, "<html>log in</html>").unwrap();
        assert!(fetch(dir.path()).unwrap_err().ends_with("it names no release"));
    }

    #[test]
    fn where_it_is() {
        assert_eq!(uri(None), DEFAULT_URI);
        let text =
            "[METARELEASE]\nURI = http://mirror.invalid/meta-release\nURI_LTS = http://mirror.invalid/lts\n";
        assert_eq!(uri(Some(text)), "http://mirror.invalid/lts");
    }
}
