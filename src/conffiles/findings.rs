//! What is worth telling about configuration files before an upgrade. Pure.

use std::path::Path;

use super::Facts;
use super::answers::Answers;
use super::policy::{Choice, Policy, Resolved, resolve};
use super::predict::{Outcome, Prediction};
use crate::finding::Finding;
use crate::system::show;

/// Judges what was found, by the rules and the recorded answers. A system on which no configuration file was changed gets none.
#[must_use]
pub fn findings(facts: &Facts, policy: &Policy, answers: &Answers) -> Vec<Finding> {
    let mut lists = Lists::default();
    for prediction in &facts.predictions {
        match &prediction.outcome {
            Outcome::Asked => {
                let list = match resolve(prediction, policy, answers) {
                    Resolved::Choice(Choice::Keep) => &mut lists.kept,
                    Resolved::Choice(Choice::Take) => &mut lists.taken,
                    Resolved::Choice(Choice::Fail) => &mut lists.unwanted,
                    Resolved::Unanswered => &mut lists.unanswered,
                    Resolved::Stale => &mut lists.stale,
                };
                list.push(evidence(prediction));
            }
            Outcome::PerhapsAsked => {
                let list = match resolve(prediction, policy, answers) {
                    Resolved::Unanswered => &mut lists.unanswered,
                    Resolved::Stale => &mut lists.stale,
                    // Whether it will be asked about is not known: a rule that fails is applied when it is.
                    Resolved::Choice(_) => &mut lists.perhaps,
                };
                list.push(evidence(prediction));
            }
            Outcome::PutAside => lists.aside.push(evidence(prediction)),
            Outcome::Renamed(to) => {
                lists.renamed.push(format!("{} becomes {}", evidence(prediction), show::path(to)));
            }
            Outcome::LeftBehind => lists.left.push(evidence(prediction)),
            Outcome::Stays | Outcome::Same | Outcome::NotUpgraded => {}
        }
    }
    lists.pam = facts.local_pam.iter().map(|path| show::path(path)).collect();
    lists.into_findings()
}

#[derive(Debug, Default)]
struct Lists {
    kept: Vec<String>,
    taken: Vec<String>,
    unwanted: Vec<String>,
    unanswered: Vec<String>,
    stale: Vec<String>,
    perhaps: Vec<String>,
    aside: Vec<String>,
    renamed: Vec<String>,
    left: Vec<String>,
    pam: Vec<String>,
}

impl Lists {
    fn into_findings(mut self) -> Vec<Finding> {
        let all = self.weighty().into_iter().chain(self.notes());
        all.filter(|(lines, _)| !lines.is_empty())
            .map(|(lines, finding)| finding.with_evidence(lines))
            .collect()
    }

    fn weighty(&mut self) -> [(Vec<String>, Finding); 4] {
        [
            (
                std::mem::take(&mut self.unanswered),
                Finding::inhibitor(
                    "conffile-unanswered",
                    "The upgrade will ask about these configuration files, their rule is \"ask\", and nobody has answered.",
                    "safe-upgrade check --write-answers FILE; decide about each in FILE, and put it at /etc/safe-upgrade/answers.toml",
                ),
            ),
            (
                std::mem::take(&mut self.stale),
                Finding::inhibitor(
                    "conffile-answer-stale",
                    "These configuration files have an answer that was given for other contents: your file or the package's has changed since, so the answer does not count.",
                    "safe-upgrade check --write-answers FILE; decide again",
                ),
            ),
            (
                std::mem::take(&mut self.unwanted),
                Finding::inhibitor(
                    "conffile-fail-rule",
                    "The upgrade will ask about these configuration files, and their rule is \"fail\".",
                    "compare the two (safe-upgrade check --diff), then change the file, or its rule in [configuration_files]",
                ),
            ),
            (
                std::mem::take(&mut self.aside),
                Finding::warning(
                    "conffile-put-aside",
                    "The new packages no longer have these configuration files, which were changed here: they are put beside as .dpkg-bak, and what they say is no longer in force.",
                    "move what is still needed to where the new release reads it (for /etc/sysctl.conf: a file in /etc/sysctl.d)",
                ),
            ),
        ]
    }

    fn notes(&mut self) -> [(Vec<String>, Finding); 6] {
        [
            (
                std::mem::take(&mut self.taken),
                Finding::note(
                    "conffile-taken",
                    "These configuration files were changed here and by the new packages: the packages' files will be in force, yours are kept beside them as .dpkg-old.",
                    "safe-upgrade check --diff shows what is lost",
                ),
            ),
            (
                std::mem::take(&mut self.kept),
                Finding::note(
                    "conffile-kept",
                    "These configuration files were changed here and by the new packages: yours stay in force, the packages' are put beside them as .dpkg-dist.",
                    "safe-upgrade check --diff shows what is new in the packages' files",
                ),
            ),
            (
                std::mem::take(&mut self.perhaps),
                Finding::note(
                    "conffile-ucf",
                    "These configuration files are made by scripts of their packages and were changed here; whether the new text is another one is known only when the script runs. Their rule is applied then.",
                    "compare the .ucf-dist files after the upgrade",
                ),
            ),
            (
                std::mem::take(&mut self.renamed),
                Finding::note(
                    "conffile-renamed",
                    "The new packages rename these configuration files, which were changed here; the new name may be asked about.",
                    "look at the new file after the upgrade",
                ),
            ),
            (
                std::mem::take(&mut self.left),
                Finding::note(
                    "conffile-left-behind",
                    "The new packages no longer have these configuration files, which were changed here: they stay where they are, and perhaps nothing reads them any more.",
                    "read the package's NEWS.Debian about them",
                ),
            ),
            (
                std::mem::take(&mut self.pam),
                Finding::note(
                    "pam-changed-by-hand",
                    "These files no longer have the part that pam-auth-update keeps up: they stay as they are, and modules that the new release adds or drops are yours to write there.",
                    "compare with /usr/share/pam; pam-auth-update --force would write them anew",
                ),
            ),
        ]
    }
}

