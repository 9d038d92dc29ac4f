//! Configuration files around the upgrade: what is decided before it, what its programs say after it, what is kept of it.

use std::path::Path;

use super::super::packages::archives;
use super::super::{Machine, Result, trouble};
use crate::conffiles::answers::Answers;
use crate::conffiles::left::{self, ConffileDecision, DIFF_FILE, LINES_FILE};
use crate::conffiles::policy::{Decisions, Policy};
use crate::conffiles::syntax::{self, Refused};
use crate::conffiles::{Facts, debconf};
use crate::evidence::RefusedConfiguration;
use crate::system::durable;

/// Made before the first package changes.
#[derive(Debug)]
pub(super) struct Prepared {
    decisions: Decisions,
    refused_before: Vec<Refused>,
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
        })
    }

    pub(super) fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Asks the programs again.
    pub(super) fn refused_now(&self) -> Result<Vec<RefusedConfiguration>> {
        let news = syntax::news(&self.refused_before, syntax::look().map_err(trouble)?);
        let told = |one: Refused| RefusedConfiguration { what: one.what, line: one.line, stops: one.stops };
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
