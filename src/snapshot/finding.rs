//! What preflight says about the machine's filesystems.

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Worth acting on; does not stop a run.
    Warning,
    /// Stops a run, unless waived.
    Inhibitor,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A stable name, by which it is waived.
    pub id: &'static str,
    /// How much it weighs.
    pub severity: Severity,
    /// What was found and why it matters.
    pub what: String,
    /// What to type to be rid of it.
    pub remedy: String,
}
