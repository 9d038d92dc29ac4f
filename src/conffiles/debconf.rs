//! debconf's questions and their answers: read from its own files, given beforehand through `debconf-set-selections`. Passwords are
//! neither read nor given.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::stock::{Below, StockError};
use crate::system::exec::{Exec, ExecError};

/// debconf's answers, in the form of its `File` driver. Passwords lie in another file, which is not opened.
const CONFIG: &str = "/var/cache/debconf/config.dat";
/// What the questions are.
const TEMPLATES: &str = "/var/cache/debconf/templates.dat";

/// Types whose answers mean something. `note`, `text`, `title` and `error` have none, and a password is nobody's to record.
const TYPES: [&str; 4] = ["boolean", "multiselect", "select", "string"];

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Who asks.
    pub package: String,
    /// Such as `libraries/restart-without-asking`.
    pub question: String,
    /// `boolean`, `select`, `multiselect` or `string`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The answer.
    pub value: String,
    /// Whether it counts as asked already.
    #[serde(default = "yes")]
    pub seen: bool,
}

fn yes() -> bool {
    true
}

impl Question {
    /// What keeps it from being given, as the end of a sentence.
    #[must_use]
    pub fn mistake(&self) -> Option<&'static str> {
        let is_word = |text: &str| {
            !text.is_empty() && !text.starts_with('#') && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if self.kind == "password" {
            return Some("is a password, which is not written into a file");
        }
        if !TYPES.contains(&self.kind.as_str()) {
            return Some("has a type that takes no answer");
        }
        if !is_word(&self.package) || !is_word(&self.question) {
            return Some("names no package and question");
        }
        // A line that ends in a backslash would go on in the next.
        let plain = !self.value.chars().any(char::is_control) && !self.value.ends_with('\\');
        (!plain || self.value.trim() != self.value).then_some("does not fit on a line as debconf reads it")
    }
}

/// Reads the answered questions of the system below a root; none where debconf was never used.
///
/// # Errors
/// When debconf's files cannot be read.
pub fn questions(root: &Path) -> Result<Vec<Question>, StockError> {
    let below = Below::open(root)?;
    let config = below.text(CONFIG)?.unwrap_or_default();
    Ok(parse(&config, &below.text(TEMPLATES)?.unwrap_or_default()))
}

/// Understands debconf's two files. What has no answer, or one that cannot be given, is left out.
#[must_use]
pub fn parse(config: &str, templates: &str) -> Vec<Question> {
    let types: BTreeMap<&str, &str> =
        stanzas(templates).filter_map(|stanza| Some((*stanza.get("Name")?, *stanza.get("Type")?))).collect();
    let of_stanza = |stanza: BTreeMap<&str, &str>| {
        let question = *stanza.get("Name")?;
        let kind = *types.get(stanza.get("Template").copied().unwrap_or(question))?;
        Some(Question {
            package: stanza.get("Owners")?.split(',').next()?.trim().to_owned(),
            question: question.to_owned(),
            kind: kind.to_owned(),
            value: (*stanza.get("Value")?).to_owned(),
            seen: stanza.get("Flags").is_some_and(|flags| flags.split(',').any(|flag| flag.trim() == "seen")),
        })
    };
    // The File driver writes a newline as `\n`.
    let usable = |question: &Question| question.mistake().is_none() && !question.value.contains("\\n");
    stanzas(config).filter_map(of_stanza).filter(usable).collect()
}

/// What was answered between two looks: new questions, and those with another answer.
#[must_use]
pub fn answered(before: &[Question], after: &[Question]) -> Vec<Question> {
    let known: BTreeMap<(&str, &str), &str> = before
        .iter()
        .map(|question| ((question.package.as_str(), question.question.as_str()), question.value.as_str()))
        .collect();
    let is_new = |question: &&Question| {
        known.get(&(question.package.as_str(), question.question.as_str())) != Some(&question.value.as_str())
    };
    after.iter().filter(is_new).cloned().collect()
}

/// The lines for `debconf-set-selections`.
#[must_use]
pub fn selections(questions: &[Question], seen: bool) -> String {
    let usable = questions.iter().filter(|question| question.seen == seen && question.mistake().is_none());
    let line = |one: &Question| format!("{} {} {} {}\n", one.package, one.question, one.kind, one.value);
    usable.map(line).collect()
}

/// Gives debconf of the running system these answers before it asks. Repeatable. They go through a pipe: arguments can be read by
/// every user.
///
/// # Errors
/// When debconf does not take them.
pub fn give(questions: &[Question]) -> Result<(), ExecError> {
    for (seen, options) in [(true, &[][..]), (false, &["--unseen"][..])] {
        let lines = selections(questions, seen);
        if !lines.is_empty() {
            Exec::new("debconf-set-selections")?.args(options).stdin(lines.into_bytes()).success()?;
        }
    }
    Ok(())
}

fn stanzas(text: &str) -> impl Iterator<Item = BTreeMap<&str, &str>> {
    text.split("\n\n").map(|stanza| {
        let fields = stanza.lines().filter(|line| !line.starts_with(' '));
        fields.filter_map(|line| line.split_once(':')).map(|(key, value)| (key, value.trim())).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "Name: tzdata/Areas\nTemplate: tzdata/Areas\nValue: Etc\nOwners: tzdata, d-i\nFlags: seen\nVariables:\n CHOICES = x\n\nName: p/unasked\nTemplate: p/unasked\nOwners: p\n\nName: p/pw\nTemplate: p/pw\nValue: secret\nOwners: p\n\nName: p/two\nTemplate: p/two\nValue: a\\nb\nOwners: p\n\nName: p/q\nTemplate: p/shared\nValue: true\nOwners: p\n";
    const TEMPLATES: &str = "Name: tzdata/Areas\nType: select\n\nName: p/unasked\nType: string\n\nName: p/pw\nType: password\n\nName: p/two\nType: string\n\nName: p/shared\nType: boolean\n";

    #[test]
    fn questions_and_no_secrets() {
        let found = parse(CONFIG, TEMPLATES);
        assert_eq!(selections(&found, true), "tzdata tzdata/Areas select Etc\n");
        assert_eq!(selections(&found, false), "p p/q boolean true\n");
    }

    #[test]
    fn what_was_answered_meanwhile() {
        let before = parse(CONFIG, TEMPLATES);
        let after = parse(&CONFIG.replace("Value: Etc", "Value: Europe"), TEMPLATES);
        let answered = answered(&before, &after);
        assert_eq!(answered.len(), 1);
        assert_eq!(answered[0].value, "Europe");
    }

    #[test]
    fn nothing_can_smuggle_in_a_line() {
        let question = |value: &str| Question { value: value.into(), ..parse(CONFIG, TEMPLATES)[0].clone() };
        assert!(question("x").mistake().is_none());
        for value in ["x\nroot", "x\\", " x", "x\t"] {
            assert!(question(value).mistake().is_some(), "{value:?}");
            assert_eq!(selections(&[question(value)], true), "");
        }
        assert!(Question { question: "a b".into(), ..question("x") }.mistake().is_some());
    }
}
