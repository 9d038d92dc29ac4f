//! What is to be done about a configuration file that the administrator and the package both changed.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Facts;
use super::answers::{Answer, Answers, Counts};
use super::predict::{Outcome, Prediction};
use super::stock::Keeper;
use crate::manifest::exclude::{Excludes, InvalidPattern};

/// What a rule asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The administrator's file stays in force.
    #[default]
    Keep,
    /// The package's file is put in force; the administrator's is kept beside it.
    Take,
    /// A person decides beforehand, and the answer is recorded.
    Ask,
    /// An upgrade that would ask about it is not wanted at all.
    Fail,
}

/// One rule.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Rule {
    /// Which files, as in `backup.exclude`, from `/`.
    pattern: Excludes,
    /// The pattern as it was written.
    written: String,
    /// What to do about them.
    pub action: Action,
}

impl Rule {
    /// A rule for what a pattern matches and all below it.
    ///
    /// # Errors
    /// When the pattern cannot be meant.
    pub fn new(pattern: &str, action: Action) -> Result<Self, InvalidPattern> {
        Ok(Self { pattern: Excludes::parse(&[pattern])?, written: pattern.to_owned(), action })
    }
}

impl Rule {
    /// The same files, something else to do.
    #[must_use]
    pub fn with(self, action: Action) -> Self {
        Self { action, ..self }
    }
}

/// A rule as text.
#[derive(Serialize, Deserialize)]
struct Written {
    pattern: String,
    action: Action,
}

impl TryFrom<Written> for Rule {
    type Error = InvalidPattern;

    fn try_from(written: Written) -> Result<Self, InvalidPattern> {
        Self::new(&written.pattern, written.action)
    }
}

impl From<Rule> for Written {
    fn from(rule: Rule) -> Self {
        Self { pattern: rule.written, action: rule.action }
    }
}

/// Rules in their order: the first that matches a file decides about it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Policy {
    /// Where no rule matches.
    pub otherwise: Action,
    /// In order.
    pub rules: Vec<Rule>,
}

impl Policy {
    /// What the rules say about a file.
    #[must_use]
    pub fn action(&self, path: &Path) -> Action {
        let bytes = path.as_os_str().as_bytes();
        let relative = bytes.strip_prefix(b"/").unwrap_or(bytes);
        let rule = self.rules.iter().find(|rule| rule.pattern.covers(relative));
        rule.map_or(self.otherwise, |rule| rule.action)
    }

    /// Whether every file is kept, whatever is found.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        self.otherwise == Action::Keep && self.rules.iter().all(|rule| rule.action == Action::Keep)
    }

    fn takes_any(&self) -> bool {
        self.otherwise == Action::Take || self.rules.iter().any(|rule| rule.action == Action::Take)
    }
}

/// What is done when the package tools ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// The administrator's file stays.
    Keep,
    /// The package's file is taken.
    Take,
    /// The administrator's file stays for the moment, and the upgrade has failed.
    Fail,
}

/// What the rules and the recorded answers come to for one predicted file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    /// Decided.
    Choice(Choice),
    /// Nobody answered.
    Unanswered,
    /// Somebody answered, for other contents.
    Stale,
}

/// Decides about a predicted file.
#[must_use]
pub fn resolve(prediction: &Prediction, policy: &Policy, answers: &Answers) -> Resolved {
    match policy.action(&prediction.path) {
        Action::Keep => Resolved::Choice(Choice::Keep),
        Action::Take => Resolved::Choice(Choice::Take),
        Action::Fail => Resolved::Choice(Choice::Fail),
        Action::Ask => match answers.counts(prediction) {
            Counts::Yes(Answer::Keep) => Resolved::Choice(Choice::Keep),
            Counts::Yes(Answer::Take) => Resolved::Choice(Choice::Take),
            Counts::Yes(Answer::Undecided) | Counts::None => Resolved::Unanswered,
            Counts::OtherContents => Resolved::Stale,
        },
    }
}

/// What is done about every question of an upgrade, predicted or not. Made before the first package changes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Decisions {
    predicted: BTreeMap<PathBuf, Choice>,
    policy: Policy,
    answers_prompts: bool,
}

impl Decisions {
    /// From what is known beforehand. What nobody answered is not decided in silence: it fails.
    #[must_use]
    pub fn new(facts: &Facts, policy: &Policy, answers: &Answers) -> Self {
        Self::decide(facts, policy, answers, Choice::Fail).0
    }

