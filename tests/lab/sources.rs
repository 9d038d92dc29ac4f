//! The machine's own apt sources, as the lab uses them.
//!
//! The lab takes the mirror from whatever machine it runs on: deb822 files and one-line files, Debian's own archive only.
//! Inside the machine every URL is plain http, because everything goes through the lab's mirror, which goes to the original.

use std::fs;
use std::io;
use std::path::Path;

use super::{Result, context};

/// Where Debian's own keys are, unless the entry names others.
const ARCHIVE_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The mirrors of Debian's archive and of its security archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// The URL of the archive, without a slash at the end.
    pub archive: String,
    /// The URL of the security archive, when the machine has one.
    pub security: Option<String>,
    /// The keyring that signs them.
    pub keyring: String,
}

impl Sources {
    /// Reads what apt on this machine uses.
    pub fn of_this_machine() -> Result<Self> {
        let mut text = Vec::new();
        let main = Path::new("/etc/apt/sources.list");
        if main.exists() {
            text.push(fs::read_to_string(main)?);
        }
        let parts = Path::new("/etc/apt/sources.list.d");
        for entry in context(fs::read_dir(parts), "list /etc/apt/sources.list.d")? {
            let path = entry?.path();
            if path.extension().is_some_and(|ext| ext == "list" || ext == "sources") {
                text.push(fs::read_to_string(path)?);
            }
        }
        let entries: Vec<Entry> = text.iter().flat_map(|file| entries(file)).collect();
        choose(&entries).ok_or_else(|| io::Error::other("no Debian mirror in this machine's apt sources"))
    }

    /// The one-line entries of a release, each as the machine inside sees it.
    pub fn one_line(&self, suite: &str) -> Vec<String> {
        let archive = plain(&self.archive);
        let mut lines =
            vec![format!("deb {archive} {suite} main"), format!("deb {archive} {suite}-updates main")];
        if let Some(security) = &self.security {
            lines.push(format!("deb {} {suite}-security main", plain(security)));
        }
        lines
    }

    /// The hosts that must be asked by https although the machine inside asks by http.
    pub fn https_hosts(&self) -> Vec<String> {
        [Some(&self.archive), self.security.as_ref()]
            .into_iter()
            .flatten()
            .filter_map(|url| url.strip_prefix("https://"))
            .map(|rest| rest.split('/').next().unwrap_or_default().to_owned())
            .collect()
    }
}

/// One URL with one suite of it.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    url: String,
    suite: String,
    keyring: Option<String>,
}

fn plain(url: &str) -> String {
    url.strip_prefix("https://").map_or_else(|| url.to_owned(), |rest| format!("http://{rest}"))
}

/// The mirror is what serves `RELEASE` as well as `RELEASE-updates`: nobody but Debian's archive does.
fn choose(entries: &[Entry]) -> Option<Sources> {
    let updates = entries.iter().find(|entry| entry.suite.ends_with("-updates"));
    let archive = match updates {
        Some(updates) => updates,
        None => entries.iter().find(|entry| entry.url.ends_with("/debian"))?,
    };
    let security = entries.iter().find(|entry| entry.suite.ends_with("-security"));
    Some(Sources {
        archive: archive.url.clone(),
        security: security.map(|entry| entry.url.clone()),
        keyring: archive.keyring.clone().unwrap_or_else(|| ARCHIVE_KEYRING.into()),
    })
}

fn entries(text: &str) -> Vec<Entry> {
    let deb822 = text.lines().any(|line| line.to_ascii_lowercase().starts_with("types:"));
    if deb822 {
        text.split("\n\n").flat_map(stanza).collect()
    } else {
        text.lines().filter_map(line).collect()
    }
}

fn stanza(text: &str) -> Vec<Entry> {
    let field = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
    };
    let off = field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
    let (Some(urls), Some(suites), false) = (field("URIs"), field("Suites"), off) else { return Vec::new() };
    let Some(url) = urls.split_whitespace().next().and_then(usable) else { return Vec::new() };
    let keyring = field("Signed-By").filter(|value| value.starts_with('/'));
    suites
        .split_whitespace()
        .map(|suite| Entry { url: url.clone(), suite: suite.to_owned(), keyring: keyring.clone() })
        .collect()
}

fn line(text: &str) -> Option<Entry> {
    let rest = text.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inside) => inside.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let keyring = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    Some(Entry {
        url: usable(words.next()?)?,
        suite: words.next()?.to_owned(),
        keyring: keyring.map(str::to_owned),
    })
}

fn usable(url: &str) -> Option<String> {
    let http = url.starts_with("http://") || url.starts_with("https://");
    http.then(|| url.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_deb822_and_skips_what_is_switched_off() {
        let text = "Types: deb\n# a note\nURIs: https://mirror.example/debian/\nSuites: bookworm bookworm-updates\n\
                    Signed-By: /k.gpg\n\nTypes: deb\nURIs: http://off.example/debian\nSuites: x-updates\nEnabled: no\n\n\
                    Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\n";
        let sources = choose(&entries(text)).unwrap();
        assert_eq!(sources.archive, "https://mirror.example/debian");
        assert_eq!(sources.security.as_deref(), Some("http://mirror.example/debian-security"));
        assert_eq!(sources.keyring, "/k.gpg");
        assert_eq!(sources.https_hosts(), ["mirror.example"]);
        assert_eq!(sources.one_line("trixie")[0], "deb http://mirror.example/debian trixie main");
    }

    #[test]
    fn reads_one_line_entries_and_skips_third_parties() {
        let text = "deb https://packages.example/apt cloud main\n# deb http://no.example/debian x-updates main\n\
                    deb [arch=amd64 signed-by=/o.gpg] http://d.example/debian bookworm-updates main\n";
        let sources = choose(&entries(text)).unwrap();
        assert_eq!(
            (sources.archive.as_str(), sources.keyring.as_str()),
            ("http://d.example/debian", "/o.gpg")
        );
        assert_eq!(sources.security, None);
    }

    #[test]
    fn a_machine_without_debian_has_no_mirror() {
        assert_eq!(choose(&entries("deb https://packages.example/apt cloud main\n")), None);
    }
}
