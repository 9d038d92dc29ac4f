//! What went wrong, in one sentence for people, out of what apt and dpkg wrote.

use crate::release::apt::StageOutcome;
use crate::system::watched::Ended;

/// How many error lines an outcome keeps: the first ones name the cause, the others follow from it.
const MOST_LINES: usize = 40;

/// The lines of an output that speak of errors, each once, in order.
#[must_use]
pub fn error_lines(output: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in output.lines().map(str::trim_end) {
        let speaks = line.starts_with("E: ")
            || line.starts_with("dpkg: error")
            || line.starts_with("dpkg: unrecoverable")
            || line.starts_with("Err:")
            || (line.starts_with("W: ") && line.contains("ailed to fetch"))
            || line.contains("subprocess returned error exit status")
            || line.contains("script subprocess was killed by signal")
            || line.contains(NO_SPACE)
            || line.contains(CONFFILE_EOF);
        if speaks && found.len() < MOST_LINES && !found.iter().any(|known| known == line) {
            found.push(line.to_owned());
        }
    }
    found
}

/// Whether `dpkg --configure -a` can help: dpkg was interrupted, or waited for an answer that nobody gives. Where a maintainer script
/// failed or the disk is full, configuring again would only fail again.
#[must_use]
pub fn repairable(outcome: &StageOutcome) -> bool {
    if outcome.well() || !matches!(outcome.ended, Ended::Exit(_)) || outcome.output.contains(NO_SPACE) {
        return false;
    }
    let prompt = |text: &str| text.contains(CONFFILE_EOF) || text.contains("dependency problems");
    let only_prompts = !outcome.package_errors.is_empty()
        && outcome.package_errors.iter().all(|(_, text)| prompt(text))
        && outcome.package_errors.iter().any(|(_, text)| text.contains(CONFFILE_EOF));
    only_prompts || outcome.output.contains("dpkg was interrupted, you must manually run")
}

/// Why a stage failed, as the second half of a sentence.
#[must_use]
pub fn reason(outcome: &StageOutcome) -> String {
    let last = outcome.last_heard.as_deref();
    match outcome.ended {
        Ended::Silent(span) => {
            let after = last.map_or(String::new(), |text| format!("; the last that was heard: {text}"));
            return format!("it was silent for {} s and was ended{after}", span.as_secs());
        }
        Ended::Stopped => return "it was ended because the run was told to stop".into(),
        Ended::NoRoom(_) => return "it was ended because the disk was nearly full".into(),
        Ended::Signal(signal) if outcome.errors.is_empty() => {
            return format!("it was killed by signal {signal} from outside");
        }
        Ended::Signal(_) | Ended::Exit(_) => {}
    }
    no_space(outcome)
        .or_else(|| outcome.package_errors.first().map(|(package, text)| package_reason(package, text)))
        .or_else(|| fetch_reason(&outcome.output))
        .or_else(|| outcome.errors.iter().find_map(|line| line.strip_prefix("E: ").map(str::to_owned)))
        .or_else(|| outcome.errors.first().cloned())
        .unwrap_or_else(|| match outcome.ended {
            Ended::Exit(code) => format!("it ended with {code} and did not say why"),
            _ => "it did not say why".into(),
        })
}

const NO_SPACE: &str = "No space left on device";
const CONFFILE_EOF: &str = "end of file on stdin at conffile prompt";

fn no_space(outcome: &StageOutcome) -> Option<String> {
    if let Some(line) = outcome.output.lines().find(|line| line.contains("You don't have enough free space"))
    {
        return Some(line.trim_start_matches("E: ").trim_end().to_owned());
    }
    if !outcome.output.contains(NO_SPACE) {
        return None;
    }
    let culprit = outcome.package_errors.iter().find(|(_, text)| text.contains(NO_SPACE));
    let named = outcome.output.lines().find_map(|line| {
        line.strip_prefix("dpkg: error processing ")?.split_whitespace().nth(1).map(str::to_owned)
    });
    let configuring = outcome.output.contains("(--configure):") && !outcome.output.contains("(--unpack):");
    let during = if configuring { "configuring" } else { "unpacking" };
    Some(match culprit.map(|(package, _)| package.clone()).or(named) {
        Some(package) => format!("no space left on device while {during} {}", short(&package)),
        None => "no space left on device".to_owned(),
    })
}

/// `package foo: its postinst ended with 1`, for dpkg's words about a package.
fn package_reason(package: &str, text: &str) -> String {
    const SCRIPTS: [(&str, &str); 4] = [
        ("post-installation", "postinst"),
        ("pre-installation", "preinst"),
        ("post-removal", "postrm"),
        ("pre-removal", "prerm"),
    ];
    let name = short(package);
    let script = SCRIPTS.iter().find(|(words, _)| text.contains(&format!("{words} script")));
    let Some((_, script)) = script else { return format!("package {name}: {text}") };
    if let Some((_, status)) = text.rsplit_once("error exit status ") {
        return format!("package {name}: its {script} ended with {}", status.trim());
    }
    match text.rsplit_once("killed by signal ") {
        Some((_, signal)) => format!("package {name}: its {script} was killed by signal {}", signal.trim()),
        None => format!("package {name}: its {script} failed: {text}"),
    }
}

/// A package's name from the path of its archive; other names stay.
fn short(package: &str) -> &str {
    let file = package.rsplit('/').next().unwrap_or(package);
    if file.ends_with(".deb") { file.split('_').next().unwrap_or(file) } else { file }
}

