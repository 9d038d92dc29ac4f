//! `answers.toml`: what a person decided beforehand about configuration files and debconf's questions, with what it was decided
//! for. An answer counts only for the very contents that it was given for.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Facts;
use super::debconf::Question;
use super::policy::{Action, Policy};
use super::predict::{Outcome, Prediction};
use super::stock::Local;
use crate::system::durable::{self, DurableError};
use crate::system::show;

/// Where answers are looked for.
pub const DEFAULT_PATH: &str = "/etc/safe-upgrade/answers.toml";

/// The version of the file's form.
const VERSION: u32 = 1;
/// The largest file that is read, in bytes.
const LIMIT: u64 = 4 << 20;
/// What a missing file has for a digest.
const MISSING: &str = "missing";

/// A person's decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The file as it is stays in force.
    Keep,
    /// The package's file is put in force.
    Take,
    /// Written by `check` for a person to replace; it does not count.
    Undecided,
}

/// A decision about a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileAnswer {
    /// The file.
    pub path: PathBuf,
    /// What was decided.
    pub answer: Answer,
    /// The MD5 digest of the file that lay there, or `missing`.
    pub local_md5: String,
    /// The BLAKE3 digest of the package's file; none for a file that a script makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_blake3: Option<String>,
}

/// All answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// About configuration files.
    pub files: Vec<FileAnswer>,
    /// To debconf's questions, to be given before they are asked.
    pub debconf: Vec<Question>,
}

/// Whether there is an answer that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// This one.
    Yes(Answer),
    /// There is one, for another file or another package.
    OtherContents,
    /// There is none.
    None,
}

/// Answers that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AnswersError {
    /// The file.
    #[error("failed to read the answers {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else than root could have written them.
    #[error("the answers {} may be changed by others than their owner (mode {mode:04o}, owner {owner}): they are not used", .path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        owner: u32,
    },
    /// What is in it.
    #[error("failed to understand the answers {}", .path.display())]
    Understand {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: Box<toml::de::Error>,
    },
    /// What is in it cannot be right.
    #[error("the answers {} are wrong: {what}", .path.display())]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// What.
        what: String,
    },
    /// It could not be written.
    #[error("failed to write the answers")]
    Write(#[from] DurableError),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    configuration_file: Vec<FileAnswer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    debconf: Vec<Question>,
}

