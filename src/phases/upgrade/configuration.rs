//! Configuration files around the upgrade: what is decided before it, what its programs say after it, what is kept of it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::packages::archives;
use super::super::{Machine, Result, trouble};
use crate::conffiles::Facts;
use crate::conffiles::answers::Answers;
use crate::conffiles::debconf::{self, Question};
use crate::conffiles::left::{self, ConffileDecision, DIFF_FILE, LINES_FILE};
use crate::conffiles::policy::{Decisions, Policy};
use crate::conffiles::syntax::{self, Refused};
use crate::evidence::RefusedConfiguration;
use crate::system::durable;

/// What scripts of packages asked, in the directory of a run: [`Asked`].
pub const ASKED_FILE: &str = "asked.json";

/// What was asked during the upgrade that nobody had answered beforehand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Asked {
    /// One line each.
    Known(Vec<String>),
    /// It could not be found out.
    Unknown {
        /// Why.
        unknown: String,
    },
}

/// Made before the first package changes.
#[derive(Debug)]
pub(super) struct Prepared {
    decisions: Decisions,
    refused_before: Vec<Refused>,
    /// Only for the report: what cannot be read here stops nothing.
    answered_before: std::result::Result<Vec<Question>, String>,
}

impl Prepared {
    /// Decides about configuration files by the rules and the recorded answers, gives debconf its answers, and asks programs about
    /// their configuration as it is now. Repeatable.
    pub(super) fn look(machine: &Machine) -> Result<Self> {
        let section = &machine.config.configuration_files;
        let policy = section.policy();
        let answers = Answers::read(section.answers.as_path()).map_err(trouble)?;
        let facts = facts(machine, &policy)?;
        debconf::give(&answers.debconf).map_err(trouble)?;
        Ok(Self {
            decisions: Decisions::new(&facts, &policy, &answers),
            refused_before: syntax::look().map_err(trouble)?,
            answered_before: questions(),
        })
    }

    /// What scripts of packages have asked since, and nobody had answered: one line each, with what they took for an answer.
    ///
    /// A configuration file that nobody decided about is not among them: then the upgrade has failed.
    pub(super) fn asked_meanwhile(&self) -> Asked {
        match (&self.answered_before, questions()) {
            (Ok(before), Ok(now)) => Asked::Known(debconf::answered(before, &now).iter().map(told).collect()),
            (Err(unknown), _) => Asked::Unknown { unknown: unknown.clone() },
            (_, Err(unknown)) => Asked::Unknown { unknown },
        }
    }

    pub(super) fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Asks the programs again.
    pub(super) fn refused_now(&self) -> Result<Vec<RefusedConfiguration>> {
        let news = syntax::news(&self.refused_before, syntax::look().map_err(trouble)?);
        let told = |one: Refused| RefusedConfiguration {
            what: one.what,
            line: one.line,
            stops: one.stops,
            unknown: one.unknown,
        };
        Ok(news.into_iter().map(told).collect())
    }
}

/// Where every file is kept, nothing has to be known beforehand: then what cannot be found out stops nobody here.
fn facts(machine: &Machine, policy: &Policy) -> Result<Facts> {
    match crate::conffiles::look(Path::new("/"), &archives(&machine.places)) {
        Err(error) if policy.keeps_all() => {
            tracing::warn!(%error, "which configuration files will be asked about is not known; all are kept");
            Ok(Facts::default())
        }
        looked => looked.map_err(trouble),
    }
}

fn questions() -> std::result::Result<Vec<Question>, String> {
    debconf::questions(Path::new("/")).map_err(|error| crate::error::chain(&error))
}

fn told(question: &Question) -> String {
    format!("{} asked {} and took {:?}", question.package, question.question, question.value)
}

/// Keeps for the report what was asked. The upgrade does not fail for it.
pub(super) fn keep_asked(run: &Path, asked: &Asked) {
    let text = serde_json::json!(asked).to_string();
    if let Err(error) = durable::replace_file(&run.join(ASKED_FILE), text.as_bytes(), 0o600) {
        tracing::warn!(%error, "what was asked during the upgrade is not kept");
    }
}

/// Keeps for the report what was decided, and for root what the two sides differ in. The upgrade does not fail for it.
pub(super) fn keep(run: &Path, lines: &[String], decisions: &[ConffileDecision]) {
    let kept =
        durable::replace_file(&run.join(LINES_FILE), serde_json::json!(lines).to_string().as_bytes(), 0o600);
    if let Err(error) = kept {
        tracing::warn!(%error, "what was decided about configuration files is not kept");
    }
    match left::diffs(Path::new("/"), decisions) {
        Ok(text) => {
            if let Err(error) = durable::replace_file(&run.join(DIFF_FILE), text.as_bytes(), 0o600) {
                tracing::warn!(%error, "what configuration files differ in is not kept");
            }
        }
        Err(error) => tracing::warn!(%error, "what configuration files differ in was not found out"),
    }
}
