//! Which apt sources Ubuntu's upgrader takes for its own, and which it switches off. Pure.

use std::path::{Path, PathBuf};

/// One source that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its file, absolute.
    pub file: PathBuf,
    /// Where it points.
    pub uri: String,
    /// Its suites.
    pub suites: Vec<String>,
    /// Whether the upgrader knows the place.
    pub known: bool,
    /// Whether one of the suites is the release itself, and not only one of its pockets.
    pub of_release: bool,
}

impl Source {
    /// For a person.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{}: {} {}", self.file.display(), self.uri, self.suites.join(" "))
    }
}

/// The sources of one file, in either form; `mirrors` is python-apt's list, one URI a line.
#[must_use]
pub fn parse(file: &Path, text: &str, codename: &str, mirrors: &str) -> Vec<Source> {
    let deb822 = file.extension().is_some_and(|extension| extension == "sources");
    let pairs = if deb822 { stanzas(text) } else { lines(text) };
    let mut found: Vec<Source> = Vec::new();
    for (uri, suites) in pairs {
        // deb-src repeats what deb has said.
        if found.iter().any(|source| source.uri == uri && source.suites == suites) {
            continue;
        }
        found.push(Source {
            file: file.to_owned(),
            known: is_known(&uri, mirrors),
            of_release: suites.iter().any(|suite| suite == codename),
            uri,
            suites,
        });
    }
    found
}

fn lines(text: &str) -> Vec<(String, Vec<String>)> {
    text.lines()
        .filter_map(|line| {
            let line = line.split('#').next().unwrap_or_default().trim();
            let rest = line.strip_prefix("deb ").or_else(|| line.strip_prefix("deb-src "))?.trim();
            let rest = match rest.strip_prefix('[') {
                Some(options) => options.split_once(']')?.1,
                None => rest,
            };
            let mut words = rest.split_whitespace();
            Some((words.next()?.to_owned(), vec![words.next()?.to_owned()]))
        })
        .collect()
}

fn stanzas(text: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for block in text.replace("\r\n", "\n").split("\n\n") {
        let block: Vec<&str> = block.lines().filter(|line| !line.starts_with('#')).collect();
        let field = |name: &str| -> Vec<String> {
            let mut words = Vec::new();
            let mut open = false;
            for line in &block {
                if line.starts_with([' ', '\t']) {
                    if open {
                        words.extend(line.split_whitespace().map(str::to_owned));
                    }
                    continue;
                }
                let (key, value) = line.split_once(':').unwrap_or((line, ""));
                open = key.trim().eq_ignore_ascii_case(name);
                if open {
                    words.extend(value.split_whitespace().map(str::to_owned));
                }
            }
            words
        };
        let off = field("Enabled")
            .first()
            .is_some_and(|word| matches!(word.as_str(), "no" | "false" | "0" | "off"));
        if !off {
            let suites = field("Suites");
            found.extend(field("URIs").into_iter().map(|uri| (uri, suites.clone())));
        }
    }
    found
}

/// By the hosts of Ubuntu and by python-apt's list of mirrors. apt-cacher's form, with the mirror's address as a path, counts as well.
fn is_known(uri: &str, mirrors: &str) -> bool {
    let bare = |uri: &str| {
        let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
        let rest = rest.split_once('/').map_or(rest.to_owned(), |(host, path)| {
            format!("{}/{path}", host.rsplit('@').next().unwrap_or(host))
        });
        rest.trim_end_matches('/').to_owned()
    };
    let wanted = bare(uri);
    let host = wanted.split(['/', ':']).next().unwrap_or_default();
    // Personal archives live at Ubuntu's name or Launchpad's, and are nobody's mirror.
    if host.starts_with("ppa.") || host.contains("launchpad") {
        return false;
    }
    let ubuntus = |name: &str| {
        let host = name.split(['/', ':']).next().unwrap_or_default();
        host.ends_with(".ubuntu.com")
    };
    let behind_a_cache = wanted.split_once('/').is_some_and(|(_, path)| ubuntus(path));
    ubuntus(&wanted)
        || behind_a_cache
        || mirrors.lines().map(str::trim).any(|line| line.contains("://") && bare(line) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_and_who_is_known() {
        let mirrors = "#LOC:DE\nhttp://ftp.invalid/ubuntu/\n";
        let text = "Types: deb deb-src\nURIs: http://mirror.ubuntu.com/ubuntu/\nSuites: noble noble-updates\nComponents: main\n\n# off\nTypes: deb\nEnabled: no\nURIs: http://off.invalid\nSuites: noble\n\nTypes: deb\nURIs: https://ppa.launchpadcontent.net/x/y/ubuntu\nSuites:\n noble\n";
        let found = parse(Path::new("/etc/apt/sources.list.d/u.sources"), text, "noble", mirrors);
        let seen: Vec<(bool, bool)> = found.iter().map(|source| (source.known, source.of_release)).collect();
        assert_eq!(seen, [(true, true), (false, true)]);
        let text = "deb [arch=amd64 signed-by=/x] http://user:pw@ftp.invalid/ubuntu noble main\ndeb-src http://user:pw@ftp.invalid/ubuntu noble main\n# deb http://no.invalid noble main\ndeb https://vendor.invalid/apt stable main # x\ndeb http://cache.invalid:3142/mirror.ubuntu.com/ubuntu noble-updates main\n";
        let found = parse(Path::new("/etc/apt/sources.list"), text, "noble", mirrors);
        let seen: Vec<(bool, bool)> = found.iter().map(|source| (source.known, source.of_release)).collect();
        assert_eq!(seen, [(true, true), (false, false), (true, false)]);
        assert_eq!(found[1].line(), "/etc/apt/sources.list: https://vendor.invalid/apt stable");
    }
}