impl Answers {
    /// Reads a file of answers; where there is none, there are no answers.
    ///
    /// # Errors
    /// When it cannot be read or understood, or somebody else may write it.
    pub fn read(path: &Path) -> Result<Self, AnswersError> {
        let failed = |source| AnswersError::Read { path: path.to_owned(), source };
        let file = match std::fs::File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            opened => opened.map_err(failed)?,
        };
        let facts = file.metadata().map_err(failed)?;
        let (mode, owner) = (facts.mode() & 0o7777, facts.uid());
        if mode & 0o022 != 0 || owner != rustix::process::geteuid().as_raw() {
            return Err(AnswersError::Open { path: path.to_owned(), mode, owner });
        }
        let mut text = String::new();
        file.take(LIMIT).read_to_string(&mut text).map_err(failed)?;
        Self::parse(&text, path)
    }

    /// Understands the text of a file of answers; `path` is for errors.
    ///
    /// # Errors
    /// When something in it is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self, AnswersError> {
        let written: Written = toml::from_str(text)
            .map_err(|source| AnswersError::Understand { path: path.to_owned(), source: Box::new(source) })?;
        let wrong = |what: String| Err(AnswersError::Wrong { path: path.to_owned(), what });
        if written.version != VERSION {
            return wrong(format!("version {} is not known, only {VERSION}", written.version));
        }
        if let Some(question) = written.debconf.iter().find(|question| question.mistake().is_some()) {
            return wrong(format!(
                "the answer to {} {}",
                show::line(&question.question),
                question.mistake().unwrap_or_default()
            ));
        }
        let mut seen = BTreeMap::new();
        for answer in &written.configuration_file {
            if seen.insert(&answer.path, answer.answer).is_some() {
                return wrong(format!("{} is answered twice", show::path(&answer.path)));
            }
        }
        Ok(Self { files: written.configuration_file, debconf: written.debconf })
    }

    /// Writes them, readable by their owner only, with the words that a reader needs.
    ///
    /// # Errors
    /// When it cannot be written; what was there before stays.
    pub fn write(&self, path: &Path, facts: &Facts) -> Result<(), AnswersError> {
        Ok(durable::replace_file(path, self.text(facts).as_bytes(), 0o600)?)
    }

    /// The text of the file. What is known about each configuration file is written above its answer.
    #[must_use]
    pub fn text(&self, facts: &Facts) -> String {
        let mut text = HEADER.to_owned();
        let _ = writeln!(text, "version = {VERSION}");
        for answer in &self.files {
            text.push('\n');
            if let Some(prediction) = facts.predictions.iter().find(|one| one.path == answer.path) {
                let _ = writeln!(text, "# {}", remark(prediction));
            }
            push(
                &mut text,
                Written { version: VERSION, configuration_file: vec![answer.clone()], debconf: vec![] },
            );
        }
        for question in self.debconf.iter().filter(|question| question.mistake().is_none()) {
            text.push('\n');
            push(
                &mut text,
                Written { version: VERSION, configuration_file: vec![], debconf: vec![question.clone()] },
            );
        }
        text
    }

    /// Whether there is an answer for a file as it is, and for the new one as it is.
    #[must_use]
    pub fn counts(&self, prediction: &Prediction) -> Counts {
        let Some(answer) = self.files.iter().find(|answer| answer.path == prediction.path) else {
            return Counts::None;
        };
        let (local_md5, new_blake3) = sums(prediction);
        if answer.local_md5 == local_md5 && answer.new_blake3 == new_blake3 {
            Counts::Yes(answer.answer)
        } else {
            Counts::OtherContents
        }
    }

    /// Answers for a person to complete: every question that a rule leaves to a person, with the answers of before where they still
    /// count, and debconf's as they are.
    #[must_use]
    pub fn draft(facts: &Facts, policy: &Policy, before: &Self) -> Self {
        let asked = facts.predictions.iter().filter(|prediction| {
            matches!(prediction.outcome, Outcome::Asked | Outcome::PerhapsAsked)
                && policy.action(&prediction.path) == Action::Ask
        });
        let files = asked.map(|prediction| {
            let answer = match before.counts(prediction) {
                Counts::Yes(answer) => answer,
                Counts::OtherContents | Counts::None => Answer::Undecided,
            };
            FileAnswer::to(prediction, answer)
        });
        Self { files: files.collect(), debconf: before.debconf.clone() }
    }
}

impl FileAnswer {
    /// An answer for a file as it was predicted.
    #[must_use]
    pub fn to(prediction: &Prediction, answer: Answer) -> Self {
        let (local_md5, new_blake3) = sums(prediction);
        Self { path: prediction.path.clone(), answer, local_md5, new_blake3 }
    }
}

fn sums(prediction: &Prediction) -> (String, Option<String>) {
    let local = match prediction.local {
        Local::Changed(sum) => sum.to_string(),
        _ => MISSING.to_owned(),
    };
    (local, prediction.new.map(|new| new.blake3.to_hex().to_string()))
}

fn remark(prediction: &Prediction) -> String {
    let package = match prediction.package.as_str() {
        "" => "a maintainer script".to_owned(),
        package => show::line(package),
    };
    match prediction.lines {
        Some(lines) => format!(
            "{package}: the package's file has {} lines that yours lacks; yours has {} that it lacks",
            lines.added, lines.removed
        ),
        None => format!("{package}: how the two differ is not known as text"),
    }
}

/// A table without the version, which stands at the top once.
fn push(text: &mut String, written: Written) {
    // These are strings, numbers and tables of them: TOML can say them all.
    let table = toml::to_string(&written).unwrap_or_default();
    text.extend(table.lines().skip_while(|line| !line.starts_with("[[")).flat_map(|line| [line, "\n"]));
}