    /// For a rehearsal: where nobody has answered yet, the administrator's file stays, so that all else is seen. With it those files.
    #[must_use]
    pub fn rehearsed(facts: &Facts, policy: &Policy, answers: &Answers) -> (Self, Vec<PathBuf>) {
        Self::decide(facts, policy, answers, Choice::Keep)
    }

    fn decide(facts: &Facts, policy: &Policy, answers: &Answers, otherwise: Choice) -> (Self, Vec<PathBuf>) {
        let mut unanswered = Vec::new();
        let mut predicted = BTreeMap::new();
        let mut answers_prompts = policy.takes_any();
        for prediction in &facts.predictions {
            if !matches!(prediction.outcome, Outcome::Asked | Outcome::PerhapsAsked) {
                continue;
            }
            let choice = match resolve(prediction, policy, answers) {
                Resolved::Choice(choice) => choice,
                Resolved::Unanswered | Resolved::Stale => {
                    unanswered.push(prediction.path.clone());
                    otherwise
                }
            };
            answers_prompts |= choice == Choice::Take && prediction.keeper == Keeper::Dpkg;
            predicted.insert(prediction.path.clone(), choice);
        }
        (Self { predicted, policy: policy.clone(), answers_prompts }, unanswered)
    }

    /// What is done about a file.
    #[must_use]
    pub fn choice(&self, path: &Path) -> Choice {
        if let Some(choice) = self.predicted.get(path) {
            return *choice;
        }
        match self.policy.action(path) {
            Action::Keep => Choice::Keep,
            Action::Take => Choice::Take,
            // Nobody expected the question, so nobody answered it.
            Action::Ask | Action::Fail => Choice::Fail,
        }
    }

    /// Whether dpkg must be answered file by file: only then is it allowed to ask.
    #[must_use]
    pub fn answers_prompts(&self) -> bool {
        self.answers_prompts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conffiles::stock::{Local, Md5Sum};

    #[test]
    fn what_nobody_answered_fails_a_run_and_is_kept_in_a_rehearsal() {
        let (path, sum) = (Path::new("/etc/x"), Md5Sum::of(b"mine"));
        let prediction = Prediction {
            path: path.into(),
            package: "p".into(),
            keeper: Keeper::Dpkg,
            local: Local::Changed(sum),
            outcome: Outcome::Asked,
            new: None,
            lines: None,
        };
        let facts = Facts { predictions: vec![prediction], ..Facts::default() };
        let ask = Policy { otherwise: Action::Ask, rules: vec![] };
        let none = Answers::default();
        assert_eq!(Decisions::new(&facts, &ask, &none).choice(path), Choice::Fail);
        let (decisions, unanswered) = Decisions::rehearsed(&facts, &ask, &none);
        assert_eq!((decisions.choice(path), unanswered), (Choice::Keep, vec![path.to_owned()]));
        // What nobody foresaw would fail the run too, and a rehearsal is there to show it.
        assert_eq!(decisions.choice(Path::new("/etc/y")), Choice::Fail);
        let (decisions, unanswered) = Decisions::rehearsed(&facts, &Policy::default(), &none);
        assert_eq!((decisions.choice(path), unanswered), (Choice::Keep, vec![]));
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rule = |pattern, action| Rule::new(pattern, action).unwrap();
        let policy = Policy {
            otherwise: Action::Keep,
            rules: vec![
                rule("/etc/nginx/nginx.conf", Action::Fail),
                rule("etc/nginx", Action::Take),
                rule("**/*.d/*", Action::Ask),
            ],
        };
        let action = |path: &str| policy.action(Path::new(path));
        assert_eq!(action("/etc/nginx/nginx.conf"), Action::Fail);
        assert_eq!(action("/etc/nginx/conf.d/x.conf"), Action::Take);
        assert_eq!(action("/etc/php/conf.d/x.ini"), Action::Ask);
        assert_eq!(action("/etc/hosts"), Action::Keep);
        let decisions = Decisions::new(&Facts::default(), &policy, &Answers::default());
        assert_eq!(decisions.choice(Path::new("/etc/php/conf.d/x.ini")), Choice::Fail);
        assert_eq!(decisions.choice(Path::new("/etc/nginx/mime.types")), Choice::Take);
        assert!(decisions.answers_prompts());
        assert!(!Decisions::default().answers_prompts());
        assert!(Rule::new("/etc/../x", Action::Keep).is_err());
    }
}
