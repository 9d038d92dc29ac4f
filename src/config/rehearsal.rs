//! `[rehearsal]`: whether a run wants one, how old it may be, and what is asked of the clone.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::AbsolutePath;
use crate::system::span::Span;

/// Whether a run wants a rehearsal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One that is there and counts is used; without one the run says so in its journal and goes on.
    Off,
    /// Without one that counts the run is refused.
    Required,
}

/// The rehearsal.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rehearsal {
    /// Whether a run wants one.
    pub mode: Mode,
    /// How old it may be.
    pub max_age: Span,
    /// Names of health checks that are not run in the clone: they need what it does not have.
    pub skip_checks: BTreeSet<String>,
    /// Mount points of filesystems that the clone sees as they are, read-only. Its programs can reach the services whose sockets and
    /// pipes lie there.
    pub show: Vec<AbsolutePath>,
    /// Programs of this machine that test the clone from outside.
    #[serde(rename = "test")]
    pub tests: Vec<Test>,
}

impl Default for Rehearsal {
    fn default() -> Self {
        let max_age = Span::seconds(7 * 86_400);
        Self { mode: Mode::Off, max_age, skip_checks: BTreeSet::new(), show: Vec::new(), tests: Vec::new() }
    }
}

/// A program that tests the clone; it passes with exit code 0.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Test {
    /// Its name in reports; unique.
    pub name: String,
    /// The program, by its absolute path, and its arguments. It finds the clone's address in `SAFE_UPGRADE_TEST_HOST`.
    pub argv: Vec<String>,
    /// How long it may take.
    #[serde(default = "one_minute")]
    pub timeout: Span,
}

fn one_minute() -> Span {
    Span::seconds(60)
}

/// What the types cannot say. The first text is something to find the place by.
pub(super) fn validate(rehearsal: &Rehearsal, checks: &BTreeSet<&String>) -> Result<(), (String, String)> {
    if let Some(name) = rehearsal.skip_checks.iter().find(|name| !checks.contains(name)) {
        return Err((
            "skip_checks".into(),
            format!("skip_checks names {name:?}, and no check has this name"),
        ));
    }
    let mut names = BTreeSet::new();
    for test in &rehearsal.tests {
        if !names.insert(&test.name) {
            return Err((test.name.clone(), format!("two tests are named {:?}", test.name)));
        }
        if !test.argv.first().is_some_and(|program| program.starts_with('/')) {
            return Err((
                test.name.clone(),
                format!("the test {:?} needs argv with an absolute path", test.name),
            ));
        }
    }
    Ok(())
}