const HEADER: &str = "\
# What the next release upgrade is to answer where the rule for a configuration file is \"ask\".
#
# answer: \"keep\" leaves your file in force and puts the package's beside it (.dpkg-dist, .ucf-dist);
#         \"take\" puts the package's file in force and yours beside it (.dpkg-old, .ucf-old);
#         \"undecided\" does not count: the upgrade will not start.
# An answer counts only while your file (local_md5) and the package's (new_blake3) are those that it was given for.
# [[debconf]] answers are given before the packages ask. Passwords are never written here.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conffiles::predict::NewSums;
    use crate::conffiles::stock::{Keeper, Md5Sum};
    use proptest::prelude::*;

    fn prediction(mine: &str, new: &str) -> Prediction {
        let bytes = new.as_bytes();
        Prediction {
            path: "/etc/x".into(),
            package: "p".into(),
            keeper: Keeper::Dpkg,
            local: Local::Changed(Md5Sum::of(mine.as_bytes())),
            outcome: Outcome::Asked,
            new: Some(NewSums { md5: Md5Sum::of(bytes), blake3: blake3::hash(bytes) }),
            lines: None,
        }
    }

    #[test]
    fn an_answer_is_for_its_contents_only() {
        let answers =
            Answers { files: vec![FileAnswer::to(&prediction("a", "b"), Answer::Take)], debconf: vec![] };
        assert_eq!(answers.counts(&prediction("a", "b")), Counts::Yes(Answer::Take));
        assert_eq!(answers.counts(&prediction("a2", "b")), Counts::OtherContents);
        assert_eq!(answers.counts(&prediction("a", "b2")), Counts::OtherContents);
        assert_eq!(Answers::default().counts(&prediction("a", "b")), Counts::None);
    }

    #[test]
    fn a_draft_keeps_what_still_counts() {
        let facts = Facts { predictions: vec![prediction("a", "b")], ..Facts::default() };
        let ask = Policy { otherwise: Action::Ask, rules: vec![] };
        let draft = Answers::draft(&facts, &ask, &Answers::default());
        assert_eq!(draft.files[0].answer, Answer::Undecided);
        let mut decided = draft.clone();
        decided.files[0].answer = Answer::Keep;
        assert_eq!(Answers::draft(&facts, &ask, &decided), decided);
        assert!(Answers::draft(&facts, &Policy::default(), &decided).files.is_empty());
        assert!(decided.text(&facts).contains("# p: how the two differ"));
    }

    #[test]
    fn a_file_is_private_and_trusted_only_so() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.toml");
        assert_eq!(Answers::read(&path).unwrap(), Answers::default());
        let answers =
            Answers { files: vec![FileAnswer::to(&prediction("a", "b"), Answer::Keep)], debconf: vec![] };
        answers.write(&path, &Facts::default()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(Answers::read(&path).unwrap(), answers);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o620)).unwrap();
        assert!(matches!(Answers::read(&path), Err(AnswersError::Open { mode: 0o620, .. })));
    }

    #[test]
    fn wrong_ones_are_refused() {
        let parse = |text: &str| Answers::parse(text, Path::new("/a")).unwrap_err().to_string();
        assert!(parse("version = 2\n").contains("version 2 is not known"));
        assert!(parse("").contains("failed to understand"));
        let one = "[[configuration_file]]\npath = \"/x\"\nanswer = \"keep\"\nlocal_md5 = \"missing\"\n";
        assert!(parse(&format!("version = 1\n{one}{one}")).contains("/x is answered twice"));
        assert!(parse(&format!("version = 1\n{}", one.replace("keep", "maybe"))).contains("understand"));
        let secret = "version = 1\n[[debconf]]\npackage = \"p\"\nquestion = \"p/q\"\ntype = \"password\"\nvalue = \"x\"\n";
        assert!(parse(secret).contains("password"));
    }

    proptest! {
        #[test]
        fn they_come_back_as_they_were_written(
            files in prop::collection::btree_map("/[^\u{0}]{0,20}", (0..3_usize, "[0-9a-f]{32}", prop::option::of("[0-9a-f]{64}")), 0..4),
            values in prop::collection::vec("[^\u{0}-\u{1f}\u{7f}-\u{9f}]{0,20}", 0..4),
        ) {
            let files = files.into_iter().map(|(path, (answer, local_md5, new_blake3))| FileAnswer {
                path: path.into(),
                answer: [Answer::Keep, Answer::Take, Answer::Undecided][answer],
                local_md5,
                new_blake3,
            });
            let debconf = values.into_iter().map(|value| Question {
                package: "p".into(), question: "p/q".into(), kind: "string".into(), value, seen: true,
            });
            let answers = Answers { files: files.collect(), debconf: debconf.collect() };
            prop_assume!(answers.debconf.iter().all(|question| question.mistake().is_none()));
            let text = answers.text(&Facts::default());
            prop_assert_eq!(&Answers::parse(&text, Path::new("/a")).unwrap(), &answers);
            // A rehearsal hands them into its clone so.
            let told: Answers = serde_json::from_slice(&serde_json::to_vec(&answers).unwrap()).unwrap();
            prop_assert_eq!(told, answers);
        }
    }
}