/// apt's words about the first file that it could not get.
fn fetch_reason(output: &str) -> Option<String> {
    let line = output.lines().find_map(|line| line.split_once("ailed to fetch ")).map(|(_, rest)| rest);
    let Some(rest) = line else { return repository_reason(output) };
    let (url, why) = rest.split_once(' ')?;
    let why = why.trim();
    let host =
        url.split_once("://").and_then(|(_, rest)| rest.split('/').next()).filter(|host| !host.is_empty());
    let unreachable = [
        "Could not resolve",
        "Temporary failure resolving",
        "Could not connect",
        "Unable to connect",
        "Cannot initiate the connection",
        "Connection failed",
        "Connection timed out",
        "Something wicked happened resolving",
    ];
    match host {
        Some(host) if unreachable.iter().any(|words| why.contains(words)) => {
            Some(format!("the package mirror {host} could not be reached: {why}"))
        }
        _ => Some(format!("{url} could not be fetched: {why}")),
    }
}

/// A repository that answers but lacks the release, or is not signed as it should be.
fn repository_reason(output: &str) -> Option<String> {
    output
        .lines()
        .find(|line| line.starts_with("E: The repository ") || line.contains("GPG error: "))
        .map(|line| line.trim_start_matches(['E', 'W', ':', ' ']).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::apt::Stage;
    use std::time::Duration;

    fn outcome(output: &str, errors: &[(&str, &str)]) -> StageOutcome {
        StageOutcome {
            stage: Stage::FullUpgrade,
            ended: Ended::Exit(100),
            duration: Duration::ZERO,
            errors: error_lines(output),
            package_errors: errors.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
            conffile_prompts: Vec::new(),
            last_heard: Some("Configuring foo (amd64)".into()),
            output: output.to_owned(),
        }
    }

    #[test]
    fn a_failing_script() {
        let text = "installed foo package post-installation script subprocess returned error exit status 1";
        let failed = outcome("", &[("foo", text), ("bar", "dependency problems - leaving unconfigured")]);
        assert_eq!(failed.reason(), "package foo: its postinst ended with 1");
        assert!(!repairable(&failed));
    }

    #[test]
    fn an_unreachable_mirror_and_a_missing_file() {
        let text = "E: Failed to fetch http://mirror.example.org/debian/dists/trixie/InRelease  Could not resolve 'mirror.example.org'\nE: Some index files failed to download.\n";
        assert_eq!(
            outcome(text, &[]).reason(),
            "the package mirror mirror.example.org could not be reached: Could not resolve 'mirror.example.org'"
        );
        let text = "E: Failed to fetch http://m.example/x_1.deb  404  Not Found [IP: 192.0.2.1 80]\n";
        assert_eq!(
            outcome(text, &[]).reason(),
            "http://m.example/x_1.deb could not be fetched: 404  Not Found [IP: 192.0.2.1 80]"
        );
        let text = "E: The repository 'http://m.example/x trixie Release' does not have a Release file.\n";
        assert!(
            outcome(text, &[]).reason().starts_with("The repository 'http://m.example/x trixie Release'")
        );
    }

    #[test]
    fn a_full_disk_names_the_package() {
        let path = "/var/lib/x/archives/libc6_2.41_amd64.deb";
        let text = format!(
            "dpkg: error processing archive {path} (--unpack):\n cannot copy extracted data for './usr/lib/x' to '/usr/lib/x.dpkg-new': failed to write (No space left on device)\n"
        );
        let words = "cannot copy extracted data: failed to write (No space left on device)";
        assert_eq!(
            outcome(&text, &[(path, words)]).reason(),
            "no space left on device while unpacking libc6"
        );
        assert_eq!(outcome(&text, &[]).reason(), "no space left on device while unpacking libc6");
    }

    #[test]
    fn silence_and_signals() {
        let silent = StageOutcome { ended: Ended::Silent(Duration::from_secs(90)), ..outcome("", &[]) };
        assert_eq!(
            silent.reason(),
            "it was silent for 90 s and was ended; the last that was heard: Configuring foo (amd64)"
        );
        let killed = StageOutcome { ended: Ended::Signal(9), ..outcome("", &[]) };
        assert_eq!(killed.reason(), "it was killed by signal 9 from outside");
        assert_eq!(outcome("", &[]).reason(), "it ended with 100 and did not say why");
    }

    #[test]
    fn what_configuring_again_can_repair() {
        let prompt = ("nginx-common", CONFFILE_EOF);
        assert!(repairable(&outcome("", &[prompt, ("nginx", "dependency problems - leaving unconfigured")])));
        assert!(!repairable(&outcome("", &[prompt, ("foo", "installed foo package post-installation ...")])));
        assert!(!repairable(&outcome(NO_SPACE, &[prompt])));
        let text =
            "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem.\n";
        assert!(repairable(&outcome(text, &[])));
        assert_eq!(outcome(text, &[]).reason(), text.trim_start_matches("E: ").trim_end());
        assert!(!repairable(&StageOutcome { ended: Ended::Stopped, ..outcome(text, &[]) }));
    }

    #[test]
    fn a_lock_says_who_holds_it() {
        let text = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 12 (apt)\nE: Unable to acquire the dpkg frontend lock\n";
        assert!(outcome(text, &[]).reason().ends_with("held by process 12 (apt)"));
    }
}
