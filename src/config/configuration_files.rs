//! `[configuration_files]`: what is done about configuration files that the administrator and a new package both changed.

use serde::Deserialize;

use super::AbsolutePath;
use crate::conffiles::answers;
use crate::conffiles::policy::{self, Action, Policy};

/// What is done about configuration files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigurationFiles {
    /// Where no rule matches: `keep` (when it is not given), `take`, `ask` or `fail`.
    pub default: Action,
    /// The recorded answers.
    pub answers: AbsolutePath,
    /// In order: the first that matches decides.
    #[serde(rename = "rule")]
    pub rules: Vec<Rule>,
}

impl Default for ConfigurationFiles {
    fn default() -> Self {
        let answers = AbsolutePath(answers::DEFAULT_PATH.into());
        Self { default: Action::Keep, answers, rules: Vec::new() }
    }
}

/// One rule.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A pattern as in `backup.exclude`, from `/`; it covers all below what it matches.
    pub path: Pattern,
    /// What to do.
    pub action: Action,
}

/// A pattern that was understood.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(policy::Rule);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if !text.starts_with(['/', '*']) {
            return Err(format!("{text:?} begins neither with / nor with **/"));
        }
        policy::Rule::new(&text, Action::Keep)
            .map(Self)
            .map_err(|error| format!("{text:?} is no pattern for configuration files: {error}"))
    }
}

impl ConfigurationFiles {
    /// The rules, ready to decide.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let ready = |rule: &Rule| rule.path.0.clone().with(rule.action);
        Policy { otherwise: self.default, rules: self.rules.iter().map(ready).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use std::path::Path;

    const SMALL: &str = "[backup]\nstore = \"/srv/backup\"\ntrees = [\"/etc\"]\n";

    #[test]
    fn rules_in_order() {
        assert_eq!(parse(SMALL).unwrap().configuration_files.default, Action::Keep);
        let text = format!(
            "{SMALL}[configuration_files]\ndefault = \"ask\"\n[[configuration_files.rule]]\npath = \"/etc/nginx/**\"\naction = \"take\"\n[[configuration_files.rule]]\npath = \"/etc/ssh\"\naction = \"keep\"\n"
        );
        let section = parse(&text).unwrap().configuration_files;
        let policy = section.policy();
        assert_eq!(policy.action(Path::new("/etc/nginx/nginx.conf")), Action::Take);
        assert_eq!(policy.action(Path::new("/etc/ssh/sshd_config")), Action::Keep);
        assert_eq!(policy.action(Path::new("/etc/hosts")), Action::Ask);
        assert_eq!(section.answers.to_string(), "/etc/safe-upgrade/answers.toml");
    }

    #[test]
    fn every_error_names_its_line() {
        let wrong = |text: &str| parse(&format!("{SMALL}[configuration_files]\n{text}\n")).unwrap_err();
        assert!(wrong("default = \"maybe\"").starts_with("5:11: "));
        assert!(wrong("colour = 1").starts_with("5:1: unknown field"));
        let rule = |path: &str| {
            wrong(&format!("[[configuration_files.rule]]\npath = \"{path}\"\naction = \"keep\""))
        };
        assert!(rule("/etc/../x").starts_with("6:8: "), "{}", rule("/etc/../x"));
        assert!(rule("nginx.conf").starts_with("6:8: "));
    }
}