/// The path, the package and how much is different; never what.
fn evidence(prediction: &Prediction) -> String {
    let mut line = show::path(&prediction.path);
    if !prediction.package.is_empty() {
        line.push_str(&format!(" ({})", show::line(&prediction.package)));
    }
    match prediction.lines {
        Some(lines) => line.push_str(&format!(": +{} -{} lines", lines.added, lines.removed)),
        None if prediction.local == super::stock::Local::Missing => line.push_str(": deleted here"),
        None => {}
    }
    if let Some(care) = care(&prediction.path) {
        line.push_str(&format!("; {care}"));
    }
    line
}

/// What depends on a file that somebody locks himself out with.
fn care(path: &Path) -> Option<&'static str> {
    let path = path.to_str()?;
    if path.starts_with("/etc/ssh/") {
        return Some("sshd is asked about it after the packages, before the trial boot");
    }
    if path.starts_with("/etc/pam.d/") || path.starts_with("/etc/security/") {
        return Some("logins depend on it");
    }
    if path == "/etc/default/grub" || path.starts_with("/etc/grub.d/") {
        return Some("booting depends on it");
    }
    path.starts_with("/etc/sudo")
        .then_some("visudo is asked about it after the packages, before the trial boot")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conffiles::answers::{Answer, FileAnswer};
    use crate::conffiles::diff::Lines as Counted;
    use crate::conffiles::policy::{Action, Rule};
    use crate::conffiles::stock::{Keeper, Local, Md5Sum};
    use crate::finding::Severity;

    fn prediction(path: &str, outcome: Outcome) -> Prediction {
        Prediction {
            path: path.into(),
            package: "p".into(),
            keeper: Keeper::Dpkg,
            local: Local::Changed(Md5Sum::of(b"x")),
            outcome,
            new: None,
            lines: Some(Counted { added: 1, removed: 2 }),
        }
    }

    #[test]
    fn every_rule_has_its_finding() {
        let facts = Facts {
            predictions: vec![
                prediction("/etc/aside", Outcome::PutAside),
                prediction("/etc/ask", Outcome::Asked),
                prediction("/etc/answered", Outcome::Asked),
                prediction("/etc/stale", Outcome::Asked),
                prediction("/etc/fail", Outcome::Asked),
                prediction("/etc/ssh/sshd_config", Outcome::PerhapsAsked),
                prediction("/etc/stays", Outcome::Stays),
                prediction("/etc/take", Outcome::Asked),
                prediction("/etc/keep", Outcome::Asked),
            ],
            ..Facts::default()
        };
        let rule = |pattern, action| Rule::new(pattern, action).unwrap();
        let policy = Policy {
            otherwise: Action::Ask,
            rules: vec![
                rule("/etc/fail", Action::Fail),
                rule("/etc/take", Action::Take),
                rule("/etc/keep", Action::Keep),
                rule("/etc/ssh", Action::Keep),
            ],
        };
        let mut stale = FileAnswer::to(&facts.predictions[3], Answer::Keep);
        stale.local_md5 = "0".into();
        let files = vec![FileAnswer::to(&facts.predictions[2], Answer::Take), stale];
        let found = findings(&facts, &policy, &Answers { files, debconf: vec![] });
        let shown: Vec<_> =
            found.iter().map(|one| (one.id.as_str(), one.severity, one.evidence.join("|"))).collect();
        let line = |path: &str| format!("{path} (p): +1 -2 lines");
        let ssh = format!(
            "{}; sshd is asked about it after the packages, before the trial boot",
            line("/etc/ssh/sshd_config")
        );
        assert_eq!(
            shown,
            [
                ("conffile-unanswered", Severity::Inhibitor, line("/etc/ask")),
                ("conffile-answer-stale", Severity::Inhibitor, line("/etc/stale")),
                ("conffile-fail-rule", Severity::Inhibitor, line("/etc/fail")),
                ("conffile-put-aside", Severity::Warning, line("/etc/aside")),
                (
                    "conffile-taken",
                    Severity::Note,
                    format!("{}|{}", line("/etc/answered"), line("/etc/take"))
                ),
                ("conffile-kept", Severity::Note, line("/etc/keep")),
                ("conffile-ucf", Severity::Note, ssh),
            ]
        );
        assert!(findings(&Facts::default(), &policy, &Answers::default()).is_empty());
    }
}
